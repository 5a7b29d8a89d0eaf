//! What nodes say to each other, all in the array encoding.
//!
//! Two kinds of connection, each opened by its first request, which is a [`Hello`]:
//!
//! - `PEER REPLICATION ...`, from a primary to one of its replicas: [`LinkMessage`] one way, [`LinkReply`] back.
//! - `PEER FORWARD ...`, from any node to a key's primary: [`Forward`] one way, ordinary answers back, in order.
//!
//! `docs/protocol.md` shows each message as it looks on the wire.

use crate::cluster_map::MapVersion;
use crate::error::ErrorReply;
use crate::frame::{Words, begin_array, push_word};
use crate::id::{Epoch, Incarnation, NodeAddr, Version};
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

/// What a record does to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<'a> {
    /// The key has this value.
    Put(&'a [u8]),
    /// The key is absent.
    Delete,
}

/// From a primary to a replica of its slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMessage<'a> {
    /// `ALIGN slot epoch config last`: the sender leads the slot in this epoch, and its last record is `last`. A
    /// replica that stands elsewhere answers [`LinkReply::Behind`].
    Align {
        /// The slot.
        slot: SlotId,
        /// The sender's epoch.
        epoch: Epoch,
        /// The version of the configuration that made the receiver a copy. It overrides older maps at the receiver.
        config: MapVersion,
        /// The sender's last record.
        last: Version,
    },
    /// `REPLICATE slot version previous PUT key value` or `... DELETE key`: the next record of the slot.
    Replicate {
        /// The slot.
        slot: SlotId,
        /// The record's place in the slot's order.
        version: Version,
        /// The place of the record before it.
        previous: Version,
        /// The key.
        key: &'a [u8],
        /// What becomes of it.
        effect: Effect<'a>,
    },
    /// `FILL slot epoch last count`: `count` messages `ENTRY` follow and are, together, all that the slot holds up to
    /// and with `last`.
    Fill {
        /// The slot.
        slot: SlotId,
        /// The sender's epoch.
        epoch: Epoch,
        /// The record up to which the copy is complete.
        last: Version,
        /// How many entries follow.
        count: u64,
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
    /// `PURGE slot seq`: every copy has passed this record, tombstones up to it may go.
    Purge {
        /// The slot.
        slot: SlotId,
        /// The record's number.
        seq: u64,
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
    /// `BEHIND slot epoch`: the replica lacks records before the last one sent, and must be filled.
    Behind {
        /// The slot.
        slot: SlotId,
        /// The epoch of the message that was refused.
        epoch: Epoch,
    },
    /// `DEPOSED slot epoch`: the replica follows a primary of this higher epoch.
    Deposed {
        /// The slot.
        slot: SlotId,
        /// The higher epoch.
        epoch: Epoch,
    },
}

/// A request of a client that another node received: `FORWARD PRIMARY|REPLICA GET key`, `... PUT key value`,
/// `... DELETE key`. It is answered at once, with [`ErrorReply::Moved`] where this node cannot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward<'a> {
    /// Whether a replica may answer (reads only), because the primary does not.
    pub at_replica: bool,
    /// What to do.
    pub request: KeyRequest<'a>,
}

/// A client's request for one key, whichever way it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRequest<'a> {
    /// Read.
    Get {
        /// The key.
        key: &'a [u8],
    },
    /// Write, so that the effect holds.
    Write {
        /// The key.
        key: &'a [u8],
        /// The effect.
        effect: Effect<'a>,
    },
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
            Self::Get { key } | Self::Write { key, .. } => key,
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

impl<'a> Forward<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let place = if self.at_replica { "REPLICA" } else { "PRIMARY" };
        match self.request {
            KeyRequest::Get { key } => words(&[b"FORWARD", place.as_bytes(), b"GET", key], out),
            KeyRequest::Write { key, effect } => {
                begin_array(2 + effect_words(effect), out);
                push_word(b"FORWARD", out);
                push_word(place.as_bytes(), out);
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
            let at_replica = match words.next()? {
                b"REPLICA" => true,
                b"PRIMARY" => false,
                _ => return None,
            };
            let mut peek = words;
            let request = if peek.next()? == b"GET" {
                let key = peek.next()?;
                words = peek;
                KeyRequest::Get { key }
            } else {
                let (key, effect) = read_effect(&mut words)?;
                KeyRequest::Write { key, effect }
            };
            Some(Self { at_replica, request })
        };
        forward().filter(|_| words.is_empty()).ok_or(ErrorReply::InvalidFormat("FORWARD"))
    }
}

