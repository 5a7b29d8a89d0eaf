//! One write.

use std::sync::atomic::{AtomicU16, Ordering};

use proto::id::{Epoch, Version};
use proto::limits;
use proto::peer::{Effect, Identity, Op, WallTime};
use sha2::{Digest as _, Sha256};
use triomphe::ThinArc;

use crate::memory::{Usage, allocated};
use crate::table::fetch::fetch_bytes;

/// A write as its primary ordered it. The same record is the entry of its key in the table, what replicas are sent, and
/// what a reader gets its value from: clones share it. It takes one allocation, and a pointer of one word leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(ThinArc<Head, u8>);

/// What stands before the bytes of a record: the key, the value, its deadline in 8 bytes where it has one, the client's
/// name, and the write's number in 8 bytes. Of a declined write the version that it has found stands in the place of key and value.
#[derive(Debug)]
struct Head {
    version: Version,
    key_len: u32,
    kind: Kind,
    /// The bytes of the client's name and number at the end; 0 where the write has no identity. With [`HAS_TOLD`] added, what
    /// the client was told stands before them, and its length in 2 bytes.
    identity_len: u8,
    /// When the key was used last, by the clock of [`crate::memory`]. It is no part of the write.
    used: AtomicU16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Put,
    PutUntil,
    Delete,
    Expire,
    Declined,
    Barrier,
}

/// See [`Head::identity_len`], which is lower.
const HAS_TOLD: u8 = 1 << 7;

const _: () = assert!(limits::CLIENT_BYTES + SEQ_BYTES < HAS_TOLD as usize);

/// The length of what a client was told, as it lies in a record.
const TOLD_LEN_BYTES: usize = size_of::<u16>();

/// The number of an identity, as it lies in a record.
const SEQ_BYTES: usize = size_of::<u64>();

/// A deadline, as it lies in a record.
const DEADLINE_BYTES: usize = size_of::<u64>();

/// What the allocation holds beside head and bytes: how many share it, and how many bytes there are.
const COUNTS: usize = 2 * size_of::<usize>();

/// The bytes of a record up to this many are joined without an allocation.
const SHORT: usize = 256;

/// How long keys usually are at most.
const USUAL_KEY_BYTES: usize = 24;

/// How much of a value [`Record::fetch_with_value`] asks for.
const USUAL_VALUE_BYTES: usize = 112;

impl Record {
    /// A record. Key and value are copied here, and nowhere else.
    #[must_use]
    pub fn new(version: Version, op: Op<'_>) -> Self {
        match op {
            Op::Write { key, effect, identity, told } => match effect {
                Effect::Put(value) => Self::of(version, Kind::Put, key, &[value], identity, told),
                Effect::PutUntil(value, WallTime(moment)) => {
                    Self::of(version, Kind::PutUntil, key, &[value, &moment.to_be_bytes()], identity, told)
                }
                Effect::Delete => Self::of(version, Kind::Delete, key, &[], identity, told),
                Effect::Expire => Self::of(version, Kind::Expire, key, &[], identity, told),
            },
            Op::Declined { identity, found, told } => {
                let found = [found.epoch.0.to_be_bytes(), found.seq.to_be_bytes()].concat();
                Self::of(version, Kind::Declined, b"", &[&found], Some(identity), told)
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
        told: &[u8],
    ) -> Self {
        let (first, second) = (value.first().copied().unwrap_or_default(), value.get(1).copied().unwrap_or_default());
        let key_len = u32::try_from(key.len()).expect("a key is within its limit, far below 4 GiB");
        let Some(Identity { client, seq }) = identity else {
            let head = Head::new(version, key_len, kind, 0);
            return Self::joined(head, &[key, first, second]);
        };
        let identity_len = u8::try_from(client.len() + SEQ_BYTES).expect("a client's name is within its limit");
        if told.is_empty() {
            let head = Head::new(version, key_len, kind, identity_len);
            return Self::joined(head, &[key, first, second, client, &seq.to_be_bytes()]);
        }
        let head = Head::new(version, key_len, kind, identity_len | HAS_TOLD);
        let told_len = u16::try_from(told.len()).expect("what is told is within its limit");
        Self::joined(head, &[key, first, second, told, &told_len.to_be_bytes(), client, &seq.to_be_bytes()])
    }

    fn joined(head: Head, parts: &[&[u8]]) -> Self {
        let len = parts.iter().map(|part| part.len()).sum();
        let mut short = [0; SHORT];
        let Some(joined) = short.get_mut(..len) else {
            return Self(ThinArc::from_header_and_slice(head, &parts.concat()));
        };
        let mut rest = &mut *joined;
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        Self(ThinArc::from_header_and_slice(head, joined))
    }

    /// Its place in its slot's order, and so the version of its key.
    #[must_use]
    pub fn version(&self) -> Version {
        self.head().version
    }

    /// The newest write of a key, as a fill brings it.
    #[must_use]
    pub fn entry(version: Version, key: &[u8], effect: Effect<'_>) -> Self {
        Self::new(version, Op::Write { key, effect, identity: None, told: b"" })
    }

    /// The key; empty where the record is no write.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.bytes().get(..self.head().key_len as usize).unwrap_or_default()
    }

    /// The value; `None` where the record is a tombstone, or no write.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        let Head { key_len, kind, .. } = *self.head();
        let end = self.end();
        match kind {
            Kind::Put => self.bytes().get(key_len as usize..end),
            Kind::PutUntil => self.bytes().get(key_len as usize..end - DEADLINE_BYTES),
            Kind::Delete | Kind::Expire | Kind::Declined | Kind::Barrier => None,
        }
    }

