//! A start: everything is given back, what a crash has torn is cut, and the log goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{DataDir, begin_log, clear, set_aside};
use crate::bugs::{Bug, Bugs};
use crate::cut_mark;
use crate::disk::{Mode, read_full, write_full};
use crate::error::{Damage, FileError, Named as _, OpenError, ReadError};
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
    /// The snapshot that it began with.
    pub snapshot: Option<Position>,
    /// How long it is, in bytes.
    pub snapshot_bytes: u64,
    /// How many payloads that had.
    pub snapshot_records: u64,
    /// How many payloads of the log followed.
    pub log_records: u64,
    /// Where the log goes on.
    pub end: Position,
    /// What a crash tore off, and was cut.
    pub torn_tail: Option<TornTail>,
    /// Newer snapshots that are damaged and were not needed. They are kept under names that end in `.damaged`.
    pub damaged_snapshots: Vec<Damage>,
}

impl<B: Bugs> DataDir<B> {
    /// Gives everything back that the directory holds: the newest good snapshot, and the log from there on. Cuts a tail
    /// that a crash has torn, and opens the log for appending. Everything that was given back is on disk when this
    /// returns. Blocks on the disk; holds one segment or one block of a snapshot in memory.
    ///
    /// # Errors
    /// Payloads may have been given back; they are as they were written, and in order. Nothing was cut or changed,
    /// unless the disk failed ([`OpenError::File`]); it is safe to start again.
    pub fn recover(&mut self, deliver: Deliver<'_>) -> Result<(Journal<B>, Recovery), OpenError> {
        self.recover_as(deliver, |_, _| {})
    }

