//! Request latencies, as histograms that many tasks update without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::time::Timestamp;

/// Buckets per power of two: a reported latency is at most a sixteenth too high.
const STEPS: usize = 16;

/// Powers of two: the last bucket counts everything from 2^36 microseconds (19 hours).
const POWERS: usize = 33;

/// A latency histogram, with buckets as in HdrHistogram: equal steps between powers of two.
#[derive(Debug)]
pub struct Latencies {
    counts: Box<[AtomicU64]>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: (0..STEPS * POWERS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Latencies {
    /// Records `requests` requests that each took `latency`.
    pub fn record(&self, latency: Duration, requests: u32) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let bucket = bucket(micros).min(self.counts.len() - 1);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(requests.into(), Ordering::Relaxed);
        }
    }

    /// Appends the figures, each as a name that begins with `kind`, a space and a number: the number of requests, and
    /// the 50th, 99th and 99.9th percentile of their latency in microseconds.
    pub fn describe(&self, kind: &str, lines: &mut Vec<String>) {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        lines.push(format!("{kind}_count {total}"));
        for (name, per_mille) in [("p50", 500), ("p99", 990), ("p999", 999)] {
            lines.push(format!("{kind}_{name}_us {}", quantile(&counts, total, per_mille)));
        }
    }
}

/// The latencies of each kind of request, indexed by kind.
#[derive(Debug)]
pub struct Kinds<const KINDS: usize>([Latencies; KINDS]);

impl<const KINDS: usize> Default for Kinds<KINDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Latencies::default()))
    }
}

impl<const KINDS: usize> Kinds<KINDS> {
    /// The number of requests of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().flat_map(|kind| kind.counts.iter()).map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Appends the figures of every kind, see [`Latencies::describe`].
    pub fn describe(&self, names: [&str; KINDS], lines: &mut Vec<String>) {
        for (latencies, name) in self.0.iter().zip(names) {
            latencies.describe(name, lines);
        }
    }
}

/// The requests of one connection that have arrived together and are not answered yet, counted by kind.
#[derive(Debug, Clone, Copy)]
pub struct Unanswered<const KINDS: usize> {
    counts: [u32; KINDS],
    /// When the first of them arrived; `None` if there are none.
    since: Option<Timestamp>,
}

impl<const KINDS: usize> Default for Unanswered<KINDS> {
    fn default() -> Self {
        Self { counts: [0; KINDS], since: None }
    }
}

impl<const KINDS: usize> Unanswered<KINDS> {
    /// Adds a request of this kind. The arrival time of the first request counts for all.
    pub fn add(&mut self, now: Timestamp, kind: usize) {
        self.since.get_or_insert(now);
        if let Some(count) = self.counts.get_mut(kind) {
            *count += 1;
        }
    }

    /// All are answered: the last byte was handed to the system. If there were none, the clock is not read.
    pub fn answered(&mut self, now: impl FnOnce() -> Timestamp, to: &Kinds<KINDS>) {
        let Some(since) = self.since.take() else { return };
        let latency = now() - since;
        for (count, latencies) in self.counts.iter_mut().zip(&to.0) {
            if *count > 0 {
                latencies.record(latency, std::mem::take(count));
            }
        }
    }
}

/// The bucket that counts a latency.
fn bucket(micros: u64) -> usize {
    let steps = STEPS as u64;
    if micros < steps {
        return micros as usize;
    }
    let power = u64::from(micros.ilog2()) - u64::from(steps.ilog2());
    (power * steps + (micros >> power)) as usize
}

/// The highest latency that a bucket counts.
fn highest(bucket: usize) -> u64 {
    let (power, step) = ((bucket / STEPS) as u32, (bucket % STEPS) as u64);
    match power.checked_sub(1) {
        None => step,
        Some(power) => ((STEPS as u64 + step + 1) << power) - 1,
    }
}

fn quantile(counts: &[u64], total: u64, per_mille: u64) -> u64 {
    let rank = (total * per_mille).div_ceil(1_000);
    let mut seen = 0;
    let found = counts.iter().position(|count| {
        seen += count;
        seen >= rank && seen > 0
    });
    found.map_or(0, highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_is_in_the_bucket_that_bounds_it() {
        let mut last = 0;
        for micros in (0..4_096).chain((12..40).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1])) {
            let bucket = bucket(micros);
            assert!(highest(bucket) >= micros, "{micros}");
            assert!(bucket == 0 || highest(bucket - 1) < micros, "{micros}");
            assert!(highest(bucket) - micros <= micros / 16, "{micros}");
            assert!(bucket >= last);
            last = bucket;
        }
    }

    #[test]
    fn figures_are_those_of_the_ranks() {
        let latencies = Latencies::default();
        let described = |latencies: &Latencies| {
            let mut lines = Vec::new();
            latencies.describe("get", &mut lines);
            lines
        };
        assert_eq!(described(&latencies), ["get_count 0", "get_p50_us 0", "get_p99_us 0", "get_p999_us 0"]);
        latencies.record(Duration::from_micros(3), 989);
        latencies.record(Duration::from_micros(10), 10);
        latencies.record(Duration::MAX, 1);
        let lines = described(&latencies);
        assert_eq!(lines[..3], ["get_count 1000", "get_p50_us 3", "get_p99_us 10"]);
        assert_eq!(lines[3], "get_p999_us 10");
        latencies.record(Duration::MAX, 1);
        assert!(described(&latencies)[3].len() > "get_p999_us 1000000000".len());
    }

    #[test]
    fn each_request_of_a_batch_takes_as_long_as_the_batch() {
        let (kinds, mut unanswered) = (Kinds::<2>::default(), Unanswered::<2>::default());
        unanswered.answered(|| unreachable!("nothing waits"), &kinds);
        unanswered.add(Timestamp(100), 1);
        unanswered.add(Timestamp(105), 0);
        unanswered.add(Timestamp(105), 1);
        unanswered.answered(|| Timestamp(110), &kinds);
        unanswered.answered(|| unreachable!("nothing waits"), &kinds);
        let mut lines = Vec::new();
        kinds.describe(["get", "put"], &mut lines);
        let is_count = |line: &String| line.contains("count") || line.contains("p50");
        lines.retain(is_count);
        assert_eq!(lines, ["get_count 1", "get_p50_us 10", "put_count 2", "put_p50_us 10"]);
    }
}
