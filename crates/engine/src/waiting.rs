//! Answers that are deferred until a record is durable.
//!
//! Each connection has one [`Waiting`]. Each request of a batch that must wait takes a [`Ticket`], which the slot keeps
//! along with the number of the record to wait for. When the last ticket of the batch is settled, whoever polls the
//! [`Waiting`] is woken. A dropped ticket is settled as lost, so none is ever forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

/// The outcome of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record is durable.
    Durable,
    /// The primary has lost its role: the record may or may not survive.
    Lost,
}

/// The waits of one connection. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By ticket number, in the order in which they were taken.
    outcomes: Vec<Option<Outcome>>,
    unsettled: usize,
    waker: Option<Waker>,
}

/// One wait. Settle it outside its slot's lock, because that may wake a task.
#[derive(Debug)]
pub struct Ticket {
    /// Gone once nobody waits for it.
    waiting: Weak<Mutex<State>>,
    number: u32,
    settled: bool,
}

impl Waiting {
    /// Starts with nothing waiting.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a ticket. Ticket numbers start from 0 after each [`Waiting::take`].
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        let mut state = self.lock();
        state.outcomes.push(None);
        state.unsettled += 1;
        let number = u32::try_from(state.outcomes.len() - 1).expect("a batch has far fewer requests");
        Ticket { waiting: Arc::downgrade(&self.0), number, settled: false }
    }

    /// The outcome of a ticket; `None` while it is not settled.
    #[must_use]
    pub fn outcome(&self, number: usize) -> Option<Outcome> {
        self.lock().outcomes.get(number).copied().flatten()
    }

    /// Ready once every ticket is settled.
    pub fn poll_settled(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        if state.unsettled == 0 {
            return Poll::Ready(());
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether every ticket is settled.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.lock().unsettled == 0
    }

    /// Moves the outcomes, by ticket, into `outcomes`, with `None` for unsettled tickets, and starts over. If any of
    /// these tickets is settled later, that is ignored.
    pub fn take(&mut self, outcomes: &mut Vec<Option<Outcome>>) {
        outcomes.clear();
        let unsettled = {
            let mut state = self.lock();
            std::mem::swap(&mut state.outcomes, outcomes);
            std::mem::take(&mut state.unsettled)
        };
        if unsettled > 0 {
            *self = Self::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds this lock panics halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The ticket's number in its batch.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number as usize
    }

    /// Whether anybody still waits for it.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.waiting.strong_count() > 0
    }

    /// Settles the ticket with this outcome.
    pub fn settle(mut self, outcome: Outcome) {
        self.set(outcome);
    }

    fn set(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let Some(waiting) = self.waiting.upgrade().map(Waiting) else { return };
        let waker = {
            let mut state = waiting.lock();
            if let Some(place) = state.outcomes.get_mut(self.number as usize) {
                *place = Some(outcome);
            }
            state.unsettled = state.unsettled.saturating_sub(1);
            if state.unsettled == 0 { state.waker.take() } else { None }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.set(Outcome::Lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_ready_when_its_last_ticket_is_settled() {
        let mut waiting = Waiting::new();
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(waiting.poll_settled(&mut context), Poll::Ready(()));
        let (first, second) = (waiting.ticket(), waiting.ticket());
        assert_eq!(waiting.poll_settled(&mut context), Poll::Pending);
        second.settle(Outcome::Durable);
        assert_eq!(waiting.poll_settled(&mut context), Poll::Pending);
        drop(first);
        assert_eq!(waiting.poll_settled(&mut context), Poll::Ready(()));
        let mut outcomes = Vec::new();
        waiting.take(&mut outcomes);
        assert_eq!(outcomes, [Some(Outcome::Lost), Some(Outcome::Durable)]);
    }

    #[test]
    fn what_is_given_up_does_not_disturb_the_next_batch() {
        let mut waiting = Waiting::new();
        let late = waiting.ticket();
        let mut outcomes = vec![Some(Outcome::Lost)];
        waiting.take(&mut outcomes);
        assert_eq!(outcomes, [None]);
        let next = waiting.ticket();
        late.settle(Outcome::Durable);
        assert_eq!(waiting.outcome(next.number()), None);
    }
}
