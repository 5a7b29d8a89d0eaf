//! Finds where an answer ends, and what it says.

use proto::frame::Encoding;

/// A message shows at most this much of what a server said, in bytes: more than any of our errors has.
const MESSAGE_BYTES: usize = 1_000;

/// What must come back for a request unless it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Confirmation that it was done.
    Done,
    /// Confirmation that it was done, and WAIT's that this many replicas have it.
    Replicated(u8),
    /// A value, or that there is none.
    Value,
    /// A page of keys.
    Page,
}

/// What a server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// It is done.
    Done,
    /// The value.
    Value(&'a [u8]),
    /// There is none.
    Missing,
    /// This many keys.
    Page(usize),
    /// An error, in the server's words.
    Refused(&'a [u8]),
}

/// The first line of what a server said, for an error message.
pub(crate) fn first_line(said: &[u8]) -> String {
    let end = said.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(said.len());
    let line = String::from_utf8_lossy(said.get(..end.min(MESSAGE_BYTES)).unwrap_or_default());
    let printed = line.chars().map(|it| if it.is_control() { it.escape_default().to_string() } else { it.to_string() });
    let rest = if end > MESSAGE_BYTES { "..." } else { "" };
    printed.chain([rest.to_owned()]).collect()
}

/// These bytes cannot begin an answer to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply does not match the request")]
pub struct Malformed;

/// A complete answer at the start of some bytes, and its length; `None` if more must arrive.
type Found<'a> = Result<Option<(Reply<'a>, usize)>, Malformed>;

/// Reads one answer from the start of the received bytes.
///
/// # Errors
/// If the bytes are not an answer to such a request.
pub fn read(bytes: &[u8], encoding: Encoding, wanted: Wanted) -> Found<'_> {
    match encoding {
        Encoding::Line => read_line(bytes, wanted),
        Encoding::Array | Encoding::Resp3 => read_array(bytes, wanted),
    }
}

fn read_line(bytes: &[u8], wanted: Wanted) -> Found<'_> {
    let Some((line, used)) = line(bytes) else { return Ok(None) };
    if line.starts_with(b"ERROR ") {
        return Ok(Some((Reply::Refused(line), used)));
    }
    let reply = match wanted {
        Wanted::Done if line == b"OK" => Reply::Done,
        Wanted::Value if line == b"NOT_FOUND" => Reply::Missing,
        Wanted::Value => Reply::Value(line.strip_prefix(b"VALUE ").ok_or(Malformed)?),
        Wanted::Page => {
            let count = line.strip_prefix(b"OK ").and_then(|rest| rest.strip_suffix(b":")).ok_or(Malformed)?;
            return page_of_lines(bytes, used, number(count)?);
        }
        Wanted::Done | Wanted::Replicated(_) => return Err(Malformed),
    };
    Ok(Some((reply, used)))
}

/// The keys, one per line, and the empty line after them.
fn page_of_lines(bytes: &[u8], mut used: usize, count: usize) -> Found<'_> {
    for _ in 0..=count {
        match line(bytes.get(used..).unwrap_or_default()) {
            Some((_, more)) => used += more,
            None => return Ok(None),
        }
    }
    Ok(Some((Reply::Page(count), used)))
}

fn read_array(bytes: &[u8], wanted: Wanted) -> Found<'_> {
    let Some((head, used)) = line(bytes) else { return Ok(None) };
    let rest = bytes.get(used..).unwrap_or_default();
    match (head.split_first().ok_or(Malformed)?, wanted) {
        ((b'-', error), Wanted::Replicated(_)) => {
            // The answer to WAIT follows, whatever it is.
            Ok(line(rest).map(|(_, more)| (Reply::Refused(error), used + more)))
        }
        ((b'-', error), _) => Ok(Some((Reply::Refused(error), used))),
        ((b'+', b"OK"), Wanted::Done) => Ok(Some((Reply::Done, used))),
        ((b'+', b"OK"), Wanted::Replicated(replicas)) => {
            let Some((waited, more)) = line(rest) else { return Ok(None) };
            let enough = match waited.split_first().ok_or(Malformed)? {
                (b':', count) => number(count)? >= replicas.into(),
                _ => false,
            };
            Ok(Some((if enough { Reply::Done } else { Reply::Refused(waited) }, used + more)))
        }
        ((b'$', b"-1"), Wanted::Value) => Ok(Some((Reply::Missing, used))),
        ((b'$', length), Wanted::Value) => {
            let length = number(length)?;
            let value = rest.get(..length).filter(|_| rest.len() >= length + 2);
            Ok(value.map(|value| (Reply::Value(value), used + length + 2)))
        }
        ((b'*', count), Wanted::Page) => page_of_words(bytes, used, number(count)?),
        _ => Err(Malformed),
    }
}

