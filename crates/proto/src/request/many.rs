//! Requests for many keys: walks (`PREFIX`, `RANGE`, `COUNT`), and `MGET` and `MPUT`.

use super::{NodeRequest, Rest, checked_key, verbs};
use crate::error::ErrorReply;
use crate::frame::{Frame, Words};
use crate::limits;
use crate::range::{Keys, PageRequest};

/// The words of a request for many keys, checked but not yet split.
#[derive(Debug, Clone, Copy)]
pub struct KeyWords<'a>(pub(super) Rest<'a>);

impl<'a> Iterator for KeyWords<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (word, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(word)
    }
}

impl PartialEq for KeyWords<'_> {
    fn eq(&self, other: &Self) -> bool {
        (*self).eq(*other)
    }
}

impl Eq for KeyWords<'_> {}

/// The words of a request that are still to be executed. A request of many words is executed in parts, and none of them
/// may take longer for those that are done.
#[derive(Debug, Clone)]
pub struct LastWords<'a>(Last<'a>);

#[derive(Debug, Clone)]
enum Last<'a> {
    Line(&'a [u8]),
    Words(Words<'a>),
}

impl<'a> LastWords<'a> {
    /// The last words of a request of which so much is [left](Self::left).
    #[must_use]
    pub fn of(frame: Frame<'a>, left: usize) -> Self {
        Self(match frame {
            Frame::Line(line) => Last::Line(line.get(line.len().saturating_sub(left)..).unwrap_or_default()),
            Frame::Array(words) => Last::Words(words.last_words(left)),
        })
    }

    /// How much is left: words of an array, bytes of a line.
    #[must_use]
    pub fn left(&self) -> usize {
        match &self.0 {
            Last::Line(line) => line.len(),
            Last::Words(words) => words.len(),
        }
    }
}

impl<'a> From<KeyWords<'a>> for LastWords<'a> {
    fn from(words: KeyWords<'a>) -> Self {
        Self(match words.0 {
            Rest::Line(line) => Last::Line(line),
            Rest::Words(words) => Last::Words(words),
        })
    }
}

impl<'a> Iterator for LastWords<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match &mut self.0 {
            Last::Words(words) => words.next(),
            Last::Line(line) => {
                let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
                let start = line.iter().position(|byte| !is_blank(byte))?;
                let text = line.get(start..)?;
                let (word, rest) = text.split_at(text.iter().position(is_blank).unwrap_or(text.len()));
                *line = rest;
                Some(word)
            }
        }
    }
}

