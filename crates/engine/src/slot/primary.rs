//! A slot's primary side: it orders writes, knows what each follower has, and answers what has become durable.

mod compare;
mod eviction;
mod expiry;
mod followers;
mod hand_over;
mod modify;
mod read;

use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{Promises, SlotConfig};
use proto::id::{Epoch, Incarnation, Version};
use proto::level::AckLevel;
use proto::peer::{Change, Op, Write};
use smallvec::SmallVec;

use super::{Answer, Place, Refusal, Role, Slot, Written};
use crate::bugs::{Bug, Bugs};
use crate::completions::Known;
use crate::near::NearQueue;
use crate::node::Turn;
use crate::outbox::{Item, Outbox};
use crate::record::Record;
use crate::table::fetch::fetch;
use crate::time::Timestamp;
use crate::waiting::{Ticket, Waiting};

pub(crate) use eviction::Victim;
use expiry::Deadlines;
pub(super) use followers::Follower;
use followers::Progress;
use hand_over::Intake;

/// A member of the in-sync set that makes no progress for so long is proposed out.
pub const EVICT_AFTER: Duration = Duration::from_millis(500);

/// How long after the last write of a slot its followers are told what has become durable. While writes come, each tells
/// of those before, and this costs nothing.
pub(crate) const TELL_DURABLE_AFTER: Duration = Duration::from_secs(1);

/// How many followers lie in the slot's own memory: as many as there are replicas unless told otherwise.
const USUAL_FOLLOWERS: usize = 2;

/// The role of a primary.
#[derive(Debug)]
pub(crate) struct Primary {
    pub(super) followers: SmallVec<[Follower; USUAL_FOLLOWERS]>,
    intake: Intake,
    /// What only a slot that is written to has.
    active: Option<Box<Active>>,
    /// How many copies are in sync, as the coordinator has committed it.
    in_sync: u8,
    /// How many must be for a quorum write.
    min_isr: u8,
    /// How many there are to be.
    copies: u8,
    /// The in-sync set is so small that a former member could be promoted instead.
    has_rivals: bool,
    /// The promise to the primary before has run out and the term has begun.
    is_open: bool,
    /// Every member of the in-sync set has an address, so that it can be asked.
    is_whole: bool,
}

#[derive(Debug, Default)]
struct Active {
    last_write: Timestamp,
    /// The durable mark that the followers have been told.
    told: u64,
    will_tell: bool,
    /// The number of the first record of this term; 0 where none was needed.
    barrier: u64,
    /// By the number that they wait for, ascending.
    waiters: NearQueue<Waiter>,
    /// Those of its values; none until the first is written here, or the slot was looked at.
    deadlines: Option<Box<Deadlines>>,
}

/// Somebody who waits until a record is durable.
#[derive(Debug)]
struct Waiter {
    seq: u64,
    /// And until every copy is in sync.
    needs_all: bool,
    ticket: Ticket,
}

/// What an acknowledgement calls for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// The replica is a learner and has everything: it may be admitted to the in-sync set.
    pub(crate) admit: bool,
    /// The slot has been drained; the next primary may have it.
    pub(crate) released: bool,
    /// A copy that differed was filled again.
    pub(crate) repaired: bool,
}

/// What has come due in a slot.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Learners that may be admitted now.
    pub(crate) admit: Vec<Incarnation>,
    /// Members that have not been level for too long.
    pub(crate) evict: Vec<Incarnation>,
}

