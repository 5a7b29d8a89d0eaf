//! What a primary knows about its followers, and how it handles what they report.

use std::sync::Arc;

use proto::cluster_map::MapVersion;
use proto::id::{Epoch, Incarnation, Version};

use super::{EXPEL_AFTER, Effects, Primary};
use crate::bugs::{Bug, Bugs};
use crate::log::Log;
use crate::node::Turn;
use crate::outbox::{Align, Contents, Item, Outbox, Stamp};
use crate::slot::{Role, Slot, SlotContext};
use crate::time::Timestamp;

/// A replica or learner, as its primary sees it.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(super) outbox: Arc<Outbox>,
    stamp: Stamp,
    /// The follower has every record up to this number.
    pub(super) acked: u64,
    pub(super) progress: Progress,
    pub(super) is_learner: bool,
    /// A learner whose admission has been proposed. It counts from then on.
    pub(super) is_proposed: bool,
    /// The copy differs although it stands at the right record. It is refilled once it is a learner.
    pub(super) differs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Has been told where this slot stands, and has not answered.
    Aligning,
    /// A fill is to be made when its turn comes. No records are queued meanwhile.
    WantsFill,
    /// A fill is on its way, followed by every record since.
    Filling,
    /// Caught up: takes each record as it comes.
    Level,
    /// Its queue has overflowed, or it accepts no fill. It is realigned when something has changed.
    Behind,
}

impl<B: Bugs> Slot<B> {
    /// Selects the learners, among those that `asked` accepts, that have everything and were not proposed before.
    ///
    /// IMPORTANT: they count from now on, because the coordinator may commit their admission at any moment.
    pub(super) fn admissible(&mut self, asked: impl Fn(Incarnation) -> bool) -> Vec<Incarnation> {
        let early = self.bugs.plants(Bug::LearnerAdmittedEarly);
        let below_barrier = self.bugs.plants(Bug::AdmittedBelowBarrier);
        let durable = self.log.durable();
        let Role::Primary(Primary { active: Some(active), is_open, .. }) = &mut self.role else { return Vec::new() };
        let is_open = *is_open || below_barrier;
        let mut admissible = Vec::new();
        // Most are no learners, and need no further look.
        let learners = active.followers.iter_mut().filter(|follower| follower.is_learner && !follower.is_proposed);
        for follower in learners.filter(|follower| asked(follower.outbox.to)) {
            let is_equal = follower.progress == Progress::Level && !follower.differs;
            let barrier = if below_barrier { 0 } else { active.barrier };
            let level = is_equal && is_open && follower.acked >= durable.max(barrier);
            if level || early {
                follower.is_proposed = true;
                admissible.push(follower.outbox.to);
            }
        }
        admissible
    }

    /// A follower has acknowledged an alignment or a fill.
    pub(crate) fn follower_is_level(
        &mut self,
        cx: &SlotContext<'_>,
        who: Incarnation,
        stamp: Stamp,
        seq: u64,
        turn: &mut Turn,
    ) -> Effects {
        let Some(follower) = self.follower(who).filter(|follower| follower.stamp == stamp) else {
            let early = self.bugs.plants(Bug::AdmittedBelowBarrier);
            return if early { self.after_progress(cx, who, turn) } else { Effects::default() };
        };
        let mut repaired = false;
        if matches!(follower.progress, Progress::Aligning | Progress::Filling) {
            repaired = follower.progress == Progress::Filling && std::mem::take(&mut follower.differs);
            follower.progress = Progress::Level;
            follower.acked = follower.acked.max(seq);
            let outbox = Arc::clone(&follower.outbox);
            if self.log.purged() > 0 {
                // It may have missed purges while it was not caught up.
                outbox.push(Item::Purge { slot: cx.id, seq: self.log.purged() });
                turn.touch(&outbox);
            }
        }
        Effects { repaired, ..self.after_progress(cx, who, turn) }
    }

