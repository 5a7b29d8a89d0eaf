//! A node's data directory: one lock, one identity, one log, and its snapshots.
//!
//! It contains:
//!
//! - `lock`: locked for as long as a process uses the directory. Empty, and left behind.
//! - `identity`: whose data it is ([`crate::identity`]).
//! - `map`: the last cluster map that the node had ([`crate::map_file`]).
//! - `log-POSITION.seg`: the log ([`crate::journal`]).
//! - `snapshot-POSITION.snap`: what the log below its position said ([`crate::snapshot`]).
//! - `cut-POSITION.mark`: where a repair has cut the log.
//! - `discarded`: the directory is being deleted ([`crate::discard()`]).
//! - `reserve`: space set aside for when the disk is full, and `reserve-identity`, space for the identity alone.
//! - names that end in `.tmp`, `.new` or `.next`: unfinished files, removed at the next start; `.damaged` and
//!   `.set-aside`: what could not be read, or was given up by a repair, kept for people.

mod start;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use start::Recovery;

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::discard;
use crate::disk::{Disk, DiskLock, Mode};
use crate::error::{FileError, IoContext as _, JournalError, OpenError};
use crate::identity::Identity;
use crate::journal::Journal;
use crate::position::{DirectoryId, Position};
use crate::segment::{self, Draft, Header, Segment};
use crate::snapshot::{self, SnapshotError, SnapshotWriter};
use crate::survey::Listing;

/// The name of the file in the directory that the process using it keeps locked.
pub const LOCK_NAME: &str = "lock";
pub(crate) const RESERVE_NAME: &str = "reserve";
pub(crate) const IDENTITY_RESERVE_NAME: &str = "reserve-identity";

/// Space for an identity, which is far shorter: the first of these sizes for which the disk has room.
const IDENTITY_RESERVE_BYTES: [u64; 3] = [16 * 1024, 8 * 1024, 4 * 1024];

/// Settings of a data directory.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The size of a new segment of the log, in bytes; from [`segment::SEGMENT_BYTES_LEAST`] to
    /// [`segment::SEGMENT_BYTES_MOST`]. It may differ from one start to the next.
    pub segment_bytes: u64,
    /// How much space is set aside for when the disk is full, in bytes.
    pub reserve_bytes: u64,
    /// The identity that a new directory gets: a random number.
    pub fresh_id: DirectoryId,
}

impl Options {
    /// Segments of 64 MiB and a reserve of 16 MiB.
    #[must_use]
    pub fn new(fresh_id: DirectoryId) -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, reserve_bytes: 16 * 1024 * 1024, fresh_id }
    }

    /// The same, scaled to a disk with `free` bytes: on a small one, a segment is a sixteenth and the reserve an eighth
    /// of it.
    #[must_use]
    pub fn fitting(fresh_id: DirectoryId, free: u64) -> Self {
        const LEAST: u64 = 64 * 1024;
        let Self { segment_bytes, reserve_bytes, .. } = Self::new(fresh_id);
        let part = |of: u64| (free / of).next_multiple_of(4096).max(LEAST);
        Self { segment_bytes: segment_bytes.min(part(16)), reserve_bytes: reserve_bytes.min(part(8)), fresh_id }
    }
}

/// The state in which a directory was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// This start created it.
    pub new: bool,
    /// The last process stopped cleanly, with everything on disk.
    pub stopped_in_order: bool,
    /// The machine has not been booted since the last process wrote here. So even unsynced writes are there, unless the
    /// disk was detached and came back, which [`crate::TornTail::followed`] may show. `false` where the system does not
    /// tell.
    pub same_boot: bool,
    /// This directory, or its whole file system, is a copy of the one in which the identity was written. `false` where
    /// the system does not tell. Check this before [`DataDir::recover`], which records the place of this directory.
    pub copied: bool,
}

/// A data directory. No other process uses it as long as this lives.
#[derive(Debug)]
pub struct DataDir<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    options: Options,
    bugs: B,
    identity: Identity,
    found: Found,
    _lock: Box<dyn DiskLock>,
}

impl DataDir {
    /// Locks a directory, creating it if it is missing, and reads its identity. Does not look at the data yet, so that
    /// an unwanted directory can be refused first. Blocks on the disk.
    ///
    /// # Errors
    /// Each error says what to do. Existing files are left as they are.
    pub fn open(disk: Arc<dyn Disk>, path: &Path, options: Options) -> Result<Self, OpenError> {
        Self::open_with(disk, path, options, NoBugs)
    }
}