    /// When the value expires; `None` where it does not, or the record has none.
    #[must_use]
    pub fn deadline(&self) -> Option<WallTime> {
        if self.head().kind != Kind::PutUntil {
            return None;
        }
        let moment = self.bytes().get(..self.end())?.last_chunk()?;
        Some(WallTime(u64::from_be_bytes(*moment)))
    }

    /// Whether the value has a deadline.
    #[must_use]
    pub fn has_deadline(&self) -> bool {
        self.head().kind == Kind::PutUntil
    }

    /// Whether the value has a deadline that has passed.
    #[must_use]
    pub fn is_expired(&self, now: WallTime) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
    }

    /// The same record as the planted mistake makes it again.
    pub(crate) fn without_deadline(&self) -> Self {
        match self.op() {
            Op::Write { key, effect: Effect::PutUntil(value, _), identity, told } => {
                Self::new(self.version(), Op::Write { key, effect: Effect::Put(value), identity, told })
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
            (None, _) if self.head().kind == Kind::Expire => Effect::Expire,
            (None, _) => Effect::Delete,
        }
    }

    /// Whose write it is, where the client said so.
    #[must_use]
    pub fn identity(&self) -> Option<Identity<'_>> {
        let start = self.bytes().len() - usize::from(self.head().identity_len & !HAS_TOLD);
        let (client, seq) = self.bytes().get(start..)?.split_last_chunk::<SEQ_BYTES>()?;
        Some(Identity { client, seq: u64::from_be_bytes(*seq) })
    }

    /// What the client of a write with an identity was told; empty where that follows from the rest.
    #[must_use]
    pub fn told(&self) -> &[u8] {
        self.bytes().get(self.end()..).and_then(|rest| rest.get(..self.told_len())).unwrap_or_default()
    }

    /// Where the identity and what was told begin.
    fn end(&self) -> usize {
        let identity_len = self.head().identity_len;
        let end = self.bytes().len() - usize::from(identity_len & !HAS_TOLD);
        if identity_len & HAS_TOLD == 0 { end } else { end - TOLD_LEN_BYTES - self.told_len() }
    }

    fn told_len(&self) -> usize {
        let identity_len = self.head().identity_len;
        if identity_len & HAS_TOLD == 0 {
            return 0;
        }
        let end = self.bytes().len() - usize::from(identity_len & !HAS_TOLD);
        let len = self.bytes().get(..end).and_then(<[u8]>::last_chunk);
        len.map_or(0, |len| usize::from(u16::from_be_bytes(*len)))
    }

    /// What a declined write has found; `None` where the record is none.
    #[must_use]
    pub fn found(&self) -> Option<Version> {
        let (epoch, rest) = self.bytes().split_first_chunk().filter(|_| self.head().kind == Kind::Declined)?;
        let seq = rest.first_chunk()?;
        Some(Version { epoch: Epoch(u64::from_be_bytes(*epoch)), seq: u64::from_be_bytes(*seq) })
    }

    /// What the record holds, as it travels.
    #[must_use]
    pub fn op(&self) -> Op<'_> {
        match self.head().kind {
            Kind::Barrier => Op::Barrier,
            Kind::Declined => match (self.identity(), self.found()) {
                (Some(identity), Some(found)) => Op::Declined { identity, found, told: self.told() },
                _ => Op::Barrier,
            },
            Kind::Put | Kind::PutUntil | Kind::Delete | Kind::Expire => {
                Op::Write { key: self.key(), effect: self.effect(), identity: self.identity(), told: self.told() }
            }
        }
    }

    /// Whether the record is a tombstone.
    #[must_use]
    pub fn is_delete(&self) -> bool {
        matches!(self.head().kind, Kind::Delete | Kind::Expire)
    }

    /// Whether the record changes its key: it is a put, a delete or an expiry.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !matches!(self.head().kind, Kind::Declined | Kind::Barrier)
    }

    /// Whether a client has asked for what the record changes. Nobody has asked for an expiry.
    #[must_use]
    pub fn is_asked_for(&self) -> bool {
        self.is_write() && self.head().kind != Kind::Expire
    }

    /// The memory that the record takes, in bytes, its allocation's own overhead left out.
    #[must_use]
    pub fn size(&self) -> usize {
        COUNTS + size_of::<Head>() + self.bytes().len()
    }

    /// What it takes in a node's memory.
    #[must_use]
    pub(crate) fn usage(&self) -> Usage {
        let bytes = allocated(self.size());
        if self.is_delete() { Usage::of_tombstones(bytes) } else { Usage::of_values(bytes) }
    }

    /// What a value would take as a record, in bytes.
    #[must_use]
    pub(crate) fn usage_of_value(
        key: &[u8],
        value: &[u8],
        has_deadline: bool,
        identity: Option<Identity<'_>>,
    ) -> usize {
        let deadline = if has_deadline { DEADLINE_BYTES } else { 0 };
        let identity = identity.map_or(0, |identity| identity.client.len() + SEQ_BYTES);
        allocated(COUNTS + size_of::<Head>() + key.len() + value.len() + deadline + identity)
    }

    /// The key was used at this moment of the clock of [`crate::memory`].
    pub(crate) fn touch(&self, now: u16) {
        let used = &self.head().used;
        // What many read at a time is written once.
        if used.load(Ordering::Relaxed) != now {
            used.store(now, Ordering::Relaxed);
        }
    }

    /// How long ago the key was used, by that clock.
    pub(crate) fn age(&self, now: u16) -> u16 {
        now.wrapping_sub(self.head().used.load(Ordering::Relaxed))
    }

    /// Whether no other clone of it is left.
    #[cfg(test)]
    pub(crate) fn is_unique(&self) -> bool {
        ThinArc::strong_count(&self.0) == 1
    }

    /// The first 128 bits of the SHA-256 of all that a copy must have of it: version, kind, key, value and deadline. Whose
    /// write it was is left out, for a fill leaves it out.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let Head { version, key_len, kind, .. } = *self.head();
        let deadline = self.deadline().map(|deadline| deadline.0.to_be_bytes());
        let kind = match kind {
            Kind::Put => b'P',
            Kind::PutUntil => b'T',
            Kind::Delete => b'D',
            Kind::Expire => b'E',
            Kind::Declined => b'C',
            Kind::Barrier => b'B',
        };
        let hash = Sha256::new()
            .chain_update(version.epoch.0.to_be_bytes())
            .chain_update(version.seq.to_be_bytes())
            .chain_update(key_len.to_be_bytes())
            .chain_update([kind])
            .chain_update(self.key())
            .chain_update(deadline.as_ref().map_or(&[][..], |deadline| deadline))
            .chain_update(self.value().unwrap_or_default())
            .finalize();
        hash.first_chunk().map_or(0, |first| u128::from_be_bytes(*first))
    }

    /// Asks for the record's memory up to about the end of its key, which will be used soon.
    pub(crate) fn fetch(&self) {
        fetch_bytes(self.0.ptr().cast(), COUNTS + size_of::<Head>() + USUAL_KEY_BYTES);
    }

    /// The same up to about the end of a short value. How long it is stands where it cannot be looked up yet.
    pub(crate) fn fetch_with_value(&self) {
        fetch_bytes(self.0.ptr().cast(), COUNTS + size_of::<Head>() + USUAL_KEY_BYTES + USUAL_VALUE_BYTES);
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    fn bytes(&self) -> &[u8] {
        &self.0.slice
    }
}

