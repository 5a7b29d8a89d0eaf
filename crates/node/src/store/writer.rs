//! The log thread: it syncs, makes snapshots, and writes what nobody else has written.
//!
//! It never waits for disk space. What a full disk rejects is kept and retried; meanwhile a snapshot may finish that
//! allows part of the log to be removed.

use std::sync::{Arc, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use storage::journal::{JournalStats, Next, Removed, Synced};
use storage::{FileError, Journal, JournalError, Position};
use tokio::runtime::Handle;

use super::beside::Beside;
use super::duty_cycle::DutyCycle;
use super::group_commit::Gatherer;
use super::log::Log;
use super::snapshots::{Keep, Snapshots};
use super::waiters::{self, Orders};
use super::{Fsync, Health, Store};
use crate::driver::Driver;

/// How often a write to a full disk is retried.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// A snapshot is due once the log has grown by this much, at least, in bytes. With more, a restart after a crash takes
/// longer, a second for each 300 MiB; with less, a node with little data that writes much spends its time on snapshots.
const SNAPSHOT_AFTER: u64 = 256 * 1024 * 1024;

/// On a small disk, this fraction of the free space at the start is enough; but never less than a segment.
const SNAPSHOT_PART: u64 = 16;

/// How often the thread checks on its background work.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How often it checks the free space on the disk.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// The shortest time between snapshots begun because space is short, and after one that failed.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(5);

/// A sync that has not returned after this long is reported.
const LATE: Duration = Duration::from_secs(10);

/// The shortest time between saves of the map.
const MAP_PAUSE: Duration = Duration::from_millis(500);

struct Writer {
    driver: Driver,
    store: Store,
    interval: Duration,
    last_sync: Instant,
    gatherer: Gatherer,
    /// A sync running beside this thread.
    syncing: Option<Beside<Synced>>,
    /// It has been reported as late.
    is_late: bool,
    /// The next segment, being prepared beside this thread.
    making: Option<Beside<Next>>,
    /// A removal of segments, running beside this thread.
    removing: Option<Beside<Removed>>,
    snapshots: Snapshots,
    /// A snapshot is made once the log has grown by the size of the last snapshot, and by at least this many bytes.
    snapshot_after: u64,
    room: Room,
    map_saved_at: Instant,
    /// The map could not be saved, which was reported.
    map_is_unsaved: bool,
    /// Where those that wait for this thread are woken.
    runtime: Handle,
}

/// The state of the disk's free space.
struct Room {
    /// When it was last checked.
    looked: Instant,
    /// There may be too little space for one more snapshot.
    is_short: bool,
    /// When a write to a full disk was last tried, if ever.
    tried: Option<Instant>,
    /// When a snapshot was last begun because space was short.
    snapshot_begun: Option<Instant>,
    /// The disk is really full, as opposed to too many open files.
    is_disk_full: bool,
    /// All snapshots but the newest have been removed since the disk became full.
    keeps_one: bool,
}

impl Store {
    /// Starts the log thread. Those that wait for it are woken on `runtime`. It ends when [`Running::close`] is called
    /// on the returned handle.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn start(
        &self,
        driver: Driver,
        mut journal: Journal,
        snapshot: (Position, u64),
        interval: Duration,
        runtime: Handle,
    ) -> anyhow::Result<Running> {
        let snapshot_after = self.directory().as_ref().map_or(u64::MAX, |directory| {
            snapshot_after(directory.options().segment_bytes, directory.free_space().unwrap_or(u64::MAX))
        });
        let now = Instant::now();
        let writer = Writer {
            driver,
            store: self.clone(),
            interval,
            last_sync: now,
            gatherer: Gatherer::new(now),
            syncing: None,
            is_late: false,
            making: None,
            removing: None,
            snapshots: Snapshots::new(snapshot),
            snapshot_after,
            room: Room {
                looked: now,
                is_short: false,
                tried: None,
                snapshot_begun: None,
                is_disk_full: false,
                keeps_one: false,
            },
            map_saved_at: now,
            map_is_unsaved: false,
            runtime,
        };
        journal.set_syncs_often(self.fsync() == Fsync::Always);
        *self.shared.log.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Log::new(journal, Arc::clone(&self.shared.taken)));
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run());
        Ok(Running { store: self.clone(), thread: thread.context("cannot start the log thread")? })
    }
}

