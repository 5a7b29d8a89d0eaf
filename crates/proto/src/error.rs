//! Every error text on the wire.
//!
//! The errors of the first version are kept verbatim. Newer ones read `ERROR CODE what happened, and what to do`;
//! [`ErrorReply::code`] returns the code, and `docs/protocol.md` lists each one with whether the command took effect
//! and whether to retry.

use std::borrow::Cow;
use std::time::Duration;

use crate::frame::Encoding;
use crate::id::NodeAddr;
use crate::limits;

/// An error as an answer. Its text is what follows `ERROR ` on a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ErrorReply {
    /// There is no such verb. Nothing was done.
    #[error("Unknown command")]
    UnknownCommand,
    /// A known verb with the wrong words. Nothing was done.
    #[error("Invalid {0} format")]
    InvalidFormat(&'static str),
    /// The input ended in the middle of a request. Nothing was done.
    #[error("Incomplete command: a line must end with a newline")]
    Incomplete,
    /// The input ended in the middle of an array. Nothing was done.
    #[error("Incomplete command: the input ended inside an array")]
    IncompleteArray,
    /// No such node is registered.
    #[error("Node {0} not found")]
    NodeNotFound(NodeAddr),
    /// No node is registered, so no key has an owner.
    #[error("No nodes available")]
    NoNodes,
    /// Part of the request is over its limit. Nothing was done.
    #[error("TOOLONG {what} of {len} bytes, the limit is {limit}; nothing was changed")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// How long it is, or how much of it has arrived.
        len: usize,
        /// How long it may be.
        limit: usize,
    },
    /// An array has too many words. Nothing was done.
    #[error("TOOLONG array of {words} words, the limit is {}; nothing was changed", limits::ARRAY_WORDS)]
    TooManyWords {
        /// How many words were announced.
        words: usize,
    },
    /// A request names too many keys. Nothing was done.
    #[error("TOOLONG {keys} keys in one request, the limit is {}; nothing was changed", limits::PAGE_KEYS)]
    TooManyKeys {
        /// How many keys.
        keys: usize,
    },
    /// A malformed array, or HTTP. The start of the next request is unknown, so the connection is closed.
    #[error("PROTOCOL {0}; nothing was changed and the connection is closed")]
    Protocol(&'static str),
    /// A line that is not valid UTF-8. Nothing was done.
    #[error("NOTTEXT a line must be UTF-8 text; nothing was changed, send bytes with the array encoding")]
    NotText,
    /// A stored value that a line cannot carry.
    #[error("BINARY value is not a line of text ({len} bytes); read it with the array encoding")]
    Binary {
        /// The length of the value.
        len: usize,
    },
    /// A page of a walk contains a key that a line cannot carry.
    #[error("BINARY key is not a word of a line ({len} bytes); list it with the array encoding")]
    BinaryKey {
        /// The length of the key.
        len: usize,
    },
    /// Refused: nothing was done, and the request may be retried.
    #[error("UNAVAILABLE {0}")]
    Unavailable(String),
    /// A queue or limit is full: nothing was done, and the request may be retried later.
    #[error("BUSY {0}")]
    Busy(String),
    /// A write needs more memory than the node may use: nothing was done, and it may be retried once there is room.
    #[error("FULL {0}")]
    Full(String),
    /// The awaited condition was not met in time. Nothing was done.
    #[error("TIMEOUT {0}")]
    Timeout(String),
    /// The write may or may not have taken effect.
    #[error("UNKNOWN {0}")]
    Unknown(String),
    /// A retried write is too old for its outcome to be known: nothing was done this time.
    #[error("STALE {0}")]
    Stale(String),
    /// A message between nodes came from a sender that is not a member of this cluster. Nothing was done.
    #[error("NOTPEER {0}")]
    NotPeer(String),
    /// The client must authenticate first.
    #[error("NOAUTH Authentication required: nothing was done; send AUTH and the password first")]
    NoAuth,
    /// An error of Redis 7, word for word. Nothing was done.
    #[error("{0}")]
    Redis(Cow<'static, str>),
    /// This node is not the primary of the key's slot. Sent only between nodes. Nothing was done.
    #[error("MOVED this node does not serve the key")]
    Moved,
    /// The value is longer than requested. Sent only between nodes. Nothing was done.
    #[error("LONG request this value on its own")]
    Long,
}

impl ErrorReply {
    /// The uppercase code that programs check; `None` for the errors of the first version.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::UnknownCommand
            | Self::InvalidFormat(_)
            | Self::Incomplete
            | Self::IncompleteArray
            | Self::NodeNotFound(_)
            | Self::NoNodes => None,
            Self::TooLong { .. } | Self::TooManyWords { .. } | Self::TooManyKeys { .. } => Some("TOOLONG"),
            Self::Protocol(_) => Some("PROTOCOL"),
            Self::NotText => Some("NOTTEXT"),
            Self::Binary { .. } | Self::BinaryKey { .. } => Some("BINARY"),
            Self::Unavailable(_) => Some("UNAVAILABLE"),
            Self::Busy(_) => Some("BUSY"),
            Self::Full(_) => Some("FULL"),
            Self::Timeout(_) => Some("TIMEOUT"),
            Self::Unknown(_) => Some("UNKNOWN"),
            Self::Stale(_) => Some("STALE"),
            Self::NotPeer(_) => Some("NOTPEER"),
            Self::NoAuth => Some("NOAUTH"),
            Self::Redis(_) => Some("ERR"),
            Self::Moved => Some("MOVED"),
            Self::Long => Some("LONG"),
        }
    }

    /// An error in Redis's words, starting with its code.
    #[must_use]
    pub fn redis(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Redis(text.into())
    }

    /// The client has not authenticated, worded for the encoding.
    #[must_use]
    pub fn no_auth(encoding: Encoding) -> Self {
        if encoding == Encoding::Line { Self::NoAuth } else { Self::redis("NOAUTH Authentication required.") }
    }

    /// The client has not authenticated in time.
    #[must_use]
    pub fn login_timeout(time: Duration) -> Self {
        Self::redis(format!("NOAUTH no password was given within {} s: the connection is closed", time.as_secs()))
    }

    /// The key is over its limit.
    #[must_use]
    pub fn key_too_long(len: usize) -> Self {
        Self::TooLong { what: "key", len, limit: limits::KEY_BYTES }
    }

    /// The value is over its limit.
    #[must_use]
    pub fn value_too_long(len: usize) -> Self {
        Self::TooLong { what: "value", len, limit: limits::VALUE_BYTES }
    }

    /// Too many clients are connected already.
    #[must_use]
    pub fn too_many_clients(limit: usize) -> Self {
        Self::Busy(format!("{limit} clients are connected, which is the limit; try again later"))
    }
}
