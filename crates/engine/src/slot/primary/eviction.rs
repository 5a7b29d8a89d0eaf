//! What happens when a write needs more memory than there is: it is refused, or other keys are evicted.
//!
//! The primary evicts a key with the same kind of record that makes an expired key absent. That record is written and
//! replicated like any other, no client asked for it, and no copy ever resurrects the key on its own.

use proto::peer::{Effect, Write, Writes};

use super::Primary;
use crate::bugs::{Bug, Bugs};
use crate::memory::Memory;
use crate::node::Turn;
use crate::record::Record;
use crate::slot::{Refusal, Role, Slot, SlotContext};
use crate::table::KeyHasher;
use crate::time::Timestamp;
use proto::id::{Incarnation, Version};

/// How many keys of one slot are sampled to find the least recently used.
const SAMPLED_IN_A_SLOT: usize = 5;

/// A key that may be evicted. The slot's table finds it again unless it has been written since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Victim {
    /// How long ago the key was used, by the clock of [`crate::memory`].
    pub(crate) age: u16,
    hash: u64,
    version: Version,
}

/// The result of sampling keys for the least recently used one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) looked_at: usize,
    pub(crate) oldest: Option<Victim>,
}

impl Primary {
    /// A follower whose node is over its memory limit, if any. What one has reported that does not answer any more is
    /// void.
    fn full_follower(&self, now: Timestamp) -> Option<Incarnation> {
        self.followers()
            .iter()
            .filter(|follower| follower.is_bound(now))
            .map(|follower| &follower.outbox)
            .find(|outbox| outbox.over_memory() > 0)
            .map(|full| full.to)
    }
}

impl<B: Bugs> Slot<B> {
    /// Checks that there is memory for what a write stores beyond what it replaces: so many bytes.
    ///
    /// # Errors
    /// There is not.
    pub(super) fn has_memory(&self, cx: &SlotContext<'_>, more: impl FnOnce() -> u64) -> Result<(), Refusal> {
        let SlotContext { memory, memory_slack, .. } = *cx;
        let Role::Primary(primary) = &self.role else { return Ok(()) };
        // If keys are evicted, they are also evicted on behalf of a replica, once it has reported being over its limit.
        let full = if memory.evicts() { None } else { primary.full_follower(cx.now) };
        if !memory.is_limited() && full.is_none() {
            return Ok(());
        }
        let more = more();
        if more == 0 {
            return Ok(());
        }
        match (memory.lacks(more).saturating_sub(memory_slack), full) {
            (0, None) => Ok(()),
            (0, Some(replica)) => Err(Refusal::ReplicaFull(replica)),
            (lacks, _) => Err(Refusal::Full { lacks }),
        }
    }

    /// How many bytes more a value takes than the newest record of its key, which it replaces.
    pub(super) fn more_for(&self, write: &Write<'_>, value: &[u8], has_deadline: bool, newest: Option<&Record>) -> u64 {
        let added = Record::usage_of_value(self.next_version(), write.key, value, has_deadline, write.identity);
        let (grown, freed) = newest.map_or((self.table.growth(), 0), |newest| (0, newest.usage().bytes.unsigned_abs()));
        ((added + grown) as u64).saturating_sub(freed)
    }

    /// The same for several keys together.
    pub(super) fn more_for_all(&self, cx: &SlotContext<'_>, writes: Writes<'_>) -> u64 {
        let (mut added, mut freed, mut grown) = (0, 0, 0);
        for (key, effect) in writes.iter() {
            let (value, has_deadline) = match effect {
                Effect::Put(value) => (value, false),
                Effect::PutUntil(value, _) => (value, true),
                Effect::Delete | Effect::Expire => (&b""[..], false),
            };
            added += Record::usage_of_value(self.next_version(), key, value, has_deadline, None) as u64;
            match self.table.get(cx.hasher, key) {
                Some(newest) => freed += newest.usage().bytes.unsigned_abs(),
                None => grown = self.table.growth() as u64,
            }
        }
        (added + grown).saturating_sub(freed)
    }

    /// Whether keys of this slot may be evicted here and now; if a follower is named, on its behalf.
    pub(crate) fn may_evict(&self, cx: &SlotContext<'_>, of: Option<Incarnation>) -> bool {
        let follows = |primary: &Primary, who| primary.followers().iter().any(|follower| follower.outbox.to == who);
        self.serves(cx).is_some_and(|primary| of.is_none_or(|who| follows(primary, who)))
    }

    /// Samples some keys, skipping `spared`, and returns the least recently used of them.
    pub(crate) fn sample(&self, hasher: &KeyHasher, memory: &Memory, spared: Option<&[u8]>) -> Sample {
        let (clock, mut sample) = (memory.clock(), Sample::default());
        let mut oldest: Option<(u16, &Record)> = None;
        let records = self.table.sample(memory.random()).filter(|record| spared != Some(record.key()));
        for record in records.take(SAMPLED_IN_A_SLOT) {
            sample.looked_at += 1;
            let age = record.age(clock);
            if oldest.is_none_or(|(oldest, _)| age > oldest) {
                oldest = Some((age, record));
            }
        }
        sample.oldest =
            oldest.map(|(age, record)| Victim { age, hash: hasher.hash(record.key()), version: record.version() });
        sample
    }

    /// Evicts a key, unless it was written after it was chosen. Returns how many bytes that frees, now and once its
    /// tombstone is purged.
    pub(crate) fn evict(&mut self, cx: &SlotContext<'_>, victim: Victim, turn: &mut Turn) -> u64 {
        if self.serves(cx).is_none() {
            return 0;
        }
        let chosen = self.table.with_hash(victim.hash).find(|record| record.version() == victim.version);
        let Some(record) = chosen.filter(|record| !record.is_delete()).cloned() else { return 0 };
        if self.bugs.plants(Bug::EvictedUnrecorded) {
            self.drop_record(cx, &record);
        } else {
            self.expire(cx, record.key(), turn);
        }
        cx.memory.note_evicted();
        record.usage().bytes.unsigned_abs()
    }
}
