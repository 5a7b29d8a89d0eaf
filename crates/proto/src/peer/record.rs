//! A record as it travels from a primary to its replicas.

use super::{Effect, Identity, begin_word, decimal_digits, push_number_word};
use crate::frame::{Words, push_number, push_word};
use crate::id::{Epoch, Version};
use crate::limits;
use crate::slot::SlotId;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// A client's write.
    Write {
        /// The key.
        key: &'a [u8],
        /// What becomes of it.
        effect: Effect<'a>,
        /// Whose write it is, where the client said so.
        identity: Option<Identity<'a>>,
    },
    /// A client's conditional write whose condition did not hold. It changes nothing, but is settled by that: another try of
    /// the same write that comes late must not take effect.
    Declined {
        /// Whose write it is.
        identity: Identity<'a>,
        /// The version of the key, [`Version::NONE`] where it was absent.
        found: Version,
    },
    /// The first record of a primary's term. It changes nothing; whoever has it has all that came before the term.
    Barrier,
}

/// What stands before the words of a record, in one word of 43 bytes: nearly all that nodes say to each other is this.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) slot: SlotId,
    pub(super) version: Version,
    pub(super) previous: Version,
    pub(super) durable: u64,
}

const PUT: u8 = b'P';
const DELETE: u8 = b'D';
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

    /// `None` where it has another length, or a number is none of a counter.
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
            Self::Write { effect: Effect::Delete, .. } => DELETE,
            Self::Declined { .. } => DECLINED,
            Self::Barrier => BARRIER,
        }
    }

    /// How many words [`Op::push`] appends.
    pub(super) fn words(&self) -> usize {
        let (own, identified) = match self {
            Self::Write { effect: Effect::Put(_), identity, .. } => (2, identity.is_some()),
            Self::Write { effect: Effect::Delete, identity, .. } => (1, identity.is_some()),
            Self::Declined { .. } => (1, true),
            Self::Barrier => (0, false),
        };
        own + if identified { 2 } else { 0 }
    }

    /// Appends the words that follow the head.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let identity = match *self {
            Self::Write { key, effect, identity } => {
                push_word(key, out);
                if let Effect::Put(value) = effect {
                    push_word(value, out);
                }
                identity
            }
            Self::Declined { identity, found } => {
                push_version(found, out);
                Some(identity)
            }
            Self::Barrier => None,
        };
        if let Some(Identity { client, seq }) = identity {
            push_word(client, out);
            push_number_word(seq, out);
        }
    }

    /// Reads what [`Op::push`] appends.
    pub(super) fn read(kind: u8, words: &mut Words<'a>) -> Option<Self> {
        let identity = |words: &mut Words<'a>| Identity::from_words(words.next()?, words.next()?);
        let write = |key, effect, words: &mut Words<'a>| {
            let identity = if words.is_empty() { None } else { Some(identity(words)?) };
            Some(Self::Write { key, effect, identity })
        };
        match kind {
            PUT => write(words.next()?, Effect::Put(words.next()?), words),
            DELETE => write(words.next()?, Effect::Delete, words),
            DECLINED => {
                let found = words.parse()?;
                Some(Self::Declined { identity: identity(words)?, found })
            }
            BARRIER => Some(Self::Barrier),
            _ => None,
        }
    }
}

pub(super) fn push_version(version: Version, out: &mut Vec<u8>) {
    // Each entry of a fill carries one, so it is written without a formatter.
    if version == Version::NONE {
        return push_word(b"0", out);
    }
    let Version { epoch: Epoch(epoch), seq } = version;
    begin_word(decimal_digits(epoch) + 1 + decimal_digits(seq), out);
    push_number(epoch, out);
    out.push(b'-');
    push_number(seq, out);
    out.extend_from_slice(b"\r\n");
}
