//! RESP answers with more structure than a [`crate::response::Response`]: maps, sets, texts.

use crate::frame::{Encoding, push_number, push_word};

/// Appends one answer, piece by piece: a count must be followed by that many pieces. In RESP2, maps and sets are
/// arrays.
#[derive(Debug)]
pub struct Resp<'o> {
    out: &'o mut Vec<u8>,
    is_three: bool,
}

impl<'o> Resp<'o> {
    /// A writer of RESP3 if that is the encoding, otherwise of RESP2.
    pub fn new(encoding: Encoding, out: &'o mut Vec<u8>) -> Self {
        Self { out, is_three: encoding == Encoding::Resp3 }
    }

    /// A short text without a line end, such as `OK`.
    pub fn simple(&mut self, text: &str) -> &mut Self {
        self.line(b'+', text.as_bytes())
    }

    /// A number.
    pub fn number(&mut self, number: i64) -> &mut Self {
        self.line(b':', number.to_string().as_bytes())
    }

    /// Bytes.
    pub fn bulk(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        push_word(bytes.as_ref(), self.out);
        self
    }

    /// A text for people to read.
    pub fn text(&mut self, text: &str) -> &mut Self {
        if !self.is_three {
            return self.bulk(text);
        }
        self.out.push(b'=');
        push_number(text.len() as u64 + 4, self.out);
        self.out.extend_from_slice(b"\r\ntxt:");
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Nothing.
    pub fn null(&mut self) -> &mut Self {
        self.out.extend_from_slice(if self.is_three { b"_\r\n" } else { b"$-1\r\n" });
        self
    }

    /// Begins an array; `count` pieces must follow.
    pub fn array(&mut self, count: usize) -> &mut Self {
        self.count(b'*', count)
    }

    /// Begins a set; `count` distinct pieces must follow.
    pub fn set(&mut self, count: usize) -> &mut Self {
        self.count(if self.is_three { b'~' } else { b'*' }, count)
    }

    /// Begins a map; `count` names must follow, each with one piece after it.
    pub fn map(&mut self, count: usize) -> &mut Self {
        if self.is_three { self.count(b'%', count) } else { self.count(b'*', count * 2) }
    }

    fn count(&mut self, mark: u8, count: usize) -> &mut Self {
        self.out.push(mark);
        push_number(count as u64, self.out);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    fn line(&mut self, mark: u8, text: &[u8]) -> &mut Self {
        self.out.push(mark);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_answer_in_both_versions() {
        let write = |encoding| {
            let mut out = Vec::new();
            let mut resp = Resp::new(encoding, &mut out);
            resp.map(1).bulk("a").set(1).simple("b").array(3).null().text("c\n").number(-3);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(write(Encoding::Array), "*2\r\n$1\r\na\r\n*1\r\n+b\r\n*3\r\n$-1\r\n$2\r\nc\n\r\n:-3\r\n");
        assert_eq!(write(Encoding::Resp3), "%1\r\n$1\r\na\r\n~1\r\n+b\r\n*3\r\n_\r\n=6\r\ntxt:c\n\r\n:-3\r\n");
    }
}
