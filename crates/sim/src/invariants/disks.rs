//! I14: a restart from any crash point, with any allowed loss of unsynced bytes, keeps I3. I15: a record with a wrong
//! checksum is never applied, served, sent on or counted.
//!
//! Both are judged by what a start finds. What was written as `sync_every` requires must be there exactly, and a node
//! that always syncs can still prove it after a power cut. I3 is then checked as usual, now with the data from the
//! disk. A bit flip where the log or the snapshot is read must be detected, in its file, and must have no other effect.
//!
//! Source: docs/storage-format.md, "Recovery".

use std::collections::BTreeMap;

use engine::node::Node;
use proto::slot::{SlotBits, SlotId};

use crate::mutants::Planted;
use crate::node::{Found, IDENTITY, StartError, first_of, is_map};
use crate::world::World;

impl World {
    /// A node has crashed after writing everything. What its disk returns must be what it held.
    pub(crate) fn check_restart(&mut self, n: usize, crashed: &Node<Planted>, is_proof: bool) {
        let name = self.nodes[n].name.clone();
        if !is_proof {
            self.broken("I14", None, format!("{name} has everything on its disk, and it proves nothing"));
        }
        let Some(left) = &self.nodes[n].left else { return };
        if let Some((slot, what)) = difference(left, crashed, self.bits) {
            self.broken("I14", Some(slot), format!("{name} had everything on its disk: {what}"));
        }
        self.check_left(n);
    }

    /// A start has found data. Each record must have been written by somebody, exactly like that.
    pub(crate) fn check_found(&mut self, n: usize, found: &Found) {
        let wrong = self.bits.slots().find_map(|slot| {
            found.node.inspect(slot, |state| {
                let mut records = state.records();
                records.find(|record| !self.oracle.may_be(slot, record)).map(|record| (slot, record.version()))
            })
        });
        if let Some((slot, version)) = wrong {
            let what = format!("{} finds a record {version} that nobody has written like that", self.nodes[n].name);
            self.broken("I15", Some(slot), what);
        }
        let is_torn = found.recovery.torn_tail.is_some();
        self.stats.torn_tails += u64::from(is_torn);
    }

    /// A node starts: it must find what was there when it crashed.
    pub(crate) fn check_start(&mut self, n: usize, found: &Found) {
        let Some(left) = &self.nodes[n].left else { return };
        if let Some((slot, what)) = difference(&found.node, left, self.bits) {
            let name = self.nodes[n].name.clone();
            self.broken("I14", Some(slot), format!("a second start of {name} finds something else: {what}"));
        }
        self.check_left(n);
    }

    /// Checks I3 with the data from the disk of a node that is down.
    fn check_left(&mut self, n: usize) {
        for slot in self.bits.slots() {
            self.check_copy(n, slot);
        }
    }

    /// Flips a bit on the disk of a node that is down, and checks what a start makes of it.
    pub(crate) fn flip_and_judge(&mut self, n: usize) {
        let start = self.start_of(n);
        let Ok(before) = self.nodes[n].store.look(start) else { return };
        self.judge_misnamed(n);
        let random = &mut self.faults.random;
        let Some((file, offset)) = self.nodes[n].store.flip(|bound| random.below(bound)) else { return };
        self.stats.bit_flips += 1;
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("a bit of {} turns over at byte {offset}, at {name}", file.display()));
        let from = before.recovery.snapshot.map_or(0, |position| position.0);
        let is_read = match first_of(&file) {
            Some(first) => first + offset >= from,
            None if is_map(&file) => true,
            None => file.to_string_lossy().ends_with(&format!("{from:020}.snap")),
        };
        match self.nodes[n].store.look(start) {
            Ok(after) => {
                let is_noticed = (is_map(&file) && after.node.map().is_none())
                    || after.recovery.damaged_snapshots.iter().any(|damage| damage.file == file);
                if is_read && !is_noticed {
                    let what = format!("{name} does not notice a bit that was turned over at {offset} of {file:?}");
                    self.broken("I15", None, what);
                }
                // A node with a full disk may have had data in a snapshot for which its log had no room. Nobody was
                // told of that.
                let is_ahead = file.extension().is_some_and(|kind| kind == "snap") && !before.node.noted().is_empty();
                if !is_ahead && let Some((slot, what)) = difference(&after.node, &before.node, self.bits) {
                    self.broken("I15", Some(slot), format!("{name}, at {offset} of {file:?}: {what}"));
                }
            }
            Err(StartError::Damaged(damage)) if damage.file == file && damage.offset <= offset => {}
            // It had been flipped earlier, and is read only now.
            Err(StartError::Damaged(damage)) if self.nodes[n].store.is_flipped(&damage.file) => {}
            Err(error) => {
                self.broken("I15", None, format!("{name}: a bit was turned over at {offset} of {file:?}: {error}"));
            }
        }
        self.find(n);
    }
}

impl World {
    /// A directory with a damaged identity does not start, and says so; after a repair, it claims to hold nobody's
    /// data.
    fn judge_misnamed(&mut self, n: usize) {
        let start = self.start_of(n);
        let random = &mut self.faults.random;
        let found = self.nodes[n].store.start_with_damaged_identity(start, |bound| random.below(bound));
        let Some((found, repaired)) = found else { return };
        let name = self.nodes[n].name.clone();
        match found {
            Err(StartError::Damaged(damage)) if damage.file.ends_with(IDENTITY) => {}
            Err(error) => self.broken("I15", None, format!("{name}, with another bit in its identity: {error}")),
            Ok(_) => self.broken("I15", None, format!("{name} does not notice another bit in its identity")),
        }
        match repaired {
            Ok(found) if found.node.ancestors().last().is_none() => self.stats.misnamed += 1,
            Ok(_) => self.broken("I15", None, format!("{name} claims what it held before its identity was lost")),
            Err(StartError::File(_)) => {}
            Err(error) => self.broken("I15", None, format!("{name} cannot be repaired without its identity: {error}")),
        }
    }
}

/// The slot in which one node is not what another was, with the difference. The durable mark may lag: it is written
/// with the next record.
fn difference(read: &Node<Planted>, crashed: &Node<Planted>, bits: SlotBits) -> Option<(SlotId, String)> {
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
