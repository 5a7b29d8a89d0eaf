//! Writes to a cluster and records what was acknowledged; checks later that all of it is there. `scripts/crash.sh`
//! calls it, and kills servers and cuts the power in between.
//!
//! A record is a file of lines: `try KEY NUMBER` before a write is sent, and `done KEY NUMBER` once it is acknowledged.
//! A key's numbers only grow, and each key has one writer. After a write whose outcome is unknown, the key is never
//! written again, since that write may still take effect later. So in the end a key must hold a number no lower than
//! its last `done` and no higher than its last `try`.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use client::{AckLevel, Builder, Client, ReadLevel};

/// The number of keys per writer.
const KEYS: usize = 20;

/// The timeout of a write. A write that takes longer has an unknown outcome.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a cluster may take to answer a read, whatever was done to it.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How many wrong keys are named.
const NAMED: usize = 10;

/// Writes with `--ack quorum` and records what was acknowledged, or checks that it is there.
#[derive(Debug, clap::Parser)]
#[command(name = "acknowledged", version)]
struct Config {
    /// The address of the coordinator.
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: String,

    /// The record file.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write, and report how much was acknowledged.
    Write {
        /// The prefix of the key names; use a different one each time.
        #[arg(long)]
        name: String,
        /// How long to write.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// The number of concurrent writers, each with its own keys.
        #[arg(long, default_value_t = 16)]
        writers: usize,
        /// The length of each value, in bytes.
        #[arg(long, default_value_t = 100)]
        bytes: usize,
    },
    /// Read every key of the record. Exits with 1 if one is not what it must be.
    Check {
        /// What the reads may return: local reads go on where a full disk makes linear ones wait.
        #[arg(long, default_value_t = ReadLevel::Linear)]
        read: ReadLevel,
    },
}

/// What is known about a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    tried: u64,
    done: u64,
}

type Record = BTreeMap<String, Known>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Config::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("acknowledged: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all is well.
async fn run(config: &Config) -> anyhow::Result<bool> {
    match &config.command {
        Command::Write { name, seconds, writers, bytes } => {
            let end = Instant::now() + Duration::from_secs_f64(*seconds);
            let (done, failed) = write(config, name, *writers, *bytes, end).await?;
            say(&format!("{done} writes acknowledged, {failed} not"));
            Ok(true)
        }
        Command::Check { read } => {
            let file = File::open(&config.record).and_then(|file| parse(BufReader::new(file)));
            let record = file.with_context(|| format!("cannot read {}", config.record.display()))?;
            check(&config.coordinator, *read, &record).await
        }
    }
}

fn parse(lines: impl BufRead) -> io::Result<Record> {
    let mut record = Record::new();
    for line in lines.lines() {
        let line = line?;
        let mut words = line.split(' ');
        let (Some(what), Some(key), Some(Ok(number)), None) =
            (words.next(), words.next(), words.next().map(str::parse), words.next())
        else {
            // The incomplete last line of a writer that was killed.
            continue;
        };
        let known = record.entry(key.to_owned()).or_default();
        match what {
            "try" => known.tried = known.tried.max(number),
            "done" => known.done = known.done.max(number),
            _ => return Err(io::Error::other(format!("not a line of a record: {line}"))),
        }
    }
    Ok(record)
}

async fn write(config: &Config, name: &str, writers: usize, bytes: usize, end: Instant) -> anyhow::Result<(u64, u64)> {
    let notes = OpenOptions::new().create(true).append(true).open(&config.record);
    let notes = notes.with_context(|| format!("cannot write {}", config.record.display()))?;
    let notes = Arc::new(Mutex::new(notes));
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let builder = Client::builder().timeout(WRITE_TIMEOUT).ack(AckLevel::Quorum);
        let Some(client) = connect(builder, &config.coordinator, end).await else { break };
        let keys = (0..KEYS).map(|key| format!("{name}:{writer}:{key}")).collect();
        tasks.push(tokio::spawn(write_keys(client, Arc::clone(&notes), keys, bytes, end)));
    }
    let (mut done, mut failed) = (0, 0);
    for task in tasks {
        let outcome = task.await.context("a writer has failed")??;
        (done, failed) = (done + outcome.0, failed + outcome.1);
    }
    Ok((done, failed))
}

