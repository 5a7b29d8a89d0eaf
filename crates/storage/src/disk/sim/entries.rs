//! One directory of the simulated disk: the names that programs see, those on the medium, and the pending changes.

use std::collections::{BTreeMap, BTreeSet};

use seeded::Random;

use super::Loss;
/// The file that a name refers to.
pub(super) type FileNumber = u64;

#[derive(Debug, Clone)]
enum Change {
    Added(String, FileNumber),
    Removed(String, FileNumber),
    /// Atomic, even in a crash: either it happened or it did not.
    Renamed(String, String, FileNumber),
}

/// The names in a directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries {
    live: BTreeMap<String, FileNumber>,
    durable: BTreeMap<String, FileNumber>,
    pending: Vec<Change>,
}

impl Entries {
    pub(super) fn find(&self, name: &str) -> Option<FileNumber> {
        self.live.get(name).copied()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.live.keys().cloned().collect()
    }

    pub(super) fn live_files(&self) -> impl Iterator<Item = FileNumber> {
        self.live.values().copied()
    }

    /// The files that a name refers to, or may refer to after a crash.
    pub(super) fn reachable(&self, files: &mut BTreeSet<FileNumber>) {
        files.extend(self.live.values().chain(self.durable.values()));
        files.extend(self.pending.iter().map(|change| match change {
            Change::Added(_, file) | Change::Removed(_, file) | Change::Renamed(_, _, file) => file,
        }));
    }

    pub(super) fn add(&mut self, name: &str, file: FileNumber) {
        self.change(Change::Added(name.to_owned(), file));
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<FileNumber> {
        let file = self.find(name)?;
        self.change(Change::Removed(name.to_owned(), file));
        Some(file)
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> Option<FileNumber> {
        let file = self.find(from)?;
        self.change(Change::Renamed(from.to_owned(), to.to_owned(), file));
        Some(file)
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        self.pending.clear();
        self.durable = self.live.clone();
    }

    /// The power was cut: each pending change is kept or lost, independently of those before it.
    pub(super) fn crash(&mut self, loss: Loss, random: &mut Random) {
        for change in std::mem::take(&mut self.pending) {
            let kept = match loss {
                Loss::Everything => false,
                Loss::Nothing => true,
                Loss::Random => random.coin(),
            };
            if kept {
                apply(&mut self.durable, &change);
            }
        }
        self.live = self.durable.clone();
    }
}

fn apply(names: &mut BTreeMap<String, FileNumber>, change: &Change) {
    let forget = |names: &mut BTreeMap<String, FileNumber>, name: &String, file: &FileNumber| {
        if names.get(name) == Some(file) {
            names.remove(name);
        }
    };
    match change {
        Change::Added(name, file) => {
            names.insert(name.clone(), *file);
        }
        Change::Removed(name, file) => forget(names, name, file),
        Change::Renamed(from, to, file) => {
            forget(names, from, file);
            names.insert(to.clone(), *file);
        }
    }
}
