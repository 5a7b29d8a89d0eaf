//! Tests anti-entropy: no difference is reported where there is none, and a damaged copy is found and repaired from its
//! primary (L3).
//!
//! A copy is damaged only once everything is at rest: a damaged copy that was promoted would be the truth, and no
//! comparison could tell. The log of its node knows nothing of the damage, so only a comparison of table contents can
//! find it.

use std::time::Duration;

use engine::node::Event;
use engine::slot::Damage;
use proto::slot::SlotId;

use crate::liveness::Phase;
use crate::world::World;

/// How soon a damaged copy must be found and repaired once comparisons are requested, in microseconds.
const REPAIRED_WITHIN: u64 = 10_000_000;

/// The damage in a run.
#[derive(Debug, Default)]
pub(crate) struct Damaging {
    /// The copy that is currently damaged.
    copy: Option<(usize, SlotId)>,
    is_done: bool,
    is_found: bool,
}

impl World {
    pub(crate) fn is_damaged(&self, n: usize, slot: SlotId) -> bool {
        self.liveness.damage.copy == Some((n, slot))
    }

    /// A node has reported an event.
    pub(crate) fn check_difference(&mut self, event: &Event) {
        let Event::Differs(slot, addr, at) = event else { return };
        if self.is_damaged(self.proc_of(addr), *slot) {
            self.liveness.damage.is_found = true;
        } else {
            let what = format!("slot {}: the copy on {addr} is said to differ at {at}", slot.0);
            self.broken("no difference is found where there is none", Some(*slot), what);
        }
    }

    /// From now on copies are compared only on request, so that queues can drain.
    pub(crate) fn stop_comparing(&mut self) {
        let nodes = self.nodes.iter().filter_map(|process| process.node.as_ref());
        nodes.for_each(|node| node.compare_every(Duration::ZERO));
    }

    /// Damages one in-sync copy, once per run, and has all copies compared.
    pub(crate) fn damage_a_copy(&mut self) -> bool {
        if self.knobs.compare_every == 0 || std::mem::replace(&mut self.liveness.damage.is_done, true) {
            return false;
        }
        let Some(state) = &self.coordinator.state else { return false };
        let map = state.map().clone();
        let mut copies = Vec::new();
        for (n, process) in self.nodes.iter().enumerate() {
            let Some(node) = &process.node else { continue };
            let me = node.incarnation();
            let is_replica =
                |slot: &SlotId| map.config(*slot).isr.contains(&me) && map.config(*slot).primary != Some(me);
            let holds = |slot: &SlotId| node.inspect(*slot, |state| state.records().next().is_some());
            copies.extend(self.bits.slots().filter(is_replica).filter(holds).map(|slot| (n, slot)));
        }
        if copies.is_empty() {
            return false;
        }
        let (n, slot) = copies[self.random.index(copies.len())];
        let damage = Damage::ALL[self.random.index(Damage::ALL.len())];
        let is_damaged = self.nodes[n].node.as_ref().is_some_and(|node| node.damage(slot, damage));
        let name = self.nodes[n].name.clone();
        self.tell(Some(slot), || format!("slot {} of {name} is damaged: {damage:?}", slot.0));
        self.liveness.damage.copy = Some((n, slot));
        for n in 0..self.nodes.len() {
            let now = self.local(n);
            if let Some(node) = &self.nodes[n].node {
                node.verify(now);
            }
        }
        is_damaged
    }

    pub(crate) fn look_at_damage(&mut self) {
        let Some((n, slot)) = self.liveness.damage.copy else { return };
        let wrong = self.not_whole().or_else(|| self.not_at_rest().map(|(_, slot, what)| (slot, what)));
        if self.liveness.damage.is_found && wrong.is_none() {
            self.liveness.damage.copy = None;
            return self.enter(Phase::Resting);
        }
        if self.elapsed() >= REPAIRED_WITHIN {
            let found = if self.liveness.damage.is_found { "found and not repaired" } else { "not found" };
            let what = format!("slot {} of {} was damaged, and is {found}: {wrong:?}", slot.0, self.nodes[n].name);
            self.broken("L3", Some(slot), what);
        }
    }
}
