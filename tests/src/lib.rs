//! The harness of the end-to-end tests: it starts the real programs and speaks to them over real TCP.
//!
//! Nothing here knows how the programs work inside. What the tests know of the wire is written in them again, by hand,
//! so that a mistake in the codec that the programs share cannot hide itself. Only the cluster map and the hash ring
//! are taken from `proto`, to compare what the coordinator decided with what it should have.
//!
//! 1. [`wait`]: the one way to wait for something, [`wait::eventually`].
//! 2. [`process`]: a child process whose output is kept, and which never outlives its test.
//! 3. [`server`]: a coordinator or a node, started on a port that the system chose.
//! 4. [`cluster`]: a coordinator with its nodes.
//! 5. [`connection`]: a TCP connection that speaks lines and arrays.
//! 6. [`load`]: requests that go on in the background while something happens to the cluster.
//! 7. [`client`]: the client program, run once.
//! 8. [`terminal`]: a program in a pseudo-terminal, and what its screen shows.
//!
//! Everything panics where it fails, with what was expected and what came, because only tests call it.

pub mod client;
pub mod cluster;
pub mod connection;
pub mod load;
pub mod process;
pub mod server;
#[cfg(unix)]
pub mod terminal;
pub mod wait;