impl<B: Bugs> Slot<B> {
    /// Begins a term as primary, or goes on with it under a newer configuration.
    pub(super) fn lead(
        &mut self,
        place: Place<'_>,
        config: &SlotConfig,
        promises: &Promises,
        mut outbox: impl FnMut(Incarnation) -> Option<Arc<Outbox>>,
        turn: &mut Turn,
    ) {
        let goes_on = self.is_primary() && self.epoch == config.epoch;
        let mut primary = match std::mem::take(&mut self.role) {
            Role::Primary(primary) if goes_on => primary,
            role => {
                let succeeds = matches!(&role, Role::Replica(replica) if replica.released);
                self.role = role;
                self.leave_role(place, config.epoch, turn);
                // IMPORTANT: an earlier start of this node may have promised not to lead to a primary that still counts on
                // it. A slot that holds nothing has promised nothing; and whoever releases a slot has served it, which it
                // did only once no primary before it could any more.
                if !(succeeds || self.last() == Version::NONE) {
                    self.promised_until = self.promised_until.max(place.peers.earliest());
                }
                Box::new(Primary::new())
            }
        };
        self.hear_of(place, config.epoch);
        primary.in_sync = small(config.isr.len());
        primary.min_isr = small(promises.min_isr());
        primary.copies = small(promises.copies());
        primary.has_rivals = !config.elr.is_empty();
        // IMPORTANT: once the next primary was told that its promise is given back, see `reopen`.
        let ask_all = matches!(primary.intake, Intake::Releasing(_));
        primary.intake = Intake::Open;
        primary.is_whole = true;
        let mut before = std::mem::take(&mut primary.followers);
        for member in config.copies().filter(|member| *member != place.me) {
            let is_learner = !config.isr.contains(&member);
            let known = before.iter().position(|follower| follower.outbox.to == member);
            let (mut follower, is_new) = match (known.map(|at| before.swap_remove(at)), outbox(member)) {
                (Some(follower), _) => (follower, false),
                (None, Some(outbox)) => (Follower::new(outbox), true),
                (None, None) => {
                    primary.is_whole &= is_learner;
                    continue;
                }
            };
            follower.is_learner = is_learner;
            follower.is_proposed = false;
            // IMPORTANT: a learner may have been dropped and taken in again by changes of which this node sees only the
            // last, and may have given its copy up in between. It says anew that it is level.
            let ask_learner = is_learner && !self.bugs.plants(Bug::LearnerNotAskedAgain);
            if is_new || ask_all || ask_learner || follower.progress == Progress::Behind {
                if is_learner {
                    follower.acked = 0;
                }
                follower.align(place, self.epoch, self.config, &self.log, self.log.last());
            }
            if is_new && self.bugs.plants(Bug::MarkCarriedOver) {
                let same = |old: &&Follower| old.outbox.addr == follower.outbox.addr;
                if let Some(old) = before.iter().find(same) {
                    (follower.acked, follower.progress) = (old.acked, old.progress);
                }
            }
            primary.followers.push(follower);
        }
        // The figures of whoever is no follower any more go with it.
        drop(before);
        self.role = Role::Primary(primary);
        self.open_if_due(place, turn);
        self.mark_progress(place, turn);
        turn.look_at(place.now + EVICT_AFTER, place.id);
    }

    /// Begins to serve once no promise to an earlier primary binds any more: writes the barrier record.
    fn open_if_due(&mut self, place: Place<'_>, turn: &mut Turn) {
        let (last, due) = (self.log.last(), self.promised_until);
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.is_open {
            return;
        }
        if place.now < due && !self.bugs.plants(Bug::PromiseIgnored) {
            turn.look_at(due, place.id);
            return;
        }
        primary.is_open = true;
        // A slot that holds nothing has promised nothing.
        if last != Version::NONE {
            primary.active.get_or_insert_default().barrier = last.seq + 1;
            self.order(place, Op::Barrier, turn);
        }
    }

    /// Gives a record the next number, applies it, and queues it for every follower.
    fn order(&mut self, place: Place<'_>, op: Op<'_>, turn: &mut Turn) -> Version {
        let previous = self.log.last();
        let version = Version { epoch: self.epoch, seq: previous.seq + 1 };
        let record = Record::new(version, op);
        let is_alone = matches!(&self.role, Role::Primary(primary) if primary.followers.is_empty());
        self.apply(place, record.clone(), !is_alone);
        if record.has_deadline() {
            self.note_deadline(place, &record, turn);
        }
        let durable = self.log.durable();
        let Role::Primary(primary) = &mut self.role else { return version };
        let active = primary.active.get_or_insert_default();
        active.last_write = place.now;
        active.told = durable;
        for follower in primary.followers.iter().filter(|follower| follower.progress.takes_records()) {
            let record = record.clone();
            follower.outbox.push(Item::Record { slot: place.id, previous, durable, record });
            turn.touch(&follower.outbox);
        }
        if is_alone {
            self.mark_progress(place, turn);
        }
        version
    }

    /// Whether this node may serve the slot now: it is in a term that has begun, is not handing it over, and every member
    /// of the in-sync set has promised not to lead it.
    fn serves(&self, place: Place<'_>) -> Option<&Primary> {
        let Role::Primary(primary) = &self.role else { return None };
        let takes = primary.intake == Intake::Open || self.bugs.plants(Bug::ReleasedServesOn);
        if !primary.is_open || !primary.is_whole || !takes || place.is_closed {
            return None;
        }
        let unbound = primary.followers.iter().any(|follower| follower.counts() && !follower.is_bound(place.now));
        let replaceable = primary.has_rivals && place.now >= place.coordinator_until;
        let lacks_lease = (unbound && !self.bugs.plants(Bug::NoLease))
            || (replaceable && !self.bugs.plants(Bug::SmallSetTrustsItself) && !self.bugs.plants(Bug::NoLease));
        if lacks_lease { None } else { Some(primary) }
    }

