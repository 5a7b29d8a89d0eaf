//! The binary format of entries. All numbers are big-endian.

use proto::id::{Epoch, Version};
use proto::limits;
use proto::peer::{Effect, Identity, Op, Term, Terms, WallTime, Writes};
use proto::slot::SlotId;

use crate::completions::Completion;
use crate::log;
use crate::losses::Loss;
use crate::record::Record;

/// One journal entry: a change of a slot, or of the archive of losses.
#[derive(Debug)]
pub(crate) enum Entry {
    /// The next record. When it was appended, everything up to `durable` was durable.
    Record { slot: SlotId, durable: u64, record: Record },
    /// The slot was truncated to an earlier record of its own.
    Cut { slot: SlotId, to: Version },
    /// Everything the slot holds, replacing what it held before.
    Whole { slot: SlotId, whole: SlotSnapshot },
    /// The slot was given up.
    Drop { slot: SlotId },
    /// Tombstones up to this number are gone.
    Purge { slot: SlotId, seq: u64 },
    /// A higher epoch was heard of.
    Epoch { slot: SlotId, epoch: Epoch },
    /// A write was dropped that the next primary may not have, and is in the archive.
    Loss(Loss),
    /// This many more writes were dropped and are not in the archive.
    Unkept { writes: u64 },
}

/// Everything a slot holds.
#[derive(Debug)]
pub(crate) struct SlotSnapshot {
    pub(crate) epoch: Epoch,
    pub(crate) last: Version,
    pub(crate) durable: u64,
    pub(crate) purged: u64,
    pub(crate) terms: Terms,
    pub(crate) records: Vec<Record>,
    pub(crate) completions: Vec<(Box<[u8]>, u64, Completion)>,
    pub(crate) tail: Vec<log::Entry>,
}

const RECORD: u8 = 1;
const CUT: u8 = 2;
const WHOLE: u8 = 3;
const DROP: u8 = 4;
const PURGE: u8 = 5;
const EPOCH: u8 = 6;
const LOSS: u8 = 7;
const UNKEPT: u8 = 8;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const DECLINED: u8 = 3;
const BARRIER: u8 = 4;
const PUT_UNTIL: u8 = 5;
const EXPIRE: u8 = 6;
const MULTI: u8 = 7;

/// A flag in the kind byte of a record and in the flags byte of a completion: what the client was told follows.
const HAS_REPLY: u8 = 1 << 7;

impl Entry {
    /// The slot that the entry concerns; 0 if it concerns none.
    pub(crate) fn slot(&self) -> SlotId {
        match self {
            Self::Record { slot, .. }
            | Self::Cut { slot, .. }
            | Self::Whole { slot, .. }
            | Self::Drop { slot }
            | Self::Purge { slot, .. }
            | Self::Epoch { slot, .. }
            | Self::Loss(Loss { slot, .. }) => *slot,
            Self::Unkept { .. } => SlotId(0),
        }
    }

    /// Whether it concerns the archive of losses rather than a slot's contents.
    pub(crate) fn is_of_losses(&self) -> bool {
        matches!(self, Self::Loss(_) | Self::Unkept { .. })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut begin = |kind: u8| {
            out.push(kind);
            out.extend_from_slice(&self.slot().0.to_be_bytes());
        };
        match self {
            Self::Record { slot, durable, record } => encode_record(*slot, *durable, record, out),
            Self::Cut { to, .. } => {
                begin(CUT);
                push_version(*to, out);
            }
            Self::Whole { whole, .. } => {
                begin(WHOLE);
                whole.encode(out);
            }
            Self::Drop { .. } => begin(DROP),
            Self::Purge { seq, .. } => {
                begin(PURGE);
                push_number(*seq, out);
            }
            Self::Epoch { epoch, .. } => {
                begin(EPOCH);
                push_number(epoch.0, out);
            }
            Self::Loss(Loss { record, common, winner, .. }) => {
                begin(LOSS);
                push_version(*common, out);
                push_number(winner.0, out);
                push_record(record, out);
            }
            Self::Unkept { writes } => {
                begin(UNKEPT);
                push_number(*writes, out);
            }
        }
    }

