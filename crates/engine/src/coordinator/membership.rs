//! Cluster membership: which starts of nodes join and which others they replace, and what people register and
//! unregister.

use proto::cluster_map::{ClusterMap, SlotConfig};
use proto::error::ErrorReply;
use proto::id::{Incarnation, NodeAddr};
use proto::limits;
use proto::session::Ancestors;

use super::{Coordinator, GATHERING, Phase};
use crate::bugs::{Bug, Bugs};
use crate::output::{Event, JoinError, Joined, Output};
use crate::plan;
use crate::time::Timestamp;

/// What a node says when it opens its session.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// Where to reach it.
    pub addr: NodeAddr,
    /// The incarnation that this start was given when it joined before.
    pub incarnation: Option<Incarnation>,
    /// How many shares of the slots it is to have.
    pub weight: u32,
    /// The incarnations whose data it has found on its disk.
    pub ancestors: Ancestors,
    /// The map that it has from an earlier session with any coordinator.
    pub held: Option<ClusterMap>,
}

impl JoinRequest {
    /// What a new node says that has no data and wants one share.
    #[must_use]
    pub fn new(addr: NodeAddr) -> Self {
        Self { addr, incarnation: None, weight: 1, ancestors: Ancestors::default(), held: None }
    }
}

/// A start of a node that has asked to join but has not been heard from since.
#[derive(Debug)]
pub(super) struct Joining {
    addr: NodeAddr,
    weight: u32,
    ancestors: Ancestors,
}

impl<B: Bugs> Coordinator<B> {
    /// A node opens its session. It is given an incarnation if it has none yet. If it is not registered, it becomes so
    /// with the first message it sends in answer; it sends a heartbeat immediately.
    ///
    /// IMPORTANT: not before that. The request may come from a start that is over, or from an attempt that the node has
    /// given up, and may arrive after the one that counts. The registered start would then be replaced by one that does
    /// not exist.
    ///
    /// # Errors
    /// The node may not join; nothing has changed.
    pub fn join(&mut self, now: Timestamp, request: JoinRequest) -> Result<Joined, JoinError> {
        let addr = request.addr.clone();
        let joined = self.try_join(now, request);
        if let Err(JoinError::Refused(why)) = &joined
            && self.rejections.refuse(&addr, why)
        {
            self.event(Event::Refused(addr, why.clone()));
        }
        joined
    }

    fn try_join(&mut self, now: Timestamp, request: JoinRequest) -> Result<Joined, JoinError> {
        let JoinRequest { addr, incarnation, weight, ancestors, held } = request;
        self.wake(now);
        let registered = self.registry.incarnation_at(&addr);
        if let Some(given) = incarnation {
            if self.rejections.is_unregistered(given) {
                return Err(JoinError::Unregistered);
            }
            // The map may know a later start that is away, from before this coordinator was restarted. An address that a
            // person has registered meanwhile is no start.
            let known = self.map.starts_at(&addr).chain(registered);
            let mut starts = known.filter(|known| !self.registry.is_by_hand(*known));
            if self.rejections.is_superseded(given) || starts.any(|later| given.is_before(later)) {
                return Err(JoinError::Replaced);
            }
        }
        if registered.is_none() {
            self.has_room().map_err(JoinError::Refused)?;
        }
        // Considered first, since it may show that what is known about who is here is unreliable.
        if let Some(held) = held {
            self.consider(now, held, incarnation.or(ancestors.last())).map_err(JoinError::Refused)?;
        }
        let registered = self.registry.incarnation_at(&addr);
        if registered != incarnation && self.is_held(now, &addr, incarnation, &ancestors) {
            return Err(JoinError::Refused(ErrorReply::Busy(format!(
                "another live node uses the name {addr}; start this one with another port or --advertise, or stop the \
                 other; after a crash the name becomes free by itself"
            ))));
        }
        let again = incarnation.is_some() && registered == incarnation;
        let incarnation = incarnation.unwrap_or_else(|| self.next_incarnation());
        if again {
            self.registry.heard(now, &addr);
            self.set_weight(&addr, weight);
            self.has_joined(now, addr, incarnation, ancestors);
        } else {
            self.joining.insert(incarnation, Joining { addr, weight, ancestors });
        }
        Ok(Joined { incarnation, again })
    }

    /// Handles the first message of a node under the incarnation it was given when it joined. `false` if no join of that
    /// incarnation is pending, if it may no longer have the name, or if there is no room.
    pub(super) fn confirm(&mut self, now: Timestamp, incarnation: Incarnation) -> bool {
        let Some(Joining { addr, weight, ancestors }) = self.joining.remove(&incarnation) else { return false };
        let registered = self.registry.get(&addr);
        let is_late = registered.is_some_and(|present| !present.by_hand && incarnation.is_before(present.incarnation));
        if is_late
            || self.rejections.is_unregistered(incarnation)
            || self.is_held(now, &addr, Some(incarnation), &ancestors)
            || (registered.is_none() && self.has_room().is_err())
        {
            return false;
        }
        self.set_weight(&addr, weight);
        self.has_joined(now, addr, incarnation, ancestors);
        true
    }

