//! A connection for forwarded requests: a client's requests to a node that does not lead the key.

use super::{
    Detail, Identity, Modify, ReplyMode, counter, key, or_dash, place, place_word, push_number_word, unless_dash,
};
use crate::error::ErrorReply;
use crate::frame::{Words, begin_array, push_word};
use crate::id::Version;
use crate::level::{AckLevel, ReadLevel};
use crate::limits;
use crate::request::verbs;

/// The longest value that counts as short, in bytes.
pub const SHORT_BYTES: usize = 16 * 1024;

/// A client's request that another node received. The answer is [`ErrorReply::Moved`] if this node cannot serve it. On
/// the wire:
///
/// - `FORWARD id READ place GET key`, `... GETV key` or `... TTL key`; `place` is `local`, `linear`, or `replica`,
///   which lets a replica answer because the primary does not.
/// - `FORWARD id SHORT place ...`: the same, see [`Forward::is_short`].
/// - `FORWARD id WRITE ack expected client seq PUT key value`, `... DELETE key`, `... PUTEX key millis value`, `...
///   EXPIRE key millis` or `... PERSIST key`, or one of the names of [`Modify`] with its words; `expected` is `-` or a
///   version; `client seq` are an empty word and `-` if the write has no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The sender's number for the request; its answer carries it.
    pub id: u64,
    /// Whether a replica may answer (reads only), because the primary does not.
    pub at_replica: bool,
    /// Whether a value over [`SHORT_BYTES`] is unwanted (reads only): the answer is then [`ErrorReply::Long`]. A sender
    /// of many requests at once does not know how long the answers are that it will have to hold.
    pub is_short: bool,
    /// What to do.
    pub request: KeyRequest<'a>,
}

/// A client's request for one key, received directly or forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRequest<'a> {
    /// Read.
    Read(Read<'a>),
    /// Write.
    Write(Write<'a>),
}

/// A client's read of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What the answer reports.
    pub wanted: Wanted,
    /// The level of the read.
    pub level: ReadLevel,
}

/// What a read asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wanted {
    /// The value: `GET`.
    #[default]
    Value,
    /// The value and the version of its key: `GETV`.
    Versioned,
    /// How long the key will still have its value: `TTL`.
    Ttl,
    /// Another detail of the key.
    Detail(Detail),
}

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Set the value, without a deadline.
    Put(&'a [u8]),
    /// Set the value for this many milliseconds, at least 1.
    PutFor(&'a [u8], u64),
    /// Make the key absent.
    Delete,
    /// Keep the value for this many milliseconds; 0 makes the key absent. Declined if the key is absent.
    Expire(u64),
    /// Keep the value forever. Declined if the key is absent, or has no deadline.
    Persist,
    /// A change that depends on what the key holds.
    Modify(Modify<'a>),
}

/// A client's write of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The change to it.
    pub change: Change<'a>,
    /// The version that the key must have, [`Version::NONE`] for absent; `None` if it does not matter.
    pub expected: Option<Version>,
    /// The identity of the write, if the client gave one.
    pub identity: Option<Identity<'a>>,
    /// When it is acknowledged.
    pub ack: AckLevel,
}

impl<'a> KeyRequest<'a> {
    /// The key asked for.
    #[must_use]
    pub fn key(&self) -> &'a [u8] {
        match self {
            Self::Read(read) => read.key,
            Self::Write(write) => write.key,
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write(_))
    }
}

impl<'a> Write<'a> {
    /// An unconditional write without identity, answered once its primary has applied it.
    #[must_use]
    pub fn new(key: &'a [u8], change: Change<'a>) -> Self {
        Self { key, change, expected: None, identity: None, ack: AckLevel::Async }
    }
}

impl Wanted {
    /// The verb that asks for it.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Value => verbs::GET,
            Self::Versioned => verbs::GETV,
            Self::Ttl => verbs::TTL,
            Self::Detail(detail) => detail.verb(),
        }
    }

    /// How many words [`Wanted::push`] appends after the key.
    fn words(self) -> usize {
        if let Self::Detail(detail) = self { detail.words() } else { 0 }
    }

    fn push(self, out: &mut Vec<u8>) {
        if let Self::Detail(detail) = self {
            detail.push(out);
        }
    }

    /// Reads the verb, the key and the words after it.
    fn read<'a>(words: &mut Words<'a>) -> Option<(&'a [u8], Self)> {
        let wanted = match words.text()? {
            verbs::GET => Self::Value,
            verbs::GETV => Self::Versioned,
            verbs::TTL => Self::Ttl,
            verb => return Detail::read(verb, words).map(|(key, detail)| (key, Self::Detail(detail))),
        };
        Some((key(words)?, wanted))
    }
}