    /// Reads one entry from the front; `None` if the bytes are not an entry.
    pub(crate) fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let kind = bytes.byte()?;
        let slot = SlotId(u16::from_be_bytes(bytes.array()?));
        Some(match kind {
            RECORD => Self::Record { slot, durable: bytes.number()?, record: bytes.record()? },
            CUT => Self::Cut { slot, to: bytes.version()? },
            WHOLE => Self::Whole { slot, whole: SlotSnapshot::read(bytes)? },
            DROP => Self::Drop { slot },
            PURGE => Self::Purge { slot, seq: bytes.number()? },
            EPOCH => Self::Epoch { slot, epoch: Epoch(bytes.number()?) },
            LOSS => {
                let (common, winner) = (bytes.version()?, Epoch(bytes.number()?));
                Self::Loss(Loss { slot, record: bytes.record()?, common, winner })
            }
            UNKEPT => Self::Unkept { writes: bytes.number()? },
            _ => return None,
        })
    }
}

/// Appends an [`Entry::Record`].
pub(super) fn encode_record(slot: SlotId, durable: u64, record: &Record, out: &mut Vec<u8>) {
    out.push(RECORD);
    out.extend_from_slice(&slot.0.to_be_bytes());
    push_number(durable, out);
    push_record(record, out);
}

impl SlotSnapshot {
    fn encode(&self, out: &mut Vec<u8>) {
        let Self { epoch, last, durable, purged, terms, records, completions, tail } = self;
        push_number(epoch.0, out);
        push_version(*last, out);
        push_number(*durable, out);
        push_number(*purged, out);
        push_count(terms.0.len(), out);
        for Term { epoch, first } in &terms.0 {
            push_number(epoch.0, out);
            push_number(*first, out);
        }
        push_count(records.len(), out);
        records.iter().for_each(|record| push_record(record, out));
        push_count(completions.len(), out);
        for (client, seq, Completion { version, found, reply }) in completions {
            push_bytes(client, out);
            push_number(*seq, out);
            push_version(*version, out);
            out.push(u8::from(found.is_some()) | reply.as_ref().map_or(0, |_| HAS_REPLY));
            push_version(found.unwrap_or_default(), out);
            reply.iter().for_each(|reply| push_bytes(reply, out));
        }
        push_count(tail.len(), out);
        for log::Entry { record, replaced } in tail {
            push_record(record, out);
            out.push(u8::from(replaced.is_some()));
            replaced.iter().for_each(|replaced| push_record(replaced, out));
        }
    }

    fn read(bytes: &mut Reader<'_>) -> Option<Self> {
        let (epoch, last, durable, purged) =
            (Epoch(bytes.number()?), bytes.version()?, bytes.number()?, bytes.number()?);
        let term = |bytes: &mut Reader<'_>| Some(Term { epoch: Epoch(bytes.number()?), first: bytes.number()? });
        let terms = Terms(bytes.list(term)?);
        let records = bytes.list(Reader::record)?;
        let completions = bytes.list(|bytes| {
            let (client, seq, version) = (bytes.bytes()?.into(), bytes.number()?, bytes.version()?);
            let (flags, found) = (bytes.byte()?, bytes.version()?);
            let reply = if flags & HAS_REPLY == 0 { None } else { Some(bytes.bytes()?.into()) };
            Some((client, seq, Completion { version, found: (flags & 1 != 0).then_some(found), reply }))
        })?;
        let tail = bytes.list(|bytes| {
            let record = bytes.record()?;
            let replaced = if bytes.byte()? != 0 { Some(bytes.record()?) } else { None };
            Some(log::Entry { record, replaced })
        })?;
        Some(Self { epoch, last, durable, purged, terms, records, completions, tail })
    }
}

