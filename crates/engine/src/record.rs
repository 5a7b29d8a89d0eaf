//! A single write.

use std::fmt;
use std::sync::atomic::Ordering;

use proto::id::{Epoch, Version};
use proto::limits;
use proto::peer::{Effect, Identity, Op, WallTime, Writes};
use sha2::{Digest as _, Sha256};

use crate::memory::{Usage, allocated};
use crate::table::fetch::fetch_bytes;
use crate::table::shared::{HEAD_BYTES, LONG, SHORT_MOST, Shared};

/// A write as its primary ordered it. The same record is the entry of its key in the table, what replicas are sent, and
/// the source of a reader's value: clones share it. It is one allocation, reached through a one-word pointer.
///
/// The bytes are: the version in 16 bytes, if it does not fit into the word; the key; the value; its deadline in 8
/// bytes, if any. A write with an identity adds what the client was told, followed by its length in 2 bytes, if there
/// is anything; the client's name; the write's number in 8 bytes; and the length of name and number in one byte. In a
/// declined write, the version that it found takes the place of key and value, and in a write of several keys,
/// [`Writes`] do.
///
/// The word is, from its lowest bit: the length of the bytes in 12 bits, that of the key in 8, the sequence number of
/// the version in 28, and its epoch in 10. If any of these does not fit, `LONG` is set, with the length of the bytes in
/// 32 bits and that of the key in 26. Both forms continue with the kind in 3 bits, `HAS_REPLY`, and `HAS_IDENTITY`.
///
/// The mark is when the key was last used, by the clock of [`crate::memory`]. It is not part of the write.
#[derive(Clone)]
pub struct Record(Shared);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put = 0,
    PutUntil = 1,
    Delete = 2,
    Expire = 3,
    Declined = 4,
    Barrier = 5,
    Multi = 6,
}

const KEY_SHIFT: u32 = 12;
const SEQ_SHIFT: u32 = 20;
const EPOCH_SHIFT: u32 = 48;
const LONG_KEY_SHIFT: u32 = 32;
const KIND_SHIFT: u32 = 58;

/// The longest key whose length fits beside a version.
const SHORT_KEY_MOST: u64 = (1 << (SEQ_SHIFT - KEY_SHIFT)) - 1;

/// The highest sequence number and the highest epoch of a version that fits into the word.
const SHORT_SEQ_MOST: u64 = (1 << (EPOCH_SHIFT - SEQ_SHIFT)) - 1;
const SHORT_EPOCH_MOST: u64 = (1 << (KIND_SHIFT - EPOCH_SHIFT)) - 1;

/// The bits of such a version.
const SHORT_VERSION: u64 = (SHORT_SEQ_MOST << SEQ_SHIFT) | (SHORT_EPOCH_MOST << EPOCH_SHIFT);

const LONG_KEY_MOST: u64 = (1 << (KIND_SHIFT - LONG_KEY_SHIFT)) - 1;

/// The flag that a record holds what a client was told.
const HAS_REPLY: u64 = 1 << 61;

/// The flag that a record holds an identity.
const HAS_IDENTITY: u64 = 1 << 62;

const KIND_MASK: u64 = 7;

/// The bits that are clear in the word of a plain put: short, with no deadline, no identity and no reply.
const NOT_PLAIN: u64 = LONG | HAS_IDENTITY | HAS_REPLY | (KIND_MASK << KIND_SHIFT);

const _: () = assert!(Kind::Put as u64 == 0);
const _: () = assert!(limits::CLIENT_BYTES + SEQ_BYTES <= u8::MAX as usize);
const _: () = assert!(limits::KEY_BYTES as u64 <= LONG_KEY_MOST);

/// The size of a version in a record whose word has no room for it.
const VERSION_BYTES: usize = 2 * size_of::<u64>();

/// The size of the length of what a client was told.
const REPLY_LEN_BYTES: usize = size_of::<u16>();

/// The size of an identity's number.
const SEQ_BYTES: usize = size_of::<u64>();

/// The size of an identity's length.
const IDENTITY_LEN_BYTES: usize = 1;

/// The size of a deadline.
const DEADLINE_BYTES: usize = size_of::<u64>();

