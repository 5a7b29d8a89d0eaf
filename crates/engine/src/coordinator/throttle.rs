//! Limits how many slots are copied to new nodes at a time. Each such slot has one more copy to write to, and keeps its
//! tombstones until that copy has passed them.
//!
//! A node that is back with the data on its disk does not count. It is sent what it lacks in all its slots at once: if
//! a slot had to wait for its turn, what the node holds of it would no longer be a copy and would be given up.
//!
//! Nor does a slot whose primary and new copies do not hear each other: it would take a place for as long as the network
//! is cut between two nodes, and nothing else could be repaired. Of these slots, no more begin than there are places.
//!
//! Nor does a node that comes back with data for a slot of which no member is heard: that data may be all that is left.
//! If no member is registered, nothing is copied, and the learners take nobody's turn.

use std::collections::BTreeSet;

use proto::cluster_map::SlotConfig;
use proto::id::Incarnation;
use proto::slot::SlotId;

use super::Coordinator;
use crate::bugs::{Bug, Bugs};
use crate::plan::ClusterView;

impl<B: Bugs> Coordinator<B> {
    /// Removes from these changes the copies that exceed the limit; the slots that lack the most copies take precedence
    /// and keep theirs. If slots are waiting, a slot whose copies cannot be filled now gives up its place.
    pub(super) fn limit_fills(&self, changes: &mut Vec<(SlotId, SlotConfig)>, view: &ClusterView<B>) {
        let limit = self.settings.moves_at_once;
        if limit == 0 || self.bugs.plants(Bug::MovesUnlimited) {
            return;
        }
        let is_new = |config: &SlotConfig, learner: &Incarnation| {
            let has_copy = config.isr.iter().chain(&config.elr).any(|copy| view.is_same_data(*copy, *learner));
            let may_be_last = self.returns.with_data().contains(learner) && !view.hears_member(config);
            !self.returns.is_returning(*learner) && !may_be_last && !has_copy
        };
        let begins = |slot: SlotId, next: &SlotConfig| {
            let before = self.map.config(slot);
            let is_new = |learner: &Incarnation| is_new(before, learner);
            before.learners.is_empty() && !next.learners.is_empty() && next.learners.iter().all(is_new)
        };
        let has_fill = |config: &SlotConfig| !config.learners.is_empty() && view.has_member_here(config);
        let is_under_way = |config: &SlotConfig| has_fill(config) && !is_cut(config, view);
        let is_change = |(slot, next): &(SlotId, SlotConfig)| !self.map.config(*slot).has_same_holders(next);
        if !changes.iter().any(|(slot, next)| begins(*slot, next)) {
            return changes.retain(is_change); // As nearly always.
        }
        // A slot that lost its primary and gets another continues with the copies it had.
        let goes_on = |(slot, next): &&(SlotId, SlotConfig)| {
            !is_under_way(self.map.config(*slot)) && is_under_way(next) && !begins(*slot, next)
        };
        let under_way = self.map.slots().filter(|(_, config)| is_under_way(config)).count()
            + changes.iter().filter(goes_on).count();
        let cut = self.map.slots().filter(|(_, config)| has_fill(config) && is_cut(config, view)).count();
        let mut beginning: Vec<_> = changes.iter_mut().filter(|(slot, next)| begins(*slot, next)).collect();
        beginning.sort_by_key(|(_, next)| (is_cut(next, view), stands_still(next, view), next.isr.len()));
        let mut waiting = 0;
        for (number, (_, next)) in beginning.into_iter().enumerate() {
            let before_it = under_way + number + if is_cut(next, view) { cut } else { 0 };
            if before_it >= limit {
                waiting += usize::from(!is_cut(next, view) && !stands_still(next, view));
                next.learners.clear();
            }
        }
        changes.retain(is_change);
        let changed: BTreeSet<SlotId> = changes.iter().map(|(slot, _)| *slot).collect();
        // A slot that would start again at once, regardless of what waits, gives up no place.
        let makes_room = |config: &SlotConfig| {
            view.hears_member(config)
                && stands_still(config, view)
                && config.learners.iter().all(|learner| is_new(config, learner))
        };
        let still = self.map.slots().filter(|(_, config)| makes_room(config)).take(waiting);
        for (slot, config) in still.filter(|(slot, _)| !changed.contains(slot)) {
            changes.push((slot, SlotConfig { learners: Vec::new(), ..SlotConfig::clone(config) }));
        }
    }
}

/// Whether a slot has copies to fill and none of them hears the primary.
fn is_cut(config: &SlotConfig, view: &ClusterView<impl Bugs>) -> bool {
    let cannot_hear = |learner| config.primary.is_some_and(|primary| view.complains(learner, primary));
    !config.learners.is_empty() && config.learners.iter().copied().all(cannot_hear)
}

/// Whether a slot has copies to fill and none of them can be filled: their nodes are silent, have full disks, or are
/// about to stop.
fn stands_still(config: &SlotConfig, view: &ClusterView<impl Bugs>) -> bool {
    let cannot = |learner: &Incarnation| !view.is_heard(*learner) || view.avoid_as_primary.contains(learner);
    !config.learners.is_empty() && config.learners.iter().all(cannot)
}