impl Head {
    fn new(version: Version, key_len: u32, kind: Kind, identity_len: u8) -> Self {
        Self { version, key_len, kind, identity_len, used: AtomicU16::new(0) }
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        let parts = |head: &Self| (head.version, head.key_len, head.kind, head.identity_len);
        parts(self) == parts(other)
    }
}

impl Eq for Head {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_what_it_was_made_of() {
        let version = Version { epoch: Epoch(1), seq: 2 };
        let identity = Some(Identity { client: b"me", seq: 7 });
        for op in [
            Op::Write { key: b"k", effect: Effect::Put(b"v"), identity: None, told: b"" },
            Op::Write { key: b"k", effect: Effect::Put(b""), identity, told: b"" },
            Op::Write { key: b"", effect: Effect::Delete, identity, told: b"" },
            Op::Write { key: b"k", effect: Effect::Delete, identity: None, told: b"" },
            Op::Write { key: b"k", effect: Effect::Expire, identity: None, told: b"" },
            Op::Write { key: b"k", effect: Effect::PutUntil(b"v", WallTime(7)), identity: None, told: b"" },
            Op::Write { key: b"k", effect: Effect::PutUntil(b"", WallTime(u64::MAX)), identity, told: b"" },
            Op::Declined { identity: Identity { client: b"me", seq: 7 }, found: version, told: b"" },
            Op::Declined { identity: Identity { client: b"me", seq: 7 }, found: version, told: b":0" },
            Op::Write { key: b"k", effect: Effect::Put(b"v"), identity, told: b":12" },
            Op::Write { key: b"", effect: Effect::PutUntil(b"", WallTime(9)), identity, told: &[b'$'; 1_025] },
            Op::Write { key: b"k", effect: Effect::Delete, identity, told: b"+" },
            Op::Barrier,
        ] {
            assert_eq!(Record::new(version, op).op(), op);
        }
    }

