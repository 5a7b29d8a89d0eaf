//! How a coordinator gets its first map: it gathers the maps that nodes bring and continues from that of the cluster
//! that most of the nodes belong to, or sets up a new cluster if they bring none.

use std::sync::Arc;

use proto::cluster_map::{ClusterMap, SlotConfig};
use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::limits;

use super::{Coordinator, GATHERING, Phase};
use crate::bugs::{Bug, Bugs};
use crate::output::{Event, Output};
use crate::plan;
use crate::time::Timestamp;

impl<B: Bugs> Coordinator<B> {
    /// Creates the first map of a new cluster: no data exists, so every target node holds its slots at once.
    fn set_up(&mut self) {
        let targets = self.targets();
        let slots = self.settings.bits.slots();
        let changes = slots.zip(targets.iter()).map(|(slot, target)| (slot, plan::held_by(target))).collect();
        self.phase = Phase::Serving;
        self.commit(changes);
        self.event(Event::Serving(self.map.version));
    }

    /// Considers the map that a joining node holds. Until a decision is made it is one offer among others; later it
    /// must belong to this cluster.
    pub(super) fn consider(
        &mut self,
        now: Timestamp,
        held: ClusterMap,
        holder: Option<Incarnation>,
    ) -> Result<(), ErrorReply> {
        if held.version.0 > limits::COUNTER / 2 {
            return Err(ErrorReply::NotPeer(
                "the version of the node's map is higher than any cluster can reach".to_owned(),
            ));
        }
        if held.bits() != self.settings.bits {
            return Err(ErrorReply::NotPeer("the node's cluster uses a different number of slots".to_owned()));
        }
        if matches!(self.phase, Phase::Fresh | Phase::Gathering(_)) || !self.joined_once {
            self.recovery.offer(held, holder);
            if !matches!(self.phase, Phase::Gathering(_)) {
                self.phase = Phase::Gathering(now + GATHERING);
            }
            return Ok(());
        }
        if held.cluster != self.map.cluster {
            return Err(ErrorReply::NotPeer(format!(
                "the node belongs to cluster {}, this coordinator leads cluster {}; start the node with its own \
                 coordinator, or start it empty",
                held.cluster, self.map.cluster
            )));
        }
        if self.phase == Phase::Recovering {
            let named = held.members().filter(|(named, _)| self.map.member(*named).is_none());
            let named: Vec<_> = named.map(|(named, member)| (named, member.addr.clone())).collect();
            self.recovery.await_all(named.into_iter(), &self.map, &self.registry);
            if held.version > self.map.version && self.versions.is_news(&held) {
                self.take_over(now, held);
            }
        } else if self.versions.knows_more(&held, &self.map) && !self.bugs.plants(Bug::OldStateTrusted) {
            self.begin_anew_from(now, held);
        }
        Ok(())
    }

    /// Continues from the state that was read. No node that is back knows more.
    pub(super) fn go_on(&mut self, now: Timestamp) {
        self.phase = Phase::Serving;
        self.event(Event::Serving(self.map.version));
        if self.map.cluster_settings != self.settings.cluster_settings {
            // IMPORTANT: from now on, since a node that is cut off at this moment has not heard of it.
            self.registry.honor(now, self.map.cluster_settings.heartbeat_timeout);
            self.map.cluster_settings = self.settings.cluster_settings;
            self.commit(Vec::new());
        }
    }

