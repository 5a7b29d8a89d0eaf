//! The nemesis: random faults, within what the store promises to survive.
//!
//! Nodes hold their data in memory. So once a node has lost its memory, no other may lose its own before every slot has
//! all its copies again. Pauses, cuts, and faults of the coordinator lose nothing, and may overlap with anything.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use seeded::Random;

use crate::cluster::Cluster;
use crate::faults::{Fault, Kind};
use crate::record::Clock;
/// How many faults may be active at once.
const AT_ONCE: usize = 3;

/// The shortest and the longest pause between two faults, in milliseconds.
const GAP: (u64, u64) = (100, 3_500);

/// How long faults go on after nodes come or go, before all are repaired and the cluster must be seen in its target
/// state.
const LEG: (u64, u64) = (3_000, 10_000);

/// The same as [`GAP`] before the first fault after that, so that it hits nodes that are still joining or leaving.
const FIRST_GAP: (u64, u64) = (0, 800);

/// How often the servers are checked.
const STEP: Duration = Duration::from_millis(10);

/// Something that happened to a node, for measuring how long writes stalled.
#[derive(Debug, Clone)]
pub(crate) struct NodeFault {
    /// When, on the history's clock.
    pub(crate) at: u64,
    pub(crate) what: &'static str,
    /// Whether it was the only fault at that time.
    pub(crate) alone: bool,
    /// The keys that the node led.
    pub(crate) keys: Vec<String>,
}

/// What the nemesis has done.
#[derive(Debug, Default)]
pub(crate) struct NemesisLog {
    /// What was done, and when on the history's clock.
    pub(crate) entries: Vec<(u64, String)>,
    pub(crate) faults: Vec<NodeFault>,
    /// How long the cluster took each time to be complete again, with no fault left.
    pub(crate) recoveries: Vec<Duration>,
    /// The sizes at which it was complete, in order, if nodes come and go.
    pub(crate) sizes: Vec<usize>,
}

