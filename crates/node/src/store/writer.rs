//! The thread of the log: it syncs, makes snapshots, and writes what nobody else has written.
//!
//! It never waits for room. What a full disk did not take is kept, and tried again: meanwhile a snapshot may end that
//! lets a part of the log go.

use std::sync::{PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use storage::journal::{Next, Synced};
use storage::{FileError, Journal, JournalError, Position};
use tokio::runtime::Handle;

use super::gather::Gatherer;
use super::log::Log;
use super::rests::Rests;
use super::snapshots::{Keep, Snapshots};
use super::waiters::{self, Orders};
use super::{Fsync, Health, Store};
use crate::driver::Driver;

/// How often a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// How often the thread looks at what goes on beside it.
const LOOK: Duration = Duration::from_millis(20);

/// How often it looks at how much room the disk has.
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// How often a snapshot is begun where room is short, at most.
const SHORT_PAUSE: Duration = Duration::from_secs(5);

/// How often the map is saved, at most.
const MAP_PAUSE: Duration = Duration::from_millis(500);

struct Writer {
    driver: Driver,
    store: Store,
    interval: Duration,
    last_sync: Instant,
    gatherer: Gatherer,
    /// A sync that runs beside this thread.
    syncing: Option<JoinHandle<Synced>>,
    /// The next segment is made beside this thread.
    making: Option<JoinHandle<Next>>,
    snapshots: Snapshots,
    /// A snapshot is made when the log has grown by as much as the last one took, and by this many bytes at least.
    snapshot_after: u64,
    room: Room,
    map_saved_at: Instant,
    /// Where those who wait are woken.
    runtime: Handle,
}

/// How the disk's room is.
struct Room {
    /// When it was last looked at.
    looked: Instant,
    /// There may be too little for one more snapshot.
    is_short: bool,
    /// When a full disk was last tried.
    tried: Instant,
    /// When a snapshot was last begun because of it.
    snapshot_begun: Option<Instant>,
    /// It is the disk that is full, and not too many files that are open.
    is_disk_full: bool,
    /// Since the disk is full only the newest snapshot is kept.
    keeps_one: bool,
}

impl Store {
    /// Starts the thread. It ends when [`Running::close`] is called on what it gives.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        &self,
        driver: Driver,
        mut journal: Journal,
        snapshot: (Position, u64),
        interval: Duration,
    ) -> anyhow::Result<Running> {
        let snapshot_after = self.directory().as_ref().map_or(u64::MAX, |directory| directory.options().segment_bytes);
        let now = Instant::now();
        let writer = Writer {
            driver,
            store: self.clone(),
            interval,
            last_sync: now,
            gatherer: Gatherer::new(now),
            syncing: None,
            making: None,
            snapshots: Snapshots::new(snapshot),
            snapshot_after,
            room: Room {
                looked: now,
                is_short: false,
                tried: now,
                snapshot_begun: None,
                is_disk_full: false,
                keeps_one: false,
            },
            map_saved_at: now,
            runtime: Handle::current(),
        };
        journal.set_syncs_often(self.fsync() == Fsync::Always);
        *self.shared.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(Log::new(journal));
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

/// One that has failed stays so.
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
                    "the data directory {} has failed, nothing more is acknowledged, and the node hands over and stops: \
                     {why}",
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
            self.save_map(stop);
            if stop {
                // What a full disk has not taken nobody has heard of.
                return Ok(());
            }
            self.look_at_room()?;
            self.begin_sync()?;
            self.begin_next_segment()?;
            self.begin_snapshot()?;
            let log_bytes = self.store.with_log(|log| log.journal.stats().bytes);
            self.store.shared.figures.lock().unwrap_or_else(PoisonError::into_inner).log_bytes = log_bytes;
        }
    }

    /// Waits for something to do; says whether it is to stop.
    fn wait(&self) -> bool {
        let shared = &self.store.shared;
        let orders = self.store.orders();
        let idle = |orders: &mut Orders| !orders.write && !orders.stop;
        let (mut orders, _) =
            shared.ordered.wait_timeout_while(orders, LOOK, idle).unwrap_or_else(PoisonError::into_inner);
        orders.write = false;
        orders.stop
    }

    fn write_pending(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + LOOK;
        let store = self.store.clone();
        loop {
            self.gather();
            if !store.with_log(|log| self.write_once(log))? {
                return Ok(());
            }
            self.wake_ready();
            if Instant::now() >= until {
                // IMPORTANT: under a load that never ends, snapshots and all else have their turn as well.
                self.store.order(|orders| orders.write = true);
                return Ok(());
            }
        }
    }

    /// Where each write waits for a sync: lets those go first who are about to note something.
    fn gather(&mut self) {
        let noted = self.driver.node().journal();
        if self.store.fsync() == Fsync::Always && !noted.is_empty() {
            self.gatherer.gather(|| noted.len());
        }
    }

    /// Wakes all whose wait has ended. They are woken in the runtime, by one task: from here each would be a message to it,
    /// and would wake a thread of it that takes the processor from this one.
    fn wake_ready(&self) {
        let ready = self.store.take_ready();
        if !ready.is_empty() {
            self.runtime.spawn(async move { waiters::wake(ready) });
        }
    }

    /// Writes what there is; says whether there was something, and it is written.
    fn write_once(&mut self, log: &mut Log) -> anyhow::Result<bool> {
        let is_too_early = log.has_unwritten() && self.room.tried.elapsed() < FULL_PAUSE;
        if is_too_early || !log.take(self.driver.node().journal()) {
            return Ok(false);
        }
        let Some(end) = self.append(log)? else { return Ok(false) };
        if self.store.fsync() == Fsync::Always {
            log.journal.sync()?;
        }
        self.store.note_written(end);
        Ok(true)
    }

    /// Gives nothing where the disk is full, with the reserve too.
    fn append(&mut self, log: &mut Log) -> anyhow::Result<Option<u64>> {
        match log.append() {
            Err(JournalError::NoSpace(error)) => {
                self.room.tried = Instant::now();
                log.journal.set_frugal(true);
                self.room.is_disk_full = !error.is_no_descriptor();
                self.set_full(&error);
                if error.is_no_descriptor() {
                    return Ok(None); // No room helps.
                }
            }
            written => return Ok(written?),
        }
        // What was carried out already has the room of the reserve.
        if !self.store.directory().as_ref().map_or(Ok(false), storage::DataDir::release_reserve)? {
            return Ok(None);
        }
        match log.append() {
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
                (format!("the disk of {path} is full"), "make room")
            };
            tracing::error!(
                "{what}: writes are refused and slots are handed over, reads go on; {help}, and writes are taken again by \
                 themselves: {error}: {}",
                error.source
            );
            self.driver.propose();
        }
    }

    /// Looks whether a full disk has room again, and whether one that is not full soon is.
    fn look_at_room(&mut self) -> anyhow::Result<()> {
        let is_full = self.store.health() == Health::Full;
        if self.room.looked.elapsed() < if is_full { FULL_PAUSE } else { ROOM_PAUSE } {
            return Ok(());
        }
        self.room.looked = Instant::now();
        if is_full && self.room.is_disk_full {
            self.keep_one_snapshot()?;
        }
        let directory = match self.store.shared.directory.try_lock() {
            Ok(directory) => directory,
            // A snapshot that is done removes an older one, which may take long. The log does not wait for that.
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        let has_room = match directory.as_ref() {
            Some(directory) => {
                let (options, free) = (directory.options(), directory.free_space().unwrap_or(u64::MAX));
                let snapshot = self.snapshots.bytes + (self.end().0 - self.snapshots.at.0);
                self.room.is_short = free < snapshot.max(options.segment_bytes);
                // The reserve first: once writes are taken again, there must be something to fall back on.
                is_full && free > options.segment_bytes + options.reserve_bytes && directory.restore_reserve()?
            }
            None => false,
        };
        drop(directory);
        if has_room && !self.store.with_log(|log| log.has_unwritten()) {
            self.store.with_log(|log| log.journal.set_frugal(false));
            self.room.keeps_one = false;
            self.store.shared.health.send_if_modified(|health| turn(health, &Health::Full, Health::Good));
            tracing::warn!("the disk of {} has room again: writes are taken", self.store.path().display());
            self.driver.propose();
        }
        Ok(())
    }

    /// Lets the snapshot before the newest go, and the log that only that one needs; once for each time that the disk is full.
    /// Without it the log could have taken the last room, and left none for a next snapshot.
    fn keep_one_snapshot(&mut self) -> anyhow::Result<()> {
        if self.room.keeps_one || self.snapshots.is_making() {
            return Ok(());
        }
        let kept = self.store.directory().as_ref().map(|directory| directory.retain_snapshots(Keep::One as usize));
        let position = match kept.transpose() {
            Err(error) if error.is_no_space() => return Ok(()),
            kept => kept?.flatten(),
        };
        self.room.keeps_one = true;
        position.map_or(Ok(()), |position| self.remove_log_before(position))
    }

    fn remove_log_before(&self, position: Position) -> anyhow::Result<()> {
        match self.store.with_log(|log| log.journal.remove_before(position)) {
            // It goes with the next snapshot.
            Err(JournalError::NoSpace(_)) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Saves the map where it has changed; with `now` at once.
    fn save_map(&mut self, now: bool) {
        let Some(map) = self.driver.node().map() else { return };
        if !(now || self.map_saved_at.elapsed() >= MAP_PAUSE) {
            return;
        }
        match self.store.save_map(&map) {
            Ok(()) => {}
            Err(error) if error.is_no_space() && self.store.health() == Health::Full => {}
            Err(error) => tracing::warn!("{error}: {}; the map is saved later", error.source),
        }
        self.map_saved_at = Instant::now();
    }

    fn begin_sync(&mut self) -> anyhow::Result<()> {
        let is_due = self.store.fsync() == Fsync::Interval && self.last_sync.elapsed() >= self.interval;
        // What a full disk has taken in part is synced with its rest.
        let is_in_part = self.store.fsync() == Fsync::Always && self.store.with_log(|log| log.has_unwritten());
        let is_due = (is_due || self.snapshots.wants_sync()) && !is_in_part;
        if is_due && self.syncing.is_none() && self.store.with_log(|log| log.journal.end() > log.journal.synced()) {
            self.last_sync = Instant::now();
            let task = self.store.with_log(|log| log.journal.begin_sync())?;
            self.syncing = Some(std::thread::Builder::new().name("fsync".to_owned()).spawn(move || task.run())?);
        }
        Ok(())
    }

    /// Takes in a sync that is done; with `wait` one that is not done yet.
    fn end_sync(&mut self, wait: bool) -> anyhow::Result<()> {
        if let Some(syncing) = self.syncing.take_if(|syncing| wait || syncing.is_finished()) {
            let synced = syncing.join().map_err(|_| anyhow::anyhow!("the thread of an fsync has panicked"))?;
            self.store.with_log(|log| log.journal.end_sync(synced))?;
        }
        Ok(())
    }

    fn begin_next_segment(&mut self) -> anyhow::Result<()> {
        if self.making.is_none()
            && let Some(task) = self.store.with_log(|log| log.journal.begin_next())
        {
            // As long as a step has kept the disk busy, the syncs that answers wait for have it.
            let mut rests = Rests::new(Duration::ZERO, 1);
            let make = move || task.run(|| rests.rest());
            self.making = Some(std::thread::Builder::new().name("segment".to_owned()).spawn(make)?);
        }
        Ok(())
    }

    /// Takes in a segment that is made; with `wait` one that is not made yet.
    fn end_next_segment(&mut self, wait: bool) -> anyhow::Result<()> {
        if let Some(making) = self.making.take_if(|making| wait || making.is_finished()) {
            let next = making.join().map_err(|_| anyhow::anyhow!("the thread of a segment has panicked"))?;
            self.store.with_log(|log| log.journal.end_next(next))?;
        }
        Ok(())
    }

    fn begin_snapshot(&mut self) -> anyhow::Result<()> {
        let end = self.end();
        let grown = end.0 - self.snapshots.at.0;
        let is_due = grown >= self.snapshot_after.max(self.snapshots.bytes);
        let is_short = self.room.is_short || self.store.health() == Health::Full;
        let may_help = self.room.snapshot_begun.is_none_or(|begun| begun.elapsed() >= SHORT_PAUSE) && grown > 0;
        if self.snapshots.is_making() || !(is_due || (is_short && may_help)) {
            return Ok(());
        }
        if is_short {
            self.room.snapshot_begun = Some(Instant::now());
        }
        self.snapshots.begin(&self.driver, &self.store, end)
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
            self.snapshots.advance(&store, (end, synced), keep)?
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
