//! A log that is cut anywhere, or has any one bit flipped: recovery delivers exactly the good prefix, or an error that
//! names the file and the place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::bugs::{Bugs, NoBugs};
use storage::check::inspect;
use storage::disk::sim::Loss;
use storage::{OpenError, Options, SimDisk};

use crate::support::{Opened, open_on, options, path, payloads, segments};

const RECORDS: usize = 200;
/// How many of them were synced, according to those after them.
const SYNCED: usize = 150;

/// A segment, with the offsets and numbers of its records, and how much of it is used.
type Layout = (PathBuf, Vec<(u64, usize)>, u64);

/// A log of several segments.
struct Log {
    disk: SimDisk,
    payloads: Vec<Vec<u8>>,
    segments: Vec<Layout>,
}

fn settings() -> Options {
    Options { reserve_bytes: 0, ..options() }
}

fn reopen<B: Bugs>(disk: &SimDisk, bugs: B) -> Result<Opened<B>, OpenError> {
    open_on(Arc::new(disk.clone()), path(), settings(), bugs)
}

impl Log {
    fn new<B: Bugs>(bugs: B) -> Self {
        let disk = SimDisk::new(1);
        let payloads = payloads(0..RECORDS);
        let Opened { dir, mut journal, .. } = reopen(&disk, bugs).expect("it is new");
        for (number, payload) in payloads.iter().enumerate() {
            journal.append(&[payload]).expect("there is room");
            if number + 1 == SYNCED {
                journal.sync().expect("the disk works");
            }
        }
        drop((dir, journal));
        disk.kill();
        Self { segments: Self::layout(&disk), disk, payloads }
    }

    fn layout(disk: &SimDisk) -> Vec<Layout> {
        let mut positions = Vec::new();
        let report = inspect(&disk.fork(0), path(), &mut |position, _| positions.push(position.0)).expect("it is good");
        let mut numbered = positions.into_iter().zip(0..).peekable();
        let mut layout = Vec::new();
        for segment in &report.segments {
            let mut records = Vec::new();
            let end = segment.first.0 + segment.used;
            while let Some((position, number)) = numbered.next_if(|(position, _)| *position < end) {
                records.push((position - segment.first.0, number));
            }
            // The last byte of a payload is never zero, so that `used` ends exactly there.
            layout.push((segment.file.clone(), records, segment.used));
        }
        layout
    }

    /// The record to which a byte of a segment belongs: its offset and number. `None` after the last record.
    fn record_at(&self, segment: usize, offset: u64) -> Option<(u64, usize)> {
        let (_, records, used) = &self.segments[segment];
        records.iter().rev().find(|(start, _)| *start <= offset && offset < *used).copied()
    }

    fn is_last(&self, segment: usize) -> bool {
        self.segments[segment + 1..].iter().all(|(_, records, _)| records.is_empty())
    }
}

/// Checks that exactly the first `count` records are recovered.
fn gives_back(log: &Log, disk: &SimDisk, count: usize, bugs: impl Bugs) -> Result<(), String> {
    let opened = reopen(disk, bugs).map_err(|error| format!("{count} records are good, and {error}"))?;
    let found = opened.payloads.len();
    if opened.payloads != log.payloads[..count] {
        return Err(format!("{count} records are good, and {found} were given back"));
    }
    match opened.recovery.torn_tail {
        None => Err(format!("something is wrong behind {count} records, and nobody said so")),
        Some(torn) if torn.followed != (count + 1 < RECORDS) => Err(format!("{torn}: it says wrongly what follows")),
        Some(_) => Ok(()),
    }
}

fn names(disk: &SimDisk, file: &Path, offset: u64, bugs: impl Bugs) -> Result<(), String> {
    match reopen(disk, bugs) {
        Err(OpenError::Damaged(damage)) if damage.file == file && damage.offset == offset => Ok(()),
        Err(error) => Err(format!("{} is damaged at byte {offset}, and the error is: {error}", file.display())),
        Ok(opened) => {
            let found = opened.payloads.len();
            Err(format!("{} is damaged at byte {offset}, and {found} records were given back", file.display()))
        }
    }
}

/// Flips one bit after another, in all used bytes.
pub(crate) fn flip_bits<B: Bugs>(bugs: B) -> Result<(), String> {
    let log = Log::new(bugs);
    for (segment, (file, _, used)) in log.segments.iter().enumerate() {
        for bit in 0..used * 8 {
            let offset = bit / 8;
            let disk = log.disk.fork(bit);
            disk.flip_bit(file, offset, (bit % 8) as u8);
            let outcome = match log.record_at(segment, offset) {
                // The header of a segment.
                None => names(&disk, file, 0, bugs),
                Some((start, number)) if number < SYNCED => names(&disk, file, start, bugs),
                Some((_, number)) => gives_back(&log, &disk, number, bugs),
            };
            outcome.map_err(|wrong| format!("bit {} of byte {offset} of {}: {wrong}", bit % 8, file.display()))?;
        }
    }
    Ok(())
}

