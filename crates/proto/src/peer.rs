//! What nodes say to each other, all in the array encoding.
//!
//! Two kinds of connection, each opened by its first request, which is a [`Hello`]:
//!
//! - `PEER REPLICATION ...`, from a primary to one of its replicas: [`LinkMessage`] one way, [`LinkReply`] back.
//! - `PEER FORWARD ...`, from any node to a key's primary: [`Forward`] one way; back, for each, its number as a RESP
//!   integer and then the ordinary answer, in whatever order they are ready.
//!
//! `docs/protocol.md` shows each message as it looks on the wire.

use std::fmt;
use std::str::FromStr;

use crate::cluster_map::MapVersion;
use crate::error::ErrorReply;
use crate::frame::{Words, begin_array, push_word};
use crate::id::{Epoch, Incarnation, NodeAddr, NotACounter, Version};
use crate::level::{AckLevel, ReadLevel};
use crate::limits;
use crate::slot::SlotId;

/// What a connection between nodes is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A primary's records for a replica.
    Replication,
    /// Requests that another node leads.
    Forward,
}

/// The first words of a connection between nodes: `PEER kind cluster from-addr from-incarnation to-incarnation`.
/// The receiver answers `OK`, or `NOTPEER` where the cluster is another one or it is not that incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub kind: LinkKind,
    /// The sender's cluster.
    pub cluster: String,
    /// The sender's address.
    pub from_addr: NodeAddr,
    /// The sender's incarnation.
    pub from: Incarnation,
    /// Who the sender thinks it is talking to.
    pub to: Incarnation,
}

/// What a write does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The key has this value.
    Put(&'a [u8]),
    /// The key is absent.
    Delete,
}

/// Who wrote, and which of its writes this is: the same again is the same write. Both are the client's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity<'a> {
    /// The client's name for itself, of 1 to [`limits::CLIENT_BYTES`] bytes.
    pub client: &'a [u8],
    /// The number of the write. A client's numbers grow.
    pub seq: u64,
}

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
    /// The first record of a primary's term. It changes nothing; whoever has it has all that came before the term.
    Barrier,
}

/// A run of records of one primary: its epoch, and the number of its first record. A slot's terms, oldest first, say of
/// two copies up to where they agree. On the wire: `epoch:first,epoch:first`, or `-` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// The primary's epoch.
    pub epoch: Epoch,
    /// The number of the term's first record.
    pub first: u64,
}

/// The terms of a slot as one word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms(pub Vec<Term>);

