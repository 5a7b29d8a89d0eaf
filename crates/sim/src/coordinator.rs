//! The coordinator's process: the simulated shell between the state machine and the sessions.

use std::collections::{BTreeMap, VecDeque};

use engine::coordinator::{Coordinator, JoinRequest};
use engine::output::{Event as CoordinatorEvent, JoinError, Output, Settings};
use engine::time::Timestamp;
use proto::cluster_map::{ClusterMap, ClusterSettings, MapUpdate, MapVersion};
use proto::error::ErrorReply;
use proto::frame::Words;
use proto::id::Incarnation;
use proto::level::AckLevel;
use proto::session::{CoordinatorMessage, Join, NodeMessage};
use seeded::Random;
use std::time::Duration;

use crate::clock::Clock;
use crate::mutants::Planted;
use crate::network::{ACCEPTER, ConnId, Network, ProcId};
use crate::schedule::{Event, Schedule};
use crate::world::{Frames, Next, World};
/// How many earlier states are kept as copies.
const OLDER_STATES: usize = 6;

/// The process.
pub(crate) struct CoordinatorProcess {
    pub(crate) proc: ProcId,
    /// The state machine, while the process runs.
    pub(crate) state: Option<Coordinator<Planted>>,
    /// Its persisted state.
    pub(crate) disk: Option<String>,
    /// Its earlier persisted states, oldest first.
    pub(crate) older: VecDeque<String>,
    /// A copy of its state that is to be put back.
    pub(crate) copy: Option<String>,
    pub(crate) boot: u32,
    /// With how many replicas it was started.
    pub(crate) replicas: usize,
    pub(crate) is_paused: bool,
    pub(crate) deferred: Vec<Event>,
    pub(crate) clock: Clock,
    /// When a node last complained about a primary, by primary and node.
    pub(crate) complaints: BTreeMap<(Incarnation, Incarnation), Timestamp>,
    /// Until when it hands no slots to a primary that was cut off.
    pub(crate) shuns_until: u64,
    sessions: BTreeMap<Incarnation, ConnId>,
    conns: BTreeMap<ConnId, NodeSession>,
    /// The map published last.
    published: Option<ClusterMap>,
    timer: u32,
    /// It crashes after carrying out this many more outputs.
    pub(crate) outputs_left: Option<u64>,
    /// The version of the map that it has adopted.
    pub(crate) adopted: Option<MapVersion>,
    random: Random,
    /// How many times in a row its deadline had already passed right after a call.
    spins: u32,
}

/// One node's session.
#[derive(Debug)]
struct NodeSession {
    node: Incarnation,
    /// The version of the map that was sent to the node.
    sent: MapVersion,
}

impl CoordinatorProcess {
    pub(crate) fn new(proc: ProcId, random: &mut Random) -> Self {
        Self {
            proc,
            state: None,
            disk: None,
            older: VecDeque::new(),
            copy: None,
            boot: 0,
            replicas: 0,
            is_paused: false,
            deferred: Vec::new(),
            clock: Clock::new(random.spread(1_000_000, 1_000_000_000_000)),
            complaints: BTreeMap::new(),
            shuns_until: 0,
            sessions: BTreeMap::new(),
            conns: BTreeMap::new(),
            published: None,
            timer: 0,
            outputs_left: None,
            adopted: None,
            random: random.fork(),
            spins: 0,
        }
    }

    /// Whether this connection is a node's session.
    pub(crate) fn has_session(&self, node: Incarnation, conn: ConnId) -> bool {
        self.sessions.get(&node) == Some(&conn)
    }
}

