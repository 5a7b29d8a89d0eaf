//! Computes what a slot's configuration should become from who is alive: one slot, no state, no side effects.
//!
//! Everything here serves one rule: an empty copy never leads. The current holder fills a copy before that copy counts,
//! and keeps leading until then.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::{ClusterMap, SlotConfig};
use proto::id::Incarnation;

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::coordinator::Successors;

#[cfg(test)]
mod tests;

/// The status of the nodes at the moment of planning.
#[derive(Debug, Default)]
pub(crate) struct ClusterView<B: Bugs = NoBugs> {
    /// Registered, and heard within the timeout.
    pub alive: BTreeSet<Incarnation>,
    /// Alive, but registered by hand: the address runs none of our programs that could fill or be filled.
    pub by_hand: BTreeSet<Incarnation>,
    /// What became of earlier starts.
    pub successors: Successors,
    /// Primaries that copies of their slots do not hear, with the nodes that complained about them.
    pub complaints: BTreeMap<Incarnation, BTreeSet<Incarnation>>,
    /// Those that do not hear one of these copies either.
    pub parted: BTreeSet<Incarnation>,
    /// Were replaced for that a short while ago: nothing is handed over to them.
    pub shunned: BTreeSet<Incarnation>,
    /// Alive, but not heard from at the moment: nothing is handed over to them.
    pub suspected: BTreeSet<Incarnation>,
    /// Alive, but not heard from at the moment, whether or not there is an excuse.
    pub silent: BTreeSet<Incarnation>,
    /// Alive, but with a full disk or about to stop: they lead nothing that another member can lead.
    pub avoid_as_primary: BTreeSet<Incarnation>,
    /// Alive, but leaving for good: nothing is handed over to them.
    pub leaving: BTreeSet<Incarnation>,
    /// How many copies each slot should have, including those of nodes that are briefly away.
    pub wanted: usize,
    /// Registered, but not heard from since a start without proof of its data came back: they may have lost power along
    /// with it.
    pub unheard: BTreeSet<Incarnation>,
    /// Have just come back with what they held.
    pub with_data: BTreeSet<Incarnation>,
    /// Others may be about to come back in the same way.
    pub patient: bool,
    /// About to come back with what they held: nobody was heard for a while, and one of the others is back.
    pub expected: BTreeSet<Incarnation>,
    /// How many copies must be in sync for a quorum write.
    pub min_isr: usize,
    /// Planted bugs.
    pub bugs: B,
}

/// What to do about a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// The configuration is as it should be, or nothing can be done about it now.
    Keep,
    /// Commit this configuration. The committer assigns version and epoch; the epoch is new if the primary changes.
    Change(SlotConfig),
    /// The primary is lost; one of these must take over. Each of them holds everything ever promised.
    Promote(Vec<Incarnation>),
    /// The primary is lost, and none of the remaining copies is proven; all of these are here. The one that holds the
    /// most must take over, although some of what was promised may be missing.
    PromoteUnproven(Vec<Incarnation>),
    /// Every copy that held what was promised is gone for good. Of these, which may hold something older, the one that
    /// holds the most must take over; if none holds anything, the slot starts over empty, with this configuration.
    PromoteOlder(Vec<Incarnation>, SlotConfig),
    /// The ring wants another primary, which is in sync: ask the current primary to hand over to it.
    HandOver {
        /// The current primary.
        from: Incarnation,
        /// The intended primary.
        to: Incarnation,
    },
    /// Every copy is gone for good: the slot starts over empty.
    StartAnew(SlotConfig),
}

