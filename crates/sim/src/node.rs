//! A node's process: what its shell does between the state machine, its connections, its clients and the clock.

mod disk;
mod links;
mod requests;
mod session;
mod walks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use engine::compare::ToDigest;
use engine::inbox::Inbox;
use engine::log::TAIL_BYTES;
use engine::memory::Evict;
use engine::node::{Node, TICK, Turn};
use engine::outbox::{OUTBOX_ITEMS, Outbox};
use engine::time::Timestamp;
use proto::id::{Incarnation, NodeAddr};
use proto::peer::WallTime;
use proto::session::Ancestors;

use crate::client::Request;
use crate::clock::Clock;
use crate::invariants::Marks;
use crate::mutants::Planted;
use crate::network::{ConnId, ProcId};
use crate::random::Random;
use crate::schedule::Event;
use crate::world::World;

use disk::{Disk, WriteTime, difference};

pub(crate) use requests::Pending;
pub(crate) use session::Session;
pub(crate) use walks::{PageAsked, Step};
use walks::{PageUnderWay, PendingList};

/// How often the coordinator hears from a node, in microseconds.
const HEARTBEAT: u64 = 200_000;

/// How often a primary asks for its leases, in microseconds.
const BEAT: u64 = 100_000;

/// What the slowest wall clock shows at the beginning, in milliseconds.
pub(crate) const WALL_AT_START: u64 = 1_700_000_000_000;
/// What a node finds when it is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finds {
    /// All that it has written.
    Everything,
    /// Some of it: the machine has lost its power.
    WhatWasSynced,
    Nothing,
}

/// The process.
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    pub(crate) addr: NodeAddr,
    /// The state machine, while the process runs.
    pub(crate) node: Option<Node<Planted>>,
    /// What the process that ran last has left on its disk.
    pub(crate) left: Option<Node<Planted>>,
    disk: Disk,
    pub(crate) boot: u32,
    pub(crate) is_paused: bool,
    pub(crate) busy_until: u64,
    /// How long each event keeps it busy.
    pub(crate) slowness: u64,
    pub(crate) deferred: Vec<Event>,
    pub(crate) clock: Clock,
    /// By how much its wall clock is ahead of the slowest, in milliseconds.
    wall_ahead: u64,
    session: Session,
    session_serial: u32,
    session_pause: u64,
    /// When the heartbeats were sent that are not answered, on its own clock.
    beats: VecDeque<Timestamp>,
    heard_coordinator: Timestamp,
    links: BTreeMap<Incarnation, Link>,
    inboxes: Vec<(ConnId, Option<Inbox>)>,
    pub(crate) pending: Vec<Pending>,
    /// Requests that wait until the slot's primary serves it.
    parked: Vec<Request>,
    /// Pages of walks that it makes, how many it has begun, and lists that it owes for those of others.
    pages: Vec<PageUnderWay>,
    pages_begun: u64,
    lists: Vec<PendingList>,
    turn: Turn,
    pub(crate) marks: Marks,
    pub(crate) is_leaving: bool,
}

/// The link to one replica.
#[derive(Debug)]
struct Link {
    outbox: Arc<Outbox>,
    to: ProcId,
    conn: Option<ConnId>,
    is_ready: bool,
    pause: u64,
    serial: u32,
    heard: Timestamp,
}

impl NodeProcess {
    pub(crate) fn new(number: usize, wall_ahead: u64, random: &mut Random) -> Self {
        Self {
            wall_ahead,
            name: char::from(b'A' + number as u8).to_string(),
            addr: NodeAddr::new("n", number as u16 + 1).expect("a valid address"),
            node: None,
            left: None,
            disk: Disk::default(),
            boot: 0,
            is_paused: false,
            busy_until: 0,
            slowness: 0,
            deferred: Vec::new(),
            clock: Clock::new(random.spread(1_000_000, 1_000_000_000_000)),
            session: Session::Idle,
            session_serial: 0,
            session_pause: 0,
            beats: VecDeque::new(),
            heard_coordinator: Timestamp::default(),
            links: BTreeMap::new(),
            inboxes: Vec::new(),
            pending: Vec::new(),
            parked: Vec::new(),
            pages: Vec::new(),
            pages_begun: 0,
            lists: Vec::new(),
            turn: Turn::default(),
            marks: Marks::default(),
            is_leaving: false,
        }
    }

