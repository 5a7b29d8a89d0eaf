//! The coordinator program: a thin shell round [`engine::coordinator`].
//!
//! - [`config`]: the flags.
//! - [`driver`]: the state machine behind a lock, its clock, and the way its duties take to whoever they concern.
//! - [`gate`]: what those are told who have not authenticated.
//! - [`session`]: one connection: requests of people and clients, the watch of a client, the session of a node.
//! - [`stats`]: figures of what it does.
//! - [`state_file`]: where the coordinator's state is kept across restarts: one text, written whole or not at all.
//! - [`wait`]: waiting until the cluster is healthy.

pub mod config;
pub mod driver;
pub mod gate;
pub mod moves;
pub mod session;
pub mod state_file;
pub mod stats;
pub mod wait;
