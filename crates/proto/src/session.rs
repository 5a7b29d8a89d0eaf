//! Messages between a node and the coordinator, on one connection that the node opens with [`Join`] and keeps open. All
//! use the array encoding: [`NodeMessage`] one way, [`CoordinatorMessage`] back.
//!
//! `docs/protocol.md` shows each message as it looks on the wire.

use crate::cluster_map::MapVersion;
use crate::error::ErrorReply;
use crate::frame::{Words, begin_array, encode_array, push_word};
use crate::id::{Incarnation, NodeAddr, Version};
use crate::limits;
use crate::peer::slot;
use crate::slot::SlotId;

/// A slot and the version of the configuration that a proposal is based on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotAt {
    /// The slot.
    pub slot: SlotId,
    /// The version of its configuration, as the proposer knows it.
    pub version: MapVersion,
}

/// The earlier incarnations that wrote the data a node found on its disk and now holds, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ancestors {
    /// Those whose data may be incomplete: the machine has lost power since, or the directory was repaired.
    pub unproven: Vec<Incarnation>,
    /// Those whose data is here as they left it: proof that the node holds what they held.
    pub proven: Vec<Incarnation>,
}

impl Ancestors {
    /// Ancestors that are all proven.
    #[must_use]
    pub fn proven(proven: Vec<Incarnation>) -> Self {
        Self { unproven: Vec::new(), proven }
    }

    /// All of them, oldest first: proven data was always written after unproven data.
    pub fn iter(&self) -> impl Iterator<Item = Incarnation> {
        self.unproven.iter().chain(&self.proven).copied()
    }

    /// The incarnation before this one.
    #[must_use]
    pub fn last(&self) -> Option<Incarnation> {
        self.proven.last().or(self.unproven.last()).copied()
    }

    /// Whether the data of `incarnation` is here, proven or not.
    #[must_use]
    pub fn contains(&self, incarnation: Incarnation) -> bool {
        self.iter().any(|ancestor| ancestor == incarnation)
    }
}

/// The first words of a node's session with the coordinator: `JOIN addr incarnation proofs unproven map weight`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join<'a> {
    /// Where to reach the node.
    pub addr: NodeAddr,
    /// The incarnation that the node was assigned; `None` on its first join.
    pub incarnation: Option<Incarnation>,
    /// Whose data the node found on its disk. Two comma-separated words on the wire, first the proven, then the
    /// unproven; `0` if there are none.
    pub ancestors: Ancestors,
    /// The map that the node holds, as text; empty if it holds none.
    pub map: &'a str,
    /// The multiple of other nodes' ring positions that the node has. 1 if the node sends none.
    pub weight: u32,
}

/// The slots of one copy that are waiting for their primary to fill them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filling {
    /// The copy's node.
    pub to: Incarnation,
    /// How many slots are waiting their turn.
    pub slots: u64,
    /// How many keys they have.
    pub keys: u64,
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
    /// `COMPLAIN about`: the sender is a replica of this primary and does not hear from it.
    Complain {
        /// The primary.
        about: Incarnation,
    },
    /// `POSITIONS query (slot last)...`: the answer to [`CoordinatorMessage::AskPositions`].
    Positions {
        /// The number of the question.
        query: u64,
        /// The last record of each slot asked about.
        last: Vec<(SlotId, Version)>,
    },
    /// `RESYNC`: a change of the map does not apply to the map held here; send the whole map.
    Resync,
    /// `FULL`: the node's disk is full; it must not lead anything that another member can lead.
    Full,
    /// `ROOM`: the node has room again.
    Room,
    /// `MEMORY node...`: the nodes that lack the memory for which the sender has just refused writes. For people only.
    Memory {
        /// The sender itself or replicas of what it leads; empty if it refuses none any more.
        short: Vec<Incarnation>,
    },
    /// `FILLING (to slots keys)...`: what is waiting to be filled by this node, copy by copy; empty if nothing is. For
    /// people only.
    Filling {
        /// One entry per copy's node.
        fills: Vec<Filling>,
    },
    /// `STOPS`: the node is about to stop; it must not lead anything that another member can lead.
    Stops,
    /// `LEAVE`: the node is stopping and expects to be started again.
    Leave,
    /// `CLEARED`: the node has deleted its data as told, and leaves for good.
    Cleared,
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
        /// A [`crate::cluster_map::MapUpdate`] as text, lines separated by newlines.
        text: &'a str,
    },
    /// `HANDOVER to (slot version)...`: bring `to` up to date in these slots, stop taking writes, and release them.
    HandOver {
        /// The next primary.
        to: Incarnation,
        /// The slots.
        slots: Vec<SlotAt>,
    },
    /// `POSITIONS query slot...`: report the last record of each of these slots.
    AskPositions {
        /// The number of the question.
        query: u64,
        /// The slots.
        slots: Vec<SlotId>,
    },
    /// `DISMISS`: the node no longer holds any part of any slot; it must delete its data, say so, and exit.
    Dismiss,
    /// `LEFT`: the node's leave is done.
    Left,
    /// `UNREGISTERED`: somebody has taken the node off the ring; it stays off until it is started again.
    Unregistered,
    /// `REPLACED`: a later start of a node has this node's address; this one never comes back.
    Replaced,
}

