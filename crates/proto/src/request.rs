//! Frames to commands.
//!
//! Nodes and the coordinator answer different verbs, so each has its own enum. Both encodings yield the same commands;
//! they differ only in where a value ends: on a line, the value runs to the end of the line.

mod auth;
mod glob;
mod keyspace;
mod many;
mod redis;
mod rest;
mod server;
mod span;

use std::time::Duration;

use crate::error::ErrorReply;
use crate::frame::{Encoding, Frame, Words, is_blank, split_word, without_blanks};
use crate::id::NodeAddr;
use crate::level::{AckLevel, ReadLevel};
use crate::peer::{Change, Read, Wanted, Write};
use crate::range::PageRequest;
use crate::slot::SlotId;

use rest::{Rest, VERB_BYTES, checked_key, split_verb};

pub use auth::{Auth, is_auth_attempt};
pub use glob::{glob_matches, literal_prefix};
pub use keyspace::{KeyspaceRequest, Scan, exists_request};
pub use many::{KeyWords, LastWords};
pub use server::{ClientCommand, CommandQuery, Hello, NamesOrPattern, ServerCommand};
pub use span::{HEALTHY_WAIT, LONGEST_HEALTHY_WAIT, span_of};

/// A request to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRequest<'a> {
    /// `GET`, `GETV`, `TTL`, and Redis's single-key reads. The level is the default; the connection's own replaces it.
    Read(Read<'a>),
    /// `PUT`, `DELETE`, `CAS`, `PUTNX`, `PUTEX`, `EXPIRE`, `PERSIST`, and Redis's single-key writes, each also after
    /// `ONCE client seq`; and `REPLICATE`, the unversioned replication of the first version, which is a PUT in all but
    /// name. The level is the default; the connection's own replaces it.
    Write(Write<'a>),
    /// A `PUT` sent as a line, whose value may end with the word of [`split_replicas_word`].
    PutLine {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// `PREFIX`, `RANGE`: one page of a walk through keys.
    Page(PageRequest<'a>),
    /// How many keys begin with this prefix.
    Count(&'a [u8]),
    /// `MGET`: each key is read independently.
    GetMany(KeyWords<'a>),
    /// `MPUT`: each key is written independently, with the value that follows it.
    PutMany(KeyWords<'a>),
    /// A Redis command about several keys, or all of them.
    Keyspace(KeyspaceRequest<'a>),
    /// Sets the level of this connection's writes from now on.
    Ack(AckLevel),
    /// Sets the level of this connection's reads from now on.
    ReadLevel(ReadLevel),
    /// The writes that this node has dropped because the next primary may not have them.
    Losses,
    /// Who the node is and what it holds.
    Info,
    /// The node's metrics, one per line.
    Stats,
    /// Compare the copies of every slot that the node leads, now.
    Verify,
    /// Whether the node answers.
    Ping,
    /// Answer, then close.
    Quit,
    /// Redis's connection and server commands, which only arrays have.
    Server(ServerCommand<'a>),
    /// Another node opens a peer connection; the words are for [`crate::peer::Hello`].
    Peer(RawWords<'a>),
}

/// Words that are not parsed yet, such as those after `PEER`, compared by content.
#[derive(Debug, Clone, Copy)]
pub struct RawWords<'a>(pub Words<'a>);

impl PartialEq for RawWords<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq(other.0)
    }
}

impl Eq for RawWords<'_> {}

/// A request to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoordinatorRequest<'a> {
    /// Register a node manually.
    RegisterNode(NodeAddr),
    /// Take a node off the ring until it is started again.
    UnregisterNode(NodeAddr),
    /// The node is alive.
    Heartbeat(NodeAddr),
    /// Who holds a key.
    GetNodesForKey {
        /// The key.
        key: &'a [u8],
    },
    /// Who is registered.
    ListNodes,
    /// Stop waiting for the report of a node that was in an earlier coordinator's map.
    Forget(NodeAddr),
    /// Start slots anew that have no copy that may lead: one slot, or all of them.
    AcceptLoss(Option<SlotId>),
    /// A node is to leave for good: it hands its slots over, then deletes its data.
    Decommission(NodeAddr),
    /// A node that was to leave is to stay after all.
    Recommission(NodeAddr),
    /// A node is to leave for good as soon as another has joined in its place.
    Replace {
        /// The node that leaves.
        old: NodeAddr,
        /// The node that joins, or has joined.
        new: NodeAddr,
    },
    /// The whole cluster map, once.
    Map,
    /// The whole cluster map, and then every change as it happens.
    WatchMap,
    /// Who the coordinator is.
    Info,
    /// The coordinator's metrics, one per line.
    Stats,
    /// The state of the slots: which lack a copy, which are moving.
    Status,
    /// Answer once every slot has all its copies where they belong, or after this time.
    WaitHealthy(Duration),
    /// `AUTH`: the client authenticates.
    Auth(Auth<'a>),
    /// Whether the coordinator answers.
    Ping,
    /// Answer, then close.
    Quit,
    /// A node opens its session; the words are for [`crate::session::Join`].
    Join(RawWords<'a>),
}

/// The verbs of requests as the documentation writes them.
pub mod verbs {
    #![allow(missing_docs, reason = "each constant is its own documentation")]
    pub const AUTH: &str = "AUTH";
    pub const PUT: &str = "PUT";
    pub const GET: &str = "GET";
    pub const DELETE: &str = "DELETE";
    pub const REPLICATE: &str = "REPLICATE";
    pub const GETV: &str = "GETV";
    pub const CAS: &str = "CAS";
    pub const PUTNX: &str = "PUTNX";
    pub const PUTEX: &str = "PUTEX";
    pub const EXPIRE: &str = "EXPIRE";
    pub const TTL: &str = "TTL";
    pub const PERSIST: &str = "PERSIST";
    pub const ONCE: &str = "ONCE";
    pub const PREFIX: &str = "PREFIX";
    pub const RANGE: &str = "RANGE";
    pub const COUNT: &str = "COUNT";
    pub const LIMIT: &str = "LIMIT";
    pub const AFTER: &str = "AFTER";
    pub const MGET: &str = "MGET";
    pub const MPUT: &str = "MPUT";
    pub const ACK: &str = "ACK";
    pub const READ: &str = "READ";
    pub const LOSSES: &str = "LOSSES";
    pub const FORGET: &str = "FORGET";
    pub const ACCEPT_LOSS: &str = "ACCEPT_LOSS";
    pub const DECOMMISSION: &str = "DECOMMISSION";
    pub const RECOMMISSION: &str = "RECOMMISSION";
    pub const REPLACE: &str = "REPLACE";
    pub const INFO: &str = "INFO";
    pub const STATS: &str = "STATS";
    pub const STATUS: &str = "STATUS";
    pub const VERIFY: &str = "VERIFY";
    pub const WAIT_HEALTHY: &str = "WAIT_HEALTHY";
    pub const PING: &str = "PING";
    pub const QUIT: &str = "QUIT";
    pub const PEER: &str = "PEER";
    pub const REGISTER_NODE: &str = "REGISTER_NODE";
    pub const UNREGISTER_NODE: &str = "UNREGISTER_NODE";
    pub const HEARTBEAT: &str = "HEARTBEAT";
    pub const GET_NODES_FOR_KEY: &str = "GET_NODES_FOR_KEY";
    pub const LIST_NODES: &str = "LIST_NODES";
    pub const MAP: &str = "MAP";
    pub const WATCH_MAP: &str = "WATCH_MAP";
    pub const JOIN: &str = "JOIN";
}

impl<'a> NodeRequest<'a> {
    /// Parses a frame sent to a node.
    ///
    /// # Errors
    /// The error to answer; nothing was done.
    pub fn parse(frame: Frame<'a>) -> Result<Self, ErrorReply> {
        Self::parse_words(frame).map_err(|error| unless_http(redis::in_array(error, frame), frame))
    }

    /// The most common requests in their most common form, as [`Self::parse_words`] would parse them; `None` for others.
    fn usual(frame: Frame<'a>) -> Option<Self> {
        let key = match frame {
            Frame::Line(line) => {
                let (key, behind) = split_word(line.strip_prefix(b"GET ")?);
                std::str::from_utf8(key).ok().filter(|key| !key.is_empty() && behind.is_empty())?.as_bytes()
            }
            Frame::Array(words) => match (words.exactly(), words.exactly()) {
                (Some([b"GET", key]), _) => key,
                (_, Some([b"SET" | b"PUT", key, value])) => {
                    return Some(Self::Write(Write::new(checked_key(key).ok()?, Change::Put(value))));
                }
                _ => return None,
            },
        };
        let key = checked_key(key).ok()?;
        Some(Self::Read(Read { key, wanted: Wanted::Value, level: ReadLevel::default() }))
    }

    fn parse_words(frame: Frame<'a>) -> Result<Self, ErrorReply> {
        if let Some(usual) = Self::usual(frame) {
            return Ok(usual);
        }
        let mut verb = [0; VERB_BYTES];
        let (verb, rest) = split_verb(frame, &mut verb)?;
        match verb {
            b"SET" => rest.set(),
            b"GET" => rest.read(verbs::GET, Wanted::Value),
            b"PUT" if frame.encoding() == Encoding::Line => {
                let (key, value) = rest.key_and_value(verbs::PUT)?;
                Ok(Self::PutLine { key, value })
            }
            b"EXPIRE" | b"PERSIST" | b"TTL" if rest.is_array() => rest.redis(verb),
            b"PUT" | b"DELETE" | b"CAS" | b"PUTNX" | b"PUTEX" | b"EXPIRE" | b"PERSIST" => {
                rest.write(verb).map(Self::Write)
            }
            b"REPLICATE" => {
                let (key, value) = rest.key_and_value(verbs::REPLICATE)?;
                Ok(Self::Write(Write::new(key, Change::Put(value))))
            }
            b"GETV" => rest.read(verbs::GETV, Wanted::Versioned),
            b"TTL" => rest.read(verbs::TTL, Wanted::Ttl),
            b"ONCE" => rest.once(),
            b"PREFIX" => rest.prefix(),
            b"RANGE" => rest.range(),
            b"COUNT" => rest.key(verbs::COUNT).map(Self::Count),
            b"MGET" => rest.keys(),
            b"MPUT" => rest.keys_and_values(),
            b"ACK" => rest.word(verbs::ACK).map(Self::Ack),
            b"READ" => rest.word(verbs::READ).map(Self::ReadLevel),
            b"LOSSES" => rest.nothing(verbs::LOSSES).map(|()| Self::Losses),
            b"PING" | b"INFO" | b"QUIT" if frame.encoding() == Encoding::Array => server::parse(verb, rest),
            b"INFO" => rest.nothing(verbs::INFO).map(|()| Self::Info),
            b"STATS" => rest.nothing(verbs::STATS).map(|()| Self::Stats),
            b"VERIFY" => rest.nothing(verbs::VERIFY).map(|()| Self::Verify),
            b"PING" => rest.nothing(verbs::PING).map(|()| Self::Ping),
            b"QUIT" => rest.nothing(verbs::QUIT).map(|()| Self::Quit),
            b"PEER" => rest.array(verbs::PEER).map(Self::Peer),
            b"CLIENT" | b"COMMAND" | b"CONFIG" | b"MEMORY" | b"OBJECT" if rest.asks_for_help() => {
                server::help(verb, rest)
            }
            _ => rest.redis(verb),
        }
    }
}

impl<'a> CoordinatorRequest<'a> {
    /// Parses a frame sent to the coordinator.
    ///
    /// # Errors
    /// The error to answer; nothing was done.
    pub fn parse(frame: Frame<'a>) -> Result<Self, ErrorReply> {
        Self::parse_words(frame).map_err(|error| unless_http(error, frame))
    }

    fn parse_words(frame: Frame<'a>) -> Result<Self, ErrorReply> {
        let mut verb = [0; VERB_BYTES];
        let (verb, rest) = split_verb(frame, &mut verb)?;
        match verb {
            b"REGISTER_NODE" => rest.address(verbs::REGISTER_NODE).map(Self::RegisterNode),
            b"UNREGISTER_NODE" => rest.address(verbs::UNREGISTER_NODE).map(Self::UnregisterNode),
            b"HEARTBEAT" => rest.address(verbs::HEARTBEAT).map(Self::Heartbeat),
            b"GET_NODES_FOR_KEY" => Ok(Self::GetNodesForKey { key: rest.key(verbs::GET_NODES_FOR_KEY)? }),
            b"LIST_NODES" => rest.nothing(verbs::LIST_NODES).map(|()| Self::ListNodes),
            b"FORGET" => rest.word(verbs::FORGET).map(Self::Forget),
            b"ACCEPT_LOSS" => rest.slot_or_all(verbs::ACCEPT_LOSS).map(Self::AcceptLoss),
            b"DECOMMISSION" => rest.word(verbs::DECOMMISSION).map(Self::Decommission),
            b"RECOMMISSION" => rest.word(verbs::RECOMMISSION).map(Self::Recommission),
            b"REPLACE" => rest.two_nodes(verbs::REPLACE).map(|[old, new]| Self::Replace { old, new }),
            b"AUTH" => rest.auth().map(Self::Auth),
            b"MAP" => rest.nothing(verbs::MAP).map(|()| Self::Map),
            b"WATCH_MAP" => rest.nothing(verbs::WATCH_MAP).map(|()| Self::WatchMap),
            b"INFO" => rest.nothing(verbs::INFO).map(|()| Self::Info),
            b"STATS" => rest.nothing(verbs::STATS).map(|()| Self::Stats),
            b"STATUS" => rest.nothing(verbs::STATUS).map(|()| Self::Status),
            b"WAIT_HEALTHY" => rest.wait(verbs::WAIT_HEALTHY).map(Self::WaitHealthy),
            b"PING" => rest.nothing(verbs::PING).map(|()| Self::Ping),
            b"QUIT" => rest.nothing(verbs::QUIT).map(|()| Self::Quit),
            b"JOIN" => rest.array(verbs::JOIN).map(Self::Join),
            _ => Err(ErrorReply::UnknownCommand),
        }
    }
}

/// The error for a request that cannot be parsed: another one if it is HTTP, as shown by the words that Redis looks
/// for, too. IMPORTANT: it must end the connection. A web page can have a browser send a POST to any port of its own
/// machine, and the lines of the body would be carried out.
#[cold]
fn unless_http(error: ErrorReply, frame: Frame<'_>) -> ErrorReply {
    let Frame::Line(line) = frame else { return error };
    let word = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_http = [&b"POST"[..], b"Host:"].iter().any(|first| word.eq_ignore_ascii_case(first));
    if is_http { ErrorReply::Protocol("HTTP is not understood here") } else { error }
}

/// Strips from the value of a line PUT the replicas that the first version's client appended to it: the last word, if
/// there are at least two and the last is a comma-separated list of addresses, all of them known to `is_node`.
#[must_use]
pub fn split_replicas_word(value: &[u8], is_node: impl Fn(&NodeAddr) -> bool) -> &[u8] {
    let Some(last) = value.iter().rposition(|b| !is_blank(b)) else { return value };
    let (trimmed, _) = value.split_at(last + 1);
    // Nearly every value returns here: an address ends in a digit.
    if !trimmed.last().is_some_and(u8::is_ascii_digit) {
        return value;
    }
    let Some(blank) = trimmed.iter().rposition(is_blank) else { return value };
    let (before, word) = trimmed.split_at(blank);
    let Ok(word) = std::str::from_utf8(without_blanks(word)) else { return value };
    let all_nodes = word.split(',').all(|a| a.parse().is_ok_and(|addr| is_node(&addr)));
    if all_nodes && !before.iter().all(is_blank) { before } else { value }
}

/// Whether a line can carry a PUT of this value with no part of it misread. A client sends every other value as an
/// array.
#[must_use]
pub fn line_can_put(key: &[u8], value: &[u8]) -> bool {
    line_can_carry_key(key)
        && value.first().is_some_and(|first| !is_blank(first))
        && crate::response::is_line(value)
        && split_replicas_word(value, |_| true).len() == value.len()
}

/// Whether a key is one word of a line.
#[must_use]
pub fn line_can_carry_key(key: &[u8]) -> bool {
    !key.is_empty()
        && std::str::from_utf8(key).is_ok()
        && !key.iter().any(|b| matches!(b, b' ' | b'\t' | b'\n'))
        && key.last() != Some(&b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Version;
    use crate::limits;
    use crate::peer::Identity;

    fn node(line: &str) -> Result<NodeRequest<'_>, ErrorReply> {
        NodeRequest::parse(Frame::Line(line.as_bytes()))
    }

    fn coordinator(line: &str) -> Result<CoordinatorRequest<'_>, ErrorReply> {
        CoordinatorRequest::parse(Frame::Line(line.as_bytes()))
    }

    #[test]
    fn a_value_runs_to_the_end_of_the_line() {
        for (line, expected) in [
            ("PUT k v", "v"),
            ("put\tk  v  w  ", "v  w  "),
            ("  Put k {\"age\": 30}", "{\"age\": 30}"),
            ("PUT k \"important value\"", "\"important value\""),
        ] {
            let put = NodeRequest::PutLine { key: b"k", value: expected.as_bytes() };
            assert_eq!(node(line), Ok(put), "{line}");
        }
    }

    #[test]
    fn wrong_words_name_their_verb() {
        for (line, verb) in [
            ("PUT", "PUT"),
            ("PUT k", "PUT"),
            ("PUT k   ", "PUT"),
            ("GET", "GET"),
            ("get a b", "GET"),
            ("DELETE", "DELETE"),
            ("REPLICATE k", "REPLICATE"),
            ("PING now", "PING"),
            ("PEER x", "PEER"),
            ("CAS k 1-1", "CAS"),
            ("CAS k one v", "CAS"),
            ("PUTNX k", "PUTNX"),
            ("GETV", "GETV"),
            ("PUTEX k 1", "PUTEX"),
            ("PUTEX k 0 v", "PUTEX"),
            ("PUTEX k 1.5 v", "PUTEX"),
            ("PUTEX k 10000000001 v", "PUTEX"),
            ("EXPIRE k", "EXPIRE"),
            ("EXPIRE k soon", "EXPIRE"),
            ("TTL", "TTL"),
            ("PERSIST k 1", "PERSIST"),
            ("ONCE me 1", "ONCE"),
            ("ONCE me one PUT k v", "ONCE"),
            ("ONCE me 1 GET k", "ONCE"),
            ("ONCE me 1 PUT k", "PUT"),
            ("ACK most", "ACK"),
            ("READ", "READ"),
            ("LOSSES all", "LOSSES"),
        ] {
            assert_eq!(node(line), Err(ErrorReply::InvalidFormat(verb)), "{line}");
        }
        for line in
            ["REGISTER_NODE", "REGISTER_NODE h", "REGISTER_NODE h 0", "register_node h x", "REGISTER_NODE h 1 2"]
        {
            assert_eq!(coordinator(line), Err(ErrorReply::InvalidFormat("REGISTER_NODE")), "{line}");
        }
    }

    #[test]
    fn writes_carry_their_condition_and_identity() {
        let write = Write::new(b"k", Change::Put(b"v w"));
        let version: Version = "3-12".parse().unwrap();
        let identity = Some(Identity { client: b"me", seq: 7 });
        for (line, expected) in [
            ("CAS k 3-12 v w", Write { expected: Some(version), ..write }),
            ("cas k 0 v w", Write { expected: Some(Version::NONE), ..write }),
            ("PUTNX k v w", Write { expected: Some(Version::NONE), ..write }),
            ("once me 7 put k v w", Write { identity, ..write }),
            ("ONCE me 7 CAS k 3-12 v w", Write { identity, expected: Some(version), ..write }),
            ("ONCE me 7 DELETE k", Write { identity, change: Change::Delete, ..write }),
            ("PUTEX k 60 v w", Write { change: Change::PutFor(b"v w", 60_000), ..write }),
            ("ONCE me 7 EXPIRE k 60", Write { identity, change: Change::Expire(60_000), ..write }),
            ("expire k -1", Write { change: Change::Expire(0), ..write }),
            ("PERSIST k", Write { change: Change::Persist, ..write }),
        ] {
            assert_eq!(node(line), Ok(NodeRequest::Write(expected)), "{line}");
        }
        let long = "c".repeat(limits::CLIENT_BYTES + 1);
        assert!(matches!(node(&format!("ONCE {long} 1 PUT k v")), Err(ErrorReply::TooLong { .. })));
    }

    #[test]
    fn a_connection_asks_for_its_levels_and_an_operator_for_slots() {
        assert_eq!(node("ack QUORUM"), Ok(NodeRequest::Ack(AckLevel::Quorum)));
        assert_eq!(node("READ linear"), Ok(NodeRequest::ReadLevel(ReadLevel::Linear)));
        assert_eq!(coordinator("ACCEPT_LOSS all"), Ok(CoordinatorRequest::AcceptLoss(None)));
        assert_eq!(coordinator("ACCEPT_LOSS 12"), Ok(CoordinatorRequest::AcceptLoss(Some(SlotId(12)))));
        assert_eq!(coordinator("ACCEPT_LOSS 16384"), Err(ErrorReply::InvalidFormat("ACCEPT_LOSS")));
        assert_eq!(coordinator("FORGET h:1"), Ok(CoordinatorRequest::Forget(NodeAddr::new("h", 1).unwrap())));
        assert_eq!(coordinator("FORGET h 1"), Err(ErrorReply::InvalidFormat("FORGET")));
        let [old, new] = [1, 2].map(|port| NodeAddr::new("h", port).unwrap());
        assert_eq!(coordinator("decommission h:1"), Ok(CoordinatorRequest::Decommission(old.clone())));
        assert_eq!(coordinator("RECOMMISSION h:1"), Ok(CoordinatorRequest::Recommission(old.clone())));
        assert_eq!(coordinator("REPLACE h:1 h:2"), Ok(CoordinatorRequest::Replace { old, new }));
        assert_eq!(coordinator("REPLACE h:1"), Err(ErrorReply::InvalidFormat("REPLACE")));
        assert_eq!(coordinator("REPLACE h:1 h"), Err(ErrorReply::InvalidFormat("REPLACE")));
    }

    #[test]
    fn anything_else_is_unknown() {
        for line in ["", "   ", "FOO", "PUTT k v", "REGISTER_NODE h 1", "AVERYLONGVERBTHATNOBODYHASDEFINED"] {
            assert_eq!(node(line), Err(ErrorReply::UnknownCommand), "{line}");
        }
        assert_eq!(coordinator("PUT a b"), Err(ErrorReply::UnknownCommand));
        for line in ["POST / HTTP/1.1", "host: 127.0.0.1:5001"] {
            assert!(matches!(node(line), Err(ErrorReply::Protocol(_))), "{line}");
            assert!(matches!(coordinator(line), Err(ErrorReply::Protocol(_))), "{line}");
        }
        assert_eq!(NodeRequest::parse(Frame::Line(b"GET \xff")), Err(ErrorReply::NotText));
    }

    #[test]
    fn the_most_common_requests_are_parsed_as_all_others_are() {
        let array = |words: &[&[u8]]| {
            let mut bytes = Vec::new();
            crate::frame::encode_array(words, &mut bytes);
            bytes
        };
        let parsed = |bytes: &[u8]| {
            let mut decoder = crate::frame::FrameDecoder::new();
            let (frame, _) = decoder.decode(bytes).unwrap().unwrap();
            (NodeRequest::usual(frame).is_some(), format!("{:?}", NodeRequest::parse(frame)))
        };
        let long = vec![b'k'; limits::KEY_BYTES + 1];
        for key in [&b"k"[..], b"", b"\r\n\xff", &long] {
            let is_usual = key.len() <= limits::KEY_BYTES;
            for (usual, other) in [("GET", "gEt"), ("SET", "set"), ("PUT", "puT")] {
                let rest: &[&[u8]] = if usual == "GET" { &[key] } else { &[key, b"v"] };
                let [usual, other] = [usual, other].map(|verb| parsed(&array(&[&[verb.as_bytes()], rest].concat())));
                assert_eq!((usual.0, other.0), (is_usual, false));
                assert_eq!(usual.1, other.1);
            }
        }
        assert!(!parsed(&array(&[b"SET", b"k", b"v", b"NX"])).0);
        for (line, other) in [("GET k\n", "get k\n"), ("GET \u{e4} \n", "get \u{e4} \n")] {
            let [line, other] = [line, other].map(|line| parsed(line.as_bytes()));
            assert_eq!((line.0, other.0), (true, false));
            assert_eq!(line.1, other.1);
        }
        for line in [&b"GET \n"[..], b"GET\n", b"GET a b\n", b"GET a\tb\n", b"GET \xff\n", b"GETV k\n"] {
            assert!(!parsed(line).0, "{line:?}");
        }
    }

    #[test]
    fn keys_and_values_over_their_limits_are_refused() {
        let key = "k".repeat(limits::KEY_BYTES + 1);
        assert_eq!(node(&format!("GET {key}")), Err(ErrorReply::key_too_long(key.len())));
        let value = "v".repeat(limits::VALUE_BYTES + 1);
        assert_eq!(node(&format!("PUT k {value}")), Err(ErrorReply::value_too_long(value.len())));
    }

    #[test]
    fn only_a_list_of_nodes_is_taken_off_a_value() {
        let is_node = |addr: &NodeAddr| addr.port() < 6000;
        let cases = [
            ("v h:5001,h:5002", "v"),
            ("v  w h:5001", "v  w"),
            ("v h:5001,h:6002", "v h:5001,h:6002"),
            ("v h:5001,", "v h:5001,"),
            ("h:5001", "h:5001"),
            (" h:5001", " h:5001"),
            ("call me at 5", "call me at 5"),
        ];
        for (value, kept) in cases {
            assert_eq!(split_replicas_word(value.as_bytes(), is_node), kept.as_bytes(), "{value}");
        }
    }

    #[test]
    fn a_line_is_used_only_where_it_is_unambiguous() {
        for value in ["v", "v w ", "ключ", "a:1"] {
            assert!(line_can_put(b"k", value.as_bytes()), "{value}");
        }
        for value in [&b""[..], b" v", b"\tv", b"a\nb", b"a\r", b"\xff", b"v h:5001", b"v h:1,h:2"] {
            assert!(!line_can_put(b"k", value), "{value:?}");
        }
        for key in [&b""[..], b"a b", b"a\n", b"\xff", b"a\r"] {
            assert!(!line_can_put(key, b"v"), "{key:?}");
        }
    }
}
