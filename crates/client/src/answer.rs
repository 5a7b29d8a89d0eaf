//! Encodes requests and decodes answers.
//!
//! A request goes as a line wherever a line can carry it unambiguously, and as an array otherwise. An answer is decoded
//! in the encoding of its request.

use proto::frame::{Encoding, Frame, FrameDecoder, encode_array};
use proto::id::Version;
use proto::level::{AckLevel, ReadLevel};
use proto::limits;
use proto::peer::{Change, Read, Wanted, Write};
use proto::range::{Keys, PageRequest};
use proto::reply::{Reply, ReplyDecoder};
use proto::request::{line_can_carry_key, line_can_put, verbs};

use crate::level::LevelRequirement;

/// An encoded request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) encoding: Encoding,
    /// What it needs of the connection that carries it.
    pub(crate) need: LevelRequirement,
    /// Whether an array in its answer is a list of keys.
    pub(crate) lists_keys: bool,
}

impl Request {
    /// A write, answered at `level`; the level within `write` is ignored.
    pub(crate) fn write(write: &Write<'_>, level: Option<AckLevel>) -> Self {
        let Write { key, change, expected, identity, .. } = *write;
        let seconds = match change {
            Change::PutFor(_, millis) | Change::Expire(millis) => (millis / 1_000).to_string(),
            Change::Put(_) | Change::Delete | Change::Persist | Change::Modify(_) => String::new(),
        };
        let (seq, version) = (identity.map(|identity| identity.seq.to_string()), expected.map(|v| v.to_string()));
        let mut words: Vec<&[u8]> = Vec::with_capacity(7);
        if let (Some(identity), Some(seq)) = (identity, &seq) {
            words.extend([verbs::ONCE.as_bytes(), identity.client, seq.as_bytes()]);
        }
        match (change, &version) {
            (Change::Put(value), None) => words.extend([verbs::PUT.as_bytes(), key, value]),
            (Change::Put(value), Some(_)) if expected == Some(Version::NONE) => {
                words.extend([verbs::PUTNX.as_bytes(), key, value]);
            }
            (Change::Put(value), Some(version)) => {
                words.extend([verbs::CAS.as_bytes(), key, version.as_bytes(), value]);
            }
            (Change::PutFor(value, _), _) => words.extend([verbs::PUTEX.as_bytes(), key, seconds.as_bytes(), value]),
            (Change::Delete, _) => words.extend([verbs::DELETE.as_bytes(), key]),
            (Change::Expire(_), _) => words.extend([verbs::EXPIRE.as_bytes(), key, seconds.as_bytes()]),
            (Change::Persist, _) => words.extend([verbs::PERSIST.as_bytes(), key]),
            (Change::Modify(_), _) => unreachable!("this client makes no read-modify-write"),
        }
        let by_line = match change {
            Change::Put(value) | Change::PutFor(value, _) => line_can_put(key, value),
            Change::Delete => line_can_carry_key(key),
            // Only an array distinguishes a number from everything else.
            Change::Expire(_) | Change::Persist | Change::Modify(_) => false,
        };
        Self { need: LevelRequirement::Ack(level), ..Self::encode(by_line, &words) }
    }

    /// A read, at `level`; the level within `read` is ignored. It goes as a line if the key allows it: a node then
    /// answers `ERROR BINARY` for a value that cannot go on a line. A read with a version, or for a number, goes as
    /// an array.
    pub(crate) fn read(read: &Read<'_>, level: Option<ReadLevel>) -> Self {
        let by_line = read.wanted == Wanted::Value && line_can_carry_key(read.key);
        Self {
            need: LevelRequirement::Read(level),
            ..Self::encode(by_line, &[read.wanted.verb().as_bytes(), read.key])
        }
    }

    /// A read whose answer can carry any value.
    pub(crate) fn read_bytes(read: &Read<'_>, level: Option<ReadLevel>) -> Self {
        Self { need: LevelRequirement::Read(level), ..Self::encode(false, &[read.wanted.verb().as_bytes(), read.key]) }
    }

