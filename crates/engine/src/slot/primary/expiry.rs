//! Expiry of values at their primary.
//!
//! A value past its deadline is hidden on every copy, and stays there until a record arrives that makes its key absent.
//! Only the primary orders that record: when the deadline comes up here, or before it answers a linear read or a write
//! that depends on the deadline having passed. So an answer once given stays true, whatever the next primary's clock
//! shows.
//!
//! The record names no version: the primary looks up the key's newest record and orders the next one under the same
//! lock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proto::peer::{Effect, Op, WallTime};

use super::EXPEL_AFTER;
use crate::bugs::{Bug, Bugs};
use crate::node::{TICK, Turn};
use crate::record::Record;
use crate::slot::{Role, Slot, SlotContext};
use crate::table::{KeyHasher, Table};
use crate::time::Timestamp;

/// The longest interval between two looks at the deadlines: the wall clock may have been changed meanwhile.
const LOOK_AFTER: Duration = Duration::from_secs(60);

/// How many stale deadlines, beyond the number of live ones, a queue may hold before it is rebuilt.
const SPARE: usize = 64;

/// The deadlines of a slot's values, nearest first, with the hashes of their keys. The deadline of a replaced value
/// stays until it comes up, or until there are too many.
#[derive(Debug)]
pub(super) struct Deadlines {
    queue: BinaryHeap<Reverse<(WallTime, u64)>>,
    /// When the deadlines will be looked at next.
    next_look: Timestamp,
}

/// How late the planted bug notices that a deadline has passed, in milliseconds.
const SLOTH: u64 = 1_000;

impl Deadlines {
    fn of(table: &Table, hasher: &KeyHasher, next_look: Timestamp) -> Self {
        let deadlines = table.records().filter_map(|record| Some((record.deadline()?, hasher.hash(record.key()))));
        Self { queue: deadlines.map(Reverse).collect(), next_look }
    }

    /// Adds the deadline of a value that is now in the table.
    fn note(&mut self, table: &Table, hasher: &KeyHasher, record: &Record) {
        match record.deadline() {
            Some(deadline) if self.queue.len() < 2 * table.expiring() + SPARE => {
                self.queue.push(Reverse((deadline, hasher.hash(record.key()))));
            }
            _ => *self = Self::of(table, hasher, self.next_look),
        }
    }

    /// Pops the hash of a key whose deadline has passed at `now`.
    fn pop_passed(&mut self, now: WallTime) -> Option<u64> {
        self.next().filter(|deadline| *deadline <= now)?;
        self.queue.pop().map(|Reverse((_, hash))| hash)
    }

    fn next(&self) -> Option<WallTime> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }
}

impl<B: Bugs> Slot<B> {
    /// Orders the record that makes an expired key absent. Returns its number.
    pub(super) fn expire(&mut self, cx: &SlotContext<'_>, key: &[u8], turn: &mut Turn) -> u64 {
        self.order(cx, Op::Write { key, effect: Effect::Expire, identity: None, reply: b"" }, turn).seq
    }

    /// Notes that a value with a deadline was written.
    pub(super) fn note_deadline(&mut self, cx: &SlotContext<'_>, record: &Record, turn: &mut Turn) {
        let Role::Primary(primary) = &mut self.role else { return };
        match &mut primary.active.get_or_insert_default().deadlines {
            Some(known) => known.note(&self.table, cx.hasher, record),
            unknown => *unknown = Some(Box::new(Deadlines::of(&self.table, cx.hasher, cx.now))),
        }
        self.look_at_next_deadline(cx, turn);
    }

