//! A start: delivers all data, cuts what a crash has torn, and reopens the log.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::{DataDir, begin_log, clear, set_aside};
use crate::bugs::{Bug, Bugs};
use crate::cut_mark;
use crate::disk::{Mode, read_full, write_full};
use crate::error::{Damage, FileError, Flaw, IoContext as _, OpenError, ReadError};
use crate::identity::Identity;
use crate::journal::{Journal, Resumed};
use crate::position::Position;
use crate::recovery::{Deliver, LogEnd, TornTail};
use crate::segment::{self, Header, Segment};
use crate::snapshot;
use crate::survey::{Listing, Survey};

/// What recovery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// The snapshot that recovery began with.
    pub snapshot: Option<Position>,
    /// The length of the snapshot in bytes.
    pub snapshot_bytes: u64,
    /// How many payloads the snapshot had.
    pub snapshot_records: u64,
    /// How many payloads of the log followed.
    pub log_records: u64,
    /// Where the log continues.
    pub end: Position,
    /// What a crash tore off; it has been cut.
    pub torn_tail: Option<TornTail>,
    /// Damaged newer snapshots that were not needed. They are kept under names that end in `.damaged`.
    pub damaged_snapshots: Vec<Damage>,
}

impl<B: Bugs> DataDir<B> {
    /// Delivers everything the directory holds: the newest good snapshot, and the log from there on. Cuts a torn tail
    /// that a crash left, and opens the log for appending. Everything delivered is on disk when this returns. Blocks on
    /// the disk; holds one segment or one block of a snapshot in memory.
    ///
    /// # Errors
    /// Some payloads may have been delivered; they are correct and in order. Nothing was cut or changed, unless the
    /// disk failed ([`OpenError::File`]); it is safe to start again.
    pub fn recover(&mut self, deliver: Deliver<'_>) -> Result<(Journal<B>, Recovery), OpenError> {
        self.recover_as(deliver, |_, _| {})
    }

    /// [`DataDir::recover`]; `note` updates the identity from what was found, before anything is cut.
    ///
    /// # Errors
    /// As for [`DataDir::recover`].
    pub fn recover_as(
        &mut self,
        deliver: Deliver<'_>,
        note: impl FnOnce(&Recovery, &mut Identity),
    ) -> Result<(Journal<B>, Recovery), OpenError> {
        let listing = Listing::read(self.disk.as_ref(), &self.path)?;
        let survey = self.survey(&listing, deliver).map_err(as_failure)?;
        let recovery = Recovery {
            snapshot: survey.snapshot.map(Position),
            snapshot_bytes: self.length_of_snapshot(survey.snapshot)?,
            snapshot_records: survey.snapshot_records,
            log_records: survey.log.as_ref().map_or(0, |log| log.records),
            end: Position(survey.log.as_ref().map_or(survey.from(), |log| log.end)),
            torn_tail: survey.log.as_ref().and_then(|log| log.torn.clone()),
            damaged_snapshots: survey.damaged.clone(),
        };
        for damage in &survey.damaged {
            set_aside(self.disk.as_ref(), &self.path, &damage.file, "damaged")?;
        }
        for name in &listing.unfinished {
            let file = self.path.join(name);
            self.disk.remove(&file).io_context("remove", &file)?;
        }
        // A mark says nothing about snapshots that begin after it.
        for &cut in listing.cuts.iter().filter(|&&cut| listing.snapshots.iter().all(|&position| position > cut)) {
            let file = self.path.join(cut_mark::name(cut));
            self.disk.remove(&file).io_context("remove", &file)?;
        }
        let mut noted = self.identity.clone();
        note(&recovery, &mut noted);
        if noted != self.identity {
            // IMPORTANT: before the tail is cut. A start after an interrupted one finds a log without a torn end.
            self.update_identity(|identity| identity.clone_from(&noted))?;
        }
        let resumed = match survey.log {
            Some(log) => self.cut(log, &listing).inspect_err(|error| self.distrust_kernel_after(error))?,
            None => self.begin_log(survey.snapshot.unwrap_or(0))?,
        };
        let end = Position(resumed.end);
        let boot = self.disk.boot_id();
        let place = self.disk.place(&self.path).io_context("inspect", &self.path)?;
        // IMPORTANT: do this before anything is appended. From here on, the end of the log is not known to be whole.
        self.update_identity(|identity| {
            identity.boot = boot;
            identity.place = place.number;
            identity.stopped_at = None;
            identity.log_begun = true;
        })?;
        self.restore_reserve()?;
        let (disk, path) = (Arc::clone(&self.disk), self.path.clone());
        let segment_bytes = self.options.segment_bytes;
        let journal = Journal::resume(disk, path, self.identity.directory, segment_bytes, self.bugs, resumed);
        Ok((journal, Recovery { end, ..recovery }))
    }

