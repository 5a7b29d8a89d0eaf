//! A node's process: the simulated shell that connects the state machine with connections, clients and the clock.

mod held;
mod links;
mod requests;
mod restart;
mod session;
mod store;
mod walks;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::compare::ToDigest;
use engine::inbox::Inbox;
use engine::node::{Node, TICK, Turn};
use engine::outbox::Outbox;
use engine::time::Timestamp;
use proto::cluster_map::{ClusterMap, MapError, MapVersion};
use proto::id::{Incarnation, NodeAddr};
use proto::peer::WallTime;
use seeded::Random;

use crate::client::Request;
use crate::clock::Clock;
use crate::invariants::Marks;
use crate::mutants::Planted;
use crate::network::{ConnId, ProcId};
use crate::schedule::Event;
use crate::world::World;
use held::Held;
pub(crate) use requests::Pending;
pub(crate) use session::Session;
pub(crate) use store::{Found, IDENTITY, StartError, Store, first_of, is_map};
pub(crate) use walks::{PageAsked, Step};
use walks::{PageUnderWay, PendingList};

/// How often a node sends a heartbeat to the coordinator, in microseconds.
const HEARTBEAT: u64 = 200_000;

/// How often a primary renews its leases, in microseconds.
const BEAT: u64 = 100_000;

/// What the slowest wall clock shows at the start, in milliseconds.
pub(crate) const WALL_AT_START: u64 = 1_700_000_000_000;

/// What a node finds on its disk when it is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SurvivingData {
    /// Everything that it has written.
    Everything,
    /// Only part of it: the machine lost power.
    WhatWasSynced,
    Nothing,
}

/// The process.
pub(crate) struct NodeProcess {
    pub(crate) name: String,
    pub(crate) addr: NodeAddr,
    /// The state machine, while the process runs.
    pub(crate) node: Option<Node<Planted>>,
    /// What the previous process has left on its disk.
    pub(crate) left: Option<Node<Planted>>,
    pub(crate) store: Store,
    /// Messages held until the disk has everything that they report, oldest first.
    held: VecDeque<Held>,
    /// The directory is damaged: an operator must repair it before the node starts.
    pub(crate) needs_repair: bool,
    pub(crate) boot: u32,
    pub(crate) is_paused: bool,
    pub(crate) busy_until: u64,
    /// How long each event keeps the process busy.
    pub(crate) slowness: u64,
    pub(crate) deferred: Vec<Event>,
    pub(crate) clock: Clock,
    /// How far its wall clock is ahead of the slowest one, in milliseconds.
    wall_ahead: u64,
    session: Session,
    /// The incarnation by which the coordinator knows this start.
    pub(crate) incarnation: Incarnation,
    /// The same, once it is recorded on disk.
    begun: Incarnation,
    /// The coordinator of this session knows that the disk is full.
    told_full: bool,
    /// The journal entry number that the disk has yet to reach, and since when it has been waited for.
    unwritten: Option<(u64, Timestamp)>,
    session_serial: u32,
    session_pause: u64,
    /// When the unanswered heartbeats were sent, on its own clock.
    beats: VecDeque<Timestamp>,
    heard_coordinator: Timestamp,
    /// When the newest answered heartbeat was sent.
    pub(crate) answered: Timestamp,
    links: BTreeMap<Incarnation, Link>,
    inboxes: Vec<(ConnId, Option<Inbox>)>,
    pub(crate) pending: Vec<Pending>,
    /// Requests that wait until the slot's primary serves it.
    parked: Vec<Request>,
    /// The pages of walks that it is assembling, how many it has begun, and the lists that it owes to other nodes.
    pages: Vec<PageUnderWay>,
    pages_begun: u64,
    lists: Vec<PendingList>,
    turn: Turn,
    pub(crate) marks: Marks,
    pub(crate) is_leaving: bool,
    /// Before it stops, others are to lead what it leads.
    hands_over: bool,
    /// It says goodbye to the coordinator once its replicas have everything.
    says_farewell: bool,
    /// What it finds when it is started again after leaving.
    pub(crate) finds: SurvivingData,
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
    /// The next messages wait for the disk.
    is_held: bool,
}

impl NodeProcess {
    pub(crate) fn new(number: usize, wall_ahead: u64, store: Store, random: &mut Random) -> Self {
        Self {
            wall_ahead,
            name: char::from(b'A' + number as u8).to_string(),
            addr: NodeAddr::new("n", number as u16 + 1).expect("a valid address"),
            node: None,
            left: None,
            store,
            held: VecDeque::new(),
            needs_repair: false,
            boot: 0,
            is_paused: false,
            busy_until: 0,
            slowness: 0,
            deferred: Vec::new(),
            clock: Clock::new(random.spread(1_000_000, 1_000_000_000_000)),
            session: Session::Idle,
            incarnation: Incarnation::default(),
            begun: Incarnation::default(),
            told_full: false,
            unwritten: None,
            session_serial: 0,
            session_pause: 0,
            beats: VecDeque::new(),
            heard_coordinator: Timestamp::default(),
            answered: Timestamp::default(),
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
            hands_over: false,
            says_farewell: false,
            finds: SurvivingData::Everything,
        }
    }

    /// Whether it runs and, as far as it knows, has a session with the coordinator.
    pub(crate) fn is_registered(&self) -> bool {
        self.node.is_some() && matches!(self.session, Session::Stands(_))
    }

    pub(crate) fn session(&self) -> Session {
        self.session
    }

    /// The coordinator does not take it any more.
    pub(crate) fn stays_out(&mut self) {
        self.session = Session::Out;
    }

    /// Handles a map that it has received as clients do.
    pub(crate) fn watches(&mut self, now: Timestamp, map: &ClusterMap) -> Result<(), MapError> {
        let Some(node) = &self.node else { return Ok(()) };
        let known = node.map().map_or(MapVersion(0), |map| map.version);
        if known >= map.version { Ok(()) } else { node.handle_map(now, &map.update_since(known), &mut self.turn) }
    }

    /// What it holds, in memory or on its disk.
    pub(crate) fn data(&self) -> Option<&Node<Planted>> {
        self.node.as_ref().or(self.left.as_ref())
    }
}

impl World {
    pub(crate) fn local(&self, n: usize) -> Timestamp {
        self.nodes[n].clock.now(self.schedule.now)
    }

    /// The time on a node's wall clock.
    pub(crate) fn wall(&self, n: usize) -> WallTime {
        WallTime(WALL_AT_START + self.schedule.now / 1_000 + self.nodes[n].wall_ahead)
    }

    /// Passes the wall-clock time to a node.
    pub(crate) fn tell_wall_clock(&self, n: usize) {
        if let Some(node) = &self.nodes[n].node {
            node.set_wall_clock(self.local(n), self.wall(n));
        }
    }

    /// Schedules an event after a span on a node's own clock.
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
        self.tick_disk(n);
        self.retry_parked(n);
        self.go_on_with_pages(n);
        self.ask_for_pages(n);
        self.flush_all(n);
        self.settle(n);
        self.close_once_handed_over(n);
        self.say_farewell_once_drained(n);
    }

    /// Must be called after every call to the state machine.
    fn settle(&mut self, n: usize) {
        self.persist(n);
        let touched: Vec<_> = self.nodes[n].turn.touched().collect();
        for outbox in touched {
            self.flush_touched(n, &outbox);
        }
        self.answer_settled(n);
        self.answer_lists(n);
        self.propose(n);
        self.check_node(n);
    }
}
