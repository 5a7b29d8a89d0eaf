//! What must become true once faults have stopped.
//!
//! L1: every slot has a primary that serves within 2 s, counted from when every node is registered; and its whole
//! in-sync set, on its targets, within the time that the slowest path takes (a registered node that is silent is taken
//! off the ring after the heartbeat timeout). L3: the tables of all copies are equal. L4: no tombstone is left that all
//! copies have passed. L5: with every coordinator down, every request succeeds. L6: with one node paused forever,
//! quorum writes go on within 1 s of the time of removal; with one node whose disk hangs forever, within 4 s.
//!
//! In addition, a rolling restart fails no request (`rolling`).

use std::collections::{BTreeMap, BTreeSet};

use engine::slot::EXPEL_AFTER;
use proto::slot::SlotId;

use crate::client::Outcome;
use crate::damage::Damaging;
use crate::judges::append_final_reads;
use crate::moves::who_leaves;
use crate::rolling::Rolling;
use crate::schedule::Event;
use crate::world::World;

/// How often liveness is checked, in microseconds.
const LOOK: u64 = 50_000;

/// L1, first half.
const PRIMARY_WITHIN: u64 = 2_000_000;

/// L1, second half, beyond the heartbeat timeout.
const WHOLE_WITHIN: u64 = 10_000_000;

/// L3 and L4: after the last write and the last deadline. A hand-over may come late in that time, and followers learn
/// what is durable one second after its barrier.
const EQUAL_WITHIN: u64 = 4_000_000;

/// L6, with a hung disk: 1 s until it is considered hung, and then as long as for any silent node.
const HUNG_WITHIN: u64 = 4_000_000;

/// The keys of a copy with their versions and values.
type Table = Vec<(Vec<u8>, String)>;

/// The progress after faults have ended.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    phase: Phase,
    since: u64,
    registered: Option<u64>,
    /// The slots that were served at some moment since then.
    served: BTreeSet<SlotId>,
    pub(crate) is_over: bool,
    pub(crate) is_outage: bool,
    paused: Option<usize>,
    pub(crate) rolling: Rolling,
    pub(crate) damage: Damaging,
    hung: Option<usize>,
    /// Since when writes have been waiting for its disk, by slot.
    hung_writes: BTreeMap<SlotId, u64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    #[default]
    Faults,
    /// The cluster must become whole.
    Healing,
    /// Clients have stopped; copies must become equal.
    Resting,
    /// A copy is damaged, and must be found and repaired.
    Damaged,
    Outage,
    /// Every process is restarted, one after the other.
    Rolling,
    Paused,
    Hung,
}

impl Liveness {
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether all faults are over.
    pub(crate) fn is_calm(&self) -> bool {
        self.phase != Phase::Faults
    }

    /// A node has left and comes back as a new one: the time for the cluster to become whole starts again.
    pub(crate) fn node_comes_anew(&mut self, now: u64) {
        (self.since, self.registered) = (now, None);
        self.served.clear();
    }
}

impl World {
    /// Checks the progress of the current phase.
    pub(crate) fn look(&mut self) {
        match self.liveness.phase {
            Phase::Faults => {
                self.end_faults();
                self.enter(Phase::Healing);
            }
            Phase::Healing => self.look_at_healing(),
            Phase::Resting => self.look_at_rest(),
            Phase::Damaged => self.look_at_damage(),
            Phase::Outage => self.look_at_outage(),
            Phase::Rolling => self.look_at_rolling(),
            Phase::Paused => self.look_at_pause(),
            Phase::Hung => self.look_at_hung_disk(),
        }
        if !self.liveness.is_over {
            self.schedule.after(LOOK, Event::Look);
        }
    }

    pub(crate) fn enter(&mut self, phase: Phase) {
        self.liveness.phase = phase;
        self.liveness.since = self.schedule.now;
        self.tell(None, || format!("now: {phase:?}"));
    }

    pub(crate) fn elapsed(&self) -> u64 {
        self.schedule.now - self.liveness.since
    }

