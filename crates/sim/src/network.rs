//! Connections with the guarantees of TCP: what is sent on a connection arrives in order, or the connection breaks and
//! the last part is lost. What was in flight on a broken connection may still arrive after the next one is established.

use std::collections::VecDeque;

use proto::frame::FrameDecoder;
use seeded::Random;

use crate::knobs::Knobs;
use crate::schedule::{Event, Schedule};
/// A connection. Numbers are not reused within a run.
pub(crate) type ConnId = u32;

/// A process: nodes from 0, then the coordinator.
pub(crate) type ProcId = usize;

/// How many processes there can be.
pub(crate) const PROCESSES: usize = 8;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From a node to the coordinator.
    Session,
    /// From a primary to a replica.
    Link,
}

/// The side that opened a connection.
pub(crate) const OPENER: usize = 0;

/// The side that accepted it.
pub(crate) const ACCEPTER: usize = 1;

/// Some bytes in flight, or the end of the connection.
#[derive(Debug)]
pub(crate) struct Packet {
    at: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) is_end: bool,
}

/// What is in flight towards one side.
#[derive(Debug, Default)]
struct Way {
    packets: VecDeque<Packet>,
    /// There is an event for the first packet.
    is_scheduled: bool,
    last: u64,
    /// Everything sent from now on is lost.
    is_lossy: bool,
}

/// One side of a connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) proc: ProcId,
    /// The boot of the process that holds it; 0 before it is accepted.
    pub(crate) boot: u32,
    pub(crate) is_open: bool,
    /// The beginning of an incomplete frame.
    pub(crate) rest: Vec<u8>,
    pub(crate) decoder: FrameDecoder,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) kind: Kind,
    pub(crate) ends: [End; 2],
    ways: [Way; 2],
    delay: u64,
}

/// All connections, and the faults between processes.
#[derive(Debug)]
pub(crate) struct Network {
    conns: Vec<Conn>,
    live: Vec<ConnId>,
    /// How many faults block traffic from the first to the second.
    blocked: [[u8; PROCESSES]; PROCESSES],
    /// The extra delay of packets from the first to the second.
    slowed: [[u64; PROCESSES]; PROCESSES],
    delay: u64,
    spikes: u64,
    fragments: u64,
    loss: u64,
    random: Random,
    /// How many connections were broken.
    pub(crate) breaks: u64,
}

impl Network {
    pub(crate) fn new(knobs: &Knobs, random: Random) -> Self {
        let (blocked, slowed) = ([[0; PROCESSES]; PROCESSES], [[0; PROCESSES]; PROCESSES]);
        Self {
            conns: Vec::new(),
            live: Vec::new(),
            blocked,
            slowed,
            delay: knobs.delay,
            spikes: knobs.spikes,
            fragments: knobs.fragments,
            loss: knobs.loss,
            random,
            breaks: 0,
        }
    }

    pub(crate) fn conn(&self, id: ConnId) -> &Conn {
        &self.conns[id as usize]
    }

    pub(crate) fn end_mut(&mut self, id: ConnId, side: usize) -> &mut End {
        &mut self.conns[id as usize].ends[side]
    }

    /// The connections with at least one open side.
    pub(crate) fn live(&self) -> &[ConnId] {
        &self.live
    }

    /// A delay for something outside of any connection.
    pub(crate) fn delay(&mut self, from: ProcId, to: ProcId) -> u64 {
        let spike = self.spikes > 0 && self.random.chance(self.spikes);
        let factor = if spike { self.random.between(1, 100) } else { 1 };
        self.delay / 10 + self.random.below(self.delay) * factor + self.slowed[from][to]
    }

    pub(crate) fn is_blocked(&self, from: ProcId, to: ProcId) -> bool {
        self.blocked[from][to] > 0
    }

    /// Opens a connection. It is established once the other side has answered.
    pub(crate) fn open(&mut self, kind: Kind, from: (ProcId, u32), to: ProcId) -> ConnId {
        let id = self.conns.len() as ConnId;
        let end = |proc, boot| End { proc, boot, is_open: true, rest: Vec::new(), decoder: FrameDecoder::new() };
        let delay = self.random.below(self.delay);
        self.conns.push(Conn {
            kind,
            ends: [end(from.0, from.1), end(to, 0)],
            ways: [Way::default(), Way::default()],
            delay,
        });
        self.live.push(id);
        id
    }