#[test]
fn any_bit_turned_over_is_damage_below_the_synced_and_a_torn_tail_above() {
    flip_bits(NoBugs).expect("every bit is noticed");
}

#[test]
fn a_bit_turned_over_behind_the_records_is_noticed() {
    let log = Log::new(NoBugs);
    for (file, records, used) in &log.segments {
        let length = log.disk.content(file).expect("it is there").len() as u64;
        for offset in (*used..length).step_by(5) {
            let disk = log.disk.fork(offset);
            disk.flip_bit(file, offset, 3);
            let count = records.last().map_or(RECORDS, |(_, last)| last + 1);
            let outcome =
                if count < SYNCED { names(&disk, file, *used, NoBugs) } else { gives_back(&log, &disk, count, NoBugs) };
            outcome.unwrap_or_else(|wrong| panic!("byte {offset} of {}: {wrong}", file.display()));
        }
    }
}

#[test]
fn a_file_of_the_log_that_ends_at_any_byte_is_named() {
    let log = Log::new(NoBugs);
    for (file, _, _) in &log.segments {
        let content = log.disk.content(file).expect("it is there");
        for length in 0..content.len() {
            let disk = log.disk.fork(length as u64);
            disk.set_content(file, &content[..length]).expect("it is there");
            let offset = if length < 64 { 0 } else { length as u64 };
            names(&disk, file, offset, NoBugs).unwrap_or_else(|wrong| panic!("cut at {length}: {wrong}"));
        }
    }
}

#[test]
fn a_log_empty_from_any_byte_on_gives_exactly_its_good_first_part_or_says_what_is_missing() {
    let log = Log::new(NoBugs);
    log.disk.crash_losing(Loss::Nothing);
    for (segment, (file, records, used)) in log.segments.iter().enumerate() {
        let content = log.disk.content(file).expect("it is there");
        for length in 0..*used {
            let disk = log.disk.fork(length);
            let mut emptied = content.clone();
            emptied[length as usize..].fill(0);
            disk.set_content(file, &emptied).expect("it is there");
            let good = records.iter().filter(|(start, _)| {
                let next = records.iter().map(|(other, _)| *other).find(|other| other > start).unwrap_or(*used);
                next <= length
            });
            let good = good.count();
            let count = records.first().map_or(0, |(_, first)| first + good);
            let end = records.get(good).map_or(*used, |(start, _)| *start);
            let outcome = if length < 64 {
                names(&disk, file, 0, NoBugs)
            } else if length == 64 && segment > 0 {
                // Nothing is left but its header: the damage is where the previous segment ends.
                let (before, _, used) = &log.segments[segment - 1];
                if log.is_last(segment) { cut_in_last(&log, &disk, count) } else { names(&disk, before, *used, NoBugs) }
            } else if log.is_last(segment) {
                cut_in_last(&log, &disk, count)
            } else if count >= SYNCED {
                gives_back(&log, &disk, count, NoBugs)
            } else {
                // Also between two records: the next segment shows that some are missing.
                names(&disk, file, end, NoBugs)
            };
            outcome.unwrap_or_else(|wrong| panic!("{} empty from {length} on: {wrong}", file.display()));
        }
    }
}

/// If the cut is at the end of a record, nothing is wrong with what is left, and nothing is reported.
fn cut_in_last(log: &Log, disk: &SimDisk, count: usize) -> Result<(), String> {
    let opened = reopen(disk, NoBugs).map_err(|error| error.to_string())?;
    let found = opened.payloads.len();
    if opened.payloads != log.payloads[..count] {
        return Err(format!("{count} records are good, and {found} were given back"));
    }
    Ok(())
}

#[test]
fn a_log_whose_end_was_torn_takes_records_again() {
    let log = Log::new(NoBugs);
    let (file, records, used) = log.segments.iter().rfind(|(_, records, _)| !records.is_empty()).expect("it has some");
    let content = log.disk.content(file).expect("it is there");
    let mut torn = content.clone();
    torn[*used as usize - 1] = 0;
    log.disk.set_content(file, &torn).expect("it is there");
    log.disk.crash_losing(Loss::Nothing);
    let mut opened = reopen(&log.disk, NoBugs).expect("its end is torn");
    let last = records[records.len() - 1].1;
    assert!(opened.payloads == log.payloads[..last]);
    opened.journal.append(&[b"new"]).expect("there is room");
    opened.journal.sync().expect("the disk works");
    log.disk.crash();
    let again = reopen(&log.disk, NoBugs).expect("it is whole");
    assert!(again.payloads[..last] == log.payloads[..last]);
    assert_eq!(again.payloads[last..], [b"new".to_vec()]);
    assert_eq!(segments(&log.disk).len(), log.segments.len());
}
