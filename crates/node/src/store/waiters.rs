//! Tasks that wait until something is written, and the orders that the log thread is given.

use std::future::Future;
use std::pin::Pin;
use std::sync::{MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use engine::journal::Noted;

use super::log::WriteHere;
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
    /// It has found the log in other hands. Once the log is free, it writes what it waits for, unless that is written.
    may_write: bool,
    waker: Waker,
}

/// Waits until all journal entries below `end` are written, or writes them, if that is quick.
#[derive(Debug)]
pub(super) struct WaitWritten<'a> {
    store: &'a Store,
    noted: &'a Noted,
    end: u64,
    /// Its number among the waiters, once it is one of them.
    number: Option<u64>,
}

impl Orders {
    /// Removes the first of those that may write.
    fn take_next(&mut self) -> Option<Waiter> {
        let next = self.waiting.iter().position(|waiter| waiter.may_write)?;
        Some(self.waiting.remove(next))
    }
}

impl Store {
    pub(super) fn written<'a>(&'a self, noted: &'a Noted, end: u64) -> WaitWritten<'a> {
        WaitWritten { store: self, noted, end, number: None }
    }

    pub(super) fn orders(&self) -> MutexGuard<'_, Orders> {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn order(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.orders());
        self.shared.ordered.notify_one();
    }

    /// Removes the waiters that need not wait any longer, and one of those that may write: it writes for the others.
    /// Call this after the log was released; then wake them.
    pub(super) fn take_ready(&self) -> Vec<Waiter> {
        let mut orders = self.orders();
        let mut ready: Vec<_> = orders.waiting.extract_if(.., |waiter| self.outcome(waiter.end).is_some()).collect();
        ready.extend(orders.take_next());
        ready
    }

    /// Removes one of the waiters that may write. Call this after the log was released; then wake it.
    pub(super) fn take_next(&self) -> Option<Waiter> {
        self.orders().take_next()
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
pub(super) fn wake(ready: impl IntoIterator<Item = Waiter>) {
    ready.into_iter().for_each(|waiter| waiter.waker.wake());
}

impl WaitWritten<'_> {
    /// Becomes one of the waiters, unless the outcome is known. If it may not write, the thread is told to.
    fn register(&mut self, may_write: bool, waker: &Waker) -> Poll<Result<(), DiskFailed>> {
        let mut orders = self.store.orders();
        // IMPORTANT: checked with the orders locked. Whoever has written locks them afterwards, and finds those that
        // came before.
        if let Some(outcome) = self.store.outcome(self.end) {
            self.number = None;
            return Poll::Ready(outcome);
        }
        let known = self.number.and_then(|number| orders.waiting.iter_mut().find(|waiter| waiter.number == number));
        let is_left = match known {
            Some(waiter) => {
                waiter.waker.clone_from(waker);
                std::mem::replace(&mut waiter.may_write, may_write) && !may_write
            }
            None => {
                let number = orders.next;
                orders.next += 1;
                orders.waiting.push(Waiter { number, end: self.end, may_write, waker: waker.clone() });
                self.number = Some(number);
                !may_write
            }
        };
        let is_first = is_left && !std::mem::replace(&mut orders.write, true);
        drop(orders);
        if is_first {
            self.store.shared.ordered.notify_one();
        }
        Poll::Pending
    }
}

impl Future for WaitWritten<'_> {
    type Output = Result<(), DiskFailed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (store, noted) = (self.store, self.noted);
        if store.is_written(self.end) {
            self.number = None;
            return Poll::Ready(Ok(()));
        }
        if store.write_here(noted) == WriteHere::InOtherHands {
            let registered = self.register(true, context.waker());
            // IMPORTANT: tried again. Whoever has the log now finds this waiter after releasing it; the holder of a
            // moment ago may have looked before.
            if registered.is_ready() || store.write_here(noted) == WriteHere::InOtherHands {
                return registered;
            }
        }
        // It is written, or left to the thread.
        self.register(false, context.waker())
    }
}

