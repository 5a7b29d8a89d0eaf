//! The whole state of a simulated disk, behind its lock.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use seeded::Random;

use super::entries::{Entries, FileNumber};
use super::image::Image;
use super::{Fault, Loss, Operation};
use crate::disk::no_descriptor;
/// An injected fault that has not struck yet.
#[derive(Debug, Clone)]
struct Waiting {
    operation: Option<Operation>,
    /// How many such calls succeed before it strikes.
    calls: u64,
    fault: Fault,
}

#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) random: Random,
    pub(super) directories: BTreeMap<PathBuf, Entries>,
    pub(super) files: BTreeMap<FileNumber, Image>,
    next_file: FileNumber,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) capacity: Option<u64>,
    /// One in this many writes is cut short, at random; 0 for none.
    pub(super) short_writes: u64,
    pub(super) refuses_opens: bool,
    waiting: Vec<Waiting>,
    /// The power is cut, and the crash has not been carried out yet.
    pub(super) is_off: bool,
    pub(super) calls: u64,
    pub(super) delay_micros: u64,
    /// The run of the process; handles of earlier runs are invalid.
    pub(super) run: u64,
    pub(super) boot: u64,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            directories: BTreeMap::new(),
            files: BTreeMap::new(),
            next_file: 1,
            locks: BTreeSet::new(),
            capacity: None,
            short_writes: 0,
            refuses_opens: false,
            waiting: Vec::new(),
            is_off: false,
            calls: 0,
            delay_micros: 0,
            run: 0,
            boot: 0,
        }
    }

    pub(super) fn inject(&mut self, operation: Option<Operation>, calls: u64, fault: Fault) {
        self.waiting.push(Waiting { operation, calls, fault });
    }

    pub(super) fn clear_faults(&mut self) {
        self.waiting.clear();
        self.short_writes = 0;
    }

    /// Counts a call; returns the fault that strikes it.
    pub(super) fn enter(&mut self, operation: Operation) -> Option<Fault> {
        self.calls += 1;
        if self.is_off {
            return Some(Fault::PowerCut);
        }
        let mut happens = None;
        self.waiting.retain_mut(|waiting| {
            if waiting.operation.is_some_and(|only| only != operation) {
                return true;
            }
            if waiting.calls == 0 {
                happens = Some(waiting.fault);
                return false;
            }
            waiting.calls -= 1;
            true
        });
        self.is_off = happens == Some(Fault::PowerCut);
        if let Some(Fault::Slow { micros }) = happens {
            self.delay_micros += micros;
            return None;
        }
        if happens.is_none()
            && operation == Operation::Write
            && self.short_writes > 0
            && self.random.below(self.short_writes) == 0
        {
            return Some(Fault::Short);
        }
        happens
    }

    /// Counts a call that a fault fails as a whole.
    pub(super) fn enter_whole(&mut self, operation: Operation) -> io::Result<()> {
        if self.refuses_opens && matches!(operation, Operation::Open | Operation::SyncDirectory) {
            return Err(no_descriptor());
        }
        match self.enter(operation) {
            None | Some(Fault::Short | Fault::Slow { .. }) => Ok(()),
            Some(Fault::NoSpace) => Err(ErrorKind::StorageFull.into()),
            Some(Fault::Io | Fault::PowerCut) => Err(injected()),
        }
    }

    pub(super) fn entries(&mut self, directory: &Path) -> io::Result<&mut Entries> {
        self.directories.get_mut(directory).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) fn file(&mut self, number: FileNumber) -> io::Result<&mut Image> {
        self.files.get_mut(&number).ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) fn find(&self, path: &Path) -> Option<FileNumber> {
        let (directory, name) = split(path).ok()?;
        self.directories.get(&directory)?.find(&name)
    }

    /// Creates a new, empty file, replacing any of that name.
    pub(super) fn create(&mut self, path: &Path) -> io::Result<FileNumber> {
        let (directory, name) = split(path)?;
        let number = self.next_file;
        self.entries(&directory)?.add(&name, number);
        self.next_file += 1;
        self.files.insert(number, Image::default());
        Ok(number)
    }

    /// How many bytes are free; a very large number if there is no capacity.
    pub(super) fn free(&self) -> u64 {
        self.capacity.map_or(1 << 50, |capacity| capacity.saturating_sub(self.used()))
    }

    /// How many bytes the files that have a name take.
    pub(super) fn used(&self) -> u64 {
        let mut named = BTreeSet::new();
        for entries in self.directories.values() {
            named.extend(entries.live_files());
        }
        named.iter().filter_map(|number| self.files.get(number)).map(Image::room).sum()
    }

    /// Ends the process: its handles and locks are gone.
    pub(super) fn end_run(&mut self) {
        self.run += 1;
        self.locks.clear();
        self.is_off = false;
        self.clear_faults();
    }

    pub(super) fn crash(&mut self, loss: Loss) {
        self.end_run();
        self.boot += 1;
        for entries in self.directories.values_mut() {
            entries.crash(loss, &mut self.random);
        }
        let mut reachable = BTreeSet::new();
        for entries in self.directories.values() {
            entries.reachable(&mut reachable);
        }
        self.files.retain(|number, _| reachable.contains(number));
        for image in self.files.values_mut() {
            image.crash(loss, &mut self.random);
        }
    }
}

/// The error of an injected fault.
pub(super) fn injected() -> io::Error {
    io::Error::other("input/output error of the simulated disk")
}

/// The directory of a file and its name there.
pub(super) fn split(path: &Path) -> io::Result<(PathBuf, String)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let directory = path.parent();
    name.zip(directory)
        .map(|(name, directory)| (directory.to_owned(), name.to_owned()))
        .ok_or_else(|| ErrorKind::InvalidInput.into())
}
