//! What a slot's configuration should become, as a function of who is alive: one slot, no state, no side effect.
//!
//! The rule that everything here serves: nothing empty ever leads. A copy is filled by the present holder before it
//! counts, and the holder leads until then.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::SlotConfig;
use proto::id::Incarnation;

#[cfg(test)]
mod tests;

/// Who is who at the moment of planning.
#[derive(Debug, Default)]
pub struct Standing {
    /// Registered and heard within the timeout.
    pub alive: BTreeSet<Incarnation>,
    /// Alive, but registered by hand: there is no program of ours behind the address that could fill or be filled.
    pub by_hand: BTreeSet<Incarnation>,
    /// Known never to come back with its memory: replaced by a newer start, or given up by an operator.
    pub gone: BTreeSet<Incarnation>,
    /// Suspected, and complained about by these: where one of them has a copy, the slot needs another primary.
    pub accused: BTreeMap<Incarnation, BTreeSet<Incarnation>>,
    /// Alive, but not heard at the moment: nothing is handed over to them.
    pub suspected: BTreeSet<Incarnation>,
    /// Alive, but their disks are full or they are about to stop: they lead nothing that another member can lead.
    pub yielding: BTreeSet<Incarnation>,
    /// Alive, but to leave for good: nothing is handed over to them.
    pub leaving: BTreeSet<Incarnation>,
    /// How many copies there are to be of each slot, those of nodes that are away for a moment included.
    pub wanted: usize,
    /// Registered, but not heard since a start without proof of its data came back: they may have lost their power with it.
    pub unheard: BTreeSet<Incarnation>,
    /// Started again with the data on their disks, as a newer incarnation.
    pub reborn: BTreeMap<Incarnation, Incarnation>,
    /// Started again with data on their disks of which the end may be missing, as a newer incarnation.
    pub unproven: BTreeMap<Incarnation, Incarnation>,
    /// They have just come back with what they held.
    pub with_data: BTreeSet<Incarnation>,
    /// Others may be about to come back in the same way.
    pub patient: bool,
    /// How many copies must be in sync for a quorum write.
    pub min_isr: usize,
    /// A planted mistake: anyone who has a copy may lead.
    pub any_copy_leads: bool,
    /// A planted mistake: whoever was in sync once may lead where nobody is.
    pub any_former_leads: bool,
    /// A planted mistake: who leaves is left out before others are filled.
    pub leaver_dropped_early: bool,
    /// A planted mistake: copies without proof lead before all are back.
    pub unproven_leads_in_haste: bool,
    /// A planted mistake: a slot starts anew although an older copy is here.
    pub older_copy_dropped: bool,
}

/// What is to be done about a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The configuration is as it should be, or nothing can be done about it now.
    Keep,
    /// Commit this configuration. Epoch and version are the committer's; a new epoch where the primary changes.
    Change(SlotConfig),
    /// The primary is lost; one of these must take over. Each holds all that was ever promised.
    Promote(Vec<Incarnation>),
    /// The primary is lost, and so is the proof of every copy that is left; all of these are here. The one of them must take
    /// over that holds most, though some of what was promised may be missing.
    PromoteUnproven(Vec<Incarnation>),
    /// Every copy that held what was promised is gone for good. Of these, which may hold something older, the one must take
    /// over that holds most; where none holds anything the slot starts anew, with this configuration.
    PromoteOlder(Vec<Incarnation>, SlotConfig),
    /// The primary leads where the ring wants another, who is in sync: ask the one to hand over to the other.
    HandOver {
        /// Who leads.
        from: Incarnation,
        /// Who should.
        to: Incarnation,
    },
    /// Every copy is gone for good: the slot starts anew, empty.
    StartAnew(SlotConfig),
}

