//! Parsing RESP2 answers, for senders of array requests.

use crate::error::ErrorReply;
use crate::limits;
use crate::response::Response;

/// An answer to an array request. It borrows the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A short text, such as `OK`.
    Text(&'a str),
    /// An error: its code, a blank, and what happened.
    Error(&'a str),
    /// A number.
    Number(i64),
    /// Bytes.
    Bulk(&'a [u8]),
    /// Two byte strings: a version and a value.
    Pair(&'a [u8], &'a [u8]),
    /// Absent.
    Null,
}

/// The bytes are not an answer of this protocol; the connection is unusable from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid reply: {0}")]
pub struct ReplyError(&'static str);

/// Finds answers in a growing buffer, as [`crate::frame::FrameDecoder`] finds requests.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    scanned: usize,
    /// The start of the line being scanned for.
    line_start: usize,
    /// The start and length of a bulk string, once its header has been read.
    bulk: Option<(usize, usize)>,
    /// `Some` inside a pair; its content is the first string, once that has been read.
    pair: Option<Option<(usize, usize)>>,
}

impl ReplyDecoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for one answer at the start of `buf`; returns it with the number of bytes it took.
    ///
    /// # Errors
    /// The bytes are not an answer; close the connection.
    pub fn decode<'a>(&mut self, buf: &'a [u8]) -> Result<Option<(Reply<'a>, usize)>, ReplyError> {
        loop {
            let decoded = match (self.advance(buf)?, self.pair) {
                (None, _) => return Ok(None),
                (Some((reply, end)), None) => (reply, end),
                (Some((Reply::Bulk(bytes), end)), Some(None)) => {
                    self.pair = Some(Some((end - 2 - bytes.len(), bytes.len())));
                    (self.scanned, self.line_start, self.bulk) = (end, end, None);
                    continue;
                }
                (Some((Reply::Bulk(second), end)), Some(Some((start, len)))) => {
                    let first = buf.get(start..start + len).ok_or(ReplyError("a buffer that has shrunk"))?;
                    (Reply::Pair(first, second), end)
                }
                (Some(_), Some(_)) => return Err(ReplyError("an array with elements other than strings")),
            };
            *self = Self::default();
            return Ok(Some(decoded));
        }
    }

    fn advance<'a>(&mut self, buf: &'a [u8]) -> Result<Option<(Reply<'a>, usize)>, ReplyError> {
        if let Some((start, len)) = self.bulk {
            return bulk(buf, start, len);
        }
        let Some(found) = memchr::memchr(b'\n', buf.get(self.scanned..).unwrap_or_default()) else {
            self.scanned = buf.len();
            return if buf.len() > limits::LINE_BYTES { Err(ReplyError("a line without an end")) } else { Ok(None) };
        };
        let end = self.scanned + found;
        let line =
            buf.get(self.line_start..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(ReplyError("no CR LF"))?;
        let (mark, rest) = line.split_first().ok_or(ReplyError("an empty line"))?;
        let text = std::str::from_utf8(rest).map_err(|_| ReplyError("a header that is not text"))?;
        match mark {
            b'+' => Ok(Some((Reply::Text(text), end + 1))),
            b':' => {
                let number = text.parse().map_err(|_| ReplyError("an invalid number"))?;
                Ok(Some((Reply::Number(number), end + 1)))
            }
            b'*' if text == "2" && self.pair.is_none() => {
                self.pair = Some(None);
                (self.scanned, self.line_start) = (end + 1, end + 1);
                self.advance(buf)
            }
            b'-' => Ok(Some((Reply::Error(text), end + 1))),
            b'$' if text == "-1" => Ok(Some((Reply::Null, end + 1))),
            b'$' => {
                let len: usize = text.parse().map_err(|_| ReplyError("an invalid length"))?;
                if len > limits::ARRAY_BYTES {
                    return Err(ReplyError("a length over the limit"));
                }
                self.bulk = Some((end + 1, len));
                bulk(buf, end + 1, len)
            }
            _ => Err(ReplyError("an unknown kind of answer")),
        }
    }
}

fn bulk(buf: &[u8], start: usize, len: usize) -> Result<Option<(Reply<'_>, usize)>, ReplyError> {
    let end = start + len;
    match (buf.get(start..end), buf.get(end..end + 2)) {
        (Some(bytes), Some(b"\r\n")) => Ok(Some((Reply::Bulk(bytes), end + 2))),
        (_, Some(_)) => Err(ReplyError("a bulk string that does not end with CR LF")),
        _ => Ok(None),
    }
}

