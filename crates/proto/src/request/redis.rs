//! Redis's single-key commands, with Redis's syntax and errors.
//!
//! Each becomes a [`Read`] or a [`Write`], as the commands of the line protocol do; [`super::keyspace`] has those about
//! more than one key. On a line, their words are separated by blanks, including the value.

use super::{KeyWords, NodeRequest, Rest, checked_key};
use crate::commands::Command;
use crate::decimal::{Decimal, integer};
use crate::error::ErrorReply;
use crate::frame::{Frame, Words};
use crate::level::ReadLevel;
use crate::limits;
use crate::peer::{Change, Condition, Detail, ExpireIf, Expiry, Modify, Read, ReplyMode, WallTime, Wanted, Write};

pub(super) type Parsed<'a> = Result<NodeRequest<'a>, ErrorReply>;

/// How many bytes of unknown words an error quotes.
pub(super) const QUOTED_BYTES: usize = 128;

/// The words of a command without its name, and that name as Redis's errors spell it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Args<'a> {
    pub(super) name: &'static str,
    pub(super) words: KeyWords<'a>,
}

/// The unit of a number in Redis's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Millis,
    UnixSeconds,
    UnixMillis,
}

pub(super) fn syntax() -> ErrorReply {
    ErrorReply::redis("ERR syntax error")
}

pub(super) fn not_an_integer() -> ErrorReply {
    ErrorReply::redis("ERR value is not an integer or out of range")
}

/// The error for an unknown command, as Redis words it.
pub(super) fn unknown_command(mut words: Words<'_>) -> ErrorReply {
    let name = words.next().unwrap_or_default();
    let mut args = String::new();
    for word in words {
        let Some(left) = QUOTED_BYTES.checked_sub(args.len()).filter(|left| *left > 0) else { break };
        args.push_str(&format!("'{}' ", quoted(word, left)));
    }
    let name = quoted(name, QUOTED_BYTES);
    ErrorReply::redis(format!("ERR unknown command '{name}', with args beginning with: {args}"))
}

