//! The coordinator program: a thin shell round [`engine::coordinator`].
//!
//! - [`config`]: the flags.
//! - [`driver`]: the state machine behind a lock, its clock, and the way its duties take to whoever they concern.
//! - [`session`]: one connection: requests of people and clients, the watch of a client, the session of a node.

pub mod config;
pub mod driver;
pub mod session;
