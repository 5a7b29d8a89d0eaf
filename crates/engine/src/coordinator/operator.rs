//! What operators decide: nodes that are not waited for, and losses that are accepted.

use proto::cluster_map::SlotConfig;
use proto::error::ErrorReply;
use proto::id::NodeAddr;
use proto::slot::SlotId;

use super::{Coordinator, Phase};
use crate::bugs::Bugs;
use crate::output::{Accepted, Event};
use crate::plan::{Plan, plan};
use crate::time::Timestamp;

impl<B: Bugs> Coordinator<B> {
    /// An operator says that a node will never report what it knows, while a map is taken over. `false` if the node at
    /// that address is neither awaited nor registered.
    pub fn forget(&mut self, now: Timestamp, addr: &NodeAddr) -> bool {
        self.wake(now);
        if !self.recovery.forget(addr) {
            return self.registry.get(addr).is_some();
        }
        self.event(Event::Forgotten(addr.clone()));
        self.advance(now);
        true
    }

    /// An operator accepts that what the missing copies of some slots hold is lost. Slots that nobody can lead continue
    /// with the copies that are here without proof, or with older ones; if there are none, they start over empty.
    ///
    /// # Errors
    /// It is not known yet which slots those are, or a silent node may still serve some. Nothing has changed.
    pub fn accept_loss(&mut self, now: Timestamp, slot: Option<SlotId>) -> Result<Accepted, ErrorReply> {
        self.wake(now);
        let mut accepted = Accepted::default();
        match self.phase {
            Phase::Serving => {}
            Phase::Recovering => {
                let awaited = self.awaited();
                let awaited: Vec<_> = awaited.iter().map(NodeAddr::as_str).collect();
                return Err(ErrorReply::Unavailable(format!(
                    "the coordinator takes its state over from the nodes and waits for {}; nothing was given up: start \
                     them, or send FORGET host:port for each that is gone for good, and then this again if slots still \
                     wait",
                    awaited.join(", ")
                )));
            }
            Phase::Fresh | Phase::Gathering(_) | Phase::Restored(_) => {
                return Err(ErrorReply::Unavailable(
                    "the coordinator does not lead the cluster yet; nothing was given up: try again a second after its \
                     nodes have joined"
                        .to_owned(),
                ));
            }
        }
        self.nobody_serves_on(now, None)?;
        let view = self.view(now);
        let asked = |candidate: &SlotId| slot.is_none_or(|slot| slot == *candidate);
        let mut changes = Vec::new();
        let targets = self.targets();
        for (candidate, target) in self.settings.bits.slots().zip(targets.iter()).filter(|(slot, _)| asked(slot)) {
            let config = self.map.config(candidate);
            if config.isr.iter().chain(&config.elr).any(|member| view.alive.contains(&view.successor(*member))) {
                continue; // It has a primary, or will have one in a moment.
            }
            let learners = view.older_copies(config);
            let is_accepted = config.isr.is_empty() && config.elr.is_empty() && !config.learners.is_empty();
            if is_accepted {
                continue; // The slot continues as soon as these copies have reported what they hold.
            }
            let unproven = view.unproven_members(config);
            if !unproven.is_empty() {
                accepted.unproven += 1;
                changes.push((candidate, SlotConfig { isr: unproven, learners, ..SlotConfig::default() }));
            } else if learners.iter().any(|learner| view.alive.contains(learner)) {
                accepted.unproven += 1;
                changes.push((candidate, SlotConfig { learners, ..SlotConfig::default() }));
            } else if let Plan::StartAnew(next) = plan(&SlotConfig::default(), target, &view) {
                accepted.anew += 1;
                changes.push((candidate, next));
            }
        }
        if !changes.is_empty() {
            self.limit_fills(&mut changes, &view);
            self.event(Event::LossAccepted(accepted));
            self.commit(changes);
            self.advance(now);
        }
        Ok(accepted)
    }

    /// The nodes being waited for, sorted: by a coordinator without state, or by slots whose other copies are here
    /// without proof.
    #[must_use]
    pub fn awaited(&self) -> Vec<NodeAddr> {
        let mut awaited: Vec<_> = self.recovery.awaited().chain(&self.awaited_by_unproven).cloned().collect();
        awaited.sort();
        awaited.dedup();
        awaited
    }
}
