//! How much memory a node's keys take, and what happens when that reaches its limit.
//!
//! What counts is what the tables hold: their records, including tombstones, each with the allocator's size class for
//! it, and the groups and orders of the tables themselves. The count is kept for the whole node, updated under the
//! slot's lock with what each change of a table adds and removes.
//!
//! How long ago a key was used is measured by a clock that does not depend on time: it advances by one whenever the
//! tables have grown by a certain part of the limit. It is therefore as fine as it needs to be, however fast or slowly
//! a cache turns over, and nobody reads a real clock. A record stores 16 bits of it, in which the whole limit is
//! written 256 times over: anything that old was evicted long before.

use std::collections::VecDeque;
use std::ops::{Add, AddAssign, Sub};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::time::Timestamp;

/// What happens if a write needs more memory than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Evict {
    /// The write is refused.
    #[default]
    None,
    /// The least recently used keys are made absent, so that the write is accepted.
    Lru,
}

/// How many steps the clock advances while the tables grow by the whole limit.
const STEPS: u64 = 256;

/// If keys are evicted, a write may exceed the limit by this part of it: if the node has none that it may evict, as the
/// primaries of the copies that it holds make room; and if others take up the room each time that it evicts some. A node
/// further above its limit than this works off the excess step by step.
const SLACK_PART: u64 = 16;

/// If keys are evicted, tombstones up to this part of the limit do not count: they disappear by themselves in a moment.
const TOMBSTONE_PART: u64 = 8;

/// Bytes of memory. The difference of two may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// The total.
    pub bytes: i64,
    /// The part of the total that tombstones take.
    pub tombstones: i64,
}

/// How much memory a node's tables take, and may take.
#[derive(Debug, Default)]
pub struct Memory {
    /// In bytes; 0: no limit.
    limit: u64,
    evict: Evict,
    clock: AtomicU16,
    steps: Mutex<Steps>,
    counters: Counters,
}

/// When the clock of uses made its latest steps, oldest first.
type Steps = VecDeque<(u16, Timestamp)>;

/// How many steps are kept: those in which the whole limit is written twice.
const KEPT_STEPS: usize = 2 * STEPS as usize;

/// What every write may change, kept apart from what every read looks at.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counters {
    used: AtomicU64,
    tombstones: AtomicU64,
    /// How much the tables have grown in total, in bytes.
    grown: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    /// The state of a generator of numbers that are random enough for choosing keys.
    random: AtomicU64,
}

/// The figures of a node's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryFigures {
    /// How much memory the tables take, in bytes.
    pub used: u64,
    /// How much they may take; 0: no limit.
    pub limit: u64,
    /// Whether keys are evicted at the limit, instead of refusing writes.
    pub evicts: bool,
    /// How many keys this start of the node has evicted.
    pub evicted: u64,
    /// How many writes were refused because they needed more memory than there was.
    pub refused: u64,
}

impl Memory {
    /// The same with a limit in bytes, 0 for none, and what happens at the limit.
    #[must_use]
    pub fn limited(mut self, limit: u64, evict: Evict) -> Self {
        (self.limit, self.evict) = (limit, evict);
        self
    }

    /// The current figures.
    #[must_use]
    pub fn figures(&self) -> MemoryFigures {
        let Counters { used, evicted, refused, .. } = &self.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (used, evicted, refused) = (load(used), load(evicted), load(refused));
        MemoryFigures { used, limit: self.limit, evicts: self.evicts(), evicted, refused }
    }

    /// The current count.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed).cast_signed();
        Usage { bytes: load(&self.counters.used), tombstones: load(&self.counters.tombstones) }
    }

    /// Whether there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.limit > 0
    }

    /// Whether keys are evicted at the limit.
    pub(crate) fn evicts(&self) -> bool {
        self.evict == Evict::Lru
    }

    /// Records the time of the clock's steps. Must be called often enough to notice each step in time.
    pub(crate) fn tick(&self, now: Timestamp) {
        if !self.evicts() {
            return;
        }
        let clock = self.clock();
        let mut steps = self.steps();
        if steps.back().is_none_or(|(last, _)| *last != clock) {
            if steps.len() == KEPT_STEPS {
                steps.pop_front();
            }
            steps.push_back((clock, now));
        }
    }

    /// The minimum time for which a key has not been used, if its last use is `age` steps of the clock ago: the time
    /// since the step after that.
    pub(crate) fn idle(&self, age: u16, now: Timestamp) -> Duration {
        let clock = self.clock();
        let steps = self.steps();
        let mut later = steps.iter().filter(|(step, _)| clock.wrapping_sub(*step) < age);
        later.next().map_or(Duration::ZERO, |(_, since)| now - *since)
    }

    fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current reading of the clock of uses.
    pub(crate) fn clock(&self) -> u16 {
        self.clock.load(Ordering::Relaxed)
    }

    /// Tables have changed by this much. Must be called under the lock of the slot.
    pub(crate) fn changed(&self, change: Usage) {
        let Counters { used, tombstones, grown, .. } = &self.counters;
        // Most records are overwritten by one of the same size; then nothing is touched that all slots share.
        if change.bytes != 0 {
            used.fetch_add(change.bytes.cast_unsigned(), Ordering::Relaxed);
        }
        if change.tombstones != 0 {
            tombstones.fetch_add(change.tombstones.cast_unsigned(), Ordering::Relaxed);
        }
        if self.evicts() && change.bytes > 0 {
            let (more, step) = (change.bytes.cast_unsigned(), (self.limit / STEPS).max(1));
            let before = grown.fetch_add(more, Ordering::Relaxed);
            if (before + more) / step != before / step {
                self.clock.store((before.wrapping_add(more) / step) as u16, Ordering::Relaxed);
            }
        }
    }

    /// How many bytes are missing for this many more; 0: there is room.
    pub(crate) fn lacks(&self, more: u64) -> u64 {
        if self.limit == 0 { 0 } else { (self.charged() + more).saturating_sub(self.limit) }
    }

    /// How many bytes over the limit the node is, since no replica refuses what its primary sends.
    pub(crate) fn excess(&self) -> u64 {
        self.lacks(0)
    }

    /// How many bytes the limit may be exceeded by for a moment.
    pub(crate) fn slack(&self) -> u64 {
        self.limit / SLACK_PART
    }

    /// The memory that counts against the limit.
    fn charged(&self) -> u64 {
        let Usage { bytes, tombstones } = self.usage();
        let passing = if self.evicts() { tombstones.min((self.limit / TOMBSTONE_PART).cast_signed()) } else { 0 };
        // If both are read while others write, they may disagree for a moment.
        u64::try_from(bytes - passing).unwrap_or(0)
    }

    pub(crate) fn note_evicted(&self) {
        self.counters.evicted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_refused(&self) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that is random enough for choosing keys.
    pub(crate) fn random(&self) -> u64 {
        seeded::mix(self.counters.random.fetch_add(seeded::STEP, Ordering::Relaxed))
    }
}

