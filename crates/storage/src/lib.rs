//! What a node keeps on disk so that it survives any stop: a log of everything it must not forget, snapshots that
//! replace the older part of that log, and recovery from both.
//!
//! This crate does not interpret the data: it stores payloads of bytes and returns them in the order in which they were
//! written. It blocks on the disk; it has no tasks, no sockets and no clock. docs/storage-format.md describes each file
//! byte by byte.
//!
//! In reading order:
//!
//! - [`directory`]: a data directory as a whole. The entry points are [`DataDir::open`], then [`DataDir::recover`].
//! - [`journal`]: the log, open for appending. `segment` and `frame` are its files and their contents.
//! - [`recovery`]: which part of a log is good, what a crash tore off, and what is damaged. `survey` adds the
//!   snapshots.
//! - [`snapshot`]: writing and reading a snapshot.
//! - [`identity`]: whose data it is. [`map_file`]: the last cluster map.
//! - [`check()`](check::check) and [`repair()`](repair::repair): what operators do with a directory that does not
//!   start.
//! - [`discard()`]: deletes the data of a node that leaves for good.
//! - [`disk`]: what all of this needs from a disk, with [`RealDisk`] and [`SimDisk`], whose power can be cut.
//! - [`error`], [`position`], and [`bugs`], which tests plant.

pub mod bugs;
pub mod check;
pub mod coordinator;
pub mod directory;
pub mod disk;
pub mod error;
pub mod identity;
pub mod journal;
pub mod map_file;
pub mod position;
pub mod recovery;
pub mod repair;
pub mod segment;
pub mod snapshot;

mod cut_mark;
mod discard;
mod fields;
mod frame;
mod sealed;
mod survey;

pub use check::{Report, check};
pub use directory::{DataDir, Found, Options, Recovery};
pub use discard::discard;
pub use disk::Disk;
pub use disk::real::RealDisk;
pub use disk::sim::SimDisk;
pub use error::{Damage, FileError, Flaw, JournalError, OpenError};
pub use identity::Identity;
pub use journal::Journal;
pub use position::{DirectoryId, Position};
pub use recovery::{Recovered, TornTail};
pub use repair::{RepairReport, repair};
pub use snapshot::{SnapshotInfo, SnapshotWriter};

/// The version of all on-disk formats. Files of another version are refused; the error names the file and the version.
pub const FORMAT_VERSION: u32 = 1;