/// Injects the faults that a seed determines, until told to stop.
pub(crate) struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    random: Random,
    clock: Clock,
    keys: &'a [String],
    /// The active faults, and when each ends.
    open: Vec<(Fault, Instant)>,
    /// A node has lost its memory, and the cluster has not been seen complete since.
    memory_is_spent: bool,
    log: NemesisLog,
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, random: Random, clock: Clock, keys: &'a [String]) -> Self {
        Self { cluster, random, clock, keys, open: Vec::new(), memory_is_spent: false, log: NemesisLog::default() }
    }

    /// Injects faults until a time has passed, then repairs all and waits until the cluster is complete. Returns what
    /// was done, whatever the outcome.
    pub(crate) fn run(mut self, time: Duration) -> (NemesisLog, anyhow::Result<()>) {
        let outcome = self.inject_faults(GAP, time).and_then(|()| self.settle());
        self.end(outcome)
    }

    /// The same while nodes come and go, so that the cluster goes through these sizes in a cycle, beginning with the
    /// second: until a time has passed, and each size was reached at least once.
    pub(crate) fn run_along(mut self, route: &[usize], time: Duration) -> (NemesisLog, anyhow::Result<()>) {
        let end = Instant::now() + time;
        self.log.sizes.extend(route.first());
        let mut sizes = route.iter().copied().cycle().skip(1);
        let outcome = loop {
            if Instant::now() >= end && self.log.sizes.len() > route.len() {
                break Ok(());
            }
            if let Err(error) = sizes.next().map_or(Ok(()), |size| self.resize(size)) {
                break Err(error);
            }
        };
        self.end(outcome)
    }

    fn end(mut self, outcome: anyhow::Result<()>) -> (NemesisLog, anyhow::Result<()>) {
        if let Err(error) = &outcome {
            self.log(format!("gives up: {error:#}"));
        }
        (self.log, outcome)
    }

    /// Has nodes join or leave, injects faults meanwhile, and waits until the cluster is complete with `size` nodes.
    fn resize(&mut self, size: usize) -> anyhow::Result<()> {
        self.cluster.map();
        while self.cluster.wanted(true).len() < size {
            let node = *self.random.pick(&self.cluster.wanted(false)).context("there are too few nodes")?;
            self.log(format!("{} joins", self.cluster.server(node).name));
            self.cluster.add(node)?;
        }
        while self.cluster.wanted(true).len() > size {
            let node = *self.random.pick(&self.cluster.wanted(true)).context("there are no nodes")?;
            self.log(format!("{} leaves", self.cluster.server(node).name));
            let at = self.clock.micros();
            self.log.faults.push(NodeFault {
                at,
                what: "node decommissioned",
                alone: true,
                keys: self.keys_led_by(node),
            });
            self.cluster.remove(node)?;
        }
        let leg = Duration::from_millis(self.random.between(LEG.0, LEG.1));
        self.inject_faults(FIRST_GAP, leg)?;
        self.settle()?;
        self.log.sizes.push(size);
        Ok(())
    }

    fn inject_faults(&mut self, first_gap: (u64, u64), time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut next = start + Duration::from_millis(self.random.between(first_gap.0, first_gap.1));
        while start.elapsed() < time {
            self.cluster.look_after()?;
            self.repair_due()?;
            if Instant::now() >= next && self.open.len() < AT_ONCE {
                self.strike()?;
                next = Instant::now() + Duration::from_millis(self.random.between(GAP.0, GAP.1));
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Injects another fault.
    fn strike(&mut self) -> anyhow::Result<()> {
        let kind = Kind::choose(&mut self.random, self.cluster.network.has_cuts());
        if kind.loses_memory() && self.memory_is_spent {
            self.settle()?;
        }
        let Some(fault) = Fault::choose(kind, self.cluster, &mut self.random) else { return Ok(()) };
        let time = fault.time(&mut self.random);
        // While the coordinator cannot answer, the last map seen has to do.
        if self.cluster.server(self.cluster.nodes()).is_running()
            && !self.cluster.server(self.cluster.nodes()).is_paused()
        {
            self.cluster.map();
        }
        if let (Some(node), Some(what)) = (fault.node(), kind.measured()) {
            let fault =
                NodeFault { at: self.clock.micros(), what, alone: self.open.is_empty(), keys: self.keys_led_by(node) };
            self.log.faults.push(fault);
        }
        if kind.loses_memory() {
            self.memory_is_spent = true;
        }
        self.log(format!("{} for {} ms", fault.describe(self.cluster), time.as_millis()));
        fault.begin(self.cluster)?;
        self.open.push((fault, Instant::now() + time));
        Ok(())
    }

    /// Ends the faults that are due.
    fn repair_due(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let is_due = |(fault, end): &(Fault, Instant)| *end <= now && fault.can_end(self.cluster);
        let (due, open) = std::mem::take(&mut self.open).into_iter().partition(is_due);
        self.open = open;
        self.repair(due)
    }

    fn repair(&mut self, faults: Vec<(Fault, Instant)>) -> anyhow::Result<()> {
        for (fault, _) in faults {
            self.log(format!("ends: {}", fault.describe(self.cluster)));
            fault.end(self.cluster)?;
        }
        Ok(())
    }

    /// Ends all faults, and waits until the cluster is complete.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.open.iter_mut().for_each(|(_, end)| *end = Instant::now());
        while !self.open.is_empty() {
            self.cluster.look_after()?;
            self.repair_due()?;
            std::thread::sleep(STEP);
        }
        let took = self.cluster.await_whole()?;
        self.memory_is_spent = false;
        self.log.recoveries.push(took);
        let size = self.cluster.wanted(true).len();
        self.log(format!(
            "the cluster is healthy again, with {size} nodes, after {} ms without faults",
            took.as_millis()
        ));
        Ok(())
    }

    fn keys_led_by(&self, node: usize) -> Vec<String> {
        self.keys.iter().filter(|key| self.cluster.leads(node, key)).cloned().collect()
    }

    fn log(&mut self, what: String) {
        let at = self.clock.micros();
        crate::report::say(&format!("{:>10.3} s  {what}", crate::report::seconds(at)));
        self.log.entries.push((at, what));
    }
}
