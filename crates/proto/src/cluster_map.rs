//! The cluster map: who holds which slot. The coordinator decides, and everyone follows.
//!
//! Every change of the map has a number, its version, which only grows. A slot's configuration carries the version of
//! its last change, so the changes since any earlier version can be computed without keeping that version.
//!
//! As text, for the wire (`MAP`, `WATCH_MAP`) and for people:
//!
//! ```text
//! OK Map version=9 since=0 cluster=3f0c slots=16384 replicas=2 ack=async read=local timeout=10000
//! NODE 1 127.0.0.1:5001 up
//! NODE 2 127.0.0.1:5002 up
//! SLOTS 0 16383 epoch=3 version=9 primary=1 isr=1,2 learners=- elr=-
//! ```
//!
//! Nodes are named by their incarnation. Consecutive slots with the same configuration share one line, from first to
//! last. With `since=0` the text holds all slots, otherwise those that changed after that version. If nodes are
//! leaving, the first line continues with `leaving=host:port,...`; if nodes are to be replaced by ones that have not
//! joined yet, with `replacing=new,old,...`. Any further words on that line are ignored.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{Epoch, Incarnation, NodeAddr, NotACounter, counter};
use crate::level::{AckLevel, ReadLevel};
use crate::slot::{SlotBits, SlotId};

/// The number of a change of the map. 0 precedes every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MapVersion(pub u64);

impl FromStr for MapVersion {
    type Err = NotACounter;

    fn from_str(text: &str) -> Result<Self, NotACounter> {
        counter(text).map(Self)
    }
}

/// Who holds one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotConfig {
    /// Grows when the primary changes.
    pub epoch: Epoch,
    /// The map version at which this configuration was made. Changes to it are a compare-and-set on this number.
    pub version: MapVersion,
    /// The node that orders the slot's writes. `None` while nobody holds the slot.
    pub primary: Option<Incarnation>,
    /// The in-sync set: the filled copies, including the primary, in ring order.
    pub isr: Vec<Incarnation>,
    /// Copies that are being filled.
    pub learners: Vec<Incarnation>,
    /// Copies that left the in-sync set while it was too small for quorum writes. They hold everything that was ever
    /// promised, so one of them may lead if no in-sync copy is left. Empty while the in-sync set is large enough.
    pub elr: Vec<Incarnation>,
}

/// Cluster-wide settings that the operator has chosen and every node follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Copies of a key besides its primary.
    pub replicas: usize,
    /// The level of a connection's writes until it asks for another.
    pub ack: AckLevel,
    /// The level of a connection's reads until it asks for another.
    pub read: ReadLevel,
    /// How long the coordinator may hear nothing from a node before taking it off the ring.
    pub heartbeat_timeout: Duration,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            replicas: 2,
            ack: AckLevel::default(),
            read: ReadLevel::default(),
            heartbeat_timeout: Duration::from_secs(10),
        }
    }
}

impl ClusterSettings {
    /// How many copies a slot should have.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.replicas + 1
    }

    /// How many copies must be in sync for a quorum write: the majority of [`ClusterSettings::copies`].
    #[must_use]
    pub fn min_isr(&self) -> usize {
        self.copies() / 2 + 1
    }

    /// Whether so few copies are in sync that another node could be given the slot without a word from any of them but
    /// its primary: a former member, or any node once the primary's address is another's or an operator has given its
    /// data up. Such a primary serves only while it hears from the coordinator.
    #[must_use]
    pub fn is_small(&self, in_sync: usize) -> bool {
        in_sync < self.min_isr().max(2)
    }
}

impl SlotConfig {
    /// Whether the same nodes hold it in the same roles: two configurations that differ at most in epoch and version.
    #[must_use]
    pub fn has_same_holders(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || (self.primary == other.primary
                && self.isr == other.isr
                && self.learners == other.learners
                && self.elr == other.elr)
    }

    /// All nodes that have a copy or are being given one: the in-sync set, then the others.
    pub fn copies(&self) -> impl Iterator<Item = Incarnation> {
        self.isr.iter().chain(&self.elr).chain(&self.learners).copied()
    }
}

