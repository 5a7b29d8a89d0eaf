//! A node's disk: what it has noted, and the node that is made of it after a crash.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::journal::{Replay, ReplayError};
use engine::node::Node;
use engine::time::Timestamp;
use proto::cluster_map::ClusterMap;
use proto::id::Incarnation;
use proto::slot::{SlotBits, SlotId};

use crate::mutants::Planted;

/// A log that is longer than this is replaced by a snapshot, in bytes.
const LOG_BYTES: usize = 64 * 1024;

/// What was written, as payloads.
#[derive(Debug, Default)]
pub(super) struct Disk {
    snapshot: Vec<Vec<u8>>,
    log: Vec<Vec<u8>>,
    log_bytes: usize,
}

impl Disk {
    /// Writes what the node has noted. To be called before anybody hears of it.
    pub(super) fn write(&mut self, node: &Node<Planted>, bits: SlotBits) {
        let Some((payload, _)) = node.journal().take() else { return };
        self.log_bytes += payload.len();
        self.log.push(payload);
        if self.log_bytes > LOG_BYTES {
            self.snapshot = bits.slots().filter_map(|slot| node.slot_snapshot(slot)).collect();
            self.log.clear();
            self.log_bytes = 0;
        }
    }

    /// The node that a start finds here.
    pub(super) fn read(
        &self,
        now: Timestamp,
        bits: SlotBits,
        secret: u64,
        planted: Planted,
        proofs: Vec<Incarnation>,
        map: Option<Arc<ClusterMap>>,
    ) -> Result<Node<Planted>, ReplayError> {
        let mut replay = Replay::new(now, bits, secret, planted);
        self.snapshot.iter().try_for_each(|payload| replay.snapshot(payload))?;
        self.log.iter().try_for_each(|payload| replay.log(payload))?;
        Ok(replay.finish(now, proofs, map))
    }
}

/// In which slot a node that was read from its disk is not what crashed, and how. The durable mark may lag: it is written
/// with the next record.
pub(super) fn difference(read: &Node<Planted>, crashed: &Node<Planted>, bits: SlotBits) -> Option<(SlotId, String)> {
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
