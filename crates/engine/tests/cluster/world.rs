//! A cluster in one thread: the state machines of the coordinator and the nodes, a clock that jumps, and links that
//! carry real bytes of the protocol, delivered at once unless they are cut.

mod links;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use engine::bugs::NoBugs;
use engine::coordinator::{Coordinator, JoinRequest};
use engine::inbox::Inbox;
use engine::journal::Replay;
use engine::listing::Listing;
use engine::memory::Evict;
use engine::node::{Node, TICK, Turn};
use engine::outbox::Outbox;
use engine::output::{Event, JoinError, Output, Settings};
use engine::peers::BEAT;
use engine::slot::Written;
use engine::time::Timestamp;
use engine::waiting::{Outcome, Waiting};
use proto::cluster_map::{ClusterMap, ClusterSettings, MapVersion};
use proto::id::{Incarnation, NodeAddr, Version};
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, List, WallTime, Write};
use proto::range::Keys;
use proto::session::{Ancestors, CoordinatorMessage, NodeMessage};
use proto::slot::{SlotBits, SlotId};

use links::each_array;
use names::said;
pub(crate) use names::{addr_of, name_of};

/// Four slots: few enough to read, enough to differ.
pub(crate) const BITS: SlotBits = SlotBits::new(2);

const HEARTBEAT: Duration = Duration::from_millis(200);

/// The coordinator's name in cuts.
pub(crate) const COORDINATOR: &str = "coordinator";

/// The cluster. Nodes are called A, B, C, ...; A is at port 1, B at port 2.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) coordinator: Coordinator,
    pub(crate) nodes: BTreeMap<String, Member>,
    /// Pairs of nodes with a cut from the first to the second: nothing gets through in that direction.
    pub(crate) cuts: BTreeSet<(String, String)>,
    /// Pairs of nodes of which the first cannot connect to the second.
    pub(crate) blocked_links: BTreeSet<(String, String)>,
    /// What the coordinator and the nodes have reported to their operators.
    pub(crate) log: Vec<String>,
    /// How many slots have been filled since this was last asked for.
    pub(crate) fills: std::cell::Cell<u32>,
    coordinators: u32,
    coordinator_is_up: bool,
    /// The state that the coordinator last persisted.
    kept: Option<String>,
    copy_of_state: Option<String>,
    /// The memory limit of nodes that are started, 0 for none, and what they do at the limit.
    pub(crate) memory: (u64, Evict),
    /// The settings of coordinators that are started.
    pub(crate) wants: ClusterSettings,
}

/// A node and its place in the world.
pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) addr: NodeAddr,
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) runs: bool,
    /// What the node has written, if it has a disk, and whose data a start finds there.
    disk: Vec<Vec<u8>>,
    ancestors: Ancestors,
    session: Option<MapVersion>,
    /// It was taken off the ring: it does not join again.
    is_out: bool,
    /// The far ends of its links, by the incarnation they lead to, each with the queue that it drains.
    links: BTreeMap<Incarnation, (Arc<Outbox>, Inbox)>,
    /// How far its wall clock is ahead of the others'.
    ahead: Duration,
}

