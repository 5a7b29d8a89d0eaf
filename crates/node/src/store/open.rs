//! Opening a data directory, and what operators do with one.

use std::cell::Cell;
use std::path::{Path, PathBuf};
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
use storage::{DataDir, DirectoryId, Identity, Journal, Position, RealDisk, Recovered};

use super::{Fsync, Store};

/// How the directory is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory; made where it is missing.
    pub path: PathBuf,
    /// When a change counts as written.
    pub fsync: Fsync,
    /// How often the disk gets what the kernel has.
    pub interval: Duration,
}

/// A directory that is open, and the node that was in it.
#[derive(Debug)]
pub struct OpenedStore {
    /// The node, which has no part in any slot yet.
    pub node: Node,
    /// The directory.
    pub store: Store,
    /// Its log.
    pub journal: Journal,
    /// Where the snapshot that it began with was made.
    pub snapshot_at: Position,
    /// What was found, for a person to read.
    pub found: String,
}

/// What stands before the policy in a payload of the log that is none of the engine's: no entry has this number.
const POLICY: [u8; 8] = [0xff; 8];

/// The payload that says how the log behind it is written.
pub(super) fn policy(fsync: Fsync) -> Vec<u8> {
    [&POLICY[..], fsync.to_string().as_bytes()].concat()
}

/// Opens a directory and makes the node of what is in it. Blocks on the disk.
///
/// # Errors
/// Says what to do. What is there is left as it is.
pub fn open(settings: &Settings, now: Timestamp, secret: u64, fresh_id: u128) -> anyhow::Result<OpenedStore> {
    let path = &settings.path;
    let mut directory = DataDir::open(Arc::new(RealDisk), path, Options::new(DirectoryId(fresh_id)))?;
    let found = directory.found();
    anyhow::ensure!(
        !found.copied,
        "the data directory {path} is a copy of another, or was moved: two nodes with the same data would both claim it. \
         If the original is gone for good, run `node repair {path} --accept-loss` and start again",
        path = path.display()
    );
    let mut replay = Replay::new(now, SLOT_BITS, secret, NoBugs);
    let always = Cell::new(false);
    let mut deliver = |recovered: Recovered<'_>| match recovered {
        Recovered::Snapshot(payload) => Ok(replay.snapshot(payload)?),
        Recovered::Log { payload, .. } => match payload.strip_prefix(&POLICY) {
            Some(policy) => {
                always.set(policy == Fsync::Always.to_string().as_bytes());
                Ok(())
            }
            None => Ok(replay.log(payload)?),
        },
    };
    let mut is_proof = true;
    let recovered = directory.recover_as(&mut deliver, |recovery, identity| {
        let is_torn = recovery.torn_tail.as_ref().is_some_and(|torn| torn.followed);
        // IMPORTANT: the end of a log of which some may be lost proves nothing (rule 9 of the design), now and ever after.
        is_proof = found.stopped_in_order || always.get() || (found.same_boot && !is_torn);
        if !is_proof {
            identity.lose_proof();
        }
    });
    let (mut journal, recovery) = recovered.with_context(|| {
        let path = path.display();
        format!(
            "the data directory {path} cannot be used. `node check {path}` shows what is wrong with it; \
             `node repair {path} --accept-loss` keeps what is good, and the node gets the rest from its replicas"
        )
    })?;
    let node = replay.finish(now, ancestors(directory.identity()), super::map_file::load(path));
    journal.append(&[policy(settings.fsync)]).context("cannot write to the data directory")?;
    journal.sync().context("cannot write to the data directory")?;
    let mut text = format!("{} keys", node.keys());
    if let Some(torn) = &recovery.torn_tail {
        text = format!(
            "{text}; the end of the log was torn by a crash, {} bytes of {} were cut",
            torn.bytes,
            torn.file.display()
        );
    }
    if !is_proof && !found.new {
        text = format!(
            "{text}; the machine was restarted since: what was not synced may be missing. A replica that misses nothing goes \
             first; where there is none, the one that has most"
        );
    }
    let store = Store::new(path.clone(), settings.fsync, directory, node.journal().end());
    Ok(OpenedStore { node, store, journal, snapshot_at: recovery.snapshot.unwrap_or_default(), found: text })
}

/// Whose data a directory holds.
fn ancestors(identity: &Identity) -> Ancestors {
    let incarnations = |numbers: &[u64]| numbers.iter().copied().map(Incarnation).collect();
    Ancestors { unproven: incarnations(&identity.unproven), proven: incarnations(&identity.incarnations) }
}

/// Looks at a directory, and says what is wrong with it. Changes nothing.
///
/// # Errors
/// It is not sound, or cannot be looked at.
pub fn check(path: &Path) -> anyhow::Result<String> {
    let report = storage::check(&RealDisk, path)?;
    anyhow::ensure!(report.is_sound(), "{report}");
    Ok(report.to_string())
}

/// Keeps what is good of a directory and sets the rest aside. The node starts from it as one whose data proves nothing:
/// it leads only where no other copy is known to be whole.
///
/// # Errors
/// It cannot be repaired.
pub fn repair(path: &Path, fresh_id: u128) -> anyhow::Result<String> {
    let options = Options::new(DirectoryId(fresh_id));
    let report = storage::repair(&RealDisk, path, options)?;
    let mut directory = DataDir::open(Arc::new(RealDisk), path, options)?;
    directory.update_identity(Identity::lose_proof)?;
    directory.recover(&mut |_| Ok(()))?;
    Ok(report.to_string())
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
            let parent = tempfile::tempdir().expect("a directory");
            Self { path: parent.path().join("data"), _parent: parent }
        }

        /// Starts a node and kills it. Gives whose data it has found: without proof, and with.
        fn start(&self, fsync: Fsync, incarnation: Option<u64>) -> (Vec<u64>, Vec<u64>) {
            let settings = Settings { path: self.path.clone(), fsync, interval: Duration::from_secs(1) };
            let opened = open(&settings, Timestamp(0), 7, 7).expect("it is sound");
            if let Some(incarnation) = incarnation {
                opened.store.begin_incarnation(incarnation).expect("the disk is good");
            }
            let Ancestors { unproven, proven } = opened.node.ancestors().clone();
            let numbers = |incarnations: Vec<Incarnation>| incarnations.into_iter().map(|number| number.0).collect();
            (numbers(unproven), numbers(proven))
        }

        /// The machine is booted: the directory says that another boot wrote to it last.
        fn reboot(&self) {
            let options = Options::new(DirectoryId(7));
            let mut directory = DataDir::open(Arc::new(RealDisk), &self.path, options).expect("it is sound");
            let boot = Some("another".to_owned());
            directory.update_identity(|identity| identity.boot = boot).expect("the disk is good");
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
