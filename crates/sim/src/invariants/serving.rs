//! I7: no two nodes serve linear reads or accept writes for a slot at one real time, under bounded clock-rate drift.
//!
//! Source: the design, rule 6; Gray and Cheriton, "Leases" (SOSP 1989). A paused node counts: it would go on at any
//! moment, by its own clock.

use proto::slot::SlotId;

use crate::world::World;

impl World {
    /// A node has taken a request: no other would at this moment.
    pub(super) fn check_only_server(&mut self, n: usize, slot: SlotId) {
        if self.knobs.wild_clocks > 0 {
            return;
        }
        let other = (0..self.nodes.len()).find(|other| *other != n && self.serves(*other, slot));
        if let Some(other) = other {
            self.two_servers(n, other, slot);
        }
    }

    /// Not more than one would take a request.
    pub(super) fn check_servers(&mut self, slot: SlotId) {
        if self.knobs.wild_clocks > 0 {
            return;
        }
        let mut serving = (0..self.nodes.len()).filter(|n| self.serves(*n, slot));
        if let (Some(one), Some(other)) = (serving.next(), serving.next()) {
            self.two_servers(one, other, slot);
        }
    }

    /// Whether a node would take a write of a slot now.
    pub(crate) fn serves(&self, n: usize, slot: SlotId) -> bool {
        self.running(n).is_some_and(|node| node.is_serving(self.local(n), slot))
    }

    fn two_servers(&mut self, one: usize, other: usize, slot: SlotId) {
        let (one, other) = (self.nodes[one].name.clone(), self.nodes[other].name.clone());
        self.broken("I7", Some(slot), format!("slot {} is served by {one} and by {other}", slot.0));
    }
}
