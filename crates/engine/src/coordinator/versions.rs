//! The numbers of a coordinator's versions and epochs: hardly ever do two of its starts issue the same. And what it
//! keeps if it turns out to have continued from an older state, and another coordinator from the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapVersion, SlotConfig};
use proto::id::{Incarnation, NodeAddr};
use proto::slot::SlotId;

use crate::bugs::{Bug, Bugs};
use crate::output::Settings;

/// How many numbers one start of a coordinator can issue.
const NUMBERS: u64 = 1 << 24;

/// The distance between generations. Each start of a coordinator is of a higher one than that which it continues from,
/// and takes its numbers from one of 8,192 parts of it, chosen at random. So two starts that continue from the same map
/// hardly ever issue the same.
const GENERATION: u64 = NUMBERS << 13;

/// The distance to the next generation if a node was not waited for: it may know of some that nobody else has heard of.
const UNSEEN_GENERATIONS: u64 = GENERATION << 10;

/// For this many starts of a coordinator with its state, it is known which numbers each has passed over.
const KNOWN_STARTS: usize = 100;

/// A start of the coordinator with its state. If that was an older one, another coordinator has continued from it, too,
/// with numbers that this one has passed over or with others of the same generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The version that it continued from.
    pub(super) after: MapVersion,
    /// The first number of its own.
    pub(super) first: MapVersion,
}

impl Start {
    fn has_passed_over(self, version: MapVersion) -> bool {
        self.after < version && version < self.first
    }

    /// Whether a start that has issued a version which this coordinator does not know parted from it before this start.
    fn is_behind(self, version: MapVersion) -> bool {
        let is_another = self.first.0 / NUMBERS != version.0 / NUMBERS;
        is_another && self.first.0 / GENERATION >= version.0 / GENERATION
    }
}

/// All versions that a map has.
fn versions(map: &ClusterMap) -> impl Iterator<Item = MapVersion> {
    map.slots().map(|(_, config)| config.version).chain([map.version])
}

/// The numbers that were issued, and what the coordinator needs to tell its own from those of another.
#[derive(Debug)]
pub(super) struct Versions {
    /// The last number.
    counter: u64,
    /// Where the part of each generation begins that this start takes its numbers from.
    part: u64,
    /// This start and earlier ones that continued from a state, oldest first.
    starts: Vec<Start>,
    /// How many copies must be in sync for a quorum write.
    min_isr: usize,
    /// By slot, when it last got a primary or an in-sync set that quorum writes may rely on: the version of the map.
    relied_on: Vec<MapVersion>,
    /// The nodes that have joined since this start, and may have followed this coordinator's map.
    followers: BTreeSet<NodeAddr>,
    /// What it had when it turned out that a node knows of changes that it has forgotten.
    own: Option<Own>,
}

/// The map of a coordinator that was started with an older state, before it took over that of another.
#[derive(Debug)]
struct Own {
    map: ClusterMap,
    /// The nodes that may have followed it.
    followers: BTreeSet<NodeAddr>,
}

impl Own {
    /// Whether a copy that counts in the map of another coordinator may be lost: its node has followed this map, where it
    /// does not count, so that it may have been deleted or be about to be refilled.
    fn may_have_dropped(&self, slot: SlotId, addr: &NodeAddr) -> bool {
        let config = self.map.config(slot);
        let mut counted = config.isr.iter().chain(&config.elr).filter_map(|copy| self.map.member(*copy));
        self.followers.contains(addr) && !counted.any(|member| member.addr == *addr)
    }

    /// The configuration of a slot in another coordinator's map, without copies that may be lost: they are learners. If
    /// no other counts, that of the own map. `None` if nothing changes.
    ///
    /// IMPORTANT: whoever followed this map knew nothing of the other one, in which it counts, and has promised nothing
    /// there. What was promised, the others have.
    fn without_dropped(&self, slot: SlotId, map: &ClusterMap) -> Option<Arc<SlotConfig>> {
        let config = map.config(slot);
        let is_dropped =
            |copy: &Incarnation| map.member(*copy).is_some_and(|member| self.may_have_dropped(slot, &member.addr));
        let (dropped, mut isr): (Vec<_>, Vec<_>) = config.isr.iter().copied().partition(is_dropped);
        let (formerly, mut elr): (Vec<_>, Vec<_>) = config.elr.iter().copied().partition(is_dropped);
        if dropped.is_empty() && formerly.is_empty() {
            return None;
        }
        if isr.is_empty() {
            isr = std::mem::take(&mut elr);
        }
        if isr.is_empty() {
            return Some(Arc::clone(self.map.config(slot)));
        }
        let primary = config.primary.filter(|primary| isr.contains(primary));
        let learners = [dropped, formerly, config.learners.clone()].concat();
        Some(Arc::new(SlotConfig { primary, isr, elr, learners, ..SlotConfig::clone(config) }))
    }
}