    /// Sends bytes from one side.
    pub(crate) fn send(&mut self, schedule: &mut Schedule, id: ConnId, side: usize, mut data: Vec<u8>) {
        let conn = &self.conns[id as usize];
        if !conn.ends[side].is_open || conn.ways[1 - side].is_lossy {
            return;
        }
        if self.loss > 0 && self.random.below(1_000_000) < self.loss {
            self.conns[id as usize].ways[1 - side].is_lossy = true;
            schedule.after(self.random.between(100_000, 3_000_000), Event::Break { conn: id });
            return;
        }
        if self.fragments > 0 && self.random.chance(self.fragments) {
            let rest = data.split_off(self.random.index(data.len()));
            self.push(schedule, id, 1 - side, data, false);
            data = rest;
        }
        self.push(schedule, id, 1 - side, data, false);
    }

    fn push(&mut self, schedule: &mut Schedule, id: ConnId, to: usize, data: Vec<u8>, is_end: bool) {
        let (from_proc, to_proc) = {
            let ends = &self.conns[id as usize].ends;
            (ends[1 - to].proc, ends[to].proc)
        };
        let delay = self.delay(from_proc, to_proc);
        let conn = &mut self.conns[id as usize];
        let way = &mut conn.ways[to];
        let at = way.last.max(schedule.now + conn.delay + delay);
        way.last = at;
        match way.packets.back_mut() {
            Some(last) if last.at == at && !is_end && !last.is_end => last.data.extend_from_slice(&data),
            _ => way.packets.push_back(Packet { at, data, is_end }),
        }
        self.schedule(schedule, id, to);
    }

    /// Schedules the event for the first packet in one direction, unless there is one or the direction is blocked.
    fn schedule(&mut self, schedule: &mut Schedule, id: ConnId, side: usize) {
        let conn = &mut self.conns[id as usize];
        let free = self.blocked[conn.ends[1 - side].proc][conn.ends[side].proc] == 0;
        let way = &mut conn.ways[side];
        if let Some(first) = way.packets.front().filter(|_| free && !way.is_scheduled) {
            way.is_scheduled = true;
            schedule.at(first.at, Event::Deliver { conn: id, side: side as u8 });
        }
    }

    /// Handles the event of one direction. Returns the processes on both sides; `None` if that direction is blocked or
    /// empty.
    pub(crate) fn arrive(&mut self, id: ConnId, side: usize) -> Option<(ProcId, ProcId)> {
        let conn = &mut self.conns[id as usize];
        conn.ways[side].is_scheduled = false;
        let (from, to) = (conn.ends[1 - side].proc, conn.ends[side].proc);
        (self.blocked[from][to] == 0 && !conn.ways[side].packets.is_empty()).then_some((from, to))
    }

    /// The next packet that has arrived.
    pub(crate) fn take(&mut self, now: u64, id: ConnId, side: usize) -> Option<Packet> {
        self.conns[id as usize].ways[side].packets.pop_front_if(|packet| packet.at <= now)
    }

    /// Reschedules what is still in flight, for `earliest` or later.
    pub(crate) fn go_on(&mut self, schedule: &mut Schedule, id: ConnId, side: usize, earliest: u64) {
        if let Some(first) = self.conns[id as usize].ways[side].packets.front_mut() {
            first.at = first.at.max(earliest);
        }
        self.schedule(schedule, id, side);
    }

    /// One side closes: what it has sent arrives, followed by the end.
    pub(crate) fn close(&mut self, schedule: &mut Schedule, id: ConnId, side: usize) {
        let conn = &mut self.conns[id as usize];
        if !std::mem::replace(&mut conn.ends[side].is_open, false) {
            return;
        }
        conn.ways[side].packets.clear();
        conn.ends[side].rest = Vec::new();
        if conn.ends[1 - side].is_open {
            self.push(schedule, id, 1 - side, Vec::new(), true);
        } else {
            self.forget(id);
        }
    }

    /// One side has seen the end.
    pub(crate) fn ended(&mut self, id: ConnId, side: usize) {
        let conn = &mut self.conns[id as usize];
        conn.ends[side].is_open = false;
        conn.ends[side].rest = Vec::new();
        conn.ways[side].packets.clear();
        if !conn.ends[1 - side].is_open {
            self.forget(id);
        }
    }

    /// The process on one side is gone: some of what it has sent may still arrive.
    pub(crate) fn crash(&mut self, schedule: &mut Schedule, id: ConnId, side: usize) {
        self.cut_short(id, 1 - side);
        self.close(schedule, id, side);
    }

    /// Breaks a connection: each side notices in its own time, after some of what was in flight.
    pub(crate) fn break_off(&mut self, schedule: &mut Schedule, id: ConnId) {
        let open = |conn: &Conn, side: usize| conn.ends[side].is_open;
        if !open(self.conn(id), OPENER) && !open(self.conn(id), ACCEPTER) {
            return;
        }
        self.breaks += 1;
        for side in [OPENER, ACCEPTER] {
            self.cut_short(id, side);
            self.conns[id as usize].ways[side].is_lossy = true;
            if open(self.conn(id), side) {
                self.push(schedule, id, side, Vec::new(), true);
            }
        }
    }

