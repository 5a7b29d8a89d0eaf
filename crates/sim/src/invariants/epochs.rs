//! I1: at most one primary per (slot, epoch); epochs and versions only grow. I2: the primary is in isr; isr, elr and
//! learners are disjoint; elr is empty unless |isr| < min_isr.
//!
//! Source: the design, "Words" and rule 7; that isr holds only current incarnations is what I3 sees the consequences of.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::cluster_map::SlotConfig;
use proto::slot::SlotId;

use crate::world::World;

impl World {
    pub(super) fn check_configuration(&mut self, slot: SlotId, config: &Arc<SlotConfig>) {
        let min_isr = (self.knobs.replicas as usize).div_ceil(2) + 1;
        let ghost = self.oracle.ghost(slot);
        let mut wrong = None;
        if let Some(before) = &ghost.published {
            if config.epoch < before.epoch || config.version < before.version {
                wrong = Some(("I1", format!("{before:?} is followed by the older {config:?}")));
            } else if config.version == before.version && **config != **before {
                wrong = Some(("I1", format!("one version of two configurations: {before:?} and {config:?}")));
            }
        }
        if let Some(primary) = config.primary {
            let known = *ghost.primaries.entry(config.epoch).or_insert(primary);
            if known != primary {
                wrong = Some(("I1", format!("epoch {} has two primaries, {known} and {primary}", config.epoch)));
            }
            if !config.isr.contains(&primary) {
                wrong = Some(("I2", format!("the primary is not in sync: {config:?}")));
            }
        }
        let copies: Vec<_> = config.copies().collect();
        if copies.iter().collect::<BTreeSet<_>>().len() < copies.len() {
            wrong = Some(("I2", format!("one node in two roles: {config:?}")));
        }
        if !config.elr.is_empty() && config.isr.len() >= min_isr {
            wrong = Some(("I2", format!("former members though there are enough in sync: {config:?}")));
        }
        if let Some((invariant, what)) = wrong {
            self.broken(invariant, Some(slot), format!("slot {}: {what}", slot.0));
        }
    }
}