/// From a primary to a replica of its slots. A replica counts every message except [`LinkMessage::Beat`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkMessage<'a> {
    /// `BEAT sent`: the sender asks for its lease anew. `sent` is a moment on its own clock, to be given back.
    Beat {
        /// When it was sent.
        sent: u64,
    },
    /// `ALIGN slot epoch config stamp from durable terms`: the sender leads the slot in this epoch, and the records after
    /// `from` follow. A replica that stands elsewhere cuts back to where both agree and answers [`LinkReply::Behind`].
    Align {
        /// The slot.
        slot: SlotId,
        /// The sender's epoch.
        epoch: Epoch,
        /// The version of the configuration that made the receiver a copy. It overrides older maps at the receiver.
        config: MapVersion,
        /// Names this alignment.
        stamp: u64,
        /// The last record that is not sent.
        from: Version,
        /// The number up to which the whole in-sync set has the records.
        durable: u64,
        /// The terms of the sender's log.
        terms: Terms,
    },
    /// `REPLICATE slot version previous durable [ONCE client seq] PUT key value`, `... DELETE key` or `... BARRIER`: the
    /// next record of the slot.
    Replicate {
        /// The slot.
        slot: SlotId,
        /// The record's place in the slot's order.
        version: Version,
        /// The place of the record before it.
        previous: Version,
        /// The number up to which the whole in-sync set has the records.
        durable: u64,
        /// What the record holds.
        op: Op<'a>,
    },
    /// `DURABLE slot seq`: the whole in-sync set has the records up to `seq`.
    Durable {
        /// The slot.
        slot: SlotId,
        /// The record's number.
        seq: u64,
    },
    /// `FILL slot epoch stamp last durable purged entries completions terms`: so many messages `ENTRY` and then `COMPLETED`
    /// follow, and are together all that the slot holds up to and with `last`.
    Fill {
        /// The slot.
        slot: SlotId,
        /// The sender's epoch.
        epoch: Epoch,
        /// Names this fill, as that of an alignment does.
        stamp: u64,
        /// The record up to which the copy is complete.
        last: Version,
        /// The number up to which the whole in-sync set has the records.
        durable: u64,
        /// The number up to which tombstones may be missing.
        purged: u64,
        /// How many `ENTRY` follow.
        entries: u64,
        /// How many `COMPLETED` follow.
        completions: u64,
        /// The terms of the sender's log.
        terms: Terms,
    },
    /// `ENTRY version PUT key value` or `ENTRY version DELETE key`: one key of a slot that is being filled.
    Entry {
        /// The version of the key.
        version: Version,
        /// The key.
        key: &'a [u8],
        /// Its value, or that it was deleted.
        effect: Effect<'a>,
    },
    /// `COMPLETED client seq version`: a client's write that has taken effect, of a slot that is being filled.
    Completed {
        /// Whose write.
        identity: Identity<'a>,
        /// The record that it made.
        version: Version,
    },
    /// `PURGE slot seq`: every copy has passed this record, tombstones up to it may go.
    Purge {
        /// The slot.
        slot: SlotId,
        /// The record's number.
        seq: u64,
    },
    /// `RELEASE slot epoch`: the sender has stopped to serve the slot and gives back every lease on it, until it aligns
    /// again.
    Release {
        /// The slot.
        slot: SlotId,
        /// The sender's epoch.
        epoch: Epoch,
    },
}

/// From a replica to its primary, on the connection that the primary opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkReply {
    /// `ACK count`: so many messages of this connection are applied, a fill with all its entries counted as one.
    Ack {
        /// How many, from the start of the connection.
        count: u64,
    },
    /// `LEASE sent`: the answer to a beat. The replica leads none of the slots in which it follows the primary for the
    /// time of a lease, whatever the coordinator says. Every [`LinkReply::Deposed`] that applies goes before it.
    Lease {
        /// The beat's own word.
        sent: u64,
    },
    /// `BEHIND slot epoch stamp last`: the replica stands at `last`, a record of the primary's, and lacks what follows.
    /// `-` in its place: it cannot cut back to where both agree, and must be filled.
    Behind {
        /// The slot.
        slot: SlotId,
        /// The epoch of the message that was refused.
        epoch: Epoch,
        /// The alignment that it answers.
        stamp: u64,
        /// Where the replica stands.
        last: Option<Version>,
    },
    /// `DEPOSED slot epoch`: the replica follows a primary of this higher epoch.
    Deposed {
        /// The slot.
        slot: SlotId,
        /// The higher epoch.
        epoch: Epoch,
    },
}

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

impl Hello {
    /// Appends the request that opens the connection.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            LinkKind::Replication => "REPLICATION",
            LinkKind::Forward => "FORWARD",
        };
        let (from, to) = (self.from.to_string(), self.to.to_string());
        words(&["PEER", kind, &self.cluster, self.from_addr.as_str(), &from, &to], out);
    }

    /// Reads the words after `PEER`.
    ///
    /// # Errors
    /// The words are wrong; nothing was done.
    pub fn parse(mut words: Words<'_>) -> Result<Self, ErrorReply> {
        let mut hello = || {
            let kind = match words.text()? {
                "REPLICATION" => LinkKind::Replication,
                "FORWARD" => LinkKind::Forward,
                _ => return None,
            };
            let cluster = words.text()?.to_owned();
            Some(Self { kind, cluster, from_addr: words.parse()?, from: words.parse()?, to: words.parse()? })
        };
        hello().filter(|_| words.is_empty()).ok_or(ErrorReply::InvalidFormat("PEER"))
    }
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

