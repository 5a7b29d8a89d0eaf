//! One record of the log: a header of 24 bytes and the payload. docs/storage-format.md has the bytes.
//!
//! A frame states its own position, the position of the previous frame, and up to where the log was synced when it was
//! written. This lets recovery distinguish missing, stale or damaged frames from an end that a crash tore off.

use crate::bugs::{Bug, Bugs};
use crate::fields::{u32_at, u64_at};

/// The length of a frame's header, in bytes.
pub(crate) const HEADER_BYTES: usize = 24;

/// Stands in place of a distance that is too large to store: nothing is claimed.
const NOT_SAID: u32 = u32::MAX;

/// What was found at a position of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A whole frame.
    Frame(Frame),
    /// Zeros, for the length of a header: nothing was written here.
    Nothing,
    /// Something else.
    Bad,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where it begins.
    pub(crate) position: u64,
    /// Its payload's length in bytes.
    pub(crate) length: usize,
    /// Where the previous frame begins; `None` for the first of a log.
    pub(crate) before: Option<u64>,
    /// Everything below was synced when this was written; `None` if it does not say.
    pub(crate) synced: Option<u64>,
}

impl Frame {
    /// Where the next one begins, if it is in the same segment.
    pub(crate) fn end(self) -> u64 {
        self.position + bytes_of(self.length)
    }
}

/// The size of a payload in the log, with its header, in bytes.
pub(crate) fn bytes_of(length: usize) -> u64 {
    HEADER_BYTES as u64 + length as u64
}

/// Appends a frame to a buffer.
pub(crate) fn encode<B: Bugs>(
    buffer: &mut Vec<u8>,
    position: u64,
    before: Option<u64>,
    synced: u64,
    payload: &[u8],
    bugs: B,
) {
    let start = buffer.len();
    let distance = |to: u64| u32::try_from(position.saturating_sub(to)).unwrap_or(NOT_SAID);
    // The limit of an append keeps payloads far smaller.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut header = [0; HEADER_BYTES];
    let (_, fields) = header.split_at_mut(4);
    let written = [length.to_le_bytes(), before.map_or(0, distance).to_le_bytes(), distance(synced).to_le_bytes()];
    let [length, before, synced] = written;
    let all = length.into_iter().chain(position.to_le_bytes()).chain(before).chain(synced);
    for (field, byte) in fields.iter_mut().zip(all) {
        *field = byte;
    }
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(payload);
    let checksum = checksum(buffer.get(start..).unwrap_or_default(), bugs);
    if let Some(field) = buffer.get_mut(start..start + 4) {
        field.copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The checksum of a whole frame, except for the checksum field itself.
fn checksum<B: Bugs>(frame: &[u8], bugs: B) -> u32 {
    // IMPORTANT: the header is included. A wrong length or position is as bad as a wrong byte of payload.
    let from = if bugs.plants(Bug::ChecksumWithoutHeader) { HEADER_BYTES } else { 4 };
    crc32c::crc32c(frame.get(from..).unwrap_or_default())
}

/// Parses the start of `bytes`, which are at a position of the log.
pub(crate) fn parse<B: Bugs>(bytes: &[u8], position: u64, bugs: B) -> Parsed {
    let Some(header) = bytes.get(..HEADER_BYTES) else {
        return if bytes.iter().all(|&byte| byte == 0) { Parsed::Nothing } else { Parsed::Bad };
    };
    if header == [0; HEADER_BYTES] {
        return Parsed::Nothing;
    }
    whole(bytes, position, bugs).map_or(Parsed::Bad, Parsed::Frame)
}

fn whole<B: Bugs>(bytes: &[u8], position: u64, bugs: B) -> Option<Frame> {
    if u64_at(bytes, 8)? != position {
        return None;
    }
    let length = usize::try_from(u32_at(bytes, 4)?).ok()?;
    let frame = bytes.get(..HEADER_BYTES.checked_add(length)?)?;
    if u32_at(bytes, 0)? != checksum(frame, bugs) {
        return None;
    }
    let before = match u32_at(bytes, 16)? {
        0 => None,
        distance => Some(position.checked_sub(u64::from(distance))?),
    };
    let synced = match u32_at(bytes, 20)? {
        NOT_SAID => None,
        distance => Some(position.checked_sub(u64::from(distance))?),
    };
    Some(Frame { position, length, before, synced })
}

/// The whole frames in `bytes` from an offset on, whatever lies between them. `first` is the position of the bytes.
pub(crate) fn resync<B: Bugs>(bytes: &[u8], first: u64, offset: usize, bugs: B) -> impl Iterator<Item = Frame> {
    let mut at = offset;
    std::iter::from_fn(move || {
        while at + HEADER_BYTES <= bytes.len() {
            let position = first + at as u64;
            let rest = bytes.get(at..)?;
            if let Some(frame) = whole(rest, position, bugs) {
                at += HEADER_BYTES + frame.length;
                return Some(frame);
            }
            at += 1;
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bugs::NoBugs;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1_000, Some(900), 500, b"payload", NoBugs);
        let frame = Frame { position: 1_000, length: 7, before: Some(900), synced: Some(500) };
        assert_eq!(parse(&bytes, 1_000, NoBugs), Parsed::Frame(frame));
        assert_eq!(frame.end(), 1_000 + bytes.len() as u64);
        assert_eq!(parse(&bytes, 1_001, NoBugs), Parsed::Bad, "it stands elsewhere");
        assert_eq!(parse(&bytes[..bytes.len() - 1], 1_000, NoBugs), Parsed::Bad, "it is cut");
    }

    #[test]
    fn a_distance_too_far_claims_nothing() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1 << 40, None, 0, b"", NoBugs);
        let frame = Frame { position: 1 << 40, length: 0, before: None, synced: None };
        assert_eq!(parse(&bytes, 1 << 40, NoBugs), Parsed::Frame(frame));
    }

    #[test]
    fn frames_are_found_again_behind_damage() {
        let mut bytes = b"something else".to_vec();
        encode(&mut bytes, 14, None, 0, b"one", NoBugs);
        let second = bytes.len() as u64;
        encode(&mut bytes, second, Some(14), 0, b"two", NoBugs);
        let found: Vec<u64> = resync(&bytes, 0, 0, NoBugs).map(|frame| frame.position).collect();
        assert_eq!(found, [14, second]);
    }
}
