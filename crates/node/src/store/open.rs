//! Opening a data directory, and the operator commands for one.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use engine::bugs::NoBugs;
use engine::journal::Replay;
use engine::node::Node;
use engine::time::Timestamp;
use proto::id::Incarnation;
use proto::session::Ancestors;
use proto::slot::SLOT_BITS;
use storage::directory::Options;
use storage::error::{Damage, Flaw, Rejection};
use storage::{DataDir, DirectoryId, Disk, Identity, Journal, JournalError, OpenError, Position, RealDisk, Recovered};

use super::pieces::Assembly;
use super::{Fsync, Store};

/// How the directory is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory; created if missing.
    pub path: PathBuf,
    /// When a change counts as written.
    pub fsync: Fsync,
    /// How often the log is synced to disk, with [`Fsync::Interval`].
    pub interval: Duration,
}

/// An open data directory, and the node recovered from it.
#[derive(Debug)]
pub struct OpenedStore {
    /// The node, which has no part in any slot yet.
    pub node: Node,
    /// The directory.
    pub store: Store,
    /// Its log.
    pub journal: Journal,
    /// The position of the snapshot that it was recovered from, and its size in bytes.
    pub snapshot: (Position, u64),
    /// What was found, as text for people.
    pub found: String,
}

/// The prefix of a log payload that holds the fsync policy rather than an engine entry: no entry has this number.
const POLICY: [u8; 8] = [0xff; 8];

/// The payload that records the fsync policy of the log entries after it.
pub(super) fn policy(fsync: Fsync) -> Vec<u8> {
    [&POLICY[..], fsync.to_string().as_bytes()].concat()
}

/// What has been read from a directory so far.
struct Read {
    replay: Replay<NoBugs>,
    assembly: Assembly,
    /// Whether the log was written under [`Fsync::Always`] at the last position read.
    always: Rc<Cell<bool>>,
}

impl Read {
    fn new(now: Timestamp, secret: u64) -> Self {
        Self {
            replay: Replay::new(now, SLOT_BITS, secret, NoBugs),
            assembly: Assembly::default(),
            always: Rc::default(),
        }
    }

    /// Replays a payload as a start does; a check and a repair are just as strict.
    fn take(&mut self, recovered: Recovered<'_>) -> Result<(), Rejection> {
        let (Recovered::Snapshot(written) | Recovered::Log { payload: written, .. }) = recovered;
        let Some(payload) = self.assembly.add(written) else { return Ok(()) };
        if let Some(policy) = payload.strip_prefix(&POLICY) {
            self.always.set(policy == Fsync::Always.to_string().as_bytes());
        } else if matches!(recovered, Recovered::Snapshot(_)) {
            self.replay.snapshot(payload)?;
        } else {
            self.replay.log(payload)?;
        }
        self.assembly.taken();
        Ok(())
    }
}

/// Opens a directory and recovers the node from it. Blocks on the disk.
///
/// # Errors
/// The error says what to do. The directory's contents are unchanged.
pub fn open(settings: &Settings, now: Timestamp, secret: u64, fresh_id: u128) -> anyhow::Result<OpenedStore> {
    open_on(Arc::new(RealDisk::default()), settings, now, secret, fresh_id)
}