/// Plans one slot. `target` is whom the ring wants to hold it, primary first, all of them alive.
#[must_use]
pub fn plan(config: &SlotConfig, target: &[Incarnation], standing: &Standing) -> Plan {
    let holders: Vec<_> = config.isr.iter().copied().filter(|holder| !standing.gone.contains(holder)).collect();
    let former: Vec<_> = config.elr.iter().copied().filter(|member| !standing.gone.contains(member)).collect();
    let up: Vec<_> = holders.iter().copied().filter(|holder| standing.alive.contains(holder)).collect();
    let only_by_hand = !holders.is_empty() && holders.iter().all(|holder| standing.by_hand.contains(holder));

    if (holders.is_empty() && former.is_empty())
        || (only_by_hand && target.iter().any(|node| !standing.by_hand.contains(node)))
    {
        return without_members(config, target, standing);
    }
    if only_by_hand && !up.is_empty() {
        // Nobody can be asked or filled: the ring alone decides.
        return change(config, held_by(target));
    }
    let primary = config.primary.filter(|primary| up.contains(primary));
    let is_reborn = config.isr.iter().any(|member| standing.reborn.contains_key(member));
    let is_unproven = standing.is_unproven(config);
    let nobody_is_heard = up.iter().all(|member| standing.is_silent(config, *member));
    let patient = if is_reborn { primary.is_some() || standing.patient } else { is_unproven };
    if nobody_is_heard && !up.is_empty() && patient {
        // Whether the others were up while one was restarted is not known: they may be about to come back in the same way.
        // One that is not heard is taken off the ring after a while, and then those who are back decide. One without proof
        // could not decide then, and must not be left out now.
        return Plan::Keep;
    }
    if is_unproven
        && primary.is_some_and(|primary| standing.unheard.contains(&primary) && !standing.suspected.contains(&primary))
    {
        return Plan::Keep; // It is heard in a moment, or suspected.
    }
    let Some(primary) = primary.filter(|primary| !standing.is_accused(config, *primary)) else {
        return replace_primary(config, &holders, &up, standing);
    };
    keep_primary(config, primary, target, &up, standing)
}

impl Standing {
    /// Whether a copy of the slot complains of the primary, who is suspected.
    pub(crate) fn is_accused(&self, config: &SlotConfig, primary: Incarnation) -> bool {
        let accusers = self.accused.get(&primary);
        accusers.is_some_and(|accusers| config.copies().any(|copy| copy != primary && accusers.contains(&copy)))
    }

    /// Whether it is registered and not suspected.
    pub(crate) fn is_heard(&self, node: Incarnation) -> bool {
        self.alive.contains(&node) && !self.suspected.contains(&node)
    }

    /// Who holds now what this incarnation held: itself, or its next start, where that has found it on its disk.
    pub(crate) fn heir(&self, incarnation: Incarnation) -> Incarnation {
        self.reborn.get(&incarnation).copied().unwrap_or(incarnation)
    }

    /// Whether one holds now what the other held, or is the other.
    pub(crate) fn is_same_data(&self, one: Incarnation, other: Incarnation) -> bool {
        one == other || self.heir(one) == other || self.unproven.get(&one) == Some(&other)
    }

    /// Whether the node leaves for good on whose disk is what this incarnation held.
    fn is_leaving(&self, incarnation: Incarnation) -> bool {
        let unproven = self.unproven.get(&incarnation);
        self.leaving.contains(&self.heir(incarnation)) || unproven.is_some_and(|heir| self.leaving.contains(heir))
    }