/// The memory that an allocation of this many bytes takes: the size classes of jemalloc, the allocator of nodes on Linux. Up to
/// 64 bytes they are 16 apart; above that there are four to each power of two.
#[must_use]
pub(crate) fn allocated(bytes: usize) -> usize {
    const WORD: usize = size_of::<u64>();
    let words = bytes.div_ceil(WORD);
    let step = if words <= WORD { 2 } else { 1 << ((words - 1).ilog2() - 2) };
    // `next_multiple_of` would divide, but the step is a power of two.
    ((words + step - 1) & !(step - 1)) * WORD
}

impl Usage {
    /// This many bytes, none of them for tombstones.
    pub(crate) fn of_values(bytes: usize) -> Self {
        Self { bytes: signed(bytes), tombstones: 0 }
    }

    /// This many bytes of tombstones.
    pub(crate) fn of_tombstones(bytes: usize) -> Self {
        Self { bytes: signed(bytes), tombstones: signed(bytes) }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { bytes: self.bytes + other.bytes, tombstones: self.tombstones + other.tombstones }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { bytes: self.bytes - other.bytes, tombstones: self.tombstones - other.tombstones }
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), Self::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocation_takes_its_size_class() {
        for (bytes, taken) in [
            (1, 16),
            (16, 16),
            (17, 32),
            (40, 48),
            (64, 64),
            (65, 80),
            (80, 80),
            (97, 112),
            (128, 128),
            (129, 160),
            (156, 160),
            (1_000, 1_024),
            (1_025, 1_280),
        ] {
            assert_eq!(allocated(bytes), taken, "{bytes}");
        }
    }

    #[test]
    fn without_a_limit_nothing_is_lacking_and_with_one_what_is_above() {
        let memory = Memory::default();
        memory.changed(Usage::of_values(1_000));
        assert_eq!((memory.lacks(u64::MAX / 2), memory.excess()), (0, 0));
        let memory = Memory::default().limited(1_000, Evict::None);
        memory.changed(Usage::of_values(900));
        assert_eq!((memory.lacks(100), memory.lacks(101), memory.excess()), (0, 1, 0));
        memory.changed(Usage::of_tombstones(200));
        assert_eq!(memory.excess(), 100, "a tombstone counts where nothing is evicted");
    }

    #[test]
    fn where_keys_are_evicted_some_tombstones_do_not_count() {
        let memory = Memory::default().limited(8_000, Evict::Lru);
        memory.changed(Usage::of_values(7_000) + Usage::of_tombstones(1_000));
        assert_eq!(memory.lacks(1_000), 0);
        memory.changed(Usage::of_tombstones(500));
        assert_eq!(memory.lacks(1_000), 500, "only up to an eighth of the limit");
    }

    #[test]
    fn a_key_is_idle_since_the_step_after_its_last_use() {
        let memory = Memory::default().limited(STEPS * 100, Evict::Lru);
        let at = |seconds: u64| Timestamp(seconds * 1_000_000);
        memory.tick(at(0));
        for second in 1..=3 {
            memory.changed(Usage::of_values(100));
            memory.tick(at(second));
            memory.tick(at(second));
        }
        let idle = |age| memory.idle(age, at(10)).as_secs();
        assert_eq!(
            [idle(0), idle(1), idle(2), idle(3)],
            [0, 7, 8, 9],
            "used in the present step, and 1, 2, 3 before it"
        );
        assert_eq!(idle(1_000), 10, "not since anybody remembers");
        for second in 0..10_000 {
            memory.changed(Usage::of_values(100));
            memory.tick(at(second));
        }
        assert_eq!(memory.steps().len(), KEPT_STEPS);
        assert_eq!(Memory::default().idle(7, at(10)), Duration::ZERO, "nobody counts");
    }

    #[test]
    fn the_clock_goes_on_as_the_tables_grow_and_not_otherwise() {
        let memory = Memory::default().limited(STEPS * 100, Evict::Lru);
        for _ in 0..STEPS {
            memory.changed(Usage::of_values(100));
        }
        assert_eq!(u64::from(memory.clock()), STEPS);
        memory.changed(Usage::default() - Usage::of_values(5_000));
        memory.changed(Usage::default());
        assert_eq!(u64::from(memory.clock()), STEPS);
    }
}
