//! The node's data directory: what its state machine must not forget.
//!
//! Whoever is about to tell somebody of a change first waits in [`Store::persist`] until it is written as `--fsync` asks.
//! One write, and one fsync, serves all connections that have something to tell. A thread syncs, and does all else that
//! may take long.

mod gather;
mod log;
mod map_file;
mod open;
mod pieces;
mod rests;
mod snapshots;
#[cfg(test)]
pub(crate) mod tests;
mod waiters;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use proto::cluster_map::{ClusterMap, MapVersion};
use proto::id::Incarnation;
use storage::{DataDir, Disk, FileError};
use tokio::sync::watch;

use log::Tried;
pub use open::{OpenedStore, Settings, check, discard, open, repair};
use waiters::Orders;
pub use writer::Running;

/// When a change counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fsync {
    /// When it is on disk: it survives a power cut.
    Always,
    /// When the kernel has it: it survives the end of the process. The disk has it after --fsync-interval at the latest.
    Interval,
    /// When the kernel has it, which writes it to the disk when it likes.
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

/// How the disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It takes what is written.
    Good,
    /// It is full. What was carried out waits for room.
    Full,
    /// It has failed, and nothing is written any more.
    Failed(String),
}

/// Figures for operators.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// What the log takes on disk, in bytes.
    pub log_bytes: u64,
    /// How many snapshots were made since the start.
    pub snapshots: u64,
}

/// The directory as the node's tasks share it. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    fsync: Fsync,
    /// Whose data it is, as the directory says; a directory is of none until a node of it has joined.
    cluster: OnceLock<String>,
    /// Taken out when it is closed.
    directory: Mutex<Option<DataDir>>,
    orders: Mutex<Orders>,
    ordered: Condvar,
    /// Up to which number of the journal everything is written. What nearly everybody looks at takes no lock.
    written: AtomicU64,
    /// The version of the map that is on the disk; held while one is written.
    map_saved: Mutex<MapVersion>,
    /// There from the start of its thread to its end.
    log: Mutex<Option<log::Log>>,
    health: watch::Sender<Health>,
    figures: Mutex<Figures>,
}

/// How often somebody who has found the log in other hands looks again, before the thread is to write. Who has it is nearly
/// always another who writes what has gathered, this included, and is done before a thread would be awake.
const LOOKS: u32 = 16;

/// The disk has failed: whether what was carried out is kept is not known.
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

    /// Writes everything that was noted with a lower number than `end`, if that is quickly done; says whether it is written.
    pub async fn persist_soon(&self, noted: &engine::journal::Journal, end: u64) -> bool {
        if self.fsync() == Fsync::Always {
            return self.is_written(end);
        }
        for _ in 0..LOOKS {
            if self.is_written(end) {
                return true;
            }
            // Requests that have arrived on other connections are carried out first, and share the write.
            tokio::task::yield_now().await;
            if !self.is_written(end) && self.write_here(noted) == Tried::LeftToThread {
                break;
            }
        }
        self.is_written(end)
    }

    /// Waits until everything that was noted with a lower number than `end` is written.
    ///
    /// # Errors
    /// It never will be. Nobody must hear of it.
    pub async fn persist(&self, noted: &engine::journal::Journal, end: u64) -> Result<(), DiskFailed> {
        if self.persist_soon(noted, end).await { Ok(()) } else { self.wait_written(end).await }
    }

    /// The same by the thread, where [`Store::persist_soon`] has not done it.
    ///
    /// # Errors
    /// It never will be. Nobody must hear of it.
    pub async fn wait_written(&self, end: u64) -> Result<(), DiskFailed> {
        self.written(end).await
    }

    /// Whether everything with a lower number than `end` is written.
    #[must_use]
    pub fn is_written(&self, end: u64) -> bool {
        self.shared.written.load(Ordering::Acquire) >= end
    }

    /// Everything with a lower number than `end` is written. To be called with the log in hand; then those who wait for it are to
    /// be woken.
    fn note_written(&self, end: u64) {
        self.shared.written.store(end, Ordering::Release);
    }

    /// Whether the disk takes what is written.
    #[must_use]
    pub fn is_good(&self) -> bool {
        *self.shared.health.borrow() == Health::Good
    }

    fn has_failed(&self) -> bool {
        matches!(*self.shared.health.borrow(), Health::Failed(_))
    }

    /// How the disk is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// Waits until the disk has failed; says why.
    pub async fn failed(&self) -> String {
        let mut health = self.shared.health.subscribe();
        match health.wait_for(|health| matches!(health, Health::Failed(_))).await.as_deref() {
            Ok(Health::Failed(why)) => why.clone(),
            _ => "the thread that writes has ended".to_owned(),
        }
    }

    /// A file beside the log could not be written. Want of room passes; otherwise the node is to stop, as where the log cannot.
    fn fails_by<T>(&self, done: Result<T, FileError>) -> Result<T, FileError> {
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

    /// The cluster whose data this is; `None` where it is of none yet.
    #[must_use]
    pub fn cluster(&self) -> Option<&str> {
        self.shared.cluster.get().map(String::as_str)
    }

    /// Notes what the coordinator calls this start of the node, so that the next one can show whose data it has.
    ///
    /// # Errors
    /// The disk has failed. What was noted is unknown.
    pub async fn note_incarnation(&self, incarnation: Incarnation) -> Result<(), FileError> {
        let store = self.clone();
        let noted = on_a_thread(move || {
            let mut directory = store.directory();
            let Some(directory) = directory.as_mut() else { return Ok(()) };
            directory.update_identity(|identity| identity.begin_incarnation(incarnation.0))
        });
        self.fails_by(noted.await)
    }

    /// Notes that this start of the node is in a cluster, as what and by which map, so that the next one can say so.
    ///
    /// # Errors
    /// The disk has failed. What was noted is unknown.
    pub async fn begin(&self, map: Arc<ClusterMap>, incarnation: Incarnation) -> Result<(), FileError> {
        let store = self.clone();
        self.fails_by(on_a_thread(move || store.begin_now(&map, incarnation)).await)
    }

    fn begin_now(&self, map: &ClusterMap, incarnation: Incarnation) -> Result<(), FileError> {
        let mut directory = self.directory();
        let Some(directory) = directory.as_mut() else { return Ok(()) };
        if directory.identity().cluster.is_none() {
            // IMPORTANT: before the name. A directory that is of a cluster has its map, by which a coordinator that lost its
            // state takes the cluster over; without one it would be a stranger to every other coordinator.
            self.save_map(map)?;
        }
        directory.update_identity(|identity| {
            identity.cluster.get_or_insert_with(|| map.cluster.clone());
            identity.begin_incarnation(incarnation.0);
        })?;
        let _ = self.shared.cluster.set(map.cluster.clone());
        Ok(())
    }

    /// Puts a map on the disk, unless one as new is there. A full disk is no reason to wait: then it is saved later.
    ///
    /// # Errors
    /// The disk has failed. Which map a start finds is unknown.
    pub async fn keep_map(&self, map: Arc<ClusterMap>) -> Result<(), FileError> {
        let store = self.clone();
        let kept = self.fails_by(on_a_thread(move || store.save_map(&map)).await);
        if kept.as_ref().is_err_and(FileError::is_no_space) { Ok(()) } else { kept }
    }

    /// The same, at once. Blocks on the disk.
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

/// Does what may take long, as to wait for the disk, where no request waits for it.
pub(crate) async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}
