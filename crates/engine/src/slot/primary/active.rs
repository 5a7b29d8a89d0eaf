//! What a primary keeps of a slot with writes: what its followers were told last, and who waits for what.

use super::expiry::Deadlines;
use super::followers::Follower;
use super::{SlotContext, Turn};
use crate::near::NearQueue;
use crate::outbox::Item;
use crate::time::Timestamp;
use crate::waiting::Ticket;

/// As many waiters in a slot are not worth looking through.
const WAITERS_KEPT: usize = 64;

/// State that a slot has once it has been written to while there were followers or too few copies were in sync, once
/// somebody waits in it, or once a value in it has a deadline.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Active {
    pub(super) last_write: Timestamp,
    /// The durable mark that the followers were last told.
    pub(super) told: u64,
    pub(super) will_tell: bool,
    /// The number of this term's barrier record; 0 if none was needed.
    pub(super) barrier: u64,
    /// Sorted by the number they wait for, ascending.
    waiters: NearQueue<Waiter>,
    /// When there are more waiters than this, those whose client has given up are dropped.
    waiters_kept: usize,
    /// The deadlines of its values; `None` until one is written here or the slot has been scanned.
    pub(super) deadlines: Option<Box<Deadlines>>,
}

/// A request waiting for a record to become durable.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) seq: u64,
    /// Also waits until every copy is in sync.
    pub(super) needs_all: bool,
    pub(super) ticket: Ticket,
}

impl Active {
    /// Tells the followers what is durable. A follower that is not caught up yet receives this after what brings it up
    /// to date.
    pub(super) fn tell_durable(&mut self, cx: &SlotContext<'_>, durable: u64, followers: &[Follower], turn: &mut Turn) {
        self.told = durable;
        for follower in followers.iter().filter(|follower| follower.progress.takes_records()) {
            follower.outbox.push(Item::Durable { slot: cx.id, seq: durable });
            turn.touch(&follower.outbox);
        }
    }

    /// Adds a waiter. Those that nobody asks for any more are dropped each time the number of waiters has doubled: what
    /// they wait for may not become durable for as long as other copies are away.
    pub(super) fn wait(&mut self, waiter: Waiter) {
        let seq = waiter.seq;
        self.waiters.insert_behind(|other| other.seq <= seq, waiter);
        if self.waiters.len() > self.waiters_kept.max(WAITERS_KEPT) {
            self.waiters = std::mem::take(&mut self.waiters).into_iter().filter(|it| it.ticket.is_awaited()).collect();
            self.waiters_kept = 2 * self.waiters.len();
        }
    }

    /// Abandons all waiters and returns their tickets.
    pub(super) fn into_tickets(self) -> impl Iterator<Item = Ticket> {
        self.waiters.into_iter().map(|waiter| waiter.ticket)
    }

    /// Answers the waiters whose records are now durable.
    pub(super) fn settle(&mut self, durable: u64, is_complete: bool, turn: &mut Turn) {
        let reached = |waiter: &Waiter| waiter.seq <= durable;
        let ready = |waiter: &Waiter| reached(waiter) && (is_complete || !waiter.needs_all);
        while let Some(waiter) = self.waiters.pop_front_if(|waiter| ready(waiter)) {
            turn.settle(waiter.ticket);
        }
        // Behind a waiter that needs all copies, others may be ready.
        if self.waiters.front().is_some_and(reached) {
            let (ready, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiters).into_iter().partition(ready);
            self.waiters = waiting.into_iter().collect();
            ready.into_iter().for_each(|waiter| turn.settle(waiter.ticket));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::waiting::Waiting;

    #[test]
    fn whoever_has_given_up_is_forgotten_and_whoever_has_not_keeps_its_place() {
        let mut active = Active::default();
        let patient = Waiting::new();
        for seq in 1..=10 {
            active.wait(Waiter { seq, needs_all: false, ticket: patient.ticket() });
            for _ in 0..1_000 {
                let mut hasty = Waiting::new();
                active.wait(Waiter { seq, needs_all: false, ticket: hasty.ticket() });
                hasty.take(&mut Vec::new());
            }
        }
        assert!(active.waiters.len() <= WAITERS_KEPT, "{} waiters", active.waiters.len());
        assert_eq!(active.waiters.iter().filter(|waiter| waiter.ticket.is_awaited()).count(), 10);
        let mut seqs = active.waiters.iter().map(|waiter| waiter.seq);
        assert!(seqs.next() == Some(1) && seqs.is_sorted());
    }
}
