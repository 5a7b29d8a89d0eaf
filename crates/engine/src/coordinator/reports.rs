//! What nodes report about themselves and each other: full disks, a lack of memory, and that they are about to stop.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::Incarnation;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Nodes that report a full disk.
    full: BTreeSet<Incarnation>,
    /// By the node that reports it: who lacks the memory for which it has just refused writes.
    short_of_memory: BTreeMap<Incarnation, Vec<Incarnation>>,
    /// Nodes that report being about to stop.
    stopping: BTreeSet<Incarnation>,
}

impl Reports {
    /// A node begins a session. It reports a full disk and a lack of memory anew in each; its report that this is over
    /// may have been lost with the last one.
    pub(super) fn begin_session(&mut self, node: Incarnation) {
        self.full.remove(&node);
        self.short_of_memory.remove(&node);
    }

    /// A node has a full disk, or room again. `false` if that is known.
    pub(super) fn set_full(&mut self, node: Incarnation, is_full: bool) -> bool {
        if is_full { self.full.insert(node) } else { self.full.remove(&node) }
    }

    pub(super) fn set_short_of_memory(&mut self, reporter: Incarnation, short: Vec<Incarnation>) {
        self.short_of_memory.insert(reporter, short);
    }

    /// A node is about to stop. `false` if that is known.
    pub(super) fn set_stopping(&mut self, node: Incarnation) -> bool {
        self.stopping.insert(node)
    }

    /// Forgets the reports of nodes that are no longer registered.
    pub(super) fn retain(&mut self, registered: &BTreeSet<Incarnation>) {
        self.full.retain(|node| registered.contains(node));
        self.short_of_memory.retain(|reporter, _| registered.contains(reporter));
        self.stopping.retain(|node| registered.contains(node));
    }

    pub(super) fn full(&self) -> &BTreeSet<Incarnation> {
        &self.full
    }

    pub(super) fn short_of_memory(&self) -> BTreeSet<Incarnation> {
        self.short_of_memory.values().flatten().copied().collect()
    }

    pub(super) fn is_stopping(&self, node: Incarnation) -> bool {
        self.stopping.contains(&node)
    }

    /// Nodes that lead nothing that another member can lead.
    pub(super) fn avoid_as_primary(&self) -> BTreeSet<Incarnation> {
        self.full.union(&self.stopping).copied().collect()
    }
}
