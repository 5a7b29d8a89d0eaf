//! Snapshots in the background: copied slot by slot, named once the log has all that the copies hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::node::Node;
use proto::slot::SLOT_BITS;
use storage::{Position, SnapshotWriter};

use super::rests::Rests;
use super::{Store, open, pieces};
use crate::driver::Driver;

/// For how long slots are copied at a stretch. It is short because who needs the processor meanwhile may have to wait for
/// its end: a sync that is done, for the thread of the log.
const STRETCH: Duration = Duration::from_micros(250);

/// The rest after a stretch is so many times as long: a snapshot takes no more than a quarter of a processor from those who
/// write meanwhile.
const RESTS: u32 = 3;

/// How many snapshots are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// Where the disk is full.
    One = 1,
    /// Should the newest be damaged, the one before and the log give everything.
    Two = 2,
}

/// The snapshots of a directory, as the thread that writes drives them.
pub(super) struct Snapshots {
    stage: Option<Stage>,
    /// Where the log ended when the last one was begun.
    pub(super) at: Position,
    /// How much room the last one took, in bytes.
    pub(super) bytes: u64,
    /// Ends the copying.
    given_up: Arc<AtomicBool>,
}

enum Stage {
    Copying(JoinHandle<anyhow::Result<Copied>>),
    /// It waits until the log has on disk what the copies hold; up to where that is, once it is written.
    Copied(Copied, Option<Position>),
    Finishing(JoinHandle<anyhow::Result<Finished>>),
}

/// All slots are copied.
struct Copied {
    writer: SnapshotWriter,
    /// The copies hold no entry of the journal with this number or a higher one.
    end: u64,
}

/// What a finished snapshot has changed.
pub(super) struct Finished {
    bytes: u64,
    /// Below this the log is not needed.
    pub(super) needed_from: Option<Position>,
}

impl Snapshots {
    /// The last one was made at this position, and is so long.
    pub(super) fn new((at, bytes): (Position, u64)) -> Self {
        Self { stage: None, at, bytes, given_up: Arc::default() }
    }

    /// Whether one is being made.
    pub(super) fn is_making(&self) -> bool {
        self.stage.is_some()
    }

    /// Whether one waits for a sync of the log.
    pub(super) fn wants_sync(&self) -> bool {
        matches!(self.stage, Some(Stage::Copied(_, Some(_))))
    }

    /// Begins one of everything that the log has up to a position, where its last whole payload ends.
    pub(super) fn begin(&mut self, driver: &Driver, store: &Store, position: Position) -> anyhow::Result<()> {
        // Whatever comes of it, it is tried again only once the log has grown.
        self.at = position;
        let Some(begun) = store.directory().as_ref().map(|directory| directory.begin_snapshot(position)) else {
            return Ok(());
        };
        let writer = match begun {
            Ok(writer) => writer,
            Err(error) => {
                not_made(&error.into());
                return Ok(());
            }
        };
        let (driver, given_up, fsync) = (driver.clone(), Arc::clone(&self.given_up), store.fsync());
        let make = move || copy(driver.node(), writer, &open::policy(fsync), &given_up);
        self.stage = Some(Stage::Copying(std::thread::Builder::new().name("snapshot".to_owned()).spawn(make)?));
        Ok(())
    }

    /// Goes on with one where that is possible; gives one that is finished.
    ///
    /// IMPORTANT: one is finished only once the log has on disk every entry that it holds. Should it be damaged, a start
    /// goes back to the one before and reads the log; an entry that neither has would be missing.
    ///
    /// With [`Keep::One`] there is none before. There what the log has not got may be what it has no room for, which this one
    /// makes; so it waits only for its position.
    ///
    /// `end` is where the last whole payload of the log ends; up to `synced` it is on disk.
    pub(super) fn advance(
        &mut self,
        store: &Store,
        (end, synced): (Position, Position),
        keep: Keep,
    ) -> anyhow::Result<Option<Finished>> {
        match self.stage.take() {
            Some(Stage::Copying(copying)) if copying.is_finished() => match joined(copying)? {
                Ok(copied) => self.stage = Some(Stage::Copied(copied, None)),
                Err(error) => not_made(&error),
            },
            Some(Stage::Copied(copied, upto)) => {
                let is_written = store.is_written(copied.end) || keep == Keep::One;
                match upto.or_else(|| is_written.then_some(end)) {
                    Some(upto) if synced >= upto => {
                        let store = store.clone();
                        let finish = move || finish(&store, copied.writer, synced, keep);
                        let thread = std::thread::Builder::new().name("snapshot".to_owned()).spawn(finish)?;
                        self.stage = Some(Stage::Finishing(thread));
                    }
                    upto => self.stage = Some(Stage::Copied(copied, upto)),
                }
            }
            Some(Stage::Finishing(finishing)) if finishing.is_finished() => return self.finished(finishing),
            stage => self.stage = stage,
        }
        Ok(None)
    }

    /// Gives up one that is not finished, and waits for one that is about to be.
    pub(super) fn stop(&mut self) -> anyhow::Result<Option<Finished>> {
        self.given_up.store(true, Ordering::Relaxed);
        match self.stage.take() {
            Some(Stage::Copying(copying)) => joined(copying).map(|_| None),
            Some(Stage::Finishing(finishing)) => self.finished(finishing),
            Some(Stage::Copied(..)) | None => Ok(None),
        }
    }

    fn finished(&mut self, finishing: JoinHandle<anyhow::Result<Finished>>) -> anyhow::Result<Option<Finished>> {
        match joined(finishing)? {
            Ok(finished) => {
                self.bytes = finished.bytes;
                Ok(Some(finished))
            }
            Err(error) => {
                not_made(&error);
                Ok(None)
            }
        }
    }
}

/// The log is still whole, so nothing is lost by it.
fn not_made(error: &anyhow::Error) {
    tracing::warn!("no snapshot was made, the log stays as it is, and another is tried later: {error:#}");
}

fn joined<T>(thread: JoinHandle<T>) -> anyhow::Result<T> {
    thread.join().map_err(|_| anyhow::anyhow!("the thread of a snapshot has panicked"))
}

/// Copies all slots, with rests. Their writes go on meanwhile: each slot is held for as long as it takes to copy it.
fn copy(node: &Node, mut writer: SnapshotWriter, policy: &[u8], given_up: &AtomicBool) -> anyhow::Result<Copied> {
    writer.add(policy)?;
    let mut rests = Rests::new(STRETCH, RESTS);
    let slots = SLOT_BITS.slots().filter_map(|slot| node.slot_snapshot(slot));
    for payload in slots.chain(std::iter::once_with(|| node.losses_snapshot()).flatten()) {
        anyhow::ensure!(!given_up.load(Ordering::Relaxed), "the node stops");
        for piece in pieces::cut(payload) {
            writer.add(&piece)?;
        }
        rests.rest();
    }
    Ok(Copied { writer, end: node.journal().end() })
}

fn finish(store: &Store, writer: SnapshotWriter, synced: Position, keep: Keep) -> anyhow::Result<Finished> {
    let bytes = writer.finish(synced)?.bytes;
    let needed_from = match store.directory().as_ref() {
        Some(directory) => directory.retain_snapshots(keep as usize)?,
        None => None,
    };
    Ok(Finished { bytes, needed_from })
}