impl<'a> Identity<'a> {
    /// An identity of words from outside; none where the name is empty or over its limit, or the number is none.
    #[must_use]
    pub fn from_words(client: &'a [u8], seq: &[u8]) -> Option<Self> {
        let seq = std::str::from_utf8(seq).ok().and_then(|seq| crate::id::counter(seq).ok())?;
        (1..=limits::CLIENT_BYTES).contains(&client.len()).then_some(Self { client, seq })
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

impl<'a> LinkMessage<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text = |number: u64| number.to_string();
        match self {
            Self::Beat { sent } => words(&["BEAT", &text(*sent)], out),
            Self::Align { slot, epoch, config, stamp, from, durable, terms } => words(
                &[
                    "ALIGN",
                    &slot.0.to_string(),
                    &epoch.to_string(),
                    &text(config.0),
                    &text(*stamp),
                    &from.to_string(),
                    &text(*durable),
                    &terms.to_string(),
                ],
                out,
            ),
            Self::Replicate { slot, version, previous, durable, op } => {
                begin_array(5 + op_words(*op), out);
                push_word(b"REPLICATE", out);
                push_number_word(u64::from(slot.0), out);
                push_version(*version, out);
                push_version(*previous, out);
                push_number_word(*durable, out);
                push_op(*op, out);
            }
            Self::Durable { slot, seq } => words(&["DURABLE", &slot.0.to_string(), &text(*seq)], out),
            Self::Fill { slot, epoch, stamp, last, durable, purged, entries, completions, terms } => words(
                &[
                    "FILL",
                    &slot.0.to_string(),
                    &epoch.to_string(),
                    &text(*stamp),
                    &last.to_string(),
                    &text(*durable),
                    &text(*purged),
                    &text(*entries),
                    &text(*completions),
                    &terms.to_string(),
                ],
                out,
            ),
            Self::Entry { version, key, effect } => {
                begin_array(2 + effect_words(*effect), out);
                push_word(b"ENTRY", out);
                push_version(*version, out);
                push_effect(key, *effect, out);
            }
            Self::Completed { identity, version } => {
                let (seq, version) = (text(identity.seq), version.to_string());
                words(&[b"COMPLETED", identity.client, seq.as_bytes(), version.as_bytes()], out);
            }
            Self::Purge { slot, seq } => words(&["PURGE", &slot.0.to_string(), &text(*seq)], out),
            Self::Release { slot, epoch } => words(&["RELEASE", &slot.0.to_string(), &epoch.to_string()], out),
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are none of these messages; the connection is of no further use.
    pub fn parse(mut words: Words<'a>) -> Result<Self, ErrorReply> {
        let mut message = || {
            Some(match words.next()? {
                b"REPLICATE" => {
                    let (slot, version, previous) = (slot(&mut words)?, words.parse()?, words.parse()?);
                    let durable = counter(&mut words)?;
                    Self::Replicate { slot, version, previous, durable, op: read_op(&mut words)? }
                }
                b"BEAT" => Self::Beat { sent: counter(&mut words)? },
                b"DURABLE" => Self::Durable { slot: slot(&mut words)?, seq: counter(&mut words)? },
                b"ENTRY" => {
                    let version = words.parse()?;
                    let (key, effect) = read_effect(&mut words)?;
                    Self::Entry { version, key, effect }
                }
                b"COMPLETED" => {
                    let identity = Identity::from_words(words.next()?, words.next()?)?;
                    Self::Completed { identity, version: words.parse()? }
                }
                b"ALIGN" => Self::Align {
                    slot: slot(&mut words)?,
                    epoch: words.parse()?,
                    config: words.parse()?,
                    stamp: counter(&mut words)?,
                    from: words.parse()?,
                    durable: counter(&mut words)?,
                    terms: words.parse()?,
                },
                b"FILL" => Self::Fill {
                    slot: slot(&mut words)?,
                    epoch: words.parse()?,
                    stamp: counter(&mut words)?,
                    last: words.parse()?,
                    durable: counter(&mut words)?,
                    purged: counter(&mut words)?,
                    entries: counter(&mut words)?,
                    completions: counter(&mut words)?,
                    terms: words.parse()?,
                },
                b"PURGE" => Self::Purge { slot: slot(&mut words)?, seq: counter(&mut words)? },
                b"RELEASE" => Self::Release { slot: slot(&mut words)?, epoch: words.parse()? },
                _ => return None,
            })
        };
        message().filter(|_| words.is_empty()).ok_or(ErrorReply::Protocol("not a message from a primary"))
    }
}

impl LinkReply {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ack { count } => words(&["ACK", &count.to_string()], out),
            Self::Lease { sent } => words(&["LEASE", &sent.to_string()], out),
            Self::Behind { slot, epoch, stamp, last } => {
                let (slot, epoch) = (slot.0.to_string(), epoch.to_string());
                words(&["BEHIND", &slot, &epoch, &stamp.to_string(), &or_dash(*last)], out);
            }
            Self::Deposed { slot, epoch } => words(&["DEPOSED", &slot.0.to_string(), &epoch.to_string()], out),
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are none of these messages; the connection is of no further use.
    pub fn parse(mut words: Words<'_>) -> Result<Self, ErrorReply> {
        let mut message = || {
            Some(match words.next()? {
                b"ACK" => Self::Ack { count: words.parse()? },
                b"LEASE" => Self::Lease { sent: counter(&mut words)? },
                b"BEHIND" => Self::Behind {
                    slot: slot(&mut words)?,
                    epoch: words.parse()?,
                    stamp: counter(&mut words)?,
                    last: unless_dash(words.text()?)?,
                },
                b"DEPOSED" => Self::Deposed { slot: slot(&mut words)?, epoch: words.parse()? },
                _ => return None,
            })
        };
        message().filter(|_| words.is_empty()).ok_or(ErrorReply::Protocol("not a message from a replica"))
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (at, Term { epoch, first }) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{epoch}:{first}")?;
        }
        Ok(())
    }
}

impl FromStr for Terms {
    type Err = NotACounter;

