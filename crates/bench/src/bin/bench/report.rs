//! Turns rounds into medians, and medians into a table.

use std::fmt::{self, Write as _};
use std::time::Duration;

use crate::shape::{Measurement, Shape};

/// All rounds of one shape. In each, every target was measured once; the first target is the echo server.
#[derive(Debug)]
pub(crate) struct Rounds {
    of_target: Vec<Vec<Measurement>>,
}

impl Rounds {
    /// Starts with no rounds, for this many targets.
    pub(crate) fn new(targets: usize) -> Self {
        Self { of_target: vec![Vec::new(); targets] }
    }

    /// Adds a round: one measurement per target, in their order.
    pub(crate) fn push(&mut self, round: Vec<Measurement>) {
        self.of_target.iter_mut().zip(round).for_each(|(rounds, measured)| rounds.push(measured));
    }

    fn of(&self, target: usize) -> &[Measurement] {
        self.of_target.get(target).map_or(&[], Vec::as_slice)
    }

    /// The ratio of a figure of one target to the same figure of another.
    fn ratio(&self, target: usize, base: usize, of: impl Fn(&Measurement) -> f64) -> String {
        let pairs = self.of(target).iter().zip(self.of(base));
        spread(pairs.map(|(target, base)| of(target) / of(base))).map_or_else(|| "-".to_owned(), |it| it.to_string())
    }
}

/// A figure over several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) middle: f64,
    least: f64,
    most: f64,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.middle, self.least, self.most)
    }
}

/// The median, the minimum and the maximum. `None` if there are no numbers.
pub(crate) fn spread(numbers: impl Iterator<Item = f64>) -> Option<Spread> {
    let numbers = sorted(numbers);
    let (middle, least, most) = (middle(&numbers)?, *numbers.first()?, *numbers.last()?);
    middle.is_finite().then_some(Spread { middle, least, most })
}

/// A table in Markdown of one target against the echo server, and against the first cluster if that is a different one.
pub(crate) fn table(name: &str, rows: &[(Shape, Rounds)], target: usize) -> String {
    let mut text = format!(
        "### {}\n\n\
         | request | encoding | connections | in flight | ops/s | p50 us | p99 us | CPU us/op | \
         echo ops/s | echo CPU us/op | ops/s over echo | CPU over echo | ops/s over the first cluster |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        capitalized(name)
    );
    for (shape, rounds) in rows {
        let (measured, echo) = (median(rounds.of(target)), median(rounds.of(0)));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            shape.verb(),
            shape.encoding(),
            shape.connections,
            shape.pipeline,
            thousands(measured.per_second),
            micros(measured.p50),
            micros(measured.p99),
            cpu(&measured),
            thousands(echo.per_second),
            cpu(&echo),
            rounds.ratio(target, 0, |measured| measured.per_second),
            rounds.ratio(target, 0, |measured| measured.cpu.unwrap_or_default().as_secs_f64()),
            if target == 1 { "-".to_owned() } else { rounds.ratio(target, 1, |measured| measured.per_second) },
        );
    }
    text
}

/// The median of each measured figure, taken separately.
pub(crate) fn median(rounds: &[Measurement]) -> Measurement {
    let time = |of: fn(&Measurement) -> Option<Duration>| {
        let mut times: Vec<Duration> = rounds.iter().filter_map(of).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    };
    Measurement {
        per_second: middle(&sorted(rounds.iter().map(|round| round.per_second))).unwrap_or(0.0),
        p50: time(|round| Some(round.p50)).unwrap_or_default(),
        p99: time(|round| Some(round.p99)).unwrap_or_default(),
        cpu: time(|round| round.cpu),
        all_cpu: time(|round| round.all_cpu),
    }
}

fn sorted(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_unstable_by(f64::total_cmp);
    numbers
}

fn middle(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

pub(crate) fn cpu(measured: &Measurement) -> String {
    measured.cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.2}", cpu.as_secs_f64() * 1e6))
}

pub(crate) fn micros(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 100.0 { format!("{micros:.1}") } else { format!("{micros:.0}") }
}

/// A count with a blank before every three digits.
pub(crate) fn thousands(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn capitalized(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::shapes;

    fn measured(per_second: f64, micros: u64) -> Measurement {
        let p50 = Duration::from_micros(micros);
        Measurement { per_second, p50, p99: p50 * 2, cpu: Some(p50 / 4), all_cpu: None }
    }

    #[test]
    fn a_row_holds_medians_and_the_spread_of_the_ratio() {
        let mut rounds = Rounds::new(2);
        rounds.push(vec![measured(2_000_000.0, 7), measured(1_000_000.0, 9)]);
        rounds.push(vec![measured(1_000_000.0, 8), measured(900_000.0, 200)]);
        rounds.push(vec![measured(1_500_000.0, 6), measured(1_200_000.0, 10)]);
        let table = table("one node", &[(shapes()[0], rounds)], 1);
        let row = "| PUT | line | 1 | 1 | 1 000 000 | 10.0 | 20.0 | 2.50 | 1 500 000 | 1.75 | \
                   0.80 (0.50 to 0.90) | 1.67 (1.29 to 25.00) | - |\n";
        assert!(table.starts_with("### One node\n\n| request |") && table.ends_with(row), "{table}");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0.4, 999.0, 1_000.0, 1_234_567.0].map(thousands), ["0", "999", "1 000", "1 234 567"]);
    }
}
