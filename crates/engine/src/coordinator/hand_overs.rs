//! Which slots their primaries have been asked to hand over, and when more of them may be.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapVersion};
use proto::id::Incarnation;
use proto::session::SlotAt;
use proto::slot::SlotId;

use crate::output::Output;
use crate::time::Timestamp;

/// How long after a hand-over was requested the request is repeated, if the hand-over has not happened.
const HAND_OVER_RETRY: Duration = Duration::from_secs(2);

/// How many slots are handed over at once between two nodes. Each hand-over pauses the slot's writers briefly, and a
/// client that writes keys of all slots soon hits one of them: with many at once, all such clients would wait most of
/// the time.
const HAND_OVER_SLOTS: usize = 128;

/// How long nodes are given to apply a change of the map. If a primary were asked to hand over at the same time, its
/// writers would wait for both.
const SETTLING: Duration = Duration::from_millis(25);

/// By the primary and the node that is to lead: the slots to hand over.
pub(super) type Wanted = BTreeMap<(Incarnation, Incarnation), Vec<SlotAt>>;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    /// The version of the slot's configuration, and when its primary was asked.
    under_way: BTreeMap<SlotId, (MapVersion, Timestamp)>,
    /// When nodes are expected to have applied the changes of the last look at all slots. No hand-over begins earlier.
    settled_at: Timestamp,
    /// Slots wait for that moment to be handed over.
    awaits_settling: bool,
}

impl HandOvers {
    /// The map changes, and nodes need time to apply that.
    pub(super) fn map_changes(&mut self, now: Timestamp) {
        self.settled_at = now + SETTLING;
    }

    /// Asks for these, as far as it is time for them and not too many are under way.
    pub(super) fn ask(&mut self, now: Timestamp, map: &ClusterMap, wanted: Wanted) -> Vec<Output> {
        self.under_way
            .retain(|slot, (version, asked)| map.config(*slot).version == *version && now < *asked + HAND_OVER_RETRY);
        self.awaits_settling = now < self.settled_at && !wanted.is_empty();
        let mut questions = Vec::new();
        for ((from, to), mut slots) in wanted.into_iter().filter(|_| !self.awaits_settling) {
            let under_way = slots.iter().filter(|at| self.under_way.contains_key(&at.slot)).count();
            slots.retain(|at| !self.under_way.contains_key(&at.slot));
            slots.truncate(HAND_OVER_SLOTS.saturating_sub(under_way));
            if slots.is_empty() {
                continue;
            }
            self.under_way.extend(slots.iter().map(|at| (at.slot, (at.version, now))));
            questions.push(Output::HandOver { from, to, slots });
        }
        questions
    }

    /// A primary has released a slot.
    pub(super) fn released(&mut self, SlotAt { slot, version }: SlotAt) {
        if self.under_way.get(&slot).is_some_and(|(asked, _)| *asked == version) {
            self.under_way.remove(&slot);
        }
    }

    /// The next hand-overs need not wait for those that are under way, if none is.
    pub(super) fn go_on(&mut self) {
        self.awaits_settling |= self.under_way.is_empty();
    }

    /// Whether slots have waited to be handed over and need not wait any longer.
    pub(super) fn are_due(&self, now: Timestamp) -> bool {
        self.awaits_settling && now >= self.settled_at
    }

    /// When slots are due, or a request is repeated.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let retry = self.under_way.values().map(|(_, asked)| *asked + HAND_OVER_RETRY).min();
        let settled = self.awaits_settling.then_some(self.settled_at);
        retry.into_iter().chain(settled).min()
    }

    /// Another map counts from now on.
    pub(super) fn clear(&mut self) {
        self.under_way.clear();
        self.awaits_settling = false;
    }
}
