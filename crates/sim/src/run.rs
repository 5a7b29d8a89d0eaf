//! One run of one seed, and its result.

use std::fmt;

use engine::node::Event as NodeEvent;
use proto::slot::{Position, SlotBits, SlotId};

use crate::history::History;
use crate::judges::{Verdict, judge};
use crate::knobs::Knobs;
use crate::mutants::Planted;
use crate::world::World;

/// How many steps the search of one key's history may take.
const STEPS: u64 = 300_000;

/// Counts of what happened in a run, or in several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its name says, and is only shown")]
pub struct Stats {
    pub seeds: u64,
    pub simulated: u64,
    pub events: u64,
    pub operations: u64,
    pub answered: u64,
    pub acknowledged: u64,
    pub multi_writes: u64,
    pub refused: u64,
    pub unknown: u64,
    pub outage_answered: u64,
    pub promotions: u64,
    pub hand_overs: u64,
    pub hand_overs_late: u64,
    pub fills: u64,
    pub overflows: u64,
    pub deposed: u64,
    pub expelled: u64,
    pub suspected: u64,
    pub removed: u64,
    pub cut_away: u64,
    pub async_lost: u64,
    pub breaks: u64,
    pub cuts: u64,
    pub pauses: u64,
    pub crashes: u64,
    pub memory_losses: u64,
    pub power_losses: u64,
    pub orderly_stops: u64,
    pub crashed_starts: u64,
    pub disk_failures: u64,
    pub disk_stalls: u64,
    pub full_disks: u64,
    pub bit_flips: u64,
    pub damages: u64,
    pub snapshots: u64,
    pub torn_tails: u64,
    pub unproven_promotions: u64,
    pub leaves: u64,
    pub coordinator_crashes: u64,
    pub state_losses: u64,
    pub started_anew: u64,
    pub lost_slots: u64,
    pub shortened_slots: u64,
    pub undecided: u64,
    pub pages: u64,
    pub lists_of_replicas: u64,
    pub full: u64,
    pub keys_evicted: u64,
    pub comparisons: u64,
    pub differences: u64,
    pub decommissions: u64,
    pub dismissals: u64,
    pub fills_limited: u64,
    pub misnamed: u64,
    pub restarts: u64,
    pub rolled: u64,
    pub impostors_refused: u64,
    pub states_put_back: u64,
    /// How often one was put back after the coordinator had gone on with some of the nodes.
    pub forks: u64,
    pub old_retries: u64,
    pub unregistrations: u64,
    pub accepted_losses: u64,
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the design, or a name.
    pub invariant: &'static str,
    /// The slot concerned.
    pub slot: Option<SlotId>,
    /// When it was found, in microseconds.
    pub time: u64,
    /// What is wrong.
    pub what: String,
    /// The last events that concern the slot.
    pub story: Vec<String>,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Counts of what happened.
    pub stats: Stats,
    /// Equal runs have equal hashes.
    pub hash: u64,
    /// What is wrong, if anything.
    pub violation: Option<Violation>,
}

/// Runs a seed with these knobs and this planted bug.
#[must_use]
pub fn run(seed: u64, knobs: &Knobs, planted: Planted) -> Report {
    run_once(seed, knobs, planted, 0)
}

/// Runs a seed. If something is wrong, runs it again to record a story of `lines` lines.
#[must_use]
pub fn run_with_story(seed: u64, knobs: &Knobs, planted: Planted, lines: usize) -> Report {
    let report = run(seed, knobs, planted);
    if report.violation.is_none() || lines == 0 { report } else { run_once(seed, knobs, planted, lines) }
}

fn run_once(seed: u64, knobs: &Knobs, planted: Planted, lines: usize) -> Report {
    let mut world = World::new(seed, knobs.clone(), planted, lines > 0);
    world.run();
    if world.violation.is_none() {
        judge_history(&mut world);
    }
    if world.violation.is_none() {
        judge_counters(&mut world);
    }
    let mut stats = world.stats;
    stats.keys_evicted += world
        .nodes
        .iter()
        .filter_map(|process| process.node.as_ref())
        .map(|node| node.memory_figures().evicted)
        .sum::<u64>();
    (stats.seeds, stats.simulated, stats.breaks) = (1, world.schedule.now, world.network.breaks);
    let mut violation = world.violation.take();
    if let Some(violation) = &mut violation {
        violation.story = world.trace.story(violation.slot, lines);
    }
    Report { stats, hash: world.trace.hash(), violation }
}

