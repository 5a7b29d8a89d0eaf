//! The coordinator: who is a member, who holds which slot, and every change to that.
//!
//! Facts go in through the methods; work for the caller comes out of [`Coordinator::poll_output`], which must be polled
//! after every call. The caller also calls [`Coordinator::handle_timeout`] when [`Coordinator::next_deadline`] is
//! reached.
//!
//! Nodes join and are replaced in `coordinator/membership.rs`, and leave for good in `coordinator/moves.rs`;
//! `coordinator/proposals.rs` handles their messages. Anything that may change who should hold what triggers a look at
//! all slots (`coordinator/replan.rs`).
//!
//! Every change of the map takes the next number of a single counter. That number is the map's version, and the new
//! epoch of every slot that gets a new primary in this change. Each change is persisted before anybody hears of it, so
//! that a coordinator restarted with its state continues where it left off (`coordinator/state.rs`). A coordinator that
//! starts without a state takes the map over from the nodes. Either continues in a higher generation, far above every
//! number that anybody can have seen (`coordinator/versions.rs`). Incarnations are names, not counts: they start from a
//! random number, so that no coordinator issues one that another has issued.
//!
//! State that belongs together is kept in parts, each in a file of its own with the methods that keep it consistent:
//! `rejections.rs`, `successors.rs`, `returns.rs`, `recovery.rs`, `versions.rs`, `reports.rs` and `hand_overs.rs`. These
//! know nothing of the coordinator, and are shown its map and registry where they need them.

mod hand_overs;
mod health;
mod membership;
mod moves;
mod operator;
mod proposals;
mod recovery;
mod rejections;
mod replan;
mod reports;
mod returns;
mod start_up;
mod state;
mod successors;
mod suspicion;
mod throttle;
mod versions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, Departures, MapVersion, Member, SlotConfig};
use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::ring::HashRing;
use proto::slot::{Position, SlotId};

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::output::{Event, Output, Settings};
use crate::plan;
use crate::promotion::Promotion;
use crate::registry::{Registered, Registry};
use crate::time::Timestamp;

use hand_overs::HandOvers;
use health::Fills;
pub use membership::JoinRequest;
use membership::Joining;
use proposals::{Proposal, REPLAN_PAUSE};
use recovery::Recovery;
use rejections::Rejections;
use reports::Reports;
use returns::Returns;
pub use state::StateError;
pub(crate) use successors::Successors;
use suspicion::Suspicion;
use versions::Versions;

/// How long the first node that joins a coordinator waits for others. The nodes of a new cluster share its first map.
/// The nodes of an existing cluster, which retry after at most [`REJOIN_PAUSE`] with attempts of at most
/// [`REJOIN_TIMEOUT`], bring its map within this time.
pub const GATHERING: Duration = Duration::from_secs(1);

/// The longest pause between two attempts of a node to rejoin its coordinator.
pub const REJOIN_PAUSE: Duration = Duration::from_millis(250);

/// How long such an attempt may take. IMPORTANT: together with the pause it must stay below [`GATHERING`]. Otherwise a
/// live node could miss the decision, and a new cluster could start beside its own.
pub const REJOIN_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Nobody has joined.
    Fresh,
    /// Nodes have joined, with or without maps of an earlier coordinator. At this time the coordinator decides how to
    /// continue.
    Gathering(Timestamp),
    /// A map was taken over. Changes wait until every node in it has reported what it knows.
    Recovering,
    /// A state was read. Nothing changes until all of its nodes have reported what they know, or until this time: if
    /// the state is an older one, they know more.
    Restored(Timestamp),
    Serving,
}

/// The maximum number of consecutive looks at all slots.
const ROUNDS: usize = 8;

/// The state machine. See the module documentation.
#[derive(Debug)]
pub struct Coordinator<B: Bugs = NoBugs> {
    settings: Settings,
    phase: Phase,
    registry: Registry,
    ring: HashRing,
    map: ClusterMap,
    /// The empty map that counts as published while maps are gathered and one is being taken over from the nodes.
    nothing: ClusterMap,
    incarnations: u64,
    /// Whether any of our nodes has ever joined, as opposed to addresses registered by hand.
    joined_once: bool,
    /// Incarnations that were issued but not heard from yet. See [`Coordinator::join`].
    joining: BTreeMap<Incarnation, Joining>,
    /// Who is not admitted.
    rejections: Rejections,
    /// What became of starts that the map still names.
    successors: Successors,
    /// In how many slots a start without proof of its data was promoted since the cluster was created.
    unproven_promotions: u64,
    /// Who has just come back with its data, and who is expected to.
    returns: Returns,
    /// What nodes have told a coordinator that has no state or an old one.
    recovery: Recovery,
    /// The numbers of the changes, and which of them are its own.
    versions: Versions,
    /// Nodes with more than one share of the slots.
    weights: BTreeMap<NodeAddr, u32>,
    /// Nodes that are to leave for good. The map says so from its next change on.
    departures: Departures,
    /// Those of them that no longer hold any part of a slot and have been told to delete what they have.
    moved_off: BTreeSet<Incarnation>,
    /// Nodes that are dead or have stopped but still have their place on the ring, and since when.
    away: BTreeMap<NodeAddr, Timestamp>,
    /// Full disks, a lack of memory, and who is about to stop.
    reports: Reports,
    /// Nodes that slots wait for because their other copies are here without proof of their data.
    awaited_by_unproven: BTreeSet<NodeAddr>,
    /// Who does not hear whom.
    suspicion: Suspicion,
    /// How far copies are filled.
    fills: Fills,
    /// Learners that have everything, to be admitted at the next look at all slots.
    admissions: BTreeMap<SlotId, Proposal>,
    /// Slots that were released to a member that is suspected.
    releases: BTreeMap<SlotId, Proposal>,
    /// When to look at all slots because some have changed.
    replan_at: Option<Timestamp>,
    promotion: Option<Promotion>,
    /// Slots whose primaries are asked to hand them over.
    hand_overs: HandOvers,
    outputs: VecDeque<Output>,
    bugs: B,
}

