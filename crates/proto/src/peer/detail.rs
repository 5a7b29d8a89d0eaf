//! What a read can ask about a key besides its value.

use super::key;
use crate::frame::{Words, push_word};

/// What a read reports about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// How many milliseconds the key has left to live; -1 if it never expires, -2 if it is absent.
    MillisLeft,
    /// When the key expires, in seconds since 1970; -1 and -2 as above.
    Deadline,
    /// The same in milliseconds.
    DeadlineMillis,
    /// The length of the value; 0 if the key is absent.
    Length,
    /// 1 if the key is present, otherwise 0.
    Presence,
    /// The kind of the value: `string`, or `none`.
    Kind,
    /// The bytes from one offset to another, inclusive; negative offsets count from the end.
    Range(i64, i64),
    /// The encoding that Redis would use for the value.
    Encoding,
    /// How many references to the value there are.
    References,
    /// How many seconds the key has been unused, at least. Known at the primary where keys are evicted by it; otherwise
    /// 0.
    Idle,
    /// How often it is used. Redis counts that only when it evicts by it, which this store never does.
    Frequency,
    /// The bytes of memory that its record takes.
    Memory,
}

/// The details that take no words after the key.
const NAMED: [(&str, Detail); 11] = [
    ("D.PTTL", Detail::MillisLeft),
    ("D.DEADLINE", Detail::Deadline),
    ("D.PDEADLINE", Detail::DeadlineMillis),
    ("D.LENGTH", Detail::Length),
    ("D.PRESENCE", Detail::Presence),
    ("D.KIND", Detail::Kind),
    ("D.ENCODING", Detail::Encoding),
    ("D.REFERENCES", Detail::References),
    ("D.IDLE", Detail::Idle),
    ("D.FREQUENCY", Detail::Frequency),
    ("D.MEMORY", Detail::Memory),
];

const RANGE: &str = "D.RANGE";

impl Detail {
    /// Its name in messages between nodes.
    pub(super) fn verb(self) -> &'static str {
        NAMED.iter().find(|(_, detail)| *detail == self).map_or(RANGE, |(name, _)| name)
    }

    /// How many words [`Detail::push`] appends.
    pub(super) fn words(self) -> usize {
        if matches!(self, Self::Range(..)) { 2 } else { 0 }
    }

    /// Appends the words after the key.
    pub(super) fn push(self, out: &mut Vec<u8>) {
        if let Self::Range(start, end) = self {
            push_word(start.to_string().as_bytes(), out);
            push_word(end.to_string().as_bytes(), out);
        }
    }

    /// Reads the key and the words that follow a name.
    pub(super) fn read<'a>(verb: &str, words: &mut Words<'a>) -> Option<(&'a [u8], Self)> {
        let key = key(words)?;
        if verb == RANGE {
            return Some((key, Self::Range(words.parse()?, words.parse()?)));
        }
        let (_, detail) = NAMED.iter().find(|(name, _)| *name == verb)?;
        Some((key, *detail))
    }
}
