//! What a primary keeps of a slot that is not its alone, or in which something is not settled: its followers, what they
//! were told last, and who waits for what.

use std::mem::offset_of;

use smallvec::SmallVec;

use super::expiry::Deadlines;
use super::followers::Follower;
use super::hand_over::Intake;
use super::{SlotContext, Turn};
use crate::near::NearQueue;
use crate::outbox::Item;
use crate::table::fetch::fetch_start;
use crate::time::Timestamp;
use crate::waiting::Ticket;

/// As many waiters in a slot are not worth looking through.
const WAITERS_KEPT: usize = 64;

/// How many followers are stored inline: the default number of replicas.
const USUAL_FOLLOWERS: usize = 2;

/// State of a slot that has followers, has just been opened or is being released, that somebody waits in, or where a
/// value has a deadline.
///
/// What a record and its acknowledgements touch comes first, in three cache lines.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Active {
    pub(super) followers: SmallVec<[Follower; USUAL_FOLLOWERS]>,
    pub(super) intake: Intake,
    pub(super) last_write: Timestamp,
    /// The durable mark that the followers were last told.
    pub(super) told: u64,
    pub(super) will_tell: bool,
    /// Sorted by the number they wait for, ascending.
    waiters: NearQueue<Waiter>,
    /// The number of this term's barrier record; 0 if none was needed.
    pub(super) barrier: u64,
    /// When there are more waiters than this, those whose client has given up are dropped.
    waiters_kept: usize,
    /// The deadlines of its values; `None` until one is written here or the slot has been scanned.
    pub(super) deadlines: Option<Box<Deadlines>>,
}

/// A request waiting for a record to become durable.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) seq: u64,
    /// Also waits until every copy is in sync.
    pub(super) needs_all: bool,
    pub(super) ticket: Ticket,
}

impl Active {
    /// Prefetches what a record and its acknowledgements touch.
    pub(super) fn fetch(&self) {
        fetch_start(self, offset_of!(Self, barrier));
    }

    /// Whether nothing in it is needed any more, where the log is durable up to this number.
    pub(super) fn is_idle(&self, durable: u64) -> bool {
        let is_lone = self.followers.is_empty() && self.intake == Intake::Open;
        is_lone && self.waiters.front().is_none() && self.barrier <= durable && self.deadlines.is_none()
    }

    /// Tells the followers what is durable. A follower that is not caught up yet receives this after what brings it up
    /// to date.
    pub(super) fn tell_durable(&mut self, cx: &SlotContext<'_>, durable: u64, turn: &mut Turn) {
        self.told = durable;
        for follower in self.followers.iter().filter(|follower| follower.progress.takes_records()) {
            follower.outbox.push(Item::Durable { slot: cx.id, seq: durable });
            turn.touch(&follower.outbox);
        }
    }