    /// Those of whom each held all that was promised, and that were not lost for good.
    fn members<'a>(&'a self, config: &'a SlotConfig) -> impl Iterator<Item = Incarnation> {
        let members = config.isr.iter().chain(&config.elr).copied();
        members.filter(|member| !self.gone.contains(member))
    }

    /// Whether a member of the in-sync set is back without proof.
    pub(crate) fn is_unproven(&self, config: &SlotConfig) -> bool {
        config.isr.iter().any(|member| self.unproven.contains_key(member))
    }

    /// Whether a member of the in-sync set that is registered may be dead.
    fn is_silent(&self, config: &SlotConfig, member: Incarnation) -> bool {
        self.suspected.contains(&member) || (self.unheard.contains(&member) && self.is_unproven(config))
    }

    /// The start that is here of a member whose data has no proof.
    fn unproven_heir(&self, member: Incarnation) -> Option<Incarnation> {
        self.unproven.get(&member).copied().filter(|heir| self.alive.contains(heir))
    }

    /// The members that are here without proof.
    pub(crate) fn unproven_members(&self, config: &SlotConfig) -> Vec<Incarnation> {
        self.members(config).filter(|member| self.unproven_heir(*member).is_some()).collect()
    }

    /// The members for whom those wait that are here without proof: they may come back with more.
    pub(crate) fn awaited_by_unproven<'a>(&'a self, config: &'a SlotConfig) -> impl Iterator<Item = Incarnation> {
        let is_away = |member: &Incarnation| !self.alive.contains(&self.heir(*member));
        let nobody_leads = self.members(config).all(|member| is_away(&member));
        let waits = nobody_leads && self.members(config).any(|member| self.unproven_heir(member).is_some());
        let is_awaited = move |member: &Incarnation| waits && self.unproven_heir(*member).is_none();
        self.members(config).filter(is_awaited)
    }

    /// The copies that are no members and may hold something older: the learners, and those that have just come back with data.
    /// One that is away stays among them, since it may be back in a moment.
    pub(crate) fn older_copies(&self, config: &SlotConfig) -> Vec<Incarnation> {
        let mut older = Vec::new();
        for copy in config.learners.iter().chain(&self.with_data) {
            let heir = Some(self.heir(*copy)).filter(|heir| self.alive.contains(heir)).unwrap_or(*copy);
            let is_member = self.members(config).any(|member| self.is_same_data(member, heir));
            let may_hold = !self.gone.contains(copy) && !self.by_hand.contains(&heir);
            if may_hold && !is_member && !older.contains(&heir) {
                older.push(heir);
            }
        }
        older
    }

    /// Whether a member of the slot is registered.
    pub(crate) fn has_member_here(&self, config: &SlotConfig) -> bool {
        self.members(config).any(|member| self.alive.contains(&self.heir(member)))
    }

    /// Whether one is heard.
    pub(crate) fn hears_member(&self, config: &SlotConfig) -> bool {
        self.members(config).any(|member| self.is_heard(self.heir(member)))
    }

    /// The present starts of these members; `None` while another member may come back, or where there are none.
    fn unproven_copies(&self, config: &SlotConfig) -> Option<Vec<Incarnation>> {
        let members = self.unproven_members(config);
        let all_are_back = members.len() == self.members(config).count() || self.unproven_leads_in_haste;
        let mut copies = Vec::new();
        for heir in members.into_iter().filter_map(|member| self.unproven_heir(member)) {
            // One may have come back more than once.
            if !copies.contains(&heir) {
                copies.push(heir);
            }
        }
        Some(copies).filter(|copies| all_are_back && !copies.is_empty())
    }
}

/// The primary leads on.
fn keep_primary(
    config: &SlotConfig,
    primary: Incarnation,
    target: &[Incarnation],
    up: &[Incarnation],
    standing: &Standing,
) -> Plan {
    let filled = target.iter().all(|node| up.contains(node));
    let first_yields = target.first().is_some_and(|first| standing.yielding.contains(first));
    let leads_at_target = target.first() == Some(&primary) || (first_yields && target.contains(&primary));
    let mut isr = in_ring_order(up, target);
    isr.sort_by_key(|node| standing.leaving.contains(node));
    let mut elr = Vec::new();
    let planted = standing.leaver_dropped_early && isr.len() > 1;
    if planted {
        isr.retain(|node| *node == primary || !standing.leaving.contains(node));
    } else if filled && leads_at_target {
        // Where one that should be a copy is away for a moment, others that are in sync stay.
        isr.truncate(standing.wanted.max(target.len()));
        elr = former_members(config, &isr, standing);
        if isr.len() >= standing.wanted {
            // Who leaves on purpose is not waited for: all that was promised is in the set that stays.
            elr.retain(|node| !standing.is_leaving(*node));
        }
    } else {
        elr = former_members(config, &isr, standing);
    }
    let is_new = |node: &Incarnation| !isr.contains(node) && !elr.contains(node);
    let learners = target.iter().copied().filter(is_new).collect();
    match change(config, SlotConfig { primary: Some(primary), isr, learners, elr, ..config.clone() }) {
        Plan::Keep => match better_primary(primary, target, up, standing) {
            Some(better) => Plan::HandOver { from: primary, to: better },
            None => Plan::Keep,
        },
        changed => changed,
    }
}