    /// A follower has acknowledged a record.
    pub(crate) fn follower_has(
        &mut self,
        cx: &SlotContext<'_>,
        who: Incarnation,
        seq: u64,
        turn: &mut Turn,
    ) -> Effects {
        let Some(follower) = self.follower(who).filter(|follower| follower.progress == Progress::Level) else {
            return Effects::default();
        };
        follower.acked = follower.acked.max(seq);
        let is_learner = follower.is_learner;
        // Usually another follower has yet to acknowledge this record, so nothing follows from it yet.
        if !is_learner && seq > self.held(cx) {
            return Effects::default();
        }
        self.after_progress(cx, who, turn)
    }

    fn after_progress(&mut self, cx: &SlotContext<'_>, who: Incarnation, turn: &mut Turn) -> Effects {
        self.mark_progress(cx, turn);
        let admit = !self.admissible(|learner| learner == who).is_empty();
        if admit {
            turn.look_at(cx.now + EXPEL_AFTER, cx.id);
        }
        Effects { admit, ..Effects::default() }
    }

    /// A follower has reported that it is not caught up. `last` is a record of this log after which it needs
    /// everything.
    pub(crate) fn follower_is_behind(
        &mut self,
        cx: &SlotContext<'_>,
        who: Incarnation,
        epoch: Epoch,
        stamp: u64,
        last: Option<Version>,
        turn: &mut Turn,
    ) {
        if epoch != self.epoch {
            return;
        }
        let config = self.config;
        let missing = last.and_then(|last| Some((last, self.log.after(last)?)));
        let (log, role) = (&self.log, &mut self.role);
        let Role::Primary(primary) = role else { return };
        let its = |follower: &&mut Follower| follower.outbox.to == who && follower.stamp.0 == stamp;
        let Some(follower) = primary.followers_mut().iter_mut().find(its) else { return };
        // What would overflow the queue is worth less than a fill, which is a single message.
        let missing = missing.filter(|(_, records)| {
            let bytes = records.iter().map(|(_, record)| record.size()).sum();
            follower.outbox.has_room(records.len(), bytes)
        });
        match (follower.progress, missing) {
            (Progress::Behind | Progress::WantsFill, _) => {}
            // It accepts no fill: its map gives it no copy of the slot.
            (Progress::Filling, _) => follower.progress = Progress::Behind,
            (Progress::Aligning | Progress::Level, Some((last, records))) => {
                follower.align(cx, epoch, config, log, last);
                let durable = log.durable();
                for (previous, record) in records {
                    follower.outbox.push(Item::Record { slot: cx.id, previous, durable, record });
                }
                turn.touch(&follower.outbox);
                if self.bugs.plants(Bug::AdmittedBelowBarrier) {
                    (follower.acked, follower.progress) = (last.seq, Progress::Level);
                }
            }
            (Progress::Aligning | Progress::Level, None) => {
                follower.progress = Progress::WantsFill;
                follower.outbox.want_fill(cx.id, self.table.keys() as u64);
            }
        }
        turn.look_at(cx.now + EXPEL_AFTER, cx.id);
    }

    /// Queues everything the slot holds for a follower that needs a fill. Returns the size in bytes.
    pub(crate) fn fill(&mut self, cx: &SlotContext<'_>, who: Incarnation) -> usize {
        let epoch = self.epoch;
        let completions: Vec<_> =
            if self.bugs.plants(Bug::FillForgetsCompletions) { Vec::new() } else { self.completions().collect() };
        let Role::Primary(primary) = &mut self.role else { return 0 };
        let wants = |follower: &&mut Follower| follower.outbox.to == who && follower.progress == Progress::WantsFill;
        let Some(follower) = primary.followers_mut().iter_mut().find(wants) else { return 0 };
        follower.progress = Progress::Filling;
        // Records in flight are refused until the fill arrives; the fill's own stamp distinguishes that from a refusal
        // of the fill.
        follower.stamp = cx.next_stamp();
        let contents = Arc::new(Contents {
            last: self.log.last(),
            durable: self.log.durable(),
            purged: self.log.purged(),
            terms: self.log.terms(),
            records: self.table.records().cloned().collect(),
            completions,
        });
        let fill = Item::Fill { slot: cx.id, epoch, contents, stamp: follower.stamp };
        let (_, bytes) = fill.weight();
        follower.outbox.push(fill);
        bytes
    }

