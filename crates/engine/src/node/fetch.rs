//! Memory that will be used in a moment, of many slots at once.

use proto::slot::SlotId;

use super::Node;
use crate::bugs::Bugs;
use crate::table::fetch::fetch;

/// For how much work memory is asked for at a time, before it is carried out.
pub(super) const GROUP: usize = 24;

impl<B: Bugs> Node<B> {
    /// Asks for the memory that requests for these keys will touch. For some dozens of keys, to be used at once.
    pub fn fetch_keys(&self, keys: &[(SlotId, &[u8])]) {
        self.fetch(keys.iter().map(|(slot, key)| (*slot, Some(*key))));
    }

    /// Asks for the memory of slots, and of the records of keys where some are given: first of all slots, then of what those lead
    /// to. Each look waits for nothing, and no work is done between: a lock would wait until what that has written is in place.
    pub(super) fn fetch<'a>(&self, asked: impl Iterator<Item = (SlotId, Option<&'a [u8]>)> + Clone) {
        for (slot, _) in asked.clone() {
            self.slots.get(usize::from(slot.0)).into_iter().for_each(fetch);
        }
        for (slot, key) in asked.clone() {
            self.slot(slot).fetch(&self.hasher, key);
        }
        for (slot, key) in asked {
            self.slot(slot).fetch_more(&self.hasher, key);
        }
    }
}
