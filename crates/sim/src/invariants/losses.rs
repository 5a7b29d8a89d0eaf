//! I10: a lost acknowledged async write is in the loss archive or was in the unsent tail of a primary that crashed.
//!
//! Source: the design, rule 10.

use proto::id::Version;
use proto::peer::Terms;

use super::Before;
use crate::world::World;

impl World {
    /// A copy's log may have been cut, or replaced: what was acknowledged and is gone must have been archived, or counted
    /// where a later write had overwritten it.
    pub(super) fn check_cut(&mut self, n: usize, before: Before) {
        let Before { slot, last, terms, losses } = before;
        let Some(node) = self.running(n) else { return };
        let (lost, now) = node.inspect(slot, |state| {
            let log = state.log();
            let kept = |seq| log.epoch_at(seq).is_some_and(|epoch| epoch_at(&terms, last, seq) == Some(epoch));
            let mut lost = 0_u64;
            let mut seq = last.seq;
            // From the end back to the first record that is still there: all before it are, too.
            while seq > 0 && !kept(seq) {
                let Some(epoch) = epoch_at(&terms, last, seq) else { break };
                let seen = self.oracle.records.get(&(slot, Version { epoch, seq }));
                lost += u64::from(seen.is_some_and(|seen| seen.acknowledged.is_some()));
                seq -= 1;
            }
            (lost, state.last())
        });
        let counted = node.losses(engine::losses::Losses::count) - losses;
        self.stats.async_lost += lost;
        if counted < lost {
            let name = self.nodes[n].name.clone();
            let what = format!(
                "slot {}: {name} stood at {last} and is cut to {now}: {lost} acknowledged writes are gone, {counted} counted",
                slot.0
            );
            self.broken("I10", Some(slot), what);
        }
    }
}

impl World {
    /// What a node holds before it takes a map in.
    pub(crate) fn before_map(&self, n: usize) -> Vec<Before> {
        let Some(node) = self.running(n) else { return Vec::new() };
        let losses = node.losses(engine::losses::Losses::count);
        let before =
            |slot| node.inspect(slot, |state| Before { slot, last: state.last(), terms: state.log().terms(), losses });
        self.bits.slots().map(before).filter(|before| before.last != Version::NONE).collect()
    }

    /// A node has given copies up: what was acknowledged, and the slot's primary lacks, must have been archived.
    pub(crate) fn check_given_up(&mut self, n: usize, before: Vec<Before>) {
        let Some(node) = self.running(n) else { return };
        let mut lost = Vec::new();
        let Some(losses) = before.first().map(|before| before.losses) else { return };
        for Before { slot, last, terms, .. } in before {
            let is_given_up = node.inspect(slot, |state| state.last() == Version::NONE);
            let ghost = &self.oracle.slots[usize::from(slot.0)];
            let primary = ghost.kept.as_ref().and_then(|config| self.oracle.holder(config.primary?));
            let Some(primary) = primary.and_then(|primary| self.nodes[primary].data()).filter(|_| is_given_up) else {
                continue;
            };
            for seq in (1..=last.seq).rev() {
                let Some(epoch) = epoch_at(&terms, last, seq) else { break };
                if primary.inspect(slot, |state| state.log().epoch_at(seq)) == Some(epoch) {
                    break;
                }
                let seen = self.oracle.records.get(&(slot, Version { epoch, seq }));
                if seen.is_some_and(|seen| seen.acknowledged.is_some()) {
                    lost.push((slot, Version { epoch, seq }));
                }
            }
        }
        let counted = node.losses(engine::losses::Losses::count) - losses;
        if counted < lost.len() as u64 {
            let name = self.nodes[n].name.clone();
            let slot = lost.first().map(|(slot, _)| *slot);
            let what = format!("{name} gives up acknowledged writes that no primary has, {counted} counted: {lost:?}");
            self.broken("I10", slot, what);
        }
        self.stats.async_lost += lost.len() as u64;
    }
}

fn epoch_at(terms: &Terms, last: Version, seq: u64) -> Option<proto::id::Epoch> {
    if seq > last.seq {
        return None;
    }
    terms.0.iter().rev().find(|term| term.first <= seq).map(|term| term.epoch)
}
