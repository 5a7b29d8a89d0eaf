//! Reading the log back: which part of it is good, what a crash tore off, and what is damaged.
//!
//! A crash may lose anything that was not synced, from any frame. So a bad frame is either the torn end of the log, or
//! was on disk and is damaged. Later frames decide: each states up to where the log was synced when it was written. If
//! one of them shows that the bad frame was on disk, it is damage, and nothing is cut.
//!
//! A file that is shorter than its header says is damage wherever it ends: its length was durable before it got its
//! name.
//!
//! If the last process stopped cleanly, with everything on disk, there is no torn end: anything bad is damage. That the
//! machine has not been booted since proves less: a file system that was detached and mounted again has a torn end,
//! too.

use std::path::{Path, PathBuf};

use crate::bugs::{Bug, Bugs};
use crate::disk::{Disk, Mode};
use crate::error::{Damage, FileError, Flaw, OpenError, Rejection};
use crate::frame::{self, Frame, Parsed};
use crate::position::{DirectoryId, Position};
use crate::segment::{self, Header, Image};

/// A recovered payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered<'a> {
    /// A payload of the snapshot. All of these come first.
    Snapshot(&'a [u8]),
    /// A payload of the log.
    Log {
        /// Its position.
        position: Position,
        /// Its bytes.
        payload: &'a [u8],
    },
}

/// Receives the recovered payloads, in order.
pub type Deliver<'a> = &'a mut dyn FnMut(Recovered<'_>) -> Result<(), Rejection>;

/// The end of the log, torn by a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the good part of the segment ends.
    pub offset: u64,
    /// How many bytes follow it.
    pub bytes: u64,
    /// Whether good records follow. Both a power cut and damage cause that; a killed process leaves half a record at
    /// most.
    pub followed: bool,
    /// Later segments, which are useless without those bytes.
    pub dropped: Vec<PathBuf>,
}

/// The parameters for reading a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a, B> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) directory: &'a Path,
    pub(crate) id: DirectoryId,
    /// Where the segments begin, in order.
    pub(crate) segment_starts: &'a [u64],
    /// The position to begin at: that of the snapshot.
    pub(crate) from: u64,
    pub(crate) trust: Trust,
    pub(crate) bugs: B,
}

/// What may have happened to the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The machine or its disk may have crashed.
    Torn,
    /// Nothing: the process stopped cleanly.
    Whole,
}

/// A log that was read to its end.
#[derive(Debug)]
pub(crate) struct LogEnd {
    /// The segments that contain the good part, oldest first; the log continues in the last one.
    pub(crate) segments: Vec<Header>,
    pub(crate) end: u64,
    pub(crate) before: Option<u64>,
    pub(crate) records: u64,
    /// Everything below was on disk, according to the log itself or a snapshot.
    pub(crate) synced: u64,
    pub(crate) torn: Option<TornTail>,
}

/// The good part so far.
struct Chain {
    /// All segments read so far.
    segments: Vec<Header>,
    /// Where the last good frame ends, and the index of its segment.
    end: u64,
    end_index: usize,
    before: Option<u64>,
    records: u64,
    synced: u64,
}

/// Where a segment stops being good.
enum Stop {
    /// After its last frame there are only zeros.
    End,
    /// Something is wrong at this offset of it.
    Bad(usize),
    /// A whole frame does not follow the last one that was read.
    Gap,
}

/// Where the log stops being good. It continues where the chain ends: at the same place, or at the end of an earlier
/// segment.
struct Wrong {
    index: usize,
    position: u64,
    flaw: Flaw,
}

