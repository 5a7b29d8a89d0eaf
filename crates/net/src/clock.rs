//! The clock for the engine: microseconds on a monotonic clock that goes on while the machine is suspended.
//!
//! A lease runs out whether or not its holder's machine sleeps, so the holder must count that time too. The standard
//! library's clock does so on Windows. On Linux, Android and Apple's systems it does not, so this module reads a
//! system clock that does. On other systems it is the standard library's clock, whatever that does there. None of
//! these clocks necessarily counts the time for which a virtual machine is stopped by its host.

use std::time::Duration;

use engine::time::Timestamp;

use self::system::Reading;

/// The longest that [`Clock::sleep_until`] goes without reading its own clock. The runtime's timers stand still while
/// a machine is suspended, so this is how late a moment that passed meanwhile can be noticed.
const LONGEST_NAP: Duration = Duration::from_secs(1);

/// A clock of this process. Copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Reading,
}

impl Clock {
    /// A clock that starts now, at one second, so that zero stays a moment before everything.
    ///
    /// # Panics
    /// The system has no such clock: Linux before 2.6.39, macOS before 10.12.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Reading::now() }
    }

    /// The current time. Never earlier than a previous result.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(1_000_000) + Reading::now().since(self.origin)
    }

    /// Sleeps until this clock reaches `moment`, however the runtime's timers differ from it. Cancel-safe.
    pub async fn sleep_until(&self, moment: Timestamp) {
        self.nap_until(moment, LONGEST_NAP).await;
    }

    async fn nap_until(&self, moment: Timestamp, longest: Duration) {
        loop {
            // Sleep even if no time is left: a caller that keeps asking for past moments then lets other tasks run.
            let left: Duration = moment - self.now();
            tokio::time::sleep(left.min(longest)).await;
            if self.now() >= moment {
                return;
            }
        }
    }
}

/// The system's clock, read through the system's own interface.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
mod system {
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    #[cfg(not(target_vendor = "apple"))]
    const CLOCK: ClockId = ClockId::CLOCK_BOOTTIME;

    /// `CLOCK_MONOTONIC` counts sleep as well, but follows corrections of the wall clock and has been seen to step back
    /// (<https://github.com/erlang/otp/pull/5825>).
    #[cfg(target_vendor = "apple")]
    const CLOCK: ClockId = ClockId::from_raw(nix::libc::CLOCK_MONOTONIC_RAW);

    /// The time since an origin chosen by the system.
    #[derive(Debug, Clone, Copy)]
    pub(super) struct Reading(Duration);

    impl Reading {
        pub(super) fn now() -> Self {
            let time = clock_gettime(CLOCK).expect("the system has a clock that counts the time it is suspended");
            Self(time.into())
        }

        pub(super) fn since(self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }
}

/// The standard library's clock.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
mod system {
    use std::time::{Duration, Instant};

    #[derive(Debug, Clone, Copy)]
    pub(super) struct Reading(Instant);

    impl Reading {
        pub(super) fn now() -> Self {
            Self(Instant::now())
        }

        pub(super) fn since(self, earlier: Self) -> Duration {
            self.0.saturating_duration_since(earlier.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_clock_starts_at_one_second() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(first >= Timestamp(1_000_000), "{first:?}");
        assert!(first < Timestamp(60_000_000), "{first:?}");
    }

    #[test]
    fn the_clock_never_goes_back_and_copies_agree() {
        let clock = Clock::start();
        let copy = clock;
        let mut last = clock.now();
        for _ in 0..100_000 {
            for clock in [clock, copy] {
                let now = clock.now();
                assert!(now >= last, "{now:?} after {last:?}");
                last = now;
            }
        }
    }

    #[test]
    fn the_clock_advances_with_real_time() {
        let tolerance = Duration::from_millis(1);
        let clock = Clock::start();
        // The measured time lies between the inner and the outer time, wherever the scheduler interrupts.
        let outer = Instant::now();
        let before = clock.now();
        let inner = Instant::now();
        while inner.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let least = inner.elapsed();
        let passed = clock.now() - before;
        let most = outer.elapsed();
        assert!(passed + tolerance >= least, "{passed:?} in at least {least:?}");
        assert!(passed <= most + tolerance, "{passed:?} in at most {most:?}");
    }

    #[tokio::test]
    async fn a_sleep_of_many_naps_ends_when_the_moment_has_come() {
        let clock = Clock::start();
        let moment = clock.now() + Duration::from_millis(20);
        clock.nap_until(moment, Duration::from_millis(1)).await;
        assert!(clock.now() >= moment);
    }
}
