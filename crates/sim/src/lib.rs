//! What judges a run of the store by what its clients saw.
//!
//! Whoever drives clients, be it in a simulated cluster or against real processes, records each operation with the
//! times of its call and of its answer. The judges say afterwards whether one register for each key, changed at one
//! instant by each operation, could have given these answers: whether the history is linearizable.
//!
//! - [`history`]: operations, and their text form for the files that a run leaves behind.
//! - [`judges`]: the checks, and the verdicts that people read. [`judges::judge`] is the way in.
//!
//! This crate is pure. It reads no clock and no file, starts no thread and draws no random number.

pub mod history;
pub mod judges;
