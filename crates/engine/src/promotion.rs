//! Who takes over the slots of a lost primary: the in-sync copy that holds most.
//!
//! Replication is asynchronous, so the surviving copies of a slot may differ by what the lost primary had sent to one
//! and not yet to the other. The coordinator asks them briefly how far they stand and promotes the farthest.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{Incarnation, Version};
use proto::slot::SlotId;

use crate::time::Timestamp;

/// One round of questions. All slots of one loss are in one round.
#[derive(Debug)]
pub struct Promotion {
    /// The number of the question, so that late answers to an earlier one are not taken for this one's.
    pub query: u64,
    /// When the coordinator goes on with the answers that it has.
    pub until: Timestamp,
    waiting_for: BTreeSet<Incarnation>,
    farthest: BTreeMap<SlotId, (Version, Incarnation)>,
}

impl Promotion {
    /// A round that asks `asked`, each of whom is still to answer.
    #[must_use]
    pub fn new(query: u64, until: Timestamp, asked: BTreeSet<Incarnation>) -> Self {
        Self { query, until, waiting_for: asked, farthest: BTreeMap::new() }
    }

    /// Takes an answer.
    pub fn answered(&mut self, from: Incarnation, positions: &[(SlotId, Version)]) {
        if !self.waiting_for.remove(&from) {
            return;
        }
        for (slot, version) in positions {
            let farthest = self.farthest.entry(*slot).or_insert((*version, from));
            if *version > farthest.0 {
                *farthest = (*version, from);
            }
        }
    }

    /// Nobody waits for this node any more: it is lost, too.
    pub fn forget(&mut self, node: Incarnation) {
        self.waiting_for.remove(&node);
    }

    /// Whether it is time to decide.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.waiting_for.is_empty() || now >= self.until
    }

    /// The copy to promote among `survivors`: who answered with the most records, or the first in the ring's order
    /// where nobody did.
    #[must_use]
    pub fn choose(&self, slot: SlotId, survivors: &[Incarnation]) -> Option<Incarnation> {
        let farthest = self.farthest.get(&slot).map(|(_, node)| *node);
        farthest.filter(|node| survivors.contains(node)).or(survivors.first().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Epoch;

    #[test]
    fn the_farthest_copy_is_chosen() {
        let [a, b, c] = [1, 2, 3].map(Incarnation);
        let at = |seq| Version { epoch: Epoch(1), seq };
        let mut promotion = Promotion::new(1, Timestamp(100), [a, b].into());
        promotion.answered(c, &[(SlotId(0), at(99))]);
        promotion.answered(a, &[(SlotId(0), at(4)), (SlotId(1), at(7))]);
        assert!(!promotion.is_over(Timestamp(99)));
        promotion.answered(b, &[(SlotId(0), at(5)), (SlotId(1), at(7))]);
        assert!(promotion.is_over(Timestamp(0)));
        assert_eq!(promotion.choose(SlotId(0), &[a, b]), Some(b), "an answer that was not asked for does not count");
        assert_eq!(promotion.choose(SlotId(1), &[a, b]), Some(a));
        assert_eq!(promotion.choose(SlotId(0), &[a]), Some(a), "who is lost meanwhile is not chosen");
        assert_eq!(promotion.choose(SlotId(2), &[b, a]), Some(b));
        assert_eq!(promotion.choose(SlotId(2), &[]), None);
    }

    #[test]
    fn silence_ends_with_the_round() {
        let promotion = Promotion::new(1, Timestamp(100), [Incarnation(1)].into());
        assert!(!promotion.is_over(Timestamp(99)));
        assert!(promotion.is_over(Timestamp(100)));
    }
}
