//! The operations that this crate needs from a disk, and no more.
//!
//! There are two implementations: [`real::RealDisk`], files of the operating system, and [`sim::SimDisk`], which keeps
//! what a program sees apart from what a power cut would leave, so that a test can cut the power.
//!
//! Between two syncs, either may do what POSIX allows: each 512-byte sector that was written may or may not be on the
//! medium, in any order, and so may each change to the entries of a directory. Only [`DiskFile::sync_data`] and
//! [`Disk::sync_directory`] end that.

pub mod real;
pub mod sim;

use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::error::{Damage, FileError, Flaw, IoContext as _, ReadError};

/// Files and directories. Every call blocks.
pub trait Disk: Debug + Send + Sync {
    /// Creates a directory and any missing parents. They are durable when this returns.
    ///
    /// # Errors
    /// What the system reported; some directories may have been created. Safe to repeat.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;

    /// Opens a file.
    ///
    /// # Errors
    /// `NotFound` if the mode requires an existing file and there is none; otherwise what the system reported.
    fn open(&self, file: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>>;

    /// The names of all files in a directory, sorted. Names that are not UTF-8 are skipped: none of them is ours.
    ///
    /// # Errors
    /// What the system reported.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Renames a file within its directory, replacing any file of that name. Durable once the directory is synced;
    /// until then a crash leaves either the old or the new name.
    ///
    /// # Errors
    /// What the system reported; nothing was changed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Durable once the directory is synced.
    ///
    /// # Errors
    /// What the system reported; nothing was changed.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Makes all changes to the entries of a directory durable.
    ///
    /// # Errors
    /// What the system reported. It is unknown which of the changes are durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// How many more bytes this process can write to the file system of a directory.
    ///
    /// # Errors
    /// What the system reported.
    fn free_space(&self, directory: &Path) -> io::Result<u64>;

    /// Locks a file against every other process, creating it if it is missing. The lock lasts until it is dropped or
    /// the process ends, however it ends. `None` if another process holds the lock.
    ///
    /// # Errors
    /// What the system reported; nothing is locked.
    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;

    /// A name for the time since the machine was last booted; `None` where the system does not tell.
    fn boot_id(&self) -> Option<String>;

    /// What stays with a directory and differs in a copy of it.
    ///
    /// # Errors
    /// What the system reported.
    fn place(&self, directory: &Path) -> io::Result<Place>;
}

/// What distinguishes a directory from its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Made of its number in the file system and of the time when it was made, since other file systems have the same
    /// numbers; 0 where the system has none.
    pub number: u64,
    /// Its number in the file system alone, which earlier builds recorded.
    pub inode: u64,
}

/// An open file. It may be used by several threads at once.
pub trait DiskFile: Debug + Send + Sync {
    /// Its length in bytes.
    ///
    /// # Errors
    /// What the system reported.
    fn length(&self) -> io::Result<u64>;

    /// Reads from an offset on; returns how many bytes it read, 0 at the end of the file.
    ///
    /// # Errors
    /// What the system reported.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes at an offset; returns how many bytes it wrote, which may be fewer. They are then in the kernel and
    /// survive the process.
    ///
    /// # Errors
    /// What the system reported. It is unknown which of the bytes were written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes the file at least `length` bytes long and allocates the space, so that writes within it do not run out of
    /// space, where the file system can promise that. Unwritten bytes read as zeros.
    ///
    /// # Errors
    /// Out of space: [`is_no_space`]; otherwise what the system reported. The file may have grown.
    fn preallocate(&self, length: u64) -> io::Result<()>;

    /// Makes everything written before the call durable, and the length of the file.
    ///
    /// # Errors
    /// What the system reported. It is unknown which writes are durable, and no later call will tell: the kernel may
    /// have dropped them. The call must not be repeated.
    fn sync_data(&self) -> io::Result<()>;
}

/// A lock that ends when this is dropped.
pub trait DiskLock: Debug + Send + Sync {}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new, empty file that replaces any existing one; for reading and writing.
    Create,
}

/// Whether an error says that the disk, or the quota of this user, is full; or that no more files can be open now,
/// which is temporary as well and says nothing about the disk.
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

/// An error that says that too many files are open.
fn no_descriptor() -> io::Error {
    io::Error::from_raw_os_error(TOO_MANY_FILES[1])
}

/// Replaces a small file in a directory. The new content is durable when this returns.
///
/// # Errors
/// A start finds either the old or the new file, whole.
pub fn replace_file(disk: &dyn Disk, directory: &Path, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    replace_file_with(disk, directory, name, bytes, NoBugs)
}

/// Likewise, with planted bugs.
pub(crate) fn replace_file_with(
    disk: &dyn Disk,
    directory: &Path,
    name: &str,
    bytes: &[u8],
    bugs: impl Bugs,
) -> Result<(), FileError> {
    let (path, written) = (directory.join(name), directory.join(format!("{name}.tmp")));
    let file = disk.open(&written, Mode::Create).io_context("make", &written)?;
    write_full(file.as_ref(), 0, bytes).io_context("write", &written)?;
    // IMPORTANT: sync the content before the rename, or a crash could leave the name with only part of the content.
    if !bugs.plants(Bug::RenameBeforeSync) {
        file.sync_data().io_context("sync", &written)?;
    }
    disk.rename(&written, &path).io_context("replace", &path)?;
    if bugs.plants(Bug::RenameBeforeSync) {
        file.sync_data().io_context("sync", &path)?;
    }
    if bugs.plants(Bug::NoDirectorySync) {
        return Ok(());
    }
    disk.sync_directory(directory).io_context("sync", directory)
}

/// The bytes of a small file; `None` if it does not exist.
///
/// # Errors
/// The file is larger than `limit` bytes, or the disk failed.
pub fn read_file(disk: &dyn Disk, file: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    match disk.open(file, Mode::Read) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.and_then(|opened| read_whole(opened.as_ref(), limit)).map(Some).io_context("read", file),
    }
}

/// The bytes of one of our own small files; `None` if it does not exist. One that is larger than `limit` bytes is damaged.
pub(crate) fn read_own(disk: &dyn Disk, file: &Path, limit: u64, flaw: Flaw) -> Result<Option<Vec<u8>>, ReadError> {
    read_file(disk, file, limit).map_err(|error| match error.source.kind() {
        ErrorKind::FileTooLarge => Damage { file: file.to_owned(), offset: limit, flaw }.into(),
        _ => error.into(),
    })
}

/// Fills a buffer from an offset of a file on; returns how many bytes were filled before the end of the file.
///
/// # Errors
/// What the system reported.
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
/// `FileTooLarge` above the limit, so that a foreign file cannot take all memory; otherwise what the system reported.
pub(crate) fn read_whole(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let length = file.length()?;
    let size = usize::try_from(length).ok().filter(|_| length <= limit).ok_or(ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; size];
    let filled = read_full(file, 0, &mut bytes)?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Writes all bytes at an offset of a file, in one call if the system takes them at once.
///
/// # Errors
/// What the system reported. It is unknown which of the bytes were written.
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
