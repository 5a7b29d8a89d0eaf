//! The clock, as the caller reports it.

use std::ops::{Add, Sub};
use std::time::Duration;

use proto::peer::WallTime;

/// A moment on the caller's monotonic clock, in microseconds from an origin that only the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The same moment on a wall clock that showed `wall_at_zero` milliseconds when this clock was at zero.
    pub(crate) fn on_the_wall(self, wall_at_zero: u64) -> WallTime {
        WallTime(wall_at_zero.wrapping_add(self.0 / 1_000))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// The time since an earlier moment; zero if `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