/// Connects as soon as the coordinator is up; `None` if that is not in time.
async fn connect(builder: Builder, coordinator: &str, end: Instant) -> Option<Client> {
    while Instant::now() < end {
        if let Ok(client) = builder.clone().connect(coordinator).await {
            return Some(client);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

async fn write_keys(
    client: Client,
    notes: Arc<Mutex<File>>,
    mut keys: VecDeque<String>,
    bytes: usize,
    end: Instant,
) -> anyhow::Result<(u64, u64)> {
    let note = |text: String| {
        let written = notes.lock().unwrap_or_else(PoisonError::into_inner).write_all(text.as_bytes());
        written.context("cannot write the record")
    };
    let (mut done, mut failed) = (0, 0);
    while Instant::now() < end
        && let Some(key) = keys.pop_front()
    {
        let number = done + 1;
        note(format!("try {key} {number}\n"))?;
        if client.put(&key, value(number, bytes)).await.is_ok() {
            note(format!("done {key} {number}\n"))?;
            done += 1;
            keys.push_back(key);
        } else {
            failed += 1;
        }
    }
    Ok((done, failed))
}

/// A value of the given length that begins with its number.
fn value(number: u64, bytes: usize) -> String {
    let mut value = format!("{number} ");
    while value.len() < bytes {
        // Incompressible, so that it takes up its full size on disk.
        let seed = (value.len() as u64 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        value.push_str(&format!("{seed:016x}"));
    }
    value.truncate(bytes.max(format!("{number} ").len()));
    value
}

async fn check(coordinator: &str, read: ReadLevel, record: &Record) -> anyhow::Result<bool> {
    let client = Client::builder().timeout(READ_TIMEOUT).read(read).connect(coordinator).await;
    let client = client.context("a client cannot connect")?;
    let mut wrong = Vec::new();
    for (key, known) in record {
        let value = client.get(key).await.with_context(|| format!("{key} cannot be read"))?;
        let text = value.as_deref().map(String::from_utf8_lossy);
        let number = text.as_deref().and_then(|text| text.split(' ').next()).map_or(Ok(0), str::parse);
        let is_right = number.as_ref().is_ok_and(|number| is_right(*number, *known));
        if !is_right {
            wrong.push(format!("{key} has {number:?}; {} was acknowledged, {} tried", known.done, known.tried));
        }
    }
    let acknowledged = record.values().filter(|known| known.done > 0).count();
    anyhow::ensure!(acknowledged > 0, "nothing was acknowledged, so nothing is proven");
    say(&format!("{} keys, {acknowledged} of them acknowledged: {} wrong", record.len(), wrong.len()));
    wrong.iter().take(NAMED).for_each(|wrong| say(&format!("  LOST {wrong}")));
    Ok(wrong.is_empty())
}

#[expect(clippy::print_stdout, reason = "it is a program for a terminal")]
fn say(line: &str) {
    println!("{line}");
}

fn is_right(number: u64, known: Known) -> bool {
    (known.done..=known.tried).contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_a_key_may_hold() {
        let text = "try a 1\ndone a 1\ntry a 2\ntry b 1\ndone a 2\ntry a 3\ndone a";
        let record = parse(text.as_bytes()).unwrap();
        assert_eq!(record["a"], Known { tried: 3, done: 2 });
        let right: Vec<_> = (0..5).filter(|number| is_right(*number, record["a"])).collect();
        assert_eq!(right, [2, 3], "an older number was lost, a newer one was never written");
        assert!(is_right(0, record["b"]), "what was never acknowledged may be missing");
        assert!(parse("lost a 1".as_bytes()).is_err());
    }

    #[test]
    fn a_value_begins_with_its_number() {
        for bytes in [1, 20, 1000] {
            let value = value(123, bytes);
            assert!(value.starts_with("123 ") && value.len() == bytes.max(4), "{value}");
        }
    }
}