impl<'a> Rest<'a> {
    /// `prefix [LIMIT n] [AFTER key]`.
    pub(super) fn prefix(self) -> Result<NodeRequest<'a>, ErrorReply> {
        let (prefix, rest) = self.split_first().ok_or(ErrorReply::InvalidFormat(verbs::PREFIX))?;
        rest.page(verbs::PREFIX, Keys::Prefix(checked_key(prefix)?))
    }

    /// `from to [LIMIT n] [AFTER key]`.
    pub(super) fn range(self) -> Result<NodeRequest<'a>, ErrorReply> {
        let invalid = || ErrorReply::InvalidFormat(verbs::RANGE);
        let (from, rest) = self.split_first().ok_or_else(invalid)?;
        let (to, rest) = rest.split_first().ok_or_else(invalid)?;
        rest.page(verbs::RANGE, Keys::Between(checked_key(from)?, checked_key(to)?))
    }

    /// `[LIMIT n] [AFTER key]`, in any order.
    fn page(self, verb: &'static str, keys: Keys<'a>) -> Result<NodeRequest<'a>, ErrorReply> {
        let invalid = || ErrorReply::InvalidFormat(verb);
        let (mut limit, mut after) = (None, None);
        let mut rest = self;
        while let Some((word, behind)) = rest.split_first() {
            let (argument, behind) = behind.split_first().ok_or_else(invalid)?;
            if word.eq_ignore_ascii_case(verbs::LIMIT.as_bytes()) && limit.is_none() {
                let number = std::str::from_utf8(argument).ok().and_then(|number| number.parse().ok());
                limit = Some(number.filter(|number| *number > 0).ok_or_else(invalid)?);
            } else if word.eq_ignore_ascii_case(verbs::AFTER.as_bytes()) && after.is_none() {
                after = Some(checked_key(argument)?);
            } else {
                return Err(invalid());
            }
            rest = behind;
        }
        let limit = limit.unwrap_or(limits::DEFAULT_PAGE_KEYS);
        if limit > limits::PAGE_KEYS {
            return Err(ErrorReply::TooManyKeys { keys: limit });
        }
        Ok(NodeRequest::Page(PageRequest { keys, limit, after }))
    }

    /// One or more keys.
    pub(super) fn keys(self) -> Result<NodeRequest<'a>, ErrorReply> {
        let words = KeyWords(self);
        let keys = words.count();
        match keys {
            0 => return Err(ErrorReply::InvalidFormat(verbs::MGET)),
            1..=limits::PAGE_KEYS => {}
            _ => return Err(ErrorReply::TooManyKeys { keys }),
        }
        for key in words {
            checked_key(key)?;
        }
        Ok(NodeRequest::GetMany(words))
    }

    /// One or more keys, each with its value. Array only, since a value on a line runs to the end of the line.
    pub(super) fn keys_and_values(self) -> Result<NodeRequest<'a>, ErrorReply> {
        let words = KeyWords(Self::Words(self.array(verbs::MPUT)?.0));
        let count = words.count();
        if count == 0 || !count.is_multiple_of(2) {
            return Err(ErrorReply::InvalidFormat(verbs::MPUT));
        }
        if count / 2 > limits::PAGE_KEYS {
            return Err(ErrorReply::TooManyKeys { keys: count / 2 });
        }
        // No word of an array can be longer than a value may be.
        for key in words.step_by(2) {
            checked_key(key)?;
        }
        Ok(NodeRequest::PutMany(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameDecoder, encode_array};
    use crate::request::KeyspaceRequest;

    fn line(line: &str) -> Result<NodeRequest<'_>, ErrorReply> {
        NodeRequest::parse(Frame::Line(line.as_bytes()))
    }

    fn array<T>(words: &[&[u8]], look: impl FnOnce(Result<NodeRequest<'_>, ErrorReply>) -> T) -> T {
        let mut bytes = Vec::new();
        encode_array(words, &mut bytes);
        let mut decoder = FrameDecoder::new();
        look(NodeRequest::parse(decoder.decode(&bytes).unwrap().unwrap().0))
    }

    #[test]
    fn a_walk_may_name_its_limit_and_where_it_goes_on() {
        let page = |keys, limit, after| Ok(NodeRequest::Page(PageRequest { keys, limit, after }));
        let prefix = Keys::Prefix(b"user:");
        assert_eq!(line("PREFIX user:"), page(prefix, limits::DEFAULT_PAGE_KEYS, None));
        assert_eq!(line("prefix user: limit 5"), page(prefix, 5, None));
        assert_eq!(line("PREFIX user: LIMIT 10000 AFTER user:7"), page(prefix, 10_000, Some(b"user:7")));
        assert_eq!(line("PREFIX user: after AFTER LIMIT 3"), page(prefix, 3, Some(b"AFTER")));
        let range = Keys::Between(b"a", b"b");
        assert_eq!(line("RANGE a b LIMIT 1"), page(range, 1, None));
        assert_eq!(line("COUNT user:"), Ok(NodeRequest::Count(b"user:")));
        array(&[b"PREFIX", b"", b"AFTER", b"a b"], |read| {
            assert_eq!(read, page(Keys::Prefix(b""), limits::DEFAULT_PAGE_KEYS, Some(b"a b")));
        });
        array(&[b"RANGE", b"", b""], |read| {
            assert_eq!(read, page(Keys::Between(b"", b""), limits::DEFAULT_PAGE_KEYS, None));
        });
    }

    #[test]
    fn a_request_goes_on_with_the_words_that_are_left() {
        let check = |frame: Frame<'_>| {
            let Ok(NodeRequest::Keyspace(KeyspaceRequest::Delete(words))) = NodeRequest::parse(frame) else {
                panic!("{frame:?}")
            };
            let mut rest = LastWords::from(words);
            for word in [&b"a"[..], b"bc", b"d"] {
                let left = rest.left();
                assert_eq!(LastWords::of(frame, left).next(), Some(word));
                assert_eq!((rest.next(), left > rest.left()), (Some(word), true));
            }
            assert_eq!((rest.next(), LastWords::of(frame, rest.left()).next()), (None, None));
        };
        check(Frame::Line(b" del \ta  bc\td \t"));
        let mut bytes = Vec::new();
        encode_array(&[&b"DEL"[..], b"a", b"bc", b"d"], &mut bytes);
        check(FrameDecoder::new().decode(&bytes).unwrap().unwrap().0);
    }

    #[test]
    fn wrong_words_of_walks_name_their_verb() {
        for (text, verb) in [
            ("PREFIX", "PREFIX"),
            ("PREFIX a b", "PREFIX"),
            ("PREFIX a LIMIT", "PREFIX"),
            ("PREFIX a LIMIT 0", "PREFIX"),
            ("PREFIX a LIMIT -1", "PREFIX"),
            ("PREFIX a LIMIT 1 LIMIT 2", "PREFIX"),
            ("PREFIX a AFTER", "PREFIX"),
            ("PREFIX a FROM b", "PREFIX"),
            ("RANGE a", "RANGE"),
            ("RANGE a b c", "RANGE"),
            ("COUNT", "COUNT"),
            ("COUNT a b", "COUNT"),
            ("MGET", "MGET"),
            ("MPUT a b", "MPUT"),
        ] {
            assert_eq!(line(text), Err(ErrorReply::InvalidFormat(verb)), "{text}");
        }
        assert_eq!(line("PREFIX a LIMIT 10001"), Err(ErrorReply::TooManyKeys { keys: 10_001 }));
        let long = "k".repeat(limits::KEY_BYTES + 1);
        assert_eq!(line(&format!("PREFIX a AFTER {long}")), Err(ErrorReply::key_too_long(long.len())));
    }

    #[test]
    fn many_keys_are_words_and_values_stand_behind_them() {
        let Ok(NodeRequest::GetMany(keys)) = line("mget a  b a") else { panic!("keys") };
        assert!(keys.eq([b"a", b"b", b"a"]));
        array(&[b"MGET", b"", b"a b"], |read| {
            let Ok(NodeRequest::GetMany(keys)) = read else { panic!("keys") };
            assert!(keys.eq([&b""[..], b"a b"]));
        });
        array(&[b"MPUT", b"a", b"", b"b", b"\n"], |read| {
            let Ok(NodeRequest::PutMany(words)) = read else { panic!("keys and values") };
            assert!(words.eq([&b"a"[..], b"", b"b", b"\n"]));
        });
        let wrong_number = ErrorReply::redis("ERR wrong number of arguments for 'mput' command");
        for words in [&[&b"MPUT"[..]][..], &[b"MPUT", b"a"]] {
            array(words, |read| assert_eq!(read, Err(wrong_number.clone())));
        }
        array(&[b"MPUT", b"a", b"b", b"c"], |read| assert_eq!(read, Err(ErrorReply::InvalidFormat("MPUT"))));
        let many = vec![&b"k"[..]; limits::PAGE_KEYS + 2];
        let words: Vec<&[u8]> = std::iter::once(&b"MGET"[..]).chain(many.into_iter().skip(1)).collect();
        array(&words, |read| assert_eq!(read, Err(ErrorReply::TooManyKeys { keys: limits::PAGE_KEYS + 1 })));
        let words = [&[&b"MSETNX"[..]][..], &[&b"k"[..]; 2].repeat(limits::PAGE_KEYS + 1)].concat();
        array(&words, |read| assert_eq!(read, Err(ErrorReply::TooManyKeys { keys: limits::PAGE_KEYS + 1 })));
        array(&words[..words.len() - 2], |read| assert!(read.is_ok()));
    }
}
