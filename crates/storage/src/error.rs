//! What goes wrong, by what the caller does next.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::disk;
use crate::position::{DirectoryId, Position};

/// A call to the disk failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", file.display())]
pub struct FileError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// The file or directory.
    pub file: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// Whether the disk, or what this user may have of it, is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        disk::is_no_space(&self.source)
    }

    /// Whether no more files can be open now; that is want of room, too.
    #[must_use]
    pub fn is_no_descriptor(&self) -> bool {
        disk::is_no_descriptor(&self.source)
    }
}

/// Says which call to the disk failed.
pub(crate) trait Named<T> {
    fn named(self, action: &'static str, file: impl Into<PathBuf>) -> Result<T, FileError>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, action: &'static str, file: impl Into<PathBuf>) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, file: file.into(), source })
    }
}

/// Why the log took nothing, or cannot say that something lasts.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk is full. Nothing was appended; the journal takes appends again when there is room. After a crash before
    /// the next sync, a first part of what was refused may be there all the same.
    #[error("the disk is full, nothing was appended")]
    NoSpace(#[source] FileError),
    /// More than an append takes. Nothing was appended; split it.
    #[error("an append of {bytes} bytes with its framing, the limit is {limit}; nothing was appended")]
    TooLarge {
        /// How large it is, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The disk failed at this call, and the journal is poisoned from here on. Whether what was appended since the last
    /// sync lasts is unknown. Hand over and stop.
    #[error("the disk failed; nothing more is acknowledged")]
    Failed(#[source] FileError),
    /// The disk failed at an earlier call. Nothing was appended and nothing was synced, nor will be.
    #[error("the log accepts nothing since the disk failed: {reason}")]
    Poisoned {
        /// That earlier failure.
        reason: String,
    },
}

/// A file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {offset}: {flaw}", file.display())]
pub struct Damage {
    /// The file; of a missing one, the name it had.
    pub file: PathBuf,
    /// Where in it, in bytes from its start.
    pub offset: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Cut within its header, damaged there, or another file altogether.
    #[error("its header is damaged")]
    Header,
    /// Of another release.
    #[error("it has format version {0}, but this program reads version {version}", version = crate::FORMAT_VERSION)]
    Version(u32),
    /// Of another data directory.
    #[error("it belongs to the data directory with the identity {0}")]
    OtherDirectory(DirectoryId),
    /// Its name says another position than its header.
    #[error("its name does not match its content, which begins at position {0}")]
    OtherName(Position),
    /// The file is shorter than its header says. Its room was taken before it got its name, so no crash does that.
    #[error("the file ends there, but its header says {size} bytes: something other than a crash of the node cut it")]
    Short {
        /// How long it was made, in bytes.
        size: u64,
    },
    /// A record is damaged that was on disk.
    #[error("the record there is damaged, and it is not the torn end of the log")]
    Record,
    /// A record is as it was written, and whoever took it could not use it.
    #[error("the record there cannot be used: {0}")]
    Rejected(String),
    /// Records that were on disk are not there.
    #[error("records that were there are missing")]
    RecordsMissing,
    /// A segment of the log is not there.
    #[error("this segment of the log is missing")]
    SegmentMissing,
    /// The log ends before a position that it had reached.
    #[error("the log ends there at position {end}, but it had reached {reached}")]
    EndMissing {
        /// Where it ends.
        end: Position,
        /// Where it ended when the node stopped, or a snapshot began.
        reached: Position,
    },
    /// A block of a snapshot is damaged.
    #[error("the block there is damaged")]
    Block,
    /// A snapshot ends without the mark of a whole one, or its mark does not fit.
    #[error("its end is missing or does not match the rest")]
    Footer,
    /// An identity that cannot be read.
    #[error("it is not what was written there: its checksum does not match")]
    Identity,
    /// A cluster's map that cannot be read.
    #[error("it is not the map that was written there: its checksum does not match")]
    Map,
}

/// Why a file is not read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not as it was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// What the receiver of recovered data finds wrong with it.
pub type Rejection = Box<dyn Error + Send + Sync>;

/// Why a data directory cannot be used. Nothing was changed, but for what [`OpenError::File`] says.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stop the other process first, or start with another directory.
    #[error("another process uses the data directory {}; each node needs its own --data-dir", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// The disk failed. Safe to repeat.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is a log or a snapshot, and nothing says whose. Restore the file, or choose an empty directory.
    #[error(
        "the data directory {} holds data but no file `identity`; restore the file, or start with another --data-dir",
        directory.display()
    )]
    IdentityMissing {
        /// The directory.
        directory: PathBuf,
    },
    /// There is nothing to look at or to repair. A node would begin an empty one there.
    #[error("{} holds no node's data: none of a node's files is there; nothing was changed", directory.display())]
    NoData {
        /// The directory.
        directory: PathBuf,
    },
    /// Data is lost or unreadable. Starting again does not help.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The bytes are as they were written, and whoever took them could not use them.
    #[error("{} has data at byte {offset} that this program cannot use: {reason}", file.display())]
    Rejected {
        /// The file.
        file: PathBuf,
        /// Where in it: of the record, or in a snapshot of its block.
        offset: u64,
        /// What is wrong with it. It is part of the text.
        reason: Rejection,
    },
    /// Settings that make no sense.
    #[error("segments of {segment_bytes} bytes are not possible; use {least} to {most} bytes")]
    SegmentBytes {
        /// What was asked for.
        segment_bytes: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
}

impl From<ReadError> for OpenError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::File(error) => Self::File(error),
            ReadError::Damaged(damage) => Self::Damaged(damage),
        }
    }
}
