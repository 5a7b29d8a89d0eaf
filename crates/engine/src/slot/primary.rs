//! A slot's primary side: it orders writes, tracks what each follower has, and answers requests once they are durable.

mod active;
mod compare;
mod eviction;
mod expiry;
mod followers;
mod hand_over;
mod modify;
mod read;

use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{ClusterSettings, SlotConfig};
use proto::id::{Epoch, Incarnation, Version};
use proto::level::AckLevel;
use proto::peer::{Change, Identity, Op, Write};
use smallvec::SmallVec;

use super::{Executed, Refusal, Role, Slot, SlotContext, Written};
use crate::bugs::{Bug, Bugs};
use crate::completions::Known;
use crate::node::Turn;
use crate::outbox::{Item, Outbox};
use crate::record::Record;
use crate::table::Place;
use crate::time::Timestamp;
use crate::waiting::{Ticket, Waiting};

use active::{Active, Waiter};
pub(crate) use eviction::Victim;
pub(super) use followers::Follower;
use followers::Progress;
use hand_over::Intake;

/// An in-sync member that makes no progress for this long is proposed for removal.
pub const EXPEL_AFTER: Duration = Duration::from_millis(500);

/// How long after the last write to a slot its followers are told what has become durable. While writes keep coming,
/// each one carries this for its predecessors at no cost.
pub(crate) const TELL_DURABLE_AFTER: Duration = Duration::from_secs(1);

/// The primary role.
#[derive(Debug, Default)]
pub(crate) struct Primary {
    /// `None` where there is no other copy and nothing to keep in mind, so that a write touches no more memory.
    active: Option<Box<Active>>,
    /// How many copies are in sync, as committed by the coordinator.
    in_sync: u8,
    /// How many in-sync copies a quorum write needs.
    min_isr: u8,
    /// How many copies there should be.
    copies: u8,
    /// The in-sync set is so small that another node could lead the slot without a word from any member: a former
    /// member, or any node once this one's address is another's or an operator has given its data up.
    is_small: bool,
    /// The promise to the previous primary has expired and the term has begun.
    is_open: bool,
    /// Every member of the in-sync set has an address, so all of them can be reached.
    is_whole: bool,
    /// The map names no other copy of the slot, in any role.
    is_alone: bool,
    /// The previous primary has released the slot to this one.
    was_released: bool,
}

/// What has to happen as the result of an acknowledgement.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Effects {
    /// The replica is a learner and has everything, so it may be admitted to the in-sync set.
    pub(crate) admit: bool,
    /// The slot has been drained; the next primary may take over.
    pub(crate) released: bool,
    /// A copy that differed has been refilled.
    pub(crate) repaired: bool,
}

/// What has come due in a slot.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Learners that can be admitted now.
    pub(crate) admit: Vec<Incarnation>,
    /// In-sync members that have been behind for too long.
    pub(crate) expel: Vec<Incarnation>,
}

