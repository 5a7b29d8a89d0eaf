//! Creates the next segment before it is needed.

use std::path::PathBuf;
use std::sync::Arc;

use super::Journal;
use crate::bugs::{Bugs, NoBugs};
use crate::disk::Disk;
use crate::error::{FileError, JournalError};
use crate::segment::{Draft, Header};

/// A segment to be created; a thread has to run this.
#[derive(Debug)]
#[must_use = "nothing is made before it runs"]
pub struct NextTask<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bugs: B,
    header: Header,
}

/// A segment that was created, or the error. The journal takes it.
#[derive(Debug)]
#[must_use = "the journal asks for no other before it has this one"]
pub struct Next(Result<Draft, FileError>);

impl<B: Bugs> NextTask<B> {
    /// Creates the segment and fills it with zeros, step by step, and calls `between` after each step, to let others
    /// use the disk. Blocks on the disk.
    pub fn run(self, between: impl FnMut()) -> Next {
        let disk = self.disk.as_ref();
        let draft = Draft::write(disk, &self.directory, self.header, "next", self.bugs);
        Next(draft.and_then(|draft| draft.with_zeros(disk, between)))
    }
}

impl<B: Bugs> Journal<B> {
    /// When syncs are frequent: begins to create the next segment if it is due. Does no work; [`NextTask::run`] does it
    /// while others append and sync, and [`Journal::end_next`] completes it.
    #[must_use]
    pub fn begin_next(&mut self) -> Option<NextTask<B>> {
        let header = if self.syncs_often { self.ask_for_next()? } else { return None };
        Some(NextTask { disk: Arc::clone(&self.disk), directory: self.directory.clone(), bugs: self.bugs, header })
    }

    /// Takes the segment that was created. If the disk had no room for it, the append that needs it will report that.
    ///
    /// # Errors
    /// The disk has failed, and the journal is poisoned.
    pub fn end_next(&mut self, next: Next) -> Result<(), JournalError> {
        self.requested = None;
        self.check_poison()?;
        self.take_next(next.0)
    }

    /// The header of the next segment, if it is due and not being created yet.
    pub(super) fn ask_for_next(&mut self) -> Option<Header> {
        let header = self.next_header();
        let half = self.current.header.first + self.current.header.size / 2;
        let is_due = self.next.is_none() && self.tail >= half && self.requested != Some(header.first);
        if self.low_space || !is_due || !self.may_take(header.size) {
            return None;
        }
        self.requested = Some(header.first);
        Some(header)
    }

    pub(super) fn take_next(&mut self, next: Result<Draft, FileError>) -> Result<(), JournalError> {
        let draft = match next {
            Ok(draft) => draft,
            // The sync itself succeeded. The append that needs the segment will report the lack of space.
            Err(error) if error.is_no_space() => return Ok(()),
            Err(error) => return Err(self.failed(error)),
        };
        // In the meantime an append may have needed this segment, or a larger one, and created it.
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
