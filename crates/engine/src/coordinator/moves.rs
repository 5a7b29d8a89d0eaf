//! Nodes that are leaving or away: those that an operator decommissions, whose slots are handed over before they delete
//! what they hold; and those that are dead or stopped but may soon be back, so that no other node is filled in their
//! place yet.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::Member;
use proto::id::{Incarnation, NodeAddr};

use super::{Coordinator, Phase};
use crate::bugs::{Bug, Bugs};
use crate::output::{DecommissionError, Event, Output, Replaced};
use crate::plan;
use crate::registry::Registered;
use crate::time::Timestamp;

impl<B: Bugs> Coordinator<B> {
    /// An operator wants a node to leave for good. Its slots are handed over; then it is told to delete what it holds.
    /// The request may be repeated at any time. Returns how many slots the node still holds.
    ///
    /// # Errors
    /// The node cannot be decommissioned; nothing has changed.
    pub fn decommission(&mut self, now: Timestamp, addr: &NodeAddr) -> Result<usize, DecommissionError> {
        self.wake(now);
        if !self.departures.leaving.contains(addr) {
            self.may_leave(addr)?;
            let stays = |(other, node): (&NodeAddr, &Registered)| {
                other != addr && !node.by_hand && !self.departures.leaving.contains(other)
            };
            if !self.registry.iter().any(stays) {
                return Err(DecommissionError::LastNode);
            }
            self.leaves(addr);
            self.advance(now);
        }
        Ok(self.slots_held_at(addr))
    }

    /// An operator wants a node to leave for good and another to take its place. If the other is not here yet, nothing
    /// happens until it has joined: then one comes and the other goes in a single change.
    ///
    /// # Errors
    /// The node cannot be replaced; nothing has changed.
    pub fn replace(&mut self, now: Timestamp, old: &NodeAddr, new: &NodeAddr) -> Result<Replaced, DecommissionError> {
        self.wake(now);
        if old == new || self.departures.leaving.contains(new) {
            return Err(DecommissionError::Itself);
        }
        if self.departures.leaving.contains(old) || self.registry.get(new).is_some_and(|node| !node.by_hand) {
            return self.decommission(now, old).map(Replaced::Leaves);
        }
        self.may_leave(old)?;
        if let Some(other) = self.departures.replacing.get(new).filter(|other| *other != old) {
            return Err(DecommissionError::Taken(other.clone()));
        }
        self.departures.replacing.insert(new.clone(), old.clone());
        self.event(Event::LeavesFor(old.clone(), new.clone()));
        self.advance(now);
        Ok(Replaced::Waits)
    }

    fn may_leave(&self, addr: &NodeAddr) -> Result<(), DecommissionError> {
        let registered = self.registry.get(addr);
        if registered.is_none() && self.map.starts_at(addr).next().is_none() && !self.away.contains_key(addr) {
            return Err(DecommissionError::NotFound);
        }
        if registered.is_some_and(|node| node.by_hand) {
            return Err(DecommissionError::ByHand);
        }
        if self.phase != Phase::Serving {
            return Err(DecommissionError::NotServing);
        }
        Ok(())
    }

    /// From now on the node has no place on the ring. If it is away, it is no longer waited for, and it replaces
    /// nobody.
    fn leaves(&mut self, addr: &NodeAddr) {
        self.departures.replacing.retain(|_, old| old != addr);
        if let Some(old) = self.departures.replacing.remove(addr) {
            self.event(Event::Stays(old));
        }
        self.departures.leaving.insert(addr.clone());
        self.away.remove(addr);
        self.ring.remove(addr);
        self.event(Event::Leaving(addr.clone()));
    }

    /// An operator cancels a decommission: the node gets its share of the slots again.
    ///
    /// # Errors
    /// There is no such node, or it has handed everything over and is already deleting what it holds. Nothing has
    /// changed.
    pub fn recommission(&mut self, now: Timestamp, addr: &NodeAddr) -> Result<(), DecommissionError> {
        self.wake(now);
        if self.phase != Phase::Serving {
            return Err(DecommissionError::NotServing);
        }
        let waited = self.departures.replacing.len();
        self.departures.replacing.retain(|_, old| old != addr);
        let registered = self.registry.incarnation_at(addr);
        if !self.departures.leaving.contains(addr) && self.departures.replacing.len() == waited {
            // A node that is here and was not leaving stays anyway.
            return if registered.is_some() { Ok(()) } else { Err(DecommissionError::NotFound) };
        }
        if registered.is_some_and(|node| self.moved_off.contains(&node)) {
            return Err(DecommissionError::TooLate);
        }
        if self.departures.leaving.remove(addr) && registered.is_some() {
            self.take_place(addr);
        }
        self.event(Event::Stays(addr.clone()));
        self.advance(now);
        Ok(())
    }

    /// The nodes that are leaving, and how many slots each of them still holds.
    pub fn leaving(&self) -> impl Iterator<Item = (&NodeAddr, usize)> {
        self.departures.leaving.iter().map(|addr| (addr, self.slots_held_at(addr)))
    }

    /// The nodes that are away and not replaced yet, and when each of them will be.
    pub fn away(&self) -> impl Iterator<Item = (&NodeAddr, Timestamp)> {
        self.away.iter().map(|(addr, since)| (addr, *since + self.settings.replace_after))
    }

    fn slots_held_at(&self, addr: &NodeAddr) -> usize {
        let starts: BTreeSet<_> = self.map.starts_at(addr).collect();
        self.map.slots().filter(|(_, config)| config.copies().any(|copy| starts.contains(&copy))).count()
    }

    /// The nodes that are leaving and registered.
    pub(super) fn leavers(&self) -> BTreeSet<Incarnation> {
        self.departures.leaving.iter().filter_map(|addr| self.registry.incarnation_at(addr)).collect()
    }

