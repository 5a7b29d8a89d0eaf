//! The log of a node: one for everything that it must not forget, in the order in which it was said.
//!
//! What a record means is its writer's business: here it is a payload of bytes. Payloads go into *segments*, files of a
//! fixed size whose room is taken in advance, so that an append changes no length and needs no room. The segment that
//! comes next is made before it is needed, and the old one is synced with the others: an append waits for no disk.

mod next;
mod sync;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub use next::{Next, NextTask};
pub use sync::{SyncTask, Synced};

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::disk::{Disk, write_full};
use crate::error::{FileError, JournalError, Named as _};
use crate::frame;
use crate::position::{DirectoryId, Position};
use crate::segment::{self, Draft, Header, PublishError, Segment};

/// The most that one append takes, in bytes, with 24 bytes of framing for each payload.
pub const BATCH_BYTES: u64 = 256 * 1024 * 1024;

/// A segment for which the disk has no room is tried again as this part of one.
const SEGMENT_PARTS: u64 = 16;

/// How many full segments may wait for a sync. One more, and the append that fills it waits for the oldest.
const SEGMENTS_UNSYNCED: usize = 4;

/// How far ahead of the end of the log zeros are written where it is synced often, in bytes.
const ZEROS_AHEAD: u64 = 1024 * 1024;

/// A buffer that has grown beyond this is given back after the append that needed it. In bytes.
const BUFFER_KEPT: usize = 1024 * 1024;

/// A segment that has no room for the record that came next.
#[derive(Debug)]
struct Full {
    segment: Segment,
    /// Where its last record ends.
    end: u64,
}

/// The log, open for appending. One thread at a time uses it; [`Journal::begin_sync`] lets others append meanwhile.
#[derive(Debug)]
pub struct Journal<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    id: DirectoryId,
    segment_bytes: u64,
    frugal: bool,
    syncs_often: bool,
    /// Where it is synced often: up to here zeros were written.
    zeroed: u64,
    bugs: B,
    /// The full segments that are still there, oldest first.
    full: VecDeque<Header>,
    current: Segment,
    /// The one that comes next, where it is there already.
    next: Option<Segment>,
    /// Where the last frame ends.
    end: u64,
    /// Where the next one goes: there, or behind the header of a segment that has none yet.
    tail: u64,
    /// Where the last frame begins.
    before: Option<u64>,
    /// Everything below is on disk.
    synced: u64,
    /// Full segments that may not be on disk, oldest first.
    unsynced: VecDeque<Full>,
    /// A failed append may have left bytes from the tail up to here.
    litter: Option<u64>,
    /// How often something was cleared, and how many of those are on disk.
    clearings: u64,
    clearings_synced: u64,
    /// The segment that a sync was asked to make in advance, by its first position.
    asked_for: Option<u64>,
    health: Arc<Health>,
    buffer: Vec<u8>,
}

/// What a journal and the sync that runs beside it know of each other.
#[derive(Debug, Default)]
struct Health {
    /// A sync is on its way. Two at once could share one error, and one of them would not see it.
    syncing: AtomicBool,
    /// How the disk failed first.
    poison: OnceLock<String>,
}

impl Health {
    fn poison(&self, error: &FileError) {
        // A second failure says nothing new.
        let _ = self.poison.set(format!("{error}: {}", error.source));
    }
}

/// What recovery found, from which a journal goes on.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) full: VecDeque<Header>,
    pub(crate) current: Segment,
    pub(crate) next: Option<Segment>,
    pub(crate) end: u64,
    pub(crate) before: Option<u64>,
}

/// Figures of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalStats {
    /// Where the oldest segment begins.
    pub first: Position,
    /// Where the last record ends.
    pub end: Position,
    /// Everything below is on disk.
    pub synced: Position,
    /// How many files the log has, the one prepared in advance included.
    pub segments: usize,
    /// What they take on disk, in bytes.
    pub bytes: u64,
}

impl<B: Bugs> Journal<B> {
    /// Goes on where recovery ended. Everything that was recovered is on disk.
    pub(crate) fn resume(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        id: DirectoryId,
        segment_bytes: u64,
        bugs: B,
        resumed: Resumed,
    ) -> Self {
        Self {
            disk,
            directory,
            id,
            segment_bytes,
            frugal: false,
            syncs_often: false,
            zeroed: 0,
            bugs,
            full: resumed.full,
            next: resumed.next,
            tail: resumed.end.max(resumed.current.header.body()),
            end: resumed.end,
            before: resumed.before,
            synced: resumed.end,
            current: resumed.current,
            unsynced: VecDeque::new(),
            litter: None,
            clearings: 0,
            clearings_synced: 0,
            asked_for: None,
            health: Arc::default(),
            buffer: Vec::new(),
        }
    }

