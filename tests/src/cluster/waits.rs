//! Waiting until a cluster has come to rest, in one respect or another.

use std::collections::BTreeSet;

use proto::id::Incarnation;
use proto::ring::HashRing;

use super::{Cluster, is_held_by, parse_map};
use crate::wait::{self, ensure, eventually};

impl Cluster {
    /// Waits until every slot is led by, and copied to, the nodes that the hash ring of the running nodes assigns to
    /// it, and nothing is being filled.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_until_settled(&self) {
        let running = self.running().map(|(_, node)| node.addr.parse().expect("a node's address parses"));
        let ring = HashRing::with_nodes(self.setup.virtual_nodes, running);
        // If too few nodes run for a majority, the last members are remembered for as long as that lasts.
        let few_run = self.few_run();
        let mut coordinator = self.open(&self.coordinator.addr);
        let mut owners = Vec::new();
        eventually("every slot is where the ring says", 2 * wait::SOON, || {
            let lines = coordinator.ask_lines("MAP");
            // Checked first because it is cheap: it rules out most intermediate maps.
            let still = |line: &&String| !line.contains(" learners=- ") || !(few_run || line.ends_with(" elr=-"));
            let filling = lines.iter().filter(|line| line.starts_with("SLOTS ")).find(still);
            ensure(filling.is_none(), || format!("{filling:?}"))?;
            let map = parse_map(&lines);
            if owners.is_empty() {
                owners = ring.slot_owners(map.bits(), self.setup.replicas + 1);
            }
            if let Some(((slot, config), wanted)) =
                map.slots().zip(&owners).find(|((slot, _), wanted)| !is_held_by(&map, *slot, wanted))
            {
                return Err(format!("slot {} should be with {wanted:?}: {config:?}", slot.0));
            }
            // IMPORTANT: the map may still be an older one, with an earlier start of a node at the same address.
            self.running().try_for_each(|(index, node)| {
                let incarnation = self.info(index).get("incarnation").and_then(|it| it.parse().ok()).map(Incarnation);
                let is_up = incarnation.and_then(|it| map.member(it)).is_some_and(|member| member.up);
                ensure(is_up, || {
                    format!("{} is {incarnation:?}, which the map does not have: {:?}", node.addr, lines.first())
                })
            })
        });
    }

    /// Waits until every running node uses the coordinator's current map, or a later one. If the coordinator were
    /// killed earlier, nodes would use an older map, and a node without a map would carry out nothing.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_until_map_everywhere(&self) {
        let version = self.map().version.0;
        for (index, node) in self.running() {
            eventually(&format!("{} has the map", node.addr), wait::SOON, || {
                let has: Option<u64> = self.info(index).get("map").and_then(|map| map.parse().ok());
                ensure(has >= Some(version), || format!("{has:?}, and the coordinator {version}"))
            });
        }
    }

    /// Waits until every slot is led by a running node. Which one may still change; see [`Cluster::wait_until_settled`].
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_until_led(&self) {
        let running: BTreeSet<&str> = self.running().map(|(_, node)| node.addr.as_str()).collect();
        eventually("every slot is led by a node that runs", wait::SOON, || {
            let map = self.map();
            let led = |slot| map.holders(slot).next().is_some_and(|(_, member)| running.contains(member.addr.as_str()));
            let orphan = map.slots().find(|(slot, _)| !led(*slot));
            ensure(orphan.is_none(), || format!("{orphan:?}"))
        });
    }

    /// Waits until a node, running or not, leads no slot any more, and all other running nodes know it.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_until_leads_nothing(&self, index: usize) {
        let addr = &self.node(index).addr;
        let version = eventually(&format!("{addr} leads nothing any more"), wait::SOON, || {
            let map = self.map();
            let led = |slot| map.holders(slot).next().is_some_and(|(_, member)| member.addr.as_str() != addr);
            let still = map.slots().find(|(slot, _)| !led(*slot));
            ensure(still.is_none(), || format!("{still:?}")).map(|()| map.version)
        });
        for (other, node) in self.running().filter(|(other, _)| *other != index) {
            eventually(&format!("{} knows that {addr} leads nothing any more", node.addr), wait::SOON, || {
                let info = self.info(other);
                let known = info.get("map").and_then(|map| map.parse::<u64>().ok());
                ensure(known >= Some(version.0), || format!("{info:?}"))
            });
        }
    }

    /// Waits until every record written so far has reached every running copy. A node that is left alone has nobody to
    /// wait for, and keeps what it would send to those who were in sync last.
    ///
    /// # Panics
    /// When that does not happen.
    #[track_caller]
    pub fn wait_until_level(&self) {
        if self.running().count() < 2 {
            return;
        }
        // Checking one after the other is enough: a node that was level once since then has sent everything written
        // before.
        for (index, node) in self.running() {
            eventually(&format!("the copies of what {} leads are level", node.addr), 2 * wait::SOON, || {
                let info = self.info(index);
                ensure(info.get("lag").is_some_and(|lag| lag == "0"), || format!("{info:?}"))
            });
        }
    }

    /// Waits until the coordinator lists exactly the running nodes.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_until_runners_listed(&self) {
        let running: BTreeSet<String> = self.running().map(|(_, node)| node.addr.clone()).collect();
        eventually("the coordinator lists the nodes that run", wait::SOON, || {
            let listed = self.listed();
            ensure(listed.iter().cloned().collect::<BTreeSet<_>>() == running, || format!("{listed:?}"))
        });
    }
}
