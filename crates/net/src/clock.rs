//! The clock that the engine is told: microseconds on the machine's monotonic clock.

use std::time::{Duration, Instant};

use engine::time::Timestamp;

/// A clock of this process. Copies agree with each other.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now, at one second, so that zero stays a moment before everything.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp(1_000_000) + self.origin.elapsed()
    }

    /// Sleeps until a moment; returns at once where it has passed.
    pub async fn sleep_until(&self, moment: Timestamp) {
        let left: Duration = moment - self.now();
        tokio::time::sleep(left).await;
    }
}
