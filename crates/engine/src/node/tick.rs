//! What a node does as time passes.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::id::Incarnation;
use proto::slot::SlotId;

use super::fetch::{FETCHED_TOGETHER, Upcoming};
use super::{Event, HAND_OVER_TIMEOUT, Node, Slots, TICK, Turn};
use crate::bugs::Bugs;
use crate::outbox::Outbox;
use crate::slot::EXPEL_AFTER;
use crate::time::Timestamp;

/// How often a complaint is repeated.
const COMPLAINT_PAUSE: Duration = Duration::from_millis(200);

/// How many keys, over all slots, may expire in one tick: 50,000 per second.
const EXPIRIES_PER_TICK: usize = 1_000;

/// If more than this passes between two ticks, the process was asleep and has heard nobody meanwhile.
const SLEPT: Duration = TICK.saturating_mul(10);

impl<B: Bugs> Node<B> {
    /// Time has passed. Must be called each [`TICK`].
    pub fn handle_timeout(&self, now: Timestamp, turn: &mut Turn) {
        let last = Timestamp(self.last_tick.swap(now.0, Ordering::Relaxed));
        if now - last > SLEPT {
            // Nodes that were not heard meanwhile are not to blame.
            self.peers.excuse(now);
            self.outboxes().iter().for_each(|outbox| outbox.heard(now));
        }
        self.look_at_due_slots(now, turn);
        self.compare_due(now, now - last, turn);
        self.expel_silent(now);
        self.complain(now);
        self.memory().tick(now);
        self.look_at_memory(now, turn);
        self.sweep_completions(now);
        self.reopen_late(now, turn);
        self.finish(turn);
    }

    fn look_at_due_slots(&self, now: Timestamp, turn: &mut Turn) {
        let mut due: Vec<SlotId> = {
            let mut agenda = self.agenda.lock().unwrap_or_else(PoisonError::into_inner);
            let ticks = now.0 / TICK.as_micros() as u64;
            agenda.extract_if(..=ticks, |_, _| true).flat_map(|(_, slots)| slots).collect()
        };
        due.sort_unstable();
        due.dedup();
        let mut expiries_left = EXPIRIES_PER_TICK;
        for group in due.chunks(FETCHED_TOGETHER) {
            self.fetch_all(group.iter().map(|slot| (*slot, Upcoming::Other)));
            group.iter().for_each(|slot| self.look_at(now, *slot, &mut expiries_left, turn));
        }
    }

    fn look_at(&self, now: Timestamp, slot: SlotId, expiries_left: &mut usize, turn: &mut Turn) {
        let mut state = self.slot(slot);
        let found = state.look(&self.cx(now, slot), expiries_left, turn);
        let at = state.config();
        drop(state);
        for learner in found.admit {
            self.proposals().admit.entry(learner).or_default().insert(slot, at);
        }
        for member in found.expel {
            self.proposals().expel.entry(member).or_default().insert(slot, at);
        }
    }

    /// Proposes removing nodes that have been silent for too long, in every slot where they count.
    fn expel_silent(&self, now: Timestamp) {
        // If answers take long because machines or networks are busy, silence means less.
        let patience = |outbox: &Outbox| (outbox.round_trip() * 4).clamp(EXPEL_AFTER, EXPEL_AFTER * 2);
        for outbox in self.outboxes().iter().filter(|outbox| now - outbox.last_heard() >= patience(outbox)) {
            // The proposal is repeated if the previous one had no effect.
            let is_news = outbox.propose_removal(now);
            let mut slots = Slots::new();
            for slot in self.bits.slots() {
                let state = self.slot(slot);
                if state.counts(outbox.to) {
                    slots.insert(slot, state.config());
                }
            }
            if !slots.is_empty() {
                if is_news {
                    self.event(Event::Unresponsive(outbox.addr.clone(), slots.len()));
                }
                self.proposals().expel.insert(outbox.to, slots);
            }
        }
    }

    fn complain(&self, now: Timestamp) {
        let is_silent = |primary: &Incarnation| self.peers.is_silent(now, *primary);
        let silent: Vec<_> = self.neighbors().followed().filter(is_silent).collect();
        if silent.is_empty() {
            return;
        }
        let mut proposals = self.proposals();
        if now - proposals.last_complaint >= COMPLAINT_PAUSE {
            proposals.last_complaint = now;
            proposals.complain.extend(silent);
        }
    }

    /// Slots whose hand-over has not completed in time accept requests again.
    fn reopen_late(&self, now: Timestamp, turn: &mut Turn) {
        let late: Vec<SlotId> = {
            let mut proposals = self.proposals();
            let late = |_: &SlotId, (_, since): &mut (Incarnation, Timestamp)| now - *since >= HAND_OVER_TIMEOUT;
            proposals.handing_over.extract_if(.., late).map(|(slot, _)| slot).collect()
        };
        let reopened = late.iter().filter(|slot| self.slot(**slot).reopen(&self.cx(now, **slot), turn)).count();
        if reopened > 0 {
            self.event(Event::HandOverTimedOut(reopened));
        }
    }
}
