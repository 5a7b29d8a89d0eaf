//! Writes of several keys that take effect together.

use super::{Effect, WallTime};
use crate::limits;

/// Writes of several keys of one slot, in the form in which they are sent and stored. For each: `P`, `T` or `D`, as in
/// the head of a record; the length of the key in 4 bytes, and the key; for `P` and `T` the length of the value in 4
/// bytes, and the value; for `T` the deadline in 8 bytes. All numbers are big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writes<'a>(&'a [u8]);

const PUT: u8 = b'P';
const PUT_UNTIL: u8 = b'T';
const DELETE: u8 = b'D';

impl<'a> Writes<'a> {
    /// Writes from external input; `None` if the bytes are not writes, if there are none, or if a key is over its limit.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (mut rest, mut count) = (bytes, 0_usize);
        while !rest.is_empty() {
            next(&mut rest).filter(|(key, _)| key.len() <= limits::KEY_BYTES)?;
            count += 1;
        }
        (count > 0).then_some(Self(bytes))
    }

    /// Writes from bytes that were [read](Writes::read) or [pushed](Writes::push) before.
    #[must_use]
    pub fn known(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Appends a write of one key.
    ///
    /// # Panics
    /// Key or value have 4 GiB or more, or the effect is an expiry, which happens to single keys only.
    pub fn push(key: &[u8], effect: Effect<'_>, out: &mut Vec<u8>) {
        let (kind, value, deadline) = match effect {
            Effect::Put(value) => (PUT, Some(value), None),
            Effect::PutUntil(value, deadline) => (PUT_UNTIL, Some(value), Some(deadline)),
            Effect::Delete => (DELETE, None, None),
            Effect::Expire => panic!("nobody asks for an expiry"),
        };
        out.push(kind);
        for bytes in [Some(key), value].into_iter().flatten() {
            let len = u32::try_from(bytes.len()).expect("keys and values are within their limits, far below 4 GiB");
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(bytes);
        }
        if let Some(WallTime(deadline)) = deadline {
            out.extend_from_slice(&deadline.to_be_bytes());
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// The keys, each with the effect on it.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], Effect<'a>)> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || next(&mut rest))
    }
}

/// Reads one write from the front; `None` at the end, or if the bytes are not a write.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], Effect<'a>)> {
    let (kind, rest) = bytes.split_first()?;
    *bytes = rest;
    let key = sized(bytes)?;
    let effect = match *kind {
        PUT => Effect::Put(sized(bytes)?),
        PUT_UNTIL => {
            let value = sized(bytes)?;
            let (deadline, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Effect::PutUntil(value, WallTime(u64::from_be_bytes(*deadline)))
        }
        DELETE => Effect::Delete,
        _ => return None,
    };
    Some((key, effect))
}

/// Reads a length, and as many bytes.
fn sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (sized, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    *bytes = rest;
    Some(sized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_read_back_as_pushed_and_anything_else_is_refused() {
        let all = [
            (&b"k"[..], Effect::Put(b"v")),
            (b"", Effect::PutUntil(b"", WallTime(u64::MAX))),
            (b"gone", Effect::Delete),
            (b"P", Effect::Put(b"")),
        ];
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        for (key, effect) in all {
            Writes::push(key, effect, &mut bytes);
            ends.push(bytes.len());
        }
        let read = Writes::read(&bytes).unwrap();
        assert!(read.iter().eq(all));
        assert_eq!(Writes::known(read.bytes()), read);
        for end in 0..bytes.len() {
            assert_eq!(Writes::read(&bytes[..end]).is_some(), ends.contains(&end), "cut at {end}");
        }
        assert_eq!(Writes::read(b"E\0\0\0\x01k"), None, "an expiry");
        assert_eq!(Writes::read(b"P\0\0\0\x01k\xff\xff\xff\xff"), None, "a value that is announced but missing");
        let mut long = Vec::new();
        Writes::push(&[b'k'; limits::KEY_BYTES + 1], Effect::Delete, &mut long);
        assert_eq!(Writes::read(&long), None, "a key over its limit");
    }
}
