//! Reference-counted bytes in one allocation behind a one-word pointer.
//!
//! Twelve bytes precede the data: a reference count, a mark that any holder may set, and a 64-bit word whose meaning is
//! up to the owner, except that it includes the length of the data. The standard library's `Arc` needs sixteen bytes
//! for its counts alone, and sixteen for its pointer.

#![expect(unsafe_code, reason = "an allocation whose length lies in itself cannot be made or read without")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering, fence};

/// If this bit of the word is set, the length is in its lowest 32 bits, otherwise in its lowest 12.
pub(crate) const LONG: u64 = 1 << 63;

/// The longest data whose word does not need [`LONG`].
pub(crate) const SHORT_MOST: u64 = (1 << 12) - 1;

/// What the allocation holds besides the data.
pub(crate) const HEAD_BYTES: usize = size_of::<Head>();

/// How many holders may share one allocation; any further one gets a copy.
const SHARED_MOST: u16 = 1 << 15;

/// The data, the word, and the mark. Clones almost always share them: see [`Shared::clone`].
pub(crate) struct Shared(NonNull<Head>);

/// The header that precedes the data.
#[repr(C)]
struct Head {
    /// How many `Shared` point here.
    count: AtomicU16,
    mark: AtomicU16,
    /// The word, upper half first. Split into halves so that the data needs no padding before it.
    word: [u32; 2],
}

// SAFETY: like an `Arc<[u8]>`, it hands out only shared references, to data that is immutable (word and bytes) or
// atomic (count and mark) as long as there are several holders, and the count ensures that the last holder, on whatever
// thread, changes or frees it after all others are done.
unsafe impl Send for Shared {}
// SAFETY: as above; every method that takes `&self` is sound on several threads at once.
unsafe impl Sync for Shared {}

