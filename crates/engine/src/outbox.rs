//! What has still to be sent to a replica: one bounded queue for all slots that it shares with this node.
//!
//! A link task outside this crate takes messages from the front, sends them, and reports what the replica has
//! acknowledged. Sent messages stay in the queue until then, so a broken connection loses nothing: the next one starts
//! from the first unacknowledged message, and the replica skips what it already has.
//!
//! A full queue is dropped whole and accepts nothing more until [`crate::node::Node`] has marked the replica behind in
//! every slot: a slow replica costs a bounded amount of memory, and costs clients nothing.

mod contents;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::cluster_map::MapVersion;
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::limits;
use proto::peer::{LinkMessage, Terms};
use proto::session::Filling;
use proto::slot::SlotId;

use crate::completions::Completion;
use crate::peers::LEASE;
use crate::record::Record;
use crate::time::Timestamp;

pub use contents::Contents;

/// How much may wait for one replica, in bytes of records: four of the longest values.
pub const OUTBOX_BYTES: usize = 4 * (limits::KEY_BYTES + limits::VALUE_BYTES);

/// How many messages may wait for one replica.
pub const OUTBOX_ITEMS: usize = 1_000_000;

/// How much fill data may wait for one replica before the next slot is begun, so that records are not held up.
pub const FILL_AHEAD_BYTES: usize = 1024 * 1024;

/// How much is encoded before writers get access to the queue again, in bytes: a few microseconds of work.
const ENCODED_AT_ONCE: usize = 16 * 1024;

/// Identifies one alignment or fill of a replica in a slot, or one release of the slot to it. An acknowledgement of an
/// earlier one says nothing about a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp(pub u64);

/// Something to be sent to a replica.
#[derive(Debug, Clone)]
pub enum Item {
    /// See [`LinkMessage::Align`]. Boxed because it is large and rare, and queued records should be small.
    Align(Box<Align>),
    /// See [`LinkMessage::Compare`].
    Compare {
        /// The slot.
        slot: SlotId,
        /// The number of the query.
        query: u64,
        /// The last record.
        at: Version,
        /// The number up to which tombstones may be missing.
        floor: u64,
    },
    /// See [`LinkMessage::Replicate`].
    Record {
        /// The slot.
        slot: SlotId,
        /// The version of the record before it.
        previous: Version,
        /// The durable mark.
        durable: u64,
        /// The record.
        record: Record,
    },
    /// See [`LinkMessage::Durable`].
    Durable {
        /// The slot.
        slot: SlotId,
        /// The durable mark.
        seq: u64,
    },
    /// See [`LinkMessage::Fill`]: everything the slot holds.
    Fill {
        /// The slot.
        slot: SlotId,
        /// The epoch that this node leads.
        epoch: Epoch,
        /// The slot as it was when the copy was made.
        contents: Arc<Contents>,
        /// The stamp whose acknowledgement is awaited.
        stamp: Stamp,
    },
    /// See [`LinkMessage::Purge`].
    Purge {
        /// The slot.
        slot: SlotId,
        /// The number up to which tombstones may go.
        seq: u64,
    },
    /// See [`LinkMessage::Release`].
    Release {
        /// The slot.
        slot: SlotId,
        /// The epoch that this node leads.
        epoch: Epoch,
        /// The stamp whose acknowledgement is awaited.
        stamp: Stamp,
    },
}

/// Where the primary of a slot stands; see [`LinkMessage::Align`].
#[derive(Debug, Clone)]
pub struct Align {
    /// The slot.
    pub slot: SlotId,
    /// The epoch that this node leads.
    pub epoch: Epoch,
    /// The version of the slot's configuration.
    pub config: MapVersion,
    /// The last record that is not sent; what follows it is.
    pub from: Version,
    /// The durable mark.
    pub durable: u64,
    /// The terms of this node's log.
    pub terms: Terms,
    /// The stamp whose acknowledgement is awaited.
    pub stamp: Stamp,
    /// The replica's copy differs and is to be refilled.
    pub refill: bool,
}

