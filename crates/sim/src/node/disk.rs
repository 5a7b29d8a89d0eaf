//! A node's disk: what it has noted, and the node that is made of it after a crash.
//!
//! The kernel has everything that was written, and the platter what was written a while ago: a crash of the process loses
//! nothing, and one of the machine loses some of the rest, from the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::journal::{Replay, ReplayError};
use engine::node::Node;
use engine::time::Timestamp;
use proto::cluster_map::ClusterMap;
use proto::session::Ancestors;
use proto::slot::{SlotBits, SlotId};

use crate::mutants::Planted;

/// A log that is longer than this is replaced by a snapshot, in bytes.
const LOG_BYTES: usize = 64 * 1024;

/// When something is written, and after what time it is on the platter, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteTime {
    pub(super) now: u64,
    pub(super) sync_every: u64,
}

/// What was written, as payloads.
#[derive(Debug, Default)]
pub(super) struct Disk {
    snapshot: Vec<Vec<u8>>,
    log: Vec<Vec<u8>>,
    log_bytes: usize,
    /// How many payloads of the log are on the platter, and since when there are others, in real time.
    synced: usize,
    unsynced_since: Option<u64>,
}

impl Disk {
    /// Writes what the node has noted. To be called before anybody hears of it.
    pub(super) fn write(&mut self, node: &Node<Planted>, bits: SlotBits, time: WriteTime) {
        let Some((payload, _)) = node.journal().take() else { return };
        self.sync_late(time);
        self.unsynced_since.get_or_insert(time.now);
        self.log_bytes += payload.len();
        self.log.push(payload);
        if self.log_bytes > LOG_BYTES {
            self.snapshot = bits.slots().filter_map(|slot| node.slot_snapshot(slot)).collect();
            self.snapshot.extend(node.losses_snapshot());
            self.log.clear();
            self.log_bytes = 0;
            (self.synced, self.unsynced_since) = (0, None);
        }
    }

    /// What was written long enough ago is on the platter.
    fn sync_late(&mut self, time: WriteTime) {
        if self.unsynced_since.is_some_and(|since| time.now - since >= time.sync_every) {
            (self.synced, self.unsynced_since) = (self.log.len(), None);
        }
    }

    /// The machine loses its power: of what is not on the platter, only so many parts of a thousand will be.
    pub(super) fn lose_power(&mut self, time: WriteTime, share: usize) {
        self.sync_late(time);
        let unsynced = self.log.len() - self.synced;
        self.log.truncate(self.synced + unsynced * share / 1_000);
        (self.synced, self.unsynced_since) = (self.log.len(), None);
    }

    /// The node that a start finds here.
    pub(super) fn read(
        &self,
        now: Timestamp,
        bits: SlotBits,
        secret: u64,
        planted: Planted,
        ancestors: Ancestors,
        map: Option<Arc<ClusterMap>>,
    ) -> Result<Node<Planted>, ReplayError> {
        let mut replay = Replay::new(now, bits, secret, planted);
        self.snapshot.iter().try_for_each(|payload| replay.snapshot(payload))?;
        self.log.iter().try_for_each(|payload| replay.log(payload))?;
        Ok(replay.finish(now, ancestors, map))
    }
}

/// In which slot a node that was read from its disk is not what crashed, and how. The durable mark may lag: it is written
/// with the next record.
pub(super) fn difference(read: &Node<Planted>, crashed: &Node<Planted>, bits: SlotBits) -> Option<(SlotId, String)> {
    let losses = |node: &Node<Planted>| {
        node.losses(|losses| {
            let kept: Vec<_> = losses.iter().map(|loss| (loss.slot, loss.record.version())).collect();
            (losses.count(), kept)
        })
    };
    let (read_losses, losses) = (losses(read), losses(crashed));
    if read_losses != losses {
        return Some((SlotId(0), format!("the disk gives the losses {read_losses:?}, and there were {losses:?}")));
    }
    bits.slots().find_map(|slot| {
        let state = |node: &Node<Planted>| {
            node.inspect(slot, |slot| {
                let records: BTreeMap<_, _> = slot
                    .records()
                    .map(|record| (record.key().to_vec(), (record.version(), record.deadline())))
                    .collect();
                let log = slot.log();
                ((slot.epoch(), log.last(), log.terms(), log.purged(), records), log.durable())
            })
        };
        let ((read, read_mark), (crashed, mark)) = (state(read), state(crashed));
        let what =
            || format!("the disk gives {read:?} durable to {read_mark}, and there was {crashed:?} durable to {mark}");
        (read != crashed || read_mark > mark).then(|| (slot, what()))
    })
}
