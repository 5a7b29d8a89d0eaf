//! The coordinator: who is a member, who holds which slot, and each change of that.
//!
//! Facts go in through the methods; duties come out of [`Coordinator::poll_output`], to be polled after every call.
//! The caller also calls [`Coordinator::handle_timeout`] when [`Coordinator::next_deadline`] has come.
//!
//! Every change of the map takes the next number of one counter, which is its version, and the epoch of every slot that
//! gets a new primary by it. Each change is kept before anybody hears of it, so that a coordinator that is started again
//! with its state goes on where it was (`coordinator/state.rs`). One that starts without a state takes the map over from the
//! nodes and goes on in a higher generation: far above every number that anybody can have seen
//! (`coordinator/start_up.rs`). Incarnations only name, and do not count: they start from a random number, so that no
//! coordinator gives out one that another has given.

mod proposals;
mod start_up;
mod state;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapVersion, Member, SlotConfig};
use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::limits;
use proto::ring::HashRing;
use proto::session::SlotAt;
use proto::slot::{Position, SlotId};

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::output::{Event, JoinError, Joined, Output, Settings};
use crate::plan::{self, Plan, Standing, plan};
use crate::promotion::Promotion;
use crate::registry::Registry;
use crate::time::Timestamp;

use start_up::Offer;
pub use state::StateError;
use suspicion::Suspicion;

/// How long the first node that comes to a coordinator waits for others. Those of a new cluster share its first map. Those
/// of an old one, who try every [`REJOIN_PAUSE`] and at most [`REJOIN_TIMEOUT`] long, bring its map within this time.
pub const GATHERING: Duration = Duration::from_secs(1);

/// The longest pause between two tries of a node to come back to its coordinator.
pub const REJOIN_PAUSE: Duration = Duration::from_millis(250);

/// How long such a try may take. IMPORTANT: with the pause it stays below [`GATHERING`], or a node that is alive could miss
/// the decision, and a new cluster begin beside its own.
pub const REJOIN_TIMEOUT: Duration = Duration::from_millis(500);

/// How long copies are asked for their positions before one of them is promoted.
const POSITIONS_TIMEOUT: Duration = Duration::from_millis(300);

/// After what time a hand-over that was asked for and has not happened is asked for again.
const HANDOVER_RETRY: Duration = Duration::from_secs(2);

/// How many slots are handed over at once between two nodes: each pauses its writers for a moment.
const HANDOVER_SLOTS: usize = 2_048;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Nobody has joined.
    Fresh,
    /// Nodes have joined, with maps of an earlier coordinator or without. At this time it is decided how to go on.
    Gathering(Timestamp),
    /// A map was taken over. Changes wait until every node of it has told what it knows.
    Recovering,
    Serving,
}

/// How many incarnations one start of a coordinator can give out, as a power of two. They stay below the limit of counters.
const INCARNATION_BITS: u32 = 16;

/// A start of a node that has asked to join and has not been heard since.
#[derive(Debug)]
struct Joining {
    addr: NodeAddr,
    proofs: Vec<Incarnation>,
}

/// How many starts that were replaced are remembered.
const SUPERSEDED: usize = 4_096;

/// How long after a proposal was carried out all slots are looked at again.
const REPLAN_PAUSE: Duration = Duration::from_millis(50);

/// How long members that come back with their disks wait for others of their slots.
const REBORN_GRACE: Duration = Duration::from_secs(1);

