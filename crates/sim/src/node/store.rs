//! A node's data directory: the storage that ships, on a simulated disk, driven like the writer thread of a node
//! (`crates/node/src/store`).
//!
//! A healthy disk takes no time. A slow one takes some time for each fsync: meanwhile, what the state machine notes
//! accumulates, and nobody may hear of it before [`Store::is_written`] says so.

#[cfg(test)]
mod differential;
mod snapshots;
mod start;

use std::path::{Path, PathBuf};

use engine::journal::Taken;
use engine::node::Node;
use proto::cluster_map::{ClusterMap, MapVersion};
use proto::id::Incarnation;
use seeded::Random;
use storage::disk::sim::{Fault, Operation};
use storage::journal::Synced;
use storage::{DataDir, FileError, Journal, JournalError, SimDisk, map_file};

use crate::knobs::Knobs;
use crate::mutants::Planted;
use snapshots::Snapshots;
pub(crate) use start::{Found, IDENTITY, Start, StartError, first_of, is_map};

/// The directory, on each node's own disk.
const PATH: &str = "/data";

/// How often a full disk is retried, in microseconds, as in a node.
const FULL_PAUSE: u64 = 100_000;
/// How often a node checks the free space of its disk, in microseconds.
const ROOM_PAUSE: u64 = 1_000_000;
/// The minimum interval between snapshots begun because space is short, in microseconds.
const SHORT_PAUSE: u64 = 5_000_000;
/// The minimum interval between saves of the map, in microseconds.
const MAP_PAUSE: u64 = 500_000;

/// How disks are used, the same on all nodes.
#[derive(Debug, Clone, Copy)]
struct Settings {
    segment_bytes: u64,
    reserve_bytes: u64,
    /// How often written data is synced, in microseconds; 0: before anybody hears of it.
    sync_every: u64,
    /// One in this many writes is cut short; 0 for none.
    short_writes: u64,
    planted: Planted,
}

/// The state of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Health {
    Good,
    Full,
    Failed(String),
}

/// A node's disk, and what its process has open on it.
#[derive(Debug)]
pub(crate) struct Store {
    disk: SimDisk,
    settings: Settings,
    random: Random,
    /// How long an fsync takes, in microseconds.
    pub(crate) slowness: u64,
    /// The power is to be cut at a future call.
    is_cut_due: bool,
    /// The flipped bits: file, byte and bit.
    flipped: Vec<(PathBuf, u64, u8)>,
    open: Option<Open>,
    /// Up to where everything was written when the last process stopped in an orderly way.
    closed: Option<u64>,
    /// The last process knew that everything below this log position was on disk, and the log says so.
    protected: u64,
}

/// What a process has open.
#[derive(Debug)]
struct Open {
    disk: SimDisk,
    directory: DataDir<Planted>,
    journal: Journal<Planted>,
    /// Everything below is on disk, according to the last frame.
    protected: u64,
    /// Everything with a lower number is written as `sync_every` requires.
    written: u64,
    /// Data that was taken from the state machine and is not appended yet: it had no room, or waits for a sync to end.
    unwritten: Option<(Vec<u8>, Taken)>,
    /// The number after the data that is appended and waits for its fsync.
    in_hand: Option<u64>,
    busy_until: u64,
    health: Health,
    is_told: bool,
    last_sync: u64,
    /// A sync that runs beside the writer thread, and when it ends. It covers what was appended before it began, and
    /// nothing else.
    syncing: Option<(Synced, u64)>,
    snapshots: Snapshots,
    room: Room,
    map_saved: MapVersion,
    map_saved_at: u64,
}

/// The state of the free space.
#[derive(Debug, Default)]
struct Room {
    looked: u64,
    is_short: bool,
    tried: u64,
    snapshot_begun: Option<u64>,
}

