//! Two targets measured alternately under the same load, and the goals for one relative to the other.

use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use bench::Target;

use crate::redis_benchmark;
use crate::report::{Spread, cpu, median, micros, spread, thousands};
use crate::shape::{Measurement, Shape};

/// A target and the load put on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) target: &'a Target,
    pub(crate) shape: Shape,
}

/// Two sides that are measured alternately.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    /// The load, for the table.
    pub(crate) name: String,
    pub(crate) ours: Side<'a>,
    pub(crate) base: Side<'a>,
    pub(crate) generator: Generator,
    pub(crate) goals: Vec<Goal>,
}

/// Who sends the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generator {
    /// This package.
    Ours,
    /// redis-benchmark, for this many keys of its own.
    RedisBenchmark(u32),
}

/// A figure to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    Speed,
    /// Operations per second of processor time, of server and generator together. If both share one processor, this is
    /// the speed they would reach if they had it to themselves, whatever else runs.
    Work,
    /// Processor time of the server per operation.
    Cpu,
    P99,
}

/// A goal for the ratio of ours to the other's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Goal {
    figure: Figure,
    bound: Bound,
}

/// A bound on a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    /// At least `least` times the other's operations per second.
    pub(crate) fn speed(least: f64) -> Self {
        Self { figure: Figure::Speed, bound: Bound::AtLeast(least) }
    }

    /// At most `most` times the other's processor time per operation.
    pub(crate) fn cpu(most: f64) -> Self {
        Self { figure: Figure::Cpu, bound: Bound::AtMost(most) }
    }

    /// At most `most` times the other's p99.
    pub(crate) fn p99(most: f64) -> Self {
        Self { figure: Figure::P99, bound: Bound::AtMost(most) }
    }
}

impl Bound {
    /// Whether a number satisfies the bound.
    pub(crate) fn is_met(self, number: f64) -> bool {
        match self {
            Self::AtLeast(least) => number >= least,
            Self::AtMost(most) => number <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
        }
    }
}

/// The rounds of a pair.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    pair: &'a Pair<'a>,
    ours: Vec<Measurement>,
    base: Vec<Measurement>,
}

/// Measures both sides of a pair alternately. The order is swapped with each round.
///
/// # Errors
/// If a connection breaks, or an answer is wrong or missing.
pub(crate) fn measure<'a>(pair: &'a Pair<'a>, rounds: u32, time: Duration) -> anyhow::Result<Measured<'a>> {
    let run = |Side { target, shape }: Side<'_>| {
        let measured = match pair.generator {
            Generator::Ours => shape.measure(target, time),
            Generator::RedisBenchmark(keys) => redis_benchmark::measure(target, shape, time, keys),
        };
        measured.with_context(|| format!("{shape} against {}", target.name))
    };
    let mut measured = Measured { pair, ours: Vec::new(), base: Vec::new() };
    for round in 1..=rounds {
        eprint!("\r\x1b[K{} against {}, round {round} of {rounds}", pair.name, pair.base.target.name);
        if round % 2 == 0 {
            measured.ours.push(run(pair.ours)?);
            measured.base.push(run(pair.base)?);
        } else {
            measured.base.push(run(pair.base)?);
            measured.ours.push(run(pair.ours)?);
        }
    }
    eprint!("\r\x1b[K");
    Ok(measured)
}

impl Measured<'_> {
    fn ratio(&self, figure: Figure) -> Option<Spread> {
        let of = |measured: &Measurement| match figure {
            Figure::Speed => measured.per_second,
            Figure::Work => per_cpu_second(measured),
            Figure::Cpu => measured.cpu.map_or(f64::NAN, |cpu| cpu.as_secs_f64()),
            Figure::P99 => measured.p99.as_secs_f64(),
        };
        spread(self.ours.iter().zip(&self.base).map(|(ours, base)| of(ours) / of(base)))
    }

    fn figure(&self, figure: Figure) -> (String, String) {
        let (ours, base) = (median(&self.ours), median(&self.base));
        let text = |measured: &Measurement| match figure {
            Figure::Speed => format!("{} ops/s", thousands(measured.per_second)),
            Figure::Work if measured.all_cpu.is_none() => "-".to_owned(),
            Figure::Work => format!("{} ops/CPU s", thousands(per_cpu_second(measured))),
            Figure::Cpu => format!("{} us CPU", cpu(measured)),
            Figure::P99 => format!("{} us p99", micros(measured.p99)),
        };
        (text(&ours), text(&base))
    }
}