    /// Whether the name belongs to another start that may still be alive. IMPORTANT: that one would delete what it
    /// holds.
    ///
    /// While it is undecided how a coordinator continues, a node that an earlier coordinator has known takes
    /// precedence: the data of its cluster is its own.
    fn is_held(
        &self,
        now: Timestamp,
        addr: &NodeAddr,
        incarnation: Option<Incarnation>,
        ancestors: &Ancestors,
    ) -> bool {
        let Some(holder) = self.registry.incarnation_at(addr) else { return false };
        let is_ours = |it: Incarnation| it.is_of_one_coordinator(Incarnation(self.incarnations));
        let was_known_before = incarnation.is_some_and(|it| !is_ours(it));
        if was_known_before && !matches!(self.phase, Phase::Serving | Phase::Restored(_)) {
            return false;
        }
        let is_successor = ancestors.contains(holder);
        // IMPORTANT: if its copy were given up now, a former member would be promoted while it still serves.
        let serves_on = !is_successor && self.counts_on_answers(holder);
        let comes_back_within = if serves_on { self.registry.timeout_at(now) } else { GATHERING };
        self.registry.may_live(now, addr, comes_back_within, is_successor) && !self.bugs.plants(Bug::NameTaken)
    }

    /// Whether a node leads a slot that another could be given, with too few copies in sync to know of it by itself: it
    /// serves for nearly the timeout after the last answer from here.
    fn counts_on_answers(&self, node: Incarnation) -> bool {
        let settings = self.settings.cluster_settings;
        let is_counting = |config: &SlotConfig| config.primary == Some(node) && settings.is_small(config.isr.len());
        self.map.members().any(|(other, _)| other != node) && plan::runs(&self.map).any(is_counting)
    }

    /// Checks that no silent node at this address, or at any, may still serve slots that are about to be given away.
    pub(super) fn nobody_serves_on(&self, now: Timestamp, addr: Option<&NodeAddr>) -> Result<(), ErrorReply> {
        let timeout = self.registry.timeout_at(now);
        for (node, registered) in self.registry.iter().filter(|(node, _)| addr.is_none_or(|addr| addr == *node)) {
            let silent = self.registry.silent_for(now, registered.incarnation);
            let left = silent.and_then(|silent| timeout.checked_sub(silent)).filter(|left| !left.is_zero());
            if let Some(left) = left.filter(|_| self.counts_on_answers(registered.incarnation)) {
                return Err(ErrorReply::Unavailable(format!(
                    "node {node} is silent, but may serve clients for another {} s, and its slots would be given to \
                     other nodes meanwhile; nothing was changed: send this again then",
                    left.as_secs() + 1
                )));
            }
        }
        Ok(())
    }

    /// Handles a start of a node that is here, for the first time or again.
    fn has_joined(&mut self, now: Timestamp, addr: NodeAddr, incarnation: Incarnation, ancestors: Ancestors) {
        let is_first = !std::mem::replace(&mut self.joined_once, true);
        self.rejections.has_joined(&addr);
        self.versions.is_followed_by(addr.clone());
        self.reports.begin_session(incarnation);
        if self.registry.incarnation_at(&addr) != Some(incarnation) {
            let returned = self.map.member(incarnation).is_some();
            let replaced = self.replace_at(now, &addr, incarnation, &ancestors);
            if returned || ancestors.last().is_some() {
                self.returns.is_back(incarnation, self.ring.nodes().contains(&addr));
            }
            self.event(match (returned, replaced) {
                (true, _) => Event::Returned(addr.clone(), incarnation),
                (false, true) => Event::Restarted(addr.clone(), incarnation),
                (false, false) => Event::Registered(addr.clone(), incarnation),
            });
            if returned && self.registry.len() == self.registry.by_hand().count() {
                self.returns.first_is_back(now, incarnation);
            }
            self.registry.insert(now, addr.clone(), incarnation);
            self.is_back(&addr);
            // Also if addresses registered by hand are served already: nodes of an earlier cluster may be about to
            // bring its map.
            if is_first && !matches!(self.phase, Phase::Gathering(_) | Phase::Recovering) {
                self.phase = Phase::Gathering(now + GATHERING);
            }
        }
        self.recovery.has_joined(incarnation, ancestors, &self.map, &self.registry);
        self.advance(now);
    }

