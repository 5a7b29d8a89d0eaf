//! The coordinator's messages to a node, and the node's requests to the coordinator.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapError, MapUpdate, SlotConfig};
use proto::id::{Incarnation, Version};
use proto::session::{NodeMessage, SlotAt};
use proto::slot::SlotId;

use super::{Node, Proposals, Slots, Turn};
use crate::bugs::{Bug, Bugs};
use crate::time::Timestamp;

/// The minimum interval between proposals of admissions.
const ADMISSION_PAUSE: Duration = Duration::from_millis(60);

/// For how many tenths of the heartbeat timeout an answer of the coordinator is counted on: two clocks that are each off by
/// a tenth at most still agree that the timeout has not passed.
const TRUSTED_TENTHS: u32 = 8;

impl<B: Bugs> Node<B> {
    /// The coordinator has registered this node. All pending proposals are made again, since they may have been lost.
    pub fn joined(&self, me: Incarnation) {
        self.me.store(me.0, Ordering::Relaxed);
        self.has_map_of_session.store(false, Ordering::Relaxed);
        let mut admit: BTreeMap<Incarnation, Slots> = BTreeMap::new();
        for slot in self.bits.slots() {
            let state = self.slot(slot);
            for learner in state.proposed_learners() {
                admit.entry(learner).or_default().insert(slot, state.config());
            }
        }
        let mut proposals = self.proposals();
        // A hand-over that began in the previous session still times out, so that its slot is served again.
        let handing_over = std::mem::take(&mut proposals.handing_over);
        let stops = self.is_stopping();
        *proposals = Proposals { admit, handing_over, stops, ..Proposals::default() };
    }

    /// The coordinator has answered a heartbeat that was sent at this moment, and regards this node as alive from then
    /// on.
    pub fn coordinator_answered(&self, sent: Timestamp) {
        let Some(map) = self.map() else { return };
        // IMPORTANT: a coordinator that has not sent its map yet does not confirm the role this node believes it has in
        // it.
        if !self.has_map_of_session.load(Ordering::Relaxed) {
            return;
        }
        let until = sent + map.cluster_settings.heartbeat_timeout * TRUSTED_TENTHS / 10;
        self.coordinator_until.fetch_max(until.0, Ordering::Relaxed);
    }

    /// The map that an update results in, if it must be on the node's disk before [`Node::handle_map`] is called with
    /// the update: when a copy no longer counts that is this node's own, or is of a slot that this node leads.
    ///
    /// IMPORTANT: that copy need not have what becomes durable from then on, and this node's own may be dropped at
    /// once. If the coordinator loses its state while all nodes are down, it uses the newest map that any of them has
    /// kept, and must not believe that the copy counts.
    #[must_use]
    pub fn to_be_kept(&self, update: &MapUpdate) -> Option<Arc<ClusterMap>> {
        let (me, before) = (self.incarnation(), self.map()?);
        let after = ClusterMap::updated(Some(&*before), update).ok()?;
        let is_mine = |copy: Incarnation| copy == me || self.ancestors.contains(copy);
        let shrinks = |(slot, after): (SlotId, &Arc<SlotConfig>)| {
            let before = before.config(slot);
            let counts = |config: &SlotConfig, copy| config.isr.contains(copy) || config.elr.contains(copy);
            let mut lost = before.isr.iter().chain(&before.elr).filter(|copy| !counts(after, copy));
            let is_led = after.primary == Some(me);
            let has_mine = after.isr.iter().chain(&after.elr).copied().any(is_mine);
            lost.any(|copy| is_led || (is_mine(*copy) && !has_mine))
        };
        let must_be = after.changes_from(&before).any(shrinks);
        must_be.then(|| Arc::new(after))
    }