/// What an acknowledgement covers, if somebody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// The replica has reached the record that the alignment named.
    Aligned {
        /// The slot.
        slot: SlotId,
        /// The alignment's stamp.
        stamp: Stamp,
        /// The number of the last record that the replica has.
        seq: u64,
    },
    /// The replica has the whole slot.
    Filled {
        /// The slot.
        slot: SlotId,
        /// The fill's stamp.
        stamp: Stamp,
        /// The number of the last record that the replica has.
        seq: u64,
    },
    /// The replica has a record.
    Record {
        /// The slot.
        slot: SlotId,
        /// The record's number.
        seq: u64,
    },
    /// The replica knows that it is released from its promise.
    Released {
        /// The slot.
        slot: SlotId,
        /// The release's stamp.
        stamp: Stamp,
    },
}

impl Acked {
    /// The slot it concerns.
    #[must_use]
    pub fn slot(self) -> SlotId {
        match self {
            Self::Aligned { slot, .. }
            | Self::Filled { slot, .. }
            | Self::Record { slot, .. }
            | Self::Released { slot, .. } => slot,
        }
    }
}

/// The queue for one incarnation of one node. Shared by the slots that fill it and the link that drains it.
#[derive(Debug)]
pub struct Outbox {
    /// The receiver.
    pub to: Incarnation,
    /// The receiver's address.
    pub addr: NodeAddr,
    /// How many messages may wait.
    limit: usize,
    queue: Mutex<Queue>,
    /// When the last beat that the replica has answered was sent, in the primary's time; 0: none.
    granted: AtomicU64,
    /// When the replica was last heard from, in the primary's time.
    heard: AtomicU64,
    /// The smoothed round-trip time of a beat, in microseconds.
    round_trip: AtomicU64,
    /// The replica's removal has been proposed since it was last heard from.
    removal_proposed: AtomicBool,
    /// How many bytes the replica's node is over its memory limit, according to its last report.
    over_memory: AtomicU64,
}

/// An item in the queue, with the size of its record or fill, which then need not be computed again on removal.
#[derive(Debug)]
struct Queued {
    item: Item,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Queued>,
    /// How many items at the front have been sent on the current connection and not acknowledged.
    sent: usize,
    /// How many items have been acknowledged on the current connection.
    acked: u64,
    /// The bytes of all records in the queue.
    record_bytes: usize,
    /// The bytes of all fills in the queue.
    fill_bytes: usize,
    overflowed: bool,
    /// How many items at the front must be acknowledged before the replica's memory reports count again.
    memory_awaits: usize,
    /// The slots that the replica needs filled, each with the number of keys it had at the time.
    wanting: BTreeMap<SlotId, u64>,
    /// The total of these keys.
    wanting_keys: u64,
}

/// What waits for a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag {
    /// Messages that are not acknowledged.
    pub items: usize,
    /// Bytes of records and fills among them.
    pub bytes: usize,
}

impl Outbox {
    /// An empty queue in which `limit` messages may wait: [`OUTBOX_ITEMS`], or fewer in tests.
    #[must_use]
    pub fn new(now: Timestamp, to: Incarnation, addr: NodeAddr, limit: usize) -> Self {
        Self {
            to,
            addr,
            limit,
            queue: Mutex::default(),
            granted: AtomicU64::new(0),
            heard: AtomicU64::new(now.0),
            round_trip: AtomicU64::new(0),
            removal_proposed: AtomicBool::new(false),
            over_memory: AtomicU64::new(0),
        }
    }

    /// The replica has answered a beat that was sent at this moment.
    pub fn grant(&self, now: Timestamp, sent: Timestamp) {
        self.granted.fetch_max(sent.0, Ordering::Relaxed);
        // Only the link's own task calls this. A moving average with weight 1/8, as in TCP (RFC 6298).
        let (smoothed, new) = (self.round_trip.load(Ordering::Relaxed), now.0.saturating_sub(sent.0));
        self.round_trip.store(smoothed - smoothed / 8 + new / 8, Ordering::Relaxed);
    }

