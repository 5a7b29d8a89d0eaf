//! Makes a damaged data directory usable again by giving up what is damaged. Only at an operator's request.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::bugs::NoBugs;
use crate::cut_mark;
use crate::directory::{Options, begin_log, clear, free_name, lock, set_aside};
use crate::discard;
use crate::disk::{Disk, Mode, read_whole, write_full};
use crate::error::{Damage, FileError, Flaw, IoContext as _, OpenError, ReadError, Rejection};
use crate::identity::{self, Identity};
use crate::map_file;
use crate::recovery::Recovered;
use crate::segment::{self, Header};
use crate::snapshot;
use crate::survey::{self, Listing, Survey};

/// What a repair did. Its text is for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairReport {
    /// The directory.
    pub directory: PathBuf,
    /// The steps, in order; empty if a node would have started anyway.
    pub steps: Vec<Step>,
}

/// One step of a repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was wrong.
    pub reason: String,
    /// The file that was set aside, or cut.
    pub file: PathBuf,
    /// Where it was cut; `None` if it was set aside as a whole.
    pub cut_at: Option<u64>,
    /// Where its bytes are kept; `None` if there were none.
    pub kept_as: Option<PathBuf>,
}

/// Judges the data of a directory, from its beginning.
pub type Reader = Box<dyn FnMut(Recovered<'_>) -> Result<(), Rejection>>;

/// Makes a directory one in which a node starts, by giving up what is damaged and everything after it. What is given up
/// is kept under another name, never deleted. A node that starts afterwards has lost records without saying so: call
/// this only at an operator's request.
///
/// The options are those of a start; their identity is used if the directory has lost its own. `reader` is called for
/// each pass over the data, and the reader it returns judges the data as a start does: what that rejects is given up
/// like what is damaged.
///
/// # Errors
/// The directory does not exist, is in use, or the disk failed or is full. Some steps may be done; safe to repeat.
pub fn repair(
    disk: &dyn Disk,
    directory: &Path,
    options: Options,
    reader: &mut dyn FnMut() -> Reader,
) -> Result<RepairReport, OpenError> {
    discard::ensure_not_begun(disk, directory)?;
    let listing = Listing::read(disk, directory)?;
    listing.ensure_of_node(disk, directory)?;
    let _lock = lock(disk, directory)?;
    let mut repair = Repair { disk, directory, options, steps: Vec::new() };
    repair.map()?;
    let Some(mut identity) = repair.identity(&listing)? else {
        return Ok(RepairReport { directory: directory.to_owned(), steps: repair.steps });
    };
    // Each round sets a file aside or cuts one, so this many rounds are enough.
    let turns = 4 * (listing.segment_starts.len() + listing.snapshots.len()) + 8;
    let mut last = None;
    for _ in 0..turns {
        let listing = Listing::read(disk, directory)?;
        let damage = match Survey::take(disk, directory, &identity, &listing, NoBugs, &mut reader()) {
            Ok(_) => return Ok(RepairReport { directory: directory.to_owned(), steps: repair.steps }),
            Err(OpenError::Damaged(damage)) => damage,
            Err(OpenError::Rejected { file, offset, reason }) => {
                Damage { file, offset, flaw: Flaw::Rejected(reason.to_string()) }
            }
            Err(error) => return Err(error),
        };
        repair.give_up(&damage, &mut identity, &listing)?;
        last = Some(damage);
    }
    match last {
        Some(damage) => Err(damage.into()),
        None => Ok(RepairReport { directory: directory.to_owned(), steps: repair.steps }),
    }
}

struct Repair<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    options: Options,
    steps: Vec<Step>,
}