    /// What it holds, running or on its disk.
    pub(crate) fn data(&self) -> Option<&Node<Planted>> {
        self.node.as_ref().or(self.left.as_ref())
    }
}

impl World {
    /// Starts a node, with what is on its disk if there is anything.
    pub(crate) fn start_node(&mut self, n: usize) {
        let now = self.local(n);
        let secret = self.random.next();
        let process = &mut self.nodes[n];
        if process.node.is_some() {
            return;
        }
        process.boot += 1;
        let left = process.left.take();
        let with = if left.is_some() { "its disk" } else { "nothing" };
        let node = left.map_or_else(
            || Node::new(now, self.bits, secret, self.planted).with_journal(),
            |left| Node::recovered(now, left),
        );
        let or = |knob: u64, default| if knob > 0 { knob as usize } else { default };
        let (tails, items) = (or(self.knobs.tail_bytes, TAIL_BYTES), or(self.knobs.queue_items, OUTBOX_ITEMS));
        let evict = if self.knobs.evict > 0 { Evict::Lru } else { Evict::None };
        let node = node.limited(tails, items).with_memory_limit(self.knobs.max_memory, evict);
        node.compare_every(Duration::from_millis(self.knobs.compare_every));
        process.node = Some(node);
        self.tell_wall_clock(n);
        let process = &mut self.nodes[n];
        process.marks = Marks::default();
        (process.is_leaving, process.busy_until) = (false, 0);
        let boot = process.boot;
        for (span, event) in [
            (self.random.below(20_000), Event::Tick { node: n as u8, boot }),
            (HEARTBEAT, Event::Heartbeat { node: n as u8, boot }),
            (BEAT, Event::Beats { node: n as u8, boot }),
        ] {
            self.schedule.after(span, event);
        }
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name} starts with {with}"));
        self.open_session(n);
        self.node_changed(n);
    }

    /// The process is gone. What it held is left on its disk, or lost.
    pub(crate) fn crash_node(&mut self, n: usize, finds: Finds) {
        let process = &mut self.nodes[n];
        let Some(node) = process.node.take() else { return };
        let boot = process.boot;
        process.links.clear();
        process.inboxes.clear();
        process.deferred.clear();
        process.is_paused = false;
        process.session = Session::Idle;
        process.beats.clear();
        process.pages.clear();
        process.lists.clear();
        self.stats.keys_evicted += node.memory_figures().evicted;
        let requests: Vec<_> = process.parked.drain(..).collect();
        let waiting: Vec<_> = process.pending.drain(..).map(|pending| *pending.request).collect();
        self.oracle.archive(&node);
        for (conn, side) in self.network.held_by(n, boot) {
            self.network.crash(&mut self.schedule, conn, side);
        }
        for request in requests.iter().chain(&waiting) {
            self.no_answer(request);
        }
        let how = match finds {
            Finds::Everything => "crashes",
            Finds::WhatWasSynced => "loses its power",
            Finds::Nothing => "crashes and loses its memory",
        };
        let name = self.nodes[n].name.clone();
        self.tell(None, || format!("{name} {how}"));
        match finds {
            Finds::Everything => self.nodes[n].left = self.read_disk(n, &node),
            Finds::WhatWasSynced => {
                self.nodes[n].left = self.read_what_was_synced(n, &node);
                self.proof_lost(n);
            }
            Finds::Nothing => {
                self.nodes[n].disk = Disk::default();
                self.memory_lost(n);
            }
        }
    }

    fn write_time(&self) -> WriteTime {
        WriteTime { now: self.schedule.now, sync_every: self.knobs.sync_every * 1_000 }
    }

    /// Makes the node anew that has crashed, of what it has written.
    fn read_disk(&mut self, n: usize, crashed: &Node<Planted>) -> Option<Node<Planted>> {
        // What nobody has heard of may be lost.
        let is_written = self.random.chance(500);
        if is_written {
            let time = self.write_time();
            self.nodes[n].disk.write(crashed, self.bits, time);
        }
        let read = self.read_as(n, crashed, crashed.next_ancestors())?;
        let difference = difference(&read, crashed, self.bits).filter(|_| is_written);
        if let Some((slot, what)) = difference {
            self.broken("a node's disk holds what the node held", Some(slot), what);
        }
        Some(read)
    }

    /// Makes the node anew whose machine has lost its power, of what was on the platter.
    fn read_what_was_synced(&mut self, n: usize, crashed: &Node<Planted>) -> Option<Node<Planted>> {
        let (time, share) = (self.write_time(), self.random.below(1_001));
        self.nodes[n].disk.lose_power(time, share as usize);
        let unproven = crashed.next_ancestors().iter().collect();
        self.read_as(n, crashed, Ancestors { unproven, proven: Vec::new() })
    }

    fn read_as(&mut self, n: usize, crashed: &Node<Planted>, ancestors: Ancestors) -> Option<Node<Planted>> {
        let (now, secret) = (self.local(n), self.random.next());
        match self.nodes[n].disk.read(now, self.bits, secret, self.planted, ancestors, crashed.map()) {
            Ok(read) => Some(read),
            Err(error) => {
                self.broken("a node's disk can be read", None, error.to_string());
                None
            }
        }
    }

    pub(crate) fn local(&self, n: usize) -> Timestamp {
        self.nodes[n].clock.now(self.schedule.now)
    }

    /// What a node's wall clock shows.
    pub(crate) fn wall(&self, n: usize) -> WallTime {
        WallTime(WALL_AT_START + self.schedule.now / 1_000 + self.nodes[n].wall_ahead)
    }

    /// Tells a node what its wall clock shows.
    pub(crate) fn tell_wall_clock(&self, n: usize) {
        if let Some(node) = &self.nodes[n].node {
            node.set_wall_clock(self.local(n), self.wall(n));
        }
    }

    /// Plans an event after a span on a node's own clock.
    fn after_local(&mut self, n: usize, span: u64, event: Event) {
        let span = self.nodes[n].clock.real_span(span);
        self.schedule.after(span, event);
    }

    pub(crate) fn node_tick(&mut self, n: usize) {
        let (now, wall) = (self.local(n), self.wall(n));
        let process = &mut self.nodes[n];
        let boot = process.boot;
        let Some(node) = &process.node else { return };
        node.set_wall_clock(now, wall);
        node.handle_timeout(now, &mut process.turn);
        for ToDigest { query, contents, .. } in process.turn.to_digest() {
            node.digested(now, query, contents.digest(), &mut process.turn);
        }
        let events = node.take_events();
        for event in &events {
            let name = &process.name;
            self.trace.tell(self.schedule.now, None, || format!("{name}: {event:?}"));
            self.stats.node_event(event);
        }
        events.iter().for_each(|event| self.check_difference(event));
        self.after_local(n, TICK.as_micros() as u64, Event::Tick { node: n as u8, boot });
        self.retry_parked(n);
        self.go_on_with_pages(n);
        self.ask_for_pages(n);
        self.flush_all(n);
        self.settle(n);
    }

    /// To be called after whatever has called the state machine.
    fn settle(&mut self, n: usize) {
        let time = self.write_time();
        let process = &mut self.nodes[n];
        if let Some(node) = &process.node {
            // IMPORTANT: before anything that it has to say leaves the node.
            process.disk.write(node, self.bits, time);
        }
        let mut turn = std::mem::take(&mut process.turn);
        let touched: Vec<_> = turn.touched().collect();
        process.turn = turn;
        for outbox in touched {
            self.flush_touched(n, &outbox);
        }
        self.answer_settled(n);
        self.answer_lists(n);
        self.propose(n);
        self.check_node(n);
    }
}
