//! An operator who takes nodes off the ring, running or not, and later starts them again; and who lets slots go on
//! without copies that are away.
//!
//! What a running node held is lost by that. So it happens only if nothing else is missing, and if every slot has
//! another copy that counts. It happens most often while a coordinator that has lost its state waits for nodes: then
//! maps still name the node that was taken off.
//!
//! As long as such a coordinator waits for what was given up, the operator says that it will not come back, once the
//! node has been started again and has told the coordinator which map it knows.

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::coordinator::Coordinator;
use proto::cluster_map::{ClusterMap, SlotConfig};
use seeded::Random;

use crate::knobs::Knobs;
use crate::node::{NodeProcess, Session, SurvivingData};
use crate::oracle::members;
use crate::schedule::Event;
use crate::world::World;
/// How long the operator waits before looking again at what the coordinator waits for, in microseconds.
const FORGET_PAUSE: u64 = 500_000;

/// How often the operator looks for slots that nobody can lead, in microseconds.
const LOOK: u64 = 400_000;

/// How often the operator tries to take a node off while a coordinator without state waits.
const ATTEMPTS: usize = 4;

/// What the operator does about a node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Unregisters,
    StartsAgain,
    /// The coordinator is not to wait for it.
    Forgets,
    /// Slots whose copies are all away are to go on without them. This concerns no particular node.
    AcceptsLoss,
}

/// The operator of a run. Everything is drawn separately, so that other seeds stay the same.
#[derive(Debug)]
pub(crate) struct Operator {
    random: Random,
    /// How many nodes are taken off the ring, if possible.
    unregistrations: u64,
    /// How many in a thousand looks at slots that nobody can lead end with their loss.
    accepted_losses: u64,
    /// The nodes that were taken off the ring, so that what they had was given up: whatever they were about to do, they
    /// need not do it any more.
    taken_off: BTreeSet<usize>,
}

impl Operator {
    pub(crate) fn new(knobs: &Knobs, seed: u64) -> Self {
        Self {
            random: Random::new(seed ^ 0x006f_7065_7261_746f),
            unregistrations: knobs.unregistrations,
            accepted_losses: knobs.accepted_losses,
            taken_off: BTreeSet::new(),
        }
    }

    /// Whether the node was ever taken off the ring: then its name was free for others.
    pub(crate) fn has_taken_off(&self, n: usize) -> bool {
        self.taken_off.contains(&n)
    }
}

impl World {
    pub(crate) fn plan_operator(&mut self) {
        for _ in 0..self.operator.unregistrations {
            let at = self.operator.random.between(1_500_000, self.faults.until);
            self.plan_unregistration(at);
        }
        if self.operator.accepted_losses > 0 {
            self.plan_look();
        }
    }

    fn plan_look(&mut self) {
        self.schedule.after(LOOK, Event::Operator { node: 0, step: Step::AcceptsLoss });
    }

    /// A coordinator without state has started.
    pub(crate) fn operator_sees_coordinator_start(&mut self) {
        if self.operator.unregistrations > 0 && self.faults.state_is_lost {
            for _ in 0..ATTEMPTS {
                let after = self.operator.random.spread(1_100_000, 6_000_000);
                self.plan_unregistration(self.schedule.now + after);
            }
        }
    }

    fn plan_unregistration(&mut self, at: u64) {
        let node = self.operator.random.index(self.nodes.len()) as u8;
        self.schedule.at(at, Event::Operator { node, step: Step::Unregisters });
    }

    pub(crate) fn operator_due(&mut self, n: usize, step: Step) {
        match step {
            Step::Unregisters => self.unregister(n),
            Step::StartsAgain => self.start_unregistered(n),
            Step::Forgets => self.forget_given_up(n),
            Step::AcceptsLoss => self.accept_loss(),
        }
    }

    fn unregister(&mut self, n: usize) {
        if self.liveness.is_calm() || self.faults.memory_is_missing || !self.can_be_given_up(n) {
            return;
        }
        let (addr, name) = (self.nodes[n].addr.clone(), self.nodes[n].name.clone());
        self.tell(None, || format!("operator: unregister {name}"));
        let answer = self.coordinate(|state, now| state.unregister(now, &addr));
        self.stats.unregistrations += u64::from(answer == Some(Ok(())));
        // Without an answer it may have happened.
        if !matches!(answer, Some(Err(_))) {
            self.faults.memory_is_missing = true;
            self.operator.taken_off.insert(n);
        }
    }

    /// Whether every slot keeps a copy that counts without this node, which either hears the coordinator or is down.
    fn can_be_given_up(&self, n: usize) -> bool {
        let process = &self.nodes[n];
        let can_hear = process.node.is_none() || (self.is_in_session(n) && !process.is_paused && !process.is_leaving);
        let has_other = |slot| {
            let kept = self.oracle.slots[usize::from(slot)].kept.as_ref();
            kept.is_some_and(|config| {
                let mut others = config.isr.iter().filter_map(|member| self.oracle.holder(*member));
                config.isr.len() > 1 && others.any(|holder| holder != n)
            })
        };
        can_hear && !self.coordinator.is_paused && self.bits.slots().all(|slot| has_other(slot.0))
    }

