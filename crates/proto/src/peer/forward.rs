//! A connection for forwarded requests: what a client has asked of a node that does not lead the key.

use super::{Effect, Identity, counter, effect_words, or_dash, push_effect, read_effect, unless_dash, words};
use crate::error::ErrorReply;
use crate::frame::{Words, begin_array, push_word};
use crate::id::Version;
use crate::level::{AckLevel, ReadLevel};

/// A request of a client that another node received. It is answered with [`ErrorReply::Moved`] where this node cannot
/// serve it. On the wire:
///
/// - `FORWARD id READ place GET key` or `... GETV key`; `place` is `local`, `linear`, or `replica`, where a replica may
///   answer because the primary does not.
/// - `FORWARD id WRITE ack expected client seq PUT key value` or `... DELETE key`; `expected` is `-` or a version, `client
///   seq` are an empty word and `-` where the write has no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward<'a> {
    /// The sender's number for the request; its answer carries it.
    pub id: u64,
    /// Whether a replica may answer (reads only), because the primary does not.
    pub at_replica: bool,
    /// What to do.
    pub request: KeyRequest<'a>,
}

/// A client's request for one key, whichever way it came.
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
    /// Whether the answer names the version, too.
    pub versioned: bool,
    /// What may be returned.
    pub level: ReadLevel,
}

/// A client's write of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The effect.
    pub effect: Effect<'a>,
    /// The version that the key must have, [`Version::NONE`] for absent; none where it does not matter.
    pub expected: Option<Version>,
    /// Whose write it is, where the client said so.
    pub identity: Option<Identity<'a>>,
    /// When it is answered.
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
    /// A write without condition and identity, answered once its primary has applied it.
    #[must_use]
    pub fn new(key: &'a [u8], effect: Effect<'a>) -> Self {
        Self { key, effect, expected: None, identity: None, ack: AckLevel::Async }
    }
}

impl<'a> Forward<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let id = self.id.to_string();
        match self.request {
            KeyRequest::Read(Read { key, versioned, level }) => {
                let level = level.to_string();
                let place = if self.at_replica { "replica" } else { &level };
                let verb: &[u8] = if versioned { b"GETV" } else { b"GET" };
                words(&[b"FORWARD", id.as_bytes(), b"READ", place.as_bytes(), verb, key], out);
            }
            KeyRequest::Write(Write { key, effect, expected, identity, ack }) => {
                begin_array(7 + effect_words(effect), out);
                push_word(b"FORWARD", out);
                push_word(id.as_bytes(), out);
                push_word(b"WRITE", out);
                push_word(ack.to_string().as_bytes(), out);
                push_word(or_dash(expected).as_bytes(), out);
                push_word(identity.map_or(b"", |identity| identity.client), out);
                push_word(or_dash(identity.map(|identity| identity.seq)).as_bytes(), out);
                push_effect(key, effect, out);
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
                b"READ" => {
                    let place = words.text()?;
                    let at_replica = place == "replica";
                    let level = if at_replica { ReadLevel::Local } else { place.parse().ok()? };
                    let versioned = match words.next()? {
                        b"GET" => false,
                        b"GETV" => true,
                        _ => return None,
                    };
                    let read = Read { key: words.next()?, versioned, level };
                    Some(Self { id, at_replica, request: KeyRequest::Read(read) })
                }
                b"WRITE" => {
                    let ack = words.parse()?;
                    let expected = unless_dash(words.text()?)?;
                    let (client, seq) = (words.next()?, words.next()?);
                    let identity = if seq == b"-" { None } else { Some(Identity::from_words(client, seq)?) };
                    let (key, effect) = read_effect(&mut words)?;
                    let write = Write { key, effect, expected, identity, ack };
                    Some(Self { id, at_replica: false, request: KeyRequest::Write(write) })
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
    use crate::peer::tests::{version, with_words};

    #[test]
    fn forwarded_requests_read_back_as_written() {
        let identity = Some(Identity { client: b"me", seq: 3 });
        let write =
            Write { key: b"k", effect: Effect::Put(b"v"), expected: None, identity: None, ack: AckLevel::Async };
        let read = |versioned, level| KeyRequest::Read(Read { key: b"k", versioned, level });
        for (at_replica, request) in [
            (false, read(false, ReadLevel::Linear)),
            (true, read(true, ReadLevel::Local)),
            (false, KeyRequest::Write(write)),
            (false, KeyRequest::Write(Write { expected: Some(Version::NONE), identity, ack: AckLevel::All, ..write })),
            (false, KeyRequest::Write(Write { effect: Effect::Delete, expected: Some(version(1, 2)), ..write })),
        ] {
            let forward = Forward { id: 9, at_replica, request };
            let mut bytes = Vec::new();
            forward.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(Forward::parse(words), Ok(forward)));
        }
    }
}
