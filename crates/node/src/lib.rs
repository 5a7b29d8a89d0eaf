//! The node program: a thin shell round [`engine::node`].
//!
//! - [`config`]: the flags.
//! - [`driver`]: the node as its tasks share it, and who is woken when.
//! - [`session`]: one connection from outside, and the requests on it; `slots_ahead` looks at those that come next.
//! - [`gate`]: what those are told who have not authenticated.
//! - [`clients`]: the connections from outside, as they are listed; [`server_commands`] and [`info`]: what arrays ask about
//!   connection and server; [`wait`]: how many replicas have what a connection has written.
//! - [`answering`]: what the state machine says of a request, as the answer to it.
//! - [`routing`]: requests that cannot be answered here and now: passed on, tried again, or refused.
//! - [`forward`] and [`serve_forwards`]: the connections on which requests are passed on, from both ends.
//! - [`walks`] and [`keyspace`]: what goes through the keys of all nodes.
//! - [`replication`]: the connections to replicas, and from primaries; [`followed`]: which of those is the newest.
//! - [`stats`]: figures of what it does.
//! - [`store`]: the data directory, and the thread that writes it.
//! - [`membership`]: the session with the coordinator: joining, heartbeats, the map, leaving.
//! - [`dismissal`]: how a node ends that was decommissioned.

pub mod answering;
pub mod clients;
pub mod config;
pub mod dismissal;
pub mod driver;
pub mod followed;
pub mod forward;
pub mod gate;
pub mod info;
pub mod keyspace;
pub mod membership;
pub mod replication;
pub mod routing;
pub mod serve_forwards;
pub mod server_commands;
pub mod session;
mod slots_ahead;
pub mod stats;
pub mod store;
pub mod verify;
pub mod wait;
pub mod walks;
