//! How a coordinator without a state, or with an old one, finds out what its cluster knows: which maps nodes have
//! brought, who has reported, and who is still waited for.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::ClusterMap;
use proto::id::{Incarnation, NodeAddr};
use proto::session::Ancestors;

use crate::bugs::{Bug, Bugs};
use crate::registry::Registry;
use crate::time::Timestamp;

/// A map brought by nodes of one cluster.
#[derive(Debug)]
pub(super) struct Offer {
    /// The newest map that any of them has.
    pub(super) map: ClusterMap,
    pub(super) holders: BTreeSet<Incarnation>,
    /// Everyone named in any of their maps.
    pub(super) named: BTreeMap<Incarnation, NodeAddr>,
}

impl Offer {
    fn new(map: ClusterMap) -> Self {
        Self { map, holders: BTreeSet::new(), named: BTreeMap::new() }
    }

    /// The cluster that most of the nodes belong to continues.
    fn rank(&self) -> impl Ord + use<> {
        (self.holders.len(), self.map.version)
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// The maps that nodes brought while gathering, by cluster name.
    offers: BTreeMap<String, Offer>,
    /// Every start that has joined, and those whose data it found: what they know has been reported.
    reported: BTreeSet<Incarnation>,
    /// What restarted nodes found on their disks. A map that is taken over may know them by an earlier start.
    ancestors: BTreeMap<Incarnation, Ancestors>,
    /// While a map is taken over: who is named in any map that was brought and has not reported what it knows.
    awaited: BTreeMap<Incarnation, NodeAddr>,
    /// When to report who of these is still missing.
    report_awaited_at: Option<Timestamp>,
    /// An operator has said not to wait for one of them.
    has_forgotten: bool,
    /// Until when a primary may count on an answer to a heartbeat that was given before the state turned out to be an
    /// older one.
    counted_on_until: Timestamp,
}

impl Recovery {
    /// A node brings a map while it is undecided how the coordinator continues.
    pub(super) fn offer(&mut self, held: ClusterMap, holder: Option<Incarnation>) {
        let offer = self.offers.entry(held.cluster.clone()).or_insert_with(|| Offer::new(held.clone()));
        offer.holders.extend(holder);
        offer.named.extend(held.members().map(|(incarnation, member)| (incarnation, member.addr.clone())));
        if held.version > offer.map.version {
            offer.map = held;
        }
    }

    /// The map that would be chosen now.
    pub(super) fn best_offer(&self) -> Option<&ClusterMap> {
        self.offers.values().max_by_key(|offer| offer.rank()).map(|offer| &offer.map)
    }

    /// Chooses a map. Returns the other offers, too.
    pub(super) fn choose(&mut self) -> Option<(Offer, Vec<Offer>)> {
        let mut offers: Vec<Offer> = std::mem::take(&mut self.offers).into_values().collect();
        offers.sort_by_key(Offer::rank);
        offers.pop().map(|chosen| (chosen, offers))
    }

    /// A start has joined, and has reported what it knows and what those knew whose data it found.
    pub(super) fn has_joined(
        &mut self,
        incarnation: Incarnation,
        ancestors: Ancestors,
        map: &ClusterMap,
        registry: &Registry,
    ) {
        self.reported.insert(incarnation);
        self.reported.extend(ancestors.iter());
        self.awaited.retain(|awaited, _| *awaited != incarnation && !ancestors.contains(*awaited));
        self.await_no_successor(map, registry);
        if ancestors.last().is_some() {
            self.ancestors.insert(incarnation, ancestors);
        }
    }

    /// Whether a start has reported what it knows. An address registered by hand need not run any of our programs.
    pub(super) fn has_told(&self, node: Incarnation, registry: &Registry) -> bool {
        self.reported.contains(&node) || registry.is_by_hand(node)
    }

    /// Whether all nodes that were up when the state was saved have reported what they know. If there were none, others
    /// may come.
    pub(super) fn all_have_told(&self, registry: &Registry) -> bool {
        !registry.is_empty() && registry.incarnations().into_iter().all(|node| self.has_told(node, registry))
    }

    /// What a start that has joined has found on its disk.
    pub(super) fn ancestors_of(&self, incarnation: Incarnation) -> Ancestors {
        self.ancestors.get(&incarnation).cloned().unwrap_or_default()
    }

    /// Forgets what starts have found that the map does not name.
    pub(super) fn retain_ancestors(&mut self, is_named: impl Fn(&Incarnation) -> bool) {
        self.ancestors.retain(|incarnation, _| is_named(incarnation));
    }

    /// Waits until these have reported what they know, unless they already have.
    pub(super) fn await_all(
        &mut self,
        named: impl Iterator<Item = (Incarnation, NodeAddr)>,
        map: &ClusterMap,
        registry: &Registry,
    ) {
        let silent: Vec<_> = named.filter(|(node, _)| !self.has_told(*node, registry)).collect();
        self.awaited.extend(silent);
        self.await_no_successor(map, registry);
    }

    /// Stops waiting for a node that the newest map does not name and whose address has a successor: it holds no part
    /// of any slot, and any newer map it had, its successor would have. An address registered by hand is no successor.
    fn await_no_successor(&mut self, map: &ClusterMap, registry: &Registry) {
        let has_successor = |addr: &NodeAddr| registry.get(addr).is_some_and(|node| !node.by_hand);
        self.awaited.retain(|awaited, addr| map.member(*awaited).is_some() || !has_successor(addr));
    }

    /// The addresses of those that are waited for.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &NodeAddr> {
        self.awaited.values()
    }

    /// Who is still missing at this time is reported.
    pub(super) fn schedule_report(&mut self, at: Timestamp) {
        self.report_awaited_at = Some(at);
    }

    /// Whether to report now who is missing. That is done once.
    pub(super) fn take_due_report(&mut self, now: Timestamp) -> bool {
        self.report_awaited_at.take_if(|at| now >= *at).is_some() && !self.awaited.is_empty()
    }

    /// Whoever is at this address is not waited for. `false` if nobody is.
    pub(super) fn forget(&mut self, addr: &NodeAddr) -> bool {
        let before = self.awaited.len();
        self.awaited.retain(|_, awaited| awaited != addr);
        let is_forgotten = self.awaited.len() < before;
        self.has_forgotten |= is_forgotten;
        is_forgotten
    }

    /// Primaries may count on earlier answers to their heartbeats until then.
    pub(super) fn note_counted_on(&mut self, until: Timestamp) {
        self.counted_on_until = until;
    }

    /// Whether a map that is being taken over may be continued from.
    pub(super) fn knows_enough(&self, now: Timestamp, bugs: impl Bugs) -> bool {
        (self.awaited.is_empty() || bugs.plants(Bug::CoordinatorGuesses)) && now >= self.counted_on_until
    }

    /// The map is continued from. Returns whether an operator has said not to wait for one of its nodes.
    pub(super) fn complete(&mut self) -> bool {
        std::mem::take(&mut self.has_forgotten)
    }

    /// Until when a map that is being taken over is not continued from, even if everyone has reported.
    pub(super) fn counted_on_until(&self) -> Timestamp {
        self.counted_on_until
    }

    /// When to report who is missing.
    pub(super) fn next_report(&self) -> Option<Timestamp> {
        self.report_awaited_at
    }
}
