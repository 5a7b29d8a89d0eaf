//! Who takes over the slots of a lost primary: the in-sync copy that holds the most.
//!
//! Replication is asynchronous, so the surviving copies of a slot may differ by what the lost primary had sent to one
//! and not yet to another. The coordinator briefly asks them for their positions and promotes the farthest.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::id::{Incarnation, Version};
use proto::slot::SlotId;

use crate::time::Timestamp;

/// How long a copy has to report its position.
const POSITIONS_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a round lasts at most, however many copies come back during it.
const ROUND_TIMEOUT: Duration = POSITIONS_TIMEOUT.saturating_mul(3);

/// One round of queries. All slots of one loss share a round.
#[derive(Debug)]
pub(crate) struct Promotion {
    /// The number of the query, so that late answers to an earlier one are not mistaken for answers to this one.
    pub query: u64,
    /// When the coordinator proceeds with the answers that it has.
    pub until: Timestamp,
    last_until: Timestamp,
    /// The answers of each queried node, by slot number.
    asked: BTreeMap<Incarnation, Vec<Known>>,
}

/// What is known about a copy's position in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Known {
    #[default]
    NotAsked,
    Awaited,
    At(Version),
}

impl Promotion {
    /// A round in which nobody is asked yet.
    #[must_use]
    pub(crate) fn new(query: u64, now: Timestamp) -> Self {
        Self { query, until: now, last_until: now + ROUND_TIMEOUT, asked: BTreeMap::new() }
    }

    /// Selects which of these copies to ask about which slots: those not yet asked in this round. They get time to
    /// answer.
    pub(crate) fn ask(
        &mut self,
        now: Timestamp,
        copies: impl Iterator<Item = (Incarnation, SlotId)>,
    ) -> BTreeMap<Incarnation, Vec<SlotId>> {
        let mut questions: BTreeMap<Incarnation, Vec<SlotId>> = BTreeMap::new();
        if now >= self.last_until {
            return questions;
        }
        for (node, slot) in copies {
            let (answers, number) = (self.asked.entry(node).or_default(), usize::from(slot.0));
            if answers.len() <= number {
                answers.resize(number + 1, Known::NotAsked);
            }
            if let Some(answer) = answers.get_mut(number).filter(|answer| **answer == Known::NotAsked) {
                *answer = Known::Awaited;
                questions.entry(node).or_default().push(slot);
            }
        }
        if !questions.is_empty() {
            self.until = (now + POSITIONS_TIMEOUT).min(self.last_until);
        }
        questions
    }

    /// Records an answer.
    pub(crate) fn answered(&mut self, from: Incarnation, positions: &[(SlotId, Version)]) {
        let Some(asked) = self.asked.get_mut(&from) else { return };
        for (slot, version) in positions {
            if let Some(answer) = asked.get_mut(usize::from(slot.0)).filter(|answer| **answer == Known::Awaited) {
                *answer = Known::At(*version);
            }
        }
    }

    /// Stops waiting for this node: it is lost, too.
    pub(crate) fn forget(&mut self, node: Incarnation) {
        self.asked.remove(&node);
    }

