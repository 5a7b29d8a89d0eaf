//! Runs a cluster of real processes under faults, and judges what its clients saw. `scripts/chaos.sh` builds the
//! programs, sets up a network for them, and calls this one.
//!
//! - `nemesis`: which fault comes when. `faults`: what each one does, and how it ends.
//! - `load`: the clients. `record`: what they did and saw. `walker`: clients that walk through all keys in the
//!   meantime.
//! - `cluster`, `server`, `signals`, `network`: the processes under test, and the hosts they run on.
//! - `copies`: whether all copies are identical in the end. `gaps`: how long writes stalled.
//! - `report`: the report of a run.

mod cluster;
mod copies;
mod faults;
mod gaps;
mod load;
mod nemesis;
mod network;
mod record;
mod report;
mod server;
mod signals;
mod walker;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use client::{AckLevel, ReadLevel};
use seeded::Random;
use sim::judges::{self, Verdict};
use tokio::runtime::Runtime;

use crate::cluster::Cluster;
use crate::load::{Asked, Load};
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::record::Clock;
use crate::report::{Report, say};
use crate::walker::Walker;
/// The most steps that the search over one key's operations may take.
const SEARCH_STEPS: u64 = 10_000_000;

/// How many differences between copies are reported.
const DIFFERENCES: usize = 10;

/// Injects faults into a cluster of real processes, and judges what its clients saw.
#[derive(Debug, clap::Parser)]
#[command(name = "chaos", version)]
struct Config {
    /// How long to inject faults.
    #[arg(long, default_value_t = 3.0, value_parser = minutes)]
    minutes: f64,

    /// The number of nodes.
    #[arg(long, default_value_t = 5, value_parser = nodes)]
    nodes: usize,

    /// The seed of all random choices; picked at random by default.
    #[arg(long)]
    seed: Option<u64>,

    /// The port of the coordinator; the nodes use those after it.
    #[arg(long, default_value_t = 5700, value_parser = clap::value_parser!(u16).range(1..=60_000))]
    port: u16,

    /// Make no network cuts, and run everything on 127.0.0.1.
    #[arg(long)]
    no_cuts: bool,

    /// Start with 3 nodes, and have nodes come and go all the time: --nodes of them, 2, one less than --nodes, 3, and
    /// so on.
    #[arg(long)]
    moves: bool,

    /// When writes are answered.
    #[arg(long, default_value_t = AckLevel::Quorum)]
    ack: AckLevel,

    /// What reads may return.
    #[arg(long, default_value_t = ReadLevel::Linear)]
    read: ReadLevel,

    /// Ask for weaker levels than are judged (--ack async --read local), and pass only if the judges notice.
    #[arg(long)]
    plant: bool,

    /// The most operations started per second.
    #[arg(long, default_value_t = 1_800, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,

    /// Keep the history even if the run passes.
    #[arg(long)]
    keep_history: bool,

    /// The directory with the programs `coordinator` and `node`.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,

    /// The directory for the report, the history and the logs.
    #[arg(long, value_name = "DIR")]
    report: PathBuf,
}

