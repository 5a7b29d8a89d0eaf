//! Changes of keys that depend on what those hold, and whose answer is more than a confirmation.
//!
//! All Redis commands that read, change and write one key are built from these few, and so are those that change
//! several keys of one slot together. The keys' primary executes the change under the lock of their slot and turns it
//! into its effect, puts and deletes. Replicas see only the effect.

use super::{WallTime, Writes, counter, key, push_number_word};
use crate::decimal::Decimal;
use crate::frame::{Words, push_word};
use crate::limits;

/// A change that the primary computes from what the key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modify<'a> {
    /// Set the value if the condition holds.
    Set {
        /// The value.
        value: &'a [u8],
        /// What the key must hold before.
        condition: Condition<'a>,
        /// How long the key keeps the value.
        expiry: Expiry,
        /// What the answer is.
        reply_mode: ReplyMode,
    },
    /// Delete the key. The answer is whether it was present.
    Delete,
    /// Delete the key. The answer is the value that it had.
    GetDel,
    /// Change how long the key keeps its value. The answer is the value.
    GetEx(Expiry),
    /// Change how long the key keeps its value if the condition holds. The answer is whether it did.
    Expire {
        /// How long: [`Expiry::For`] or [`Expiry::Until`].
        expiry: Expiry,
        /// The deadline that the key must have before.
        condition: ExpireIf,
    },
    /// Append these bytes to the value and keep the deadline. The answer is the new length.
    Append(&'a [u8]),
    /// Overwrite the value from an offset on, padding a shorter value with zeros, and keep the deadline. The answer is
    /// the new length.
    Overwrite(u64, &'a [u8]),
    /// Add this to the value, an integer, and keep the deadline. The answer is the sum.
    Increment(i64),
    /// Add this to the value, a decimal number, and keep the deadline. The answer is the sum.
    IncrementDecimal(Decimal),
    /// Write these keys, of which the key is the first, if all of them are absent. The answer is 1, or 0 if nothing was
    /// done.
    SetAllAbsent(Writes<'a>),
    /// Move the value, with its deadline, to another key of the same slot.
    Rename {
        /// The other key.
        to: &'a [u8],
        /// Only if that one is absent: the answer is 1, or 0 if nothing was done. Otherwise it is a confirmation.
        if_absent: bool,
    },
}

/// What a key must hold for a [`Modify::Set`] to take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// Anything or nothing.
    Always,
    /// Nothing.
    Absent,
    /// Anything.
    Present,
    /// This value.
    Equals(&'a [u8]),
}

/// How long a key keeps its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// Forever.
    Never,
    /// For the remaining time to live of the value before.
    Keep,
    /// This many milliseconds, up to [`limits::TTL_MILLIS`]; with 0 the key is absent.
    For(u64),
    /// Until this time; the key is absent if that has passed.
    Until(WallTime),
}

/// What the answer to a [`Modify::Set`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyMode {
    /// `OK`, or nothing if the condition did not hold.
    Done,
    /// The value before, whether or not the condition held.
    Old,
    /// 1, or 0 if the condition did not hold.
    Count,
}

/// The deadline that a key must have for a [`Modify::Expire`] to take effect. No deadline counts as one that never
/// comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpireIf {
    /// It must have none.
    pub has_none: bool,
    /// It must have one.
    pub has_one: bool,
    /// It must have one before the new deadline.
    pub is_earlier: bool,
    /// It must have one after the new deadline.
    pub is_later: bool,
}

/// The outcome of a [`Modify`]. It is kept with the write's identity, so that a retry gets the same answer as the first
/// try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModifyReply<'a> {
    /// It was done.
    Done,
    /// There is nothing.
    Nothing,
    /// A number.
    Number(i64),
    /// A value.
    Value(&'a [u8]),
    /// It cannot be applied to what the key holds. Nothing was changed.
    Error(ModifyError),
}