impl<'a> Join<'a> {
    /// Appends the request that opens the session.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let number = |incarnation: Option<Incarnation>| incarnation.unwrap_or_default().to_string();
        let list = |incarnations: &[Incarnation]| {
            let numbers: Vec<_> = incarnations.iter().map(ToString::to_string).collect();
            if numbers.is_empty() { "0".to_owned() } else { numbers.join(",") }
        };
        let (proven, unproven) = (list(&self.ancestors.proven), list(&self.ancestors.unproven));
        let (incarnation, weight) = (number(self.incarnation), self.weight.to_string());
        encode_array(&["JOIN", self.addr.as_str(), &incarnation, &proven, &unproven, self.map, &weight], out);
    }

    /// Reads the words after `JOIN`.
    ///
    /// # Errors
    /// The words are wrong; nothing was done.
    pub fn parse(mut words: Words<'a>) -> Result<Self, ErrorReply> {
        let mut join = || {
            let addr = words.parse()?;
            let known = |given: &Incarnation| *given != Incarnation::default();
            let incarnation = Some(words.parse()?).filter(known);
            let mut list = || {
                let numbers: Result<Vec<_>, _> = words.text()?.split(',').map(str::parse).collect();
                Some(numbers.ok()?.into_iter().filter(known).collect())
            };
            let (proven, unproven) = (list()?, list()?);
            let map = words.text()?;
            let weight = if words.is_empty() { 1 } else { words.parse()? };
            let ancestors = Ancestors { unproven, proven };
            let is_allowed = (1..=limits::WEIGHT).contains(&weight) && ancestors.iter().count() <= limits::ANCESTORS;
            is_allowed.then_some(Self { addr, incarnation, ancestors, map, weight })
        };
        join().filter(|_| words.is_empty()).ok_or(ErrorReply::InvalidFormat("JOIN"))
    }
}

