//! The programs as they are used in practice: real processes, real TCP, real signals, a real terminal.
//!
//! Each test is a claim, stated in its name. Clusters are small and the system picks the ports, so the tests run in
//! parallel.

mod auth;
mod basics;
mod client_bench;
mod client_program;
mod consistency;
mod coordinator_restart;
mod coordinator_state;
mod docs_examples;
mod durability;
mod expiry;
mod failover;
mod limits;
mod logging;
mod many_clients;
mod membership;
mod memory;
mod moves;
mod old_primary;
mod placement;
mod protocol_letter;
mod redis_data;
mod redis_server;
#[cfg(unix)]
mod repl;
mod replication;
mod shutdown;
mod startup;
mod stats;
mod status;
mod verify;
mod walks;
