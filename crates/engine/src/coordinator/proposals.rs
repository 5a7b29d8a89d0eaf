//! Messages from nodes.

use std::time::Duration;

use proto::cluster_map::{MapVersion, SlotConfig};
use proto::id::{Incarnation, Version};
use proto::session::{NodeMessage, SlotAt};
use proto::slot::SlotId;

use super::{Coordinator, Phase};
use crate::bugs::{Bug, Bugs};
use crate::output::{Event, Output};
use crate::time::Timestamp;

/// How long after a proposal all slots are looked at again. Proposals made meanwhile are handled together.
pub(super) const REPLAN_PAUSE: Duration = Duration::from_millis(150);

/// What the primary of a slot reports about another node: that it has everything, or that the slot is released to it.
#[derive(Debug)]
pub(super) struct Proposal {
    from: Incarnation,
    of: Incarnation,
    /// The version of the slot's configuration that the primary follows.
    version: MapVersion,
}

impl<B: Bugs> Coordinator<B> {
    /// Handles a message from a node's session. `false` if that incarnation is not registered: it must join again.
    pub fn handle_message(&mut self, now: Timestamp, from: Incarnation, message: NodeMessage) -> bool {
        self.wake(now);
        if self.joining.contains_key(&from) && !self.confirm(now, from) {
            return false;
        }
        let Some(addr) = self.registry.addr_of(from).cloned() else { return false };
        let unproven_at = self.successors.unproven_at();
        let was_suspect = self.registry.is_suspect(now, from) || self.registry.is_unheard_since(unproven_at, from);
        self.registry.heard(now, &addr);
        self.returns.somebody_is_heard();
        // A node that is going away must not be taken in just before.
        if was_suspect && !matches!(message, NodeMessage::Stops | NodeMessage::Leave) {
            self.advance(now);
        }
        match message {
            NodeMessage::Resync => {}
            NodeMessage::Heartbeat { .. } => {
                // It may have missed the earlier message. Whoever is to be told by a state that was read waits until it
                // is known that nobody knows more.
                if self.phase == Phase::Serving && self.moved_off.contains(&from) {
                    self.outputs.push_back(Output::Dismiss(from));
                }
            }
            NodeMessage::Filling { fills } => self.fills.told(from, fills),
            NodeMessage::Cleared => self.has_cleared(now, &addr, from),
            NodeMessage::Complain { about } => {
                let is_new = self.suspicion.complaint(now, from, about);
                // IMPORTANT: a look at all slots takes long, and when many nodes start, they all complain.
                if is_new && (self.registry.is_suspect(now, about) || self.suspicion.parted(now).contains(&about)) {
                    self.advance(now);
                } else if is_new && self.phase == Phase::Serving {
                    self.replan_soon(now);
                }
            }
            NodeMessage::Full => {
                if self.reports.set_full(from, true) {
                    self.event(Event::Full(addr));
                    self.advance(now);
                }
            }
            NodeMessage::Room => {
                if self.reports.set_full(from, false) {
                    self.event(Event::Room(addr));
                    self.advance(now);
                }
            }
            NodeMessage::Memory { short } => self.reports.set_short_of_memory(from, short),
            NodeMessage::Stops => {
                if self.reports.set_stopping(from) {
                    self.event(Event::Stopping(addr));
                    self.advance(now);
                }
            }
            NodeMessage::Leave => {
                self.registry.remove(&addr);
                self.goes_away(now, &addr, false);
                self.event(Event::Left(addr));
                self.advance(now);
            }
            NodeMessage::Positions { query, last } => self.positions(now, from, query, &last),
            NodeMessage::Admit { follower, slots } => self.admit(now, from, follower, slots),
            NodeMessage::Expel { follower, slots } => self.expel(now, from, follower, &slots),
            NodeMessage::Release { to, slots } => self.released(now, from, to, slots),
        }
        true
    }

    /// A node says how far its copies of some slots stand.
    fn positions(&mut self, now: Timestamp, from: Incarnation, query: u64, last: &[(SlotId, Version)]) {
        let Some(promotion) = self.promotion.as_mut().filter(|promotion| promotion.query == query) else { return };
        promotion.answered(from, last);
        // IMPORTANT: a look at all slots takes long, and the next answer may already be here.
        if promotion.is_over(now) {
            self.advance(now);
        }
    }

    /// A primary has released slots, for `to` to lead them.
    fn released(&mut self, now: Timestamp, from: Incarnation, to: Incarnation, slots: Vec<SlotAt>) {
        slots.iter().for_each(|at| self.hand_overs.released(*at));
        let known = slots.into_iter().filter(|at| self.settings.bits.has(at.slot));
        self.releases.extend(known.map(|SlotAt { slot, version }| (slot, Proposal { from, of: to, version })));
        self.pass_on_released(now);
        if self.phase == Phase::Serving {
            self.hand_overs.go_on();
        }
    }

    /// A learner has everything. While slots move, proposals arrive in bursts, and each change of the map is work for
    /// everybody, so admissions are carried out together at the next look at all slots. If quorum writes wait for one,
    /// it is carried out immediately.
    fn admit(&mut self, now: Timestamp, from: Incarnation, follower: Incarnation, slots: Vec<SlotAt>) {
        if self.phase != Phase::Serving {
            return; // It is proposed again.
        }
        self.suspicion.hear_each_other(from, follower);
        let min_isr = self.settings.cluster_settings.min_isr();
        let mut is_awaited = false;
        for SlotAt { slot, version } in slots.into_iter().filter(|at| self.settings.bits.has(at.slot)) {
            is_awaited |= self.map.config(slot).isr.len() < min_isr;
            self.admissions.insert(slot, Proposal { from, of: follower, version });
        }
        if is_awaited {
            self.admit_waiting(now);
        }
        self.replan_soon(now);
    }

