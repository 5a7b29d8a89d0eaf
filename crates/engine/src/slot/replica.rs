//! A slot's replica side: it takes what its primary sends, in order, and truncates its log where the two have diverged.

use std::collections::BTreeSet;

use proto::cluster_map::MapVersion;
use proto::id::{Epoch, Incarnation, Version};
use proto::peer::{LinkReply, Terms};

use super::{Role, Slot, SlotContext};
use crate::bugs::{Bug, Bugs};
use crate::completions::Completion;
use crate::journal::SlotSnapshot;
use crate::log;
use crate::node::Turn;
use crate::outbox::Contents;
use crate::record::Record;

/// The role of a replica or learner.
#[derive(Debug, Default)]
pub(super) struct Replica {
    /// The primary that aligned with this copy in the current epoch; 0: none. A plain number keeps the slot small.
    following: Incarnation,
    /// The copy is not caught up, and its primary has been told so. Also `false` while there is no primary to tell.
    pub(super) behind: bool,
    /// The copy has records that its primary lacks, and waits for a fill to replace them.
    pub(super) diverged: bool,
    /// The primary has stopped serving the slot and has released this copy from its promise.
    pub(super) released: bool,
}

impl Replica {
    /// The primary that this copy follows.
    pub(super) fn following(&self) -> Option<Incarnation> {
        Some(self.following).filter(|primary| *primary != Incarnation::default())
    }

    /// Whether this copy follows the given primary.
    pub(super) fn follows(&self, primary: Incarnation) -> bool {
        self.following() == Some(primary)
    }
}

/// See [`proto::peer::LinkMessage::Align`].
#[derive(Debug, Clone)]
pub(crate) struct Alignment {
    pub(crate) epoch: Epoch,
    pub(crate) config: MapVersion,
    pub(crate) stamp: u64,
    pub(crate) from: Version,
    pub(crate) durable: u64,
    pub(crate) terms: Terms,
    pub(crate) refill: bool,
}

/// One item of the ordered stream that a primary sends for its writes.
#[derive(Debug)]
pub(crate) enum Step {
    Record(Next),
    /// The durable mark has moved, and no record was sent that could carry it.
    Durable(u64),
}

impl Step {
    /// The key whose record this step touches.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Record(next) => Some(next.record.key()),
            Self::Durable(_) => None,
        }
    }
}

/// The next record of a slot.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) previous: Version,
    pub(crate) durable: u64,
    pub(crate) record: Record,
}

/// Everything else that a primary sends for one slot.
#[derive(Debug)]
pub(crate) enum Incoming {
    Align(Alignment),
    Compare { query: u64, at: Version, floor: u64 },
    Fill { epoch: Epoch, stamp: u64, contents: Contents },
    Purge(u64),
    Release(Epoch),
}

impl<B: Bugs> Slot<B> {
    /// Handles what a primary sends for a write.
    ///
    /// IMPORTANT: a step that is not applied must be answered; the primary counts every other step as applied.
    pub(crate) fn take(&mut self, cx: &SlotContext<'_>, from: Incarnation, step: Step) -> Option<LinkReply> {
        match step {
            Step::Record(next) => self.take_record(cx, from, next),
            Step::Durable(seq) => {
                if self.is_level_with(from) {
                    self.log.set_durable(seq, cx.tails);
                }
                None
            }
        }
    }

    /// Handles everything else a primary sends; the rule of [`Slot::take`] applies here, too.
    pub(crate) fn follow(
        &mut self,
        cx: &SlotContext<'_>,
        from: Incarnation,
        incoming: Incoming,
        turn: &mut Turn,
    ) -> Option<LinkReply> {
        match incoming {
            Incoming::Align(alignment) => self.align(cx, from, alignment, turn),
            Incoming::Compare { query, at, floor } => self.compare_with(cx, from, query, at, floor, turn),
            Incoming::Fill { epoch, stamp, contents } => self.take_fill(cx, from, epoch, stamp, contents, turn),
            Incoming::Purge(seq) => {
                if self.is_level_with(from) {
                    self.purge(cx, seq);
                }
                None
            }
            Incoming::Release(epoch) => {
                let refusal = self.refuses(cx, epoch);
                if refusal.is_none()
                    && let Role::Replica(replica) = &mut self.role
                {
                    replica.released |= replica.follows(from);
                }
                refusal
            }
        }
    }