    /// Carries out a write.
    ///
    /// # Errors
    /// It was refused; nothing was done.
    pub(crate) fn write(
        &mut self,
        place: Place<'_>,
        write: &Write<'_>,
        waiting: &Waiting,
        turn: &mut Turn,
    ) -> Result<Answer<Written>, Refusal> {
        // What is touched later is on its way while the key is looked up.
        self.log.fetch();
        let needs_open = matches!(&self.role, Role::Primary(primary) if !primary.is_open);
        if needs_open {
            self.open_if_due(place, turn);
        }
        let primary = self.serves(place).ok_or(Refusal::NotHere)?;
        primary.has_enough(write.ack)?;
        primary.fetch();
        if let Some(identity) = write.identity {
            match self.log.known_completions().map_or(Known::New, |known| known.look_up(identity)) {
                Known::Done(done) if self.bugs.plants(Bug::RetriedTwice) && done.version.epoch != self.epoch => {}
                Known::Done(_) if self.bugs.plants(Bug::ModifiedAgain) && matches!(write.change, Change::Modify(_)) => {
                }
                Known::Done(done) => {
                    let (version, found) = (done.version, done.found);
                    let answer = match &write.change {
                        Change::Modify(modify) => self.told_again(place, write, modify, done),
                        _ => found.map_or(Written::Done(version), Written::Conflict),
                    };
                    return Ok(self.answer(answer, version.seq, write.ack, waiting));
                }
                Known::Stale => return Err(Refusal::Stale),
                Known::New => {}
            }
            if self.log.known_completions().is_some_and(|known| !known.has_room(identity.client)) {
                return Err(Refusal::Busy);
            }
        }
        let mut newest = self.table.get(place.hasher, write.key);
        if newest.is_some_and(|record| record.is_expired(place.wall())) {
            // IMPORTANT: what is answered by the deadline's having passed must not depend on anybody's clock any more.
            self.expire(place, write.key, turn);
            newest = self.table.get(place.hasher, write.key);
        }
        if let Change::Modify(modify) = &write.change {
            let newest = newest.cloned();
            return self.modify(place, write, modify, newest, waiting, turn);
        }
        let newest_seq = newest.map_or(0, |record| record.version().seq);
        let present = newest.filter(|record| !record.is_delete());
        let found = present.map_or(Version::NONE, Record::version);
        let is_declined = match write.change {
            Change::Expire(_) => present.is_none(),
            Change::Persist => present.is_none_or(|record| !record.has_deadline()),
            Change::Put(_) | Change::PutFor(..) | Change::Delete | Change::Modify(_) => {
                write.expected.is_some_and(|it| it != found)
            }
        };
        if is_declined {
            let settled =
                write.identity.map(|identity| self.order(place, Op::Declined { identity, found, told: b"" }, turn).seq);
            let told_early = self.bugs.plants(Bug::UncommittedConflict);
            let seq = if told_early { 0 } else { settled.unwrap_or(newest_seq) };
            return Ok(self.answer(Written::Conflict(found), seq, write.ack, waiting));
        }
        if write.change == Change::Delete && present.is_none() && write.identity.is_none() {
            // There is nothing to order and nothing to send; but what made the key absent must be durable.
            return Ok(self.answer(Written::Done(Version::NONE), newest_seq, write.ack, waiting));
        }
        match write.change {
            Change::Put(value) => self.has_memory(place, write, (value, false), newest)?,
            Change::PutFor(value, _) => self.has_memory(place, write, (value, true), newest)?,
            Change::Delete | Change::Expire(_) | Change::Persist | Change::Modify(_) => {}
        }
        let version = self.order_write(place, write, turn);
        let seq = if self.bugs.plants(Bug::AnsweredBeforeReplicas) { 0 } else { version.seq };
        Ok(self.answer(Written::Done(version), seq, write.ack, waiting))
    }

    /// An answer that waits as its level asks for until a record is durable.
    fn answer<T>(&mut self, answer: T, seq: u64, ack: AckLevel, waiting: &Waiting) -> Answer<T> {
        let ticket = match ack {
            AckLevel::Async => None,
            AckLevel::Quorum => self.wait(seq, false, waiting),
            AckLevel::All => self.wait(seq, true, waiting),
        };
        Answer { answer, ticket }
    }

