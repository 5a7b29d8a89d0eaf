//! Measures a running cluster against a server that does nothing, in one run. `scripts/bench.sh` starts both and calls
//! this program; `docs/performance.md` explains the numbers.
//!
//! - `shape`: the kinds of load, and a single measurement; the generator is this package's library.
//! - `echo`: the server that does nothing.
//! - `memory`: the servers' memory use.
//! - `report`: turns rounds into medians, and medians into a table.
//! - `pairs`: measures two targets alternately, with goals; `redis`: the pairs of our nodes and Redis;
//!   `redis_benchmark`: those that redis-benchmark loads.
//! - `restart`: the time from a node's start to its first answer; `snapshot`: what a snapshot costs.

mod echo;
mod memory;
mod pairs;
mod redis;
mod redis_benchmark;
mod report;
mod restart;
mod shape;
mod snapshot;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bench::Target;
use bench::keys::Sizes;
use bench::target::{Cluster, Place};
use clap::Parser as _;

use crate::redis::{Durable, InMemory};
use crate::report::Rounds;
use crate::restart::Restart;
use crate::shape::{KEYS, Measurement, SIZES, Shape, fill, shapes};
use crate::snapshot::Snapshot;

/// Measures sequential and pipelined PUT and GET over one and fifty connections.
#[derive(Debug, clap::Parser)]
#[command(name = "bench", version)]
enum Command {
    /// Serve answers of the right length to this program's own requests, and do nothing else. Runs until killed.
    Echo {
        /// Port to listen on; 0 picks a free one and prints it.
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// The length of the values, in bytes.
        #[arg(long, default_value_t = SIZES.value)]
        value_bytes: usize,
    },
    /// Measure clusters, each against the echo server, and print a table for each.
    Run(Run),
    /// Measure nodes against Redis, with nothing kept on disk, and say which goals are met.
    Redis(Box<InMemory>),
    /// Measure nodes with data directories against Redis, and say which goals are met.
    Durable(Box<Durable>),
    /// Measure how long a node with a data directory takes to start.
    Restart(Restart),
    /// Measure what a snapshot costs writes in the meantime. Linux only.
    Snapshot(Snapshot),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The address of the echo server; after a slash its process, to measure its processor time too.
    #[arg(long, value_name = "HOST:PORT[/PID]")]
    echo: Place,

    /// A cluster: how many nodes it has, the address of its coordinator, the processes of the nodes, and after a hash
    /// what is special about it. May be repeated; the later ones are also compared with the first.
    #[arg(long = "cluster", value_name = "NODES@HOST:PORT[/PID,...][#REMARK]", required = true)]
    clusters: Vec<Cluster>,

    #[command(flatten)]
    pace: Pace,
}

/// How long, how often, and what to measure.
#[derive(Debug, clap::Args)]
struct Pace {
    /// The length of each measurement, in seconds.
    #[arg(long, default_value_t = 0.4, value_parser = seconds)]
    seconds: f64,

    /// How often to repeat each measurement.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,

    /// Measure only what has this in its name, such as `GET` or `PUT array, 50 connections, 16 in flight`.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Echo { port, value_bytes } => echo::run(port, Sizes { value: value_bytes, ..SIZES }),
        Command::Run(run) => measure(&run),
        Command::Redis(run) => redis::in_memory(&run).and_then(|tables| print(&tables)),
        Command::Durable(run) => redis::durable(&run).and_then(|tables| print(&tables)),
        Command::Restart(run) => restart::measure(&run).and_then(|table| print(&table)),
        Command::Snapshot(run) => snapshot::measure(&run).and_then(|table| print(&table)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures every target in turn, over and over, so that other activity on the machine affects all of them alike.
fn measure(run: &Run) -> anyhow::Result<()> {
    let mut targets = vec![echo::target(&run.echo)];
    for cluster in &run.clusters {
        let target = Target::cluster(cluster, 0..KEYS, SIZES)
            .with_context(|| format!("the cluster at {}", cluster.coordinator.addr))?;
        fill(&target, SIZES.value).with_context(|| format!("cannot fill {}", target.name))?;
        targets.push(target);
    }
    let duration = Duration::from_secs_f64(run.pace.seconds);
    let mut rows = Vec::new();
    for shape in shapes().into_iter().filter(|shape| shape.to_string().contains(&run.pace.only)) {
        let mut rounds = Rounds::new(targets.len());
        for round in 1..=run.pace.rounds {
            eprint!("\r{shape}, round {round} of {}    ", run.pace.rounds);
            rounds.push(one_round(&targets, shape, duration)?);
        }
        rows.push((shape, rounds));
    }
    eprintln!();
    for (at, target) in targets.iter().enumerate().skip(1) {
        print(&report::table(&target.name, &rows, at))?;
    }
    Ok(())
}

fn print(table: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{table}").context("cannot write to standard output")
}

fn one_round(targets: &[Target], shape: Shape, duration: Duration) -> anyhow::Result<Vec<Measurement>> {
    let measured = targets
        .iter()
        .map(|target| shape.measure(target, duration).with_context(|| format!("{shape} against {}", target.name)));
    measured.collect()
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0.01 to 60".to_owned()),
    }
}
