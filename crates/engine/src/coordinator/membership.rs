//! Cluster membership: which starts of nodes join and which others they replace, and what people register and
//! unregister.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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

/// A start of a node that has asked to join but has not been heard from since.
#[derive(Debug)]
pub(super) struct Joining {
    addr: NodeAddr,
    weight: u32,
    ancestors: Ancestors,
}

/// How many replaced starts are remembered, and how many that are to stay out.
const REMEMBERED: usize = 4_096;

/// How many refused nodes are remembered.
const REFUSED: usize = limits::NODES;

/// How long members that come back with their disks wait for the other members of their slots.
const REBORN_GRACE: Duration = Duration::from_secs(1);

impl<B: Bugs> Coordinator<B> {
    /// A node opens its session. It is given an incarnation if it has none yet. If it is not registered, it becomes so
    /// with the first message it sends in answer; it sends a heartbeat immediately.
    ///
    /// IMPORTANT: not before that. The request may come from a start that is over, or from an attempt that the node has
    /// given up, and may arrive after the one that counts. The registered start would then be replaced by one that does
    /// not exist.
    ///
    /// `ancestors` are the incarnations whose data a restarted node has found on its disk.
    /// `weight` is how many shares of the slots the node is to have.
    /// `held` is the map that it has from an earlier session with any coordinator.
    ///
    /// # Errors
    /// The node may not join; nothing has changed.
    pub fn join(
        &mut self,
        now: Timestamp,
        addr: NodeAddr,
        incarnation: Option<Incarnation>,
        weight: u32,
        ancestors: Ancestors,
        held: Option<ClusterMap>,
    ) -> Result<Joined, JoinError> {
        let joined = self.try_join(now, addr.clone(), incarnation, weight, ancestors, held);
        if let Err(JoinError::Refused(why)) = &joined
            && self.refused.get(&addr) != Some(why)
        {
            self.refused.insert(addr.clone(), why.clone());
            if self.refused.len() > REFUSED {
                self.refused.pop_first();
            }
            self.event(Event::Refused(addr, why.clone()));
        }
        joined
    }

