//! Errors, classified by what the caller should do next.

use proto::error::ErrorReply;
use proto::id::NodeAddr;

/// Why a call did not succeed.
///
/// The variants differ in what is known about the request's effect, since that decides the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody could be reached, or nobody answered a question that changes nothing. Nothing happened; check that the
    /// cluster is running, then try again.
    #[error("could not reach {whom}: {reason}")]
    NotReached {
        /// Who could not be reached, with the address.
        whom: String,
        /// What went wrong at the last attempt.
        reason: String,
    },
    /// The cluster said no. Nothing happened, and it is safe to repeat the call; if the reason is a limit, change the
    /// call first.
    #[error("{reason}")]
    Refused {
        /// Who refused; `None` if there was no node to ask.
        by: Option<NodeAddr>,
        /// The answer, without its `ERROR`.
        reason: String,
    },
    /// The write was sent, perhaps more than once but always as the same write, and may or may not have taken effect,
    /// at most once. It will not be sent again, but a copy of it may still wait at a node that stands still, for up to two
    /// minutes: until then, a read that does not show it proves nothing, and it may replace a later write, unless it was
    /// conditional itself ([`Client::compare_and_set`](crate::Client::compare_and_set)). Read the key before you repeat it.
    #[error("UNKNOWN {reason}")]
    Unknown {
        /// Why there was no answer, or what the answer was.
        reason: String,
    },
    /// The call itself is invalid: a key or value is too long, or an address is malformed. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// An argument is over its limit, worded as a node would say it.
    pub(crate) fn too_long(limit: &ErrorReply) -> Self {
        Self::Invalid(limit.to_string())
    }
}

/// Returns the more informative of two failures: what a node said, rather than that another one was silent.
pub(crate) fn more_telling(before: Option<Error>, error: Error) -> Error {
    match (before, &error) {
        (Some(refused @ Error::Refused { .. }), Error::NotReached { .. }) => refused,
        _ => error,
    }
}