/// An upper bound on the usual key length.
const USUAL_KEY_BYTES: usize = 24;

/// [`Record::fetch_with_value`] prefetches records up to this size whole: a few dozen of them fit in a cache. Of longer
/// ones it prefetches only the start; the processor's own prefetcher reads the rest.
const FETCHED_WHOLE: usize = 2048;

/// How much that is.
const FETCHED_START: usize = 192;

impl Record {
    /// Creates a record. Key and value are copied here, and nowhere else.
    #[must_use]
    pub fn new(version: Version, op: Op<'_>) -> Self {
        match op {
            Op::Write { key, effect, identity, reply } => match effect {
                Effect::Put(value) => Self::of(version, Kind::Put, key, &[value], identity, reply),
                Effect::PutUntil(value, WallTime(moment)) => {
                    Self::of(version, Kind::PutUntil, key, &[value, &moment.to_be_bytes()], identity, reply)
                }
                Effect::Delete => Self::of(version, Kind::Delete, key, &[], identity, reply),
                Effect::Expire => Self::of(version, Kind::Expire, key, &[], identity, reply),
            },
            Op::Multi { writes, identity, reply } => {
                Self::of(version, Kind::Multi, b"", &[writes.bytes()], identity, reply)
            }
            Op::Declined { identity, found, reply } => {
                Self::of(version, Kind::Declined, b"", &[&to_bytes(found)], Some(identity), reply)
            }
            Op::Barrier => Self::of(version, Kind::Barrier, b"", &[], None, b""),
        }
    }

    fn of(
        version: Version,
        kind: Kind,
        key: &[u8],
        value: &[&[u8]],
        identity: Option<Identity<'_>>,
        reply: &[u8],
    ) -> Self {
        let (first, second) = (value.first().copied().unwrap_or_default(), value.get(1).copied().unwrap_or_default());
        let (kind, key_len) = ((kind as u64) << KIND_SHIFT, key.len());
        let Some(Identity { client, seq }) = identity else {
            return Self::joined(version, kind, key_len, &[key, first, second]);
        };
        let identity_len = u8::try_from(client.len() + SEQ_BYTES).expect("a client's name is within its limit");
        let (flags, seq, identity_len) = (kind | HAS_IDENTITY, seq.to_be_bytes(), [identity_len]);
        if reply.is_empty() {
            return Self::joined(version, flags, key_len, &[key, first, second, client, &seq, &identity_len]);
        }
        let reply_len = u16::try_from(reply.len()).expect("a reply is within its limit").to_be_bytes();
        let parts = [key, first, second, reply, &reply_len, client, &seq, &identity_len];
        Self::joined(version, flags | HAS_REPLY, key_len, &parts)
    }

    /// A record of these parts, preceded by the version if that does not fit into the word.
    fn joined(version: Version, flags: u64, key_len: usize, parts: &[&[u8]]) -> Self {
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        if fits_word(version, key_len, len) {
            let Version { epoch: Epoch(epoch), seq } = version;
            let word =
                len as u64 | ((key_len as u64) << KEY_SHIFT) | (seq << SEQ_SHIFT) | (epoch << EPOCH_SHIFT) | flags;
            return Self(Shared::new(word, b"", parts));
        }
        let len = u32::try_from(VERSION_BYTES + len).expect("key and value are within their limits, far below 4 GiB");
        let key_len = key_len as u64;
        assert!(key_len <= LONG_KEY_MOST, "a key is within its limit, far below 64 MiB");
        let word = u64::from(len) | (key_len << LONG_KEY_SHIFT) | flags | LONG;
        Self(Shared::new(word, &to_bytes(version), parts))
    }

    /// Turns a plain put into another, of the same key and with a value of the same length, unless there are other
    /// clones of it. Returns whether it has. The time of use remains.
    pub(crate) fn write_in_place(&mut self, version: Version, value: &[u8]) -> bool {
        let word = self.0.word();
        let key_len = short_key_len(word);
        if word & NOT_PLAIN != 0 || !fits_word(version, key_len, key_len + value.len()) {
            return false;
        }
        let Version { epoch: Epoch(epoch), seq } = version;
        let word = (word & !SHORT_VERSION) | (seq << SEQ_SHIFT) | (epoch << EPOCH_SHIFT);
        self.0.write_in_place(word, key_len, value)
    }

