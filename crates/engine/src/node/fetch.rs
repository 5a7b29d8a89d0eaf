//! Memory that will be used in a moment, of many slots, asked for together or one after the other.

use std::sync::PoisonError;

use proto::slot::SlotId;

use super::Node;
use crate::bugs::Bugs;
use crate::table::fetch::fetch;

/// For how much work memory is asked for at a time, before it is carried out.
pub(super) const GROUP: usize = 24;

/// The keys that [`Node::fetch_key`] was called for last: their slots and hashes.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Its slot has been asked for.
    second: Option<(SlotId, u64)>,
    /// So has what that leads to.
    third: Option<(SlotId, u64)>,
}

impl<B: Bugs> Node<B> {
    /// Asks for the memory that requests for these keys will touch. For some dozens of keys, to be used at once.
    pub fn fetch_keys(&self, keys: &[(SlotId, &[u8])]) {
        self.fetch(keys.iter().map(|(slot, key)| (*slot, Some(*key))));
    }

    /// The same for one key of many that come one by one, to be used when some more have come. A step for this key, and the
    /// next ones for the two before it: where each leads is there by then, and nothing is waited for.
    pub fn fetch_key(&self, slot: SlotId, key: &[u8]) {
        self.fetch_slot(slot);
        let Steps { second, third } = {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            let next = Steps { second: Some((slot, self.hasher.hash(key))), third: steps.second };
            std::mem::replace(&mut *steps, next)
        };
        if let Some((slot, hash)) = second {
            self.slot(slot).fetch(Some(hash));
        }
        if let Some((slot, hash)) = third {
            self.slot(slot).fetch_more(Some(hash));
        }
    }

    /// Asks for the memory of slots, and of the records of keys where some are given: first of all slots, then of what those lead
    /// to. Each look waits for nothing, and no work is done between: a lock would wait until what that has written is in place.
    pub(super) fn fetch<'a>(&self, asked: impl Iterator<Item = (SlotId, Option<&'a [u8]>)> + Clone) {
        for (slot, _) in asked.clone() {
            self.fetch_slot(slot);
        }
        let hash = |key: Option<&[u8]>| key.map(|key| self.hasher.hash(key));
        for (slot, key) in asked.clone() {
            self.slot(slot).fetch(hash(key));
        }
        for (slot, key) in asked {
            self.slot(slot).fetch_more(hash(key));
        }
    }

    fn fetch_slot(&self, slot: SlotId) {
        self.slots.get(usize::from(slot.0)).into_iter().for_each(fetch);
    }
}
