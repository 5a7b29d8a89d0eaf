//! What a read can ask about a key beside its value.

use super::key;
use crate::frame::{Words, push_word};

/// What a read tells of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// For how many milliseconds the key will still have its value; -1 for ever, -2 it is absent.
    MillisLeft,
    /// When it will be gone, in seconds since 1970; -1 and -2 as before.
    Deadline,
    /// The same in milliseconds.
    DeadlineMillis,
    /// The length of the value, 0 where the key is absent.
    Length,
    /// 1 where the key is there, else 0.
    Presence,
    /// The kind of the value: `string`, or `none`.
    Kind,
    /// The bytes from one offset to another and with it; negative ones count from the end.
    Range(i64, i64),
    /// What Redis would keep the value as.
    Encoding,
    /// How many refer to the value.
    References,
    /// For how long nobody has used it, at least, in seconds. Known where keys are evicted by that, at the primary; else 0.
    Idle,
    /// How often it is used. Redis counts that only where it evicts by it, which this store never does.
    Frequency,
    /// The bytes of memory that its record takes.
    Memory,
}

/// The details without words of their own.
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
    /// Its name between nodes.
    pub(super) fn verb(self) -> &'static str {
        NAMED.iter().find(|(_, detail)| *detail == self).map_or(RANGE, |(name, _)| name)
    }

    /// How many words [`Detail::push`] appends.
    pub(super) fn words(self) -> usize {
        if matches!(self, Self::Range(..)) { 2 } else { 0 }
    }

    /// Appends the words behind the key.
    pub(super) fn push(self, out: &mut Vec<u8>) {
        if let Self::Range(start, end) = self {
            push_word(start.to_string().as_bytes(), out);
            push_word(end.to_string().as_bytes(), out);
        }
    }

    /// Reads what stands behind a name; gives the key, too.
    pub(super) fn read<'a>(verb: &str, words: &mut Words<'a>) -> Option<(&'a [u8], Self)> {
        let key = key(words)?;
        if verb == RANGE {
            return Some((key, Self::Range(words.parse()?, words.parse()?)));
        }
        let (_, detail) = NAMED.iter().find(|(name, _)| *name == verb)?;
        Some((key, *detail))
    }
}