pub(super) fn open_on(
    disk: Arc<dyn Disk>,
    settings: &Settings,
    now: Timestamp,
    secret: u64,
    fresh_id: u128,
) -> anyhow::Result<OpenedStore> {
    let path = &settings.path;
    let place = || format!("the data directory {} cannot be used; nothing was changed", path.display());
    disk.create_directory(path).with_context(place)?;
    let free = disk.free_space(path).with_context(place)?;
    let opened = DataDir::open(Arc::clone(&disk), path, Options::fitting(DirectoryId(fresh_id), free));
    let mut directory = opened.map_err(|error| with_advice(error, path))?;
    let found = directory.found();
    anyhow::ensure!(
        !found.copied,
        "the data directory {path} is a copy of another, or was moved: two nodes with the same data would both claim it. \
         If the original is gone for good, run `node repair {path} --accept-loss` and start again",
        path = path.display()
    );
    let mut read = Read::new(now, secret);
    let always = Rc::clone(&read.always);
    let mut is_proof = true;
    let recovered = directory.recover_as(&mut |recovered| read.take(recovered), |recovery, identity| {
        let is_torn = recovery.torn_tail.as_ref().is_some_and(|torn| torn.followed);
        // IMPORTANT: a log whose end may be lost proves nothing (ARCHITECTURE.md, What is on disk), now and ever after.
        is_proof = found.stopped_in_order || always.get() || (found.same_boot && !is_torn);
        if !is_proof {
            identity.lose_proof();
        }
    });
    let (mut journal, recovery) = recovered.map_err(|error| with_advice(error, path))?;
    let map = super::map_file::load(disk.as_ref(), path);
    let written = read.replay.end();
    let node = read.replay.finish(now, ancestors(directory.identity()), map);
    begin_log(&directory, &mut journal, settings.fsync).with_context(|| {
        format!(
            "cannot write to the data directory {}: its contents are unchanged; check its disk and start again",
            path.display()
        )
    })?;
    for damage in &recovery.damaged_snapshots {
        tracing::error!("{damage}: an older snapshot and the log have replaced it; check the disk");
    }
    let mut text = format!("{} keys", node.keys());
    if let Some(torn) = &recovery.torn_tail {
        text = format!(
            "{text}; the end of the log was torn by a crash, {} bytes of {} were cut",
            torn.bytes,
            torn.file.display()
        );
    }
    if !is_proof && !found.new {
        let why = if found.same_boot {
            "good records were among what was cut, so the log was damaged and more may be missing"
        } else {
            "the machine was restarted since: what was not synced may be missing"
        };
        text = format!(
            "{text}; {why}. A complete replica leads if there is one, otherwise the copy with the most records"
        );
    }
    let snapshot = (recovery.snapshot.unwrap_or_default(), recovery.snapshot_bytes);
    let store = Store::new(disk, path.clone(), settings.fsync, directory, written);
    Ok(OpenedStore { node, store, journal, snapshot, found: text })
}

/// Adds what to do about a directory that cannot be opened, unless the error says so itself.
fn with_advice(error: OpenError, path: &Path) -> anyhow::Error {
    let path = path.display();
    let advice = match &error {
        OpenError::File(file) if file.is_no_space() && !file.is_no_descriptor() => {
            format!(
                "the disk of the data directory {path} is full; its contents are intact: free some space and start \
                 again"
            )
        }
        OpenError::File(file) if file.is_no_descriptor() => {
            format!("the data directory {path} cannot be used now: raise the limit of open files (ulimit -n)")
        }
        OpenError::File(_) => {
            format!("the data directory {path} cannot be used: check its disk and permissions, and start again")
        }
        OpenError::Damaged(Damage { flaw: Flaw::Version(_), .. }) => {
            format!("the data directory {path} cannot be used by this release: start the one that has written it")
        }
        OpenError::Damaged(_) | OpenError::Rejected { .. } => format!(
            "the data directory {path} cannot be used. `node check {path}` shows what is wrong with it; \
             `node repair {path} --accept-loss` keeps what is good, and the node gets the rest from its replicas"
        ),
        OpenError::InUse { .. }
        | OpenError::OfCoordinator { .. }
        | OpenError::IdentityMissing { .. }
        | OpenError::NoData { .. }
        | OpenError::CoordinatorsData { .. }
        | OpenError::Discarded { .. }
        | OpenError::SegmentBytes { .. } => return error.into(),
    };
    anyhow::Error::from(error).context(advice)
}

/// Records the fsync policy of what follows in the log. On a full disk it uses the reserve for that.
fn begin_log(directory: &DataDir, journal: &mut Journal, fsync: Fsync) -> anyhow::Result<()> {
    let policy = [policy(fsync)];
    if let Err(error) = journal.append(&policy) {
        let has_reserve = matches!(error, JournalError::NoSpace(_)) && directory.release_reserve()?;
        if !has_reserve {
            return Err(error.into());
        }
        journal.append(&policy)?;
    }
    journal.sync()?;
    Ok(())
}

/// Whose data a directory holds.
fn ancestors(identity: &Identity) -> Ancestors {
    let incarnations = |numbers: &[u64]| numbers.iter().copied().map(Incarnation).collect();
    Ancestors { unproven: incarnations(&identity.unproven), proven: incarnations(&identity.incarnations) }
}

