//! The effects of a batch of requests or messages.

use std::sync::{Arc, PoisonError};

use proto::slot::SlotId;

use super::{Event, Node, TICK};
use crate::bugs::Bugs;
use crate::compare::ToDigest;
use crate::losses::Loss;
use crate::outbox::Outbox;
use crate::time::Timestamp;
use crate::waiting::{Outcome, Ticket};

/// The effects of a batch of requests or messages. One turn serves the whole batch; senders are woken once, at its end.
#[derive(Debug, Default)]
pub struct Turn {
    touched: Vec<Arc<Outbox>>,
    settled: Vec<(Ticket, Outcome)>,
    agenda: Vec<(Timestamp, SlotId)>,
    pub(crate) events: Vec<Event>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) unkept: u64,
    pub(crate) to_digest: Vec<ToDigest>,
}

impl Turn {
    /// The queues touched since the last call.
    pub fn touched(&mut self) -> impl Iterator<Item = Arc<Outbox>> {
        self.touched.drain(..)
    }

    /// The digests requested since the last call. After what a primary has sent, that primary waits for them; after
    /// [`Node::handle_timeout`], [`Node::digested`] does.
    pub fn to_digest(&mut self) -> Vec<ToDigest> {
        std::mem::take(&mut self.to_digest)
    }

    pub(crate) fn touch(&mut self, outbox: &Arc<Outbox>) {
        if !self.touched.iter().any(|known| Arc::ptr_eq(known, outbox)) {
            self.touched.push(Arc::clone(outbox));
        }
    }

    pub(crate) fn settle(&mut self, ticket: Ticket) {
        self.settled.push((ticket, Outcome::Durable));
    }

    pub(crate) fn lose_all(&mut self, tickets: impl Iterator<Item = Ticket>) {
        self.settled.extend(tickets.map(|ticket| (ticket, Outcome::Lost)));
    }

    pub(crate) fn look_at(&mut self, when: Timestamp, slot: SlotId) {
        self.agenda.push((when, slot));
    }
}

impl<B: Bugs> Node<B> {
    /// Passes on the effects of a call. No slot may be locked.
    pub(super) fn finish(&self, turn: &mut Turn) {
        if !turn.settled.is_empty() {
            turn.settled.drain(..).for_each(|(ticket, outcome)| ticket.settle(outcome));
        }
        if !turn.agenda.is_empty() {
            let mut agenda = self.agenda.lock().unwrap_or_else(PoisonError::into_inner);
            for (when, slot) in turn.agenda.drain(..) {
                agenda.entry(when.0.div_ceil(TICK.as_micros() as u64)).or_default().push(slot);
            }
        }
        if !turn.events.is_empty() {
            self.events.lock().unwrap_or_else(PoisonError::into_inner).append(&mut turn.events);
        }
        if !turn.losses.is_empty() || turn.unkept > 0 {
            // IMPORTANT: noted under the archive's lock, so that a snapshot of the archive knows which entries it
            // includes.
            let mut losses = self.lock_losses();
            for loss in turn.losses.drain(..) {
                self.noted.note_loss(&loss);
                losses.add(loss);
            }
            let unkept = std::mem::take(&mut turn.unkept);
            if unkept > 0 {
                self.noted.note_unkept_losses(unkept);
                losses.add_unkept(unkept);
            }
        }
    }
}
