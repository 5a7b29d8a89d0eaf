//! The results of a run, as text and as JSON.

use std::fmt::Write as _;

use bench::keys::Distribution;
use bench::workload::Action;
use bench::{CutShort, Load, Outcome, Target, Until, Why};
use serde_json::{Value, json};

use super::args::{BenchArgs, Protocol};

/// The reported percentiles, and their names in JSON.
const PERCENTILES: [(f64, &str); 5] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99_9"), (99.99, "p99_99")];

/// How many rows the histogram has, besides the one for the slowest.
const ROWS: usize = 16;

/// The length of the longest bar.
const BAR: f64 = 50.0;

type Latencies = hdrhistogram::Histogram<u64>;

/// Formats the results as tables and a histogram.
pub(crate) fn text(bench: &BenchArgs, load: &Load, target: &Target, outcome: &Outcome) -> String {
    let mut text = format!(
        "{}: {} connections, {} in flight, {}, {} keys of {} bytes, {}, values of {} bytes{}\n",
        bench.workload,
        load.connections,
        load.pipeline,
        protocol(bench),
        bench.keys,
        load.sizes.key,
        distribution(load),
        load.sizes.value,
        load.rate.map_or_else(String::new, |rate| format!(", {rate} operations per second")),
    );
    text += &format!("at {} ({} nodes), {:.2} s\n\n", target.name, target.servers.len(), outcome.elapsed.as_secs_f64())
        .replace("(1 nodes)", "(one server)");
    if let Some(cut) = &outcome.cut_short {
        text += &format!("{}\n\n", partial(load, outcome, cut));
    }
    table(&mut text, outcome);
    if !outcome.latency.is_empty() {
        text.push('\n');
        histogram(&mut text, &outcome.latency);
    }
    text.push('\n');
    remarks(&mut text, outcome);
    text
}

/// Says that a report is one of a part of a run, and why.
fn partial(load: &Load, outcome: &Outcome, cut: &CutShort) -> String {
    let seconds = outcome.elapsed.as_secs_f64();
    let done = match load.until {
        Until::Elapsed(time) => format!("{seconds:.2} of {} s", time.as_secs_f64()),
        Until::Operations(count) => format!("{} of {count} operations", outcome.operations),
        Until::AllKeys => format!("{seconds:.2} s"),
    };
    let place = if outcome.elapsed.is_zero() && !load.warm_up.is_zero() { ", in the warm-up" } else { "" };
    let unanswered = match cut.unanswered {
        0 => String::new(),
        1 => "; 1 operation had no answer yet and is not in the figures below".to_owned(),
        count => format!("; {count} operations had no answer yet and are not in the figures below"),
    };
    format!("PARTIAL RESULTS, of {done}{place}: {}{unanswered}", reason(cut))
}

/// What ended a run.
pub(super) fn reason(cut: &CutShort) -> &str {
    match &cut.why {
        Why::Interrupted => "interrupted",
        Why::Failed(error) => error,
    }
}

fn table(text: &mut String, outcome: &Outcome) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:<9} {:>12} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "operation", "count", "ops/s", "p50 us", "p99 us", "p99.9 us", "max us", "mean us"
    );
    let seconds = outcome.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut row = |name: &str, latency: &Latencies| {
        let micros = |percent| latency.value_at_percentile(percent) as f64 / 1e3;
        let _ = writeln!(
            text,
            "{name:<9} {:>12} {:>12.0} {:>10.1} {:>10.1} {:>10.1} {:>10.1} {:>10.1}",
            latency.len(),
            latency.len() as f64 / seconds,
            micros(50.0),
            micros(99.0),
            micros(99.9),
            latency.max() as f64 / 1e3,
            latency.mean() / 1e3,
        );
    };
    for (action, latency) in &outcome.of_action {
        row(action.name(), latency);
    }
    if outcome.of_action.len() != 1 {
        row("all", &outcome.latency);
    }
}

/// Rows at a constant ratio, from the fastest to the 99.9th percentile, and one for everything slower.
fn histogram(text: &mut String, latency: &Latencies) {
    let (least, most) = (latency.min().max(1), latency.value_at_percentile(99.9).max(2));
    let ratio = (most as f64 / least as f64).powf(1.0 / ROWS as f64).max(1.000_001);
    let mut rows = Vec::new();
    let mut from = 0;
    for row in 1..=ROWS {
        let to = if row == ROWS { most } else { (least as f64 * ratio.powi(row as i32)) as u64 };
        if to > from {
            rows.push((Some(to), latency.count_between(from, to)));
            from = latency.highest_equivalent(to) + 1;
        }
    }
    if latency.max() >= from {
        rows.push((None, latency.count_between(from, latency.max())));
    }
    let longest = rows.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    let _ = writeln!(text, "{:>14} {:>8}", "latency", "share");
    for (to, count) in rows {
        let bound = match to {
            Some(to) => format!("<= {:.1} us", to as f64 / 1e3),
            None => "slower".to_owned(),
        };
        let share = 100.0 * count as f64 / latency.len() as f64;
        let bar = "#".repeat((count as f64 / longest as f64 * BAR).round() as usize);
        let _ = writeln!(text, "{}", format!("{bound:>14} {share:>6.2} % {bar}").trim_end());
    }
}