/// Plans one slot. `target` lists the nodes that should hold it according to the ring, primary first, all of them
/// alive, and either all or none of them registered by hand.
#[must_use]
pub(crate) fn plan(config: &SlotConfig, target: &[Incarnation], view: &ClusterView<impl Bugs>) -> Plan {
    let planned = plan_members(config, target, view);
    let is_awaited = config.isr.iter().any(|member| view.expected.contains(member));
    let planted = view.bugs.plants(Bug::OlderCopyDropped);
    if view.members(config).next().is_none() || view.hears_member(config) || is_awaited || planted {
        return planned;
    }
    // IMPORTANT: whatever becomes of the members, older copies are named before their nodes hear of this slot without
    // them, and give up what may turn out to be all that is left.
    let with_older = |mut next: SlotConfig| {
        let older = view.older_copies(config).into_iter().filter(|copy| !next.copies().any(|named| named == *copy));
        let older: Vec<_> = older.collect();
        next.learners.extend(older);
        change(config, next)
    };
    match planned {
        Plan::Change(next) => with_older(next),
        other => match with_older(config.clone()) {
            Plan::Keep => other,
            named => named,
        },
    }
}

/// Plans one slot, without regard to older copies that have just come back while no member is heard.
fn plan_members(config: &SlotConfig, target: &[Incarnation], view: &ClusterView<impl Bugs>) -> Plan {
    let (holders, former) = (view.without_gone(&config.isr), view.without_gone(&config.elr));
    let up: Vec<_> = holders.iter().copied().filter(|holder| view.alive.contains(holder)).collect();
    let only_by_hand = !holders.is_empty() && holders.iter().all(|holder| view.by_hand.contains(holder));

    if (holders.is_empty() && former.is_empty())
        || (only_by_hand && target.first().is_some_and(|node| !view.by_hand.contains(node)))
    {
        return without_members(config, target, view);
    }
    if only_by_hand && !up.is_empty() {
        // Nobody can be asked or filled, so the ring alone decides.
        return change(config, held_by(target));
    }
    if config.isr.iter().any(|member| view.expected.contains(member)) {
        return Plan::Keep;
    }
    let primary = config.primary.filter(|primary| up.contains(primary));
    let is_reborn = config.isr.iter().any(|member| view.successors.reborn(*member).is_some());
    let is_unproven = view.is_unproven(config);
    let nobody_is_heard = up.iter().all(|member| view.is_silent(config, *member));
    if primary.is_some_and(|primary| !view.is_accused(config, primary))
        && up.iter().all(|member| view.silent.contains(member))
    {
        // Nobody could be told of a smaller set, and the others may be heard again first.
        return Plan::Keep;
    }
    let patient = if is_reborn { primary.is_some() || view.patient } else { is_unproven };
    if nobody_is_heard && !up.is_empty() && patient {
        // Whether the others were up while one was restarted is unknown: they may be about to come back in the same
        // way. A member that stays silent is taken off the ring after a while, and then those that are back decide. A
        // member without proof could not decide then, and must not be left out now.
        return Plan::Keep;
    }
    if is_unproven
        && primary.is_some_and(|primary| view.unheard.contains(&primary) && !view.suspected.contains(&primary))
    {
        return Plan::Keep; // The primary will shortly be heard from, or become suspected.
    }
    let Some(primary) = primary.filter(|primary| !view.is_accused(config, *primary)) else {
        return replace_primary(config, &holders, &up, view);
    };
    keep_primary(config, primary, target, &up, view)
}

impl<B: Bugs> ClusterView<B> {
    /// Whether a copy complains that it does not hear this primary.
    pub(crate) fn complains(&self, copy: Incarnation, primary: Incarnation) -> bool {
        copy != primary && self.complaints.get(&primary).is_some_and(|complainers| complainers.contains(&copy))
    }

    /// Whether the slot needs another primary: this one is suspected and a copy of the slot complains about it, or it is
    /// cut off.
    pub(crate) fn is_accused(&self, config: &SlotConfig, primary: Incarnation) -> bool {
        let is_suspect = self.suspected.contains(&primary);
        (is_suspect && config.copies().any(|copy| self.complains(copy, primary))) || self.is_cut_off(config, primary)
    }