/// The state machine. See the module's text.
#[derive(Debug)]
pub struct Coordinator<B: Bugs = NoBugs> {
    settings: Settings,
    phase: Phase,
    /// The maps that were brought while gathering, by the name of their cluster.
    offers: BTreeMap<String, Offer>,
    registry: Registry,
    ring: HashRing,
    map: ClusterMap,
    /// What is published before there is a map.
    nothing: ClusterMap,
    counter: u64,
    incarnations: u64,
    /// Whether a node of ours has ever joined, rather than only addresses registered by hand.
    joined_once: bool,
    /// Incarnations that were given out and have not been heard since. See [`Coordinator::join`].
    joining: BTreeMap<Incarnation, Joining>,
    /// Incarnations in whose place a newer start has registered.
    superseded: BTreeSet<Incarnation>,
    /// Incarnations that an operator has taken off the ring.
    unregistered: BTreeSet<Incarnation>,
    /// Incarnations of which the map still speaks, but that will never again be believed to hold anything.
    gone: BTreeSet<Incarnation>,
    /// Incarnations of which the map still speaks and that were started again with their data, as which.
    reborn: BTreeMap<Incarnation, Incarnation>,
    /// Until when slots whose members all come back wait for the rest of them.
    reborn_grace: Timestamp,
    /// While a map is taken over: who is named in any map that was brought and has not told what it knows.
    awaited: BTreeMap<Incarnation, NodeAddr>,
    /// Who has brought a map before one was taken over.
    reported: BTreeSet<Incarnation>,
    /// What those who were started again have found on their disks.
    proofs: BTreeMap<Incarnation, Vec<Incarnation>>,
    suspicion: Suspicion,
    /// When all slots are to be looked at, since some have changed.
    replan_at: Option<Timestamp>,
    promotion: Option<Promotion>,
    handing_over: BTreeMap<SlotId, (MapVersion, Timestamp)>,
    outputs: VecDeque<Output>,
    bugs: B,
}

