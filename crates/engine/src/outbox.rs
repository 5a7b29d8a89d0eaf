//! What a replica has still to be sent: one bounded queue for all slots that it shares with this node.
//!
//! A link task outside takes from the front, sends, and reports what the replica has acknowledged. What was sent stays
//! in the queue until then, so that a broken connection loses nothing: the next one starts from the first that is not
//! acknowledged, and the replica passes over what it has already.
//!
//! A queue that is full is dropped whole and takes nothing more until [`crate::node::Node`] has marked the replica
//! behind in every slot: a slow replica costs a bounded amount of memory, and its clients nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::cluster_map::MapVersion;
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::peer::{Identity, LinkMessage, Terms};
use proto::session::Filling;
use proto::slot::SlotId;

use crate::completions::Completion;
use crate::peers::LEASE;
use crate::record::Record;
use crate::time::Timestamp;

/// How much may wait for one replica, in bytes of records. One record more than fits is taken where nothing waits.
pub const OUTBOX_BYTES: usize = 64 * 1024 * 1024;

/// How many messages may wait for one replica.
pub const OUTBOX_ITEMS: usize = 1_000_000;

/// How much of filling may wait for one replica before the next slot is begun, so that records are not held up.
pub const FILL_AHEAD_BYTES: usize = 1024 * 1024;

/// How much is encoded before whoever writes gets the queue again, in bytes: a few microseconds' work.
const ENCODED_AT_ONCE: usize = 16 * 1024;

/// Names one addition of a replica to a slot. What is acknowledged for an earlier one says nothing of a later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp(pub u64);

/// Something to be sent to a replica.
#[derive(Debug, Clone)]
pub enum Item {
    /// See [`LinkMessage::Align`]. Boxed: it is long and rare, and a queue of records is to be short.
    Align(Box<Align>),
    /// See [`LinkMessage::Compare`].
    Compare {
        /// The slot.
        slot: SlotId,
        /// Names the question.
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
        /// The place of the record before.
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
    /// See [`LinkMessage::Fill`]: all that the slot holds.
    Fill {
        /// The slot.
        slot: SlotId,
        /// The epoch that this node leads.
        epoch: Epoch,
        /// The slot as it was when the copy was made.
        snapshot: Arc<Snapshot>,
        /// Whose acknowledgement this awaits.
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
        /// Whose acknowledgement this awaits.
        stamp: Stamp,
    },
}

/// Where the primary of a slot stands, see [`LinkMessage::Align`].
#[derive(Debug, Clone)]
pub struct Align {
    /// The slot.
    pub slot: SlotId,
    /// The epoch that this node leads.
    pub epoch: Epoch,
    /// The version of the slot's configuration.
    pub config: MapVersion,
    /// The last record that is not sent.
    pub from: Version,
    /// The durable mark.
    pub durable: u64,
    /// The terms of this node's log.
    pub terms: Terms,
    /// Whose acknowledgement this awaits.
    pub stamp: Stamp,
    /// The replica's copy differs and is to be filled again.
    pub refill: bool,
}

/// All that a slot holds up to a record.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The record.
    pub last: Version,
    /// The durable mark.
    pub durable: u64,
    /// The number up to which tombstones may be missing.
    pub purged: u64,
    /// The terms of the log.
    pub terms: Terms,
    /// The newest record of each key.
    pub records: Vec<Record>,
    /// Which writes of clients are settled, by their client and number.
    pub completions: Vec<(Box<[u8]>, u64, Completion)>,
}

/// What an acknowledgement covers, where somebody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// The replica stands where this node stood.
    Aligned {
        /// The slot.
        slot: SlotId,
        /// The addition that it was for.
        stamp: Stamp,
        /// The record up to which.
        seq: u64,
    },
    /// The replica has the whole slot.
    Filled {
        /// The slot.
        slot: SlotId,
        /// The addition that it was for.
        stamp: Stamp,
        /// The record up to which.
        seq: u64,
    },
    /// The replica has a record.
    Record {
        /// The slot.
        slot: SlotId,
        /// The record's number.
        seq: u64,
    },
    /// The replica knows that its promise is given back.
    Released {
        /// The slot.
        slot: SlotId,
        /// The release.
        stamp: Stamp,
    },
}