impl World {
    /// Starts the coordinator, from its persisted state if there is one.
    pub(crate) fn start_coordinator(&mut self) {
        let now = self.coordinator_now();
        let process = &mut self.coordinator;
        process.boot += 1;
        process.adopted = None;
        let is_changed = self.knobs.settings_changes > 0 && process.random.chance(self.knobs.settings_changes);
        // Clients name their level, so this is a change that changes nothing for them.
        let ack = if is_changed { AckLevel::Quorum } else { AckLevel::Async };
        // An older state that is put back together with fewer replicas may decide what the newer one had decided otherwise.
        let may_be_fewer = self.knobs.forks == 0 && self.knobs.states_put_back == 0;
        process.replicas = (self.knobs.replicas as usize).saturating_sub((is_changed && may_be_fewer).into());
        let settings = Settings {
            cluster_settings: ClusterSettings {
                replicas: process.replicas,
                heartbeat_timeout: Duration::from_millis(self.knobs.heartbeat_timeout),
                ack,
                ..ClusterSettings::default()
            },
            virtual_nodes: 3,
            replace_after: Duration::from_millis(self.knobs.replace_after),
            moves_at_once: self.knobs.moves_at_once as usize,
            bits: self.bits,
            cluster: format!("{:08x}", process.random.next() >> 32),
            incarnations: (process.random.next() >> 36) as u32,
        };
        let state = match &process.disk {
            Some(kept) => Coordinator::restored(now, settings, self.planted, kept).map_err(|error| error.to_string()),
            None => Ok(Coordinator::new(settings, self.planted)),
        };
        match state {
            Ok(state) => {
                self.coordinator.published = Some(state.map().clone()).filter(|map| map.version > MapVersion(0));
                self.coordinator.state = Some(state);
            }
            Err(error) => return self.broken("restart", None, format!("what the coordinator has kept: {error}")),
        }
        let kept = if self.coordinator.disk.is_some() { "its state" } else { "nothing" };
        self.tell(None, || format!("coordinator starts with {kept}"));
        self.operator_sees_coordinator_start();
        self.carry_out();
    }

    /// Crashes the process.
    pub(crate) fn crash_coordinator(&mut self) {
        self.end_coordinator(Network::crash);
        self.tell(None, || "coordinator crashes".to_owned());
    }

    /// Stops the process in an orderly way: every node receives the last map.
    pub(crate) fn stop_coordinator(&mut self) {
        self.end_coordinator(Network::close);
        self.tell(None, || "coordinator stops".to_owned());
    }

    fn end_coordinator(&mut self, end: impl Fn(&mut Network, &mut Schedule, ConnId, usize)) {
        let process = &mut self.coordinator;
        process.state = None;
        process.sessions.clear();
        process.conns.clear();
        process.deferred.clear();
        process.is_paused = false;
        process.outputs_left = None;
        let (proc, boot) = (process.proc, process.boot);
        for (conn, side) in self.network.held_by(proc, boot) {
            end(&mut self.network, &mut self.schedule, conn, side);
        }
    }

    pub(crate) fn coordinator_now(&self) -> Timestamp {
        self.coordinator.clock.now(self.schedule.now)
    }

    /// Calls the state machine and carries out its outputs.
    pub(crate) fn coordinate<R>(&mut self, call: impl FnOnce(&mut Coordinator<Planted>, Timestamp) -> R) -> Option<R> {
        let now = self.coordinator_now();
        let result = call(self.coordinator.state.as_mut()?, now);
        self.carry_out();
        // If it crashed in between, the caller gets no answer.
        self.coordinator.state.is_some().then_some(result)
    }

