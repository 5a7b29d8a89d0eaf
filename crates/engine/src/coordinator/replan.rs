//! A look at all slots: plans each one and carries the plans out.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::SlotConfig;
use proto::id::{Incarnation, NodeAddr};
use proto::session::SlotAt;
use proto::slot::SlotId;

use super::Coordinator;
use super::hand_overs::Wanted;
use super::health::to_fill;
use crate::bugs::{Bug, Bugs};
use crate::output::{Event, Output};
use crate::plan::{self, ClusterView, Plan, plan};
use crate::promotion::Promotion;
use crate::time::Timestamp;

/// The nodes that the ring wants for each slot, run-length encoded over neighboring slots.
pub(super) struct Targets(Vec<(usize, Vec<Incarnation>)>);

impl Targets {
    /// One target per slot, in slot order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[Incarnation]> {
        self.0.iter().flat_map(|(slots, target)| std::iter::repeat_n(target.as_slice(), *slots))
    }
}

/// The plan of a slot. Most slots are held and wanted just like their neighbors, and then their plans are the same,
/// too.
struct Planned<'a> {
    config: &'a SlotConfig,
    target: &'a [Incarnation],
    /// The nodes that the slot still has to be copied to.
    to_fill: Vec<Incarnation>,
    plan: Plan,
}

/// A slot that has lost its primary, and the candidates to take over.
struct Lost {
    slot: SlotId,
    survivors: Vec<Incarnation>,
    what: SurvivorData,
}

/// What the candidates hold.
#[derive(Debug, PartialEq, Eq)]
enum SurvivorData {
    /// Each of them holds everything promised, so one answer is enough. In the other cases the positions of all must be
    /// known.
    Promised,
    /// Perhaps everything; nobody can prove it.
    Unproven,
    /// At best what was promised earlier. If they hold nothing, the slot starts over with this configuration.
    Older(SlotConfig),
}

/// Slots that continue with less than what was promised, and their new primaries.
#[derive(Debug, Default)]
struct DegradedPromotions {
    slots: usize,
    primaries: BTreeSet<NodeAddr>,
}

impl DegradedPromotions {
    fn add(&mut self, primary: Option<&NodeAddr>) {
        self.slots += 1;
        self.primaries.extend(primary.cloned());
    }
}

impl<B: Bugs> Coordinator<B> {
    /// Plans every slot and carries the plans out. Returns whether the map has changed, so that another look is due.
    pub(super) fn replan(&mut self, now: Timestamp) -> bool {
        self.replan_at = None;
        let registered = self.registry.incarnations();
        self.reports.retain(&registered);
        let view = self.view(now);
        let mut changes = Vec::new();
        let mut lost: Vec<Lost> = Vec::new();
        let mut hand_overs = Wanted::new();
        let (mut started_anew, mut unheld) = (0, 0);
        let mut left_to_fill: BTreeMap<Incarnation, usize> = BTreeMap::new();
        let targets = self.targets();
        let mut before: Option<Planned<'_>> = None;
        for ((slot, config), target) in self.map.slots().zip(targets.iter()) {
            let is_alike = |it: &Planned<'_>| it.target == target && it.config.has_same_holders(config);
            let planned = before.take().filter(is_alike).unwrap_or_else(|| Planned {
                config,
                target,
                to_fill: to_fill(config, target, &view).collect(),
                plan: plan(config, target, &view),
            });
            if config.primary.is_some() {
                planned.to_fill.iter().for_each(|node| *left_to_fill.entry(*node).or_default() += 1);
            }
            match &planned.plan {
                Plan::Keep => {}
                Plan::Change(next) => {
                    unheld += usize::from(next.copies().next().is_none());
                    changes.push((slot, next.clone()));
                }
                Plan::StartAnew(next) => {
                    started_anew += usize::from(config.copies().next().is_some());
                    changes.push((slot, next.clone()));
                }
                Plan::Promote(survivors) => {
                    lost.push(Lost { slot, survivors: survivors.clone(), what: SurvivorData::Promised });
                }
                Plan::PromoteUnproven(survivors) => {
                    lost.push(Lost { slot, survivors: survivors.clone(), what: SurvivorData::Unproven });
                }
                Plan::PromoteOlder(survivors, anew) => {
                    lost.push(Lost { slot, survivors: survivors.clone(), what: SurvivorData::Older(anew.clone()) });
                }
                Plan::HandOver { from, to } => {
                    hand_overs.entry((*from, *to)).or_default().push(SlotAt { slot, version: config.version });
                }
            }
            before = Some(planned);
        }
        self.fills.note(now, &left_to_fill);
        self.fills.retain(|node| view.alive.contains(node));
        if started_anew > 0 {
            self.event(Event::StartedAnew(started_anew));
        }
        if unheld > 0 {
            self.event(Event::Unheld(unheld));
        }
        self.note_awaited(&view);
        self.promote(now, lost, &view, &mut changes);
        self.limit_fills(&mut changes, &view);
        let members_changed = self.members() != self.map.members().map(|(i, m)| (i, m.clone())).collect();
        let departures_changed = self.departures != self.map.departures;
        let map_changes = !changes.is_empty() || members_changed || departures_changed;
        if map_changes {
            self.hand_overs.map_changes(now);
        }
        self.outputs.extend(self.hand_overs.ask(now, &self.map, hand_overs));
        if map_changes {
            self.commit(changes);
        }
        map_changes
    }

