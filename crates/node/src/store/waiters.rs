//! Tasks that wait for the log thread, and the orders it is given.

use std::future::Future;
use std::pin::Pin;
use std::sync::{MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{DiskFailed, Store};

/// What the thread must do.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) write: bool,
    pub(super) stop: bool,
    /// Tasks that wait until something is written. Each belongs to a connection, so connection limits bound them.
    pub(super) waiting: Vec<Waiter>,
    /// The number of the next waiter.
    next: u64,
}

/// A waiting task.
#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    /// It waits for all entries below this number in the state machine's journal.
    end: u64,
    waker: Waker,
}

/// Waits until all journal entries below `end` are written.
#[derive(Debug)]
pub(super) struct WaitWritten<'a> {
    store: &'a Store,
    end: u64,
    /// Its number among the waiters, once it is one of them.
    number: Option<u64>,
}

impl Store {
    pub(super) fn written(&self, end: u64) -> WaitWritten<'_> {
        WaitWritten { store: self, end, number: None }
    }

    pub(super) fn orders(&self) -> MutexGuard<'_, Orders> {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.orders());
        self.shared.ordered.notify_one();
    }

    /// Removes the waiters that need not wait any longer. The caller wakes them.
    pub(super) fn take_ready(&self) -> Vec<Waiter> {
        let mut orders = self.orders();
        if orders.waiting.is_empty() {
            return Vec::new();
        }
        let waiting = std::mem::take(&mut orders.waiting);
        let (ready, waiting) = waiting.into_iter().partition(|waiter| self.outcome(waiter.end).is_some());
        orders.waiting = waiting;
        ready
    }

    /// The outcome of a wait, once known.
    fn outcome(&self, end: u64) -> Option<Result<(), DiskFailed>> {
        if self.is_written(end) {
            return Some(Ok(()));
        }
        self.has_failed().then_some(Err(DiskFailed))
    }
}

/// Wakes all of them.
pub(super) fn wake(ready: Vec<Waiter>) {
    ready.into_iter().for_each(|waiter| waiter.waker.wake());
}

impl Future for WaitWritten<'_> {
    type Output = Result<(), DiskFailed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (store, end) = (self.store, self.end);
        let mut orders = store.orders();
        // IMPORTANT: checked with the orders locked. Whoever writes locks them afterwards, and finds those that came
        // before.
        if let Some(outcome) = store.outcome(end) {
            self.number = None;
            return Poll::Ready(outcome);
        }
        let known = self.number.and_then(|number| orders.waiting.iter_mut().find(|waiter| waiter.number == number));
        if let Some(waiter) = known {
            waiter.waker.clone_from(context.waker());
            return Poll::Pending;
        }
        let number = orders.next;
        orders.next += 1;
        orders.waiting.push(Waiter { number, end, waker: context.waker().clone() });
        let is_first = !std::mem::replace(&mut orders.write, true);
        drop(orders);
        self.number = Some(number);
        if is_first {
            store.shared.ordered.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for WaitWritten<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.store.orders().waiting.retain(|waiter| waiter.number != number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use storage::SimDisk;

    use super::*;
    use crate::store::tests::Durable;
    use crate::store::{Fsync, Health};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(written: &mut Pin<Box<WaitWritten<'_>>>, count: &Arc<Count>) -> Poll<Result<(), DiskFailed>> {
        written.as_mut().poll(&mut Context::from_waker(&Arc::clone(count).into()))
    }

    #[tokio::test]
    async fn only_those_are_woken_whose_wait_has_ended_and_who_waits_no_more_is_forgotten() {
        // The log thread is not started: the test itself says what is written.
        let node = Durable::open(&SimDisk::new(1), Fsync::Always);
        let store = &node.store;
        let counts: [Arc<Count>; 3] = Default::default();
        let woken = || counts.each_ref().map(|count| count.0.load(Ordering::Relaxed));
        let now = store.shared.written.load(Ordering::Relaxed);
        let [mut first, mut second, mut third] = [1, 2, 3].map(|more| Box::pin(store.written(now + more)));
        let [one, two, three] = &counts;
        for (written, count) in [(&mut first, one), (&mut second, two), (&mut third, three)] {
            assert_eq!(poll(written, count), Poll::Pending);
        }
        assert_eq!(poll(&mut third, three), Poll::Pending);
        assert_eq!(store.orders().waiting.len(), 3, "one that looks twice waits once");
        assert!(store.orders().write, "the thread is told");
        store.note_written(now + 1);
        wake(store.take_ready());
        assert_eq!(woken(), [1, 0, 0]);
        assert_eq!(poll(&mut first, one), Poll::Ready(Ok(())));
        drop(second);
        assert_eq!(store.orders().waiting.len(), 1);
        store.shared.health.send_replace(Health::Failed("it is gone".to_owned()));
        wake(store.take_ready());
        assert_eq!(woken(), [1, 0, 1]);
        assert_eq!(poll(&mut third, three), Poll::Ready(Err(DiskFailed)));
        assert!(store.orders().waiting.is_empty());
    }
}
