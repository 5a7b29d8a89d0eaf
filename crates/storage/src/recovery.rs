//! Reading the log back: what of it is good, what was torn off by a crash, and what is damaged.
//!
//! A crash may take anything that was not synced, of any frame. So a frame that is bad may be the torn end of the log,
//! or one that was on disk and is damaged. Frames further on tell: each says up to where the log was synced when it was
//! written. If one of them says that the bad one was on disk, it is damage, and nothing is cut.
//!
//! A file that is shorter than its header says is damage wherever it ends: its length lasted before it got its name.
//!
//! Where the last process stopped in order, with everything on disk, there is no torn end: whatever is bad is damage.
//! That the machine was not booted since proves less: a file system that was torn off and mounted again has a torn end,
//! too.

use std::path::{Path, PathBuf};

use crate::bugs::{Bug, Bugs};
use crate::disk::{Disk, Mode};
use crate::error::{Damage, FileError, Flaw, OpenError, Rejection};
use crate::frame::{self, Frame, Parsed};
use crate::position::{DirectoryId, Position};
use crate::segment::{self, Header, Image};

/// A payload that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered<'a> {
    /// One of the snapshot. All of these come first.
    Snapshot(&'a [u8]),
    /// One of the log.
    Log {
        /// Where it stands.
        position: Position,
        /// What it is.
        payload: &'a [u8],
    },
}

/// Takes what is given back, in order.
pub type Deliver<'a> = &'a mut dyn FnMut(Recovered<'_>) -> Result<(), Rejection>;

/// The end of the log, which a crash has torn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where in it the good part ends.
    pub offset: u64,
    /// How many bytes there are behind.
    pub bytes: u64,
    /// Whether good records lie behind. A cut of the power does that, and so does damage; a process that was killed
    /// leaves half a record at most.
    pub followed: bool,
    /// Later segments, which are of no use without them.
    pub dropped: Vec<PathBuf>,
}

/// How to read a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a, B> {
    pub(crate) disk: &'a dyn Disk,
    pub(crate) directory: &'a Path,
    pub(crate) id: DirectoryId,
    /// Where the segments begin, in order.
    pub(crate) firsts: &'a [u64],
    /// Where to begin: at the snapshot's position.
    pub(crate) from: u64,
    pub(crate) trust: Trust,
    pub(crate) bugs: B,
}

/// What can have happened to the end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The machine or its disk may have crashed.
    Torn,
    /// Nothing: it stopped in order.
    Whole,
}

/// A log that was read to its end.
#[derive(Debug)]
pub(crate) struct LogEnd {
    /// The segments that the good part lies in, oldest first; the last is where it goes on.
    pub(crate) segments: Vec<Header>,
    pub(crate) end: u64,
    pub(crate) before: Option<u64>,
    pub(crate) records: u64,
    /// Everything below was on disk, as the log itself or a snapshot says.
    pub(crate) synced: u64,
    pub(crate) torn: Option<TornTail>,
}

/// The good part so far.
struct Chain {
    /// Of every segment that was read.
    segments: Vec<Header>,
    /// Where the last good frame ends, and in which of the segments.
    end: u64,
    end_index: usize,
    before: Option<u64>,
    records: u64,
    synced: u64,
}

/// Where a segment stops being good.
enum Stop {
    /// Behind its last frame there are zeros only.
    End,
    /// Something is wrong at this offset of it.
    Bad(usize),
    /// A whole frame does not follow on the last one that was read.
    Gap,
}

/// Where the log is not good any more. It goes on where the chain ends: that is the same place, or the end of an earlier
/// segment.
struct Wrong {
    index: usize,
    position: u64,
    flaw: Flaw,
}

impl<B: Bugs> Reading<'_, B> {
    /// Reads the log, and hands each payload on. Changes nothing. `None` where there is no log at all.
    pub(crate) fn read(self, deliver: Deliver<'_>) -> Result<Option<LogEnd>, OpenError> {
        let misses_tail = self.bugs.plants(Bug::SnapshotMissesTail) && self.from > 0;
        let behind = self.firsts.partition_point(|&first| first <= self.from);
        let base = if misses_tail { Some(behind) } else { behind.checked_sub(1) };
        let firsts = match base.and_then(|base| self.firsts.get(base..)) {
            Some(firsts) if !firsts.is_empty() => firsts,
            _ if self.firsts.is_empty() || misses_tail => return Ok(None),
            _ => return Err(self.missing(self.from).into()),
        };
        let last_used = self.last_used(firsts)?;
        let mut chain =
            Chain { segments: Vec::new(), end: self.from, end_index: 0, before: None, records: 0, synced: self.from };
        for (index, &first) in firsts.iter().enumerate().take(last_used + 1) {
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
                    return self.judge(chain, firsts, last_used, wrong).map(Some);
                }
                Stop::Gap => {
                    let wrong = Wrong { index: chain.end_index, position: chain.end, flaw: Flaw::RecordsMissing };
                    return self.judge(chain, firsts, last_used, wrong).map(Some);
                }
            }
        }
        // One that was made in advance has no records. Its header was on disk before it had its name, all the same.
        for &first in firsts.iter().skip(last_used + 1) {
            segment::open(self.disk, self.directory, self.id, first, Mode::Read)?;
        }
        Ok(Some(chain.into_end(None)))
    }

    /// Hands on the frames of one segment, up to where it is good.
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

    /// Whether a frame is the one that comes after the last one that was read.
    fn follows(self, chain: &Chain, frame: Frame) -> bool {
        match (chain.before, frame.before) {
            // The first of the log, or the first behind a snapshot at which a start had found the log's end: it knew of no
            // frame before. Where it stands is where the last one ends.
            (_, None) => true,
            // The first behind a snapshot: the frame before it is one that the snapshot stands for.
            (None, Some(before)) => before < self.from,
            (Some(last), before) => before == Some(last),
        }
    }

    /// The segments that were read and this one are all there, and the place to begin at is in the first.
    fn check_place(self, chain: &Chain, header: Header) -> Result<(), Damage> {
        match chain.segments.last() {
            Some(last) if last.end() != header.first => Err(self.missing(last.end())),
            None if self.from > header.end() => Err(self.missing(header.end())),
            _ => Ok(()),
        }
    }

    /// Whether what is wrong is a torn tail or damage.
    fn judge(self, chain: Chain, firsts: &[u64], last_used: usize, wrong: Wrong) -> Result<LogEnd, OpenError> {
        let place = |index: usize, position: u64| {
            let first = chain.segments.get(index).map_or(0, |header| header.first);
            (self.directory.join(segment::name(first)), position.saturating_sub(first))
        };
        let (file, offset) = place(wrong.index, wrong.position);
        let damage = Damage { file, offset, flaw: wrong.flaw };
        let (file, cut) = place(chain.end_index, chain.end);
        let (mut bytes, mut followed) = (0, false);
        for (index, &first) in firsts.iter().enumerate().take(last_used + 1).skip(chain.end_index) {
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
        let dropped = firsts.iter().skip(chain.end_index + 1);
        let dropped = dropped.map(|&first| self.directory.join(segment::name(first))).collect();
        Ok(chain.into_end(Some(TornTail { file, offset: cut, bytes, followed, dropped })))
    }

    /// The last segment that anything was written to.
    fn last_used(self, firsts: &[u64]) -> Result<usize, FileError> {
        for (index, &first) in firsts.iter().enumerate().skip(1).rev() {
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