    /// A page of a walk, at `level`. It goes as an array, which can carry any key.
    pub(crate) fn page(page: &PageRequest<'_>, level: Option<ReadLevel>) -> Self {
        let limit = page.limit.to_string();
        let mut words: Vec<&[u8]> = match page.keys {
            Keys::Prefix(prefix) => vec![verbs::PREFIX.as_bytes(), prefix],
            Keys::Between(from, to) => vec![verbs::RANGE.as_bytes(), from, to],
        };
        words.extend([verbs::LIMIT.as_bytes(), limit.as_bytes()]);
        if let Some(after) = page.after {
            words.extend([verbs::AFTER.as_bytes(), after]);
        }
        Self { need: LevelRequirement::Read(level), lists_keys: true, ..Self::encode(false, &words) }
    }

    /// A count of the keys with a prefix, at `level`.
    pub(crate) fn count(prefix: &[u8], level: Option<ReadLevel>) -> Self {
        Self { need: LevelRequirement::Read(level), ..Self::encode(false, &[verbs::COUNT.as_bytes(), prefix]) }
    }

    /// A question to the coordinator, or to a node about itself: a verb and at most one word.
    pub(crate) fn question(verb: &str, word: Option<&[u8]>) -> Self {
        match word {
            None => Self::encode(true, &[verb.as_bytes()]),
            Some(word) => Self::encode(line_can_carry_key(word), &[verb.as_bytes(), word]),
        }
    }

    /// A request to the coordinator with words that fit on a line.
    pub(crate) fn questions(verb: &str, words: &[&[u8]]) -> Self {
        Self::encode(true, &[&[verb.as_bytes()], words].concat())
    }

    fn encode(by_line: bool, words: &[&[u8]]) -> Self {
        // A line has room for the longest key and value and a short verb, but not for every prefix.
        let fits = words.iter().map(|word| word.len() + 1).sum::<usize>() <= limits::LINE_BYTES;
        let encoding = if by_line && fits { Encoding::Line } else { Encoding::Array };
        let mut bytes = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum());
        match encoding {
            Encoding::Array | Encoding::Resp3 => encode_array(words, &mut bytes),
            Encoding::Line => {
                for word in words {
                    bytes.extend_from_slice(word);
                    bytes.push(b' ');
                }
                // Turn the blank after the last word into the end of the line.
                if let Some(last) = bytes.last_mut() {
                    *last = b'\n';
                }
            }
        }
        Self { bytes, encoding, need: LevelRequirement::Nothing, lists_keys: false }
    }
}

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Value(Vec<u8>),
    Versioned(Version, Vec<u8>),
    NotFound,
    Number(i64),
    /// A conditional write produced this version.
    Written(Version),
    /// A conditional write found this version and changed nothing.
    Conflict(Version),
    /// The keys of a page.
    Keys(Vec<Vec<u8>>),
    /// Any other line.
    Text(String),
    /// What follows `ERROR `.
    Error(String),
}

/// The bytes are not an answer of this protocol: whoever sent them is not a node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its reply is not in this protocol; another service may be listening there")]
pub(crate) struct NotAnAnswer;

/// Finds one answer in a growing buffer.
#[derive(Debug)]
pub(crate) struct AnswerDecoder {
    encoding: Encoding,
    lists_keys: bool,
    /// For lines, and for lists of keys.
    frames: FrameDecoder,
    arrays: ReplyDecoder,
}