    /// Makes keys absent whose deadlines have passed: at most `left` of them, which is reduced by their number.
    pub(super) fn expire_passed(&mut self, cx: &SlotContext<'_>, left: &mut usize, turn: &mut Turn) {
        let Role::Primary(primary) = &mut self.role else { return };
        if self.table.expiring() == 0 {
            primary.active.iter_mut().for_each(|active| active.deadlines = None);
            return;
        }
        // A new primary builds the queue only now, when it has time.
        let made = || Box::new(Deadlines::of(&self.table, cx.hasher, cx.now));
        let deadlines = primary.active.get_or_insert_default().deadlines.get_or_insert_with(made);
        let mut now = cx.wall();
        if self.bugs.plants(Bug::ExpiryUnrecorded) {
            now.0 = now.0.saturating_sub(SLOTH);
        }
        if deadlines.next().is_some_and(|deadline| deadline <= now) && self.serves(cx).is_none() {
            return turn.look_at(cx.now + EXPEL_AFTER, cx.id);
        }
        while *left > 0
            && let Some(hash) = self.pop_passed(now)
        {
            *left -= 1;
            let unchecked = self.bugs.plants(Bug::ExpireUnchecked);
            let is_expired = |record: &&Record| record.is_expired(now) || (unchecked && !record.is_delete());
            let expired: Vec<Record> = self.table.with_hash(hash).filter(is_expired).cloned().collect();
            for record in expired {
                self.expire(cx, record.key(), turn);
            }
        }
        self.look_at_next_deadline(cx, turn);
    }

    fn pop_passed(&mut self, now: WallTime) -> Option<u64> {
        let Role::Primary(primary) = &mut self.role else { return None };
        primary.active.as_mut()?.deadlines.as_mut()?.pop_passed(now)
    }

    /// Schedules a look at the slot for when its next deadline passes.
    fn look_at_next_deadline(&mut self, cx: &SlotContext<'_>, turn: &mut Turn) {
        let Role::Primary(primary) = &mut self.role else { return };
        let Some(deadlines) = primary.active.as_mut().and_then(|active| active.deadlines.as_mut()) else { return };
        let Some(deadline) = deadlines.next() else { return };
        let left = Duration::from_millis(deadline.0.saturating_sub(cx.wall().0));
        let when = cx.now + left.min(LOOK_AFTER);
        // A tick late is early enough.
        if deadlines.next_look <= cx.now || when + TICK < deadlines.next_look {
            deadlines.next_look = when;
            turn.look_at(when, cx.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::id::{Epoch, Version};

    use super::*;

    #[test]
    fn a_key_that_is_written_again_and_again_takes_no_more_room() {
        let (hasher, mut table) = (KeyHasher::new(7), Table::default());
        let mut deadlines = Deadlines::of(&table, &hasher, Timestamp::default());
        for seq in 1..10_000 {
            let version = Version { epoch: Epoch(1), seq };
            let record = Record::entry(version, b"k", Effect::PutUntil(b"v", WallTime(1_000 + seq)));
            table.insert(&hasher, record.clone());
            deadlines.note(&table, &hasher, &record);
            assert!(deadlines.queue.len() <= 2 + SPARE, "{}", deadlines.queue.len());
        }
        let due: Vec<_> = std::iter::from_fn(|| deadlines.pop_passed(WallTime(u64::MAX))).collect();
        assert!(due.iter().all(|hash| *hash == hasher.hash(b"k")) && !due.is_empty());
        assert_eq!((deadlines.next(), deadlines.pop_passed(WallTime(u64::MAX))), (None, None));
    }

    #[test]
    fn deadlines_come_up_in_their_order_and_not_before() {
        let (hasher, mut table) = (KeyHasher::new(7), Table::default());
        for (seq, key, deadline) in [(1, "b", 20), (2, "a", 10), (3, "c", 30)] {
            let version = Version { epoch: Epoch(1), seq };
            table.insert(&hasher, Record::entry(version, key.as_bytes(), Effect::PutUntil(b"v", WallTime(deadline))));
        }
        let mut deadlines = Deadlines::of(&table, &hasher, Timestamp::default());
        assert_eq!(deadlines.pop_passed(WallTime(9)), None);
        assert_eq!(deadlines.pop_passed(WallTime(20)), Some(hasher.hash(b"a")));
        assert_eq!(deadlines.pop_passed(WallTime(20)), Some(hasher.hash(b"b")));
        assert_eq!((deadlines.pop_passed(WallTime(29)), deadlines.next()), (None, Some(WallTime(30))));
    }
}
