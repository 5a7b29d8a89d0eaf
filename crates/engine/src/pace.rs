//! How fast slots are filled: so many bytes in a second for all replicas of a node together, so that what clients ask for
//! comes first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Timestamp;

/// What was not used in this time may be made up for.
const CREDIT: Duration = Duration::from_millis(100);

/// A limit of bytes in a second; none as it is made. Looking at it takes no lock.
#[derive(Debug, Default)]
pub struct Pace {
    /// In bytes a second; 0 stands for no limit.
    rate: AtomicU64,
    /// When the next fill may be made, in microseconds of the node's clock.
    next: AtomicU64,
}

impl Pace {
    /// Sets the limit in bytes a second; 0 stands for none.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::Relaxed);
    }

    /// Whether a fill may be made now.
    #[must_use]
    pub fn allows(&self, now: Timestamp) -> bool {
        self.next.load(Ordering::Relaxed) <= now.0
    }

    /// A fill of so many bytes was made.
    pub fn spend(&self, now: Timestamp, bytes: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let span = (bytes as u64).saturating_mul(1_000_000) / rate;
        let least = now.0.saturating_sub(CREDIT.as_micros() as u64);
        let later = |next: u64| Some(next.max(least).saturating_add(span));
        // It always succeeds: the closure never refuses.
        let _ = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_allowed_than_the_rate_and_what_was_not_used_for_a_moment() {
        let pace = Pace::default();
        pace.spend(Timestamp(5), 1 << 40);
        assert!(pace.allows(Timestamp(0)), "there is no limit");
        pace.set_rate(1_000_000);
        let mut sent = 0;
        for millisecond in 10_000..12_000 {
            let now = Timestamp(millisecond * 1_000);
            while pace.allows(now) {
                pace.spend(now, 5_000);
                sent += 5_000;
            }
        }
        assert!((2_000_000..=2_105_000).contains(&sent), "{sent} bytes in two seconds");
    }
}
