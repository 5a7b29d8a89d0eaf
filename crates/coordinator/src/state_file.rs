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
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

#[cfg(test)]
mod tests;

/// The longest text, in bytes: 4 KiB for each of a cluster's 16,384 slots.
pub const STATE_BYTES: usize = 64 * 1024 * 1024;

const FORMAT_NAME: &str = "coordinator-state";
const FORMAT_VERSION: &str = "1";
/// The longest first line, in bytes, its newline included.
const FIRST_LINE_BYTES: usize = 128;

/// The name of the file in the directory that its coordinator keeps locked.
pub const LOCK_NAME: &str = "coordinator.lock";
const STATE_NAME: &str = "coordinator.state";
const WRITTEN_NAME: &str = "coordinator.state.tmp";
/// A file of every node's data directory.
const NODE_NAME: &str = "identity";

/// The state of a coordinator on disk, and the exclusive right to it: as long as this value lives, no other
/// coordinator can use its directory.
#[derive(Debug)]
pub struct StateFile {
    directory: PathBuf,
    /// Held while a text is written: all texts go through the same temporary file.
    writing: Mutex<()>,
    _lock: File,
}

/// Why a coordinator cannot start on its directory. Nothing was changed, except that a directory or a lock file may
/// have been created.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
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
pub enum Flaw {
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

impl StateFile {
    /// Locks a directory, which is created if missing, and loads the text that was last saved there; `None` if there
    /// never was one. Blocks on the disk.
    ///
    /// # Errors
    /// Each error says what to do; an existing text is left as it is.
    pub fn open(dir: &Path) -> Result<(Self, Option<String>), StateError> {
        if dir.join(NODE_NAME).is_file() && !dir.join(LOCK_NAME).exists() {
            return Err(StateError::OfNode { directory: dir.to_owned() });
        }
        make_directory(dir).map_err(|source| StateError::Directory { directory: dir.to_owned(), source })?;
        // IMPORTANT: lock first, then load. Otherwise another coordinator could save a later text in between.
        let lock = lock(dir)?;
        let text = load(&dir.join(STATE_NAME))?;
        Ok((Self { directory: dir.to_owned(), writing: Mutex::new(()), _lock: lock }, text))
    }

    /// Replaces the saved text. When this returns, the new text survives a power failure. Blocks on the disk;
    /// concurrent calls take turns.
    ///
    /// # Errors
    /// A text longer than [`STATE_BYTES`] changes nothing. After any other error, a restart finds one of the two
    /// texts, whole, but it is unknown which. It is safe to repeat the call.
    pub fn save(&self, text: &str) -> io::Result<()> {
        if text.len() > STATE_BYTES {
            let message = format!("a state of {} bytes, the limit is {STATE_BYTES}; nothing was changed", text.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // A panic under the lock leaves at most a temporary file, which is overwritten.
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, written) = (self.directory.join(STATE_NAME), self.directory.join(WRITTEN_NAME));
        // IMPORTANT: the text is on disk before it gets its name, or a power failure could leave the name with only
        // part of the text; and the name is on disk before this returns, or a power failure could bring back the
        // previous text.
        write(&written, text).map_err(|error| about("write", &written, &error))?;
        fs::rename(&written, &state).map_err(|error| about("replace", &state, &error))?;
        sync_directory(&self.directory).map_err(|error| about("sync", &self.directory, &error))
    }
}

fn lock(dir: &Path) -> Result<File, StateError> {
    let file = dir.join(LOCK_NAME);
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(&file);
    let opened = match opened {
        Ok(opened) => opened,
        Err(source) => return Err(StateError::Lock { file, source }),
    };
    match opened.try_lock() {
        Ok(()) => Ok(opened),
        Err(TryLockError::WouldBlock) => Err(StateError::InUse { directory: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(StateError::Lock { file, source }),
    }
}

fn load(file: &Path) -> Result<Option<String>, StateError> {
    let most = STATE_BYTES + FIRST_LINE_BYTES;
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(most as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Unreadable { file: file.to_owned(), source }),
    }
    let text = if bytes.len() > most { Err(Flaw::TooLong) } else { decode(&bytes) };
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

fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut created = File::create(file)?;
    created.write_all(first_line(text.as_bytes()).as_bytes())?;
    created.write_all(text.as_bytes())?;
    created.sync_all()
}

/// Creates a directory and its missing parents, so that they survive a power failure.
fn make_directory(dir: &Path) -> io::Result<()> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|above| !above.as_os_str().is_empty() && !above.is_dir()).collect();
    for new in missing.into_iter().rev() {
        match fs::create_dir(new) {
            // Somebody else was faster.
            Err(_) if new.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            made => made?,
        }
        match new.parent() {
            Some(above) if !above.as_os_str().is_empty() => sync_directory(above)?,
            _ => sync_directory(Path::new("."))?,
        }
    }
    Ok(())
}

/// Syncs the names in a directory to disk.
#[cfg(unix)]
fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Windows has no such call; NTFS journals its names itself.
#[cfg(not(unix))]
fn sync_directory(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// The system's error, with what was attempted on which path.
fn about(tried: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {tried} {}: {error}", path.display()))
}
