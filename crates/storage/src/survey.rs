//! Examines a data directory without changing it: for a start before it acts, and for a check that reports.

use std::io::ErrorKind;
use std::path::Path;

use crate::bugs::Bugs;
use crate::coordinator;
use crate::cut_mark;
use crate::disk::{Disk, Mode};
use crate::error::{Damage, FileError, Flaw, IoContext as _, OpenError, ReadError};
use crate::identity::{self, Identity};
use crate::position::{DirectoryId, Position};
use crate::recovery::{Deliver, LogEnd, Reading, Recovered, Trust};
use crate::segment;
use crate::snapshot::{self, Blocks, SnapshotReader};

/// The files of a data directory, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Where the segments begin, in order.
    pub(crate) segment_starts: Vec<u64>,
    /// The positions of the snapshots, in order.
    pub(crate) snapshots: Vec<u64>,
    /// Where repairs have cut the log, in order.
    pub(crate) cuts: Vec<u64>,
    /// Files that a crash left unfinished.
    pub(crate) unfinished: Vec<String>,
    /// Files that could not be read, or copies of what was cut at an operator's request.
    pub(crate) set_aside: Vec<String>,
    /// A coordinator has used the directory.
    pub(crate) is_of_coordinator: bool,
}

/// The prefixes of a node's files.
const OURS: [&str; 7] = ["log-", "snapshot-", "cut-", "identity", "map", "reserve", "discarded"];

impl Listing {
    pub(crate) fn read(disk: &dyn Disk, path: &Path) -> Result<Self, FileError> {
        let names = disk.list(path).io_context("list", path)?;
        // Leave other files alone.
        let is_ours = |name: &str| OURS.iter().any(|start| name.starts_with(start));
        let with = |endings: &[&str]| {
            let ends = |name: &&String| is_ours(name) && endings.iter().any(|ending| name.ends_with(ending));
            names.iter().filter(ends).cloned().collect()
        };
        Ok(Self {
            segment_starts: names.iter().filter_map(|name| segment::parse_name(name)).collect(),
            snapshots: names.iter().filter_map(|name| snapshot::parse_name(name)).collect(),
            cuts: names.iter().filter_map(|name| cut_mark::parse_name(name)).collect(),
            unfinished: with(&[".tmp", ".new", ".next"]),
            set_aside: with(&[".damaged", ".set-aside"]),
            is_of_coordinator: names
                .iter()
                .any(|name| [coordinator::LOCK_NAME, coordinator::STATE_NAME].contains(&name.as_str())),
        })
    }

    /// Whether any of the files belongs to a node.
    fn is_of_node(&self, disk: &dyn Disk, path: &Path) -> Result<bool, FileError> {
        let has = |name: &str| {
            let file = path.join(name);
            match disk.open(&file, Mode::Read) {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(error).io_context("open", &file),
            }
        };
        let has_data = !(self.segment_starts.is_empty() && self.snapshots.is_empty() && self.set_aside.is_empty());
        Ok(has_data || has(identity::NAME)?)
    }

    /// Refuses a directory that has nothing to check or to repair.
    pub(crate) fn ensure_of_node(&self, disk: &dyn Disk, path: &Path) -> Result<(), OpenError> {
        let directory = || path.to_owned();
        match (self.is_of_node(disk, path)?, self.is_of_coordinator) {
            (true, _) => Ok(()),
            (false, true) => Err(OpenError::CoordinatorsData { directory: directory() }),
            (false, false) => Err(OpenError::NoData { directory: directory() }),
        }
    }
}

/// What a start would begin with.
#[derive(Debug)]
pub(crate) struct Survey {
    /// The newest good snapshot.
    pub(crate) snapshot: Option<u64>,
    pub(crate) snapshot_records: u64,
    /// Newer snapshots that are damaged.
    pub(crate) damaged: Vec<Damage>,
    /// `None` if no log was begun in the directory.
    pub(crate) log: Option<LogEnd>,
}