    /// A node knows of changes that this coordinator has forgotten: the state that it was started with is an older one.
    /// It continues as if it had lost its state, since otherwise it would reissue versions and epochs.
    fn begin_anew_from(&mut self, now: Timestamp, held: ClusterMap) {
        self.event(Event::Outdated { known: self.map.version, held: held.version });
        (self.promotion, self.replan_at) = (None, None);
        self.hand_overs.clear();
        self.admissions.clear();
        self.releases.clear();
        self.moved_off.clear();
        // A node that has not come back yet may be known to the newer map by another start.
        let has_told = |node| self.recovery.has_told(node, &self.registry);
        let unheard = self.registry.iter().filter(|(_, node)| !has_told(node.incarnation));
        let unheard: Vec<_> = unheard.map(|(addr, _)| addr.clone()).collect();
        for addr in unheard {
            self.registry.remove(&addr);
            self.goes_away(now, &addr, false);
        }
        // IMPORTANT: also those that only the outdated map names, whether or not they have left since: one of them may
        // have led in a later map than anybody present knows, after others were given up. Only an operator can tell.
        let named = [&self.map, &held].into_iter().flat_map(ClusterMap::members);
        let named: Vec<_> = named.map(|(incarnation, member)| (incarnation, member.addr.clone())).collect();
        // IMPORTANT: a primary with too few copies in sync counts on this coordinator's answers to go on serving, in a role
        // that is not its own any more. Nobody is confirmed in it from now on, and no other leads until it is given up.
        let nodes = self.registry.iter().filter(|(_, node)| !node.by_hand).map(|(_, node)| node.incarnation);
        self.outputs.extend(nodes.map(Output::CloseSession));
        let settings = [self.map.cluster_settings, held.cluster_settings, self.settings.cluster_settings];
        for settings in &settings {
            self.registry.honor(now, settings.heartbeat_timeout);
        }
        let is_small = |config: &SlotConfig| settings.iter().any(|settings| settings.is_small(config.isr.len()));
        if self.map.slots().any(|(_, config)| config.primary.is_some() && is_small(config)) {
            // All of it: a primary counts on less, by as much as two clocks may differ. Those of the map that is taken over
            // are in its configurations, and are not given up any sooner either.
            self.recovery.note_counted_on(now + self.registry.timeout_at(now));
        }
        self.versions.part_from(self.map.clone());
        self.recover(now, held, named.into_iter());
        // Its nodes have not had the time to report yet.
        self.recovery.schedule_report(now + GATHERING);
    }

    /// The gathering time is over. If nodes have brought maps, the cluster that most of them belong to continues. Nodes
    /// of another cluster have come to the wrong coordinator, and are told so when they join again.
    pub(super) fn decide(&mut self, now: Timestamp) {
        let Some((chosen, others)) = self.recovery.choose() else { return self.set_up() };
        for stranger in others.into_iter().flat_map(|offer| offer.holders) {
            if let Some(addr) = self.registry.addr_of(stranger).cloned() {
                self.registry.remove(&addr);
                self.ring.remove(&addr);
                self.outputs.push_back(Output::CloseSession(stranger));
            }
        }
        self.recover(now, chosen.map, chosen.named.into_iter());
        self.recovery.schedule_report(now);
    }

    /// Takes a map over, and changes nothing until all these nodes have reported what they know.
    fn recover(&mut self, now: Timestamp, held: ClusterMap, named: impl Iterator<Item = (Incarnation, NodeAddr)>) {
        self.phase = Phase::Recovering;
        self.take_over(now, held);
        self.recovery.await_all(named, &self.map, &self.registry);
    }

    /// Adopts the map of an earlier coordinator of this cluster, including the departures it ordered, except for nodes
    /// that have reported deleting what they held.
    fn take_over(&mut self, now: Timestamp, held: ClusterMap) {
        self.event(Event::Adopted(held.version));
        self.registry.honor(now, held.cluster_settings.heartbeat_timeout);
        self.map = held;
        self.versions.keep_own(&mut self.map, self.bugs);
        self.versions.pass(self.map.version);
        if !self.bugs.plants(Bug::LeaveForgotten) {
            self.departures.clone_from(&self.map.departures);
        }
        for (incarnation, member) in self.map.members() {
            if self.rejections.is_unregistered(incarnation) {
                self.departures.leaving.remove(&member.addr);
            }
        }
        // This map may know a node that has already joined by an earlier start.
        let here: Vec<_> = self.registry.iter().map(|(addr, node)| (addr.clone(), node.incarnation)).collect();
        for (addr, incarnation) in here {
            let ancestors = self.recovery.ancestors_of(incarnation);
            self.replace_at(now, &addr, incarnation, &ancestors);
            self.is_back(&addr);
        }
    }

    /// Continues from a map that was taken over, above every number that its nodes can have seen. Each slot gets a new
    /// epoch, so that changes that the previous coordinator made unseen by any node that is back have no effect.
    pub(super) fn start_generation(&mut self, now: Timestamp) {
        self.registry.honor(now, self.map.cluster_settings.heartbeat_timeout);
        let version = self.versions.continue_from_nodes(self.map.version, self.recovery.complete());
        for slot in self.settings.bits.slots() {
            let before = Arc::clone(self.map.config(slot));
            let next = SlotConfig { epoch: Epoch(version.0), version, ..SlotConfig::clone(&before) };
            self.versions.note_relied_on(slot, &before, &next);
            self.map.set_config(slot, Arc::new(next));
        }
        self.map.version = version;
        self.map.cluster_settings = self.settings.cluster_settings;
        self.phase = Phase::Serving;
        self.publish();
        self.event(Event::Serving(version));
    }
}