    /// Its position in its slot's order, which is also the version of its key.
    #[must_use]
    pub fn version(&self) -> Version {
        let word = self.0.word();
        if word & LONG == 0 {
            let epoch = Epoch((word >> EPOCH_SHIFT) & SHORT_EPOCH_MOST);
            return Version { epoch, seq: (word >> SEQ_SHIFT) & SHORT_SEQ_MOST };
        }
        self.0.bytes().first_chunk().map_or(Version::NONE, from_bytes)
    }

    /// The newest write of a key, as a fill transfers it.
    #[must_use]
    pub fn entry(version: Version, key: &[u8], effect: Effect<'_>) -> Self {
        Self::new(version, Op::Write { key, effect, identity: None, reply: b"" })
    }

    /// What becomes the newest record of each of its keys, if this is a write of several keys.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Self> {
        let writes = self.writes().into_iter().flat_map(Writes::iter);
        writes.map(|(key, effect)| Self::entry(self.version(), key, effect))
    }

    fn writes(&self) -> Option<Writes<'_>> {
        (self.kind() == Kind::Multi).then(|| Writes::known(self.bytes().get(..self.end()).unwrap_or_default()))
    }

    /// The key; empty if the record is not a write of one key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        let word = self.0.word();
        if word & LONG == 0 {
            return self.0.bytes().get(..short_key_len(word)).unwrap_or_default();
        }
        self.bytes().get(..self.key_len()).unwrap_or_default()
    }

    /// The value; `None` if the record is a tombstone or not a write of one key.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        let word = self.0.word();
        if word & NOT_PLAIN == 0 {
            // By far the most common case.
            return self.0.bytes().get(short_key_len(word)..);
        }
        match self.kind() {
            Kind::Put => self.bytes().get(self.key_len()..self.end()),
            Kind::PutUntil => self.bytes().get(self.key_len()..self.end() - DEADLINE_BYTES),
            Kind::Delete | Kind::Expire | Kind::Declined | Kind::Barrier | Kind::Multi => None,
        }
    }

    /// When the value expires; `None` if it does not, or if there is no value.
    #[must_use]
    pub fn deadline(&self) -> Option<WallTime> {
        if self.kind() != Kind::PutUntil {
            return None;
        }
        let moment = self.bytes().get(..self.end())?.last_chunk()?;
        Some(WallTime(u64::from_be_bytes(*moment)))
    }

    /// Whether the value has a deadline.
    #[must_use]
    pub fn has_deadline(&self) -> bool {
        self.kind() == Kind::PutUntil
    }

    /// Whether the value has a deadline that has passed.
    #[must_use]
    pub fn is_expired(&self, now: WallTime) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// The same record as a planted bug recreates it.
    pub(crate) fn without_deadline(&self) -> Self {
        match self.op() {
            Op::Write { key, effect: Effect::PutUntil(value, _), identity, reply } => {
                Self::new(self.version(), Op::Write { key, effect: Effect::Put(value), identity, reply })
            }
            _ => self.clone(),
        }
    }

    /// What the record does to its key.
    #[must_use]
    pub fn effect(&self) -> Effect<'_> {
        match (self.value(), self.deadline()) {
            (Some(value), None) => Effect::Put(value),
            (Some(value), Some(deadline)) => Effect::PutUntil(value, deadline),
            (None, _) if self.kind() == Kind::Expire => Effect::Expire,
            (None, _) => Effect::Delete,
        }
    }

    /// Whose write it is, if the client said so.
    #[must_use]
    pub fn identity(&self) -> Option<Identity<'_>> {
        let (client, seq) = self.identity_bytes()?.split_last_chunk::<SEQ_BYTES>()?;
        Some(Identity { client, seq: u64::from_be_bytes(*seq) })
    }

    /// What the client of a write with an identity was told; empty if that follows from the rest.
    #[must_use]
    pub fn reply(&self) -> &[u8] {
        self.bytes().get(self.end()..).and_then(|rest| rest.get(..self.reply_len())).unwrap_or_default()
    }

    /// The name and number of an identity.
    fn identity_bytes(&self) -> Option<&[u8]> {
        if self.0.word() & HAS_IDENTITY == 0 {
            return None;
        }
        let (len, rest) = self.bytes().split_last()?;
        rest.get(rest.len().checked_sub(usize::from(*len))?..)
    }

    /// Where the identity begins.
    fn identity_start(&self) -> usize {
        let identity = self.identity_bytes().map_or(0, |identity| identity.len() + IDENTITY_LEN_BYTES);
        self.bytes().len() - identity
    }

    /// Where the identity, or what was told before it, begins.
    fn end(&self) -> usize {
        let start = self.identity_start();
        if self.0.word() & HAS_REPLY == 0 { start } else { start - REPLY_LEN_BYTES - self.reply_len() }
    }

    fn reply_len(&self) -> usize {
        if self.0.word() & HAS_REPLY == 0 {
            return 0;
        }
        let len = self.bytes().get(..self.identity_start()).and_then(<[u8]>::last_chunk);
        len.map_or(0, |len| usize::from(u16::from_be_bytes(*len)))
    }

    /// The version that a declined write found; `None` for other records.
    #[must_use]
    pub fn found(&self) -> Option<Version> {
        self.bytes().first_chunk().filter(|_| self.kind() == Kind::Declined).map(from_bytes)
    }

    /// The contents of the record, in wire form.
    #[must_use]
    pub fn op(&self) -> Op<'_> {
        match self.kind() {
            Kind::Barrier => Op::Barrier,
            Kind::Multi => {
                let writes = self.writes().unwrap_or(Writes::known(b""));
                Op::Multi { writes, identity: self.identity(), reply: self.reply() }
            }
            Kind::Declined => match (self.identity(), self.found()) {
                (Some(identity), Some(found)) => Op::Declined { identity, found, reply: self.reply() },
                _ => Op::Barrier,
            },
            Kind::Put | Kind::PutUntil | Kind::Delete | Kind::Expire => {
                Op::Write { key: self.key(), effect: self.effect(), identity: self.identity(), reply: self.reply() }
            }
        }
    }

    /// Whether it begins a term of the slot's primary.
    #[must_use]
    pub(crate) fn is_barrier(&self) -> bool {
        self.kind() == Kind::Barrier
    }

    /// Whether the record is a write of several keys.
    #[must_use]
    pub(crate) fn is_multi(&self) -> bool {
        self.kind() == Kind::Multi
    }

    /// Whether the record is a tombstone.
    #[must_use]
    pub fn is_delete(&self) -> bool {
        matches!(self.kind(), Kind::Delete | Kind::Expire)
    }

    /// Whether the record changes its key: it is a put, a delete or an expiry of one key.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.kind(), Kind::Declined | Kind::Barrier | Kind::Multi)
    }

    /// Whether a client asked for the change that the record makes. Nobody asks for an expiry.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.is_write() && self.kind() != Kind::Expire
    }

    /// The memory that the record takes, in bytes, without the allocator's overhead.
    #[must_use]
    pub fn size(&self) -> usize {
        HEAD_BYTES + self.0.bytes().len()
    }

    /// The memory that it takes on a node, in bytes: the size class of its allocation.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        allocated(self.size())
    }

    /// The same, classified as value or tombstone.
    #[must_use]
    pub(crate) fn usage(&self) -> Usage {
        let bytes = self.memory_bytes();
        if self.is_delete() { Usage::of_tombstones(bytes) } else { Usage::of_values(bytes) }
    }

    /// What a value would take as a record of this version, in bytes.
    #[must_use]
    pub(crate) fn usage_of_value(
        version: Version,
        key: &[u8],
        value: &[u8],
        has_deadline: bool,
        identity: Option<Identity<'_>>,
    ) -> usize {
        let deadline = if has_deadline { DEADLINE_BYTES } else { 0 };
        let identity = identity.map_or(0, |identity| identity.client.len() + SEQ_BYTES + IDENTITY_LEN_BYTES);
        let len = key.len() + value.len() + deadline + identity;
        allocated(HEAD_BYTES + len + if fits_word(version, key.len(), len) { 0 } else { VERSION_BYTES })
    }

    /// Notes that the key was used at this moment of the clock of [`crate::memory`].
    pub(crate) fn touch(&self, now: u16) {
        let used = self.0.mark();
        // When many read at the same moment, only one write happens.
        if used.load(Ordering::Relaxed) != now {
            used.store(now, Ordering::Relaxed);
        }
    }

    /// How long ago the key was used, by that clock.
    pub(crate) fn age(&self, now: u16) -> u16 {
        now.wrapping_sub(self.0.mark().load(Ordering::Relaxed))
    }

    /// Whether no other clone of it exists.
    #[cfg(test)]
    pub(crate) fn is_unique(&self) -> bool {
        self.0.is_unique()
    }

    /// The first 128 bits of the SHA-256 of everything that a copy must have: version, kind, key, value, and deadline.
    /// The identity is left out, because a fill omits it.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let deadline = self.deadline().map(|deadline| deadline.0.to_be_bytes());
        let kind = match self.kind() {
            Kind::Put => b'P',
            Kind::PutUntil => b'T',
            Kind::Delete => b'D',
            Kind::Expire => b'E',
            Kind::Declined => b'C',
            Kind::Barrier => b'B',
            Kind::Multi => b'M',
        };
        let hash = Sha256::new()
            .chain_update(to_bytes(self.version()))
            .chain_update((self.key_len() as u32).to_be_bytes())
            .chain_update([kind])
            .chain_update(self.key())
            .chain_update(deadline.as_ref().map_or(&[][..], |deadline| deadline))
            .chain_update(self.value().unwrap_or_default())
            .finalize();
        hash.first_chunk().map_or(0, |first| u128::from_be_bytes(*first))
    }

    /// Prefetches the record's memory up to about the end of its key.
    pub(crate) fn fetch(&self) {
        fetch_bytes(self.0.address(), HEAD_BYTES + USUAL_KEY_BYTES);
    }

    /// Prefetches a whole record of about this size. Its actual size is in memory that is not loaded yet.
    pub(crate) fn fetch_with_value(&self, size: usize) {
        fetch_bytes(self.0.address(), if size <= FETCHED_WHOLE { size } else { FETCHED_START });
    }

    fn kind(&self) -> Kind {
        match (self.0.word() >> KIND_SHIFT) & KIND_MASK {
            0 => Kind::Put,
            1 => Kind::PutUntil,
            2 => Kind::Delete,
            3 => Kind::Expire,
            4 => Kind::Declined,
            5 => Kind::Barrier,
            _ => Kind::Multi,
        }
    }

    fn key_len(&self) -> usize {
        let word = self.0.word();
        if word & LONG == 0 { short_key_len(word) } else { ((word >> LONG_KEY_SHIFT) & LONG_KEY_MOST) as usize }
    }

    /// The contents other than the version.
    fn bytes(&self) -> &[u8] {
        let bytes = self.0.bytes();
        if self.0.word() & LONG == 0 { bytes } else { bytes.get(VERSION_BYTES..).unwrap_or_default() }
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        // Equal records have only one encoding.
        self.0.word() == other.0.word() && self.0.bytes() == other.0.bytes()
    }
}

impl Eq for Record {}

impl fmt::Debug for Record {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Record").field("version", &self.version()).field("op", &self.op()).finish()
    }
}

/// The length of the key that a word without `LONG` states.
fn short_key_len(word: u64) -> usize {
    ((word >> KEY_SHIFT) & SHORT_KEY_MOST) as usize
}

/// Whether the version fits into the word along with these lengths of key and bytes.
fn fits_word(version: Version, key_len: usize, len: usize) -> bool {
    let fits = version.epoch.0 <= SHORT_EPOCH_MOST && version.seq <= SHORT_SEQ_MOST;
    fits && key_len as u64 <= SHORT_KEY_MOST && len as u64 <= SHORT_MOST
}

fn to_bytes(version: Version) -> [u8; VERSION_BYTES] {
    ((u128::from(version.epoch.0) << 64) | u128::from(version.seq)).to_be_bytes()
}

fn from_bytes(bytes: &[u8; VERSION_BYTES]) -> Version {
    let both = u128::from_be_bytes(*bytes);
    Version { epoch: Epoch((both >> 64) as u64), seq: both as u64 }
}

#[cfg(test)]
mod tests;
