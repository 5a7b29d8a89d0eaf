//! The segment that comes next, made before it is needed.

use std::path::PathBuf;
use std::sync::Arc;

use super::Journal;
use crate::bugs::{Bugs, NoBugs};
use crate::disk::Disk;
use crate::error::{FileError, JournalError};
use crate::segment::{Draft, Header};

/// A segment that is to be made and waits for a thread to make it.
#[derive(Debug)]
#[must_use = "nothing is made before it runs"]
pub struct NextTask<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bugs: B,
    header: Header,
}

/// A segment that was made, or why not. Its journal takes it.
#[derive(Debug)]
#[must_use = "the journal asks for no other before it has this one"]
pub struct Next(Result<Draft, FileError>);

impl<B: Bugs> NextTask<B> {
    /// Makes the segment, with zeros everywhere, step by step, and calls `between` after each: there others are to have their
    /// turn at the disk. Blocks on it.
    pub fn run(self, between: impl FnMut()) -> Next {
        let disk = self.disk.as_ref();
        let draft = Draft::write(disk, &self.directory, self.header, "next", self.bugs);
        Next(draft.and_then(|draft| draft.with_zeros(disk, between)))
    }
}

impl<B: Bugs> Journal<B> {
    /// Where it is synced often: begins to make the next segment, if it is time to. Does no work; [`NextTask::run`] does it,
    /// while others append and sync, and [`Journal::end_next`] ends it.
    #[must_use]
    pub fn begin_next(&mut self) -> Option<NextTask<B>> {
        let header = if self.syncs_often { self.ask_for_next()? } else { return None };
        Some(NextTask { disk: Arc::clone(&self.disk), directory: self.directory.clone(), bugs: self.bugs, header })
    }

    /// Takes the segment that was made. Where the disk has no room for one, the append that needs it will say so.
    ///
    /// # Errors
    /// The disk has failed, and the journal is poisoned.
    pub fn end_next(&mut self, next: Next) -> Result<(), JournalError> {
        self.asked_for = None;
        self.check_poison()?;
        self.take_next(next.0)
    }

    /// The next segment, if it is time to make it and nobody does.
    pub(super) fn ask_for_next(&mut self) -> Option<Header> {
        let header = self.next_header();
        let half = self.current.header.first + self.current.header.size / 2;
        if self.frugal || self.next.is_some() || self.tail < half || self.asked_for == Some(header.first) {
            return None;
        }
        self.asked_for = Some(header.first);
        Some(header)
    }

    pub(super) fn take_next(&mut self, next: Result<Draft, FileError>) -> Result<(), JournalError> {
        let draft = match next {
            Ok(draft) => draft,
            // What was synced is synced. The append that needs the segment will say that there is no room.
            Err(error) if error.is_no_space() => return Ok(()),
            Err(error) => return Err(self.failed(error)),
        };
        // An append may have needed it, or a larger one, before it was there.
        if self.next.is_some() || draft.header().first != self.current.header.end() {
            draft.discard(self.disk.as_ref());
            return Ok(());
        }
        match self.publish(draft) {
            Ok(next) => self.next = Some(next),
            Err(JournalError::NoSpace(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