impl Versions {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            counter: 0,
            part: u64::from(settings.incarnations) * NUMBERS % GENERATION,
            starts: Vec::new(),
            min_isr: settings.cluster_settings.min_isr(),
            relied_on: vec![MapVersion(0); settings.bits.count()],
            followers: BTreeSet::new(),
            own: None,
        }
    }

    /// Takes the next number.
    pub(super) fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Numbers up to that of a map that was taken over are not issued any more.
    pub(super) fn pass(&mut self, version: MapVersion) {
        self.counter = self.counter.max(version.0);
    }

    /// Continues from a state that was read. If it is an older one, another coordinator has continued from it, too.
    pub(super) fn continue_from_state(&mut self, after: MapVersion, bugs: impl Bugs) {
        if bugs.plants(Bug::NumbersShared) {
            self.counter = after.0;
            return;
        }
        self.next_generation(after, GENERATION);
        self.starts.retain(|start| start.first <= after);
        self.starts.push(Start { after, first: MapVersion(self.counter + 1) });
        let forgotten = self.starts.len().saturating_sub(KNOWN_STARTS);
        self.starts.drain(..forgotten);
    }

    /// Continues from a map that was taken over, above every number that its nodes can have seen. Returns the first
    /// version. `has_forgotten`: some of its nodes were not waited for.
    pub(super) fn continue_from_nodes(&mut self, after: MapVersion, has_forgotten: bool) -> MapVersion {
        self.next_generation(after, if has_forgotten { UNSEEN_GENERATIONS } else { GENERATION });
        self.own = None;
        self.starts.clear();
        MapVersion(self.next_number())
    }

    fn next_generation(&mut self, after: MapVersion, distance: u64) {
        self.counter = self.counter.max(after.0).next_multiple_of(distance) + self.part;
    }

    /// Notes that a slot has got another primary or in-sync set, if quorum writes may rely on that.
    pub(super) fn note_relied_on(&mut self, slot: SlotId, before: &SlotConfig, next: &SlotConfig) {
        let is_another = before.epoch != next.epoch || before.isr != next.isr;
        if is_another
            && next.isr.len() >= self.min_isr
            && let Some(version) = self.relied_on.get_mut(usize::from(slot.0))
        {
            *version = next.version;
        }
    }

    /// Whether a map of this cluster has changes that are unknown to this coordinator, whose own map is `known`.
    pub(super) fn knows_more(&self, held: &ClusterMap, known: &ClusterMap) -> bool {
        let is_unknown = |(slot, held): (SlotId, &Arc<SlotConfig>)| {
            let known = known.config(slot);
            held.version > known.version || (held.version == known.version && held != known)
        };
        versions(held).any(|version| !self.is_known(version, known)) || held.slots().any(is_unknown)
    }

    /// Likewise while a map is taken over: the own one is that which this coordinator had before.
    pub(super) fn is_news(&self, held: &ClusterMap) -> bool {
        self.own.as_ref().is_none_or(|own| self.knows_more(held, &own.map))
    }

    /// Whether this coordinator, whose map is `known`, continues from this version or has issued it.
    fn is_known(&self, version: MapVersion, known: &ClusterMap) -> bool {
        version <= known.version && !self.starts.iter().any(|start| start.has_passed_over(version))
    }

    /// A node has joined, and follows this coordinator's map.
    pub(super) fn is_followed_by(&mut self, addr: NodeAddr) {
        self.followers.insert(addr);
    }

    /// It has turned out that a node knows of changes that this coordinator, whose map is `own`, has forgotten.
    pub(super) fn part_from(&mut self, own: ClusterMap) {
        self.own = Some(Own { map: own, followers: std::mem::take(&mut self.followers) });
    }

    /// After another coordinator's map was taken over that has changes unknown to this one: keeps in it what this one
    /// has decided since the two parted, in slots that the other has not changed, and where it may have been relied on.
    /// In the others, copies that this one may have ordered to be deleted do not count.
    ///
    /// IMPORTANT: a quorum write may have been acknowledged by an in-sync set of its own that was large enough, also if
    /// it is smaller now, and whoever knows more was not in it. A set that both have in common is not its own.
    pub(super) fn keep_own(&self, map: &mut ClusterMap, bugs: impl Bugs) {
        let Some(own) = &self.own else { return };
        let parted_at = self.parted_at(map, &own.map);
        let is_kept = |slot: SlotId, config: &SlotConfig| {
            let may_hold_writes = if bugs.plants(Bug::OwnJudgedBySize) {
                config.isr.len() >= own.map.cluster_settings.min_isr()
            } else {
                self.relied_on.get(usize::from(slot.0)).is_some_and(|version| *version > parted_at)
            };
            config.version > parted_at && (may_hold_writes || map.config(slot).version <= parted_at)
        };
        let changed = |(slot, config): (SlotId, &Arc<SlotConfig>)| {
            let next = if is_kept(slot, config) {
                Some(Arc::clone(config))
            } else {
                own.without_dropped(slot, map).filter(|_| !bugs.plants(Bug::DroppedCopyCounts))
            };
            Some((slot, next?))
        };
        let changes: Vec<_> = own.map.slots().filter_map(changed).collect();
        let mut members: BTreeMap<_, _> = map.members().map(|(start, member)| (start, member.clone())).collect();
        for start in changes.iter().flat_map(|(_, config)| config.copies().chain(config.primary)) {
            if let Some(member) = own.map.member(start) {
                members.entry(start).or_insert_with(|| member.clone());
            }
        }
        changes.into_iter().for_each(|(slot, config)| map.set_config(slot, config));
        map.set_members(members);
    }

    /// The last version that the map of another coordinator, which was taken over, has in common with this one's own,
    /// as far as can be told.
    fn parted_at(&self, map: &ClusterMap, own: &ClusterMap) -> MapVersion {
        let (known, unknown): (Vec<_>, Vec<_>) = versions(map).partition(|version| self.is_known(*version, own));
        let start_before = |version: MapVersion| self.starts.iter().find(|start| start.is_behind(version));
        let before_a_start = unknown.into_iter().filter_map(|version| Some(start_before(version)?.after)).min();
        // Otherwise it has been started more often than this one.
        let last_start = self.starts.last().map(|start| start.after);
        before_a_start.or_else(|| known.into_iter().chain(last_start).max()).unwrap_or_default()
    }

    /// For the state.
    pub(super) fn starts(&self) -> &[Start] {
        &self.starts
    }

    /// For the state.
    pub(super) fn relied_on(&self) -> &[MapVersion] {
        &self.relied_on
    }

    /// Restores what a state says, with the first and the last of neighboring slots that relied on a version. `None` if
    /// there are no such slots.
    pub(super) fn restore(&mut self, starts: Vec<Start>, relied_on: Vec<(usize, usize, MapVersion)>) -> Option<()> {
        self.starts = starts;
        relied_on.into_iter().try_for_each(|(first, last, version)| {
            self.relied_on.get_mut(first..=last).map(|slots| slots.fill(version))
        })
    }
}

