//! Where a coordinator saves its state, a single text, across restarts.
//!
//! A directory belongs to one coordinator at a time, by a lock that ends with its process. It contains:
//!
//! - `coordinator.lock`: the locked file. Empty, and left behind.
//! - `coordinator.state`: a first line `coordinator-state VERSION LENGTH SHA256`, with the length of the text in bytes
//!   and its digest in lower-case hexadecimal, followed by the text.
//! - `coordinator.state.tmp`: a text being written. One left by a crash is never read, and is overwritten.
//!
//! Each text is written in full and replaces the previous one by a rename, so that a crash leaves one or the other. A
//! file that is neither is refused, never treated as missing: a coordinator that starts from nothing could give out
//! the same epochs again.

use std::fmt::Write as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use storage::disk::{DiskLock, read_file, replace_file};
use storage::{Disk, FileError, RealDisk, coordinator, identity};

#[cfg(test)]
mod tests;

/// The longest text, in bytes: 4 KiB for each of a cluster's 16,384 slots.
pub(crate) const STATE_BYTES: usize = 64 * 1024 * 1024;

const FORMAT_NAME: &str = "coordinator-state";
const FORMAT_VERSION: &str = "1";
/// The longest first line, in bytes, its newline included.
const FIRST_LINE_BYTES: usize = 128;

/// The state of a coordinator on disk, and the exclusive right to it: as long as this value lives, no other
/// coordinator can use its directory.
#[derive(Debug)]
pub(crate) struct StateFile {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// Held while a text is written: all texts go through the same temporary file.
    writing: Mutex<()>,
    _lock: Box<dyn DiskLock>,
}

