//! Slots: the unit of authority.
//!
//! A slot is the top bits of SHA-256(key); a real cluster uses 14. All keys of a slot live on the same nodes, and one
//! primary orders all writes to them.

use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

/// How many bits of a key's hash give its slot in a real cluster: 16,384 slots.
pub const SLOT_BITS: SlotBits = SlotBits(14);

/// A number of slot bits, from 0 to 16. Tests use few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotBits(u8);

/// The number of a slot, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u16);

/// A position on the hash ring: a SHA-256 digest, read as a big-endian number. The derived order is numeric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position([u8; 32]);

impl SlotBits {
    /// # Panics
    /// If `bits` is above 16: a slot number would not fit its type.
    #[must_use]
    pub const fn new(bits: u8) -> Self {
        assert!(bits <= 16, "a slot number has at most 16 bits");
        Self(bits)
    }

    /// How many slots there are.
    #[must_use]
    pub const fn count(self) -> usize {
        1 << self.0
    }

    /// Whether there is a slot with this number.
    #[must_use]
    pub const fn has(self, slot: SlotId) -> bool {
        (slot.0 as usize) < self.count()
    }

    /// All slots, in order.
    pub fn slots(self) -> impl Iterator<Item = SlotId> {
        (0..=u16::MAX).take(self.count()).map(SlotId)
    }

    /// The slot of a position: its top bits.
    #[must_use]
    pub fn slot(self, position: &Position) -> SlotId {
        self.slot_with(position.top_bits())
    }

    fn slot_with(self, top_bits: u16) -> SlotId {
        SlotId(top_bits.checked_shr(16 - u32::from(self.0)).unwrap_or(0))
    }

    /// The first position of a slot; the slot's owners are the owners of this position.
    #[must_use]
    pub fn first_position(self, slot: SlotId) -> Position {
        let mut digest = [0; 32];
        let top = u32::from(slot.0) << (16 - u32::from(self.0));
        let [.., high, low] = top.to_be_bytes();
        let [first, second, ..] = &mut digest;
        (*first, *second) = (high, low);
        Position(digest)
    }
}

impl Position {
    /// The position of a text or key: its SHA-256.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    fn top_bits(&self) -> u16 {
        let [first, second, ..] = self.0;
        u16::from_be_bytes([first, second])
    }
}

/// The length of a block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// The longest key that leaves room in a block for the padding: a byte and the length.
const ONE_BLOCK: usize = BLOCK - 9;

/// What SHA-256 starts with (FIPS 180-4, 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A key whose slot is wanted. If there are many, make all of them before asking for the first slot: a hash is a long
/// chain of dependent steps, and the processor overlaps those of several keys if nothing else is to be done in between.
#[derive(Debug, Clone, Copy)]
pub struct KeyToPlace(ToHash);

#[derive(Debug, Clone, Copy)]
enum ToHash {
    /// The whole key, padded.
    Block([u8; BLOCK]),
    /// A longer key takes several blocks; these are the top bits of its hash.
    Hashed(u16),
}

impl KeyToPlace {
    /// Prepares a key.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        let Some((start, rest)) = block.split_at_mut_checked(key.len()).filter(|_| key.len() <= ONE_BLOCK) else {
            return Self(ToHash::Hashed(Position::of(key).top_bits()));
        };
        start.copy_from_slice(key);
        if let [end, .., high, low] = rest {
            *end = 0x80;
            [*high, *low] = (8 * key.len() as u16).to_be_bytes();
        }
        Self(ToHash::Block(block))
    }

    /// The slot of the key.
    #[must_use]
    pub fn slot(&self, bits: SlotBits) -> SlotId {
        let top_bits = match &self.0 {
            ToHash::Hashed(top_bits) => *top_bits,
            ToHash::Block(block) => {
                let mut state = INITIAL;
                compress256(&mut state, std::slice::from_ref(block));
                let [first, ..] = state;
                (first >> 16) as u16
            }
        };
        bits.slot_with(top_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_starts_where_its_first_position_says() {
        for bits in [0, 1, 4, 14, 16] {
            let bits = SlotBits::new(bits);
            assert_eq!(bits.slots().count(), bits.count());
            for slot in bits.slots() {
                assert_eq!(bits.slot(&bits.first_position(slot)), slot);
            }
        }
    }

    #[test]
    fn a_key_made_ready_has_the_slot_of_its_position() {
        for len in 0..3 * BLOCK {
            let key: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
            for bits in [0, 14, 16].map(SlotBits::new) {
                assert_eq!(KeyToPlace::new(&key).slot(bits), bits.slot(&Position::of(&key)), "{len} bytes");
            }
        }
    }

    #[test]
    fn the_slot_of_a_key_is_the_top_of_its_hash() {
        // SHA-256("user:1") starts with the bytes below; 14 bits of them are the slot.
        let position = Position::of(b"user:1");
        let top = u16::from_be_bytes([position.0[0], position.0[1]]);
        assert_eq!(SLOT_BITS.slot(&position).0, top >> 2);
        assert_eq!(SlotBits::new(0).slot(&position).0, 0);
    }
}