/// Why a [`Modify`] cannot be applied to what the key holds. All texts but the last are those of Redis 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModifyError {
    /// The value is not a 64-bit integer.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    /// The sum is not a 64-bit integer.
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    /// The value is not a decimal number.
    #[error("ERR value is not a valid float")]
    NotDecimal,
    /// The sum is over the limit of [`Decimal`].
    #[error("ERR increment would produce NaN or Infinity")]
    TooGreat,
    /// The value, or keys and values written together, would be longer than [`limits::VALUE_BYTES`].
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    TooLong,
    /// There is nothing to rename.
    #[error("ERR no such key")]
    NoKey,
    /// The answer is longer than [`limits::ANSWER_BYTES`], and the write is to be remembered with it.
    #[error(
        "ERR the answer is longer than {} bytes, the most that ONCE can remember; nothing was changed, repeat it \
         without ONCE",
        limits::ANSWER_BYTES
    )]
    AnswerTooLong,
}

impl ModifyError {
    const ALL: [Self; 7] = [
        Self::NotInteger,
        Self::Overflow,
        Self::NotDecimal,
        Self::TooGreat,
        Self::TooLong,
        Self::NoKey,
        Self::AnswerTooLong,
    ];

    /// The mistake with this text.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mistake| mistake.to_string() == text)
    }
}

impl ModifyReply<'_> {
    /// Encodes the outcome: its kind, then its content.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Done => b"+".to_vec(),
            Self::Nothing => b"_".to_vec(),
            Self::Number(number) => format!(":{number}").into_bytes(),
            Self::Value(value) => [b"$", *value].concat(),
            Self::Error(mistake) => format!("-{mistake}").into_bytes(),
        }
    }

    /// Reads what [`ModifyReply::to_bytes`] returns.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<ModifyReply<'_>> {
        let (kind, rest) = bytes.split_first()?;
        match kind {
            b'+' if rest.is_empty() => Some(ModifyReply::Done),
            b'_' if rest.is_empty() => Some(ModifyReply::Nothing),
            b':' => Some(ModifyReply::Number(std::str::from_utf8(rest).ok()?.parse().ok()?)),
            b'$' => Some(ModifyReply::Value(rest)),
            b'-' => ModifyError::of_text(std::str::from_utf8(rest).ok()?).map(ModifyReply::Error),
            _ => None,
        }
    }
}

const SET: &str = "M.SET";
const DELETE: &str = "M.DELETE";
const TAKE: &str = "M.TAKE";
const OUTLIVE: &str = "M.OUTLIVE";
const EXPIRE: &str = "M.EXPIRE";
const APPEND: &str = "M.APPEND";
const OVERWRITE: &str = "M.OVERWRITE";
const INCREMENT: &str = "M.INCREMENT";
const INCREMENT_DECIMAL: &str = "M.DECIMAL";
const SET_ALL_ABSENT: &str = "M.SETALL";
const RENAME: &str = "M.RENAME";

impl<'a> Modify<'a> {
    /// The keys that it names besides the key it is a change of.
    pub fn other_keys(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (writes, to) = match *self {
            Self::SetAllAbsent(writes) => (Some(writes), None),
            Self::Rename { to, .. } => (None, Some(to)),
            _ => (None, None),
        };
        let others = writes.into_iter().flat_map(|writes| writes.iter().skip(1).map(|(key, _)| key));
        others.chain(to)
    }

    /// The bytes that it borrows: the new value and the expected one.
    #[must_use]
    pub fn borrowed(&self) -> [&'a [u8]; 2] {
        match self {
            Self::Set { value, condition: Condition::Equals(expected), .. } => [value, expected],
            Self::Set { value, .. } | Self::Append(value) | Self::Overwrite(_, value) => [value, b""],
            Self::SetAllAbsent(writes) => [writes.bytes(), b""],
            Self::Rename { to, .. } => [to, b""],
            _ => [b"", b""],
        }
    }

