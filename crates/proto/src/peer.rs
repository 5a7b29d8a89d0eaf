//! What the programs of one cluster say to each other, all in the array encoding.
//!
//! Three kinds of connection, each opened by its first request:
//!
//! - `PEER REPLICATION ...`, from a primary to one of its replicas: [`LinkMessage`] one way, [`LinkReply`] back.
//! - `PEER FORWARD ...`, from any node to a key's primary: [`Forward`] one way, ordinary answers back, in order.
//! - `JOIN ...`, from a node to the coordinator, kept open: [`NodeMessage`] one way, [`CoordinatorMessage`] back.
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

/// A slot together with the version of the configuration that a proposal starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotAt {
    /// The slot.
    pub slot: SlotId,
    /// The version of its configuration, as the proposer knows it.
    pub version: MapVersion,
}

/// The first words of a node's session with the coordinator: `JOIN addr incarnation map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join<'a> {
    /// Where the node is reached.
    pub addr: NodeAddr,
    /// The incarnation that the node has been given; none on its first join.
    pub incarnation: Option<Incarnation>,
    /// The map that the node holds, as text; empty where it holds none.
    pub map: &'a str,
}

/// From a node to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeMessage {
    /// `HEARTBEAT incarnation`: the node is alive.
    Heartbeat {
        /// The sender.
        incarnation: Incarnation,
    },
    /// `ADMIT follower (slot version)...`: the learner is filled; it may join the in-sync set of these slots.
    Admit {
        /// The learner.
        follower: Incarnation,
        /// The slots.
        slots: Vec<SlotAt>,
    },
    /// `EXPEL follower (slot version)...`: the replica has missed records of these slots and must be filled again.
    Expel {
        /// The replica.
        follower: Incarnation,
        /// The slots.
        slots: Vec<SlotAt>,
    },
    /// `RELEASE to (slot version)...`: the sender has stopped taking writes to these slots, and `to` has all of them.
    Release {
        /// The next primary.
        to: Incarnation,
        /// The slots.
        slots: Vec<SlotAt>,
    },
    /// `POSITIONS query (slot last)...`: the answer to [`CoordinatorMessage::AskPositions`].
    Positions {
        /// The number of the question.
        query: u64,
        /// The last record of each slot asked about.
        last: Vec<(SlotId, Version)>,
    },
    /// `RESYNC`: a change of the map did not follow on the one held; send the whole map.
    Resync,
    /// `LEAVE`: the node is stopping and expects to be started again.
    Leave,
}

/// From the coordinator to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoordinatorMessage<'a> {
    /// `JOINED incarnation text`: the node is registered; `text` is for people.
    Joined {
        /// The node's incarnation.
        incarnation: Incarnation,
        /// `OK Node ... registered` or `WARNING Node ... already registered`.
        text: &'a str,
    },
    /// `BEAT`: the answer to a heartbeat.
    Beat,
    /// `MAP text`: the map has changed.
    Map {
        /// A [`crate::cluster_map::MapUpdate`] as text, lines parted by newlines.
        text: &'a str,
    },
    /// `HANDOVER to (slot version)...`: bring `to` level in these slots, stop taking writes, and release them.
    HandOver {
        /// The next primary.
        to: Incarnation,
        /// The slots.
        slots: Vec<SlotAt>,
    },
    /// `POSITIONS query slot...`: how far does the node stand in these slots?
    AskPositions {
        /// The number of the question.
        query: u64,
        /// The slots.
        slots: Vec<SlotId>,
    },
    /// `LEFT`: the node's leave is done.
    Left,
    /// `UNREGISTERED`: somebody has taken the node off the ring; it stays out until it is started again.
    Unregistered,
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
                    config: MapVersion(words.parse()?),
                    last: words.parse()?,
                },
                b"FILL" => Self::Fill {
                    slot: slot(&mut words)?,
                    epoch: words.parse()?,
                    last: words.parse()?,
                    count: words.parse()?,
                },
                b"PURGE" => Self::Purge { slot: slot(&mut words)?, seq: words.parse()? },
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

impl<'a> Join<'a> {
    /// Appends the request that opens the session.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let incarnation = self.incarnation.unwrap_or_default().to_string();
        words(&["JOIN", self.addr.as_str(), &incarnation, self.map], out);
    }

    /// Reads the words after `JOIN`.
    ///
    /// # Errors
    /// The words are wrong; nothing was done.
    pub fn parse(mut words: Words<'a>) -> Result<Self, ErrorReply> {
        let mut join = || {
            let addr = words.parse()?;
            let incarnation = Some(words.parse()?).filter(|given| *given != Incarnation::default());
            Some(Self { addr, incarnation, map: words.text()? })
        };
        join().filter(|_| words.is_empty()).ok_or(ErrorReply::InvalidFormat("JOIN"))
    }
}