impl<B: Bugs> Coordinator<B> {
    /// A coordinator that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings, bugs: B) -> Self {
        let mut map = ClusterMap::empty(settings.cluster.clone(), settings.bits);
        map.cluster_settings = settings.cluster_settings;
        Self {
            phase: Phase::Fresh,
            registry: Registry::new(settings.cluster_settings.heartbeat_timeout),
            ring: HashRing::new(settings.virtual_nodes),
            nothing: map.clone(),
            map,
            incarnations: u64::from(settings.incarnations) << Incarnation::BITS,
            joined_once: false,
            joining: BTreeMap::new(),
            rejections: Rejections::default(),
            successors: Successors::default(),
            unproven_promotions: 0,
            returns: Returns::default(),
            recovery: Recovery::default(),
            versions: Versions::new(&settings),
            weights: BTreeMap::new(),
            departures: Departures::default(),
            moved_off: BTreeSet::new(),
            away: BTreeMap::new(),
            reports: Reports::default(),
            awaited_by_unproven: BTreeSet::new(),
            suspicion: Suspicion::default(),
            fills: Fills::default(),
            admissions: BTreeMap::new(),
            releases: BTreeMap::new(),
            replan_at: None,
            promotion: None,
            hand_overs: HandOvers::default(),
            outputs: VecDeque::new(),
            settings,
            bugs,
        }
    }

    /// The published map. Its version is 0 before the first one is published: a map taken over from a node is not yet
    /// this coordinator's, and may be older than what other nodes follow. Nor is a map of addresses registered by hand,
    /// once a node has joined: its cluster may turn out to be another.
    #[must_use]
    pub fn map(&self) -> &ClusterMap {
        if matches!(self.phase, Phase::Gathering(_) | Phase::Recovering) { &self.nothing } else { &self.map }
    }

    /// The map as far as it is known, including one that is being taken over. Only good for finding nodes.
    #[must_use]
    pub fn known_map(&self) -> &ClusterMap {
        &self.map
    }

    /// The registered addresses, sorted.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeAddr> {
        self.registry.iter().map(|(addr, _)| addr)
    }

    /// Who holds a key, primary first. Before the first map: who will hold it.
    ///
    /// # Errors
    /// No node is registered, or none of the key's holders is known.
    pub fn nodes_for_key(&self, key: &[u8]) -> Result<Vec<NodeAddr>, ErrorReply> {
        if self.registry.is_empty() && self.map.members().next().is_none() {
            return Err(ErrorReply::NoNodes);
        }
        let slot = self.settings.bits.slot(&Position::of(key));
        let holders: Vec<_> = if let Some(offered) = self.recovery.best_offer() {
            offered.holders(slot).map(|(_, member)| member.addr.clone()).collect()
        } else if self.map.version == MapVersion(0) {
            let position = self.settings.bits.first_position(slot);
            self.ring.owners_of(&position, self.copies()).into_iter().cloned().collect()
        } else {
            self.map.holders(slot).map(|(_, member)| member.addr.clone()).collect()
        };
        if holders.is_empty() { Err(ErrorReply::NoNodes) } else { Ok(holders) }
    }

    /// In how many slots a copy without proof of its data was promoted since the cluster was created: writes that were
    /// acknowledged there in the last moments before the promotion may be missing.
    #[must_use]
    pub fn unproven_promotions(&self) -> u64 {
        self.unproven_promotions
    }

    /// The next piece of work for the caller.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Coordinator::handle_timeout`] next.
    #[must_use]
    pub fn next_deadline(&self) -> Timestamp {
        let is_ahead = |at: &Timestamp| *at > self.suspicion.last_call();
        let phase = match self.phase {
            Phase::Gathering(until) | Phase::Restored(until) => Some(until),
            Phase::Recovering => Some(self.recovery.counted_on_until()).filter(is_ahead),
            Phase::Fresh | Phase::Serving => None,
        };
        let promotion = self.promotion.as_ref().map(|promotion| promotion.until);
        let grace = Some(self.successors.grace_until()).filter(is_ahead);
        let suspicion = self.suspicion.next_check(&self.registry);
        [
            phase,
            promotion,
            self.hand_overs.next_due(),
            grace,
            self.returns.next_deadline(),
            self.suspicion.next_pardon(),
            suspicion,
            self.replan_at,
            self.recovery.next_report(),
            self.next_replacement(),
        ]
        .into_iter()
        .flatten()
        .fold(self.registry.next_check(), Timestamp::min)
    }

    /// Tells the coordinator that time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        self.wake(now);
        for (addr, node) in self.registry.remove_silent(now) {
            self.goes_away(now, &addr, node.by_hand);
            if node.by_hand {
                self.successors.give_up([node.incarnation]);
            } else {
                self.returns.deserts(node.incarnation);
            }
            if let Some(promotion) = &mut self.promotion {
                promotion.forget(node.incarnation);
            }
            self.event(Event::Dead(addr));
        }
        self.replace_the_away(now);
        self.returns.handle_timeout(now);
        if self.hand_overs.are_due(now) && self.phase == Phase::Serving {
            // Learners that have everything are admitted at the next look; that would be a change at the same time as
            // these hand-overs.
            let next_look = self.replan_at.unwrap_or(now + REPLAN_PAUSE);
            if now < next_look && !self.replan(now) {
                self.replan_at = Some(next_look);
                return;
            }
        }
        self.advance(now);
    }

    /// Does whatever there is to do, until there is nothing left.
    fn advance(&mut self, now: Timestamp) {
        self.suspicion.look(now);
        match self.phase {
            Phase::Fresh => {}
            Phase::Gathering(until) if now < until => {}
            Phase::Gathering(_) => self.decide(now),
            Phase::Restored(until) if now < until && !self.recovery.all_have_told(&self.registry) => {}
            Phase::Restored(_) => self.go_on(now),
            Phase::Recovering | Phase::Serving => {}
        }
        if self.recovery.take_due_report(now) {
            self.event(Event::Awaiting(self.awaited()));
        }
        if self.phase == Phase::Recovering && self.recovery.knows_enough(now, self.bugs) {
            self.start_generation(now);
        }
        if self.phase == Phase::Serving {
            self.admit_waiting(now);
            self.pass_on_released(now);
            // Each round completes what the previous one made possible; the longest known chain is three. Should one
            // ever not end, it continues later, and others get their turn.
            if (0..ROUNDS).all(|_| self.replan(now)) {
                self.replan_at = Some(now + REPLAN_PAUSE);
            }
            self.returns.were_looked_at();
            self.dismiss_leavers();
        }
    }

    fn copies(&self) -> usize {
        self.settings.cluster_settings.copies()
    }

    /// Commits one change of the map.
    fn commit(&mut self, changes: Vec<(SlotId, SlotConfig)>) {
        let version = MapVersion(self.versions.next_number());
        let mut last: Option<Arc<SlotConfig>> = None;
        for (slot, mut next) in changes {
            let before = Arc::clone(self.map.config(slot));
            let same_primary = before.primary == next.primary && before.primary.is_some();
            next.epoch = if same_primary { before.epoch } else { Epoch(version.0) };
            next.version = version;
            self.versions.note_relied_on(slot, &before, &next);
            // Identical neighbors share one configuration, which makes a look at all slots cheap.
            let next = last.take().filter(|last| **last == next).unwrap_or_else(|| Arc::new(next));
            self.map.set_config(slot, Arc::clone(&next));
            last = Some(next);
        }
        self.map.version = version;
        self.publish();
    }

    fn publish(&mut self) {
        let members = self.members();
        self.successors.retain(|incarnation| members.contains_key(incarnation));
        self.recovery.retain_ancestors(|incarnation| members.contains_key(incarnation));
        self.map.set_members(members);
        self.map.departures.clone_from(&self.departures);
        // IMPORTANT: a change that is not persisted must not become known to anybody.
        let outputs = [Output::Keep, Output::Publish];
        let kept_late = self.bugs.plants(Bug::PublishedBeforeKept);
        self.outputs.extend(if kept_late { [Output::Publish, Output::Keep] } else { outputs });
    }

    /// Everyone the map must name: registered nodes, and whoever a slot still waits for.
    fn members(&self) -> BTreeMap<Incarnation, Member> {
        let up = |(addr, node): (&NodeAddr, &Registered)| (node.incarnation, Member { addr: addr.clone(), up: true });
        let mut members: BTreeMap<_, _> = self.registry.iter().map(up).collect();
        for config in plan::runs(&self.map) {
            for holder in config.copies().chain(config.primary) {
                if let Some(member) = self.map.member(holder).filter(|_| !members.contains_key(&holder)) {
                    members.insert(holder, Member { addr: member.addr.clone(), up: false });
                }
            }
        }
        members
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }
}
