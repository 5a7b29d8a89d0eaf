//! The harness of the end-to-end tests: it starts the real programs and talks to them over real TCP.
//!
//! Nothing here knows how the programs work inside. What the tests know of the wire format is written by hand a second
//! time, so that a mistake in the codec that the programs share cannot go unnoticed. Only the cluster map and the hash
//! ring are taken from `proto`, to compare the coordinator's decisions with the expected ones.
//!
//! 1. [`wait`]: the one way to wait for something, [`wait::eventually`].
//! 2. [`process`]: a child process whose output is captured, and which never outlives its test.
//! 3. [`server`]: a coordinator or a node, started on a port picked by the system.
//! 4. [`cluster`]: a coordinator with its nodes.
//! 5. [`connection`]: a TCP connection that speaks lines and arrays.
//! 6. [`load`]: requests that run in the background while something happens to the cluster.
//! 7. [`client`]: the client program, run once.
//! 8. [`terminal`]: a program in a pseudo-terminal, and what its screen shows.
//!
//! Since only tests call it, everything panics on failure, stating what was expected and what happened.

pub mod client;
pub mod cluster;
pub mod connection;
pub mod load;
pub mod process;
pub mod server;
#[cfg(unix)]
pub mod terminal;
pub mod wait;