    /// The smoothed round-trip time of a beat.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    /// Whether the replica's lease is valid.
    #[must_use]
    pub fn has_lease(&self, now: Timestamp) -> bool {
        let granted = Timestamp(self.granted.load(Ordering::Relaxed));
        granted != Timestamp::default() && now < granted + LEASE
    }

    /// The replica was heard from, or this node was unable to hear it until now.
    pub fn heard(&self, now: Timestamp) {
        self.heard.store(now.0, Ordering::Relaxed);
        self.removal_proposed.store(false, Ordering::Relaxed);
    }

    /// How many bytes the replica's node is over its memory limit.
    #[must_use]
    pub fn over_memory(&self) -> u64 {
        self.over_memory.load(Ordering::Relaxed)
    }

    /// The replica has reported how far it is over its memory limit.
    pub(crate) fn set_over_memory(&self, bytes: u64) {
        if self.lock().memory_awaits == 0 {
            self.over_memory.store(bytes, Ordering::Relaxed);
        }
    }

    /// Keys were evicted for the replica: its reports are ignored until it has everything queued so far.
    pub(crate) fn await_memory(&self) {
        let mut queue = self.lock();
        queue.memory_awaits = queue.items.len();
    }

    /// Returns [`Outbox::over_memory`] and resets it to zero.
    pub(crate) fn take_over_memory(&self) -> u64 {
        self.over_memory.swap(0, Ordering::Relaxed)
    }

    /// Notes that the replica's removal is proposed, and restarts its time limit. Returns whether this is the first
    /// time since it was last heard from.
    pub fn propose_removal(&self, now: Timestamp) -> bool {
        self.heard.store(now.0, Ordering::Relaxed);
        !self.removal_proposed.swap(true, Ordering::Relaxed)
    }

    /// When the last beat that the replica has answered was sent; before the first answer, as [`Outbox::last_heard`],
    /// which also begins anew with each proposal to remove the replica.
    #[must_use]
    pub fn last_answer(&self) -> Timestamp {
        match self.granted.load(Ordering::Relaxed) {
            0 => self.last_heard(),
            sent => Timestamp(sent),
        }
    }

    /// When the replica was last heard from.
    #[must_use]
    pub fn last_heard(&self) -> Timestamp {
        Timestamp(self.heard.load(Ordering::Relaxed))
    }

    /// Adds an item. If it does not fit, the queue overflows; see the module documentation.
    pub fn push(&self, item: Item) {
        let (record_bytes, fill_bytes) = item.weight();
        let mut queue = self.lock();
        if queue.overflowed {
            return;
        }
        let full = queue.record_bytes + record_bytes > OUTBOX_BYTES || queue.items.len() >= self.limit;
        if full && !queue.items.is_empty() {
            let emptied = Queue { overflowed: true, acked: queue.acked, ..Queue::default() };
            let dropped = std::mem::replace(&mut *queue, emptied);
            drop(queue);
            drop(dropped);
            return;
        }
        queue.record_bytes += record_bytes;
        queue.fill_bytes += fill_bytes;
        queue.items.push_back(Queued { item, bytes: record_bytes + fill_bytes });
    }

    /// Whether this many records of this many bytes fit and leave half of the queue's capacity free.
    #[must_use]
    pub fn has_room(&self, records: usize, bytes: usize) -> bool {
        let queue = self.lock();
        !queue.overflowed
            && queue.items.len() + records <= self.limit / 2
            && queue.record_bytes + bytes <= OUTBOX_BYTES / 2
    }