    /// Carries out the outputs in order. A crash may come between any two. Sessions are separate tasks: they send their
    /// messages only after this ends; a map goes out as soon as it is published.
    fn carry_out(&mut self) {
        let mut messages = Vec::new();
        let mut asked_for_hand_over = false;
        let encoded = |message: CoordinatorMessage<'_>| {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            bytes
        };
        while let Some(output) = self.coordinator.state.as_mut().and_then(Coordinator::poll_output) {
            if let Some(left) = &mut self.coordinator.outputs_left {
                if *left == 0 {
                    self.crash_coordinator();
                    return self.plan_coordinator_restart();
                }
                *left -= 1;
            }
            match output {
                Output::Keep => {
                    self.keep_state();
                    self.map_kept();
                }
                Output::Publish => {
                    self.map_published();
                    self.coordinator.published = self.coordinator.state.as_ref().map(|state| state.map().clone());
                    if let Some(map) = self.coordinator.published.clone().filter(|_| self.knobs.unregistrations > 0) {
                        self.those_out_hear(&map);
                    }
                    let conns: Vec<ConnId> = self.coordinator.conns.keys().copied().collect();
                    conns.into_iter().for_each(|conn| self.send_map(conn, Vec::new()));
                }
                Output::AskPositions { to, query, slots } => {
                    messages.push((to, encoded(CoordinatorMessage::AskPositions { query, slots })));
                }
                Output::HandOver { from, to, slots } => {
                    self.stats.hand_overs += slots.len() as u64;
                    messages.push((from, encoded(CoordinatorMessage::HandOver { to, slots })));
                    asked_for_hand_over = true;
                }
                Output::CloseSession(node) => self.close_session(node),
                Output::Unregistered(node) => {
                    self.send_to_node(node, encoded(CoordinatorMessage::Unregistered));
                    self.close_session(node);
                }
                Output::Dismiss(node) => {
                    self.faults.memory_is_missing = true;
                    messages.push((node, encoded(CoordinatorMessage::Dismiss)));
                }
                Output::Event(event) => self.coordinator_tells(&event),
            }
        }
        messages.into_iter().for_each(|(to, bytes)| self.send_to_node(to, bytes));
        self.set_coordinator_timer();
        if asked_for_hand_over {
            self.sleep_at_hand_over();
        }
    }

    fn keep_state(&mut self) {
        let process = &mut self.coordinator;
        let kept = process.state.as_ref().map(Coordinator::state);
        let before = std::mem::replace(&mut process.disk, kept);
        if self.knobs.states_put_back > 0 {
            process.older.extend(before);
            if process.older.len() > OLDER_STATES {
                process.older.pop_front();
            }
        }
    }

    fn coordinator_tells(&mut self, event: &CoordinatorEvent) {
        match event {
            CoordinatorEvent::Promoted(slots) => self.stats.promotions += *slots as u64,
            CoordinatorEvent::PromotedUnproven(slots, _) | CoordinatorEvent::PromotedOlder(slots, _) => {
                self.stats.unproven_promotions += *slots as u64
            }
            CoordinatorEvent::StartedAnew(slots) => self.stats.started_anew += *slots as u64,
            CoordinatorEvent::Dead(_) => self.stats.removed += 1,
            CoordinatorEvent::Adopted(version) => {
                self.coordinator.adopted = Some(*version);
                self.coordinator.published = None;
            }
            CoordinatorEvent::Suspected(_) => self.stats.suspected += 1,
            CoordinatorEvent::CutOff(_, pause) => {
                self.stats.cut_off += 1;
                // By its clock, which may be slow.
                let until = self.schedule.now + pause.as_micros() as u64 * 10 / 8;
                self.coordinator.shuns_until = self.coordinator.shuns_until.max(until);
            }
            CoordinatorEvent::Refused(addr, ErrorReply::NotPeer(_)) => {
                let what = format!("{addr} is taken for a node of another cluster");
                self.broken("one cluster", None, what);
            }
            _ => {}
        }
        self.tell(None, || format!("coordinator: {event:?}"));
    }

    fn set_coordinator_timer(&mut self) {
        let now = self.schedule.now;
        let process = &mut self.coordinator;
        let Some(state) = &process.state else { return };
        process.timer += 1;
        let at = process.clock.real_time(now, state.next_deadline());
        process.spins = if at == now { process.spins + 1 } else { 0 };
        let spins = process.spins;
        let event = Event::Coordinator { boot: process.boot, serial: process.timer };
        self.schedule.at(at.max(now + 1), event);
        if spins > 1_000 {
            self.broken("the coordinator rests", None, "its deadline has passed whenever it is called".to_owned());
        }
    }

    pub(crate) fn coordinator_due(&mut self, serial: u32) {
        if serial == self.coordinator.timer {
            self.coordinate(Coordinator::handle_timeout);
        }
    }

    /// Sends the map if it has changed since the last time, and then `then`.
    fn send_map(&mut self, conn: ConnId, mut then: Vec<u8>) {
        let process = &mut self.coordinator;
        let Some(session) = process.conns.get_mut(&conn) else { return };
        let mut bytes = Vec::new();
        if let Some(map) = process.published.as_ref().filter(|map| map.version > session.sent) {
            let text = map.update_since(session.sent).to_lines().join("\n");
            session.sent = map.version;
            CoordinatorMessage::Map { text: &text }.encode(&mut bytes);
        }
        bytes.append(&mut then);
        if !bytes.is_empty() {
            self.network.send(&mut self.schedule, conn, ACCEPTER, bytes);
        }
    }

    /// What the coordinator asks of a node follows from the map, so the map goes first.
    fn send_to_node(&mut self, node: Incarnation, bytes: Vec<u8>) {
        if let Some(conn) = self.coordinator.sessions.get(&node).copied() {
            self.send_map(conn, bytes);
        }
    }

    /// A newer session has replaced this one, or the node is to join again.
    fn close_session(&mut self, node: Incarnation) {
        if let Some(conn) = self.coordinator.sessions.remove(&node) {
            self.coordinator.conns.remove(&conn);
            self.network.close(&mut self.schedule, conn, ACCEPTER);
        }
    }

    /// Bytes have arrived on a session.
    pub(crate) fn coordinator_hears(&mut self, conn: ConnId, frames: &mut Frames<'_>) -> bool {
        while let Some(next) = frames.next() {
            let Next::Array(words) = next else { return false };
            let is_good = match self.coordinator.conns.get(&conn).map(|session| session.node) {
                Some(node) => self.coordinator_takes(conn, node, words),
                None => self.take_join(conn, words),
            };
            if !is_good || self.coordinator.state.is_none() {
                return false;
            }
        }
        true
    }

    fn take_join(&mut self, conn: ConnId, mut words: Words<'_>) -> bool {
        words.next();
        let Ok(join) = Join::parse(words) else {
            self.broken("codec", None, "a JOIN cannot be read".to_owned());
            return false;
        };
        let held = if join.map.is_empty() {
            None
        } else {
            let map = MapUpdate::parse(join.map.lines()).and_then(|update| ClusterMap::updated(None, &update));
            let Ok(map) = map else {
                self.broken("codec", None, "the map of a JOIN cannot be read".to_owned());
                return false;
            };
            Some(map)
        };
        let Join { addr, incarnation, ancestors, weight, .. } = join;
        let request = JoinRequest { addr: addr.clone(), incarnation, weight, ancestors, held };
        let joined = self.coordinate(|state, now| state.join(now, request));
        let mut bytes = Vec::new();
        match joined {
            None => return false,
            Some(Ok(joined)) => {
                let node = joined.incarnation;
                self.tell(None, || format!("coordinator: {addr} is {}", node.0 & 0xffff));
                self.close_session(node);
                self.coordinator.sessions.insert(node, conn);
                self.coordinator.conns.insert(conn, NodeSession { node, sent: MapVersion(0) });
                CoordinatorMessage::Joined { incarnation: node, text: "OK" }.encode(&mut bytes);
                self.network.send(&mut self.schedule, conn, ACCEPTER, bytes);
                self.send_map(conn, Vec::new());
                return true;
            }
            Some(Err(JoinError::Unregistered)) => CoordinatorMessage::Unregistered.encode(&mut bytes),
            Some(Err(JoinError::Replaced)) => CoordinatorMessage::Replaced.encode(&mut bytes),
            Some(Err(JoinError::Refused(error))) => {
                self.tell(None, || format!("coordinator refuses {addr}: {error}"));
                bytes.extend_from_slice(b"-ERROR refused\r\n");
            }
        }
        self.network.send(&mut self.schedule, conn, ACCEPTER, bytes);
        false
    }

    fn coordinator_takes(&mut self, conn: ConnId, node: Incarnation, words: Words<'_>) -> bool {
        let Ok(message) = NodeMessage::parse(words) else {
            self.broken("codec", None, "a message of a node cannot be read".to_owned());
            return false;
        };
        let (is_beat, is_leave) = (
            matches!(message, NodeMessage::Heartbeat { .. }),
            matches!(message, NodeMessage::Leave | NodeMessage::Cleared),
        );
        if !is_beat {
            self.tell(None, || format!("coordinator < {}: {message:?}", node.0 & 0xffff));
        }
        if matches!(message, NodeMessage::Resync)
            && let Some(session) = self.coordinator.conns.get_mut(&conn)
        {
            session.sent = MapVersion(0);
        }
        if let NodeMessage::Complain { about } = message {
            let now = self.coordinator_now();
            self.coordinator.complaints.insert((about, node), now);
        }
        if self.coordinate(|state, now| state.handle_message(now, node, message)) != Some(true) {
            return false;
        }
        let mut bytes = Vec::new();
        if is_beat {
            CoordinatorMessage::Beat.encode(&mut bytes);
        }
        if is_leave {
            CoordinatorMessage::Left.encode(&mut bytes);
        }
        self.send_map(conn, bytes);
        !is_leave
    }

    /// A session has ended.
    pub(crate) fn coordinator_loses(&mut self, conn: ConnId) {
        let Some(session) = self.coordinator.conns.remove(&conn) else { return };
        if self.coordinator.sessions.get(&session.node) == Some(&conn) {
            self.coordinator.sessions.remove(&session.node);
            self.coordinate(|state, now| state.session_ended(now, session.node));
        }
    }
}
