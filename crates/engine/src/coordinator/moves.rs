//! Who is on the way out or away: nodes that an operator decommissions, whose slots are handed over before they delete what
//! they hold; and nodes that are dead or stopped and may be back soon, in whose place no other node is filled yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::cluster_map::{Member, SlotConfig};
use proto::id::{Incarnation, NodeAddr};

use super::{Coordinator, Phase};
use crate::bugs::{Bug, Bugs};
use crate::output::{DecommissionError, Event, Output, Replaced};
use crate::plan::has_same_holders;
use crate::registry::Registered;
use crate::time::Timestamp;

impl<B: Bugs> Coordinator<B> {
    /// An operator wants a node to leave for good. Its slots are handed over; then it is told to delete what it holds. It
    /// may be asked again at any time. Gives how many slots it still holds.
    ///
    /// # Errors
    /// It cannot be; nothing has changed.
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

    /// An operator wants a node to leave for good, and another to take its place. Where that is not here yet, nothing happens
    /// before it has joined: then the one comes and the other goes in one change.
    ///
    /// # Errors
    /// It cannot be; nothing has changed.
    pub fn replace(&mut self, now: Timestamp, old: &NodeAddr, new: &NodeAddr) -> Result<Replaced, DecommissionError> {
        self.wake(now);
        if old == new || self.departures.leaving.contains(new) {
            return Err(DecommissionError::Itself);
        }
        if self.departures.leaving.contains(old) || self.registry.get(new).is_some_and(|node| !node.by_hand) {
            return self.decommission(now, old).map(Replaced::Leaves);
        }
        self.may_leave(old)?;
        self.departures.replacing.insert(new.clone(), old.clone());
        self.event(Event::LeavesFor(old.clone(), new.clone()));
        self.advance(now);
        Ok(Replaced::Waits)
    }

