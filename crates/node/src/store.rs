//! The node's data directory: what its state machine must not forget.
//!
//! Whoever is about to tell somebody of a change first waits in [`Store::persist`] until it is written as `--fsync`
//! asks. One write and one fsync serve all connections that have something to tell. A thread does the syncs and
//! everything else that may take long.

mod beside;
mod duty_cycle;
mod group_commit;
mod log;
mod map_file;
mod open;
mod pieces;
mod snapshots;
#[cfg(test)]
pub(crate) mod tests;
mod waiters;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use engine::journal::Noted;
use proto::cluster_map::{ClusterMap, MapVersion};
use proto::id::Incarnation;
use proto::limits;
use storage::{DataDir, Disk, FileError, Identity};
use tokio::sync::watch;
use tokio::time::timeout;

pub use open::{OpenedStore, Settings, check, discard, open, repair};
use waiters::Orders;
pub use writer::Running;

/// When a change counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fsync {
    /// Once it is on disk: it survives a power failure.
    Always,
    /// Once the kernel has it: it survives the end of the process. It is on disk about one --fsync-interval later.
    Interval,
    /// Once the kernel has it, which writes it to disk when it chooses.
    Never,
}

impl std::fmt::Display for Fsync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Never => "never",
        })
    }
}

/// The state of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It takes writes.
    Good,
    /// It is full. What was carried out waits to be written until there is room.
    Full,
    /// It has failed; nothing is written anymore.
    Failed(String),
}

/// Figures for operators.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// The size of the log on disk, in bytes.
    pub log_bytes: u64,
    /// How many bytes of the log are not known to be on disk.
    pub unsynced_bytes: u64,
    /// How many snapshots were made since the start.
    pub snapshots: u64,
}

/// The data directory as shared by the node's tasks. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    fsync: Fsync,
    /// The cluster that the data belongs to, according to the directory; unset until a node of it has joined.
    cluster: OnceLock<String>,
    /// `None` once it is closed.
    directory: Mutex<Option<DataDir>>,
    orders: Mutex<Orders>,
    ordered: Condvar,
    /// Everything below this number in the journal is written. Nearly every reader needs only this, so it takes no
    /// lock.
    written: AtomicU64,
    /// How many pieces of the log the disk has taken since the start.
    taken: Arc<AtomicU64>,
    /// The version of the map on disk; locked while one is being written.
    map_saved: Mutex<MapVersion>,
    /// `Some` while the log thread runs.
    log: Mutex<Option<log::Log>>,
    health: watch::Sender<Health>,
    figures: Mutex<Figures>,
}

// What a node shows when it joins is what the next start finds on its disk.
const _: () = assert!(limits::ANCESTORS == storage::identity::INCARNATIONS);

/// How long a failed disk is given to take one last file.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// The disk has failed: it is unknown whether what was carried out is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node's disk has failed")]
pub struct DiskFailed;