    fn look_at_healing(&mut self) {
        let now = self.schedule.now;
        if self.all_are_registered() {
            let since = *self.liveness.registered.get_or_insert(now);
            let served = |slot: &SlotId| (0..self.nodes.len()).any(|n| self.serves(n, *slot));
            let served: Vec<_> = self.bits.slots().filter(served).collect();
            self.liveness.served.extend(served);
            if now - since >= PRIMARY_WITHIN && now - since < PRIMARY_WITHIN + LOOK {
                // A slot that was served before may be moving to another primary right now.
                let idle = self.bits.slots().find(|slot| !self.liveness.served.contains(slot));
                if let Some(slot) = idle {
                    let what = format!("slot {} has no primary that serves: {:?}", slot.0, self.configuration(slot));
                    return self.broken("L1", Some(slot), what);
                }
            }
        }
        if now - self.liveness.registered.unwrap_or(now) < 500_000 {
            // Let clients run a little longer.
        } else if let Some((slot, what)) = self.not_whole() {
            let is_late = self.elapsed() >= WHOLE_WITHIN + self.knobs.heartbeat_timeout * 1_000;
            if is_late && self.shuns_nobody() {
                self.broken("L1", Some(slot), what);
            }
            return;
        } else {
            self.stop_clients(true);
            self.stop_comparing();
            return self.enter(Phase::Resting);
        }
        if self.elapsed() >= WHOLE_WITHIN + self.knobs.heartbeat_timeout * 1_000 {
            self.broken("L1", None, "not every node is registered".to_owned());
        }
    }

    /// Whether every primary that was cut off has been handed its slots again. It is cut off without a fault, too, where a
    /// short queue to its replicas has overflowed.
    fn shuns_nobody(&self) -> bool {
        self.schedule.now >= self.coordinator.shuns_until + PRIMARY_WITHIN
    }

    fn configuration(&self, slot: SlotId) -> String {
        let map = self.coordinator.state.as_ref().map(|state| format!("{:?}", state.map().config(slot)));
        map.unwrap_or_default()
    }

    pub(crate) fn all_are_registered(&self) -> bool {
        let Some(state) = &self.coordinator.state else { return false };
        let map = state.map();
        map.version.0 > 0
            && self.nodes.iter().all(|process| {
                process.node.as_ref().is_some_and(|node| {
                    map.member(node.incarnation()).is_some_and(|member| member.up)
                        && node.map().is_some_and(|known| known.version.0 > 0)
                })
            })
    }

    /// The first deviation of the cluster from what the ring wants.
    pub(crate) fn not_whole(&self) -> Option<(SlotId, String)> {
        let state = self.coordinator.state.as_ref()?;
        if let Some(who) = who_leaves(state) {
            return Some((SlotId(0), who));
        }
        let wanted = (self.coordinator.replicas + 1).min(self.nodes.len());
        state.map().slots().find_map(|(slot, config)| {
            let is_whole = config.isr.len() == wanted
                && config.learners.is_empty()
                && config.elr.is_empty()
                && config.primary == config.isr.first().copied();
            let is_served = || (0..self.nodes.len()).any(|n| self.serves(n, slot));
            if is_whole && is_served() {
                return None;
            }
            Some((slot, format!("slot {} does not become whole, on its targets and served: {config:?}", slot.0)))
        })
    }

    pub(crate) fn stop_clients(&mut self, stop: bool) {
        for c in 0..self.clients.len() {
            self.clients[c].is_stopped = stop;
            if !stop {
                self.clients[c].map = None;
                let serial = self.clients[c].serial;
                self.schedule.after(1_000, Event::Client { client: c as u8, serial });
            }
        }
    }

