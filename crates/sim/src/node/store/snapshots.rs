//! Background snapshots: copied a few slots at a time while writes go on, and named once the log has everything that
//! the copies hold.

use engine::node::Node;
use proto::slot::SlotId;
use seeded::Random;
use storage::snapshot::SnapshotError;
use storage::{DataDir, Position, SnapshotWriter};

use super::{Failure, Health, Open, SHORT_PAUSE, Settings};
use crate::mutants::Planted;
/// The snapshots of a directory.
#[derive(Debug)]
pub(super) struct Snapshots {
    stage: Option<Stage>,
    /// Where the log ended when the last snapshot began.
    pub(super) at: Position,
    /// The size of the last snapshot, in bytes.
    pub(super) bytes: u64,
    /// How many were finished but not reported yet.
    pub(super) made: u64,
}

#[derive(Debug)]
enum Stage {
    /// The next slot to copy.
    Copying(SnapshotWriter<Planted>, u16),
    /// Waits until the log has on disk what the copies hold: entries with a number below `end`, which end at position
    /// `upto` once they are written.
    Copied { writer: SnapshotWriter<Planted>, end: u64, upto: Option<Position> },
    /// The log is on disk up to `synced`; the snapshot will be at time `at`.
    Finishing { writer: SnapshotWriter<Planted>, synced: Position, at: u64 },
}

impl Snapshots {
    pub(super) fn new(at: Position) -> Self {
        Self { stage: None, at, bytes: 0, made: 0 }
    }

    /// Whether a snapshot waits for a sync of the log.
    pub(super) fn wants_sync(&self) -> bool {
        matches!(self.stage, Some(Stage::Copied { upto: Some(_), .. }))
    }

    /// The node stops: an unfinished snapshot is dropped.
    pub(super) fn give_up(self) {}
}

impl Open {
    /// Begins a snapshot if the log has grown enough, or space is short.
    pub(super) fn begin_snapshot(&mut self, settings: Settings, now: u64) {
        let grown = self.journal.end().0 - self.snapshots.at.0;
        let is_due = grown >= settings.segment_bytes.max(self.snapshots.bytes);
        let is_short = self.room.is_short || self.health == Health::Full;
        let may_help = self.room.snapshot_begun.is_none_or(|begun| now - begun >= SHORT_PAUSE) && grown > 0;
        if self.snapshots.stage.is_some() || !(is_due || (is_short && may_help)) {
            return;
        }
        if is_short {
            self.room.snapshot_begun = Some(now);
        }
        self.snapshots.at = self.journal.end();
        let begun = self.directory.begin_snapshot(self.journal.end()).and_then(|mut writer| {
            writer.add(&super::start::policy(settings))?;
            Ok(writer)
        });
        // Without a snapshot the log stays as it is.
        self.snapshots.stage = begun.ok().map(|writer| Stage::Copying(writer, 0));
    }

    /// Continues a snapshot if that is possible.
    pub(super) fn go_on_with_snapshot(
        &mut self,
        node: &Node<Planted>,
        slowness: u64,
        random: &mut Random,
        now: u64,
    ) -> Result<(), Failure> {
        let keeps = if self.health == Health::Full { 1 } else { 2 };
        let stage = match self.snapshots.stage.take() {
            Some(Stage::Copying(writer, next)) => copy(node, writer, next, random.between(1, 4)).ok(),
            Some(Stage::Copied { writer, end, upto }) => {
                let is_written = self.written >= end || keeps == 1;
                match upto.or_else(|| is_written.then(|| self.journal.end())) {
                    Some(upto) if self.journal.synced() >= upto => {
                        Some(Stage::Finishing { writer, synced: self.journal.synced(), at: now + slowness })
                    }
                    upto => Some(Stage::Copied { writer, end, upto }),
                }
            }
            Some(Stage::Finishing { writer, synced, at }) if now >= at => {
                if let Ok((bytes, needed_from)) = finish(&self.directory, writer, synced, keeps) {
                    self.snapshots.bytes = bytes;
                    self.snapshots.made += 1;
                    if let Some(position) = needed_from {
                        self.journal.remove_before(position)?;
                    }
                }
                None
            }
            stage => stage,
        };
        self.snapshots.stage = stage;
        Ok(())
    }
}

/// Copies some slots.
fn copy(
    node: &Node<Planted>,
    mut writer: SnapshotWriter<Planted>,
    next: u16,
    count: u64,
) -> Result<Stage, SnapshotError> {
    for number in next..next.saturating_add(count as u16) {
        if !node.has_slot(SlotId(number)) {
            if let Some(payload) = node.losses_snapshot() {
                writer.add(&payload)?;
            }
            return Ok(Stage::Copied { writer, end: node.noted().end(), upto: None });
        }
        if let Some(payload) = node.slot_snapshot(SlotId(number)) {
            writer.add(&payload)?;
        }
    }
    Ok(Stage::Copying(writer, next.saturating_add(count as u16)))
}

fn finish(
    directory: &DataDir<Planted>,
    writer: SnapshotWriter<Planted>,
    synced: Position,
    keeps: usize,
) -> Result<(u64, Option<Position>), SnapshotError> {
    let bytes = writer.finish(synced)?.bytes;
    Ok((bytes, directory.retain_snapshots(keeps)?))
}
