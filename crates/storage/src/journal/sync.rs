//! A sync in three steps, so that appends continue while the disk works.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Health, Journal};
use crate::bugs::{Bug, Bugs, NoBugs};
use crate::disk::Disk;
use crate::error::{FileError, IoContext as _, JournalError};
use crate::position::Position;
use crate::segment::{Draft, Header, Segment};

/// A sync that has begun; a thread has to run it.
#[derive(Debug)]
#[must_use = "nothing is synced before it runs"]
pub struct SyncTask<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bugs: B,
    /// Oldest first.
    segments: Vec<Segment>,
    upto: u64,
    clearings: u64,
    /// The segment to create in advance.
    next: Option<Header>,
    permit: SyncPermit,
}

/// A sync that has run. The journal takes it back.
#[derive(Debug)]
#[must_use = "nothing counts as synced before the journal knows"]
pub struct Synced {
    upto: u64,
    clearings: u64,
    outcome: Result<(), FileError>,
    next: Option<Result<Draft, FileError>>,
    _permit: SyncPermit,
}

/// The right to sync, held by one sync at a time.
#[derive(Debug)]
struct SyncPermit(Arc<Health>);

impl Drop for SyncPermit {
    fn drop(&mut self) {
        self.0.syncing.store(false, Ordering::Release);
    }
}

impl<B: Bugs> Journal<B> {
    /// Begins to make durable what was appended so far. Does no work; [`SyncTask::run`] does it without the journal,
    /// and [`Journal::end_sync`] completes it. Dropping the task or its result counts as syncing nothing.
    ///
    /// # Errors
    /// The journal is poisoned.
    ///
    /// # Panics
    /// Another sync has begun and not ended.
    pub fn begin_sync(&mut self) -> Result<SyncTask<B>, JournalError> {
        self.check_poison()?;
        let busy = self.health.syncing.swap(true, Ordering::AcqRel);
        assert!(!busy, "one sync at a time: two could share one error of the disk, which one of them would not see");
        let permit = SyncPermit(Arc::clone(&self.health));
        // If everything is on disk already, there is nothing to sync.
        let behind = self.synced < self.end || self.clearings_synced < self.clearings;
        let segments =
            self.unsynced.iter().map(|full| &full.segment).chain([&self.current]).filter(|_| behind).cloned().collect();
        Ok(SyncTask {
            disk: Arc::clone(&self.disk),
            directory: self.directory.clone(),
            bugs: self.bugs,
            segments,
            upto: self.end,
            clearings: self.clearings,
            next: if self.syncs_often { None } else { self.ask_for_next() },
            permit,
        })
    }

    /// Completes a sync that has run; returns the position up to which everything is on disk.
    ///
    /// # Errors
    /// After the first failure the journal is poisoned: nothing is ever acknowledged again, not even what this sync may
    /// have made durable.
    pub fn end_sync(&mut self, synced: Synced) -> Result<Position, JournalError> {
        synced.outcome.map_err(JournalError::Failed)?;
        self.check_poison()?;
        self.synced = self.synced.max(synced.upto);
        self.clearings_synced = synced.clearings;
        while self.unsynced.front().is_some_and(|oldest| oldest.end <= self.synced) {
            self.unsynced.pop_front();
        }
        if let Some(next) = synced.next {
            self.requested = None;
            self.take_next(next)?;
        }
        Ok(self.synced())
    }
}

impl<B: Bugs> SyncTask<B> {
    /// Runs the sync. Blocks on the disk for as long as that takes.
    pub fn run(self) -> Synced {
        let outcome = self.sync();
        if let Err(error) = &outcome
            && !self.bugs.plants(Bug::RetryAfterFailedSync)
        {
            // IMPORTANT: never retry a failed sync, not even if its outcome is dropped. The kernel treats what it could
            // not write as written, and a retry would report success.
            self.permit.0.poison(error);
        }
        let next = self.next.filter(|_| outcome.is_ok());
        let next = next.map(|header| Draft::write(self.disk.as_ref(), &self.directory, header, "next", self.bugs));
        Synced { upto: self.upto, clearings: self.clearings, outcome, next, _permit: self.permit }
    }

    fn sync(&self) -> Result<(), FileError> {
        if self.bugs.plants(Bug::AcknowledgeBeforeSync) {
            return Ok(());
        }
        // Oldest first, so that a gap in what is on disk lasts no longer than it must.
        self.segments.iter().try_for_each(|segment| segment.file.sync_data().io_context("sync", &segment.path))
    }
}
