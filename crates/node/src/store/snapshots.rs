//! Background snapshots: copied slot by slot, and given their name once the log has everything that the copies hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::node::Node;
use proto::slot::SLOT_BITS;
use storage::snapshot::{BLOCK_BYTES, SnapshotInfo};
use storage::{Position, SnapshotWriter};

use super::beside::Beside;
use super::duty_cycle::DutyCycle;
use super::{Store, open, pieces};
use crate::driver::Driver;

/// How long slots are copied in one stretch. It is short because others that need the processor may have to wait until
/// it ends, such as the log thread once a sync is done.
const STRETCH: Duration = Duration::from_micros(250);

/// The rest after a stretch is this many times as long: a snapshot takes at most a quarter of a processor from
/// concurrent writers.
const RESTS: u32 = 3;

/// The most of a snapshot that is only written when it is finished: a block and the footer. In bytes.
const LAST_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// How many snapshots are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// When the disk is full, and while one is made for which there is no room beside two.
    One = 1,
    /// Otherwise: if the newest is damaged, the one before it and the log have everything.
    Two = 2,
}

/// The snapshots of a directory, driven by the log thread.
pub(super) struct Snapshots {
    stage: Option<Stage>,
    /// Where the log ended when the last snapshot was begun, whether or not it was finished.
    pub(super) at: Position,
    /// The position and the size in bytes of the last snapshot that was finished.
    pub(super) made: (Position, u64),
    /// When the last attempt failed, if it did.
    failed: Option<Instant>,
    /// The most that the snapshot in progress is expected to take, in bytes.
    expected: u64,
    progress: Arc<Progress>,
}

/// What the copying thread and the log thread tell each other.
#[derive(Default)]
struct Progress {
    /// Aborts the copying.
    given_up: AtomicBool,
    /// How much of the snapshot in progress is written, in bytes.
    written: AtomicU64,
}

enum Stage {
    Copying(JoinHandle<anyhow::Result<Copied>>),
    /// Waits until the log on disk has everything that the copies hold; that position in the log, once it is written.
    Copied(Copied, Option<Position>),
    Finishing(Beside<anyhow::Result<Finished>>),
}

/// A snapshot of which all slots are copied.
struct Copied {
    writer: SnapshotWriter,
    /// The copies hold only journal entries with numbers below this.
    end: u64,
}

/// The effects of a finished snapshot.
pub(super) struct Finished {
    position: Position,
    bytes: u64,
    /// The log before this position is no longer needed.
    pub(super) needed_from: Option<Position>,
}

impl Snapshots {
    /// Starts from the position and size of the last snapshot.
    pub(super) fn new((at, bytes): (Position, u64)) -> Self {
        Self { stage: None, at, made: (at, bytes), failed: None, expected: 0, progress: Arc::default() }
    }

    /// Whether a snapshot is being made.
    pub(super) fn is_making(&self) -> bool {
        self.stage.is_some()
    }

    /// When the last attempt failed, if it did.
    pub(super) fn failed(&self) -> Option<Instant> {
        self.failed
    }

    /// How much disk space the snapshot in progress still takes at most, or else the next one, in bytes. The log ends at
    /// `end`.
    pub(super) fn needed_bytes(&self, node: &Node, end: Position) -> u64 {
        match self.stage {
            None => self.expected_bytes(node, end),
            Some(Stage::Copying(_)) => {
                self.expected.saturating_sub(self.progress.written.load(Ordering::Relaxed)).max(LAST_BYTES)
            }
            Some(Stage::Copied(..) | Stage::Finishing(_)) => LAST_BYTES,
        }
    }

    fn expected_bytes(&self, node: &Node, end: Position) -> u64 {
        // All that the log has added may be new. What is stored takes more in memory than in a snapshot; an eighth is
        // for what is stored beside keys and values. The tails are there as well.
        let (in_memory, tails) = (node.memory_figures().used, node.tail_bytes() as u64);
        let (at, bytes) = self.made;
        (bytes + (end.0 - at.0)).min(in_memory + in_memory / 8 + tails) + LAST_BYTES
    }

    /// Whether a snapshot waits for a sync of the log.
    pub(super) fn wants_sync(&self) -> bool {
        matches!(self.stage, Some(Stage::Copied(_, Some(_))))
    }