    /// Whether quorum writes cannot go on with the primary, and may without it: it is heard, but it and too many in-sync
    /// copies do not hear each other, and enough copies complain. Whether these hear each other is not known.
    ///
    /// IMPORTANT: an in-sync copy must be among them. A former member has all that was promised, but the primary may
    /// serve without its lease.
    pub(crate) fn is_cut_off(&self, config: &SlotConfig, primary: Incarnation) -> bool {
        if !self.parted.contains(&primary) || !self.is_heard(primary) {
            return false;
        }
        let is_apart = |copy: &Incarnation| {
            self.complains(*copy, primary) && self.is_heard(*copy) && !self.avoid_as_primary.contains(copy)
        };
        let in_sync = config.isr.iter().filter(|copy| is_apart(copy)).count();
        let any_member = in_sync > 0 || self.bugs.plants(Bug::FormerMemberBesidePrimary);
        any_member
            && config.isr.len() - in_sync < self.min_isr
            && config.copies().filter(is_apart).count() >= self.min_isr
    }

    /// Whether the node is registered and not suspected.
    pub(crate) fn is_heard(&self, node: Incarnation) -> bool {
        self.alive.contains(&node) && !self.suspected.contains(&node)
    }

    /// Those of these nodes that are not gone for good.
    fn without_gone(&self, nodes: &[Incarnation]) -> Vec<Incarnation> {
        nodes.iter().copied().filter(|node| !self.successors.is_gone(*node)).collect()
    }

    /// The incarnation that now holds what this one held: itself, or its next start if that found the data on its disk.
    pub(crate) fn successor(&self, incarnation: Incarnation) -> Incarnation {
        self.successors.holder(incarnation)
    }

    /// Likewise, but only a successor that is here.
    fn present_successor(&self, incarnation: Incarnation) -> Incarnation {
        let successor = self.successor(incarnation);
        if self.alive.contains(&successor) { successor } else { incarnation }
    }

    /// Whether both are the same, or `other` now holds what `one` held.
    pub(crate) fn is_same_data(&self, one: Incarnation, other: Incarnation) -> bool {
        one == other || self.successor(one) == other || self.successors.unproven(one) == Some(other)
    }

    /// Whether the node whose disk has what this incarnation held is leaving for good.
    fn is_leaving(&self, incarnation: Incarnation) -> bool {
        let unproven = self.successors.unproven(incarnation);
        self.leaving.contains(&self.successor(incarnation))
            || unproven.is_some_and(|successor| self.leaving.contains(&successor))
    }

