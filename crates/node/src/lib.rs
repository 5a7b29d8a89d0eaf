//! The node program: a thin shell round [`engine::node`].
//!
//! - [`config`]: the flags.
//! - [`driver`]: the node as its tasks share it, and who is woken when.
//! - [`session`]: one connection from outside, and the requests on it.
//! - [`routing`]: requests that cannot be answered here and now: passed on, tried again, or refused.
//! - [`forward`]: the connections on which requests are passed on to other nodes.
//! - [`replication`]: the connections to replicas, and from primaries.
//! - [`membership`]: the session with the coordinator: joining, heartbeats, the map, leaving.

pub mod config;
pub mod driver;
pub mod forward;
pub mod membership;
pub mod replication;
pub mod routing;
pub mod session;
