//! The thread that writes.

use std::sync::PoisonError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use engine::node::Node;
use proto::cluster_map::MapVersion;
use proto::slot::SLOT_BITS;
use storage::journal::Synced;
use storage::{Journal, JournalError, Position, SnapshotWriter};

use super::{Fsync, Health, Orders, Store, map_file};
use crate::driver::Driver;

/// How often a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// How often the thread looks at what goes on beside it.
const LOOK: Duration = Duration::from_millis(20);

/// A snapshot is made when the log has grown by as much as the last one took, and by this many bytes at least.
const SNAPSHOT_AFTER: u64 = 64 * 1024 * 1024;

/// How often the map is saved, at most.
const MAP_PAUSE: Duration = Duration::from_millis(500);

/// How many snapshots are kept: should the newest be damaged, the one before and the log give everything.
const SNAPSHOTS_KEPT: usize = 2;

struct Writer {
    driver: Driver,
    store: Store,
    journal: Journal,
    /// What was taken from the state machine and could not be written yet. Nothing that came later is written before it.
    unwritten: Option<(Vec<u8>, u64)>,
    interval: Duration,
    last_sync: Instant,
    /// A sync that runs beside this thread.
    syncing: Option<JoinHandle<Synced>>,
    snapshot: Option<JoinHandle<anyhow::Result<Snapshot>>>,
    map_saved: MapVersion,
    map_saved_at: Instant,
    /// Where the log ended when the last snapshot was begun, and what that took.
    snapshot_at: Position,
    snapshot_bytes: u64,
}

/// A snapshot that is finished.
struct Snapshot {
    bytes: u64,
    /// Below this the log is not needed.
    needed_from: Option<Position>,
}

impl Store {
    /// Starts the thread. It ends when [`Store::close`] is called on what it gives.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        &self,
        driver: Driver,
        journal: Journal,
        snapshot_at: Position,
        interval: Duration,
    ) -> anyhow::Result<Running> {
        let writer = Writer {
            driver,
            store: self.clone(),
            unwritten: None,
            interval,
            last_sync: Instant::now(),
            syncing: None,
            snapshot: None,
            map_saved: MapVersion(0),
            map_saved_at: Instant::now(),
            snapshot_at,
            snapshot_bytes: 0,
            journal,
        };
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run());
        Ok(Running { store: self.clone(), thread: thread.context("cannot start the thread of the log")? })
    }
}

/// The thread, to be ended in order.
#[derive(Debug)]
pub struct Running {
    store: Store,
    thread: JoinHandle<Option<Journal>>,
}

impl Running {
    /// Writes what is left, makes it last, and notes that the node has stopped in order. Blocks on the disk.
    ///
    /// # Errors
    /// The disk has failed; the next start takes this one for a crash.
    pub fn close(self) -> anyhow::Result<()> {
        self.store.order(|orders| orders.stop = true);
        let journal = self.thread.join().map_err(|_| anyhow::anyhow!("the thread of the log has panicked"))?;
        let directory = self.store.directory().take();
        match (journal, directory) {
            (Some(journal), Some(directory)) => directory.close(journal).context("cannot close the data directory"),
            _ => anyhow::bail!("the disk has failed before"),
        }
    }
}

impl Writer {
    fn run(mut self) -> Option<Journal> {
        match self.write_until_stopped() {
            Ok(()) => Some(self.journal),
            Err(error) => {
                let why = format!("{error:#}");
                tracing::error!("the data directory {} has failed: {why}", self.store.path().display());
                self.store.shared.health.send_replace(Health::Failed(why));
                None
            }
        }
    }

    fn write_until_stopped(&mut self) -> anyhow::Result<()> {
        loop {
            let stop = self.wait();
            self.write_pending(stop)?;
            self.end_sync(stop)?;
            self.end_snapshot(stop)?;
            self.save_map(stop);
            if stop {
                return Ok(());
            }
            self.begin_sync()?;
            self.begin_snapshot()?;
            self.store.shared.figures.lock().unwrap_or_else(PoisonError::into_inner).log_bytes =
                self.journal.stats().bytes;
        }
    }

    /// Waits for something to do; says whether it is to stop.
    fn wait(&self) -> bool {
        let shared = &self.store.shared;
        let orders = shared.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |orders: &mut Orders| !orders.write && !orders.stop;
        let (mut orders, _) =
            shared.ordered.wait_timeout_while(orders, LOOK, idle).unwrap_or_else(PoisonError::into_inner);
        orders.write = false;
        orders.stop
    }

    fn write_pending(&mut self, stop: bool) -> anyhow::Result<()> {
        let driver = self.driver.clone();
        while let Some((payload, end)) = self.unwritten.take().or_else(|| driver.node().journal().take()) {
            if !self.append(&payload, stop)? {
                self.unwritten = Some((payload, end));
                return Ok(());
            }
            if self.store.fsync() == Fsync::Always {
                self.journal.sync()?;
            }
            self.store.shared.written.send_replace(end);
        }
        Ok(())
    }

