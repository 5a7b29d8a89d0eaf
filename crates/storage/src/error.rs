//! The errors, grouped by what the caller does next.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use crate::disk;
use crate::position::{DirectoryId, Position};

/// A call to the disk failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", file.display())]
pub struct FileError {
    /// What was attempted, as a verb.
    pub action: &'static str,
    /// The file or directory.
    pub file: PathBuf,
    /// What the system reported.
    pub source: io::Error,
}

impl FileError {
    /// Whether the disk, or the quota of this user, is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        disk::is_no_space(&self.source)
    }

    /// Whether no more files can be open now; this counts as lack of space, too.
    #[must_use]
    pub fn is_no_descriptor(&self) -> bool {
        disk::is_no_descriptor(&self.source)
    }
}

/// Adds to an error which call to the disk failed.
pub(crate) trait IoContext<T> {
    fn io_context(self, action: &'static str, file: impl Into<PathBuf>) -> Result<T, FileError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn io_context(self, action: &'static str, file: impl Into<PathBuf>) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, file: file.into(), source })
    }
}

/// Why the log accepted nothing, or cannot guarantee durability.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk is full. Nothing was appended; appends work again when there is room. After a crash before the next
    /// sync, a prefix of the refused data may be there even so.
    #[error("the disk is full, nothing was appended")]
    NoSpace(#[source] FileError),
    /// The append exceeds the limit. Nothing was appended; split it.
    #[error("an append of {bytes} bytes with its framing, the limit is {limit}; nothing was appended")]
    TooLarge {
        /// The size of the append, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The disk failed in this call, and the journal is now poisoned. It is unknown whether data appended since the
    /// last sync is durable. Hand over and stop.
    #[error("the disk failed; nothing more is acknowledged")]
    Failed(#[source] FileError),
    /// The disk failed in an earlier call. Nothing was appended or synced, nor will it be.
    #[error("the log accepts nothing since the disk failed: {reason}")]
    Poisoned {
        /// The earlier failure.
        reason: String,
    },
}

/// A file whose content is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is damaged at byte {offset}: {flaw}", file.display())]
pub struct Damage {
    /// The file; if it is missing, the name it had.
    pub file: PathBuf,
    /// The position in the file, in bytes from its start.
    pub offset: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// The file is cut within its header, is damaged there, or is a different kind of file.
    #[error("its header is damaged")]
    Header,
    /// The file has the format version of another release.
    #[error("it has format version {0}, but this program reads version {version}", version = crate::FORMAT_VERSION)]
    Version(u32),
    /// The file belongs to another data directory.
    #[error("it belongs to the data directory with the identity {0}")]
    OtherDirectory(DirectoryId),
    /// The position in the file's name is not that in its header.
    #[error("its name does not match its content, which begins at position {0}")]
    OtherName(Position),
    /// The file is shorter than its header says. Its space was allocated before it got its name, so no crash does that.
    #[error("the file ends there, but its header says {size} bytes: something other than a crash of the node cut it")]
    Short {
        /// The original size, in bytes.
        size: u64,
    },
    /// A record that was on disk is damaged.
    #[error("the record there is damaged, and it is not the torn end of the log")]
    Record,
    /// A record is intact, but its receiver could not use it.
    #[error("the record there cannot be used: {0}")]
    Rejected(String),
    /// Records that were on disk are missing.
    #[error("records that were there are missing")]
    RecordsMissing,
    /// A segment of the log is missing.
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
    /// The disk does not return this part of a snapshot.
    #[error("it cannot be read from there on: {0}")]
    Unreadable(String),
    /// A block of a snapshot is damaged.
    #[error("the block there is damaged")]
    Block,
    /// A snapshot ends without a footer, or the footer does not match.
    #[error("its end is missing or does not match the rest")]
    Footer,
    /// The identity cannot be read.
    #[error("it is not what was written there: its checksum does not match")]
    Identity,
    /// The cluster map cannot be read.
    #[error("it is not the map that was written there: its checksum does not match")]
    Map,
}

/// Why reading a file failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is damaged.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

/// Why the receiver of recovered data rejected it.
pub type Rejection = Box<dyn Error + Send + Sync>;

/// Why a data directory cannot be used. Nothing was changed, except as [`OpenError::File`] says.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stop the other process first, or start with another directory.
    #[error("another process uses the data directory {}; each node needs its own --data-dir", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// A coordinator keeps its state there, and no node has data there. Start with another directory.
    #[error(
        "the directory {} is the data directory of a coordinator; each node needs its own --data-dir",
        directory.display()
    )]
    OfCoordinator {
        /// The directory.
        directory: PathBuf,
    },
    /// The disk failed. Safe to repeat.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is a log or a snapshot, but no identity. Restore the file, or choose an empty directory.
    #[error(
        "the data directory {} holds data but no file `identity`; restore the file, or start with another --data-dir",
        directory.display()
    )]
    IdentityMissing {
        /// The directory.
        directory: PathBuf,
    },
    /// There is nothing to check or to repair. A node would start with an empty directory there.
    #[error("{} holds no node's data: none of a node's files is there; nothing was changed", directory.display())]
    NoData {
        /// The directory.
        directory: PathBuf,
    },
    /// There is nothing to check or to repair, but a coordinator keeps its state there.
    #[error(
        "{} is the data directory of a coordinator, not of a node; nothing was changed. Give a node's directory: a \
         coordinator checks its own when it starts",
        directory.display()
    )]
    CoordinatorsData {
        /// The directory.
        directory: PathBuf,
    },
    /// There is nothing to check or to repair any more.
    #[error(
        "the data in {} is being deleted, because its node was decommissioned; the next start with this directory \
         deletes the rest; nothing was changed",
        directory.display()
    )]
    Discarded {
        /// The directory.
        directory: PathBuf,
    },
    /// Data is lost or unreadable. Restarting does not help.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The data is intact, but its receiver could not use it.
    #[error("{} has data at byte {offset} that this program cannot use: {reason}", file.display())]
    Rejected {
        /// The file.
        file: PathBuf,
        /// The offset of the record, or, in a snapshot, of its block.
        offset: u64,
        /// What is wrong with it. The error text includes it.
        reason: Rejection,
    },
    /// The configured segment size is out of range.
    #[error("segments of {segment_bytes} bytes are not possible; use {least} to {most} bytes")]
    SegmentBytes {
        /// What was asked for.
        segment_bytes: u64,
        /// The minimum.
        least: u64,
        /// The maximum.
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