impl<B: Bugs> Reading<'_, B> {
    /// Reads the log and delivers each payload. Changes nothing. `None` if there is no log at all.
    pub(crate) fn read(self, deliver: Deliver<'_>) -> Result<Option<LogEnd>, OpenError> {
        let misses_tail = self.bugs.plants(Bug::SnapshotMissesTail) && self.from > 0;
        let behind = self.segment_starts.partition_point(|&first| first <= self.from);
        let base = if misses_tail { Some(behind) } else { behind.checked_sub(1) };
        let segment_starts = match base.and_then(|base| self.segment_starts.get(base..)) {
            Some(segment_starts) if !segment_starts.is_empty() => segment_starts,
            _ if self.segment_starts.is_empty() || misses_tail => return Ok(None),
            _ => return Err(self.missing(self.from).into()),
        };
        let last_used = self.last_used(segment_starts)?;
        let mut chain =
            Chain { segments: Vec::new(), end: self.from, end_index: 0, before: None, records: 0, synced: self.from };
        for (index, &first) in segment_starts.iter().enumerate().take(last_used + 1) {
            let image = Image::load(self.disk, self.directory, self.id, first)?;
            self.check_place(&chain, image.header)?;
            chain.segments.push(image.header);
            if index == 0 {
                chain.end = self.from.max(image.header.body());
            }
            match self.walk(&mut chain, index, &image, deliver)? {
                Stop::End => {}
                Stop::Bad(offset) => {
                    let wrong = Wrong { index, position: first + offset as u64, flaw: Flaw::Record };
                    return self.judge(chain, segment_starts, last_used, wrong).map(Some);
                }
                Stop::Gap => {
                    let wrong = Wrong { index: chain.end_index, position: chain.end, flaw: Flaw::RecordsMissing };
                    return self.judge(chain, segment_starts, last_used, wrong).map(Some);
                }
            }
        }
        // A segment created in advance has no records. Even so, its header was on disk before it had its name.
        for &first in segment_starts.iter().skip(last_used + 1) {
            segment::open(self.disk, self.directory, self.id, first, Mode::Read)?;
        }
        Ok(Some(chain.into_end(None)))
    }

    /// Delivers the frames of one segment, up to where it is good.
    fn walk(self, chain: &mut Chain, index: usize, image: &Image, deliver: Deliver<'_>) -> Result<Stop, OpenError> {
        let first = image.header.first;
        let start = if index == 0 { chain.end } else { image.header.body() };
        let mut offset = usize::try_from(start - first).unwrap_or(usize::MAX);
        loop {
            let frame = match frame::parse(image.rest(offset), first + offset as u64, self.bugs) {
                Parsed::Frame(frame) => frame,
                Parsed::Nothing if image.used <= offset => return Ok(Stop::End),
                Parsed::Nothing | Parsed::Bad => return Ok(Stop::Bad(offset)),
            };
            if !self.follows(chain, frame) {
                return Ok(Stop::Gap);
            }
            let payload = image.rest(offset + frame::HEADER_BYTES).get(..frame.length).unwrap_or_default();
            let position = Position(frame.position);
            if let Err(reason) = deliver(Recovered::Log { position, payload }) {
                return Err(OpenError::Rejected { file: image.path.clone(), offset: offset as u64, reason });
            }
            chain.add(index, frame);
            offset = usize::try_from(frame.end() - first).unwrap_or(usize::MAX);
        }
    }

    /// Whether a frame is the successor of the last one that was read.
    fn follows(self, chain: &Chain, frame: Frame) -> bool {
        match (chain.before, frame.before) {
            // The first frame of the log, or the first after a start that found the log to end at its snapshot: that
            // start knew of no earlier frame. Its position is where the last frame ends.
            (_, None) => true,
            // The first frame after a snapshot: the previous frame is one that the snapshot covers.
            (None, Some(before)) => before < self.from,
            (Some(last), before) => before == Some(last),
        }
    }

    /// Checks that no segment is missing between those read and this one, and that the first contains the starting
    /// position.
    fn check_place(self, chain: &Chain, header: Header) -> Result<(), Damage> {
        match chain.segments.last() {
            Some(last) if last.end() != header.first => Err(self.missing(last.end())),
            None if self.from > header.end() => Err(self.missing(header.end())),
            _ => Ok(()),
        }
    }

    /// Decides whether a flaw is a torn tail or damage.
    fn judge(self, chain: Chain, segment_starts: &[u64], last_used: usize, wrong: Wrong) -> Result<LogEnd, OpenError> {
        let place = |index: usize, position: u64| {
            let first = chain.segments.get(index).map_or(0, |header| header.first);
            (self.directory.join(segment::name(first)), position.saturating_sub(first))
        };
        let (file, offset) = place(wrong.index, wrong.position);
        let damage = Damage { file, offset, flaw: wrong.flaw };
        let (file, cut) = place(chain.end_index, chain.end);
        let (mut bytes, mut followed) = (0, false);
        for (index, &first) in segment_starts.iter().enumerate().take(last_used + 1).skip(chain.end_index) {
            let image = Image::load(self.disk, self.directory, self.id, first)?;
            let mut from = segment::HEADER_BYTES;
            if index == chain.end_index {
                from = usize::try_from(cut).unwrap_or(usize::MAX);
                bytes = image.used.saturating_sub(from) as u64;
            }
            for frame in frame::resync(&image.bytes, first, from, self.bugs) {
                let proves = frame.synced.is_some_and(|synced| synced > wrong.position);
                if proves && !self.bugs.plants(Bug::DamageTakenForTornTail) {
                    return Err(damage.into());
                }
                followed = true;
            }
        }
        if self.trust == Trust::Whole {
            return Err(damage.into());
        }
        let dropped = segment_starts.iter().skip(chain.end_index + 1);
        let dropped = dropped.map(|&first| self.directory.join(segment::name(first))).collect();
        Ok(chain.into_end(Some(TornTail { file, offset: cut, bytes, followed, dropped })))
    }

    /// The index of the last segment that anything was written to.
    fn last_used(self, segment_starts: &[u64]) -> Result<usize, FileError> {
        for (index, &first) in segment_starts.iter().enumerate().skip(1).rev() {
            if segment::has_content(self.disk, self.directory, first)? {
                return Ok(index);
            }
        }
        Ok(0)
    }

    fn missing(self, first: u64) -> Damage {
        Damage { file: self.directory.join(segment::name(first)), offset: 0, flaw: Flaw::SegmentMissing }
    }
}

impl Chain {
    fn add(&mut self, index: usize, frame: Frame) {
        self.end = frame.end();
        self.end_index = index;
        self.before = Some(frame.position);
        self.records += 1;
        self.synced = self.synced.max(frame.synced.unwrap_or(0));
    }

    fn into_end(self, torn: Option<TornTail>) -> LogEnd {
        let Self { mut segments, end, end_index, before, records, synced } = self;
        segments.truncate(end_index + 1);
        LogEnd { segments, end, before, records, synced, torn }
    }
}
