//! The simulated world: the processes, the network between them, and the one event loop.

use std::sync::Arc;

use proto::frame::{Frame, FrameDecoder, Words};
use proto::id::NodeAddr;
use proto::slot::{SlotBits, SlotId};
use seeded::Random;

use crate::client::Client;
use crate::coordinator::CoordinatorProcess;
use crate::counters::Counters;
use crate::faults::Faults;
use crate::history::History;
use crate::impostors::Impostors;
use crate::knobs::Knobs;
use crate::liveness::Liveness;
use crate::mutants::Planted;
use crate::network::{ACCEPTER, ConnId, Kind, Network, ProcId};
use crate::node::{NodeProcess, Store};
use crate::old_retries::OldRetries;
use crate::operator::Operator;
use crate::oracle::Oracle;
use crate::run::Violation;
use crate::schedule::{Event, Schedule};
use crate::stats::Stats;
use crate::trace::Trace;
use crate::walker::Walker;
/// How often a connection that waits for a disk is polled, in microseconds.
const DISK_PAUSE: u64 = 5_000;

/// The whole simulation.
pub(crate) struct World {
    pub(crate) knobs: Knobs,
    pub(crate) bits: SlotBits,
    pub(crate) planted: Planted,
    pub(crate) schedule: Schedule,
    pub(crate) random: Random,
    pub(crate) network: Network,
    pub(crate) nodes: Vec<NodeProcess>,
    pub(crate) coordinator: CoordinatorProcess,
    pub(crate) clients: Vec<Client>,
    pub(crate) walkers: Vec<Walker>,
    pub(crate) history: History,
    pub(crate) counters: Counters,
    pub(crate) faults: Faults,
    pub(crate) impostors: Impostors,
    pub(crate) old_retries: OldRetries,
    pub(crate) operator: Operator,
    pub(crate) liveness: Liveness,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    pub(crate) stats: Stats,
    pub(crate) violation: Option<Violation>,
}