/// A node that appears in the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where to reach it.
    pub addr: NodeAddr,
    /// Whether it is registered and alive. A node that is not up is named only while no other copy of a slot is known.
    pub up: bool,
}

/// Nodes that operators want gone for good. They are in the map so that a coordinator that loses its state learns of
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Departures {
    /// Nodes that are leaving.
    pub leaving: BTreeSet<NodeAddr>,
    /// Nodes that leave once another has joined, keyed by that other.
    pub replacing: BTreeMap<NodeAddr, NodeAddr>,
}

/// How many slots a map keeps in one block.
const BLOCK: usize = 64;

/// The whole map. A clone shares its blocks of slots, and a change copies only the blocks that it touches: both are
/// cheap, however often slots move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMap {
    /// The identity of the cluster: a word made when it was first set up.
    pub cluster: String,
    /// The version of its newest change.
    pub version: MapVersion,
    /// What the operator has chosen.
    pub cluster_settings: ClusterSettings,
    /// Nodes that are to leave for good.
    pub departures: Departures,
    bits: SlotBits,
    members: BTreeMap<Incarnation, Member>,
    blocks: Vec<Arc<Block>>,
}

/// [`BLOCK`] consecutive slots, or all of them if there are fewer.
#[derive(Debug, Clone, Eq)]
struct Block {
    /// No configuration in the block has a later version.
    newest: MapVersion,
    slots: Vec<Arc<SlotConfig>>,
}

impl PartialEq for Block {
    fn eq(&self, other: &Self) -> bool {
        self.slots == other.slots
    }
}

/// The map, or the changes to it, as sent over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapUpdate {
    /// The identity of the cluster.
    pub cluster: String,
    /// The version that the receiver must have; 0 if it needs none because the update is a whole map.
    pub since: MapVersion,
    /// The version that the update leads to.
    pub version: MapVersion,
    /// What the operator has chosen.
    pub cluster_settings: ClusterSettings,
    /// Nodes that are to leave for good; every update names all of them.
    pub departures: Departures,
    bits: SlotBits,
    members: BTreeMap<Incarnation, Member>,
    runs: Vec<(SlotId, SlotId, Arc<SlotConfig>)>,
}

/// Why an update was not applied. The map is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The text is not a map.
    #[error("not a cluster map: {0}")]
    Malformed(&'static str),
    /// The update starts from a version that the receiver does not have. It must ask for the whole map.
    #[error("the update does not apply to the current map")]
    Gap,
    /// The update is of another cluster. A node that holds data of one cluster must not follow the map of another.
    #[error("the map belongs to another cluster")]
    OtherCluster,
}

impl ClusterMap {
    /// A map in which nobody holds anything.
    #[must_use]
    pub fn empty(cluster: String, bits: SlotBits) -> Self {
        let size = bits.count().min(BLOCK);
        let nobody = Arc::<SlotConfig>::default();
        let empty = Arc::new(Block { newest: MapVersion(0), slots: vec![nobody; size] });
        let blocks = vec![empty; bits.count() / size];
        Self {
            cluster,
            version: MapVersion(0),
            cluster_settings: ClusterSettings::default(),
            departures: Departures::default(),
            bits,
            members: BTreeMap::new(),
            blocks,
        }
    }

    /// How keys are divided into slots.
    #[must_use]
    pub fn bits(&self) -> SlotBits {
        self.bits
    }

    /// Who holds a slot.
    ///
    /// # Panics
    /// If this map has no such slot: the caller divided keys by a different number of bits.
    #[must_use]
    pub fn config(&self, slot: SlotId) -> &Arc<SlotConfig> {
        let block = self.blocks.get(usize::from(slot.0) / BLOCK);
        let config = block.and_then(|block| block.slots.get(usize::from(slot.0) % BLOCK));
        config.expect("a slot number is below the map's slot count")
    }