    /// Adds a waiter. Those that nobody asks for any more are dropped each time the number of waiters has doubled: what
    /// they wait for may not become durable for as long as other copies are away.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        let seq = waiter.seq;
        self.waiters.insert_behind(|other| other.seq <= seq, waiter);
        let waiters = self.waiters.len();
        if waiters > WAITERS_KEPT && waiters > self.waiters_kept {
            self.waiters = std::mem::take(&mut self.waiters).into_iter().filter(|it| it.ticket.is_awaited()).collect();
            self.waiters_kept = 2 * self.waiters.len();
        }
    }

    /// Abandons all waiters and returns their tickets.
    pub(super) fn into_tickets(self) -> impl Iterator<Item = Ticket> {
        self.waiters.into_iter().map(|waiter| waiter.ticket)
    }

    /// Answers the waiters whose records are now durable.
    pub(super) fn settle(&mut self, durable: u64, is_complete: bool, turn: &mut Turn) {
        let reached = |waiter: &Waiter| waiter.seq <= durable;
        let ready = |waiter: &Waiter| reached(waiter) && (is_complete || !waiter.needs_all);
        while let Some(waiter) = self.waiters.pop_front_if(|waiter| ready(waiter)) {
            turn.settle(waiter.ticket);
        }
        // Behind a waiter that needs all copies, others may be ready.
        if self.waiters.front().is_some_and(reached) {
            let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters).into_iter().partition(ready);
            self.waiters = waiting.into_iter().collect();
            ready.into_iter().for_each(|waiter| turn.settle(waiter.ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::cluster_map::{ClusterMap, MapVersion, Member, SlotConfig};
    use proto::id::{Epoch, Incarnation};
    use proto::level::ReadLevel;
    use proto::peer::{Change, Write};
    use proto::slot::{SlotBits, SlotId};

    use super::*;
    use crate::bugs::NoBugs;
    use crate::node::Node;
    use crate::slot::primary::Primary;
    use crate::slot::{Executed, Role, Slot, Written};
    use crate::waiting::{Outcome, Waiting};

    const BITS: SlotBits = SlotBits::new(0);
    const SLOT: SlotId = SlotId(0);
    /// When every promise has expired.
    const NOW: Timestamp = Timestamp(10_000_000);

    /// The node leads its only slot in this epoch, without followers, of which there should be so many.
    fn lead(node: &Node, epoch: u64, replicas: usize) {
        lead_by(node, epoch, Epoch(epoch), replicas);
    }

    /// The same by a map of this version.
    fn lead_by(node: &Node, version: u64, epoch: Epoch, replicas: usize) {
        let me = Incarnation(1);
        node.joined(me);
        let (mut map, version) = (ClusterMap::empty("a".to_owned(), BITS), MapVersion(version));
        map.version = version;
        map.cluster_settings.replicas = replicas;
        let primary = Some(me);
        map.set_config(SLOT, SlotConfig { epoch, version, primary, isr: vec![me], ..Default::default() }.into());
        node.handle_map(Timestamp(0), &map.update_since(MapVersion(0)), &mut Turn::default()).expect("a whole map");
        node.coordinator_answered(NOW);
    }

    /// Whether a write touches memory beside the slot's own and the table's.
    fn has_more(slot: &Slot) -> bool {
        let has_active = matches!(&slot.role, Role::Primary(primary) if primary.active.is_some());
        has_active || slot.log.tail_entries().next().is_some()
    }

    #[test]
    fn a_slot_without_followers_has_more_only_as_long_as_something_needs_it() {
        let (node, waiting) = (Node::new(Timestamp(0), BITS, 0, NoBugs), Waiting::new());
        let write = |change| {
            let executed = node.write(NOW, SLOT, &Write::new(b"key", change), &waiting, &mut Turn::default());
            assert!(matches!(executed, Ok(Executed { answer: Written::Done(_), ticket: None })), "{executed:?}");
            node.inspect(SLOT, has_more)
        };
        lead(&node, 1, 0);
        assert!(!write(Change::Put(b"value")));
        // There are too few copies, so the first record of the new term does not become durable.
        lead(&node, 2, 2);
        assert!(write(Change::Put(b"value")));
        lead(&node, 3, 0);
        assert!(!write(Change::Put(b"value")), "it has become durable");
        assert!(write(Change::PutFor(b"value", 60_000)), "the deadline is kept in mind");
        assert!(write(Change::Put(b"value")), "until somebody looks");
        node.handle_timeout(NOW + Duration::from_secs(61), &mut Turn::default());
        assert!(!write(Change::Put(b"value")));
    }

    #[test]
    fn whoever_waits_in_a_slot_without_followers_is_answered_once_there_are_enough_copies() {
        let (node, waiting) = (Node::new(Timestamp(0), BITS, 0, NoBugs), Waiting::new());
        let put = || {
            let write = Write::new(b"key", Change::Put(b"value"));
            node.write(NOW, SLOT, &write, &Waiting::new(), &mut Turn::default()).expect("it leads");
        };
        lead(&node, 1, 0);
        put();
        // Now there are too few, within the same term.
        lead_by(&node, 2, Epoch(1), 2);
        put();
        let mut turn = Turn::default();
        let read = node.read(SLOT, b"key", ReadLevel::Linear, || NOW, &waiting, &mut turn, |record| record.is_some());
        assert!(matches!(read, Ok(Executed { answer: true, ticket: Some(0) })), "{read:?}");
        put();
        assert_eq!(waiting.outcome(0), None);
        lead_by(&node, 3, Epoch(1), 0);
        assert_eq!(waiting.outcome(0), Some(Outcome::Durable));
    }

    /// The mark that followers were told last, whether they will be told of a later one, and the durable mark.
    fn told(node: &Node) -> (u64, bool, u64) {
        node.inspect(SLOT, |slot| match &slot.role {
            Role::Primary(Primary { active: Some(active), .. }) => (active.told, active.will_tell, slot.durable()),
            _ => panic!("it leads, and has followers"),
        })
    }

    /// By a map of this version the node leads in the first epoch, with these in sync and these learners besides.
    fn lead_with(node: &Node, version: u64, in_sync: &[u64], learners: &[u64]) {
        let me = Incarnation(1);
        let (mut map, version) = (ClusterMap::empty("a".to_owned(), BITS), MapVersion(version));
        map.version = version;
        map.cluster_settings.replicas = 1;
        let member = |number| (Incarnation(number), Member { addr: format!("n:{number}").parse().unwrap(), up: true });
        map.set_members((1..=3).map(member).collect());
        let all = |numbers: &[u64]| numbers.iter().copied().map(Incarnation).collect::<Vec<_>>();
        let isr = [vec![me], all(in_sync)].concat();
        let config = SlotConfig {
            epoch: Epoch(1),
            version,
            primary: Some(me),
            isr,
            learners: all(learners),
            ..Default::default()
        };
        map.set_config(SLOT, config.into());
        node.handle_map(NOW, &map.update_since(MapVersion(0)), &mut Turn::default()).expect("a whole map");
        node.coordinator_answered(NOW);
    }

    #[test]
    fn who_comes_to_a_slot_without_followers_is_told_nothing_twice() {
        let (node, waiting) = (Node::new(Timestamp(0), BITS, 0, NoBugs), Waiting::new());
        lead(&node, 1, 0);
        let put = Write::new(b"key", Change::PutFor(b"value", 60_000));
        node.write(NOW, SLOT, &put, &waiting, &mut Turn::default()).expect("it leads");
        lead_with(&node, 2, &[], &[2]);
        assert_eq!(told(&node), (1, false, 1), "it is told where it has to align");
    }

    #[test]
    fn who_was_there_before_a_configuration_is_told_what_has_become_durable_by_it() {
        let (node, waiting) = (Node::new(Timestamp(0), BITS, 0, NoBugs), Waiting::new());
        node.joined(Incarnation(1));
        lead_with(&node, 1, &[], &[2]);
        let put = Write::new(b"key", Change::Put(b"value"));
        node.write(NOW, SLOT, &put, &waiting, &mut Turn::default()).expect("it leads");
        assert_eq!(told(&node), (0, false, 0), "there are too few");
        let mut map = ClusterMap::clone(&node.map().unwrap());
        map.cluster_settings.replicas = 0;
        for version in [2, 3] {
            map.version = MapVersion(version);
            map.cluster_settings.heartbeat_timeout *= 2;
            node.handle_map(NOW, &map.update_since(MapVersion(0)), &mut Turn::default()).expect("a whole map");
            assert_eq!(told(&node), (0, true, 1));
        }
    }

    #[test]
    fn what_a_record_touches_takes_three_lines_of_the_cache() {
        assert!(offset_of!(Active, barrier) <= 192);
    }

    #[test]
    fn whoever_has_given_up_is_forgotten_and_whoever_has_not_keeps_its_place() {
        let mut active = Active::default();
        let patient = Waiting::new();
        for seq in 1..=10 {
            active.wait(Waiter { seq, needs_all: false, ticket: patient.ticket() });
            for _ in 0..1_000 {
                let mut hasty = Waiting::new();
                active.wait(Waiter { seq, needs_all: false, ticket: hasty.ticket() });
                hasty.take(&mut Vec::new());
            }
        }
        assert!(active.waiters.len() <= WAITERS_KEPT, "{} waiters", active.waiters.len());
        assert_eq!(active.waiters.iter().filter(|waiter| waiter.ticket.is_awaited()).count(), 10);
        let mut seqs = active.waiters.iter().map(|waiter| waiter.seq);
        assert!(seqs.next() == Some(1) && seqs.is_sorted());
    }
}
