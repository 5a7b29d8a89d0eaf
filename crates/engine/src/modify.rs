//! What a [`Modify`] does to its keys, and what its client is told. No state and no clock: the primary of the keys' slot
//! calls this under the slot's lock, and orders the effect.

use std::borrow::Cow;

use proto::decimal::Decimal;
use proto::limits;
use proto::peer::{Condition, Effect, ExpireIf, Expiry, Modify, ModifyError, ModifyReply, ReplyMode, WallTime, Writes};

use crate::record::Record;

/// What a client is told, including the bytes that it quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnedReply {
    /// Quotes nothing.
    Plain(ModifyReply<'static>),
    /// Quotes the value of this record.
    ValueOf(Record),
    /// These bytes, as encoded by [`ModifyReply::to_bytes`].
    Bytes(Box<[u8]>),
}

/// What happens to a key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// It stays as it is.
    Unchanged,
    /// It gets this value, until the given moment if there is one.
    Put(Cow<'a, [u8]>, Option<WallTime>),
    /// It becomes absent.
    Delete,
    /// These [`Writes`] take effect together.
    Multi(Cow<'a, [u8]>),
}

impl OwnedReply {
    /// What the client is told.
    #[must_use]
    pub fn as_reply(&self) -> ModifyReply<'_> {
        match self {
            Self::Plain(reply) => *reply,
            Self::ValueOf(record) => record.value().map_or(ModifyReply::Nothing, ModifyReply::Value),
            Self::Bytes(bytes) => ModifyReply::from_bytes(bytes).unwrap_or(ModifyReply::Done),
        }
    }

    fn number(number: usize) -> Self {
        Self::Plain(ModifyReply::Number(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn value_of(record: Option<&Record>) -> Self {
        record.map_or(Self::Plain(ModifyReply::Nothing), |record| Self::ValueOf(record.clone()))
    }
}

/// Evaluates a modification. `present` is the newest record of the key, unless it is absent or has expired by `now`;
/// `is_present` says of another key whether it has a value.
pub(crate) fn evaluate<'a>(
    modify: &Modify<'a>,
    present: Option<&'a Record>,
    is_present: impl Fn(&[u8]) -> bool,
    now: WallTime,
) -> (Outcome<'a>, OwnedReply) {
    match *modify {
        Modify::Set { value, condition, expiry, reply_mode } => {
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => present.is_none(),
                Condition::Present => present.is_some(),
                Condition::Equals(expected) => present.is_some_and(|record| record.value() == Some(expected)),
            };
            let reply = match reply_mode {
                ReplyMode::Done => OwnedReply::Plain(if holds { ModifyReply::Done } else { ModifyReply::Nothing }),
                ReplyMode::Old => OwnedReply::value_of(present),
                ReplyMode::Count => OwnedReply::number(usize::from(holds)),
            };
            let outcome = if holds { put(Cow::Borrowed(value), expiry, present, now) } else { Outcome::Unchanged };
            (outcome, reply)
        }
        Modify::Delete => (absent(present), OwnedReply::number(usize::from(present.is_some()))),
        Modify::GetDel => (absent(present), OwnedReply::value_of(present)),
        Modify::GetEx(expiry) => {
            let outcome = present.map_or(Outcome::Unchanged, |record| with_expiry(record, expiry, now));
            (outcome, OwnedReply::value_of(present))
        }
        Modify::Expire { expiry, condition } => {
            let record = present.filter(|record| may_expire(record, expiry, condition, now));
            let outcome = record.map_or(Outcome::Unchanged, |record| with_expiry(record, expiry, now));
            (outcome, OwnedReply::number(usize::from(record.is_some())))
        }
        Modify::Append(bytes) => {
            let before = present.and_then(Record::value).unwrap_or_default();
            joined(present, before.len() + bytes.len(), || [before, bytes].concat(), !bytes.is_empty())
        }
        Modify::Overwrite(offset, bytes) => overwrite(present, offset, bytes),
        Modify::Increment(by) => match incremented(present, by) {
            Ok(sum) => (kept(present, sum.to_string().into_bytes()), OwnedReply::Plain(ModifyReply::Number(sum))),
            Err(error) => declined(error),
        },
        Modify::IncrementDecimal(by) => match incremented_decimal(present, by) {
            Ok(sum) => {
                let text = sum.to_string().into_bytes();
                let reply = ModifyReply::Value(&text).to_bytes();
                (kept(present, text), OwnedReply::Bytes(reply.into()))
            }
            Err(error) => declined(error),
        },
        Modify::SetAllAbsent(writes) => {
            let holds = present.is_none() && !modify.other_keys().any(is_present);
            let outcome = if holds { Outcome::Multi(Cow::Borrowed(writes.bytes())) } else { Outcome::Unchanged };
            (outcome, OwnedReply::number(usize::from(holds)))
        }
        Modify::Rename { to, if_absent } => {
            let Some(record) = present else { return declined(ModifyError::NoKey) };
            let reply = |holds| match if_absent {
                true => OwnedReply::number(usize::from(holds)),
                false => OwnedReply::Plain(ModifyReply::Done),
            };
            if to == record.key() || (if_absent && is_present(to)) {
                return (Outcome::Unchanged, reply(false));
            }
            match renamed(record, to) {
                Some(writes) => (Outcome::Multi(Cow::Owned(writes)), reply(true)),
                None => declined(ModifyError::TooLong),
            }
        }
    }
}

/// The writes that move a value to another key; `None` if they are too long.
fn renamed(record: &Record, to: &[u8]) -> Option<Vec<u8>> {
    let mut writes = Vec::new();
    Writes::push(record.key(), Effect::Delete, &mut writes);
    Writes::push(to, record.effect(), &mut writes);
    (writes.len() <= limits::VALUE_BYTES).then_some(writes)
}

fn declined(error: ModifyError) -> (Outcome<'static>, OwnedReply) {
    (Outcome::Unchanged, OwnedReply::Plain(ModifyReply::Error(error)))
}

fn absent(present: Option<&Record>) -> Outcome<'static> {
    if present.is_some() { Outcome::Delete } else { Outcome::Unchanged }
}