    fn from_str(text: &str) -> Result<Self, NotACounter> {
        if text == "-" {
            return Ok(Self::default());
        }
        let term = |word: &str| {
            let (epoch, first) = word.split_once(':').ok_or(NotACounter)?;
            Ok(Term { epoch: epoch.parse()?, first: crate::id::counter(first)? })
        };
        text.split(',').map(term).collect::<Result<_, _>>().map(Self)
    }
}

pub(crate) fn words<W: AsRef<[u8]>>(list: &[W], out: &mut Vec<u8>) {
    crate::frame::encode_array(list, out);
}

pub(crate) fn slot(words: &mut Words<'_>) -> Option<SlotId> {
    words.parse().map(SlotId)
}

fn counter(words: &mut Words<'_>) -> Option<u64> {
    crate::id::counter(words.text()?).ok()
}

fn or_dash<T: ToString>(word: Option<T>) -> String {
    word.map_or("-".to_owned(), |word| word.to_string())
}

/// Reads what [`or_dash`] writes; the outer `None` is a word that is neither.
fn unless_dash<T: FromStr>(word: &str) -> Option<Option<T>> {
    if word == "-" { Some(None) } else { word.parse().ok().map(Some) }
}

fn push_number_word(number: u64, out: &mut Vec<u8>) {
    push_word(number.to_string().as_bytes(), out);
}

fn push_version(version: Version, out: &mut Vec<u8>) {
    push_word(version.to_string().as_bytes(), out);
}

fn op_words(op: Op<'_>) -> usize {
    match op {
        Op::Write { effect, identity, .. } => effect_words(effect) + if identity.is_some() { 3 } else { 0 },
        Op::Barrier => 1,
    }
}

fn push_op(op: Op<'_>, out: &mut Vec<u8>) {
    match op {
        Op::Write { key, effect, identity } => {
            if let Some(Identity { client, seq }) = identity {
                push_word(b"ONCE", out);
                push_word(client, out);
                push_number_word(seq, out);
            }
            push_effect(key, effect, out);
        }
        Op::Barrier => push_word(b"BARRIER", out),
    }
}

fn read_op<'a>(words: &mut Words<'a>) -> Option<Op<'a>> {
    let mut peek = *words;
    let identity = match peek.next()? {
        b"BARRIER" => {
            *words = peek;
            return Some(Op::Barrier);
        }
        b"ONCE" => {
            let identity = Identity::from_words(peek.next()?, peek.next()?)?;
            *words = peek;
            Some(identity)
        }
        _ => None,
    };
    let (key, effect) = read_effect(words)?;
    Some(Op::Write { key, effect, identity })
}

