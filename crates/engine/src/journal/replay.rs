//! Restores a node from what it has written to its disk.

use std::sync::Arc;

use proto::cluster_map::ClusterMap;
use proto::session::Ancestors;
use proto::slot::{SlotBits, SlotId};

use super::codec::{Entry, Reader};
use crate::bugs::{Bug, Bugs};
use crate::node::Node;
use crate::slot::Slot;
use crate::time::Timestamp;

/// Reads first the snapshot, then the log, each in the order in which it was written.
#[derive(Debug)]
pub struct Replay<B: Bugs> {
    node: Node<B>,
    /// By slot, the number of the first entry that its part of the snapshot does not include.
    from: Vec<u64>,
    /// The same for the archive of losses.
    losses_from: u64,
    /// The number after that of the last entry read.
    next: u64,
    /// The same for the log alone.
    logged: u64,
    bugs: B,
}

/// The contents of the disk are not what a node writes, although every byte is intact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The bytes are not a known entry.
    #[error("an entry cannot be read")]
    Unreadable,
    /// Entries are missing.
    #[error("entry {expected} is missing; {found} follows")]
    Gap {
        /// The number of the expected entry.
        expected: u64,
        /// The number of the entry found.
        found: u64,
    },
    /// An entry does not follow on from its slot's current state.
    #[error("entry {number} does not match the state of slot {slot}", slot = slot.0)]
    OutOfOrder {
        /// The entry.
        number: u64,
        /// Its slot.
        slot: SlotId,
    },
}

impl<B: Bugs> Replay<B> {
    /// Starts with nothing read. `secret` keys the tables of the node, as in [`Node::new`].
    #[must_use]
    pub fn new(now: Timestamp, bits: SlotBits, secret: u64, bugs: B) -> Self {
        // What was in a tail when it was cut must also be in the tail rebuilt here, where the durable marks are known
        // later.
        let node = Node::new(now, bits, secret, bugs).limited(usize::MAX, crate::outbox::OUTBOX_ITEMS);
        Self { node, from: vec![0; bits.slots().count()], losses_from: 0, next: 0, logged: 0, bugs }
    }

    /// Reads a snapshot payload made by [`Node::slot_snapshot`] or [`Node::losses_snapshot`].
    ///
    /// # Errors
    /// The bytes are invalid. The state restored so far is unusable.
    pub fn snapshot(&mut self, payload: &[u8]) -> Result<(), ReplayError> {
        let mut bytes = Reader(payload);
        let number = bytes.number().ok_or(ReplayError::Unreadable)?;
        self.next = self.next.max(number);
        while !bytes.is_empty() {
            let entry = Entry::read(&mut bytes).ok_or(ReplayError::Unreadable)?;
            if entry.is_of_losses() {
                self.losses_from = number;
            } else if let Some(from) = self.from.get_mut(usize::from(entry.slot().0)) {
                *from = number;
            }
            self.apply(number, entry)?;
        }
        if self.bugs.plants(Bug::PositionApartFromData) {
            self.from.fill(self.next);
        }
        Ok(())
    }

    /// Reads a log payload returned by [`super::Noted::take`].
    ///
    /// # Errors
    /// The bytes are invalid, or do not follow on from those before. The state restored so far is unusable.
    pub fn log(&mut self, payload: &[u8]) -> Result<(), ReplayError> {
        let mut bytes = Reader(payload);
        let mut number = bytes.number().ok_or(ReplayError::Unreadable)?;
        if number > self.next {
            return Err(ReplayError::Gap { expected: self.next, found: number });
        }
        while !bytes.is_empty() {
            let entry = Entry::read(&mut bytes).ok_or(ReplayError::Unreadable)?;
            let from = self.from.get(usize::from(entry.slot().0)).copied().ok_or(ReplayError::Unreadable)?;
            let from = if entry.is_of_losses() { self.losses_from } else { from };
            if number >= from {
                self.apply(number, entry)?;
            }
            number += 1;
        }
        self.next = self.next.max(number);
        self.logged = number;
        Ok(())
    }

    fn apply(&self, number: u64, entry: Entry) -> Result<(), ReplayError> {
        let slot = entry.slot();
        if !self.node.has_slot(slot) {
            return Err(ReplayError::Unreadable);
        }
        if self.node.replay(entry) { Ok(()) } else { Err(ReplayError::OutOfOrder { number, slot }) }
    }