    fn length_of_snapshot(&self, position: Option<u64>) -> Result<u64, FileError> {
        let Some(position) = position else { return Ok(0) };
        let file = self.path.join(snapshot::name(position));
        self.disk.open(&file, Mode::Read).and_then(|open| open.length()).io_context("inspect", &file)
    }

    fn survey(&self, listing: &Listing, deliver: Deliver<'_>) -> Result<Survey, OpenError> {
        let (disk, identity) = (self.disk.as_ref(), &self.identity);
        Survey::take(disk, &self.path, identity, listing, self.bugs, deliver)
    }

    /// If the disk has failed while the end of the log was made durable, what the kernel shows may not be on disk. The next
    /// start then trusts it no more than after a power cut.
    fn distrust_kernel_after(&mut self, error: &OpenError) {
        if matches!(error, OpenError::File(error) if ["write", "sync"].contains(&error.action)) {
            // If the disk does not take this either, nothing is left to try.
            let _ = self.update_identity(|identity| identity.boot = None);
        }
    }

    /// Cuts the torn tail, makes the rest durable, and opens the last segment.
    fn cut(&self, log: LogEnd, listing: &Listing) -> Result<Resumed, OpenError> {
        let (disk, path, id) = (self.disk.as_ref(), self.path.as_path(), self.identity.directory);
        let mut full: VecDeque<Header> = log.segments.into();
        let Some(last) = full.pop_back() else { return Ok(self.begin_log(log.end)?) };
        let mut current = segment::open(disk, path, id, last.first, Mode::Write)?;
        let mut next = listing.segment_starts.iter().copied().filter(|&first| first > last.first);
        // After a crash, one that looks unused may hold on disk what was erased from it.
        let ready = next.clone().next().filter(|&first| first == last.end() && self.found.stopped_in_order);
        let ready = ready.map(|first| segment::open(disk, path, id, first, Mode::Write)).transpose()?;
        let kept = ready.as_ref().map(|ready| ready.header.first);
        // IMPORTANT: remove the newest first, each durably before the next. So a crash leaves a log that ends early,
        // but has no gap.
        while let Some(first) = next.next_back().filter(|&first| Some(first) != kept) {
            let file = path.join(segment::name(first));
            disk.remove(&file).io_context("remove", &file)?;
            self.sync_directory()?;
        }
        if !self.found.stopped_in_order && !self.bugs.plants(Bug::TailNotCleared) {
            current.is_zeroed = clear_rest(&current, log.end, log.torn.as_ref())?;
        }
        for header in full.iter().filter(|header| header.end() > log.synced) {
            let segment = segment::open(disk, path, id, header.first, Mode::Write)?;
            self.make_last(&segment, log.synced, header.end())?;
        }
        self.make_last(&current, log.synced, log.end)?;
        self.sync_directory()?;
        self.adopt_older_segments(&mut full, last.first, listing)?;
        Ok(Resumed { full, current, next: ready, end: log.end, before: log.before })
    }

