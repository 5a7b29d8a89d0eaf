//! The health of the slots: what `STATUS` reports and `WAIT_HEALTHY` waits for.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::{MapVersion, SlotConfig};
use proto::id::{Incarnation, NodeAddr};
use proto::session::Filling;

use super::{Coordinator, Phase};
use crate::bugs::Bugs;
use crate::plan::{ClusterView, Plan, plan};
use crate::status::{Fill, HandOver, Leaver, Problem, Ranges, Stage, Status};
use crate::time::Timestamp;

/// The progress of the fills.
#[derive(Debug, Default)]
pub(super) struct Fills {
    /// By the node that is being filled.
    under_way: BTreeMap<Incarnation, UnderWay>,
    /// What primaries have reported about the keys they have still to send, by sender; each report names the receiver.
    keys_left: BTreeMap<Incarnation, Vec<Filling>>,
}

#[derive(Debug)]
struct UnderWay {
    since: Timestamp,
    /// The largest number of slots there were to fill.
    most: usize,
}

impl Fills {
    /// Notes how many slots each of these nodes still has to be filled with.
    pub(super) fn note(&mut self, now: Timestamp, left: &BTreeMap<Incarnation, usize>) {
        self.under_way.retain(|node, _| left.contains_key(node));
        for (node, left) in left {
            let under_way = self.under_way.entry(*node).or_insert(UnderWay { since: now, most: 0 });
            under_way.most = under_way.most.max(*left);
        }
    }

    /// A node reports what it has still to send.
    pub(super) fn told(&mut self, from: Incarnation, fills: Vec<Filling>) {
        if fills.is_empty() {
            self.keys_left.remove(&from);
        } else {
            self.keys_left.insert(from, fills);
        }
    }

    /// Forgets the reports of nodes that are no longer registered.
    pub(super) fn retain(&mut self, is_registered: impl Fn(&Incarnation) -> bool) {
        self.keys_left.retain(|from, _| is_registered(from));
    }

    fn keys_left(&self, to: Incarnation) -> u64 {
        let fills = self.keys_left.values().flatten().filter(|fill| fill.to == to);
        fills.map(|fill| fill.keys).fold(0, u64::saturating_add)
    }
}

/// The condition of a slot.
struct Look {
    to_fill: Vec<Incarnation>,
    problem: Option<Problem>,
    /// It has a copy that will be given up.
    is_surplus: bool,
    plan: Plan,
}

/// The nodes that a slot still has to be copied to: those that should hold it, are heard from, and do not have it.
pub(super) fn to_fill<'a>(
    config: &'a SlotConfig,
    target: &'a [Incarnation],
    view: &'a ClusterView<impl Bugs>,
) -> impl Iterator<Item = Incarnation> + 'a {
    target.iter().copied().filter(|node| !config.isr.contains(node) && view.is_heard(*node))
}

impl<B: Bugs> Coordinator<B> {
    fn leaver(&self, node: &NodeAddr, slots: usize) -> Leaver {
        Leaver { node: node.clone(), slots, is_here: self.registry.get(node).is_some() }
    }

    /// Whether every slot has a primary and all its copies in the right places, and nothing moves.
    pub fn is_healthy(&mut self, now: Timestamp) -> bool {
        let copies = self.copies();
        let is_whole =
            |config: &SlotConfig| config.isr.len() == copies && config.learners.is_empty() && config.elr.is_empty();
        // A cheap check first, for callers that wait while slots move.
        self.phase == Phase::Serving
            // A node that has announced itself is waited for from then on.
            && self.joining.is_empty()
            && self.map.slots().all(|(_, config)| is_whole(config))
            && self.status(now).is_healthy()
    }

    /// The condition of the slots.
    pub fn status(&mut self, now: Timestamp) -> Status {
        self.wake(now);
        let addrs = |nodes: &BTreeSet<Incarnation>| {
            nodes.iter().filter_map(|node| self.registry.addr_of(*node).cloned()).collect()
        };
        let mut status = Status {
            stage: self.stage(),
            slots: self.settings.bits.count(),
            copies: self.copies(),
            nodes: self.registry.len(),
            timeout: self.settings.cluster_settings.heartbeat_timeout,
            silent: self.registry.silent(now),
            cut: self.cut(now),
            away: self.away().map(|(addr, until)| (addr.clone(), until - now)).collect(),
            full: addrs(self.reports.full()),
            short_of_memory: addrs(&self.reports.short_of_memory()),
            fills: Vec::new(),
            leaving: self.leaving().map(|(node, slots)| self.leaver(node, slots)).collect(),
            replaced: self.departures.replacing.iter().map(|(new, old)| (old.clone(), new.clone())).collect(),
            hand_overs: Vec::new(),
            surplus: Ranges::default(),
            changing: Ranges::default(),
            problems: BTreeMap::new(),
        };
        if status.stage != Stage::Serving {
            return status;
        }
        let view = self.view(now);
        let mut left: BTreeMap<Incarnation, usize> = BTreeMap::new();
        let mut hand_overs: BTreeMap<(Incarnation, Incarnation), Ranges> = BTreeMap::new();
        // Slots come in runs with the same holders and owners; each run is looked at once.
        let mut run: Option<(&SlotConfig, &[Incarnation], Look)> = None;
        let targets = self.targets();
        for (slot, target) in self.settings.bits.slots().zip(targets.iter()) {
            let config = self.map.config(slot);
            if !run.as_ref().is_some_and(|(before, wanted, _)| *wanted == target && before.has_same_holders(config)) {
                let look = self.look(config, target, &view);
                run = Some((config, target, look));
            }
            let Some((_, _, look)) = &run else { continue };
            if config.primary.is_some() {
                look.to_fill.iter().for_each(|node| *left.entry(*node).or_default() += 1);
            }
            if let Some(problem) = &look.problem {
                match status.problems.get_mut(problem) {
                    Some(slots) => slots.add(slot),
                    None => status.problems.entry(problem.clone()).or_default().add(slot),
                }
            } else if look.is_surplus {
                status.surplus.add(slot);
            }
            match look.plan {
                Plan::HandOver { from, to } => hand_overs.entry((from, to)).or_default().add(slot),
                Plan::Change(_) => status.changing.add(slot),
                // Lost slots are reported among the problems.
                Plan::Keep
                | Plan::Promote(_)
                | Plan::PromoteUnproven(_)
                | Plan::PromoteOlder(..)
                | Plan::StartAnew(_) => {}
            }
        }
        self.fills.note(now, &left);
        status.fills = left.iter().filter_map(|(node, left)| self.fill(now, *node, *left)).collect();
        let hand_over = |((from, to), slots): ((Incarnation, Incarnation), Ranges)| {
            Some(HandOver { from: self.registry.addr_of(from)?.clone(), to: self.registry.addr_of(to)?.clone(), slots })
        };
        status.hand_overs = hand_overs.into_iter().filter_map(hand_over).collect();
        status
    }