fn main() -> ExitCode {
    match run(&Config::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything on the main thread; when that thread ends, every server is killed. Returns whether all is well.
fn run(config: &Config) -> anyhow::Result<bool> {
    fs::create_dir_all(&config.report).with_context(|| format!("cannot make {}", config.report.display()))?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    end_with_a_signal(&runtime);
    let seed = config.seed.unwrap_or_else(some_seed);
    let asked = match config.plant {
        true => Asked { ack: AckLevel::Async, read: ReadLevel::Local },
        false => Asked { ack: config.ack, read: config.read },
    };
    let network = match config.no_cuts {
        true => Network::loopback(),
        false => Network::of_namespaces(config.nodes + 1).context("cannot make a network")?,
    };
    let head = vec![
        format!("seed {seed}, {} minutes, {} nodes, 3 copies", config.minutes, config.nodes),
        format!("network: {}", network.describe()),
        format!("clients: writes {}, reads {}, at most {} operations per second", asked.ack, asked.read, config.rate),
    ];
    head.iter().for_each(|line| say(line));
    let route = [3, config.nodes, 2, config.nodes - 1];
    let size = if config.moves { route[0] } else { config.nodes };
    let mut cluster = Cluster::start(network, config.nodes, size, config.port, &config.programs, &config.report)
        .context("the cluster does not start")?;
    let coordinator = cluster.coordinator_addr().to_string();

    let (mut random, clock, keys) = (Random::new(seed), Clock::start(), load::keys().collect::<Vec<_>>());
    let walker = Walker::start(&runtime, &coordinator)?;
    let load = Load::start(&runtime, &coordinator, asked, config.rate, &mut random, clock)?;
    let nemesis = Nemesis::new(&mut cluster, random.fork(), clock, &keys);
    let time = Duration::from_secs_f64(config.minutes * 60.0);
    let (log, outcome) = if config.moves { nemesis.run_along(&route, time) } else { nemesis.run(time) };
    let record = load.finish(&runtime)?;
    let walked = walker.finish(&runtime)?;

    let failures = walked.failures();
    let mut findings = if failures.is_empty() { vec![walked.describe()] } else { Vec::new() };
    if config.moves {
        findings.push(format!("sizes of the healthy cluster, in order: {:?}", log.sizes));
    }
    let mut report = Report { head, log, record, stops: Vec::new(), findings, failures };
    if let Err(error) = outcome {
        report.failures.push(format!("{error:#}"));
        write_state(&mut cluster, config)?;
    }
    look_at_the_end(&mut report, &mut cluster, &[keys, walker::keys()].concat());
    judge(&mut report, config, &runtime, &coordinator)?;
    drop(cluster);
    finish(&report, config)
}

/// Examines the servers themselves at the end.
fn look_at_the_end(report: &mut Report, cluster: &mut Cluster, keys: &[String]) {
    report.stops = cluster.servers().iter().flat_map(|server| server.stops()).copied().collect();
    for server in cluster.servers() {
        for line in server.panics() {
            report.failures.push(format!("{} has panicked: {line}", server.name));
        }
    }
    let never_written = report.record.never_written();
    let oddities = report.record.oddities.iter().chain(&never_written).take(DIFFERENCES).cloned().collect::<Vec<_>>();
    report.failures.extend(oddities);
    if report.record.tallies.values().all(|tally| tally.done == 0) {
        report.failures.push("no operation was ever done".to_owned());
    }
    if !report.failures.is_empty() {
        return; // The copies cannot be the same where the cluster has not become whole.
    }
    match copies::await_equal(cluster, keys) {
        Err(error) => report.failures.push(format!("the copies cannot be compared: {error:#}")),
        Ok(differences) if differences.is_empty() => {
            report.findings.push(format!("copies: all the same, of each of {} keys", keys.len()));
        }
        Ok(differences) => {
            let count = differences.len();
            report.failures.push(format!("the copies of {count} keys differ; the first are:"));
            report.failures.extend(differences.into_iter().take(DIFFERENCES));
        }
    }
}

/// Reads all keys once more, and has the history judged.
fn judge(report: &mut Report, config: &Config, runtime: &Runtime, coordinator: &str) -> anyhow::Result<()> {
    let mut history = report.record.history();
    match load::final_reads(runtime, coordinator) {
        Ok(finals) => {
            let finals: BTreeMap<_, _> = finals.into_iter().collect();
            let missed = judges::append_final_reads(&mut history, &finals);
            anyhow::ensure!(missed.is_empty(), "keys were used that are none: {missed:?}");
        }
        Err(error) => report.failures.push(format!("{error:#}")),
    }
    let start = Instant::now();
    let verdict = judges::judge(&history, SEARCH_STEPS);
    let took = start.elapsed();
    match (&verdict, config.plant) {
        (Ok(summary), false) => report.findings.push(format!("{summary}, in {took:.1?}")),
        (Ok(summary), true) => {
            report.failures.push(format!("the judges missed what was planted, or it did no harm: {summary}"));
        }
        (Err(violation @ Verdict::Violation(_)), true) => {
            report.findings.push(format!("found, as expected: {violation}"));
        }
        (Err(verdict), _) => report.failures.push(verdict.to_string()),
    }
    if config.keep_history || !report.failures.is_empty() {
        let path = config.report.join("history.txt");
        fs::write(&path, history.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
        report.findings.push(format!("the history: {}", path.display()));
    }
    Ok(())
}

/// Writes what the servers report about themselves, to help find the cause of a failure.
fn write_state(cluster: &mut Cluster, config: &Config) -> anyhow::Result<()> {
    let path = config.report.join("state.txt");
    fs::write(&path, cluster.state()).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes the report. Returns whether all is well.
fn finish(report: &Report, config: &Config) -> anyhow::Result<bool> {
    let path = config.report.join("report.txt");
    fs::write(&path, report.text()).with_context(|| format!("cannot write {}", path.display()))?;
    say(&format!("\n{}\nreport: {}", report.summary(), path.display()));
    if report.failures.is_empty() {
        // A run that passed leaves only its report and the logs.
        let _ = fs::remove_dir_all(config.report.join("coordinator-data"));
    }
    Ok(report.failures.is_empty())
}

/// Exits this process, and with it all servers, on Ctrl-C or when asked to stop.
fn end_with_a_signal(runtime: &Runtime) {
    runtime.spawn(async {
        let interrupted = async {
            #[cfg(unix)]
            if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
                return;
            }
            // If signals cannot be awaited, they end the process by themselves.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending().await
            }
        };
        interrupted.await;
        eprintln!("chaos: interrupted; nothing was judged");
        std::process::exit(130);
    });
}

/// A seed that differs each time.
fn some_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_secs() * 1_000 + u64::from(now.subsec_millis())) % 1_000_000
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=600.0).contains(&minutes) => Ok(minutes),
        _ => Err("expected a number of minutes from 0.1 to 600".to_owned()),
    }
}

fn nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(nodes) if (4..network::HOSTS).contains(&nodes) => Ok(nodes),
        _ => Err(format!("a number from 4 to {} is expected: one more than copies", network::HOSTS - 1)),
    }
}
