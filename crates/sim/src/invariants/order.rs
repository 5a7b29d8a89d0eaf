//! I6, second half: a copy's state is the fold of a prefix of one order. (I5, equal (epoch, seq) imply equal prefixes,
//! is checked in the oracle, wherever a record passes.)

use proto::slot::SlotId;

use crate::world::World;

impl World {
    /// Checks one slot of one node, a different one each time.
    pub(super) fn check_some_fold(&mut self) {
        self.oracle.turn += 1;
        let turn = self.oracle.turn;
        let (n, slot) = (turn % self.nodes.len(), (turn / self.nodes.len()) % self.bits.count());
        self.check_fold(n, SlotId(slot as u16));
    }

    /// Checks that the table has the newest version of each key among the records of this log.
    pub(crate) fn check_fold(&mut self, n: usize, slot: SlotId) {
        if self.is_damaged(n, slot) {
            return;
        }
        let model = &self.oracle.slots[usize::from(slot.0)];
        let Some(node) = self.running(n).filter(|_| !model.is_lost) else { return };
        let evicts = self.knobs.evict > 0;
        let wrong = node.inspect(slot, |state| {
            let log = state.log();
            if !state.holds_copy() {
                return None;
            }
            let mut found = 0;
            for (key, versions) in &model.keys {
                let is_in =
                    |(version, _): &&(proto::id::Version, bool)| log.epoch_at(version.seq) == Some(version.epoch);
                let newest = versions.iter().filter(is_in).max_by_key(|(version, _)| version.seq);
                let here = state.records().find(|record| record.key() == &**key);
                found += usize::from(here.is_some());
                let text = String::from_utf8_lossy(key);
                let forgets = log.epoch_at(1).is_none();
                match (newest, here) {
                    (Some((version, is_delete)), Some(record))
                        if *version != record.version() || *is_delete != record.is_delete() =>
                    {
                        return Some(format!("{text} is {version} by the log and {} in the table", record.version()));
                    }
                    // A primary without replicas drops the tombstone of an expiry or eviction at once, unobserved.
                    (Some((version, _)), None)
                        if (evicts || model.expiring.contains(version)) && version.seq < log.purged() => {}
                    (Some((version, is_delete)), None) if !is_delete || version.seq > log.purged() => {
                        return Some(format!("{text} is {version} by the log and not in the table"));
                    }
                    (None, Some(record)) if !forgets => {
                        return Some(format!("{text} is {} in the table and not in the log", record.version()));
                    }
                    _ => {}
                }
            }
            (found < state.records().count()).then(|| "the table has keys that nobody wrote".to_owned())
        });
        if let Some(what) = wrong {
            let name = self.nodes[n].name.clone();
            self.broken("I6", Some(slot), format!("slot {} of {name}: {what}", slot.0));
        }
    }
}