/// A word as Redis quotes it in an error: its first bytes, and only those before a NUL.
pub(super) fn quoted(word: &[u8], len: usize) -> String {
    let word = word.get(..len).unwrap_or(word);
    String::from_utf8_lossy(word.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The array error for a command name that both encodings share.
pub(super) fn wrong_number(verb: &str) -> ErrorReply {
    ErrorReply::redis(format!("ERR wrong number of arguments for '{}' command", verb.to_ascii_lowercase()))
}

/// The error as worded for an array request: in Redis's words if the command is Redis's.
#[cold]
pub(super) fn in_array(error: ErrorReply, frame: Frame<'_>) -> ErrorReply {
    match (error, frame) {
        (ErrorReply::UnknownCommand, Frame::Array(words)) => unknown_command(words),
        (ErrorReply::InvalidFormat(verb), Frame::Array(words))
            if Command::named(verb.as_bytes()).is_some_and(|command| !command.takes(words.len())) =>
        {
            wrong_number(verb)
        }
        (error, _) => error,
    }
}

impl<'a> Rest<'a> {
    /// `SET key value [options]`. Without options it is a plain PUT.
    pub(super) fn set(self) -> Parsed<'a> {
        if let Self::Words(words) = self
            && let Some([key, value]) = words.exactly()
        {
            return Ok(NodeRequest::Write(Write::new(checked_key(key)?, Change::Put(value))));
        }
        self.args("set", 2..)?.set()
    }

    /// A Redis command for one key, or for many.
    pub(super) fn redis(self, verb: &[u8]) -> Parsed<'a> {
        match verb {
            b"SET" => self.set(),
            b"SETNX" => {
                let [key, value] = self.exactly("setnx")?;
                set_if(key, value, Condition::Absent, ReplyMode::Count)
            }
            b"GETSET" => {
                let [key, value] = self.exactly("getset")?;
                set_if(key, value, Condition::Always, ReplyMode::Old)
            }
            b"SETEX" => self.put_for("setex", Unit::Seconds),
            b"PSETEX" => self.put_for("psetex", Unit::Millis),
            b"GETDEL" => self.exactly("getdel").and_then(|[key]| modify(key, Modify::GetDel)),
            b"GETEX" => self.args("getex", 1..)?.getex(),
            b"APPEND" => self.exactly("append").and_then(|[key, value]| modify(key, Modify::Append(value))),
            b"STRLEN" => self.detail("strlen", Detail::Length),
            b"GETRANGE" => self.range_of("getrange"),
            b"SUBSTR" => self.range_of("substr"),
            b"SETRANGE" => {
                let [key, offset, value] = self.exactly("setrange")?;
                let offset = integer(offset).ok_or_else(not_an_integer)?;
                let offset = u64::try_from(offset).map_err(|_| ErrorReply::redis("ERR offset is out of range"))?;
                modify(key, Modify::Overwrite(offset.min(limits::COUNTER), value))
            }
            b"INCR" => self.exactly("incr").and_then(|[key]| modify(key, Modify::Increment(1))),
            b"DECR" => self.exactly("decr").and_then(|[key]| modify(key, Modify::Increment(-1))),
            b"INCRBY" => {
                let [key, by] = self.exactly("incrby")?;
                modify(key, Modify::Increment(integer(by).ok_or_else(not_an_integer)?))
            }
            b"DECRBY" => {
                let [key, by] = self.exactly("decrby")?;
                let by = integer(by).ok_or_else(not_an_integer)?;
                let by = by.checked_neg().ok_or_else(|| ErrorReply::redis("ERR decrement would overflow"))?;
                modify(key, Modify::Increment(by))
            }
            b"INCRBYFLOAT" => {
                let [key, by] = self.exactly("incrbyfloat")?;
                let by = Decimal::parse(by).ok_or_else(|| ErrorReply::redis("ERR value is not a valid float"))?;
                modify(key, Modify::IncrementDecimal(by))
            }
            b"EXPIRE" => self.args("expire", 2..)?.expire(Unit::Seconds),
            b"PEXPIRE" => self.args("pexpire", 2..)?.expire(Unit::Millis),
            b"EXPIREAT" => self.args("expireat", 2..)?.expire(Unit::UnixSeconds),
            b"PEXPIREAT" => self.args("pexpireat", 2..)?.expire(Unit::UnixMillis),
            b"PERSIST" => {
                let [key] = self.exactly("persist")?;
                Ok(NodeRequest::Write(Write::new(checked_key(key)?, Change::Persist)))
            }
            b"TTL" => self.exactly("ttl").and_then(|[key]| read(key, Wanted::Ttl)),
            b"PTTL" => self.detail("pttl", Detail::MillisLeft),
            b"EXPIRETIME" => self.detail("expiretime", Detail::Deadline),
            b"PEXPIRETIME" => self.detail("pexpiretime", Detail::DeadlineMillis),
            b"TYPE" => self.detail("type", Detail::Kind),
            b"OBJECT" => self.args("object", 1..)?.object(),
            b"MEMORY" => self.args("memory", 1..)?.memory(),
            _ => self.keyspace(verb),
        }
    }

    /// The words, if there are as many as Redis requires.
    pub(super) fn args(
        self,
        name: &'static str,
        count: impl std::ops::RangeBounds<usize>,
    ) -> Result<Args<'a>, ErrorReply> {
        let words = KeyWords(self);
        // A line may be longer than a value; a word of an array may not.
        if !self.is_array()
            && let Some(long) = words.map(<[u8]>::len).find(|len| *len > limits::VALUE_BYTES)
        {
            return Err(ErrorReply::value_too_long(long));
        }
        if count.contains(&words.count()) { Ok(Args { name, words }) } else { Err(wrong_number(name)) }
    }

    pub(super) fn exactly<const N: usize>(self, name: &'static str) -> Result<[&'a [u8]; N], ErrorReply> {
        let mut words = self.args(name, N..=N)?.words;
        Ok(std::array::from_fn(|_| words.next().unwrap_or_default()))
    }

    fn detail(self, name: &'static str, detail: Detail) -> Parsed<'a> {
        self.exactly(name).and_then(|[key]| read(key, Wanted::Detail(detail)))
    }

    fn range_of(self, name: &'static str) -> Parsed<'a> {
        let [key, start, end] = self.exactly(name)?;
        let start = integer(start).ok_or_else(not_an_integer)?;
        let end = integer(end).ok_or_else(not_an_integer)?;
        read(key, Wanted::Detail(Detail::Range(start, end)))
    }

    fn put_for(self, name: &'static str, unit: Unit) -> Parsed<'a> {
        let [key, time, value] = self.exactly(name)?;
        match unit.expiry(time, name)? {
            Expiry::For(millis) => Ok(NodeRequest::Write(Write::new(checked_key(key)?, Change::PutFor(value, millis)))),
            expiry => {
                modify(key, Modify::Set { value, condition: Condition::Always, expiry, reply_mode: ReplyMode::Done })
            }
        }
    }
}

fn read<'a>(key: &'a [u8], wanted: Wanted) -> Parsed<'a> {
    Ok(NodeRequest::Read(Read { key: checked_key(key)?, wanted, level: ReadLevel::default() }))
}