impl Drop for WaitWritten<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut orders = self.store.orders();
        let before = orders.waiting.len();
        orders.waiting.retain(|waiter| waiter.number != number);
        // It may have been woken to write, and somebody else must.
        let next = if orders.waiting.len() == before { orders.take_next() } else { None };
        drop(orders);
        wake(next);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
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

    /// A task that waits.
    struct Task<'a> {
        written: Pin<Box<WaitWritten<'a>>>,
        count: Arc<Count>,
    }

    impl Task<'_> {
        fn new(node: &Durable, end: u64) -> Task<'_> {
            let written = Box::pin(node.store.written(node.driver.node().noted(), end));
            Task { written, count: Arc::default() }
        }

        fn poll(&mut self) -> Poll<Result<(), DiskFailed>> {
            self.written.as_mut().poll(&mut Context::from_waker(&Arc::clone(&self.count).into()))
        }

        fn woken(&self) -> usize {
            self.count.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn only_those_are_woken_whose_wait_has_ended_and_who_waits_no_more_is_forgotten() {
        // The log thread is not started: the test itself says what is written.
        let node = Durable::open(&SimDisk::new(1), Fsync::Always);
        let store = &node.store;
        let now = store.shared.written.load(Ordering::Relaxed);
        let [mut first, mut second, mut third] = [1, 2, 3].map(|more| Task::new(&node, now + more));
        for task in [&mut first, &mut second, &mut third] {
            assert_eq!(task.poll(), Poll::Pending);
        }
        assert_eq!(third.poll(), Poll::Pending);
        assert_eq!(store.orders().waiting.len(), 3, "one that looks twice waits once");
        assert!(store.orders().write, "the thread is told");
        store.note_written(now + 1);
        wake(store.take_ready());
        assert_eq!([first.woken(), second.woken(), third.woken()], [1, 0, 0]);
        assert_eq!(first.poll(), Poll::Ready(Ok(())));
        drop(second);
        assert_eq!(store.orders().waiting.len(), 1);
        store.shared.health.send_replace(Health::Failed("it is gone".to_owned()));
        wake(store.take_ready());
        assert_eq!([first.woken(), third.woken()], [1, 1]);
        assert_eq!(third.poll(), Poll::Ready(Err(DiskFailed)));
        assert!(store.orders().waiting.is_empty());
    }

    /// A node that has noted entries, up to the number that is returned. Its log is open without the thread.
    async fn without_log_thread() -> (Durable, u64) {
        let mut node = Durable::open(&SimDisk::new(1), Fsync::Interval).leads().await;
        node.open_log();
        node.write(b"k", b"v").expect("it takes writes");
        let end = node.driver.node().noted().end();
        (node, end)
    }

    /// Tasks that have begun to wait for these while somebody else had the log, which is free now.
    fn begun_while_held<const N: usize>(node: &Durable, ends: [u64; N]) -> [Task<'_>; N] {
        let (taken, release) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                node.store.with_log(|_| {
                    taken.wait();
                    release.wait();
                });
            });
            taken.wait();
            let mut tasks = ends.map(|end| Task::new(node, end));
            let polled = tasks.each_mut().map(Task::poll);
            // Before anything can fail: the scope ends once that thread has.
            release.wait();
            assert_eq!(polled, [Poll::Pending; N]);
            tasks
        })
    }

    #[tokio::test]
    async fn who_finds_the_log_in_other_hands_writes_once_it_is_free() {
        let (node, end) = without_log_thread().await;
        let [mut first, mut second] = begun_while_held(&node, [end, end]);
        assert_eq!([first.woken(), second.woken()], [1, 0], "one writes for both");
        assert!(!node.store.is_written(end));
        assert_eq!(first.poll(), Poll::Ready(Ok(())));
        assert_eq!(second.woken(), 1);
        assert_eq!(second.poll(), Poll::Ready(Ok(())));
        assert!(!node.store.orders().write, "the thread has nothing to do");
    }

    #[tokio::test]
    async fn if_the_one_that_is_woken_to_write_has_gone_the_next_is_woken() {
        let (node, end) = without_log_thread().await;
        let [first, mut second] = begun_while_held(&node, [end, end]);
        drop(first);
        assert_eq!(second.woken(), 1);
        assert_eq!(second.poll(), Poll::Ready(Ok(())));
    }

    #[tokio::test]
    async fn who_has_written_wakes_one_that_waits_for_what_was_noted_since() {
        let (node, end) = without_log_thread().await;
        let [mut first, second, third] = begun_while_held(&node, [end, end, end + 1]);
        assert_eq!([first.woken(), second.woken(), third.woken()], [1, 0, 0]);
        assert_eq!(first.poll(), Poll::Ready(Ok(())));
        assert_eq!([second.woken(), third.woken()], [1, 1]);
    }

    #[tokio::test]
    async fn what_a_full_disk_does_not_take_is_left_to_the_thread() {
        let (node, end) = without_log_thread().await;
        let [mut first, mut second] = begun_while_held(&node, [end, end]);
        node.store.shared.health.send_replace(Health::Full);
        for (task, waiting) in [(&mut second, 1), (&mut first, 2)] {
            assert!(!node.store.orders().write);
            assert_eq!(task.poll(), Poll::Pending);
            assert!(node.store.orders().write, "the thread is told");
            assert_eq!(node.store.orders().waiting.len(), waiting);
            assert!(node.store.take_next().is_none(), "the disk takes nothing");
            node.store.orders().write = false;
        }
    }

    #[tokio::test]
    async fn a_log_that_has_become_free_meanwhile_is_tried_again() {
        let (node, end) = without_log_thread().await;
        let mut task = Task::new(&node, end);
        let outcome = std::thread::scope(|scope| {
            let log = node.store.shared.log.lock().expect("nobody has panicked");
            let orders = node.store.orders();
            let polled = scope.spawn(|| task.poll());
            // Time to find the log in other hands, and to wait for the orders. If that is too short, it finds the log
            // free at first, and this shows nothing.
            std::thread::sleep(std::time::Duration::from_millis(50));
            drop(log);
            // Whoever had the log has looked at the orders before.
            drop(orders);
            polled.join()
        });
        assert_eq!(outcome.expect("it has not panicked"), Poll::Ready(Ok(())));
    }
}