    /// The map has changed. A node with a disk handles [`Node::to_be_kept`] first.
    ///
    /// # Errors
    /// The update does not follow on from the map held here, which stays as it was: ask for the whole map. Or the map
    /// belongs to another cluster, and what is held here has no place in it.
    pub fn handle_map(&self, now: Timestamp, update: &MapUpdate, turn: &mut Turn) -> Result<(), MapError> {
        let before = self.map();
        if before.as_ref().is_some_and(|before| before.cluster != update.cluster) {
            return Err(MapError::OtherCluster);
        }
        let map = Arc::new(ClusterMap::updated(before.as_deref(), update)?);
        if map.bits() != self.bits {
            return Err(MapError::Malformed("it uses a different number of slots"));
        }
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&map));
        self.is_alone.store(map.members().all(|(start, _)| start == self.incarnation()), Ordering::Relaxed);
        self.peers.follow_map(now, &map);
        let knows_me = |map: &ClusterMap| map.member(self.incarnation()).is_some();
        let settings_changed = before.as_ref().is_none_or(|before| before.cluster_settings != map.cluster_settings);
        let look_at_all = settings_changed || (knows_me(&map) && !before.as_ref().is_some_and(|map| knows_me(map)));
        let holds = |config: &SlotConfig| {
            config.copies().any(|copy| copy == self.incarnation() || self.ancestors.contains(copy))
        };
        let changed: Vec<SlotId> = match &before {
            Some(before) if !look_at_all => map.changes_from(before).map(|(slot, _)| slot).collect(),
            _ => self.bits.slots().collect(),
        };
        // IMPORTANT: a map may once more name a node as a primary that was taken off the ring. If that node led, empty
        // as it is, it would replace what the others hold.
        let is_out = self.is_out.load(Ordering::Relaxed) && !self.bugs.plants(Bug::UnregisteredLeads);
        for slot in changed.iter().copied().filter(|_| !is_out) {
            let config = map.config(slot);
            let mut state = self.slot(slot);
            // A primary with a newer map than this one may already have told the slot its configuration.
            if state.config() > map.version || (state.config() == config.version && !look_at_all) {
                continue;
            }
            // What was found on disk may become a copy in the next map, if this map predates this start or the slot has
            // room for another copy: a joining node is in the map before any slot has it as a learner.
            let may_come = config.isr.len() < map.cluster_settings.copies() && !holds(config);
            if state.is_found() && (!knows_me(&map) || may_come) {
                continue;
            }
            let outbox = |to| map.member(to).map(|member| self.outbox(now, to, &member.addr));
            state.configure(&self.cx(now, slot), config, &map.cluster_settings, outbox, turn);
            drop(state);
            self.proposals().handing_over.remove(&slot);
        }
        let mut neighbors = self.neighbors();
        let followed: BTreeSet<_> = neighbors.followed().collect();
        neighbors.update(self.incarnation(), before.as_deref(), &map, changed.into_iter());
        self.lock_outboxes().retain(|to, _| neighbors.is_follower(*to));
        // A primary that was followed long ago and is followed again had no reason to send anything meanwhile.
        neighbors
            .followed()
            .filter(|primary| !followed.contains(primary))
            .for_each(|it| self.peers.excuse_one(now, it));
        drop(neighbors);
        self.has_map_of_session.store(true, Ordering::Relaxed);
        self.finish(turn);
        Ok(())
    }

    /// The node was taken off the ring: it holds nothing any more and never leads again, whatever its map says.
    pub fn give_everything_up(&self) {
        self.is_out.store(true, Ordering::Relaxed);
        self.bits.slots().for_each(|slot| self.slot(slot).give_up(&self.cx(Timestamp::default(), slot)));
        self.lock_outboxes().clear();
        *self.proposals() = Proposals::default();
    }

    /// The coordinator asks this node to hand slots over to an in-sync replica.
    pub fn hand_over(&self, now: Timestamp, to: Incarnation, slots: &[SlotAt], turn: &mut Turn) {
        for SlotAt { slot, version } in slots.iter().filter(|at| self.has_slot(at.slot)) {
            // Noted first, because a hand-over that has started may end at any moment. One that is in progress
            // continues.
            match self.proposals().handing_over.entry(*slot) {
                Entry::Occupied(_) => continue,
                Entry::Vacant(entry) => entry.insert((to, now)),
            };
            let mut state = self.slot(*slot);
            if state.config() != *version || !state.drain(&self.cx(now, *slot), to, turn) {
                drop(state);
                self.proposals().handing_over.remove(slot);
            }
        }
        self.finish(turn);
    }

    /// This node's last record in each of these slots.
    #[must_use]
    pub fn positions(&self, slots: &[SlotId]) -> Vec<(SlotId, Version)> {
        slots.iter().filter(|slot| self.has_slot(**slot)).map(|slot| (*slot, self.slot(*slot).last())).collect()
    }

    /// The requests to the coordinator. Each proposal is returned once, and again after [`Node::joined`] or if the
    /// configuration has changed meanwhile.
    #[must_use]
    pub fn take_proposals(&self) -> Vec<NodeMessage> {
        let mut proposals = self.proposals();
        let admit = if self.may_admit(&proposals) {
            proposals.last_admission = self.last_tick();
            std::mem::take(&mut proposals.admit)
        } else {
            BTreeMap::new()
        };
        let expel = std::mem::take(&mut proposals.expel);
        let release = std::mem::take(&mut proposals.release);
        let complain = std::mem::take(&mut proposals.complain);
        let stops = std::mem::take(&mut proposals.stops).then_some(NodeMessage::Stops);
        let listed = |slots: Slots| slots.into_iter().map(|(slot, version)| SlotAt { slot, version }).collect();
        let expel = expel.into_iter().map(|(follower, slots)| NodeMessage::Expel { follower, slots: listed(slots) });
        let admit = admit.into_iter().map(|(follower, slots)| NodeMessage::Admit { follower, slots: listed(slots) });
        let release = release.into_iter().map(|(to, slots)| NodeMessage::Release { to, slots });
        let complain = complain.into_iter().map(|about| NodeMessage::Complain { about });
        complain.chain(expel).chain(admit).chain(release).chain(stops).collect()
    }

    /// Whether [`Node::take_proposals`] would return anything.
    #[must_use]
    pub fn has_proposals(&self) -> bool {
        let proposals = self.proposals();
        self.may_admit(&proposals)
            || !proposals.expel.is_empty()
            || !proposals.release.is_empty()
            || !proposals.complain.is_empty()
            || proposals.stops
    }

    /// Whether learners wait to be admitted and none were proposed a moment ago: while slots are being filled,
    /// admissions come in bursts, and each proposal is a change of the map.
    fn may_admit(&self, proposals: &Proposals) -> bool {
        !proposals.admit.is_empty() && self.last_tick() - proposals.last_admission >= ADMISSION_PAUSE
    }

    pub(super) fn last_tick(&self) -> Timestamp {
        Timestamp(self.last_tick.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use proto::cluster_map::MapVersion;
    use proto::slot::SlotBits;

    use super::*;
    use crate::bugs::NoBugs;

    const ME: Incarnation = Incarnation(1);

    /// Applies a change of the first slot's configuration; returns whether its map must be kept.
    fn is_to_be_kept(before: &SlotConfig, after: &SlotConfig) -> bool {
        let now = Timestamp(0);
        let node = Node::new(now, SlotBits::new(2), 0, NoBugs);
        node.joined(ME);
        let mut map = ClusterMap::empty("a".to_owned(), SlotBits::new(2));
        for (number, config) in [(1, before), (2, after)] {
            let version = MapVersion(number);
            map.set_config(SlotId(0), Arc::new(SlotConfig { version, ..config.clone() }));
            map.version = version;
            let update = map.update_since(MapVersion(number - 1));
            if number == 2 {
                return node.to_be_kept(&update).is_some_and(|kept| *kept == map);
            }
            node.handle_map(now, &update, &mut Turn::default()).expect("it is the first map");
        }
        false
    }

    #[test]
    fn a_node_keeps_a_map_in_which_a_copy_counts_no_more() {
        let of = |primary: u64, isr: &[u64], elr: &[u64], learners: &[u64]| {
            let all = |numbers: &[u64]| numbers.iter().copied().map(Incarnation).collect();
            SlotConfig {
                primary: Some(Incarnation(primary)),
                isr: all(isr),
                elr: all(elr),
                learners: all(learners),
                ..SlotConfig::default()
            }
        };
        let whole = of(1, &[1, 2, 3], &[], &[]);
        assert!(is_to_be_kept(&whole, &of(1, &[1, 2], &[], &[3])), "3 is expelled");
        assert!(
            is_to_be_kept(&of(2, &[2, 1, 3], &[], &[]), &of(1, &[1, 3], &[], &[])),
            "2 is lost, and this node leads"
        );
        assert!(is_to_be_kept(&of(1, &[1], &[2], &[]), &of(1, &[1, 3], &[], &[2])), "2 is no former member any more");
        assert!(!is_to_be_kept(&whole, &of(2, &[1, 2], &[], &[3])), "another leads");
        assert!(is_to_be_kept(&of(2, &[2, 1], &[], &[]), &of(2, &[2, 3], &[], &[])), "its own copy is dropped");
        assert!(is_to_be_kept(&of(2, &[2, 1], &[], &[]), &of(2, &[2, 3], &[], &[1])), "it is filled anew");
        assert!(!is_to_be_kept(&of(2, &[2, 1], &[], &[]), &of(2, &[2], &[1], &[])), "it counts as a former member");
        assert!(!is_to_be_kept(&whole, &of(1, &[1], &[2, 3], &[])), "former members count");
        assert!(!is_to_be_kept(&of(1, &[1, 2], &[], &[3]), &whole), "one more counts");
    }

    /// The coordinator gives the slots of a node to others when it has heard nothing for the whole timeout.
    #[test]
    fn an_answer_is_counted_on_for_less_than_the_timeout_even_by_clocks_that_are_wrong_by_a_tenth() {
        for millis in [100, 1_000, 10_000, 1_000_000] {
            let timeout = Duration::from_millis(millis);
            let node = Node::new(Timestamp(0), SlotBits::new(2), 0, NoBugs);
            node.joined(ME);
            let mut map = ClusterMap::empty("a".to_owned(), SlotBits::new(2));
            map.cluster_settings.heartbeat_timeout = timeout;
            map.version = MapVersion(1);
            node.handle_map(Timestamp(0), &map.update_since(MapVersion(0)), &mut Turn::default())
                .expect("the first map");
            let sent = Timestamp(7);
            node.coordinator_answered(sent);
            let counted_on = Timestamp(node.coordinator_until.load(Ordering::Relaxed)) - sent;
            assert!(counted_on * 100 / 90 <= timeout * 100 / 110, "{counted_on:?} of {timeout:?}");
            assert!(counted_on * 2 > timeout, "a lost heartbeat or two would stop it");
        }
    }

    #[test]
    fn an_answer_of_a_coordinator_that_has_not_sent_its_map_confirms_nothing() {
        let node = Node::new(Timestamp(0), SlotBits::new(2), 0, NoBugs);
        node.joined(ME);
        let mut map = ClusterMap::empty("a".to_owned(), SlotBits::new(2));
        map.version = MapVersion(1);
        node.handle_map(Timestamp(0), &map.update_since(MapVersion(0)), &mut Turn::default()).expect("the first map");
        // Another session, perhaps with another coordinator.
        node.joined(ME);
        node.coordinator_answered(Timestamp(7));
        assert_eq!(node.coordinator_until.load(Ordering::Relaxed), 0);
        map.version = MapVersion(2);
        node.handle_map(Timestamp(8), &map.update_since(MapVersion(1)), &mut Turn::default()).expect("the next map");
        node.coordinator_answered(Timestamp(9));
        assert_ne!(node.coordinator_until.load(Ordering::Relaxed), 0);
    }
}
