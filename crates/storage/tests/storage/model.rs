//! A run of a node's storage, with a model of what it must not lose.
//!
//! The records are numbered. A snapshot holds all records that existed when it began, so that recovery, from snapshot
//! and log, always delivers the whole list so far. It must be a prefix of what was appended, and at least as long as
//! what was synced.

use std::fmt::Debug;

use storage::bugs::Bugs;
use storage::disk::sim::{Fault, Loss};
use storage::journal::{SyncTask, Synced};
use storage::snapshot::SnapshotError;
use storage::{JournalError, OpenError, SimDisk};

use crate::support::{Opened, open_with};

/// A step of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Append {
        count: usize,
        size: usize,
    },
    Sync,
    /// Begins a sync, or runs the one that has begun, or ends the one that has run.
    SyncFurther,
    /// A snapshot, during which records are appended.
    Snapshot {
        meanwhile: usize,
        keep: usize,
    },
    /// Cuts the power.
    Crash(Loss),
    /// Cuts the power, and again after so many calls of the start that follows.
    CrashTwice(u64),
    /// Kills the process.
    Kill,
    /// A clean stop; then the power is cut.
    Stop,
    /// A future call fails.
    Fault {
        calls: u64,
        fault: Fault,
    },
    /// From here on, some writes are short.
    ShortWrites,
}

enum Sync<B: Bugs> {
    Begun(SyncTask<B>, usize),
    Run(Synced, usize),
}

/// Refused records, and the number of records before them. Until the next sync, a crash may bring them up.
type Refused = (usize, Vec<Vec<u8>>);

pub(crate) struct Model<B: Bugs> {
    disk: SimDisk,
    bugs: B,
    /// `None` between a stop and the next start.
    opened: Option<Opened<B>>,
    syncs_often: bool,
    appended: Vec<Vec<u8>>,
    synced: usize,
    refused: Vec<Refused>,
    sync: Option<Sync<B>>,
    next: u64,
}

impl<B: Bugs> Model<B> {
    /// Runs the steps from a seed; returns what is wrong, if anything.
    pub(crate) fn play(seed: u64, steps: &[Step], bugs: B) -> Result<(), String> {
        let disk = SimDisk::new(seed);
        let mut model = Self {
            disk,
            bugs,
            opened: None,
            syncs_often: false,
            appended: Vec::new(),
            synced: 0,
            refused: Vec::new(),
            sync: None,
            next: 0,
        };
        model.start(0)?;
        for (index, step) in steps.iter().enumerate() {
            model.step(*step).map_err(|wrong| format!("step {index}, {step:?}: {wrong}"))?;
        }
        model.crash(Loss::Random)
    }