impl AnswerDecoder {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self { encoding, lists_keys: false, frames: FrameDecoder::new(), arrays: ReplyDecoder::new() }
    }

    /// A decoder for the answer to this request.
    pub(crate) fn of(request: &Request) -> Self {
        Self { lists_keys: request.lists_keys, ..Self::new(request.encoding) }
    }

    /// The answer at the start of `buf`, once it is complete, and its length in bytes.
    pub(crate) fn decode(&mut self, buf: &[u8]) -> Result<Option<(Answer, usize)>, NotAnAnswer> {
        // A node that turns a connection away says so before it has seen a request, and therefore as a line. No answer
        // in the array encoding starts with this letter.
        let is_line = self.encoding == Encoding::Line || buf.first() == Some(&b'E');
        if self.lists_keys && buf.first() == Some(&b'*') {
            match self.frames.decode(buf).map_err(|_| NotAnAnswer)? {
                None => Ok(None),
                Some((Frame::Array(words), used)) => {
                    Ok(Some((Answer::Keys(words.map(<[u8]>::to_vec).collect()), used)))
                }
                Some((Frame::Line(_), _)) => Err(NotAnAnswer),
            }
        } else if is_line {
            match self.frames.decode(buf).map_err(|_| NotAnAnswer)? {
                None => Ok(None),
                Some((Frame::Line(line), used)) => Ok(Some((answer_of_line(line)?, used))),
                Some((Frame::Array(_), _)) => Err(NotAnAnswer),
            }
        } else {
            match self.arrays.decode(buf).map_err(|_| NotAnAnswer)? {
                None => Ok(None),
                Some((reply, used)) => Ok(Some((answer_of_reply(reply)?, used))),
            }
        }
    }
}

fn answer_of_line(line: &[u8]) -> Result<Answer, NotAnAnswer> {
    if let Some(value) = line.strip_prefix(b"VALUE ") {
        return Ok(Answer::Value(value.to_vec()));
    }
    let line = std::str::from_utf8(line).map_err(|_| NotAnAnswer)?;
    Ok(match line.strip_prefix("ERROR ") {
        Some(error) => Answer::Error(error.to_owned()),
        None if line == "NOT_FOUND" => Answer::NotFound,
        None => answer_of_text(line),
    })
}

fn answer_of_reply(reply: Reply<'_>) -> Result<Answer, NotAnAnswer> {
    Ok(match reply {
        Reply::Text(text) => answer_of_text(text),
        Reply::Bulk(value) => Answer::Value(value.to_vec()),
        Reply::Pair(version, value) => {
            let version = std::str::from_utf8(version).ok().and_then(|version| version.parse().ok());
            Answer::Versioned(version.ok_or(NotAnAnswer)?, value.to_vec())
        }
        Reply::Null => Answer::NotFound,
        // `ERR` prefixes errors that have no code of their own.
        Reply::Error(error) => Answer::Error(error.strip_prefix("ERR ").unwrap_or(error).to_owned()),
        Reply::Number(number) => Answer::Number(number),
    })
}

fn answer_of_text(text: &str) -> Answer {
    match text.split_once(' ').map(|(word, version)| (word, version.parse())) {
        None if text == "OK" => Answer::Ok,
        Some(("OK", Ok(version))) => Answer::Written(version),
        Some(("CONFLICT", Ok(version))) => Answer::Conflict(version),
        _ => Answer::Text(text.to_owned()),
    }
}

/// What an error answer says about the request's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing happened; the same request may succeed in a moment.
    Later,
    /// Nothing happened, and the same request would fare no better.
    Never,
    /// It may or may not have taken effect.
    Unknown,
    /// The value cannot go on a line: read it with the array encoding.
    Binary,
}

