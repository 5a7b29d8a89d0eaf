//! I7: no two nodes serve linear reads or accept writes for a slot at the same real time, under bounded clock-rate
//! drift.
//!
//! Source: Gray and Cheriton, "Leases" (SOSP 1989). A paused node counts: it could resume at any moment, by its own
//! clock.

use proto::slot::SlotId;

use crate::world::World;

impl World {
    /// A node has accepted a request: no other node would at this moment.
    pub(super) fn check_only_server(&mut self, n: usize, slot: SlotId) {
        if self.knobs.wild_clocks > 0 {
            return;
        }
        let other = (0..self.nodes.len()).find(|other| *other != n && self.serves(*other, slot));
        if let Some(other) = other {
            self.two_servers(n, other, slot);
        }
    }

    /// Checks that at most one node would accept a request.
    pub(super) fn check_servers(&mut self, slot: SlotId) {
        if self.knobs.wild_clocks > 0 {
            return;
        }
        let mut serving = (0..self.nodes.len()).filter(|n| self.serves(*n, slot));
        if let (Some(one), Some(other)) = (serving.next(), serving.next()) {
            self.two_servers(one, other, slot);
        }
    }

    /// Whether a node would accept a write for a slot now.
    pub(crate) fn serves(&self, n: usize, slot: SlotId) -> bool {
        self.running(n).is_some_and(|node| node.is_serving(self.local(n), slot))
    }

    fn two_servers(&mut self, one: usize, other: usize, slot: SlotId) {
        let (one, other) = (self.nodes[one].name.clone(), self.nodes[other].name.clone());
        self.broken("I7", Some(slot), format!("slot {} is served by {one} and by {other}", slot.0));
    }
}