#[cfg(test)]
mod tests {
    use proto::cluster_map::Member;
    use proto::slot::SlotBits;

    use super::*;

    /// A map with one slot. Node `n` runs as start `10 * n + generation`.
    fn map(generation: u64, primary: Option<u64>, [isr, elr, learners]: [&[u64]; 3]) -> ClusterMap {
        let start = |node: &u64| Incarnation(10 * node + generation);
        let starts = |nodes: &[u64]| nodes.iter().map(start).collect::<Vec<_>>();
        let member =
            |node: u64| (start(&node), Member { addr: format!("n:{node}").parse().expect("an address"), up: true });
        let mut map = ClusterMap::empty("a".to_owned(), SlotBits::new(1));
        map.set_members((1..=4).map(member).collect());
        let config = SlotConfig {
            primary: primary.as_ref().map(start),
            isr: starts(isr),
            elr: starts(elr),
            learners: starts(learners),
            ..SlotConfig::default()
        };
        map.set_config(SlotId(0), Arc::new(config));
        map
    }

    #[test]
    fn what_the_own_map_may_have_deleted_does_not_count_in_that_of_another_coordinator() {
        let own = |followers: &[u64], roles: [&[u64]; 3]| Own {
            map: map(2, None, roles),
            followers: followers.iter().map(|node| format!("n:{node}").parse().expect("an address")).collect(),
        };
        let taken =
            |own: &Own, primary: u64, roles: [&[u64]; 3]| own.without_dropped(SlotId(0), &map(1, Some(primary), roles));
        let left = |config: Option<Arc<SlotConfig>>| {
            let config = config.expect("it changes");
            let nodes = |starts: &[Incarnation]| starts.iter().map(|start| start.0 / 10).collect::<Vec<_>>();
            (config.primary.map(|start| start.0 / 10), nodes(&config.isr), nodes(&config.elr), nodes(&config.learners))
        };
        // Node 3 was admitted by the other coordinator. This one has removed it, or does not count it yet.
        for roles in [[&[1, 2][..], &[], &[]], [&[1, 2], &[], &[3]]] {
            let own = own(&[2, 3], roles);
            assert_eq!(left(taken(&own, 1, [&[1, 3, 2], &[], &[]])), (Some(1), vec![1, 2], vec![], vec![3]));
            assert_eq!(left(taken(&own, 1, [&[1], &[2, 3], &[4]])), (Some(1), vec![1], vec![2], vec![3, 4]));
            // It knew nothing of its promotion. The former members have all that was promised; or nobody else counts.
            assert_eq!(left(taken(&own, 3, [&[3], &[1, 2], &[]])), (None, vec![1, 2], vec![], vec![3]));
            assert_eq!(left(taken(&own, 3, [&[3], &[], &[]])).1, [1, 2], "the configuration of the own map");
            assert_eq!(taken(&own, 1, [&[1, 2], &[], &[3]]), None, "it does not count anyway");
        }
        // It was away, or counts for this coordinator as well, by whatever start.
        assert_eq!(taken(&own(&[2], [&[1, 2], &[], &[]]), 1, [&[1, 3, 2], &[], &[]]), None);
        assert_eq!(taken(&own(&[2, 3], [&[1, 2], &[3], &[]]), 1, [&[1, 3, 2], &[], &[]]), None);
    }
}