    /// All slots with their configurations, in order.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, &Arc<SlotConfig>)> {
        self.bits.slots().zip(self.blocks.iter().flat_map(|block| &block.slots))
    }

    /// The slots whose configuration may differ from that in `before`, a map from which this one was made by updates,
    /// in order. Slots that the updates do not name are not among them.
    pub fn changes_from<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (SlotId, &'a Arc<SlotConfig>)> {
        let is_shared = |at: &usize| {
            let blocks = (self.blocks.get(*at), before.blocks.get(*at));
            matches!(blocks, (Some(now), Some(then)) if Arc::ptr_eq(now, then))
        };
        let first_slots = (0..self.blocks.len()).filter(move |at| !is_shared(at)).map(|at| at * BLOCK);
        let slots = first_slots.flat_map(|first| (first..first + BLOCK).take_while(|slot| *slot < self.bits.count()));
        // Slot numbers have 16 bits.
        let configs = slots.map(|slot| SlotId(slot as u16)).map(|slot| (slot, self.config(slot)));
        configs.filter(|(slot, config)| !Arc::ptr_eq(config, before.config(*slot)))
    }

    /// The nodes in the map.
    pub fn members(&self) -> impl Iterator<Item = (Incarnation, &Member)> {
        self.members.iter().map(|(incarnation, member)| (*incarnation, member))
    }

    /// A node by its incarnation.
    #[must_use]
    pub fn member(&self, incarnation: Incarnation) -> Option<&Member> {
        self.members.get(&incarnation)
    }

    /// The starts of the node at this address that the map names, up or not. An earlier one is named as long as a slot
    /// waits for it.
    pub fn starts_at(&self, addr: &NodeAddr) -> impl Iterator<Item = Incarnation> {
        self.members().filter(move |(_, member)| member.addr == *addr).map(|(start, _)| start)
    }

    /// Whether a node at this address is up.
    #[must_use]
    pub fn is_node(&self, addr: &NodeAddr) -> bool {
        self.members.values().any(|member| member.up && member.addr == *addr)
    }

    /// The nodes that hold a slot: its primary first, then the other in-sync copies. Empty while nobody does.
    pub fn holders(&self, slot: SlotId) -> impl Iterator<Item = (Incarnation, &Member)> {
        let config = self.config(slot);
        let others = config.isr.iter().copied().filter(|other| Some(*other) != config.primary);
        config.primary.into_iter().chain(others).filter_map(|inc| self.members.get(&inc).map(|member| (inc, member)))
    }

    /// Replaces the known nodes. The caller sets the version of the change with [`ClusterMap::version`].
    pub fn set_members(&mut self, members: BTreeMap<Incarnation, Member>) {
        self.members = members;
    }

    /// Replaces a slot's configuration.
    pub fn set_config(&mut self, slot: SlotId, config: Arc<SlotConfig>) {
        let Some(block) = self.blocks.get_mut(usize::from(slot.0) / BLOCK).map(Arc::make_mut) else { return };
        if let Some(place) = block.slots.get_mut(usize::from(slot.0) % BLOCK) {
            block.newest = block.newest.max(config.version);
            *place = config;
        }
    }

    /// What has changed after `since`; everything if that is `MapVersion(0)`.
    #[must_use]
    pub fn update_since(&self, since: MapVersion) -> MapUpdate {
        let mut runs: Vec<(SlotId, SlotId, Arc<SlotConfig>)> = Vec::new();
        let is_old = |version: MapVersion| since != MapVersion(0) && version <= since;
        // If nothing in a block is newer than `since`, its slots need no comparison of their own.
        let blocks = self.blocks.iter().flat_map(|block| block.slots.iter().map(|config| (block.newest, config)));
        for (slot, (newest, config)) in self.bits.slots().zip(blocks) {
            if is_old(newest) || is_old(config.version) {
                continue;
            }
            match runs.last_mut() {
                Some((_, last, same)) if last.0 + 1 == slot.0 && same == config => *last = slot,
                _ => runs.push((slot, slot, Arc::clone(config))),
            }
        }
        MapUpdate {
            cluster: self.cluster.clone(),
            since,
            version: self.version,
            cluster_settings: self.cluster_settings,
            departures: self.departures.clone(),
            bits: self.bits,
            members: self.members.clone(),
            runs,
        }
    }

    /// The map after an update. `current` is what the receiver has, if anything.
    ///
    /// # Errors
    /// [`MapError::Gap`] when the update is a change of another version than `current`; ask for the whole map.
    pub fn updated(current: Option<&Self>, update: &MapUpdate) -> Result<Self, MapError> {
        let mut map = match current {
            _ if update.since == MapVersion(0) => Self::empty(update.cluster.clone(), update.bits),
            Some(map) if map.version == update.since && map.cluster == update.cluster && map.bits == update.bits => {
                map.clone()
            }
            _ => return Err(MapError::Gap),
        };
        map.version = update.version;
        map.cluster_settings = update.cluster_settings;
        map.departures.clone_from(&update.departures);
        map.members.clone_from(&update.members);
        for (first, last, config) in &update.runs {
            (first.0..=last.0).for_each(|slot| map.set_config(SlotId(slot), Arc::clone(config)));
        }
        Ok(map)
    }
}