    /// Appends, and waits while the disk is full; `false` where the node stops meanwhile.
    fn append(&mut self, payload: &[u8], stop: bool) -> anyhow::Result<bool> {
        let health = &self.store.shared.health;
        loop {
            match self.journal.append(&[payload]) {
                Ok(_) => {
                    if health.send_if_modified(|health| std::mem::replace(health, Health::Good) == Health::Full) {
                        tracing::warn!("the disk has room again: writes are taken");
                    }
                    return Ok(true);
                }
                Err(JournalError::NoSpace(error)) => {
                    if health.send_if_modified(|health| std::mem::replace(health, Health::Full) != Health::Full) {
                        tracing::error!("the disk is full: writes are refused until there is room again: {error}");
                    }
                    let stop = stop || self.store.shared.orders.lock().unwrap_or_else(PoisonError::into_inner).stop;
                    if stop {
                        return Ok(false);
                    }
                    std::thread::sleep(FULL_PAUSE);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Saves the map where it has changed; with `now` at once.
    fn save_map(&mut self, now: bool) {
        let Some(map) = self.driver.node().map() else { return };
        if map.version == self.map_saved || !(now || self.map_saved_at.elapsed() >= MAP_PAUSE) {
            return;
        }
        match map_file::save(self.store.path(), &map) {
            Ok(()) => self.map_saved = map.version,
            Err(error) => tracing::warn!("cannot save the map, and will try again: {error}"),
        }
        self.map_saved_at = Instant::now();
    }

    fn begin_sync(&mut self) -> anyhow::Result<()> {
        let is_due = self.store.fsync() == Fsync::Interval && self.last_sync.elapsed() >= self.interval;
        if is_due && self.syncing.is_none() && self.journal.end() > self.journal.synced() {
            self.last_sync = Instant::now();
            let task = self.journal.begin_sync()?;
            self.syncing = Some(std::thread::Builder::new().name("fsync".to_owned()).spawn(move || task.run())?);
        }
        Ok(())
    }

    /// Takes in a sync that is done; with `wait` one that is not done yet.
    fn end_sync(&mut self, wait: bool) -> anyhow::Result<()> {
        if let Some(syncing) = self.syncing.take_if(|syncing| wait || syncing.is_finished()) {
            let synced = syncing.join().map_err(|_| anyhow::anyhow!("the thread of an fsync has panicked"))?;
            self.journal.end_sync(synced)?;
        }
        Ok(())
    }

    fn begin_snapshot(&mut self) -> anyhow::Result<()> {
        let grown = self.journal.end().0 - self.snapshot_at.0;
        if self.snapshot.is_some() || self.syncing.is_some() || grown < SNAPSHOT_AFTER.max(self.snapshot_bytes) {
            return Ok(());
        }
        // Whatever comes of it, it is tried again only once the log has grown as much again.
        self.snapshot_at = self.journal.end();
        // IMPORTANT: behind the position, so that what says of the policy is in the log that stays.
        match self.journal.append(&[super::open::policy(self.store.fsync())]) {
            Err(JournalError::NoSpace(_)) => return Ok(()),
            appended => appended?,
        };
        let synced = self.journal.sync()?;
        let begun = match self.store.directory().as_ref() {
            Some(directory) => directory.begin_snapshot(self.snapshot_at),
            None => return Ok(()),
        };
        let writer = match begun {
            Ok(writer) => writer,
            Err(error) => {
                tracing::warn!("no snapshot was made, the log stays as it is: {error:#}");
                return Ok(());
            }
        };
        let (driver, store) = (self.driver.clone(), self.store.clone());
        let make = move || snapshot(driver.node(), &store, writer, synced);
        self.snapshot = Some(std::thread::Builder::new().name("snapshot".to_owned()).spawn(make)?);
        Ok(())
    }

    fn end_snapshot(&mut self, wait: bool) -> anyhow::Result<()> {
        let Some(snapshot) = self.snapshot.take_if(|snapshot| wait || snapshot.is_finished()) else { return Ok(()) };
        match snapshot.join() {
            Ok(Ok(Snapshot { bytes, needed_from })) => {
                self.snapshot_bytes = bytes;
                self.store.shared.figures.lock().unwrap_or_else(PoisonError::into_inner).snapshots += 1;
                if let Some(position) = needed_from {
                    self.journal.remove_before(position)?;
                }
            }
            // The log is still whole. It is tried again once the log has grown as much again.
            Ok(Err(error)) => tracing::warn!("no snapshot was made, the log stays as it is: {error:#}"),
            Err(_) => anyhow::bail!("the thread of a snapshot has panicked"),
        }
        Ok(())
    }
}

/// Writes all slots. Their writes go on meanwhile: each slot is held for as long as it takes to copy it.
fn snapshot(node: &Node, store: &Store, mut writer: SnapshotWriter, synced: Position) -> anyhow::Result<Snapshot> {
    for slot in SLOT_BITS.slots() {
        if let Some(payload) = node.slot_snapshot(slot) {
            writer.add(&payload)?;
        }
    }
    let bytes = writer.bytes();
    writer.finish(synced)?;
    let needed_from = match store.directory().as_ref() {
        Some(directory) => directory.retain_snapshots(SNAPSHOTS_KEPT)?,
        None => None,
    };
    Ok(Snapshot { bytes, needed_from })
}