impl Store {
    fn new(disk: Arc<dyn Disk>, path: PathBuf, fsync: Fsync, directory: DataDir, written: u64) -> Self {
        let cluster = directory.identity().cluster.clone().map_or_else(OnceLock::new, OnceLock::from);
        let shared = Shared {
            disk,
            path,
            fsync,
            cluster,
            directory: Mutex::new(Some(directory)),
            orders: Mutex::default(),
            ordered: Condvar::new(),
            written: AtomicU64::new(written),
            taken: Arc::default(),
            map_saved: Mutex::default(),
            log: Mutex::default(),
            health: watch::Sender::new(Health::Good),
            figures: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The directory's path.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.shared.path
    }

    /// When a change counts as written.
    #[must_use]
    pub fn fsync(&self) -> Fsync {
        self.shared.fsync
    }

    /// Writes all journal entries below `end` if that is quick; returns whether they are written.
    pub async fn persist_soon(&self, noted: &Noted, end: u64) -> bool {
        if self.fsync() != Fsync::Always && !self.is_written(end) {
            // Requests that have arrived on other connections are carried out first, and share the write.
            tokio::task::yield_now().await;
            if !self.is_written(end) {
                self.write_here(noted);
            }
        }
        self.is_written(end)
    }

    /// Waits until all journal entries below `end` are written.
    ///
    /// # Errors
    /// They never will be. Nobody may learn of them.
    pub async fn persist(&self, noted: &Noted, end: u64) -> Result<(), DiskFailed> {
        if self.persist_soon(noted, end).await { Ok(()) } else { self.wait_written(noted, end).await }
    }

    /// Waits until all entries below `end` are written, where [`Store::persist_soon`] has not written them.
    ///
    /// # Errors
    /// They never will be. Nobody may learn of them.
    pub async fn wait_written(&self, noted: &Noted, end: u64) -> Result<(), DiskFailed> {
        self.written(noted, end).await
    }

    /// Whether all journal entries below `end` are written.
    #[must_use]
    pub fn is_written(&self, end: u64) -> bool {
        self.shared.written.load(Ordering::Acquire) >= end
    }

    /// How many pieces of the log the disk has taken since the start.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// Notes that all entries below `end` are written. Call it with the log locked; then wake those that wait for it.
    fn note_written(&self, end: u64) {
        self.shared.written.store(end, Ordering::Release);
    }

    /// Whether the disk takes writes.
    #[must_use]
    pub fn is_good(&self) -> bool {
        *self.shared.health.borrow() == Health::Good
    }

    fn has_failed(&self) -> bool {
        matches!(*self.shared.health.borrow(), Health::Failed(_))
    }

    /// The state of the disk.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// Waits until the disk has failed; returns why.
    pub async fn failed(&self) -> String {
        let mut health = self.shared.health.subscribe();
        match health.wait_for(|health| matches!(health, Health::Failed(_))).await.as_deref() {
            Ok(Health::Failed(why)) => why.clone(),
            _ => "the writer thread has ended".to_owned(),
        }
    }

    /// Handles a failure to write a file beside the log. Lack of space is temporary; any other failure stops the node,
    /// as for the log itself.
    fn fail_on_error<T>(&self, done: Result<T, FileError>) -> Result<T, FileError> {
        if let Err(error) = &done
            && !error.is_no_space()
        {
            let why = format!("{error}: {}", error.source);
            self.shared.health.send_if_modified(|health| {
                let is_first = !matches!(health, Health::Failed(_));
                if is_first {
                    *health = Health::Failed(why);
                }
                is_first
            });
        }
        done
    }

    /// Figures for operators.
    #[must_use]
    pub fn figures(&self) -> Figures {
        *self.shared.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster that this data belongs to; `None` if there is none yet.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.shared.cluster.get().map(String::as_str)
    }

    /// Records the incarnation that the coordinator has assigned to this start, so that the next start can prove whose
    /// data it has.
    ///
    /// # Errors
    /// The disk has failed. It is unknown whether the incarnation was recorded.
    pub async fn note_incarnation(&self, incarnation: Incarnation) -> Result<(), FileError> {
        let store = self.clone();
        let noted = on_a_thread(move || {
            let mut directory = store.directory();
            let Some(directory) = directory.as_mut() else { return Ok(()) };
            directory.update_identity(|identity| identity.begin_incarnation(incarnation.0))
        });
        self.fail_on_error(noted.await)
    }

    /// Records that this start is in a cluster, with its incarnation and map, so that the next start can say so.
    ///
    /// # Errors
    /// The disk has failed. It is unknown what was recorded.
    pub async fn begin(&self, map: Arc<ClusterMap>, incarnation: Incarnation) -> Result<(), FileError> {
        let store = self.clone();
        self.fail_on_error(on_a_thread(move || store.begin_now(&map, incarnation)).await)
    }

    fn begin_now(&self, map: &ClusterMap, incarnation: Incarnation) -> Result<(), FileError> {
        let mut directory = self.directory();
        let Some(directory) = directory.as_mut() else { return Ok(()) };
        if directory.identity().cluster.is_none() {
            // IMPORTANT: save the map before the name. A directory that belongs to a cluster must have its map, from
            // which a coordinator that lost its state takes the cluster over; without one it would be a stranger to
            // every other coordinator.
            self.save_map(map)?;
        }
        directory.update_identity(|identity| {
            identity.cluster.get_or_insert_with(|| map.cluster.clone());
            identity.begin_incarnation(incarnation.0);
        })?;
        let _ = self.shared.cluster.set(map.cluster.clone());
        Ok(())
    }

    /// Records that this node gives up everything it has, so that no later start claims it.
    ///
    /// # Errors
    /// The disk has failed, or is full. It is unknown whether this was recorded.
    pub async fn disown(&self) -> Result<(), FileError> {
        let store = self.clone();
        let disowned = on_a_thread(move || {
            let mut directory = store.directory();
            let Some(directory) = directory.as_mut() else { return Ok(()) };
            directory.disown()
        });
        self.fail_on_error(disowned.await)
    }

    /// After the disk has failed: records, as far as it lets us, that what was not synced may be missing. The next start
    /// may see it without having it, or lack it, although the machine was not restarted.
    pub async fn lose_proof(&self) {
        let store = self.clone();
        let recorded = on_a_thread(move || {
            if let Some(directory) = store.directory().as_mut() {
                store.lose_proof_in(directory);
            }
        });
        if timeout(LAST_WRITE, recorded).await.is_err() {
            tracing::warn!("cannot record that data may be missing: the disk does not respond");
        }
    }

    fn lose_proof_in(&self, directory: &mut DataDir) {
        // With `always`, whatever anybody knows of was synced before.
        if self.fsync() != Fsync::Always
            && let Err(error) = directory.update_identity(Identity::lose_proof)
        {
            tracing::warn!("cannot record that data may be missing: {error}: {}", error.source);
        }
    }

    /// Saves a map to disk, unless one at least as new is there. On a full disk it does not wait: the map is saved
    /// later.
    ///
    /// # Errors
    /// The disk has failed. It is unknown which map the next start finds.
    pub async fn keep_map(&self, map: Arc<ClusterMap>) -> Result<(), FileError> {
        let store = self.clone();
        let kept = self.fail_on_error(on_a_thread(move || store.save_map(&map)).await);
        if kept.as_ref().is_err_and(FileError::is_no_space) { Ok(()) } else { kept }
    }

    /// Saves a map as [`Self::keep_map`] does, synchronously. Blocks on the disk.
    fn save_map(&self, map: &ClusterMap) -> Result<(), FileError> {
        let mut saved = self.map_saved();
        if map.version > *saved {
            map_file::save(self.disk(), self.path(), map)?;
            *saved = map.version;
        }
        Ok(())
    }

    fn map_saved(&self) -> MutexGuard<'_, MapVersion> {
        self.shared.map_saved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> &dyn Disk {
        self.shared.disk.as_ref()
    }

    fn directory(&self) -> MutexGuard<'_, Option<DataDir>> {
        self.shared.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs work that may take long, such as waiting for the disk, on a blocking thread where it delays no request.
pub(crate) async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