    /// Whether the coordinator has the session that the node has.
    fn is_in_session(&self, n: usize) -> bool {
        match self.nodes[n].session() {
            Session::Stands(conn) => self.coordinator.has_session(self.nodes[n].incarnation, conn),
            _ => false,
        }
    }

    /// A node is told that it was taken off the ring. It gives up what it has, its directory first. Returns `false` if
    /// the disk fails.
    pub(crate) fn is_unregistered(&mut self, n: usize) -> bool {
        let process = &mut self.nodes[n];
        let name = process.name.clone();
        if !self.operator.has_taken_off(n) {
            self.broken("liveness", None, format!("{name} is told to stay out, though nobody has unregistered it"));
            return false;
        }
        let Some(node) = &process.node else { return false };
        if process.store.disown().is_err() {
            return false;
        }
        node.give_everything_up();
        process.stays_out();
        self.tell(None, || format!("{name} gives up what it has, and stays out"));
        self.memory_lost(n);
        self.changed_roles(n);
        let after = if self.liveness.is_calm() { 20_000 } else { self.operator.random.spread(50_000, 5_000_000) };
        self.schedule.after(after, Event::Operator { node: n as u8, step: Step::StartsAgain });
        true
    }

    /// Whoever stays out follows the map as clients do.
    pub(crate) fn those_out_hear(&mut self, map: &ClusterMap) {
        let coordinator = self.coordinator_proc();
        for n in 0..self.nodes.len() {
            let is_out = self.nodes[n].node.is_some() && self.nodes[n].session() == Session::Out;
            if is_out && !self.network.is_blocked(coordinator, n) {
                let after = self.operator.random.spread(100, 50_000);
                let (boot, map) = (self.nodes[n].boot, Arc::new(map.clone()));
                self.schedule.after(after, Event::Watched { node: n as u8, boot, map });
            }
        }
    }

    pub(crate) fn map_watched(&mut self, n: usize, map: &ClusterMap) {
        let now = self.local(n);
        let handled = self.nodes[n].watches(now, map);
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name}, which is out, sees map {}: {handled:?}", map.version.0));
        self.changed_roles(n);
    }

    /// The operator stops a node that was taken off the ring, and starts it again.
    fn start_unregistered(&mut self, n: usize) {
        if self.nodes[n].node.is_some() && self.nodes[n].session() == Session::Out {
            self.crash_node(n, SurvivingData::Everything);
        }
        if self.liveness.is_calm() {
            self.liveness.node_comes_anew(self.schedule.now);
        }
        self.start_node(n);
        self.schedule.after(FORGET_PAUSE, Event::Operator { node: n as u8, step: Step::Forgets });
    }

    fn forget_given_up(&mut self, n: usize) {
        let addr = self.nodes[n].addr.clone();
        let is_awaited = self.coordinator.state.as_ref().is_some_and(|state| state.awaited().contains(&addr));
        if is_awaited && self.is_in_session(n) && !self.coordinator.is_paused && self.faults.state_is_lost {
            self.tell(None, || format!("operator: forget {addr}"));
            self.coordinate(|state: &mut Coordinator<_>, now| state.forget(now, &addr));
        }
        self.schedule.after(FORGET_PAUSE, Event::Operator { node: n as u8, step: Step::Forgets });
    }

    /// The operator gives up what the missing copies of some slots hold, if no copy that counts is here.
    fn accept_loss(&mut self) {
        if self.liveness.is_calm() {
            return;
        }
        self.plan_look();
        let Some(state) = self.coordinator.state.as_ref().filter(|state| state.map().version.0 > 0) else { return };
        // A copy that runs may go on serving, although the coordinator does not hear it.
        let is_here = |member| {
            let holder = self.oracle.keeper(member).map(|n| &self.nodes[n]);
            let is_registered = |process: &NodeProcess| state.nodes().any(|here| *here == process.addr);
            holder.is_some_and(|process| process.node.is_some() || is_registered(process))
        };
        let is_led = |config: &SlotConfig| members(config).any(is_here);
        let abandoned: Vec<_> =
            state.map().slots().filter(|(_, config)| !is_led(config)).map(|(slot, _)| slot).collect();
        let is_accepted = !abandoned.is_empty() && self.operator.random.chance(self.operator.accepted_losses);
        if !is_accepted || self.coordinator.is_paused {
            return;
        }
        let one = abandoned.first().copied().filter(|_| self.operator.random.chance(300));
        for slot in abandoned.into_iter().filter(|slot| one.is_none_or(|one| one == *slot)) {
            self.oracle.model(slot).is_given_up();
            self.tell(Some(slot), || format!("operator: accept the loss of slot {}", slot.0));
            let accepted = self.coordinate(|state, now| state.accept_loss(now, Some(slot)));
            let accepted = accepted.and_then(Result::ok).unwrap_or_default();
            self.stats.accepted_losses += (accepted.anew + accepted.unproven) as u64;
        }
    }
}
