//! An empty copy never leads while another copy is available, even an older one: a learner that was never admitted, or
//! a former member that came back.
//!
//! Source: README, "An empty copy never leads".

use proto::cluster_map::{ClusterMap, SlotConfig};
use proto::id::{Incarnation, Version};
use proto::slot::SlotId;

use crate::oracle::members;
use crate::world::World;

impl World {
    /// The coordinator has kept another configuration of a slot.
    pub(super) fn check_older_copies(
        &mut self,
        slot: SlotId,
        before: &SlotConfig,
        config: &SlotConfig,
        map: &ClusterMap,
    ) {
        let goes_on = members(config).any(|member| members(before).any(|known| self.is_same_data(known, member)));
        let is_empty = |member| self.holds_any(member, slot) == Some(false);
        if goes_on || members(config).next().is_none() || !members(config).all(is_empty) {
            return;
        }
        let is_available = |copy: Incarnation| {
            let present = self.oracle.keeper(copy).map(|n| self.nodes[n].incarnation);
            present.and_then(|present| map.member(present)).is_some_and(|member| member.up)
        };
        let mut copies = before.learners.iter().filter(|copy| is_available(**copy));
        let older = copies.find(|copy| self.holds_any(**copy, slot) == Some(true));
        if let Some(older) = older {
            let copy = older.0 & 0xffff;
            let what = format!("copy {copy} holds records, and one that holds none leads: {before:?}, then {config:?}");
            self.broken("nothing empty leads", Some(slot), what);
        }
    }

    fn is_same_data(&self, one: Incarnation, other: Incarnation) -> bool {
        one == other || self.oracle.keeper(one).is_some_and(|n| self.oracle.keeper(other) == Some(n))
    }

    /// Whether the process that has what an incarnation held has any record of the slot; `None` if it is not running.
    fn holds_any(&self, incarnation: Incarnation, slot: SlotId) -> Option<bool> {
        let node = self.oracle.keeper(incarnation).and_then(|n| self.running(n))?;
        Some(node.inspect(slot, |state| state.last() != Version::NONE))
    }
}
