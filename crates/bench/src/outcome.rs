//! The outcome of a run.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::reply::first_line;
use crate::workload::Action;

/// The longest latency that can be distinguished from longer ones, in nanoseconds.
const LATENCY_MOST: u64 = 60_000_000_000;

/// Significant digits of a latency.
const PRECISION: u8 = 3;

/// The results of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The measured time.
    pub elapsed: Duration,
    /// Latencies in nanoseconds, of all kinds of operations together: those answered in that time, and those that were
    /// still waiting at its end.
    pub latency: Histogram<u64>,
    /// The same per kind that came up.
    pub of_action: Vec<(Action, Histogram<u64>)>,
    /// Operations answered in that time.
    pub operations: u64,
    /// Reads of missing keys, in that time.
    pub misses: u64,
    /// Operations that were refused, in the whole run; no histogram includes them.
    pub refused: u64,
    /// The first error, in the server's words.
    pub first_error: Option<String>,
    /// With a rate: operations that were due and could not be sent before the end.
    pub unsent: u64,
    /// What ended the run before it was done, if anything did. The measured time ends there.
    pub cut_short: Option<CutShort>,
    /// Processor time of the target's processes per operation, if known.
    pub server_cpu: Option<Duration>,
    /// Processor time of this process per operation, if the system reports it.
    pub own_cpu: Option<Duration>,
}

impl Outcome {
    /// Answers per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency below which `percent` percent of the operations stayed.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_percentile(percent))
    }
}

/// A run that ended before it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutShort {
    /// When it ended.
    pub at: Instant,
    /// What ended it.
    pub why: Why,
    /// Operations without an answer at that moment; no figure includes them.
    pub unanswered: u64,
}

/// What ended a run before it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It was told to end.
    Interrupted,
    /// It failed: a connection broke, or an answer was missing or did not match its request.
    Failed(String),
}

/// A part of a run, reported while the run goes on.
#[derive(Debug)]
pub struct Interval<'a> {
    /// When it ended, from the start of the measurement. `None` during the warm-up.
    pub at: Option<Duration>,
    /// Its length.
    pub elapsed: Duration,
    /// Latencies in nanoseconds of the operations answered in it.
    pub latency: &'a Histogram<u64>,
    /// Errors in the whole run so far.
    pub refused: u64,
}

/// Collects the measurements during a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) start: Instant,
    /// `None` means no end.
    pub(crate) stop: Option<Instant>,
    /// Answers, including those before and after the measured time.
    pub(crate) answers: u64,
    operations: u64,
    misses: u64,
    pub(crate) refused: u64,
    pub(crate) first_error: Option<String>,
    interval: Kinds,
    total: Kinds,
    /// The last answer that counted.
    last: Instant,
}

/// A histogram per kind that came up.
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
            operations: 0,
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

    /// Records an operation that was due, or sent, at `since`.
    pub(crate) fn done(&mut self, action: Action, since: Instant, now: Instant) {
        self.answers += 1;
        let counts = self.counts(since, now);
        self.operations += u64::from(counts);
        // What is answered late has waited, too.
        let was_waiting = self.is_over(now) && !self.is_over(since) && since >= self.start;
        if counts || was_waiting {
            self.last = now;
            let latency = u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX);
            if let Some(kind) = self.interval.of(action) {
                kind.saturating_record(latency);
            }
        }
    }

    /// Whether an operation that was due, or sent, at `since` and is answered now belongs to the measured time.
    fn counts(&self, since: Instant, now: Instant) -> bool {
        // Without a set end, the operations themselves are counted: those that were begun after the warm-up.
        let counts_from = if self.stop.is_some() { now } else { since };
        counts_from >= self.start && !self.is_over(now)
    }

    /// Records whether the key of an operation was missing.
    pub(crate) fn read(&mut self, is_missing: bool, since: Instant, now: Instant) {
        self.misses += u64::from(is_missing && self.counts(since, now));
    }

    /// Records a refused operation.
    pub(crate) fn refused(&mut self, error: &[u8]) {
        self.answers += 1;
        self.refused += 1;
        self.first_error.get_or_insert_with(|| first_line(error));
    }

    /// Ends an interval and returns its measurements.
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
    pub(crate) fn outcome(mut self, unsent: u64, used: [Option<Duration>; 2], cut_short: Option<CutShort>) -> Outcome {
        self.end_interval();
        let latency = self.total.all();
        let kinds = Action::ALL.into_iter().zip(self.total.0).filter_map(|(action, kind)| Some((action, *kind?)));
        let each = |used: Option<Duration>| {
            used.filter(|_| self.answers > 0)
                .map(|used| Duration::from_nanos((used.as_nanos() / u128::from(self.answers)) as u64))
        };
        let [server_cpu, own_cpu] = used.map(each);
        // Without a set end, the run ends with its last answer.
        let end = match (self.stop, &cut_short) {
            (Some(stop), Some(cut)) => stop.min(cut.at),
            (Some(stop), None) => stop,
            (None, _) => self.last,
        };
        Outcome {
            elapsed: end.saturating_duration_since(self.start),
            operations: self.operations,
            latency,
            of_action: kinds.collect(),
            misses: self.misses,
            refused: self.refused,
            first_error: self.first_error,
            unsent,
            cut_short,
            server_cpu,
            own_cpu,
        }
    }
}