/// A table in Markdown: a row per goal, and rows for speed and processor time even without a goal.
pub(crate) fn table(all: &[Measured<'_>]) -> String {
    let mut text =
        "| load | ours | beside | ratio (least to most) | goal | met |\n|---|---:|---:|---:|---:|---|\n".to_owned();
    for measured in all {
        for figure in [Figure::Speed, Figure::Work, Figure::Cpu, Figure::P99] {
            let goal = measured.pair.goals.iter().find(|goal| goal.figure == figure);
            let is_known = figure != Figure::Work || measured.ours.iter().all(|measured| measured.all_cpu.is_some());
            if goal.is_none() && (figure == Figure::P99 || !is_known) {
                continue;
            }
            let ratio = measured.ratio(figure);
            let (ours, base) = measured.figure(figure);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} {ours} | {} {base} | {} | {} | {} |",
                measured.pair.name,
                measured.pair.ours.target.name,
                measured.pair.base.target.name,
                ratio.map_or_else(|| "-".to_owned(), |ratio| ratio.to_string()),
                goal.map_or_else(String::new, |goal| goal.bound.to_string()),
                goal.map_or("", |goal| verdict(ratio.is_some_and(|ratio| goal.bound.is_met(ratio.middle)))),
            );
        }
    }
    text
}

fn per_cpu_second(measured: &Measurement) -> f64 {
    measured.all_cpu.map_or(f64::NAN, |cpu| 1.0 / cpu.as_secs_f64())
}

/// How the tables state whether a goal is met.
pub(crate) fn verdict(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::shapes;
    use bench::request::Dialect;
    use bench::target::Place;

    #[test]
    fn a_goal_is_met_by_the_median_of_the_ratios() {
        let place: Place = "127.0.0.1:1".parse().unwrap();
        let [one, redis] = ["one node", "Redis"].map(|name| Target::single(name, &place, Dialect::Set, 0..1));
        let shape = shapes()[0];
        let goals = vec![Goal::speed(1.1), Goal::cpu(0.75), Goal::p99(0.8)];
        let [ours, base] = [&one, &redis].map(|target| Side { target, shape });
        let generator = Generator::Ours;
        let pair = Pair { name: "GET, 1 in flight".to_owned(), ours, base, generator, goals };
        let measurement = |per_second, cpu| Measurement {
            per_second,
            p50: Duration::from_micros(10),
            p99: Duration::from_micros(20),
            cpu: Some(Duration::from_micros(cpu)),
            all_cpu: Some(Duration::from_micros(cpu * 2)),
        };
        let ours = vec![measurement(100.0, 8), measurement(120.0, 8), measurement(500.0, 8)];
        let base = vec![measurement(100.0, 10); 3];
        let table = table(&[Measured { pair: &pair, ours, base }]);
        let expected = "\
            | GET, 1 in flight | one node 120 ops/s | Redis 100 ops/s | 1.20 (1.00 to 5.00) | >= 1.1 | yes |\n\
            | GET, 1 in flight | one node 62 500 ops/CPU s | Redis 50 000 ops/CPU s | 1.25 (1.25 to 1.25) |  |  |\n\
            | GET, 1 in flight | one node 8.00 us CPU | Redis 10.00 us CPU | 0.80 (0.80 to 0.80) | <= 0.75 | **no** |\n\
            | GET, 1 in flight | one node 20.0 us p99 | Redis 20.0 us p99 | 1.00 (1.00 to 1.00) | <= 0.8 | **no** |\n";
        assert!(table.ends_with(expected), "{table}");
    }
}