    /// Takes a ticket, unless the record is durable.
    fn wait(&mut self, seq: u64, needs_all: bool, waiting: &Waiting) -> Option<usize> {
        let durable = self.log.durable();
        let Role::Primary(primary) = &mut self.role else { return None };
        if seq <= durable && (!needs_all || primary.is_complete()) {
            return None;
        }
        let ticket = waiting.ticket();
        let number = ticket.number();
        let waiters = &mut primary.active.get_or_insert_default().waiters;
        waiters.insert_behind(|waiter| waiter.seq <= seq, Waiter { seq, needs_all, ticket });
        Some(number)
    }

    /// Up to which number every follower that counts has all records.
    fn held(&self, place: Place<'_>) -> u64 {
        let Role::Primary(primary) = &self.role else { return 0 };
        let counted = primary.followers.iter().filter(|follower| {
            if self.bugs.plants(Bug::AdmissionCountedLate) { !follower.is_learner } else { follower.counts() }
        });
        let counted =
            counted.filter(|follower| !self.bugs.plants(Bug::ShrinkCountedEarly) || follower.is_bound(place.now));
        counted.map(|follower| follower.acked).min().unwrap_or(self.log.last().seq)
    }

    /// Finds out what is durable, and answers whoever waited for that.
    pub(super) fn mark_progress(&mut self, place: Place<'_>, turn: &mut Turn) {
        let (last, held) = (self.log.last().seq, self.held(place));
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.in_sync >= primary.min_isr || self.bugs.plants(Bug::MarkMovesBelowMinimum) {
            if primary.is_complete() {
                self.log.set_durable(held, place.tails);
            } else {
                self.log.set_durable_for_the_away(held, place.tails);
            }
        }
        let durable = self.log.durable();
        let is_complete = primary.is_complete();
        if let Intake::Draining(to) = primary.intake
            && held >= last
            && let Some(next) = primary.followers.iter_mut().find(|follower| follower.outbox.to == to)
        {
            let stamp = place.next_stamp();
            primary.intake = Intake::Releasing(stamp);
            next.outbox.push(Item::Release { slot: place.id, epoch: self.epoch, stamp });
            turn.touch(&next.outbox);
            // A copy that is given up as soon as another leads knows by it that nothing is lost with it.
            if let Some(active) = primary.active.as_mut().filter(|active| durable > active.told) {
                active.tell_durable(place, durable, &primary.followers, turn);
            }
        }
        let Some(active) = &mut primary.active else { return };
        active.settle(durable, is_complete, turn);
        if durable > active.told && !active.will_tell && !primary.followers.is_empty() {
            active.will_tell = true;
            turn.look_at(active.last_write + TELL_DURABLE_AFTER, place.id);
        }
        self.purge_passed(place, turn);
    }

    /// Drops the tombstones that every copy has passed.
    fn purge_passed(&mut self, place: Place<'_>, turn: &mut Turn) {
        let durable = self.log.durable();
        let Role::Primary(primary) = &self.role else { return };
        let passed = primary.followers.iter().map(|follower| follower.acked).min();
        let passed = passed.map_or(self.log.last().seq, |passed| passed.min(durable));
        if !self.log.has_tombstone(passed) || !self.purge(place, passed) {
            return;
        }
        let Role::Primary(primary) = &self.role else { return };
        for follower in primary.followers.iter().filter(|follower| follower.progress == Progress::Level) {
            follower.outbox.push(Item::Purge { slot: place.id, seq: passed });
            turn.touch(&follower.outbox);
        }
    }

