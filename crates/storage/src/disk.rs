//! What this crate asks of a disk, and no more.
//!
//! Two disks are there: [`real::RealDisk`], files of the operating system, and [`sim::SimDisk`], which keeps what a
//! power cut would leave apart from what a program sees, so that a test can cut the power.
//!
//! What either may do between two syncs is what POSIX allows: each 512-byte sector that was written may be on the
//! medium or not, in any order, and so may each change of a directory's entries. Only [`DiskFile::sync_data`] and
//! [`Disk::sync_directory`] end that.

pub mod real;
pub mod sim;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use crate::error::{FileError, Named as _};

/// Files and directories. Every call blocks.
pub trait Disk: Debug + Send + Sync {
    /// Makes a directory, and those above it, where they are missing. What it made lasts when this returns.
    ///
    /// # Errors
    /// What the system said; some directories may have been made. Safe to repeat.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` where the mode asks for a file that is there; otherwise what the system said.
    fn open(&self, file: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files in a directory, sorted. Names that are not UTF-8 are left out, for none is ours.
    ///
    /// # Errors
    /// What the system said.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Gives a file another name in its directory, in place of any file that has that name. Lasts once the directory
    /// is synced; until then a crash leaves the one name or the other.
    ///
    /// # Errors
    /// What the system said; nothing was changed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Lasts once the directory is synced.
    ///
    /// # Errors
    /// What the system said; nothing was changed.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Makes what changed in a directory's entries last.
    ///
    /// # Errors
    /// What the system said. Which of the changes last is unknown.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// How many more bytes the file system of a directory takes from this process.
    ///
    /// # Errors
    /// What the system said.
    fn free_space(&self, directory: &Path) -> io::Result<u64>;

    /// Locks a file, which is made where it is missing, against every other process until the lock is dropped or the
    /// process ends, however it ends. `None` where somebody has it.
    ///
    /// # Errors
    /// What the system said; nothing is locked.
    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;

    /// What names the time since the machine was last booted; `None` where the system does not tell.
    fn boot_id(&self) -> Option<String>;

    /// A number that stays with a directory and that its copy does not share; 0 where the system has none.
    ///
    /// # Errors
    /// What the system said.
    fn place(&self, directory: &Path) -> io::Result<u64>;
}

/// An open file. It may be used by several threads at once.
pub trait DiskFile: Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// What the system said.
    fn length(&self) -> io::Result<u64>;

    /// Reads from a place of the file on; returns how many bytes it read, 0 at the end of the file.
    ///
    /// # Errors
    /// What the system said.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes at a place of the file; returns how many bytes it wrote, which may be fewer. They are in the kernel then,
    /// and outlive the process.
    ///
    /// # Errors
    /// What the system said. What of the bytes was written is unknown.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes the file at least so long, and takes the room for it, so that writes within do not run out of it where the
    /// file system can promise that. What was not written reads as zeros.
    ///
    /// # Errors
    /// Without room, [`is_no_space`]; otherwise what the system said. The file may have grown.
    fn preallocate(&self, length: u64) -> io::Result<()>;

    /// Makes everything that was written before the call last, and the file's length.
    ///
    /// # Errors
    /// What the system said. Which writes last is unknown, and no later call will say: the kernel may have dropped
    /// them. It must not be repeated.
    fn sync_data(&self) -> io::Result<()>;
}

/// A lock that ends when this is dropped.
pub trait DiskLock: Debug + Send + Sync {}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One that is there, for reading.
    Read,
    /// One that is there, for reading and writing.
    Write,
    /// Made anew, empty, in place of any that is there; for reading and writing.
    Create,
}

/// Whether an error says that the disk, or what this user may have of it, is full; or that no more files can be open now, which
/// passes as well and says nothing of the disk.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) || is_no_descriptor(error)
}

/// `ENFILE` and `EMFILE`, the same on all Unix systems: the machine, or the process, has too many files open.
const TOO_MANY_FILES: [i32; 2] = [23, 24];

/// Whether an error says that no more files can be open now.
#[must_use]
pub fn is_no_descriptor(error: &io::Error) -> bool {
    cfg!(unix) && error.raw_os_error().is_some_and(|code| TOO_MANY_FILES.contains(&code))
}

/// Such an error.
fn no_descriptor() -> io::Error {
    io::Error::from_raw_os_error(TOO_MANY_FILES[1])
}

/// Puts a small file of a directory in the place of the one before. When this returns it lasts.
///
/// # Errors
/// A start finds the one before or the new one, whole.
pub fn replace_file(disk: &dyn Disk, directory: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let (path, written) = (directory.join(name), directory.join(format!("{name}.tmp")));
    let file = disk.open(&written, Mode::Create).named("make", &written)?;
    write_full(file.as_ref(), 0, bytes).named("write", &written)?;
    // IMPORTANT: it is on disk before it gets its name, or a crash could leave the name with a part of it.
    file.sync_data().named("sync", &written)?;
    disk.rename(&written, &path).named("replace", &path)?;
    disk.sync_directory(directory).named("sync", directory)
}

/// The bytes of a small file; `None` where it is not there.
///
/// # Errors
/// It is larger than the limit in bytes, or the disk failed.
pub fn read_file(disk: &dyn Disk, file: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    match disk.open(file, Mode::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.and_then(|opened| read_whole(opened.as_ref(), limit)).map(Some).named("read", file),
    }
}

/// Fills a buffer from a place of a file on; returns how much of it was filled before the end of the file.
///
/// # Errors
/// What the system said.
pub(crate) fn read_full(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset + filled as u64, rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The bytes of a whole file.
///
/// # Errors
/// `FileTooLarge` above a limit, so that a file that is not ours cannot take all memory; otherwise what the system
/// said.
pub(crate) fn read_whole(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.length()?;
    let size = usize::try_from(length).ok().filter(|_| length <= limit).ok_or(ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; size];
    let filled = read_full(file, 0, &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Writes all bytes at a place of a file, in one call where the system takes them at once.
///
/// # Errors
/// What the system said. What of the bytes was written is unknown.
pub(crate) fn write_full(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write_at(offset + written as u64, rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