    /// How many disk calls these steps make.
    pub(crate) fn calls(steps: &[Step], bugs: B) -> u64 {
        let disk = SimDisk::new(0);
        let mut model = Self {
            disk: disk.clone(),
            bugs,
            opened: None,
            syncs_often: false,
            appended: Vec::new(),
            synced: 0,
            refused: Vec::new(),
            sync: None,
            next: 0,
        };
        model.start(0).expect("nothing goes wrong");
        for step in steps {
            model.step(*step).expect("nothing goes wrong");
        }
        disk.calls()
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Append { count, size } => self.append(count, size),
            Step::Sync => self.sync(),
            Step::SyncFurther => self.sync_further(),
            Step::Snapshot { meanwhile, keep } => self.snapshot(meanwhile, keep),
            Step::Crash(loss) => self.crash(loss),
            Step::CrashTwice(calls) => {
                self.stop();
                self.disk.crash();
                self.disk.inject(None, calls, Fault::Io);
                match open_with(&self.disk, self.bugs) {
                    Ok(opened) => self.found(opened),
                    Err(OpenError::File(_)) => self.crash(Loss::Random),
                    Err(error) => Err(format!("it does not start: {error}")),
                }
            }
            Step::Kill => {
                self.stop();
                self.disk.kill();
                // What an append has acknowledged is in the kernel.
                self.start(self.appended.len())
            }
            Step::Stop => self.stop_in_order(),
            Step::Fault { calls, fault } => {
                self.disk.inject(None, calls, fault);
                Ok(())
            }
            Step::ShortWrites => {
                self.disk.set_short_writes(3);
                Ok(())
            }
        }
    }

    fn opened(&mut self) -> &mut Opened<B> {
        self.opened.as_mut().expect("it runs between two steps")
    }

    fn stop(&mut self) {
        self.sync = None;
        self.opened = None;
    }

    fn append(&mut self, count: usize, size: usize) -> Result<(), String> {
        let next = self.next;
        self.next += count as u64;
        let payloads: Vec<Vec<u8>> = (next..self.next)
            .map(|number| {
                let mut payload = format!("{number:08}").into_bytes();
                payload.resize(payload.len().max(size), (number % 251) as u8);
                payload
            })
            .collect();
        match self.opened().journal.append(&payloads) {
            Ok(position) => {
                let end = self.opened().journal.end();
                if position != end {
                    return Err(format!("append returned {position}, the log ends at {end}"));
                }
                self.appended.extend(payloads);
                Ok(())
            }
            Err(error) => {
                self.refused.push((self.appended.len(), payloads));
                self.failed(error)
            }
        }
    }

    fn sync(&mut self) -> Result<(), String> {
        self.sync = None;
        let upto = self.appended.len();
        let synced = self.opened().journal.sync();
        self.synced(upto, synced.map(drop))
    }

    fn synced(&mut self, upto: usize, outcome: Result<(), JournalError>) -> Result<(), String> {
        match outcome {
            Ok(()) => {
                self.synced = self.synced.max(upto);
                self.refused.retain(|(after, _)| *after >= upto);
                Ok(())
            }
            Err(error) => self.failed(error),
        }
    }

    fn sync_further(&mut self) -> Result<(), String> {
        let appended = self.appended.len();
        match self.sync.take() {
            None => match self.opened().journal.begin_sync() {
                Ok(task) => self.sync = Some(Sync::Begun(task, appended)),
                Err(error) => return self.failed(error),
            },
            Some(Sync::Begun(task, upto)) => self.sync = Some(Sync::Run(task.run(), upto)),
            Some(Sync::Run(synced, upto)) => {
                let ended = self.opened().journal.end_sync(synced);
                return self.synced(upto, ended.map(drop));
            }
        }
        Ok(())
    }

    /// A full disk is a temporary condition. After any other failure nothing is acknowledged, however often it is
    /// retried; then the power is cut.
    fn failed(&mut self, error: JournalError) -> Result<(), String> {
        if let JournalError::NoSpace(_) = error {
            return Ok(());
        }
        self.sync = None;
        let upto = self.appended.len();
        if self.opened().journal.sync().is_ok() {
            self.synced = upto;
        }
        self.crash(Loss::Random)
    }

    fn snapshot(&mut self, meanwhile: usize, keep: usize) -> Result<(), String> {
        match self.try_snapshot(meanwhile, keep)? {
            // There was a crash in between, or there was no room.
            None | Some(Ok(())) => Ok(()),
            Some(Err(SnapshotError::File(error))) if error.is_no_space() => Ok(()),
            Some(Err(SnapshotError::File(_))) => self.crash(Loss::Random),
            Some(Err(error)) => Err(error.to_string()),
        }
    }

    fn try_snapshot(&mut self, meanwhile: usize, keep: usize) -> Result<Option<Result<(), SnapshotError>>, String> {
        let held = self.appended.clone();
        let position = self.opened().journal.end();
        let mut writer = match self.opened().dir.begin_snapshot(position) {
            Ok(writer) => writer,
            Err(error) => return Ok(Some(Err(error))),
        };
        for (index, record) in held.iter().enumerate() {
            if let Err(error) = writer.add(record) {
                return Ok(Some(Err(error)));
            }
            if index == held.len() / 2 && meanwhile > 0 {
                self.append(meanwhile, 100)?;
            }
        }
        self.sync()?;
        let synced = self.opened().journal.synced();
        if let Err(error) = writer.finish(synced) {
            // Since this snapshot began, the power may have been cut, and the end of the log lost with it.
            return Ok(Some(Err(error)).filter(|_| synced >= position));
        }
        let retained = self.opened().dir.retain_snapshots(keep);
        match retained {
            Ok(Some(position)) => match self.opened().journal.remove_before(position) {
                Ok(()) => Ok(Some(Ok(()))),
                Err(error) => self.failed(error).map(|()| None),
            },
            Ok(None) if keep > 1 => Ok(Some(Ok(()))),
            Ok(None) => Err("the snapshot is not there".to_owned()),
            Err(error) => Ok(Some(Err(error.into()))),
        }
    }

    fn stop_in_order(&mut self) -> Result<(), String> {
        self.sync = None;
        let Opened { dir, journal, .. } = self.opened.take().expect("it runs between two steps");
        let in_order = dir.close(journal).is_ok();
        self.disk.crash();
        if in_order {
            self.synced = self.appended.len();
            self.refused.clear();
        }
        self.start(self.synced)
    }

    fn crash(&mut self, loss: Loss) -> Result<(), String> {
        self.stop();
        self.disk.crash_losing(loss);
        self.start(self.synced)
    }

    /// Starts, and checks the recovered records: at least `least` of them.
    fn start(&mut self, least: usize) -> Result<(), String> {
        self.synced = least;
        match open_with(&self.disk, self.bugs) {
            Ok(opened) => self.found(opened),
            Err(error) => Err(format!("it does not start: {error}")),
        }
    }

    fn found(&mut self, mut opened: Opened<B>) -> Result<(), String> {
        let found = &opened.payloads;
        let is_prefix = self.appended.starts_with(found) && found.len() >= self.synced;
        let brought_up = |(after, records): &Refused| {
            let before = self.appended.get(..*after).unwrap_or_default();
            found.strip_prefix(before).is_some_and(|rest| records.starts_with(rest)) && *after >= self.synced
        };
        if !is_prefix && !self.refused.iter().any(brought_up) {
            let numbers: Vec<_> =
                found.iter().map(|record| String::from_utf8_lossy(record.get(..8).unwrap_or_default())).collect();
            let (appended, synced) = (self.appended.len(), self.synced);
            return Err(format!("of {appended} records, {synced} of them on disk, these are there: {numbers:?}"));
        }
        self.appended.clone_from(found);
        self.synced = found.len();
        // Alternates, so that each seed has both.
        self.syncs_often = !self.syncs_often;
        opened.journal.set_syncs_often(self.syncs_often);
        self.refused.clear();
        self.sync = None;
        self.opened = Some(opened);
        Ok(())
    }
}
