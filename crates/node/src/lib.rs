//! The node program: a thin shell around [`engine::node`].
//!
//! - [`config`]: the flags.
//! - [`driver`]: the node state shared by its tasks, and which of them are woken when.
//! - [`session`]: one inbound connection and the requests on it; `slots_ahead` prefetches for the requests that
//!   follow.
//! - `gate`: what clients that have not authenticated are told.
//! - `awake`: whether the process stood still.
//! - [`clients`]: the list of inbound connections; `server_commands` and `info`: RESP commands about the
//!   connection and the server; `wait`: how many replicas have a connection's writes.
//! - `first_map`: requests that wait until the node knows the cluster's settings.
//! - `answering`: turns the state machine's result for a request into the response.
//! - `routing`: requests that cannot be answered locally right away: forwarded, retried, or refused.
//! - `forward` and `serve_forwards`: the two ends of the connections that carry forwarded requests.
//! - `walks` and `keyspace`: operations over the keys of all nodes.
//! - `replication`: the connections to replicas and from primaries; `followed`: which of the latter is the newest.
//! - `stats`: counters of the node's work.
//! - [`store`]: the data directory, and the thread that writes it; `disk_watch`: whether it hangs.
//! - [`membership`]: the session with the coordinator: joining, heartbeats, the map, leaving.
//! - [`dismissal`]: how a decommissioned node shuts down.
//! - `verify`: comparing the copies of slots, and `VERIFY`.

mod answering;
mod awake;
pub mod clients;
pub mod config;
mod disk_watch;
pub mod dismissal;
pub mod driver;
mod first_map;
mod followed;
mod forward;
mod from_node;
mod gate;
mod info;
mod keyspace;
pub mod membership;
mod replication;
mod routing;
mod serve_forwards;
mod server_commands;
pub mod session;
mod slots_ahead;
mod stats;
pub mod store;
mod verify;
mod wait;
mod walks;
