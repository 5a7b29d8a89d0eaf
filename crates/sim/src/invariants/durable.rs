//! I3: every record up to `durable` is in the log of every member of isr and elr, at the same seq. I4: the primary of
//! an epoch holds every record that was durable in an earlier epoch; as it is a member, this follows from I3 at the
//! moment of its promotion, and it never truncates its own log.
//!
//! Source: PacificA (MSR-TR-2008-25), the commit invariant.

use proto::slot::SlotId;

use crate::oracle::members;
use crate::world::World;

impl World {
    /// The durable mark of a primary has moved.
    pub(super) fn check_durable_at_primary(&mut self, n: usize, slot: SlotId) {
        let Some(node) = self.nodes[n].node.as_ref() else { return };
        let model = &mut self.oracle.slots[usize::from(slot.0)];
        let before = model.end();
        let wrong = node.inspect(slot, |state| {
            let log = state.log();
            if !state.is_primary() || (model.is_lost && state.epoch() <= model.lost_epoch) {
                return None;
            }
            let ends_right = before.seq == 0 || log.epoch_at(before.seq).is_none_or(|epoch| epoch == before.epoch);
            if log.durable() >= before.seq && !ends_right {
                return Some(format!(
                    "{} was durable, and is not in the log of a primary whose mark passed it",
                    before
                ));
            }
            model.advance(log, log.durable());
            None
        });
        if let Some(what) = wrong {
            let name = self.nodes[n].name.clone();
            return self.broken("I4", Some(slot), format!("{what}: {name}"));
        }
        if self.oracle.slots[usize::from(slot.0)].end() != before {
            self.check_members(slot, "when the mark moved");
        }
    }

    /// Checks that every copy that counts has everything that was ever durable.
    pub(super) fn check_members(&mut self, slot: SlotId, when: &str) {
        let model = &self.oracle.slots[usize::from(slot.0)];
        let Some(config) = model.kept.clone().filter(|_| model.durable > 0) else { return };
        for member in members(&config) {
            if let Some(n) = self.oracle.holder(member) {
                self.check_holds(n, slot, when);
            }
        }
    }

    /// A copy has changed in some way other than by appending.
    pub(super) fn check_copy(&mut self, n: usize, slot: SlotId) {
        let model = &self.oracle.slots[usize::from(slot.0)];
        let counts = model.kept.as_ref().is_some_and(|config| self.oracle.holds_for(n, config));
        if counts && model.durable > 0 {
            self.check_holds(n, slot, "after it took in what its primary sent");
        }
    }

    fn check_holds(&mut self, n: usize, slot: SlotId, when: &str) {
        let model = &self.oracle.slots[usize::from(slot.0)];
        let Some(node) = self.nodes[n].data() else { return };
        let (holds, last) = node.inspect(slot, |state| (model.is_in(state.log()), state.last()));
        if !holds {
            let (name, end) = (self.nodes[n].name.clone(), model.end());
            let config = model.kept.clone();
            let what = format!(
                "slot {}: records up to {end} were durable; {name}, which counts, ends at {last} and lacks some {when}: \
                 {config:?}",
                slot.0
            );
            self.broken("I3", Some(slot), what);
        }
    }
}
