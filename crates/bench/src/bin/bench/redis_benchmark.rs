//! Load by redis-benchmark, the generator that comes with Redis, which nobody here wrote.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use bench::{Target, cpu};

use crate::shape::{Measurement, Shape};

/// Roughly how many requests are answered in a second of a measurement, by number in flight: redis-benchmark takes a
/// number of requests, not a time.
const PER_SECOND: u32 = 100_000;
const PER_SECOND_PIPELINED: u32 = 800_000;

/// How many times as long as other measurements its own take: it counts the time in which it starts, some twenty
/// milliseconds, and thereby slows whatever is faster by more.
const LONGER: f64 = 5.0;

/// How often each key is set, on average, when they are stored: redis-benchmark draws keys at random, so that one in 55
/// is still absent afterwards.
const SETS_PER_KEY: u32 = 4;

/// The number of requests in flight while keys are stored.
const FILL_PIPELINE: usize = 64;

/// Stores most of this many keys.
///
/// # Errors
/// redis-benchmark is missing or fails.
pub(crate) fn fill(target: &Target, shape: Shape, keys: u32) -> anyhow::Result<()> {
    let shape = Shape { pipeline: FILL_PIPELINE, ..shape };
    run(target, "set", shape, SETS_PER_KEY * keys, keys).map(|_| ())
}

/// Loads a target for about [`LONGER`] times so long, with requests for this many keys.
///
/// # Errors
/// redis-benchmark is missing or fails.
pub(crate) fn measure(target: &Target, shape: Shape, time: Duration, keys: u32) -> anyhow::Result<Measurement> {
    let per_second = if shape.pipeline == 1 { PER_SECOND } else { PER_SECOND_PIPELINED };
    let requests = (f64::from(per_second) * LONGER * time.as_secs_f64()) as u32;
    let test = if shape.verb() == "GET" { "get" } else { "set" };
    let before = cpu::used(&target.pids);
    let Row { per_second, p50, p99 } = run(target, test, shape, requests, keys)?;
    let used = cpu::used(&target.pids).zip(before).map(|(after, before)| after.saturating_sub(before));
    // How much time of its own a process took that has ended is not known.
    Ok(Measurement { per_second, p50, p99, cpu: used.map(|used| used / requests.max(1)), all_cpu: None })
}

/// What redis-benchmark reports.
#[derive(Debug, PartialEq)]
struct Row {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

fn run(target: &Target, test: &str, shape: Shape, requests: u32, keys: u32) -> anyhow::Result<Row> {
    let server = target.servers.first().context("there is no server")?.addr;
    let Shape { connections, pipeline, value_bytes, .. } = shape;
    let mut command = Command::new("redis-benchmark");
    command.arg("-h").arg(server.ip().to_string());
    for (flag, value) in [
        ("-p", u64::from(server.port())),
        ("-c", connections as u64),
        ("-P", pipeline as u64),
        ("-n", requests.into()),
        ("-r", keys.into()),
        ("-d", value_bytes as u64),
    ] {
        command.arg(flag).arg(value.to_string());
    }
    let output = command.args(["-t", test, "--csv"]).output();
    let output = output.context("cannot run redis-benchmark; on Debian it is in the package redis-tools")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let row = said.lines().find_map(row).filter(|_| output.status.success());
    row.with_context(|| format!("redis-benchmark: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Reads a line of its comma-separated output: the test, requests a second, and latencies in milliseconds: the mean, the
/// least, the 50th, 95th and 99th percentile, and the most.
fn row(line: &str) -> Option<Row> {
    let mut numbers = line.split(',').skip(1).map(|word| word.trim_matches('"').parse::<f64>());
    let mut next = || numbers.next()?.ok().filter(|number| number.is_finite() && *number >= 0.0);
    let (per_second, _mean, _least, p50, _p95, p99) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let millis = |millis: f64| Duration::try_from_secs_f64(millis / 1e3).ok();
    Some(Row { per_second, p50: millis(p50)?, p99: millis(p99)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_reports_is_understood() {
        let heads =
            r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms""#;
        let line = r#""GET","84745.77","0.297","0.080","0.287","0.415","0.527","0.815""#;
        let [p50, p99] = [287, 527].map(Duration::from_micros);
        assert_eq!([heads, line].into_iter().find_map(row), Some(Row { per_second: 84_745.77, p50, p99 }));
        for wrong in ["", "\"GET\"", "\"GET\",\"1\",\"2\"", "\"GET\",\"nan\",\"0\",\"0\",\"0\",\"0\",\"0\",\"0\""] {
            assert_eq!(row(wrong), None, "{wrong}");
        }
    }
}