impl Store {
    /// An empty disk.
    pub(crate) fn new(knobs: &Knobs, planted: Planted, random: Random) -> Self {
        let mut random = random;
        let settings = Settings {
            segment_bytes: knobs.segment_bytes.max(1_024),
            reserve_bytes: knobs.segment_bytes.max(1_024),
            sync_every: knobs.sync_every * 1_000,
            short_writes: knobs.short_writes,
            planted,
        };
        let disk = SimDisk::new(random.next());
        Self {
            disk,
            settings,
            random,
            slowness: 0,
            is_cut_due: false,
            flipped: Vec::new(),
            open: None,
            closed: None,
            protected: 0,
        }
    }

    /// Replaces the disk with an empty one.
    pub(crate) fn wipe(&mut self) {
        self.open = None;
        self.disk = SimDisk::new(self.random.next());
        self.is_cut_due = false;
        self.flipped.clear();
        (self.closed, self.protected) = (None, 0);
    }

    /// Whether everything is on disk before anybody hears of it.
    pub(crate) fn syncs_always(&self) -> bool {
        self.settings.sync_every == 0
    }

    /// Whether the last process stopped in an orderly way.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    pub(crate) fn is_written(&self, end: u64) -> bool {
        self.open.as_ref().map(|open| open.written).or(self.closed).is_some_and(|written| written >= end)
    }

    /// Whether the disk can store a write.
    pub(crate) fn takes_writes(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.health == Health::Good)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.health == Health::Full)
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.open.as_ref().is_some_and(|open| matches!(open.health, Health::Failed(_)))
    }

    /// The failure of the disk, returned once.
    pub(crate) fn take_failure(&mut self) -> Option<String> {
        let open = self.open.as_mut().filter(|open| !open.is_told)?;
        let Health::Failed(why) = &open.health else { return None };
        open.is_told = true;
        Some(why.clone())
    }

    /// Writes what the state machine has noted, unless the disk is busy. If it is busy from now on, returns until when.
    pub(crate) fn write(&mut self, node: &Node<Planted>, now: u64) -> Option<u64> {
        let (settings, slowness) = (self.settings, self.slowness);
        let open = self.open.as_mut().filter(|open| !matches!(open.health, Health::Failed(_)))?;
        let written = open.write(node, settings, slowness, now);
        self.protected = self.protected.max(open.protected);
        let written = written.unwrap_or_else(|error| {
            open.health = Health::Failed(error.to_string());
            None
        });
        self.look_at_power();
        written
    }

    /// Runs background work; to be called with each tick of the node. Returns how many snapshots were finished.
    pub(crate) fn tick(&mut self, node: &Node<Planted>, now: u64) -> u64 {
        let (settings, slowness) = (self.settings, self.slowness);
        let Some(open) = self.open.as_mut().filter(|open| !matches!(open.health, Health::Failed(_))) else { return 0 };
        if let Err(error) = open.tick(node, settings, slowness, &mut self.random, now) {
            open.health = Health::Failed(error.to_string());
        }
        let made = std::mem::take(&mut open.snapshots.made);
        self.look_at_power();
        made
    }

    /// Nothing more leaves the node once the power is cut.
    fn look_at_power(&mut self) {
        if self.is_off()
            && let Some(open) = &mut self.open
        {
            open.health = Health::Failed("the power is cut".to_owned());
        }
    }

    /// The coordinator is about to rely on this start under this name.
    pub(crate) fn note_incarnation(&mut self, incarnation: Incarnation) -> Result<(), FileError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.directory.update_identity(|identity| identity.begin_incarnation(incarnation.0))
    }

    /// The node gives up everything it has.
    pub(crate) fn disown(&mut self) -> Result<(), FileError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        open.directory.disown()
    }

    /// Records the cluster, and the incarnation and map with which this start of the node belongs to it.
    pub(crate) fn begin(&mut self, map: &ClusterMap, incarnation: Incarnation) -> Result<(), FileError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.directory.identity().cluster.is_none() {
            save_map(&self.disk, map)?;
        }
        open.directory.update_identity(|identity| {
            identity.cluster.get_or_insert_with(|| map.cluster.clone());
            identity.begin_incarnation(incarnation.0);
        })
    }

    /// Saves a map that the node is about to use. If the disk is full, it is saved later.
    pub(crate) fn keep_map(&mut self, map: &ClusterMap) -> Result<(), FileError> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let kept = save_map(&self.disk, map);
        if kept.is_ok() {
            open.map_saved = map.version;
        }
        if kept.as_ref().is_err_and(FileError::is_no_space) { Ok(()) } else { kept }
    }

    /// Stops in an orderly way. Returns whether that succeeded.
    pub(crate) fn close(&mut self, node: &Node<Planted>) -> bool {
        let Some(mut open) = self.open.take() else { return false };
        // Nobody has heard of what a full disk has not stored.
        let mut synced = open.write(node, self.settings, 0, u64::MAX).map(drop);
        if let (Ok(()), Some((ended, _))) = (&synced, open.syncing.take()) {
            synced = open.journal.end_sync(ended).map(drop).map_err(Failure::from);
        }
        let Open { directory, journal, snapshots, written, .. } = open;
        snapshots.give_up();
        let end = journal.end().0;
        let closed = synced.is_ok() && directory.close(journal).is_ok();
        if closed {
            (self.closed, self.protected) = (Some(written), end);
        }
        closed
    }

    /// The process is gone, and with `power` the machine too: then any part of the unsynced data may be lost.
    pub(crate) fn crash(&mut self, power: bool) {
        // What the process had open must not touch the disk any more, not even when it is dropped.
        let disk = self.disk.fork(self.random.next());
        if power {
            disk.crash();
            // The log's own record of that may be gone.
            self.protected = 0;
        }
        self.open = None;
        self.disk = disk;
        self.is_cut_due = false;
    }

    // Faults.

    /// A future call fails: after `calls` more calls of this operation, or of any kind for `None`.
    pub(crate) fn fail(&mut self, operation: Option<Operation>, calls: u64) {
        self.disk.inject(operation, calls, Fault::Io);
    }

    /// The power is cut at a future call.
    pub(crate) fn cut_power_at(&mut self, calls: u64) {
        self.disk.inject(None, calls, Fault::PowerCut);
        self.is_cut_due = true;
    }

    /// Whether the power is cut.
    pub(crate) fn is_off(&self) -> bool {
        self.is_cut_due && self.disk.is_off()
    }

    /// Leaves this much free space, in bytes; `None` for no limit.
    pub(crate) fn limit(&mut self, room: Option<u64>) {
        self.disk.set_capacity(room.map(|room| self.disk.used() + room));
    }

    /// A hung disk continues.
    pub(crate) fn revive(&mut self) {
        self.slowness = 0;
        if let Some(open) = &mut self.open {
            open.busy_until = 0;
        }
    }

    /// Removes all faults from the disk.
    pub(crate) fn heal(&mut self) {
        self.disk.clear_faults();
        // A power cut that has already happened has yet to be noticed.
        self.is_cut_due &= self.disk.is_off();
        self.disk.set_short_writes(self.settings.short_writes);
        self.disk.set_capacity(None);
        self.revive();
    }
}

