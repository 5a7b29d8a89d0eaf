//! A connection for replication: records from a primary to its replica, and the replica's progress back.

use std::fmt;
use std::str::FromStr;

use super::record::{Head, Op, push_version, reply};
use super::{Effect, Identity, counter, or_dash, slot, unless_dash};
use crate::cluster_map::MapVersion;
use crate::error::ErrorReply;
use crate::frame::{Words, begin_array, encode_array, push_word};
use crate::id::{Epoch, NotACounter, Version};
use crate::slot::SlotId;

/// From a primary to a replica of its slots. A replica counts every message except [`LinkMessage::Beat`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkMessage<'a> {
    /// `BEAT sent`: the sender asks to renew its lease. `sent` is a time on its own clock, to be sent back.
    Beat {
        /// When it was sent.
        sent: u64,
    },
    /// `ALIGN slot epoch config stamp from durable terms`: the sender leads the slot in this epoch, and the records
    /// after `from` follow. A replica at another position truncates its copy to where both agree and answers
    /// [`LinkReply::Behind`].
    Align {
        /// The slot.
        slot: SlotId,
        /// The sender's epoch.
        epoch: Epoch,
        /// The version of the configuration that made the receiver a copy. It overrides older maps at the receiver.
        config: MapVersion,
        /// Identifies this alignment.
        stamp: u64,
        /// The last record that is not sent.
        from: Version,
        /// The number up to which the whole in-sync set has the records.
        durable: u64,
        /// The terms of the sender's log.
        terms: Terms,
        /// `REFILL` instead of `ALIGN`: the receiver's copy differs from the sender's, whatever its position. The
        /// receiver keeps the copy and waits for the fill that replaces it.
        refill: bool,
    },
    /// `COMPARE slot query at floor`: asks for the digest of the copy at the record `at`. The digest covers all records
    /// of the table except tombstones up to `floor`.
    Compare {
        /// The slot.
        slot: SlotId,
        /// Identifies the question.
        query: u64,
        /// The last record.
        at: Version,
        /// The number up to which tombstones may be missing.
        floor: u64,
    },
    /// `REPLICATE head ...`: the next record of the slot. The head is one word of 43 bytes with big-endian numbers: the
    /// kind of operation, and all fields except `op`. After it come `key value` for a put, `key value deadline` for one
    /// that expires, `key` for a delete or an expiry, [`Writes`](super::Writes) for several keys; then `client seq` if
    /// the write has an identity, and what its client was told if that does not follow from the rest. A declined write
    /// has `found client seq` and the same; a barrier has nothing.
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
    /// `DURABLE slot seq`: the whole in-sync set has the records up to `seq`. Sent when no later record would convey
    /// it.
    Durable {
        /// The slot.
        slot: SlotId,
        /// The record's number.
        seq: u64,
    },
    /// `FILL slot epoch stamp last durable purged entries completions terms`: `entries` messages `ENTRY` and then
    /// `completions` messages `COMPLETED` follow. Together they are all that the slot holds up to and including `last`.
    Fill {
        /// The slot.
        slot: SlotId,
        /// The sender's epoch.
        epoch: Epoch,
        /// Identifies this fill, like the stamp of an alignment.
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
    /// `ENTRY version PUT key value`, `... PUTUNTIL key value deadline`, `... DELETE key` or `... EXPIRED key`: one key
    /// of a slot that is being filled.
    Entry {
        /// The version of the key.
        version: Version,
        /// The key.
        key: &'a [u8],
        /// Its value, or its absence.
        effect: Effect<'a>,
    },
    /// `COMPLETED client seq version found`, then `told` if there is one: a client's write with a settled outcome, in a
    /// slot that is being filled.
    Completed {
        /// The identity of the write.
        identity: Identity<'a>,
        /// The record that it made.
        version: Version,
        /// If its condition did not hold, the version of the key; `-` on the wire if it took effect.
        found: Option<Version>,
        /// What the client was told, as in [`Op::Write`].
        reply: &'a [u8],
    },
    /// `PURGE slot seq`: every copy is past this record, so tombstones up to it may be dropped.
    Purge {
        /// The slot.
        slot: SlotId,
        /// The record's number.
        seq: u64,
    },
    /// `RELEASE slot epoch`: the sender has stopped serving the slot and gives back every lease on it until it aligns
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
    /// `ACK count`: this many messages of the connection are applied; a fill with all its entries counts as one.
    Ack {
        /// How many, from the start of the connection.
        count: u64,
    },
    /// `LEASE sent`: the answer to a beat. For the duration of a lease, the replica leads none of the slots in which it
    /// follows this primary, whatever the coordinator says. Every [`LinkReply::Deposed`] that applies is sent before
    /// it.
    Lease {
        /// The `sent` of the beat.
        sent: u64,
    },
    /// `MEMORY over`: how many bytes the replica's node is over its memory limit, as far as this primary must act on
    /// it; 0 if it is not. Follows every `LEASE` of a node that has such a limit.
    Memory {
        /// The number of bytes.
        over: u64,
    },
    /// `BEHIND slot epoch stamp last`: the replica is at `last`, a record that the primary has, and lacks what follows.
    /// `-` in its place: the replica cannot truncate its copy to where both agree, and must be filled.
    Behind {
        /// The slot.
        slot: SlotId,
        /// The epoch of the message that was refused.
        epoch: Epoch,
        /// The alignment that this answers.
        stamp: u64,
        /// The replica's position.
        last: Option<Version>,
    },
    /// `COMPARED slot query digest`: the answer to a [`LinkMessage::Compare`]. It may come at any time after the
    /// acknowledgement.
    Compared {
        /// The slot.
        slot: SlotId,
        /// The question.
        query: u64,
        /// The answer to it.
        compared: Compared,
    },
    /// `DEPOSED slot epoch`: the replica follows a primary of this higher epoch.
    Deposed {
        /// The slot.
        slot: SlotId,
        /// The higher epoch.
        epoch: Epoch,
    },
}

