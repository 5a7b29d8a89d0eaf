//! Consistent hashing: which nodes own a position on the ring.
//!
//! Karger et al., "Consistent hashing and random trees" (1997), with virtual nodes as in Dynamo (2007). A node named
//! `host:port` stands at the positions of `host:port:virtual:0` to `host:port:virtual:V-1`. A key belongs to the first
//! node whose position is strictly greater than the key's, wrapping at the end; its replicas are the next distinct
//! nodes clockwise.

use crate::id::NodeAddr;
use crate::slot::{Position, SlotBits};

/// The ring of all registered nodes.
///
/// Adding or removing a node costs V hashes and one merge; a lookup is one hash and one binary search.
#[derive(Debug, Clone)]
pub struct HashRing {
    virtual_nodes: u32,
    nodes: Vec<NodeAddr>,
    /// Sorted; two virtual nodes at the same position (no case is known) are ordered by name.
    points: Vec<(Position, NodeAddr)>,
}

impl HashRing {
    /// An empty ring on which each node stands at `virtual_nodes` positions.
    #[must_use]
    pub fn new(virtual_nodes: u32) -> Self {
        Self { virtual_nodes, nodes: Vec::new(), points: Vec::new() }
    }

    /// A ring of these nodes; a node named twice counts once.
    #[must_use]
    pub fn with_nodes(virtual_nodes: u32, nodes: impl IntoIterator<Item = NodeAddr>) -> Self {
        let mut ring = Self::new(virtual_nodes);
        ring.nodes.extend(nodes);
        ring.nodes.sort();
        ring.nodes.dedup();
        ring.points = ring.nodes.iter().flat_map(|node| points_of(node, virtual_nodes)).collect();
        ring.points.sort();
        ring
    }

    /// Adds a node; `false` if it was already on the ring.
    pub fn add(&mut self, node: NodeAddr) -> bool {
        self.add_weighted(node, 1)
    }

    /// Adds a node with `weight` times the positions of others, and so `weight` times their share; `false` if it was
    /// already on the ring.
    pub fn add_weighted(&mut self, node: NodeAddr, weight: u32) -> bool {
        let Err(at) = self.nodes.binary_search(&node) else { return false };
        self.points.extend(points_of(&node, self.virtual_nodes.saturating_mul(weight)));
        self.points.sort(); // Two sorted runs: the standard sort merges them in linear time.
        self.nodes.insert(at, node);
        true
    }

    /// Removes a node; `false` if it was not on the ring.
    pub fn remove(&mut self, node: &NodeAddr) -> bool {
        let Ok(at) = self.nodes.binary_search(node) else { return false };
        self.nodes.remove(at);
        self.points.retain(|(_, owner)| owner != node);
        true
    }

    /// The nodes on the ring, sorted by name.
    #[must_use]
    pub fn nodes(&self) -> &[NodeAddr] {
        &self.nodes
    }

    /// The first `count` distinct nodes clockwise from the key, its primary first. Fewer if the ring has fewer.
    #[must_use]
    pub fn owners(&self, key: &[u8], count: usize) -> Vec<&NodeAddr> {
        self.owners_of(&Position::of(key), count)
    }

    /// As [`HashRing::owners`], from a position.
    #[must_use]
    pub fn owners_of(&self, position: &Position, count: usize) -> Vec<&NodeAddr> {
        let first = self.points.partition_point(|(point, _)| point <= position);
        self.walk(first, count)
    }

    /// The owners of every slot, in slot order: those of each slot's first position.
    #[must_use]
    pub fn slot_owners(&self, bits: SlotBits, count: usize) -> Vec<Vec<&NodeAddr>> {
        let runs = self.owner_runs(bits, count).into_iter();
        runs.flat_map(|(slots, owners)| std::iter::repeat_n(owners, slots)).collect()
    }

    /// The same as runs: how many consecutive slots share the same owners, and those owners.
    #[must_use]
    pub fn owner_runs(&self, bits: SlotBits, count: usize) -> Vec<(usize, Vec<&NodeAddr>)> {
        let mut next = 0;
        let mut runs: Vec<(usize, Vec<&NodeAddr>)> = Vec::new();
        let mut begun_at = None;
        for slot in bits.slots() {
            let position = bits.first_position(slot);
            while self.points.get(next).is_some_and(|(point, _)| *point <= position) {
                next += 1;
            }
            match runs.last_mut() {
                Some((slots, _)) if begun_at == Some(next) => *slots += 1,
                _ => {
                    begun_at = Some(next);
                    runs.push((1, self.walk(next, count)));
                }
            }
        }
        runs
    }

