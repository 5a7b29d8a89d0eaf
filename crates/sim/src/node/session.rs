//! A node's session with the coordinator.

use engine::coordinator::{REJOIN_PAUSE, REJOIN_TIMEOUT};
use engine::time::Timestamp;
use proto::cluster_map::{ClusterMap, MapError, MapUpdate, MapVersion};
use proto::session::{CoordinatorMessage, Join, NodeMessage};

use super::held::Outgoing;
use super::{HEARTBEAT, SurvivingData};
use crate::network::{ConnId, Kind, OPENER};
use crate::schedule::Event;
use crate::world::{Frames, Next, World};

/// The first pause after the coordinator could not be reached, in microseconds; each further one is twice as long.
const FIRST_PAUSE: u64 = 50_000;

/// If the coordinator answers no heartbeat for this long, the node reconnects, in microseconds.
const SILENCE: u64 = 2_000_000;

/// A disk that has written nothing for this long is considered hung.
const DISK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// The state of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// No session; another attempt follows.
    Idle,
    /// The join has not been answered.
    Joining(ConnId),
    /// The node is registered.
    Stands(ConnId),
    /// The coordinator refuses this start of the node.
    Out,
}

impl World {
    pub(super) fn open_session(&mut self, n: usize) {
        self.check_ancestors(n);
        let coordinator = self.coordinator_proc();
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let conn = self.network.open(Kind::Session, (n, process.boot), coordinator);
        process.session = Session::Joining(conn);
        process.session_serial += 1;
        process.beats.clear();
        let serial = process.session_serial;
        let map = node.map().map(|map| map.update_since(MapVersion(0)).to_lines().join("\n")).unwrap_or_default();
        process.told_full = false;
        let incarnation = Some(process.incarnation).filter(|incarnation| incarnation.0 != 0);
        let mut bytes = Vec::new();
        let weight = 1 + (n as u64 * self.knobs.weights % 3) as u32;
        Join { addr: process.addr.clone(), incarnation, ancestors: node.ancestors().clone(), map: &map, weight }
            .encode(&mut bytes);
        let boot = process.boot;
        self.network.send(&mut self.schedule, conn, OPENER, bytes);
        let timeout = REJOIN_TIMEOUT.as_micros() as u64;
        self.after_local(n, timeout, Event::Session { node: n as u8, boot, serial });
    }

    /// An attempt has taken too long, or the pause before the next one is over.
    pub(crate) fn session_due(&mut self, n: usize, serial: u32) {
        if serial != self.nodes[n].session_serial {
            return;
        }
        match self.nodes[n].session {
            Session::Idle => self.open_session(n),
            Session::Joining(conn) => self.end_session(n, conn),
            Session::Stands(_) | Session::Out => {}
        }
    }

    /// Gives up a connection to the coordinator; another attempt follows after a pause.
    fn end_session(&mut self, n: usize, conn: ConnId) {
        self.network.close(&mut self.schedule, conn, OPENER);
        self.node_loses_coordinator(n, conn);
    }

    pub(crate) fn node_loses_coordinator(&mut self, n: usize, conn: ConnId) {
        let process = &mut self.nodes[n];
        match process.session {
            Session::Joining(current) | Session::Stands(current) if current == conn => {}
            _ => return,
        }
        process.session = Session::Idle;
        process.session_serial += 1;
        process.session_pause = (process.session_pause * 2).clamp(FIRST_PAUSE, REJOIN_PAUSE.as_micros() as u64);
        let (boot, serial, pause) = (process.boot, process.session_serial, process.session_pause);
        self.after_local(n, pause, Event::Session { node: n as u8, boot, serial });
    }

    pub(crate) fn node_heartbeat(&mut self, n: usize) {
        let now = self.local(n);
        let process = &mut self.nodes[n];
        let (boot, session) = (process.boot, process.session);
        self.after_local(n, HEARTBEAT, Event::Heartbeat { node: n as u8, boot });
        let Session::Stands(conn) = session else { return };
        if self.disk_hangs(n, now) {
            return;
        }
        let process = &mut self.nodes[n];
        if now - process.heard_coordinator > std::time::Duration::from_micros(SILENCE) {
            return self.end_session(n, conn);
        }
        let mut bytes = Vec::new();
        NodeMessage::Heartbeat { incarnation: process.incarnation }.encode(&mut bytes);
        process.beats.push_back(now);
        self.network.send(&mut self.schedule, conn, OPENER, bytes);
    }

