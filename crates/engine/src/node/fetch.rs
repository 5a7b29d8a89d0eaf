//! Prefetches memory that is about to be used, across many slots: all at once, or step by step.

use std::sync::PoisonError;

use proto::slot::SlotId;

use super::Node;
use crate::bugs::Bugs;
use crate::table::fetch::fetch;

/// For how many operations memory is prefetched at a time, before they are carried out.
pub(super) const GROUP: usize = 24;

/// The keys most recently passed to [`Node::fetch_key`]: their slots and hashes.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Its slot has been prefetched.
    second: Option<(SlotId, u64)>,
    /// So has the memory that the slot points to.
    third: Option<(SlotId, u64)>,
}

impl<B: Bugs> Node<B> {
    /// The hash of a key in its slot's table.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    /// Prefetches the memory that requests for keys with these slots and hashes will touch. Meant for a few dozen keys
    /// that are used at once.
    pub fn fetch_keys(&self, keys: impl Iterator<Item = (SlotId, u64)> + Clone) {
        self.fetch(keys.map(|(slot, hash)| (slot, Some(hash))));
    }

    /// Does the same for one key of a stream, to be used after a few more have come. Takes the first step for this key
    /// and the next steps for the two before it: by then the memory that each step starts from is loaded, so nothing
    /// stalls.
    pub fn fetch_key(&self, slot: SlotId, hash: u64) {
        self.fetch_slot(slot);
        let Steps { second, third } = {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            let next = Steps { second: Some((slot, hash)), third: steps.second };
            std::mem::replace(&mut *steps, next)
        };
        if let Some((slot, hash)) = second {
            self.slot(slot).fetch(Some(hash));
        }
        if let Some((slot, hash)) = third {
            self.slot(slot).fetch_more(Some(hash));
        }
    }

    /// Prefetches the memory of slots, and of the records of keys with the given hashes: first of all slots, then of
    /// what those point to. No step stalls, and no other work is done in between: taking a lock would wait until the
    /// writes of that work are in place.
    pub(super) fn fetch(&self, asked: impl Iterator<Item = (SlotId, Option<u64>)> + Clone) {
        for (slot, _) in asked.clone() {
            self.fetch_slot(slot);
        }
        for (slot, hash) in asked.clone() {
            self.slot(slot).fetch(hash);
        }
        for (slot, hash) in asked {
            self.slot(slot).fetch_more(hash);
        }
    }

    fn fetch_slot(&self, slot: SlotId) {
        self.slots.get(usize::from(slot.0)).into_iter().for_each(fetch);
    }
}
