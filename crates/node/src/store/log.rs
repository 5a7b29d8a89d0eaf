//! The log, shared between its thread and the tasks that are about to answer.
//!
//! With `--fsync always` the thread writes, since each write waits for the disk. Otherwise a write is a copy into
//! kernel memory, and waking a thread for it would cost more than the write itself. So whoever is about to answer
//! first writes what all tasks have noted, and the thread does what may take long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use engine::journal::{Noted, Taken};
use storage::{Journal, JournalError, Position};

use super::{Fsync, Store, pieces, waiters};

/// The most that a task about to answer writes itself, in bytes.
const SHORT_BYTES: usize = 256 * 1024;

/// A write into kernel memory that takes longer than this waits for the disk: the kernel throttles heavy writers.
const SLOW: Duration = Duration::from_millis(2);

/// For this long after a slow write, only the thread writes.
const CAUTION: Duration = Duration::from_secs(1);

/// A buffer that has grown beyond this size is shrunk. In bytes.
const BUFFER_KEPT: usize = 1024 * 1024;

/// The log, and what was taken from the state machine but is not in it yet.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) journal: Journal,
    /// Nothing that came later is written before it.
    unwritten: Option<Unwritten>,
    /// The buffer for what is taken from the state machine.
    taken: Vec<u8>,
    /// Until then, only the thread writes.
    cautious_until: Option<Instant>,
    /// How many pieces the disk has taken.
    count: Arc<AtomicU64>,
}

/// A payload that is not written, or only in part.
#[derive(Debug)]
struct Unwritten {
    pieces: VecDeque<Vec<u8>>,
    taken: Taken,
    /// The position of its first piece, written or not.
    begin: Position,
}

/// The outcome of an attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteHere {
    /// What was noted is written.
    Written,
    /// Another task, or the thread, holds the log, and may be writing it.
    InOtherHands,
    /// It may take long, or the disk refuses.
    LeftToWriter,
}

impl Log {
    pub(super) fn new(journal: Journal, count: Arc<AtomicU64>) -> Self {
        Self { journal, unwritten: None, taken: Vec::new(), cautious_until: None, count }
    }

    /// Whether something was taken that could not be written yet.
    pub(super) fn has_unwritten(&self) -> bool {
        self.unwritten.is_some()
    }

    /// The position where the last whole payload ends. IMPORTANT: a start that resumed after the first piece of a
    /// payload could not read the rest.
    pub(super) fn end_of_whole(&self) -> Position {
        self.unwritten.as_ref().map_or(self.journal.end(), |unwritten| unwritten.begin)
    }

    /// Takes what was noted since the last call. Returns `false` if that is nothing and nothing is left from before.
    pub(super) fn take(&mut self, noted: &Noted) -> bool {
        if self.unwritten.is_none()
            && let Some(taken) = noted.take_into(&mut self.taken)
        {
            let pieces = pieces::cut(std::mem::take(&mut self.taken)).into();
            self.unwritten = Some(Unwritten { pieces, taken, begin: self.journal.end() });
        }
        self.unwritten.is_some()
    }

    /// Whether what was taken must be synced before it counts as written.
    pub(super) fn must_sync(&self, fsync: Fsync) -> bool {
        let demands = |unwritten: &Unwritten| unwritten.taken.must_sync;
        fsync == Fsync::Always || (fsync == Fsync::Interval && self.unwritten.as_ref().is_some_and(demands))
    }

    /// Appends what was taken, piece by piece, and syncs each if it must be synced; returns the journal number just after
    /// it. What is not appended stays taken.
    ///
    /// # Errors
    /// As [`Journal::append`] and [`Journal::sync`].
    pub(super) fn append(&mut self, fsync: Fsync) -> Result<Option<u64>, JournalError> {
        let must_sync = self.must_sync(fsync);
        let Some(Unwritten { pieces, taken, .. }) = &mut self.unwritten else { return Ok(None) };
        while let Some(piece) = pieces.front() {
            self.journal.append(&[piece])?;
            if must_sync {
                self.journal.sync()?;
            }
            self.count.fetch_add(1, Ordering::Relaxed);
            // Reuse the memory of the last piece.
            self.taken = pieces.pop_front().unwrap_or_default();
        }
        let end = taken.end;
        self.taken.clear();
        self.taken.shrink_to(BUFFER_KEPT);
        self.unwritten = None;
        Ok(Some(end))
    }

    /// Whether the next write, if it needs no sync, is sure to be quick: it creates no file, and the kernel has not
    /// throttled a recent one.
    fn is_quick(&mut self, noted: &Noted) -> bool {
        self.cautious_until = self.cautious_until.filter(|until| Instant::now() < *until);
        let bytes = noted.len();
        self.cautious_until.is_none() && bytes <= SHORT_BYTES && self.journal.fits(bytes as u64)
    }
}

impl Store {
    /// Writes what was noted, if nobody else is writing and it is quick.
    pub(super) fn write_here(&self, noted: &Noted) -> WriteHere {
        if self.fsync() == Fsync::Always || !self.is_good() {
            return WriteHere::LeftToWriter;
        }
        let written = self.write_unless_busy(noted);
        if written != WriteHere::InOtherHands {
            // Not while the log is locked: those that are woken may have to write.
            waiters::wake(self.take_ready());
        }
        written
    }

    fn write_unless_busy(&self, noted: &Noted) -> WriteHere {
        let mut log = match self.shared.log.try_lock() {
            Ok(log) => log,
            Err(TryLockError::WouldBlock) => return WriteHere::InOtherHands,
            Err(TryLockError::Poisoned(_)) => return WriteHere::LeftToWriter,
        };
        let Some(log) = log.as_mut() else { return WriteHere::LeftToWriter };
        if log.has_unwritten() || !log.is_quick(noted) {
            return WriteHere::LeftToWriter;
        }
        if !log.take(noted) {
            return WriteHere::Written;
        }
        if log.must_sync(self.fsync()) {
            return WriteHere::LeftToWriter;
        }
        let begun = Instant::now();
        // What the disk refuses stays taken: the thread retries it, and handles the failure.
        let appended = log.append(self.fsync());
        if begun.elapsed() > SLOW {
            log.cautious_until = Some(begun + CAUTION);
        }
        match appended {
            Ok(Some(end)) => self.note_written(end),
            Ok(None) | Err(_) => return WriteHere::LeftToWriter,
        }
        WriteHere::Written
    }

    /// Runs `then` on the log, which is open from the start of its thread to its end.
    pub(super) fn with_log<R>(&self, then: impl FnOnce(&mut Log) -> R) -> R {
        let mut log = self.shared.log.lock().unwrap_or_else(PoisonError::into_inner);
        let done = then(log.as_mut().expect("the thread that asks has not ended"));
        drop(log);
        if self.fsync() != Fsync::Always {
            waiters::wake(self.take_next());
        }
        done
    }
}
