//! I6, first half: marks never go back within a run, and durable is never past the end. A copy that is given up or
//! filled starts over. And a primary purges no tombstone that is not durable, unless it has the only copy: the record
//! may be cut away, and what it replaced would be back for nobody to delete.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::Version;
use proto::slot::SlotId;

use crate::world::World;

/// What was last seen of a node's slots.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    durable: Vec<u64>,
    /// The slots that the node leads.
    pub(crate) led: Vec<SlotId>,
    /// How far each of these slots was purged at the last look.
    pub(super) purged: BTreeMap<SlotId, u64>,
    /// The last record of each of these slots at the last look.
    pub(super) looked_at: BTreeMap<SlotId, Version>,
    /// The slot of the fill that began last.
    pub(crate) filling: Option<SlotId>,
    /// The slots that were filled and whose marks have not been checked since.
    pub(crate) filled: BTreeSet<SlotId>,
}

impl Marks {
    pub(super) fn durable(&self, slot: SlotId) -> u64 {
        self.durable.get(usize::from(slot.0)).copied().unwrap_or(0)
    }

    fn set(&mut self, slot: SlotId, durable: u64) {
        let at = usize::from(slot.0);
        if self.durable.len() <= at {
            self.durable.resize(at + 1, 0);
        }
        self.durable[at] = durable;
    }

    pub(super) fn forget_given_up(&mut self, slot: SlotId) {
        self.set(slot, 0);
    }
}

impl World {
    pub(super) fn check_marks(&mut self, n: usize, slot: SlotId) {
        let Some(node) = self.running(n) else { return };
        let (durable, last) = node.inspect(slot, |state| (state.durable(), state.last()));
        let before = self.nodes[n].marks.durable(slot);
        let was_filled = self.nodes[n].marks.filled.contains(&slot);
        if durable > last.seq || (durable < before && !was_filled) {
            let name = self.nodes[n].name.clone();
            let what = format!("slot {}: {name} ends at {last}; its mark was {before} and is {durable}", slot.0);
            self.broken("I6", Some(slot), what);
        }
        self.nodes[n].marks.set(slot, durable);
        self.nodes[n].marks.filled.remove(&slot);
    }

    /// A node has followed a map, perhaps one of several that arrived together. What it has purged where it is alone in
    /// this one needs no mark, whoever joins it in the next.
    pub(crate) fn accept_purges_alone(&mut self, n: usize) {
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let Some(map) = node.map() else { return };
        for slot in &process.marks.led {
            if map.config(*slot).copies().all(|copy| copy == node.incarnation()) {
                process.marks.purged.insert(*slot, node.inspect(*slot, |state| state.log().purged()));
            }
        }
    }

    /// A primary has purged tombstones. Those that it found purged when it became one need not be durable as far as it
    /// knows.
    pub(super) fn check_purged(&mut self, n: usize, slot: SlotId) {
        let Some(node) = self.running(n) else { return };
        let (durable, purged) = node.inspect(slot, |state| (state.durable(), state.log().purged()));
        let me = node.incarnation();
        let is_alone = node.map().is_some_and(|map| map.config(slot).copies().all(|copy| copy == me));
        if purged > durable && !is_alone {
            let name = self.nodes[n].name.clone();
            let what = format!("slot {}: {name} has purged up to {purged}, but its mark is {durable}", slot.0);
            self.broken("I6", Some(slot), what);
        }
    }
}
