//! The coordinator program: a thin shell around [`engine::coordinator`].
//!
//! - [`config`]: the flags.
//! - [`driver`]: the state machine behind a lock, its clock, and how its outputs are carried out.
//! - `gate`: what clients that have not authenticated are told.
//! - `moves`: the answers to operators who decommission and replace nodes.
//! - [`session`]: one connection: requests of people and clients, a client's watch, a node's session.
//! - `stats`: counters of the coordinator's work.
//! - `state_file`: where the coordinator's state is kept across restarts: one text, written whole or not at all.
//! - `wait`: waiting until the cluster is healthy.

pub mod config;
pub mod driver;
mod gate;
mod moves;
pub mod session;
mod state_file;
mod stats;
mod wait;
