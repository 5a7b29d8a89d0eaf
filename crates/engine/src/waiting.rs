//! Answers that wait until a record is durable.
//!
//! A connection has one [`Waiting`]. Each request of a batch that must wait takes a [`Ticket`], which the slot keeps
//! beside the number of the record that it waits for. When the last ticket of the batch is settled, whoever polls the
//! [`Waiting`] is woken. A ticket that is dropped is settled as lost, so that none is ever forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What became of a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record is durable.
    Durable,
    /// The primary has lost its place: the record may or may not survive.
    Lost,
}

/// The waits of one connection. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Waiting(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// By ticket, in the order in which they were taken.
    outcomes: Vec<Option<Outcome>>,
    unsettled: usize,
    waker: Option<Waker>,
}

/// One wait. Settle it outside the lock of its slot: it may wake a task.
#[derive(Debug)]
pub struct Ticket {
    waiting: Waiting,
    number: u32,
    settled: bool,
}

impl Waiting {
    /// Nothing waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a ticket. Their numbers count from 0 since the last [`Waiting::take`].
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        let mut state = self.lock();
        state.outcomes.push(None);
        state.unsettled += 1;
        let number = u32::try_from(state.outcomes.len() - 1).expect("a batch has far fewer requests");
        Ticket { waiting: self.clone(), number, settled: false }
    }

    /// What has become of a ticket; `None` while it is not settled.
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

    /// Leaves the outcomes by ticket, `None` for what is not settled, and begins anew. What is settled later of these is
    /// passed over.
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
        // No code that holds the lock panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The ticket's number in its batch.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number as usize
    }

    /// Ends the wait.
    pub fn settle(mut self, outcome: Outcome) {
        self.set(outcome);
    }

    fn set(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let waker = {
            let mut state = self.waiting.lock();
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
