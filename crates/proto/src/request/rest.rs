//! What follows the verb of a request, on a line or in an array.

use super::{KeyspaceRequest, NodeRequest, RawWords, verbs};
use crate::error::ErrorReply;
use crate::frame::{Frame, Words, split_word};
use crate::id::{NodeAddr, Version};
use crate::level::ReadLevel;
use crate::limits;
use crate::peer::{Change, Identity, Read, Wanted, Write};
use crate::slot::{SLOT_BITS, SlotId};

/// What follows the verb.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest<'a> {
    /// Text.
    Line(&'a [u8]),
    Words(Words<'a>),
}

/// The longest verb, in bytes.
pub(super) const VERB_BYTES: usize = 24;

/// Splits a frame into its verb, in upper case, and the rest.
pub(super) fn split_verb<'a: 'v, 'v>(
    frame: Frame<'a>,
    upper: &'v mut [u8; VERB_BYTES],
) -> Result<(&'v [u8], Rest<'a>), ErrorReply> {
    let (verb, rest) = match frame {
        Frame::Line(line) => {
            std::str::from_utf8(line).map_err(|_| ErrorReply::NotText)?;
            let (verb, rest) = split_word(line);
            (verb, Rest::Line(rest))
        }
        Frame::Array(mut words) => (words.next().unwrap_or_default(), Rest::Words(words)),
    };
    Ok((in_upper_case(verb, upper)?, rest))
}

fn in_upper_case<'v>(verb: &'v [u8], upper: &'v mut [u8; VERB_BYTES]) -> Result<&'v [u8], ErrorReply> {
    // Most clients send it so.
    if verb.iter().all(u8::is_ascii_uppercase) {
        return Ok(verb);
    }
    let upper = upper.get_mut(..verb.len()).ok_or(ErrorReply::UnknownCommand)?;
    upper.copy_from_slice(verb);
    upper.make_ascii_uppercase();
    Ok(upper)
}

impl<'a> Rest<'a> {
    pub(super) fn nothing(self, verb: &'static str) -> Result<(), ErrorReply> {
        self.words(verb).map(|[]| ())
    }

    pub(super) fn key(self, verb: &'static str) -> Result<&'a [u8], ErrorReply> {
        let [key] = self.words(verb)?;
        checked_key(key)
    }

    pub(super) fn read(self, verb: &'static str, wanted: Wanted) -> Result<NodeRequest<'a>, ErrorReply> {
        Ok(NodeRequest::Read(Read { key: self.key(verb)?, wanted, level: ReadLevel::default() }))
    }

    /// A write whose verb is already in upper case.
    pub(super) fn write(self, verb: &[u8]) -> Result<Write<'a>, ErrorReply> {
        match verb {
            b"PUT" => self.key_and_value(verbs::PUT).map(|(key, value)| Write::new(key, Change::Put(value))),
            b"DELETE" => Ok(Write::new(self.key(verbs::DELETE)?, Change::Delete)),
            b"PUTEX" => {
                let [key, seconds, value] = self.key_word_and_value(verbs::PUTEX)?;
                let millis = millis_of(seconds).filter(|millis| *millis > 0);
                let millis = millis.ok_or(ErrorReply::InvalidFormat(verbs::PUTEX))?;
                Ok(Write::new(key, Change::PutFor(value, millis)))
            }
            b"EXPIRE" => {
                let [key, seconds] = self.words(verbs::EXPIRE)?;
                let millis = millis_of(seconds).ok_or(ErrorReply::InvalidFormat(verbs::EXPIRE))?;
                Ok(Write::new(checked_key(key)?, Change::Expire(millis)))
            }
            b"PERSIST" => Ok(Write::new(self.key(verbs::PERSIST)?, Change::Persist)),
            b"PUTNX" => {
                let (key, value) = self.key_and_value(verbs::PUTNX)?;
                Ok(Write { expected: Some(Version::NONE), ..Write::new(key, Change::Put(value)) })
            }
            b"CAS" => {
                let [key, version, value] = self.key_word_and_value(verbs::CAS)?;
                let expected = std::str::from_utf8(version).ok().and_then(|version| version.parse().ok());
                let expected = Some(expected.ok_or(ErrorReply::InvalidFormat(verbs::CAS))?);
                Ok(Write { expected, ..Write::new(key, Change::Put(value)) })
            }
            _ => Err(ErrorReply::InvalidFormat(verbs::ONCE)),
        }
    }

    /// `client seq`, followed by a write of one key, or of several together.
    pub(super) fn once(self) -> Result<NodeRequest<'a>, ErrorReply> {
        let invalid = ErrorReply::InvalidFormat(verbs::ONCE);
        let (client, rest) = self.split_first().ok_or(invalid.clone())?;
        let (seq, rest) = rest.split_first().ok_or(invalid.clone())?;
        let (verb, rest) = rest.split_first().ok_or(invalid.clone())?;
        if client.len() > limits::CLIENT_BYTES {
            return Err(ErrorReply::TooLong { what: "client name", len: client.len(), limit: limits::CLIENT_BYTES });
        }
        let identity = Some(Identity::from_words(client, seq).ok_or(invalid)?);
        let mut upper = [0; VERB_BYTES];
        match rest.any_write(in_upper_case(verb, &mut upper)?) {
            Ok(NodeRequest::Write(write)) => Ok(NodeRequest::Write(Write { identity, ..write })),
            Ok(NodeRequest::Keyspace(KeyspaceRequest::SetAllAbsent { pairs, .. })) => {
                Ok(NodeRequest::Keyspace(KeyspaceRequest::SetAllAbsent { pairs, identity }))
            }
            Ok(_) | Err(ErrorReply::UnknownCommand) => Err(ErrorReply::InvalidFormat(verbs::ONCE)),
            Err(error) => Err(error),
        }
    }

