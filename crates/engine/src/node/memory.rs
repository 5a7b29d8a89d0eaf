//! A node at its limit of memory.
//!
//! Whoever leads a slot keeps to the limit: it refuses writes, or evicts keys. A replica takes what its primary sends,
//! whatever its own limit is, and says by how much it is over that with each lease; its primaries then refuse what needs
//! more memory in the slots that they share, or evict there.

use std::sync::PoisonError;
use std::time::Duration;

use proto::id::Incarnation;
use proto::peer::{LinkReply, Write};
use proto::slot::SlotId;

use super::{Event, Node, Turn};
use crate::bugs::Bugs;
use crate::memory::{Evict, Memory, MemoryFigures, Usage};
use crate::slot::{Answer, Refusal, Victim, Written};
use crate::time::Timestamp;
use crate::waiting::Waiting;

/// Of how many keys the one is evicted that was used least recently, where there are so many.
const SAMPLED: usize = 10;

/// How many keys are evicted for one write, at most; as many again in each look at the memory.
const EVICTED_AT_ONCE: usize = 4_096;

/// How often a write is tried for which keys are evicted, while others take the memory.
const TRIES: usize = 4;

/// How often it is looked whether the node, or a replica, is over its limit: as often as replicas say so.
const LOOK_AT_MEMORY: Duration = crate::peers::BEAT;

/// A primary makes up for what a replica has too much in about so many steps: all copies of a slot may say the same of the
/// same records.
const STEPS_BACK: u64 = 4;

/// How often an operator is told that writes are refused.
const TELL_FULL: Duration = Duration::from_secs(60);

/// What keys are evicted for.
#[derive(Debug)]
struct Wanted<'a> {
    bytes: u64,
    /// Whose memory it is, where not this node's: only keys of slots that this follower has are evicted.
    of: Option<Incarnation>,
    /// A key that stays: the one that is written.
    spared: Option<&'a [u8]>,
}

/// When the memory was looked at, and told of.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Timestamp,
    told: Option<Timestamp>,
    /// How many writes had been refused by then.
    refused: u64,
}

impl<B: Bugs> Node<B> {
    /// The same with a limit of memory in bytes, 0 for none, and what is done there.
    #[must_use]
    pub fn with_memory_limit(mut self, limit: u64, evict: Evict) -> Self {
        self.memory = std::mem::take(&mut self.memory).limited(limit, evict);
        self
    }

    /// What the keys take in memory, and may take.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The figures of that.
    #[must_use]
    pub fn memory_figures(&self) -> MemoryFigures {
        self.memory.figures()
    }

    /// The same, counted anew in every slot. While others write it may differ from what is counted as they do.
    #[must_use]
    pub fn recount_memory(&self) -> Usage {
        self.bits.slots().map(|slot| self.slot(slot).usage()).sum()
    }

    /// A write was refused, since it needs more memory than there is. Evicts keys and tries again, where that is wanted.
    pub(super) fn write_in_full_memory(
        &self,
        now: Timestamp,
        slot: SlotId,
        write: &Write<'_>,
        waiting: &Waiting,
        turn: &mut Turn,
        refusal: Refusal,
    ) -> Result<Answer<Written>, Refusal> {
        let mut refused = refusal;
        for _ in 0..TRIES {
            let Refusal::Full { lacks } = refused else { break };
            // Where all that there is would be too little nothing is evicted.
            if !self.memory.evicts() || lacks > self.memory.figures().used {
                break;
            }
            let has_room = self.make_room(now, &Wanted { bytes: lacks, of: None, spared: Some(write.key) }, turn);
            let slack = if has_room || self.followed() == 0 { 0 } else { self.memory.slack() };
            match self.write_once(now, slot, slack, write, waiting, turn) {
                Err(refusal @ (Refusal::Full { .. } | Refusal::ReplicaFull(_))) => refused = refusal,
                written => return written,
            }
            if !has_room {
                break;
            }
        }
        self.memory.note_refused();
        Err(refused)
    }

    /// Evicts keys until there is room, now or once every copy has passed their tombstones. `false` where there are too few.
    /// No slot is locked.
    fn make_room(&self, now: Timestamp, wanted: &Wanted<'_>, turn: &mut Turn) -> bool {
        let mut freed = 0;
        for _ in 0..EVICTED_AT_ONCE {
            if freed >= wanted.bytes {
                break;
            }
            let Some(more) = self.evict_one(now, wanted, turn) else { break };
            freed += more;
        }
        freed >= wanted.bytes
    }

    /// Evicts about the least recently used key of those that this node leads: the one of a few that are chosen at random,
    /// as Redis does. `None` where there is none.
    fn evict_one(&self, now: Timestamp, wanted: &Wanted<'_>, turn: &mut Turn) -> Option<u64> {
        let mut looked_at = 0;
        let mut oldest: Option<(SlotId, Victim)> = None;
        let start = self.memory.random() as usize % self.slots.len().max(1);
        for slot in (start..self.slots.len()).chain(0..start).filter_map(|slot| u16::try_from(slot).ok()).map(SlotId) {
            let state = self.slot(slot);
            if !state.may_evict(self.place(now, slot), wanted.of) {
                continue;
            }
            let sample = state.sample(&self.hasher, &self.memory, wanted.spared);
            if let Some(victim) = sample.oldest
                && oldest.is_none_or(|(_, oldest)| victim.age > oldest.age)
            {
                oldest = Some((slot, victim));
            }
            looked_at += sample.looked_at;
            if looked_at >= SAMPLED {
                break;
            }
        }
        let (slot, victim) = oldest?;
        Some(self.slot(slot).evict(self.place(now, slot), victim, turn))
    }

    /// Looks whether this node or a replica is over its limit by what primaries have sent, and evicts keys where it may.
    pub(super) fn look_at_memory(&self, now: Timestamp, turn: &mut Turn) {
        let mut looks = self.memory_looks.lock().unwrap_or_else(PoisonError::into_inner);
        if now - looks.last < LOOK_AT_MEMORY {
            return;
        }
        looks.last = now;
        let MemoryFigures { refused, limit, used, .. } = self.memory.figures();
        if refused > looks.refused && looks.told.is_none_or(|told| now - told >= TELL_FULL) {
            self.event(Event::MemoryFull { used, limit, refused: refused - looks.refused });
            (looks.told, looks.refused) = (Some(now), refused);
        }
        drop(looks);
        if !self.memory.evicts() {
            return;
        }
        if self.followed() == 0 {
            self.make_room(now, &Wanted { bytes: self.memory.excess(), of: None, spared: None }, turn);
        }
        for outbox in self.outboxes() {
            let bytes = outbox.take_over_memory().div_ceil(STEPS_BACK);
            if bytes > 0 {
                self.make_room(now, &Wanted { bytes, of: Some(outbox.to), spared: None }, turn);
                outbox.await_memory();
            }
        }
    }

    /// Tells a primary by how much this node is over its limit, where it has one.
    pub(super) fn tell_memory(&self, replies: &mut Vec<u8>) {
        if self.memory.is_limited() {
            LinkReply::Memory { over: self.excess_share() }.encode(replies);
        }
    }

    /// By how many bytes the limit is passed, for each of the primaries that this node follows: it is they who send more.
    fn excess_share(&self) -> u64 {
        let followed = self.followed().max(1) as u64;
        self.memory.excess().div_ceil(followed)
    }

    /// How many nodes lead what this one has copies of.
    fn followed(&self) -> usize {
        self.neighbours().followed().count()
    }
}
