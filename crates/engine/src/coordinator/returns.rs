//! Who has just come back with what it held, and who is expected to. If all nodes fell silent together, it was the
//! coordinator that heard nobody, and all of them are about to be back.

use std::collections::BTreeSet;

use proto::cluster_map::ClusterMap;
use proto::id::Incarnation;

use super::GATHERING;
use crate::registry::Registry;
use crate::time::Timestamp;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Nodes that came back with their data since the last look at the slots, whether or not they still had a place on
    /// the ring.
    with_data: BTreeSet<Incarnation>,
    /// Nodes that are back with their data but have not been given their slots yet.
    returning: BTreeSet<Incarnation>,
    /// The nodes that were taken off as silent since any node was last heard.
    deserters: BTreeSet<Incarnation>,
    /// These nodes, once one of them is back.
    expected: BTreeSet<Incarnation>,
    /// Until when the others are expected.
    expected_until: Timestamp,
}

impl Returns {
    /// A node is back with its data.
    pub(super) fn is_back(&mut self, node: Incarnation, has_place: bool) {
        self.with_data.insert(node);
        if has_place {
            self.returning.insert(node);
        }
    }

    /// All slots have been looked at.
    pub(super) fn were_looked_at(&mut self) {
        self.returning.clear();
        self.with_data.clear();
    }

    pub(super) fn with_data(&self) -> &BTreeSet<Incarnation> {
        &self.with_data
    }

    pub(super) fn is_returning(&self, node: Incarnation) -> bool {
        self.returning.contains(&node)
    }

    /// A node is taken off as silent.
    pub(super) fn deserts(&mut self, node: Incarnation) {
        self.deserters.insert(node);
    }

    /// Some node is heard: the silence of the others is their own.
    pub(super) fn somebody_is_heard(&mut self) {
        self.deserters.clear();
    }

    /// A node is back, and no other is here. If its silence has cost it its place, and it was the same with all nodes,
    /// the others are expected, too.
    pub(super) fn first_is_back(&mut self, now: Timestamp, node: Incarnation) {
        if self.deserters.contains(&node) {
            (self.expected, self.expected_until) = (std::mem::take(&mut self.deserters), now + GATHERING);
        }
    }

    /// The nodes that are about to come back.
    pub(super) fn expected(&self, now: Timestamp, map: &ClusterMap, registry: &Registry) -> BTreeSet<Incarnation> {
        let is_away = |node: &&Incarnation| map.member(**node).is_some_and(|it| registry.get(&it.addr).is_none());
        self.expected.iter().filter(|_| now < self.expected_until).filter(is_away).copied().collect()
    }

    /// Time has passed: whoever is not back by now is no longer expected.
    pub(super) fn handle_timeout(&mut self, now: Timestamp) {
        if now >= self.expected_until {
            self.expected.clear();
        }
    }

    /// Until when nodes are expected.
    pub(super) fn next_deadline(&self) -> Option<Timestamp> {
        (!self.expected.is_empty()).then_some(self.expected_until)
    }
}
