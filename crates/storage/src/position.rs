//! Positions in the log, and the identity of the directory that contains it.

use std::fmt;

/// A position in the log of one node: a byte count, as if all its segments were one file that never loses its
/// beginning. It only grows. A segment that begins at position `f` holds the bytes from `f` on, header included, so
/// position `p` is byte `p - f` of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// Where every log begins.
    pub const START: Self = Self(0);
    /// No position comes close: 2^62 bytes take 146 years at a gigabyte a second. A file that claims more is damaged.
    pub const LIMIT: Self = Self(1 << 62);
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A random number drawn when a data directory is created. All its files carry it, so that a foreign file is
/// recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DirectoryId(pub u128);

impl fmt::Display for DirectoryId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}