    /// Handles the first message of a primary in its epoch, which says where it stands.
    fn align(
        &mut self,
        cx: &SlotContext<'_>,
        from: Incarnation,
        alignment: Alignment,
        turn: &mut Turn,
    ) -> Option<LinkReply> {
        let Alignment { epoch, config, stamp, from: start, durable, terms, refill } = alignment;
        if let Some(refusal) = self.refuses(cx, epoch) {
            return Some(refusal);
        }
        if self.is_outdated(from, epoch, stamp) {
            return None;
        }
        let behind = |last| Some(LinkReply::Behind { slot: cx.id, epoch, stamp, last });
        self.stamp = stamp;
        if matches!(self.role, Role::Idle) && config <= self.config {
            return behind(None); // The map here is newer than the sender's, and gives this node no copy.
        }
        // Within a term, this copy may be ahead of an alignment that was resent after a broken connection.
        let was_level = self.is_level_with(from) && epoch == self.epoch;
        let same_term = matches!(&self.role, Role::Replica(replica) if replica.follows(from)) && epoch == self.epoch;
        if !same_term {
            self.tell_deposed(cx, turn);
            self.become_replica(cx, epoch, turn);
        }
        self.config = self.config.max(config);
        cx.peers.follow(cx.now, from, cx.id);

        let level = !refill && if was_level { self.last() >= start } else { self.go_back(cx, start, &terms, turn) };
        let can_continue = level || (!refill && self.can_continue(start, &terms));
        self.role =
            Role::Replica(Replica { following: from, behind: !level, diverged: !can_continue, released: false });
        if level {
            self.log.set_durable(durable, cx.tails);
            None
        } else {
            behind(can_continue.then(|| self.last()))
        }
    }

    /// Truncates the log to where it agrees with the primary's, if possible. Returns whether the copy then stands at
    /// `start`.
    fn go_back(&mut self, cx: &SlotContext<'_>, start: Version, terms: &Terms, turn: &mut Turn) -> bool {
        if self.last() == start {
            return true;
        }
        let common =
            if self.bugs.plants(Bug::CutByMark) { self.common_by_mark(start) } else { self.log.common(terms, start) };
        if let Some(common) = common.filter(|common| common.seq < self.last().seq) {
            let Some(cut) = self.cut(cx, common) else { return false };
            for entry in &cut {
                if self.bugs.plants(Bug::CompletionSurvivesCut)
                    && let Some(identity) = entry.record.identity()
                {
                    let completion = Completion::of(&entry.record);
                    self.log.completions().insert(cx.now, identity, completion);
                }
            }
            let lost = cut.iter().filter(|entry| entry.record.is_asked_for()).count() as u64;
            self.archive(cx, cut.into_iter().rev().map(|entry| entry.record).collect(), common, lost, turn);
        }
        self.last() == start
    }

    /// Truncates the log to one of its own records and returns what was cut, newest first; `None`, with nothing
    /// changed, if the tail does not reach back that far.
    pub(super) fn cut(&mut self, cx: &SlotContext<'_>, to: Version) -> Option<Vec<log::Entry>> {
        let cut = self.log.cut(to, cx.tails)?;
        cx.noted.note_cut(cx.id, to);
        let mut last_undone = Version::NONE;
        for entry in cut.iter().filter(|entry| entry.record.is_write()) {
            let is_of_the_same = std::mem::replace(&mut last_undone, entry.record.version()) == entry.record.version();
            if !(is_of_the_same && self.bugs.plants(Bug::MultiHalfUndone)) {
                self.take_back(cx, &entry.record, entry.replaced.clone());
            }
        }
        Some(cut)
    }