    /// The number after that of everything read. What [`Replay::finish`] notes gets later numbers.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.next
    }

    /// The restored node, as a new start: it holds what was read and has no role in any slot yet. `ancestors` are the
    /// incarnations whose data this is; `map` is the last one that they had.
    #[must_use]
    pub fn finish(self, now: Timestamp, ancestors: Ancestors, map: Option<Arc<ClusterMap>>) -> Node<B> {
        let node = Node::replayed(now, self.node, ancestors, map, self.next);
        if self.next > self.logged {
            // If the disk was full, a snapshot may include what the log does not, and nobody was told of that. From now
            // on somebody may be, but not before this entry is in the log: it shows a start that has lost the snapshot
            // that entries are missing.
            let slot = SlotId(0);
            node.noted().note_epoch(slot, node.inspect(slot, Slot::epoch));
        }
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bugs::NoBugs;
    use crate::losses::Loss;
    use crate::node::Turn;
    use crate::record::Record;
    use proto::id::{Epoch, Version};
    use proto::peer::Effect;

    fn loss(seq: u64) -> Loss {
        let version = Version { epoch: Epoch(3), seq };
        let record = Record::entry(version, b"k", Effect::Put(b"v"));
        Loss { slot: SlotId(1), record, common: Version { epoch: Epoch(2), seq: 1 }, winner: Epoch(4) }
    }

    fn lose(node: &Node<NoBugs>, losses: Vec<Loss>, unkept: u64) {
        let mut turn = Turn::default();
        turn.losses = losses;
        turn.unkept = unkept;
        node.handle_timeout(Timestamp::default(), &mut turn);
    }

    fn found(node: &Node<NoBugs>) -> (u64, Vec<u64>) {
        node.losses(|losses| (losses.count(), losses.iter().map(|loss| loss.record.version().seq).collect()))
    }

    #[test]
    fn losses_are_known_after_a_restart_from_the_log_and_from_a_snapshot() {
        let bits = SlotBits::new(2);
        let replay = || Replay::new(Timestamp::default(), bits, 1, NoBugs);
        let node = Node::new(Timestamp::default(), bits, 1, NoBugs).with_journal();
        assert_eq!(node.losses_snapshot(), None);
        lose(&node, vec![loss(5), loss(6)], 3);
        let (log, _) = node.noted().take().expect("it was noted");
        let snapshot = node.losses_snapshot().expect("there are some");
        lose(&node, vec![loss(7)], 0);
        let (tail, _) = node.noted().take().expect("it was noted");

        let mut from_log = replay();
        for payload in [&log, &tail] {
            from_log.log(payload).expect("it is a log");
        }
        let mut from_snapshot = replay();
        from_snapshot.snapshot(&snapshot).expect("it is a snapshot");
        for payload in [&log, &tail] {
            from_snapshot.log(payload).expect("what the snapshot has is passed over");
        }
        for replay in [from_log, from_snapshot] {
            let again = replay.finish(Timestamp::default(), Ancestors::default(), None);
            assert_eq!(found(&again), (6, vec![5, 6, 7]));
        }
    }

    #[test]
    fn what_only_a_snapshot_had_is_missed_once_anybody_may_have_been_told_of_it() {
        let bits = SlotBits::new(2);
        let replay = || Replay::new(Timestamp::default(), bits, 1, NoBugs);
        let again = |replay: Replay<NoBugs>| replay.finish(Timestamp::default(), Ancestors::default(), None);
        let node = Node::new(Timestamp::default(), bits, 1, NoBugs).with_journal();
        lose(&node, vec![loss(5)], 0);
        let (log, _) = node.noted().take().expect("it was noted");
        lose(&node, vec![loss(6)], 0);
        // The disk is full: the second is not in the log.
        let snapshot = node.losses_snapshot().expect("there are some");
        let mut ahead = replay();
        ahead.snapshot(&snapshot).expect("it is a snapshot");
        ahead.log(&log).expect("it is a log");
        let started = again(ahead);
        let (tail, _) = started.noted().take().expect("it comes before all that this start says");

        let mut both = replay();
        both.snapshot(&snapshot).expect("it is a snapshot");
        for payload in [&log, &tail] {
            both.log(payload).expect("it is a log");
        }
        let both = again(both);
        assert_eq!((found(&both), both.noted().is_empty()), ((2, vec![5, 6]), true));

        let mut without = replay();
        without.log(&log).expect("it is a log");
        assert_eq!(without.log(&tail), Err(ReplayError::Gap { expected: 1, found: 2 }));
    }
}