    /// Asks the survivors for their positions, including any that come back while others are being asked, and promotes
    /// one.
    ///
    /// IMPORTANT: never one that does not answer. It may be dead as well: after a power failure everywhere, silence
    /// must not remove anybody from the in-sync set, since each member may turn out to have the most when it comes
    /// back.
    fn promote(
        &mut self,
        now: Timestamp,
        lost: Vec<Lost>,
        view: &ClusterView<B>,
        changes: &mut Vec<(SlotId, SlotConfig)>,
    ) {
        if lost.is_empty() {
            self.promotion = None;
            return;
        }
        let mut round = self.promotion.take().unwrap_or_else(|| Promotion::new(self.versions.next_number(), now));
        let survivors = lost.iter().flat_map(|lost| lost.survivors.iter().map(|node| (*node, lost.slot)));
        let questions = round.ask(now, survivors);
        let query = round.query;
        self.outputs.extend(questions.into_iter().map(|(to, slots)| Output::AskPositions { to, query, slots }));
        if !round.is_over(now) {
            self.promotion = Some(round);
            return;
        }
        let planted = [Bug::PromoteAnyCopy, Bug::UnprovenUnasked].map(|bug| self.bugs.plants(bug));
        let is_known = |Lost { slot, survivors, what }: &Lost| match what {
            SurvivorData::Promised => planted[0] || round.choose(*slot, survivors).is_some(),
            SurvivorData::Unproven => planted[1] || round.knows_all(*slot, survivors),
            // A node whose disk accepts nothing cannot say what it has, and is not waited for if another can.
            SurvivorData::Older(_) => {
                let said = |copy: &Incarnation| round.knows_all(*slot, &[*copy]);
                survivors.iter().any(said)
                    && survivors.iter().all(|copy| said(copy) || view.avoid_as_primary.contains(copy))
            }
        };
        let (known, unknown): (Vec<_>, Vec<_>) = lost.into_iter().partition(is_known);
        self.decide_promotions(now, known, &round, view, changes);
        self.promote(now, unknown, view, changes);
    }

