//! Checks a data directory: what in it is good, what is not, and whether a node would start.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::bugs::NoBugs;
use crate::directory::lock;
use crate::discard;
use crate::disk::{Disk, Mode, read_whole};
use crate::error::{Damage, FileError, Flaw, IoContext as _, OpenError, ReadError};
use crate::fields;
use crate::frame::{self, Parsed};
use crate::identity::Identity;
use crate::map_file;
use crate::position::{DirectoryId, Position};
use crate::recovery::{Deliver, TornTail};
use crate::segment::{self, HEADER_BYTES};
use crate::snapshot;
use crate::survey::{self, Listing, Survey};

/// The result of a check. Its text is for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The directory.
    pub directory: PathBuf,
    /// Whose data it is; `None` if that cannot be read.
    pub identity: Option<Identity>,
    /// Each good snapshot: its position and how many payloads it holds.
    pub snapshots: Vec<(Position, u64)>,
    /// Each segment of the log.
    pub segments: Vec<SegmentReport>,
    /// What cannot be read: where, and how many bytes until reading can resume. Includes a torn tail only if good records
    /// follow in it: then it may as well be damage.
    pub damages: Vec<(Damage, u64)>,
    /// What a start would cut, because a crash has torn it.
    pub torn_tail: Option<TornTail>,
    /// Why a node would not start; `None` if it would.
    pub refusal: Option<String>,
    /// The directory is a copy of the one in which its identity was written; a node does not start in it.
    pub copied: bool,
    /// Files that were set aside earlier.
    pub set_aside: Vec<String>,
}

/// The content of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub file: PathBuf,
    /// Where it begins.
    pub first: Position,
    /// How many of its records are good.
    pub records: u64,
    /// How many bytes of it are used.
    pub used: u64,
}

/// Checks a data directory. Changes nothing in it, but takes its lock. `deliver` receives what a start would deliver,
/// and judges it as a start does.
///
/// # Errors
/// The directory does not exist, is in use, or the disk failed. Damage is not an error; it is in the report.
pub fn check(disk: &dyn Disk, directory: &Path, deliver: Deliver<'_>) -> Result<Report, OpenError> {
    look(disk, directory, deliver, &mut |_, _| {})
}

/// [`check`], but passes every readable payload of the log to `visit`, before and after any damage, and rejects none.
///
/// # Errors
/// As for [`check`].
pub fn inspect(disk: &dyn Disk, directory: &Path, visit: &mut dyn FnMut(Position, &[u8])) -> Result<Report, OpenError> {
    look(disk, directory, &mut |_| Ok(()), visit)
}

fn look(
    disk: &dyn Disk,
    directory: &Path,
    deliver: Deliver<'_>,
    visit: &mut dyn FnMut(Position, &[u8]),
) -> Result<Report, OpenError> {
    discard::ensure_not_begun(disk, directory)?;
    let listing = Listing::read(disk, directory)?;
    listing.ensure_of_node(disk, directory)?;
    let _lock = match lock(disk, directory) {
        // Nobody can write there. Systems remount a damaged file system read-only, and then a check is needed most.
        Err(OpenError::File(error)) if error.source.kind() == ErrorKind::ReadOnlyFilesystem => None,
        lock => Some(lock?),
    };
    let mut report = Report {
        directory: directory.to_owned(),
        identity: None,
        snapshots: Vec::new(),
        segments: Vec::new(),
        damages: Vec::new(),
        torn_tail: None,
        refusal: None,
        copied: false,
        set_aside: listing.set_aside.clone(),
    };
    match Identity::load(disk, directory) {
        Ok(identity) => report.identity = identity,
        Err(ReadError::Damaged(damage)) => report.damages.push((damage, 0)),
        Err(ReadError::File(error)) => return Err(error.into()),
    }
    match map_file::load(disk, directory) {
        Ok(_) => {}
        Err(ReadError::Damaged(damage)) => report.damages.push((damage, 0)),
        Err(ReadError::File(error)) => return Err(error.into()),
    }
    let place = disk.place(directory).io_context("inspect", directory)?;
    report.copied = report.identity.as_ref().is_some_and(|identity| identity.is_copied(place));
    let id = report.identity.as_ref().map(|identity| identity.directory);
    if let Some(id) = id {
        report.look_at_snapshots(disk, &listing, id)?;
    }
    for &first in &listing.segment_starts {
        report.look_at_segment(disk, first, id, visit)?;
    }
    report.would_start(disk, &listing, deliver);
    Ok(report)
}