impl<B: Bugs> DataDir<B> {
    /// [`DataDir::open`], with planted bugs.
    ///
    /// # Errors
    /// As for [`DataDir::open`].
    pub fn open_with(disk: Arc<dyn Disk>, path: &Path, options: Options, bugs: B) -> Result<Self, OpenError> {
        let (least, most) = (segment::SEGMENT_BYTES_LEAST, segment::SEGMENT_BYTES_MOST);
        if !(least..=most).contains(&options.segment_bytes) {
            return Err(OpenError::SegmentBytes { segment_bytes: options.segment_bytes, least, most });
        }
        disk.create_directory(path).io_context("create the directory", path)?;
        let lock = lock(disk.as_ref(), path)?;
        discard::finish(disk.as_ref(), path)?;
        let place = disk.place(path).io_context("inspect", path)?;
        let kept = Identity::load(disk.as_ref(), path)?;
        let new = kept.is_none();
        let identity = match kept {
            Some(identity) => identity,
            None => Self::make_identity(disk.as_ref(), path, options, bugs)?,
        };
        let found = Found {
            new,
            stopped_in_order: identity.stopped_at.is_some(),
            same_boot: identity.boot.is_some() && identity.boot == disk.boot_id(),
            copied: identity.is_copied(place),
        };
        Ok(Self { disk, path: path.to_owned(), options, bugs, identity, found, _lock: lock })
    }

    fn make_identity(disk: &dyn Disk, path: &Path, options: Options, bugs: B) -> Result<Identity, OpenError> {
        let listing = Listing::read(disk, path)?;
        if !listing.segment_starts.is_empty() || !listing.snapshots.is_empty() {
            return Err(OpenError::IdentityMissing { directory: path.to_owned() });
        }
        if listing.is_of_coordinator {
            return Err(OpenError::OfCoordinator { directory: path.to_owned() });
        }
        let mut identity = Identity::new(options.fresh_id);
        identity.place = disk.place(path).io_context("inspect", path)?.number;
        identity.store(disk, path, bugs)?;
        Ok(identity)
    }

    /// Whose data this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How the directory was found.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// The settings that this was opened with.
    #[must_use]
    pub fn options(&self) -> Options {
        self.options
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Records that whatever was written here is given up: no later start claims it.
    ///
    /// # Errors
    /// As for [`Self::update_identity`].
    pub fn disown(&mut self) -> Result<(), FileError> {
        if self.bugs.plants(Bug::GivenUpClaimed) {
            return Ok(());
        }
        self.update_identity(|identity| {
            identity.unproven.clear();
            identity.incarnations.clear();
        })
    }

    /// Changes the identity. The change is durable when this returns. On a full disk it uses up the reserves.
    ///
    /// # Errors
    /// It is unknown whether a restart finds the old or the new identity; in memory it is still the old one.
    pub fn update_identity(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), FileError> {
        let mut identity = self.identity.clone();
        change(&mut identity);
        identity.keep_to_limits();
        let mut stored = identity.store(self.disk.as_ref(), &self.path, self.bugs);
        let wants_room = |error: &FileError| error.is_no_space() && !error.is_no_descriptor();
        for reserve in [RESERVE_NAME, IDENTITY_RESERVE_NAME] {
            if stored.as_ref().is_err_and(wants_room) && self.release(reserve)? {
                stored = identity.store(self.disk.as_ref(), &self.path, self.bugs);
            }
        }
        stored?;
        self.identity = identity;
        // The old identity has freed its space, so there may be room for the reserve again. If not, the next
        // `restore_reserve` tries again; the change is durable either way.
        let _ = self.restore_identity_reserve();
        Ok(())
    }

    /// Begins a snapshot of everything that the log says below `position`. The position must be a [`Journal::end`]
    /// taken no later than the payloads.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn begin_snapshot(&self, position: Position) -> Result<SnapshotWriter<B>, SnapshotError> {
        SnapshotWriter::create(Arc::clone(&self.disk), &self.path, self.identity.directory, position, self.bugs)
    }

    /// Removes all but the `newest` snapshots. Returns the position below which the log is not needed, for
    /// [`Journal::remove_before`]: that of the oldest. `None` if there are fewer, since then the log stands in for the
    /// oldest, should it be damaged.
    ///
    /// # Errors
    /// Some snapshots may be gone; safe to repeat.
    pub fn retain_snapshots(&self, newest: usize) -> Result<Option<Position>, FileError> {
        let snapshots = Listing::read(self.disk.as_ref(), &self.path)?.snapshots;
        let surplus = snapshots.len().saturating_sub(newest.max(1));
        let (surplus, kept) = snapshots.split_at(surplus);
        for &position in surplus {
            let file = self.path.join(snapshot::name(position));
            self.disk.remove(&file).io_context("remove", &file)?;
        }
        if !surplus.is_empty() {
            self.disk.sync_directory(&self.path).io_context("sync", &self.path)?;
        }
        Ok(kept.first().filter(|_| kept.len() >= newest).copied().map(Position))
    }

    /// Checks that the directory is still where it was opened. What is written after it was removed is lost.
    ///
    /// # Errors
    /// It is not, or the system cannot tell.
    pub fn check_is_there(&self) -> Result<(), FileError> {
        let place = self.disk.place(&self.path).io_context("inspect", &self.path)?;
        if self.identity.is_copied(place) {
            let gone = io::Error::new(ErrorKind::NotFound, "it was replaced by another directory");
            return Err(gone).io_context("use", &self.path);
        }
        Ok(())
    }

