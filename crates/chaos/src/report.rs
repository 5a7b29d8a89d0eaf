//! The findings of a run, as text.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use sim::history::Operation;

use crate::gaps::{gaps, percentile};
use crate::nemesis::NemesisLog;
use crate::record::Record;

/// Prints a line for anyone watching.
pub(crate) fn say(line: &str) {
    // Ignore the error if nobody is watching: the report has everything.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Microseconds as seconds.
#[expect(clippy::cast_precision_loss, reason = "a run is shorter than 2^53 microseconds")]
pub(crate) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// What happened, and how it was judged.
#[derive(Debug)]
pub(crate) struct Report {
    /// What was run, one item per line.
    pub(crate) head: Vec<String>,
    pub(crate) log: NemesisLog,
    pub(crate) record: Record,
    /// How long nodes took to stop when asked to.
    pub(crate) stops: Vec<Duration>,
    /// The judges' verdicts, and what else was checked.
    pub(crate) findings: Vec<String>,
    /// Why the run failed, if it did.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// The report without the log of the nemesis.
    pub(crate) fn summary(&self) -> String {
        let mut text = self.head.join("\n");
        text.push_str("\n\n");
        self.write_operations(&mut text);
        write_gaps(&mut text, &self.log, &self.record.history);
        write_times(&mut text, "healthy again, after the last fault", self.log.recoveries.iter());
        write_times(&mut text, "nodes stopped, after SIGTERM", self.stops.iter());
        text.push('\n');
        for finding in &self.findings {
            text.push_str(finding);
            text.push('\n');
        }
        if self.failures.is_empty() {
            text.push_str("\nPASSED\n");
        }
        for failure in &self.failures {
            let _ = write!(text, "\nFAILED: {failure}\n");
        }
        text
    }

    /// The full report.
    pub(crate) fn text(&self) -> String {
        let mut text = self.summary();
        text.push_str("\nThe nemesis, in seconds from the start:\n\n");
        for (at, what) in &self.log.entries {
            let _ = writeln!(text, "{:>10.3}  {what}", seconds(*at));
        }
        text.push_str("\nWhy operations were refused or of unknown outcome:\n\n");
        for (reason, count) in &self.record.reasons {
            let _ = writeln!(text, "{count:>10}  {reason}");
        }
        text
    }

    fn write_operations(&self, text: &mut String) {
        let _ = writeln!(text, "{} operations", self.record.operations());
        let _ = writeln!(text, "{:<18}{:>10}{:>10}{:>10}{:>10}", "", "done", "conflict", "refused", "unknown");
        for (verb, tally) in &self.record.tallies {
            let (done, conflict) = (tally.done, tally.conflict);
            let _ = writeln!(text, "{verb:<18}{done:>10}{conflict:>10}{:>10}{:>10}", tally.refused, tally.unknown);
        }
        text.push('\n');
    }
}

fn write_gaps(text: &mut String, log: &NemesisLog, history: &[Operation]) {
    text.push_str(
        "For each fault, of the keys that the node led: the longest time without an answered write, and the answered\n\
         write that took longest; in milliseconds.\n",
    );
    let columns = ["p50", "p99", "max", "p50", "p99", "max"];
    let _ = write!(text, "{:<44}{:>6}", "", "faults");
    for column in columns {
        let _ = write!(text, "{column:>8}");
    }
    text.push('\n');
    for ((what, alone), gaps) in gaps(&log.faults, history) {
        let beside = if alone { "alone" } else { "beside other faults" };
        let _ = write!(text, "{:<44}{:>6}", format!("{what}, {beside}"), gaps.still.len());
        for values in [&gaps.still, &gaps.slowest] {
            for percent in [50, 99, 100] {
                let value = percentile(values, percent).map_or("-".to_owned(), |value| (value / 1_000).to_string());
                let _ = write!(text, "{value:>8}");
            }
        }
        text.push('\n');
    }
    text.push('\n');
}

fn write_times<'a>(text: &mut String, what: &str, times: impl Iterator<Item = &'a Duration>) {
    let times: Vec<u64> = times.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)).collect();
    if let (Some(median), Some(most)) = (percentile(&times, 50), percentile(&times, 100)) {
        let _ = writeln!(text, "{what}: {} times, p50 {median} ms, max {most} ms", times.len());
    }
}