    /// Resets a connection for both sides at once; everything in flight is lost.
    fn reset(&mut self, schedule: &mut Schedule, id: ConnId) {
        self.breaks += 1;
        for side in [OPENER, ACCEPTER] {
            let conn = &mut self.conns[id as usize];
            let way = &mut conn.ways[side];
            way.packets.clear();
            way.is_lossy = true;
            if conn.ends[side].is_open && !std::mem::replace(&mut way.is_scheduled, true) {
                schedule.after(1, Event::Reset { conn: id, side: side as u8 });
            }
        }
    }

    /// Drops a random last part of what is in flight to one side.
    fn cut_short(&mut self, id: ConnId, side: usize) {
        let way = &mut self.conns[id as usize].ways[side];
        let kept = self.random.index(way.packets.len() + 1);
        if kept < way.packets.len() {
            way.packets.truncate(kept + 1);
            if let Some(last) = way.packets.back_mut() {
                last.is_end = false;
                last.data.truncate(self.random.index(last.data.len() + 1));
            }
        }
    }

    fn forget(&mut self, id: ConnId) {
        self.live.retain(|live| *live != id);
        let conn = &mut self.conns[id as usize];
        conn.ways.iter_mut().for_each(|way| way.packets = VecDeque::new());
        conn.ends.iter_mut().for_each(|end| end.decoder = FrameDecoder::new());
    }

    /// Blocks traffic from one process to another. Some of the connections affected break: either at once or after a
    /// while.
    pub(crate) fn block(&mut self, schedule: &mut Schedule, from: ProcId, to: ProcId) {
        self.blocked[from][to] += 1;
        let at_once = self.random.chance(300);
        for id in self.live.clone() {
            let ends = &self.conn(id).ends;
            let pair = (ends[0].proc, ends[1].proc);
            if (pair != (from, to) && pair != (to, from)) || self.random.chance(500) {
                continue;
            }
            if at_once {
                // A device on the path resets both sides: both see it, even across the cut.
                self.reset(schedule, id);
            } else {
                schedule.after(self.random.between(1_000_000, 6_000_000), Event::Break { conn: id });
            }
        }
    }

    /// Unblocks the traffic.
    pub(crate) fn unblock(&mut self, schedule: &mut Schedule, from: ProcId, to: ProcId) {
        self.blocked[from][to] = self.blocked[from][to].saturating_sub(1);
        if self.blocked[from][to] == 0 {
            self.resume(schedule, |ends, side| ends[1 - side].proc == from && ends[side].proc == to);
        }
    }

    /// A process accepts packets again.
    pub(crate) fn resume_process(&mut self, schedule: &mut Schedule, proc: ProcId) {
        self.resume(schedule, |ends, side| ends[side].proc == proc);
    }

    fn resume(&mut self, schedule: &mut Schedule, concerns: impl Fn(&[End; 2], usize) -> bool) {
        for id in self.live.clone() {
            for side in [OPENER, ACCEPTER] {
                if concerns(&self.conn(id).ends, side) {
                    let earliest = schedule.now + self.random.below(self.delay);
                    self.go_on(schedule, id, side, earliest);
                }
            }
        }
    }

    /// Delays packets between two processes.
    pub(crate) fn slow_down(&mut self, one: ProcId, other: ProcId, by: u64) {
        (self.slowed[one][other], self.slowed[other][one]) = (by, by);
    }

    /// Removes all network faults.
    pub(crate) fn heal(&mut self, schedule: &mut Schedule) {
        (self.blocked, self.slowed) = ([[0; PROCESSES]; PROCESSES], [[0; PROCESSES]; PROCESSES]);
        (self.spikes, self.loss, self.fragments) = (0, 0, 0);
        self.delay = self.delay.min(1_000);
        for id in self.live.clone() {
            if self.conn(id).ways.iter().any(|way| way.is_lossy) {
                self.break_off(schedule, id);
            }
        }
        self.resume(schedule, |_, _| true);
    }

    /// The sides of live connections that a boot of a process holds.
    pub(crate) fn held_by(&self, proc: ProcId, boot: u32) -> Vec<(ConnId, usize)> {
        let sides = |id: &ConnId| [(*id, OPENER), (*id, ACCEPTER)];
        let holds = |(id, side): &(ConnId, usize)| {
            let end = &self.conn(*id).ends[*side];
            end.proc == proc && end.boot == boot && end.is_open
        };
        self.live.iter().flat_map(sides).filter(holds).collect()
    }
}
