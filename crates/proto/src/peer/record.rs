//! A record as sent from a primary to its replicas.

use super::{Identity, Writes, counter, decimal_digits, key, push_number_word};
use crate::frame::{Words, begin_bulk, push_number, push_word};
use crate::id::{Epoch, Version};
use crate::limits;
use crate::slot::SlotId;

/// A time on the wall clock, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// What a record does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The key has this value.
    Put(&'a [u8]),
    /// The key has this value until its deadline.
    PutUntil(&'a [u8], WallTime),
    /// The key is absent.
    Delete,
    /// The key is absent, since its deadline has passed.
    Expire,
}

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// A client's write.
    Write {
        /// The key.
        key: &'a [u8],
        /// The effect on it.
        effect: Effect<'a>,
        /// The identity of the write, if the client gave one.
        identity: Option<Identity<'a>>,
        /// What the client was told, encoded by [`super::ModifyReply::to_bytes`], if the write has an identity; empty if that
        /// follows from the rest.
        reply: &'a [u8],
    },
    /// A client's write of several keys of the slot, all or none of which take effect.
    Multi {
        /// The keys, each named once, with the effect on it.
        writes: Writes<'a>,
        /// The identity of the write, if the client gave one.
        identity: Option<Identity<'a>>,
        /// What the client was told, as in a write of one key.
        reply: &'a [u8],
    },
    /// A client's conditional write whose condition did not hold. It changes nothing, but it settles the outcome: a
    /// late retry of the same write must not take effect.
    Declined {
        /// The identity of the write.
        identity: Identity<'a>,
        /// The version of the key, [`Version::NONE`] if it was absent.
        found: Version,
        /// What the client was told, as in a write.
        reply: &'a [u8],
    },
    /// The first record of a primary's term. It changes nothing; a copy that has it has everything from before the
    /// term.
    Barrier,
}

/// The header of a record, packed into one word of 43 bytes: nearly all traffic between nodes is records.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) slot: SlotId,
    pub(super) version: Version,
    pub(super) previous: Version,
    pub(super) durable: u64,
}

const PUT: u8 = b'P';
const PUT_UNTIL: u8 = b'T';
const DELETE: u8 = b'D';
const EXPIRE: u8 = b'E';
const MULTI: u8 = b'M';
const DECLINED: u8 = b'C';
const BARRIER: u8 = b'B';

impl Head {
    const BYTES: usize = 1 + 2 + 5 * 8;

    pub(super) fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let Self { kind, slot, version, previous, durable } = self;
        let [slot_high, slot_low] = slot.0.to_be_bytes();
        let (start, rest) = bytes.split_at_mut(3);
        start.copy_from_slice(&[*kind, slot_high, slot_low]);
        let counters = [version.epoch.0, version.seq, previous.epoch.0, previous.seq, *durable];
        for (place, counter) in rest.as_chunks_mut().0.iter_mut().zip(counters) {
            *place = counter.to_be_bytes();
        }
        bytes
    }

    /// Appends a `REPLICATE` up to and including its head; `words` more words must follow. Written in one go, because
    /// most traffic between nodes is this.
    pub(super) fn begin_replicate(&self, words: usize, out: &mut Vec<u8>) {
        const BEGIN: &[u8; 22] = b"\r\n$9\r\nREPLICATE\r\n$43\r\n";
        let mut bytes = [0; 2 + BEGIN.len() + Self::BYTES + 2];
        let (count, rest) = bytes.split_at_mut(2);
        // An operation has at most six words, so the number has one digit.
        count.copy_from_slice(&[b'*', b'0' + (2 + words) as u8]);
        let (begin, rest) = rest.split_at_mut(BEGIN.len());
        begin.copy_from_slice(BEGIN);
        let (head, end) = rest.split_at_mut(Self::BYTES);
        head.copy_from_slice(&self.to_bytes());
        end.copy_from_slice(b"\r\n");
        out.extend_from_slice(&bytes);
    }

    /// `None` if the length is wrong, or a number is over the limit of counters.
    // Inlined to keep the numbers in registers: loading them from memory that was just written is slow.
    #[inline]
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let ([kind, slot @ ..], rest) = bytes.split_first_chunk::<3>()?;
        let (counters, []) = rest.as_chunks::<8>() else { return None };
        let counters: [_; 5] = counters.try_into().ok()?;
        let [epoch, seq, previous_epoch, previous_seq, durable] = counters.map(u64::from_be_bytes);
        let within =
            [epoch, seq, previous_epoch, previous_seq, durable].iter().all(|number| *number <= limits::COUNTER);
        within.then_some(Self {
            kind: *kind,
            slot: SlotId(u16::from_be_bytes(*slot)),
            version: Version { epoch: Epoch(epoch), seq },
            previous: Version { epoch: Epoch(previous_epoch), seq: previous_seq },
            durable,
        })
    }
}