    fn look_at_rest(&mut self) {
        if self.clients.iter().any(|client| client.current.is_some()) {
            self.liveness.since = self.schedule.now;
            return;
        }
        // A last hand-over to where the ring wants a slot may still be in progress.
        let not_whole = self.not_whole().map(|(slot, what)| ("L1", slot, what));
        if let Some((invariant, slot, what)) = not_whole.or_else(|| self.not_at_rest()) {
            let is_late = self.elapsed() >= EQUAL_WITHIN + (self.knobs.longest_life + self.knobs.wall_skew) * 1_000;
            if is_late && self.shuns_nobody() {
                self.broken(invariant, Some(slot), what);
            }
            return;
        }
        for n in 0..self.nodes.len() {
            for slot in self.bits.slots() {
                self.check_fold(n, slot);
            }
        }
        if self.damage_a_copy() {
            self.enter(Phase::Damaged);
        } else if self.rolls_at_end() {
        } else if self.knobs.outage > 0 && !self.liveness.is_outage && self.knobs.wild_clocks == 0 {
            self.crash_coordinator();
            self.liveness.is_outage = true;
            self.stop_clients(false);
            self.enter(Phase::Outage);
        } else if self.knobs.paused_for_ever > 0 && self.coordinator.replicas == 2 && self.liveness.paused.is_none() {
            let n = self.random.index(self.nodes.len());
            self.pause(n, u64::from(u32::MAX));
            self.liveness.paused = Some(n);
            self.enter(Phase::Paused);
        } else if self.hangs_at_end() {
            let n = self.random.index(self.nodes.len());
            self.nodes[n].store.slowness = u64::from(u32::MAX);
            let name = self.nodes[n].name.clone();
            self.tell(None, || format!("the disk of {name} hangs for ever"));
            self.liveness.hung = Some(n);
            self.stop_clients(false);
            self.enter(Phase::Hung);
        } else {
            self.read_finally();
        }
    }

    /// The first copy that is not equal, or keeps what nobody needs.
    pub(crate) fn not_at_rest(&self) -> Option<(&'static str, SlotId, String)> {
        let state = self.coordinator.state.as_ref()?;
        for (slot, config) in state.map().slots() {
            let mut first: Option<(String, Table)> = None;
            for process in &self.nodes {
                let Some(node) = &process.node else { continue };
                let is_copy = config.isr.contains(&node.incarnation());
                if let Some(lag) = node.outboxes().iter().map(|outbox| outbox.lag()).find(|lag| lag.items > 0) {
                    return Some(("L3", slot, format!("{} has still to send: {lag:?}", process.name)));
                }
                let expiring = node.inspect(slot, |state| state.records().find(|it| it.has_deadline()).cloned());
                if let Some(record) = expiring.filter(|_| is_copy) {
                    let what =
                        format!("slot {}: {} keeps {} past its deadline", slot.0, process.name, record.version());
                    return Some(("L4", slot, what));
                }
                let (last, durable, mut table, tombstone) = node.inspect(slot, |state| {
                    let table = state
                        .records()
                        .map(|record| (record.key().to_vec(), format!("{} {:?}", record.version(), record.effect())));
                    let tombstone = state.records().find(|record| record.is_delete()).map(|record| record.version());
                    (state.last(), state.durable(), table.collect::<Table>(), tombstone)
                });
                if !is_copy {
                    if !table.is_empty() {
                        return Some(("L3", slot, format!("{} holds a slot that is not its own", process.name)));
                    }
                    continue;
                }
                if durable != last.seq {
                    let what = format!("slot {}: {} knows {durable} of {last} for durable", slot.0, process.name);
                    return Some(("L3", slot, what));
                }
                if let Some(tombstone) = tombstone {
                    let what = format!("slot {}: {} keeps the tombstone {tombstone}", slot.0, process.name);
                    return Some(("L4", slot, what));
                }
                table.sort();
                match &first {
                    None => first = Some((last.to_string(), table)),
                    Some(first) if *first != (last.to_string(), table) => {
                        return Some(("L3", slot, format!("slot {}: {} is not equal", slot.0, process.name)));
                    }
                    Some(_) => {}
                }
            }
        }
        None
    }

    fn look_at_outage(&mut self) {
        if self.elapsed() >= self.knobs.outage * 1_000 {
            self.start_coordinator();
            self.stop_clients(true);
            self.enter(Phase::Resting);
        }
    }

    /// L5: a request has failed.
    pub(crate) fn refused_in_peace(&mut self, c: usize, operation: &crate::client::Operation, outcome: &Outcome) {
        if self.liveness.phase == Phase::Outage {
            let what = format!("{outcome:?} to client {c}, who asked {:?} of {}", operation.what, operation.key);
            self.broken("L5", Some(operation.slot), what);
        }
    }