impl<B: Bugs> Slot<B> {
    /// Begins a term as primary, or continues it, under a newer configuration or, if it is not new, under other settings
    /// of the cluster.
    pub(super) fn lead(
        &mut self,
        cx: &SlotContext<'_>,
        config: &SlotConfig,
        is_new_config: bool,
        cluster_settings: &ClusterSettings,
        mut outbox: impl FnMut(Incarnation) -> Option<Arc<Outbox>>,
        turn: &mut Turn,
    ) {
        let goes_on = self.is_primary() && self.epoch == config.epoch;
        let mut primary = match std::mem::take(&mut self.role) {
            Role::Primary(primary) if goes_on => primary,
            role => {
                let was_released = matches!(&role, Role::Replica(replica) if replica.released);
                self.role = role;
                self.leave_role(cx, config.epoch, turn);
                // IMPORTANT: an earlier start of this node may have promised not to lead to a primary that still relies
                // on it. An empty slot has promised nothing. And whoever releases a slot has served it, which it did
                // only once no earlier primary could serve any longer.
                if !(was_released || self.last() == Version::NONE) {
                    self.promised_until = self.promised_until.max(cx.peers.earliest());
                }
                Primary { was_released, ..Primary::default() }
            }
        };
        self.hear_of(cx, config.epoch);
        primary.in_sync = small(config.isr.len());
        // IMPORTANT: former members may still lead, also where the set is large enough only since there are to be fewer
        // replicas. Until the coordinator has taken their claim away, the set is one short.
        let has_former = !config.elr.is_empty();
        let short_of = if has_former { config.isr.len() + 1 } else { 0 };
        primary.min_isr = small(cluster_settings.min_isr().max(short_of));
        primary.copies = small(cluster_settings.copies());
        primary.is_small = has_former || cluster_settings.is_small(config.isr.len());
        primary.is_alone = config.copies().all(|copy| copy == cx.me);
        // IMPORTANT: the next primary may already have been told that its promise was given back; see `reopen`.
        let ask_all = matches!(primary.intake(), Intake::Releasing(_));
        primary.is_whole = true;
        let mut before =
            primary.active.as_mut().map(|active| std::mem::take(&mut active.followers)).unwrap_or_default();
        let had_no_followers = before.is_empty();
        let mut followers = SmallVec::new();
        for member in config.copies().filter(|member| *member != cx.me) {
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
            let was_proposed = follower.is_proposed;
            self.enlist(cx, &mut follower, is_learner, is_new || ask_all);
            // IMPORTANT: what was proposed under this configuration may still be granted.
            follower.is_proposed = was_proposed && !is_new_config;
            if is_new && self.bugs.plants(Bug::MarkCarriedOver) {
                let same = |old: &&Follower| old.outbox.addr == follower.outbox.addr;
                if let Some(old) = before.iter().find(same) {
                    (follower.acked, follower.progress) = (old.acked, old.progress);
                }
            }
            followers.push(follower);
        }
        // Only former followers are left; their state goes with them.
        drop(before);
        if !followers.is_empty() || primary.active.is_some() {
            let active = primary.active.get_or_insert_default();
            if had_no_followers {
                // Where those that come now have to align says what is durable as well.
                active.told = self.log.durable();
            }
            (active.followers, active.intake) = (followers, Intake::Open);
        }
        self.role = Role::Primary(primary);
        self.open_if_due(cx, turn);
        self.mark_progress(cx, turn);
        turn.look_at(cx.now + EXPEL_AFTER, cx.id);
    }

    /// Gives a follower its part in a new configuration. It is told where this slot stands if it `must_align` or may
    /// not be caught up.
    fn enlist(&self, cx: &SlotContext<'_>, follower: &mut Follower, is_learner: bool, must_align: bool) {
        follower.is_learner = is_learner;
        follower.is_proposed = false;
        // IMPORTANT: a learner may have been dropped and added again by changes of which this node sees only the last,
        // and may have given up its copy in between. It must confirm again that it is caught up.
        let ask_learner = is_learner && !self.bugs.plants(Bug::LearnerNotAskedAgain);
        if must_align || ask_learner || follower.progress == Progress::Behind {
            if is_learner {
                follower.acked = 0;
            }
            follower.align(cx, self.epoch, self.config, &self.log, self.log.last());
        }
    }

    /// Starts serving once no promise to an earlier primary is binding: writes the barrier record.
    fn open_if_due(&mut self, cx: &SlotContext<'_>, turn: &mut Turn) {
        let (last, due) = (self.log.last(), self.promised_until);
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.is_open {
            return;
        }
        if cx.now < due && !self.bugs.plants(Bug::PromiseIgnored) {
            turn.look_at(due, cx.id);
            return;
        }
        primary.is_open = true;
        // An empty slot has promised nothing.
        if last != Version::NONE {
            primary.active.get_or_insert_default().barrier = last.seq + 1;
            self.order(cx, Op::Barrier, turn);
        }
    }

    fn has_followers(&self) -> bool {
        matches!(&self.role, Role::Primary(primary) if !primary.followers().is_empty())
    }