    /// The same change with other bytes in place of those of [`Modify::borrowed`].
    #[must_use]
    pub fn with_borrowed<'b>(&self, value: &'b [u8], expected: &'b [u8]) -> Modify<'b> {
        match *self {
            Self::Set { condition, expiry, reply_mode, .. } => {
                let condition = match condition {
                    Condition::Always => Condition::Always,
                    Condition::Absent => Condition::Absent,
                    Condition::Present => Condition::Present,
                    Condition::Equals(_) => Condition::Equals(expected),
                };
                Modify::Set { value, condition, expiry, reply_mode }
            }
            Self::Append(_) => Modify::Append(value),
            Self::Overwrite(offset, _) => Modify::Overwrite(offset, value),
            Self::Delete => Modify::Delete,
            Self::GetDel => Modify::GetDel,
            Self::GetEx(expiry) => Modify::GetEx(expiry),
            Self::Expire { expiry, condition } => Modify::Expire { expiry, condition },
            Self::Increment(by) => Modify::Increment(by),
            Self::IncrementDecimal(by) => Modify::IncrementDecimal(by),
            Self::SetAllAbsent(_) => Modify::SetAllAbsent(Writes::known(value)),
            Self::Rename { if_absent, .. } => Modify::Rename { to: value, if_absent },
        }
    }

    /// How many words [`Modify::push`] appends.
    pub(super) fn words(&self) -> usize {
        match self {
            Self::Set { .. } => 7,
            Self::Delete | Self::GetDel => 2,
            Self::GetEx(_)
            | Self::Append(_)
            | Self::Increment(_)
            | Self::IncrementDecimal(_)
            | Self::SetAllAbsent(_) => 3,
            Self::Expire { .. } | Self::Overwrite(..) | Self::Rename { .. } => 4,
        }
    }

    pub(super) fn push(&self, key: &[u8], out: &mut Vec<u8>) {
        let verb = match self {
            Self::Set { .. } => SET,
            Self::Delete => DELETE,
            Self::GetDel => TAKE,
            Self::GetEx(_) => OUTLIVE,
            Self::Expire { .. } => EXPIRE,
            Self::Append(_) => APPEND,
            Self::Overwrite(..) => OVERWRITE,
            Self::Increment(_) => INCREMENT,
            Self::IncrementDecimal(_) => INCREMENT_DECIMAL,
            Self::SetAllAbsent(_) => SET_ALL_ABSENT,
            Self::Rename { .. } => RENAME,
        };
        push_word(verb.as_bytes(), out);
        push_word(key, out);
        match self {
            Self::Set { value, condition, expiry, reply_mode } => {
                push_word(value, out);
                let (name, expected): (&[u8], &[u8]) = match condition {
                    Condition::Always => (b"always", b""),
                    Condition::Absent => (b"absent", b""),
                    Condition::Present => (b"present", b""),
                    Condition::Equals(expected) => (b"equals", expected),
                };
                push_word(name, out);
                push_word(expected, out);
                expiry.push(out);
                let reply_mode: &[u8] = match reply_mode {
                    ReplyMode::Done => b"done",
                    ReplyMode::Old => b"old",
                    ReplyMode::Count => b"count",
                };
                push_word(reply_mode, out);
            }
            Self::Delete | Self::GetDel => {}
            Self::GetEx(expiry) => expiry.push(out),
            Self::Expire { expiry, condition: ExpireIf { has_none, has_one, is_earlier, is_later } } => {
                expiry.push(out);
                let flags = [has_none, has_one, is_earlier, is_later].map(|flag| b'0' + u8::from(*flag));
                push_word(&flags, out);
            }
            Self::Append(value) => push_word(value, out),
            Self::Overwrite(offset, value) => {
                push_number_word(*offset, out);
                push_word(value, out);
            }
            Self::Increment(by) => push_word(by.to_string().as_bytes(), out),
            Self::IncrementDecimal(by) => push_word(by.to_string().as_bytes(), out),
            Self::SetAllAbsent(writes) => push_word(writes.bytes(), out),
            Self::Rename { to, if_absent } => {
                push_word(to, out);
                push_word(if *if_absent { b"absent" } else { b"always" }, out);
            }
        }
    }