    /// How many more bytes the disk can take.
    ///
    /// # Errors
    /// What the system reported.
    pub fn free_space(&self) -> Result<u64, FileError> {
        self.disk.free_space(&self.path).io_context("inspect", &self.path)
    }

    /// Frees the space of the reserve, for data that must be written although the disk is full. Returns whether there
    /// was a reserve. The reserve of the identity stays.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn release_reserve(&self) -> Result<bool, FileError> {
        self.release(RESERVE_NAME)
    }

    fn release(&self, reserve: &str) -> Result<bool, FileError> {
        let file = self.path.join(reserve);
        match self.disk.remove(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true).io_context("remove", file),
        }
    }

    /// Allocates the reserves that are missing, if the disk has room. Returns whether both exist now.
    ///
    /// # Errors
    /// The disk failed, other than by being full.
    pub fn restore_reserve(&self) -> Result<bool, FileError> {
        let has_identity_reserve = self.restore_identity_reserve()?;
        let has_log_reserve = self.restore(RESERVE_NAME, self.options.reserve_bytes)?;
        Ok(has_identity_reserve && has_log_reserve)
    }

    fn restore_identity_reserve(&self) -> Result<bool, FileError> {
        for bytes in IDENTITY_RESERVE_BYTES {
            if self.restore(IDENTITY_RESERVE_NAME, bytes)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns whether there is such a reserve now, or a smaller one for which there was room earlier.
    fn restore(&self, reserve: &str, bytes: u64) -> Result<bool, FileError> {
        let file = self.path.join(reserve);
        let opened = self.disk.open(&file, Mode::Write).or_else(|_| self.disk.open(&file, Mode::Create));
        let reserve = match opened.io_context("make", &file) {
            Ok(reserve) => reserve,
            Err(error) if error.is_no_space() => return Ok(false),
            Err(error) => return Err(error),
        };
        // An empty file is what an interrupted start leaves.
        let is_empty = reserve.length().io_context("read", &file)? == 0;
        match reserve.preallocate(bytes).io_context("allocate space for", &file) {
            Ok(()) => Ok(true),
            Err(error) if error.is_no_space() && is_empty => {
                self.disk.remove(&file).io_context("remove", file).map(|()| false)
            }
            Err(error) if error.is_no_space() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Stops cleanly: everything is on disk, and the next start knows it. Releases the lock.
    ///
    /// # Errors
    /// The next start treats this as a crash. Everything that was synced is there.
    pub fn close(mut self, mut journal: Journal<B>) -> Result<(), CloseError> {
        // IMPORTANT: remove the remains of a failed append from the disk first: after a clean stop they count as
        // damage.
        journal.erase_failed_append()?;
        let end = journal.sync()?;
        self.update_identity(|identity| identity.stopped_at = Some(end))?;
        Ok(())
    }
}

/// Why a stop was not clean.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The log could not be synced.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The identity could not be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Creates the first segment of a log.
pub(crate) fn begin_log<B: Bugs>(disk: &dyn Disk, path: &Path, header: Header, bugs: B) -> Result<Segment, FileError> {
    let draft = Draft::write(disk, path, header, "new", bugs)?;
    Ok(draft.publish(disk, path, bugs)?)
}

pub(crate) fn lock(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskLock>, OpenError> {
    let file = path.join(LOCK_NAME);
    let lock = disk.lock(&file).io_context("lock", &file)?;
    lock.ok_or_else(|| OpenError::InUse { directory: path.to_owned() })
}

/// Overwrites a segment with zeros between two offsets.
pub(crate) fn clear(segment: &Segment, from: u64, upto: u64) -> Result<(), FileError> {
    segment::write_zeros(segment.file.as_ref(), from, upto).io_context("write", &segment.path)
}

/// Renames a file to an unused name that nothing reads. Returns the new name.
pub(crate) fn set_aside(disk: &dyn Disk, directory: &Path, file: &Path, ending: &str) -> Result<PathBuf, FileError> {
    let kept = free_name(disk, directory, file, ending)?;
    disk.rename(file, &kept).io_context("set aside", file)?;
    disk.sync_directory(directory).io_context("sync", directory)?;
    Ok(kept)
}

/// The name of a file with another ending, chosen so that no file has it yet.
pub(crate) fn free_name(disk: &dyn Disk, directory: &Path, file: &Path, ending: &str) -> Result<PathBuf, FileError> {
    let taken = disk.list(directory).io_context("list", directory)?;
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let numbered =
        |number: u64| if number == 0 { format!("{name}.{ending}") } else { format!("{name}.{number}.{ending}") };
    let free = (0..=taken.len() as u64).map(numbered).find(|candidate| !taken.contains(candidate));
    Ok(directory.join(free.unwrap_or_default()))
}
