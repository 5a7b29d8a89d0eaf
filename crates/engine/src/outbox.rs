//! What a replica has still to be sent: one bounded queue for all slots that it shares with this node.
//!
//! A link task outside takes from the front, sends, and reports what the replica has acknowledged. What was sent stays
//! in the queue until then, so that a broken connection loses nothing: the next one starts from the first that is not
//! acknowledged, and the replica passes over what it has already.
//!
//! A queue that is full is dropped whole and takes nothing more until [`crate::node::Node`] has marked the replica
//! behind in every slot: a slow replica costs a bounded amount of memory, and its clients nothing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::cluster_map::MapVersion;
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::peer::LinkMessage;
use proto::slot::SlotId;

use crate::record::Record;

/// How much may wait for one replica, in bytes of records. One record more than fits is taken where nothing waits.
pub const OUTBOX_BYTES: usize = 64 * 1024 * 1024;

/// How many messages may wait for one replica.
pub const OUTBOX_ITEMS: usize = 1_000_000;

/// How much of filling may wait for one replica before the next slot is begun, so that records are not held up.
pub const FILL_AHEAD_BYTES: usize = 1024 * 1024;

/// About how much a message takes beside its record, in bytes.
const MESSAGE_BYTES: usize = 64;

/// Names one addition of a replica to a slot. What is acknowledged for an earlier one says nothing of a later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp(pub u64);

/// Something to be sent to a replica.
#[derive(Debug, Clone)]
pub enum Item {
    /// See [`LinkMessage::Align`].
    Align {
        /// The slot.
        slot: SlotId,
        /// The epoch that this node leads.
        epoch: Epoch,
        /// The version of the slot's configuration.
        config: MapVersion,
        /// This node's last record.
        last: Version,
        /// Whose acknowledgement this awaits.
        stamp: Stamp,
    },
    /// See [`LinkMessage::Replicate`].
    Record {
        /// The slot.
        slot: SlotId,
        /// The place of the record before.
        previous: Version,
        /// The record.
        record: Arc<Record>,
    },
    /// See [`LinkMessage::Fill`]: all that the slot holds.
    Fill {
        /// The slot.
        slot: SlotId,
        /// The epoch that this node leads.
        epoch: Epoch,
        /// The last record of the slot when the copy was made.
        last: Version,
        /// The records.
        records: Arc<[Arc<Record>]>,
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
    /// The replica has applied a tombstone.
    Tombstone {
        /// The slot.
        slot: SlotId,
        /// The tombstone's number.
        seq: u64,
    },
}

/// The queue for one incarnation of one node. Shared between the slots that fill it and the link that empties it.
#[derive(Debug)]
pub struct Outbox {
    /// Who is sent to.
    pub to: Incarnation,
    /// Where it is reached.
    pub addr: NodeAddr,
    queue: Mutex<Queue>,
}

/// An item in the queue, with what it adds to the queue's figures: to leave, it need not be looked at again.
#[derive(Debug)]
struct Queued {
    item: Item,
    record_bytes: usize,
    fill_bytes: usize,
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
    /// Slots that the replica wants filled.
    wanting: BTreeSet<SlotId>,
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
    /// An empty queue.
    #[must_use]
    pub fn new(to: Incarnation, addr: NodeAddr) -> Self {
        Self { to, addr, queue: Mutex::default() }
    }

    /// Adds an item. One that does not fit overflows the queue; see the module's text.
    pub fn push(&self, item: Item) {
        let (record_bytes, fill_bytes) = item.weight();
        let mut queue = self.lock();
        if queue.overflowed {
            return;
        }
        let full = queue.record_bytes + record_bytes > OUTBOX_BYTES || queue.items.len() >= OUTBOX_ITEMS;
        if full && !queue.items.is_empty() {
            let emptied = Queue { overflowed: true, acked: queue.acked, ..Queue::default() };
            let dropped = std::mem::replace(&mut *queue, emptied);
            drop(queue);
            drop(dropped);
            return;
        }
        queue.record_bytes += record_bytes;
        queue.fill_bytes += fill_bytes;
        queue.items.push_back(Queued { item, record_bytes, fill_bytes });
    }

    /// Appends to `out` what has not been sent, up to about `limit` bytes; `false` where there is nothing.
    pub fn take(&self, out: &mut Vec<u8>, limit: usize) -> bool {
        // Encoded after the lock is let go: whoever writes to a slot waits for it.
        let mut batch = Vec::new();
        {
            let mut queue = self.lock();
            let Queue { items, sent, .. } = &mut *queue;
            let mut bytes = 0;
            for queued in items.range(*sent..) {
                if bytes >= limit {
                    break;
                }
                bytes += MESSAGE_BYTES + queued.record_bytes + queued.fill_bytes;
                batch.push(queued.item.clone());
            }
            *sent += batch.len();
        }
        batch.iter().for_each(|item| item.encode(out));
        !batch.is_empty()
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
        let items: Vec<Queued> = queue.items.drain(..new).collect();
        for queued in &items {
            queue.record_bytes -= queued.record_bytes;
            queue.fill_bytes -= queued.fill_bytes;
        }
        drop(queue);
        Some(items.iter().filter_map(|queued| queued.item.acked()).collect())
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

    /// The replica wants a slot filled.
    pub fn want_fill(&self, slot: SlotId) {
        self.lock().wanting.insert(slot);
    }

    /// The next slot to fill, where not too much of filling waits already.
    #[must_use]
    pub fn next_fill(&self) -> Option<SlotId> {
        let mut queue = self.lock();
        if queue.fill_bytes >= FILL_AHEAD_BYTES { None } else { queue.wanting.pop_first() }
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

impl Item {
    /// The bytes of records, and of fills.
    fn weight(&self) -> (usize, usize) {
        match self {
            Self::Record { record, .. } => (record.size(), 0),
            Self::Fill { records, .. } => (0, records.iter().map(|record| record.size()).sum()),
            Self::Align { .. } | Self::Purge { .. } => (0, 0),
        }
    }

    fn acked(&self) -> Option<Acked> {
        match self {
            Self::Align { slot, last, stamp, .. } => Some(Acked::Aligned { slot: *slot, stamp: *stamp, seq: last.seq }),
            Self::Fill { slot, last, stamp, .. } => Some(Acked::Filled { slot: *slot, stamp: *stamp, seq: last.seq }),
            Self::Record { slot, record, .. } if record.is_delete() => {
                Some(Acked::Tombstone { slot: *slot, seq: record.version.seq })
            }
            Self::Record { .. } | Self::Purge { .. } => None,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Align { slot, epoch, config, last, .. } => {
                LinkMessage::Align { slot: *slot, epoch: *epoch, config: *config, last: *last }.encode(out);
            }
            Self::Record { slot, previous, record } => LinkMessage::Replicate {
                slot: *slot,
                version: record.version,
                previous: *previous,
                key: record.key(),
                effect: record.effect(),
            }
            .encode(out),
            Self::Fill { slot, epoch, last, records, .. } => {
                let count = records.len() as u64;
                LinkMessage::Fill { slot: *slot, epoch: *epoch, last: *last, count }.encode(out);
                for record in records.iter() {
                    let (version, key, effect) = (record.version, record.key(), record.effect());
                    LinkMessage::Entry { version, key, effect }.encode(out);
                }
            }
            Self::Purge { slot, seq } => LinkMessage::Purge { slot: *slot, seq: *seq }.encode(out),
        }
    }
}
