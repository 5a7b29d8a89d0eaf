//! The coordinator: who is a member, who holds which slot, and every change to that.
//!
//! Facts go in through the methods; work for the caller comes out of [`Coordinator::poll_output`], which must be polled
//! after every call. The caller also calls [`Coordinator::handle_timeout`] when [`Coordinator::next_deadline`] is
//! reached.
//!
//! Nodes join and are replaced in `coordinator/membership.rs`, and leave for good in `coordinator/moves.rs`;
//! `coordinator/proposals.rs` handles their messages. Anything that may change who should hold what triggers a look at
//! all slots (`coordinator/replan.rs`).
//!
//! Every change of the map takes the next number of a single counter. That number is the map's version, and the new
//! epoch of every slot that gets a new primary in this change. Each change is persisted before anybody hears of it, so
//! that a coordinator restarted with its state continues where it left off (`coordinator/state.rs`). A coordinator that
//! starts without a state takes the map over from the nodes. Either continues in a higher generation, far above every
//! number that anybody can have seen (`coordinator/generations.rs`). Incarnations are names, not counts: they start from a
//! random number, so that no coordinator issues one that another has issued.

mod generations;
mod health;
mod membership;
mod moves;
mod operator;
mod proposals;
mod replan;
mod start_up;
mod state;
mod suspicion;
mod throttle;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, Departures, MapVersion, Member, SlotConfig};
use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::ring::HashRing;
use proto::session::Ancestors;
use proto::slot::{Position, SlotId};

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::output::{Event, Output, Settings};
use crate::plan;
use crate::promotion::Promotion;
use crate::registry::{Registered, Registry};
use crate::time::Timestamp;

use generations::Start;
use health::Fills;
use membership::Joining;
use proposals::{Proposal, REPLAN_PAUSE};
use replan::HAND_OVER_RETRY;
use start_up::Offer;
pub use state::StateError;
use suspicion::Suspicion;

/// How long the first node that joins a coordinator waits for others. The nodes of a new cluster share its first map.
/// The nodes of an existing cluster, which retry after at most [`REJOIN_PAUSE`] with attempts of at most
/// [`REJOIN_TIMEOUT`], bring its map within this time.
pub const GATHERING: Duration = Duration::from_secs(1);

/// The longest pause between two attempts of a node to rejoin its coordinator.
pub const REJOIN_PAUSE: Duration = Duration::from_millis(250);

/// How long such an attempt may take. IMPORTANT: together with the pause it must stay below [`GATHERING`]. Otherwise a
/// live node could miss the decision, and a new cluster could start beside its own.
pub const REJOIN_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Nobody has joined.
    Fresh,
    /// Nodes have joined, with or without maps of an earlier coordinator. At this time the coordinator decides how to
    /// continue.
    Gathering(Timestamp),
    /// A map was taken over. Changes wait until every node in it has reported what it knows.
    Recovering,
    /// A state was read. Nothing changes until all of its nodes have reported what they know, or until this time: if
    /// the state is an older one, they know more.
    Restored(Timestamp),
    Serving,
}

/// The maximum number of consecutive looks at all slots.
const ROUNDS: usize = 8;