impl Shared {
    /// Concatenates all parts, under a word that states their total length.
    ///
    /// # Panics
    /// The word states a different length.
    pub(crate) fn new(word: u64, first: &[u8], others: &[&[u8]]) -> Self {
        let len = first.len() + others.iter().map(|part| part.len()).sum::<usize>();
        assert_eq!(len_in(word), len, "the word says how many bytes there are");
        let layout = layout(len);
        // SAFETY: the layout includes at least a head, so its size is not zero.
        let memory = unsafe { alloc(layout) };
        let Some(head) = NonNull::new(memory.cast::<Head>()) else { handle_alloc_error(layout) };
        let word = [(word >> 32) as u32, word as u32];
        // SAFETY: the memory is new, so nobody else has it; its layout has the size and alignment for a head.
        unsafe { head.write(Head { count: AtomicU16::new(1), mark: AtomicU16::new(0), word }) };
        let mut at = HEAD_BYTES;
        let mut append = |part: &[u8]| {
            // SAFETY: the parts are `len` bytes in total, for which the layout has room behind the head, so `at` and
            // `at + part.len()` are within it. A part is borrowed, so it cannot overlap memory that is new.
            unsafe { memory.add(at).copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            at += part.len();
        };
        append(first);
        others.iter().for_each(|part| append(part));
        Self(head)
    }

    /// The word.
    pub(crate) fn word(&self) -> u64 {
        let [upper, lower] = self.head().word;
        (u64::from(upper) << 32) | u64::from(lower)
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        let len = len_in(self.word());
        // SAFETY: `new` allocated room behind the head for as many bytes as the word states, and wrote each of them; the
        // length never changes, the bytes not while `self` is borrowed, and they exist as long as `self` is counted.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast::<u8>().add(HEAD_BYTES), len) }
    }

    /// Replaces the word and all bytes from `start` on, unless there is another holder, or the length would change.
    /// Returns whether it has.
    pub(crate) fn write_in_place(&mut self, word: u64, start: usize, bytes: &[u8]) -> bool {
        let len = len_in(self.word());
        if len_in(word) != len || start.checked_add(bytes.len()) != Some(len) || !self.is_unique() {
            return false;
        }
        // SAFETY: there is no other holder, and none can come about, since that takes a reference to this one, which is
        // borrowed exclusively; what earlier holders have read is done, by the ordering in `is_unique`. So this is the
        // only access to the memory. `new` has written a head there.
        let head = unsafe { self.0.as_mut() };
        head.word = [(word >> 32) as u32, word as u32];
        // SAFETY: as above; the allocation has room for `len` bytes behind the head, the last of which these are.
        // `bytes` is borrowed and this memory is not, so they do not overlap.
        unsafe {
            let end = self.0.as_ptr().cast::<u8>().add(HEAD_BYTES + start);
            end.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        true
    }

    /// The mark, 0 at first.
    pub(crate) fn mark(&self) -> &AtomicU16 {
        &self.head().mark
    }

    /// The start of the allocation, for prefetching.
    pub(crate) fn address(&self) -> *const u8 {
        self.0.as_ptr().cast_const().cast()
    }

    /// Whether there is no other holder. If so, whatever earlier ones have read was read before this returns.
    pub(crate) fn is_unique(&self) -> bool {
        self.head().count.load(Ordering::Acquire) == 1
    }

    fn head(&self) -> &Head {
        // SAFETY: `new` has written a head there, and it exists as long as `self` is counted. Exclusive access takes an
        // exclusive borrow of the only holder, so there is none during this one.
        unsafe { self.0.as_ref() }
    }
}

impl Clone for Shared {
    /// Returns another holder of the same data. If there are already very many, it is a copy with a mark of its own.
    fn clone(&self) -> Self {
        let Head { count, mark, .. } = self.head();
        // As in `Arc`: creating a reference from an existing one needs no synchronization with other threads.
        if count.fetch_add(1, Ordering::Relaxed) < SHARED_MOST {
            return Self(self.0);
        }
        // To overflow the count from here, about as many threads would have to be between these two lines at once.
        count.fetch_sub(1, Ordering::Relaxed);
        let copy = Self::new(self.word(), self.bytes(), &[]);
        copy.mark().store(mark.load(Ordering::Relaxed), Ordering::Relaxed);
        copy
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // As in `Arc`: whatever this holder has read must happen before the last one, whichever that is, frees the
        // memory.
        if self.head().count.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        fence(Ordering::Acquire);
        let layout = layout(len_in(self.word()));
        // SAFETY: this was the last holder, so nobody reads the memory now, and by the fence all earlier reads are
        // done; `new` allocated it with this layout, since the length in the word never changes. A head needs no drop.
        unsafe { dealloc(self.0.as_ptr().cast(), layout) };
    }
}

/// The length that a word states.
fn len_in(word: u64) -> usize {
    let len = if word & LONG == 0 { word & SHORT_MOST } else { word & u64::from(u32::MAX) };
    len as usize
}

fn layout(len: usize) -> Layout {
    let layout = Layout::from_size_align(HEAD_BYTES + len, align_of::<Head>());
    layout.expect("fewer than 2^32 bytes and a head are no more than a program can address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn shared(len: usize, flags: u64) -> Shared {
        let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let (first, second) = bytes.split_at(len / 3);
        Shared::new(flags | len as u64, first, &[b"", second])
    }

    #[test]
    fn the_head_has_no_gaps() {
        assert_eq!((HEAD_BYTES, align_of::<Head>(), size_of::<Option<Shared>>()), (12, 4, 8));
    }

    #[test]
    fn it_gives_back_what_it_was_made_of() {
        for (len, flags) in
            [(0, 0), (1, 7 << 40), (116, 0), (4_095, 1 << 62), (4_096, LONG), (100_000, LONG | (9 << 50))]
        {
            let shared = shared(len, flags);
            let copy = shared.clone();
            drop(shared);
            assert_eq!(copy.word(), flags | len as u64);
            assert!(copy.bytes().iter().enumerate().all(|(at, byte)| *byte == at as u8));
            assert_eq!(copy.bytes().len(), len);
        }
    }

    #[test]
    #[should_panic = "the word says how many bytes there are"]
    fn a_word_that_says_another_length_is_refused() {
        Shared::new(3, b"fo", &[b"ur"]);
    }

    #[test]
    fn it_is_held_as_an_arc_is() {
        // A linear congruential generator (Knuth, MMIX) is random enough here.
        let mut state = 7_u64;
        let mut pairs: Vec<(Shared, Arc<Vec<u8>>)> = Vec::new();
        for _ in 0..3_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % pairs.len().max(1);
            let random = (state >> 40) as usize % 70;
            match (state >> 20) % 10 {
                8 | 9 => {
                    let Some((shared, model)) = pairs.get_mut(at) else { continue };
                    // As long as the rest, or some length that is mostly wrong.
                    let start = random.min(model.len());
                    let len = if (state >> 60).is_multiple_of(4) { random } else { model.len() - start };
                    let (word, end) = (model.len() as u64 | (state & (0xff << 40)), vec![(state >> 50) as u8; len]);
                    let before = shared.word();
                    let model = Arc::get_mut(model).filter(|model| start + len == model.len());
                    let is_done = model.map(|model| model[start..].copy_from_slice(&end)).is_some();
                    assert_eq!(shared.write_in_place(word, start, &end), is_done);
                    assert_eq!(shared.word(), if is_done { word } else { before });
                    assert!(!shared.write_in_place(word + 1, start, &end), "the word says another length");
                }
                0 | 1 => {
                    let bytes = vec![(state >> 50) as u8; random];
                    pairs.push((Shared::new(bytes.len() as u64, &bytes, &[]), Arc::new(bytes)));
                }
                2..=4 => pairs.extend(pairs.get(at).cloned()),
                _ if pairs.is_empty() => {}
                _ => drop(pairs.swap_remove(at)),
            }
            if let Some((shared, model)) = pairs.get(at) {
                assert_eq!((shared.bytes(), shared.is_unique()), (&model[..], Arc::strong_count(model) == 1));
            }
        }
    }

    #[test]
    fn where_too_many_hold_it_the_next_one_gets_a_copy() {
        let shared = shared(20, 5 << 30);
        shared.mark().store(9, Ordering::Relaxed);
        let holders: Vec<Shared> = (0..2 * u32::from(SHARED_MOST)).map(|_| shared.clone()).collect();
        assert!(holders.iter().all(|holder| holder.bytes() == shared.bytes() && holder.word() == shared.word()));
        let sharing = holders.iter().filter(|holder| holder.address() == shared.address()).count();
        assert_eq!(sharing, usize::from(SHARED_MOST) - 1);
        assert!(holders.iter().all(|holder| holder.mark().load(Ordering::Relaxed) == 9));
        drop(holders);
        assert!(shared.is_unique());
    }

    #[test]
    fn it_is_written_in_place_while_other_threads_read_their_own() {
        let mut shared = shared(64, 0);
        for round in 0..200_u8 {
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    let mine = shared.clone();
                    scope.spawn(move || {
                        let first = mine.bytes().first().copied();
                        assert!(round == 0 || mine.bytes().iter().all(|byte| Some(*byte) == first));
                    });
                }
                while !shared.write_in_place(64, 0, &[round; 64]) {
                    std::thread::yield_now();
                }
            });
            assert_eq!(shared.bytes(), [round; 64]);
        }
    }

    #[test]
    fn threads_hold_and_drop_it_together() {
        let shared = shared(64, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mine = shared.clone();
                scope.spawn(move || {
                    let clones: Vec<Shared> = (0..200).map(|_| mine.clone()).collect();
                    assert!(clones.iter().all(|clone| clone.bytes().len() == 64));
                });
            }
        });
        assert!(shared.is_unique());
    }
}
