//! A look at all slots: the plan of each, carried out.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::cluster_map::SlotConfig;
use proto::id::{Incarnation, NodeAddr};
use proto::session::SlotAt;
use proto::slot::SlotId;

use super::Coordinator;
use crate::bugs::{Bug, Bugs};
use crate::output::{Event, Output};
use crate::plan::{self, Plan, Standing, plan};
use crate::promotion::Promotion;
use crate::time::Timestamp;

/// How long copies are asked for their positions before one of them is promoted.
const POSITIONS_TIMEOUT: Duration = Duration::from_millis(300);

/// After what time a hand-over that was asked for and has not happened is asked for again.
pub(super) const HANDOVER_RETRY: Duration = Duration::from_secs(2);

/// How many slots are handed over at once between two nodes: each pauses its writers for a moment.
const HANDOVER_SLOTS: usize = 2_048;

impl<B: Bugs> Coordinator<B> {
    /// Plans every slot and carries the plans out. Says whether the map has changed, so that another look is due.
    pub(super) fn replan(&mut self, now: Timestamp) -> bool {
        self.replan_at = None;
        let registered = self.registry.incarnations();
        self.full.retain(|full| registered.contains(full));
        let standing = self.standing(now);
        let mut changes = Vec::new();
        let mut lost = Vec::new();
        let mut hand_overs: BTreeMap<(Incarnation, Incarnation), Vec<SlotAt>> = BTreeMap::new();
        let mut started_anew = 0;
        for (slot, target) in self.settings.bits.slots().zip(self.targets()) {
            let config = self.map.config(slot);
            match plan(config, &target, &standing) {
                Plan::Keep => {}
                Plan::Change(next) => changes.push((slot, next)),
                Plan::StartAnew(next) => {
                    started_anew += usize::from(!config.isr.is_empty());
                    changes.push((slot, next));
                }
                Plan::Promote(survivors) => lost.push((slot, survivors)),
                Plan::HandOver { from, to } => {
                    hand_overs.entry((from, to)).or_default().push(SlotAt { slot, version: config.version });
                }
            }
        }
        if started_anew > 0 {
            self.event(Event::StartedAnew(started_anew));
        }
        self.promote(now, lost, &standing, &mut changes);
        self.ask_hand_overs(now, hand_overs);
        let members_changed = self.members() != self.map.members().map(|(i, m)| (i, m.clone())).collect();
        if changes.is_empty() && !members_changed {
            return false;
        }
        self.commit(changes);
        true
    }

    /// Promotes where it is clear whom; asks the survivors where it is not.
    fn promote(
        &mut self,
        now: Timestamp,
        lost: Vec<(SlotId, Vec<Incarnation>)>,
        standing: &Standing,
        changes: &mut Vec<(SlotId, SlotConfig)>,
    ) {
        if lost.is_empty() {
            self.promotion = None;
            return;
        }
        let several = |(_, survivors): &&(SlotId, Vec<Incarnation>)| survivors.len() > 1;
        let over = match &self.promotion {
            Some(promotion) => promotion.is_over(now),
            None => !lost.iter().any(|slot| several(&slot)),
        };
        if over {
            let round = self.promotion.take().filter(|_| !self.bugs.plants(Bug::PromoteAnyCopy));
            for accused in standing.accused.keys() {
                if let Some(addr) = self.registry.addr_of(*accused).cloned() {
                    self.event(Event::Suspected(addr));
                }
            }
            self.event(Event::Promoted(lost.len()));
            for (slot, survivors) in lost {
                let asked = round.as_ref().and_then(|round| round.choose(slot, &survivors));
                if let Some(chosen) = asked.or(survivors.first().copied()) {
                    changes.push((slot, plan::promoted(self.map.config(slot), chosen, standing)));
                }
            }
        } else if self.promotion.is_none() {
            let query = self.next_number();
            let mut questions: BTreeMap<Incarnation, Vec<SlotId>> = BTreeMap::new();
            for (slot, survivors) in lost.iter().filter(several) {
                for survivor in survivors.iter().filter(|survivor| !standing.by_hand.contains(survivor)) {
                    questions.entry(*survivor).or_default().push(*slot);
                }
            }
            self.promotion = Some(Promotion::new(query, now + POSITIONS_TIMEOUT, questions.keys().copied().collect()));
            self.outputs.extend(questions.into_iter().map(|(to, slots)| Output::AskPositions { to, query, slots }));
        }
    }

    fn ask_hand_overs(&mut self, now: Timestamp, wanted: BTreeMap<(Incarnation, Incarnation), Vec<SlotAt>>) {
        let map = &self.map;
        self.handing_over
            .retain(|slot, (version, asked)| map.config(*slot).version == *version && now < *asked + HANDOVER_RETRY);
        for ((from, to), mut slots) in wanted {
            let under_way = slots.iter().filter(|at| self.handing_over.contains_key(&at.slot)).count();
            slots.retain(|at| !self.handing_over.contains_key(&at.slot));
            slots.truncate(HANDOVER_SLOTS.saturating_sub(under_way));
            if slots.is_empty() {
                continue;
            }
            self.handing_over.extend(slots.iter().map(|at| (at.slot, (at.version, now))));
            self.outputs.push_back(Output::HandOver { from, to, slots });
        }
    }

    /// Whom the ring wants to hold each slot.
    pub(super) fn targets(&self) -> Vec<Vec<Incarnation>> {
        let incarnation = |addr: &NodeAddr| self.registry.get(addr).map(|node| node.incarnation);
        let owners = self.ring.slot_owners(self.settings.bits, self.copies());
        owners.into_iter().map(|addrs| addrs.into_iter().filter_map(incarnation).collect()).collect()
    }

    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        let by_hand = self.registry.iter().filter(|(_, node)| node.by_hand).map(|(_, node)| node.incarnation);
        Standing {
            alive: self.registry.incarnations(),
            by_hand: by_hand.collect(),
            gone: self.gone.clone(),
            full: self.full.clone(),
            accused: self.suspicion.accused(now, &self.registry),
            suspected: self.registry.suspects(now),
            reborn: self.reborn.clone(),
            patient: now < self.reborn_grace,
            min_isr: self.settings.promises.min_isr(),
            any_copy_leads: self.bugs.plants(Bug::PromoteAnyCopy),
            any_former_leads: self.bugs.plants(Bug::AnyFormerMember),
        }
    }
}