impl Acked {
    /// The slot that it is about.
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

/// The queue for one incarnation of one node. Shared between the slots that fill it and the link that empties it.
#[derive(Debug)]
pub struct Outbox {
    /// Who is sent to.
    pub to: Incarnation,
    /// Where it is reached.
    pub addr: NodeAddr,
    /// How many messages may wait.
    limit: usize,
    queue: Mutex<Queue>,
    /// When the beat was sent that the replica has answered last, in the primary's time; 0: none.
    granted: AtomicU64,
    /// When the replica has said something last, in the primary's time.
    heard: AtomicU64,
    /// How long an answer to a beat takes, in microseconds, smoothed.
    round_trip: AtomicU64,
    /// It was proposed out since.
    evicted: AtomicBool,
    /// By how many bytes the replica's node is over its limit of memory, by what it has said last.
    over_memory: AtomicU64,
}

/// An item in the queue, with the bytes of its record or its fill: to leave, these need not be looked at again.
#[derive(Debug)]
struct Queued {
    item: Item,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Queued>,
    /// How many at the front are sent on the present connection and not acknowledged.
    sent: usize,
    /// How many were acknowledged on the present connection.
    acked: u64,
    /// The bytes of all records in the queue.
    record_bytes: usize,
    /// The bytes of all fills in the queue.
    fill_bytes: usize,
    overflowed: bool,
    /// How many at the front must be acknowledged before what the replica says of its memory counts again.
    memory_awaits: usize,
    /// Slots that the replica wants filled, each with the keys that it had then.
    wanting: BTreeMap<SlotId, u64>,
    /// The keys of all these.
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
    /// An empty queue, in which so many messages may wait: [`OUTBOX_ITEMS`], or fewer in tests.
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
            evicted: AtomicBool::new(false),
            over_memory: AtomicU64::new(0),
        }
    }

    /// The replica has answered a beat that was sent at this moment.
    pub fn grant(&self, now: Timestamp, sent: Timestamp) {
        self.granted.fetch_max(sent.0, Ordering::Relaxed);
        // Only the link's own task calls this. An eighth of each new figure, as in TCP (RFC 6298).
        let (smoothed, new) = (self.round_trip.load(Ordering::Relaxed), now.0.saturating_sub(sent.0));
        self.round_trip.store(smoothed - smoothed / 8 + new / 8, Ordering::Relaxed);
    }

    /// How long an answer to a beat takes, smoothed.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip.load(Ordering::Relaxed))
    }

    /// Whether the replica's lease counts.
    #[must_use]
    pub fn has_lease(&self, now: Timestamp) -> bool {
        let granted = Timestamp(self.granted.load(Ordering::Relaxed));
        granted != Timestamp::default() && now < granted + LEASE
    }

    /// The replica has said something, or this node could not hear it until now.
    pub fn heard(&self, now: Timestamp) {
        self.heard.store(now.0, Ordering::Relaxed);
        self.evicted.store(false, Ordering::Relaxed);
    }

    /// By how many bytes the replica's node is over its limit of memory.
    #[must_use]
    pub fn over_memory(&self) -> u64 {
        self.over_memory.load(Ordering::Relaxed)
    }

    /// The replica has said so.
    pub(crate) fn set_over_memory(&self, bytes: u64) {
        if self.lock().memory_awaits == 0 {
            self.over_memory.store(bytes, Ordering::Relaxed);
        }
    }

    /// Keys were evicted for the replica: what it says before it has all that is queued now is not to be done again.
    pub(crate) fn await_memory(&self) {
        let mut queue = self.lock();
        queue.memory_awaits = queue.items.len();
    }

    /// The same, which counts as done with.
    pub(crate) fn take_over_memory(&self) -> u64 {
        self.over_memory.swap(0, Ordering::Relaxed)
    }

    /// The replica is proposed out, and is given time again. Whether that is the first time since it was heard.
    pub fn evict(&self, now: Timestamp) -> bool {
        self.heard.store(now.0, Ordering::Relaxed);
        !self.evicted.swap(true, Ordering::Relaxed)
    }

    /// When the replica has said something last.
    #[must_use]
    pub fn last_heard(&self) -> Timestamp {
        Timestamp(self.heard.load(Ordering::Relaxed))
    }

    /// Adds an item. One that does not fit overflows the queue; see the module's text.
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

    /// Whether so many records of so many bytes fit and leave as much room again for those to come.
    #[must_use]
    pub fn has_room(&self, records: usize, bytes: usize) -> bool {
        let queue = self.lock();
        !queue.overflowed
            && queue.items.len() + records <= self.limit / 2
            && queue.record_bytes + bytes <= OUTBOX_BYTES / 2
    }

    /// Appends to `out` what has not been sent, up to about `limit` bytes; `false` where there is nothing.
    pub fn take(&self, out: &mut Vec<u8>, limit: usize) -> bool {
        let before = out.len();
        while out.len() - before < limit {
            // Not in the match itself, which would hold the lock to its end.
            let encoded = self.lock().encode_some(out);
            match encoded {
                Encoded::None => break,
                Encoded::Some => {}
                Encoded::Large(item) => item.encode(out),
            }
        }
        out.len() > before
    }

    /// The replica has applied `count` messages of the present connection. `None` where it cannot have: the connection
    /// is to be closed.
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
        // Each is looked at, and dropped, for the first time since it was sent.
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
                Item::Fill { snapshot, .. } => {
                    *fill_bytes -= bytes;
                    fills.push(snapshot);
                }
                Item::Align(_)
                | Item::Compare { .. }
                | Item::Durable { .. }
                | Item::Purge { .. }
                | Item::Release { .. } => {}
            }
        }
        drop(queue);
        // Long to drop, and so not under the lock.
        drop(fills);
        Some(acked)
    }

    /// A new connection is there: everything that is not acknowledged is sent again.
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

    /// The replica is marked behind everywhere: the queue takes items again, on a new connection.
    pub fn restart(&self) {
        *self.lock() = Queue::default();
    }

    /// The replica wants a slot filled, which has so many keys now.
    pub fn want_fill(&self, slot: SlotId, keys: u64) {
        let mut queue = self.lock();
        let before = queue.wanting.insert(slot, keys).unwrap_or(0);
        queue.wanting_keys = queue.wanting_keys - before + keys;
    }

    /// The next slot to fill, where not too much of filling waits already.
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

    /// What waits to be filled; `None` where nothing does.
    #[must_use]
    pub fn filling(&self) -> Option<Filling> {
        let queue = self.lock();
        let slots = queue.wanting.len() as u64;
        (slots > 0).then_some(Filling { to: self.to, slots, keys: queue.wanting_keys })
    }

    /// Whether [`Outbox::next_fill`] has one.
    #[must_use]
    pub fn may_fill(&self) -> bool {
        let queue = self.lock();
        queue.fill_bytes < FILL_AHEAD_BYTES && !queue.wanting.is_empty()
    }

    /// What is not acknowledged.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let queue = self.lock();
        Lag { items: queue.items.len(), bytes: queue.record_bytes + queue.fill_bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that holds the lock panics half way, so a poisoned queue is as good as any.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call of [`Queue::encode_some`] has come to.
enum Encoded {
    /// Everything was sent.
    None,
    Some,
    /// The next one is to be encoded without the lock.
    Large(Item),
}

impl Queue {
    /// Encodes some of what has not been sent. Whoever writes to a slot waits meanwhile, so it is not much at once.
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
    /// The bytes of records, and of fills.
    pub(crate) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Record { record, .. } => (record.size(), 0),
            Self::Fill { snapshot, .. } => {
                let completions = snapshot.completions.iter();
                let told = |done: &Completion| done.told.as_ref().map_or(0, |told| told.len());
                let size = |client: &[u8], done| client.len() + size_of::<Completion>() + told(done);
                let completions: usize = completions.map(|(client, _, done)| size(client, done)).sum();
                (0, completions + snapshot.records.iter().map(|record| record.size()).sum::<usize>())
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
            Self::Fill { slot, snapshot, stamp, .. } => {
                Some(Acked::Filled { slot: *slot, stamp: *stamp, seq: snapshot.last.seq })
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
            Self::Fill { slot, epoch, snapshot, stamp } => snapshot.encode(*slot, *epoch, *stamp, out),
            Self::Purge { slot, seq } => LinkMessage::Purge { slot: *slot, seq: *seq }.encode(out),
            Self::Release { slot, epoch, .. } => LinkMessage::Release { slot: *slot, epoch: *epoch }.encode(out),
        }
    }
}

impl Snapshot {
    fn encode(&self, slot: SlotId, epoch: Epoch, stamp: Stamp, out: &mut Vec<u8>) {
        LinkMessage::Fill {
            slot,
            epoch,
            stamp: stamp.0,
            last: self.last,
            durable: self.durable,
            purged: self.purged,
            entries: self.records.len() as u64,
            completions: self.completions.len() as u64,
            terms: self.terms.clone(),
        }
        .encode(out);
        for record in &self.records {
            let (version, key, effect) = (record.version(), record.key(), record.effect());
            LinkMessage::Entry { version, key, effect }.encode(out);
        }
        for (client, seq, Completion { version, found, told }) in &self.completions {
            let identity = Identity { client, seq: *seq };
            let told = told.as_deref().unwrap_or_default();
            LinkMessage::Completed { identity, version: *version, found: *found, told }.encode(out);
        }
    }
}