    /// Carries out a plain put to a slot without followers by writing over the newest record of its key, which is at
    /// `place`: with the same results as [`Slot::order`], but without allocating and freeing. `None`, with nothing done,
    /// if that is not possible.
    fn put_in_place(
        &mut self,
        cx: &SlotContext<'_>,
        write: &Write<'_>,
        place: Place,
        turn: &mut Turn,
    ) -> Option<Version> {
        let Write { key, change: Change::Put(value), expected: None, identity: None, .. } = *write else { return None };
        if self.has_followers() {
            return None;
        }
        let version = self.next_version();
        let record = self.table.write_in_place(place, key, version, value)?;
        cx.was_used(record);
        cx.noted.note_record(cx.id, self.log.durable(), record);
        self.log.append(record, &[]);
        self.log.drop_tail(cx.tails);
        self.mark_progress(cx, turn);
        Some(version)
    }

    /// Gives a record the next number, applies it, and queues it for every follower.
    fn order(&mut self, cx: &SlotContext<'_>, op: Op<'_>, turn: &mut Turn) -> Version {
        let (previous, version) = (self.log.last(), self.next_version());
        let has_followers = self.has_followers();
        let record = Record::new(version, op);
        // Most writes without followers need no clone, which costs two atomic operations.
        let needed = (has_followers || record.has_deadline() || record.is_multi()).then(|| record.clone());
        self.apply(cx, record, has_followers);
        if let Some(record) = &needed {
            if record.has_deadline() {
                self.note_deadline(cx, record, turn);
            }
            for part in record.parts().filter(Record::has_deadline) {
                self.note_deadline(cx, &part, turn);
            }
        }
        if !has_followers {
            // Where whoever comes later has to align says what is durable as well: there is nothing to keep in mind.
            self.mark_progress(cx, turn);
            return version;
        }
        let durable = self.log.durable();
        let Role::Primary(Primary { active: Some(active), .. }) = &mut self.role else { return version };
        active.last_write = cx.now;
        active.told = durable;
        if let Some(record) = &needed {
            for follower in active.followers.iter().filter(|follower| follower.progress.takes_records()) {
                follower.outbox.push(Item::Record { slot: cx.id, previous, durable, record: record.clone() });
                turn.touch(&follower.outbox);
            }
        }
        // No acknowledgement is waited for.
        if !active.followers.iter().any(Follower::counts) {
            self.mark_progress(cx, turn);
        }
        version
    }

    /// Whether this node may serve the slot now: its term has begun, it is not handing the slot over, and every member
    /// of the in-sync set has promised not to lead it.
    fn serves(&self, cx: &SlotContext<'_>) -> Option<&Primary> {
        let Role::Primary(primary) = &self.role else { return None };
        let takes = primary.intake() == Intake::Open || self.bugs.plants(Bug::ReleasedServesOn);
        if !primary.is_open || !primary.is_whole || !takes || cx.is_closed {
            return None;
        }
        let unbound = primary.followers().iter().any(|follower| follower.counts() && !follower.is_bound(cx.now));
        let replaceable = primary.is_small && cx.now >= cx.coordinator_until;
        let lacks_lease = (unbound && !self.bugs.plants(Bug::NoLease))
            || (replaceable && !self.bugs.plants(Bug::SmallSetTrustsItself) && !self.bugs.plants(Bug::NoLease));
        if lacks_lease { None } else { Some(primary) }
    }

