//! How a coordinator comes to its first map: it gathers what maps the nodes bring, and goes on from that of the cluster
//! that most of them are of, or sets a new cluster up where they bring none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapVersion, SlotConfig};
use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::limits;
use proto::slot::SlotId;

use super::{Coordinator, GATHERING, Phase};
use crate::bugs::{Bug, Bugs};
use crate::output::{Event, Output};
use crate::plan;
use crate::time::Timestamp;

/// How far apart generations are. No coordinator makes so many changes unseen by every node.
const GENERATION: u64 = 1 << 20;

/// A map that nodes have brought.
#[derive(Debug)]
pub(super) struct Offer {
    /// The newest that any of them has.
    pub(super) map: ClusterMap,
    pub(super) holders: BTreeSet<Incarnation>,
    /// Everyone who is named in any of them.
    named: BTreeMap<Incarnation, NodeAddr>,
}

/// Whether a map tells of changes that another of its cluster lacks. Both may have gone on from one that came before.
fn knows_more(held: &ClusterMap, known: &ClusterMap) -> bool {
    let is_unknown = |(slot, held): (SlotId, &Arc<SlotConfig>)| {
        let known = known.config(slot);
        held.version > known.version || (held.version == known.version && held != known)
    };
    held.version > known.version || held.slots().any(is_unknown)
}

impl Offer {
    fn new(map: ClusterMap) -> Self {
        Self { map, holders: BTreeSet::new(), named: BTreeMap::new() }
    }
}

impl<B: Bugs> Coordinator<B> {
    /// The first map of a new cluster: nobody holds anything, so everyone holds his slots at once.
    fn set_up(&mut self) {
        let targets = self.targets();
        let slots = self.settings.bits.slots();
        let changes = slots.zip(targets.iter()).map(|(slot, target)| (slot, plan::held_by(target))).collect();
        self.phase = Phase::Serving;
        self.commit(changes);
        self.event(Event::Serving(self.map.version));
    }

    /// Goes on from a map that was taken over, above every number that its nodes can have seen. Each slot gets a new
    /// epoch, so that whatever the coordinator before had changed unseen by any node that is back has no effect.
    pub(super) fn start_generation(&mut self) {
        self.counter = self.counter.max(self.map.version.0).next_multiple_of(GENERATION);
        let version = MapVersion(self.next_number());
        for slot in self.settings.bits.slots() {
            let config = SlotConfig::clone(self.map.config(slot));
            self.map.set_config(slot, Arc::new(SlotConfig { epoch: Epoch(version.0), version, ..config }));
        }
        self.map.set_version(version);
        self.map.promises = self.settings.promises;
        self.phase = Phase::Serving;
        self.publish();
        self.event(Event::Serving(version));
    }

    /// Looks at the map that a joining node holds. While nothing is decided it is one offer among others; later it must be
    /// of this cluster.
    pub(super) fn consider(
        &mut self,
        now: Timestamp,
        held: ClusterMap,
        holder: Option<Incarnation>,
    ) -> Result<(), ErrorReply> {
        if held.version.0 > limits::COUNTER / 2 {
            return Err(ErrorReply::NotPeer(
                "the version of the node's map is beyond any that a cluster reaches".to_owned(),
            ));
        }
        if held.bits() != self.settings.bits {
            return Err(ErrorReply::NotPeer("the node's cluster cuts its slots in another way".to_owned()));
        }
        if matches!(self.phase, Phase::Fresh | Phase::Gathering(_)) || !self.joined_once {
            let offer = self.offers.entry(held.cluster.clone()).or_insert_with(|| Offer::new(held.clone()));
            offer.holders.extend(holder);
            offer.named.extend(held.members().map(|(incarnation, member)| (incarnation, member.addr.clone())));
            if held.version > offer.map.version {
                offer.map = held;
            }
            if !matches!(self.phase, Phase::Gathering(_)) {
                self.phase = Phase::Gathering(now + GATHERING);
            }
            return Ok(());
        }
        if held.cluster != self.map.cluster {
            return Err(ErrorReply::NotPeer(format!(
                "the node belongs to cluster {}, this coordinator leads cluster {}; start the node with another \
                 coordinator, or start it anew",
                held.cluster, self.map.cluster
            )));
        }
        if self.phase == Phase::Recovering {
            let named = held.members().filter(|(named, _)| self.map.member(*named).is_none());
            let named: Vec<_> = named.map(|(named, member)| (named, member.addr.clone())).collect();
            self.await_all(named.into_iter());
            if held.version > self.map.version {
                self.take_over(now, held);
            }
        } else if knows_more(&held, &self.map) && !self.bugs.plants(Bug::OldStateTrusted) {
            self.begin_anew_from(now, held);
        }
        Ok(())
    }