impl Member {
    fn wall(&self, now: Timestamp) -> WallTime {
        WallTime(1_700_000_000_000 + (now + self.ahead).0 / 1_000)
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            now: Timestamp(1_000_000),
            coordinator: Coordinator::new(settings(1), NoBugs),
            nodes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            blocked_links: BTreeSet::new(),
            log: Vec::new(),
            fills: std::cell::Cell::default(),
            coordinators: 1,
            coordinator_is_up: true,
            kept: None,
            copy_of_state: None,
            memory: (0, Evict::None),
            wants: ClusterSettings::default(),
        }
    }

    /// Starts a node, or restarts it with empty memory.
    pub(crate) fn start(&mut self, name: &str) {
        let node = Node::new(self.now, BITS, u64::from(addr_of(name).port()), NoBugs);
        self.start_as(name, node, Vec::new());
        self.settle();
    }

    fn start_as(&mut self, name: &str, node: Node, disk: Vec<Vec<u8>>) {
        let (addr, ancestors) = (addr_of(name), node.ancestors().clone());
        let (runs, is_out, incarnation, session) = (true, false, None, None);
        let (links, ahead) = (BTreeMap::new(), Duration::ZERO);
        let node = node.with_memory_limit(self.memory.0, self.memory.1);
        let member = Member { node, addr, incarnation, runs, disk, ancestors, session, is_out, links, ahead };
        member.node.set_wall_clock(self.now, member.wall(self.now));
        self.nodes.insert(name.to_owned(), member);
    }

    /// Starts a node that has a disk, with what is on it.
    pub(crate) fn boot(&mut self, name: &str) {
        let left = self.nodes.remove(name);
        let map = left.as_ref().and_then(|left| left.node.map());
        let (disk, ancestors) = left.map(|left| (left.disk, left.ancestors)).unwrap_or_default();
        let mut replay = Replay::new(self.now, BITS, u64::from(addr_of(name).port()), NoBugs);
        disk.iter().for_each(|payload| replay.log(payload).expect("what was written reads back"));
        self.start_as(name, replay.finish(self.now, ancestors, map), disk);
        self.settle();
    }

    /// Kills a node that has a disk. Its disk is complete or, after a power failure, lacks the last of what was
    /// written.
    pub(crate) fn crash(&mut self, name: &str, lost: Option<usize>) {
        let member = self.nodes.get_mut(name).expect("a node of the story");
        member.ancestors = member.node.next_ancestors();
        if let Some(lost) = lost {
            member.disk.truncate(member.disk.len().saturating_sub(lost));
            member.ancestors = Ancestors { unproven: member.ancestors.iter().collect(), proven: Vec::new() };
        }
        self.kill(name);
    }

    /// From now on, a node's wall clock is ahead by this much.
    pub(crate) fn set_clock(&mut self, name: &str, ahead: Duration) {
        let member = self.nodes.get_mut(name).expect("a node of the story");
        member.ahead = ahead;
        member.node.set_wall_clock(self.now, member.wall(self.now));
    }

    /// Kills a node: everything it had queued and everything it held is lost.
    pub(crate) fn kill(&mut self, name: &str) {
        let member = self.nodes.get_mut(name).expect("a node of the story");
        member.runs = false;
        let (incarnation, had_session) = (member.incarnation, member.session.take().is_some());
        if let Some(incarnation) = incarnation.filter(|_| had_session && self.coordinator_is_up) {
            self.coordinator.session_ended(self.now, incarnation);
        }
        for (other, member) in self.nodes.iter().filter(|(other, _)| *other != name) {
            if let Some(incarnation) = incarnation.filter(|_| !self.is_cut(name, other)) {
                member.node.link_ended(incarnation);
            }
        }
        self.settle();
    }

    /// Stops a node on purpose.
    pub(crate) fn leave(&mut self, name: &str) {
        self.member(name).node.close(self.now, &mut Turn::default());
        self.settle();
        let member = self.nodes.get_mut(name).expect("a node of the story");
        member.ancestors = member.node.next_ancestors();
        let incarnation = member.incarnation.expect("a node that has joined");
        self.coordinator.handle_message(self.now, incarnation, NodeMessage::Leave);
        self.kill(name);
    }

    pub(crate) fn stop_coordinator(&mut self) {
        self.coordinator_is_up = false;
        self.nodes.values_mut().for_each(|member| member.session = None);
    }

    /// Copies the coordinator's persisted state, as an operator might.
    pub(crate) fn copy_state(&mut self) {
        self.copy_of_state.clone_from(&self.kept);
    }

    /// Restores that copy.
    pub(crate) fn put_state_back(&mut self) {
        self.kept.clone_from(&self.copy_of_state);
    }

    /// Sets the limit of slots filled at a time. Only at the start of a story: it replaces the coordinator.
    pub(crate) fn limit_moves(&mut self, moves_at_once: usize) {
        let settings = Settings { moves_at_once, ..settings(self.coordinators) };
        self.coordinator = Coordinator::new(settings, NoBugs);
    }

    /// Starts a coordinator, with the state that the last one persisted or knowing nothing.
    pub(crate) fn start_coordinator(&mut self, with_state: bool) {
        self.coordinators += 1;
        let settings = Settings { cluster_settings: self.wants, ..settings(self.coordinators) };
        self.coordinator = match self.kept.take().filter(|_| with_state) {
            None => Coordinator::new(settings, NoBugs),
            Some(state) => Coordinator::restored(self.now, settings, NoBugs, &state).expect("a state reads back"),
        };
        self.coordinator_is_up = true;
        self.nodes.values_mut().for_each(|member| member.session = None);
        self.settle();
    }

    pub(crate) fn cut(&mut self, from: &str, to: &str) {
        self.cuts.insert((from.to_owned(), to.to_owned()));
    }

    /// Everybody reaches everybody again.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        self.blocked_links.clear();
        self.settle();
    }

    /// These two reach each other again.
    pub(crate) fn heal_between(&mut self, one: &str, other: &str) {
        self.cuts.retain(|(from, to)| !(from == one && to == other || from == other && to == one));
        self.settle();
    }

    /// Lets time pass, with ticks, beats, and heartbeats at the intervals of the real programs.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = (self.now + TICK).min(end);
            let is_due = |period: Duration| self.now.0 % (period.as_micros() as u64) < TICK.as_micros() as u64;
            let (beat, heartbeat) = (is_due(BEAT), is_due(HEARTBEAT));
            for member in self.nodes.values().filter(|member| member.runs) {
                member.node.set_wall_clock(self.now, member.wall(self.now));
                member.node.handle_timeout(self.now, &mut Turn::default());
            }
            if beat {
                self.names().iter().for_each(|name| self.beat_links(name));
            }
            if heartbeat {
                self.heartbeats();
            }
            if self.coordinator_is_up {
                while self.coordinator.next_deadline() <= self.now {
                    self.coordinator.handle_timeout(self.now);
                }
            }
            self.settle();
        }
    }

    fn heartbeats(&mut self) {
        for name in self.names() {
            let member = &self.nodes[&name];
            let reaches = member.runs && self.reaches(&name);
            if let (Some(incarnation), Some(_), true) = (member.incarnation, member.session, reaches) {
                let known =
                    self.coordinator.handle_message(self.now, incarnation, NodeMessage::Heartbeat { incarnation });
                if known {
                    self.member(&name).node.coordinator_answered(self.now);
                } else {
                    self.nodes.get_mut(&name).expect("a name of a node").session = None;
                }
            }
        }
    }

    /// Delivers everything that can be delivered, until nothing is left.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1_000 {
            let mut busy = false;
            for name in self.names() {
                busy |= self.session(&name);
                busy |= self.links(&name);
            }
            busy |= self.coordinator_outputs();
            if !busy {
                for member in self.nodes.values_mut().filter(|member| member.runs) {
                    member.disk.extend(member.node.noted().take().map(|(payload, _)| payload));
                }
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Whether node and coordinator hear each other.
    fn reaches(&self, name: &str) -> bool {
        self.coordinator_is_up && !self.is_cut(name, COORDINATOR)
    }

    fn session(&mut self, name: &str) -> bool {
        if !self.reaches(name) || !self.member(name).runs {
            return false;
        }
        let member = &self.nodes[name];
        let mut busy = false;
        let Some(sent) = member.session else {
            if member.is_out {
                return false;
            }
            let request = JoinRequest {
                incarnation: member.incarnation,
                ancestors: member.node.ancestors().clone(),
                held: member.node.map().map(|map| ClusterMap::clone(&map)),
                ..JoinRequest::new(member.addr.clone())
            };
            let joined = self.coordinator.join(self.now, request);
            if joined == Err(JoinError::Unregistered) {
                self.stay_out(name);
                return false;
            }
            let Ok(incarnation) = joined.map(|joined| joined.incarnation) else { return false };
            self.coordinator.handle_message(self.now, incarnation, NodeMessage::Heartbeat { incarnation });
            member.node.joined(incarnation);
            member.node.coordinator_answered(self.now);
            let member = self.nodes.get_mut(name).expect("a name of a node");
            member.incarnation = Some(incarnation);
            member.session = Some(MapVersion(0));
            return true;
        };
        let map = self.coordinator.map();
        if map.version > sent {
            let update = map.update_since(sent);
            let message = CoordinatorMessage::Map { text: &update.to_lines().join("\n") };
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let handled = each_array(&bytes, |words| match CoordinatorMessage::parse(words) {
                Ok(CoordinatorMessage::Map { text }) => {
                    let update = proto::cluster_map::MapUpdate::parse(text.lines()).expect("a map reads back");
                    member.node.handle_map(self.now, &update, &mut Turn::default()).is_ok()
                }
                other => panic!("{other:?}"),
            });
            // A node does not follow the map of another cluster: its session ends.
            let version = handled.then_some(map.version);
            self.nodes.get_mut(name).expect("a name of a node").session = version;
            busy = true;
        }
        let member = &self.nodes[name];
        let incarnation = member.incarnation.expect("a session has an incarnation");
        for proposal in member.node.take_proposals() {
            if !self.coordinator.handle_message(self.now, incarnation, proposal) {
                self.nodes.get_mut(name).expect("a name of a node").session = None;
            }
            busy = true;
            if self.nodes[name].session.is_none() {
                break;
            }
        }
        busy
    }

    fn coordinator_outputs(&mut self) -> bool {
        let mut busy = false;
        while let Some(output) = self.coordinator.poll_output() {
            busy = true;
            match output {
                Output::Keep => self.kept = Some(self.coordinator.state()),
                Output::Publish => {}
                Output::AskPositions { to, query, slots } => {
                    if let Some(name) = self.name_in_session(to) {
                        let last = self.member(&name).node.positions(&slots);
                        self.coordinator.handle_message(self.now, to, NodeMessage::Positions { query, last });
                    }
                }
                Output::HandOver { from, to, slots } => {
                    if let Some(name) = self.name_in_session(from) {
                        self.session(&name); // What the coordinator wants follows from the map: the map goes first.
                        self.member(&name).node.hand_over(self.now, to, &slots, &mut Turn::default());
                    }
                }
                Output::CloseSession(node) => {
                    if let Some(name) = self.name_in_session(node) {
                        self.nodes.get_mut(&name).expect("a name of a node").session = None;
                    }
                }
                Output::Unregistered(node) => {
                    if let Some(name) = self.name_in_session(node) {
                        self.stay_out(&name);
                    }
                }
                Output::Dismiss(node) => {
                    if let Some(name) = self.name_in_session(node) {
                        self.session(&name); // The map goes first.
                        self.member(&name).node.give_everything_up();
                        self.coordinator.handle_message(self.now, node, NodeMessage::Cleared);
                        self.log.push(format!("{name} deletes its data"));
                        let member = self.nodes.get_mut(&name).expect("a node of the story");
                        (member.runs, member.session, member.incarnation) = (false, None, None);
                        (member.disk, member.ancestors) = (Vec::new(), Ancestors::default());
                    }
                }
                Output::Event(event) => {
                    let line = self.told(&event);
                    self.log.push(line);
                }
            }
        }
        busy
    }

    /// A node learns that it was taken off the ring.
    fn stay_out(&mut self, name: &str) {
        let member = self.nodes.get_mut(name).expect("a name of a node");
        member.node.give_everything_up();
        member.is_out = true;
    }

    fn name_in_session(&self, incarnation: Incarnation) -> Option<String> {
        let found = self.nodes.iter().find(|(name, member)| {
            member.runs && member.incarnation == Some(incarnation) && member.session.is_some() && self.reaches(name)
        });
        found.map(|(name, _)| name.clone())
    }

    fn told(&self, event: &Event) -> String {
        let name = |addr: &NodeAddr| name_of(addr);
        match event {
            Event::Registered(addr, _) => format!("{} registered", name(addr)),
            Event::Returned(addr, _) => format!("{} is back", name(addr)),
            Event::Restarted(addr, _) => format!("{} was restarted", name(addr)),
            Event::Unregistered(addr) => format!("{} unregistered", name(addr)),
            Event::Leaving(addr) => format!("{} is to leave for good", name(addr)),
            Event::LeavesFor(old, new) => format!("{} is to leave for {}", name(old), name(new)),
            Event::Stays(addr) => format!("{} stays", name(addr)),
            Event::Decommissioned(addr) => format!("{} has left for good", name(addr)),
            Event::Replaced(addr) => format!("{} is replaced", name(addr)),
            Event::Full(addr) => format!("{} has a full disk", name(addr)),
            Event::Stopping(addr) => format!("{} is about to stop", name(addr)),
            Event::Room(addr) => format!("{} has room again", name(addr)),
            Event::Left(addr) => format!("{} left", name(addr)),
            Event::Dead(addr) => format!("{} is dead", name(addr)),
            Event::CutOff(addr, pause) => {
                format!("{} and its replicas do not hear each other; shunned for {} s", name(addr), pause.as_secs())
            }
            Event::Suspected(addr) => format!("{} is silent and complained about", name(addr)),
            Event::Awaiting(nodes) => {
                format!("waits for {}", nodes.iter().map(name_of).collect::<Vec<_>>().join(" and "))
            }
            Event::Forgotten(addr) => format!("{} is not waited for", name(addr)),
            Event::LossAccepted(accepted) => {
                let (anew, unproven) = (accepted.anew, accepted.unproven);
                let unproven = if unproven > 0 { format!(", and of the rest of {unproven}") } else { String::new() };
                format!("an operator accepts the loss of {anew} slots{unproven}")
            }
            Event::Refused(addr, why) => format!("{} is refused: {why}", name(addr)),
            Event::Outdated { .. } => "its state is an older one".to_owned(),
            Event::Adopted(_) => "the map was taken over from a node".to_owned(),
            Event::Resized { copies, virtual_nodes } => {
                format!("started with other numbers: {copies:?} {virtual_nodes:?}")
            }
            Event::Serving(_) => "the map stands".to_owned(),
            Event::Promoted(slots) => format!("promoted replicas in {slots} slots"),
            Event::UnprovenWait(slots, nodes) => {
                format!("{slots} slots wait for {}", nodes.iter().map(name_of).collect::<Vec<_>>().join(" and "))
            }
            Event::PromotedUnproven(slots, nodes) => {
                let nodes = nodes.iter().map(name_of).collect::<Vec<_>>().join(" and ");
                format!("promoted copies without proof in {slots} slots, of {nodes}")
            }
            Event::PromotedOlder(slots, nodes) => {
                let nodes = nodes.iter().map(name_of).collect::<Vec<_>>().join(" and ");
                format!("promoted older copies in {slots} slots, of {nodes}")
            }
            Event::StartedAnew(slots) => format!("{slots} slots start anew, empty"),
            Event::Unheld(slots) => format!("{slots} slots are held by nobody"),
        }
    }

    pub(crate) fn member(&self, name: &str) -> &Member {
        self.nodes.get(name).expect("a node of the story")
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// The name of a node that a slot's configuration names.
    pub(crate) fn name(&self, incarnation: Incarnation) -> String {
        self.coordinator.map().member(incarnation).map_or("?".to_owned(), |member| name_of(&member.addr))
    }

    /// Writes at a node and returns its answer, at once or after everything that can be delivered has been.
    pub(crate) fn write(&mut self, at: &str, key: &str, change: Change<'_>, ack: AckLevel) -> String {
        self.carry_out(at, &Write { ack, ..Write::new(key.as_bytes(), change) })
    }

    /// Writes at a node on the condition that the key is absent.
    pub(crate) fn write_if_absent(&mut self, at: &str, key: &str, value: &str) -> String {
        let put = Write::new(key.as_bytes(), Change::Put(value.as_bytes()));
        self.carry_out(at, &Write { ack: AckLevel::Quorum, expected: Some(Version::NONE), ..put })
    }

    /// Carries out a write at a node and returns the answer.
    pub(crate) fn carry_out(&mut self, at: &str, write: &Write<'_>) -> String {
        let node = &self.member(at).node;
        let waiting = Waiting::new();
        let written = node.write(self.now, node.slot_of(write.key), write, &waiting, &mut Turn::default());
        self.settle();
        match written.map(|answer| (answer.answer, answer.ticket)) {
            Err(refusal) => format!("refused: {refusal:?}"),
            Ok((Written::Conflict(_), _)) => "declined".to_owned(),
            Ok((written, None)) => said(&written),
            Ok((written, Some(ticket))) => match waiting.outcome(ticket) {
                Some(Outcome::Durable) => format!("{}, durable", said(&written)),
                Some(Outcome::Lost) => "unknown".to_owned(),
                None => "waits".to_owned(),
            },
        }
    }

    /// Writes at a node without delivering anything yet.
    pub(crate) fn write_unsettled(&self, at: &str, key: &str, change: Change<'_>) -> Result<(), engine::slot::Refusal> {
        let node = &self.member(at).node;
        let (slot, write) = (node.slot_of(key.as_bytes()), Write::new(key.as_bytes(), change));
        node.write(self.now, slot, &write, &Waiting::new(), &mut Turn::default()).map(|_| ())
    }

    /// Reads a key at its primary or, with `copy`, from whatever the node holds.
    pub(crate) fn read(&self, at: &str, key: &str, copy: bool) -> Option<Option<String>> {
        let node = &self.member(at).node;
        let slot = node.slot_of(key.as_bytes());
        let value = |record: Option<&engine::record::Record>| {
            record.and_then(|record| record.value()).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        let read = if copy {
            node.read_copy(slot, key.as_bytes(), || self.now, value)
        } else {
            let waiting = Waiting::new();
            let read =
                node.read(slot, key.as_bytes(), ReadLevel::Local, || self.now, &waiting, &mut Turn::default(), value);
            read.map(|read| read.answer)
        };
        read.ok()
    }

    /// Reads a key linearly: returns the immediate answer, or that the read waits or is refused.
    pub(crate) fn read_linear(&self, at: &str, key: &str) -> String {
        let node = &self.member(at).node;
        let (slot, waiting) = (node.slot_of(key.as_bytes()), Waiting::new());
        let value = |record: Option<&engine::record::Record>| {
            record.and_then(|record| record.value()).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        match node.read(slot, key.as_bytes(), ReadLevel::Linear, || self.now, &waiting, &mut Turn::default(), value) {
            Err(_) => "not here".to_owned(),
            Ok(read) if read.ticket.is_some() => "waits".to_owned(),
            Ok(read) => read.answer.unwrap_or("absent".to_owned()),
        }
    }

    /// Lists the first `limit` keys of one slot, or counts them if there is no limit: linearly, locally, as a primary that
    /// serves them now (`served`), or from the local copy.
    pub(crate) fn list(&self, at: &str, slot: u16, limit: Option<usize>, how: &str) -> String {
        let level = if how == "linear" { ReadLevel::Linear } else { ReadLevel::Local };
        let (at_replica, must_serve) = (how == "copy", how == "served");
        let (range, slots) = (Keys::Prefix(b"").range(), vec![SlotId(slot)]);
        let list = List { id: 0, level, at_replica, must_serve, limit, range, slots };
        let (mut waiting, mut listing) = (Waiting::new(), Listing::new(&list, 1_000));
        let node = &self.member(at).node;
        node.list(SlotId(slot), &list, || self.now, &waiting, &mut Turn::default(), &mut listing);
        let mut outcomes = Vec::new();
        waiting.take(&mut outcomes);
        let listed = listing.finish();
        match outcomes[..] {
            _ if !listed.refused.is_empty() => "not here".to_owned(),
            [None] => "waits".to_owned(),
            _ if limit.is_none() => listed.count.to_string(),
            _ => format!("{:?}", listed.keys.iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>()),
        }
    }

    /// The slot of a key.
    pub(crate) fn slot_of(key: &str) -> SlotId {
        BITS.slot(&proto::slot::Position::of(key.as_bytes()))
    }
}

pub(crate) fn settings(number: u32) -> Settings {
    let cluster_settings = ClusterSettings::default();
    Settings {
        cluster_settings,
        virtual_nodes: 3,
        bits: BITS,
        cluster: format!("cluster{number}"),
        replace_after: Duration::from_secs(30),
        moves_at_once: 0,
        incarnations: number,
    }
}
