//! Consistency levels that a client can ask for: when a write is acknowledged, and what a read may return.

use std::fmt;
use std::str::FromStr;

/// When a write is acknowledged. Each level includes the promise of the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AckLevel {
    /// Once the primary has applied it.
    #[default]
    Async,
    /// Once the whole in-sync set has it: at least a majority of the slot's copies.
    Quorum,
    /// Once every copy that the slot should have has it.
    All,
}

/// What a read may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ReadLevel {
    /// The newest value that the answering node has applied: the primary, or a replica when the primary does not
    /// answer.
    #[default]
    Local,
    /// At the primary, and only what the whole in-sync set has: linearizable per key.
    Linear,
}

/// The word is not a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct NotALevel(&'static str);

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Async => "async",
            Self::Quorum => "quorum",
            Self::All => "all",
        })
    }
}

impl FromStr for AckLevel {
    type Err = NotALevel;

    /// Case-insensitive.
    fn from_str(text: &str) -> Result<Self, NotALevel> {
        let levels = [Self::Async, Self::Quorum, Self::All];
        let named = levels.into_iter().find(|level| level.to_string().eq_ignore_ascii_case(text));
        named.ok_or(NotALevel("async, quorum or all"))
    }
}

impl fmt::Display for ReadLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Linear => "linear",
        })
    }
}

impl FromStr for ReadLevel {
    type Err = NotALevel;

    /// Case-insensitive.
    fn from_str(text: &str) -> Result<Self, NotALevel> {
        let levels = [Self::Local, Self::Linear];
        let named = levels.into_iter().find(|level| level.to_string().eq_ignore_ascii_case(text));
        named.ok_or(NotALevel("local or linear"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_back_in_any_case() {
        for level in [AckLevel::Async, AckLevel::Quorum, AckLevel::All] {
            assert_eq!(level.to_string().to_uppercase().parse(), Ok(level));
        }
        for level in [ReadLevel::Local, ReadLevel::Linear] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert!("most".parse::<AckLevel>().is_err() && "".parse::<ReadLevel>().is_err());
        assert!(AckLevel::Async < AckLevel::Quorum && AckLevel::Quorum < AckLevel::All);
    }
}
