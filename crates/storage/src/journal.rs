//! The log of a node: one log for everything that the node must not forget, in order.
//!
//! The journal does not interpret its records: each is a payload of bytes. Payloads go into *segments*, files of a
//! fixed size whose space is allocated in advance, so that an append neither changes a file length nor needs new space.
//! The next segment is created before it is needed, and the old one is synced along with the others: an append does not
//! wait for the disk.

mod next;
mod removal;
mod sync;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

pub use next::{Next, NextTask};
pub use removal::{RemovalTask, Removed};
pub use sync::{SyncTask, Synced};

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::disk::{Disk, write_full};
use crate::error::{FileError, IoContext as _, JournalError};
use crate::frame;
use crate::position::{DirectoryId, Position};
use crate::segment::{self, Draft, Header, PublishError, Segment};

/// The most that one append takes, in bytes, including 24 bytes of framing for each payload.
pub const BATCH_BYTES: u64 = 256 * 1024 * 1024;

/// If the disk has no room for a whole segment, one of this fraction of its size is tried.
const SEGMENT_PARTS: u64 = 16;

/// How many full segments may be unsynced. When one more fills up, the append waits while the oldest is synced.
const SEGMENTS_UNSYNCED: usize = 4;

/// How far ahead of the end of the log zeros are written when syncs are frequent, in bytes.
const ZEROS_AHEAD: u64 = 1024 * 1024;

/// A buffer that has grown beyond this is released after the append that needed it. In bytes.
const BUFFER_KEPT: usize = 1024 * 1024;

/// A segment that had no room for the next record.
#[derive(Debug)]
struct Full {
    segment: Segment,
    /// Where its last record ends.
    end: u64,
}

/// The log, open for appending, used by one thread at a time. With [`Journal::begin_sync`], appends continue during a
/// sync.
#[derive(Debug)]
pub struct Journal<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    id: DirectoryId,
    segment_bytes: u64,
    low_space: bool,
    /// How much disk space is left to snapshots, in bytes.
    claimed: u64,
    syncs_often: bool,
    /// When syncs are frequent: zeros have been written up to here.
    zeroed: u64,
    bugs: B,
    /// The full segments that still exist, oldest first.
    full: VecDeque<Header>,
    current: Segment,
    /// The next segment, if it has been created already.
    next: Option<Segment>,
    /// Where the last frame ends.
    end: u64,
    /// Where the next frame goes: at `end`, or after the header of a segment that has no frame yet.
    tail: u64,
    /// Where the last frame begins.
    before: Option<u64>,
    /// Everything below is on disk.
    synced: u64,
    /// Full segments that may not be on disk, oldest first.
    unsynced: VecDeque<Full>,
    /// A failed append may have left bytes from `tail` up to here.
    failed_append: Option<u64>,
    /// How many times such remains were cleared, and how many of those clearings are on disk.
    clearings: u64,
    clearings_synced: u64,
    /// The segment that was requested in advance, by its first position.
    requested: Option<u64>,
    health: Arc<Health>,
    buffer: Vec<u8>,
}

/// State shared by a journal and the sync that runs beside it.
#[derive(Debug, Default)]
struct Health {
    /// A sync is in progress. Of two at once, one could consume the error of the disk and the other would not see it.
    syncing: AtomicBool,
    /// The first failure of the disk.
    poison: OnceLock<String>,
}

impl Health {
    fn poison(&self, error: &FileError) {
        // A second failure adds nothing.
        let _ = self.poison.set(format!("{error}: {}", error.source));
    }
}

/// What recovery found, from which a journal continues.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) full: VecDeque<Header>,
    pub(crate) current: Segment,
    pub(crate) next: Option<Segment>,
    pub(crate) end: u64,
    pub(crate) before: Option<u64>,
}

/// Statistics of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalStats {
    /// Where the oldest segment begins.
    pub first: Position,
    /// Where the last record ends.
    pub end: Position,
    /// Everything below is on disk.
    pub synced: Position,
    /// How many files the log has, including the one prepared in advance.
    pub segments: usize,
    /// What they take on disk, in bytes.
    pub bytes: u64,
}

