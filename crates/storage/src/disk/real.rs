//! The files of the operating system.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
#[cfg(unix)]
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(unix)]
use std::sync::{Mutex, PoisonError};

use fs4::FileExt as _;

use super::{Disk, DiskFile, DiskLock, Mode, Place};

/// The files of the operating system. Built for Linux; works on macOS and Windows within the guarantees they give.
#[derive(Debug, Default)]
pub struct RealDisk {
    /// The directory that was synced last, which stays open: a process that cannot open more files can still sync it.
    #[cfg(unix)]
    synced: Mutex<Option<(PathBuf, Arc<File>)>>,
}

impl RealDisk {
    /// A directory, opened only if another was synced since.
    #[cfg(unix)]
    fn directory(&self, path: &Path) -> io::Result<Arc<File>> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        match synced.as_ref().filter(|(known, _)| known == path) {
            Some((_, open)) => Ok(Arc::clone(open)),
            None => {
                let opened = Arc::new(File::open(path)?);
                *synced = Some((path.to_owned(), Arc::clone(&opened)));
                Ok(opened)
            }
        }
    }
}

#[derive(Debug)]
struct RealFile(File);

/// The lock belongs to the open files and ends with them.
#[derive(Debug)]
struct RealLock(#[expect(dead_code, reason = "held, never used")] Vec<File>);

/// Locks the directory of a lock file as well: somebody may remove that file. `None` if another process has locked it.
/// Not every file system can.
#[cfg(unix)]
fn lock_above(file: &Path) -> io::Result<Option<Vec<File>>> {
    let directory = File::open(file.parent().unwrap_or(Path::new(".")))?;
    match directory.try_lock() {
        Ok(()) => Ok(Some(vec![directory])),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(_)) => Ok(Some(Vec::new())),
    }
}

/// Windows cannot open a directory as a file.
#[cfg(not(unix))]
fn lock_above(_: &Path) -> io::Result<Option<Vec<File>>> {
    Ok(Some(Vec::new()))
}

impl Disk for RealDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        if directory.is_dir() {
            return Ok(());
        }
        let above = directory.parent().filter(|above| !above.as_os_str().is_empty());
        if let Some(above) = above {
            self.create_directory(above)?;
        }
        // The values are for this user alone.
        #[cfg(unix)]
        let made = std::os::unix::fs::DirBuilderExt::mode(&mut fs::DirBuilder::new(), 0o700).create(directory);
        #[cfg(not(unix))]
        let made = fs::create_dir(directory);
        match made {
            // Somebody else was faster.
            Err(_) if directory.is_dir() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::ErrorKind::NotADirectory.into()),
            Err(error) => Err(error),
            Ok(()) => self.sync_directory(above.unwrap_or(Path::new("."))),
        }
    }

    fn open(&self, file: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let opened = match mode {
            Mode::Read => File::options().read(true).open(file),
            Mode::Write => File::options().read(true).write(true).open(file),
            Mode::Create => File::options().read(true).write(true).create(true).truncate(true).open(file),
        };
        Ok(Arc::new(RealFile(opened?)))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type()?.is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        fs::remove_file(file)
    }

    #[cfg(unix)]
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.directory(directory)?.sync_all()
    }

    /// Windows cannot open a directory as a file. Its file systems journal name changes, in order.
    #[cfg(not(unix))]
    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&self, directory: &Path) -> io::Result<u64> {
        fs4::available_space(directory)
    }

    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(file)?;
        match opened.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let Some(mut locked) = lock_above(file)? else { return Ok(None) };
        locked.push(opened);
        Ok(Some(Box::new(RealLock(locked))))
    }

    fn boot_id(&self) -> Option<String> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|id| !id.is_empty())
    }

    #[cfg(unix)]
    fn place(&self, directory: &Path) -> io::Result<Place> {
        use std::os::unix::fs::MetadataExt as _;
        use std::time::UNIX_EPOCH;

        let metadata = fs::metadata(directory)?;
        let inode = metadata.ino();
        // Not every file system knows it.
        let made = metadata.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let made = made.map_or(0, |made| (u64::from(made.subsec_nanos()) << 32) ^ made.as_secs());
        Ok(Place { number: inode ^ made, inode })
    }

    #[cfg(not(unix))]
    fn place(&self, _: &Path) -> io::Result<Place> {
        Ok(Place::default())
    }
}

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    #[cfg(unix)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buffer, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.0, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.0, bytes, offset)
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        if self.length()? >= length {
            return Ok(());
        }
        match self.0.allocate(length) {
            // A file system that cannot reserve space still sets the length.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            other => other?,
        }
        if self.length()? < length {
            self.0.set_len(length)?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl DiskLock for RealLock {}
