//! A coordinator and nodes that behave as a test tells them to.
//!
//! [`FakeCluster`] runs a [`FakeCoordinator`] and some [`FakeNode`]s on ports picked by the system. They speak the
//! protocol with the codecs of `proto`, but nothing happens unless the test asks for it: no node fails, no map changes
//! and nothing is replicated by itself. A node carries out a write with an identity once, however often it is sent.
//! Every server stops when it is dropped.

mod coordinator;
mod node;
mod server;

use std::collections::BTreeMap;

use proto::cluster_map::{ClusterMap, MapVersion, Member, SlotConfig};
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::ring::HashRing;
use proto::slot::{Position, SlotBits, SlotId};

pub use coordinator::FakeCoordinator;
pub use node::{Behaviour, FakeNode};

/// Few enough slots to print, and enough for every node to lead some.
const BITS: SlotBits = SlotBits::new(6);

/// A primary and two replicas.
const COPIES: usize = 3;

/// A whole cluster.
#[derive(Debug)]
pub struct FakeCluster {
    /// The coordinator.
    pub coordinator: FakeCoordinator,
    /// The nodes; their incarnations are 1, 2, 3 ...
    pub nodes: Vec<FakeNode>,
}

impl FakeCluster {
    /// Starts a cluster of `count` nodes, with slots placed as a real cluster places them.
    pub async fn start(count: usize) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(FakeNode::start().await);
        }
        let addrs: Vec<NodeAddr> = nodes.iter().map(|node| node.addr().clone()).collect();
        let coordinator = FakeCoordinator::start(placed(&addrs)).await;
        Self { coordinator, nodes }
    }

    /// The coordinator's address, as text.
    #[must_use]
    pub fn coordinator_addr(&self) -> String {
        self.coordinator.addr().to_string()
    }

    /// The node that leads a key, according to the coordinator's map.
    #[must_use]
    pub fn primary_of(&self, key: &[u8]) -> &FakeNode {
        self.holders_of(key).first().copied().expect("the key has a primary")
    }

    /// The nodes that hold a key, according to the coordinator's map, the primary first.
    #[must_use]
    pub fn holders_of(&self, key: &[u8]) -> Vec<&FakeNode> {
        let map = self.coordinator.map();
        let holders = map.holders(slot_of(key)).map(|(_, member)| member.addr.clone());
        holders
            .map(|addr| self.nodes.iter().find(|node| *node.addr() == addr).expect("a node of this cluster"))
            .collect()
    }

    /// Publishes a map in which these nodes hold the key, the first as its primary. If there are none, nobody holds it.
    pub fn set_holders(&self, key: &[u8], holders: &[&FakeNode]) {
        self.coordinator.change(|map| {
            let isr: Vec<Incarnation> =
                holders.iter().map(|node| map.starts_at(node.addr()).next().expect("a node of this cluster")).collect();
            let slot = slot_of(key);
            let epoch = Epoch(map.config(slot).epoch.0 + 1);
            let version = map.version;
            let config = SlotConfig { epoch, version, primary: isr.first().copied(), isr, ..SlotConfig::default() };
            map.set_config(slot, config.into());
        });
    }
}

fn slot_of(key: &[u8]) -> SlotId {
    BITS.slot(&Position::of(key))
}

/// The first map of a cluster of these nodes.
#[must_use]
pub fn placed(nodes: &[NodeAddr]) -> ClusterMap {
    let mut map = ClusterMap::empty("fake".to_owned(), BITS);
    let members: BTreeMap<Incarnation, Member> =
        (1..).map(Incarnation).zip(nodes).map(|(inc, addr)| (inc, Member { addr: addr.clone(), up: true })).collect();
    let ring = HashRing::with_nodes(3, nodes.iter().cloned());
    for (slot, owners) in BITS.slots().zip(ring.slot_owners(BITS, COPIES)) {
        let incarnation =
            |addr: &NodeAddr| members.iter().find(|(_, member)| member.addr == *addr).map(|(inc, _)| *inc);
        let isr: Vec<Incarnation> = owners.into_iter().filter_map(incarnation).collect();
        let config = SlotConfig {
            epoch: Epoch(1),
            version: MapVersion(1),
            primary: isr.first().copied(),
            isr,
            ..SlotConfig::default()
        };
        map.set_config(slot, config.into());
    }
    map.set_members(members);
    map.version = MapVersion(1);
    map
}