impl<B: Bugs> Journal<B> {
    /// Continues where recovery ended. Everything that was recovered is on disk.
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
            low_space: false,
            claimed: 0,
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
            failed_append: None,
            clearings: 0,
            clearings_synced: 0,
            requested: None,
            health: Arc::default(),
            buffer: Vec::new(),
        }
    }

    /// Appends payloads in order, with one system call, and returns the position after them. Once a [`Journal::sync`]
    /// returns this position or a later one, they are on disk. When `append` returns, they are in the kernel and
    /// survive the process; a crash of the machine before the next sync may keep any prefix of them.
    ///
    /// A payload may be empty. If no sync has created the next segment in advance, this creates it on demand; if
    /// nothing has been synced for long, it syncs the oldest of five segments.
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
        self.erase_failed_append()?;
        if self.tail + bytes > self.current.header.end() {
            self.rotate(bytes)?;
        }
        self.write_zeros_ahead(bytes);
        let before = self.encode(payloads);
        let offset = self.tail - self.current.header.first;
        let written =
            write_full(self.current.file.as_ref(), offset, &self.buffer).io_context("write", &self.current.path);
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT);
        if let Err(error) = written {
            self.failed_append = Some(self.tail + bytes);
            // If this fails, the remains are cleared before the next append.
            let cleared = self.erase_failed_append();
            let failed = self.failed(error);
            // If clearing failed because the disk fails, return that error: it is the more serious one.
            return Err(cleared.err().filter(|_| self.poison().is_some()).unwrap_or(failed));
        }
        self.tail += bytes;
        self.end = self.tail;
        self.before = before;
        Ok(self.end())
    }

    /// Makes everything that was appended durable, and returns the position after it. Blocks on the disk.
    ///
    /// # Errors
    /// After the first failure the journal is poisoned: nothing is ever acknowledged again.
    ///
    /// # Panics
    /// Another sync has begun and not ended.
    pub fn sync(&mut self) -> Result<Position, JournalError> {
        let synced = self.begin_sync()?.run();
        self.end_sync(synced)
    }

    /// Whether to use as little space as possible: small segments, and none created in advance. For a disk that is
    /// nearly full, when a snapshot needs the remaining space.
    pub fn set_low_space(&mut self, low_space: bool) {
        self.low_space = low_space;
    }

    /// From now on leaves `bytes` of disk space to a snapshot: an append that needs a new segment fails with
    /// [`JournalError::NoSpace`] if the segment, or what it will hold, would take that space.
    pub fn set_claimed(&mut self, bytes: u64) {
        self.claimed = bytes;
    }

    fn may_take(&self, size: u64) -> bool {
        // What the segment will hold may be new, so that the snapshot needs space for it, too.
        let needed = self.claimed.saturating_add(size.saturating_mul(2));
        // If the system does not tell how much is free, creating the segment will.
        self.claimed == 0 || self.disk.free_space(&self.directory).map_or(true, |free| free >= needed)
    }

    /// Whether a sync follows nearly every append. File systems track which parts of an allocated file were ever
    /// written, and a sync after the first write to a part must make that metadata durable, too, which takes about as
    /// long again. With this set, few syncs have to: [`Journal::begin_next`] creates the next segment, instead of a
    /// sync, and fills it with zeros. In a segment that was created otherwise, zeros are written ahead, a mebibyte at a
    /// time.
    pub fn set_syncs_often(&mut self, often: bool) {
        self.syncs_often = often;
    }

    /// Where the last record ends; a snapshot of everything so far gets this position.
    #[must_use]
    pub fn end(&self) -> Position {
        Position(self.end)
    }

    /// Everything below this position is on disk.
    #[must_use]
    pub fn synced(&self) -> Position {
        Position(self.synced)
    }

    /// How many bytes can be appended without a new file, framing included. On a full disk, this is what is left for
    /// records that must not be refused.
    #[must_use]
    pub fn room(&self) -> u64 {
        let next = self.next.as_ref().map_or(0, |next| next.header.end() - next.header.body());
        self.current.header.end().saturating_sub(self.tail) + next
    }

    /// Whether a payload of `bytes` bytes fits into the current segment: then appending it is one write.
    #[must_use]
    pub fn fits(&self, bytes: u64) -> bool {
        self.failed_append.is_none() && self.tail + frame::HEADER_BYTES as u64 + bytes <= self.current.header.end()
    }

    /// Why the journal accepts nothing any more; `None` while it does.
    #[must_use]
    pub fn poison(&self) -> Option<&str> {
        self.health.poison.get().map(String::as_str)
    }

    /// Statistics for operators.
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

    /// Encodes payloads as frames into the buffer. Returns where the last one begins.
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

    /// When syncs are frequent: writes zeros past the next append, if it uses up those written so far.
    fn write_zeros_ahead(&mut self, bytes: u64) {
        let behind = self.tail + bytes;
        if !self.syncs_often || self.current.is_zeroed || behind <= self.zeroed {
            return;
        }
        let Header { first, .. } = self.current.header;
        let (from, upto) = (behind.max(self.zeroed), (behind + ZEROS_AHEAD).min(self.current.header.end()));
        // If the disk fails here, the append will report it as well.
        let _ = segment::write_zeros(self.current.file.as_ref(), from - first, upto - first);
        self.zeroed = upto;
    }

    /// Continues with the next segment, which has room for `bytes` bytes.
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

    /// Creates the next segment, replacing one that is too small for a large payload.
    fn make_next(&mut self, least: u64, small: Option<Segment>) -> Result<Segment, JournalError> {
        // If there is no room for a whole segment, there may be room for a smaller one.
        let part = (self.segment_bytes / SEGMENT_PARTS).max(segment::SEGMENT_BYTES_LEAST).max(least);
        let size = if self.low_space { part } else { self.segment_bytes.max(least) };
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
        if !self.may_take(size) {
            let source = io::Error::new(ErrorKind::StorageFull, "the space that is left is for the next snapshot");
            return Err(FileError { action: "extend the log in", file: self.directory.clone(), source });
        }
        let header = Header { size, ..self.next_header() };
        Draft::write(self.disk.as_ref(), &self.directory, header, "new", self.bugs)
    }

    fn publish(&mut self, draft: Draft) -> Result<Segment, JournalError> {
        draft.publish(self.disk.as_ref(), &self.directory, self.bugs).map_err(|error| match error {
            PublishError::NotNamed(error) => self.failed(error),
            PublishError::NotSynced(error) => self.poisoned(error),
        })
    }

    fn next_header(&self) -> Header {
        Header { directory: self.id, first: self.current.header.end(), size: self.segment_bytes }
    }

    /// Limits the work of the next sync.
    fn sync_oldest(&mut self) -> Result<(), JournalError> {
        if self.unsynced.len() <= SEGMENTS_UNSYNCED || self.health.syncing.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some(Full { segment, end }) = self.unsynced.pop_front() else { return Ok(()) };
        // IMPORTANT: never retry a failed sync, not even for lack of space, which some file systems report only here. The
        // kernel treats what it could not write as written, and a retry would report success.
        segment.file.sync_data().io_context("sync", &segment.path).map_err(|error| self.poisoned(error))?;
        // Not up to the end of the segment: a record that would have fit there may be in the next one.
        self.synced = self.synced.max(end);
        Ok(())
    }

    /// Overwrites the remains of a failed append with zeros.
    ///
    /// IMPORTANT: do this before anything else is appended. Otherwise recovery could read frames that were never
    /// acknowledged as part of the log.
    pub(crate) fn erase_failed_append(&mut self) -> Result<(), JournalError> {
        let Some(upto) = self.failed_append.filter(|_| !self.bugs.plants(Bug::TailNotCleared)) else { return Ok(()) };
        let (file, path, first) = (&self.current.file, &self.current.path, self.current.header.first);
        let cleared = file.length().io_context("inspect", path).and_then(|length| {
            // Bytes past the end of the file were not written, and need no space.
            let zeros = upto.min(first + length).saturating_sub(self.tail);
            let zeros = vec![0; usize::try_from(zeros).unwrap_or(usize::MAX)];
            write_full(file.as_ref(), self.tail - first, &zeros).io_context("write", path)
        });
        cleared.map_err(|error| self.failed(error))?;
        self.failed_append = None;
        self.clearings += 1;
        Ok(())
    }

    fn check_poison(&self) -> Result<(), JournalError> {
        match self.poison() {
            Some(reason) => Err(JournalError::Poisoned { reason: reason.to_owned() }),
            None => Ok(()),
        }
    }

    /// Classifies a failed call other than a sync: lack of space is temporary, everything else is permanent.
    fn failed(&self, error: FileError) -> JournalError {
        if error.is_no_space() { JournalError::NoSpace(error) } else { self.poisoned(error) }
    }

    fn poisoned(&self, error: FileError) -> JournalError {
        self.health.poison(&error);
        JournalError::Failed(error)
    }
}