fn effect_words(effect: Effect<'_>) -> usize {
    match effect {
        Effect::Put(_) => 3,
        Effect::Delete => 2,
    }
}

fn push_effect(key: &[u8], effect: Effect<'_>, out: &mut Vec<u8>) {
    match effect {
        Effect::Put(value) => {
            push_word(b"PUT", out);
            push_word(key, out);
            push_word(value, out);
        }
        Effect::Delete => {
            push_word(b"DELETE", out);
            push_word(key, out);
        }
    }
}

fn read_effect<'a>(words: &mut Words<'a>) -> Option<(&'a [u8], Effect<'a>)> {
    match words.next()? {
        b"PUT" => Some((words.next()?, Effect::Put(words.next()?))),
        b"DELETE" => Some((words.next()?, Effect::Delete)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::frame::{Frame, FrameDecoder};

    pub(crate) fn with_words<T>(bytes: &[u8], read: impl FnOnce(Words<'_>) -> T) -> T {
        let mut decoder = FrameDecoder::new();
        match decoder.decode(bytes).unwrap().unwrap() {
            (Frame::Array(words), consumed) if consumed == bytes.len() => read(words),
            _ => panic!("not one array"),
        }
    }

    fn version(epoch: u64, seq: u64) -> Version {
        Version { epoch: Epoch(epoch), seq }
    }

    #[test]
    fn link_messages_read_back_as_written() {
        let (slot, epoch, last) = (SlotId(77), Epoch(3), version(2, 9));
        let terms = Terms(vec![Term { epoch: Epoch(1), first: 1 }, Term { epoch: Epoch(2), first: 8 }]);
        let identity = Identity { client: b"c\0", seq: 7 };
        let replicate = |op| LinkMessage::Replicate { slot, version: version(3, 10), previous: last, durable: 8, op };
        let write = |effect, identity| replicate(Op::Write { key: b"k", effect, identity });
        for message in [
            LinkMessage::Beat { sent: 12 },
            LinkMessage::Align {
                slot,
                epoch,
                config: MapVersion(8),
                stamp: 4,
                from: Version::NONE,
                durable: 7,
                terms: Terms::default(),
            },
            write(Effect::Put(b""), None),
            write(Effect::Delete, Some(identity)),
            replicate(Op::Barrier),
            LinkMessage::Durable { slot, seq: 9 },
            LinkMessage::Fill { slot, epoch, stamp: 4, last, durable: 9, purged: 3, entries: 2, completions: 1, terms },
            LinkMessage::Entry { version: last, key: b"\0\n", effect: Effect::Put(b"\r\n") },
            LinkMessage::Completed { identity, version: last },
            LinkMessage::Purge { slot, seq: 9 },
            LinkMessage::Release { slot, epoch },
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(LinkMessage::parse(words), Ok(message)));
        }
        for reply in [
            LinkReply::Ack { count: 5 },
            LinkReply::Lease { sent: 12 },
            LinkReply::Behind { slot, epoch, stamp: 4, last: Some(last) },
            LinkReply::Behind { slot, epoch, stamp: 4, last: None },
            LinkReply::Deposed { slot, epoch },
        ] {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(LinkReply::parse(words), Ok(reply)));
        }
    }

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

    #[test]
    fn openings_read_back_as_written_and_wrong_ones_are_refused() {
        let addr = NodeAddr::new("h", 1).unwrap();
        let hello = Hello {
            kind: LinkKind::Forward,
            cluster: "c".into(),
            from_addr: addr.clone(),
            from: Incarnation(1),
            to: Incarnation(2),
        };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        with_words(&bytes, |mut words| {
            words.next();
            assert_eq!(Hello::parse(words), Ok(hello));
            words.next();
            assert_eq!(Hello::parse(words), Err(ErrorReply::InvalidFormat("PEER")));
        });
    }
}
