//! I10: a lost acknowledged async write is in the loss archive or was in the unsent tail of a primary that crashed.

use engine::log::Log;
use proto::id::{Epoch, Version};
use proto::peer::Terms;
use proto::slot::SlotId;

use super::Before;
use crate::oracle::Oracle;
use crate::world::World;

impl World {
    /// A copy's log may have been cut or replaced: acknowledged writes that are gone must have been archived, or
    /// counted if a later write had overwritten them.
    pub(super) fn check_cut(&mut self, n: usize, before: Before) {
        let Before { slot, last, terms, losses, .. } = before;
        let Some(node) = self.running(n) else { return };
        let (lost, now) = node.inspect(slot, |state| {
            let log = state.log();
            let kept = |seq| epoch_at(&terms, last, seq).is_some_and(|epoch| has(log, epoch, seq));
            let mut lost = Vec::new();
            let mut seq = last.seq;
            // Back from the end to the first record that is still there: then all earlier ones are, too.
            while seq > 0 && !kept(seq) {
                let Some(epoch) = epoch_at(&terms, last, seq) else { break };
                lost.push((slot, Version { epoch, seq }));
                seq -= 1;
            }
            (lost, state.last())
        });
        let counted = node.losses(engine::losses::Losses::count) - losses;
        let what = format!("stood at {last} in slot {} and is cut to {now}", slot.0);
        if !lost.is_empty() {
            self.check_fold(n, slot);
        }
        self.are_counted(n, lost, counted, &what);
    }

    /// Checks that a node has counted at least as many losses as there are acknowledged writes among these. The same
    /// writes may be cut at a primary, which counts them, and be given up by a copy that had left its slot before: they
    /// count once.
    fn are_counted(&mut self, n: usize, mut lost: Vec<(SlotId, Version)>, counted: u64, what: &str) {
        let Oracle { records, counted_losses, .. } = &mut self.oracle;
        lost.retain(|write| records.get(write).is_some_and(|seen| seen.acknowledged.is_some()));
        self.stats.async_lost += lost.len() as u64;
        lost.retain(|write| counted_losses.insert(*write));
        if counted < lost.len() as u64 {
            let name = &self.nodes[n].name;
            let what = format!("{name} {what}: of these acknowledged writes {counted} are counted: {lost:?}");
            self.broken("I10", lost.first().map(|(slot, _)| *slot), what);
        }
    }

    /// What a node holds before it takes a map.
    pub(crate) fn before_map(&self, n: usize) -> Vec<Before> {
        let Some(node) = self.running(n) else { return Vec::new() };
        self.bits.slots().map(|slot| Before::of(node, slot)).filter(|before| before.last != Version::NONE).collect()
    }

    /// A node has given up copies: acknowledged writes that no other copy has must have been archived.
    pub(crate) fn check_given_up(&mut self, n: usize, before: Vec<Before>) {
        let Some(node) = self.running(n) else { return };
        let mut lost = Vec::new();
        let Some(losses) = before.first().map(|before| before.losses) else { return };
        for Before { slot, last, terms, level_with, .. } in before {
            let is_given_up = node.inspect(slot, |state| state.last() == Version::NONE);
            // If a whole slot was lost, that is reported, not each of its writes.
            let model = &self.oracle.slots[usize::from(slot.0)];
            let is_given_up = is_given_up && !model.is_lost;
            if !is_given_up {
                continue;
            }
            // What another copy has is not lost, or not by this.
            let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != n);
            let others: Vec<_> = others.filter_map(|(_, process)| process.data()).collect();
            let has_one =
                |epoch, seq| others.iter().any(|other| other.inspect(slot, |state| has(state.log(), epoch, seq)));
            // If a primary that had all of it has lost its disk, that primary lost the data.
            if level_with.is_some_and(|primary| self.oracle.holder(primary).is_none()) {
                continue;
            }
            for seq in (1..=last.seq).rev() {
                let Some(epoch) = epoch_at(&terms, last, seq) else { break };
                if has_one(epoch, seq) {
                    break;
                }
                lost.push((slot, Version { epoch, seq }));
            }
        }
        let counted = node.losses(engine::losses::Losses::count) - losses;
        self.are_counted(n, lost, counted, "gives up what no other has");
    }
}

/// Whether a log has this record. If the log has forgotten the record's term, it had the record.
fn has(log: &Log, epoch: Epoch, seq: u64) -> bool {
    seq <= log.last().seq && log.epoch_at(seq).is_none_or(|known| known == epoch)
}

fn epoch_at(terms: &Terms, last: Version, seq: u64) -> Option<Epoch> {
    if seq > last.seq {
        return None;
    }
    terms.0.iter().rev().find(|term| term.first <= seq).map(|term| term.epoch)
}
