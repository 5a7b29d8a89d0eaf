//! What a [`Modify`] does to a key, and what its client is told. No state and no clock: the primary of the key's slot
//! calls this under the slot's lock, and orders the effect.

use std::borrow::Cow;

use proto::decimal::Decimal;
use proto::limits;
use proto::peer::{Condition, ExpireIf, Life, Mistake, Modify, Tells, Told, WallTime};

use crate::record::Record;

/// What a client is told, including the bytes that it quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Telling {
    /// Quotes nothing.
    Plain(Told<'static>),
    /// Quotes the value of this record.
    ValueOf(Record),
    /// These bytes, as encoded by [`Told::to_bytes`].
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
}

impl Telling {
    /// What the client is told.
    #[must_use]
    pub fn told(&self) -> Told<'_> {
        match self {
            Self::Plain(told) => *told,
            Self::ValueOf(record) => record.value().map_or(Told::Nothing, Told::Value),
            Self::Bytes(bytes) => Told::from_bytes(bytes).unwrap_or(Told::Done),
        }
    }

    fn number(number: usize) -> Self {
        Self::Plain(Told::Number(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn value_of(record: Option<&Record>) -> Self {
        record.map_or(Self::Plain(Told::Nothing), |record| Self::ValueOf(record.clone()))
    }
}

/// Evaluates a modification. `present` is the newest record of the key, unless it is absent or has expired by `now`.
pub(crate) fn evaluate<'a>(modify: &Modify<'a>, present: Option<&'a Record>, now: WallTime) -> (Outcome<'a>, Telling) {
    match *modify {
        Modify::Set { value, condition, life, tells } => {
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => present.is_none(),
                Condition::Present => present.is_some(),
                Condition::Equals(expected) => present.is_some_and(|record| record.value() == Some(expected)),
            };
            let telling = match tells {
                Tells::Done => Telling::Plain(if holds { Told::Done } else { Told::Nothing }),
                Tells::Old => Telling::value_of(present),
                Tells::Count => Telling::number(usize::from(holds)),
            };
            let outcome = if holds { put(Cow::Borrowed(value), life, present, now) } else { Outcome::Unchanged };
            (outcome, telling)
        }
        Modify::Delete => (absent(present), Telling::number(usize::from(present.is_some()))),
        Modify::Take => (absent(present), Telling::value_of(present)),
        Modify::Outlive(life) => {
            let outcome = present.map_or(Outcome::Unchanged, |record| relive(record, life, now));
            (outcome, Telling::value_of(present))
        }
        Modify::Expire { life, condition } => {
            let record = present.filter(|record| may_expire(record, life, condition, now));
            let outcome = record.map_or(Outcome::Unchanged, |record| relive(record, life, now));
            (outcome, Telling::number(usize::from(record.is_some())))
        }
        Modify::Append(bytes) => {
            let before = present.and_then(Record::value).unwrap_or_default();
            joined(present, before.len() + bytes.len(), || [before, bytes].concat(), !bytes.is_empty())
        }
        Modify::Overwrite(offset, bytes) => overwrite(present, offset, bytes),
        Modify::Increment(by) => match incremented(present, by) {
            Ok(sum) => (kept(present, sum.to_string().into_bytes()), Telling::Plain(Told::Number(sum))),
            Err(mistake) => declined(mistake),
        },
        Modify::IncrementDecimal(by) => match incremented_decimal(present, by) {
            Ok(sum) => {
                let text = sum.to_string().into_bytes();
                let told = Told::Value(&text).to_bytes();
                (kept(present, text), Telling::Bytes(told.into()))
            }
            Err(mistake) => declined(mistake),
        },
    }
}

fn declined(mistake: Mistake) -> (Outcome<'static>, Telling) {
    (Outcome::Unchanged, Telling::Plain(Told::Mistake(mistake)))
}

fn absent(present: Option<&Record>) -> Outcome<'static> {
    if present.is_some() { Outcome::Delete } else { Outcome::Unchanged }
}

/// Puts a value with the requested lifetime.
fn put<'a>(value: Cow<'a, [u8]>, life: Life, present: Option<&Record>, now: WallTime) -> Outcome<'a> {
    match deadline(life, present, now) {
        Some(deadline) if deadline <= now => absent(present),
        deadline => Outcome::Put(value, deadline),
    }
}

/// Puts a value derived from the key's own, keeping its deadline.
fn kept(present: Option<&Record>, value: Vec<u8>) -> Outcome<'static> {
    Outcome::Put(Cow::Owned(value), present.and_then(Record::deadline))
}

/// Puts the same value with another deadline.
fn relive<'a>(record: &'a Record, life: Life, now: WallTime) -> Outcome<'a> {
    if deadline(life, Some(record), now) == record.deadline() {
        return Outcome::Unchanged;
    }
    put(Cow::Borrowed(record.value().unwrap_or_default()), life, Some(record), now)
}

fn deadline(life: Life, present: Option<&Record>, now: WallTime) -> Option<WallTime> {
    match life {
        Life::Endless => None,
        Life::Kept => present.and_then(Record::deadline),
        Life::For(millis) => Some(WallTime(now.0.saturating_add(millis))),
        Life::Until(moment) => Some(moment),
    }
}

fn may_expire(record: &Record, life: Life, condition: ExpireIf, now: WallTime) -> bool {
    let ExpireIf { has_none, has_one, is_earlier, is_later } = condition;
    let old = record.deadline();
    let Some(new) = deadline(life, Some(record), now) else { return false };
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
) -> (Outcome<'a>, Telling) {
    if len > limits::VALUE_BYTES {
        return declined(Mistake::TooLong);
    }
    let outcome = if changes || present.is_none() { kept(present, join()) } else { Outcome::Unchanged };
    (outcome, Telling::number(len))
}

fn overwrite<'a>(present: Option<&'a Record>, offset: u64, bytes: &'a [u8]) -> (Outcome<'a>, Telling) {
    let before = present.and_then(Record::value).unwrap_or_default();
    if bytes.is_empty() {
        return (Outcome::Unchanged, Telling::number(before.len()));
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

fn incremented(present: Option<&Record>, by: i64) -> Result<i64, Mistake> {
    let before = match present.and_then(Record::value) {
        Some(value) => proto::decimal::integer(value).ok_or(Mistake::NotInteger)?,
        None => 0,
    };
    before.checked_add(by).ok_or(Mistake::Overflow)
}

fn incremented_decimal(present: Option<&Record>, by: Decimal) -> Result<Decimal, Mistake> {
    let before = Decimal::parse(present.and_then(Record::value).unwrap_or(b"0")).ok_or(Mistake::NotDecimal)?;
    before.plus(by).ok_or(Mistake::TooGreat)
}

#[cfg(test)]
mod tests;