    /// Makes part of a segment durable that may not have been synced.
    ///
    /// IMPORTANT: rewrite it. After a failed write-back the kernel may still show the bytes: if the previous process
    /// saw the error and was killed, the kernel treats them as written, and a sync alone would report success.
    fn make_last(&self, segment: &Segment, from: u64, upto: u64) -> Result<(), FileError> {
        const STEP: u64 = 256 * 1024;
        let first = segment.header.first;
        let (mut at, upto) = (from.max(segment.header.body()), upto.min(segment.header.end()));
        while at < upto && !self.found.stopped_in_order {
            let mut bytes = vec![0; usize::try_from(STEP.min(upto - at)).unwrap_or_default()];
            let read = read_full(segment.file.as_ref(), at - first, &mut bytes).io_context("read", &segment.path)?;
            if read == 0 {
                break;
            }
            write_full(segment.file.as_ref(), at - first, bytes.get(..read).unwrap_or_default())
                .io_context("write", &segment.path)?;
            at += read as u64;
        }
        segment.file.sync_data().io_context("sync", &segment.path)
    }

    /// Adds the segments below the snapshot to the log, so that a later `remove_before` removes them. A crash during
    /// `remove_before` can leave a gap; segments below it serve no snapshot any more.
    fn adopt_older_segments(&self, full: &mut VecDeque<Header>, last: u64, listing: &Listing) -> Result<(), FileError> {
        let mut oldest = full.front().map_or(last, |oldest| oldest.first);
        let below = listing.segment_starts.partition_point(|&first| first < oldest);
        let mut gap = false;
        for &first in listing.segment_starts.iter().take(below).rev() {
            let file = self.path.join(segment::name(first));
            match segment::open(self.disk.as_ref(), &self.path, self.identity.directory, first, Mode::Read) {
                Ok(old) if old.header.end() == oldest && !gap => {
                    oldest = first;
                    full.push_front(old.header);
                    continue;
                }
                Ok(_) => self.disk.remove(&file).io_context("remove", file)?,
                Err(ReadError::Damaged(_)) => drop(set_aside(self.disk.as_ref(), &self.path, &file, "damaged")?),
                Err(ReadError::File(error)) => return Err(error),
            }
            gap = true;
        }
        Ok(())
    }

    /// Creates the first segment of a log.
    fn begin_log(&self, first: u64) -> Result<Resumed, FileError> {
        let header = Header { directory: self.identity.directory, first, size: self.options.segment_bytes };
        let current = begin_log(self.disk.as_ref(), &self.path, header, self.bugs)?;
        Ok(Resumed { full: VecDeque::new(), current, next: None, end: header.body(), before: None })
    }

    fn sync_directory(&self) -> Result<(), FileError> {
        if self.bugs.plants(Bug::NoDirectorySync) {
            return Ok(());
        }
        self.disk.sync_directory(&self.path).io_context("sync", &self.path)
    }
}

/// Fills a segment with zeros from the end of the log on. Returns whether it did so to the end of the segment.
///
/// IMPORTANT: not only where something is seen to follow. If an earlier process cut the log there and could not sync it,
/// the kernel shows zeros, and the disk still has what was cut.
fn clear_rest(segment: &Segment, end: u64, torn: Option<&TornTail>) -> Result<bool, FileError> {
    let Header { first, .. } = segment.header;
    let (from, behind) = (end.max(segment.header.body()) - first, segment.header.end() - first);
    let seen = from + torn.map_or(0, |torn| torn.bytes);
    clear(segment, from, seen)?;
    match clear(segment, seen, behind) {
        // The space of the segment is not allocated on every file system.
        Err(error) if error.is_no_space() => Ok(false),
        cleared => cleared.map(|()| true),
    }
}

/// What the disk does not return now, and nothing else replaces, it may return later: for a start, no damage.
fn as_failure(error: OpenError) -> OpenError {
    match error {
        OpenError::Damaged(Damage { file, flaw: Flaw::Unreadable(why), .. }) => {
            FileError { action: "read", file, source: io::Error::other(why) }.into()
        }
        error => error,
    }
}