    /// The members that each held everything promised and are not gone for good.
    fn members<'a>(&'a self, config: &'a SlotConfig) -> impl Iterator<Item = Incarnation> {
        let members = config.isr.iter().chain(&config.elr).copied();
        members.filter(|member| !self.successors.is_gone(*member))
    }

    /// Whether a member of the in-sync set is back without proof.
    pub(crate) fn is_unproven(&self, config: &SlotConfig) -> bool {
        config.isr.iter().any(|member| self.successors.unproven(*member).is_some())
    }

    /// Whether an in-sync member that is registered may be dead.
    fn is_silent(&self, config: &SlotConfig, member: Incarnation) -> bool {
        self.suspected.contains(&member) || (self.unheard.contains(&member) && self.is_unproven(config))
    }

    /// The current start of a member whose data is unproven, if it is here.
    fn unproven_successor(&self, member: Incarnation) -> Option<Incarnation> {
        self.successors.unproven(member).filter(|successor| self.alive.contains(successor))
    }

    /// The members that are here without proof.
    pub(crate) fn unproven_members(&self, config: &SlotConfig) -> Vec<Incarnation> {
        self.members(config).filter(|member| self.unproven_successor(*member).is_some()).collect()
    }

    /// The members that those here without proof are waiting for: they may come back with more.
    pub(crate) fn awaited_by_unproven<'a>(&'a self, config: &'a SlotConfig) -> impl Iterator<Item = Incarnation> {
        let is_away = |member: &Incarnation| !self.alive.contains(&self.successor(*member));
        let nobody_leads = self.members(config).all(|member| is_away(&member));
        let waits = nobody_leads && self.members(config).any(|member| self.unproven_successor(member).is_some());
        let is_awaited = move |member: &Incarnation| waits && self.unproven_successor(*member).is_none();
        self.members(config).filter(is_awaited)
    }

    /// The copies that are not members and may hold something older: the learners, and nodes that have just come back
    /// with data. A copy that is away is included, since it may soon be back.
    pub(crate) fn older_copies(&self, config: &SlotConfig) -> Vec<Incarnation> {
        let mut older = Vec::new();
        for copy in config.learners.iter().chain(&self.with_data) {
            // Whether its end is missing does not matter here: it is older in any case.
            let successor = self.unproven_successor(*copy).unwrap_or_else(|| self.present_successor(*copy));
            let is_member = self.members(config).any(|member| self.is_same_data(member, successor));
            let may_hold = !self.successors.is_gone(*copy) && !self.by_hand.contains(&successor);
            if may_hold && !is_member && !older.contains(&successor) {
                older.push(successor);
            }
        }
        older
    }

    /// Whether a member of the slot is registered.
    pub(crate) fn has_member_here(&self, config: &SlotConfig) -> bool {
        self.members(config).any(|member| self.alive.contains(&self.successor(member)))
    }

    /// Whether a member of the slot is heard from.
    pub(crate) fn hears_member(&self, config: &SlotConfig) -> bool {
        self.members(config).any(|member| self.is_heard(self.successor(member)))
    }

    /// The current starts of the members that are here without proof; `None` while another member may come back, or if
    /// there are none.
    fn unproven_copies(&self, config: &SlotConfig) -> Option<Vec<Incarnation>> {
        let members = self.unproven_members(config);
        let all_are_back = members.len() == self.members(config).count() || self.bugs.plants(Bug::UnprovenInHaste);
        let mut copies = Vec::new();
        for successor in members.into_iter().filter_map(|member| self.unproven_successor(member)) {
            // A node may have come back more than once.
            if !copies.contains(&successor) {
                copies.push(successor);
            }
        }
        Some(copies).filter(|copies| all_are_back && !copies.is_empty())
    }
}

/// Plans a slot whose primary keeps leading.
fn keep_primary(
    config: &SlotConfig,
    primary: Incarnation,
    target: &[Incarnation],
    up: &[Incarnation],
    view: &ClusterView<impl Bugs>,
) -> Plan {
    let filled = target.iter().all(|node| up.contains(node));
    let is_avoided = |first| view.avoid_as_primary.contains(first) || view.shunned.contains(first);
    let first_is_avoided = target.first().is_some_and(is_avoided);
    let leads_at_target = target.first() == Some(&primary) || (first_is_avoided && target.contains(&primary));
    let mut isr = in_ring_order(up, target);
    isr.sort_by_key(|node| view.leaving.contains(node));
    let mut elr = Vec::new();
    let planted = view.bugs.plants(Bug::LeaverDroppedEarly) && isr.len() > 1;
    if planted {
        isr.retain(|node| *node == primary || !view.leaving.contains(node));
    } else if filled && leads_at_target {
        // If a node that should hold a copy is briefly away, other in-sync copies stay.
        isr.truncate(view.wanted.max(target.len()));
        elr = former_members(config, &isr, view);
        if isr.len() >= view.wanted {
            // A member that leaves on purpose is not waited for: everything promised is in the set that stays.
            elr.retain(|node| !view.is_leaving(*node));
        }
    } else {
        elr = former_members(config, &isr, view);
    }
    let is_new = |node: &Incarnation| !isr.contains(node) && !elr.contains(node);
    let learners = target.iter().copied().filter(is_new).collect();
    match change(config, SlotConfig { primary: Some(primary), isr, learners, elr, ..config.clone() }) {
        Plan::Keep => match better_primary(primary, target, up, view) {
            Some(better) => Plan::HandOver { from: primary, to: better },
            None => Plan::Keep,
        },
        changed => changed,
    }
}

