//! What can go wrong, by what the caller does next.

use proto::error::ErrorReply;
use proto::id::NodeAddr;

/// Why a call did not succeed.
///
/// The variants differ in what is known of the request's effect, which is what decides about the next step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody could be asked, or nobody answered a question that changes nothing. Nothing happened; see that the
    /// cluster runs, then try again.
    #[error("could not reach {whom}: {reason}")]
    NotReached {
        /// Who was to be reached, with the address.
        whom: String,
        /// What went wrong at the last attempt.
        reason: String,
    },
    /// The cluster said no. Nothing happened, and it is safe to repeat the call; where the reason is a limit, after a
    /// change.
    #[error("{reason}")]
    Refused {
        /// Who refused; none where there was no node to ask.
        by: Option<NodeAddr>,
        /// The answer, without its `ERROR`.
        reason: String,
    },
    /// The write was sent, perhaps more than once but always as the same write, and may or may not have taken effect, at
    /// most once. It will not be sent again. Read the key before you repeat the write.
    #[error("UNKNOWN {reason}")]
    Unknown {
        /// Why there was no answer, or what the answer was.
        reason: String,
    },
    /// The call cannot be carried out as it is: a key or value is too long, or an address is none. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// An argument is over its limit, in the words that a node would use.
    pub(crate) fn too_long(limit: &ErrorReply) -> Self {
        Self::Invalid(limit.to_string())
    }
}

/// Of two failures the one that tells more: what a node says, rather than that another one is silent.
pub(crate) fn more_telling(before: Option<Error>, error: Error) -> Error {
    match (before, &error) {
        (Some(refused @ Error::Refused { .. }), Error::NotReached { .. }) => refused,
        _ => error,
    }
}