    /// Carries out a write.
    ///
    /// # Errors
    /// The request was refused; nothing was done.
    pub(crate) fn write(
        &mut self,
        cx: &SlotContext<'_>,
        write: &Write<'_>,
        waiting: &Waiting,
        turn: &mut Turn,
    ) -> Result<Executed<Written>, Refusal> {
        let needs_open = matches!(&self.role, Role::Primary(primary) if !primary.is_open);
        if needs_open {
            self.open_if_due(cx, turn);
        }
        let primary = self.serves(cx).ok_or(Refusal::NotHere)?;
        primary.has_enough(write.ack)?;
        if let Some(identity) = write.identity
            && let Some(answer) = self.answer_repeated(cx, write, identity, waiting)?
        {
            return Ok(answer);
        }
        let place = self.table.place_of(cx.hasher, write.key);
        if let Some(version) = place.and_then(|place| self.put_in_place(cx, write, place, turn)) {
            return Ok(self.answer(Written::Done(version), version.seq, write.ack, waiting));
        }
        let mut newest = place.and_then(|place| self.table.at(place));
        if newest.is_some_and(|record| record.is_expired(cx.wall())) {
            // IMPORTANT: an answer that relies on the deadline having passed must no longer depend on anybody's clock.
            self.expire(cx, write.key, turn);
            newest = self.table.get(cx.hasher, write.key);
        }
        if let Change::Modify(modify) = &write.change {
            let newest = newest.cloned();
            return self.modify(cx, write, modify, newest, waiting, turn);
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
                write.identity.map(|identity| self.order(cx, Op::Declined { identity, found, reply: b"" }, turn).seq);
            let is_early = self.bugs.plants(Bug::UncommittedConflict);
            let seq = if is_early { 0 } else { settled.unwrap_or(newest_seq) };
            return Ok(self.answer(Written::Conflict(found), seq, write.ack, waiting));
        }
        if write.change == Change::Delete && present.is_none() && write.identity.is_none() {
            // There is nothing to order and nothing to send, but the record that made the key absent must be durable.
            return Ok(self.answer(Written::Done(Version::NONE), newest_seq, write.ack, waiting));
        }
        match write.change {
            Change::Put(value) => self.has_memory(cx, || self.more_for(write, value, false, newest))?,
            Change::PutFor(value, _) => self.has_memory(cx, || self.more_for(write, value, true, newest))?,
            Change::Delete | Change::Expire(_) | Change::Persist | Change::Modify(_) => {}
        }
        let kept = newest.filter(|_| write.change.is_counted()).cloned();
        let version = self.order_write(cx, write, kept, turn);
        let seq = if self.bugs.plants(Bug::AnsweredBeforeReplicas) { 0 } else { version.seq };
        Ok(self.answer(Written::Done(version), seq, write.ack, waiting))
    }

    /// The answer to a write with an identity that was carried out before; `None` if it is new.
    ///
    /// # Errors
    /// Nothing is known of it any more, or there is no room to remember it.
    fn answer_repeated(
        &mut self,
        cx: &SlotContext<'_>,
        write: &Write<'_>,
        identity: Identity<'_>,
        waiting: &Waiting,
    ) -> Result<Option<Executed<Written>>, Refusal> {
        match self.log.known_completions().map_or(Known::New, |known| known.look_up(identity)) {
            Known::Done(done) if self.bugs.plants(Bug::RetriedTwice) && done.version.epoch != self.epoch => {}
            Known::Done(_) if self.bugs.plants(Bug::ModifiedAgain) && matches!(write.change, Change::Modify(_)) => {}
            Known::Done(done) => {
                let (version, found) = (done.version, done.found);
                let answer = match &write.change {
                    Change::Modify(modify) => self.reply_again(cx, write, modify, done),
                    _ => found.map_or(Written::Done(version), Written::Conflict),
                };
                return Ok(Some(self.answer(answer, version.seq, write.ack, waiting)));
            }
            Known::Stale => return Err(Refusal::Stale),
            Known::New => {}
        }
        match self.log.known_completions() {
            Some(known) if !known.has_room(identity.client) => Err(Refusal::Busy),
            _ => Ok(None),
        }
    }

    /// Returns an answer that waits, as its level requires, until a record is durable.
    fn answer<T>(&mut self, answer: T, seq: u64, ack: AckLevel, waiting: &Waiting) -> Executed<T> {
        let ticket = match ack {
            AckLevel::Async => None,
            AckLevel::Quorum => self.wait(seq, false, waiting),
            AckLevel::All => self.wait(seq, true, waiting),
        };
        Executed { answer, ticket }
    }

    /// Takes a ticket, unless the record is already durable.
    fn wait(&mut self, seq: u64, needs_all: bool, waiting: &Waiting) -> Option<usize> {
        let durable = self.log.durable();
        let Role::Primary(primary) = &mut self.role else { return None };
        if seq <= durable && (!needs_all || primary.is_complete()) {
            return None;
        }
        let ticket = waiting.ticket();
        let number = ticket.number();
        primary.active.get_or_insert_default().wait(Waiter { seq, needs_all, ticket });
        Some(number)
    }

