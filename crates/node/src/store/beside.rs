//! Work beside the log thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Work that a thread of its own does. If the system has no thread for it, the caller has done it: the log thread then
/// waits for the disk, but a lack of threads is no failure of the disk.
pub(super) enum Beside<T> {
    Running(JoinHandle<T>),
    Done(T),
}

impl<T: Send + 'static> Beside<T> {
    pub(super) fn run(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Self {
        Self::run_on(Builder::new().name(name.to_owned()), work)
    }

    fn run_on(thread: Builder, work: impl FnOnce() -> T + Send + 'static) -> Self {
        // Whoever takes the closure runs it: the new thread or, if none can start, this one. A thread that cannot start
        // drops its own closure, so that one must not own the work.
        let work = Arc::new(Mutex::new(Some(work)));
        let taken = Arc::clone(&work);
        let take = |work: &Mutex<Option<_>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
        match thread.spawn(move || take(&taken).expect("nobody else takes it once the thread has started")()) {
            Ok(running) => Self::Running(running),
            Err(error) => {
                tracing::warn!("the system has no thread for work beside the log, which waits for it: {error}");
                Self::Done(take(&work).expect("the thread has not started")())
            }
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        match self {
            Self::Running(thread) => thread.is_finished(),
            Self::Done(_) => true,
        }
    }

    /// Waits for the end of the work.
    ///
    /// # Errors
    /// The thread has panicked.
    pub(super) fn join(self) -> anyhow::Result<T> {
        match self {
            Self::Running(thread) => {
                let name = thread.thread().name().unwrap_or_default().to_owned();
                thread.join().map_err(|_| anyhow::anyhow!("the {name} thread panicked"))
            }
            Self::Done(done) => Ok(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_whether_there_is_a_thread_for_it_or_not() {
        let here = std::thread::current().id();
        let work = || std::thread::current().id();
        let beside = Beside::run("test", work);
        assert_ne!(beside.join().expect("it does not panic"), here);
        // No system has this much memory for a stack.
        let done = Beside::run_on(Builder::new().stack_size(usize::MAX / 4), work);
        assert!(done.is_finished());
        assert_eq!(done.join().expect("it does not panic"), here);
    }
}