fn modify<'a>(key: &'a [u8], modify: Modify<'a>) -> Parsed<'a> {
    Ok(NodeRequest::Write(Write::new(checked_key(key)?, Change::Modify(modify))))
}

fn set_if<'a>(key: &'a [u8], value: &'a [u8], condition: Condition<'a>, reply_mode: ReplyMode) -> Parsed<'a> {
    modify(key, Modify::Set { value, condition, expiry: Expiry::Never, reply_mode })
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

impl<'a> Args<'a> {
    pub(super) fn next(&mut self) -> &'a [u8] {
        self.words.next().unwrap_or_default()
    }

    fn set(mut self) -> Parsed<'a> {
        let (key, value) = (self.next(), self.next());
        let (mut expiry, mut condition, mut reply_mode) = (None, Condition::Always, ReplyMode::Done);
        while let Some(option) = self.words.next() {
            if self.is_expiry_option(option, "KEEPTTL", &mut expiry)? {
                continue;
            }
            if is(option, "NX") && matches!(condition, Condition::Always | Condition::Absent) {
                condition = Condition::Absent;
            } else if is(option, "XX") && matches!(condition, Condition::Always | Condition::Present) {
                condition = Condition::Present;
            } else if is(option, "IFEQ") && condition == Condition::Always {
                let Some(expected) = self.words.next() else { return Err(syntax()) };
                condition = Condition::Equals(expected);
            } else if is(option, "GET") {
                reply_mode = ReplyMode::Old;
            } else {
                return Err(syntax());
            }
        }
        let expiry = match expiry {
            None => Expiry::Never,
            Some((None, _)) => Expiry::Keep,
            Some((Some(unit), time)) => unit.expiry(time, self.name)?,
        };
        let change = match (condition, expiry, reply_mode) {
            (Condition::Always, Expiry::Never, ReplyMode::Done) => Change::Put(value),
            (Condition::Always, Expiry::For(millis), ReplyMode::Done) => Change::PutFor(value, millis),
            _ => Change::Modify(Modify::Set { value, condition, expiry, reply_mode }),
        };
        Ok(NodeRequest::Write(Write::new(checked_key(key)?, change)))
    }

    /// Whether an option sets the key's time to live: a time in some unit, or the one option without a time. If one
    /// unit occurs several times, the last counts; two different options exclude each other.
    fn is_expiry_option(
        &mut self,
        option: &'a [u8],
        without_time: &str,
        expiry: &mut Option<(Option<Unit>, &'a [u8])>,
    ) -> Result<bool, ErrorReply> {
        let unit = Unit::of(option);
        let is_one = unit.is_some() || is(option, without_time);
        if !is_one || expiry.is_some_and(|(before, _)| before != unit) {
            return Ok(false);
        }
        let time = if unit.is_some() { self.words.next() } else { Some(&b""[..]) };
        let Some(time) = time else { return Err(syntax()) };
        *expiry = Some((unit, time));
        Ok(true)
    }

    fn getex(mut self) -> Parsed<'a> {
        let key = self.next();
        let mut expiry = None;
        while let Some(option) = self.words.next() {
            if !self.is_expiry_option(option, "PERSIST", &mut expiry)? {
                return Err(syntax());
            }
        }
        match expiry {
            None => read(key, Wanted::Value),
            Some((None, _)) => modify(key, Modify::GetEx(Expiry::Never)),
            Some((Some(unit), time)) => modify(key, Modify::GetEx(unit.expiry(time, self.name)?)),
        }
    }

    fn expire(mut self, unit: Unit) -> Parsed<'a> {
        let (key, time) = (self.next(), self.next());
        let mut condition = ExpireIf::default();
        for option in self.words {
            match option {
                option if is(option, "NX") => condition.has_none = true,
                option if is(option, "XX") => condition.has_one = true,
                option if is(option, "GT") => condition.is_earlier = true,
                option if is(option, "LT") => condition.is_later = true,
                option => {
                    let option = String::from_utf8_lossy(option);
                    return Err(ErrorReply::redis(format!("ERR Unsupported option {option}")));
                }
            }
        }
        let ExpireIf { has_none, has_one, is_earlier, is_later } = condition;
        if has_none && (has_one || is_earlier || is_later) {
            let what = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(ErrorReply::redis(what));
        }
        if is_earlier && is_later {
            return Err(ErrorReply::redis("ERR GT and LT options at the same time are not compatible"));
        }
        let expiry = unit.life_or_past(time, self.name)?;
        let change = match expiry {
            Expiry::For(millis) if condition == ExpireIf::default() => Change::Expire(millis),
            expiry => Change::Modify(Modify::Expire { expiry, condition }),
        };
        Ok(NodeRequest::Write(Write::new(checked_key(key)?, change)))
    }

    fn object(mut self) -> Parsed<'a> {
        let subcommand = self.next();
        let (name, detail) = match subcommand {
            word if is(word, "ENCODING") => ("object|encoding", Detail::Encoding),
            word if is(word, "FREQ") => ("object|freq", Detail::Frequency),
            word if is(word, "IDLETIME") => ("object|idletime", Detail::Idle),
            word if is(word, "REFCOUNT") => ("object|refcount", Detail::References),
            word => return Err(unknown_subcommand(word, "OBJECT")),
        };
        self.words.0.detail(name, detail)
    }

    fn memory(mut self) -> Parsed<'a> {
        let subcommand = self.next();
        if !is(subcommand, "USAGE") {
            return Err(unknown_subcommand(subcommand, "MEMORY"));
        }
        let mut args = self.words.0.args("memory|usage", 1..)?;
        let key = args.next();
        while let Some(option) = args.words.next() {
            let samples = args.words.next().filter(|_| is(option, "SAMPLES"));
            let Some(samples) = samples else { return Err(syntax()) };
            if integer(samples).ok_or_else(not_an_integer)? < 0 {
                return Err(syntax());
            }
        }
        read(key, Wanted::Detail(Detail::Memory))
    }
}