impl Report {
    /// Whether a node would start, and nothing is damaged.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.refusal.is_none() && self.damages.is_empty() && !self.copied
    }

    fn look_at_snapshots(&mut self, disk: &dyn Disk, listing: &Listing, id: DirectoryId) -> Result<(), FileError> {
        for &position in &listing.snapshots {
            match survey::verify(disk, &self.directory.join(snapshot::name(position)), id) {
                Ok(records) => self.snapshots.push((Position(position), records)),
                Err(ReadError::Damaged(damage)) => self.damages.push((damage, 0)),
                Err(ReadError::File(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn look_at_segment(
        &mut self,
        disk: &dyn Disk,
        first: u64,
        id: Option<DirectoryId>,
        visit: &mut dyn FnMut(Position, &[u8]),
    ) -> Result<(), FileError> {
        let file = self.directory.join(segment::name(first));
        let opened = disk.open(&file, Mode::Read).io_context("open", &file)?;
        let bytes = read_whole(opened.as_ref(), segment::FILE_BYTES_MOST).io_context("read", &file)?;
        // The owner can be wrong only if the right one is known.
        let owner = id.or_else(|| segment::owner(disk, &self.directory, &[first]));
        match owner.ok_or(Flaw::Header).and_then(|owner| segment::check_header(&bytes, owner, first)) {
            Ok(header) => {
                let missing = header.size.saturating_sub(bytes.len() as u64);
                let short = header.check_length(&file, bytes.len() as u64);
                self.damages.extend(short.err().map(|damage| (damage, missing)));
            }
            Err(flaw) => self.damages.push((Damage { file: file.clone(), offset: 0, flaw }, HEADER_BYTES as u64)),
        }
        let used = fields::used(&bytes);
        let mut records = 0;
        let mut offset = HEADER_BYTES;
        while offset < used {
            let rest = bytes.get(offset..).unwrap_or_default();
            if let Parsed::Frame(frame) = frame::parse(rest, first + offset as u64, NoBugs) {
                let payload = rest.get(frame::HEADER_BYTES..frame::HEADER_BYTES + frame.length);
                visit(Position(frame.position), payload.unwrap_or_default());
                records += 1;
                offset += frame::HEADER_BYTES + frame.length;
                continue;
            }
            let next = frame::resync(&bytes, first, offset, NoBugs).next();
            let next = next.and_then(|frame| usize::try_from(frame.position - first).ok()).unwrap_or(used);
            let damage = Damage { file: file.clone(), offset: offset as u64, flaw: Flaw::Record };
            self.damages.push((damage, (next - offset) as u64));
            offset = next;
        }
        self.segments.push(SegmentReport { file, first: Position(first), records, used: used as u64 });
        Ok(())
    }

    fn would_start(&mut self, disk: &dyn Disk, listing: &Listing, deliver: Deliver<'_>) {
        let Some(identity) = &self.identity else {
            let holds_data = !listing.segment_starts.is_empty() || !listing.snapshots.is_empty();
            if holds_data || !self.damages.is_empty() {
                let missing = OpenError::IdentityMissing { directory: self.directory.clone() };
                let damaged = self.damages.first().filter(|(damage, _)| damage.flaw == Flaw::Identity);
                self.refusal = Some(damaged.map_or_else(|| missing.to_string(), |(damage, _)| damage.to_string()));
            }
            return;
        };
        match Survey::take(disk, &self.directory, identity, listing, NoBugs, deliver) {
            Ok(survey) => {
                self.torn_tail = survey.log.and_then(|log| log.torn);
                if let Some(torn) = self.torn_tail.as_ref().filter(|torn| !torn.followed) {
                    self.damages.retain(|(damage, _)| !torn.covers(damage));
                }
            }
            Err(error) => self.refusal = Some(error.to_string()),
        }
    }
}

impl TornTail {
    fn covers(&self, damage: &Damage) -> bool {
        damage.file == self.file && damage.offset >= self.offset || self.dropped.contains(&damage.file)
    }
}

impl fmt::Display for TornTail {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: the last {} bytes, from byte {} on", self.file.display(), self.bytes, self.offset)?;
        self.dropped.iter().try_for_each(|dropped| write!(out, ", and all of {}", dropped.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "data directory {}", self.directory.display())?;
        if let Some(identity) = &self.identity {
            let cluster = identity.cluster.as_deref().unwrap_or("none yet");
            writeln!(out, "  identity {}, cluster {cluster}", identity.directory)?;
            let stop = if identity.stopped_at.is_some() { "in order" } else { "by a crash, or still running" };
            writeln!(out, "  stopped {stop}")?;
        }
        for (position, records) in &self.snapshots {
            writeln!(out, "  snapshot at position {position}: {records} parts, good")?;
        }
        for segment in &self.segments {
            let SegmentReport { file, records, used, .. } = segment;
            writeln!(out, "  {}: {records} good records, {used} bytes used", file.display())?;
        }
        for (damage, bytes) in &self.damages {
            let far = if *bytes > 0 { format!(" ({bytes} bytes cannot be read)") } else { String::new() };
            writeln!(out, "  DAMAGE {damage}{far}")?;
        }
        for name in &self.set_aside {
            writeln!(out, "  set aside earlier: {name}")?;
        }
        if let Some(torn) = &self.torn_tail {
            if torn.followed {
                writeln!(
                    out,
                    "The end of the log is damaged, or a crash tore it. A start cuts it off with the good records in it, \
                     and then counts as incomplete:"
                )?;
            } else {
                writeln!(
                    out,
                    "A crash tore the end of the log. A start cuts it off; nothing that was synced is lost:"
                )?;
            }
            writeln!(out, "  {torn}")?;
        }
        match &self.refusal {
            Some(refusal) => write!(out, "A node cannot start here: {refusal}"),
            None if self.copied => {
                write!(out, "A node cannot start here: the directory is a copy of another, or was moved.")
            }
            None if self.damages.is_empty() || self.torn_tail.is_some() => write!(out, "A node can start here."),
            None => write!(
                out,
                "A node can start here: it needs nothing of what is damaged. Do not repair it: what is whole would count as \
                 incomplete."
            ),
        }
    }
}