impl NodeMessage {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Heartbeat { incarnation } => words(&["HEARTBEAT", &incarnation.to_string()], out),
            Self::Admit { follower, slots } => slots_at("ADMIT", *follower, slots, out),
            Self::Expel { follower, slots } => slots_at("EXPEL", *follower, slots, out),
            Self::Release { to, slots } => slots_at("RELEASE", *to, slots, out),
            Self::Positions { query, last } => {
                begin_array(2 + 2 * last.len(), out);
                push_word(b"POSITIONS", out);
                push_word(query.to_string().as_bytes(), out);
                for (slot, version) in last {
                    push_word(slot.0.to_string().as_bytes(), out);
                    push_word(version.to_string().as_bytes(), out);
                }
            }
            Self::Resync => words(&["RESYNC"], out),
            Self::Leave => words(&["LEAVE"], out),
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are none of these messages; the session is of no further use.
    pub fn parse(mut words: Words<'_>) -> Result<Self, ErrorReply> {
        let mut message = || {
            Some(match words.next()? {
                b"HEARTBEAT" => Self::Heartbeat { incarnation: words.parse()? },
                b"ADMIT" => Self::Admit { follower: words.parse()?, slots: read_slots_at(&mut words)? },
                b"EXPEL" => Self::Expel { follower: words.parse()?, slots: read_slots_at(&mut words)? },
                b"RELEASE" => Self::Release { to: words.parse()?, slots: read_slots_at(&mut words)? },
                b"POSITIONS" => {
                    let query = words.parse()?;
                    let mut last = Vec::with_capacity(words.len() / 2);
                    while !words.is_empty() {
                        last.push((slot(&mut words)?, words.parse()?));
                    }
                    Self::Positions { query, last }
                }
                b"RESYNC" => Self::Resync,
                b"LEAVE" => Self::Leave,
                _ => return None,
            })
        };
        message().filter(|_| words.is_empty()).ok_or(ErrorReply::Protocol("not a message from a node"))
    }
}

impl<'a> CoordinatorMessage<'a> {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Joined { incarnation, text } => words(&["JOINED", &incarnation.to_string(), text], out),
            Self::Beat => words(&["BEAT"], out),
            Self::Map { text } => words(&["MAP", text], out),
            Self::HandOver { to, slots } => slots_at("HANDOVER", *to, slots, out),
            Self::AskPositions { query, slots } => {
                begin_array(2 + slots.len(), out);
                push_word(b"POSITIONS", out);
                push_word(query.to_string().as_bytes(), out);
                for slot in slots {
                    push_word(slot.0.to_string().as_bytes(), out);
                }
            }
            Self::Left => words(&["LEFT"], out),
            Self::Unregistered => words(&["UNREGISTERED"], out),
        }
    }

    /// Reads one message.
    ///
    /// # Errors
    /// The words are none of these messages; the session is of no further use.
    pub fn parse(mut words: Words<'a>) -> Result<Self, ErrorReply> {
        let mut message = || {
            Some(match words.next()? {
                b"JOINED" => Self::Joined { incarnation: words.parse()?, text: words.text()? },
                b"BEAT" => Self::Beat,
                b"MAP" => Self::Map { text: words.text()? },
                b"HANDOVER" => Self::HandOver { to: words.parse()?, slots: read_slots_at(&mut words)? },
                b"POSITIONS" => {
                    let query = words.parse()?;
                    let mut slots = Vec::with_capacity(words.len());
                    while !words.is_empty() {
                        slots.push(slot(&mut words)?);
                    }
                    Self::AskPositions { query, slots }
                }
                b"LEFT" => Self::Left,
                b"UNREGISTERED" => Self::Unregistered,
                _ => return None,
            })
        };
        message().filter(|_| words.is_empty()).ok_or(ErrorReply::Protocol("not a message from the coordinator"))
    }
}

fn words<W: AsRef<[u8]>>(list: &[W], out: &mut Vec<u8>) {
    crate::frame::encode_array(list, out);
}

fn slot(words: &mut Words<'_>) -> Option<SlotId> {
    words.parse().map(SlotId)
}

fn slots_at(verb: &str, who: Incarnation, slots: &[SlotAt], out: &mut Vec<u8>) {
    begin_array(2 + 2 * slots.len(), out);
    push_word(verb.as_bytes(), out);
    push_word(who.to_string().as_bytes(), out);
    for SlotAt { slot, version } in slots {
        push_word(slot.0.to_string().as_bytes(), out);
        push_word(version.0.to_string().as_bytes(), out);
    }
}

fn read_slots_at(words: &mut Words<'_>) -> Option<Vec<SlotAt>> {
    let mut slots = Vec::with_capacity(words.len() / 2);
    while !words.is_empty() {
        slots.push(SlotAt { slot: slot(words)?, version: MapVersion(words.parse()?) });
    }
    Some(slots)
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
mod tests {
    use super::*;
    use crate::frame::{Frame, FrameDecoder};

    fn with_words<T>(bytes: &[u8], read: impl FnOnce(Words<'_>) -> T) -> T {
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
    fn session_messages_read_back_as_written() {
        let incarnation = Incarnation(4);
        let slots = vec![
            SlotAt { slot: SlotId(1), version: MapVersion(8) },
            SlotAt { slot: SlotId(2), version: MapVersion(9) },
        ];
        for message in [
            NodeMessage::Heartbeat { incarnation },
            NodeMessage::Admit { follower: incarnation, slots: slots.clone() },
            NodeMessage::Expel { follower: incarnation, slots: Vec::new() },
            NodeMessage::Release { to: incarnation, slots: slots.clone() },
            NodeMessage::Positions { query: 3, last: vec![(SlotId(5), version(1, 2))] },
            NodeMessage::Resync,
            NodeMessage::Leave,
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(NodeMessage::parse(words), Ok(message)));
        }
        for message in [
            CoordinatorMessage::Joined { incarnation, text: "OK Node h:1 registered" },
            CoordinatorMessage::Beat,
            CoordinatorMessage::Map { text: "OK Map\nNODE" },
            CoordinatorMessage::HandOver { to: incarnation, slots },
            CoordinatorMessage::AskPositions { query: 3, slots: vec![SlotId(5)] },
            CoordinatorMessage::Left,
            CoordinatorMessage::Unregistered,
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(CoordinatorMessage::parse(words), Ok(message)));
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
        for incarnation in [None, Some(Incarnation(7))] {
            let join = Join { addr: addr.clone(), incarnation, map: "" };
            let mut bytes = Vec::new();
            join.encode(&mut bytes);
            with_words(&bytes, |mut words| {
                words.next();
                assert_eq!(Join::parse(words), Ok(join));
            });
        }
    }
}
