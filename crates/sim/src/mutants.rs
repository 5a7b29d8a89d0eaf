//! Planted bugs: which of them the state machines and the storage of a run have.

use std::fmt;
use std::ops::Range;

use crate::knobs::Knobs;
use crate::run::{Report, run};

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnyBug {
    /// A bug in the state machines.
    Engine(engine::bugs::Bug),
    /// A bug in the storage of nodes.
    Storage(storage::bugs::Bug),
}

impl AnyBug {
    /// All bugs that a cluster can show. A node stops at its first failed sync, so it never retries one: that bug is
    /// found by the tests of the storage.
    pub fn all() -> impl Iterator<Item = Self> {
        let engine = engine::bugs::Bug::ALL.iter().copied().map(Self::Engine);
        let storage =
            storage::bugs::Bug::ALL.iter().copied().filter(|bug| *bug != storage::bugs::Bug::RetryAfterFailedSync);
        engine.chain(storage.map(Self::Storage))
    }

    /// The seeds among which a search finds it, unless behavior has changed: the first few thousand. For three that only
    /// one seed in thousands shows, the search begins shortly before such a one.
    #[must_use]
    pub fn searched(self) -> Range<u64> {
        match self {
            Self::Engine(engine::bugs::Bug::OlderCopyDropped) => 7_000..12_000,
            // The power must fail everywhere several times within seconds.
            Self::Engine(engine::bugs::Bug::TermNotSynced) => 106_600..120_000,
            // A coordinator must be set back to before a copy was admitted, and lead while nobody is up who knows of that.
            Self::Engine(engine::bugs::Bug::DroppedCopyCounts) => 112_700..125_000,
            Self::Engine(_) | Self::Storage(_) => 0..3_000,
        }
    }
}

impl fmt::Display for AnyBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names in the code are the names by which people select them.
        match self {
            Self::Engine(bug) => f.pad(&format!("{bug:?}")),
            Self::Storage(bug) => f.pad(&format!("{bug:?}")),
        }
    }
}

impl From<engine::bugs::Bug> for AnyBug {
    fn from(bug: engine::bugs::Bug) -> Self {
        Self::Engine(bug)
    }
}

impl From<storage::bugs::Bug> for AnyBug {
    fn from(bug: storage::bugs::Bug) -> Self {
        Self::Storage(bug)
    }
}

/// The bug planted in a run, if any.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted(pub Option<AnyBug>);

impl engine::bugs::Bugs for Planted {
    fn plants(self, bug: engine::bugs::Bug) -> bool {
        self.0 == Some(AnyBug::Engine(bug))
    }
}

impl storage::bugs::Bugs for Planted {
    fn plants(self, bug: storage::bugs::Bug) -> bool {
        self.0 == Some(AnyBug::Storage(bug))
    }
}

impl engine::bugs::Damaged for Planted {}

/// The first of some seeds that finds a bug, with its report.
#[must_use]
pub fn hunt(bug: AnyBug, seeds: Range<u64>) -> Option<(u64, Report)> {
    let reports = seeds.map(|seed| (seed, run(seed, &Knobs::of(seed), Planted(Some(bug)))));
    reports.into_iter().find(|(_, report)| report.violation.is_some())
}