impl<B: Bugs> Coordinator<B> {
    /// A coordinator that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, bugs: B) -> Self {
        let mut map = ClusterMap::empty(settings.cluster.clone(), settings.bits);
        map.promises = settings.promises;
        Self {
            phase: Phase::Fresh,
            offers: BTreeMap::new(),
            registry: Registry::new(settings.promises.heartbeat_timeout),
            ring: HashRing::new(settings.virtual_nodes),
            nothing: map.clone(),
            map,
            counter: 0,
            incarnations: u64::from(settings.incarnations) << INCARNATION_BITS,
            joined_once: false,
            joining: BTreeMap::new(),
            superseded: BTreeSet::new(),
            unregistered: BTreeSet::new(),
            gone: BTreeSet::new(),
            reborn: BTreeMap::new(),
            reborn_grace: Timestamp::default(),
            awaited: BTreeMap::new(),
            reported: BTreeSet::new(),
            proofs: BTreeMap::new(),
            suspicion: Suspicion::default(),
            replan_at: None,
            promotion: None,
            handing_over: BTreeMap::new(),
            outputs: VecDeque::new(),
            settings,
            bugs,
        }
    }

    /// The map as published. Its version is 0 before the first: one that was taken over from a node is not yet this
    /// coordinator's, and may be older than what other nodes go by.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
        if self.phase == Phase::Recovering { &self.nothing } else { &self.map }
    }

    /// The map as far as it is known: while one is taken over, that one. It is good for finding nodes, and nothing else.
    #[must_use]
    pub fn known_map(&self) -> &ClusterMap {
        &self.map
    }

    /// The registered addresses, sorted.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeAddr> {
        self.registry.iter().map(|(addr, _)| addr)
    }

    /// Who holds a key, primary first. Before the first map: who will.
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

    /// The next duty.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A node opens its session. One that has no incarnation yet is given one. One that is not registered is so with the
    /// first message that it sends in answer; it sends a heartbeat at once.
    ///
    /// IMPORTANT: not before. The request may be that of a start that is over, or of a try that the node has given up, and
    /// arrive after the one that counts. Whoever is registered would be replaced by nobody.
    ///
    /// `proofs` are the incarnations whose data it has found on its disk, where it was started again, the last at the end. `held` is the map that it
    /// has from an earlier session, of whichever coordinator.
    ///
    /// # Errors
    /// The node may not join; nothing has changed.
    pub fn join(
        &mut self,
        now: Timestamp,
        addr: NodeAddr,
        incarnation: Option<Incarnation>,
        proofs: Vec<Incarnation>,
        held: Option<ClusterMap>,
    ) -> Result<Joined, JoinError> {
        self.wake(now);
        let registered = self.registry.get(&addr).map(|node| node.incarnation);
        if let Some(given) = incarnation
            && (self.unregistered.contains(&given)
                || self.superseded.contains(&given)
                || registered.is_some_and(|present| is_older(given, present)))
        {
            return Err(JoinError::Unregistered);
        }
        if registered.is_none() && self.registry.len() >= limits::NODES {
            let what = format!("{} nodes are registered, which is the limit", limits::NODES);
            return Err(JoinError::Refused(ErrorReply::Busy(what)));
        }
        if let Some(held) = held {
            self.consider(now, held, incarnation.or(proofs.last().copied())).map_err(JoinError::Refused)?;
        }
        let again = incarnation.is_some() && registered == incarnation;
        let incarnation = incarnation.unwrap_or_else(|| self.next_incarnation());
        if again {
            self.registry.heard(now, &addr);
            self.has_joined(now, addr, incarnation, proofs);
        } else {
            self.joining.insert(incarnation, Joining { addr, proofs });
        }
        Ok(Joined { incarnation, again })
    }

    /// A node is heard as the incarnation that it was given when it joined. `false` where a newer one is registered there.
    fn confirm(&mut self, now: Timestamp, incarnation: Incarnation) -> bool {
        let Some(Joining { addr, proofs }) = self.joining.remove(&incarnation) else { return false };
        let registered = self.registry.get(&addr).map(|node| node.incarnation);
        let is_late = registered.is_some_and(|present| is_older(incarnation, present));
        if is_late || (registered.is_none() && self.registry.len() >= limits::NODES) {
            return false;
        }
        self.has_joined(now, addr, incarnation, proofs);
        true
    }

    /// A start of a node is here, for the first time or again.
    fn has_joined(&mut self, now: Timestamp, addr: NodeAddr, incarnation: Incarnation, proofs: Vec<Incarnation>) {
        self.joined_once = true;
        if self.registry.get(&addr).map(|node| node.incarnation) != Some(incarnation) {
            let returned = self.map.member(incarnation).is_some();
            let replaced = self.replace_at(now, &addr, incarnation, &proofs);
            self.event(match (returned, replaced) {
                (true, _) => Event::Returned(addr.clone(), incarnation),
                (false, true) => Event::Restarted(addr.clone(), incarnation),
                (false, false) => Event::Registered(addr.clone(), incarnation),
            });
            self.registry.insert(now, addr.clone(), incarnation, false);
            self.ring.add(addr);
            if self.phase == Phase::Fresh {
                self.phase = Phase::Gathering(now + GATHERING);
            }
        }
        self.reported.insert(incarnation);
        self.reported.extend(&proofs);
        self.awaited.retain(|awaited, _| *awaited != incarnation && !proofs.contains(awaited));
        self.await_no_successor();
        if !proofs.is_empty() {
            self.proofs.insert(incarnation, proofs);
        }
        self.advance(now);
    }

    /// A person registers an address. `false` where it is registered already, which changes nothing.
    ///
    /// # Errors
    /// There is no room for more nodes.
    pub fn register_by_hand(&mut self, now: Timestamp, addr: NodeAddr) -> Result<bool, ErrorReply> {
        if self.registry.get(&addr).is_some() {
            return Ok(false);
        }
        if self.registry.len() >= limits::NODES {
            return Err(ErrorReply::Busy(format!("{} nodes are registered, which is the limit", limits::NODES)));
        }
        let incarnation = self.next_incarnation();
        self.registry.insert(now, addr.clone(), incarnation, true);
        self.ring.add(addr.clone());
        self.event(Event::Registered(addr, incarnation));
        // Nobody is waited for on behalf of an address that has no program of ours behind it.
        if self.phase == Phase::Fresh {
            self.phase = Phase::Serving;
        }
        self.advance(now);
        Ok(true)
    }

    /// A person takes a node off the ring, for good where its memory is concerned. `false` where nobody is known there.
    pub fn unregister(&mut self, now: Timestamp, addr: &NodeAddr) -> bool {
        let registered = self.registry.remove(addr).map(|node| node.incarnation);
        let remembered: Vec<_> =
            self.map.members().filter(|(_, member)| member.addr == *addr).map(|(i, _)| i).collect();
        if registered.is_none() && remembered.is_empty() {
            return false;
        }
        self.ring.remove(addr);
        self.unregistered.extend(registered);
        self.gone.extend(registered.into_iter().chain(remembered));
        self.outputs.extend(registered.map(Output::Unregistered));
        self.event(Event::Unregistered(addr.clone()));
        self.advance(now);
        true
    }

    /// A person's or an old program's heartbeat. `false` where the address is not registered.
    pub fn heartbeat(&mut self, now: Timestamp, addr: &NodeAddr) -> bool {
        self.registry.heard(now, addr)
    }

    /// When to call [`Coordinator::handle_timeout`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Timestamp {
        let phase = match self.phase {
            Phase::Gathering(until) => Some(until),
            Phase::Fresh | Phase::Recovering | Phase::Serving => None,
        };
        let promotion = self.promotion.as_ref().map(|promotion| promotion.until);
        let retry = self.handing_over.values().map(|(_, asked)| *asked + HANDOVER_RETRY).min();
        let grace = Some(self.reborn_grace).filter(|grace| *grace > self.suspicion.last_call());
        let suspicion = self.suspicion.next_check(&self.registry);
        [phase, promotion, retry, grace, suspicion, self.replan_at]
            .into_iter()
            .flatten()
            .fold(self.registry.next_check(), Timestamp::min)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.wake(now);
        for (addr, node) in self.registry.remove_silent(now) {
            self.ring.remove(&addr);
            if node.by_hand {
                self.gone.insert(node.incarnation);
            }
            if let Some(promotion) = &mut self.promotion {
                promotion.forget(node.incarnation);
            }
            self.event(Event::Dead(addr));
        }
        self.advance(now);
    }

    /// Does whatever there is to do, until nothing is.
    fn advance(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Fresh => {}
            Phase::Gathering(until) if now < until => {}
            Phase::Gathering(_) => self.decide(now),
            Phase::Recovering | Phase::Serving => {}
        }
        if self.phase == Phase::Recovering && (self.awaited.is_empty() || self.bugs.plants(Bug::CoordinatorGuesses)) {
            self.start_generation();
        }
        if self.phase == Phase::Serving {
            // Each round settles what the one before has made possible; three are the longest chain there is.
            while self.replan(now) {}
        }
    }

    /// A new incarnation takes an address over: all others that are known there are gone. Says whether there was one.
    /// Where it has found the data of one of them on its disk, that one is reborn instead.
    fn replace_at(
        &mut self,
        now: Timestamp,
        addr: &NodeAddr,
        incarnation: Incarnation,
        proofs: &[Incarnation],
    ) -> bool {
        let registered = self.registry.get(addr).map(|node| node.incarnation);
        let remembered = self.map.members().filter(|(_, member)| member.addr == *addr).map(|(known, _)| known);
        let replaced: Vec<_> = registered.into_iter().chain(remembered).filter(|known| *known != incarnation).collect();
        self.superseded.extend(&replaced);
        while self.superseded.len() > SUPERSEDED {
            self.superseded.pop_first();
        }
        for old in &replaced {
            // It may be known by one start, and its heir by a later one.
            let heir = self.reborn.get(old).copied();
            let is_kin = proofs.contains(old) || heir.is_some_and(|heir| proofs.contains(&heir));
            if is_kin || self.bugs.plants(Bug::TrustWithoutProof) {
                self.reborn.insert(*old, incarnation);
                self.reborn_grace = now + REBORN_GRACE;
            } else {
                self.gone.insert(*old);
            }
        }
        // Whoever had been reborn as one that is replaced now holds what the next one holds.
        for heir in self.reborn.values_mut().filter(|heir| replaced.contains(heir)) {
            if proofs.contains(heir) {
                *heir = incarnation;
            }
        }
        self.reborn.retain(|_, heir| *heir == incarnation || !replaced.contains(heir));
        !replaced.is_empty()
    }

    fn copies(&self) -> usize {
        self.settings.promises.copies()
    }

    /// Whom the ring wants to hold each slot.
    fn targets(&self) -> Vec<Vec<Incarnation>> {
        let incarnation = |addr: &NodeAddr| self.registry.get(addr).map(|node| node.incarnation);
        let owners = self.ring.slot_owners(self.settings.bits, self.copies());
        owners.into_iter().map(|addrs| addrs.into_iter().filter_map(incarnation).collect()).collect()
    }

    fn standing(&self, now: Timestamp) -> Standing {
        let by_hand = self.registry.iter().filter(|(_, node)| node.by_hand).map(|(_, node)| node.incarnation);
        Standing {
            alive: self.registry.incarnations(),
            by_hand: by_hand.collect(),
            gone: self.gone.clone(),
            accused: self.suspicion.accused(now, &self.registry),
            suspected: self.registry.suspects(now),
            reborn: self.reborn.clone(),
            patient: now < self.reborn_grace,
            min_isr: self.settings.promises.min_isr(),
            any_copy_leads: self.bugs.plants(Bug::PromoteAnyCopy),
            any_former_leads: self.bugs.plants(Bug::AnyFormerMember),
        }
    }

    /// Plans every slot and carries the plans out. Says whether the map has changed, so that another look is due.
    fn replan(&mut self, now: Timestamp) -> bool {
        self.replan_at = None;
        let standing = self.standing(now);
        let mut changes = Vec::new();
        let mut lost = Vec::new();
        let mut hand_overs: BTreeMap<(Incarnation, Incarnation), Vec<SlotAt>> = BTreeMap::new();
        let mut started_anew = 0;
        for (slot, target) in self.settings.bits.slots().zip(self.targets()) {
            let config = self.map.config(slot);
            match plan(config, &target, &standing) {
                Plan::Keep => {}
                Plan::Change(next) => changes.push((slot, next)),
                Plan::StartAnew(next) => {
                    started_anew += usize::from(!config.isr.is_empty());
                    changes.push((slot, next));
                }
                Plan::Promote(survivors) => lost.push((slot, survivors)),
                Plan::HandOver { from, to } => {
                    hand_overs.entry((from, to)).or_default().push(SlotAt { slot, version: config.version });
                }
            }
        }
        if started_anew > 0 {
            self.event(Event::StartedAnew(started_anew));
        }
        self.promote(now, lost, &standing, &mut changes);
        self.ask_hand_overs(now, hand_overs);
        let members_changed = self.members() != self.map.members().map(|(i, m)| (i, m.clone())).collect();
        if changes.is_empty() && !members_changed {
            return false;
        }
        self.commit(changes);
        true
    }

    /// Promotes where it is clear whom; asks the survivors where it is not.
    fn promote(
        &mut self,
        now: Timestamp,
        lost: Vec<(SlotId, Vec<Incarnation>)>,
        standing: &Standing,
        changes: &mut Vec<(SlotId, SlotConfig)>,
    ) {
        if lost.is_empty() {
            self.promotion = None;
            return;
        }
        let several = |(_, survivors): &&(SlotId, Vec<Incarnation>)| survivors.len() > 1;
        let over = match &self.promotion {
            Some(promotion) => promotion.is_over(now),
            None => !lost.iter().any(|slot| several(&slot)),
        };
        if over {
            let round = self.promotion.take().filter(|_| !self.bugs.plants(Bug::PromoteAnyCopy));
            for accused in standing.accused.keys() {
                if let Some(addr) = self.registry.addr_of(*accused).cloned() {
                    self.event(Event::Suspected(addr));
                }
            }
            self.event(Event::Promoted(lost.len()));
            for (slot, survivors) in lost {
                let asked = round.as_ref().and_then(|round| round.choose(slot, &survivors));
                if let Some(chosen) = asked.or(survivors.first().copied()) {
                    changes.push((slot, plan::promoted(self.map.config(slot), chosen, standing)));
                }
            }
        } else if self.promotion.is_none() {
            let query = self.next_number();
            let mut questions: BTreeMap<Incarnation, Vec<SlotId>> = BTreeMap::new();
            for (slot, survivors) in lost.iter().filter(several) {
                for survivor in survivors.iter().filter(|survivor| !standing.by_hand.contains(survivor)) {
                    questions.entry(*survivor).or_default().push(*slot);
                }
            }
            self.promotion = Some(Promotion::new(query, now + POSITIONS_TIMEOUT, questions.keys().copied().collect()));
            self.outputs.extend(questions.into_iter().map(|(to, slots)| Output::AskPositions { to, query, slots }));
        }
    }

    fn ask_hand_overs(&mut self, now: Timestamp, wanted: BTreeMap<(Incarnation, Incarnation), Vec<SlotAt>>) {
        let map = &self.map;
        self.handing_over
            .retain(|slot, (version, asked)| map.config(*slot).version == *version && now < *asked + HANDOVER_RETRY);
        for ((from, to), mut slots) in wanted {
            let under_way = slots.iter().filter(|at| self.handing_over.contains_key(&at.slot)).count();
            slots.retain(|at| !self.handing_over.contains_key(&at.slot));
            slots.truncate(HANDOVER_SLOTS.saturating_sub(under_way));
            if slots.is_empty() {
                continue;
            }
            self.handing_over.extend(slots.iter().map(|at| (at.slot, (at.version, now))));
            self.outputs.push_back(Output::HandOver { from, to, slots });
        }
    }

    /// Makes one change of the map.
    fn commit(&mut self, changes: Vec<(SlotId, SlotConfig)>) {
        let version = MapVersion(self.next_number());
        for (slot, mut next) in changes {
            let before = self.map.config(slot);
            let same_primary = before.primary == next.primary && before.primary.is_some();
            next.epoch = if same_primary { before.epoch } else { Epoch(version.0) };
            next.version = version;
            self.map.set_config(slot, Arc::new(next));
        }
        self.map.set_version(version);
        self.publish();
    }

    fn publish(&mut self) {
        let members = self.members();
        self.gone.retain(|incarnation| members.contains_key(incarnation));
        self.reborn.retain(|incarnation, _| members.contains_key(incarnation));
        self.proofs.retain(|incarnation, _| members.contains_key(incarnation));
        self.map.set_members(members);
        // IMPORTANT: what nobody has kept nobody may hear of.
        let outputs = [Output::Keep, Output::Publish];
        let kept_late = self.bugs.plants(Bug::PublishedBeforeKept);
        self.outputs.extend(if kept_late { [Output::Publish, Output::Keep] } else { outputs });
    }

    /// Everyone whom the map must name: who is registered, and whoever a slot still waits for.
    fn members(&self) -> BTreeMap<Incarnation, Member> {
        let up = |(addr, node): (&NodeAddr, &crate::registry::Registered)| {
            (node.incarnation, Member { addr: addr.clone(), up: true })
        };
        let mut members: BTreeMap<_, _> = self.registry.iter().map(up).collect();
        let mut last_seen: Option<&Arc<SlotConfig>> = None;
        for (_, config) in self.map.slots() {
            // Slots come in runs of one configuration; each run is looked at once.
            if last_seen.is_some_and(|seen| seen == config) {
                continue;
            }
            last_seen = Some(config);
            for holder in config.copies().chain(config.primary) {
                if let Some(member) = self.map.member(holder).filter(|_| !members.contains_key(&holder)) {
                    members.insert(holder, Member { addr: member.addr.clone(), up: false });
                }
            }
        }
        members
    }

    fn next_incarnation(&mut self) -> Incarnation {
        self.incarnations += 1;
        Incarnation(self.incarnations)
    }

    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}

/// Whether one incarnation was given out before another by the same coordinator. Those of others cannot be compared.
fn is_older(one: Incarnation, other: Incarnation) -> bool {
    one.0 >> INCARNATION_BITS == other.0 >> INCARNATION_BITS && one < other
}