    /// The nodes between which the network fails: primaries, each with a copy that complains about it.
    fn cut(&self, now: Timestamp) -> Vec<(NodeAddr, NodeAddr)> {
        let heard = |node| self.registry.addr_of(node).filter(|_| !self.registry.is_suspect(now, node)).cloned();
        let complaints = self.suspicion.complaints(now).into_iter();
        let pairs = complaints.flat_map(|(about, from)| from.into_iter().map(move |from| (about, from)));
        pairs.filter_map(|(about, from)| Some((heard(about)?, heard(from)?))).collect()
    }

    fn look(&self, config: &SlotConfig, target: &[Incarnation], view: &ClusterView<B>) -> Look {
        Look {
            to_fill: to_fill(config, target, view).collect(),
            problem: self.problem(config, target, view),
            is_surplus: config.isr.iter().any(|member| !target.contains(member)),
            plan: plan(config, target, view),
        }
    }

    fn stage(&self) -> Stage {
        match self.phase {
            Phase::Fresh => Stage::Fresh,
            Phase::Gathering(_) => Stage::Gathering,
            Phase::Recovering => Stage::Awaiting(self.awaited()),
            Phase::Serving if self.map.version == MapVersion(0) => Stage::Fresh,
            // This is the newest map that anybody knows of, and no node is awaited for long.
            Phase::Restored(_) | Phase::Serving => Stage::Serving,
        }
    }

    fn fill(&self, now: Timestamp, node: Incarnation, left: usize) -> Option<Fill> {
        let under_way = self.fills.under_way.get(&node)?;
        Some(Fill {
            node: self.registry.addr_of(node)?.clone(),
            left,
            total: under_way.most.max(left),
            since: now - under_way.since,
            keys_left: self.fills.keys_left(node),
            is_full: self.reports.full().contains(&node),
        })
    }

    /// What is wrong with a slot, if anything. Being moved is not a problem.
    fn problem(&self, config: &SlotConfig, target: &[Incarnation], view: &ClusterView<B>) -> Option<Problem> {
        let members: Vec<_> = config.isr.iter().chain(&config.elr).copied().collect();
        if members.is_empty() {
            // The older copies report what they have, and then one of them leads.
            return Some(if config.learners.is_empty() { Problem::Unheld } else { Problem::NoPrimary });
        }
        let awaited = self.named(view.awaited_by_unproven(config));
        if !awaited.is_empty() {
            return Some(Problem::Unproven { holders: awaited });
        }
        if view.unproven_members(config).is_empty() {
            let successors: Vec<_> = members.iter().map(|member| view.successor(*member)).collect();
            if !successors.iter().any(|successor| view.alive.contains(successor)) {
                return Some(Problem::Waits { holders: self.named(members.into_iter()) });
            }
            if !successors.iter().any(|successor| view.is_heard(*successor)) {
                return Some(Problem::Silent { holders: self.named(members.into_iter()) });
            }
        }
        // A primary that is merely silent may be heard by everybody else, and keeps leading until a copy complains.
        let leads = |primary: Incarnation| {
            let is_here = config.isr.contains(&primary) && view.alive.contains(&primary);
            is_here && !view.is_accused(config, primary)
        };
        if !config.primary.is_some_and(leads) {
            return Some(Problem::NoPrimary);
        }
        let in_sync = config.isr.iter().filter(|member| view.is_heard(**member)).count();
        if in_sync >= self.copies() {
            return None;
        }
        let mut silent: Vec<_> = config.copies().chain(target.iter().copied()).collect();
        silent.retain(|node| !view.is_heard(*node));
        let filling = to_fill(config, target, view);
        // A node that is away has a place on the ring, but is no target.
        // Addresses that were registered by hand count only if there are no others.
        let places = match self.wanted() {
            0 => self.ring.nodes().len().min(self.copies()),
            nodes => nodes,
        };
        Some(Problem::Short {
            in_sync,
            silent: self.named(silent.into_iter()),
            filling: self.named(filling),
            away: places.saturating_sub(target.len()),
            nodes_missing: self.copies() - places,
        })
    }

    /// The addresses of these nodes, sorted.
    fn named(&self, nodes: impl Iterator<Item = Incarnation>) -> Vec<NodeAddr> {
        let addr = |node| self.registry.addr_of(node).or(self.map.member(node).map(|member| &member.addr));
        let mut named: Vec<_> = nodes.filter_map(addr).cloned().collect();
        named.sort();
        named.dedup();
        named
    }
}