/// Why a coordinator cannot start on its directory. Nothing was changed, except that a directory or a lock file may
/// have been created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// The directory cannot be created. Start again once it can be, or with another directory.
    #[error("cannot create the directory {}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another coordinator uses the directory. Stop it first, or start with another directory.
    #[error("another coordinator uses the directory {}; each needs its own --data-dir", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A node keeps its data there, and no coordinator has used it. Start with another directory.
    #[error(
        "the directory {} is the data directory of a node; the coordinator needs its own --data-dir",
        directory.display()
    )]
    OfNode {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory cannot be locked. Start again once it can be written to and locked, or with another one.
    #[error("cannot lock {}, which keeps a second coordinator out of the directory", file.display())]
    Lock {
        /// The lock file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be read. Start again once it can be.
    #[error("cannot read {}; nothing was changed", file.display())]
    Unreadable {
        /// The state file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not valid. Starting again does not help.
    #[error(
        "the coordinator's state in {} cannot be used: {flaw}. Nothing was changed. Restore the file, or start with \
         another --data-dir to let the coordinator take the state over from the nodes",
        file.display()
    )]
    Unusable {
        /// The state file.
        file: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

/// What is wrong with a state file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    /// Cut off within its first line, damaged there, or another file altogether.
    #[error("its first line is not that of a coordinator's state")]
    FirstLine,
    /// Written by another release.
    #[error("it has format version {0}, but this program reads version {FORMAT_VERSION}")]
    Version(u32),
    /// Bytes are missing, or there are too many.
    #[error("its text has {held} bytes, but its first line says {said}")]
    Length {
        /// The length of the text, in bytes.
        held: usize,
        /// The length that its first line says, in bytes.
        said: usize,
    },
    /// The number of bytes is right, but they are not those that were written.
    #[error("it is damaged: its SHA-256 differs from the one in its first line")]
    Digest,
    /// Intact, but not written by this program.
    #[error("its text is not UTF-8")]
    NotText,
    /// Longer than any text that [`StateFile::save`] writes.
    #[error("it is longer than {STATE_BYTES} bytes, the limit")]
    TooLong,
}

/// Why a text was not saved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// The text is too long. Nothing was changed.
    #[error("a state of {0} bytes, the limit is {STATE_BYTES}; nothing was changed")]
    TooLong(usize),
    /// The disk failed. A restart finds one of the two texts, whole, but it is unknown which. Safe to repeat.
    #[error(transparent)]
    Disk(#[from] FileError),
}

impl StateFile {
    /// Locks a directory, which is created if missing, and loads the text that was last saved there; `None` if there
    /// never was one. Blocks on the disk.
    ///
    /// # Errors
    /// Each error says what to do; an existing text is left as it is.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Option<String>), StateError> {
        Self::open_on(Arc::new(RealDisk::default()), dir)
    }

    fn open_on(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, Option<String>), StateError> {
        let directory = || dir.to_owned();
        match disk.list(dir) {
            Ok(names) => {
                let has = |name: &str| names.iter().any(|found| found == name);
                if has(identity::NAME) && !has(coordinator::LOCK_NAME) {
                    return Err(StateError::OfNode { directory: directory() });
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(source) => return Err(StateError::Unreadable { file: directory(), source }),
        }
        disk.create_directory(dir).map_err(|source| StateError::Directory { directory: directory(), source })?;
        // IMPORTANT: lock first, then load. Otherwise another coordinator could save a later text in between.
        let file = dir.join(coordinator::LOCK_NAME);
        let lock = disk.lock(&file).map_err(|source| StateError::Lock { file, source })?;
        let lock = lock.ok_or_else(|| StateError::InUse { directory: directory() })?;
        let text = load(disk.as_ref(), &dir.join(coordinator::STATE_NAME))?;
        Ok((Self { disk, directory: directory(), writing: Mutex::new(()), _lock: lock }, text))
    }

    /// Replaces the saved text. When this returns, the new text survives a power failure. Blocks on the disk;
    /// concurrent calls take turns.
    ///
    /// # Errors
    /// Each error says which text a restart finds.
    pub(crate) fn save(&self, text: &str) -> Result<(), SaveError> {
        if text.len() > STATE_BYTES {
            return Err(SaveError::TooLong(text.len()));
        }
        // A panic under the lock leaves at most a temporary file, which is overwritten.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = [first_line(text.as_bytes()).as_bytes(), text.as_bytes()].concat();
        Ok(replace_file(self.disk.as_ref(), &self.directory, coordinator::STATE_NAME, &bytes)?)
    }
}

fn load(disk: &dyn Disk, file: &Path) -> Result<Option<String>, StateError> {
    let text = match read_file(disk, file, (STATE_BYTES + FIRST_LINE_BYTES) as u64) {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => decode(&bytes),
        Err(error) if error.source.kind() == ErrorKind::FileTooLarge => Err(Flaw::TooLong),
        Err(FileError { source, .. }) => return Err(StateError::Unreadable { file: file.to_owned(), source }),
    };
    text.map(Some).map_err(|flaw| StateError::Unusable { file: file.to_owned(), flaw })
}

/// The first line of a text's file, newline included.
fn first_line(text: &[u8]) -> String {
    let mut line = format!("{FORMAT_NAME} {FORMAT_VERSION} {} ", text.len());
    for byte in Sha256::digest(text) {
        // Writing to a string cannot fail.
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

fn decode(bytes: &[u8]) -> Result<String, Flaw> {
    let newline = bytes.iter().take(FIRST_LINE_BYTES).position(|&byte| byte == b'\n').ok_or(Flaw::FirstLine)?;
    let (line, text) = bytes.split_at(newline + 1);
    let mut words = str::from_utf8(line).map_err(|_| Flaw::FirstLine)?.split_ascii_whitespace();
    let version = match (words.next(), words.next()) {
        (Some(FORMAT_NAME), Some(version)) => version,
        _ => return Err(Flaw::FirstLine),
    };
    if version != FORMAT_VERSION {
        return Err(version.parse().map_or(Flaw::FirstLine, Flaw::Version));
    }
    let (Some(length), Some(_digest), None) = (words.next(), words.next(), words.next()) else {
        return Err(Flaw::FirstLine);
    };
    let said = length.parse().map_err(|_| Flaw::FirstLine)?;
    if text.len() != said {
        return Err(Flaw::Length { held: text.len(), said });
    }
    // Compare the whole line, so that no other spelling of the same numbers passes.
    if line != first_line(text).as_bytes() {
        return Err(Flaw::Digest);
    }
    str::from_utf8(text).map(str::to_owned).map_err(|_| Flaw::NotText)
}
