//! A node at its memory limit.
//!
//! The primary of a slot enforces the limit: it refuses writes, or evicts keys. A replica accepts whatever its primary
//! sends, regardless of its own limit, and reports to each with its lease the part of the excess that comes from what
//! that one leads. Its primaries then refuse writes that need more memory in the slots they share, or evict keys there.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
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

/// The minimum interval between reports to operators that writes are refused, and for how long after the last of them a
/// node counts as the cause.
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
    /// By the node that lacks the memory, this one or a replica.
    refused: BTreeMap<Incarnation, Refused>,
}

/// The writes that were refused for lack of a node's memory.
#[derive(Debug, Default)]
struct Refused {
    last: Timestamp,
    /// How many have not been reported to operators.
    untold: u64,
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
        for tried in 1..=TRIES {
            let Refusal::Full { lacks } = refused else { break };
            // Far above its limit, the node works off the excess step by step, and not at once for a small write. That
            // makes room for twice what it needs itself, since tombstones remain for a while of what is evicted.
            let (excess, few) = (self.memory.excess(), self.memory.slack());
            let more = lacks.saturating_sub(excess);
            let is_far_above = excess > few && more <= few;
            let bytes = if is_far_above { 2 * more } else { lacks };
            if !self.memory.evicts() || !self.may_make_room(bytes) {
                break;
            }
            let wanted = Wanted { bytes, of: None, spared: Some(write.key) };
            let has_room = self.make_room(now, &wanted, EVICTED_FOR_ONE, turn);
            let slack = match has_room {
                true if is_far_above => lacks + few,
                // Others have taken up the room each time.
                true if tried == TRIES => few,
                // Others may make room.
                false if self.followed() > 0 => few,
                true | false => 0,
            };
            match self.write_once(now, slot, slack, write, waiting, turn) {
                Err(refusal @ (Refusal::Full { .. } | Refusal::ReplicaFull(_))) => refused = refusal,
                written => return written,
            }
            if !has_room {
                break;
            }
        }
        self.memory.note_refused();
        let lacks = if let Refusal::ReplicaFull(replica) = refused { replica } else { self.incarnation() };
        let mut looks = self.memory_looks();
        let counted = looks.refused.entry(lacks).or_default();
        (counted.last, counted.untold) = (now, counted.untold + 1);
        Err(refused)
    }

    /// The nodes that lack the memory for which writes have just been refused: this one or replicas.
    #[must_use]
    pub fn short_of_memory(&self, now: Timestamp) -> Vec<Incarnation> {
        let looks = self.memory_looks();
        looks.refused.iter().filter(|(_, refused)| now - refused.last < TELL_FULL).map(|(node, _)| *node).collect()
    }

    fn memory_looks(&self) -> MutexGuard<'_, Looks> {
        self.memory_looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether evicting keys that this node leads may free so many bytes: an estimate, from how many keys there are.
    fn may_make_room(&self, bytes: u64) -> bool {
        let used = self.memory.figures().used;
        if bytes <= MUCH || bytes > used {
            return bytes <= used;
        }
        let (keys, led) = self.keys_led_by(self.incarnation());
        // Of average size.
        bytes.saturating_mul(keys) / used <= led.min(EVICTED_FOR_ONE as u64)
    }

    /// How many keys this node has, and how many of these a node leads according to the map.
    fn keys_led_by(&self, primary: Incarnation) -> (u64, u64) {
        let map = self.map();
        let (mut keys, mut led) = (0, 0);
        for slot in self.bits.slots() {
            let here = self.slot(slot).keys() as u64;
            keys += here;
            if here > 0 && map.as_ref().is_some_and(|map| map.config(slot).primary == Some(primary)) {
                led += here;
            }
        }
        (keys, led)
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
            if !state.may_evict(&self.cx(now, slot), wanted.of) {
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
        Some(self.slot(slot).evict(&self.cx(now, slot), victim, turn))
    }

    /// Reports refused writes to operators from time to time. If eviction is enabled, also evicts keys: for this node's
    /// share of its own excess, and for what replicas have reported.
    pub(super) fn look_at_memory(&self, now: Timestamp, turn: &mut Turn) {
        let mut looks = self.memory_looks();
        if now - looks.last < LOOK_AT_MEMORY {
            return;
        }
        looks.last = now;
        let may_tell = looks.told.is_none_or(|told| now - told >= TELL_FULL);
        if may_tell && looks.refused.values().any(|refused| refused.untold > 0) {
            looks.told = Some(now);
            for (node, refused) in &mut looks.refused {
                let untold = std::mem::take(&mut refused.untold);
                self.tell_refused(*node, untold);
            }
        }
        looks.refused.retain(|_, refused| refused.untold > 0 || now - refused.last < TELL_FULL);
        drop(looks);
        if !self.memory.evicts() {
            return;
        }
        let bytes = self.share_of_excess(self.incarnation());
        self.make_room(now, &Wanted { bytes, of: None, spared: None }, EVICTED_AT_ONCE, turn);
        for outbox in self.outboxes() {
            let bytes = outbox.take_over_memory().div_ceil(STEPS_BACK);
            if bytes > 0 {
                self.make_room(now, &Wanted { bytes, of: Some(outbox.to), spared: None }, EVICTED_AT_ONCE, turn);
                outbox.await_memory();
            }
        }
    }

    /// Reports to operators how many writes were refused for lack of a node's memory.
    fn tell_refused(&self, node: Incarnation, refused: u64) {
        if refused == 0 {
            return;
        }
        if node == self.incarnation() {
            let MemoryFigures { limit, used, .. } = self.memory.figures();
            self.event(Event::MemoryFull { used, limit, refused });
        } else if let Some(replica) = self.map().as_ref().and_then(|map| map.member(node)) {
            self.event(Event::ReplicaMemoryFull(replica.addr.clone(), refused));
        }
    }

    /// Tells a primary its share of what this node is over its limit, if it has one.
    pub(super) fn tell_memory(&self, primary: Incarnation, replies: &mut Vec<u8>) {
        if self.memory.is_limited() {
            LinkReply::Memory { over: self.share_of_excess(primary) }.encode(replies);
        }
    }

    /// How many bytes over its limit this node is because of what a node leads, itself included: by the number of keys.
    /// At least one if it is over its limit, since whoever leads nothing here yet is to send no more either.
    fn share_of_excess(&self, primary: Incarnation) -> u64 {
        let excess = self.memory.excess();
        if excess == 0 {
            return 0;
        }
        let (keys, led) = self.keys_led_by(primary);
        let share = (u128::from(excess) * u128::from(led)).div_ceil(u128::from(keys.max(1)));
        u64::try_from(share).unwrap_or(excess).max(1)
    }

    /// How many nodes lead what this one has copies of.
    fn followed(&self) -> usize {
        self.neighbors().followed().count()
    }
}