    /// Whether all nodes that were up when the state was kept have told what they know. Where there was none, others may come.
    pub(super) fn all_have_told(&self) -> bool {
        !self.registry.is_empty() && self.registry.incarnations().into_iter().all(|node| self.has_told(node))
    }

    /// Goes on from the state that was read. No node that is back knows more.
    pub(super) fn go_on(&mut self) {
        self.phase = Phase::Serving;
        self.event(Event::Serving(self.map.version));
        if self.map.promises != self.settings.promises {
            self.map.promises = self.settings.promises;
            self.commit(Vec::new());
        }
    }

    /// A node knows of changes that this coordinator has forgotten: the state that it was started with is an older one. It goes
    /// on as one that has lost its state, since it would give out versions and epochs again that were given out.
    fn begin_anew_from(&mut self, now: Timestamp, held: ClusterMap) {
        self.event(Event::Outdated { known: self.map.version, held: held.version });
        (self.promotion, self.replan_at, self.awaits_settling) = (None, None, false);
        self.handing_over.clear();
        self.admissions.clear();
        self.releases.clear();
        // Who has not come yet may be known to the newer map by another start.
        let unheard: Vec<_> = self.registry.iter().filter(|(_, node)| !self.has_told(node.incarnation)).collect();
        let unheard: Vec<_> = unheard.into_iter().map(|(addr, _)| addr.clone()).collect();
        for addr in unheard {
            self.registry.remove(&addr);
            self.goes_away(now, &addr, false);
        }
        let named = [&self.map, &held].into_iter().flat_map(ClusterMap::members);
        let named: Vec<_> = named.map(|(incarnation, member)| (incarnation, member.addr.clone())).collect();
        self.phase = Phase::Recovering;
        self.take_over(now, held);
        self.await_all(named.into_iter());
        if !self.awaited.is_empty() {
            self.event(Event::Awaiting(self.awaited()));
        }
    }

    /// Whether a start has told what it knows. Nothing of ours need be behind an address that was registered by hand.
    fn has_told(&self, node: Incarnation) -> bool {
        self.reported.contains(&node) || self.registry.is_by_hand(node)
    }

    /// The time to gather is over. Where nodes have brought maps, the cluster of most of them goes on; nodes of another
    /// cluster have come to the wrong coordinator, and hear so when they join again.
    pub(super) fn decide(&mut self, now: Timestamp) {
        let mut offers: Vec<Offer> = std::mem::take(&mut self.offers).into_values().collect();
        offers.sort_by_key(|offer| (offer.holders.len(), offer.map.version));
        let Some(chosen) = offers.pop() else { return self.set_up() };
        for stranger in offers.into_iter().flat_map(|offer| offer.holders) {
            if let Some(addr) = self.registry.addr_of(stranger).cloned() {
                self.registry.remove(&addr);
                self.ring.remove(&addr);
                self.event(Event::Stranger(addr));
                self.outputs.push_back(Output::CloseSession(stranger));
            }
        }
        self.phase = Phase::Recovering;
        self.take_over(now, chosen.map);
        self.await_all(chosen.named.into_iter());
        if !self.awaited.is_empty() {
            self.event(Event::Awaiting(self.awaited()));
        }
    }

    /// Waits for these to tell what they know, unless they have.
    fn await_all(&mut self, named: impl Iterator<Item = (Incarnation, NodeAddr)>) {
        let silent: Vec<_> = named.filter(|(node, _)| !self.has_told(*node)).collect();
        self.awaited.extend(silent);
        self.await_no_successor();
    }

    /// Nobody is waited for whom the newest map does not name and who has a successor at its address: it holds nothing of
    /// any slot, and whatever newer map it may have had, its successor would have.
    pub(super) fn await_no_successor(&mut self) {
        let (map, registry) = (&self.map, &self.registry);
        self.awaited.retain(|awaited, addr| map.member(*awaited).is_some() || registry.get(addr).is_none());
    }

    /// Goes by the map of an earlier coordinator of this cluster, and has leave whom that had leave, unless it has told that
    /// it has deleted what it held.
    fn take_over(&mut self, now: Timestamp, held: ClusterMap) {
        self.event(Event::Adopted(held.version));
        self.map = held;
        self.counter = self.counter.max(self.map.version.0);
        if !self.bugs.plants(Bug::LeaveForgotten) {
            self.departures.clone_from(&self.map.departures);
        }
        for (incarnation, member) in self.map.members() {
            if self.unregistered.contains(&incarnation) {
                self.departures.leaving.remove(&member.addr);
            }
        }
        // Who has joined already may be known to this map by an earlier start.
        let here: Vec<_> = self.registry.iter().map(|(addr, node)| (addr.clone(), node.incarnation)).collect();
        for (addr, incarnation) in here {
            let ancestors = self.ancestors.get(&incarnation).cloned().unwrap_or_default();
            self.replace_at(now, &addr, incarnation, &ancestors);
            self.is_back(&addr);
        }
    }
}
