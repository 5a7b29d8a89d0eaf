//! What it costs when nodes come, go and come back. `scripts/bench.sh --moves` builds the programs and calls this one.
//!
//! - `servers`: the processes under test.
//! - `load`: what the library client does in the meantime.
//! - `join`: a node joins a full cluster and leaves it again. `absence`: a node that was away comes back. `switch`: how
//!   long writes of a slot stall when another node takes over as its primary.

mod absence;
mod join;
mod load;
mod servers;
mod switch;

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::runtime::Runtime;

/// Measures moves of slots, and prints a table in Markdown.
#[derive(Debug, clap::Parser)]
struct Config {
    /// The directory with the programs `coordinator` and `node`.
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,

    /// An empty directory for the nodes' data.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// The number of keys that the joining node gets.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    keys: u32,

    /// How often to measure each.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Measure only this.
    #[arg(long)]
    only: Option<Part>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Join,
    Absence,
    Switch,
}

/// A measurement and its goal.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    /// One figure per round.
    figures: Vec<f64>,
    goal: Option<Goal>,
}

/// A bound on the median.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, figures: Vec<f64>, goal: Option<Goal>) -> Self {
        Self { what: what.into(), figures, goal }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.figures.clone();
        sorted.sort_by(f64::total_cmp);
        let [middle, least, most] = [sorted.get(sorted.len() / 2), sorted.first(), sorted.last()]
            .map(|figure| figure.copied().unwrap_or(f64::NAN));
        write!(f, "| {} | {middle:.2} ({least:.2} to {most:.2}) | ", self.what)?;
        match self.goal {
            None => write!(f, "- | - |"),
            Some(Goal::AtMost(bound)) => write!(f, "<= {bound} | {} |", met(middle <= bound)),
            Some(Goal::AtLeast(bound)) => write!(f, ">= {bound} | {} |", met(middle >= bound)),
        }
    }
}

fn met(is_met: bool) -> &'static str {
    if is_met { "yes" } else { "**no**" }
}

fn main() -> anyhow::Result<()> {
    let config = Config::parse();
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let is_asked = |part| config.only.is_none_or(|only| only == part);
    let mut rows = Vec::new();
    if is_asked(Part::Join) {
        rows.extend(join::measure(&runtime, &config)?);
    }
    if is_asked(Part::Absence) {
        rows.extend(absence::measure(&runtime, &config)?);
    }
    if is_asked(Part::Switch) {
        rows.extend(switch::measure(&runtime, &config)?);
    }
    let mut text = "| | median (least to most) | goal | met |\n|---|---:|---:|---|\n".to_owned();
    for row in rows {
        let _ = writeln!(text, "{row}");
    }
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}