/// Checks a directory and reports what is wrong with it. Changes nothing.
///
/// # Errors
/// It is not sound, or cannot be read.
pub fn check(path: &Path) -> anyhow::Result<String> {
    let mut read = Read::new(Timestamp::default(), 0);
    let report = storage::check(&RealDisk::default(), path, &mut |recovered| read.take(recovered))?;
    anyhow::ensure!(report.is_sound(), "{report}");
    Ok(report.to_string())
}

/// Keeps the good parts of a directory and sets the rest aside. The node then starts as one whose data proves nothing:
/// it leads only where no other copy is known to be whole.
///
/// # Errors
/// It cannot be repaired.
pub fn repair(path: &Path, fresh_id: u128) -> anyhow::Result<String> {
    let free = RealDisk::default().free_space(path).with_context(|| format!("cannot inspect {}", path.display()))?;
    let options = Options::fitting(DirectoryId(fresh_id), free);
    let report = storage::repair(&RealDisk::default(), path, options, &mut || {
        let mut read = Read::new(Timestamp::default(), 0);
        Box::new(move |recovered| read.take(recovered))
    })?;
    let mut directory = DataDir::open(Arc::new(RealDisk::default()), path, options)?;
    directory.update_identity(Identity::lose_proof)?;
    let was_copied = directory.found().copied;
    directory.recover(&mut |_| Ok(()))?;
    let copied = if was_copied { "\nThe copy counts as a directory of its own from now on." } else { "" };
    let proof = "\nFrom now on its data is not known to be complete: a complete replica leads if there is one.";
    Ok(format!("{report}{copied}{proof}"))
}

/// Deletes everything in a directory that no process is using. Blocks on the disk.
///
/// # Errors
/// Some of it is left. The next start deletes the rest.
pub fn discard(path: &Path) -> anyhow::Result<()> {
    Ok(storage::discard(&RealDisk::default(), path, &[super::map_file::NAME])?)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    struct Directory {
        _parent: tempfile::TempDir,
        path: PathBuf,
    }

    impl Directory {
        fn new() -> Self {
            let parent = tempfile::tempdir().expect("the disk takes it");
            Self { path: parent.path().join("data"), _parent: parent }
        }

        /// Starts a node and kills it. Returns whose data it found: unproven, then proven.
        fn start(&self, fsync: Fsync, incarnation: Option<u64>) -> (Vec<u64>, Vec<u64>) {
            let settings = Settings { path: self.path.clone(), fsync, interval: Duration::from_secs(1) };
            let opened = open(&settings, Timestamp(0), 7, 7).expect("the disk takes it");
            if let Some(incarnation) = incarnation {
                let mut directory = opened.store.directory();
                directory
                    .as_mut()
                    .expect("the disk takes it")
                    .update_identity(|identity| identity.begin_incarnation(incarnation))
                    .expect("the disk takes it");
            }
            let Ancestors { unproven, proven } = opened.node.ancestors().clone();
            let numbers = |incarnations: Vec<Incarnation>| incarnations.into_iter().map(|number| number.0).collect();
            (numbers(unproven), numbers(proven))
        }

        /// Simulates a reboot: the directory says that another boot wrote to it last.
        fn reboot(&self) {
            let mut directory = DataDir::open(Arc::new(RealDisk::default()), &self.path, Options::new(DirectoryId(7)))
                .expect("the disk takes it");
            directory
                .update_identity(|identity| identity.boot = Some("another".to_owned()))
                .expect("the disk takes it");
        }
    }

    #[test]
    fn what_may_lack_its_end_is_never_shown_as_proof_again() {
        let directory = Directory::new();
        assert_eq!(directory.start(Fsync::Interval, Some(1)), (vec![], vec![]));
        assert_eq!(directory.start(Fsync::Interval, Some(2)), (vec![], vec![1]), "a kill loses nothing");
        directory.reboot();
        assert_eq!(directory.start(Fsync::Interval, None), (vec![1, 2], vec![]));
        assert_eq!(directory.start(Fsync::Interval, Some(3)), (vec![1, 2], vec![]), "killed before it had joined");
        assert_eq!(directory.start(Fsync::Always, Some(4)), (vec![1, 2], vec![3]), "what came after is whole");
        directory.reboot();
        assert_eq!(directory.start(Fsync::Never, Some(5)), (vec![1, 2], vec![3, 4]), "it was synced");
        repair(&directory.path, 7).unwrap();
        assert_eq!(directory.start(Fsync::Never, None), (vec![1, 2, 3, 4, 5], vec![]));
    }
}