    /// A write, of this protocol or of Redis; or another of Redis's commands.
    fn any_write(self, verb: &[u8]) -> Result<NodeRequest<'a>, ErrorReply> {
        match verb {
            b"PUT" | b"DELETE" | b"CAS" | b"PUTNX" | b"PUTEX" => self.write(verb).map(NodeRequest::Write),
            b"EXPIRE" | b"PERSIST" if !self.is_array() => self.write(verb).map(NodeRequest::Write),
            _ => self.redis(verb),
        }
    }

    /// Whether it is an array whose first word is `HELP`.
    pub(super) fn asks_for_help(self) -> bool {
        let Self::Words(mut words) = self else { return false };
        words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"HELP"))
    }

    pub(super) fn is_array(self) -> bool {
        matches!(self, Self::Words(_))
    }

    /// A single word, parsed: a level, an address.
    pub(super) fn word<T: std::str::FromStr>(self, verb: &'static str) -> Result<T, ErrorReply> {
        let [word] = self.words(verb)?;
        let read = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        read.ok_or(ErrorReply::InvalidFormat(verb))
    }

    pub(super) fn two_nodes(self, verb: &'static str) -> Result<[NodeAddr; 2], ErrorReply> {
        let [one, other] = self.words(verb)?;
        let read = |word| std::str::from_utf8(word).ok()?.parse().ok();
        read(one).zip(read(other)).map(|(one, other)| [one, other]).ok_or(ErrorReply::InvalidFormat(verb))
    }

    pub(super) fn slot_or_all(self, verb: &'static str) -> Result<Option<SlotId>, ErrorReply> {
        let [word] = self.words(verb)?;
        if word.eq_ignore_ascii_case(b"all") {
            return Ok(None);
        }
        let slot = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).map(SlotId);
        slot.filter(|slot| SLOT_BITS.has(*slot)).map(Some).ok_or(ErrorReply::InvalidFormat(verb))
    }

    /// The next word, and what follows it.
    pub(super) fn split_first(self) -> Option<(&'a [u8], Self)> {
        match self {
            Self::Line(rest) => match split_word(rest) {
                (b"", _) => None,
                (word, rest) => Some((word, Self::Line(rest))),
            },
            Self::Words(mut words) => Some((words.next()?, Self::Words(words))),
        }
    }

    fn key_word_and_value(self, verb: &'static str) -> Result<[&'a [u8]; 3], ErrorReply> {
        let invalid = || ErrorReply::InvalidFormat(verb);
        let (key, rest) = self.split_first().ok_or_else(invalid)?;
        let (word, rest) = rest.split_first().ok_or_else(invalid)?;
        Ok([checked_key(key)?, word, rest.value(verb)?])
    }

    /// A value that is the only thing left.
    fn value(self, verb: &'static str) -> Result<&'a [u8], ErrorReply> {
        let value = match self {
            Self::Line(b"") => return Err(ErrorReply::InvalidFormat(verb)),
            Self::Line(value) => value,
            Self::Words(words) => {
                let [value] = words.exactly().ok_or(ErrorReply::InvalidFormat(verb))?;
                value
            }
        };
        if value.len() > limits::VALUE_BYTES {
            return Err(ErrorReply::value_too_long(value.len()));
        }
        Ok(value)
    }

    pub(super) fn key_and_value(self, verb: &'static str) -> Result<(&'a [u8], &'a [u8]), ErrorReply> {
        let (key, rest) = self.split_first().ok_or(ErrorReply::InvalidFormat(verb))?;
        let value = rest.value(verb)?;
        Ok((checked_key(key)?, value))
    }

    pub(super) fn address(self, verb: &'static str) -> Result<NodeAddr, ErrorReply> {
        let [host, port] = self.words(verb)?;
        let (Ok(host), Ok(port)) = (std::str::from_utf8(host), std::str::from_utf8(port)) else {
            return Err(ErrorReply::InvalidFormat(verb));
        };
        NodeAddr::from_words(host, port).map_err(|_| ErrorReply::InvalidFormat(verb))
    }

    /// The words of a request that only programs send, never people on a line.
    pub(super) fn array(self, verb: &'static str) -> Result<RawWords<'a>, ErrorReply> {
        match self {
            Self::Line(_) => Err(ErrorReply::InvalidFormat(verb)),
            Self::Words(words) => Ok(RawWords(words)),
        }
    }

    /// Exactly `N` words and nothing after them.
    fn words<const N: usize>(self, verb: &'static str) -> Result<[&'a [u8]; N], ErrorReply> {
        let invalid = || ErrorReply::InvalidFormat(verb);
        match self {
            Self::Words(words) => words.exactly().ok_or_else(invalid),
            Self::Line(mut rest) => {
                let mut words = [&b""[..]; N];
                for slot in &mut words {
                    let (word, after) = split_word(rest);
                    if word.is_empty() {
                        return Err(invalid());
                    }
                    *slot = word;
                    rest = after;
                }
                if rest.is_empty() { Ok(words) } else { Err(invalid()) }
            }
        }
    }
}

/// A time to live, in milliseconds. As in Redis, a negative one has passed already; `None` if the word is not a number
/// or is over its limit.
fn millis_of(word: &[u8]) -> Option<u64> {
    let seconds: i64 = std::str::from_utf8(word).ok()?.parse().ok()?;
    let seconds = u64::try_from(seconds).unwrap_or(0);
    (seconds <= limits::TTL_SECONDS).then_some(seconds * 1_000)
}

pub(super) fn checked_key(key: &[u8]) -> Result<&[u8], ErrorReply> {
    if key.len() > limits::KEY_BYTES { Err(ErrorReply::key_too_long(key.len())) } else { Ok(key) }
}
