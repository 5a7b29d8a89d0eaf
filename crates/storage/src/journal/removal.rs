//! Removing segments that are no longer needed while others append and sync: a file of 64 MiB takes some 20 ms.

use std::path::PathBuf;
use std::sync::Arc;

use super::Journal;
use crate::bugs::{Bug, Bugs, NoBugs};
use crate::disk::Disk;
use crate::error::{FileError, IoContext as _, JournalError};
use crate::position::Position;
use crate::segment;

/// Segments to be removed. Needs no journal while it runs.
#[derive(Debug)]
#[must_use = "the segments are still there"]
pub struct RemovalTask<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bugs: B,
    /// Oldest first.
    files: Vec<PathBuf>,
}

/// A removal that has run. The journal takes it back.
#[derive(Debug)]
#[must_use = "the journal still counts the segments that are gone"]
pub struct Removed {
    /// How many segments are gone, from the oldest on.
    count: usize,
    outcome: Result<(), FileError>,
}

impl<B: Bugs> Journal<B> {
    /// Removes the segments that lie entirely below a position. Recovery must be able to start from that position: it
    /// is the position of the oldest snapshot that is to remain usable.
    ///
    /// IMPORTANT: call this only once that snapshot is finished, that is, when its content and its name are on disk.
    ///
    /// # Errors
    /// Some segments may be gone. Safe to repeat unless the journal is poisoned.
    pub fn remove_before(&mut self, position: Position) -> Result<(), JournalError> {
        let removed = self.begin_removal(position)?.map(RemovalTask::run);
        removed.map_or(Ok(()), |removed| self.end_removal(removed))
    }

    /// Begins what [`Journal::remove_before`] does, if there is anything to remove. Does no work; [`RemovalTask::run`]
    /// does it while others append and sync, and [`Journal::end_removal`] completes it. Only one removal may be in
    /// progress.
    ///
    /// # Errors
    /// The journal is poisoned.
    pub fn begin_removal(&self, position: Position) -> Result<Option<RemovalTask<B>>, JournalError> {
        self.check_poison()?;
        let below = position.0.min(self.synced);
        let unneeded = self.full.iter().take_while(|oldest| oldest.end() <= below);
        let files: Vec<_> = unneeded.map(|unneeded| self.directory.join(segment::name(unneeded.first))).collect();
        let task =
            RemovalTask { disk: Arc::clone(&self.disk), directory: self.directory.clone(), bugs: self.bugs, files };
        Ok(Some(task).filter(|task| !task.files.is_empty()))
    }

    /// Completes a removal that has run.
    ///
    /// # Errors
    /// As [`Journal::remove_before`].
    pub fn end_removal(&mut self, removed: Removed) -> Result<(), JournalError> {
        self.full.drain(..removed.count);
        removed.outcome.map_err(|error| self.failed(error))
    }
}

impl<B: Bugs> RemovalTask<B> {
    /// Removes the segments. Blocks on the disk.
    pub fn run(self) -> Removed {
        let mut count = 0;
        let outcome = self.remove(&mut count);
        Removed { count, outcome }
    }

    fn remove(&self, count: &mut usize) -> Result<(), FileError> {
        // Oldest first, so that a crash leaves no gap.
        for file in &self.files {
            self.disk.remove(file).io_context("remove", file)?;
            *count += 1;
        }
        if self.bugs.plants(Bug::NoDirectorySync) {
            return Ok(());
        }
        self.disk.sync_directory(&self.directory).io_context("sync", &self.directory)
    }
}