fn push_number(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn push_version(Version { epoch, seq }: Version, out: &mut Vec<u8>) {
    push_number(epoch.0, out);
    push_number(seq, out);
}

fn push_count(count: usize, out: &mut Vec<u8>) {
    let count = u32::try_from(count).expect("a slot's records, keys and values are far below 4 GiB");
    out.extend_from_slice(&count.to_be_bytes());
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    push_count(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// Appends the version; the operation; the identity, with an empty name if there is none; and, if so flagged, what the
/// client was told.
fn push_record(record: &Record, out: &mut Vec<u8>) {
    push_version(record.version(), out);
    let reply = record.reply();
    let has_reply = if reply.is_empty() { 0 } else { HAS_REPLY };
    let identity = match record.op() {
        Op::Write { key, effect, identity, .. } => {
            let kind = match effect {
                Effect::Put(_) => PUT,
                Effect::PutUntil(..) => PUT_UNTIL,
                Effect::Delete => DELETE,
                Effect::Expire => EXPIRE,
            };
            out.push(kind | has_reply);
            push_bytes(key, out);
            match effect {
                Effect::Put(value) => push_bytes(value, out),
                Effect::PutUntil(value, deadline) => {
                    push_bytes(value, out);
                    push_number(deadline.0, out);
                }
                Effect::Delete | Effect::Expire => {}
            }
            identity
        }
        Op::Multi { writes, identity, .. } => {
            out.push(MULTI | has_reply);
            push_bytes(writes.bytes(), out);
            identity
        }
        Op::Declined { identity, found, .. } => {
            out.push(DECLINED | has_reply);
            push_version(found, out);
            Some(identity)
        }
        Op::Barrier => {
            out.push(BARRIER);
            None
        }
    };
    push_bytes(identity.map_or(b"", |identity| identity.client), out);
    if let Some(identity) = identity {
        push_number(identity.seq, out);
    }
    if has_reply != 0 {
        push_bytes(reply, out);
    }
}

/// A byte slice that is read from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn version(&mut self) -> Option<Version> {
        Some(Version { epoch: Epoch(self.number()?), seq: self.number()? })
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u32::from_be_bytes(self.array()?)).ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Allocates nothing for elements that are announced but missing.
    fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut list = Vec::new();
        for _ in 0..self.count()? {
            list.push(read(self)?);
        }
        Some(list)
    }

    fn record(&mut self) -> Option<Record> {
        let version = self.version()?;
        let kind = self.byte()?;
        let has_reply = kind & HAS_REPLY != 0;
        match kind & !HAS_REPLY {
            kind @ (PUT | PUT_UNTIL | DELETE | EXPIRE) => {
                let key = self.bytes()?;
                let effect = match kind {
                    PUT => Effect::Put(self.bytes()?),
                    PUT_UNTIL => Effect::PutUntil(self.bytes()?, WallTime(self.number()?)),
                    DELETE => Effect::Delete,
                    _ => Effect::Expire,
                };
                let identity = self.identity()?;
                let reply = self.reply(has_reply)?;
                Some(Record::new(version, Op::Write { key, effect, identity, reply }))
            }
            MULTI => {
                let writes = Writes::read(self.bytes()?)?;
                let (identity, reply) = (self.identity()?, self.reply(has_reply)?);
                Some(Record::new(version, Op::Multi { writes, identity, reply }))
            }
            DECLINED => {
                let found = self.version()?;
                let (identity, reply) = (self.identity()??, self.reply(has_reply)?);
                Some(Record::new(version, Op::Declined { identity, found, reply }))
            }
            BARRIER => {
                self.identity()?;
                Some(Record::new(version, Op::Barrier))
            }
            _ => None,
        }
    }

    fn reply(&mut self, has_reply: bool) -> Option<&'a [u8]> {
        if has_reply { self.bytes().filter(|reply| reply.len() <= limits::REPLY_BYTES) } else { Some(b"") }
    }

    /// The outer `None`: the bytes are not an identity; the inner `None`: there is no identity.
    fn identity(&mut self) -> Option<Option<Identity<'a>>> {
        let client = self.bytes().filter(|client| client.len() <= limits::CLIENT_BYTES)?;
        if client.is_empty() {
            return Some(None);
        }
        Some(Some(Identity { client, seq: self.number()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(epoch: u64, seq: u64) -> Version {
        Version { epoch: Epoch(epoch), seq }
    }

    fn entries() -> Vec<Entry> {
        let slot = SlotId(77);
        let identity = Some(Identity { client: b"c\0", seq: 7 });
        let record = |op| Record::new(version(3, 9), op);
        let put = record(Op::Write { key: b"k", effect: Effect::Put(b"\r\n"), identity, reply: b"" });
        let delete = record(Op::Write { key: b"", effect: Effect::Delete, identity: None, reply: b"" });
        let declined = Op::Declined { identity: Identity { client: b"c", seq: 1 }, found: version(1, 2), reply: b"" };
        let reply = record(Op::Write { key: b"k", effect: Effect::Put(b"7"), identity, reply: b":7" });
        let put_until =
            record(Op::Write { key: b"k", effect: Effect::PutUntil(b"v", WallTime(77)), identity, reply: b"" });
        let expire = record(Op::Write { key: b"k", effect: Effect::Expire, identity: None, reply: b"" });
        let mut writes = Vec::new();
        Writes::push(b"k", Effect::Delete, &mut writes);
        Writes::push(b"l", Effect::PutUntil(b"v", WallTime(77)), &mut writes);
        let multi = record(Op::Multi { writes: Writes::known(&writes), identity, reply: b"+" });
        let whole = SlotSnapshot {
            epoch: Epoch(4),
            last: version(3, 9),
            durable: 8,
            purged: 2,
            terms: Terms(vec![Term { epoch: Epoch(1), first: 1 }, Term { epoch: Epoch(3), first: 5 }]),
            records: vec![put.clone(), delete.clone(), put_until.clone()],
            completions: vec![
                (b"c"[..].into(), 1, Completion { version: version(1, 3), found: None, reply: Some(b":7"[..].into()) }),
                (b"d"[..].into(), 2, Completion { version: version(1, 4), found: Some(version(1, 1)), reply: None }),
            ],
            tail: vec![
                log::Entry { record: put.clone(), replaced: Some(delete.clone()) },
                log::Entry { record: delete.clone(), replaced: None },
                log::Entry { record: multi.clone(), replaced: None },
            ],
        };
        vec![
            Entry::Loss(Loss { slot, record: put.clone(), common: version(2, 8), winner: Epoch(5) }),
            Entry::Record { slot, durable: 1, record: put },
            Entry::Record { slot, durable: 2, record: delete },
            Entry::Record { slot, durable: 3, record: record(declined) },
            Entry::Record { slot, durable: 4, record: record(Op::Barrier) },
            Entry::Record { slot, durable: 4, record: put_until },
            Entry::Record { slot, durable: 4, record: expire },
            Entry::Record { slot, durable: 4, record: reply },
            Entry::Record { slot, durable: 4, record: multi },
            Entry::Cut { slot, to: version(2, 1) },
            Entry::Whole { slot, whole },
            Entry::Unkept { writes: 3 },
            Entry::Drop { slot },
            Entry::Purge { slot, seq: 5 },
            Entry::Epoch { slot, epoch: Epoch(9) },
        ]
    }

    #[test]
    fn entries_read_back_as_written_and_no_part_of_one_is_one() {
        for entry in entries() {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            let mut reader = Reader(&bytes);
            let read = Entry::read(&mut reader).expect("an entry reads back");
            assert!(reader.is_empty());
            assert_eq!(format!("{read:?}"), format!("{entry:?}"));
            for end in 0..bytes.len() {
                assert!(Entry::read(&mut Reader(&bytes[..end])).is_none(), "{entry:?} cut at {end}");
            }
        }
    }
}
