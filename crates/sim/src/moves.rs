//! Nodes that leave for good, are replaced, or come back as new; and I12 for these moves: our own moves never reduce
//! the in-sync copies below min(RF, live nodes that stay), and nobody deletes a copy that counts.
//!
//! A node that is told to delete its data does so in one step: `storage` has its own tests of what a crash leaves of
//! it. After a while it is started again as a new node.

use std::sync::Arc;
use std::time::Duration;

use engine::coordinator::Coordinator;
use engine::output::DecommissionError;
use proto::cluster_map::{ClusterMap, SlotConfig};
use proto::id::{Incarnation, NodeAddr};
use proto::session::NodeMessage;
use proto::slot::SlotId;

use crate::faults::Remedy;
use crate::mutants::Planted;
use crate::network::{ConnId, OPENER};
use crate::node::SurvivingData;
use crate::oracle::members;
use crate::schedule::Event;
use crate::world::World;

/// For how long after a complaint a fill may count as held up, by the coordinator's clock.
const COMPLAINT_COUNTS: Duration = Duration::from_millis(1_200);

impl World {
    /// An operator decommissions a node, takes that back, or replaces the node by another.
    pub(crate) fn decommission(&mut self, n: usize, by: usize, choice: u64) {
        if self.coordinator.is_paused {
            return;
        }
        let [addr, new] = [n, by].map(|n| self.nodes[n].addr.clone());
        let asked = match choice {
            0..550 => self.coordinate(|state, now| state.decommission(now, &addr).map(drop)),
            550..700 => self.coordinate(|state, now| state.recommission(now, &addr)),
            _ => self.coordinate(|state, now| state.replace(now, &addr, &new).map(drop)),
        };
        let Some(asked) = asked else { return };
        self.stats.decommissions += u64::from(asked.is_ok() && !(550..700).contains(&choice));
        if asked == Err(DecommissionError::ByHand) {
            self.broken("moves", None, format!("{addr} is said to be registered by hand"));
        }
        let names = [n, by].map(|n| self.nodes[n].name.clone());
        self.tell(None, || format!("operator: decommission {} {choice} {}: {asked:?}", names[0], names[1]));
    }