    fn may_leave(&self, addr: &NodeAddr) -> Result<(), DecommissionError> {
        let registered = self.registry.get(addr);
        if registered.is_none()
            && !self.map.members().any(|(_, member)| member.addr == *addr)
            && !self.away.contains_key(addr)
        {
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

    /// From now on it has no place on the ring. One that is away is not waited for any more, and takes no other's place.
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

    /// An operator takes a decommission back: the node gets its share of the slots again.
    ///
    /// # Errors
    /// There is no such node, or it has handed everything over and deletes what it holds by now. Nothing has changed.
    pub fn recommission(&mut self, now: Timestamp, addr: &NodeAddr) -> Result<(), DecommissionError> {
        self.wake(now);
        if self.phase != Phase::Serving {
            return Err(DecommissionError::NotServing);
        }
        let waited = self.departures.replacing.len();
        self.departures.replacing.retain(|_, old| old != addr);
        let registered = self.registry.get(addr).map(|node| node.incarnation);
        if !self.departures.leaving.contains(addr) && self.departures.replacing.len() == waited {
            // One that is here and was not to leave stays anyway.
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

    /// Who leaves, and how many slots each of them still holds.
    pub fn leaving(&self) -> impl Iterator<Item = (&NodeAddr, usize)> {
        self.departures.leaving.iter().map(|addr| (addr, self.slots_held_at(addr)))
    }

    /// Who is away and in whose place nobody is filled yet, and from when on somebody is.
    pub fn away(&self) -> impl Iterator<Item = (&NodeAddr, Timestamp)> {
        self.away.iter().map(|(addr, since)| (addr, *since + self.settings.replace_after))
    }

    fn slots_held_at(&self, addr: &NodeAddr) -> usize {
        let starts: BTreeSet<_> =
            self.map.members().filter(|(_, member)| member.addr == *addr).map(|(start, _)| start).collect();
        self.map.slots().filter(|(_, config)| config.copies().any(|copy| starts.contains(&copy))).count()
    }

    /// Who leaves and is registered.
    pub(super) fn leavers(&self) -> BTreeSet<Incarnation> {
        self.departures.leaving.iter().filter_map(|addr| Some(self.registry.get(addr)?.incarnation)).collect()
    }

    /// How many copies of each slot there are to be: those of all nodes on the ring where they are fewer than wanted. Nodes
    /// that are away for a moment are among them, nodes that leave are not.
    pub(super) fn wanted(&self) -> usize {
        let by_hand = self.registry.iter().filter(|(_, node)| node.by_hand).count();
        self.ring.nodes().len().saturating_sub(by_hand).min(self.copies())
    }

    /// A node says how many shares it wants. It may have been started again with another number.
    pub(super) fn set_weight(&mut self, addr: &NodeAddr, weight: u32) {
        let before = if weight == 1 { self.weights.remove(addr) } else { self.weights.insert(addr.clone(), weight) };
        if before.unwrap_or(1) != weight && self.ring.remove(addr) {
            self.take_place(addr);
        }
    }

    /// A node gets its place on the ring, where it has none.
    pub(super) fn take_place(&mut self, addr: &NodeAddr) {
        self.ring.add_weighted(addr.clone(), self.weights.get(addr).copied().unwrap_or(1));
    }

    /// A node is here, as a start that counts.
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

    /// A node is dead or has stopped. Whoever leads is another from now on, but in its place nobody is filled before
    /// `replace_after` is over.
    pub(super) fn goes_away(&mut self, now: Timestamp, addr: &NodeAddr, by_hand: bool) {
        if by_hand || self.settings.replace_after.is_zero() || self.departures.leaving.contains(addr) {
            self.ring.remove(addr);
        } else {
            self.away.insert(addr.clone(), now);
        }
    }

    /// These were away when the state was kept. Since when is not known.
    pub(super) fn restore_away(&mut self, now: Timestamp, away: Vec<NodeAddr>) {
        for addr in away {
            if !self.settings.replace_after.is_zero() && self.registry.get(&addr).is_none() {
                self.take_place(&addr);
                self.away.insert(addr, now);
            }
        }
    }

    /// Nodes that have been away for too long are replaced.
    pub(super) fn replace_the_away(&mut self, now: Timestamp) {
        let due = self.settings.replace_after;
        let replaced: Vec<_> = self.away.extract_if(.., |_, since| now >= *since + due).collect();
        for (addr, _) in replaced {
            self.ring.remove(&addr);
            self.event(Event::Replaced(addr));
        }
    }

    /// When the first of them is.
    pub(super) fn next_replacement(&self) -> Option<Timestamp> {
        self.away.values().map(|since| *since + self.settings.replace_after).min()
    }

    /// Tells nodes that leave to delete what they hold, once they hold no part of any slot.
    ///
    /// IMPORTANT: and only while every slot has all its copies without them. What they have on their disks may be the last of
    /// its kind where others have failed meanwhile.
    pub(super) fn dismiss_leavers(&mut self) {
        let leavers = self.leavers();
        self.moved_off.retain(|node| leavers.contains(node));
        if leavers.is_subset(&self.moved_off) {
            return;
        }
        let wanted = self.wanted();
        // A member may be known by an earlier start whose data the present one has.
        let present = |(start, member): (Incarnation, &Member)| {
            let node = self.registry.get(&member.addr).filter(|_| self.departures.leaving.contains(&member.addr))?;
            (!self.gone.contains(&start)).then_some((start, node.incarnation))
        };
        let starts: BTreeMap<Incarnation, Incarnation> = self.map.members().filter_map(present).collect();
        let mut holders: BTreeSet<Incarnation> = BTreeSet::new();
        let mut is_whole = wanted > 0;
        let mut last_seen: Option<&Arc<SlotConfig>> = None;
        for (_, config) in self.map.slots() {
            // Slots come in runs of one configuration; each run is looked at once.
            if last_seen.is_some_and(|seen| has_same_holders(seen, config)) {
                continue;
            }
            last_seen = Some(config);
            let staying = config.isr.iter().filter(|member| !leavers.contains(member)).count();
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
        for node in leavers.into_iter().filter(|node| !holders.contains(node)) {
            if self.moved_off.insert(node) {
                self.outputs.push_back(Output::Dismiss(node));
            }
        }
    }

    /// A node has deleted what it held, as it was told to: it is a member no more.
    pub(super) fn has_cleared(&mut self, now: Timestamp, addr: &NodeAddr, incarnation: Incarnation) {
        self.registry.remove(addr);
        self.ring.remove(addr);
        self.departures.leaving.remove(addr);
        self.weights.remove(addr);
        self.moved_off.remove(&incarnation);
        self.unregistered.insert(incarnation);
        let remembered = self.map.members().filter(|(_, member)| member.addr == *addr).map(|(start, _)| start);
        self.gone.extend(remembered);
        self.event(Event::Decommissioned(addr.clone()));
        self.advance(now);
    }
}
