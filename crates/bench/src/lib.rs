//! The load generator: one thread for all connections, woken when an answer has arrived. `client bench` and
//! `scripts/bench.sh` both put their load on servers with it.
//!
//! In reading order:
//!
//! - [`load`]: what a run is asked to do: how many connections, which requests, how fast, until when.
//! - [`workload`]: the kinds of requests and how often each comes; those of YCSB have their names.
//! - [`target`]: where requests go: one server, or the nodes of a cluster, each with the keys that it leads.
//! - [`run()`]: a run, and what has come of it. `connection` is one connection, `timer` what wakes it in between.
//! - [`outcome`]: what was measured, in histograms.
//! - [`keys`] and [`random`]: numbers to keys, and the order in which keys are asked for.
//! - [`request`]: requests and the values that must come back, made in place. [`reply`]: where an answer ends.
//! - [`cpu`]: the processor time that processes have used.

pub mod cpu;
pub mod keys;
pub mod load;
pub mod outcome;
pub mod random;
pub mod reply;
pub mod request;
pub mod target;
pub mod workload;

mod connection;
mod run;
mod timer;

pub use load::{Count, Load, Until};
pub use outcome::{Interval, Outcome};
pub use run::{fill, run};
pub use target::Target;