    /// Appends payloads in their order, with one system call, and returns the position behind them: once a
    /// [`Journal::sync`] returns this position or a later one, they are on disk. When this returns they are in the kernel, and outlive
    /// the process; a crash of the machine before the next sync leaves any first part of them.
    ///
    /// A payload may be empty. Where no sync has made the next segment in advance, this makes it when it is needed; where
    /// nobody has synced for long, it syncs the oldest of five segments.
    ///
    /// # Errors
    /// Nothing counts as appended. After [`JournalError::NoSpace`] the same call may succeed once there is room.
    pub fn append<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<Position, JournalError> {
        self.check_poison()?;
        let bytes = payloads.iter().map(|payload| frame::bytes_of(payload.as_ref().len())).sum();
        if bytes > BATCH_BYTES {
            return Err(JournalError::TooLarge { bytes, limit: BATCH_BYTES });
        }
        if bytes == 0 {
            return Ok(self.end());
        }
        self.clear_litter()?;
        if self.tail + bytes > self.current.header.end() {
            self.rotate(bytes)?;
        }
        self.write_zeros_ahead(bytes);
        let before = self.encode(payloads);
        let offset = self.tail - self.current.header.first;
        let written = write_full(self.current.file.as_ref(), offset, &self.buffer).named("write", &self.current.path);
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        if let Err(error) = written {
            self.litter = Some(self.tail + bytes);
            // What cannot be cleared now is cleared before the next append.
            let cleared = self.clear_litter();
            let failed = self.failed(error);
            // A journal that could not clear up because the disk fails has said the graver thing.
            return Err(cleared.err().filter(|_| self.poison().is_some()).unwrap_or(failed));
        }
        self.tail += bytes;
        self.end = self.tail;
        self.before = before;
        Ok(self.end())
    }

    /// Makes everything that was appended last, and returns the position behind it. Blocks on the disk.
    ///
    /// # Errors
    /// After the first failure the journal is poisoned: nothing is ever acknowledged again.
    ///
    /// # Panics
    /// A sync that was begun has not ended.
    pub fn sync(&mut self) -> Result<Position, JournalError> {
        let synced = self.begin_sync()?.run();
        self.end_sync(synced)
    }

    /// Whether to take no more room than there must be: small segments, and none in advance. For a disk that is nearly full,
    /// whose last room a snapshot needs.
    pub fn set_frugal(&mut self, frugal: bool) {
        self.frugal = frugal;
    }

    /// Whether a sync follows nearly every append. File systems note which part of a file's room was ever written to, and a
    /// sync after a first write there has to make that note last, too, which takes about as long again. Then few syncs have
    /// to: the next segment is made by [`Journal::begin_next`] and no longer by a sync, with zeros everywhere. In a segment
    /// that was made otherwise they are written ahead, a mebibyte at a time.
    pub fn set_syncs_often(&mut self, often: bool) {
        self.syncs_often = often;
    }

    /// Removes the segments that lie below a position as a whole: the one that recovery starts from, which is that of
    /// the oldest snapshot that is to be of use.
    ///
    /// IMPORTANT: call it only once that snapshot is finished, which is when its file and its name are on disk.
    ///
    /// # Errors
    /// Some segments may be gone. Unless the journal is poisoned then, it is safe to repeat.
    pub fn remove_before(&mut self, position: Position) -> Result<(), JournalError> {
        self.check_poison()?;
        let below = position.0.min(self.synced);
        let mut removed = false;
        while let Some(oldest) = self.full.front().filter(|oldest| oldest.end() <= below) {
            let path = self.directory.join(segment::name(oldest.first));
            if let Err(error) = self.disk.remove(&path).named("remove", path) {
                return Err(self.failed(error));
            }
            self.full.pop_front();
            removed = true;
        }
        if removed && !self.bugs.plants(Bug::NoDirectorySync) {
            let synced = self.disk.sync_directory(&self.directory).named("sync", &self.directory);
            synced.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Where the last record ends; a snapshot of everything so far has this position.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.end)
    }

    /// Everything below this position is on disk.
    #[must_use]
    pub fn synced(&self) -> Position {
        Position(self.synced)
    }

    /// How many bytes can be appended without a new file, framing included. When the disk is full, this is what is left
    /// for records that must not be refused.
    #[must_use]
    pub fn room(&self) -> u64 {
        let next = self.next.as_ref().map_or(0, |next| next.header.end() - next.header.body());
        self.current.header.end().saturating_sub(self.tail) + next
    }

    /// Whether a payload of so many bytes needs no other file than the present one: to append it is one write.
    #[must_use]
    pub fn fits(&self, bytes: u64) -> bool {
        self.litter.is_none() && self.tail + frame::HEADER_BYTES as u64 + bytes <= self.current.header.end()
    }

    /// Whether the journal takes nothing any more, and why.
    #[must_use]
    pub fn poison(&self) -> Option<&str> {
        self.health.poison.get().map(String::as_str)
    }

