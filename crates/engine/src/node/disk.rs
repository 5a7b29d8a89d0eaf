//! What a node leaves on its disk, and what a later start finds there.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use proto::cluster_map::ClusterMap;
use proto::id::Incarnation;
use proto::limits;
use proto::session::Ancestors;
use proto::slot::SlotId;

use super::{Cell, Node};
use crate::bugs::{Bug, Bugs};
use crate::journal::{Entry, Noted};
use crate::log::TAIL_BYTES;
use crate::outbox::OUTBOX_ITEMS;
use crate::time::Timestamp;

impl<B: Bugs> Node<B> {
    /// A restarted node that has found on its disk everything that an earlier start held.
    #[must_use]
    pub fn recovered(now: Timestamp, disk: Self) -> Self {
        let (ancestors, map) = (disk.next_ancestors(), disk.map());
        let slots = disk
            .slots
            .into_iter()
            .map(|slot| Cell(Mutex::new(slot.0.into_inner().unwrap_or_else(PoisonError::into_inner).recovered())));
        let mut node = Self::with(now, disk.bits, disk.hasher, slots.collect(), ancestors, map, disk.bugs);
        node.tails = disk.tails;
        node.memory = disk.memory;
        node.outbox_items = disk.outbox_items;
        node.losses = disk.losses;
        node.noted = disk.noted;
        node
    }

    /// Likewise, from what a [`crate::journal::Replay`] has read; `next` is the number of its next entry.
    pub(crate) fn replayed(
        now: Timestamp,
        read: Self,
        ancestors: Ancestors,
        map: Option<Arc<ClusterMap>>,
        next: u64,
    ) -> Self {
        let mut node = Self::recovered(now, read);
        node.ancestors = newest(ancestors);
        node.map = RwLock::new(map);
        node.noted = Noted::kept(next);
        node.limited(TAIL_BYTES, OUTBOX_ITEMS)
    }

    /// The same node, which notes what it must not forget: see [`Node::noted`].
    #[cfg(test)]
    pub(crate) fn with_journal(mut self) -> Self {
        self.noted = Noted::kept(0);
        self
    }

    /// The incarnations whose data this node found on its disk.
    #[must_use]
    pub fn ancestors(&self) -> &Ancestors {
        &self.ancestors
    }

    /// The incarnations whose data the next start will find, if nothing that this one has written gets lost.
    ///
    /// IMPORTANT: what was unproven stays unproven. What was missing at this start is missing at every later one. And
    /// whoever was taken off the ring has given up what all of them held.
    #[must_use]
    pub fn next_ancestors(&self) -> Ancestors {
        if self.is_out.load(Ordering::Relaxed) {
            return Ancestors::default();
        }
        let mut next = self.ancestors.clone();
        // A start that was never registered has written nothing of its own: what it found is still its predecessor's.
        if self.incarnation() != Incarnation::default() {
            if self.bugs.plants(Bug::ProofRegained) {
                next = Ancestors::proven(next.iter().collect());
            }
            next.proven.push(self.incarnation());
        }
        newest(next)
    }

    /// What this node must not forget.
    #[must_use]
    pub fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Everything a slot holds, for a snapshot; `None` if it has never held anything. The snapshot starts with the
    /// current end of what is noted; later entries of the slot come after that.
    #[must_use]
    pub fn slot_snapshot(&self, slot: SlotId) -> Option<Vec<u8>> {
        let state = self.slot(slot);
        if state.is_untouched() {
            return None;
        }
        let mut bytes = self.noted.end().to_be_bytes().to_vec();
        let whole = state.whole();
        // The rest takes longer, and no write to the slot has to wait for it.
        drop(state);
        Entry::Whole { slot, whole }.encode(&mut bytes);
        Some(bytes)
    }

    /// The archive of losses, for a snapshot; `None` if nothing was ever lost.
    #[must_use]
    pub fn losses_snapshot(&self) -> Option<Vec<u8>> {
        let losses = self.lock_losses();
        if losses.count() == 0 {
            return None;
        }
        let mut bytes = self.noted.end().to_be_bytes().to_vec();
        Entry::Unkept { writes: losses.count() - losses.iter().count() as u64 }.encode(&mut bytes);
        losses.iter().for_each(|loss| Entry::Loss(loss.clone()).encode(&mut bytes));
        Some(bytes)
    }

    /// Replays an entry; `false` if it does not follow on from the slot's current state.
    pub(crate) fn replay(&self, entry: Entry) -> bool {
        let slot = entry.slot();
        match entry {
            Entry::Loss(loss) => self.lock_losses().add(loss),
            Entry::Unkept { writes } => self.lock_losses().add_unkept(writes),
            entry => return self.replay_in_slot(slot, entry),
        }
        true
    }

    fn replay_in_slot(&self, slot: SlotId, entry: Entry) -> bool {
        self.slot(slot).replay(&self.cx(self.last_tick(), slot), entry)
    }
}

/// The newest ancestors, limited to as many as a node remembers.
fn newest(mut ancestors: Ancestors) -> Ancestors {
    let too_many = ancestors.iter().count().saturating_sub(limits::ANCESTORS);
    let unproven = too_many.min(ancestors.unproven.len());
    ancestors.unproven.drain(..unproven);
    ancestors.proven.drain(..too_many - unproven);
    ancestors
}