/// Who is to lead in the place of the primary: the ring's choice. One whose disk is full takes no writes, and one that
/// is about to stop soon none: such a one leads only where no other member can.
fn better_primary(
    primary: Incarnation,
    target: &[Incarnation],
    up: &[Incarnation],
    standing: &Standing,
) -> Option<Incarnation> {
    let can = |node: &&Incarnation| {
        **node != primary
            && up.contains(node)
            && !standing.suspected.contains(node)
            && !standing.yielding.contains(node)
            && !standing.leaving.contains(node)
    };
    if standing.yielding.contains(&primary) || standing.leaving.contains(&primary) {
        return in_ring_order(up, target).iter().find(can).copied();
    }
    target.first().filter(can).copied()
}

/// The primary is lost. Whoever may lead holds everything that was promised: a member of the in-sync set, or where none is
/// left one that belonged to it when the last promise was made.
fn replace_primary(config: &SlotConfig, holders: &[Incarnation], up: &[Incarnation], standing: &Standing) -> Plan {
    let live = |member: &Incarnation| standing.alive.contains(member);
    if standing.any_copy_leads {
        let others = config.learners.iter().chain(&config.elr).chain(&config.isr).copied();
        let others: Vec<_> = others.filter(live).filter(|copy| Some(*copy) != config.primary).collect();
        return if others.is_empty() { Plan::Keep } else { Plan::Promote(others) };
    }
    let candidates: Vec<_> = up.iter().copied().filter(|member| Some(*member) != config.primary).collect();
    let heard: Vec<_> = candidates.iter().copied().filter(|member| !standing.is_silent(config, *member)).collect();
    let reborn: Vec<_> =
        holders.iter().filter_map(|member| standing.reborn.get(member)).copied().filter(live).collect();
    if !candidates.is_empty() {
        return Plan::Promote(if heard.is_empty() { [candidates, reborn].concat() } else { heard });
    }
    if !up.is_empty() {
        return Plan::Keep; // Only the primary itself, which may be merely slow: the removal timeout decides.
    }
    if !reborn.is_empty() {
        let is_unproven = |member: &&Incarnation| standing.unproven_heir(**member).is_some();
        let all_are_back = reborn.len() + holders.iter().filter(is_unproven).count() == holders.len();
        return if standing.patient && !all_are_back { Plan::Keep } else { Plan::Promote(reborn) };
    }
    let once: &[Incarnation] = if standing.any_former_leads { &config.learners } else { &[] };
    let former = config.elr.iter().chain(once).filter(|member| !standing.gone.contains(member));
    let former: Vec<_> = former.map(|member| standing.heir(*member)).filter(live).collect();
    if !former.is_empty() {
        return Plan::Promote(former);
    }
    if let Some(unproven) = standing.unproven_copies(config) {
        return Plan::PromoteUnproven(unproven);
    }
    // Whoever holds the slot may come back with its data: wait, and lead from no empty copy meanwhile.
    let primary = config.primary.filter(|primary| holders.contains(primary));
    let elr = config.elr.iter().copied().filter(|member| !standing.gone.contains(member)).collect();
    // IMPORTANT: older copies stay where they are. Should nobody come back they are all that is left.
    let learners = standing.older_copies(config);
    change(config, SlotConfig { primary, isr: holders.to_vec(), learners, elr, ..config.clone() })
}

