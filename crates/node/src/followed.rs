//! The primaries that this node takes records from, each only on its newest connection.
//!
//! A primary that hears nothing opens another connection. The old one may still hold unread data, sent before what the
//! new one brings: it must not be applied after that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::id::Incarnation;

/// Which connection of each primary is the newest.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    newest: Mutex<BTreeMap<Incarnation, Arc<Connected>>>,
}

/// A connection from a primary.
#[derive(Debug, Default)]
pub(crate) struct Connected {
    is_superseded: Mutex<bool>,
}

impl Followed {
    /// Registers a connection that a primary has opened. Once this returns, nothing more is applied from those before.
    pub(crate) fn open(&self, from: Incarnation) -> Arc<Connected> {
        let connected = Arc::<Connected>::default();
        // IMPORTANT: locked until the one before takes no more. Otherwise a third connection, which supersedes only
        // this one, could open while the first still takes what it has read.
        let mut newest = lock(&self.newest);
        if let Some(before) = newest.insert(from, Arc::clone(&connected)) {
            *lock(&before.is_superseded) = true;
        }
        connected
    }

    /// Removes a connection that has ended; returns whether it was its primary's newest.
    pub(crate) fn close(&self, from: Incarnation, connected: &Arc<Connected>) -> bool {
        let mut newest = lock(&self.newest);
        let is_newest = newest.get(&from).is_some_and(|newest| Arc::ptr_eq(newest, connected));
        if is_newest {
            newest.remove(&from);
        }
        is_newest
    }
}

impl Connected {
    /// Runs `take` unless there is a newer connection, in which case it returns `None`.
    pub(crate) fn take<R>(&self, take: impl FnOnce() -> R) -> Option<R> {
        let is_superseded = lock(&self.is_superseded);
        if *is_superseded { None } else { Some(take()) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock ends the process.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_connection_of_a_primary_is_heard() {
        let (followed, one, other) = (Followed::default(), Incarnation(1), Incarnation(2));
        let first = followed.open(one);
        let others = followed.open(other);
        assert_eq!(first.take(|| "said"), Some("said"));
        let second = followed.open(one);
        assert_eq!(first.take(|| "late"), None);
        assert_eq!((second.take(|| 2), others.take(|| 3)), (Some(2), Some(3)));
        assert!(!followed.close(one, &first), "the primary is still connected");
        assert_eq!(second.take(|| 2), Some(2));
        assert!(followed.close(one, &second) && followed.close(other, &others));
    }

    #[test]
    fn what_is_being_taken_in_is_taken_before_a_newer_connection_is_open() {
        let (followed, from) = (Followed::default(), Incarnation(1));
        let first = followed.open(from);
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let (began, begun) = std::sync::mpsc::channel();
            let (first, order, followed) = (&first, &order, &followed);
            scope.spawn(move || {
                first.take(|| {
                    began.send(()).expect("somebody waits");
                    // Time enough for the others to come first if they did not wait.
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    lock(order).push("old");
                })
            });
            begun.recv().expect("it begins");
            // While one newer connection waits to be open, the primary may open yet another.
            for _ in 0..2 {
                scope.spawn(|| {
                    followed.open(from);
                    lock(order).push("new");
                });
            }
        });
        assert_eq!(order.into_inner().expect("nobody panicked"), ["old", "new", "new"]);
    }
}