/// What a replica reports about its copy at a record. One word on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// 32 hexadecimal digits: the copy's digest.
    Digest(u128),
    /// `ELSEWHERE`: the copy is not at that record of the sender's.
    Elsewhere,
    /// `PURGED:n`: tombstones up to this number are gone. Ask again, without them.
    Purged(u64),
}

/// A run of records of one primary: its epoch, and the number of its first record. The terms of two copies of a slot,
/// oldest first, tell up to where the copies agree. On the wire: `epoch:first,epoch:first`, or `-` for none.
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

impl<'a> LinkMessage<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let text = |number: u64| number.to_string();
        match self {
            Self::Beat { sent } => encode_array(&["BEAT", &text(*sent)], out),
            Self::Align { slot, epoch, config, stamp, from, durable, terms, refill } => encode_array(
                &[
                    if *refill { "REFILL" } else { "ALIGN" },
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
            Self::Compare { slot, query, at, floor } => {
                encode_array(&["COMPARE", &slot.0.to_string(), &text(*query), &at.to_string(), &text(*floor)], out);
            }
            Self::Replicate { slot, version, previous, durable, op } => {
                let (slot, version, previous, durable) = (*slot, *version, *previous, *durable);
                Head { kind: op.kind(), slot, version, previous, durable }.begin_replicate(op.words(), out);
                op.push(out);
            }
            Self::Durable { slot, seq } => encode_array(&["DURABLE", &slot.0.to_string(), &text(*seq)], out),
            Self::Fill { slot, epoch, stamp, last, durable, purged, entries, completions, terms } => encode_array(
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
                begin_array(2 + effect.named_words(), out);
                push_word(b"ENTRY", out);
                push_version(*version, out);
                effect.push_named(key, out);
            }
            Self::Completed { identity, version, found, reply } => {
                let (seq, version, found) = (text(identity.seq), version.to_string(), or_dash(*found));
                let list =
                    [&b"COMPLETED"[..], identity.client, seq.as_bytes(), version.as_bytes(), found.as_bytes(), reply];
                encode_array(list.get(..if reply.is_empty() { 5 } else { 6 }).unwrap_or_default(), out);
            }
            Self::Purge { slot, seq } => encode_array(&["PURGE", &slot.0.to_string(), &text(*seq)], out),
            Self::Release { slot, epoch } => encode_array(&["RELEASE", &slot.0.to_string(), &epoch.to_string()], out),
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are not one of these messages; the connection is unusable from here on.
    pub fn parse(mut words: Words<'a>) -> Result<Self, ErrorReply> {
        let message = match words.next() {
            // Nearly every message is a record.
            Some(b"REPLICATE") => Self::parse_record(&mut words),
            Some(verb) => Self::parse_other(verb, &mut words),
            None => None,
        };
        message.filter(|_| words.is_empty()).ok_or(ErrorReply::Protocol("not a message from a primary"))
    }

    /// Reads a `REPLICATE` after its verb.
    fn parse_record(words: &mut Words<'a>) -> Option<Self> {
        let Head { kind, slot, version, previous, durable } = Head::from_bytes(words.next()?)?;
        Some(Self::Replicate { slot, version, previous, durable, op: Op::read(kind, words)? })
    }

    /// Reads any other message after its verb.
    fn parse_other(verb: &[u8], words: &mut Words<'a>) -> Option<Self> {
        Some(match verb {
            b"BEAT" => Self::Beat { sent: counter(words)? },
            b"DURABLE" => Self::Durable { slot: slot(words)?, seq: counter(words)? },
            b"ENTRY" => {
                let version = words.parse()?;
                let (key, effect) = Effect::read_named(words)?;
                Self::Entry { version, key, effect }
            }
            b"COMPLETED" => {
                let identity = Identity::from_words(words.next()?, words.next()?)?;
                let version = words.parse()?;
                let found = unless_dash(words.text()?)?;
                Self::Completed { identity, version, found, reply: reply(words)? }
            }
            b"COMPARE" => {
                Self::Compare { slot: slot(words)?, query: counter(words)?, at: words.parse()?, floor: counter(words)? }
            }
            b"ALIGN" | b"REFILL" => Self::Align {
                slot: slot(words)?,
                epoch: words.parse()?,
                config: words.parse()?,
                stamp: counter(words)?,
                from: words.parse()?,
                durable: counter(words)?,
                terms: words.parse()?,
                refill: verb == b"REFILL",
            },
            b"FILL" => Self::Fill {
                slot: slot(words)?,
                epoch: words.parse()?,
                stamp: counter(words)?,
                last: words.parse()?,
                durable: counter(words)?,
                purged: counter(words)?,
                entries: counter(words)?,
                completions: counter(words)?,
                terms: words.parse()?,
            },
            b"PURGE" => Self::Purge { slot: slot(words)?, seq: counter(words)? },
            b"RELEASE" => Self::Release { slot: slot(words)?, epoch: words.parse()? },
            _ => return None,
        })
    }
}

impl LinkReply {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ack { count } => encode_array(&["ACK", &count.to_string()], out),
            Self::Lease { sent } => encode_array(&["LEASE", &sent.to_string()], out),
            Self::Memory { over } => encode_array(&["MEMORY", &over.to_string()], out),
            Self::Behind { slot, epoch, stamp, last } => {
                let (slot, epoch) = (slot.0.to_string(), epoch.to_string());
                encode_array(&["BEHIND", &slot, &epoch, &stamp.to_string(), &or_dash(*last)], out);
            }
            Self::Compared { slot, query, compared } => {
                let compared = match compared {
                    Compared::Digest(digest) => format!("{digest:032x}"),
                    Compared::Elsewhere => "ELSEWHERE".to_owned(),
                    Compared::Purged(seq) => format!("PURGED:{seq}"),
                };
                encode_array(&["COMPARED", &slot.0.to_string(), &query.to_string(), &compared], out);
            }
            Self::Deposed { slot, epoch } => encode_array(&["DEPOSED", &slot.0.to_string(), &epoch.to_string()], out),
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are not one of these messages; the connection is unusable from here on.
    pub fn parse(mut words: Words<'_>) -> Result<Self, ErrorReply> {
        let mut message = || {
            Some(match words.next()? {
                b"ACK" => Self::Ack { count: words.parse()? },
                b"LEASE" => Self::Lease { sent: counter(&mut words)? },
                b"MEMORY" => Self::Memory { over: counter(&mut words)? },
                b"BEHIND" => Self::Behind {
                    slot: slot(&mut words)?,
                    epoch: words.parse()?,
                    stamp: counter(&mut words)?,
                    last: unless_dash(words.text()?)?,
                },
                b"COMPARED" => {
                    let (slot, query) = (slot(&mut words)?, counter(&mut words)?);
                    let compared = match words.text()? {
                        "ELSEWHERE" => Compared::Elsewhere,
                        word => match word.strip_prefix("PURGED:") {
                            Some(seq) => Compared::Purged(crate::id::counter(seq).ok()?),
                            None if word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                                Compared::Digest(u128::from_str_radix(word, 16).ok()?)
                            }
                            None => return None,
                        },
                    };
                    Self::Compared { slot, query, compared }
                }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Writes;
    use crate::peer::tests::{version, with_words};

    #[test]
    fn link_messages_read_back_as_written() {
        let (slot, epoch, last) = (SlotId(77), Epoch(3), version(2, 9));
        let terms = Terms(vec![Term { epoch: Epoch(1), first: 1 }, Term { epoch: Epoch(2), first: 8 }]);
        let identity = Identity { client: b"c\0", seq: 7 };
        let replicate = |op| LinkMessage::Replicate { slot, version: version(3, 10), previous: last, durable: 8, op };
        let write = |effect, identity| replicate(Op::Write { key: b"k", effect, identity, reply: b"" });
        let mut bytes = Vec::new();
        Writes::push(b"k", Effect::Put(b"v"), &mut bytes);
        Writes::push(b"l", Effect::Delete, &mut bytes);
        let writes = Writes::known(&bytes);
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
                refill: false,
            },
            LinkMessage::Align {
                slot,
                epoch,
                config: MapVersion(8),
                stamp: 4,
                from: last,
                durable: 7,
                terms: terms.clone(),
                refill: true,
            },
            LinkMessage::Compare { slot, query: 3, at: last, floor: 2 },
            write(Effect::Put(b""), None),
            write(Effect::Delete, Some(identity)),
            replicate(Op::Declined { identity, found: Version::NONE, reply: b"" }),
            replicate(Op::Write { key: b"k", effect: Effect::Put(b"5"), identity: Some(identity), reply: b":5" }),
            replicate(Op::Declined { identity, found: last, reply: b"_" }),
            replicate(Op::Multi { writes, identity: None, reply: b"" }),
            replicate(Op::Multi { writes, identity: Some(identity), reply: b"+" }),
            LinkMessage::Completed { identity, version: last, found: Some(version(1, 2)), reply: b"$\r\n" },
            replicate(Op::Barrier),
            LinkMessage::Durable { slot, seq: 9 },
            LinkMessage::Fill { slot, epoch, stamp: 4, last, durable: 9, purged: 3, entries: 2, completions: 1, terms },
            LinkMessage::Entry { version: last, key: b"\0\n", effect: Effect::Put(b"\r\n") },
            LinkMessage::Completed { identity, version: last, found: None, reply: b"" },
            LinkMessage::Completed { identity, version: last, found: Some(version(1, 2)), reply: b"" },
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
            LinkReply::Memory { over: 7 },
            LinkReply::Behind { slot, epoch, stamp: 4, last: Some(last) },
            LinkReply::Behind { slot, epoch, stamp: 4, last: None },
            LinkReply::Deposed { slot, epoch },
            LinkReply::Compared { slot, query: 3, compared: Compared::Digest(1) },
            LinkReply::Compared { slot, query: 3, compared: Compared::Digest(u128::MAX) },
            LinkReply::Compared { slot, query: 3, compared: Compared::Elsewhere },
            LinkReply::Compared { slot, query: 3, compared: Compared::Purged(9) },
        ] {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(LinkReply::parse(words), Ok(reply)));
        }
    }
}