/// The state machine. See the module documentation.
#[derive(Debug)]
pub struct Coordinator<B: Bugs = NoBugs> {
    settings: Settings,
    phase: Phase,
    /// The maps that nodes brought while gathering, by cluster name.
    offers: BTreeMap<String, Offer>,
    registry: Registry,
    ring: HashRing,
    map: ClusterMap,
    /// The empty map that counts as published while maps are gathered and one is being taken over from the nodes.
    nothing: ClusterMap,
    counter: u64,
    incarnations: u64,
    /// Whether any of our nodes has ever joined, as opposed to addresses registered by hand.
    joined_once: bool,
    /// Incarnations that were issued but not heard from yet. See [`Coordinator::join`].
    joining: BTreeMap<Incarnation, Joining>,
    /// Why nodes were refused that have not joined since, as reported.
    refused: BTreeMap<NodeAddr, ErrorReply>,
    /// Incarnations replaced by a newer start.
    superseded: BTreeSet<Incarnation>,
    /// Incarnations that an operator has taken off the ring.
    unregistered: BTreeSet<Incarnation>,
    /// Incarnations that the map still names but that will never again be trusted to hold anything.
    gone: BTreeSet<Incarnation>,
    /// Incarnations that the map still names and that were restarted with their data, with their new incarnation.
    reborn: BTreeMap<Incarnation, Incarnation>,
    /// Incarnations that the map still names and that were restarted with data whose end may be missing, with their new
    /// incarnation. None of them is in `reborn`.
    unproven: BTreeMap<Incarnation, Incarnation>,
    /// When the last of these came back.
    unproven_at: Timestamp,
    /// In how many slots one of these was promoted since the cluster was created.
    unproven_promotions: u64,
    /// The time until which slots whose members are all coming back wait for the rest of them.
    reborn_grace: Timestamp,
    /// The nodes that were taken off as silent since any node was last heard.
    deserters: BTreeSet<Incarnation>,
    /// These nodes, once one of them is back, and until when the others are expected.
    expected: (BTreeSet<Incarnation>, Timestamp),
    /// While a map is taken over: who is named in any map that was brought and has not reported what it knows.
    awaited: BTreeMap<Incarnation, NodeAddr>,
    /// When to report who of these is still missing.
    report_awaited_at: Option<Timestamp>,
    /// This start and earlier ones that continued from a state, oldest first.
    starts: Vec<Start>,
    /// By slot, when it last got a primary or an in-sync set that quorum writes may rely on: the version of the map.
    relied_on: Vec<MapVersion>,
    /// The map that it had when it turned out that a node knows of changes that it has forgotten.
    own: Option<ClusterMap>,
    /// Until when a primary may count on an answer to a heartbeat that was given before the state turned out to be an older
    /// one.
    counted_on_until: Timestamp,
    /// An operator has said not to wait for one of them.
    has_forgotten: bool,
    /// Every start that has joined, and those whose data it found: what they know has been reported.
    reported: BTreeSet<Incarnation>,
    /// What restarted nodes found on their disks.
    ancestors: BTreeMap<Incarnation, Ancestors>,
    /// Nodes with more than one share of the slots.
    weights: BTreeMap<NodeAddr, u32>,
    /// Nodes that are to leave for good. The map says so from its next change on.
    departures: Departures,
    /// Those of them that no longer hold any part of a slot and have been told to delete what they have.
    moved_off: BTreeSet<Incarnation>,
    /// Nodes that are back with their data but have not been given their slots yet.
    returning: BTreeSet<Incarnation>,
    /// Nodes that came back with their data since the last look at the slots, whether or not they still had a place on
    /// the ring.
    with_data: BTreeSet<Incarnation>,
    /// Nodes that are dead or have stopped but still have their place on the ring, and since when.
    away: BTreeMap<NodeAddr, Timestamp>,
    /// Nodes that report a full disk.
    full: BTreeSet<Incarnation>,
    /// By the node that reports it: who lacks the memory for which it has just refused writes.
    short_of_memory: BTreeMap<Incarnation, Vec<Incarnation>>,
    /// Nodes that report being about to stop.
    stopping: BTreeSet<Incarnation>,
    /// Nodes that slots wait for because their other copies are here without proof of their data.
    awaited_by_unproven: BTreeSet<NodeAddr>,
    suspicion: Suspicion,
    fills: Fills,
    /// Learners that have everything, to be admitted at the next look at all slots.
    admissions: BTreeMap<SlotId, Proposal>,
    /// Slots that were released to a member that is suspected.
    releases: BTreeMap<SlotId, Proposal>,
    /// When to look at all slots because some have changed.
    replan_at: Option<Timestamp>,
    promotion: Option<Promotion>,
    handing_over: BTreeMap<SlotId, (MapVersion, Timestamp)>,
    /// When nodes are expected to have applied the changes of the last look at all slots. No hand-over begins earlier.
    settled_at: Timestamp,
    /// Slots wait for that moment to be handed over.
    awaits_settling: bool,
    outputs: VecDeque<Output>,
    bugs: B,
}

