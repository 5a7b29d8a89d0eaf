//! The nemesis: faults at random, within what the store promises to bear.
//!
//! Nodes hold their data in memory. So once one has lost it, no other may before every slot has all its copies again.
//! Pauses, cuts, and all that befalls the coordinator lose nothing, and may overlap with anything.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::cluster::Cluster;
use crate::faults::{Fault, Kind};
use crate::random::Random;
use crate::record::Clock;

/// How many faults there may be at once.
const AT_ONCE: usize = 3;

/// The shortest and the longest pause between two faults, in milliseconds.
const GAP: (u64, u64) = (100, 3_500);

/// For how long faults go on from when nodes come or go, until all are repaired and the cluster is seen as it is to be.
const LEG: (u64, u64) = (3_000, 10_000);

/// The same as [`GAP`] before the first fault then, so that it meets nodes that still come or go.
const FIRST_GAP: (u64, u64) = (0, 800);

/// How often the servers are looked after.
const STEP: Duration = Duration::from_millis(10);

/// Something that happened to a node, for the measurement of how long writes stood still.
#[derive(Debug, Clone)]
pub(crate) struct Blow {
    /// On the clock of the history.
    pub(crate) at: u64,
    pub(crate) what: &'static str,
    /// Whether it was the only fault at that moment.
    pub(crate) alone: bool,
    /// The keys that the node led.
    pub(crate) keys: Vec<String>,
}

/// What the nemesis has done.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// What was done, and when on the clock of the history.
    pub(crate) log: Vec<(u64, String)>,
    pub(crate) blows: Vec<Blow>,
    /// How long it took each time until the cluster was whole again, with no fault left.
    pub(crate) recoveries: Vec<Duration>,
    /// With how many nodes it was whole, one after the other, where they come and go.
    pub(crate) sizes: Vec<usize>,
}

/// Does what a seed says until it is told to stop.
pub(crate) struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    random: Random,
    clock: Clock,
    keys: &'a [String],
    /// The faults that are, and when each ends.
    open: Vec<(Fault, Instant)>,
    /// A node has lost its memory, and the cluster has not been seen whole since.
    memory_is_spent: bool,
    deeds: Deeds,
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(cluster: &'a mut Cluster, random: Random, clock: Clock, keys: &'a [String]) -> Self {
        Self { cluster, random, clock, keys, open: Vec::new(), memory_is_spent: false, deeds: Deeds::default() }
    }

    /// Makes faults until a time has passed, then repairs all, and waits until the cluster is whole.
    /// Gives what was done, whatever became of it.
    pub(crate) fn run(mut self, time: Duration) -> (Deeds, anyhow::Result<()>) {
        let outcome = self.rage(GAP, time).and_then(|()| self.settle());
        self.end(outcome)
    }

    /// The same while nodes come and go, so that the cluster has one of these sizes after the other, from the second on, and all
    /// over again: until a time has passed, but each of them once.
    pub(crate) fn run_along(mut self, route: &[usize], time: Duration) -> (Deeds, anyhow::Result<()>) {
        let end = Instant::now() + time;
        self.deeds.sizes.extend(route.first());
        let mut sizes = route.iter().copied().cycle().skip(1);
        let outcome = loop {
            if Instant::now() >= end && self.deeds.sizes.len() > route.len() {
                break Ok(());
            }
            if let Err(error) = sizes.next().map_or(Ok(()), |size| self.travel(size)) {
                break Err(error);
            }
        };
        self.end(outcome)
    }

    fn end(mut self, outcome: anyhow::Result<()>) -> (Deeds, anyhow::Result<()>) {
        if let Err(error) = &outcome {
            self.log(format!("gives up: {error:#}"));
        }
        (self.deeds, outcome)
    }

    /// Has nodes come or go, makes faults meanwhile, and waits until the cluster is whole with so many nodes.
    fn travel(&mut self, size: usize) -> anyhow::Result<()> {
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
            self.deeds.blows.push(Blow { at, what: "node decommissioned", alone: true, keys: self.keys_led_by(node) });
            self.cluster.remove(node)?;
        }
        let leg = self.random.millis(LEG.0, LEG.1);
        self.rage(FIRST_GAP, leg)?;
        self.settle()?;
        self.deeds.sizes.push(size);
        Ok(())
    }

    fn rage(&mut self, first_gap: (u64, u64), time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut next = start + self.random.millis(first_gap.0, first_gap.1);
        while start.elapsed() < time {
            self.cluster.look_after()?;
            self.repair_due()?;
            if Instant::now() >= next && self.open.len() < AT_ONCE {
                self.strike()?;
                next = Instant::now() + self.random.millis(GAP.0, GAP.1);
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// One more fault.
    fn strike(&mut self) -> anyhow::Result<()> {
        let kind = Kind::choose(&mut self.random, self.cluster.network.has_cuts());
        if kind.loses_memory() && self.memory_is_spent {
            self.settle()?;
        }
        let Some(fault) = Fault::choose(kind, self.cluster, &mut self.random) else { return Ok(()) };
        let time = fault.time(&mut self.random);
        // While the coordinator cannot answer, the last map that was seen has to do.
        if self.cluster.server(self.cluster.nodes()).is_running()
            && !self.cluster.server(self.cluster.nodes()).is_paused()
        {
            self.cluster.map();
        }
        if let (Some(node), Some(what)) = (fault.node(), kind.measured()) {
            let blow =
                Blow { at: self.clock.micros(), what, alone: self.open.is_empty(), keys: self.keys_led_by(node) };
            self.deeds.blows.push(blow);
        }
        if kind.loses_memory() {
            self.memory_is_spent = true;
        }
        self.log(format!("{} for {} ms", fault.describe(self.cluster), time.as_millis()));
        fault.begin(self.cluster)?;
        self.open.push((fault, Instant::now() + time));
        Ok(())
    }

    /// Ends the faults whose time has come.
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

    /// Ends all faults, and waits until the cluster is whole.
    fn settle(&mut self) -> anyhow::Result<()> {
        self.open.iter_mut().for_each(|(_, end)| *end = Instant::now());
        while !self.open.is_empty() {
            self.cluster.look_after()?;
            self.repair_due()?;
            std::thread::sleep(STEP);
        }
        let took = self.cluster.await_whole()?;
        self.memory_is_spent = false;
        self.deeds.recoveries.push(took);
        let size = self.cluster.wanted(true).len();
        self.log(format!("the cluster is whole again, of {size} nodes, after {} ms without faults", took.as_millis()));
        Ok(())
    }

    fn keys_led_by(&self, node: usize) -> Vec<String> {
        self.keys.iter().filter(|key| self.cluster.leads(node, key)).cloned().collect()
    }

    fn log(&mut self, what: String) {
        let at = self.clock.micros();
        crate::report::say(&format!("{:>10.3} s  {what}", crate::report::seconds(at)));
        self.deeds.log.push((at, what));
    }
}