impl<'a> Op<'a> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Write { effect: Effect::Put(_), .. } => PUT,
            Self::Write { effect: Effect::PutUntil(..), .. } => PUT_UNTIL,
            Self::Write { effect: Effect::Delete, .. } => DELETE,
            Self::Write { effect: Effect::Expire, .. } => EXPIRE,
            Self::Multi { .. } => MULTI,
            Self::Declined { .. } => DECLINED,
            Self::Barrier => BARRIER,
        }
    }

    /// How many words [`Op::push`] appends.
    pub(super) fn words(&self) -> usize {
        let (own, identified, reply) = match self {
            Self::Write { effect, identity, reply, .. } => (effect.words(), identity.is_some(), *reply),
            Self::Multi { identity, reply, .. } => (1, identity.is_some(), *reply),
            Self::Declined { reply, .. } => (1, true, *reply),
            Self::Barrier => (0, false, &b""[..]),
        };
        own + if identified { 2 + usize::from(!reply.is_empty()) } else { 0 }
    }

    /// Appends the words that follow the head.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let (identity, reply) = match *self {
            Self::Write { key, effect, identity, reply } => {
                effect.push(key, out);
                (identity, reply)
            }
            Self::Multi { writes, identity, reply } => {
                push_word(writes.bytes(), out);
                (identity, reply)
            }
            Self::Declined { identity, found, reply } => {
                push_version(found, out);
                (Some(identity), reply)
            }
            Self::Barrier => (None, &b""[..]),
        };
        if let Some(Identity { client, seq }) = identity {
            push_word(client, out);
            push_number_word(seq, out);
            if !reply.is_empty() {
                push_word(reply, out);
            }
        }
    }

    /// Reads what [`Op::push`] appends.
    pub(super) fn read(kind: u8, words: &mut Words<'a>) -> Option<Self> {
        let identity = |words: &mut Words<'a>| Identity::from_words(words.next()?, words.next()?);
        // The outer `None`: the words are not an identity; the inner `None`: there is no identity.
        let any_identity = |words: &mut Words<'a>| Some(if words.is_empty() { None } else { Some(identity(words)?) });
        let write = |key, effect, words: &mut Words<'a>| {
            Some(Self::Write { key, effect, identity: any_identity(words)?, reply: reply(words)? })
        };
        match kind {
            PUT => write(key(words)?, Effect::Put(words.next()?), words),
            PUT_UNTIL => write(key(words)?, Effect::PutUntil(words.next()?, WallTime(counter(words)?)), words),
            DELETE => write(key(words)?, Effect::Delete, words),
            EXPIRE => write(key(words)?, Effect::Expire, words),
            MULTI => {
                let writes = Writes::read(words.next()?)?;
                Some(Self::Multi { writes, identity: any_identity(words)?, reply: reply(words)? })
            }
            DECLINED => {
                let found = words.parse()?;
                Some(Self::Declined { identity: identity(words)?, found, reply: reply(words)? })
            }
            BARRIER => Some(Self::Barrier),
            _ => None,
        }
    }
}

/// What a client was told, or empty if there is no such word. `None` if it is over its limit.
pub(super) fn reply<'a>(words: &mut Words<'a>) -> Option<&'a [u8]> {
    Some(words.next().unwrap_or_default()).filter(|reply| reply.len() <= limits::REPLY_BYTES)
}

impl<'a> Effect<'a> {
    /// How many words [`Effect::push`] appends.
    fn words(self) -> usize {
        match self {
            Self::Put(_) => 2,
            Self::PutUntil(..) => 3,
            Self::Delete | Self::Expire => 1,
        }
    }

    fn push(self, key: &[u8], out: &mut Vec<u8>) {
        push_word(key, out);
        match self {
            Self::Put(value) => push_word(value, out),
            Self::PutUntil(value, deadline) => {
                push_word(value, out);
                push_number_word(deadline.0, out);
            }
            Self::Delete | Self::Expire => {}
        }
    }

    /// How many words [`Effect::push_named`] appends.
    pub(super) fn named_words(self) -> usize {
        1 + self.words()
    }

    /// Appends the effect as in an entry of a fill: its name first.
    pub(super) fn push_named(self, key: &[u8], out: &mut Vec<u8>) {
        let name: &[u8] = match self {
            Self::Put(_) => b"PUT",
            Self::PutUntil(..) => b"PUTUNTIL",
            Self::Delete => b"DELETE",
            Self::Expire => b"EXPIRED",
        };
        push_word(name, out);
        self.push(key, out);
    }

    /// Reads what [`Effect::push_named`] appends.
    pub(super) fn read_named(words: &mut Words<'a>) -> Option<(&'a [u8], Self)> {
        let (name, key) = (words.next()?, key(words)?);
        let effect = match name {
            b"PUT" => Self::Put(words.next()?),
            b"PUTUNTIL" => Self::PutUntil(words.next()?, WallTime(counter(words)?)),
            b"DELETE" => Self::Delete,
            b"EXPIRED" => Self::Expire,
            _ => return None,
        };
        Some((key, effect))
    }
}

pub(super) fn push_version(version: Version, out: &mut Vec<u8>) {
    // Each entry of a fill carries one, so it is written without a formatter.
    if version == Version::NONE {
        return push_word(b"0", out);
    }
    let Version { epoch: Epoch(epoch), seq } = version;
    begin_bulk(decimal_digits(epoch) + 1 + decimal_digits(seq), out);
    push_number(epoch, out);
    out.push(b'-');
    push_number(seq, out);
    out.extend_from_slice(b"\r\n");
}
