//! Whether the disk hangs, as opposed to being slow.

use std::time::{Duration, Instant};

use crate::driver::Driver;

/// A disk that has taken nothing for this long hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches the disk on behalf of a task that cannot finish before the disk has taken something.
#[derive(Debug, Default)]
pub(crate) struct DiskWatch {
    /// How much the disk had taken when it was last seen to take something, and when that was.
    seen: Option<(u64, Instant)>,
}

impl DiskWatch {
    /// Whether the disk has taken nothing for a second of what it should take. Call this from time to time.
    pub(crate) fn hangs(&mut self, driver: &Driver) -> bool {
        self.hangs_at(driver, Instant::now())
    }

    pub(crate) fn hangs_at(&mut self, driver: &Driver, now: Instant) -> bool {
        let Some(store) = driver.store().filter(|store| !store.is_written(driver.node().noted().end())) else {
            self.seen = None;
            return false;
        };
        let taken = store.taken();
        let (before, since) = *self.seen.get_or_insert((taken, now));
        if taken != before {
            self.seen = Some((taken, now));
            return false;
        }
        now.saturating_duration_since(since) > PATIENCE
    }
}
