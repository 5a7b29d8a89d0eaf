//! Prefetches memory that is about to be used, across many slots: all at once, or step by step.

use std::sync::PoisonError;

use proto::slot::SlotId;
use smallvec::SmallVec;

use super::Node;
use crate::bugs::Bugs;
use crate::slot::RECORD_BYTES;
use crate::table::fetch::fetch_start;

/// For how many operations memory is prefetched at a time, before they are carried out.
pub(crate) const FETCHED_TOGETHER: usize = 24;

/// An operation on a slot for which memory is prefetched.
#[derive(Debug, Clone, Copy)]
pub enum Upcoming {
    /// A read of a key whose table hash is this.
    Read(u64),
    /// A write of a key whose table hash is this, by a client or a primary.
    Write(u64),
    /// An acknowledgement, or anything else that concerns no key.
    Other,
}

impl Upcoming {
    pub(crate) fn key_hash(self) -> Option<u64> {
        match self {
            Self::Read(hash) | Self::Write(hash) => Some(hash),
            Self::Other => None,
        }
    }

    /// Whether it needs only the table. (A linear read looks at the primary's state as well, but at little of it.)
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Read(_))
    }
}

/// The operations most recently passed to [`Node::fetch_one`], with their slots.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Its slot has been prefetched.
    second: Option<(SlotId, Upcoming)>,
    /// So has the memory that the slot points to.
    third: Option<(SlotId, Upcoming)>,
}

impl<B: Bugs> Node<B> {
    /// The hash of a key in its slot's table.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    /// Prefetches for one operation of a stream, to be carried out after a few more have come. Takes the first step for
    /// this operation and the next steps for the two before it: by then the memory that each step starts from is loaded,
    /// so nothing stalls.
    pub fn fetch_one(&self, slot: SlotId, upcoming: Upcoming) {
        self.fetch_slot(slot, upcoming);
        let Steps { second, third } = {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            let next = Steps { second: Some((slot, upcoming)), third: steps.second };
            std::mem::replace(&mut *steps, next)
        };
        if let Some((slot, upcoming)) = second {
            self.slot(slot).fetch(upcoming);
        }
        if let Some((slot, upcoming)) = third {
            // There is no fourth step for the few keys that need one.
            self.slot(slot).fetch_more(upcoming);
        }
    }

    /// Prefetches for up to a few dozen operations that are about to be carried out: first the memory of all slots, then what
    /// those point to. Hardly any step stalls, and no other work is done in between: taking a lock would wait until the
    /// writes of that work are in place.
    pub fn fetch_all(&self, upcoming: impl Iterator<Item = (SlotId, Upcoming)> + Clone) {
        for (slot, upcoming) in upcoming.clone() {
            self.fetch_slot(slot, upcoming);
        }
        for (slot, upcoming) in upcoming.clone() {
            self.slot(slot).fetch(upcoming);
        }
        let displaced = upcoming.filter(|(slot, upcoming)| self.slot(*slot).fetch_more(*upcoming));
        for (slot, upcoming) in displaced.collect::<SmallVec<[_; 8]>>() {
            self.slot(slot).fetch_displaced(upcoming);
        }
    }

    fn fetch_slot(&self, slot: SlotId, upcoming: Upcoming) {
        let Some(slot) = self.slots.get(usize::from(slot.0)) else { return };
        fetch_start(slot, if upcoming.is_read() { 1 } else { RECORD_BYTES });
    }
}
