//! Planted mistakes: which of them the state machines of a run have.

use std::ops::Range;

use engine::bugs::{Bug, Bugs, Damaged};

use crate::knobs::Knobs;
use crate::run::{Report, run};

/// The mistake of a run, or none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted(pub Option<Bug>);

impl Bugs for Planted {
    fn plants(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }
}

impl Damaged for Planted {}

/// The first of some seeds that finds a mistake, and how.
#[must_use]
pub fn hunt(bug: Bug, seeds: Range<u64>) -> Option<(u64, Report)> {
    let reports = seeds.map(|seed| (seed, run(seed, &Knobs::of(seed), Planted(Some(bug)))));
    reports.into_iter().find(|(_, report)| report.violation.is_some())
}
