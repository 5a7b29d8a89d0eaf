//! Handing a slot over from its primary to the next.

use proto::id::Incarnation;

use super::followers::{Follower, Progress};
use super::{EXPEL_AFTER, Effects, Primary};
use crate::bugs::{Bug, Bugs};
use crate::node::Turn;
use crate::outbox::{Item, Stamp};
use crate::record::Record;
use crate::slot::{Role, Slot, SlotContext};

/// Whether a primary accepts requests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intake {
    #[default]
    Open,
    /// Handing over: waiting until the whole in-sync set has everything.
    Draining(Incarnation),
    /// The next primary is being told that it is released from its promise.
    Releasing(Stamp),
}

impl<B: Bugs> Slot<B> {
    /// Whether this record begins the term of a primary to which its predecessor has not released the slot.
    ///
    /// IMPORTANT: such a primary may have an older history than others that have lost their power, and replaces theirs.
    /// After another power cut they may have theirs again: this record then tells which of them is the older one. So it
    /// must be on disk before anybody hears of it.
    pub(in crate::slot) fn takes_over_with(&self, record: &Record) -> bool {
        let takes_over = || matches!(&self.role, Role::Primary(primary) if !primary.was_released);
        record.is_barrier() && takes_over() && !self.bugs.plants(Bug::TermNotSynced)
    }

    /// Starts handing the slot over: accepts no more requests, and waits until the whole in-sync set has everything.
    /// `false` if that is not possible now.
    pub(crate) fn drain(&mut self, cx: &SlotContext<'_>, to: Incarnation, turn: &mut Turn) -> bool {
        let Role::Primary(primary) = &mut self.role else { return false };
        let level = |follower: &Follower| {
            follower.outbox.to == to && follower.progress == Progress::Level && !follower.is_learner
        };
        let is_open = primary.is_open;
        let Some(active) = &mut primary.active else { return false };
        if !is_open || active.intake != Intake::Open || !active.followers.iter().any(level) {
            return false;
        }
        active.intake = Intake::Draining(to);
        self.mark_progress(cx, turn);
        true
    }

    /// Accepts requests again, because a hand-over did not complete in time. `false` if no hand-over is in progress.
    pub(crate) fn reopen(&mut self, cx: &SlotContext<'_>, turn: &mut Turn) -> bool {
        let (epoch, config) = (self.epoch, self.config);
        let Role::Primary(Primary { active: Some(active), .. }) = &mut self.role else { return false };
        let (Intake::Draining(_) | Intake::Releasing(_)) = active.intake else { return false };
        let released = matches!(active.intake, Intake::Releasing(_));
        active.intake = Intake::Open;
        if released {
            // IMPORTANT: the next primary may already have been given the slot. This node serves again only if all
            // members, asked anew, still follow it.
            for follower in &mut active.followers {
                follower.align(cx, epoch, config, &self.log, self.log.last());
                turn.touch(&follower.outbox);
            }
            turn.look_at(cx.now + EXPEL_AFTER, cx.id);
        }
        true
    }

    /// Releases the slot because the node is about to stop, so that nobody has to wait for its lease to expire.
    pub(crate) fn release(&mut self, cx: &SlotContext<'_>, turn: &mut Turn) {
        let epoch = self.epoch;
        let Role::Primary(primary) = &mut self.role else { return };
        // IMPORTANT: a primary that has not begun to serve cannot vouch that no earlier primary still serves.
        if !primary.is_open || self.bugs.plants(Bug::StopsWithoutRelease) {
            return;
        }
        let stamp = cx.next_stamp();
        let active = primary.active.get_or_insert_default();
        active.intake = Intake::Releasing(stamp);
        for follower in active.followers.iter().filter(|follower| follower.counts()) {
            follower.outbox.push(Item::Release { slot: cx.id, epoch, stamp });
            turn.touch(&follower.outbox);
        }
    }

    /// A follower has confirmed that the slot was released to it.
    pub(crate) fn follower_knows_release(&self, stamp: Stamp) -> Effects {
        let released = matches!(&self.role, Role::Primary(primary) if primary.intake() == Intake::Releasing(stamp));
        Effects { released, ..Effects::default() }
    }

    /// Whether the slot is being handed over to another node.
    pub(in crate::slot) fn is_handing_over(&self) -> bool {
        matches!(&self.role, Role::Primary(primary) if primary.intake() != Intake::Open)
    }
}