    fn decide_promotions(
        &mut self,
        now: Timestamp,
        lost: Vec<Lost>,
        round: &Promotion,
        view: &ClusterView<B>,
        changes: &mut Vec<(SlotId, SlotConfig)>,
    ) {
        if lost.is_empty() {
            return;
        }
        let lost_by: BTreeSet<_> = lost.iter().filter_map(|lost| self.map.config(lost.slot).primary).collect();
        for primary in view.complaints.keys() {
            let Some(addr) = self.registry.addr_of(*primary).cloned() else { continue };
            if view.suspected.contains(primary) {
                self.event(Event::Suspected(addr));
            } else if view.parted.contains(primary) && lost_by.contains(primary) {
                let pause = self.suspicion.replaced(now, *primary);
                self.event(Event::CutOff(addr, pause));
            }
        }
        let (mut promoted, mut anew) = (0, 0);
        let (mut unproven, mut older) = (DegradedPromotions::default(), DegradedPromotions::default());
        for Lost { slot, survivors, what } in lost {
            let plants = match what {
                SurvivorData::Promised => self.bugs.plants(Bug::PromoteAnyCopy),
                SurvivorData::Unproven => self.bugs.plants(Bug::UnprovenUnasked),
                SurvivorData::Older(_) => false,
            };
            let first = survivors.first().copied().filter(|_| plants);
            let Some(chosen) = first.or_else(|| round.choose(slot, &survivors)) else { continue };
            let addr = self.registry.addr_of(chosen);
            match what {
                SurvivorData::Promised => promoted += 1,
                SurvivorData::Unproven => unproven.add(addr),
                SurvivorData::Older(next) if !round.holds_any(slot, &survivors) => {
                    anew += 1;
                    changes.push((slot, next));
                    continue;
                }
                SurvivorData::Older(_) => older.add(addr),
            }
            changes.push((slot, plan::promoted(self.map.config(slot), chosen, view)));
        }
        self.unproven_promotions += (unproven.slots + older.slots) as u64;
        let events = [
            (promoted, Event::Promoted(promoted)),
            (unproven.slots, Event::PromotedUnproven(unproven.slots, unproven.primaries.into_iter().collect())),
            (older.slots, Event::PromotedOlder(older.slots, older.primaries.into_iter().collect())),
            (anew, Event::StartedAnew(anew)),
        ];
        events.into_iter().filter(|(slots, _)| *slots > 0).for_each(|(_, event)| self.event(event));
    }

    /// Reports, when it has changed, which nodes slots wait for because their other copies are here without proof.
    fn note_awaited(&mut self, view: &ClusterView<B>) {
        let mut awaited = BTreeSet::new();
        let mut slots = 0;
        for (_, config) in self.map.slots().filter(|_| view.successors.any_unproven()) {
            let mut members = view.awaited_by_unproven(config).peekable();
            slots += usize::from(members.peek().is_some());
            awaited.extend(members.filter_map(|member| Some(self.map.member(member)?.addr.clone())));
        }
        if awaited != self.awaited_by_unproven {
            if !awaited.is_empty() {
                self.event(Event::UnprovenWait(slots, awaited.iter().cloned().collect()));
            }
            self.awaited_by_unproven = awaited;
        }
    }

    /// The nodes that the ring wants for each slot, as far as they are here. Addresses registered by hand are passed over,
    /// unless there are no others: they can hold nothing together with nodes.
    pub(super) fn targets(&self) -> Targets {
        let incarnation = |addr: &&NodeAddr| self.registry.incarnation_at(addr);
        let is_by_hand = |addr: &NodeAddr| self.registry.get(addr).is_some_and(|node| node.by_hand);
        let by_hand = self.ring.nodes().iter().filter(|addr| is_by_hand(addr)).count();
        let has_nodes = by_hand < self.ring.nodes().len();
        let copies = self.copies() + self.away.len() + by_hand;
        let runs = self.ring.owner_runs(self.settings.bits, copies).into_iter();
        let target = |(slots, mut owners): (usize, Vec<&NodeAddr>)| {
            owners.retain(|addr| !(has_nodes && is_by_hand(addr)));
            // Nobody takes the place of a node that is away, unless all are.
            let (first, next) = owners.split_at(owners.len().min(self.copies()));
            let mut here: Vec<_> = first.iter().filter_map(incarnation).collect();
            if here.is_empty() {
                here.extend(next.iter().find_map(incarnation));
            }
            (slots, here)
        };
        Targets(runs.map(target).collect())
    }

    pub(super) fn view(&self, now: Timestamp) -> ClusterView<B> {
        ClusterView {
            alive: self.registry.incarnations(),
            by_hand: self.registry.by_hand().collect(),
            avoid_as_primary: self.reports.avoid_as_primary(),
            leaving: self.leavers(),
            wanted: self.wanted(),
            complaints: self.suspicion.complaints(now),
            parted: self.suspicion.parted(now),
            shunned: self.suspicion.shunned(now),
            suspected: self.registry.suspects(now),
            silent: self.registry.silent_nodes(now),
            unheard: self.registry.unheard_since(self.successors.unproven_at()),
            successors: self.successors.clone(),
            with_data: self.returns.with_data().clone(),
            patient: now < self.successors.grace_until(),
            expected: self.returns.expected(now, &self.map, &self.registry),
            min_isr: self.settings.cluster_settings.min_isr(),
            bugs: self.bugs,
        }
    }
}
