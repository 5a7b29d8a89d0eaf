//! Runs the simulated store by seed.
#![expect(clippy::disallowed_methods, reason = "it tells how long a run took")]
#![expect(clippy::print_stdout, reason = "what it finds is what it is run for")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sim::knobs::Knobs;
use sim::mutants::{AnyBug, Planted, hunt};
use sim::run::{Report, run_with_story};
use sim::stats::Stats;

/// Simulates a cluster under faults, by seed, and judges it.
#[derive(Debug, Parser)]
struct Flags {
    /// Run this seed.
    #[arg(long, conflicts_with_all = ["seeds", "minutes"])]
    seed: Option<u64>,
    /// Run the seeds from A up to but not including B, as A..B.
    #[arg(long, value_parser = range, conflicts_with = "minutes")]
    seeds: Option<(u64, u64)>,
    /// Run as many seeds as fit in this many minutes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: Option<u64>,
    /// The first seed for --minutes.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Set knobs by hand: name=value, separated by commas.
    #[arg(long, value_delimiter = ',', conflicts_with = "mutants")]
    knobs: Vec<String>,
    /// Plant each bug and look for the first seed that finds it.
    #[arg(long)]
    mutants: bool,
    /// Only this bug: with --mutants the one to look for, otherwise the one planted in the run.
    #[arg(long, value_name = "NAME", value_parser = bug)]
    only: Option<AnyBug>,
    /// How many lines the story of a failure has.
    #[arg(long, default_value_t = 60)]
    story: usize,
    /// Continue after a failure, and print a short report of each.
    #[arg(long)]
    keep_going: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").ok_or("expected A..B")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text} is not a number"));
    let (first, last) = (number(first)?, number(last)?);
    if first < last { Ok((first, last)) } else { Err(format!("{text} has no seed: B is the first that is not run")) }
}

fn bug(name: &str) -> Result<AnyBug, String> {
    AnyBug::all().find(|bug| bug.to_string() == name).ok_or_else(|| format!("unknown bug {name}"))
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.mutants {
        return hunt_all(&flags);
    }
    let (first, last) = match (flags.seed, flags.seeds, flags.minutes) {
        (Some(seed), _, _) => (seed, seed + 1),
        (None, Some(range), _) => range,
        (None, None, Some(_)) => (flags.first, u64::MAX),
        (None, None, None) => (0, 100),
    };
    let start = Instant::now();
    let time = flags.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let (mut total, mut failed) = (Stats::default(), 0_u64);
    for seed in first..last {
        if time.is_some_and(|time| start.elapsed() >= time) {
            break;
        }
        let knobs = match knobs_of(seed, &flags) {
            Ok(knobs) => knobs,
            Err(knob) => {
                println!("{knob} is not a knob and its number, such as nodes=5");
                return ExitCode::from(2);
            }
        };
        let report = run_with_story(seed, &knobs, Planted(flags.only), if flags.keep_going { 0 } else { flags.story });
        total.add(&report.stats);
        if flags.seed.is_some() {
            println!("seed {seed}: {knobs}\ntrace {:016x}", report.hash);
        }
        if report.violation.is_some() {
            failed += 1;
            tell(seed, &report, &flags);
            if !flags.keep_going {
                break;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{total}; {:.0} simulated seconds a second", total.simulated as f64 / 1e6 / seconds);
    if failed > 0 {
        println!("FAILED: {failed} seeds");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn hunt_all(flags: &Flags) -> ExitCode {
    let mut missed = 0;
    for bug in AnyBug::all().filter(|bug| flags.only.is_none_or(|only| only == *bug)) {
        let start = Instant::now();
        let seeds = flags.seeds.map_or_else(|| bug.searched(), |(first, last)| first..last);
        let found = hunt(bug, seeds.clone());
        let seconds = start.elapsed().as_secs_f64();
        match found.and_then(|(seed, report)| Some((seed, report.violation?))) {
            Some((seed, violation)) => {
                println!("{bug:<26} seed {seed:>4}  {:<5} {seconds:>6.1} s", violation.invariant);
            }
            None => {
                missed += 1;
                println!("{bug:<26} NOT FOUND in {seeds:?}");
            }
        }
    }
    if missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn knobs_of(seed: u64, flags: &Flags) -> Result<Knobs, String> {
    let mut knobs = Knobs::of(seed);
    for knob in &flags.knobs {
        let set = knob.split_once('=').and_then(|(name, value)| Some(knobs.set(name, value.parse().ok()?)));
        if set != Some(true) {
            return Err(knob.clone());
        }
    }
    Ok(knobs)
}

fn tell(seed: u64, report: &Report, flags: &Flags) {
    let Some(violation) = &report.violation else { return };
    if flags.keep_going {
        let what: String = violation.what.chars().take(300).collect();
        println!("seed {seed}: {} at {:.3} s: {what}", violation.invariant, violation.time as f64 / 1e6);
        return;
    }
    let knobs = if flags.knobs.is_empty() { String::new() } else { format!(" --knobs {}", flags.knobs.join(",")) };
    let only = flags.only.map(|only| format!(" --only {only}")).unwrap_or_default();
    println!("seed {seed}: {violation}repeat with: cargo run --release -p sim -- --seed {seed}{knobs}{only}");
}