impl<'a> LinkMessage<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Align { slot, epoch, config, last } => {
                let (slot, epoch) = (slot.0.to_string(), epoch.to_string());
                words(&["ALIGN", &slot, &epoch, &config.0.to_string(), &last.to_string()], out);
            }
            Self::Replicate { slot, version, previous, key, effect } => {
                begin_array(4 + effect_words(effect), out);
                push_word(b"REPLICATE", out);
                push_word(slot.0.to_string().as_bytes(), out);
                push_word(version.to_string().as_bytes(), out);
                push_word(previous.to_string().as_bytes(), out);
                push_effect(key, effect, out);
            }
            Self::Fill { slot, epoch, last, count } => {
                let (slot, epoch, last) = (slot.0.to_string(), epoch.to_string(), last.to_string());
                words(&["FILL", &slot, &epoch, &last, &count.to_string()], out);
            }
            Self::Entry { version, key, effect } => {
                begin_array(2 + effect_words(effect), out);
                push_word(b"ENTRY", out);
                push_word(version.to_string().as_bytes(), out);
                push_effect(key, effect, out);
            }
            Self::Purge { slot, seq } => words(&["PURGE", &slot.0.to_string(), &seq.to_string()], out),
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
                    let (key, effect) = read_effect(&mut words)?;
                    Self::Replicate { slot, version, previous, key, effect }
                }
                b"ENTRY" => {
                    let version = words.parse()?;
                    let (key, effect) = read_effect(&mut words)?;
                    Self::Entry { version, key, effect }
                }
                b"ALIGN" => Self::Align {
                    slot: slot(&mut words)?,
                    epoch: words.parse()?,
                    config: words.parse()?,
                    last: words.parse()?,
                },
                b"FILL" => Self::Fill {
                    slot: slot(&mut words)?,
                    epoch: words.parse()?,
                    last: words.parse()?,
                    count: words.parse()?,
                },
                b"PURGE" => Self::Purge { slot: slot(&mut words)?, seq: crate::id::counter(words.text()?).ok()? },
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
            Self::Behind { slot, epoch } => words(&["BEHIND", &slot.0.to_string(), &epoch.to_string()], out),
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
                b"BEHIND" => Self::Behind { slot: slot(&mut words)?, epoch: words.parse()? },
                b"DEPOSED" => Self::Deposed { slot: slot(&mut words)?, epoch: words.parse()? },
                _ => return None,
            })
        };
        message().filter(|_| words.is_empty()).ok_or(ErrorReply::Protocol("not a message from a replica"))
    }
}

pub(crate) fn words<W: AsRef<[u8]>>(list: &[W], out: &mut Vec<u8>) {
    crate::frame::encode_array(list, out);
}

pub(crate) fn slot(words: &mut Words<'_>) -> Option<SlotId> {
    words.parse().map(SlotId)
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
        for message in [
            LinkMessage::Align { slot, epoch, config: MapVersion(8), last },
            LinkMessage::Replicate {
                slot,
                version: version(3, 10),
                previous: last,
                key: b"k",
                effect: Effect::Put(b""),
            },
            LinkMessage::Replicate { slot, version: version(3, 10), previous: last, key: b"k", effect: Effect::Delete },
            LinkMessage::Fill { slot, epoch, last, count: 2 },
            LinkMessage::Entry { version: last, key: b"\0\n", effect: Effect::Put(b"\r\n") },
            LinkMessage::Purge { slot, seq: 9 },
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(LinkMessage::parse(words), Ok(message)));
        }
        for reply in
            [LinkReply::Ack { count: 5 }, LinkReply::Behind { slot, epoch }, LinkReply::Deposed { slot, epoch }]
        {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(LinkReply::parse(words), Ok(reply)));
        }
    }

    #[test]
    fn forwarded_requests_read_back_as_written() {
        for request in [
            KeyRequest::Get { key: b"GET" },
            KeyRequest::Write { key: b"k", effect: Effect::Put(b"v w") },
            KeyRequest::Write { key: b"k", effect: Effect::Delete },
        ] {
            for at_replica in [false, true] {
                let forward = Forward { at_replica, request };
                let mut bytes = Vec::new();
                forward.encode(&mut bytes);
                with_words(&bytes, |words| assert_eq!(Forward::parse(words), Ok(forward)));
            }
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