impl MapUpdate {
    /// All nodes in the update.
    pub fn members(&self) -> impl Iterator<Item = (Incarnation, &Member)> {
        self.members.iter().map(|(incarnation, member)| (*incarnation, member))
    }

    /// Whether any slot gets a different primary than in `before`, or the same one in a new epoch.
    #[must_use]
    pub fn changes_a_primary(&self, before: &ClusterMap) -> bool {
        self.bits == before.bits
            && self.runs.iter().any(|(first, last, config)| {
                (first.0..=last.0).any(|slot| before.config(SlotId(slot)).epoch != config.epoch)
            })
    }

    /// The same for receivers that propose no changes: consecutive slots that differ only in the version of their last
    /// change share one line, with the newest of those versions.
    #[must_use]
    pub fn condensed(mut self) -> Self {
        let mut runs: Vec<(SlotId, SlotId, Arc<SlotConfig>)> = Vec::new();
        for (first, last, config) in self.runs {
            match runs.last_mut() {
                Some((_, end, same))
                    if end.0 + 1 == first.0 && same.epoch == config.epoch && same.has_same_holders(&config) =>
                {
                    *end = last;
                    if config.version > same.version {
                        *same = config;
                    }
                }
                _ => runs.push((first, last, config)),
            }
        }
        self.runs = runs;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(epoch: u64, version: u64, primary: u64, isr: &[u64]) -> Arc<SlotConfig> {
        Arc::new(SlotConfig {
            epoch: Epoch(epoch),
            version: MapVersion(version),
            primary: (primary > 0).then_some(Incarnation(primary)),
            isr: isr.iter().copied().map(Incarnation).collect(),
            ..SlotConfig::default()
        })
    }

    fn map() -> ClusterMap {
        let mut map = ClusterMap::empty("c1".into(), SlotBits::new(3));
        let member = |port| Member { addr: NodeAddr::new("h", port).unwrap(), up: port != 3 };
        map.set_members((1..4).map(|i| (Incarnation(i), member(i.try_into().unwrap()))).collect());
        for slot in map.bits().slots() {
            map.set_config(slot, config(1, 1, 1, &[1, 2]));
        }
        map.version = MapVersion(1);
        map
    }

    #[test]
    fn who_leaves_travels_with_every_change() {
        let addr = |port| NodeAddr::new("h", port).unwrap();
        let (old, mut new) = (map(), map());
        new.departures.leaving = [addr(1), addr(2)].into();
        new.departures.replacing = [(addr(9), addr(3)), (addr(8), addr(1))].into();
        new.version = MapVersion(2);
        let lines = new.update_since(MapVersion(1)).to_lines();
        let head = lines.first().unwrap();
        assert!(head.ends_with(" timeout=10000 leaving=h:1,h:2 replacing=h:8,h:1,h:9,h:3"), "{head}");
        let update = MapUpdate::parse(lines.iter().map(String::as_str)).unwrap();
        assert_eq!(ClusterMap::updated(Some(&old), &update).unwrap(), new);
        let later = format!("{head} more=1");
        assert_eq!(
            MapUpdate::parse([later.as_str()]).unwrap().departures,
            new.departures,
            "further words are passed over"
        );
    }

    #[test]
    fn the_whole_map_travels_as_text() {
        let map = map();
        let lines = map.update_since(MapVersion(0)).to_lines();
        assert_eq!(lines.len(), 1 + 3 + 1, "equal slots are one line: {lines:#?}");
        let update = MapUpdate::parse(lines.iter().map(String::as_str)).unwrap();
        assert_eq!(ClusterMap::updated(None, &update).unwrap(), map);
    }

    #[test]
    fn a_change_holds_what_changed_and_needs_its_base() {
        let old = map();
        let mut new = old.clone();
        new.set_config(SlotId(2), config(2, 2, 2, &[2]));
        new.set_config(SlotId(7), config(2, 2, 0, &[]));
        new.version = MapVersion(2);
        let lines = new.update_since(MapVersion(1)).to_lines();
        assert_eq!(lines.iter().filter(|line| line.starts_with("SLOTS")).count(), 2);
        let update = MapUpdate::parse(lines.iter().map(String::as_str)).unwrap();
        assert_eq!(ClusterMap::updated(Some(&old), &update).unwrap(), new);
        assert_eq!(ClusterMap::updated(None, &update), Err(MapError::Gap));
        assert_eq!(ClusterMap::updated(Some(&new), &update), Err(MapError::Gap));
    }

    #[test]
    fn a_condensed_map_says_the_same_in_fewer_lines() {
        let mut map = map();
        map.set_config(SlotId(3), config(1, 5, 1, &[1, 2]));
        map.set_config(SlotId(6), config(6, 6, 2, &[1, 2]));
        let exact = map.update_since(MapVersion(0));
        let condensed = exact.clone().condensed();
        assert_eq!((exact.runs.len(), condensed.runs.len()), (5, 3));
        let read = ClusterMap::updated(None, &condensed).unwrap();
        for (slot, config) in map.slots() {
            let read = read.config(slot);
            assert!(config.epoch == read.epoch && config.has_same_holders(read), "{slot:?}");
        }
    }

    #[test]
    fn texts_that_are_no_map_are_refused() {
        for text in [
            "",
            "OK",
            "OK Map version=1 since=0 cluster=c slots=3 replicas=2 ack=async read=local timeout=10000",
            "OK Map version=1 since=0 cluster=c slots=8 replicas=99 ack=async read=local timeout=10000",
            "OK Map version=1 since=0 cluster=c slots=8 replicas=2 ack=async read=local timeout=10000\nFOO",
            "OK Map version=1 since=0 cluster=c slots=8 replicas=2 ack=async read=local timeout=10000\nNODE 1 nowhere up",
            "OK Map version=1 since=0 cluster=c slots=8 replicas=2 ack=async read=local timeout=10000 leaving=nowhere",
            "OK Map version=1 since=0 cluster=c slots=8 replicas=2 ack=async read=local timeout=10000\nSLOTS 5 2 epoch=1 version=1 primary=1 isr=1 learners=- elr=-",
            "OK Map version=1 since=0 cluster=c slots=8 replicas=2 ack=async read=local timeout=10000\nSLOTS 0 8 epoch=1 version=1 primary=1 isr=1 learners=- elr=-",
        ] {
            assert!(MapUpdate::parse(text.lines()).is_err(), "{text}");
        }
    }

    #[test]
    fn holders_are_named_primary_first() {
        let mut map = map();
        map.set_config(SlotId(0), config(2, 2, 2, &[1, 2, 3]));
        let names: Vec<u64> = map.holders(SlotId(0)).map(|(inc, _)| inc.0).collect();
        assert_eq!(names, [2, 1, 3]);
        assert!(map.is_node(&NodeAddr::new("h", 1).unwrap()));
        assert!(!map.is_node(&NodeAddr::new("h", 3).unwrap()), "a node that is down is no node to send to");
    }

    #[test]
    fn starts_of_a_node_are_found_by_its_address() {
        let mut map = map();
        let mut members: BTreeMap<_, _> = map.members().map(|(start, member)| (start, member.clone())).collect();
        members.insert(Incarnation(7), Member { addr: NodeAddr::new("h", 3).unwrap(), up: true });
        map.set_members(members);
        let starts = |port| map.starts_at(&NodeAddr::new("h", port).unwrap()).map(|start| start.0).collect::<Vec<_>>();
        assert_eq!((starts(1), starts(3), starts(9)), (vec![1], vec![3, 7], vec![]));
    }
}