/// The handle of the running log thread, to stop it cleanly.
#[derive(Debug)]
pub struct Running {
    store: Store,
    thread: JoinHandle<Option<Journal>>,
}

impl Running {
    /// Writes and syncs what is left, and records a clean shutdown. Blocks on the disk.
    ///
    /// # Errors
    /// The disk has failed; the next start treats this stop as a crash.
    pub fn close(self) -> anyhow::Result<()> {
        self.store.order(|orders| orders.stop = true);
        let journal = self.thread.join().map_err(|_| anyhow::anyhow!("the log thread panicked"))?;
        let Some(mut directory) = self.store.directory().take() else { anyhow::bail!("the directory is closed") };
        let synced = match journal {
            Some(mut journal) => journal.sync().map(|_| journal).context("cannot close the data directory"),
            None => Err(anyhow::anyhow!("the disk has failed before")),
        };
        match synced {
            Ok(journal) => directory.close(journal).context("cannot close the data directory"),
            Err(error) => {
                self.store.lose_proof_in(&mut directory);
                Err(error)
            }
        }
    }
}

/// By how much the log grows before a snapshot is due, however small the last one was.
pub(super) fn snapshot_after(segment_bytes: u64, free: u64) -> u64 {
    SNAPSHOT_AFTER.min(free / SNAPSHOT_PART).max(segment_bytes)
}

/// Changes `health` from one state to another; a disk that has failed stays failed.
fn turn(health: &mut Health, from: &Health, to: Health) -> bool {
    let turns = health == from;
    if turns {
        *health = to;
    }
    turns
}

impl Writer {
    fn run(mut self) -> Option<Journal> {
        let stopped = self.write_until_stopped();
        let log = self.store.shared.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        match stopped {
            Ok(()) => log.map(|log| log.journal),
            Err(error) => {
                let why = format!("{error:#}");
                tracing::error!(
                    "the data directory {} has failed: nothing more is acknowledged, and the node hands over and \
                     stops: {why}",
                    self.store.path().display()
                );
                self.store.shared.health.send_replace(Health::Failed(why));
                self.wake_ready();
                None
            }
        }
    }

    fn write_until_stopped(&mut self) -> anyhow::Result<()> {
        loop {
            let stop = self.wait();
            self.write_pending()?;
            self.end_sync(stop)?;
            self.end_next_segment(stop)?;
            self.advance_snapshot(stop)?;
            self.end_removal(stop)?;
            self.save_map(stop);
            if stop {
                // What a full disk has not taken, nobody has been told of.
                return Ok(());
            }
            self.look_at_room()?;
            self.begin_sync()?;
            self.begin_next_segment();
            self.begin_snapshot()?;
            // IMPORTANT: the log leaves the next snapshot the space that it needs. Otherwise the log could take all of
            // it, and nothing but a snapshot makes the log shorter.
            let for_snapshot = self.needed_for_snapshot();
            self.store.with_log(|log| log.journal.set_claimed(for_snapshot));
            self.report_late_sync();
            let JournalStats { end, synced, bytes, .. } = self.store.with_log(|log| log.journal.stats());
            let mut figures = self.store.shared.figures.lock().unwrap_or_else(PoisonError::into_inner);
            (figures.log_bytes, figures.unsynced_bytes) = (bytes, end.0 - synced.0);
        }
    }

    /// Waits for something to do; returns whether to stop.
    fn wait(&self) -> bool {
        let shared = &self.store.shared;
        let orders = self.store.orders();
        let idle = |orders: &mut Orders| !orders.write && !orders.stop;
        let (mut orders, _) =
            shared.ordered.wait_timeout_while(orders, POLL_INTERVAL, idle).unwrap_or_else(PoisonError::into_inner);
        orders.write = false;
        orders.stop
    }

    fn write_pending(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + POLL_INTERVAL;
        let store = self.store.clone();
        loop {
            self.gather();
            if !store.with_log(|log| self.write_once(log))? {
                return Ok(());
            }
            self.wake_ready();
            if Instant::now() >= until {
                // IMPORTANT: under a load that never ends, snapshots and everything else must get their turn as well.
                self.store.order(|orders| orders.write = true);
                return Ok(());
            }
        }
    }

