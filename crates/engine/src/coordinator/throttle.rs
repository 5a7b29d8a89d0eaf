//! How many slots are copied to nodes that do not have them at one time: each has one more copy to write to, and keeps its
//! tombstones until that has passed them.
//!
//! A node that is back with what is on its disk is not among them. It is sent what it lacks, in all its slots at once: what
//! it holds of a slot that waited for its turn would be no copy any more, and be given up.
//!
//! Nor is one that comes back with data to a slot of which no member is heard: that may be all that is left. Where no member is
//! registered nothing is copied, and the learners take nobody's turn.

use std::collections::BTreeSet;

use proto::cluster_map::SlotConfig;
use proto::id::Incarnation;
use proto::slot::SlotId;

use super::Coordinator;
use crate::bugs::{Bug, Bugs};
use crate::plan::{Standing, has_same_holders};

impl<B: Bugs> Coordinator<B> {
    /// Takes out of these changes the copies for which there is no room: slots that lack most copies go first. Where slots
    /// wait for a place that one has whose copies cannot be filled now, that one makes room.
    pub(super) fn limit_fills(&self, changes: &mut Vec<(SlotId, SlotConfig)>, standing: &Standing) {
        let limit = self.settings.moves_at_once;
        if limit == 0 || self.bugs.plants(Bug::MovesUnlimited) {
            return;
        }
        let is_new = |config: &SlotConfig, learner: &Incarnation| {
            let has_copy = config.isr.iter().chain(&config.elr).any(|copy| standing.is_same_data(*copy, *learner));
            let may_be_last = self.with_data.contains(learner) && !standing.hears_member(config);
            !self.returning.contains(learner) && !may_be_last && !has_copy
        };
        let begins = |slot: SlotId, next: &SlotConfig| {
            let before = self.map.config(slot);
            let is_new = |learner: &Incarnation| is_new(before, learner);
            before.learners.is_empty() && !next.learners.is_empty() && next.learners.iter().all(is_new)
        };
        let is_under_way = |config: &SlotConfig| !config.learners.is_empty() && standing.has_member_here(config);
        // One that has lost its primary and gets another goes on with the copies that it had.
        let goes_on = |(slot, next): &&(SlotId, SlotConfig)| {
            !is_under_way(self.map.config(*slot)) && is_under_way(next) && !begins(*slot, next)
        };
        let under_way = self.map.slots().filter(|(_, config)| is_under_way(config)).count()
            + changes.iter().filter(goes_on).count();
        let mut beginning: Vec<_> = changes.iter_mut().filter(|(slot, next)| begins(*slot, next)).collect();
        beginning.sort_by_key(|(_, next)| (stands_still(next, standing), next.isr.len()));
        let mut waiting = 0;
        for (_, next) in beginning.into_iter().skip(limit.saturating_sub(under_way)) {
            waiting += usize::from(!stands_still(next, standing));
            next.learners.clear();
        }
        changes.retain(|(slot, next)| !has_same_holders(self.map.config(*slot), next));
        let changed: BTreeSet<SlotId> = changes.iter().map(|(slot, _)| *slot).collect();
        // One that would begin again at once, whatever waits, makes no room.
        let makes_room = |config: &SlotConfig| {
            standing.hears_member(config)
                && stands_still(config, standing)
                && config.learners.iter().all(|learner| is_new(config, learner))
        };
        let still = self.map.slots().filter(|(_, config)| makes_room(config)).take(waiting);
        for (slot, config) in still.filter(|(slot, _)| !changed.contains(slot)) {
            changes.push((slot, SlotConfig { learners: Vec::new(), ..SlotConfig::clone(config) }));
        }
    }
}

/// Whether a slot has copies to fill, and none of them can be: their nodes are silent, have full disks, are about
/// to stop, or are none.
fn stands_still(config: &SlotConfig, standing: &Standing) -> bool {
    let cannot = |learner: &Incarnation| {
        !standing.is_heard(*learner) || standing.yielding.contains(learner) || standing.by_hand.contains(learner)
    };
    !config.learners.is_empty() && config.learners.iter().all(cannot)
}
