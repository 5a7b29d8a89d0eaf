//! The coordinator: who is a member, who holds which slot, and each change of that.
//!
//! Facts go in through the methods; duties come out of [`Coordinator::poll_output`], to be polled after every call.
//! The caller also calls [`Coordinator::handle_timeout`] when [`Coordinator::next_deadline`] has come.
//!
//! Every change of the map takes the next number of one counter, which is its version, and the epoch of every slot that
//! gets a new primary by it. A coordinator that starts without a state takes the map over from the nodes and goes on in a
//! higher generation: far above every number that anybody can have seen. Incarnations only name, and do not count: they
//! start from a random number, so that no coordinator gives out one that another has given.

mod start_up;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapVersion, Member, SlotConfig};
use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::limits;
use proto::ring::HashRing;
use proto::session::{NodeMessage, SlotAt};
use proto::slot::{Position, SlotId};

use crate::output::{Event, JoinError, Joined, Output, Settings};
use crate::plan::{self, Plan, Standing, plan};
use crate::promotion::Promotion;
use crate::registry::Registry;
use crate::time::Timestamp;

use start_up::Offer;

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
    /// A map was taken over. Changes wait until its nodes are back, or until this time.
    Recovering(Timestamp),
    Serving,
}

/// The state machine. See the module's text.
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    phase: Phase,
    /// The maps that were brought while gathering, by the name of their cluster.
    offers: BTreeMap<String, Offer>,
    registry: Registry,
    ring: HashRing,
    map: ClusterMap,
    counter: u64,
    incarnations: u64,
    /// Whether a node of ours has ever joined, rather than only addresses registered by hand.
    joined_once: bool,
    /// Incarnations that an operator has taken off the ring.
    unregistered: BTreeSet<Incarnation>,
    /// Incarnations of which the map still speaks, but that will never again be believed to hold anything.
    gone: BTreeSet<Incarnation>,
    promotion: Option<Promotion>,
    handing_over: BTreeMap<SlotId, (MapVersion, Timestamp)>,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    /// A coordinator that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            phase: Phase::Fresh,
            offers: BTreeMap::new(),
            registry: Registry::new(settings.heartbeat_timeout),
            ring: HashRing::new(settings.virtual_nodes),
            map: ClusterMap::empty(settings.cluster.clone(), settings.bits),
            counter: 0,
            incarnations: u64::from(settings.incarnations) << 16,
            joined_once: false,
            unregistered: BTreeSet::new(),
            gone: BTreeSet::new(),
            promotion: None,
            handing_over: BTreeMap::new(),
            outputs: VecDeque::new(),
            settings,
        }
    }

    /// The map as published. Its version is 0 before the first.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
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

    /// A node opens its session.
    ///
    /// `held` is the map that it has from an earlier session, of whichever coordinator.
    ///
    /// # Errors
    /// The node may not join; nothing has changed.
    pub fn join(
        &mut self,
        now: Timestamp,
        addr: NodeAddr,
        incarnation: Option<Incarnation>,
        held: Option<ClusterMap>,
    ) -> Result<Joined, JoinError> {
        let registered = self.registry.get(&addr).map(|node| node.incarnation);
        if let Some(given) = incarnation
            && (self.unregistered.contains(&given) || registered.is_some_and(|present| present > given))
        {
            return Err(JoinError::Unregistered);
        }
        if registered.is_none() && self.registry.len() >= limits::NODES {
            let what = format!("{} nodes are registered, which is the limit", limits::NODES);
            return Err(JoinError::Refused(ErrorReply::Busy(what)));
        }
        if let Some(held) = held {
            self.consider(now, held, incarnation).map_err(JoinError::Refused)?;
        }
        self.joined_once = true;
        let again = incarnation.is_some() && registered == incarnation;
        let incarnation = incarnation.unwrap_or_else(|| self.next_incarnation());
        if again {
            self.registry.heard(now, &addr);
        } else {
            let returned = self.map.member(incarnation).is_some();
            let replaced = self.replace_at(&addr, incarnation);
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
        self.advance(now);
        Ok(Joined { incarnation, again })
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

    /// A message from the session of a node. `false` where that incarnation is not registered: it must join again.
    pub fn handle_message(&mut self, now: Timestamp, from: Incarnation, message: NodeMessage) -> bool {
        let Some(addr) = self.registry.addr_of(from).cloned() else { return false };
        self.registry.heard(now, &addr);
        match message {
            NodeMessage::Heartbeat { .. } | NodeMessage::Resync => {}
            NodeMessage::Leave => {
                self.registry.remove(&addr);
                self.ring.remove(&addr);
                self.event(Event::Left(addr));
                self.advance(now);
            }
            NodeMessage::Positions { query, last } => {
                if let Some(promotion) = self.promotion.as_mut().filter(|promotion| promotion.query == query) {
                    promotion.answered(from, &last);
                    self.advance(now);
                }
            }
            NodeMessage::Admit { follower, slots } => {
                let known = self.registry.addr_of(follower).is_some();
                self.propose(now, from, &slots, |config| {
                    let learner = config.learners.iter().position(|learner| *learner == follower).filter(|_| known)?;
                    config.isr.push(config.learners.remove(learner));
                    Some(())
                });
            }
            NodeMessage::Expel { follower, slots } => self.propose(now, from, &slots, |config| {
                let member = config.isr.iter().position(|member| *member == follower && *member != from)?;
                config.learners.push(config.isr.remove(member));
                Some(())
            }),
            NodeMessage::Release { to, slots } => {
                for SlotAt { slot, .. } in &slots {
                    self.handing_over.remove(slot);
                }
                let known = self.registry.addr_of(to).is_some();
                self.propose(now, from, &slots, |config| {
                    let in_sync = known && config.isr.contains(&to);
                    in_sync.then(|| config.primary = Some(to))
                });
            }
        }
        true
    }

    /// When to call [`Coordinator::handle_timeout`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Timestamp {
        let phase = match self.phase {
            Phase::Gathering(until) | Phase::Recovering(until) => Some(until),
            Phase::Fresh | Phase::Serving => None,
        };
        let promotion = self.promotion.as_ref().map(|promotion| promotion.until);
        let retry = self.handing_over.values().map(|(_, asked)| *asked + HANDOVER_RETRY).min();
        [phase, promotion, retry].into_iter().flatten().fold(self.registry.next_check(), Timestamp::min)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
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

    /// A change of single slots that their primary asks for: compare-and-set on each slot's version.
    fn propose(
        &mut self,
        now: Timestamp,
        from: Incarnation,
        slots: &[SlotAt],
        change: impl Fn(&mut SlotConfig) -> Option<()>,
    ) {
        let mut changes = Vec::new();
        for SlotAt { slot, version } in slots {
            if usize::from(slot.0) >= self.settings.bits.count() {
                continue;
            }
            let config = self.map.config(*slot);
            let mut next = SlotConfig::clone(config);
            if config.version == *version && config.primary == Some(from) && change(&mut next).is_some() {
                changes.push((*slot, next));
            }
        }
        if self.phase == Phase::Serving && !changes.is_empty() {
            self.commit(changes);
        }
        self.advance(now);
    }

    /// Does whatever there is to do, until nothing is.
    fn advance(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Fresh => {}
            Phase::Gathering(until) if now < until => {}
            Phase::Gathering(_) => self.decide(now),
            Phase::Recovering(_) | Phase::Serving => {}
        }
        if let Phase::Recovering(until) = self.phase
            && (now >= until || self.everyone_is_back())
        {
            self.start_generation();
        }
        if self.phase == Phase::Serving {
            // Each round settles what the one before has made possible; three are the longest chain there is.
            while self.replan(now) {}
        }
    }

    /// A new incarnation takes an address over: all others that are known there are gone. Says whether there was one.
    fn replace_at(&mut self, addr: &NodeAddr, incarnation: Incarnation) -> bool {
        let registered = self.registry.get(addr).map(|node| node.incarnation);
        let remembered = self.map.members().filter(|(_, member)| member.addr == *addr).map(|(known, _)| known);
        let replaced: Vec<_> = registered.into_iter().chain(remembered).filter(|known| *known != incarnation).collect();
        self.gone.extend(&replaced);
        !replaced.is_empty()
    }

    fn copies(&self) -> usize {
        self.settings.replicas + 1
    }

    /// Whom the ring wants to hold each slot.
    fn targets(&self) -> Vec<Vec<Incarnation>> {
        let incarnation = |addr: &NodeAddr| self.registry.get(addr).map(|node| node.incarnation);
        let owners = self.ring.slot_owners(self.settings.bits, self.copies());
        owners.into_iter().map(|addrs| addrs.into_iter().filter_map(incarnation).collect()).collect()
    }

    fn standing(&self) -> Standing {
        let by_hand = self.registry.iter().filter(|(_, node)| node.by_hand).map(|(_, node)| node.incarnation);
        Standing { alive: self.registry.incarnations(), by_hand: by_hand.collect(), gone: self.gone.clone() }
    }

    /// Plans every slot and carries the plans out. Says whether the map has changed, so that another look is due.
    fn replan(&mut self, now: Timestamp) -> bool {
        let standing = self.standing();
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
            let round = self.promotion.take();
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
        self.map.set_members(members);
        self.outputs.push_back(Output::Publish);
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
            for holder in config.isr.iter().chain(&config.learners).chain(&config.primary) {
                if let Some(member) = self.map.member(*holder).filter(|_| !members.contains_key(holder)) {
                    members.insert(*holder, Member { addr: member.addr.clone(), up: false });
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