    /// A node is told to delete its data, and does so. Its confirmation may get lost.
    pub(crate) fn dismissed(&mut self, n: usize, conn: ConnId) {
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name} deletes what it holds, and leaves"));
        for slot in self.bits.slots() {
            let Some(config) = self.oracle.model(slot).kept.clone() else { continue };
            let counts = members(&config).any(|member| self.oracle.holder(member) == Some(n));
            if counts && !self.oracle.model(slot).is_lost {
                let what = format!("{name} is told to delete a copy that counts: {config:?}");
                return self.broken("I12", Some(slot), what);
            }
        }
        self.stats.dismissals += 1;
        if self.random.chance(700) {
            let mut bytes = Vec::new();
            NodeMessage::Cleared.encode(&mut bytes);
            self.network.send(&mut self.schedule, conn, OPENER, bytes);
        }
        self.crash_node(n, SurvivingData::Nothing);
        self.faults_after_dismissal(n);
    }

    /// A coordinator that had lost its state leads the cluster again. Every node that was leaving according to the map
    /// that it adopted must still be leaving, unless it has deleted its data.
    pub(crate) fn check_leaves(&mut self) {
        let (Some(state), Some(adopted)) = (&self.coordinator.state, self.coordinator.adopted) else { return };
        let mut kept = self.nodes.iter().filter_map(|process| process.data()?.map());
        let Some(taken_over) = kept.find(|map| map.version == adopted) else { return };
        let is_forgotten = |addr: &&NodeAddr| {
            !state.map().departures.leaving.contains(*addr)
                && !self.operator.has_taken_off(self.proc_of(addr))
                && taken_over.starts_at(addr).any(|start| self.oracle.is_somewhere(start))
        };
        if let Some(addr) = taken_over.departures.leaving.iter().find(is_forgotten) {
            let what = format!("{addr} was leaving when the coordinator lost its state, and stays");
            self.broken("moves", None, what);
        }
    }

    /// A node that has left comes back as a new one.
    fn faults_after_dismissal(&mut self, n: usize) {
        let after = if self.liveness.is_calm() { 20_000 } else { self.random.spread(50_000, 10_000_000) };
        self.liveness.node_comes_anew(self.schedule.now);
        self.schedule.after(after, Event::Remedy(Remedy::StartAnew(n)));
    }

    /// Whether a slot without a fill in progress begins one from nothing: on a node that had no copy and has not just
    /// come back with its data. A start that is over by now, and lost its data, may have come back with it.
    pub(crate) fn begins_fill(&self, before: &SlotConfig, config: &SlotConfig) -> bool {
        let keeper = |member: Incarnation| self.oracle.keeper(member);
        let is_new = |learner: &Incarnation| {
            let is_back = self.oracle.named.get(learner) == Some(&false) || self.oracle.brings_data(*learner);
            let had_copy = before.copies().any(|copy| copy == *learner || keeper(copy) == keeper(*learner));
            !is_back && !had_copy && keeper(*learner).is_some()
        };
        // A slot that has just been given a primary, as after a power cut everywhere, moves nothing.
        let moves = before.primary == config.primary;
        moves && before.learners.is_empty() && !config.learners.is_empty() && config.learners.iter().all(is_new)
    }

    /// Whether a slot whose fill does not begin from nothing with this change is being filled since then without
    /// permission: its copies are back with their data, or one of them counted until now and fell behind.
    pub(crate) fn fills_unasked(&self, map: &ClusterMap, before: &SlotConfig, config: &SlotConfig) -> bool {
        let counted = |learner: &Incarnation| before.isr.contains(learner) || before.elr.contains(learner);
        let fell_behind = config.learners.iter().any(counted) && !self.is_filled(map, before);
        has_other_learners(before, config) || fell_behind
    }

    /// Whether copies of a slot are being filled: a member is up, and not all of the new copies have just complained that
    /// they do not hear the primary.
    fn is_filled(&self, map: &ClusterMap, config: &SlotConfig) -> bool {
        let is_here = |member: &Incarnation| map.member(*member).is_some_and(|member| member.up);
        let complains = |learner: &Incarnation, primary: Incarnation| {
            let complaint = self.coordinator.complaints.get(&(primary, *learner));
            complaint.is_some_and(|at| self.coordinator_now() - *at < COMPLAINT_COUNTS)
        };
        let is_cut =
            config.primary.is_some_and(|primary| config.learners.iter().all(|learner| complains(learner, primary)));
        !config.learners.is_empty() && !is_cut && config.isr.iter().chain(&config.elr).any(is_here)
    }

    /// At most as many slots are filled at once as the operator allows. `begun` is a slot whose fill begins with this
    /// change of the map; `not_asked` others are filled without permission since this change.
    pub(crate) fn check_fills(&mut self, map: &ClusterMap, begun: Option<SlotId>, not_asked: usize) {
        let limit = self.knobs.moves_at_once as usize;
        let Some(slot) = begun.filter(|_| limit > 0 && !self.faults.state_is_lost) else { return };
        let under_way = map.slots().filter(|(_, config)| self.is_filled(map, config)).count().saturating_sub(not_asked);
        self.stats.fills_limited += u64::from(under_way == limit);
        if under_way > limit {
            let what = format!("copies of {under_way} slots are being filled, and {limit} may be");
            self.broken("moves at once", Some(slot), what);
        }
    }

    /// I12, for two successive configurations. A coordinator that has lost its state continues from what nodes had
    /// heard of, which need not be its latest state.
    pub(crate) fn check_move(&mut self, slot: SlotId, before: &SlotConfig, config: &Arc<SlotConfig>) {
        let Some(state) = self.coordinator.state.as_ref().filter(|_| !self.faults.state_is_lost) else { return };
        let is_up = |member: &Incarnation| state.map().member(*member).is_some_and(|member| member.up);
        // A member without progress is removed on its primary's proposal, and a deposed primary was lost: neither is a
        // move.
        let is_moved = |member: &Incarnation| {
            let is_deposed = before.primary == Some(*member) && config.primary != before.primary;
            !config.copies().any(|copy| copy == *member) && is_up(member) && !is_deposed
        };
        let Some(moved) = before.isr.iter().copied().find(is_moved) else { return };
        let stays = |member: Incarnation| {
            let addr = state.map().member(member).map(|member| &member.addr);
            !state.leaving().any(|(leaving, _)| Some(leaving) == addr)
        };
        let eligible = state.map().members().filter(|(member, at)| at.up && stays(*member)).count();
        let least = eligible.min(self.coordinator.replicas + 1);
        // A member that was removed on its primary's proposal by the same change was in sync when the other one was
        // moved, and still has a copy.
        let is_expelled =
            |member: &&Incarnation| !config.isr.contains(member) && config.copies().any(|copy| copy == **member);
        if config.isr.len() + before.isr.iter().filter(is_expelled).count() < least {
            let what = format!(
                "slot {}: {} is taken out, which leaves fewer than {least} in sync: {before:?} {config:?}",
                slot.0,
                moved.0 & 0xffff
            );
            self.broken("I12", Some(slot), what);
        }
    }
}

/// A description of a node that is still leaving, if there is one.
pub(crate) fn who_leaves(state: &Coordinator<Planted>) -> Option<String> {
    let (addr, slots) = state.leaving().next()?;
    Some(format!("{addr} does not come to leave, and still has {slots} slots"))
}

/// Whether copies are being filled none of which was being filled before. The old learners may have been admitted, and
/// the others have come back, in changes of the map of which only the last one is seen.
fn has_other_learners(before: &SlotConfig, config: &SlotConfig) -> bool {
    !config.learners.is_empty() && !config.learners.iter().any(|learner| before.learners.contains(learner))
}
