//! Requests to bytes, and bytes to answers.
//!
//! A request goes as a line wherever a line carries it without ambiguity, and as an array elsewhere. The bytes of an
//! answer are looked for in the encoding of its request.

use proto::frame::{Encoding, Frame, FrameDecoder, encode_array};
use proto::reply::{Reply, ReplyDecoder};
use proto::request::{line_can_carry_key, line_can_put, verbs};

/// A request as it goes out.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) encoding: Encoding,
}

impl Request {
    pub(crate) fn put(key: &[u8], value: &[u8]) -> Self {
        let encoding = if line_can_put(key, value) { Encoding::Line } else { Encoding::Array };
        Self::encode(encoding, &[verbs::PUT.as_bytes(), key, value])
    }

    pub(crate) fn delete(key: &[u8]) -> Self {
        Self::encode(encoding_of_key(key), &[verbs::DELETE.as_bytes(), key])
    }

    /// A read by line, where the key allows it: a node then answers a value that is no line with `ERROR BINARY`.
    pub(crate) fn get(key: &[u8]) -> Self {
        Self::encode(encoding_of_key(key), &[verbs::GET.as_bytes(), key])
    }

    /// A read whose answer carries any value.
    pub(crate) fn get_bytes(key: &[u8]) -> Self {
        Self::encode(Encoding::Array, &[verbs::GET.as_bytes(), key])
    }

    /// A question to the coordinator, or to a node about itself: a verb and at most a key.
    pub(crate) fn question(verb: &str, key: Option<&[u8]>) -> Self {
        match key {
            None => Self::encode(Encoding::Line, &[verb.as_bytes()]),
            Some(key) => Self::encode(encoding_of_key(key), &[verb.as_bytes(), key]),
        }
    }

    fn encode(encoding: Encoding, words: &[&[u8]]) -> Self {
        let mut bytes = Vec::with_capacity(words.iter().map(|word| word.len() + 16).sum());
        match encoding {
            Encoding::Array => encode_array(words, &mut bytes),
            Encoding::Line => {
                for word in words {
                    bytes.extend_from_slice(word);
                    bytes.push(b' ');
                }
                // The blank after the last word becomes the end of the line.
                if let Some(last) = bytes.last_mut() {
                    *last = b'\n';
                }
            }
        }
        Self { bytes, encoding }
    }
}

fn encoding_of_key(key: &[u8]) -> Encoding {
    if line_can_carry_key(key) { Encoding::Line } else { Encoding::Array }
}

/// A node's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Ok,
    Value(Vec<u8>),
    NotFound,
    /// Any other line.
    Text(String),
    /// What follows `ERROR `.
    Error(String),
}

/// The bytes are no answer of this protocol: whoever sent them is no node of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what it answered is not of this protocol; something else may listen there")]
pub(crate) struct NotAnAnswer;

/// Finds one answer in a growing buffer.
#[derive(Debug)]
pub(crate) struct AnswerDecoder {
    encoding: Encoding,
    lines: FrameDecoder,
    arrays: ReplyDecoder,
}

impl AnswerDecoder {
    pub(crate) fn new(encoding: Encoding) -> Self {
        Self { encoding, lines: FrameDecoder::new(), arrays: ReplyDecoder::new() }
    }

    /// The answer at the start of `buf`, once all of it is there.
    pub(crate) fn decode(&mut self, buf: &[u8]) -> Result<Option<Answer>, NotAnAnswer> {
        // A node that turns a connection away says so before it has seen a request, and thus by line. No answer to an
        // array starts with that letter.
        let is_line = self.encoding == Encoding::Line || buf.first() == Some(&b'E');
        if is_line {
            match self.lines.decode(buf).map_err(|_| NotAnAnswer)? {
                None => Ok(None),
                Some((Frame::Line(line), _)) => answer_of_line(line).map(Some),
                Some((Frame::Array(_), _)) => Err(NotAnAnswer),
            }
        } else {
            let decoded = self.arrays.decode(buf).map_err(|_| NotAnAnswer)?;
            Ok(decoded.map(|(reply, _)| answer_of_reply(reply)))
        }
    }
}

fn answer_of_line(line: &[u8]) -> Result<Answer, NotAnAnswer> {
    if let Some(value) = line.strip_prefix(b"VALUE ") {
        return Ok(Answer::Value(value.to_vec()));
    }
    let line = std::str::from_utf8(line).map_err(|_| NotAnAnswer)?;
    Ok(match line {
        "OK" => Answer::Ok,
        "NOT_FOUND" => Answer::NotFound,
        _ => match line.strip_prefix("ERROR ") {
            Some(error) => Answer::Error(error.to_owned()),
            None => Answer::Text(line.to_owned()),
        },
    })
}

