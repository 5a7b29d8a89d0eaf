//! How a coordinator gets its first map: it gathers the maps that nodes bring and continues from that of the cluster
//! that most of the nodes belong to, or sets up a new cluster if they bring none. And what it does if it turns out to have
//! continued from an older state, and another coordinator from the same.

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

/// How many numbers one start of a coordinator can issue.
const NUMBERS: u64 = 1 << 24;

/// The distance between generations. Each start of a coordinator is of a higher one than that which it continues from,
/// and takes its numbers from one of 8,192 parts of it, chosen at random. So two starts that continue from the same map
/// hardly ever issue the same.
const GENERATION: u64 = NUMBERS << 13;

/// The distance to the next generation if a node was not waited for: it may know of some that nobody else has heard of.
const UNSEEN_GENERATIONS: u64 = GENERATION << 10;

/// For this many starts of a coordinator with its state, it is known which numbers each has passed over.
const KNOWN_STARTS: usize = 100;

/// A start of the coordinator with its state. If that was an older one, another coordinator has continued from it, too,
/// with numbers that this one has passed over or with others of the same generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The version that it continued from.
    pub(super) after: MapVersion,
    /// The first number of its own.
    pub(super) first: MapVersion,
}

/// A map brought by nodes of one cluster.
#[derive(Debug)]
pub(super) struct Offer {
    /// The newest map that any of them has.
    pub(super) map: ClusterMap,
    pub(super) holders: BTreeSet<Incarnation>,
    /// Everyone named in any of their maps.
    named: BTreeMap<Incarnation, NodeAddr>,
}

impl Start {
    fn has_passed_over(self, version: MapVersion) -> bool {
        self.after < version && version < self.first
    }

    /// Whether a start that has issued a version which this coordinator does not know parted from it before this start.
    fn is_behind(self, version: MapVersion) -> bool {
        let is_another = self.first.0 / NUMBERS != version.0 / NUMBERS;
        is_another && self.first.0 / GENERATION >= version.0 / GENERATION
    }
}

/// All versions that a map has.
fn versions(map: &ClusterMap) -> impl Iterator<Item = MapVersion> {
    map.slots().map(|(_, config)| config.version).chain([map.version])
}

impl Offer {
    fn new(map: ClusterMap) -> Self {
        Self { map, holders: BTreeSet::new(), named: BTreeMap::new() }
    }
}

impl<B: Bugs> Coordinator<B> {
    /// Creates the first map of a new cluster: no data exists, so every target node holds its slots at once. Addresses
    /// registered by hand hold none together with nodes.
    fn set_up(&mut self) {
        let targets = self.targets();
        let by_hand: BTreeSet<_> =
            self.registry.iter().filter(|(_, it)| it.by_hand).map(|(_, it)| it.incarnation).collect();
        let held_by = |target: &[Incarnation]| {
            let nodes: Vec<_> = target.iter().copied().filter(|node| !by_hand.contains(node)).collect();
            plan::held_by(if nodes.is_empty() { target } else { &nodes })
        };
        let slots = self.settings.bits.slots();
        let changes = slots.zip(targets.iter()).map(|(slot, target)| (slot, held_by(target))).collect();
        self.phase = Phase::Serving;
        self.commit(changes);
        self.event(Event::Serving(self.map.version));
    }

    /// Continues from a map that was taken over, above every number that its nodes can have seen. Each slot gets a new
    /// epoch, so that changes that the previous coordinator made unseen by any node that is back have no effect.
    pub(super) fn start_generation(&mut self) {
        let distance = if std::mem::take(&mut self.has_forgotten) { UNSEEN_GENERATIONS } else { GENERATION };
        self.next_generation(distance);
        self.own = None;
        self.starts.clear();
        let version = MapVersion(self.next_number());
        for slot in self.settings.bits.slots() {
            let before = Arc::clone(self.map.config(slot));
            let next = SlotConfig { epoch: Epoch(version.0), version, ..SlotConfig::clone(&before) };
            self.note_relied_on(slot, &before, &next);
            self.map.set_config(slot, Arc::new(next));
        }
        self.map.set_version(version);
        self.map.cluster_settings = self.settings.cluster_settings;
        self.phase = Phase::Serving;
        self.publish();
        self.event(Event::Serving(version));
    }

    /// Continues from a state that was read. If it is an older one, another coordinator has continued from it, too.
    pub(super) fn continue_from_state(&mut self) {
        if self.bugs.plants(Bug::NumbersShared) {
            self.counter = self.map.version.0;
            return;
        }
        self.next_generation(GENERATION);
        let after = self.map.version;
        self.starts.retain(|start| start.first <= after);
        self.starts.push(Start { after, first: MapVersion(self.counter + 1) });
        let forgotten = self.starts.len().saturating_sub(KNOWN_STARTS);
        self.starts.drain(..forgotten);
    }