    /// Appends to `out` what has not been sent, up to about `limit` bytes; `false` if there is nothing.
    pub fn take(&self, out: &mut Vec<u8>, limit: usize) -> bool {
        let before = out.len();
        while out.len() - before < limit {
            // Not in the match expression, which would hold the lock until the match ends.
            let encoded = self.lock().encode_some(out);
            match encoded {
                Encoded::None => break,
                Encoded::Some => {}
                Encoded::Large(item) => item.encode(out),
            }
        }
        out.len() > before
    }

    /// The replica has applied `count` messages of the current connection. `None` if that is impossible: close the
    /// connection.
    pub fn acknowledge(&self, count: u64) -> Option<Vec<Acked>> {
        let mut queue = self.lock();
        let new = usize::try_from(count.checked_sub(queue.acked)?).ok()?;
        if queue.overflowed {
            return Some(Vec::new());
        }
        if new > queue.sent {
            return None;
        }
        queue.sent -= new;
        queue.acked = count;
        queue.memory_awaits = queue.memory_awaits.saturating_sub(new);
        let Queue { items, record_bytes, fill_bytes, .. } = &mut *queue;
        // Each item is touched, and dropped, for the first time since it was sent.
        for Queued { item, .. } in items.iter().take(new) {
            if let Item::Record { record, .. } = item {
                record.fetch();
            }
        }
        let mut acked = Vec::with_capacity(new);
        let mut fills = Vec::new();
        for Queued { item, bytes } in items.drain(..new) {
            acked.extend(item.acked());
            match item {
                Item::Record { .. } => *record_bytes -= bytes,
                Item::Fill { contents, .. } => {
                    *fill_bytes -= bytes;
                    fills.push(contents);
                }
                Item::Align(_)
                | Item::Compare { .. }
                | Item::Durable { .. }
                | Item::Purge { .. }
                | Item::Release { .. } => {}
            }
        }
        drop(queue);
        // Slow to drop, so not under the lock.
        drop(fills);
        Some(acked)
    }

    /// There is a new connection: everything unacknowledged is sent again.
    pub fn reconnected(&self) {
        let mut queue = self.lock();
        queue.sent = 0;
        queue.acked = 0;
    }

