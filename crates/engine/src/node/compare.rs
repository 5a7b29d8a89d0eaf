//! Anti-entropy: which slots are compared and when, and what happens to a copy that differs.

use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use proto::id::Incarnation;
use proto::peer::Compared;
use proto::slot::SlotId;

use super::{Event, Node, Turn};
use crate::bugs::{Bugs, Damaged};
use crate::compare::{AT_ONCE, Comparisons, Difference, Figures, Verified};
use crate::slot::Damage;
use crate::time::Timestamp;

impl<B: Damaged> Node<B> {
    /// Damages the copy of a slot, as broken memory would. `false` if it holds nothing.
    pub fn damage(&self, slot: SlotId, damage: Damage) -> bool {
        let cx = &self.cx(Timestamp::default(), slot);
        self.slot(slot).damage(cx, damage)
    }
}

impl<B: Bugs> Node<B> {
    /// From now on, compares every slot that this node leads in the background, each once per `span`.
    pub fn compare_every(&self, span: Duration) {
        self.compare_every.store(u64::try_from(span.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Compares all slots that this node leads as soon as possible. Returns the number of the round; a round in
    /// progress is joined.
    pub fn verify(&self, now: Timestamp) -> u64 {
        let led: Vec<_> = self.bits.slots().filter(|slot| self.leads(*slot)).collect();
        self.comparisons().begin_round(now, &led)
    }

    /// The result of a round, once it is over. A copy that was found to differ is waited for until it has been
    /// refilled, for at most a minute.
    #[must_use]
    pub fn verified(&self, round: u64) -> Option<Verified> {
        self.comparisons().finished(round)
    }

    /// What has been compared since the start.
    #[must_use]
    pub fn compared(&self) -> Figures {
        self.comparisons().figures()
    }

    /// Takes the digest for an entry of [`Turn::to_digest`] that this node itself waits for.
    pub fn digested(&self, now: Timestamp, query: u64, digest: u128, turn: &mut Turn) {
        let differences = self.comparisons().own_digest(now, query, digest);
        self.repair(now, differences, turn);
        self.finish(turn);
    }

    pub(super) fn handle_compared(
        &self,
        now: Timestamp,
        from: Incarnation,
        slot: SlotId,
        query: u64,
        compared: Compared,
        turn: &mut Turn,
    ) {
        let differences = self.comparisons().answer(now, from, slot, query, compared);
        self.repair(now, differences, turn);
    }

    /// Continues comparing. Must be called each tick.
    pub(super) fn compare_due(&self, now: Timestamp, passed: Duration, turn: &mut Turn) {
        let every = self.compare_every.load(Ordering::Relaxed);
        {
            let mut comparisons = self.comparisons();
            if every > 0 {
                comparisons.go_on(now, passed, Duration::from_micros(every), self.slots.len());
            }
            comparisons.expire(now);
        }
        // Not under the comparisons lock: it and a slot's lock are never held at the same time.
        for _ in 0..AT_ONCE {
            let (task, query) = {
                let mut comparisons = self.comparisons();
                let Some(task) = comparisons.next(now) else { break };
                (task, comparisons.next_query())
            };
            let begun = self.slot(task.slot).compare(&self.cx(now, task.slot), query, task.floor, turn);
            turn.to_digest.extend(self.comparisons().begun(now, query, task, begun));
        }
        let repairing = self.comparisons().repairing();
        for (slot, who) in repairing {
            if !self.slot(slot).is_repairing(who) {
                // It was restarted, or another node leads the slot: what is there now is compared again.
                self.comparisons().forget_repair(slot, who);
            }
        }
        self.comparisons().end_round(now);
    }

    /// Proposes removing a differing copy from the in-sync set; it is refilled as a learner.
    fn repair(&self, now: Timestamp, differences: Vec<Difference>, turn: &mut Turn) {
        for Difference { slot, epoch, at, who, addr } in differences {
            self.event(Event::Differs(slot, addr, at));
            let mut state = self.slot(slot);
            let is_expelled = state.follower_differs(&self.cx(now, slot), who, epoch, turn);
            let version = state.config();
            drop(state);
            if is_expelled {
                self.proposals().expel.entry(who).or_default().insert(slot, version);
            }
        }
    }

    pub(super) fn comparisons(&self) -> MutexGuard<'_, Comparisons> {
        // No code that holds this lock panics halfway.
        self.comparisons.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