    /// Looks at what may have come due. At most so many keys expire, and their number is taken off.
    pub(crate) fn look(&mut self, place: Place<'_>, expiries_left: &mut usize, turn: &mut Turn) -> Due {
        self.open_if_due(place, turn);
        self.expire_passed(place, expiries_left, turn);
        let durable = self.log.durable();
        let Role::Primary(primary) = &mut self.role else { return Due::default() };
        if let Some(active) = &mut primary.active
            && active.will_tell
        {
            let due = active.last_write + TELL_DURABLE_AFTER;
            if durable <= active.told {
                active.will_tell = false;
            } else if place.now < due {
                turn.look_at(due, place.id);
            } else {
                active.will_tell = false;
                active.tell_durable(place, durable, &primary.followers, turn);
            }
        }
        let is_good = |follower: &Follower| follower.progress == Progress::Level && !follower.differs;
        let astray = |follower: &&Follower| follower.counts() && !is_good(follower);
        let evict: Vec<_> = primary.followers.iter().filter(astray).map(|follower| follower.outbox.to).collect();
        if !evict.is_empty() {
            turn.look_at(place.now + EVICT_AFTER, place.id);
        }
        let mut admit = self.admissible(|_| true);
        let Role::Primary(primary) = &self.role else { return Due::default() };
        let proposed = primary.followers.iter().filter(|follower| follower.is_proposed);
        // The coordinator may have had a reason not to admit one that has passed since. It is asked again.
        let again = proposed.filter(|follower| follower.progress == Progress::Level).map(|follower| follower.outbox.to);
        let again: Vec<_> = again.filter(|learner| !admit.contains(learner)).collect();
        admit.extend(again);
        if !admit.is_empty() {
            turn.look_at(place.now + EVICT_AFTER, place.id);
        }
        Due { admit, evict }
    }

    /// Whether this node leads the slot, and another member of the in-sync set could, who was heard a moment ago.
    #[must_use]
    pub(crate) fn leads_for_others(&self, now: Timestamp) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        let could = |follower: &Follower| follower.counts() && now - follower.outbox.last_heard() < EVICT_AFTER * 4;
        primary.followers.iter().any(could)
    }

    /// Whether this node serves the slot as far as it knows: it takes writes and linear reads.
    #[must_use]
    pub(crate) fn is_serving(&self, place: Place<'_>) -> bool {
        self.serves(place).is_some()
    }

    /// Another node follows a primary of a higher epoch: this one leads no longer, whatever its map says.
    pub(crate) fn depose(&mut self, place: Place<'_>, epoch: Epoch, turn: &mut Turn) {
        if epoch > self.epoch && self.is_primary() && !self.bugs.plants(Bug::DeposedIgnored) {
            self.tell_deposed(place, turn);
            self.become_replica(place, epoch, turn);
        }
    }
}

impl Primary {
    fn new() -> Self {
        Self {
            followers: SmallVec::new(),
            intake: Intake::Open,
            active: None,
            in_sync: 0,
            min_isr: 0,
            copies: 0,
            has_rivals: false,
            is_open: false,
            is_whole: false,
        }
    }

    /// Asks for memory that an acknowledgement will touch.
    pub(super) fn fetch(&self) {
        if let Some(active) = &self.active {
            fetch(&**active);
        }
    }

    /// Whether as many copies are in sync as there are to be.
    fn is_complete(&self) -> bool {
        self.in_sync >= self.copies
    }

    fn has_enough(&self, level: AckLevel) -> Result<(), Refusal> {
        let needs = match level {
            AckLevel::Async => return Ok(()),
            AckLevel::Quorum => self.min_isr,
            AckLevel::All => self.copies,
        };
        if self.in_sync >= needs {
            return Ok(());
        }
        Err(Refusal::TooFew { level, needs: needs.into(), has: self.in_sync.into() })
    }

    /// Gives up everyone who waits.
    pub(super) fn take_tickets(&mut self) -> impl Iterator<Item = Ticket> + use<> {
        self.active.take().into_iter().flat_map(|active| active.waiters).map(|waiter| waiter.ticket)
    }
}

impl Active {
    /// Tells the followers what is durable. Whoever is not level yet hears it after what makes it level.
    fn tell_durable(&mut self, place: Place<'_>, durable: u64, followers: &[Follower], turn: &mut Turn) {
        self.told = durable;
        for follower in followers.iter().filter(|follower| follower.progress.takes_records()) {
            follower.outbox.push(Item::Durable { slot: place.id, seq: durable });
            turn.touch(&follower.outbox);
        }
    }

    /// Answers whoever waits for what is durable now.
    fn settle(&mut self, durable: u64, is_complete: bool, turn: &mut Turn) {
        let reached = |waiter: &Waiter| waiter.seq <= durable;
        let ready = |waiter: &Waiter| reached(waiter) && (is_complete || !waiter.needs_all);
        while let Some(waiter) = self.waiters.pop_front_if(|waiter| ready(waiter)) {
            turn.settle(waiter.ticket);
        }
        // Behind one that waits for all copies others may be ready.
        if self.waiters.front().is_some_and(reached) {
            let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters).into_iter().partition(ready);
            self.waiters = waiting.into_iter().collect();
            ready.into_iter().for_each(|waiter| turn.settle(waiter.ticket));
        }
    }
}

fn small(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}