    /// Begins a snapshot of everything in the log up to `position`, where its last whole payload ends.
    pub(super) fn begin(&mut self, driver: &Driver, store: &Store, position: Position) {
        self.expected = self.expected_bytes(driver.node(), position);
        self.progress.written.store(0, Ordering::Relaxed);
        (self.at, self.failed) = (position, None);
        let Some(begun) = store.directory().as_ref().map(|directory| directory.begin_snapshot(position)) else {
            return;
        };
        let writer = match begun {
            Ok(writer) => writer,
            Err(error) => return self.not_made(&error.into()),
        };
        let (driver, progress, fsync) = (driver.clone(), Arc::clone(&self.progress), store.fsync());
        let make = move || copy(driver.node(), writer, &open::policy(fsync), &progress);
        // IMPORTANT: not on this thread, which has the log to write meanwhile.
        match std::thread::Builder::new().name("snapshot".to_owned()).spawn(make) {
            Ok(thread) => self.stage = Some(Stage::Copying(thread)),
            Err(error) => self.not_made(&error.into()),
        }
    }

    /// Advances the snapshot in progress if possible; returns one that is finished.
    ///
    /// IMPORTANT: a snapshot is finished only once the log on disk has every entry that it holds. If the snapshot is
    /// damaged, a start falls back to the one before and reads the log; an entry that neither has would be missing.
    ///
    /// With [`Keep::One`] there is no snapshot before it. What the log lacks may then be what there is no room for,
    /// and this snapshot makes that room; so it waits only until the log is synced up to `end`.
    ///
    /// `end` is where the last whole payload of the log ends; the log is on disk up to `synced`.
    pub(super) fn advance(
        &mut self,
        store: &Store,
        end: Position,
        synced: Position,
        keep: Keep,
    ) -> anyhow::Result<Option<Finished>> {
        match self.stage.take() {
            Some(Stage::Copying(copying)) if copying.is_finished() => match joined(copying)? {
                Ok(copied) => self.stage = Some(Stage::Copied(copied, None)),
                Err(error) => self.not_made(&error),
            },
            Some(Stage::Copied(copied, upto)) => {
                let is_written = store.is_written(copied.end) || keep == Keep::One;
                match upto.or_else(|| is_written.then_some(end)) {
                    Some(upto) if synced >= upto => {
                        let store = store.clone();
                        let finish = move || finish(&store, copied.writer, synced, keep);
                        self.stage = Some(Stage::Finishing(Beside::run("snapshot", finish)));
                    }
                    upto => self.stage = Some(Stage::Copied(copied, upto)),
                }
            }
            Some(Stage::Finishing(finishing)) if finishing.is_finished() => return self.finished(finishing),
            stage => self.stage = stage,
        }
        Ok(None)
    }

    /// Aborts a snapshot that is still being copied, and waits for one that is being finished.
    pub(super) fn stop(&mut self) -> anyhow::Result<Option<Finished>> {
        self.progress.given_up.store(true, Ordering::Relaxed);
        match self.stage.take() {
            Some(Stage::Copying(copying)) => joined(copying).map(|_| None),
            Some(Stage::Finishing(finishing)) => self.finished(finishing),
            Some(Stage::Copied(..)) | None => Ok(None),
        }
    }

    /// The log is still whole, so nothing is lost.
    fn not_made(&mut self, error: &anyhow::Error) {
        self.failed = Some(Instant::now());
        tracing::warn!("cannot take a snapshot; the log is unchanged, trying again later: {error:#}");
    }

    fn finished(&mut self, finishing: Beside<anyhow::Result<Finished>>) -> anyhow::Result<Option<Finished>> {
        match finishing.join()? {
            Ok(finished) => {
                self.made = (finished.position, finished.bytes);
                Ok(Some(finished))
            }
            Err(error) => {
                self.not_made(&error);
                Ok(None)
            }
        }
    }
}

fn joined<T>(thread: JoinHandle<T>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("the snapshot thread panicked"))
}

/// Copies all slots, with rests in between. Writes go on meanwhile: each slot is locked only while it is copied.
fn copy(node: &Node, mut writer: SnapshotWriter, policy: &[u8], progress: &Progress) -> anyhow::Result<Copied> {
    writer.add(policy)?;
    let mut duty_cycle = DutyCycle::new(STRETCH, RESTS);
    let slots = SLOT_BITS.slots().filter_map(|slot| node.slot_snapshot(slot));
    for payload in slots.chain(std::iter::once_with(|| node.losses_snapshot()).flatten()) {
        anyhow::ensure!(!progress.given_up.load(Ordering::Relaxed), "the node stops");
        for piece in pieces::cut(payload) {
            writer.add(&piece)?;
        }
        progress.written.store(writer.bytes(), Ordering::Relaxed);
        duty_cycle.rest();
    }
    Ok(Copied { writer, end: node.noted().end() })
}

fn finish(store: &Store, writer: SnapshotWriter, synced: Position, keep: Keep) -> anyhow::Result<Finished> {
    let SnapshotInfo { position, bytes, .. } = writer.finish(synced)?;
    let needed_from = match store.directory().as_ref() {
        Some(directory) => directory.retain_snapshots(keep as usize)?,
        None => None,
    };
    Ok(Finished { position, bytes, needed_from })
}