impl<'a> From<Reply<'a>> for Response<'a> {
    /// Converts another node's answer so that it can be passed on.
    fn from(reply: Reply<'a>) -> Self {
        match reply {
            Reply::Text("OK") => Response::Ok,
            Reply::Text("PONG") => Response::Pong,
            Reply::Text("string") => Response::Simple("string"),
            Reply::Text("none") => Response::Simple("none"),
            Reply::Text(text) => match text.split_once(' ').map(|(word, version)| (word, version.parse())) {
                Some(("OK", Ok(version))) => Response::Written(version),
                Some(("CONFLICT", Ok(version))) => Response::Conflict(version),
                _ => Response::Text(text.to_owned()),
            },
            Reply::Number(number) => Response::Number(number),
            Reply::Bulk(value) => Response::Value(value),
            Reply::Pair(version, value) => match std::str::from_utf8(version).map(str::parse) {
                Ok(Ok(version)) => Response::Versioned(version, value),
                _ => Response::Error(ErrorReply::Unavailable("the other node sent no version".to_owned())),
            },
            Reply::Null => Response::NotFound,
            Reply::Error(text) => Response::Error(error_of(text)),
        }
    }
}

fn error_of(text: &str) -> ErrorReply {
    let (code, what) = text.split_once(' ').unwrap_or((text, ""));
    match code {
        "MOVED" => ErrorReply::Moved,
        "LONG" => ErrorReply::Long,
        "ERR" => ErrorReply::redis(text.to_owned()),
        "BUSY" => ErrorReply::Busy(what.to_owned()),
        "FULL" => ErrorReply::Full(what.to_owned()),
        "UNKNOWN" => ErrorReply::Unknown(what.to_owned()),
        "STALE" => ErrorReply::Stale(what.to_owned()),
        "UNAVAILABLE" => ErrorReply::Unavailable(what.to_owned()),
        "NOTPEER" => ErrorReply::NotPeer(what.to_owned()),
        _ => ErrorReply::Unavailable(format!("the other node refused: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_however_they_are_cut() {
        for (bytes, expected) in [
            (&b"+OK\r\n"[..], Reply::Text("OK")),
            (b"-MOVED x y\r\n", Reply::Error("MOVED x y")),
            (b"$3\r\na\nb\r\n", Reply::Bulk(b"a\nb")),
            (b"$0\r\n\r\n", Reply::Bulk(b"")),
            (b"$-1\r\n", Reply::Null),
            (b":12\r\n", Reply::Number(12)),
            (b":-2\r\n", Reply::Number(-2)),
            (b"*2\r\n$3\r\n1-2\r\n$4\r\na\r\nb\r\n", Reply::Pair(b"1-2", b"a\r\nb")),
        ] {
            let mut decoder = ReplyDecoder::new();
            for cut in 0..bytes.len() {
                assert_eq!(decoder.decode(&bytes[..cut]), Ok(None));
            }
            assert_eq!(decoder.decode(bytes), Ok(Some((expected, bytes.len()))));
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [
            &b"OK\r\n"[..],
            b"+OK\n",
            b"$x\r\n",
            b"$1\r\nabc",
            b"\r\n",
            b"$999999999999\r\n",
            b"*3\r\n",
            b"*2\r\n*2\r\n",
            b"*2\r\n+a\r\n",
            b":x\r\n",
        ] {
            assert!(ReplyDecoder::new().decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn errors_keep_their_meaning_when_passed_on() {
        for error in [
            ErrorReply::Moved,
            ErrorReply::Long,
            ErrorReply::Busy("full".into()),
            ErrorReply::Full("all".into()),
            ErrorReply::Unknown("lost".into()),
            ErrorReply::Stale("old".into()),
            ErrorReply::Unavailable("none".into()),
            ErrorReply::redis("ERR value is not an integer or out of range"),
        ] {
            let mut bytes = Vec::new();
            Response::Error(error.clone()).encode(crate::frame::Encoding::Array, &mut bytes);
            let (reply, _) = ReplyDecoder::new().decode(&bytes).unwrap().unwrap();
            assert_eq!(Response::from(reply), Response::Error(error));
        }
    }
}
