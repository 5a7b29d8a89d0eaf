//! I1: at most one primary per (slot, epoch); epochs and versions only grow. I2: the primary is in isr; isr, elr and
//! learners are disjoint; nobody comes into elr unless |isr| < min_isr. (With fewer replicas, |isr| may be enough while elr
//! still names somebody; the primary then counts it as one short.)
//!
//! That isr holds only current incarnations is checked by its consequences, in I3. For I1 only what nodes have received
//! counts: a coordinator that loses its state before anybody has heard of a change has not made it.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::cluster_map::{ClusterMap, SlotConfig};
use proto::id::Incarnation;
use proto::slot::SlotId;

use crate::world::World;

impl World {
    /// The coordinator has persisted a configuration; `before` is what it persisted last.
    pub(super) fn check_configuration(
        &mut self,
        slot: SlotId,
        before: Option<&SlotConfig>,
        config: &SlotConfig,
        min_isr: usize,
    ) {
        let mut wrong = None;
        if config.primary.is_some_and(|primary| !config.isr.contains(&primary)) {
            wrong = Some("the primary is not in sync");
        }
        let copies: Vec<_> = config.copies().collect();
        if copies.iter().collect::<BTreeSet<_>>().len() < copies.len() {
            wrong = Some("one node in two roles");
        }
        let published = self.oracle.model(slot).published.clone();
        // One that has lost its state, or has an older one again, takes over what nodes have received.
        let known = [before, published.as_deref()];
        let is_new = |member: &Incarnation| !known.iter().flatten().any(|before| before.elr.contains(member));
        if config.isr.len() >= min_isr && config.elr.iter().any(is_new) {
            wrong = Some("former members though there are enough in sync");
        }
        if let Some(what) = wrong {
            self.broken("I2", Some(slot), format!("slot {}: {what}: {config:?}", slot.0));
        }
    }

    /// A node has accepted a map.
    pub(crate) fn check_received(&mut self, before: Option<&ClusterMap>, map: &ClusterMap) {
        for (slot, config) in map.slots() {
            let model = self.oracle.model(slot);
            let known = model.received.entry(config.version).or_insert_with(|| Arc::clone(config));
            let mut wrong = None;
            if *known != *config {
                wrong = Some(format!("one version of two configurations: {known:?} and {config:?}"));
            }
            if let Some(primary) = config.primary {
                let known = *model.primaries.entry(config.epoch).or_insert(primary);
                if known != primary {
                    wrong = Some(format!("epoch {} has two primaries, {known} and {primary}", config.epoch));
                }
            }
            let older = |before: &SlotConfig| config.epoch < before.epoch || config.version < before.version;
            if let Some(before) = before.map(|before| before.config(slot)).filter(|before| older(before)) {
                wrong = Some(format!("{before:?} is followed by the older {config:?}"));
            }
            if let Some(what) = wrong {
                self.broken("I1", Some(slot), format!("slot {}: {what}", slot.0));
            }
        }
    }
}