    /// The number up to which every follower that counts has all records.
    fn held(&self, cx: &SlotContext<'_>) -> u64 {
        let Role::Primary(primary) = &self.role else { return 0 };
        let counted = primary.followers().iter().filter(|follower| {
            if self.bugs.plants(Bug::AdmissionCountedLate) { !follower.is_learner } else { follower.counts() }
        });
        let counted =
            counted.filter(|follower| !self.bugs.plants(Bug::ShrinkCountedEarly) || follower.is_bound(cx.now));
        counted.map(|follower| follower.acked).min().unwrap_or(self.log.last().seq)
    }

    /// Advances the durable mark, and answers whoever waited for it.
    pub(super) fn mark_progress(&mut self, cx: &SlotContext<'_>, turn: &mut Turn) {
        let (last, held) = (self.log.last().seq, self.held(cx));
        let Role::Primary(primary) = &mut self.role else { return };
        if primary.in_sync >= primary.min_isr || self.bugs.plants(Bug::MarkMovesBelowMinimum) {
            if primary.is_complete() {
                self.log.set_durable(held, cx.tails);
            } else {
                self.log.set_durable_keeping_tail(held, cx.tails);
            }
        }
        let durable = self.log.durable();
        let is_complete = primary.is_complete();
        if let Some(active) = &mut primary.active
            && let Intake::Draining(to) = active.intake
            && held >= last
            && let Some(next) = active.followers.iter_mut().find(|follower| follower.outbox.to == to)
        {
            let stamp = cx.next_stamp();
            active.intake = Intake::Releasing(stamp);
            next.outbox.push(Item::Release { slot: cx.id, epoch: self.epoch, stamp });
            turn.touch(&next.outbox);
            // A copy that is given up as soon as another node leads can tell from this that nothing is lost with it.
            if durable > active.told {
                active.tell_durable(cx, durable, turn);
            }
        }
        // Before its term has begun nobody can wait, and a slot that was only found keeps what it has.
        if !primary.is_open {
            return;
        }
        if let Some(active) = &mut primary.active {
            active.settle(durable, is_complete, turn);
            if durable > active.told && !active.will_tell && !active.followers.is_empty() {
                active.will_tell = true;
                turn.look_at(active.last_write + TELL_DURABLE_AFTER, cx.id);
            }
            if active.is_idle(durable) {
                primary.active = None;
            }
        }
        self.purge_passed(cx, turn);
    }

    /// Drops the tombstones that every copy has passed that counts or is caught up. One that is not will be sent what it
    /// lacks, and what was purged meanwhile. If there is no other copy, all are dropped, durable or not: whoever comes is
    /// filled.
    fn purge_passed(&mut self, cx: &SlotContext<'_>, turn: &mut Turn) {
        let (last, durable) = (self.log.last().seq, self.log.durable());
        let Role::Primary(primary) = &self.role else { return };
        let is_alone = primary.is_alone;
        let is_waited_for = |follower: &&Follower| follower.counts() || follower.progress == Progress::Level;
        let passed = primary.followers().iter().filter(is_waited_for).map(|follower| follower.acked).min();
        let passed = if is_alone { last } else { passed.map_or(durable, |passed| passed.min(durable)) };
        if !self.log.has_tombstone(passed) {
            return;
        }
        if is_alone {
            // IMPORTANT: this start never cuts back to where what it has purged is missing. A later one may, with the tail
            // that it has read; then its mark is merely higher than it need be.
            self.log.drop_tail(cx.tails);
        }
        self.purge(cx, passed);
        let Role::Primary(primary) = &self.role else { return };
        for follower in primary.followers().iter().filter(|follower| follower.progress == Progress::Level) {
            follower.outbox.push(Item::Purge { slot: cx.id, seq: passed });
            turn.touch(&follower.outbox);
        }
    }

