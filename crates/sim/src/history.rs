//! What clients did and saw.
//!
//! A history in the sense of Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects" (ACM
//! TOPLAS 12(3), 1990), with the call and the answer of an operation in one record. One operation precedes another if
//! its end is *before* the other's call; if the two times are equal, either order is allowed, as the clock cannot tell.
//!
//! The recorder follows these rules:
//! - No value is written twice to a key. Otherwise the judges could not tell which write a read saw. A value whose
//!   conditional write was answered [`Outcome::Conflict`] counts as not written.
//! - Reads of unknown outcome are left out, and refused operations, which did nothing.
//! - An operation that its client repeated is one operation, from the first call to the last answer.
//! - A compare-and-set on a version is recorded as a swap of the value that had that version.

mod text;

use std::fmt;

pub use text::ParseError;

/// One operation of one client on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// The caller; only for people, the judges ignore it.
    pub client: u32,
    /// The key.
    pub key: String,
    /// When it was called, in microseconds on the common clock of the history.
    pub call: u64,
    /// When its answer came, on the same clock. `None` if the outcome is unknown: it took effect at some time after the
    /// call, perhaps long after its client gave up, or never.
    pub end: Option<u64>,
    /// What was asked and answered.
    pub action: Action,
}

/// The request and the answer of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An unconditional write.
    Put {
        /// What it writes.
        value: String,
    },
    /// A read; its end is always known.
    Get {
        /// What was read; `None` if the key was absent.
        result: Option<String>,
    },
    /// An unconditional delete. Whether there was anything to delete is not recorded.
    Delete,
    /// From some moment on the key is absent, if it has this value then: its deadline passes. Never has an end.
    Expire {
        /// The value.
        value: String,
    },
    /// Somebody was told whether the key had a value; the end is always known.
    Look {
        /// Whether it had one.
        is_there: bool,
    },
    /// A write on the condition that the key is absent.
    PutIfAbsent {
        /// What it writes.
        value: String,
        /// The outcome.
        outcome: Outcome,
    },
    /// A write on the condition that the key has a given value.
    Swap {
        /// The value to be replaced.
        expected: String,
        /// What it writes.
        value: String,
        /// The outcome.
        outcome: Outcome,
    },
}

/// The outcome of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The condition held, and the value was written.
    Done,
    /// The condition did not hold, and nothing was written.
    Conflict,
    /// No answer came: it is one of the two, or the operation never arrived. An operation has this outcome if and only
    /// if it has no end.
    Unknown,
}

/// A run's operations, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// A history without operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an operation.
    ///
    /// # Panics
    ///
    /// If the operation breaks the rules: an end before its call, a read without an end, or a conditional write whose
    /// outcome and end disagree on whether it is known.
    pub fn push(&mut self, operation: Operation) {
        if let Err(rule) = operation.check() {
            panic!("the recorder made an operation that no history may hold: {operation}: {rule}");
        }
        self.operations.push(operation);
    }

    /// All operations, in the order in which they were pushed.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The latest call or end of all operations, in microseconds; 0 if there are none.
    #[must_use]
    pub fn last_time(&self) -> u64 {
        self.operations.iter().map(|operation| operation.end.unwrap_or(operation.call)).max().unwrap_or(0)
    }
}

impl Operation {
    /// The rule that the operation breaks, as far as a single operation can show.
    fn check(&self) -> Result<(), &'static str> {
        if self.end.is_some_and(|end| end < self.call) {
            return Err("it ends before it is called");
        }
        match &self.action {
            Action::Get { .. } | Action::Look { .. } if self.end.is_none() => {
                Err("a read of unknown outcome is left out")
            }
            Action::Expire { .. } if self.end.is_some() => Err("nobody knows when a value has expired"),
            Action::PutIfAbsent { outcome, .. } | Action::Swap { outcome, .. }
                if (*outcome == Outcome::Unknown) != self.end.is_none() =>
            {
                Err("the outcome of a conditional write is unknown exactly where it has no end")
            }
            _ => Ok(()),
        }
    }

    /// The value that the operation wrote, or may have written if its outcome is unknown.
    #[must_use]
    pub fn written(&self) -> Option<&str> {
        match &self.action {
            Action::Put { value } => Some(value),
            Action::PutIfAbsent { value, outcome } | Action::Swap { value, outcome, .. } => {
                (*outcome != Outcome::Conflict).then_some(value)
            }
            Action::Get { .. } | Action::Delete | Action::Expire { .. } | Action::Look { .. } => None,
        }
    }

    /// The value that the operation certainly found: the result of a read, or the value that a swap replaced.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        match &self.action {
            Action::Get { result } => result.as_deref(),
            Action::Swap { expected, outcome: Outcome::Done, .. } => Some(expected),
            _ => None,
        }
    }
}

/// For people, without the key: `put v1 by client 3, from 100 to 250 µs`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by client {}, ", self.action, self.client)?;
        match self.end {
            Some(end) => write!(f, "from {} to {end} µs", self.call),
            None => write!(f, "called at {} µs, outcome unknown", self.call),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { value } => write!(f, "put {value}"),
            Self::Get { result: Some(value) } => write!(f, "get {value}"),
            Self::Get { result: None } => write!(f, "get, absent"),
            Self::Delete => write!(f, "delete"),
            Self::Expire { value } => write!(f, "expire {value}"),
            Self::Look { is_there: true } => write!(f, "look, there"),
            Self::Look { is_there: false } => write!(f, "look, absent"),
            Self::PutIfAbsent { value, outcome } => write!(f, "put {value} if absent, {outcome}"),
            Self::Swap { expected, value, outcome } => write!(f, "swap {expected} for {value}, {outcome}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Done => "done",
            Self::Conflict => "conflict",
            Self::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(call: u64, end: Option<u64>, action: Action) -> Operation {
        Operation { client: 1, key: "k".into(), call, end, action }
    }

    #[test]
    fn an_operation_that_contradicts_itself_is_told() {
        let value = || "v".to_string();
        let swap = |outcome| Action::Swap { expected: "u".into(), value: value(), outcome };
        assert!(operation(5, Some(5), Action::Delete).check().is_ok());
        assert!(operation(5, None, swap(Outcome::Unknown)).check().is_ok());
        assert!(operation(5, Some(4), Action::Delete).check().is_err());
        assert!(operation(5, None, Action::Get { result: None }).check().is_err());
        assert!(operation(5, None, Action::Look { is_there: true }).check().is_err());
        assert!(operation(5, Some(6), Action::Expire { value: value() }).check().is_err());
        assert!(operation(5, None, swap(Outcome::Done)).check().is_err());
        assert!(operation(5, Some(6), swap(Outcome::Unknown)).check().is_err());
        assert!(
            operation(5, None, Action::PutIfAbsent { value: value(), outcome: Outcome::Conflict }).check().is_err()
        );
    }

    #[test]
    #[should_panic(expected = "it ends before it is called")]
    fn a_history_takes_no_operation_that_contradicts_itself() {
        History::new().push(operation(5, Some(4), Action::Delete));
    }
}
