//! Splits payloads of any size into payloads that the log and snapshots accept.
//!
//! A slot may hold more than one append takes, and so may what gathers while the disk is busy. So a long payload is
//! cut into *pieces*, each a payload of its own. A crash may leave the first pieces without the rest: nobody was told
//! of their contents, and a start skips them. docs/storage-format.md shows the bytes.

/// The most that is written as one payload, in bytes, not counting the prefix.
pub(super) const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// The prefix of a piece that more pieces follow. No entry has this number.
const MORE: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
/// The prefix of the last piece. No entry has this number.
const LAST: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd];

/// A payload as it is written: whole, or in pieces. Write the pieces in order, with nothing in between.
pub(super) fn cut(payload: Vec<u8>) -> Vec<Vec<u8>> {
    cut_at(payload, PIECE_BYTES)
}

fn cut_at(payload: Vec<u8>, most: usize) -> Vec<Vec<u8>> {
    if payload.len() <= most {
        return vec![payload];
    }
    let mut pieces: Vec<_> = payload.chunks(most).map(|chunk| [&MORE[..], chunk].concat()).collect();
    if let Some(mark) = pieces.last_mut().and_then(|last| last.get_mut(..LAST.len())) {
        mark.copy_from_slice(&LAST);
    }
    pieces
}

/// Reassembles pieces.
#[derive(Debug, Default)]
pub(super) struct Assembly(Vec<u8>);

impl Assembly {
    /// Adds the payload that was written next; returns a payload if one is complete now. A last piece without those
    /// before it is returned as it is, and is not a valid payload.
    pub(super) fn add<'a>(&'a mut self, written: &'a [u8]) -> Option<&'a [u8]> {
        if let Some(piece) = written.strip_prefix(&MORE) {
            self.0.extend_from_slice(piece);
            return None;
        }
        if let Some(piece) = written.strip_prefix(&LAST).filter(|_| !self.0.is_empty()) {
            self.0.extend_from_slice(piece);
            return Some(&self.0);
        }
        self.0.clear();
        Some(written)
    }

    /// Marks a payload returned by [`Assembly::add`] as taken.
    pub(super) fn taken(&mut self) {
        self.0 = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assembled(written: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut assembly = Assembly::default();
        let mut whole = Vec::new();
        for written in written {
            if let Some(payload) = assembly.add(written).map(<[u8]>::to_vec) {
                whole.push(payload);
                assembly.taken();
            }
        }
        whole
    }

    #[test]
    fn what_was_cut_is_put_together_again() {
        for length in 0..40_u8 {
            let payload: Vec<u8> = (0..length).collect();
            let pieces = cut_at(payload.clone(), 10);
            assert_eq!(pieces.len(), usize::from(length).div_ceil(10).max(1));
            assert!(pieces.iter().all(|piece| piece.len() <= 18));
            assert_eq!(assembled(&[pieces.clone(), pieces].concat()), [payload.clone(), payload]);
        }
    }

    #[test]
    fn pieces_whose_rest_a_crash_took_are_passed_over() {
        let pieces = cut_at((0..35).collect(), 10);
        let next = vec![7; 5];
        assert_eq!(assembled(&pieces[3..]), &pieces[3..], "the last without the others is no payload");
        for left in 0..pieces.len() - 1 {
            let next_only = std::slice::from_ref(&next);
            assert_eq!(assembled(&[&pieces[..left], next_only].concat()), next_only);
            let again = [&pieces[..left], std::slice::from_ref(&next), &pieces].concat();
            assert_eq!(assembled(&again).len(), 2, "{left} pieces, another payload, and all pieces");
        }
    }
}