impl NodeMessage {
    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Heartbeat { incarnation } => encode_array(&["HEARTBEAT", &incarnation.to_string()], out),
            Self::Admit { follower, slots } => slots_at("ADMIT", *follower, slots, out),
            Self::Expel { follower, slots } => slots_at("EXPEL", *follower, slots, out),
            Self::Release { to, slots } => slots_at("RELEASE", *to, slots, out),
            Self::Complain { about } => encode_array(&["COMPLAIN", &about.to_string()], out),
            Self::Positions { query, last } => {
                begin_array(2 + 2 * last.len(), out);
                push_word(b"POSITIONS", out);
                push_word(query.to_string().as_bytes(), out);
                for (slot, version) in last {
                    push_word(slot.0.to_string().as_bytes(), out);
                    push_word(version.to_string().as_bytes(), out);
                }
            }
            Self::Resync => encode_array(&["RESYNC"], out),
            Self::Full => encode_array(&["FULL"], out),
            Self::Room => encode_array(&["ROOM"], out),
            Self::Memory { short } => {
                begin_array(1 + short.len(), out);
                push_word(b"MEMORY", out);
                short.iter().for_each(|node| push_word(node.to_string().as_bytes(), out));
            }
            Self::Filling { fills } => {
                begin_array(1 + 3 * fills.len(), out);
                push_word(b"FILLING", out);
                for Filling { to, slots, keys } in fills {
                    [to.0, *slots, *keys].iter().for_each(|number| push_word(number.to_string().as_bytes(), out));
                }
            }
            Self::Stops => encode_array(&["STOPS"], out),
            Self::Leave => encode_array(&["LEAVE"], out),
            Self::Cleared => encode_array(&["CLEARED"], out),
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
                b"COMPLAIN" => Self::Complain { about: words.parse()? },
                b"POSITIONS" => {
                    let query = words.parse()?;
                    let mut last = Vec::with_capacity(words.len() / 2);
                    while !words.is_empty() {
                        last.push((slot(&mut words)?, words.parse()?));
                    }
                    Self::Positions { query, last }
                }
                b"RESYNC" => Self::Resync,
                b"FULL" => Self::Full,
                b"ROOM" => Self::Room,
                b"MEMORY" => {
                    let mut short = Vec::with_capacity(words.len());
                    while !words.is_empty() {
                        short.push(words.parse()?);
                    }
                    Self::Memory { short }
                }
                b"FILLING" => {
                    let mut fills = Vec::with_capacity(words.len() / 3);
                    while !words.is_empty() {
                        fills.push(Filling { to: words.parse()?, slots: words.parse()?, keys: words.parse()? });
                    }
                    Self::Filling { fills }
                }
                b"STOPS" => Self::Stops,
                b"LEAVE" => Self::Leave,
                b"CLEARED" => Self::Cleared,
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
            Self::Joined { incarnation, text } => encode_array(&["JOINED", &incarnation.to_string(), text], out),
            Self::Beat => encode_array(&["BEAT"], out),
            Self::Map { text } => encode_array(&["MAP", text], out),
            Self::HandOver { to, slots } => slots_at("HANDOVER", *to, slots, out),
            Self::AskPositions { query, slots } => {
                begin_array(2 + slots.len(), out);
                push_word(b"POSITIONS", out);
                push_word(query.to_string().as_bytes(), out);
                for slot in slots {
                    push_word(slot.0.to_string().as_bytes(), out);
                }
            }
            Self::Dismiss => encode_array(&["DISMISS"], out),
            Self::Left => encode_array(&["LEFT"], out),
            Self::Unregistered => encode_array(&["UNREGISTERED"], out),
            Self::Replaced => encode_array(&["REPLACED"], out),
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
                b"DISMISS" => Self::Dismiss,
                b"LEFT" => Self::Left,
                b"UNREGISTERED" => Self::Unregistered,
                b"REPLACED" => Self::Replaced,
                _ => return None,
            })
        };
        message().filter(|_| words.is_empty()).ok_or(ErrorReply::Protocol("not a message from the coordinator"))
    }
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
        slots.push(SlotAt { slot: slot(words)?, version: words.parse()? });
    }
    Some(slots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;
    use crate::peer::tests::with_words;

    fn version(epoch: u64, seq: u64) -> Version {
        Version { epoch: Epoch(epoch), seq }
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
            NodeMessage::Complain { about: incarnation },
            NodeMessage::Positions { query: 3, last: vec![(SlotId(5), version(1, 2))] },
            NodeMessage::Resync,
            NodeMessage::Full,
            NodeMessage::Room,
            NodeMessage::Memory { short: vec![incarnation] },
            NodeMessage::Memory { short: Vec::new() },
            NodeMessage::Filling { fills: Vec::new() },
            NodeMessage::Filling { fills: vec![Filling { to: incarnation, slots: 7, keys: 900 }] },
            NodeMessage::Stops,
            NodeMessage::Leave,
            NodeMessage::Cleared,
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
            CoordinatorMessage::Dismiss,
            CoordinatorMessage::Left,
            CoordinatorMessage::Unregistered,
            CoordinatorMessage::Replaced,
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            with_words(&bytes, |words| assert_eq!(CoordinatorMessage::parse(words), Ok(message)));
        }
    }

    #[test]
    fn a_join_reads_back_as_written() {
        let addr = NodeAddr::new("h", 1).unwrap();
        let [three, five, seven] = [3, 5, 7].map(Incarnation);
        for (incarnation, proven, unproven, weight) in [
            (None, vec![three, five], vec![], 1),
            (Some(seven), vec![], vec![], 4),
            (None, vec![seven], vec![three, five], 100),
        ] {
            let ancestors = Ancestors { unproven, proven };
            let join = Join { addr: addr.clone(), incarnation, ancestors, map: "", weight };
            let mut bytes = Vec::new();
            join.encode(&mut bytes);
            with_words(&bytes, |mut words| {
                words.next();
                assert_eq!(Join::parse(words), Ok(join));
            });
        }
    }
}
