//! Answers, and their bytes in both encodings.

use crate::error::ErrorReply;
use crate::frame::{self, Encoding};
use crate::id::Version;
use crate::request::line_can_carry_key;

/// An answer to one request. It borrows what it can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// `OK`.
    Ok,
    /// `PONG`.
    Pong,
    /// A status word, answered the way Redis answers `OK`.
    Simple(&'static str),
    /// One line of text, such as `OK Node 127.0.0.1:5001 registered`.
    Text(String),
    /// Several lines, followed by an empty line on a line connection.
    Lines(Vec<String>),
    /// The keys of one page of a walk, in ascending order.
    Page(Vec<Box<[u8]>>),
    /// Some keys of a scan, and the cursor to continue from.
    Scanned(u64, Vec<Box<[u8]>>),
    /// A stored value.
    Value(&'a [u8]),
    /// A stored value and the version of its key.
    Versioned(Version, &'a [u8]),
    /// A conditional write took effect and made this version.
    Written(Version),
    /// A conditional write found this version and changed nothing; [`Version::NONE`]: the key is absent.
    Conflict(Version),
    /// A number: a count of keys, or an integer reply of Redis.
    Number(i64),
    /// The key is absent.
    NotFound,
    /// An error.
    Error(ErrorReply),
}

impl Response<'_> {
    /// How many there are of something.
    #[must_use]
    pub fn count(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// Figures, each a name, a blank and a number.
    #[must_use]
    pub fn stats(figures: Vec<String>) -> Self {
        Self::Lines(std::iter::once(format!("OK {} stats:", figures.len())).chain(figures).collect())
    }

    /// The stored value in the answer, if any.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Value(value) | Self::Versioned(_, value) => Some(value),
            _ => None,
        }
    }

    /// Appends the answer in the encoding of its request.
    pub fn encode(&self, encoding: Encoding, out: &mut Vec<u8>) {
        match encoding {
            Encoding::Line => self.encode_line(out),
            Encoding::Resp3 if *self == Self::NotFound => out.extend_from_slice(b"_\r\n"),
            Encoding::Array | Encoding::Resp3 => self.encode_resp(out),
        }
    }

    fn encode_line(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok => out.extend_from_slice(b"OK"),
            Self::Pong => out.extend_from_slice(b"PONG"),
            Self::Simple(word) => out.extend_from_slice(word.as_bytes()),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Lines(lines) => {
                for line in lines {
                    out.extend_from_slice(line.as_bytes());
                    out.push(b'\n');
                }
            }
            Self::Page(keys) | Self::Scanned(_, keys) => {
                if let Some(key) = keys.iter().find(|key| !line_can_carry_key(key)) {
                    return Self::Error(ErrorReply::BinaryKey { len: key.len() }).encode_line(out);
                }
                let behind = if let Self::Scanned(cursor, _) = self { format!(" {cursor}") } else { String::new() };
                out.extend_from_slice(format!("OK {}:{behind}\n", keys.len()).as_bytes());
                for key in keys {
                    out.extend_from_slice(key);
                    out.push(b'\n');
                }
            }
            Self::Value(value) if is_line(value) => {
                out.extend_from_slice(b"VALUE ");
                out.extend_from_slice(value);
            }
            Self::Versioned(version, value) if is_line(value) => {
                out.extend_from_slice(format!("VALUE {version} ").as_bytes());
                out.extend_from_slice(value);
            }
            Self::Written(version) => out.extend_from_slice(format!("OK {version}").as_bytes()),
            Self::Conflict(version) => out.extend_from_slice(format!("CONFLICT {version}").as_bytes()),
            Self::Value(value) | Self::Versioned(_, value) => {
                return Self::Error(ErrorReply::Binary { len: value.len() }).encode_line(out);
            }
            Self::Number(number) => out.extend_from_slice(format!("OK {number}").as_bytes()),
            Self::NotFound => out.extend_from_slice(b"NOT_FOUND"),
            Self::Error(error) => {
                out.extend_from_slice(b"ERROR ");
                out.extend(one_line(error));
            }
        }
        out.push(b'\n');
    }

    fn encode_resp(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ok => out.extend_from_slice(b"+OK\r\n"),
            Self::Pong => out.extend_from_slice(b"+PONG\r\n"),
            Self::Simple(word) => out.extend_from_slice(format!("+{word}\r\n").as_bytes()),
            Self::Text(text) => frame::push_word(text.as_bytes(), out),
            Self::Lines(lines) => frame::encode_array(lines, out),
            Self::Page(keys) => frame::encode_array(keys, out),
            Self::Scanned(cursor, keys) => {
                frame::begin_array(2, out);
                frame::push_word(cursor.to_string().as_bytes(), out);
                frame::encode_array(keys, out);
            }
            Self::Value(value) => frame::push_word(value, out),
            Self::Versioned(version, value) => {
                frame::begin_array(2, out);
                frame::push_word(version.to_string().as_bytes(), out);
                frame::push_word(value, out);
            }
            Self::Written(version) => out.extend_from_slice(format!("+OK {version}\r\n").as_bytes()),
            Self::Conflict(version) => out.extend_from_slice(format!("+CONFLICT {version}\r\n").as_bytes()),
            Self::Number(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Self::NotFound => out.extend_from_slice(b"$-1\r\n"),
            Self::Error(error) => {
                // A RESP error starts with a code. The errors of the first version have none, so they get Redis's
                // `ERR`.
                out.extend_from_slice(if error.code().is_some() { b"-" } else { b"-ERR " });
                out.extend(one_line(error));
                out.extend_from_slice(b"\r\n");
            }
        }
    }
}