    /// Whether the queue has overflowed.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.lock().overflowed
    }

    /// The replica is marked behind everywhere: the queue accepts items again, on a new connection.
    pub fn restart(&self) {
        *self.lock() = Queue::default();
    }

    /// The replica needs a fill of a slot, which currently has this many keys.
    pub fn want_fill(&self, slot: SlotId, keys: u64) {
        let mut queue = self.lock();
        let before = queue.wanting.insert(slot, keys).unwrap_or(0);
        queue.wanting_keys = queue.wanting_keys - before + keys;
    }

    /// The next slot to fill, unless too much fill data is waiting already.
    #[must_use]
    pub fn next_fill(&self) -> Option<SlotId> {
        let mut queue = self.lock();
        if queue.fill_bytes >= FILL_AHEAD_BYTES {
            return None;
        }
        let (slot, keys) = queue.wanting.pop_first()?;
        queue.wanting_keys -= keys;
        Some(slot)
    }

    /// What waits to be filled; `None` if nothing does.
    #[must_use]
    pub fn filling(&self) -> Option<Filling> {
        let queue = self.lock();
        let slots = queue.wanting.len() as u64;
        (slots > 0).then_some(Filling { to: self.to, slots, keys: queue.wanting_keys })
    }

    /// Whether [`Outbox::next_fill`] would return a slot.
    #[must_use]
    pub fn may_fill(&self) -> bool {
        let queue = self.lock();
        queue.fill_bytes < FILL_AHEAD_BYTES && !queue.wanting.is_empty()
    }

    /// What has not been acknowledged.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let queue = self.lock();
        Lag { items: queue.items.len(), bytes: queue.record_bytes + queue.fill_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that holds the lock panics halfway, so a poisoned queue is still valid.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of [`Queue::encode_some`].
enum Encoded {
    /// Everything has been sent.
    None,
    Some,
    /// This item is to be encoded without the lock.
    Large(Item),
}

impl Queue {
    /// Encodes some of what has not been sent. Writers to a slot wait meanwhile, so it is limited.
    fn encode_some(&mut self, out: &mut Vec<u8>) -> Encoded {
        let before = out.len();
        for queued in self.items.range(self.sent..) {
            if out.len() - before >= ENCODED_AT_ONCE {
                break;
            }
            if queued.bytes > ENCODED_AT_ONCE {
                if out.len() > before {
                    break;
                }
                self.sent += 1;
                return Encoded::Large(queued.item.clone());
            }
            queued.item.encode(out);
            self.sent += 1;
        }
        if out.len() > before { Encoded::Some } else { Encoded::None }
    }
}

impl Item {
    /// The bytes of records, and those of fills.
    pub(crate) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Record { record, .. } => (record.size(), 0),
            Self::Fill { contents, .. } => {
                let completions = contents.completions.iter();
                let reply = |done: &Completion| done.reply.as_ref().map_or(0, |reply| reply.len());
                let size = |client: &[u8], done| client.len() + size_of::<Completion>() + reply(done);
                let completions: usize = completions.map(|(client, _, done)| size(client, done)).sum();
                (0, completions + contents.records.iter().map(|record| record.size()).sum::<usize>())
            }
            Self::Align(_)
            | Self::Compare { .. }
            | Self::Durable { .. }
            | Self::Purge { .. }
            | Self::Release { .. } => (0, 0),
        }
    }

    fn acked(&self) -> Option<Acked> {
        match self {
            Self::Align(align) => Some(Acked::Aligned { slot: align.slot, stamp: align.stamp, seq: align.from.seq }),
            Self::Fill { slot, contents, stamp, .. } => {
                Some(Acked::Filled { slot: *slot, stamp: *stamp, seq: contents.last.seq })
            }
            Self::Record { slot, record, .. } => Some(Acked::Record { slot: *slot, seq: record.version().seq }),
            Self::Release { slot, stamp, .. } => Some(Acked::Released { slot: *slot, stamp: *stamp }),
            Self::Compare { .. } | Self::Durable { .. } | Self::Purge { .. } => None,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Compare { slot, query, at, floor } => {
                LinkMessage::Compare { slot: *slot, query: *query, at: *at, floor: *floor }.encode(out);
            }
            Self::Align(align) => {
                let Align { slot, epoch, config, from, durable, ref terms, stamp: Stamp(stamp), refill } = **align;
                let terms = terms.clone();
                LinkMessage::Align { slot, epoch, config, stamp, from, durable, terms, refill }.encode(out);
            }
            Self::Record { slot, previous, durable, record } => LinkMessage::Replicate {
                slot: *slot,
                version: record.version(),
                previous: *previous,
                durable: *durable,
                op: record.op(),
            }
            .encode(out),
            Self::Durable { slot, seq } => LinkMessage::Durable { slot: *slot, seq: *seq }.encode(out),
            Self::Fill { slot, epoch, contents, stamp } => contents.encode(*slot, *epoch, *stamp, out),
            Self::Purge { slot, seq } => LinkMessage::Purge { slot: *slot, seq: *seq }.encode(out),
            Self::Release { slot, epoch, .. } => LinkMessage::Release { slot: *slot, epoch: *epoch }.encode(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_replica_stays_unanswering_however_often_its_removal_is_proposed() {
        let replica = NodeAddr::new("h", 1).unwrap();
        let outbox = Outbox::new(Timestamp(5), Incarnation(2), replica, OUTBOX_ITEMS);
        assert_eq!(outbox.last_answer(), Timestamp(5));
        outbox.grant(Timestamp(12), Timestamp(10));
        outbox.propose_removal(Timestamp(1_000));
        assert_eq!((outbox.last_answer(), outbox.last_heard()), (Timestamp(10), Timestamp(1_000)));
    }
}