fn page_of_words(bytes: &[u8], mut used: usize, count: usize) -> Found<'_> {
    for _ in 0..count {
        let Some((head, more)) = line(bytes.get(used..).unwrap_or_default()) else { return Ok(None) };
        used += more + number(head.strip_prefix(b"$").ok_or(Malformed)?)? + 2;
    }
    Ok((used <= bytes.len()).then_some((Reply::Page(count), used)))
}

/// A line without its line end, and its length including it.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = bytes.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
}

/// A length that fits in memory.
fn number(digits: &[u8]) -> Result<usize, Malformed> {
    if digits.is_empty() || digits.len() > 9 {
        return Err(Malformed);
    }
    digits.iter().try_fold(0, |number, digit| {
        if digit.is_ascii_digit() { Ok(number * 10 + usize::from(digit - b'0')) } else { Err(Malformed) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_shows_the_first_line_of_what_a_server_said() {
        assert_eq!(first_line(b"-ERR the key\'s \x01\xff\r\n+OK\r\n"), "-ERR the key's \\u{1}\u{fffd}");
        assert_eq!(first_line(&[b'a'; 1_001]).len(), 1_003);
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        for (encoding, wanted, bytes, reply) in [
            (Encoding::Line, Wanted::Done, &b"OK\n"[..], Reply::Done),
            (Encoding::Line, Wanted::Value, b"VALUE a b\n", Reply::Value(b"a b")),
            (Encoding::Line, Wanted::Value, b"VALUE \n", Reply::Value(b"")),
            (Encoding::Line, Wanted::Value, b"NOT_FOUND\n", Reply::Missing),
            (Encoding::Line, Wanted::Done, b"ERROR BUSY later\n", Reply::Refused(b"ERROR BUSY later")),
            (Encoding::Line, Wanted::Page, b"OK 2:\na\nb\n\n", Reply::Page(2)),
            (Encoding::Line, Wanted::Page, b"OK 0:\n\n", Reply::Page(0)),
            (Encoding::Array, Wanted::Done, b"+OK\r\n", Reply::Done),
            (Encoding::Array, Wanted::Value, b"$4\r\na\r\nb\r\n", Reply::Value(b"a\r\nb")),
            (Encoding::Array, Wanted::Value, b"$0\r\n\r\n", Reply::Value(b"")),
            (Encoding::Array, Wanted::Value, b"$-1\r\n", Reply::Missing),
            (Encoding::Array, Wanted::Value, b"-ERR no\r\n", Reply::Refused(b"ERR no")),
            (Encoding::Array, Wanted::Page, b"*2\r\n$1\r\na\r\n$2\r\n\nb\r\n", Reply::Page(2)),
            (Encoding::Array, Wanted::Page, b"*0\r\n", Reply::Page(0)),
            (Encoding::Array, Wanted::Replicated(2), b"+OK\r\n:2\r\n", Reply::Done),
            (Encoding::Array, Wanted::Replicated(2), b"+OK\r\n:1\r\n", Reply::Refused(b":1")),
            (Encoding::Array, Wanted::Replicated(2), b"-ERR no\r\n:2\r\n", Reply::Refused(b"ERR no")),
        ] {
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end], encoding, wanted), Ok(None), "{} of {bytes:?}", end);
            }
            let more = [bytes, b"+OK\r\n"].concat();
            assert_eq!(read(&more, encoding, wanted), Ok(Some((reply, bytes.len()))));
        }
    }

    #[test]
    fn what_answers_something_else_is_no_answer() {
        for (encoding, wanted, bytes) in [
            (Encoding::Line, Wanted::Done, &b"VALUE a\n"[..]),
            (Encoding::Line, Wanted::Value, b"OK\n"),
            (Encoding::Line, Wanted::Page, b"OK many:\n"),
            (Encoding::Array, Wanted::Done, b"$1\r\na\r\n"),
            (Encoding::Array, Wanted::Value, b"$99999999999\r\n"),
            (Encoding::Array, Wanted::Value, b"\r\n"),
            (Encoding::Array, Wanted::Page, b"*1\r\n:1\r\n"),
        ] {
            assert_eq!(read(bytes, encoding, wanted), Err(Malformed), "{bytes:?}");
        }
    }
}
