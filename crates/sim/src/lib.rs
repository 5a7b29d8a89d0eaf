//! The store in one thread, from one seed: what can go wrong, and what judges a run.
//!
//! The simulator runs the very state machines that ship ([`engine`]), the very codec and the very [`storage`], the latter
//! on a disk in memory, and imitates the shell around them: sockets, clocks, processes, the thread that writes. A seed chooses everything, so that a failure is repeated by its number.
//!
//! - [`knobs`]: what a seed chooses. [`random`]: how.
//! - `schedule`, `clock`, `network`: time, and what is between processes. `world`: all of it, and the loop.
//! - `node`, `coordinator`, `client`, `workload`, `walker`: the processes, as their shells would run them. `faults`: what
//!   goes wrong. `disk_faults`: the same with disks. `rolling`: restarts of all, one by one.
//! - `oracle`: what an all-seeing observer knows. `invariants`: what must hold at every moment. `liveness`: what must come
//!   true once faults stop. `damage`: a copy that is damaged then, and must be found and repaired.
//! - [`run`]: one run. [`mutants`]: the mistakes that it must find. `trace`: the story of a failure.
//!
//! Whoever drives clients, be it here or against real processes, records each operation with the times of its call and of
//! its answer. The judges say afterwards whether one register for each key, changed at one instant by each operation, could
//! have given these answers: whether the history is linearizable.
//!
//! - [`history`]: operations, and their text form for the files that a run leaves behind.
//! - [`judges`]: the checks, and the verdicts that people read. [`judges::judge`] is the way in.
//!
//! This crate reads no clock and no file, starts no thread, and draws random numbers from a seed only. It stands on
//! [`storage`], which is not pure, but takes of its disks only the one in memory.

pub mod history;
pub mod judges;
pub mod knobs;
pub mod mutants;
pub mod random;
pub mod run;

mod client;
mod clock;
mod coordinator;
mod counters;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod damage;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod disk_faults;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod faults;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod impostors;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod invariants;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod liveness;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod moves;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod network;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod node;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod old_retries;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod oracle;
mod rolling;
mod schedule;
mod trace;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod walker;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod workload;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a mistake of the simulator"
)]
mod world;