pub(crate) fn meaning_of(error: &str) -> Meaning {
    match error.split(' ').next() {
        Some("UNAVAILABLE" | "BUSY" | "MOVED") => Meaning::Later,
        // Memory frees up once somebody makes room; no client achieves that by repeating its write.
        Some("FULL") => Meaning::Never,
        Some("UNKNOWN") => Meaning::Unknown,
        Some("BINARY") => Meaning::Binary,
        // A node that has just started does not know any nodes yet, itself included.
        _ if *error == *proto::error::ErrorReply::NoNodes.to_string() => Meaning::Later,
        // BUSY, as a connection that begins with an array is told it.
        _ if error == "max number of clients reached" => Meaning::Later,
        _ => Meaning::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::peer::Identity;

    fn text(request: Request) -> String {
        String::from_utf8_lossy(&request.bytes).into_owned()
    }

    #[test]
    fn a_server_without_room_may_have_some_later_in_either_encoding() {
        let line = proto::error::ErrorReply::too_many_clients(7).to_string();
        assert_eq!([meaning_of(&line), meaning_of("max number of clients reached")], [Meaning::Later; 2]);
    }

    #[test]
    fn a_line_is_used_where_it_carries_the_request() {
        let put = |value| text(Request::write(&Write::new(b"k", Change::Put(value)), None));
        assert_eq!(put(b"v w "), "PUT k v w \n");
        assert_eq!(put(b""), "*3\r\n$3\r\nPUT\r\n$1\r\nk\r\n$0\r\n\r\n");
        assert_eq!(put(b"v h:1,h:2"), "*3\r\n$3\r\nPUT\r\n$1\r\nk\r\n$9\r\nv h:1,h:2\r\n");
        let read = |key, wanted| text(Request::read(&Read { key, wanted, level: ReadLevel::Local }, None));
        assert_eq!(read(b"k", Wanted::Value), "GET k\n");
        assert_eq!(read(b"k", Wanted::Ttl), "*2\r\n$3\r\nTTL\r\n$1\r\nk\r\n");
        assert_eq!(read(b"a b", Wanted::Value), "*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
        assert_eq!(read(b"k", Wanted::Versioned), "*2\r\n$4\r\nGETV\r\n$1\r\nk\r\n");
        assert_eq!(text(Request::question("INFO", None)), "INFO\n");
    }

    #[test]
    fn a_write_carries_its_condition_and_identity() {
        let put = Write::new(b"k", Change::Put(b"v"));
        let identity = Some(Identity { client: b"me", seq: 7 });
        let version: Version = "3-12".parse().unwrap();
        for (write, line) in [
            (Write { identity, ..put }, "ONCE me 7 PUT k v\n"),
            (Write { identity, expected: Some(version), ..put }, "ONCE me 7 CAS k 3-12 v\n"),
            (Write { identity, expected: Some(Version::NONE), ..put }, "ONCE me 7 PUTNX k v\n"),
            (Write { identity, change: Change::Delete, ..put }, "ONCE me 7 DELETE k\n"),
            (Write { identity, change: Change::PutFor(b"v", 60_000), ..put }, "ONCE me 7 PUTEX k 60 v\n"),
        ] {
            let line_read = text(Request::write(&write, None));
            assert_eq!(line_read, line);
            let read = proto::request::NodeRequest::parse(Frame::Line(line_read.trim_end().as_bytes()));
            assert_eq!(read, Ok(proto::request::NodeRequest::Write(write)));
        }
    }

    #[test]
    fn what_no_line_has_room_for_goes_as_an_array() {
        let (key, value) = (vec![b'k'; limits::KEY_BYTES], vec![b'v'; limits::VALUE_BYTES]);
        let identity = Some(Identity { client: &[b'c'; limits::CLIENT_BYTES], seq: 1 });
        let put = Write::new(&key, Change::Put(&value));
        assert_eq!(Request::write(&put, None).encoding, Encoding::Line);
        assert_eq!(Request::write(&Write { identity, ..put }, None).encoding, Encoding::Array);
    }

    #[test]
    fn answers_in_both_encodings() {
        let decode = |encoding, bytes: &[u8]| AnswerDecoder::new(encoding).decode(bytes);
        let version: Version = "3-12".parse().unwrap();
        for (encoding, bytes, answer) in [
            (Encoding::Line, &b"OK\n"[..], Answer::Ok),
            (Encoding::Line, b"OK 3-12\n", Answer::Written(version)),
            (Encoding::Line, b"CONFLICT 0\n", Answer::Conflict(Version::NONE)),
            (Encoding::Line, b"OK Node h:1\n", Answer::Text("OK Node h:1".into())),
            (Encoding::Line, b"VALUE  v \n", Answer::Value(b" v ".to_vec())),
            (Encoding::Line, b"NOT_FOUND\n", Answer::NotFound),
            (Encoding::Line, b"PONG\n", Answer::Text("PONG".into())),
            (Encoding::Line, b"ERROR BUSY full\n", Answer::Error("BUSY full".into())),
            (Encoding::Array, b"+OK\r\n", Answer::Ok),
            (Encoding::Array, b"+OK 3-12\r\n", Answer::Written(version)),
            (Encoding::Array, b"+CONFLICT 3-12\r\n", Answer::Conflict(version)),
            (Encoding::Array, b"$3\r\na\nb\r\n", Answer::Value(b"a\nb".to_vec())),
            (Encoding::Array, b"*2\r\n$4\r\n3-12\r\n$1\r\nv\r\n", Answer::Versioned(version, b"v".to_vec())),
            (Encoding::Array, b"$-1\r\n", Answer::NotFound),
            (Encoding::Array, b":-2\r\n", Answer::Number(-2)),
            (Encoding::Array, b":12\r\n", Answer::Number(12)),
            (Encoding::Array, b"-BUSY full\r\n", Answer::Error("BUSY full".into())),
            (Encoding::Array, b"-ERR No nodes available\r\n", Answer::Error("No nodes available".into())),
            (Encoding::Array, b"ERROR BUSY full\n", Answer::Error("BUSY full".into())),
        ] {
            assert_eq!(decode(encoding, bytes), Ok(Some((answer, bytes.len()))));
            assert_eq!(decode(encoding, &bytes[..bytes.len() - 1]), Ok(None));
        }
        assert_eq!(decode(Encoding::Line, b"*1\r\n$1\r\na\r\n"), Err(NotAnAnswer));
        for bytes in [&b"HTTP/1.1 403 Forbidden\r\n"[..], b":x\r\n", b"*2\r\n$1\r\nx\r\n$1\r\nv\r\n"] {
            assert_eq!(decode(Encoding::Array, bytes), Err(NotAnAnswer));
        }
    }

    #[test]
    fn keys_are_a_list_however_many_they_are() {
        let page = |after| Request::page(&PageRequest { keys: Keys::Prefix(b"p"), limit: 7, after }, None);
        assert_eq!(text(page(None)), "*4\r\n$6\r\nPREFIX\r\n$1\r\np\r\n$5\r\nLIMIT\r\n$1\r\n7\r\n");
        let request = page(Some(b"a\n"));
        let keys = |keys: &[&str]| Answer::Keys(keys.iter().map(|key| key.as_bytes().to_vec()).collect());
        for (bytes, answer) in [
            (&b"*0\r\n"[..], keys(&[])),
            (b"*2\r\n$1\r\na\r\n$2\r\nb\n\r\n", keys(&["a", "b\n"])),
            (b"-UNAVAILABLE x\r\n", Answer::Error("UNAVAILABLE x".into())),
        ] {
            let mut decoder = AnswerDecoder::of(&request);
            assert_eq!(decoder.decode(&bytes[..bytes.len() - 1]), Ok(None));
            assert_eq!(decoder.decode(bytes), Ok(Some((answer, bytes.len()))));
        }
    }

    #[test]
    fn an_error_tells_what_may_be_done_next() {
        for (error, meaning) in [
            ("UNAVAILABLE x", Meaning::Later),
            ("BUSY x", Meaning::Later),
            ("FULL x", Meaning::Never),
            ("No nodes available", Meaning::Later),
            ("UNKNOWN x", Meaning::Unknown),
            ("STALE x", Meaning::Never),
            ("BINARY x", Meaning::Binary),
            ("TOOLONG x", Meaning::Never),
            ("Unknown command", Meaning::Never),
        ] {
            assert_eq!(meaning_of(error), meaning, "{error}");
        }
    }
}
