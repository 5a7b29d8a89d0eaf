//! A node's start from the data on its disk, and what operators do if it does not start.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use engine::bugs::{Bug, Bugs as _};
use engine::journal::Replay;
use engine::node::Node;
use engine::time::Timestamp;
use proto::cluster_map::{ClusterMap, MapUpdate};
use proto::id::Incarnation;
use proto::session::Ancestors;
use proto::slot::SlotBits;
use storage::directory::Options;
use storage::error::Rejection;
use storage::{DataDir, DirectoryId, Disk as _, Identity, Journal, OpenError, Recovered, Recovery, SimDisk, map_file};

use super::snapshots::Snapshots;
use super::{Health, Open, PATH, Room, Settings, Store};
use crate::mutants::Planted;

/// The prefix of the policy, in a payload that does not belong to the engine, as in a node.
const POLICY: [u8; 8] = [0xff; 8];

/// The file of the identity.
pub(crate) const IDENTITY: &str = "identity";

/// The parameters of a start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) now: Timestamp,
    pub(crate) bits: SlotBits,
    pub(crate) secret: u64,
    /// Real time, in microseconds.
    pub(crate) real: u64,
}

/// The result of a start.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) node: Node<Planted>,
    /// The end of the data is known to be complete.
    pub(crate) is_proof: bool,
    pub(crate) recovery: Recovery,
}

/// Why a node does not start.
pub(crate) type StartError = OpenError;

/// The payload that tells how the log after it is written.
pub(super) fn policy(settings: Settings) -> Vec<u8> {
    let name: &[u8] = if settings.sync_every == 0 { b"always" } else { b"interval" };
    [&POLICY[..], name].concat()
}

/// What has been read so far.
struct Read {
    replay: Replay<Planted>,
    always: Rc<Cell<bool>>,
}

impl Read {
    fn new(start: Start, planted: Planted) -> Self {
        Self { replay: Replay::new(start.now, start.bits, start.secret, planted), always: Rc::default() }
    }

    fn take(&mut self, recovered: Recovered<'_>) -> Result<(), Rejection> {
        let (Recovered::Snapshot(payload) | Recovered::Log { payload, .. }) = recovered;
        if let Some(policy) = payload.strip_prefix(&POLICY) {
            self.always.set(policy == b"always");
        } else if matches!(recovered, Recovered::Snapshot(_)) {
            self.replay.snapshot(payload)?;
        } else {
            self.replay.log(payload)?;
        }
        Ok(())
    }
}

impl Settings {
    fn options(self) -> Options {
        let Self { segment_bytes, reserve_bytes, .. } = self;
        Options { segment_bytes, reserve_bytes, fresh_id: DirectoryId(1) }
    }
}

impl Store {
    /// What a start would find, or why it would fail. Leaves the disk unchanged.
    pub(crate) fn look(&mut self, start: Start) -> Result<Found, StartError> {
        let copy = self.disk.fork(self.random.next());
        read(&copy, self.settings, start).map(|(found, ..)| found)
    }

    /// What a start would find after a repair. Leaves the disk unchanged.
    pub(crate) fn look_repaired(&mut self, start: Start) -> Result<Found, StartError> {
        let copy = self.disk.fork(self.random.next());
        repair(&copy, self.settings, start)?;
        read(&copy, self.settings, start).map(|(found, ..)| found)
    }

    /// Repairs a damaged directory, as an operator does: what is good is kept, but proves nothing any more.
    pub(crate) fn repair(&mut self, start: Start) -> Result<(), StartError> {
        self.protected = 0;
        repair(&self.disk, self.settings, start)
    }

    /// Starts.
    pub(crate) fn start(&mut self, start: Start) -> Result<Found, StartError> {
        self.disk.set_short_writes(self.settings.short_writes);
        let (found, directory, journal) = read(&self.disk, self.settings, start)?;
        let map_saved = found.node.map().map(|map| map.version).unwrap_or_default();
        self.protected = found.recovery.end.0;
        self.closed = None;
        self.open = Some(Open {
            disk: self.disk.clone(),
            protected: self.protected,
            directory,
            journal,
            written: found.node.noted().end(),
            unwritten: None,
            in_hand: None,
            busy_until: 0,
            health: Health::Good,
            is_told: false,
            last_sync: start.real,
            syncing: None,
            snapshots: Snapshots::new(found.recovery.snapshot.unwrap_or_default()),
            room: Room { looked: start.real, ..Room::default() },
            map_saved,
            map_saved_at: start.real,
        });
        Ok(found)
    }

    /// What a start would find with one flipped bit in the identity, and what it would find after a repair. Leaves the
    /// disk unchanged: the identity of a directory proves everything that it holds, so losing it would be losing the
    /// node's memory.
    pub(crate) fn start_with_damaged_identity(
        &mut self,
        start: Start,
        mut choose: impl FnMut(u64) -> u64,
    ) -> Option<(Result<Found, StartError>, Result<Found, StartError>)> {
        let file = Path::new(PATH).join(IDENTITY);
        let length = self.disk.content(&file)?.len() as u64;
        let (offset, bit) = (choose(length), choose(8) as u8);
        self.disk.flip_bit(&file, offset, bit);
        let found = (self.look(start), self.look_repaired(start));
        self.disk.flip_bit(&file, offset, bit);
        Some(found)
    }