impl Repair<'_> {
    /// Sets an unreadable map aside: the coordinator has one.
    fn map(&mut self) -> Result<(), OpenError> {
        match map_file::load(self.disk, self.directory) {
            Ok(_) => Ok(()),
            Err(ReadError::Damaged(damage)) => self.keep(&damage.file.clone(), &damage),
            Err(ReadError::File(error)) => Err(error.into()),
        }
    }

    /// The identity of the directory, recreated if it is lost; `None` if the directory holds nothing.
    fn identity(&mut self, listing: &Listing) -> Result<Option<Identity>, OpenError> {
        let file = self.directory.join(identity::NAME);
        let reason = match Identity::load(self.disk, self.directory) {
            Ok(Some(identity)) => return Ok(Some(identity)),
            Ok(None) if listing.segment_starts.is_empty() && listing.snapshots.is_empty() => return Ok(None),
            Ok(None) => "the file `identity` is missing".to_owned(),
            Err(ReadError::Damaged(damage)) => {
                let kept = set_aside(self.disk, self.directory, &file, "set-aside")?;
                self.steps.push(Step {
                    reason: damage.to_string(),
                    file: file.clone(),
                    cut_at: None,
                    kept_as: Some(kept),
                });
                "the identity was set aside".to_owned()
            }
            Err(ReadError::File(error)) => return Err(error.into()),
        };
        // The data tells whose it is. Which cluster it belongs to, and how far it can be trusted, is no longer known.
        let owner = segment::owner(self.disk, self.directory, &listing.segment_starts);
        let mut identity = Identity::new(owner.unwrap_or(self.options.fresh_id));
        identity.log_begun = true;
        identity.store(self.disk, self.directory, NoBugs)?;
        self.steps.push(Step { reason, file, cut_at: None, kept_as: None });
        Ok(Some(identity))
    }

    fn give_up(&mut self, damage: &Damage, identity: &mut Identity, listing: &Listing) -> Result<(), OpenError> {
        let name = damage.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let first = segment::parse_name(name);
        if !identity.incarnations.is_empty() {
            // IMPORTANT: before anything is given up. An interrupted repair may leave a directory that starts.
            identity.lose_proof();
            identity.store(self.disk, self.directory, NoBugs)?;
        }
        if let Some(first) = first {
            // IMPORTANT: make the mark before anything is cut. After an interruption, a repeated repair may find
            // nothing left to do.
            cut_mark::make(self.disk, self.directory, first + damage.offset)?;
        }
        if identity.stopped_at.is_some() {
            // The data is no longer what it was when the node stopped.
            identity.stopped_at = None;
            identity.store(self.disk, self.directory, NoBugs)?;
            if matches!(damage.flaw, Flaw::EndMissing { .. }) {
                // Without `stopped_at`, the log need only reach the snapshots, and it may.
                return Ok(());
            }
        }
        let Some(first) = first else { return self.keep(&damage.file, damage) };
        match damage.flaw {
            Flaw::Short { size } => self.lengthen(first, size, damage),
            Flaw::Record | Flaw::RecordsMissing | Flaw::Rejected(_) => {
                self.set_segments_aside(listing, damage, |other| other > first)?;
                self.cut(first, damage, identity)
            }
            Flaw::SegmentMissing => {
                let gone = if listing.segment_starts.iter().any(|&other| other > first) { first } else { 0 };
                if listing.segment_starts.is_empty() {
                    return self.begin(damage, identity, listing);
                }
                self.set_segments_aside(listing, damage, |other| other >= gone)
            }
            Flaw::EndMissing { .. } => match self.newest_if_damaged(listing, identity)? {
                // The log was cut at its own damage and does not reach this snapshot. It still serves the previous
                // snapshot.
                Some(snapshot) => self.keep(&snapshot, damage),
                // The log does not reach the snapshot: none of it is useful.
                None => self.set_segments_aside(listing, damage, |_| true),
            },
            _ => self.set_segments_aside(listing, damage, |other| other >= first),
        }
    }

    /// The newest snapshot, if it is damaged.
    fn newest_if_damaged(&self, listing: &Listing, identity: &Identity) -> Result<Option<PathBuf>, FileError> {
        let Some(&newest) = listing.snapshots.last() else { return Ok(None) };
        let file = self.directory.join(snapshot::name(newest));
        match survey::verify(self.disk, &file, identity.directory) {
            Ok(_) => Ok(None),
            Err(ReadError::Damaged(_)) => Ok(Some(file)),
            Err(ReadError::File(error)) => Err(error),
        }
    }

    /// Sets segments aside, newest first: an interrupted repair then leaves a log that ends early but has no gap.
    fn set_segments_aside(
        &mut self,
        listing: &Listing,
        damage: &Damage,
        which: impl Fn(u64) -> bool,
    ) -> Result<(), OpenError> {
        for &first in listing.segment_starts.iter().rev().filter(|&&first| which(first)) {
            self.keep(&self.directory.join(segment::name(first)), damage)?;
        }
        Ok(())
    }

    fn keep(&mut self, file: &Path, damage: &Damage) -> Result<(), OpenError> {
        let kept = set_aside(self.disk, self.directory, file, "set-aside")?;
        let reason = damage.to_string();
        self.steps.push(Step { reason, file: file.to_owned(), cut_at: None, kept_as: Some(kept) });
        Ok(())
    }

    /// Restores the length of a segment that was cut short. The rest of it then reads as zeros, as after the end of a
    /// log.
    fn lengthen(&mut self, first: u64, size: u64, damage: &Damage) -> Result<(), OpenError> {
        let path = self.directory.join(segment::name(first));
        let file = self.disk.open(&path, Mode::Write).io_context("open", &path)?;
        let bytes = read_whole(file.as_ref(), segment::FILE_BYTES_MOST).io_context("read", &path)?;
        let kept = free_name(self.disk, self.directory, &path, "set-aside")?;
        copy(self.disk, self.directory, &kept, &bytes)?;
        file.preallocate(size).io_context("allocate space for", &path)?;
        file.sync_data().io_context("sync", &path)?;
        let cut_at = Some(damage.offset);
        self.steps.push(Step { reason: damage.to_string(), file: path, cut_at, kept_as: Some(kept) });
        Ok(())
    }

    /// Cuts a segment, after copying it as a whole.
    fn cut(&mut self, first: u64, damage: &Damage, identity: &Identity) -> Result<(), OpenError> {
        let segment = segment::open(self.disk, self.directory, identity.directory, first, Mode::Write)?;
        let bytes = read_whole(segment.file.as_ref(), segment::FILE_BYTES_MOST).io_context("read", &segment.path)?;
        let kept = free_name(self.disk, self.directory, &segment.path, "set-aside")?;
        copy(self.disk, self.directory, &kept, &bytes)?;
        // IMPORTANT: only once the copy is durable.
        clear(&segment, damage.offset, bytes.len() as u64)?;
        segment.file.sync_data().io_context("sync", &segment.path)?;
        self.steps.push(Step {
            reason: damage.to_string(),
            file: segment.path,
            cut_at: Some(damage.offset),
            kept_as: Some(kept),
        });
        Ok(())
    }

    /// Begins an empty log where the newest good snapshot ends.
    fn begin(&mut self, damage: &Damage, identity: &Identity, listing: &Listing) -> Result<(), OpenError> {
        let good = listing.snapshots.iter().rev().copied().find(|&position| {
            survey::verify(self.disk, &self.directory.join(snapshot::name(position)), identity.directory).is_ok()
        });
        let header = Header {
            directory: identity.directory,
            first: good.unwrap_or(0),
            size: self.options.segment_bytes.max(segment::SEGMENT_BYTES_LEAST),
        };
        let segment = begin_log(self.disk, self.directory, header, NoBugs)?;
        self.steps.push(Step { reason: damage.to_string(), file: segment.path, cut_at: None, kept_as: None });
        Ok(())
    }
}

fn copy(disk: &dyn Disk, directory: &Path, file: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let copy = disk.open(file, Mode::Create).io_context("make", file)?;
    let written = write_full(copy.as_ref(), 0, bytes).and_then(|()| copy.sync_data()).io_context("write", file);
    if written.is_err() {
        // A part of it is of no use, and would take space that the next attempt needs.
        let _ = disk.remove(file);
    }
    written?;
    disk.sync_directory(directory).io_context("sync", directory)
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match (self.cut_at, &self.kept_as) {
            (Some(offset), Some(kept)) => {
                write!(out, "cut {file} at byte {offset}, the whole file kept as {}", kept.display())
            }
            (_, Some(kept)) => write!(out, "set aside {file}, kept as {}", kept.display()),
            (_, None) => write!(out, "created {file} again"),
        }?;
        write!(out, ": {}", self.reason)
    }
}

impl fmt::Display for RepairReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return write!(out, "{}: nothing to repair", self.directory.display());
        }
        writeln!(out, "{}: repaired, with loss", self.directory.display())?;
        for step in &self.steps {
            writeln!(out, "  {step}")?;
        }
        write!(out, "Everything that was given up is kept in the directory. A node can start here.")
    }
}