impl World {
    pub(crate) fn new(seed: u64, knobs: Knobs, planted: Planted, keeps_story: bool) -> Self {
        let mut random = Random::new(seed);
        let bits = SlotBits::new(knobs.bits as u8);
        let network = Network::new(&knobs, random.fork());
        // Drawn separately, so that everything else of a seed stays the same.
        let mut wall = Random::new(seed ^ 0x7761_6c6c);
        let mut disks = Random::new(seed ^ 0x0064_6973_6b73);
        let nodes = (0..knobs.all_nodes()).map(|number| {
            let store = Store::new(&knobs, planted, disks.fork());
            NodeProcess::new(number, wall.between(0, knobs.wall_skew), store, &mut random)
        });
        let nodes = nodes.collect();
        let coordinator = CoordinatorProcess::new(knobs.all_nodes(), &mut random);
        let clients = (0..knobs.clients as u8).map(|number| Client::new(number, knobs.keys as usize)).collect();
        let mut world = Self {
            bits,
            planted,
            schedule: Schedule::default(),
            network,
            nodes,
            coordinator,
            clients,
            walkers: Vec::new(),
            history: History::new(),
            counters: Counters::default(),
            faults: Faults::new(&knobs, random.fork()),
            impostors: Impostors::new(&knobs, seed),
            old_retries: OldRetries::new(&knobs, seed),
            operator: Operator::new(&knobs, seed),
            liveness: Liveness::default(),
            oracle: Oracle::new(bits),
            trace: Trace::new(keeps_story),
            stats: Stats::default(),
            violation: None,
            random,
            knobs,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.set_clocks();
        self.start_coordinator();
        for node in 0..self.nodes.len() {
            if (node as u64) < self.knobs.nodes {
                self.start_node(node);
            } else {
                self.plan_late_start(node);
            }
        }
        self.begin_faults();
        self.plan_impostors();
        self.plan_operator();
        for client in 0..self.clients.len() {
            let pause = 500_000 + self.random.below(1_000_000);
            self.schedule.after(pause, Event::Client { client: client as u8, serial: 0 });
        }
        self.schedule.at(self.faults.until, Event::Look);
        for walker in 0..self.knobs.walkers {
            self.walkers.push(Walker::new(self.random.fork()));
            self.schedule.after(1_000_000, Event::Walker { walker: walker as u8, serial: 0 });
        }
    }

    /// Handles events until the run is over or an invariant is broken.
    pub(crate) fn run(&mut self) {
        while self.violation.is_none() && !self.liveness.is_over {
            let Some(event) = self.schedule.next() else { break };
            self.stats.events += 1;
            self.trace.mix(self.schedule.now);
            self.happen(event);
            if self.stats.events.is_multiple_of(1_000) {
                self.check_whole();
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let Some(event) = self.gate(event) else { return };
        match event {
            Event::Deliver { conn, side } => self.deliver(conn, usize::from(side)),
            Event::Reset { conn, side } => self.reset(conn, usize::from(side)),
            // Once the network cut has ended, it breaks no more connections.
            Event::Break { conn } if !self.liveness.is_calm() => self.network.break_off(&mut self.schedule, conn),
            Event::Break { .. } => {}
            Event::Tick { node, .. } => self.node_tick(usize::from(node)),
            Event::Heartbeat { node, .. } => self.node_heartbeat(usize::from(node)),
            Event::Beats { node, .. } => self.node_beats(usize::from(node)),
            Event::Session { node, serial, .. } => self.session_due(usize::from(node), serial),
            Event::Link { node, to, serial, .. } => self.link_due(usize::from(node), to, serial),
            Event::Disk { node, .. } => self.disk_due(usize::from(node)),
            Event::Left { node, .. } => self.has_left(usize::from(node)),
            Event::Coordinator { serial, .. } => self.coordinator_due(serial),
            Event::Request { node, request } => self.request_arrives(usize::from(node), request),
            Event::Response(response) => self.response_arrives(&response),
            Event::Walker { walker, serial } => self.walker_due(usize::from(walker), serial),
            Event::Walk { node, step } => self.walk_arrives(usize::from(node), *step),
            Event::Paged { walker, serial, paged } => self.page_arrives(usize::from(walker), serial, &paged),
            Event::Client { client, serial } => self.client_due(usize::from(client), serial),
            Event::Impostor { node, step } => self.impostor_due(usize::from(node), step),
            Event::Operator { node, step } => self.operator_due(usize::from(node), step),
            Event::Watched { node, map, .. } => self.map_watched(usize::from(node), &map),
            Event::Fault => self.next_fault(),
            Event::Remedy(remedy) => self.remedy(remedy),
            Event::Look => self.look(),
        }
    }

    /// Drops or defers events for a process that is paused, busy or dead.
    fn gate(&mut self, event: Event) -> Option<Event> {
        let now = self.schedule.now;
        let (node, boot) = match &event {
            Event::Tick { node, boot }
            | Event::Heartbeat { node, boot }
            | Event::Beats { node, boot }
            | Event::Session { node, boot, .. }
            | Event::Link { node, boot, .. }
            | Event::Disk { node, boot }
            | Event::Left { node, boot }
            | Event::Watched { node, boot, .. } => (*node, Some(*boot)),
            Event::Request { node, .. } | Event::Walk { node, .. } => (*node, None),
            Event::Coordinator { boot, .. } => {
                if *boot != self.coordinator.boot || self.coordinator.state.is_none() {
                    return None;
                }
                if self.coordinator.is_paused {
                    self.coordinator.deferred.push(event);
                    return None;
                }
                return Some(event);
            }
            _ => return Some(event),
        };
        let process = &mut self.nodes[usize::from(node)];
        if process.node.is_none() || boot.is_some_and(|boot| boot != process.boot) {
            if let Event::Request { request, .. } = event {
                self.no_answer(&request);
            }
            return None;
        }
        if process.is_paused {
            process.deferred.push(event);
            return None;
        }
        if process.busy_until > now {
            self.schedule.at(process.busy_until, event);
            return None;
        }
        process.busy_until = now + process.slowness;
        Some(event)
    }

    /// Bytes arrive at one side of a connection.
    fn deliver(&mut self, conn: ConnId, side: usize) {
        let Some((_, to)) = self.network.arrive(conn, side) else { return };
        let now = self.schedule.now;
        if self.is_paused(to) {
            return; // The packets are handled when the process resumes.
        }
        let busy = self.nodes.get(to).map_or(0, |process| process.busy_until);
        if busy > now {
            return self.network.go_on(&mut self.schedule, conn, side, busy);
        }
        if let Some(process) = self.nodes.get_mut(to) {
            process.busy_until = now + process.slowness;
        }
        while !self.waits_for_disk(to, conn, side) {
            let Some(packet) = self.network.take(now, conn, side) else { break };
            let Some(boot) = self.boot_of(to) else {
                // Nobody is listening: refused.
                return self.network.close(&mut self.schedule, conn, side);
            };
            let end = self.network.end_mut(conn, side);
            if side == ACCEPTER && end.boot == 0 {
                end.boot = boot;
            }
            if !end.is_open || end.boot != boot {
                continue;
            }
            if packet.is_end {
                self.network.ended(conn, side);
                self.connection_ended(to, conn, side);
                break;
            }
            self.trace.mix(u64::from(conn) << 32 | packet.data.len() as u64);
            self.take_bytes(to, conn, side, packet.data);
        }
        let earliest = if self.waits_for_disk(to, conn, side) { now + DISK_PAUSE } else { now };
        self.network.go_on(&mut self.schedule, conn, side, earliest);
    }

    /// One side of a connection learns that it is gone.
    fn reset(&mut self, conn: ConnId, side: usize) {
        let end = self.network.end_mut(conn, side);
        let (proc, boot, is_open) = (end.proc, end.boot, end.is_open);
        if !is_open {
            return;
        }
        if self.is_paused(proc) {
            return self.schedule.after(10_000, Event::Reset { conn, side: side as u8 });
        }
        self.network.ended(conn, side);
        if self.boot_of(proc) == Some(boot) {
            self.connection_ended(proc, conn, side);
        }
    }

    fn take_bytes(&mut self, to: ProcId, conn: ConnId, side: usize, data: Vec<u8>) {
        let end = self.network.end_mut(conn, side);
        let mut decoder = std::mem::take(&mut end.decoder);
        let mut bytes = std::mem::take(&mut end.rest);
        if bytes.is_empty() {
            bytes = data;
        } else {
            bytes.extend_from_slice(&data);
        }
        let mut frames = Frames { decoder: &mut decoder, bytes: &bytes, used: 0 };
        let kind = self.network.conn(conn).kind;
        let is_good = match (kind, side == ACCEPTER) {
            (Kind::Session, true) => self.coordinator_hears(conn, &mut frames),
            (Kind::Session, false) => self.node_hears_coordinator(to, conn, &mut frames),
            (Kind::Link, true) => self.replica_hears(to, conn, &mut frames),
            (Kind::Link, false) => self.primary_hears(to, conn, &mut frames),
        };
        let used = frames.used;
        let end = self.network.end_mut(conn, side);
        if end.is_open {
            end.decoder = decoder;
            bytes.drain(..used);
            end.rest = bytes;
        }
        if !is_good && self.network.conn(conn).ends[side].is_open {
            self.network.close(&mut self.schedule, conn, side);
            self.connection_ended(to, conn, side);
        }
    }

    /// A connection has ended for one of its sides.
    fn connection_ended(&mut self, to: ProcId, conn: ConnId, side: usize) {
        match (self.network.conn(conn).kind, side == ACCEPTER) {
            (Kind::Session, true) => self.coordinator_loses(conn),
            (Kind::Session, false) => self.node_loses_coordinator(to, conn),
            (Kind::Link, true) => self.replica_loses(to, conn),
            (Kind::Link, false) => self.primary_loses(to, conn),
        }
    }

    pub(crate) fn is_paused(&self, proc: ProcId) -> bool {
        self.nodes.get(proc).map_or(self.coordinator.is_paused, |process| process.is_paused)
    }

    /// The boot number of a process; `None` if it is not running.
    fn boot_of(&self, proc: ProcId) -> Option<u32> {
        match self.nodes.get(proc) {
            Some(process) => process.node.as_ref().map(|_| process.boot),
            None => self.coordinator.state.as_ref().map(|_| self.coordinator.boot),
        }
    }

    /// The process of the coordinator.
    pub(crate) fn coordinator_proc(&self) -> ProcId {
        self.nodes.len()
    }

    /// The process at an address.
    pub(crate) fn proc_of(&self, addr: &NodeAddr) -> ProcId {
        usize::from(addr.port()) - 1
    }

    pub(crate) fn tell(&mut self, slot: Option<SlotId>, text: impl FnOnce() -> String) {
        self.trace.tell(self.schedule.now, slot, text);
    }

    /// Reports a broken invariant. Only the first report counts.
    pub(crate) fn broken(&mut self, invariant: &'static str, slot: Option<SlotId>, what: String) {
        self.tell(slot, || format!("BROKEN {invariant}: {what}"));
        let now = self.schedule.now;
        self.violation.get_or_insert_with(|| Violation { invariant, slot, time: now, what, story: Vec::new() });
    }
}

/// A reader of the frames in some bytes.
pub(crate) struct Frames<'a> {
    decoder: &'a mut FrameDecoder,
    bytes: &'a [u8],
    used: usize,
}

/// One frame: a line, or the words of an array.
pub(crate) enum Next<'a> {
    Line,
    Array(Words<'a>),
    Bad,
}

impl Frames<'_> {
    /// The next frame, if it is complete.
    pub(crate) fn next(&mut self) -> Option<Next<'_>> {
        let bytes = self.bytes.get(self.used..).unwrap_or_default();
        match self.decoder.decode(bytes) {
            Ok(Some((frame, used))) => {
                self.used += used;
                Some(match frame {
                    Frame::Line(_) => Next::Line,
                    Frame::Array(words) => Next::Array(words),
                })
            }
            Ok(None) => None,
            Err(_) => Some(Next::Bad),
        }
    }
}

/// Whether two references are to the same queue, map or record.
pub(crate) fn same<T>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other)
}