/// The node that should lead instead of the primary: the ring's choice. A node with a full disk takes no writes, and
/// one about to stop soon will not either: such a node leads only if no other member can.
fn better_primary(
    primary: Incarnation,
    target: &[Incarnation],
    up: &[Incarnation],
    view: &ClusterView<impl Bugs>,
) -> Option<Incarnation> {
    let can = |node: &&Incarnation| {
        **node != primary
            && up.contains(node)
            && !view.suspected.contains(node)
            && !view.avoid_as_primary.contains(node)
            && !view.shunned.contains(node)
            && !view.leaving.contains(node)
    };
    if view.avoid_as_primary.contains(&primary) || view.leaving.contains(&primary) {
        return in_ring_order(up, target).iter().find(can).copied();
    }
    target.first().filter(can).copied()
}

/// Plans a slot whose primary is lost. A node that holds everything promised takes over: a member of the in-sync set
/// or, if none is left, one that belonged to it when the last promise was made. Copies without proof lead only if no
/// such node can come back.
fn replace_primary(
    config: &SlotConfig,
    holders: &[Incarnation],
    up: &[Incarnation],
    view: &ClusterView<impl Bugs>,
) -> Plan {
    let live = |member: &Incarnation| view.alive.contains(member);
    if view.bugs.plants(Bug::PromoteAnyCopy) {
        let others = config.learners.iter().chain(&config.elr).chain(&config.isr).copied();
        let others: Vec<_> = others.filter(live).filter(|copy| Some(*copy) != config.primary).collect();
        return if others.is_empty() { Plan::Keep } else { Plan::Promote(others) };
    }
    let mut candidates: Vec<_> = up.iter().copied().filter(|member| Some(*member) != config.primary).collect();
    if let Some(primary) = config.primary.filter(|primary| view.is_cut_off(config, *primary)) {
        candidates.retain(|member| view.complains(*member, primary) && !view.avoid_as_primary.contains(member));
    }
    let heard: Vec<_> = candidates.iter().copied().filter(|member| !view.is_silent(config, *member)).collect();
    let reborn: Vec<_> = holders.iter().filter_map(|member| view.successors.reborn(*member)).filter(live).collect();
    if !candidates.is_empty() {
        return Plan::Promote(if heard.is_empty() { [candidates, reborn].concat() } else { heard });
    }
    if !up.is_empty() && !view.bugs.plants(Bug::FormerMemberBesidePrimary) {
        return Plan::Keep; // Only the primary itself, which may be merely slow: the removal timeout decides.
    }
    if !reborn.is_empty() {
        let is_unproven = |member: &&Incarnation| view.unproven_successor(**member).is_some();
        let all_are_back = reborn.len() + holders.iter().filter(is_unproven).count() == holders.len();
        return if view.patient && !all_are_back { Plan::Keep } else { Plan::Promote(reborn) };
    }
    let once: &[Incarnation] = if view.bugs.plants(Bug::AnyFormerMember) { &config.learners } else { &[] };
    let former = config.elr.iter().chain(once).filter(|member| !view.successors.is_gone(**member));
    let former: Vec<_> = former.map(|member| view.successor(*member)).filter(live).collect();
    if !former.is_empty() {
        return Plan::Promote(former);
    }
    if let Some(unproven) = view.unproven_copies(config) {
        return Plan::PromoteUnproven(unproven);
    }
    // A holder of the slot may come back with its data: wait, and let no empty copy lead meanwhile.
    let primary = config.primary.filter(|primary| holders.contains(primary));
    let elr = view.without_gone(&config.elr);
    // IMPORTANT: older copies stay where they are. If nobody comes back, they are all that is left.
    let learners = view.older_copies(config);
    change(config, SlotConfig { primary, isr: holders.to_vec(), learners, elr, ..config.clone() })
}

/// The configuration after `chosen` has been promoted.
#[must_use]
pub(crate) fn promoted(config: &SlotConfig, chosen: Incarnation, view: &ClusterView<impl Bugs>) -> SlotConfig {
    let lost = |member: &Incarnation| Some(*member) == config.primary || !view.alive.contains(member);
    let isr = if config.isr.contains(&chosen) {
        config.isr.iter().copied().filter(|member| !lost(member)).collect()
    } else {
        vec![chosen]
    };
    let elr = former_members(config, &isr, view);
    let learners = config.learners.iter().copied().filter(|node| !isr.contains(node) && !elr.contains(node)).collect();
    SlotConfig { primary: Some(chosen), isr, learners, elr, ..config.clone() }
}

