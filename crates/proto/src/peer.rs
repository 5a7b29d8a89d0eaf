//! Messages between nodes, all in the array encoding.
//!
//! There are two kinds of connection. Each is opened by its first request, a [`Hello`]:
//!
//! - `PEER REPLICATION ...`, from a primary to one of its replicas: [`LinkMessage`] one way, [`LinkReply`] back.
//! - `PEER FORWARD ...`, from any node to a key's primary: [`Forward`], [`List`] and [`Copies`] one way; back, for
//!   each, its number as a RESP integer and then the answer, in whatever order the answers are ready.
//!
//! `docs/protocol.md` shows each message as it looks on the wire.

mod copies;
mod detail;
mod forward;
mod link;
mod list;
mod modify;
mod record;
mod writes;

use std::str::FromStr;

use crate::error::ErrorReply;
use crate::frame::{Words, begin_bulk, encode_array, push_number};
use crate::id::{Incarnation, NodeAddr};
use crate::level::ReadLevel;
use crate::limits;
use crate::slot::SlotId;

pub use copies::{Copies, CopiesOf};
pub use detail::Detail;
pub use forward::{Change, Forward, KeyRequest, Read, SHORT_BYTES, Wanted, Write};
pub use link::{Compared, LinkMessage, LinkReply, Term, Terms};
pub use list::{List, Listed};
pub use modify::{Condition, ExpireIf, Expiry, Modify, ModifyError, ModifyReply, ReplyMode};
pub use record::{Effect, Op, WallTime};
pub use writes::Writes;

/// The purpose of a connection between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// A primary's records for a replica.
    Replication,
    /// Requests for keys that the other node leads.
    Forward,
}

/// The first words of a connection between nodes: `PEER kind cluster from-addr from-incarnation to-incarnation`. The
/// receiver answers `OK`, or `NOTPEER` if it belongs to another cluster or is not that incarnation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The purpose of the connection.
    pub kind: LinkKind,
    /// The sender's cluster.
    pub cluster: String,
    /// The sender's address.
    pub from_addr: NodeAddr,
    /// The sender's incarnation.
    pub from: Incarnation,
    /// The incarnation that the sender believes it is talking to.
    pub to: Incarnation,
}

/// Identifies a client's write: the same identity again is the same write. The client chooses both parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity<'a> {
    /// The client's name for itself, of 1 to [`limits::CLIENT_BYTES`] bytes.
    pub client: &'a [u8],
    /// The number of the write. A client's numbers grow.
    pub seq: u64,
}

impl Hello {
    /// Appends the request that opens the connection.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self.kind {
            LinkKind::Replication => "REPLICATION",
            LinkKind::Forward => "FORWARD",
        };
        let (from, to) = (self.from.to_string(), self.to.to_string());
        encode_array(&["PEER", kind, &self.cluster, self.from_addr.as_str(), &from, &to], out);
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

/// Whether a connection that begins with these bytes is one that a node opens, to another node or for its session with
/// the coordinator.
#[must_use]
pub fn is_greeting(bytes: &[u8]) -> bool {
    let line_end = bytes.windows(2).position(|pair| pair == b"\r\n");
    let words = line_end.and_then(|end| bytes.get(end + 2..)).filter(|_| bytes.starts_with(b"*"));
    words.is_some_and(|words| words.starts_with(b"$4\r\nPEER\r\n") || words.starts_with(b"$4\r\nJOIN\r\n"))
}

impl<'a> Identity<'a> {
    /// An identity from external input; `None` if the name is empty or over its limit, or `seq` is not a counter.
    #[must_use]
    pub fn from_words(client: &'a [u8], seq: &[u8]) -> Option<Self> {
        let seq = std::str::from_utf8(seq).ok().and_then(|seq| crate::id::counter(seq).ok())?;
        (1..=limits::CLIENT_BYTES).contains(&client.len()).then_some(Self { client, seq })
    }
}

pub(crate) fn slot(words: &mut Words<'_>) -> Option<SlotId> {
    words.parse().map(SlotId)
}

/// The next word as a key; `None` if it is over the key limit.
fn key<'a>(words: &mut Words<'a>) -> Option<&'a [u8]> {
    words.next().filter(|key| key.len() <= limits::KEY_BYTES)
}

fn counter(words: &mut Words<'_>) -> Option<u64> {
    crate::id::counter(words.text()?).ok()
}

fn or_dash<T: ToString>(word: Option<T>) -> String {
    word.map_or("-".to_owned(), |word| word.to_string())
}

/// Reads what [`or_dash`] writes; the outer `None` means that the word is neither.
fn unless_dash<T: FromStr>(word: &str) -> Option<Option<T>> {
    if word == "-" { Some(None) } else { word.parse().ok().map(Some) }
}

/// What may answer a read: `replica` for a copy that the other node has as a replica, otherwise the level.
fn place_word(at_replica: bool, level: ReadLevel) -> String {
    if at_replica { "replica".to_owned() } else { level.to_string() }
}

/// Reads what [`place_word`] writes: whether a replica is asked, and the level.
fn place(word: &str) -> Option<(bool, ReadLevel)> {
    if word == "replica" { Some((true, ReadLevel::Local)) } else { word.parse().ok().map(|level| (false, level)) }
}

fn push_number_word(number: u64, out: &mut Vec<u8>) {
    begin_bulk(decimal_digits(number), out);
    push_number(number, out);
    out.extend_from_slice(b"\r\n");
}

/// How many digits a number has in decimal.
fn decimal_digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::frame::{Frame, FrameDecoder};
    use crate::id::{Epoch, Version};

    pub(crate) fn with_words<T>(bytes: &[u8], read: impl FnOnce(Words<'_>) -> T) -> T {
        let mut decoder = FrameDecoder::new();
        match decoder.decode(bytes).unwrap().unwrap() {
            (Frame::Array(words), consumed) if consumed == bytes.len() => read(words),
            _ => panic!("not one array"),
        }
    }

    pub(crate) fn version(epoch: u64, seq: u64) -> Version {
        Version { epoch: Epoch(epoch), seq }
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
        assert!(is_greeting(&bytes));
    }
}