    /// Figures for operators.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let all = || self.full.iter().chain([&self.current.header]).chain(self.next.as_ref().map(|next| &next.header));
        JournalStats {
            first: Position(all().next().map_or(0, |oldest| oldest.first)),
            end: self.end(),
            synced: self.synced(),
            segments: all().count(),
            bytes: all().map(|header| header.size).sum(),
        }
    }

    /// Writes the frames of some payloads into the buffer. Returns where the last one begins.
    fn encode<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Option<u64> {
        let mut before = self.before;
        self.buffer.clear();
        for payload in payloads {
            let position = self.tail + self.buffer.len() as u64;
            frame::encode(&mut self.buffer, position, before, self.synced, payload.as_ref(), self.bugs);
            before = Some(position);
        }
        before
    }

    /// Where it is synced often: writes zeros behind what the next append takes, if they were used up.
    fn write_zeros_ahead(&mut self, bytes: u64) {
        let behind = self.tail + bytes;
        if !self.syncs_often || self.current.is_zeroed || behind <= self.zeroed {
            return;
        }
        let Header { first, .. } = self.current.header;
        let (from, upto) = (behind.max(self.zeroed), (behind + ZEROS_AHEAD).min(self.current.header.end()));
        // What a disk minds it says to the append as well.
        let _ = segment::write_zeros(self.current.file.as_ref(), from - first, upto - first);
        self.zeroed = upto;
    }

    /// Goes on with the next segment, which has room for so many bytes.
    fn rotate(&mut self, bytes: u64) -> Result<(), JournalError> {
        let least = segment::HEADER_BYTES as u64 + bytes;
        let next = match self.next.take() {
            Some(next) if next.header.size >= least => next,
            small => self.make_next(least, small)?,
        };
        let end = std::mem::replace(&mut self.tail, next.header.body());
        let segment = std::mem::replace(&mut self.current, next);
        self.full.push_back(segment.header);
        self.unsynced.push_back(Full { segment, end });
        self.sync_oldest()
    }

    /// Makes the next segment, in place of one that is too small for a large payload.
    fn make_next(&mut self, least: u64, small: Option<Segment>) -> Result<Segment, JournalError> {
        // Where a whole segment has no room, a part of one may have.
        let part = (self.segment_bytes / SEGMENT_PARTS).max(segment::SEGMENT_BYTES_LEAST).max(least);
        let size = if self.frugal { part } else { self.segment_bytes.max(least) };
        let mut draft = self.draft(size);
        if part < size && draft.as_ref().is_err_and(FileError::is_no_space) {
            draft = self.draft(part);
        }
        match draft {
            Ok(draft) => self.publish(draft),
            Err(error) => {
                self.next = small;
                Err(self.failed(error))
            }
        }
    }

    fn draft(&self, size: u64) -> Result<Draft, FileError> {
        let header = Header { size, ..self.next_header() };
        Draft::write(self.disk.as_ref(), &self.directory, header, "new", self.bugs)
    }

    fn publish(&mut self, draft: Draft) -> Result<Segment, JournalError> {
        draft.publish(self.disk.as_ref(), &self.directory, self.bugs).map_err(|error| match error {
            PublishError::NotNamed(error) => self.failed(error),
            PublishError::NotSynced(error) => {
                self.health.poison(&error);
                JournalError::Failed(error)
            }
        })
    }

    fn next_header(&self) -> Header {
        Header { directory: self.id, first: self.current.header.end(), size: self.segment_bytes }
    }

    /// Bounds what a sync will have to do.
    fn sync_oldest(&mut self) -> Result<(), JournalError> {
        if self.unsynced.len() <= SEGMENTS_UNSYNCED || self.health.syncing.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(oldest) = self.unsynced.pop_front() else { return Ok(()) };
        let Full { segment, end } = oldest;
        let synced = segment.file.sync_data().named("sync", &segment.path);
        synced.map_err(|error| self.failed(error))?;
        // Not up to the end of the segment: a record that would have had room there may be in the next one.
        self.synced = self.synced.max(end);
        Ok(())
    }

    /// Writes zeros over what a failed append may have left.
    ///
    /// IMPORTANT: before anything else is appended. Frames that were never acknowledged could follow on it otherwise, as
    /// if they were of the log.
    pub(crate) fn clear_litter(&mut self) -> Result<(), JournalError> {
        let Some(upto) = self.litter.filter(|_| !self.bugs.plants(Bug::TailNotCleared)) else { return Ok(()) };
        let (file, path, first) = (&self.current.file, &self.current.path, self.current.header.first);
        let cleared = file.length().named("inspect", path).and_then(|length| {
            // What is behind the end of the file was not written, and need not take room.
            let zeros = upto.min(first + length).saturating_sub(self.tail);
            let zeros = vec![0; usize::try_from(zeros).unwrap_or(usize::MAX)];
            write_full(file.as_ref(), self.tail - first, &zeros).named("write", path)
        });
        cleared.map_err(|error| self.failed(error))?;
        self.litter = None;
        self.clearings += 1;
        Ok(())
    }

    fn check_poison(&self) -> Result<(), JournalError> {
        match self.poison() {
            Some(reason) => Err(JournalError::Poisoned { reason: reason.to_owned() }),
            None => Ok(()),
        }
    }

    /// What a failed call means: want of room passes, everything else does not.
    fn failed(&self, error: FileError) -> JournalError {
        if error.is_no_space() {
            return JournalError::NoSpace(error);
        }
        self.health.poison(&error);
        JournalError::Failed(error)
    }
}
