//! Comparing the copies of a slot: what a primary asks, and what a replica answers.

use proto::id::{Epoch, Incarnation, Version};
use proto::peer::{Compared, LinkReply};

use super::EXPEL_AFTER;
use super::followers::{Follower, Progress};
use crate::bugs::{Bug, Bugs};
use crate::compare::{Asked, Begun, Contents, NotCompared, ToDigest};
use crate::node::Turn;
use crate::outbox::Item;
use crate::slot::{Role, Slot, SlotContext};

impl<B: Bugs> Slot<B> {
    /// Asks every in-sync replica for the digest of its copy at the last record, and returns the contents of this copy.
    pub(crate) fn compare(&self, cx: &SlotContext<'_>, query: u64, floor: u64, turn: &mut Turn) -> Begun {
        let Role::Primary(primary) = &self.role else { return Begun::Not(NotCompared::NotLed) };
        let at = self.log.last();
        if at == Version::NONE {
            return Begun::Empty;
        }
        let is_asked =
            |follower: &&Follower| follower.progress == Progress::Level && !follower.is_learner && !follower.differs;
        let asked: Vec<_> = primary.followers().iter().filter(is_asked).map(|follower| &follower.outbox).collect();
        if asked.is_empty() {
            return Begun::Not(NotCompared::Alone);
        }
        let floor = floor.max(self.log.purged());
        for outbox in &asked {
            // IMPORTANT: push under the slot's lock, so that no record comes between the question and the state it asks
            // about.
            outbox.push(Item::Compare { slot: cx.id, query, at, floor });
            turn.touch(outbox);
        }
        let followers = asked.into_iter().map(|outbox| (outbox.to, outbox.addr.clone())).collect();
        Begun::Asked(Asked { epoch: self.epoch, at, followers, contents: self.contents(floor) })
    }

    /// Answers a primary's question, now or once the digest has been computed.
    pub(in crate::slot) fn compare_with(
        &self,
        cx: &SlotContext<'_>,
        from: Incarnation,
        query: u64,
        at: Version,
        floor: u64,
        turn: &mut Turn,
    ) -> Option<LinkReply> {
        let is_there = self.is_level_with(from) && self.last() == at;
        let reply = |compared| Some(LinkReply::Compared { slot: cx.id, query, compared });
        if !is_there && !self.bugs.plants(Bug::ComparedElsewhere) {
            return reply(Compared::Elsewhere);
        }
        if self.log.purged() > floor && !self.bugs.plants(Bug::PurgedCompared) {
            return reply(Compared::Purged(self.log.purged()));
        }
        turn.to_digest.push(ToDigest { slot: cx.id, query, contents: self.contents(floor) });
        None
    }

    fn contents(&self, floor: u64) -> Contents {
        let floor = if self.bugs.plants(Bug::PurgedCompared) { 0 } else { floor };
        Contents::new(self.table.records(), floor)
    }

    /// Notes that a follower's copy differs from this one. Returns whether to propose its removal now, as the first
    /// step of its repair.
    pub(crate) fn follower_differs(
        &mut self,
        cx: &SlotContext<'_>,
        who: Incarnation,
        epoch: Epoch,
        turn: &mut Turn,
    ) -> bool {
        if epoch != self.epoch {
            return false;
        }
        let plants = self.bugs.plants(Bug::RepairAligns);
        let Some(follower) = self.follower(who).filter(|follower| follower.progress == Progress::Level) else {
            return false;
        };
        follower.differs = !plants;
        turn.look_at(cx.now + EXPEL_AFTER, cx.id);
        true
    }

    /// Whether a follower's copy has yet to be refilled.
    pub(crate) fn is_repairing(&self, who: Incarnation) -> bool {
        let Role::Primary(primary) = &self.role else { return false };
        primary.followers().iter().any(|follower| follower.outbox.to == who && follower.differs)
    }
}
