//! Payloads of any size, as payloads that the log and snapshots take.
//!
//! A slot may hold more than one append takes, and what gathers while the disk is busy may be as much. So a long payload
//! is cut into *pieces*, each a payload of its own. A crash may leave the first of them without the rest: nobody was told
//! of what they say, and a start passes over them. docs/storage-format.md shows the bytes.

/// The most that is written as one payload, in bytes without what stands before it.
pub(super) const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// What stands before a piece on which more follow. No entry has this number.
const MORE: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
/// What stands before the last piece. No entry has this number.
const LAST: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd];

/// A payload as it is written: whole, or in pieces. They are to be written in their order, with nothing in between.
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

/// Puts pieces together again.
#[derive(Debug, Default)]
pub(super) struct Assembly(Vec<u8>);

impl Assembly {
    /// Takes in what was written next; gives a payload where one is whole now. A last piece without those before it is given as
    /// it is, and is none.
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

    /// A payload that [`Assembly::add`] has given is taken in.
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
