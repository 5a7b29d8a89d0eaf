//! Group commit: tasks that are ready to add entries run before the waiting sync, and share it.
//!
//! A sync costs about as much for one change as for fifty. With few processors, a log thread that syncs at once finds
//! one or two changes: the tasks that would add the others are waiting for the processor that it runs on. So it yields
//! the processor as long as that brings in more entries. If nobody is waiting for the processor, a yield returns at
//! once and nothing is lost.

use std::time::{Duration, Instant};

/// After this long, the thread stops yielding for the current sync. The time slice of a CPU-bound process is usually
/// longer, and serving fifty connections takes less: 80 us on average, with the clients on the same two processors.
const PATIENCE: Duration = Duration::from_micros(2_500);

/// A longer gathering is attributed to CPU-bound processes. Nothing is then yielded for this long, and twice as long
/// each further time, up to the longest; a short gathering resets the pause.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Gathers entries for the next sync to include.
#[derive(Debug)]
pub(super) struct Gatherer {
    not_before: Instant,
    pause: Duration,
}

impl Gatherer {
    pub(super) fn new(now: Instant) -> Self {
        Self { not_before: now, pause: PAUSE }
    }

    /// Yields the processor as long as that makes `noted` grow, in bytes.
    pub(super) fn gather(&mut self, noted: impl Fn() -> usize) {
        self.gather_by(noted, std::thread::yield_now, Instant::now);
    }

    fn gather_by(&mut self, noted: impl Fn() -> usize, mut give_way: impl FnMut(), clock: impl Fn() -> Instant) {
        let begun = clock();
        if begun < self.not_before {
            return;
        }
        let mut had = noted();
        loop {
            give_way();
            let now = clock();
            if now - begun > PATIENCE {
                self.not_before = now + self.pause;
                self.pause = (2 * self.pause).min(LONGEST_PAUSE);
                return;
            }
            let has = noted();
            if has <= had {
                self.pause = PAUSE;
                return;
            }
            had = has;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Each yield takes the same time, and the first few bring something.
    struct Others {
        now: Cell<Instant>,
        yields: Cell<u32>,
    }

    impl Others {
        fn gather(&self, gatherer: &mut Gatherer, each: Duration, bring: u32) -> u32 {
            self.yields.set(0);
            let noted = || self.yields.get().min(bring) as usize;
            let give_way = || {
                self.yields.set(self.yields.get() + 1);
                self.now.set(self.now.get() + each);
            };
            gatherer.gather_by(noted, give_way, || self.now.get());
            self.yields.get()
        }
    }

    fn begin() -> (Gatherer, Others) {
        let now = Instant::now();
        (Gatherer::new(now), Others { now: Cell::new(now), yields: Cell::new(0) })
    }

    #[test]
    fn the_processor_is_yielded_until_that_brings_nothing_more() {
        let (mut gatherer, others) = begin();
        for bring in 0..8 {
            assert_eq!(others.gather(&mut gatherer, Duration::from_micros(100), bring), bring + 1);
        }
    }

    #[test]
    fn a_sync_waits_no_longer_than_its_patience_and_one_yield() {
        let (mut gatherer, others) = begin();
        let before = others.now.get();
        others.gather(&mut gatherer, Duration::from_micros(400), u32::MAX);
        assert!(others.now.get() - before <= PATIENCE + Duration::from_micros(400));
    }

    #[test]
    fn where_others_compute_without_end_the_processor_is_yielded_ever_more_seldom() {
        let (mut gatherer, others) = begin();
        let slice = Duration::from_millis(3);
        let mut pause = PAUSE;
        for _ in 0..12 {
            assert_eq!(others.gather(&mut gatherer, slice, 1), 1);
            others.now.set(others.now.get() + pause - Duration::from_micros(1));
            assert_eq!(others.gather(&mut gatherer, slice, 1), 0, "{pause:?} are not over");
            others.now.set(others.now.get() + Duration::from_micros(1));
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
        assert_eq!(pause, LONGEST_PAUSE);
        others.gather(&mut gatherer, Duration::from_micros(100), 1);
        assert_eq!(gatherer.pause, PAUSE, "they have ended");
    }
}