    /// A person registers an address. `false` if it is registered already; nothing changes then.
    ///
    /// # Errors
    /// There is no room for more nodes.
    pub fn register_by_hand(&mut self, now: Timestamp, addr: NodeAddr) -> Result<bool, ErrorReply> {
        self.wake(now);
        if self.registry.get(&addr).is_some() {
            return Ok(false);
        }
        self.has_room()?;
        let incarnation = self.next_incarnation();
        self.registry.insert_by_hand(now, addr.clone(), incarnation);
        self.away.remove(&addr);
        self.weights.remove(&addr);
        self.ring.add(addr.clone());
        self.event(Event::Registered(addr, incarnation));
        // Nobody is waited for on behalf of an address that runs none of our programs.
        if self.phase == Phase::Fresh {
            self.phase = Phase::Serving;
        }
        self.advance(now);
        Ok(true)
    }

    /// A person takes a node off the ring; its memory is given up for good.
    ///
    /// # Errors
    /// No node is known at that address; or it is silent and may still serve slots of which it has the only copy in
    /// sync; or this coordinator takes its state over and waits for what the node knows. Nothing has changed.
    pub fn unregister(&mut self, now: Timestamp, addr: &NodeAddr) -> Result<(), ErrorReply> {
        self.wake(now);
        // IMPORTANT: what it knows is about the data of others, too, which nobody has given up: without it, a copy that
        // lacks a quorum write may lead. Only `forget` says that this is accepted.
        if self.recovery.awaited().any(|awaited| awaited == addr) {
            return Err(ErrorReply::Unavailable(format!(
                "the coordinator takes its state over from the nodes and waits for node {addr}, which may know of \
                 changes that the others have not heard of; nothing was changed: start it, or, if it is gone for good, \
                 send FORGET {addr}, and then this again if slots still wait for it"
            )));
        }
        self.nobody_serves_on(now, Some(addr))?;
        let removed = self.registry.remove(addr);
        let by_hand = removed.as_ref().is_some_and(|node| node.by_hand);
        let registered = removed.map(|node| node.incarnation);
        let remembered: Vec<_> = self.map.starts_at(addr).collect();
        if registered.is_none() && remembered.is_empty() && !self.departures.leaving.contains(addr) {
            return Err(ErrorReply::NodeNotFound(addr.clone()));
        }
        self.ring.remove(addr);
        self.away.remove(addr);
        self.departures.leaving.remove(addr);
        self.departures.replacing.retain(|_, old| old != addr);
        // IMPORTANT: also those that are not here. One that was only cut off is told so when it joins again.
        let out: Vec<_> = registered.into_iter().chain(remembered).collect();
        // What was registered by hand never joins.
        self.rejections.stay_out(out.iter().copied().filter(|start| !(by_hand && registered == Some(*start))));
        self.successors.give_up(out);
        self.event(Event::Unregistered(addr.clone()));
        self.advance(now);
        self.outputs.extend(registered.map(Output::Unregistered));
        Ok(())
    }

    /// A heartbeat from a person or an old program. `false` if the address is not registered. A node with a session
    /// speaks for itself: nobody else can keep it on the ring.
    pub fn heartbeat(&mut self, now: Timestamp, addr: &NodeAddr) -> bool {
        self.wake(now);
        match self.registry.get(addr) {
            Some(node) if node.by_hand => self.registry.heard(now, addr),
            node => node.is_some(),
        }
    }

    /// A new incarnation takes over an address: all others known there are gone. Returns whether there were any. If it
    /// has found the data of one of them on its disk, that one is reborn or unproven instead.
    pub(super) fn replace_at(
        &mut self,
        now: Timestamp,
        addr: &NodeAddr,
        incarnation: Incarnation,
        ancestors: &Ancestors,
    ) -> bool {
        let registered = self.registry.incarnation_at(addr);
        let known = registered.into_iter().chain(self.map.starts_at(addr));
        let replaced: Vec<_> = known.filter(|known| *known != incarnation).collect();
        self.rejections.supersede(&replaced);
        self.successors.replace(now, &replaced, incarnation, ancestors, self.bugs);
        !replaced.is_empty()
    }

    /// Whether one more node may register.
    fn has_room(&self) -> Result<(), ErrorReply> {
        if self.registry.len() < limits::NODES {
            return Ok(());
        }
        Err(ErrorReply::Busy(format!("{} nodes are registered, which is the limit", limits::NODES)))
    }

    fn next_incarnation(&mut self) -> Incarnation {
        self.incarnations += 1;
        Incarnation(self.incarnations)
    }

    /// The session of a node has ended: it is suspected until it is heard from again.
    pub fn session_ended(&mut self, now: Timestamp, node: Incarnation) {
        self.wake(now);
        self.joining.remove(&node);
        self.registry.session_ended(now, node);
        self.advance(now);
    }
}
