//! One run of one seed, and its result.

use std::fmt;

use proto::slot::{Position, SlotBits, SlotId};

use crate::history::History;
use crate::judges::{Verdict, judge};
use crate::knobs::Knobs;
use crate::mutants::Planted;
use crate::stats::Stats;
use crate::world::World;

/// How many steps the search of one key's history may take.
const STEPS: u64 = 300_000;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its number, or a name.
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

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} is broken at {:.6} s: {}", self.invariant, self.time as f64 / 1e6, self.what)?;
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}
