//! A node at its memory limit.
//!
//! The primary of a slot enforces the limit: it refuses writes, or evicts keys. A replica accepts whatever its primary
//! sends, regardless of its own limit, and reports with each lease how far it is over it. Its primaries then refuse
//! writes that need more memory in the slots they share, or evict keys there.

use std::sync::PoisonError;
use std::time::Duration;

use proto::id::Incarnation;
use proto::peer::{LinkReply, Write};
use proto::slot::SlotId;

use super::{Event, Node, Turn};
use crate::bugs::Bugs;
use crate::memory::{Evict, Memory, MemoryFigures, Usage};
use crate::slot::{Executed, Refusal, Victim, Written};
use crate::time::Timestamp;
use crate::waiting::Waiting;

/// How many keys are sampled, if there are that many, to evict the least recently used of them.
const SAMPLED: usize = 10;

/// How many keys are evicted at most in one step towards a limit.
const EVICTED_AT_ONCE: usize = 4_096;

/// How many keys are evicted at most for one write: a tenth of a second of work.
const EVICTED_FOR_ONE: usize = 65_536;

/// A write that lacks more than this, in bytes, is refused at once if evicting would not make enough room for it.
const MUCH: u64 = 64 * 1024;

/// How many times a write for which keys are evicted is retried while others take up the memory.
const TRIES: usize = 4;

/// How often to check whether the node or a replica is over its limit: as often as replicas report it.
const LOOK_AT_MEMORY: Duration = crate::peers::BEAT;

/// A primary works off a replica's excess in about this many steps, because all copies of a slot may report the same
/// records.
const STEPS_BACK: u64 = 4;

/// The minimum interval between reports to operators that writes are refused.
const TELL_FULL: Duration = Duration::from_secs(60);

/// What keys are evicted for.
#[derive(Debug)]
struct Wanted<'a> {
    bytes: u64,
    /// Whose memory it is, if not this node's: only keys of slots that this follower has are evicted.
    of: Option<Incarnation>,
    /// A key to spare: the one being written.
    spared: Option<&'a [u8]>,
}

/// When the memory was last checked and reported.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Timestamp,
    told: Option<Timestamp>,
    /// How many writes had been refused by then.
    refused: u64,
}

impl<B: Bugs> Node<B> {
    /// The same node with a memory limit in bytes, 0 for none, and what happens at the limit.
    #[must_use]
    pub fn with_memory_limit(mut self, limit: u64, evict: Evict) -> Self {
        self.memory = std::mem::take(&mut self.memory).limited(limit, evict);
        self
    }

    /// How much memory the keys take, and may take.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The figures of [`Node::memory`].
    #[must_use]
    pub fn memory_figures(&self) -> MemoryFigures {
        self.memory.figures()
    }

    /// The memory the keys take, recounted in every slot. May differ from the running count while writes are in
    /// progress.
    #[must_use]
    pub fn recount_memory(&self) -> Usage {
        self.bits.slots().map(|slot| self.slot(slot).usage()).sum()
    }

    /// A write was refused because it needs more memory than there is. If eviction is enabled, evicts keys and retries.
    pub(super) fn write_in_full_memory(
        &self,
        now: Timestamp,
        slot: SlotId,
        write: &Write<'_>,
        waiting: &Waiting,
        turn: &mut Turn,
        refusal: Refusal,
    ) -> Result<Executed<Written>, Refusal> {
        let mut refused = refusal;
        for _ in 0..TRIES {
            let Refusal::Full { lacks } = refused else { break };
            if !self.memory.evicts() || !self.may_make_room(lacks) {
                break;
            }
            let wanted = Wanted { bytes: lacks, of: None, spared: Some(write.key) };
            let has_room = self.make_room(now, &wanted, EVICTED_FOR_ONE, turn);
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

    /// Whether evicting keys that this node leads may free so many bytes: an estimate, from how many keys there are.
    fn may_make_room(&self, bytes: u64) -> bool {
        let used = self.memory.figures().used;
        if bytes <= MUCH || bytes > used {
            return bytes <= used;
        }
        let (mut keys, mut led) = (0, 0);
        for slot in self.bits.slots() {
            let state = self.slot(slot);
            keys += state.keys() as u64;
            led += if state.is_primary() { state.keys() as u64 } else { 0 };
        }
        // Of average size.
        bytes.saturating_mul(keys) / used <= led.min(EVICTED_FOR_ONE as u64)
    }

    /// Evicts `most` keys, or until there is room, now or once every copy has passed their tombstones. `false` if there
    /// are too few keys. No slot may be locked.
    fn make_room(&self, now: Timestamp, wanted: &Wanted<'_>, most: usize, turn: &mut Turn) -> bool {
        let mut freed = 0;
        for _ in 0..most {
            if freed >= wanted.bytes {
                break;
            }
            let Some(more) = self.evict_one(now, wanted, turn) else { break };
            freed += more;
        }
        freed >= wanted.bytes
    }

    /// Evicts approximately the least recently used key among those that this node leads: the least recently used of a
    /// few random ones, as Redis does. `None` if there is none.
    fn evict_one(&self, now: Timestamp, wanted: &Wanted<'_>, turn: &mut Turn) -> Option<u64> {
        let mut looked_at = 0;
        let mut oldest: Option<(SlotId, Victim)> = None;
        let start = self.memory.random() as usize % self.slots.len().max(1);
        for slot in (start..self.slots.len()).chain(0..start).filter_map(|slot| u16::try_from(slot).ok()).map(SlotId) {
            let state = self.slot(slot);
            if !state.may_evict(self.cx(now, slot), wanted.of) {
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
        Some(self.slot(slot).evict(self.cx(now, slot), victim, turn))
    }

    /// Reports refused writes to operators from time to time. If eviction is enabled, also evicts keys: for this node's
    /// own excess only if it follows no primary (otherwise those primaries evict), and for what replicas have reported.
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
            self.make_room(now, &Wanted { bytes: self.memory.excess(), of: None, spared: None }, EVICTED_AT_ONCE, turn);
        }
        for outbox in self.outboxes() {
            let bytes = outbox.take_over_memory().div_ceil(STEPS_BACK);
            if bytes > 0 {
                self.make_room(now, &Wanted { bytes, of: Some(outbox.to), spared: None }, EVICTED_AT_ONCE, turn);
                outbox.await_memory();
            }
        }
    }

    /// Tells a primary how far this node is over its limit, if it has one.
    pub(super) fn tell_memory(&self, replies: &mut Vec<u8>) {
        if self.memory.is_limited() {
            LinkReply::Memory { over: self.excess_share() }.encode(replies);
        }
    }

    /// How many bytes over the limit this node is, divided among the primaries that it follows: they are the ones that
    /// send more.
    fn excess_share(&self) -> u64 {
        let followed = self.followed().max(1) as u64;
        self.memory.excess().div_ceil(followed)
    }

    /// How many nodes lead what this one has copies of.
    fn followed(&self) -> usize {
        self.neighbors().followed().count()
    }
}
