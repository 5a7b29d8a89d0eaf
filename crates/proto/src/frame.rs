//! Bytes to frames: where one request ends and the next begins.
//!
//! A frame is a line up to `\n` or, if its first byte is `*`, an array of words in RESP2 format
//! (`*2\r\n$3\r\nGET\r\n$1\r\na\r\n`).

mod decoder;
mod encode;

pub use decoder::{Decoded, FrameDecoder, Frames};
pub use encode::{begin_array, begin_bulk, encode_array, push_number, push_word};

/// How a request was encoded, and how its answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A line of text.
    Line,
    /// A RESP2 array.
    Array,
    /// The same array, on a connection that has asked for RESP3 answers.
    Resp3,
}

/// One request as received, its words not yet interpreted. It borrows the read buffer.
#[derive(Debug, Clone, Copy)]
pub enum Frame<'a> {
    /// A line without its line end. It may not be valid UTF-8.
    Line(&'a [u8]),
    /// The words of an array.
    Array(Words<'a>),
}

impl<'a> Frame<'a> {
    /// The encoding of the answer.
    #[must_use]
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::Line(_) => Encoding::Line,
            Self::Array(_) => Encoding::Array,
        }
    }

    /// The first two words, which in most requests are the verb and the key, exactly as parsing the request would return
    /// them.
    #[must_use]
    pub fn verb_and_key(self) -> Option<(&'a [u8], &'a [u8])> {
        match self {
            Self::Array(mut words) => words.next().zip(words.next()),
            Self::Line(line) => {
                let (verb, rest) = split_word(line);
                let (key, _) = split_word(rest);
                (!key.is_empty()).then_some((verb, key))
            }
        }
    }

    /// Whether the first word is this verb, in any case.
    #[must_use]
    pub fn has_verb(self, verb: &[u8]) -> bool {
        match self {
            Self::Array(mut words) => words.next().is_some_and(|first| first.eq_ignore_ascii_case(verb)),
            // Where the first word ends matters only if it begins as the verb does.
            Self::Line(line) => {
                let begin = without_blanks(line).split_at_checked(verb.len());
                begin.is_some_and(|(begin, rest)| begin.eq_ignore_ascii_case(verb) && rest.first().is_none_or(is_blank))
            }
        }
    }

    /// Whether this verb, in any case, is all there is.
    #[must_use]
    pub fn is_only(self, verb: &[u8]) -> bool {
        let is_one_word = match self {
            Self::Array(words) => words.len() == 1,
            Self::Line(line) => split_word(line).1.is_empty(),
        };
        is_one_word && self.has_verb(verb)
    }
}

/// Whether a byte separates the words of a line.
pub(crate) fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A line without the blanks that it begins with.
pub(crate) fn without_blanks(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|byte| !is_blank(byte)).unwrap_or(line.len());
    line.get(start..).unwrap_or_default()
}

/// The first word of a line, empty if there is none, and what is behind it, without the blanks between them.
pub(crate) fn split_word(line: &[u8]) -> (&[u8], &[u8]) {
    let line = without_blanks(line);
    let (word, rest) = line.split_at(memchr::memchr2(b' ', b'\t', line).unwrap_or(line.len()));
    (word, without_blanks(rest))
}

/// The words of an array request, read from the front.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    buf: &'a [u8],
    spans: &'a [Span],
}

/// Where a word lies in the buffer: 8 bytes for a word that took at least 6 bytes on the wire.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    len: u32,
}

impl<'a> Words<'a> {
    /// How many words are left.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether no words are left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The last so many of them.
    #[must_use]
    pub(crate) fn last_words(self, count: usize) -> Self {
        let first = self.spans.len().saturating_sub(count);
        Self { spans: self.spans.get(first..).unwrap_or_default(), ..self }
    }

    /// The next word as UTF-8 text; `None` if there is none, or it is not UTF-8.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.next()?).ok()
    }

    /// The next word, parsed as the requested type (a number, a version, an address).
    pub fn parse<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    /// The remaining words, if there are exactly `N`.
    #[must_use]
    pub fn exactly<const N: usize>(mut self) -> Option<[&'a [u8]; N]> {
        if self.len() != N {
            return None;
        }
        Some(std::array::from_fn(|_| self.next().unwrap_or_default()))
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (span, rest) = self.spans.split_first()?;
        self.spans = rest;
        let start = span.start as usize;
        self.buf.get(start..start + span.len as usize)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.spans.len(), Some(self.spans.len()))
    }
}