    /// If each write waits for a sync, first lets tasks run that are about to add entries.
    fn gather(&mut self) {
        let noted = self.driver.node().noted();
        if self.store.fsync() == Fsync::Always && !noted.is_empty() {
            self.gatherer.gather(|| noted.len());
        }
    }

    /// Wakes everyone whose wait has ended. One runtime task wakes them all: waking them from this thread would send
    /// the runtime a message for each, and wake a runtime thread that takes the processor from this one.
    fn wake_ready(&self) {
        let ready = self.store.take_ready();
        if !ready.is_empty() {
            self.runtime.spawn(async move { waiters::wake(ready) });
        }
    }

    /// Writes what there is; returns whether there was something and it is written.
    fn write_once(&mut self, log: &mut Log) -> anyhow::Result<bool> {
        let is_recent = |tried: Instant| tried.elapsed() < FULL_PAUSE;
        let is_too_early = log.has_unwritten() && self.room.tried.is_some_and(is_recent);
        if is_too_early || !log.take(self.driver.node().noted()) {
            return Ok(false);
        }
        // There is one sync at a time.
        if log.must_sync(self.store.fsync()) {
            self.end_sync_in(log, true)?;
        }
        let Some(end) = self.append(log)? else { return Ok(false) };
        self.store.note_written(end);
        Ok(true)
    }

    /// Appends to the log; returns `None` if the disk is full, including the reserve.
    fn append(&mut self, log: &mut Log) -> anyhow::Result<Option<u64>> {
        match log.append(self.store.fsync()) {
            Err(JournalError::NoSpace(error)) => {
                self.room.tried = Some(Instant::now());
                log.journal.set_low_space(true);
                self.room.is_disk_full = !error.is_no_descriptor();
                self.set_full(&error);
                if error.is_no_descriptor() {
                    return Ok(None); // No room helps.
                }
            }
            written => return Ok(written?),
        }
        // What is already carried out gets the reserved space.
        if !self.store.directory().as_ref().map_or(Ok(false), storage::DataDir::release_reserve)? {
            return Ok(None);
        }
        match log.append(self.store.fsync()) {
            Err(JournalError::NoSpace(_)) => Ok(None),
            written => Ok(written?),
        }
    }

    fn set_full(&self, error: &FileError) {
        let health = &self.store.shared.health;
        if health.send_if_modified(|health| turn(health, &Health::Good, Health::Full)) {
            let path = self.store.path().display();
            let (what, help) = if error.is_no_descriptor() {
                (
                    format!("too many files are open to write to {path}"),
                    "close connections, or raise the limit (ulimit -n)",
                )
            } else {
                (format!("the disk of {path} is full"), "free some space")
            };
            tracing::error!(
                "{what}: writes are refused and slots are handed over, reads continue; {help}, and writes resume by \
                 themselves: {error}: {}",
                error.source
            );
            self.driver.propose();
        }
    }