impl<'a> Change<'a> {
    /// Whether the answer is a number: 1 if the change was made, 0 if there was nothing to do.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        matches!(self, Self::Expire(_) | Self::Persist)
    }

    /// Whether the answer may be a value.
    #[must_use]
    pub fn tells_value(&self) -> bool {
        let Self::Modify(modify) = self else { return false };
        matches!(modify, Modify::Set { reply_mode: ReplyMode::Old, .. } | Modify::GetDel | Modify::GetEx(_))
    }

    /// Whether the outcome depends on what the key holds.
    #[must_use]
    pub fn reads_first(&self) -> bool {
        self.is_counted() || matches!(self, Self::Modify(_))
    }

    fn words(self) -> usize {
        match self {
            Self::Put(_) | Self::Expire(_) => 3,
            Self::PutFor(..) => 4,
            Self::Delete | Self::Persist => 2,
            Self::Modify(modify) => modify.words(),
        }
    }

    fn push(self, key: &[u8], out: &mut Vec<u8>) {
        let verb = match self {
            Self::Modify(modify) => return modify.push(key, out),
            Self::Put(_) => verbs::PUT,
            Self::PutFor(..) => verbs::PUTEX,
            Self::Delete => verbs::DELETE,
            Self::Expire(_) => verbs::EXPIRE,
            Self::Persist => verbs::PERSIST,
        };
        push_word(verb.as_bytes(), out);
        push_word(key, out);
        match self {
            Self::Put(value) => push_word(value, out),
            Self::PutFor(value, millis) => {
                push_number_word(millis, out);
                push_word(value, out);
            }
            Self::Expire(millis) => push_number_word(millis, out),
            Self::Delete | Self::Persist | Self::Modify(_) => {}
        }
    }

    fn read(words: &mut Words<'a>) -> Option<(&'a [u8], Self)> {
        let millis = |words: &mut Words<'a>| counter(words).filter(|millis| *millis <= limits::TTL_MILLIS);
        let verb = words.text()?;
        if !matches!(verb, verbs::PUT | verbs::PUTEX | verbs::DELETE | verbs::EXPIRE | verbs::PERSIST) {
            return Modify::read(verb, words).map(|(key, modify)| (key, Self::Modify(modify)));
        }
        let key = key(words)?;
        let change = match verb {
            verbs::PUT => Self::Put(words.next()?),
            verbs::PUTEX => {
                let millis = millis(words).filter(|millis| *millis > 0)?;
                Self::PutFor(words.next()?, millis)
            }
            verbs::DELETE => Self::Delete,
            verbs::EXPIRE => Self::Expire(millis(words)?),
            verbs::PERSIST => Self::Persist,
            _ => return None,
        };
        Some((key, change))
    }
}

