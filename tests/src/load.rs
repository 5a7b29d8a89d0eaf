//! Requests that run in the background while something happens to the cluster.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use crate::connection::Connection;
use crate::wait::{self, ensure, eventually};

/// The pause between two steps. A load is there to notice what goes wrong, not to saturate the machine, which also has
/// to run the cluster and other tests.
const PAUSE: Duration = Duration::from_millis(1);

/// A thread that repeats a step until it is told to stop.
#[derive(Debug)]
pub struct Load {
    what: &'static str,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    rounds: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Repeats `step` with the numbers 0, 1, 2 and so on. An `Err` is recorded, and the load goes on with the next
    /// step.
    #[must_use]
    pub fn start(what: &'static str, mut step: impl FnMut(u64) -> Result<(), String> + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while !shared.stop.load(Ordering::Acquire) {
                    let round = shared.rounds.load(Ordering::Acquire);
                    if let Err(failure) = step(round) {
                        shared.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    }
                    shared.rounds.store(round + 1, Ordering::Release);
                    sleep(PAUSE);
                }
            }
        });
        Self { what, shared, thread: Some(thread) }
    }

    /// Reads what [`crate::cluster::Cluster::store`] stored, one key after the other, through the node at `addr`.
    #[must_use]
    #[track_caller]
    pub fn of_reads(addr: &str, prefix: &'static str, count: u64, suffix: &'static str) -> Self {
        let mut connection = Connection::open(addr);
        Self::start("reading", move |round| {
            let i = round % count;
            let answer = connection.try_ask(&format!("GET {prefix}:{i}"));
            let answer = answer.unwrap_or_else(|error| format!("no answer: {error}"));
            ensure(answer == format!("VALUE {prefix}:{i}{suffix}"), || format!("GET {prefix}:{i}: {answer}"))
        })
    }

    /// Writes a new key in each step through the node at `addr`, as [`crate::cluster::Cluster::store`] does with no
    /// suffix.
    #[must_use]
    #[track_caller]
    pub fn of_writes(addr: &str, prefix: &'static str) -> Self {
        let mut connection = Connection::open(addr);
        Self::start("writing", move |round| {
            let answer = connection.try_ask(&format!("PUT {prefix}:{round} {prefix}:{round}"));
            let answer = answer.unwrap_or_else(|error| format!("no answer: {error}"));
            ensure(answer == "OK", || format!("PUT {prefix}:{round}: {answer}"))
        })
    }

    /// How many steps have been completed.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.shared.rounds.load(Ordering::Acquire)
    }

    /// Waits until `count` more steps have been completed.
    ///
    /// # Panics
    /// When they take too long.
    #[track_caller]
    pub fn goes_on_for(&self, count: u64) {
        let target = self.rounds() + count;
        eventually(&format!("{} goes on", self.what), wait::SOON, || {
            ensure(self.rounds() >= target, || format!("{} of {target} steps", self.rounds()))
        });
    }

    /// Stops, and returns the number of steps.
    ///
    /// # Panics
    /// When a step failed, or none was completed.
    #[track_caller]
    pub fn finish_without_failure(mut self) -> u64 {
        self.stop();
        let failures = std::mem::take(&mut *self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner));
        let some: Vec<_> = failures.iter().take(10).collect();
        assert!(failures.is_empty(), "{}: {} of {} failed: {some:#?}", self.what, failures.len(), self.rounds());
        assert!(self.rounds() > 0, "{}: not a single step was made", self.what);
        self.rounds()
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "{}: a step panicked", self.what);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}
