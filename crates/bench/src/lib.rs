//! The load generator: one thread for all connections, woken when an answer arrives. Both `client bench` and
//! `scripts/bench.sh` use it to put load on servers.
//!
//! In reading order:
//!
//! - [`load`]: what a run is asked to do: how many connections, which requests, how fast, until when.
//! - [`workload`]: the kinds of requests and how often each comes; YCSB's workloads keep their names.
//! - [`target`]: where requests go: one server, or the nodes of a cluster, each with the keys it leads.
//! - [`run()`]: a run and its outcome. `connection` is one connection; `timer` wakes the run between events.
//! - [`outcome`]: the measurements, in histograms.
//! - [`keys`] and [`zipfian`]: from numbers to keys, and the order in which keys are requested.
//! - [`request`]: builds requests, and the values expected back, in place. [`reply`]: finds where an answer ends.
//! - [`cpu`]: the processor time used by processes.

pub mod cpu;
pub mod keys;
pub mod load;
pub mod outcome;
pub mod reply;
pub mod request;
pub mod target;
pub mod workload;
pub mod zipfian;

mod connection;
mod run;
mod timer;

pub use load::{Count, Load, Until};
pub use outcome::{CutShort, Interval, Outcome, Why};
pub use run::{Interrupt, NotBegun, fill, run};
pub use target::Target;
