//! Key ranges, in byte order, and the requests that page through them.

use crate::limits;

/// A half-open range of keys, in byte order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The lower bound, inclusive.
    pub start: Vec<u8>,
    /// The upper bound, exclusive; `None` if unbounded.
    pub end: Option<Vec<u8>>,
}

/// A request for one page of a walk: `PREFIX`, `RANGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRequest<'a> {
    /// The keys to walk through.
    pub keys: Keys<'a>,
    /// The most keys on the page, from 1 to [`limits::PAGE_KEYS`].
    pub limit: usize,
    /// The page starts after this key; `None` for the first page.
    pub after: Option<&'a [u8]>,
}

/// The keys to walk through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys<'a> {
    /// Keys that begin with these bytes.
    Prefix(&'a [u8]),
    /// Keys from the first, inclusive, to the second, exclusive. An empty second is no bound.
    Between(&'a [u8], &'a [u8]),
}

impl Keys<'_> {
    /// The keys as a range.
    #[must_use]
    pub fn range(&self) -> KeyRange {
        match *self {
            Self::Prefix(prefix) => KeyRange { start: prefix.to_vec(), end: after_all_with(prefix) },
            Self::Between(from, to) => KeyRange { start: from.to_vec(), end: (!to.is_empty()).then(|| to.to_vec()) },
        }
    }
}

impl PageRequest<'_> {
    /// The keys that may be on the page.
    #[must_use]
    pub fn range(&self) -> KeyRange {
        let mut range = self.keys.range();
        if let Some(after) = self.after {
            range.start = range.start.max(next_key(after));
        }
        range
    }
}

impl KeyRange {
    /// Whether a key that is not below the start is in the range.
    #[must_use]
    pub fn ends_after(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key < end.as_slice())
    }

    /// Whether both bounds are short enough to come from a request.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        // The successor of the longest key is one byte longer.
        self.start.len() <= limits::KEY_BYTES + 1 && self.end.as_ref().is_none_or(|end| end.len() <= limits::KEY_BYTES)
    }
}

/// The immediate successor of a key: no key lies between the two.
#[must_use]
pub fn next_key(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}

/// The first key after all those with a prefix; `None` if there is no such key.
fn after_all_with(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix.get(..=kept)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(range: &KeyRange, key: &[u8]) -> bool {
        key >= range.start.as_slice() && range.ends_after(key)
    }

    #[test]
    fn a_prefix_is_the_range_of_the_keys_that_begin_with_it() {
        let keys: [&[u8]; 12] = [
            b"",
            b"\0",
            b"a",
            b"a\0",
            b"a\xff",
            b"a\xff\xff",
            b"a\xffb",
            b"b",
            b"ab",
            b"\xff",
            b"\xff\xff",
            b"\xff\xff\xff",
        ];
        for prefix in keys {
            let range = Keys::Prefix(prefix).range();
            for key in keys {
                assert_eq!(has(&range, key), key.starts_with(prefix), "{key:?} with {prefix:?}");
            }
        }
    }

    #[test]
    fn a_range_has_its_first_key_and_not_its_last() {
        let range = Keys::Between(b"b", b"d").range();
        for (key, is_in) in [(&b"a"[..], false), (b"b", true), (b"c\xff", true), (b"d", false)] {
            assert_eq!(has(&range, key), is_in, "{key:?}");
        }
        assert!(has(&Keys::Between(b"b", b"").range(), b"\xff"), "an empty bound is none");
        assert!(!has(&Keys::Between(b"d", b"b").range(), b"c"), "bounds the wrong way round hold nothing");
    }

    #[test]
    fn a_page_begins_behind_the_key_named() {
        let page = |after| PageRequest { keys: Keys::Prefix(b"k"), limit: 1, after };
        for (after, key, is_in) in [
            (None, &b"k"[..], true),
            (Some(&b"k"[..]), b"k", false),
            (Some(b"k"), b"k\0", true),
            (Some(b"a"), b"k", true),
            (Some(b"z"), b"k", false),
        ] {
            assert_eq!(has(&page(after).range(), key), is_in, "{key:?} after {after:?}");
        }
    }
}
