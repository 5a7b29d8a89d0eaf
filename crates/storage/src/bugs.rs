//! Bugs that others have had in logs like this one. Tests plant them to show that they would be found here.
//!
//! As in the engine they are a type parameter. The type that ships, [`NoBugs`], has none, so that the compiler removes
//! all checks for them.

use std::fmt::Debug;

/// Defines [`Bug`] with these variants.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A bug that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)*
        }

        impl Bug {
            /// Every bug there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

bugs! {
    /// A sync reports success before the data is on disk (etcd#14370).
    AcknowledgeBeforeSync,
    /// The names of new files are not made durable.
    NoDirectorySync,
    /// A file gets its name before its bytes are on disk.
    RenameBeforeSync,
    /// The checksum of a frame does not cover its header.
    ChecksumWithoutHeader,
    /// After a snapshot, only segments that begin after it are read: the rest of the segment that contains its
    /// position is missed.
    SnapshotMissesTail,
    /// A failed sync is retried, and the retry is believed (PostgreSQL, 2018).
    RetryAfterFailedSync,
    /// Damage below the synced position is taken for a torn tail.
    DamageTakenForTornTail,
    /// What follows the cut of a torn tail, or remains of a failed append, stays on disk.
    TailNotCleared,
    /// A directory whose data was given up still says whose data it was.
    GivenUpClaimed,
}

/// Which bugs are planted.
pub trait Bugs: Debug + Clone + Copy + Default + Send + Sync + 'static {
    /// Whether this bug is planted.
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