    /// Whether a disk is to hang at the end. None does if nobody waits for fsyncs.
    fn hangs_at_end(&self) -> bool {
        self.knobs.hung_for_ever > 0
            && self.coordinator.replicas == 2
            && self.knobs.wild_clocks == 0
            && self.liveness.hung.is_none()
            && self.nodes.first().is_some_and(|process| process.store.syncs_always())
    }

    fn look_at_hung_disk(&mut self) {
        let (now, Some(hung)) = (self.schedule.now, self.liveness.hung) else { return };
        for slot in self.bits.slots() {
            let waits = self.nodes[hung].node.as_ref().is_some_and(|node| {
                node.inspect(slot, |state| state.is_primary() && state.last().seq > state.durable())
            });
            let since = if waits { self.liveness.hung_writes.get(&slot).copied().unwrap_or(now) } else { now };
            self.liveness.hung_writes.insert(slot, since);
            let is_replaced = (0..self.nodes.len()).any(|n| n != hung && self.serves(n, slot));
            if now - since > HUNG_WITHIN && !is_replaced {
                let what = format!("slot {} is led by a disk that hangs: {:?}", slot.0, self.configuration(slot));
                return self.broken("L6", Some(slot), what);
            }
        }
        if self.elapsed() < 2 * HUNG_WITHIN {
            return;
        }
        self.nodes[hung].store.revive();
        self.liveness.phase = Phase::Healing;
        self.liveness.registered = None;
        self.liveness.served.clear();
        self.liveness.since = now;
    }

    fn look_at_pause(&mut self) {
        let limit = EXPEL_AFTER.as_micros() as u64 + 1_000_000 + LOOK;
        if self.elapsed() < limit {
            return;
        }
        let serves =
            |slot: &SlotId| (0..self.nodes.len()).any(|n| self.liveness.paused != Some(n) && self.serves(n, *slot));
        let idle = self.bits.slots().find(|slot| !serves(slot));
        if let Some(slot) = idle.filter(|_| self.elapsed() < limit + LOOK) {
            let what = format!("slot {} takes no quorum writes: {:?}", slot.0, self.configuration(slot));
            return self.broken("L6", Some(slot), what);
        }
        if let Some(paused) = self.liveness.paused {
            self.go_on(paused);
        }
        self.liveness.phase = Phase::Healing;
        self.liveness.registered = None;
        self.liveness.served.clear();
        self.liveness.since = self.schedule.now;
    }

    /// Reads every key once more.
    fn read_finally(&mut self) {
        self.liveness.is_over = true;
        let mut finals = BTreeMap::new();
        for index in 0..self.knobs.keys {
            let key = format!("judged{index}");
            let slot = self.bits.slot(&proto::slot::Position::of(key.as_bytes()));
            let server = (0..self.nodes.len()).find(|n| self.serves(*n, slot));
            let read = server.and_then(|n| {
                let waiting = engine::waiting::Waiting::new();
                let now = self.local(n);
                let node = self.nodes[n].node.as_ref()?;
                let value = |record: Option<&engine::record::Record>| {
                    let value = record.and_then(|record| record.value());
                    value.map(|value| String::from_utf8_lossy(value).into_owned())
                };
                let level = proto::level::ReadLevel::Linear;
                node.read(slot, key.as_bytes(), level, || now, &waiting, &mut engine::node::Turn::default(), value).ok()
            });
            match read {
                Some(answer) if answer.ticket.is_none() => {
                    if !self.oracle.slots[usize::from(slot.0)].is_lost {
                        finals.insert(key, answer.answer);
                    }
                }
                _ => return self.broken("L1", Some(slot), format!("{key} cannot be read at the end")),
            }
        }
        self.remember_deadlines();
        let _ = append_final_reads(&mut self.history, &finals);
        for n in 0..self.nodes.len() {
            if let Some(node) = &self.nodes[n].node {
                self.stats.comparisons += node.compared().compared;
            }
        }
    }
}