    /// Reads what [`Modify::push`] appends after its verb; `None` for an unknown verb, or wrong words.
    pub(super) fn read(verb: &str, words: &mut Words<'a>) -> Option<(&'a [u8], Self)> {
        let key = key(words)?;
        let modify = match verb {
            SET => {
                let (value, name, expected) = (words.next()?, words.next()?, words.next()?);
                let condition = match name {
                    b"always" => Condition::Always,
                    b"absent" => Condition::Absent,
                    b"present" => Condition::Present,
                    b"equals" => Condition::Equals(expected),
                    _ => return None,
                };
                let expiry = Expiry::read(words)?;
                let reply_mode = match words.next()? {
                    b"done" => ReplyMode::Done,
                    b"old" => ReplyMode::Old,
                    b"count" => ReplyMode::Count,
                    _ => return None,
                };
                Self::Set { value, condition, expiry, reply_mode }
            }
            DELETE => Self::Delete,
            TAKE => Self::GetDel,
            OUTLIVE => Self::GetEx(Expiry::read(words)?),
            EXPIRE => {
                let expiry = Expiry::read(words)?;
                let &[has_none, has_one, is_earlier, is_later] = words.next()?.first_chunk()?;
                let [has_none, has_one, is_earlier, is_later] =
                    [has_none, has_one, is_earlier, is_later].map(|flag| flag == b'1');
                Self::Expire { expiry, condition: ExpireIf { has_none, has_one, is_earlier, is_later } }
            }
            APPEND => Self::Append(words.next()?),
            OVERWRITE => Self::Overwrite(counter(words)?, words.next()?),
            INCREMENT => Self::Increment(words.parse()?),
            INCREMENT_DECIMAL => Self::IncrementDecimal(Decimal::parse(words.next()?)?),
            SET_ALL_ABSENT => {
                let writes = Writes::read(words.next()?)?;
                let is_first = writes.iter().next().is_some_and(|(first, _)| first == key);
                Self::SetAllAbsent(Some(writes).filter(|_| is_first)?)
            }
            RENAME => {
                let to = self::key(words)?;
                let if_absent = match words.next()? {
                    b"always" => false,
                    b"absent" => true,
                    _ => return None,
                };
                Self::Rename { to, if_absent }
            }
            _ => return None,
        };
        Some((key, modify))
    }
}

impl Expiry {
    fn push(self, out: &mut Vec<u8>) {
        let word = match self {
            Self::Never => "endless".to_owned(),
            Self::Keep => "kept".to_owned(),
            Self::For(millis) => format!("for:{millis}"),
            Self::Until(WallTime(moment)) => format!("until:{moment}"),
        };
        push_word(word.as_bytes(), out);
    }

    fn read(words: &mut Words<'_>) -> Option<Self> {
        let word = words.text()?;
        match word.split_once(':') {
            None if word == "endless" => Some(Self::Never),
            None if word == "kept" => Some(Self::Keep),
            Some(("for", millis)) => {
                let millis = crate::id::counter(millis).ok()?;
                (millis <= limits::TTL_MILLIS).then_some(Self::For(millis))
            }
            Some(("until", moment)) => Some(Self::Until(WallTime(crate::id::counter(moment).ok()?))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_reads_back_as_written() {
        for reply in [
            ModifyReply::Done,
            ModifyReply::Nothing,
            ModifyReply::Number(i64::MIN),
            ModifyReply::Value(b"+\r\n"),
            ModifyReply::Value(b""),
            ModifyReply::Error(ModifyError::NotInteger),
            ModifyReply::Error(ModifyError::NoKey),
            ModifyReply::Error(ModifyError::AnswerTooLong),
        ] {
            assert_eq!(ModifyReply::from_bytes(&reply.to_bytes()), Some(reply));
        }
        for bytes in [&b""[..], b"+x", b"_x", b":", b":x", b"-ERR other", b"?"] {
            assert_eq!(ModifyReply::from_bytes(bytes), None, "{bytes:?}");
        }
    }
}
