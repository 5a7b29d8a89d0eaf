//! Measures how fast the log appends records that are each synced, compared with a plain append and fdatasync on a
//! preallocated file: alternating, in one process, with one writer; prints the median of the ratios of some rounds.
//! `cargo run --release -p storage --example append -- DIRECTORY ROUNDS`; the directory must be on a disk. Everything created
//! there is removed afterwards.
#![expect(clippy::print_stdout, reason = "what it measures is what it is run for")]

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs4::FileExt as _;
use storage::{DataDir, DirectoryId, Options, RealDisk};

/// About what a node logs for a PUT with a key of 16 bytes and a value of 100.
const RECORD: [u8; 150] = [b'r'; 150];

/// How long each measurement takes.
const TIME: Duration = Duration::from_millis(600);

/// The log's goal, as a fraction of the plain file's rate.
const GOAL: f64 = 0.75;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(parent), Some(rounds)) = (arguments.next().map(PathBuf::from), arguments.next()) else {
        return Err("name a directory on the disk that is to be measured, and a number of rounds".into());
    };
    let rounds: usize = rounds.parse()?;
    let directory = parent.join(format!("append-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let measured = measure(&directory, rounds);
    fs::remove_dir_all(&directory)?;
    let mut ratios = measured?;
    ratios.sort_unstable_by(f64::total_cmp);
    let (Some(least), Some(median), Some(most)) = (ratios.first(), ratios.get(rounds / 2), ratios.last()) else {
        return Err("nothing was measured".into());
    };
    let met = if *median >= GOAL { "yes" } else { "**no**" };
    println!("| records a second, each on disk before the next | ratio (least to most) | goal | met |");
    println!("|---|---:|---:|---|");
    println!("| the log over a plain file | {median:.2} ({least:.2} to {most:.2}) | >= {GOAL} | {met} |");
    Ok(())
}

/// The ratio of the log's rate to the plain file's, for each round.
fn measure(directory: &Path, rounds: usize) -> Result<Vec<f64>, Box<dyn std::error::Error>> {
    let options = Options::new(DirectoryId(1));
    let mut data = DataDir::open(Arc::new(RealDisk::default()), &directory.join("log"), options)?;
    let (mut journal, _) = data.recover(&mut |_| Ok(()))?;
    let mut file = OpenOptions::new().create_new(true).append(false).write(true).open(directory.join("plain"))?;
    file.allocate(options.segment_bytes)?;
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let plain = rate(|| {
            file.write_all(&RECORD)?;
            Ok(file.sync_data()?)
        })?;
        let log = rate(|| {
            journal.append(&[RECORD])?;
            journal.sync()?;
            Ok(())
        })?;
        eprintln!("round {round}: the log {log:.0}, a plain file {plain:.0} records a second");
        ratios.push(log / plain);
    }
    Ok(ratios)
}

/// How many times per second `work` can be done.
fn rate(mut work: impl FnMut() -> Result<(), Box<dyn std::error::Error>>) -> Result<f64, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut done = 0.0;
    while start.elapsed() < TIME {
        work()?;
        done += 1.0;
    }
    Ok(done / start.elapsed().as_secs_f64())
}