    /// Handles what may have come due. Expires at most `expiries_left` keys, and subtracts their number from it.
    pub(crate) fn look(&mut self, cx: &SlotContext<'_>, expiries_left: &mut usize, turn: &mut Turn) -> Due {
        self.open_if_due(cx, turn);
        self.expire_passed(cx, expiries_left, turn);
        let durable = self.log.durable();
        let Role::Primary(primary) = &mut self.role else { return Due::default() };
        if let Some(active) = &mut primary.active
            && active.will_tell
        {
            let due = active.last_write + TELL_DURABLE_AFTER;
            if durable <= active.told {
                active.will_tell = false;
            } else if cx.now < due {
                turn.look_at(due, cx.id);
            } else {
                active.will_tell = false;
                active.tell_durable(cx, durable, turn);
            }
        }
        let is_good = |follower: &Follower| follower.progress == Progress::Level && !follower.differs;
        let astray = |follower: &&Follower| follower.counts() && !is_good(follower);
        let expel: Vec<_> = primary.followers().iter().filter(astray).map(|follower| follower.outbox.to).collect();
        if !expel.is_empty() {
            turn.look_at(cx.now + EXPEL_AFTER, cx.id);
        }
        let mut admit = self.admissible(|_| true);
        let Role::Primary(primary) = &self.role else { return Due::default() };
        let proposed = primary.followers().iter().filter(|follower| follower.is_proposed);
        // The coordinator may have had a reason, since gone, not to admit a learner. It is asked again.
        let again = proposed.filter(|follower| follower.progress == Progress::Level).map(|follower| follower.outbox.to);
        let again: Vec<_> = again.filter(|learner| !admit.contains(learner)).collect();
        admit.extend(again);
        if !admit.is_empty() {
            turn.look_at(cx.now + EXPEL_AFTER, cx.id);
        }
        Due { admit, expel }
    }

    /// Whether this node leads the slot and another in-sync member, heard from recently, could lead it.
    #[must_use]
    pub(crate) fn leads_for_others(&self, now: Timestamp) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        let could = |follower: &Follower| follower.counts() && now - follower.outbox.last_heard() < EXPEL_AFTER * 4;
        primary.followers().iter().any(could)
    }

    /// Whether this node, as far as it knows, serves the slot: it accepts writes and linear reads.
    #[must_use]
    pub(crate) fn is_serving(&self, cx: &SlotContext<'_>) -> bool {
        self.serves(cx).is_some()
    }

    /// Another node follows a primary of a higher epoch: this one no longer leads, whatever its map says.
    pub(crate) fn depose(&mut self, cx: &SlotContext<'_>, epoch: Epoch, turn: &mut Turn) {
        if epoch > self.epoch && self.is_primary() && !self.bugs.plants(Bug::DeposedIgnored) {
            self.tell_deposed(cx, turn);
            self.become_replica(cx, epoch, turn);
        }
    }
}

impl Primary {
    pub(super) fn followers(&self) -> &[Follower] {
        self.active.as_ref().map_or(&[], |active| &active.followers)
    }

    fn followers_mut(&mut self) -> &mut [Follower] {
        self.active.as_mut().map_or(&mut [], |active| &mut active.followers)
    }

    fn intake(&self) -> Intake {
        self.active.as_ref().map_or(Intake::Open, |active| active.intake)
    }

    /// Prefetches memory that the next record or acknowledgement will touch.
    pub(super) fn fetch(&self) {
        if let Some(active) = &self.active {
            active.fetch();
        }
    }

    /// Whether as many copies are in sync as there should be.
    fn is_complete(&self) -> bool {
        self.in_sync >= self.copies
    }

    fn has_enough(&self, level: AckLevel) -> Result<(), Refusal> {
        let needs = match level {
            AckLevel::Async => return Ok(()),
            AckLevel::Quorum => self.min_isr,
            AckLevel::All => self.copies.max(self.min_isr),
        };
        if self.in_sync >= needs {
            return Ok(());
        }
        Err(Refusal::TooFew { level, needs: needs.into(), has: self.in_sync.into() })
    }

    /// Abandons all waiters and returns their tickets.
    pub(super) fn take_tickets(&mut self) -> impl Iterator<Item = Ticket> + use<> {
        self.active.take().into_iter().flat_map(|active| active.into_tickets())
    }
}

fn small(count: usize) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}
