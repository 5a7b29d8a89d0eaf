//! Memory that will be used in a moment.
//!
//! What a record touches lies all over tables of a hundred megabytes, and each first touch waits for memory about as long
//! as everything else takes together. Where many records or acknowledgements have come at once, the memory of later ones is
//! asked for while earlier ones are carried out.

/// What a processor brings into its cache at once, in bytes.
const LINE: usize = 64;

/// Asks for the memory of a value, so that it is at hand a little later. Changes nothing else, whatever lies there.
pub(crate) fn fetch<T>(value: &T) {
    fetch_bytes(std::ptr::from_ref(value).cast(), size_of::<T>());
}

/// The same for `bytes` bytes from an address on.
#[cfg(target_arch = "x86_64")]
pub(crate) fn fetch_bytes(address: *const u8, bytes: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for offset in (0..bytes).step_by(LINE) {
        #[expect(unsafe_code, reason = "the standard library has no safe prefetch")]
        // SAFETY: every x86_64 processor has SSE, to which this belongs. It reads nothing that a program can see, and an
        // address that is not mapped makes no fault.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(address.wrapping_add(offset).cast());
        }
    }
}

/// The same for `bytes` bytes from an address on. Stable Rust has it for x86_64 only.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn fetch_bytes(_address: *const u8, _bytes: usize) {
    let _ = LINE;
}
