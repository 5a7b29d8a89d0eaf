//! What a snapshot costs writes in the meantime.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use bench::request::Verb;
use bench::{Interval, Load, Target, Until};
use hdrhistogram::Histogram;
use proto::frame::Encoding;

use crate::pairs::{Bound, verdict};
use crate::report::{Spread, spread};
use crate::restart::NodeToStart;
use crate::shape::{SIZES, Shape, fill};

/// The length of one observation interval.
const INTERVAL: Duration = Duration::from_millis(50);

/// A round takes as many runs as are needed to see both, up to this many: a slow machine fills the log slowly.
const RUNS_MOST: u32 = 10;

/// How much of the throughput without a snapshot must remain.
const SPEED: Bound = Bound::AtLeast(0.8);

/// How many times longer p99 may be.
const P99: Bound = Bound::AtMost(3.0);

/// A node that this program starts, fills, and writes to.
#[derive(Debug, clap::Args)]
pub(crate) struct Snapshot {
    #[command(flatten)]
    node: NodeToStart,
    /// How many keys are stored.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    keys: u32,
    /// The length of each run, in seconds; a round takes as many as are needed to see a snapshot and a time without
    /// one.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// How many rounds there are.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

/// What was answered in some of the intervals.
struct Part {
    time: Duration,
    latency: Histogram<u64>,
}

impl Part {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { time: Duration::ZERO, latency: Histogram::new(3).context("no histogram")? })
    }

    fn add(&mut self, interval: &Interval<'_>) {
        // A resizable histogram accepts any other.
        if self.latency.add(interval.latency).is_ok() {
            self.time += interval.elapsed;
        }
    }

    fn per_second(&self) -> f64 {
        self.latency.len() as f64 / self.time.as_secs_f64()
    }

    fn p99(&self) -> f64 {
        self.latency.value_at_percentile(99.0) as f64
    }
}

/// Measures, and returns a table in Markdown.
pub(crate) fn measure(run: &Snapshot) -> anyhow::Result<String> {
    let (node, _) = run.node.start(0)?;
    let target = Target::cluster(&run.node.cluster(), 0..run.keys, SIZES)?;
    eprintln!("storing {} keys", run.keys);
    fill(&target, SIZES.value).context("cannot fill the node")?;
    let mut text =
        "| while a snapshot is made, over without | ratio (least to most) | goal | met |\n|---|---:|---:|---|\n"
            .to_owned();
    for pipeline in [1, 16] {
        let (mut speeds, mut p99s) = (Vec::new(), Vec::new());
        for round in 1..=run.rounds {
            eprint!("\r\x1b[KPUT, {pipeline} in flight, round {round} of {}", run.rounds);
            let (with, without) = one_round(run, node.pid(), &target, pipeline)?;
            speeds.push(with.per_second() / without.per_second());
            p99s.push(with.p99() / without.p99());
        }
        eprint!("\r\x1b[K");
        let mut row = |what: &str, ratio: Option<Spread>, goal: Bound| {
            let ratio = ratio.context("nothing was measured")?;
            let met = verdict(goal.is_met(ratio.middle));
            text += &format!("| {what}, PUT, 50 connections, {pipeline} in flight | {ratio} | {goal} | {met} |\n");
            anyhow::Ok(())
        };
        row("ops/s", spread(speeds.into_iter()), SPEED)?;
        row("p99", spread(p99s.into_iter()), P99)?;
    }
    Ok(text)
}

/// The time with a snapshot in progress, and the time without. Intervals in which one started or ended are left out.
fn one_round(run: &Snapshot, pid: u32, target: &Target, pipeline: usize) -> anyhow::Result<(Part, Part)> {
    let shape =
        Shape { verb: Verb::Put, encoding: Encoding::Array, value_bytes: SIZES.value, connections: 50, pipeline };
    let time = Duration::from_secs(run.seconds.into());
    let load = Load { until: Until::Elapsed(time), ..shape.load(time) };
    let (mut with, mut without) = (Part::new()?, Part::new()?);
    let mut was_making = None;
    for _ in 0..RUNS_MOST {
        bench::run(target, &load, INTERVAL, None, &mut |interval| {
            let is_making = is_making_snapshot(pid);
            if interval.at.is_some() {
                match (was_making, is_making) {
                    (Some(true), true) => with.add(&interval),
                    (Some(false), false) => without.add(&interval),
                    _ => {}
                }
            }
            was_making = Some(is_making);
        })?;
        if !with.latency.is_empty() && !without.latency.is_empty() {
            return Ok((with, without));
        }
    }
    anyhow::bail!("in {RUNS_MOST} runs of {} s no snapshot was made, or none ended; give --seconds more", run.seconds)
}

/// Whether the node has a snapshot thread. Linux only.
fn is_making_snapshot(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let name = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("comm")).ok();
    threads.flatten().filter_map(name).any(|name| name.trim_end() == "snapshot")
}
