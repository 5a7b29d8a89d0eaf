//! Prefetching memory that is about to be used.
//!
//! The memory that a record touches is scattered over tables of a hundred megabytes, and each first touch is a cache
//! miss that takes about as long as everything else together. If many records or acknowledgements have arrived at once,
//! the memory of later ones is prefetched while earlier ones are carried out.

/// The size of a cache line, in bytes.
const LINE: usize = 64;

/// Prefetches a value's memory, so that it is cached a little later. Has no other effect, whatever lies there.
pub(crate) fn fetch<T>(value: &T) {
    fetch_start(value, size_of::<T>());
}

/// Prefetches the first `bytes` bytes of a value.
pub(crate) fn fetch_start<T>(value: &T, bytes: usize) {
    fetch_bytes(std::ptr::from_ref(value).cast(), bytes);
}

/// Prefetches `bytes` bytes starting at an address.
#[cfg(target_arch = "x86_64")]
pub(crate) fn fetch_bytes(address: *const u8, bytes: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for offset in (0..bytes).step_by(LINE) {
        #[expect(unsafe_code, reason = "the standard library has no safe prefetch")]
        // SAFETY: every x86_64 processor has SSE, which includes this. It reads nothing that a program can observe, and
        // an unmapped address causes no fault.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(address.wrapping_add(offset).cast());
        }
    }
}

/// Prefetches `bytes` bytes starting at an address. Stable Rust supports this on x86_64 only, so here it does nothing.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn fetch_bytes(_address: *const u8, _bytes: usize) {
    let _ = LINE;
}
