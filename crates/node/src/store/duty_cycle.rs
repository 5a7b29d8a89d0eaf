//! The duty cycle of a thread that works beside those that serve clients.

use std::time::{Duration, Instant};

/// The longest rest.
const LONGEST: Duration = Duration::from_millis(20);

/// Work in stretches, each followed by a rest `times` as long. So the thread takes at most a fixed share of a
/// processor, or of the disk, unless a rest is capped at `LONGEST`. It takes less when others leave it no processor:
/// the time that it waits for one counts as work.
#[derive(Debug)]
pub(super) struct DutyCycle {
    stretch: Duration,
    times: u32,
    begun: Instant,
}

impl DutyCycle {
    /// Begins a stretch now, which lasts at least this long.
    pub(super) fn new(stretch: Duration, times: u32) -> Self {
        Self { stretch, times, begun: Instant::now() }
    }

    /// Call this often: it rests once a stretch is over.
    pub(super) fn rest(&mut self) {
        let worked = self.begun.elapsed();
        if worked >= self.stretch {
            std::thread::sleep((worked * self.times).min(LONGEST));
            self.begun = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_so_many_times_as_long_as_the_stretch_and_no_longer_than_the_longest() {
        let stretch = Duration::from_millis(2);
        let mut duty_cycle = DutyCycle::new(stretch, 3);
        let begun = Instant::now();
        duty_cycle.rest();
        std::thread::sleep(stretch);
        let (before, _) = (Instant::now(), duty_cycle.rest());
        assert!(before.elapsed() >= 3 * stretch, "it rested for {:?}", before.elapsed());
        assert!(begun.elapsed() >= 4 * stretch);
        duty_cycle.begun = Instant::now().checked_sub(Duration::from_secs(60)).unwrap_or(duty_cycle.begun);
        let before = Instant::now();
        duty_cycle.rest();
        assert!(before.elapsed() < Duration::from_secs(30), "it rested for {:?}", before.elapsed());
    }
}
