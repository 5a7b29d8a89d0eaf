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
        let (Some(terms), Some(node)) = (terms, self.running(n)) else { return };
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

fn epoch_at(terms: &Terms, last: Version, seq: u64) -> Option<proto::id::Epoch> {
    if seq > last.seq {
        return None;
    }
    terms.0.iter().rev().find(|term| term.first <= seq).map(|term| term.epoch)
}
