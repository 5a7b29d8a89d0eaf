//! Slots: the unit of authority.
//!
//! A slot is the top bits of SHA-256(key); a real cluster uses 14. All keys of a slot live on the same nodes, and one
//! primary orders all writes to them.

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
        let top = u32::from(position.top_bits());
        SlotId((top >> (16 - u32::from(self.0))).try_into().unwrap_or(u16::MAX))
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
    fn the_slot_of_a_key_is_the_top_of_its_hash() {
        // SHA-256("user:1") starts with the bytes below; 14 bits of them are the slot.
        let position = Position::of(b"user:1");
        let top = u16::from_be_bytes([position.0[0], position.0[1]]);
        assert_eq!(SLOT_BITS.slot(&position).0, top >> 2);
        assert_eq!(SlotBits::new(0).slot(&position).0, 0);
    }
}