    fn next_generation(&mut self, distance: u64) {
        let part = u64::from(self.settings.incarnations) * NUMBERS % GENERATION;
        self.counter = self.counter.max(self.map.version.0).next_multiple_of(distance) + part;
    }

    /// Notes that a slot has got another primary or in-sync set, if quorum writes may rely on that.
    pub(super) fn note_relied_on(&mut self, slot: SlotId, before: &SlotConfig, next: &SlotConfig) {
        let is_another = before.epoch != next.epoch || before.isr != next.isr;
        if is_another
            && next.isr.len() >= self.settings.cluster_settings.min_isr()
            && let Some(version) = self.relied_on.get_mut(usize::from(slot.0))
        {
            *version = next.version;
        }
    }

    /// Whether a map of this cluster has changes that are unknown to this coordinator, whose own map is `known`.
    fn knows_more(&self, held: &ClusterMap, known: &ClusterMap) -> bool {
        let is_unknown = |(slot, held): (SlotId, &Arc<SlotConfig>)| {
            let known = known.config(slot);
            held.version > known.version || (held.version == known.version && held != known)
        };
        versions(held).any(|version| !self.is_known(version, known)) || held.slots().any(is_unknown)
    }

    /// Whether this coordinator, whose map is `known`, continues from this version or has issued it.
    fn is_known(&self, version: MapVersion, known: &ClusterMap) -> bool {
        version <= known.version && !self.starts.iter().any(|start| start.has_passed_over(version))
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
                "the node belongs to cluster {}, this coordinator leads cluster {}; start the node with its own \
                 coordinator, or start it empty",
                held.cluster, self.map.cluster
            )));
        }
        if self.phase == Phase::Recovering {
            let named = held.members().filter(|(named, _)| self.map.member(*named).is_none());
            let named: Vec<_> = named.map(|(named, member)| (named, member.addr.clone())).collect();
            self.await_all(named.into_iter());
            let is_news = self.own.as_ref().is_none_or(|own| self.knows_more(&held, own));
            if held.version > self.map.version && is_news {
                self.take_over(now, held);
            }
        } else if self.knows_more(&held, &self.map) && !self.bugs.plants(Bug::OldStateTrusted) {
            self.begin_anew_from(now, held);
        }
        Ok(())
    }

    /// Whether all nodes that were up when the state was saved have reported what they know. If there were none, others
    /// may come.
    pub(super) fn all_have_told(&self) -> bool {
        !self.registry.is_empty() && self.registry.incarnations().into_iter().all(|node| self.has_told(node))
    }

    /// Continues from the state that was read. No node that is back knows more.
    pub(super) fn go_on(&mut self) {
        self.phase = Phase::Serving;
        self.event(Event::Serving(self.map.version));
        if self.map.cluster_settings != self.settings.cluster_settings {
            self.map.cluster_settings = self.settings.cluster_settings;
            self.commit(Vec::new());
        }
    }

    /// A node knows of changes that this coordinator has forgotten: the state that it was started with is an older one.
    /// It continues as if it had lost its state, since otherwise it would reissue versions and epochs.
    fn begin_anew_from(&mut self, now: Timestamp, held: ClusterMap) {
        self.event(Event::Outdated { known: self.map.version, held: held.version });
        (self.promotion, self.replan_at, self.awaits_settling) = (None, None, false);
        self.handing_over.clear();
        self.admissions.clear();
        self.releases.clear();
        self.moved_off.clear();
        // A node that has not come back yet may be known to the newer map by another start.
        let unheard: Vec<_> = self.registry.iter().filter(|(_, node)| !self.has_told(node.incarnation)).collect();
        let unheard: Vec<_> = unheard.into_iter().map(|(addr, _)| addr.clone()).collect();
        for addr in unheard {
            self.registry.remove(&addr);
            self.goes_away(now, &addr, false);
        }
        let named = [&self.map, &held].into_iter().flat_map(ClusterMap::members);
        let named: Vec<_> = named.map(|(incarnation, member)| (incarnation, member.addr.clone())).collect();
        self.own = Some(self.map.clone());
        self.recover(now, held, named.into_iter());
    }

    /// After another coordinator's map was taken over that has changes unknown to this one: keeps what this one has
    /// decided since the two parted, in slots that the other has not changed, and where it may have been relied on.
    ///
    /// IMPORTANT: a quorum write may have been acknowledged by an in-sync set of its own that was large enough, also if
    /// it is smaller now, and whoever knows more was not in it. A set that both have in common is not its own.
    fn keep_own(&mut self) {
        let Some(own) = &self.own else { return };
        let parted_at = self.parted_at(own);
        let is_kept = |(slot, config): &(SlotId, &Arc<SlotConfig>)| {
            let may_hold_writes = if self.bugs.plants(Bug::OwnJudgedBySize) {
                config.isr.len() >= own.cluster_settings.min_isr()
            } else {
                self.relied_on.get(usize::from(slot.0)).is_some_and(|version| *version > parted_at)
            };
            config.version > parted_at && (may_hold_writes || self.map.config(*slot).version <= parted_at)
        };
        let kept: Vec<_> = own.slots().filter(is_kept).map(|(slot, config)| (slot, Arc::clone(config))).collect();
        let mut members: BTreeMap<_, _> = self.map.members().map(|(start, member)| (start, member.clone())).collect();
        for start in kept.iter().flat_map(|(_, config)| config.copies().chain(config.primary)) {
            if let Some(member) = own.member(start) {
                members.entry(start).or_insert_with(|| member.clone());
            }
        }
        kept.into_iter().for_each(|(slot, config)| self.map.set_config(slot, config));
        self.map.set_members(members);
    }

    /// The last version that the map of another coordinator, which was taken over, has in common with this one's own, as
    /// far as can be told.
    fn parted_at(&self, own: &ClusterMap) -> MapVersion {
        let (known, unknown): (Vec<_>, Vec<_>) = versions(&self.map).partition(|version| self.is_known(*version, own));
        let start_before = |version: MapVersion| self.starts.iter().find(|start| start.is_behind(version));
        let before_a_start = unknown.into_iter().filter_map(|version| Some(start_before(version)?.after)).min();
        // Otherwise it has been started more often than this one.
        let last_start = self.starts.last().map(|start| start.after);
        before_a_start.or_else(|| known.into_iter().chain(last_start).max()).unwrap_or_default()
    }

    /// Whether a start has reported what it knows. An address registered by hand need not run any of our programs.
    fn has_told(&self, node: Incarnation) -> bool {
        self.reported.contains(&node) || self.registry.is_by_hand(node)
    }

    /// The gathering time is over. If nodes have brought maps, the cluster that most of them belong to continues. Nodes
    /// of another cluster have come to the wrong coordinator, and are told so when they join again.
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
        self.recover(now, chosen.map, chosen.named.into_iter());
    }

    /// Takes a map over, and changes nothing until all these nodes have reported what they know.
    fn recover(&mut self, now: Timestamp, held: ClusterMap, named: impl Iterator<Item = (Incarnation, NodeAddr)>) {
        self.phase = Phase::Recovering;
        self.take_over(now, held);
        self.await_all(named);
        if !self.awaited.is_empty() {
            self.event(Event::Awaiting(self.awaited()));
        }
    }

    /// Waits until these have reported what they know, unless they already have.
    fn await_all(&mut self, named: impl Iterator<Item = (Incarnation, NodeAddr)>) {
        let silent: Vec<_> = named.filter(|(node, _)| !self.has_told(*node)).collect();
        self.awaited.extend(silent);
        self.await_no_successor();
    }

    /// Stops waiting for a node that the newest map does not name and whose address has a successor: it holds no part
    /// of any slot, and any newer map it had, its successor would have. An address registered by hand is no successor.
    pub(super) fn await_no_successor(&mut self) {
        let (map, registry) = (&self.map, &self.registry);
        let has_successor = |addr: &NodeAddr| registry.get(addr).is_some_and(|node| !node.by_hand);
        self.awaited.retain(|awaited, addr| map.member(*awaited).is_some() || !has_successor(addr));
    }

    /// Adopts the map of an earlier coordinator of this cluster, including the departures it ordered, except for nodes
    /// that have reported deleting what they held.
    fn take_over(&mut self, now: Timestamp, held: ClusterMap) {
        self.event(Event::Adopted(held.version));
        self.map = held;
        self.keep_own();
        self.counter = self.counter.max(self.map.version.0);
        if !self.bugs.plants(Bug::LeaveForgotten) {
            self.departures.clone_from(&self.map.departures);
        }
        for (incarnation, member) in self.map.members() {
            if self.unregistered.contains(&incarnation) {
                self.departures.leaving.remove(&member.addr);
            }
        }
        // This map may know a node that has already joined by an earlier start.
        let here: Vec<_> = self.registry.iter().map(|(addr, node)| (addr.clone(), node.incarnation)).collect();
        for (addr, incarnation) in here {
            let ancestors = self.ancestors.get(&incarnation).cloned().unwrap_or_default();
            self.replace_at(now, &addr, incarnation, &ancestors);
            self.is_back(&addr);
        }
    }
}
