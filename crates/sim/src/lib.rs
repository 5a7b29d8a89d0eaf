//! The store in one thread, from one seed: what can go wrong, and what judges a run.
//!
//! The simulator runs the state machines that ship ([`engine`]), and the codec and [`storage`] that ship, the latter on
//! a disk in memory. It imitates the shell around them: sockets, clocks, processes, the writer thread. A seed chooses
//! everything, so that a failure is reproduced by its number.
//!
//! - [`knobs`]: what a seed chooses.
//! - `schedule`, `clock`, `network`: time, and the connections between processes. `world`: everything, and the main
//!   loop.
//! - `node`, `coordinator`, `client`, `workload`, `walker`: the processes, as their shells would run them. `faults`:
//!   what goes wrong. `disk_faults`: faults of disks. `older_states`: the coordinator is started with an older state.
//!   `operator`: nodes that are taken off the ring, and losses that are accepted. `rolling`: restarts of all processes,
//!   one by one.
//! - `oracle`: what an all-seeing observer knows. `invariants`: what must always hold. `liveness`: what must become
//!   true once faults stop. `damage`: a copy that is damaged then, and must be found and repaired.
//! - [`run`]: one run. [`stats`]: what happened in it. [`mutants`]: the bugs that it must find. `trace`: the story of a
//!   failure.
//!
//! Whoever drives clients, here or against real processes, records each operation with the times of its call and its
//! answer. Afterwards the judges decide whether one register per key, changed at one instant by each operation, could
//! have given these answers: whether the history is linearizable.
//!
//! - [`history`]: operations, and their text form in the files that a run leaves behind.
//! - [`judges`]: the checks, and verdicts for people to read. The entry point is [`judges::judge`].
//!
//! This crate reads no clock and no file, starts no thread, and draws random numbers only from a seed. It depends on
//! [`storage`], which is not pure, but uses only its in-memory disk.

pub mod history;
pub mod judges;
pub mod knobs;
pub mod mutants;
pub mod run;
pub mod stats;

mod client;
mod clock;
mod coordinator;
mod counters;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod damage;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod disk_faults;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod faults;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod impostors;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod invariants;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod liveness;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod moves;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod network;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod node;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod old_retries;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod older_states;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod operator;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod oracle;
mod rolling;
mod schedule;
mod trace;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod walker;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod workload;
#[expect(
    clippy::indexing_slicing,
    reason = "a process, slot or connection that is not there is a bug in the simulator"
)]
mod world;
