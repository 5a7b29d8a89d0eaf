//! What a slot's configuration should become, as a function of who is alive: one slot, no state, no side effect.
//!
//! The rule that everything here serves: nothing empty ever leads. A copy is filled by the present holder before it
//! counts, and the holder leads until then.

use std::collections::BTreeSet;

use proto::cluster_map::SlotConfig;
use proto::id::Incarnation;

/// Who is who at the moment of planning.
#[derive(Debug, Default)]
pub struct Standing {
    /// Registered and heard within the timeout.
    pub alive: BTreeSet<Incarnation>,
    /// Alive, but registered by hand: there is no program of ours behind the address that could fill or be filled.
    pub by_hand: BTreeSet<Incarnation>,
    /// Known never to come back with its memory: replaced by a newer start, or given up by an operator.
    pub gone: BTreeSet<Incarnation>,
}

/// What is to be done about a slot.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// The configuration is as it should be, or nothing can be done about it now.
    Keep,
    /// Commit this configuration. Epoch and version are the committer's; a new epoch where the primary changes.
    Change(SlotConfig),
    /// The primary is lost; one of these in-sync copies must take over.
    Promote(Vec<Incarnation>),
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
    let survivors: Vec<_> = holders.iter().copied().filter(|holder| standing.alive.contains(holder)).collect();
    let only_by_hand = !holders.is_empty() && holders.iter().all(|holder| standing.by_hand.contains(holder));

    if holders.is_empty() || (only_by_hand && target.iter().any(|node| !standing.by_hand.contains(node))) {
        return fresh(config, target, standing);
    }
    if survivors.is_empty() {
        // Whoever holds the slot may come back with its memory: wait, and lead from no empty copy meanwhile.
        let primary = config.primary.filter(|primary| holders.contains(primary));
        return change(config, SlotConfig { primary, isr: holders, learners: Vec::new(), ..config.clone() });
    }
    if only_by_hand {
        // Nobody can be asked or filled: the ring alone decides.
        return change(config, held_by(target));
    }
    let Some(primary) = config.primary.filter(|primary| survivors.contains(primary)) else {
        return Plan::Promote(survivors);
    };

    let filled = target.iter().all(|node| survivors.contains(node));
    let leads_at_target = target.first() == Some(&primary);
    let isr = if filled && leads_at_target { target.to_vec() } else { in_ring_order(&survivors, target) };
    let learners = target.iter().copied().filter(|node| !isr.contains(node)).collect();
    match change(config, SlotConfig { primary: Some(primary), isr, learners, ..config.clone() }) {
        Plan::Keep => match target.first() {
            Some(wanted) if *wanted != primary && survivors.contains(wanted) => {
                Plan::HandOver { from: primary, to: *wanted }
            }
            _ => Plan::Keep,
        },
        changed => changed,
    }
}

/// The configuration after `chosen` was promoted, its place in the ring's order kept.
#[must_use]
pub fn promoted(config: &SlotConfig, chosen: Incarnation, standing: &Standing) -> SlotConfig {
    let isr = config.isr.iter().copied().filter(|holder| standing.alive.contains(holder)).collect();
    SlotConfig { primary: Some(chosen), isr, ..config.clone() }
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
    let same = now.primary == next.primary && now.isr == next.isr && now.learners == next.learners;
    if same { Plan::Keep } else { Plan::Change(next) }
}

/// The survivors in the order in which the ring names them, then those that it does not want any more.
fn in_ring_order(survivors: &[Incarnation], target: &[Incarnation]) -> Vec<Incarnation> {
    let wanted = target.iter().filter(|node| survivors.contains(node));
    let others = survivors.iter().filter(|node| !target.contains(node));
    wanted.chain(others).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incarnations(numbers: &[u64]) -> Vec<Incarnation> {
        numbers.iter().copied().map(Incarnation).collect()
    }

    fn config(primary: u64, isr: &[u64], learners: &[u64]) -> SlotConfig {
        SlotConfig {
            primary: Some(Incarnation(primary)),
            isr: incarnations(isr),
            learners: incarnations(learners),
            ..SlotConfig::default()
        }
    }

    fn standing(alive: &[u64], gone: &[u64]) -> Standing {
        Standing {
            alive: incarnations(alive).into_iter().collect(),
            gone: incarnations(gone).into_iter().collect(),
            ..Standing::default()
        }
    }

    #[test]
    fn a_node_new_to_the_ring_is_filled_before_it_leads() {
        let standing = standing(&[1, 2, 3], &[]);
        let target = incarnations(&[3, 1]);
        let first = plan(&config(1, &[1, 2], &[]), &target, &standing);
        assert_eq!(first, Plan::Change(config(1, &[1, 2], &[3])), "a learner, led by the holder");
        assert_eq!(plan(&config(1, &[1, 2], &[3]), &target, &standing), Plan::Keep);
        let filled = plan(&config(1, &[1, 2, 3], &[]), &target, &standing);
        assert_eq!(filled, Plan::Change(config(1, &[3, 1, 2], &[])), "the ring's order");
        let hand_over = plan(&config(1, &[3, 1, 2], &[]), &target, &standing);
        assert_eq!(hand_over, Plan::HandOver { from: Incarnation(1), to: Incarnation(3) });
        let leaver = plan(&config(3, &[3, 1, 2], &[]), &target, &standing);
        assert_eq!(leaver, Plan::Change(config(3, &[3, 1], &[])), "the leaver goes last");
    }

    #[test]
    fn a_lost_primary_is_replaced_from_the_in_sync_set_only() {
        let standing = standing(&[2, 3, 4], &[]);
        let plan = plan(&config(1, &[1, 2, 3], &[4]), &incarnations(&[4, 2, 3]), &standing);
        assert_eq!(plan, Plan::Promote(incarnations(&[2, 3])));
        let after = promoted(&config(1, &[1, 2, 3], &[4]), Incarnation(3), &standing);
        assert_eq!(after, config(3, &[2, 3], &[4]));
    }

    #[test]
    fn the_last_holder_is_waited_for_until_it_is_known_to_be_gone() {
        let lost = config(1, &[1], &[]);
        assert_eq!(plan(&lost, &incarnations(&[2, 3]), &standing(&[2, 3], &[])), Plan::Keep);
        let anew = plan(&lost, &incarnations(&[2, 3]), &standing(&[2, 3], &[1]));
        assert_eq!(anew, Plan::StartAnew(config(2, &[2], &[3])));
    }

    #[test]
    fn nodes_registered_by_hand_give_way_to_real_ones_and_follow_the_ring_alone() {
        let mut standing = standing(&[1, 2], &[]);
        standing.by_hand = incarnations(&[1, 2]).into_iter().collect();
        let target = incarnations(&[2, 1]);
        assert_eq!(plan(&SlotConfig::default(), &target, &standing), Plan::StartAnew(config(2, &[2, 1], &[])));
        assert_eq!(plan(&config(1, &[1], &[]), &target, &standing), Plan::Change(config(2, &[2, 1], &[])));

        standing.alive.insert(Incarnation(3));
        let real = plan(&config(2, &[2, 1], &[]), &incarnations(&[2, 3]), &standing);
        assert_eq!(real, Plan::StartAnew(config(3, &[3], &[2])));
        let phantom = plan(&config(3, &[3], &[2]), &incarnations(&[2, 3]), &standing);
        assert_eq!(phantom, Plan::Keep, "it is never filled, so it never leads");
    }
}
