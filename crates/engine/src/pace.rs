//! How fast slots are filled: limited to a number of bytes per second for all replicas of a node together, and to fewer
//! the more requests clients send, so that requests take priority.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::Timestamp;

/// Capacity unused for up to this long may be made up for.
const CREDIT: Duration = Duration::from_millis(100);

/// How often the load from clients is measured.
const LOOK: Duration = Duration::from_millis(100);

/// The number of requests per second at which half of the limit is left.
const HALVED_AT: u64 = 100;

/// The limit is never reduced below one part in this many, however high the load: a move must finish under load, too.
const LEAST: u64 = 25;

/// A limit in bytes per second, initially none. Checking it takes no lock.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// The limit when there is no load, in bytes per second; 0: no limit.
    limit: AtomicU64,
    /// How many client requests are carried out per second, smoothed.
    load: AtomicU64,
    /// The number of requests at the last measurement, and when that was, in microseconds of the node's clock.
    requests: AtomicU64,
    looked: AtomicU64,
    /// When the next fill may be made, in microseconds of the node's clock.
    next: AtomicU64,
}

impl Pace {
    /// Sets the limit in bytes per second; 0: no limit, whatever the load.
    pub(crate) fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Whether [`Pace::note_requests`] should be called, which is only from time to time.
    #[must_use]
    pub(crate) fn wants_requests(&self, now: Timestamp) -> bool {
        now - Timestamp(self.looked.load(Ordering::Relaxed)) >= LOOK
    }

    /// Notes how many client requests have been carried out since the start. Called by one task only.
    pub(crate) fn note_requests(&self, now: Timestamp, requests: u64) {
        let span = now - Timestamp(self.looked.swap(now.0, Ordering::Relaxed));
        let new = requests.saturating_sub(self.requests.swap(requests, Ordering::Relaxed));
        let a_second = u128::from(new) * 1_000_000 / span.as_micros().max(1);
        let a_second = u64::try_from(a_second).unwrap_or(u64::MAX);
        // A moving average with weight 1/2: a load that pauses for a moment has not ended.
        let smoothed = self.load.load(Ordering::Relaxed) / 2 + a_second / 2;
        self.load.store(smoothed, Ordering::Relaxed);
    }

    /// Whether a fill may be made now.
    #[must_use]
    pub(crate) fn allows(&self, now: Timestamp) -> bool {
        self.next.load(Ordering::Relaxed) <= now.0
    }

    /// Accounts for a fill of this many bytes.
    pub(crate) fn spend(&self, now: Timestamp, bytes: usize) {
        let Some(rate) = self.rate() else { return };
        let span = (bytes as u64).saturating_mul(1_000_000) / rate;
        let least = now.0.saturating_sub(CREDIT.as_micros() as u64);
        let later = |next: u64| Some(next.max(least).saturating_add(span));
        // It always succeeds: the closure never refuses.
        let _ = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    /// The current limit in bytes per second; `None` if there is none.
    fn rate(&self) -> Option<u64> {
        let limit = self.limit.load(Ordering::Relaxed);
        let load = self.load.load(Ordering::Relaxed);
        let left = u128::from(limit) * u128::from(HALVED_AT) / (u128::from(HALVED_AT) + u128::from(load));
        let left = u64::try_from(left).unwrap_or(limit).max(limit / LEAST).max(1);
        (limit > 0).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes filled in two seconds, in fills of 5,000 bytes, while clients send this many requests per second.
    fn filled(pace: &Pace, requests: u64) -> u64 {
        let mut sent = 0;
        for millisecond in 10_000..14_000 {
            let now = Timestamp(millisecond * 1_000);
            if pace.wants_requests(now) {
                pace.note_requests(now, millisecond * requests / 1_000);
            }
            while pace.allows(now) {
                pace.spend(now, 5_000);
                // The first two seconds still show the load from before.
                sent += if millisecond < 12_000 { 0 } else { 5_000 };
            }
        }
        sent
    }

    #[test]
    fn no_more_is_allowed_than_the_rate_and_what_was_not_used_for_a_moment() {
        let pace = Pace::default();
        pace.spend(Timestamp(5), 1 << 40);
        assert!(pace.allows(Timestamp(0)), "there is no limit");
        pace.set_limit(1_000_000);
        let sent = filled(&pace, 0);
        assert!((1_990_000..=2_105_000).contains(&sent), "{sent} bytes in two seconds");
    }

    #[test]
    fn the_more_clients_ask_for_the_less_is_filled_and_never_nothing() {
        for (requests, part) in [(0, 1), (HALVED_AT, 2), (HALVED_AT * 3, 4), (1_000_000, LEAST)] {
            let pace = Pace::default();
            pace.set_limit(16_000_000);
            let (sent, due) = (filled(&pace, requests), 32_000_000 / part);
            assert!(
                (due * 9 / 10..=due * 11 / 10).contains(&sent),
                "{requests} requests a second: {sent} bytes, not {due}"
            );
        }
    }
}