    /// Whether a node's disk has written nothing for too long: then the node stops sending heartbeats, unless the disk
    /// is full and nobody else could lead what the node leads.
    fn disk_hangs(&mut self, n: usize, now: Timestamp) -> bool {
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return false };
        let (waits_for, since) = *process.unwritten.get_or_insert((node.noted().end(), now));
        if process.store.is_written(waits_for) {
            process.unwritten = None;
            return false;
        }
        now - since > DISK_PATIENCE && (!process.store.is_full() || node.leads_for_others())
    }

    /// Whether the disk was found to hang when the last heartbeat was due.
    pub(super) fn disk_has_hung(&self, n: usize, now: Timestamp) -> bool {
        self.nodes[n].unwritten.is_some_and(|(_, since)| now - since > DISK_PATIENCE)
    }

    /// Sends the node's proposals.
    pub(super) fn propose(&mut self, n: usize) {
        let process = &mut self.nodes[n];
        let (Session::Stands(conn), Some(node)) = (process.session, &process.node) else { return };
        let is_full = process.store.is_full();
        if std::mem::replace(&mut process.told_full, is_full) != is_full {
            let mut bytes = Vec::new();
            if is_full { NodeMessage::Full } else { NodeMessage::Room }.encode(&mut bytes);
            self.network.send(&mut self.schedule, conn, OPENER, bytes);
        }
        if !node.has_proposals() || self.holds_much_for_coordinator(n) {
            return;
        }
        let process = &self.nodes[n];
        let Some(node) = &process.node else { return };
        let mut bytes = Vec::new();
        for proposal in node.take_proposals() {
            let name = &process.name;
            self.trace.tell(self.schedule.now, None, || format!("{name} > coordinator: {proposal:?}"));
            proposal.encode(&mut bytes);
        }
        self.send_when_durable(n, Outgoing::Bytes { conn, side: OPENER, bytes });
    }

    pub(crate) fn node_hears_coordinator(&mut self, n: usize, conn: ConnId, frames: &mut Frames<'_>) -> bool {
        let now = self.local(n);
        self.nodes[n].heard_coordinator = now;
        while let Some(next) = frames.next() {
            let Next::Array(words) = next else { return false };
            let Ok(message) = CoordinatorMessage::parse(words) else {
                self.broken("codec", None, "a message of the coordinator cannot be read".to_owned());
                return false;
            };
            if !self.obey(n, conn, now, message) {
                return false;
            }
            if self.nodes[n].node.is_none() {
                return true;
            }
        }
        self.settle(n);
        true
    }

    fn obey(&mut self, n: usize, conn: ConnId, now: Timestamp, message: CoordinatorMessage<'_>) -> bool {
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return false };
        let mut bytes = Vec::new();
        match message {
            CoordinatorMessage::Joined { incarnation, .. } => {
                // Even if the disk reports a failure, it may have stored this.
                self.oracle.data_of(n, incarnation);
                if process.store.note_incarnation(incarnation).is_err() {
                    return false;
                }
                process.incarnation = incarnation;
                if process.begun == incarnation {
                    node.joined(incarnation);
                }
                process.session = Session::Stands(conn);
                process.session_pause = 0;
                // This heartbeat registers the node.
                process.beats.push_back(now);
                NodeMessage::Heartbeat { incarnation }.encode(&mut bytes);
                let name = self.nodes[n].name.clone();
                self.tell(None, || format!("{name} is {}", incarnation.0 & 0xffff));
            }
            CoordinatorMessage::Beat => {
                if let Some(sent) = process.beats.pop_front() {
                    process.answered = sent;
                    node.coordinator_answered(sent);
                }
            }
            CoordinatorMessage::Map { text } => return self.obey_map(n, conn, now, text),
            CoordinatorMessage::HandOver { to, slots } => {
                node.hand_over(now, to, &slots, &mut process.turn);
                self.flush_all(n);
            }
            CoordinatorMessage::AskPositions { query, slots } => {
                let mut bytes = Vec::new();
                NodeMessage::Positions { query, last: node.positions(&slots) }.encode(&mut bytes);
                self.send_when_durable(n, Outgoing::Bytes { conn, side: OPENER, bytes });
            }
            CoordinatorMessage::Dismiss => {
                self.dismissed(n, conn);
                return true;
            }
            CoordinatorMessage::Left => self.has_left(n),
            CoordinatorMessage::Unregistered => return self.is_unregistered(n),
            CoordinatorMessage::Replaced => {
                let name = process.name.clone();
                self.broken("liveness", None, format!("{name} is told that another start has replaced it"));
            }
        }
        if !bytes.is_empty() {
            self.network.send(&mut self.schedule, conn, OPENER, bytes);
        }
        true
    }

    fn obey_map(&mut self, n: usize, conn: ConnId, now: Timestamp, text: &str) -> bool {
        if !self.begin_in_cluster(n, text) {
            return false;
        }
        let held = self.before_map(n);
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return false };
        let before = node.map();
        let update = MapUpdate::parse(text.lines());
        let to_be_kept = update.as_ref().ok().and_then(|update| node.to_be_kept(update));
        if to_be_kept.is_some_and(|map| process.store.keep_map(&map).is_err()) {
            return false;
        }
        let handled = update.and_then(|update| node.handle_map(now, &update, &mut process.turn));
        let name = &process.name;
        let version = node.map().map_or(0, |map| map.version.0);
        self.trace.tell(self.schedule.now, None, || format!("{name} has map {version}: {handled:?}"));
        match handled {
            Ok(()) => {
                if let Some(map) = node.map() {
                    self.check_received(before.as_deref(), &map);
                }
                self.check_given_up(n, held);
                self.accept_purges_alone(n);
                self.sync_links(n);
                self.node_changed(n);
                self.retry_parked(n);
            }
            Err(MapError::Gap) => {
                let mut bytes = Vec::new();
                NodeMessage::Resync.encode(&mut bytes);
                self.network.send(&mut self.schedule, conn, OPENER, bytes);
            }
            Err(error) => self.broken("one cluster", None, format!("a node is sent a map that it refuses: {error}")),
        }
        true
    }

    /// A node has given up its roles, or has seen a map.
    pub(crate) fn changed_roles(&mut self, n: usize) {
        self.sync_links(n);
        self.node_changed(n);
        self.retry_parked(n);
        self.settle(n);
    }

    /// With its first map, a start becomes part of its cluster, and records that on disk. Returns `false` if the disk
    /// fails.
    fn begin_in_cluster(&mut self, n: usize, text: &str) -> bool {
        let process = &mut self.nodes[n];
        let (Some(node), incarnation) = (&process.node, process.incarnation) else { return false };
        if process.begun == incarnation {
            return true;
        }
        let map = MapUpdate::parse(text.lines()).and_then(|update| ClusterMap::updated(None, &update));
        let Some(map) = map.ok().filter(|map| map.version > MapVersion(0)) else { return true };
        if process.store.begin(&map, incarnation).is_err() {
            return false;
        }
        process.begun = incarnation;
        node.joined(incarnation);
        true
    }

    /// A stopping node says goodbye to the coordinator as its shell does: once every replica knows that its slots are
    /// released.
    pub(super) fn say_farewell_once_drained(&mut self, n: usize) {
        let process = &self.nodes[n];
        let Some(node) = &process.node else { return };
        if process.says_farewell && node.lag().items == 0 {
            self.nodes[n].says_farewell = false;
            self.say_farewell(n);
        }
    }

    /// Among faults this may also happen earlier, for example if a replica does not answer.
    fn say_farewell(&mut self, n: usize) {
        if let Session::Stands(conn) = self.nodes[n].session {
            let mut bytes = Vec::new();
            NodeMessage::Leave.encode(&mut bytes);
            self.network.send(&mut self.schedule, conn, OPENER, bytes);
        }
    }

    /// The node is asked to stop. First it hands over what it leads.
    pub(crate) fn stop_node(&mut self, n: usize, finds: SurvivingData) {
        let now = self.local(n);
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        node.prepare_to_stop(now);
        (process.is_leaving, process.finds, process.hands_over) = (true, finds, true);
        let name = process.name.clone();
        self.tell(None, || format!("{name} hands over what it leads"));
        self.settle(n);
    }

    /// A node that is to stop does so once it has handed over what it leads.
    pub(super) fn close_once_handed_over(&mut self, n: usize) {
        let now = self.local(n);
        let process = &mut self.nodes[n];
        if process.hands_over && process.node.as_ref().is_some_and(|node| node.is_handed_over(now)) {
            process.hands_over = false;
            let finds = process.finds;
            self.leave_node(n, finds);
        }
    }

    /// The node stops on purpose, and finds this when it is started again.
    pub(crate) fn leave_node(&mut self, n: usize, finds: SurvivingData) {
        let now = self.local(n);
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        node.close(now, &mut process.turn);
        (process.is_leaving, process.finds) = (true, finds);
        let boot = process.boot;
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name} leaves"));
        if self.is_rolling() {
            self.nodes[n].says_farewell = true;
        } else {
            self.say_farewell(n);
        }
        self.flush_all(n);
        self.settle(n);
        self.after_local(n, 1_000_000, Event::Left { node: n as u8, boot });
    }
}