fn remarks(text: &mut String, outcome: &Outcome) {
    if outcome.misses > 0 {
        let _ = writeln!(text, "{} reads found no value", outcome.misses);
    }
    if outcome.unsent > 0 {
        let why = if outcome.cut_short.is_some() { "" } else { ": the rate is too high" };
        let _ = writeln!(text, "{} operations were due but could not be sent{why}", outcome.unsent);
    }
    if let Some(error) = &outcome.first_error {
        let _ = writeln!(text, "{} errors, not included in the figures above; the first: {error}", outcome.refused);
    }
    if let Some(cpu) = outcome.own_cpu {
        let _ = writeln!(text, "the client took {:.2} us of processor time per operation", cpu.as_secs_f64() * 1e6);
    }
}

/// Formats the results as one JSON object on one line.
pub(crate) fn json(bench: &BenchArgs, load: &Load, target: &Target, outcome: &Outcome) -> String {
    let actions: serde_json::Map<String, Value> = Action::ALL
        .into_iter()
        .filter_map(|wanted| outcome.of_action.iter().find(|(action, _)| *action == wanted))
        .map(|(action, latency)| (action.name().to_owned(), latencies(latency)))
        .collect();
    let servers: Vec<String> = target.servers.iter().map(|server| server.addr.to_string()).collect();
    let object = json!({
        "workload": bench.workload.to_string(),
        "protocol": protocol(bench),
        "servers": servers,
        "connections": load.connections,
        "pipeline": load.pipeline,
        "keys": bench.keys,
        "key_size": load.sizes.key,
        "value_size": load.sizes.value,
        "distribution": distribution(load),
        "rate": load.rate,
        "seconds": outcome.elapsed.as_secs_f64(),
        "operations": outcome.operations,
        "operations_per_second": outcome.per_second(),
        "latency_us": latencies(&outcome.latency),
        "by_operation_us": actions,
        "misses": outcome.misses,
        "errors": outcome.refused,
        "first_error": outcome.first_error,
        "unsent": outcome.unsent,
        "ended_early": outcome.cut_short.as_ref().map(reason),
        "unanswered": outcome.cut_short.as_ref().map_or(0, |cut| cut.unanswered),
        "client_cpu_us_per_operation": outcome.own_cpu.map(|cpu| cpu.as_secs_f64() * 1e6),
    });
    format!("{object}\n")
}

/// In microseconds.
fn latencies(latency: &Latencies) -> Value {
    let mut object = serde_json::Map::new();
    object.insert("count".to_owned(), latency.len().into());
    let micros = |nanos: u64| Value::from(nanos as f64 / 1e3);
    object.insert("min".to_owned(), micros(latency.min()));
    object.insert("mean".to_owned(), Value::from(latency.mean() / 1e3));
    for (percent, name) in PERCENTILES {
        object.insert(name.to_owned(), micros(latency.value_at_percentile(percent)));
    }
    object.insert("max".to_owned(), micros(latency.max()));
    Value::Object(object)
}

fn protocol(bench: &BenchArgs) -> &'static str {
    match bench.protocol {
        Protocol::Line => "line",
        Protocol::Resp => "resp",
    }
}

fn distribution(load: &Load) -> &'static str {
    match load.distribution {
        Distribution::Uniform => "uniform",
        Distribution::Zipfian => "zipfian",
        Distribution::Latest => "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_histogram_hold_everything() {
        for values in [vec![5_000; 10], (1..=10_000).map(|at| at * 100).collect(), vec![1], vec![1, 50_000_000_000]] {
            let mut latency = Latencies::new_with_bounds(1, 60_000_000_000, 3).unwrap();
            values.iter().for_each(|value| latency.record(*value).unwrap());
            let mut text = String::new();
            histogram(&mut text, &latency);
            let shares = text.lines().skip(1).map(|line| line.split('%').next().unwrap());
            let sum: f64 = shares.map(|line| line.split_whitespace().last().unwrap().parse::<f64>().unwrap()).sum();
            assert!((99.9..100.1).contains(&sum), "{text}");
            assert!(text.lines().count() <= ROWS + 2 && text.contains('#'), "{text}");
        }
    }
}