    fn try_join(
        &mut self,
        now: Timestamp,
        addr: NodeAddr,
        incarnation: Option<Incarnation>,
        weight: u32,
        ancestors: Ancestors,
        held: Option<ClusterMap>,
    ) -> Result<Joined, JoinError> {
        self.wake(now);
        let registered = self.registry.incarnation_at(&addr);
        if let Some(given) = incarnation {
            if self.unregistered.contains(&given) {
                return Err(JoinError::Unregistered);
            }
            // The map may know a later start that is away, from before this coordinator was restarted. An address that a
            // person has registered meanwhile is no start.
            let known = self.map.starts_at(&addr).chain(registered);
            let mut starts = known.filter(|known| !self.registry.is_by_hand(*known));
            if self.superseded.contains(&given) || starts.any(|later| given.is_before(later)) {
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
            || self.unregistered.contains(&incarnation)
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
        // A node reports a full disk and a lack of memory anew in each session; its report that this is over may have
        // been lost with the last one.
        self.refused.remove(&addr);
        self.full.remove(&incarnation);
        self.short_of_memory.remove(&incarnation);
        if self.registry.incarnation_at(&addr) != Some(incarnation) {
            let returned = self.map.member(incarnation).is_some();
            let replaced = self.replace_at(now, &addr, incarnation, &ancestors);
            if returned || ancestors.last().is_some() {
                self.with_data.insert(incarnation);
                if self.ring.nodes().contains(&addr) {
                    self.returning.insert(incarnation);
                }
            }
            self.event(match (returned, replaced) {
                (true, _) => Event::Returned(addr.clone(), incarnation),
                (false, true) => Event::Restarted(addr.clone(), incarnation),
                (false, false) => Event::Registered(addr.clone(), incarnation),
            });
            if returned {
                self.expect_the_others(now, incarnation);
            }
            self.registry.insert(now, addr.clone(), incarnation);
            self.is_back(&addr);
            // Also if addresses registered by hand are served already: nodes of an earlier cluster may be about to
            // bring its map.
            if is_first && !matches!(self.phase, Phase::Gathering(_) | Phase::Recovering) {
                self.phase = Phase::Gathering(now + GATHERING);
            }
        }
        self.reported.insert(incarnation);
        self.reported.extend(ancestors.iter());
        self.awaited.retain(|awaited, _| *awaited != incarnation && !ancestors.contains(*awaited));
        self.await_no_successor();
        if ancestors.last().is_some() {
            self.ancestors.insert(incarnation, ancestors);
        }
        self.advance(now);
    }

    /// A node is back whose silence has cost it its place. If it was the same with all nodes, it was this coordinator
    /// that heard nobody, and the others are about to be back with what they hold, too.
    fn expect_the_others(&mut self, now: Timestamp, incarnation: Incarnation) {
        if self.deserters.contains(&incarnation)
            && self.registry.incarnations().len() == self.registry.by_hand().count()
        {
            self.expected = (std::mem::take(&mut self.deserters), now + GATHERING);
        }
    }

    /// The nodes that are about to come back.
    pub(super) fn expected(&self, now: Timestamp) -> BTreeSet<Incarnation> {
        let (nodes, until) = &self.expected;
        let is_away =
            |node: &&Incarnation| self.map.member(**node).is_some_and(|it| self.registry.get(&it.addr).is_none());
        nodes.iter().filter(|_| now < *until).filter(is_away).copied().collect()
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
        if self.awaited.values().any(|awaited| awaited == addr) {
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
        self.stay_out(out.iter().copied().filter(|start| !(by_hand && registered == Some(*start))));
        self.gone.extend(&out);
        self.event(Event::Unregistered(addr.clone()));
        self.advance(now);
        self.outputs.extend(registered.map(Output::Unregistered));
        Ok(())
    }

    /// These starts are never admitted again.
    pub(super) fn stay_out(&mut self, starts: impl Iterator<Item = Incarnation>) {
        self.unregistered.extend(starts);
        while self.unregistered.len() > REMEMBERED {
            self.unregistered.pop_first();
        }
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
        self.superseded.extend(&replaced);
        while self.superseded.len() > REMEMBERED {
            self.superseded.pop_first();
        }
        // Whoever was reborn as an incarnation that is now replaced holds what the new incarnation holds.
        let held_by = |successors: &BTreeMap<Incarnation, Incarnation>| {
            let held = successors.iter().filter(|(_, successor)| replaced.contains(successor));
            held.map(|(old, _)| *old).collect::<Vec<_>>()
        };
        let held = [held_by(&self.reborn), held_by(&self.unproven), replaced.clone()].concat();
        for old in &BTreeSet::from_iter(held) {
            // The new start may know the old incarnation itself, or only its successor.
            let successor = self.reborn.remove(old);
            let unproven_successor = self.unproven.remove(old);
            let knows = |list: &[Incarnation], successor: Option<Incarnation>| {
                list.contains(old) || successor.is_some_and(|successor| list.contains(&successor))
            };
            let is_proven = unproven_successor.is_none() && knows(&ancestors.proven, successor);
            let is_here = is_proven
                || knows(&ancestors.unproven, successor.or(unproven_successor))
                || knows(&ancestors.proven, unproven_successor);
            let is_trusted = is_here && self.bugs.plants(Bug::UnprovenTrusted);
            if is_proven || is_trusted || self.bugs.plants(Bug::TrustWithoutProof) {
                self.reborn.insert(*old, incarnation);
            } else if is_here && !self.bugs.plants(Bug::UnprovenGone) {
                self.unproven.insert(*old, incarnation);
                self.unproven_at = now;
            } else {
                self.gone.insert(*old);
                continue;
            }
            self.reborn_grace = now + REBORN_GRACE;
        }
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