    /// How many copies each slot should have: one per node on the ring if there are fewer nodes than copies wanted.
    /// Nodes that are briefly away are counted; nodes that are leaving are not.
    pub(super) fn wanted(&self) -> usize {
        let by_hand = self.registry.by_hand().count();
        self.ring.nodes().len().saturating_sub(by_hand).min(self.copies())
    }

    /// A node says how many shares it wants. It may have been restarted with a different number.
    pub(super) fn set_weight(&mut self, addr: &NodeAddr, weight: u32) {
        let before = if weight == 1 { self.weights.remove(addr) } else { self.weights.insert(addr.clone(), weight) };
        if before.unwrap_or(1) != weight && self.ring.remove(addr) {
            self.take_place(addr);
        }
    }

    /// Gives a node its place on the ring, if it has none.
    pub(super) fn take_place(&mut self, addr: &NodeAddr) {
        self.ring.add_weighted(addr.clone(), self.weights.get(addr).copied().unwrap_or(1));
    }

    /// Handles a node that is here, as a start that counts.
    pub(super) fn is_back(&mut self, addr: &NodeAddr) {
        self.away.remove(addr);
        if self.departures.leaving.contains(addr) {
            self.ring.remove(addr);
            return;
        }
        self.take_place(addr);
        if let Some(old) = self.departures.replacing.remove(addr) {
            self.leaves(&old);
        }
    }

    /// Handles a node that is dead or has stopped. Another node leads from now on, but nobody is filled in its place
    /// until `replace_after` has passed.
    pub(super) fn goes_away(&mut self, now: Timestamp, addr: &NodeAddr, by_hand: bool) {
        if by_hand || self.settings.replace_after.is_zero() || self.departures.leaving.contains(addr) {
            self.ring.remove(addr);
        } else {
            self.away.insert(addr.clone(), now);
        }
    }

    /// Restores the nodes that were away when the state was saved. Since when is unknown.
    pub(super) fn restore_away(&mut self, now: Timestamp, away: Vec<NodeAddr>) {
        for addr in away {
            if !self.settings.replace_after.is_zero() && self.registry.get(&addr).is_none() {
                self.take_place(&addr);
                self.away.insert(addr, now);
            }
        }
    }

    /// Replaces the nodes that have been away for too long.
    pub(super) fn replace_the_away(&mut self, now: Timestamp) {
        let due = self.settings.replace_after;
        let replaced: Vec<_> = self.away.extract_if(.., |_, since| now >= *since + due).collect();
        for (addr, _) in replaced {
            self.ring.remove(&addr);
            self.event(Event::Replaced(addr));
        }
    }

    /// When the first node that is away will be replaced.
    pub(super) fn next_replacement(&self) -> Option<Timestamp> {
        self.away.values().map(|since| *since + self.settings.replace_after).min()
    }

    /// Tells leaving nodes to delete what they hold, once they hold no part of any slot.
    ///
    /// IMPORTANT: only while every slot has all its copies without them. If others have failed meanwhile, what they
    /// have on their disks may be all that is left.
    pub(super) fn dismiss_leavers(&mut self) {
        let leavers = self.leavers();
        self.moved_off.retain(|node| leavers.contains(node));
        if leavers.is_subset(&self.moved_off) {
            return;
        }
        let wanted = self.wanted();
        // The map may know a member by an earlier start whose data the current one has.
        let present = |(start, member): (Incarnation, &Member)| {
            let node = self.registry.get(&member.addr).filter(|_| self.departures.leaving.contains(&member.addr))?;
            (!self.successors.is_gone(start)).then_some((start, node.incarnation))
        };
        let starts: BTreeMap<Incarnation, Incarnation> = self.map.members().filter_map(present).collect();
        let mut holders: BTreeSet<Incarnation> = BTreeSet::new();
        let mut is_whole = wanted > 0;
        let registered = self.registry.incarnations();
        let stays = |member: &&Incarnation| {
            let is_here = registered.contains(&self.successors.holder(**member));
            is_here && !leavers.contains(member) && !self.successors.is_gone(**member)
        };
        for config in plan::runs(&self.map) {
            let staying = config.isr.iter().filter(stays).count();
            is_whole &= staying >= wanted;
            holders.extend(config.copies().filter_map(|copy| starts.get(&copy)));
        }
        if self.bugs.plants(Bug::LeaverDeletesEarly) {
            let leads = |node: &Incarnation| self.map.slots().any(|(_, config)| config.primary == Some(*node));
            holders = leavers.iter().copied().filter(leads).collect();
            is_whole = true;
        }
        if !is_whole {
            return;
        }
        let told: Vec<_> =
            leavers.difference(&self.moved_off).filter(|node| !holders.contains(node)).copied().collect();
        if !told.is_empty() {
            self.moved_off.extend(&told);
            // IMPORTANT: persisted before they are told. A coordinator that is restarted must not let them stay.
            self.outputs.push_back(Output::Keep);
            self.outputs.extend(told.into_iter().map(Output::Dismiss));
        }
    }

    /// A node has deleted what it held, as it was told to: it is no longer a member.
    pub(super) fn has_cleared(&mut self, now: Timestamp, addr: &NodeAddr, incarnation: Incarnation) {
        self.registry.remove(addr);
        self.ring.remove(addr);
        self.departures.leaving.remove(addr);
        self.weights.remove(addr);
        self.moved_off.remove(&incarnation);
        self.rejections.stay_out(std::iter::once(incarnation));
        self.successors.give_up(self.map.starts_at(addr));
        self.event(Event::Decommissioned(addr.clone()));
        self.advance(now);
    }
}