    /// Whether it is time to decide.
    #[must_use]
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        now >= self.until || !self.asked.values().flatten().any(|answer| *answer == Known::Awaited)
    }

    /// Whether the positions of all these copies are known.
    #[must_use]
    pub(crate) fn knows_all(&self, slot: SlotId, copies: &[Incarnation]) -> bool {
        copies.iter().all(|copy| self.position(slot, *copy).is_some())
    }

    /// The copy to promote among `survivors`: the one that answered with the most records, or the first in ring order
    /// if several did; `None` if none has answered.
    #[must_use]
    pub(crate) fn choose(&self, slot: SlotId, survivors: &[Incarnation]) -> Option<Incarnation> {
        let answers = survivors.iter().rev().filter_map(|node| Some((self.position(slot, *node)?, *node)));
        answers.max_by_key(|(version, _)| *version).map(|(_, node)| node)
    }

    /// Whether any of these copies is known to hold a record.
    #[must_use]
    pub(crate) fn holds_any(&self, slot: SlotId, copies: &[Incarnation]) -> bool {
        copies.iter().any(|copy| self.position(slot, *copy).is_some_and(|version| version != Version::NONE))
    }

    fn position(&self, slot: SlotId, node: Incarnation) -> Option<Version> {
        match self.asked.get(&node)?.get(usize::from(slot.0))? {
            Known::At(version) => Some(*version),
            Known::NotAsked | Known::Awaited => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Epoch;

    const SLOTS: [SlotId; 3] = [SlotId(0), SlotId(1), SlotId(2)];

    fn at(seq: u64) -> Version {
        Version { epoch: Epoch(1), seq }
    }

    fn asking(nodes: &[Incarnation]) -> Promotion {
        let mut promotion = Promotion::new(1, Timestamp(0));
        let questions = promotion.ask(Timestamp(0), nodes.iter().flat_map(|node| SLOTS.map(|slot| (*node, slot))));
        assert_eq!(questions.len(), nodes.len());
        promotion
    }

    #[test]
    fn the_farthest_copy_is_chosen() {
        let [a, b, c] = [1, 2, 3].map(Incarnation);
        let mut promotion = asking(&[a, b]);
        promotion.answered(c, &[(SlotId(0), at(99))]);
        promotion.answered(a, &[(SlotId(0), at(4)), (SlotId(1), at(7)), (SlotId(2), at(0))]);
        assert!(!promotion.is_over(Timestamp(99)));
        promotion.answered(b, &[(SlotId(0), at(5)), (SlotId(1), at(7))]);
        assert!(!promotion.is_over(Timestamp(99)), "one slot is not answered");
        assert!(!promotion.knows_all(SlotId(2), &[a, b]) && promotion.knows_all(SlotId(1), &[a, b]));
        promotion.answered(b, &[(SlotId(2), at(0))]);
        assert!(promotion.is_over(Timestamp(99)));
        assert_eq!(promotion.choose(SlotId(0), &[a, b]), Some(b), "an answer that was not asked for does not count");
        assert_eq!(promotion.choose(SlotId(1), &[a, b]), Some(a));
        assert_eq!(promotion.choose(SlotId(0), &[a]), Some(a), "who is lost meanwhile is not chosen");
        assert_eq!(promotion.choose(SlotId(2), &[b, a]), Some(b));
        assert_eq!(promotion.choose(SlotId(2), &[]), None);
    }

    #[test]
    fn who_comes_back_during_the_round_is_asked_and_waited_for() {
        let [a, b] = [1, 2].map(Incarnation);
        let mut promotion = asking(&[a]);
        promotion.answered(a, &SLOTS.map(|slot| (slot, at(4))));
        let later = Timestamp(0) + POSITIONS_TIMEOUT / 2;
        let questions = promotion.ask(later, [a, b].into_iter().flat_map(|node| SLOTS.map(|slot| (node, slot))));
        assert_eq!(questions, [(b, SLOTS.to_vec())].into());
        assert!(!promotion.is_over(Timestamp(0) + POSITIONS_TIMEOUT));
        promotion.answered(b, &SLOTS.map(|slot| (slot, at(5))));
        assert!(promotion.is_over(later));
        assert_eq!(promotion.choose(SlotId(0), &[a, b]), Some(b));
    }

    #[test]
    fn silence_ends_with_the_round_and_the_round_ends_whoever_comes_back() {
        let mut promotion = asking(&[Incarnation(1)]);
        assert!(!promotion.is_over(Timestamp(1)) && promotion.is_over(promotion.until));
        assert!(!promotion.knows_all(SlotId(0), &[Incarnation(1), Incarnation(2)]));
        for number in 2..20 {
            let now = Timestamp(promotion.until.0 - 1_000);
            promotion.ask(now, [(Incarnation(number), SlotId(0))].into_iter());
        }
        assert!(promotion.is_over(Timestamp(0) + ROUND_TIMEOUT));
        assert_eq!(promotion.choose(SlotId(0), &[Incarnation(1)]), None);
    }
}