    /// Checks whether the directory is there, whether a full disk has room again, and whether the disk is about to fill
    /// up.
    fn look_at_room(&mut self) -> anyhow::Result<()> {
        let is_full = self.store.health() == Health::Full;
        if self.room.looked.elapsed() < if is_full { FULL_PAUSE } else { ROOM_PAUSE } {
            return Ok(());
        }
        self.room.looked = Instant::now();
        if is_full && self.room.is_disk_full {
            self.keep_one_snapshot()?;
        }
        let for_snapshot = self.needed_for_snapshot();
        let directory = match self.store.shared.directory.try_lock() {
            Ok(directory) => directory,
            // The lock holder is a finished snapshot removing an older one, which may take long. The log does not wait
            // for that.
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let has_room = match directory.as_ref() {
            Some(directory) => {
                directory.check_is_there()?;
                let (options, free) = (directory.options(), directory.free_space().unwrap_or(u64::MAX));
                // Twice a segment: what the log writes into it may all be new to the next snapshot, too.
                let for_log = 2 * options.segment_bytes;
                self.room.is_short = free < for_snapshot + for_log + options.segment_bytes;
                // The reserve comes first: once writes are taken again, there must be something to fall back on.
                is_full && free > for_snapshot + for_log + options.reserve_bytes && directory.restore_reserve()?
            }
            None => false,
        };
        drop(directory);
        if has_room && !self.store.with_log(|log| log.has_unwritten()) {
            self.store.with_log(|log| log.journal.set_low_space(false));
            self.room.keeps_one = false;
            self.store.shared.health.send_if_modified(|health| turn(health, &Health::Full, Health::Good));
            tracing::warn!("the disk of {} has room again: accepting writes", self.store.path().display());
            self.driver.propose();
        }
        Ok(())
    }

    /// Makes room on a full disk, once each time it fills up. The next snapshot, which gets that room, is begun at once.
    fn keep_one_snapshot(&mut self) -> anyhow::Result<()> {
        if !self.room.keeps_one && !self.snapshots.is_making() && self.remove_older_snapshot()? {
            self.room.keeps_one = true;
            self.room.snapshot_begun = None;
        }
        Ok(())
    }

    /// Removes the snapshot before the newest, and begins to remove the log that only it needs. `false` if the disk does
    /// not allow it now.
    fn remove_older_snapshot(&mut self) -> anyhow::Result<bool> {
        let kept = self.store.directory().as_ref().map(|directory| directory.retain_snapshots(Keep::One as usize));
        let position = match kept.transpose() {
            Err(error) if error.is_no_space() => return Ok(false),
            kept => kept?.flatten(),
        };
        if let Some(position) = position {
            self.remove_log_before(position)?;
        }
        Ok(true)
    }

    /// Begins to remove the log before a position, beside this thread, since each file takes long.
    fn remove_log_before(&mut self, position: Position) -> anyhow::Result<()> {
        self.end_removal(true)?;
        if let Some(task) = self.store.with_log(|log| log.journal.begin_removal(position))? {
            self.removing = Some(Beside::run("removal", move || task.run()));
        }
        Ok(())
    }

    /// Collects a finished removal; with `wait`, waits for one that is still running.
    fn end_removal(&mut self, wait: bool) -> anyhow::Result<()> {
        if let Some(removing) = self.removing.take_if(|removing| wait || removing.is_finished()) {
            let removed = removing.join()?;
            match self.store.with_log(|log| log.journal.end_removal(removed)) {
                // The rest is removed with the next snapshot.
                Err(JournalError::NoSpace(_)) => {}
                ended => ended?,
            }
        }
        Ok(())
    }

    /// Saves the map if it has changed and [`MAP_PAUSE`] has passed; with `now`, regardless of the pause.
    fn save_map(&mut self, now: bool) {
        let Some(map) = self.driver.node().map() else { return };
        if self.driver.follows() || !(now || self.map_saved_at.elapsed() >= MAP_PAUSE) {
            return;
        }
        match self.store.save_map(&map) {
            Ok(()) => self.map_is_unsaved = false,
            Err(error) if error.is_no_space() && self.store.health() == Health::Full => {}
            Err(error) if self.map_is_unsaved => tracing::debug!("{error}: {}", error.source),
            Err(error) => {
                self.map_is_unsaved = true;
                tracing::warn!("{error}: {}; the map will be saved later", error.source);
            }
        }
        self.map_saved_at = Instant::now();
    }

    fn begin_sync(&mut self) -> anyhow::Result<()> {
        let is_due = self.store.fsync() == Fsync::Interval && self.last_sync.elapsed() >= self.interval;
        // What a full disk has taken only in part is synced together with the rest.
        let is_in_part = self.store.fsync() == Fsync::Always && self.store.with_log(|log| log.has_unwritten());
        let is_due = (is_due || self.snapshots.wants_sync()) && !is_in_part;
        if is_due && self.syncing.is_none() && self.store.with_log(|log| log.journal.end() > log.journal.synced()) {
            self.last_sync = Instant::now();
            let task = self.store.with_log(|log| log.journal.begin_sync())?;
            self.syncing = Some(Beside::run("fsync", move || task.run()));
        }
        Ok(())
    }

    /// Collects a finished sync; with `wait`, waits for one that is still running.
    fn end_sync(&mut self, wait: bool) -> anyhow::Result<()> {
        let store = self.store.clone();
        store.with_log(|log| self.end_sync_in(log, wait))
    }

    fn end_sync_in(&mut self, log: &mut Log, wait: bool) -> anyhow::Result<()> {
        if let Some(syncing) = self.syncing.take_if(|syncing| wait || syncing.is_finished()) {
            let synced = syncing.join()?;
            log.journal.end_sync(synced)?;
            if std::mem::take(&mut self.is_late) {
                let (path, seconds) = (self.store.path().display(), self.last_sync.elapsed().as_secs());
                tracing::warn!("the disk of {path} has finished a sync, after {seconds} s");
            }
        }
        Ok(())
    }

    /// Reports a sync that does not return, since nobody waits for it.
    fn report_late_sync(&mut self) {
        if self.syncing.is_some() && !self.is_late && self.last_sync.elapsed() >= LATE {
            self.is_late = true;
            tracing::warn!(
                "the disk of {} has not finished a sync for {} s: a power cut would lose what was written since then",
                self.store.path().display(),
                LATE.as_secs()
            );
        }
    }

    fn begin_next_segment(&mut self) {
        if self.making.is_none()
            && let Some(task) = self.store.with_log(|log| log.journal.begin_next())
        {
            // Rest as long as a step has kept the disk busy, so that syncs that answers wait for get the disk.
            let mut duty_cycle = DutyCycle::new(Duration::ZERO, 1);
            let make = move || task.run(|| duty_cycle.rest());
            self.making = Some(Beside::run("segment", make));
        }
    }

    /// Collects a prepared segment; with `wait`, waits for one that is not ready yet.
    fn end_next_segment(&mut self, wait: bool) -> anyhow::Result<()> {
        if let Some(making) = self.making.take_if(|making| wait || making.is_finished()) {
            let next = making.join()?;
            self.store.with_log(|log| log.journal.end_next(next))?;
        }
        Ok(())
    }

    fn begin_snapshot(&mut self) -> anyhow::Result<()> {
        let end = self.end();
        let grown = end.0 - self.snapshots.at.0;
        let has_just_failed = self.snapshots.failed().is_some_and(|failed| failed.elapsed() < SNAPSHOT_PAUSE);
        let is_due = grown >= self.snapshot_after.max(self.snapshots.made.1) && !has_just_failed;
        let is_short = self.room.is_short || self.store.health() == Health::Full;
        let may_help = self.room.snapshot_begun.is_none_or(|begun| begun.elapsed() >= SNAPSHOT_PAUSE);
        // A log that a full disk keeps from growing is no reason not to try again once there is room.
        let may_help = may_help && (grown > 0 || (self.snapshots.failed().is_some() && self.has_room_for_snapshot()));
        // What is being removed may be the space that it needs.
        let is_busy = self.snapshots.is_making() || self.removing.is_some();
        if is_busy || !(is_due || (is_short && may_help)) {
            return Ok(());
        }
        if !self.has_room_for_snapshot() {
            self.remove_older_snapshot()?;
            if self.removing.is_some() {
                return Ok(());
            }
        }
        if is_short {
            self.room.snapshot_begun = Some(Instant::now());
        }
        self.snapshots.begin(&self.driver, &self.store, end);
        Ok(())
    }

    /// Whether the disk has room for the next snapshot, as far as it tells.
    fn has_room_for_snapshot(&self) -> bool {
        let free = self.store.directory().as_ref().and_then(|directory| directory.free_space().ok());
        free.is_none_or(|free| free >= self.needed_for_snapshot())
    }

    fn needed_for_snapshot(&self) -> u64 {
        self.snapshots.needed_bytes(self.driver.node(), self.end())
    }

    fn end(&self) -> Position {
        self.store.with_log(|log| log.end_of_whole())
    }

    fn advance_snapshot(&mut self, stop: bool) -> anyhow::Result<()> {
        let keep = if self.store.health() == Health::Full { Keep::One } else { Keep::Two };
        let store = self.store.clone();
        let finished = if stop {
            self.snapshots.stop()?
        } else {
            let (end, synced) = store.with_log(|log| (log.end_of_whole(), log.journal.synced()));
            self.snapshots.advance(&store, end, synced, keep)?
        };
        if let Some(finished) = finished {
            self.store.shared.figures.lock().unwrap_or_else(PoisonError::into_inner).snapshots += 1;
            if let Some(position) = finished.needed_from {
                self.remove_log_before(position)?;
            }
        }
        Ok(())
    }
}