fn answer_of_reply(reply: Reply<'_>) -> Answer {
    match reply {
        Reply::Text("OK") => Answer::Ok,
        Reply::Text(text) => Answer::Text(text.to_owned()),
        Reply::Bulk(value) => Answer::Value(value.to_vec()),
        Reply::Null => Answer::NotFound,
        // `ERR` stands before the errors that have no code of their own.
        Reply::Error(error) => Answer::Error(error.strip_prefix("ERR ").unwrap_or(error).to_owned()),
    }
}

/// What an error answer says about the request's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Nothing happened; the same request may succeed in a moment.
    Later,
    /// Nothing happened, and the same request will not fare better.
    Never,
    /// It may or may not have taken effect.
    Unknown,
    /// The value is no line: read it with the array encoding.
    Binary,
}

pub(crate) fn meaning_of(error: &str) -> Meaning {
    match error.split(' ').next() {
        Some("UNAVAILABLE" | "BUSY" | "MOVED") => Meaning::Later,
        Some("UNKNOWN") => Meaning::Unknown,
        Some("BINARY") => Meaning::Binary,
        // A node that has just started knows of no node yet, itself included.
        _ if *error == *proto::error::ErrorReply::NoNodes.to_string() => Meaning::Later,
        _ => Meaning::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_used_where_it_carries_the_request() {
        let bytes = |request: Request| String::from_utf8_lossy(&request.bytes).into_owned();
        assert_eq!(bytes(Request::put(b"k", b"v w ")), "PUT k v w \n");
        assert_eq!(bytes(Request::put(b"k", b"")), "*3\r\n$3\r\nPUT\r\n$1\r\nk\r\n$0\r\n\r\n");
        assert_eq!(bytes(Request::put(b"k", b"v h:1,h:2")), "*3\r\n$3\r\nPUT\r\n$1\r\nk\r\n$9\r\nv h:1,h:2\r\n");
        assert_eq!(bytes(Request::get(b"k")), "GET k\n");
        assert_eq!(bytes(Request::get(b"a b")), "*2\r\n$3\r\nGET\r\n$3\r\na b\r\n");
        assert_eq!(bytes(Request::delete(b"k")), "DELETE k\n");
        assert_eq!(bytes(Request::question("INFO", None)), "INFO\n");
    }

    #[test]
    fn answers_in_both_encodings() {
        let decode = |encoding, bytes: &[u8]| AnswerDecoder::new(encoding).decode(bytes);
        for (encoding, bytes, answer) in [
            (Encoding::Line, &b"OK\n"[..], Answer::Ok),
            (Encoding::Line, b"VALUE  v \n", Answer::Value(b" v ".to_vec())),
            (Encoding::Line, b"NOT_FOUND\n", Answer::NotFound),
            (Encoding::Line, b"PONG\n", Answer::Text("PONG".into())),
            (Encoding::Line, b"ERROR BUSY full\n", Answer::Error("BUSY full".into())),
            (Encoding::Array, b"+OK\r\n", Answer::Ok),
            (Encoding::Array, b"$3\r\na\nb\r\n", Answer::Value(b"a\nb".to_vec())),
            (Encoding::Array, b"$-1\r\n", Answer::NotFound),
            (Encoding::Array, b"-BUSY full\r\n", Answer::Error("BUSY full".into())),
            (Encoding::Array, b"-ERR No nodes available\r\n", Answer::Error("No nodes available".into())),
            (Encoding::Array, b"ERROR BUSY full\n", Answer::Error("BUSY full".into())),
        ] {
            assert_eq!(decode(encoding, bytes), Ok(Some(answer)));
            assert_eq!(decode(encoding, &bytes[..bytes.len() - 1]), Ok(None));
        }
        assert_eq!(decode(Encoding::Line, b"*1\r\n$1\r\na\r\n"), Err(NotAnAnswer));
        assert_eq!(decode(Encoding::Array, b"HTTP/1.1 403 Forbidden\r\n"), Err(NotAnAnswer));
    }

    #[test]
    fn an_error_tells_what_may_be_done_next() {
        for (error, meaning) in [
            ("UNAVAILABLE x", Meaning::Later),
            ("BUSY x", Meaning::Later),
            ("No nodes available", Meaning::Later),
            ("UNKNOWN x", Meaning::Unknown),
            ("BINARY x", Meaning::Binary),
            ("TOOLONG x", Meaning::Never),
            ("Unknown command", Meaning::Never),
        ] {
            assert_eq!(meaning_of(error), meaning, "{error}");
        }
    }
}