    /// Whether the primary has everything that is here, so that it can send just the records that follow.
    fn can_continue(&self, start: Version, terms: &Terms) -> bool {
        self.bugs.plants(Bug::CutByMark) || self.log.common(terms, start) == Some(self.last())
    }

    /// The planted bug of KIP-101: everything below the durable mark is assumed to be common, and nothing else is
    /// checked.
    fn common_by_mark(&self, start: Version) -> Option<Version> {
        let seq = self.log.durable().min(start.seq);
        let mut terms = self.log.terms().0;
        terms.retain(|term| term.first <= seq);
        Some(terms.last().map_or(Version::NONE, |term| Version { epoch: term.epoch, seq }))
    }

    /// Handles the primary's next record.
    fn take_record(
        &mut self,
        cx: &SlotContext<'_>,
        from: Incarnation,
        Next { previous, durable, record }: Next,
    ) -> Option<LinkReply> {
        // A record resent from the tail has an earlier epoch than the primary that sends it.
        let follows = matches!(&self.role, Role::Replica(replica) if replica.follows(from));
        if !follows && let Some(refusal) = self.refuses_sender(cx, record.version().epoch) {
            return Some(refusal);
        }
        if !self.is_level_with(from) {
            return Some(self.behind(cx, None));
        }
        let Version { epoch, seq } = record.version();
        // IMPORTANT: a record of an earlier term that was sent again may have taken the place of this one, if nothing told
        // it apart from the next: nothing precedes the first record of a slot.
        let has_older = seq <= self.last().seq && self.log.epoch_at(seq).is_some_and(|here| here < epoch);
        if seq <= self.last().seq && !has_older {
            return None; // Sent again after a broken connection.
        }
        if has_older || (previous != self.last() && !self.bugs.plants(Bug::CutByMark)) {
            if let Role::Replica(replica) = &mut self.role {
                replica.behind = true;
            }
            return Some(self.behind(cx, Some(self.last())));
        }
        self.apply(cx, record, true);
        self.log.set_durable(durable, cx.tails);
        if self.bugs.plants(Bug::FollowerExpires) {
            let expired: Vec<_> = self.table.records().filter(|it| it.is_expired(cx.wall())).cloned().collect();
            expired.iter().for_each(|record| self.drop_record(cx, record));
        }
        None
    }

    /// Replaces everything here with everything the primary holds.
    fn take_fill(
        &mut self,
        cx: &SlotContext<'_>,
        from: Incarnation,
        epoch: Epoch,
        stamp: u64,
        contents: Contents,
        turn: &mut Turn,
    ) -> Option<LinkReply> {
        if let Some(refusal) = self.refuses(cx, epoch) {
            return Some(refusal);
        }
        if self.is_outdated(from, epoch, stamp) {
            return None;
        }
        // Replies about this fill are distinguished by its stamp from replies about anything earlier.
        self.stamp = stamp;
        let waits = match &self.role {
            Role::Replica(replica) if replica.follows(from) && epoch == self.epoch => replica.behind,
            Role::Idle | Role::Primary(_) | Role::Replica(_) => return Some(self.behind(cx, None)),
        };
        if !waits {
            return None; // Sent again after a broken connection.
        }
        let common = self.log.common(&contents.terms, contents.last).unwrap_or(Version::NONE);
        self.archive_all_after(cx, common.seq, turn);
        let Contents { last, durable, purged, terms, records, completions } = contents;
        let epoch = self.epoch;
        let mut records = records;
        if self.bugs.plants(Bug::PurgeMarkIgnored) && common == self.last() {
            self.keep_unnamed(&mut records);
        }
        self.install(cx, SlotSnapshot { epoch, last, durable, purged, terms, records, completions, tail: Vec::new() });
        cx.noted.note_whole(cx.id, || self.whole());
        if let Role::Replica(replica) = &mut self.role {
            (replica.behind, replica.diverged) = (false, false);
        }
        None
    }