impl Survey {
    /// Reads everything that a start needs, and delivers it.
    pub(crate) fn take<B: Bugs>(
        disk: &dyn Disk,
        path: &Path,
        identity: &Identity,
        listing: &Listing,
        bugs: B,
        deliver: Deliver<'_>,
    ) -> Result<Self, OpenError> {
        let (snapshot, damaged) = choose(disk, path, identity.directory, listing)?;
        let from = snapshot.unwrap_or(0);
        if listing.segment_starts.is_empty() && identity.log_begun {
            let file = path.join(segment::name(from));
            return Err(Damage { file, offset: 0, flaw: Flaw::SegmentMissing }.into());
        }
        // With a newer snapshot lost, a log that does not reach back to `from` is incomplete.
        if let Some(damage) = damaged.first()
            && listing.segment_starts.first().is_none_or(|&first| first > from)
        {
            return Err(damage.clone().into());
        }
        check_cuts(path, listing, &damaged)?;
        let mut snapshot_records = 0;
        if let Some(position) = snapshot {
            let file = path.join(snapshot::name(position));
            snapshot_records = deliver_snapshot(disk, &file, identity.directory, deliver)?;
        }
        let trust = if identity.stopped_at.is_some() { Trust::Whole } else { Trust::Torn };
        let (id, segment_starts) = (identity.directory, listing.segment_starts.as_slice());
        let log = Reading { disk, directory: path, id, segment_starts, from, trust, bugs }.read(deliver)?;
        let stopped = identity.stopped_at.map_or(0, |position| position.0);
        let reached = listing.snapshots.last().copied().unwrap_or(0).max(stopped);
        if let Some(log) = &log {
            check_reach(path, log, reached)?;
        }
        Ok(Self { snapshot, snapshot_records, damaged, log })
    }

    pub(crate) fn from(&self) -> u64 {
        self.snapshot.unwrap_or(0)
    }
}

/// The newest good snapshot, and the newer damaged ones.
fn choose(
    disk: &dyn Disk,
    path: &Path,
    id: DirectoryId,
    listing: &Listing,
) -> Result<(Option<u64>, Vec<Damage>), ReadError> {
    let mut damaged = Vec::new();
    for &position in listing.snapshots.iter().rev() {
        match verify(disk, &path.join(snapshot::name(position)), id) {
            Ok(_) => return Ok((Some(position), damaged)),
            // Not damaged, but of another release, whose log may be so, too.
            Err(ReadError::Damaged(damage)) if !matches!(damage.flaw, Flaw::Version(_)) => damaged.push(damage),
            Err(error) => return Err(error),
        }
    }
    Ok((None, damaged))
}

/// Reads a snapshot through; returns how many payloads it holds.
pub(crate) fn verify(disk: &dyn Disk, file: &Path, id: DirectoryId) -> Result<u64, ReadError> {
    Blocks::open(disk, file, id)?.verify()
}

fn deliver_snapshot(disk: &dyn Disk, file: &Path, id: DirectoryId, deliver: Deliver<'_>) -> Result<u64, OpenError> {
    let mut reader = SnapshotReader::open(disk, file, id)?;
    let mut records = 0;
    loop {
        let Some(payload) = reader.next_payload()? else { return Ok(records) };
        let delivered = deliver(Recovered::Snapshot(payload));
        if let Err(reason) = delivered {
            return Err(OpenError::Rejected { file: file.to_owned(), offset: reader.offset(), reason });
        }
        records += 1;
    }
}

/// A snapshot may hold data from beyond its position. If the log was cut there, it is no substitute for the snapshot.
fn check_cuts(path: &Path, listing: &Listing, damaged: &[Damage]) -> Result<(), Damage> {
    let Some(&cut) = listing.cuts.last() else { return Ok(()) };
    let below = |position: &u64| *position <= cut;
    let files: Vec<_> =
        listing.snapshots.iter().copied().filter(below).map(|at| path.join(snapshot::name(at))).collect();
    damaged.iter().find(|damage| files.contains(&damage.file)).map_or(Ok(()), |damage| Err(damage.clone()))
}

/// Checks that the log reaches as far as the identity and the names of snapshots say.
fn check_reach(path: &Path, log: &LogEnd, reached: u64) -> Result<(), Damage> {
    let Some(last) = log.segments.last().filter(|_| log.end < reached) else { return Ok(()) };
    let flaw = Flaw::EndMissing { end: Position(log.end), reached: Position(reached) };
    Err(Damage { file: path.join(segment::name(last.first)), offset: log.end - last.first, flaw })
}
