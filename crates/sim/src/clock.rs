//! The clock of one process, with its own rate and its own origin.

use engine::time::Timestamp;

/// Parts of a million, the unit of rates.
pub(crate) const EXACT: u64 = 1_000_000;

/// A process's monotonic clock. Real time is that of the simulation, in microseconds.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    real: u64,
    local: u64,
    rate: u64,
}

impl Clock {
    /// An exact clock that shows `local` at the start.
    pub(crate) fn new(local: u64) -> Self {
        Self { real: 0, local, rate: EXACT }
    }

    /// The time it shows.
    pub(crate) fn now(&self, real: u64) -> Timestamp {
        Timestamp(self.local + (real - self.real) * self.rate / EXACT)
    }

    /// How much real time passes while the clock advances by `span` microseconds.
    pub(crate) fn real_span(&self, span: u64) -> u64 {
        (span * EXACT).div_ceil(self.rate)
    }

    /// When the clock will show `local`, in real time; now if it already does.
    pub(crate) fn real_time(&self, real: u64, local: Timestamp) -> u64 {
        real + self.real_span(local.0.saturating_sub(self.now(real).0))
    }

    /// Runs at another rate from now on.
    pub(crate) fn set_rate(&mut self, real: u64, rate: u64) {
        (self.local, self.real) = (self.now(real).0, real);
        self.rate = rate;
    }

    /// Jumps forward.
    pub(crate) fn jump(&mut self, by: u64) {
        self.local += by;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_runs_fast_needs_less_real_time() {
        let mut clock = Clock::new(1_000);
        clock.set_rate(500, 1_100_000);
        assert_eq!(clock.now(500), Timestamp(1_500));
        assert_eq!(clock.now(1_500), Timestamp(2_600));
        assert_eq!(clock.real_span(1_100), 1_000);
        assert_eq!(clock.real_time(1_500, Timestamp(3_700)), 2_500);
        clock.jump(400);
        assert_eq!(clock.now(1_500), Timestamp(3_000));
    }
}