/// Why nothing more is written.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}: {source}", source = .0.source)]
    File(#[from] FileError),
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl Open {
    fn write(
        &mut self,
        node: &Node<Planted>,
        settings: Settings,
        slowness: u64,
        now: u64,
    ) -> Result<Option<u64>, Failure> {
        if now < self.busy_until {
            return Ok(None);
        }
        if let Some(end) = self.in_hand.take() {
            self.journal.sync()?;
            self.written = end;
        }
        if self.unwritten.is_some() && now - self.room.tried < FULL_PAUSE {
            return Ok(None);
        }
        while let Some((payload, taken)) = self.unwritten.take().or_else(|| node.noted().take()) {
            let must_sync = settings.sync_every == 0 || taken.must_sync;
            // There is one sync at a time.
            if let Some((ended, until)) = self.syncing.take_if(|_| must_sync) {
                if now < until {
                    self.syncing = Some((ended, until));
                    self.unwritten = Some((payload, taken));
                    self.busy_until = until;
                    return Ok(Some(until));
                }
                self.journal.end_sync(ended)?;
            }
            if !self.append(&payload, now)? {
                self.unwritten = Some((payload, taken));
                return Ok(None);
            }
            if must_sync && slowness > 0 {
                self.in_hand = Some(taken.end);
                self.busy_until = now + slowness;
                return Ok(Some(self.busy_until));
            }
            if must_sync {
                self.journal.sync()?;
            }
            self.written = taken.end;
        }
        Ok(None)
    }

    /// Returns `false` if the disk is full even after the reserve has been released.
    fn append(&mut self, payload: &[u8], now: u64) -> Result<bool, Failure> {
        let synced = self.journal.synced();
        let appended = match self.journal.append(&[payload]) {
            Err(JournalError::NoSpace(_)) => {
                self.room.tried = now;
                self.journal.set_low_space(true);
                self.health = Health::Full;
                if !self.directory.release_reserve()? {
                    return Ok(false);
                }
                self.journal.append(&[payload])
            }
            appended => appended,
        };
        match appended {
            Ok(_) => {
                self.protected = synced.0;
                Ok(true)
            }
            Err(JournalError::NoSpace(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn tick(
        &mut self,
        node: &Node<Planted>,
        settings: Settings,
        slowness: u64,
        random: &mut Random,
        now: u64,
    ) -> Result<(), Failure> {
        if self.in_hand.is_some() {
            return Ok(()); // The thread waits for its fsync.
        }
        if let Some((ended, _)) = self.syncing.take_if(|(_, until)| now >= *until) {
            self.journal.end_sync(ended)?;
        }
        self.go_on_with_snapshot(node, slowness, random, now)?;
        self.save_map(node, now);
        self.look_at_room(now)?;
        let is_due = settings.sync_every > 0 && now - self.last_sync >= settings.sync_every;
        if (is_due || self.snapshots.wants_sync())
            && self.syncing.is_none()
            && self.journal.end() > self.journal.synced()
        {
            self.last_sync = now;
            self.syncing = Some((self.journal.begin_sync()?.run(), now + slowness));
        }
        self.begin_snapshot(settings, now);
        Ok(())
    }

    fn look_at_room(&mut self, now: u64) -> Result<(), Failure> {
        let is_full = self.health == Health::Full;
        if now - self.room.looked < if is_full { FULL_PAUSE } else { ROOM_PAUSE } {
            return Ok(());
        }
        self.room.looked = now;
        let (options, free) = (self.directory.options(), self.directory.free_space()?);
        let snapshot = self.snapshots.bytes + (self.journal.end().0 - self.snapshots.at.0);
        self.room.is_short = free < snapshot.max(options.segment_bytes);
        let has_room =
            is_full && free > options.segment_bytes + options.reserve_bytes && self.directory.restore_reserve()?;
        if has_room && self.unwritten.is_none() {
            self.health = Health::Good;
            self.journal.set_low_space(false);
        }
        Ok(())
    }

    fn save_map(&mut self, node: &Node<Planted>, now: u64) {
        let Some(map) = node.map() else { return };
        if map.version == self.map_saved || now - self.map_saved_at < MAP_PAUSE {
            return;
        }
        self.map_saved_at = now;
        // If this fails, the map is saved later.
        if save_map(&self.disk, &map).is_ok() {
            self.map_saved = map.version;
        }
    }
}

fn save_map(disk: &dyn storage::Disk, map: &ClusterMap) -> Result<(), FileError> {
    map_file::store(disk, Path::new(PATH), &map.update_since(MapVersion(0)).to_lines().join("\n"))
}