    /// The first `count` distinct nodes from the point with index `first`, clockwise.
    fn walk(&self, first: usize, count: usize) -> Vec<&NodeAddr> {
        let wanted = count.min(self.nodes.len());
        let mut owners: Vec<&NodeAddr> = Vec::with_capacity(wanted);
        let (before, from) = self.points.split_at(first.min(self.points.len()));
        for (_, node) in from.iter().chain(before) {
            if owners.len() == wanted {
                break;
            }
            if !owners.contains(&node) {
                owners.push(node);
            }
        }
        owners
    }
}

fn points_of(node: &NodeAddr, virtual_nodes: u32) -> Vec<(Position, NodeAddr)> {
    let mut points: Vec<_> =
        (0..virtual_nodes).map(|i| (Position::of(format!("{node}:virtual:{i}").as_bytes()), node.clone())).collect();
    points.sort();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: u16) -> NodeAddr {
        NodeAddr::new("127.0.0.1", port).unwrap()
    }

    #[test]
    fn adding_and_removing_gives_the_ring_built_at_once() {
        let mut ring = HashRing::new(16);
        for port in [5003, 5001, 5002, 5004] {
            assert!(ring.add(node(port)));
            assert!(!ring.add(node(port)));
        }
        assert!(ring.remove(&node(5004)));
        assert!(!ring.remove(&node(5004)));
        let at_once = HashRing::with_nodes(16, [5001, 5002, 5003].map(node));
        assert_eq!(ring.nodes, at_once.nodes);
        assert_eq!(ring.points, at_once.points);
    }

    /// Twenty rings of `nodes` nodes each, with different names.
    fn rings(virtual_nodes: u32, nodes: u16) -> impl Iterator<Item = HashRing> {
        let name = |set: u16, i: u16| NodeAddr::new(&format!("10.{set}.0.{i}"), 5001).unwrap();
        (0..20).map(move |set| HashRing::with_nodes(virtual_nodes, (0..nodes).map(|i| name(set, i))))
    }

    #[test]
    fn one_more_node_moves_its_share_and_little_else() {
        let bits = SlotBits::new(14);
        for nodes in [3, 5, 9] {
            let (mut primaries, mut copies) = (0, 0);
            for mut ring in rings(128, nodes) {
                let owners = |ring: &HashRing| -> Vec<Vec<NodeAddr>> {
                    let owners = ring.slot_owners(bits, 3).into_iter();
                    owners.map(|nodes| nodes.into_iter().cloned().collect()).collect()
                };
                let before = owners(&ring);
                assert!(ring.add(node(5001)));
                for (before, after) in before.iter().zip(owners(&ring)) {
                    primaries += usize::from(before[0] != after[0]);
                    copies += after.iter().filter(|node| !before.contains(node)).count();
                }
            }
            let share = |moved: usize| moved as f64 / (20 * bits.count()) as f64 * f64::from(nodes + 1);
            assert!((0.85..=1.15).contains(&share(primaries)), "{nodes}: {} of the fair share", share(primaries));
            assert!((0.85 * 3.0..=1.15 * 3.0).contains(&share(copies)), "{nodes}: {} copies", share(copies));
        }
    }

    #[test]
    fn a_node_of_twice_the_weight_leads_twice_as_much() {
        let bits = SlotBits::new(14);
        let mut led = 0;
        for mut ring in rings(128, 4) {
            assert!(ring.add_weighted(node(5001), 2) && !ring.add_weighted(node(5001), 2));
            led += ring.slot_owners(bits, 3).iter().filter(|owners| *owners[0] == node(5001)).count();
        }
        let share = led as f64 / (20 * bits.count()) as f64 * 6.0;
        assert!((1.85..=2.15).contains(&share), "{share} of the share of others");
        let mut ring = HashRing::with_nodes(3, [node(5001)]);
        assert!(ring.remove(&node(5001)) && ring.add_weighted(node(5001), 1));
        assert_eq!(ring.points, HashRing::with_nodes(3, [node(5001)]).points, "of weight 1 all is as it was");
    }

    #[test]
    fn slot_owners_are_the_owners_of_first_positions() {
        let bits = SlotBits::new(10);
        for nodes in 0..6 {
            let ring = HashRing::with_nodes(3, (0..nodes).map(|i| node(5001 + i)));
            let all = ring.slot_owners(bits, 3);
            for slot in bits.slots() {
                assert_eq!(all[usize::from(slot.0)], ring.owners_of(&bits.first_position(slot), 3));
            }
        }
    }
}