    /// [`DataDir::recover`]; `note` changes the identity by what was found, in the same step that opens the log: no crash
    /// can come between.
    ///
    /// # Errors
    /// As there.
    pub fn recover_as(
        &mut self,
        deliver: Deliver<'_>,
        note: impl FnOnce(&Recovery, &mut Identity),
    ) -> Result<(Journal<B>, Recovery), OpenError> {
        let listing = Listing::read(self.disk.as_ref(), &self.path)?;
        let survey = self.survey(&listing, deliver)?;
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
            self.disk.remove(&file).named("remove", &file)?;
        }
        // A mark says nothing of snapshots that were begun behind it.
        for &cut in listing.cuts.iter().filter(|&&cut| listing.snapshots.iter().all(|&position| position > cut)) {
            let file = self.path.join(cut_mark::name(cut));
            self.disk.remove(&file).named("remove", &file)?;
        }
        let resumed = match survey.log {
            Some(log) => self.cut(log, &listing)?,
            None => self.begin_log(survey.snapshot.unwrap_or(0))?,
        };
        let end = Position(resumed.end);
        let boot = self.disk.boot_id();
        let place = self.disk.place(&self.path).named("inspect", &self.path)?;
        // IMPORTANT: before anything is appended. From here on the log's end is not known to be whole.
        self.update_identity(|identity| {
            identity.boot = boot;
            identity.place = place;
            identity.stopped_at = None;
            identity.log_begun = true;
            note(&recovery, identity);
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
        self.disk.open(&file, Mode::Read).and_then(|open| open.length()).named("inspect", &file)
    }

    fn survey(&self, listing: &Listing, deliver: Deliver<'_>) -> Result<Survey, OpenError> {
        let (disk, identity) = (self.disk.as_ref(), &self.identity);
        Survey::take(disk, &self.path, identity, listing, self.bugs, deliver)
    }

    /// Cuts what was torn, makes the rest last, and opens the end.
    fn cut(&self, log: LogEnd, listing: &Listing) -> Result<Resumed, OpenError> {
        let (disk, path, id) = (self.disk.as_ref(), self.path.as_path(), self.identity.directory);
        let mut full: VecDeque<Header> = log.segments.into();
        let Some(last) = full.pop_back() else { return Ok(self.begin_log(log.end)?) };
        let current = segment::open(disk, path, id, last.first, Mode::Write)?;
        let mut next = listing.firsts.iter().copied().filter(|&first| first > last.first);
        let ready = next.clone().next().filter(|&first| first == last.end() && log.torn.is_none());
        let ready = ready.map(|first| segment::open(disk, path, id, first, Mode::Write)).transpose()?;
        let kept = ready.as_ref().map(|ready| ready.header.first);
        // IMPORTANT: newest first, each for good before the next. A crash leaves a log that has an end, and no gap.
        while let Some(first) = next.next_back().filter(|&first| Some(first) != kept) {
            let file = path.join(segment::name(first));
            disk.remove(&file).named("remove", &file)?;
            self.sync_directory()?;
        }
        if let Some(torn) = log.torn.filter(|_| !self.bugs.plants(Bug::TailNotCleared)) {
            clear(&current, torn.offset, torn.bytes)?;
        }
        for header in full.iter().filter(|header| header.end() > log.synced) {
            let segment = segment::open(disk, path, id, header.first, Mode::Write)?;
            self.make_last(&segment, log.synced, header.end())?;
        }
        self.make_last(&current, log.synced, log.end)?;
        self.sync_directory()?;
        self.take_older(&mut full, last.first, listing)?;
        Ok(Resumed { full, current, next: ready, end: log.end, before: log.before })
    }

    /// Makes a part of a segment last that may not have been synced.
    ///
    /// IMPORTANT: by writing it again. The kernel may show bytes that it failed to write, if the process before was told
    /// so and was killed; it takes them for written, and a sync alone would say that all is well.
    fn make_last(&self, segment: &Segment, from: u64, upto: u64) -> Result<(), FileError> {
        const STEP: u64 = 256 * 1024;
        let first = segment.header.first;
        let (mut at, upto) = (from.max(segment.header.body()), upto.min(segment.header.end()));
        while at < upto && !self.found.stopped_in_order {
            let mut bytes = vec![0; usize::try_from(STEP.min(upto - at)).unwrap_or_default()];
            let read = read_full(segment.file.as_ref(), at - first, &mut bytes).named("read", &segment.path)?;
            if read == 0 {
                break;
            }
            write_full(segment.file.as_ref(), at - first, bytes.get(..read).unwrap_or_default())
                .named("write", &segment.path)?;
            at += read as u64;
        }
        segment.file.sync_data().named("sync", &segment.path)
    }

    /// Takes the segments below the snapshot into the log, from which a later `remove_before` removes them. Those below a
    /// gap, which a crash in the middle of that leaves, can serve no snapshot any more.
    fn take_older(&self, full: &mut VecDeque<Header>, last: u64, listing: &Listing) -> Result<(), FileError> {
        let mut oldest = full.front().map_or(last, |oldest| oldest.first);
        let below = listing.firsts.partition_point(|&first| first < oldest);
        let mut gap = false;
        for &first in listing.firsts.iter().take(below).rev() {
            let file = self.path.join(segment::name(first));
            match segment::open(self.disk.as_ref(), &self.path, self.identity.directory, first, Mode::Read) {
                Ok(old) if old.header.end() == oldest && !gap => {
                    oldest = first;
                    full.push_front(old.header);
                    continue;
                }
                Ok(_) => self.disk.remove(&file).named("remove", file)?,
                Err(ReadError::Damaged(_)) => drop(set_aside(self.disk.as_ref(), &self.path, &file, "damaged")?),
                Err(ReadError::File(error)) => return Err(error),
            }
            gap = true;
        }
        Ok(())
    }

    /// Makes the first segment of a log.
    fn begin_log(&self, first: u64) -> Result<Resumed, FileError> {
        let header = Header { directory: self.identity.directory, first, size: self.options.segment_bytes };
        let current = begin_log(self.disk.as_ref(), &self.path, header, self.bugs)?;
        Ok(Resumed { full: VecDeque::new(), current, next: None, end: header.body(), before: None })
    }

    fn sync_directory(&self) -> Result<(), FileError> {
        if self.bugs.plants(Bug::NoDirectorySync) {
            return Ok(());
        }
        self.disk.sync_directory(&self.path).named("sync", &self.path)
    }
}