    /// A follower's queue has overflowed. Returns whether it counts and must therefore be proposed for removal.
    pub(crate) fn follower_has_overflowed(&mut self, who: Incarnation) -> bool {
        let Some(follower) = self.follower(who) else { return false };
        follower.progress = Progress::Behind;
        follower.counts()
    }

    /// Starts over with a follower whose queue had overflowed.
    pub(crate) fn realign_follower(&mut self, cx: &SlotContext<'_>, who: Incarnation) {
        let (epoch, config) = (self.epoch, self.config);
        let (log, role) = (&self.log, &mut self.role);
        let Role::Primary(primary) = role else { return };
        if let Some(follower) = primary.followers_mut().iter_mut().find(|follower| follower.outbox.to == who) {
            follower.align(cx, epoch, config, log, log.last());
        }
    }

    /// Whether a follower counts toward durability, so that nothing proceeds without it.
    #[must_use]
    pub(crate) fn counts(&self, who: Incarnation) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        primary.followers().iter().any(|follower| follower.outbox.to == who && follower.counts())
    }

    /// How many replicas have acknowledged every record up to this number; `None` if this node does not lead the slot.
    #[must_use]
    pub fn replicas_with(&self, seq: u64) -> Option<usize> {
        let Role::Primary(primary) = &self.role else { return None };
        let has = |follower: &&Follower| {
            follower.progress == Progress::Level && !follower.is_learner && follower.acked >= seq
        };
        Some(primary.followers().iter().filter(has).count())
    }

    /// The learners whose admission was proposed and is still pending.
    pub(crate) fn proposed_learners(&self) -> impl Iterator<Item = Incarnation> {
        let followers = match &self.role {
            Role::Primary(primary) => primary.followers(),
            Role::Idle | Role::Replica(_) => &[],
        };
        followers.iter().filter(|follower| follower.is_proposed).map(|follower| follower.outbox.to)
    }

    pub(super) fn follower(&mut self, who: Incarnation) -> Option<&mut Follower> {
        let Role::Primary(primary) = &mut self.role else { return None };
        primary.followers_mut().iter_mut().find(|follower| follower.outbox.to == who)
    }
}

impl Follower {
    pub(super) fn new(outbox: Arc<Outbox>) -> Self {
        let progress = Progress::Aligning;
        let stamp = Stamp::default();
        Self { outbox, stamp, acked: 0, progress, is_learner: false, is_proposed: false, differs: false }
    }

    /// Whether nothing is durable without this follower.
    pub(super) fn counts(&self) -> bool {
        !self.is_learner || self.is_proposed
    }

    /// Whether this follower has promised not to lead the slot: it follows in this term, and its lease is valid.
    pub(super) fn is_bound(&self, now: Timestamp) -> bool {
        self.progress == Progress::Level && self.outbox.has_lease(now)
    }

    /// Tells the follower where this slot stands, or that it will be refilled. Records after `from` follow.
    pub(super) fn align(&mut self, cx: &SlotContext<'_>, epoch: Epoch, config: MapVersion, log: &Log, from: Version) {
        self.stamp = cx.next_stamp();
        self.progress = Progress::Aligning;
        let (durable, terms, stamp) = (log.durable(), log.terms(), self.stamp);
        // IMPORTANT: only once it no longer counts. What it has may still be the best copy that is left.
        let refill = self.differs && self.is_learner;
        let align = Align { slot: cx.id, epoch, config, from, durable, terms, stamp, refill };
        self.outbox.push(Item::Align(Box::new(align)));
    }
}

impl Progress {
    pub(super) fn takes_records(self) -> bool {
        match self {
            Self::Aligning | Self::Filling | Self::Level => true,
            Self::WantsFill | Self::Behind => false,
        }
    }
}