/// The configuration after `chosen` was promoted.
#[must_use]
pub fn promoted(config: &SlotConfig, chosen: Incarnation, standing: &Standing) -> SlotConfig {
    let lost = |member: &Incarnation| Some(*member) == config.primary || !standing.alive.contains(member);
    let isr = if config.isr.contains(&chosen) {
        config.isr.iter().copied().filter(|member| !lost(member)).collect()
    } else {
        vec![chosen]
    };
    let elr = former_members(config, &isr, standing);
    let learners = config.learners.iter().copied().filter(|node| !isr.contains(node) && !elr.contains(node)).collect();
    SlotConfig { primary: Some(chosen), isr, learners, elr, ..config.clone() }
}

/// Who remembers all that was promised, where the in-sync set becomes too small to promise more: nothing can become
/// durable that these do not have.
#[must_use]
pub fn former_members(config: &SlotConfig, isr: &[Incarnation], standing: &Standing) -> Vec<Incarnation> {
    if isr.len() >= standing.min_isr {
        return Vec::new();
    }
    let mut former = Vec::new();
    for member in config.elr.iter().chain(&config.isr) {
        // IMPORTANT: an heir that is not here is not named. The map may have forgotten where it was, and then nobody could tell
        // that its next start is the one that is waited for.
        let heir = Some(standing.heir(*member)).filter(|heir| standing.alive.contains(heir)).unwrap_or(*member);
        // Nor is one without proof, which holds all that was promised no more. Its member is waited for like one that is away,
        // unless what it has is in the in-sync set.
        let is_here = isr.contains(&heir) || standing.unproven.get(member).is_some_and(|heir| isr.contains(heir));
        if !standing.gone.contains(member) && !is_here && !former.contains(&heir) {
            former.push(heir);
        }
    }
    former
}

/// Whoever held what was promised is gone for good.
fn without_members(config: &SlotConfig, target: &[Incarnation], standing: &Standing) -> Plan {
    let older = standing.older_copies(config);
    let here: Vec<_> = older.iter().copied().filter(|copy| standing.alive.contains(copy)).collect();
    match fresh(config, target, standing) {
        Plan::StartAnew(next) if !here.is_empty() && !standing.older_copy_dropped => {
            // IMPORTANT: they are named as copies before they are asked, so that they keep what they have until it is decided.
            match change(config, SlotConfig { learners: older, ..SlotConfig::default() }) {
                Plan::Keep => Plan::PromoteOlder(here, next),
                named => named,
            }
        }
        planned => planned,
    }
}

/// The configuration of a slot that nobody holds: empty at its target, whose other members are filled as they come.
fn fresh(config: &SlotConfig, target: &[Incarnation], standing: &Standing) -> Plan {
    let Some(first) = target.iter().find(|node| !standing.by_hand.contains(node)).or(target.first()) else {
        return change(config, SlotConfig::default());
    };
    let next = if standing.by_hand.contains(first) {
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

/// A slot held by all of `target`, as where no copy has ever held a record.
#[must_use]
pub fn held_by(target: &[Incarnation]) -> SlotConfig {
    SlotConfig { primary: target.first().copied(), isr: target.to_vec(), ..SlotConfig::default() }
}

fn change(now: &SlotConfig, next: SlotConfig) -> Plan {
    if has_same_holders(now, &next) { Plan::Keep } else { Plan::Change(next) }
}

/// Whether two configurations differ in epoch and version at the most.
pub(crate) fn has_same_holders(one: &SlotConfig, other: &SlotConfig) -> bool {
    std::ptr::eq(one, other)
        || (one.primary == other.primary
            && one.isr == other.isr
            && one.learners == other.learners
            && one.elr == other.elr)
}

/// The survivors in the order in which the ring names them, then those that it does not want any more.
fn in_ring_order(survivors: &[Incarnation], target: &[Incarnation]) -> Vec<Incarnation> {
    let wanted = target.iter().filter(|node| survivors.contains(node));
    let others = survivors.iter().filter(|node| !target.contains(node));
    wanted.chain(others).copied().collect()
}
