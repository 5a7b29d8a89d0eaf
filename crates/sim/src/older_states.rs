//! The coordinator is started with a copy of an older state: soon after it was made, or after a while in which it went on
//! with some of the nodes.

use crate::faults::Remedy;
use crate::node::{NodeProcess, SurvivingData};
use crate::schedule::Event;
use crate::world::World;

impl World {
    /// The coordinator is started with a copy of an older state. It can tell that the state is old only if the first
    /// node to come has heard of something newer: here all of them have.
    pub(crate) fn put_back_state(&mut self) {
        let Some(version) = self.coordinator.state.as_ref().map(|state| state.map().version) else { return };
        let has_heard = |node: &NodeProcess| {
            node.is_registered()
                && !node.is_paused
                && !node.is_leaving
                && node.data().and_then(|node| node.map()).is_some_and(|map| map.version == version)
        };
        let can = !self.faults.memory_is_missing && !self.faults.state_is_lost && self.nodes.iter().all(has_heard);
        let Some(older) = self.coordinator.older.front().cloned().filter(|_| can) else { return };
        self.stats.states_put_back += 1;
        self.crash_coordinator();
        self.coordinator.disk = Some(older);
        self.faults.state_is_lost = true;
        let after = self.faults.random.spread(50_000, 1_000_000);
        self.schedule.after(after, Event::Remedy(Remedy::StartCoordinator));
        self.faults.quiet_until = self.schedule.now + after + 2_500_000;
    }

    /// A copy of the coordinator's state is made, and some nodes crash; the others go on with the coordinator for a while.
    /// Then they crash, too, and the copy is put back.
    pub(crate) fn fork(&mut self) {
        let is_led = self.coordinator.state.as_ref().is_some_and(|state| state.map().version.0 > 0);
        let can = is_led && !self.faults.memory_is_missing && !self.faults.state_is_lost && self.nobody_is_missed();
        if !can || self.nodes.len() < 2 {
            return;
        }
        self.coordinator.copy.clone_from(&self.coordinator.disk);
        let after = self.faults.random.spread(200_000, 15_000_000);
        let staying = self.faults.random.index(self.nodes.len());
        for n in (0..self.nodes.len()).filter(|n| *n != staying) {
            if self.faults.random.chance(600) {
                self.crash_and_restart(n, SurvivingData::Everything, after, 3_000_000);
            }
        }
        self.faults.quiet_until = self.schedule.now + after + 100_000;
        self.schedule.after(after, Event::Remedy(Remedy::PutBackCopy));
    }

    /// What was promised since the copy was made may be lost.
    pub(crate) fn put_back_copy(&mut self) {
        let can = !self.faults.memory_is_missing && !self.faults.state_is_lost && self.nobody_is_missed();
        let Some(copy) = self.coordinator.copy.take().filter(|_| can) else { return };
        self.stats.forks += 1;
        self.tell(None, || "a copy of the coordinator's state is put back".to_owned());
        self.crash_coordinator();
        for n in 0..self.nodes.len() {
            if self.nodes[n].node.is_some() {
                self.crash_and_restart(n, SurvivingData::Everything, 500_000, 15_000_000);
            }
        }
        for slot in self.bits.slots() {
            self.oracle.model(slot).is_given_up();
        }
        self.coordinator.disk = Some(copy);
        self.faults.state_is_lost = true;
        self.faults.memory_is_missing = true;
        let after = self.faults.random.spread(50_000, 1_000_000);
        self.schedule.after(after, Event::Remedy(Remedy::StartCoordinator));
    }
}