    /// Flips a random bit of the data on disk; returns where.
    pub(crate) fn flip(&mut self, mut choose: impl FnMut(u64) -> u64) -> Option<(PathBuf, u64)> {
        let names = self.disk.list(Path::new(PATH)).ok()?;
        let is_data = |name: &&String| name.ends_with(".seg") || name.ends_with(".snap") || *name == map_file::NAME;
        let files: Vec<_> = names.iter().filter(is_data).collect();
        let file = Path::new(PATH).join(files.get(choose(files.len() as u64) as usize)?);
        let length = self.disk.content(&file)?.len() as u64;
        // What was written last may be taken for a torn tail, as docs/storage-format.md says.
        let length = first_of(&file).map_or(length, |first| self.protected.saturating_sub(first).min(length));
        if length == 0 {
            return None;
        }
        let (offset, bit) = (choose(length), choose(8) as u8);
        let flipped = (file.clone(), offset, bit);
        if self.flipped.contains(&flipped) {
            return None; // It would be as it was written, and nobody could notice.
        }
        self.disk.flip_bit(&file, offset, bit);
        self.flipped.push(flipped);
        Some((file, offset))
    }

    /// Whether a bit of a file was flipped.
    pub(crate) fn is_flipped(&self, file: &Path) -> bool {
        self.flipped.iter().any(|(flipped, ..)| flipped == file)
    }
}

/// Whether a file is the map.
pub(crate) fn is_map(file: &Path) -> bool {
    file.ends_with(map_file::NAME)
}

/// The position at which a segment begins; `None` for other files.
pub(crate) fn first_of(file: &Path) -> Option<u64> {
    file.file_name()?.to_str()?.strip_prefix("log-")?.strip_suffix(".seg")?.parse().ok()
}

fn read(
    disk: &SimDisk,
    settings: Settings,
    start: Start,
) -> Result<(Found, DataDir<Planted>, Journal<Planted>), StartError> {
    let planted = settings.planted;
    let mut directory = DataDir::open_with(Arc::new(disk.clone()), Path::new(PATH), settings.options(), planted)?;
    let found = directory.found();
    let mut read = Read::new(start, planted);
    let always = Rc::clone(&read.always);
    let mut is_proof = true;
    let (mut journal, recovery) =
        directory.recover_as(&mut |recovered| read.take(recovered), |recovery, identity| {
            let is_torn = recovery.torn_tail.as_ref().is_some_and(|torn| torn.followed);
            // As in a node: a log whose end may be lost proves nothing.
            is_proof = found.stopped_in_order || always.get() || (found.same_boot && !is_torn);
            if !is_proof {
                identity.lose_proof();
            } else if planted.plants(Bug::ProofRegained) {
                let proven = std::mem::take(&mut identity.incarnations);
                identity.incarnations = std::mem::take(&mut identity.unproven);
                identity.incarnations.extend(proven);
            }
        })?;
    let map = load_map(disk);
    let node = read.replay.finish(start.now, ancestors(directory.identity()), map);
    begin_log(&directory, &mut journal, settings)?;
    Ok((Found { node, is_proof, recovery }, directory, journal))
}

fn begin_log(
    directory: &DataDir<Planted>,
    journal: &mut Journal<Planted>,
    settings: Settings,
) -> Result<(), StartError> {
    use storage::JournalError::{Failed, NoSpace};
    let policy = [policy(settings)];
    let begun = match journal.append(&policy) {
        Err(NoSpace(error)) if !directory.release_reserve()? => Err(NoSpace(error)),
        Err(NoSpace(_)) => journal.append(&policy),
        appended => appended,
    };
    match begun.and_then(|_| journal.sync()) {
        Ok(_) => Ok(()),
        Err(NoSpace(error) | Failed(error)) => Err(error.into()),
        Err(error) => unreachable!("a new log is neither poisoned nor is a policy large: {error}"),
    }
}

fn repair(disk: &SimDisk, settings: Settings, start: Start) -> Result<(), StartError> {
    let path = Path::new(PATH);
    storage::repair(disk, path, settings.options(), &mut || {
        let mut read = Read::new(start, settings.planted);
        Box::new(move |recovered| read.take(recovered))
    })?;
    let mut directory = DataDir::open(Arc::new(disk.clone()), path, settings.options())?;
    directory.update_identity(Identity::lose_proof)?;
    directory.recover(&mut |_| Ok(()))?;
    Ok(())
}

fn ancestors(identity: &Identity) -> Ancestors {
    let incarnations = |numbers: &[u64]| numbers.iter().copied().map(Incarnation).collect();
    Ancestors { unproven: incarnations(&identity.unproven), proven: incarnations(&identity.incarnations) }
}

fn load_map(disk: &SimDisk) -> Option<Arc<ClusterMap>> {
    let text = map_file::load(disk, Path::new(PATH)).ok()??;
    MapUpdate::parse(text.lines()).and_then(|update| ClusterMap::updated(None, &update)).ok().map(Arc::new)
}