impl<'a> Forward<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let id = self.id.to_string();
        match self.request {
            KeyRequest::Read(Read { key, wanted, level }) => {
                let place = place_word(self.at_replica, level);
                let verb = if self.is_short { &b"SHORT"[..] } else { b"READ" };
                begin_array(6 + wanted.words(), out);
                for word in [&b"FORWARD"[..], id.as_bytes(), verb, place.as_bytes(), wanted.verb().as_bytes(), key] {
                    push_word(word, out);
                }
                wanted.push(out);
            }
            KeyRequest::Write(Write { key, change, expected, identity, ack }) => {
                begin_array(7 + change.words(), out);
                push_word(b"FORWARD", out);
                push_word(id.as_bytes(), out);
                push_word(b"WRITE", out);
                push_word(ack.to_string().as_bytes(), out);
                push_word(or_dash(expected).as_bytes(), out);
                push_word(identity.map_or(b"", |identity| identity.client), out);
                push_word(or_dash(identity.map(|identity| identity.seq)).as_bytes(), out);
                change.push(key, out);
            }
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are wrong; nothing was done.
    pub fn parse(mut words: Words<'a>) -> Result<Self, ErrorReply> {
        let mut forward = || {
            if words.next()? != b"FORWARD" {
                return None;
            }
            let id = counter(&mut words)?;
            match words.next()? {
                verb @ (b"READ" | b"SHORT") => {
                    let (at_replica, level) = place(words.text()?)?;
                    let (key, wanted) = Wanted::read(&mut words)?;
                    let read = Read { key, wanted, level };
                    Some(Self { id, at_replica, is_short: verb == b"SHORT", request: KeyRequest::Read(read) })
                }
                b"WRITE" => {
                    let ack = words.parse()?;
                    let expected = unless_dash(words.text()?)?;
                    let (client, seq) = (words.next()?, words.next()?);
                    let identity = if seq == b"-" { None } else { Some(Identity::from_words(client, seq)?) };
                    let (key, change) = Change::read(&mut words)?;
                    let write = Write { key, change, expected, identity, ack };
                    Some(Self { id, at_replica: false, is_short: false, request: KeyRequest::Write(write) })
                }
                _ => None,
            }
        };
        forward().filter(|_| words.is_empty()).ok_or(ErrorReply::InvalidFormat("FORWARD"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::Decimal;
    use crate::peer::tests::{version, with_words};
    use crate::peer::{Condition, Effect, ExpireIf, Expiry, WallTime, Writes};

    #[test]
    fn forwarded_requests_read_back_as_written() {
        let identity = Some(Identity { client: b"me", seq: 3 });
        let write =
            Write { key: b"k", change: Change::Put(b"v"), expected: None, identity: None, ack: AckLevel::Async };
        let read = |wanted, level| KeyRequest::Read(Read { key: b"k", wanted, level });
        for (at_replica, request) in [
            (false, read(Wanted::Value, ReadLevel::Linear)),
            (true, read(Wanted::Versioned, ReadLevel::Local)),
            (true, read(Wanted::Ttl, ReadLevel::Local)),
            (false, read(Wanted::Detail(Detail::Range(-3, i64::MAX)), ReadLevel::Local)),
            (true, read(Wanted::Detail(Detail::Memory), ReadLevel::Local)),
            (false, KeyRequest::Write(write)),
            (false, KeyRequest::Write(Write { expected: Some(Version::NONE), identity, ack: AckLevel::All, ..write })),
            (false, KeyRequest::Write(Write { change: Change::PutFor(b"v", 1), identity, ..write })),
            (false, KeyRequest::Write(Write { change: Change::Expire(0), ..write })),
            (false, KeyRequest::Write(Write { change: Change::Persist, ..write })),
            (false, KeyRequest::Write(Write { change: Change::Delete, expected: Some(version(1, 2)), ..write })),
        ] {
            reads_back(&Forward { id: 9, at_replica, is_short: false, request });
            if let KeyRequest::Read(_) = request {
                reads_back(&Forward { id: 9, at_replica, is_short: true, request });
            }
        }
    }

    #[test]
    fn a_key_that_is_too_long_is_refused() {
        let longest = vec![b'k'; limits::KEY_BYTES];
        for (key, is_taken) in [(longest.clone(), true), ([longest, vec![b'k']].concat(), false)] {
            let read = |wanted| KeyRequest::Read(Read { key: &key, wanted, level: ReadLevel::Local });
            let put = Write::new(&key, Change::Put(b"v"));
            for request in [
                read(Wanted::Value),
                read(Wanted::Detail(Detail::Length)),
                KeyRequest::Write(put),
                KeyRequest::Write(Write { change: Change::Modify(Modify::Append(b"v")), ..put }),
            ] {
                let mut bytes = Vec::new();
                Forward { id: 9, at_replica: false, is_short: false, request }.encode(&mut bytes);
                with_words(&bytes, |words| assert_eq!(Forward::parse(words).is_ok(), is_taken, "{}", key.len()));
            }
        }
    }

    fn reads_back(forward: &Forward<'_>) {
        let mut bytes = Vec::new();
        forward.encode(&mut bytes);
        with_words(&bytes, |words| assert_eq!(Forward::parse(words).as_ref(), Ok(forward)));
    }

    #[test]
    fn forwarded_read_modify_writes_read_back_as_written() {
        let set = |condition, expiry, reply_mode| Modify::Set { value: b"v", condition, expiry, reply_mode };
        let condition = ExpireIf { has_one: true, is_later: true, ..ExpireIf::default() };
        let mut writes = Vec::new();
        Writes::push(b"k", Effect::Put(b"v"), &mut writes);
        Writes::push(b"l", Effect::Put(b""), &mut writes);
        for modify in [
            set(Condition::Always, Expiry::Never, ReplyMode::Done),
            set(Condition::Absent, Expiry::Keep, ReplyMode::Old),
            set(Condition::Present, Expiry::For(limits::TTL_MILLIS), ReplyMode::Count),
            set(Condition::Equals(b""), Expiry::Until(WallTime(limits::COUNTER)), ReplyMode::Done),
            Modify::Delete,
            Modify::GetDel,
            Modify::GetEx(Expiry::For(0)),
            Modify::Expire { expiry: Expiry::Until(WallTime(0)), condition },
            Modify::Append(b"\r\n"),
            Modify::Overwrite(limits::COUNTER, b"v"),
            Modify::Increment(i64::MIN),
            Modify::IncrementDecimal(Decimal::parse(b"-0.5").unwrap()),
            Modify::SetAllAbsent(Writes::known(&writes)),
            Modify::Rename { to: b"", if_absent: true },
            Modify::Rename { to: b"k", if_absent: false },
        ] {
            let write = Write::new(b"k", Change::Modify(modify));
            reads_back(&Forward { id: 9, at_replica: false, is_short: false, request: KeyRequest::Write(write) });
            // Requests kept for resending are taken apart and reassembled this way.
            let [value, expected] = modify.borrowed();
            assert_eq!(modify.with_borrowed(b"", b"").with_borrowed(value, expected), modify);
        }
        with_words(b"*9\r\n$7\r\nFORWARD\r\n$1\r\n1\r\n$5\r\nWRITE\r\n$5\r\nasync\r\n$1\r\n-\r\n$0\r\n\r\n$1\r\n-\r\n$5\r\nM.FOO\r\n$1\r\nk\r\n", |words| {
            assert_eq!(Forward::parse(words), Err(ErrorReply::InvalidFormat("FORWARD")));
        });
    }
}