    /// Appends a record and applies it. It is `kept` in the tail unless nobody will ever ask for it. What this does in
    /// that case, [`Slot::put_in_place`] does as well.
    pub(super) fn apply(&mut self, cx: &SlotContext<'_>, record: Record, kept: bool) {
        if let Some(identity) = record.identity() {
            let completion = Completion::of(&record);
            self.log.completions().insert(cx.now, identity, completion);
        }
        if self.takes_over_with(&record) {
            cx.noted.note_synced(cx.id, self.log.durable(), &record);
        } else {
            cx.noted.note_record(cx.id, self.log.durable(), &record);
        }
        let mut put = |record: Record| log::Entry { replaced: self.put(cx, record.clone()), record };
        let parts: Vec<_> = if record.is_multi() { record.parts().map(&mut put).collect() } else { Vec::new() };
        self.log.append(&record, &parts);
        // The table gets the record itself where nobody else needs it.
        if kept {
            let replaced = if record.is_write() { self.put(cx, record.clone()) } else { None };
            self.log.keep(log::Entry { record, replaced }, parts, cx.tails);
        } else {
            self.log.drop_tail(cx.tails);
            if record.is_write() {
                self.put(cx, record);
            }
        }
    }

    /// A planted bug: whatever a fill does not name is assumed to be unchanged since this copy was away.
    fn keep_unnamed(&self, records: &mut Vec<Record>) {
        let named: BTreeSet<Box<[u8]>> = records.iter().map(|record| record.key().into()).collect();
        let is_unnamed = |record: &&Record| !record.is_delete() && !named.contains(record.key());
        records.extend(self.table.records().filter(is_unnamed).cloned());
    }

    /// Drops the tombstones up to `seq`; returns whether there were any.
    pub(super) fn purge(&mut self, cx: &SlotContext<'_>, seq: u64) -> bool {
        let mut any = false;
        while let Some(tombstone) = self.log.next_purged(seq) {
            self.drop_record(cx, &tombstone);
            any = true;
        }
        if any {
            cx.noted.note_purge(cx.id, self.log.purged());
        }
        any
    }

    /// Whether an alignment or a fill is older than the last one of this term. Then it was sent on an earlier
    /// connection or is being resent on this one, and the primary expects no answer to it.
    fn is_outdated(&self, from: Incarnation, epoch: Epoch, stamp: u64) -> bool {
        let same_term = matches!(&self.role, Role::Replica(replica) if replica.follows(from));
        same_term && epoch == self.epoch && stamp < self.stamp
    }

    fn behind(&self, cx: &SlotContext<'_>, last: Option<Version>) -> LinkReply {
        LinkReply::Behind { slot: cx.id, epoch: self.epoch, stamp: self.stamp, last }
    }

    fn refuses(&self, cx: &SlotContext<'_>, epoch: Epoch) -> Option<LinkReply> {
        if self.bugs.plants(Bug::NoEpochCheck) && !self.is_primary() {
            return None;
        }
        self.refuses_sender(cx, epoch)
    }

    fn refuses_sender(&self, cx: &SlotContext<'_>, epoch: Epoch) -> Option<LinkReply> {
        let stale = epoch < self.epoch || (epoch == self.epoch && self.is_primary());
        stale.then_some(LinkReply::Deposed { slot: cx.id, epoch: self.epoch })
    }

    /// Whether this copy is caught up with the given primary in the current epoch.
    pub(super) fn is_level_with(&self, primary: Incarnation) -> bool {
        matches!(&self.role, Role::Replica(replica) if replica.follows(primary) && !replica.behind)
    }
}