/// The former members to remember when the in-sync set becomes too small to promise more: nothing can become durable
/// that they do not have.
#[must_use]
fn former_members(config: &SlotConfig, isr: &[Incarnation], view: &ClusterView<impl Bugs>) -> Vec<Incarnation> {
    if isr.len() >= view.min_isr {
        return Vec::new();
    }
    let mut former = Vec::new();
    for member in config.elr.iter().chain(&config.isr) {
        // IMPORTANT: a successor that is not here is not named. The map may have forgotten its address, and then nobody
        // could tell that its next start is the one being waited for.
        let successor = view.present_successor(*member);
        // An unproven successor is not named either, because it may no longer hold everything promised. Its member is
        // waited for like one that is away, unless the successor is itself in the in-sync set.
        let is_here = isr.contains(&successor)
            || view.successors.unproven(*member).is_some_and(|successor| isr.contains(&successor));
        if !view.successors.is_gone(*member) && !is_here && !former.contains(&successor) {
            former.push(successor);
        }
    }
    former
}

/// Plans a slot whose holders of everything promised are all gone for good.
fn without_members(config: &SlotConfig, target: &[Incarnation], view: &ClusterView<impl Bugs>) -> Plan {
    let older = view.older_copies(config);
    let here: Vec<_> = older.iter().copied().filter(|copy| view.alive.contains(copy)).collect();
    match fresh(config, target, view) {
        Plan::StartAnew(next) if !here.is_empty() && !view.bugs.plants(Bug::OlderCopyDropped) => {
            // IMPORTANT: they are named as copies before they are asked, so that they keep their data until the
            // decision is made.
            match change(config, SlotConfig { learners: older, ..SlotConfig::default() }) {
                Plan::Keep => Plan::PromoteOlder(here, next),
                named => named,
            }
        }
        planned => planned,
    }
}

/// The configuration of a slot that nobody holds: empty at the first target node, with the others filled as they come.
/// If they were registered by hand, all of them hold it.
fn fresh(config: &SlotConfig, target: &[Incarnation], view: &ClusterView<impl Bugs>) -> Plan {
    let Some(first) = target.first() else {
        return change(config, SlotConfig::default());
    };
    let next = if view.by_hand.contains(first) {
        held_by(target)
    } else {
        SlotConfig {
            primary: Some(*first),
            isr: vec![*first],
            learners: target.iter().copied().filter(|node| node != first).collect(),
            ..SlotConfig::default()
        }
    };
    Plan::StartAnew(next)
}

/// A slot held by all of `target`, for when no copy has ever held a record.
#[must_use]
pub(crate) fn held_by(target: &[Incarnation]) -> SlotConfig {
    SlotConfig { primary: target.first().copied(), isr: target.to_vec(), ..SlotConfig::default() }
}

fn change(now: &SlotConfig, next: SlotConfig) -> Plan {
    if now.has_same_holders(&next) { Plan::Keep } else { Plan::Change(next) }
}

/// The configurations of a map, one for each run of neighboring slots with the same holders.
pub(crate) fn runs(map: &ClusterMap) -> impl Iterator<Item = &SlotConfig> {
    let mut before: Option<&SlotConfig> = None;
    map.slots()
        .map(|(_, config)| &**config)
        .filter(move |config| !before.replace(config).is_some_and(|before| before.has_same_holders(config)))
}

/// The survivors in the order in which the ring names them, followed by those it no longer wants.
fn in_ring_order(survivors: &[Incarnation], target: &[Incarnation]) -> Vec<Incarnation> {
    let wanted = target.iter().filter(|node| survivors.contains(node));
    let others = survivors.iter().filter(|node| !target.contains(node));
    wanted.chain(others).copied().collect()
}