/// I8: per-key histories of quorum writes, linear reads, conditional writes, deletes and expiries are linearizable,
/// with `unknown` allowed to mean either. This includes I11: after an answered delete or expiry no read returns an
/// older value.
fn judge_history(world: &mut World) {
    if world.knobs.wild_clocks > 0 {
        return;
    }
    let lost = |key: &str| {
        let slot = world.bits.slot(&Position::of(key.as_bytes()));
        world.oracle.slots.get(usize::from(slot.0)).is_some_and(|model| model.is_lost)
    };
    let mut history = History::new();
    for operation in world.history.operations().iter().filter(|operation| !lost(&operation.key)) {
        history.push(operation.clone());
    }
    match judge(&history, STEPS) {
        Ok(_) => {}
        Err(Verdict::GaveUp { .. }) => world.stats.undecided += 1,
        Err(verdict) => {
            let slot = slot_of(&verdict, world.bits);
            world.broken("I8", slot, verdict.to_string());
        }
    }
}

/// I9: the answers to increments show that each took effect at most once, and that no answered one was lost. A counter
/// that may be evicted can restart at any time, so it proves nothing.
fn judge_counters(world: &mut World) {
    if world.knobs.wild_clocks > 0 || world.knobs.evict > 0 {
        return;
    }
    let slot = |key: &str| world.bits.slot(&Position::of(key.as_bytes()));
    let is_lost = |slot: SlotId| world.oracle.slots.get(usize::from(slot.0)).is_some_and(|model| model.is_lost);
    let wrong = world.counters.judge().map(|(key, what)| (slot(key), format!("{key}: {what}")));
    let wrong: Option<(SlotId, String)> = wrong.into_iter().find(|(slot, _)| !is_lost(*slot));
    if let Some((slot, what)) = wrong {
        world.broken("I9", Some(slot), what);
    }
}

fn slot_of(verdict: &Verdict, bits: SlotBits) -> Option<SlotId> {
    let key = match verdict {
        Verdict::Violation(violation) => &violation.key,
        Verdict::GaveUp { key, .. } | Verdict::WrittenTwice { key, .. } => key,
    };
    Some(bits.slot(&Position::of(key.as_bytes())))
}

impl Stats {
    /// Counts an event reported by a node.
    pub(crate) fn node_event(&mut self, event: &NodeEvent) {
        match event {
            NodeEvent::Deposed(_) => self.deposed += 1,
            NodeEvent::CutAway(_, records) => self.cut_away += records,
            NodeEvent::Unresponsive(_, slots) => self.expelled += *slots as u64,
            NodeEvent::Overflowed(..) => self.overflows += 1,
            NodeEvent::MemoryFull { .. } => {}
            NodeEvent::Differs(..) => self.differences += 1,
            NodeEvent::HandOverTimedOut(slots) => self.hand_overs_late += *slots as u64,
        }
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        macro_rules! add {
            ($($name:ident)*) => { $(self.$name += other.$name;)* };
        }
        add!(seeds simulated events operations answered acknowledged multi_writes refused unknown outage_answered promotions hand_overs hand_overs_late fills overflows deposed expelled suspected
             removed cut_away async_lost breaks cuts pauses crashes memory_losses power_losses orderly_stops crashed_starts disk_failures disk_stalls full_disks bit_flips damages snapshots torn_tails
             unproven_promotions leaves coordinator_crashes state_losses started_anew lost_slots shortened_slots undecided pages lists_of_replicas full keys_evicted
              comparisons differences decommissions dismissals fills_limited misnamed restarts rolled
              impostors_refused states_put_back forks old_retries unregistrations accepted_losses);
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} seeds, {} simulated seconds", self.seeds, self.simulated / 1_000_000)?;
        macro_rules! show {
            ($($name:ident)*) => { $(write!(f, ", {} {}", self.$name, stringify!($name).replace('_', " "))?;)* };
        }
        show!(events operations answered acknowledged multi_writes refused unknown outage_answered promotions hand_overs hand_overs_late fills overflows deposed expelled suspected removed
              cut_away async_lost breaks cuts pauses crashes memory_losses power_losses orderly_stops crashed_starts disk_failures disk_stalls full_disks
              bit_flips damages snapshots torn_tails unproven_promotions leaves coordinator_crashes state_losses
              started_anew lost_slots shortened_slots undecided pages lists_of_replicas full keys_evicted
              comparisons differences decommissions dismissals fills_limited misnamed restarts rolled
              impostors_refused states_put_back forks old_retries unregistrations accepted_losses);
        Ok(())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is broken at {:.6} s: {}", self.invariant, self.time as f64 / 1e6, self.what)?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
