//! Little-endian numbers in bytes, as all our formats have them.

/// The number at an offset; `None` if the bytes end too early.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

/// The number at an offset; `None` if the bytes end too early.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

/// The number at an offset; `None` if the bytes end too early.
pub(crate) fn u128_at(bytes: &[u8], offset: usize) -> Option<u128> {
    Some(u128::from_le_bytes(bytes.get(offset..)?.first_chunk().copied()?))
}

/// The length of the bytes without trailing zeros.
pub(crate) fn used(bytes: &[u8]) -> usize {
    // Compare whole words first: most of a segment may be zeros.
    let (words, rest) = bytes.as_chunks::<32>();
    if let Some(last) = rest.iter().rposition(|&byte| byte != 0) {
        return bytes.len() - rest.len() + last + 1;
    }
    let Some(word) = words.iter().rposition(|word| *word != [0; 32]) else { return 0 };
    let inside = words.get(word).and_then(|word| word.iter().rposition(|&byte| byte != 0));
    word * 32 + inside.map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::used;

    #[test]
    fn used_ends_behind_the_last_byte_that_is_not_zero() {
        for length in [0, 1, 31, 32, 33, 64, 100] {
            assert_eq!(used(&vec![0; length]), 0);
            for at in 0..length {
                let mut bytes = vec![0; length];
                bytes[at] = 1;
                bytes[at / 2] = 2;
                assert_eq!(used(&bytes), at + 1, "{length} bytes, byte {at}");
            }
        }
    }
}