impl<B: Bugs> Coordinator<B> {
    /// A coordinator that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, bugs: B) -> Self {
        let mut map = ClusterMap::empty(settings.cluster.clone(), settings.bits);
        map.cluster_settings = settings.cluster_settings;
        Self {
            phase: Phase::Fresh,
            offers: BTreeMap::new(),
            registry: Registry::new(settings.cluster_settings.heartbeat_timeout),
            ring: HashRing::new(settings.virtual_nodes),
            nothing: map.clone(),
            map,
            counter: 0,
            incarnations: u64::from(settings.incarnations) << Incarnation::BITS,
            joined_once: false,
            joining: BTreeMap::new(),
            refused: BTreeMap::new(),
            superseded: BTreeSet::new(),
            unregistered: BTreeSet::new(),
            gone: BTreeSet::new(),
            reborn: BTreeMap::new(),
            unproven: BTreeMap::new(),
            unproven_at: Timestamp::default(),
            unproven_promotions: 0,
            reborn_grace: Timestamp::default(),
            deserters: BTreeSet::new(),
            expected: Default::default(),
            awaited: BTreeMap::new(),
            report_awaited_at: None,
            starts: Vec::new(),
            relied_on: vec![MapVersion(0); settings.bits.count()],
            own: None,
            counted_on_until: Timestamp::default(),
            has_forgotten: false,
            reported: BTreeSet::new(),
            ancestors: BTreeMap::new(),
            weights: BTreeMap::new(),
            departures: Departures::default(),
            moved_off: BTreeSet::new(),
            returning: BTreeSet::new(),
            with_data: BTreeSet::new(),
            away: BTreeMap::new(),
            full: BTreeSet::new(),
            short_of_memory: BTreeMap::new(),
            stopping: BTreeSet::new(),
            awaited_by_unproven: BTreeSet::new(),
            suspicion: Suspicion::default(),
            fills: Fills::default(),
            admissions: BTreeMap::new(),
            releases: BTreeMap::new(),
            replan_at: None,
            promotion: None,
            handing_over: BTreeMap::new(),
            settled_at: Timestamp::default(),
            awaits_settling: false,
            outputs: VecDeque::new(),
            settings,
            bugs,
        }
    }

    /// The published map. Its version is 0 before the first one is published: a map taken over from a node is not yet
    /// this coordinator's, and may be older than what other nodes follow. Nor is a map of addresses registered by hand,
    /// once a node has joined: its cluster may turn out to be another.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
        if matches!(self.phase, Phase::Gathering(_) | Phase::Recovering) { &self.nothing } else { &self.map }
    }

    /// The map as far as it is known, including one that is being taken over. Only good for finding nodes.
    #[must_use]
    pub fn known_map(&self) -> &ClusterMap {
        &self.map
    }

    /// The registered addresses, sorted.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeAddr> {
        self.registry.iter().map(|(addr, _)| addr)
    }

    /// Who holds a key, primary first. Before the first map: who will hold it.
    ///
    /// # Errors
    /// No node is registered, or none of the key's holders is known.
    pub fn nodes_for_key(&self, key: &[u8]) -> Result<Vec<NodeAddr>, ErrorReply> {
        if self.registry.is_empty() && self.map.members().next().is_none() {
            return Err(ErrorReply::NoNodes);
        }
        let slot = self.settings.bits.slot(&Position::of(key));
        let offered = self.offers.values().max_by_key(|offer| (offer.holders.len(), offer.map.version));
        let holders: Vec<_> = if let Some(offer) = offered {
            offer.map.holders(slot).map(|(_, member)| member.addr.clone()).collect()
        } else if self.map.version == MapVersion(0) {
            let position = self.settings.bits.first_position(slot);
            self.ring.owners_of(&position, self.copies()).into_iter().cloned().collect()
        } else {
            self.map.holders(slot).map(|(_, member)| member.addr.clone()).collect()
        };
        if holders.is_empty() { Err(ErrorReply::NoNodes) } else { Ok(holders) }
    }

    /// In how many slots a copy without proof of its data was promoted since the cluster was created: writes that were
    /// acknowledged there in the last moments before the promotion may be missing.
    #[must_use]
    pub fn unproven_promotions(&self) -> u64 {
        self.unproven_promotions
    }

    /// The next piece of work for the caller.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Coordinator::handle_timeout`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Timestamp {
        let phase = match self.phase {
            Phase::Gathering(until) | Phase::Restored(until) => Some(until),
            Phase::Recovering => Some(self.counted_on_until).filter(|until| *until > self.suspicion.last_call()),
            Phase::Fresh | Phase::Serving => None,
        };
        let promotion = self.promotion.as_ref().map(|promotion| promotion.until);
        let retry = self.handing_over.values().map(|(_, asked)| *asked + HAND_OVER_RETRY).min();
        let settled = self.awaits_settling.then_some(self.settled_at);
        let grace = Some(self.reborn_grace).filter(|grace| *grace > self.suspicion.last_call());
        let expected = (!self.expected.0.is_empty()).then_some(self.expected.1);
        let suspicion = self.suspicion.next_check(&self.registry);
        [
            phase,
            promotion,
            retry,
            settled,
            grace,
            expected,
            self.suspicion.next_pardon(),
            suspicion,
            self.replan_at,
            self.report_awaited_at,
            self.next_replacement(),
        ]
        .into_iter()
        .flatten()
        .fold(self.registry.next_check(), Timestamp::min)
    }

    /// Tells the coordinator that time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.wake(now);
        for (addr, node) in self.registry.remove_silent(now) {
            self.goes_away(now, &addr, node.by_hand);
            if node.by_hand {
                self.gone.insert(node.incarnation);
            } else {
                self.deserters.insert(node.incarnation);
            }
            if let Some(promotion) = &mut self.promotion {
                promotion.forget(node.incarnation);
            }
            self.event(Event::Dead(addr));
        }
        self.replace_the_away(now);
        if now >= self.expected.1 {
            self.expected.0.clear();
        }
        if self.awaits_settling && now >= self.settled_at && self.phase == Phase::Serving {
            // Learners that have everything are admitted at the next look; that would be a change at the same time as
            // these hand-overs.
            let next_look = self.replan_at.unwrap_or(now + REPLAN_PAUSE);
            if now < next_look && !self.replan(now) {
                self.replan_at = Some(next_look);
                return;
            }
        }
        self.advance(now);
    }

    /// Does whatever there is to do, until there is nothing left.
    fn advance(&mut self, now: Timestamp) {
        self.suspicion.look(now);
        match self.phase {
            Phase::Fresh => {}
            Phase::Gathering(until) if now < until => {}
            Phase::Gathering(_) => self.decide(now),
            Phase::Restored(until) if now < until && !self.all_have_told() => {}
            Phase::Restored(_) => self.go_on(now),
            Phase::Recovering | Phase::Serving => {}
        }
        if self.report_awaited_at.take_if(|at| now >= *at).is_some() && !self.awaited.is_empty() {
            self.event(Event::Awaiting(self.awaited()));
        }
        let knows_enough = self.awaited.is_empty() || self.bugs.plants(Bug::CoordinatorGuesses);
        if self.phase == Phase::Recovering && knows_enough && now >= self.counted_on_until {
            self.start_generation(now);
        }
        if self.phase == Phase::Serving {
            self.admit_waiting(now);
            self.pass_on_released(now);
            // Each round completes what the previous one made possible; the longest known chain is three. Should one
            // ever not end, it continues later, and others get their turn.
            if (0..ROUNDS).all(|_| self.replan(now)) {
                self.replan_at = Some(now + REPLAN_PAUSE);
            }
            self.returning.clear();
            self.with_data.clear();
            self.dismiss_leavers();
        }
    }

    fn copies(&self) -> usize {
        self.settings.cluster_settings.copies()
    }

    /// Commits one change of the map.
    fn commit(&mut self, changes: Vec<(SlotId, SlotConfig)>) {
        let version = MapVersion(self.next_number());
        let mut last: Option<Arc<SlotConfig>> = None;
        for (slot, mut next) in changes {
            let before = Arc::clone(self.map.config(slot));
            let same_primary = before.primary == next.primary && before.primary.is_some();
            next.epoch = if same_primary { before.epoch } else { Epoch(version.0) };
            next.version = version;
            self.note_relied_on(slot, &before, &next);
            // Identical neighbors share one configuration, which makes a look at all slots cheap.
            let next = last.take().filter(|last| **last == next).unwrap_or_else(|| Arc::new(next));
            self.map.set_config(slot, Arc::clone(&next));
            last = Some(next);
        }
        self.map.version = version;
        self.publish();
    }

    fn publish(&mut self) {
        let members = self.members();
        self.gone.retain(|incarnation| members.contains_key(incarnation));
        self.reborn.retain(|incarnation, _| members.contains_key(incarnation));
        self.unproven.retain(|incarnation, _| members.contains_key(incarnation));
        self.ancestors.retain(|incarnation, _| members.contains_key(incarnation));
        self.map.set_members(members);
        self.map.departures.clone_from(&self.departures);
        // IMPORTANT: a change that is not persisted must not become known to anybody.
        let outputs = [Output::Keep, Output::Publish];
        let kept_late = self.bugs.plants(Bug::PublishedBeforeKept);
        self.outputs.extend(if kept_late { [Output::Publish, Output::Keep] } else { outputs });
    }

    /// Everyone the map must name: registered nodes, and whoever a slot still waits for.
    fn members(&self) -> BTreeMap<Incarnation, Member> {
        let up = |(addr, node): (&NodeAddr, &Registered)| (node.incarnation, Member { addr: addr.clone(), up: true });
        let mut members: BTreeMap<_, _> = self.registry.iter().map(up).collect();
        for config in plan::runs(&self.map) {
            for holder in config.copies().chain(config.primary) {
                if let Some(member) = self.map.member(holder).filter(|_| !members.contains_key(&holder)) {
                    members.insert(holder, Member { addr: member.addr.clone(), up: false });
                }
            }
        }
        members
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
