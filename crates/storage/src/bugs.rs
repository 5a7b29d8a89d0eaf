//! Mistakes that others have made in logs like this one, planted by tests to show that they would be found here.
//!
//! As in the engine they are a type parameter. The type that ships, [`NoBugs`], has none, so that the compiler removes
//! every question about them.

use std::fmt::Debug;

/// A planted mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A sync says that it is done without having been on disk (etcd#14370).
    AcknowledgeBeforeSync,
    /// The names of new files are not made to last.
    NoDirectorySync,
    /// A file gets its name before its bytes are on disk.
    RenameBeforeSync,
    /// The checksum of a frame leaves its header out.
    ChecksumWithoutHeader,
    /// After a snapshot only segments that begin behind it are read: the rest of the segment that it lies in is missed.
    SnapshotMissesTail,
    /// A sync that failed is tried again, and believed (PostgreSQL, 2018).
    RetryAfterFailedSync,
    /// Damage below what was synced is taken for a torn tail.
    DamageTakenForTornTail,
    /// What is behind the cut of a torn tail, or left of an append that failed, stays on disk.
    TailNotCleared,
}

impl Bug {
    /// Every mistake there is.
    pub const ALL: [Self; 8] = [
        Self::AcknowledgeBeforeSync,
        Self::NoDirectorySync,
        Self::RenameBeforeSync,
        Self::ChecksumWithoutHeader,
        Self::SnapshotMissesTail,
        Self::RetryAfterFailedSync,
        Self::DamageTakenForTornTail,
        Self::TailNotCleared,
    ];
}

/// Which bugs are planted.
pub trait Bugs: Debug + Clone + Copy + Default + Send + Sync + 'static {
    /// Whether this one is.
    fn plants(self, bug: Bug) -> bool;
}

/// What ships: none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBugs;

impl Bugs for NoBugs {
    fn plants(self, _: Bug) -> bool {
        false
    }
}