/// The text of an error as a single line: it may quote what others have sent, line breaks included.
fn one_line(error: &ErrorReply) -> impl Iterator<Item = u8> {
    error.to_string().into_bytes().into_iter().map(|byte| if byte == b'\n' || byte == b'\r' { b' ' } else { byte })
}

/// Whether a line can carry the value and return it unchanged: UTF-8, no newline, and no carriage return at its end.
#[must_use]
pub fn is_line(value: &[u8]) -> bool {
    memchr::memchr(b'\n', value).is_none() && value.last() != Some(&b'\r') && std::str::from_utf8(value).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(response: &Response<'_>) -> (String, String) {
        let mut resp = Vec::new();
        response.encode(Encoding::Array, &mut resp);
        (on_a_line(response), String::from_utf8(resp).unwrap())
    }

    fn on_a_line(response: &Response<'_>) -> String {
        let mut line = Vec::new();
        response.encode(Encoding::Line, &mut line);
        String::from_utf8(line).unwrap()
    }

    const V: Version = Version { epoch: crate::id::Epoch(3), seq: 12 };

    #[test]
    fn each_answer_in_both_encodings() {
        let cases = [
            (Response::Ok, "OK\n", "+OK\r\n"),
            (Response::Pong, "PONG\n", "+PONG\r\n"),
            (Response::Text("OK x".into()), "OK x\n", "$4\r\nOK x\r\n"),
            (Response::Lines(vec!["a".into(), "b".into()]), "a\nb\n\n", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
            (Response::Page(vec![(*b"a").into(), (*b"b").into()]), "OK 2:\na\nb\n\n", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
            (Response::Page(Vec::new()), "OK 0:\n\n", "*0\r\n"),
            (Response::Number(12), "OK 12\n", ":12\r\n"),
            (Response::Value(b"v w "), "VALUE v w \n", "$4\r\nv w \r\n"),
            (Response::Value(b""), "VALUE \n", "$0\r\n\r\n"),
            (Response::Versioned(V, b"v w "), "VALUE 3-12 v w \n", "*2\r\n$4\r\n3-12\r\n$4\r\nv w \r\n"),
            (Response::Written(V), "OK 3-12\n", "+OK 3-12\r\n"),
            (Response::Conflict(Version::NONE), "CONFLICT 0\n", "+CONFLICT 0\r\n"),
            (Response::Number(-2), "OK -2\n", ":-2\r\n"),
            (Response::NotFound, "NOT_FOUND\n", "$-1\r\n"),
            (Response::Error(ErrorReply::UnknownCommand), "ERROR Unknown command\n", "-ERR Unknown command\r\n"),
            (Response::Error(ErrorReply::Unavailable("no".into())), "ERROR UNAVAILABLE no\n", "-UNAVAILABLE no\r\n"),
        ];
        for (response, line, resp) in cases {
            assert_eq!(both(&response), (line.to_owned(), resp.to_owned()));
        }
    }

    #[test]
    fn a_key_that_is_no_word_is_not_listed_on_a_line() {
        for key in [&b"a b"[..], b"", b"a\n", b"\xff"] {
            let line = on_a_line(&Response::Page(vec![(*b"a").into(), key.into()]));
            assert!(line.starts_with("ERROR BINARY key is not a word of a line ("), "{line}");
        }
    }

    #[test]
    fn an_error_is_one_line_whatever_it_quotes() {
        let error = Response::Error(ErrorReply::NotPeer("cluster a\r\n+OK".into()));
        assert_eq!(both(&error), ("ERROR NOTPEER cluster a  +OK\n".into(), "-NOTPEER cluster a  +OK\r\n".into()));
    }

    #[test]
    fn a_value_that_is_no_line_says_so_on_a_line() {
        let text = "ERROR BINARY value is not a line of text (3 bytes); read it with the array encoding\n";
        for value in [&b"a\nb"[..], b"ab\r", b"a\xffb"] {
            let mut line = Vec::new();
            Response::Value(value).encode(Encoding::Line, &mut line);
            assert_eq!(line, if value.len() == 3 { text.as_bytes() } else { b"" });
        }
    }
}
