//! What a run has come to.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::workload::Action;

/// The longest latency that is told from longer ones, in nanoseconds.
const LATENCY_MOST: u64 = 60_000_000_000;

/// Digits that a latency keeps.
const PRECISION: u8 = 3;

/// What was measured.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How long was measured.
    pub elapsed: Duration,
    /// Latencies in nanoseconds, of all kinds together.
    pub latency: Histogram<u64>,
    /// The same of each kind that has come.
    pub of_action: Vec<(Action, Histogram<u64>)>,
    /// Operations that were answered in that time.
    pub operations: u64,
    /// Reads of keys that were not there, in the whole run.
    pub misses: u64,
    /// Operations that were refused, in the whole run; they are in no histogram.
    pub refused: u64,
    /// The first error, in the server's words.
    pub first_error: Option<String>,
    /// Operations that were due and could not be sent before the end, with a rate.
    pub unsent: u64,
    /// Processor time of the target's processes for an operation, where it is known.
    pub server_cpu: Option<Duration>,
    /// Processor time of this process for an operation, where the system tells.
    pub own_cpu: Option<Duration>,
}

impl Outcome {
    /// Answers in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency below which so many of a hundred operations stayed.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_percentile(percent))
    }
}

/// A part of a run, told while it goes on.
#[derive(Debug)]
pub struct Interval<'a> {
    /// When it ended, from the begin of what is measured. `None` while warming up.
    pub at: Option<Duration>,
    /// How long it was.
    pub elapsed: Duration,
    /// Latencies in nanoseconds of what was answered in it.
    pub latency: &'a Histogram<u64>,
    /// Errors in the whole run so far.
    pub refused: u64,
}

/// Gathers what is measured while a run goes on.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) start: Instant,
    /// None: no end.
    pub(crate) stop: Option<Instant>,
    /// Answers before and after the time that is measured too.
    pub(crate) answers: u64,
    pub(crate) misses: u64,
    pub(crate) refused: u64,
    pub(crate) first_error: Option<String>,
    interval: Kinds,
    total: Kinds,
    /// The last answer that counts.
    last: Instant,
}

/// A histogram for each kind that has come.
#[derive(Debug, Default)]
struct Kinds([Option<Box<Histogram<u64>>>; Action::ALL.len()]);

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MOST, PRECISION).expect("bounds that are in order, and a digit count up to 5")
}

impl Kinds {
    fn of(&mut self, action: Action) -> Option<&mut Histogram<u64>> {
        self.0.get_mut(action.index()).map(|kind| &mut **kind.get_or_insert_with(|| Box::new(histogram())))
    }

    fn all(&self) -> Histogram<u64> {
        let mut all = histogram();
        for kind in self.0.iter().flatten() {
            all.add(&**kind).expect("all have the same bounds");
        }
        all
    }
}

impl Recorder {
    pub(crate) fn new(start: Instant, stop: Option<Instant>) -> Self {
        Self {
            start,
            stop,
            answers: 0,
            misses: 0,
            refused: 0,
            first_error: None,
            interval: Kinds::default(),
            total: Kinds::default(),
            last: start,
        }
    }

    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.stop.is_some_and(|stop| now >= stop)
    }

    /// An operation is done that was due, or sent, at a moment.
    pub(crate) fn done(&mut self, action: Action, since: Instant, now: Instant) {
        self.answers += 1;
        if now >= self.start && !self.is_over(now) {
            self.last = now;
            let latency = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
            if let Some(kind) = self.interval.of(action) {
                kind.saturating_record(latency);
            }
        }
    }

    /// An operation was refused.
    pub(crate) fn refused(&mut self, error: &[u8]) {
        self.answers += 1;
        self.refused += 1;
        self.first_error.get_or_insert_with(|| error.escape_ascii().to_string());
    }

    /// Ends an interval; gives what was measured in it.
    pub(crate) fn end_interval(&mut self) -> Histogram<u64> {
        let all = self.interval.all();
        for (kind, action) in self.interval.0.iter_mut().zip(Action::ALL) {
            let Some(kind) = kind.as_mut().filter(|kind| !kind.is_empty()) else { continue };
            if let Some(total) = self.total.of(action) {
                total.add(&**kind).expect("all have the same bounds");
            }
            kind.reset();
        }
        all
    }

    /// `used` is the processor time of the target and of this process in the whole run.
    pub(crate) fn outcome(mut self, unsent: u64, used: [Option<Duration>; 2]) -> Outcome {
        self.end_interval();
        let latency = self.total.all();
        let kinds = Action::ALL.into_iter().zip(self.total.0).filter_map(|(action, kind)| Some((action, *kind?)));
        let each = |used: Option<Duration>| {
            used.filter(|_| self.answers > 0)
                .map(|used| Duration::from_nanos((used.as_nanos() / u128::from(self.answers)) as u64))
        };
        let [server_cpu, own_cpu] = used.map(each);
        Outcome {
            // Without an end of its own it ends with its last answer.
            elapsed: self.stop.unwrap_or(self.last).saturating_duration_since(self.start),
            operations: latency.len(),
            latency,
            of_action: kinds.collect(),
            misses: self.misses,
            refused: self.refused,
            first_error: self.first_error,
            unsent,
            server_cpu,
            own_cpu,
        }
    }
}