/// Puts a value with the requested lifetime.
fn put<'a>(value: Cow<'a, [u8]>, expiry: Expiry, present: Option<&Record>, now: WallTime) -> Outcome<'a> {
    match deadline(expiry, present, now) {
        Some(deadline) if deadline <= now => absent(present),
        deadline => Outcome::Put(value, deadline),
    }
}

/// Puts a value derived from the key's own, keeping its deadline.
fn kept(present: Option<&Record>, value: Vec<u8>) -> Outcome<'static> {
    Outcome::Put(Cow::Owned(value), present.and_then(Record::deadline))
}

/// Puts the same value with another deadline.
fn with_expiry<'a>(record: &'a Record, expiry: Expiry, now: WallTime) -> Outcome<'a> {
    if deadline(expiry, Some(record), now) == record.deadline() {
        return Outcome::Unchanged;
    }
    put(Cow::Borrowed(record.value().unwrap_or_default()), expiry, Some(record), now)
}

fn deadline(expiry: Expiry, present: Option<&Record>, now: WallTime) -> Option<WallTime> {
    match expiry {
        Expiry::Never => None,
        Expiry::Keep => present.and_then(Record::deadline),
        Expiry::For(millis) => Some(WallTime(now.0.saturating_add(millis))),
        Expiry::Until(moment) => Some(moment),
    }
}

fn may_expire(record: &Record, expiry: Expiry, condition: ExpireIf, now: WallTime) -> bool {
    let ExpireIf { has_none, has_one, is_earlier, is_later } = condition;
    let old = record.deadline();
    let Some(new) = deadline(expiry, Some(record), now) else { return false };
    (!has_none || old.is_none())
        && (!has_one || old.is_some())
        && (!is_earlier || old.is_some_and(|old| new > old))
        && (!is_later || old.is_none_or(|old| new < old))
}

/// A value that was extended, or that is too long.
fn joined<'a>(
    present: Option<&Record>,
    len: usize,
    join: impl FnOnce() -> Vec<u8>,
    changes: bool,
) -> (Outcome<'a>, OwnedReply) {
    if len > limits::VALUE_BYTES {
        return declined(ModifyError::TooLong);
    }
    let outcome = if changes || present.is_none() { kept(present, join()) } else { Outcome::Unchanged };
    (outcome, OwnedReply::number(len))
}

fn overwrite<'a>(present: Option<&'a Record>, offset: u64, bytes: &'a [u8]) -> (Outcome<'a>, OwnedReply) {
    let before = present.and_then(Record::value).unwrap_or_default();
    if bytes.is_empty() {
        return (Outcome::Unchanged, OwnedReply::number(before.len()));
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(bytes.len());
    let join = || {
        let kept = before.get(..start).unwrap_or(before);
        let gap = vec![0; start - kept.len()];
        [kept, &gap, bytes, before.get(end..).unwrap_or_default()].concat()
    };
    joined(present, end.max(before.len()), join, true)
}

fn incremented(present: Option<&Record>, by: i64) -> Result<i64, ModifyError> {
    let before = match present.and_then(Record::value) {
        Some(value) => proto::decimal::integer(value).ok_or(ModifyError::NotInteger)?,
        None => 0,
    };
    before.checked_add(by).ok_or(ModifyError::Overflow)
}

fn incremented_decimal(present: Option<&Record>, by: Decimal) -> Result<Decimal, ModifyError> {
    let before = Decimal::parse(present.and_then(Record::value).unwrap_or(b"0")).ok_or(ModifyError::NotDecimal)?;
    before.plus(by).ok_or(ModifyError::TooGreat)
}

#[cfg(test)]
mod tests;