    #[test]
    fn a_deadline_costs_those_who_have_none_nothing() {
        let size = |effect| Record::entry(Version::NONE, b"k", effect).size();
        assert_eq!(size(Effect::Put(b"v")) + DEADLINE_BYTES, size(Effect::PutUntil(b"v", WallTime(1))));
    }

    #[test]
    fn what_a_value_takes_is_known_before_its_record_is_made() {
        for (value, identity) in [(&b"v"[..], None), (&[7; 100], Some(Identity { client: b"me", seq: 7 }))] {
            for (effect, has_deadline) in [(Effect::Put(value), false), (Effect::PutUntil(value, WallTime(7)), true)] {
                let record = Record::new(Version::NONE, Op::Write { key: b"key", effect, identity, told: b"" });
                let expected = Record::usage_of_value(b"key", value, has_deadline, identity);
                assert_eq!(record.usage(), Usage::of_values(expected));
            }
        }
    }

    #[test]
    fn when_a_key_was_used_takes_no_room_and_is_no_part_of_the_write() {
        assert_eq!(size_of::<Head>(), size_of::<Version>() + 8);
        let [used, unused] = [0, 1].map(|_| Record::entry(Version::NONE, b"k", Effect::Put(b"v")));
        used.touch(u16::MAX);
        assert_eq!((used.age(u16::MAX), used.age(2), unused.age(7)), (0, 3, 7));
        assert_eq!(used, unused);
    }

    #[test]
    fn an_identity_costs_those_who_have_none_nothing() {
        let record = Record::new(Version::NONE, Op::Barrier);
        assert!(record.size() <= 40, "{}", record.size());
    }
}
