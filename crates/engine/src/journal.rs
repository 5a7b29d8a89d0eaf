//! What a node must not forget, on its way to disk.
//!
//! Every change of a slot's records is noted here under that slot's lock, so that the entries of a slot are in order.
//! The caller takes what was noted, writes it, and lets nobody hear of a change before it has been written as the
//! operator requires: no answer, no acknowledgement, and no record sent to a replica. Whatever a replica has
//! acknowledged is therefore on this node's disk as well, and a slot need not know how far its disk has got.
//!
//! [`Replay`] restores a node from it. docs/storage-format.md describes the bytes.

mod codec;
mod replay;

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::id::{Epoch, Version};
use proto::slot::SlotId;

use crate::losses::Loss;
use crate::record::Record;

pub(crate) use codec::{Entry, SlotSnapshot};
pub use replay::{Replay, ReplayError};

/// The entries that have not been taken yet.
#[derive(Debug, Default)]
pub struct Noted {
    /// A node without a disk notes nothing.
    is_kept: bool,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    /// The number of the first entry, followed by the entries.
    bytes: Vec<u8>,
    /// The number of the next entry.
    next: u64,
    /// See [`Taken::must_sync`].
    must_sync: bool,
}

/// What is known of the entries that were taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The number of the entry that comes next.
    pub end: u64,
    /// They must be on disk before anybody hears of them, even where the operator is content with less for writes.
    pub must_sync: bool,
}

/// Records up to this size, in bytes, are encoded before the entries are locked, so that other threads wait only for a
/// copy.
const SHORT_RECORD: usize = 4096;

thread_local! {
    /// A record on its way to the entries.
    static ENCODED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Pending {
    fn add(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let Self { bytes, next, .. } = self;
        if bytes.is_empty() {
            bytes.extend_from_slice(&next.to_be_bytes());
        }
        encode(bytes);
        *next += 1;
    }
}

impl Noted {
    /// For a node with a disk; the next entry gets this number.
    #[must_use]
    pub(crate) fn kept(next: u64) -> Self {
        Self { is_kept: true, pending: Mutex::new(Pending { next, ..Pending::default() }) }
    }

    /// The number of the next entry: everything that has happened so far has a lower one.
    #[must_use]
    pub fn end(&self) -> u64 {
        if self.is_kept { self.lock().next } else { 0 }
    }

    /// Takes what was noted since the last call, to be appended to the disk as one payload.
    #[must_use]
    pub fn take(&self) -> Option<(Vec<u8>, Taken)> {
        let mut bytes = Vec::new();
        self.take_into(&mut bytes).map(|taken| (bytes, taken))
    }

    /// The same, into an empty buffer whose memory is then used for the next entries.
    #[must_use]
    pub fn take_into(&self, bytes: &mut Vec<u8>) -> Option<Taken> {
        let mut pending = self.lock();
        bytes.clear();
        std::mem::swap(bytes, &mut pending.bytes);
        let must_sync = std::mem::take(&mut pending.must_sync);
        (!bytes.is_empty()).then_some(Taken { end: pending.next, must_sync })
    }

    /// How many bytes have been noted since the last take.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().bytes.len()
    }

    /// Whether nothing has been noted since the last take.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes the record with which a primary begins its term, to be synced before anybody hears of it.
    pub(crate) fn note_synced(&self, slot: SlotId, durable: u64, record: &Record) {
        if self.is_kept {
            let mut pending = self.lock();
            pending.add(|bytes| codec::encode_record(slot, durable, record, bytes));
            pending.must_sync = true;
        }
    }

    pub(crate) fn note_record(&self, slot: SlotId, durable: u64, record: &Record) {
        if !self.is_kept {
            return;
        }
        if record.size() > SHORT_RECORD {
            return self.lock().add(|bytes| codec::encode_record(slot, durable, record, bytes));
        }
        ENCODED.with_borrow_mut(|encoded| {
            encoded.clear();
            codec::encode_record(slot, durable, record, encoded);
            self.lock().add(|bytes| bytes.extend_from_slice(encoded));
        });
    }

    pub(crate) fn note_cut(&self, slot: SlotId, to: Version) {
        self.note(|| Entry::Cut { slot, to });
    }

    pub(crate) fn note_epoch(&self, slot: SlotId, epoch: Epoch) {
        self.note(|| Entry::Epoch { slot, epoch });
    }

    pub(crate) fn note_purge(&self, slot: SlotId, seq: u64) {
        self.note(|| Entry::Purge { slot, seq });
    }

    pub(crate) fn note_drop(&self, slot: SlotId) {
        self.note(|| Entry::Drop { slot });
    }

    pub(crate) fn note_whole(&self, slot: SlotId, whole: impl FnOnce() -> SlotSnapshot) {
        self.note(|| Entry::Whole { slot, whole: whole() });
    }

    pub(crate) fn note_loss(&self, loss: &Loss) {
        self.note(|| Entry::Loss(loss.clone()));
    }

    pub(crate) fn note_unkept_losses(&self, writes: u64) {
        self.note(|| Entry::Unkept { writes });
    }

    fn note(&self, entry: impl FnOnce() -> Entry) {
        if self.is_kept {
            let entry = entry();
            self.lock().add(|bytes| entry.encode(bytes));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // No code that holds this lock panics halfway.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