    /// Admits the learners that have everything. Each must still be the same start of the node that was filled, and
    /// must not be about to stop: another copy would be given up for one that goes away at once.
    pub(super) fn admit_waiting(&mut self, now: Timestamp) {
        let min_isr = self.settings.cluster_settings.min_isr();
        let mut changes = Vec::new();
        for (slot, Proposal { from, of: follower, version }) in std::mem::take(&mut self.admissions) {
            let known = self.registry.addr_of(follower).is_some() && !self.reports.is_stopping(follower);
            let successor = self.map.member(follower).and_then(|member| self.registry.get(&member.addr));
            let successor =
                successor.map(|node| node.incarnation).filter(|_| self.bugs.plants(Bug::StaleIncarnationAdmitted));
            let admitted = self.proposed(from, SlotAt { slot, version }, |config| {
                let follower = successor.unwrap_or(follower);
                let was_copy = config.learners.contains(&follower) || config.elr.contains(&follower);
                if !(was_copy && (known || successor.is_some())) {
                    return None;
                }
                config.learners.retain(|learner| *learner != follower);
                config.elr.retain(|member| *member != follower);
                config.isr.push(follower);
                if config.isr.len() >= min_isr {
                    // They remain copies, but need not have what becomes durable from now on.
                    config.learners.append(&mut config.elr);
                }
                Some(())
            });
            changes.extend(admitted.map(|next| (slot, next)));
        }
        if !changes.is_empty() {
            self.hand_overs.map_changes(now);
            self.commit(changes);
        }
    }

    /// Gives released slots to the members that they were released to. A suspected member would be replaced at once, so
    /// its slots wait until it is heard from again.
    pub(super) fn pass_on_released(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Serving => {}
            Phase::Restored(_) => return, // In a moment.
            Phase::Fresh | Phase::Gathering(_) | Phase::Recovering => return self.releases.clear(),
        }
        let mut changes = Vec::new();
        for (slot, Proposal { from, of: to, version }) in std::mem::take(&mut self.releases) {
            let given = self.proposed(from, SlotAt { slot, version }, |config| {
                let in_sync = self.registry.addr_of(to).is_some() && config.isr.contains(&to);
                in_sync.then(|| config.primary = Some(to))
            });
            if given.is_some() {
                self.suspicion.leads(to);
            }
            match given {
                Some(_) if self.registry.is_suspect(now, to) => {
                    self.releases.insert(slot, Proposal { from, of: to, version });
                }
                Some(next) => changes.push((slot, next)),
                None => {}
            }
        }
        if !changes.is_empty() {
            self.commit(changes);
            self.replan_soon(now);
        }
    }

    /// A member makes no progress. If the follower is not a member, the primary is withdrawing a proposed admission:
    /// the version of the configuration advances, so that an admission in flight comes too late.
    ///
    /// Where the primary turns out to be the one that is cut off, the members stay in the set, for one of them to lead.
    fn expel(&mut self, now: Timestamp, from: Incarnation, follower: Incarnation, slots: &[SlotAt]) {
        let min_isr = self.settings.cluster_settings.min_isr();
        self.suspicion.expels(now, from, follower);
        let view = self.view(now);
        let is_cut_off = |at: &SlotAt| self.proposed(from, *at, |config| view.is_cut_off(config, from).then_some(()));
        if self.promotion.is_none() && view.parted.contains(&from) && slots.iter().any(|at| is_cut_off(at).is_some()) {
            self.advance(now);
        }
        self.propose(now, from, slots, |config| {
            if view.is_cut_off(config, from) || follower == from || !config.copies().any(|copy| copy == follower) {
                return None;
            }
            if let Some(member) = config.isr.iter().position(|member| *member == follower) {
                config.isr.remove(member);
                let remembers = config.isr.len() < min_isr;
                if remembers { config.elr.push(follower) } else { config.learners.push(follower) }
            }
            Some(())
        });
    }

    /// Commits a change of individual slots that their primary asks for.
    fn propose(
        &mut self,
        now: Timestamp,
        from: Incarnation,
        slots: &[SlotAt],
        change: impl Fn(&mut SlotConfig) -> Option<()>,
    ) {
        let changed = |at: &SlotAt| Some((at.slot, self.proposed(from, *at, &change)?));
        let changes: Vec<_> = slots.iter().filter_map(changed).collect();
        if self.phase == Phase::Serving && !changes.is_empty() {
            self.commit(changes);
            self.replan_soon(now);
        }
    }

    /// The result of such a change for one slot: compare-and-set on the version of its configuration.
    fn proposed(
        &self,
        from: Incarnation,
        SlotAt { slot, version }: SlotAt,
        change: impl Fn(&mut SlotConfig) -> Option<()>,
    ) -> Option<SlotConfig> {
        if usize::from(slot.0) >= self.settings.bits.count() {
            return None;
        }
        let config = self.map.config(slot);
        let is_current = config.version == version || self.bugs.plants(Bug::StaleIncarnationAdmitted);
        if !is_current || config.primary != Some(from) {
            return None;
        }
        let mut next = SlotConfig::clone(config);
        change(&mut next).map(|()| next)
    }

    /// Schedules a look at all slots. Proposals arrive in bursts and each look covers all slots, so the consequences
    /// can wait.
    fn replan_soon(&mut self, now: Timestamp) {
        self.replan_at = Some(self.replan_at.unwrap_or(now + REPLAN_PAUSE));
    }
}
