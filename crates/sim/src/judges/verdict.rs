//! The findings of a judge, for a program to act on and for a person to read.
//!
//! A violation is explained by the operations that contradict each other, and no others. If the check by zones finds
//! it, these are the ends of two zones (Gibbons and Korach 1997). A search has no such proof; it tells how far it got.

use std::fmt;

use crate::history::Operation;

/// How many operations a story lists at most: of those put in order, and of those in turn.
pub const STORY_LENGTH: usize = 8;

/// Why a history did not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    /// The history is not linearizable: the store broke its promise.
    #[error("{0}")]
    Violation(Box<Violation>),
    /// The search did not finish, so nothing is known. It may be repeated with a higher limit.
    #[error("key {key}: undecided after {steps} steps of the search, which is the limit")]
    GaveUp {
        /// The key whose search was too long.
        key: String,
        /// The limit, in operations put in order, including those that were undone.
        steps: u64,
    },
    /// The recorder broke its rules, so nothing can be decided. A bug of the workload, not of the store.
    #[error("key {key}: the value {value} is written twice, so who wrote what a read saw cannot be told")]
    WrittenTwice {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

/// A key whose operations no order explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// Why there is no order.
    pub story: Story,
}

/// Why there is no order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one story in a run, and it stands in a box")]
pub enum Story {
    /// A value was found that nobody wrote.
    NeverWritten {
        /// The operation that found it.
        found: Operation,
    },
    /// A value was found by an operation that had ended before the value's write was called.
    FoundBeforeWritten {
        /// The operation that found the value.
        found: Operation,
        /// Its write.
        write: Operation,
    },
    /// The key was absent though a value had been there, and it was never deleted.
    AbsentAgain {
        /// The operation that wrote or found the value.
        present: Operation,
        /// The later operation that found the key absent.
        absent: Operation,
    },
    /// Two swaps replaced the same value.
    ReplacedTwice {
        /// The two swaps.
        swaps: [Operation; 2],
    },
    /// Each of two values must have come before the other.
    Interleaved {
        /// An operation on one value that had ended before one on the other was called.
        forth: [Operation; 2],
        /// An operation on the other value that had ended before one on the first was called.
        back: [Operation; 2],
    },
    /// The search found no order. This is the farthest it got.
    Stuck {
        /// How many operations had been put in order before `ordered`.
        earlier: usize,
        /// The last operations that were put in order, at most [`STORY_LENGTH`].
        ordered: Vec<Operation>,
        /// The value of the key at that point.
        value: Option<String>,
        /// An operation that was still to find this value, so that the value could not be overwritten.
        owed: Option<Operation>,
        /// The operations in turn, none of which led on, at most [`STORY_LENGTH`].
        next: Vec<Operation>,
    },
}

impl Story {
    /// The verdict that tells this story.
    pub(super) fn of(self, key: &str) -> Verdict {
        Verdict::Violation(Box::new(Violation { key: key.to_owned(), story: self }))
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}: not linearizable: {}", self.key, self.story)
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverWritten { found } => write!(f, "a value was found that was never written\n  {found}"),
            Self::FoundBeforeWritten { found, write } => {
                write!(f, "a value was found before its write was called\n  {found}\n  {write}")
            }
            Self::AbsentAgain { present, absent } => {
                write!(f, "the key was found absent after it had had a value, and it was never deleted")?;
                write!(f, "\n  {present}\n  {absent}")
            }
            Self::ReplacedTwice { swaps: [one, other] } => {
                write!(f, "two swaps replaced the same value\n  {one}\n  {other}")
            }
            Self::Interleaved { forth, back } => {
                write!(f, "of two values each came before the other")?;
                for [ended, called] in [forth, back] {
                    write!(f, "\n  {ended}\n    had ended before\n  {called}")?;
                }
                Ok(())
            }
            Self::Stuck { earlier, ordered, value, owed, next } => {
                write!(f, "no order explains the operations; the longest that was found")?;
                if *earlier > 0 {
                    write!(f, "\n  {earlier} operations, then")?;
                }
                ordered.iter().try_for_each(|operation| write!(f, "\n  {operation}"))?;
                match value {
                    Some(value) => write!(f, "\n  makes the value {value}")?,
                    None => write!(f, "\n  leaves the key absent")?,
                }
                if let Some(owed) = owed {
                    write!(f, ", still to be found by\n  {owed}")?;
                }
                write!(f, "\n  and none of those in turn leads on:")?;
                next.iter().try_for_each(|operation| write!(f, "\n  {operation}"))
            }
        }
    }
}