pub(super) fn unknown_subcommand(word: &[u8], name: &str) -> ErrorReply {
    let word = quoted(word, QUOTED_BYTES);
    ErrorReply::redis(format!("ERR unknown subcommand '{word}'. Try {name} HELP."))
}

impl Unit {
    fn of(option: &[u8]) -> Option<Self> {
        match option {
            option if is(option, "EX") => Some(Self::Seconds),
            option if is(option, "PX") => Some(Self::Millis),
            option if is(option, "EXAT") => Some(Self::UnixSeconds),
            option if is(option, "PXAT") => Some(Self::UnixMillis),
            _ => None,
        }
    }

    /// A time to live that has not passed.
    fn expiry(self, time: &[u8], name: &str) -> Result<Expiry, ErrorReply> {
        let number = integer(time).ok_or_else(not_an_integer)?;
        if number <= 0 {
            return Err(invalid_expire_time(name));
        }
        self.life_of(number, name)
    }

    /// A time to live that may have passed.
    fn life_or_past(self, time: &[u8], name: &str) -> Result<Expiry, ErrorReply> {
        let number = integer(time).ok_or_else(not_an_integer)?;
        self.life_of(number, name)
    }

    fn life_of(self, number: i64, name: &str) -> Result<Expiry, ErrorReply> {
        let millis = match self {
            Self::Seconds | Self::UnixSeconds => number.checked_mul(1_000),
            Self::Millis | Self::UnixMillis => Some(number),
        };
        let millis = millis.ok_or_else(|| invalid_expire_time(name))?;
        // A negative time has passed, however long it is.
        let millis = u64::try_from(millis).unwrap_or(0);
        let (expiry, limit) = match self {
            Self::Seconds | Self::Millis => (Expiry::For(millis), limits::TTL_MILLIS),
            Self::UnixSeconds | Self::UnixMillis => (Expiry::Until(WallTime(millis)), limits::COUNTER),
        };
        if millis > limit { Err(invalid_expire_time(name)) } else { Ok(expiry) }
    }
}

fn invalid_expire_time(name: &str) -> ErrorReply {
    ErrorReply::redis(format!("ERR invalid expire time in '{name}' command"))
}

#[cfg(test)]
mod tests;
