//! Nobody hears of a change before it is written: holds back what waits for the disk, as `Driver::persist` of a node
//! does.

use proto::level::ReadLevel;

use super::walks::{Asker, Step};
use crate::client::{Outcome, Request};
use crate::network::{ACCEPTER, ConnId, Kind, OPENER};
use crate::schedule::Event;
use crate::world::World;

/// How many messages to the coordinator may be held, as in a node.
const HELD: usize = 16;

/// Something that a node sends.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// Bytes on a connection, from this side of it.
    Bytes {
        conn: ConnId,
        side: usize,
        bytes: Vec<u8>,
    },
    Answer {
        request: Box<Request>,
        outcome: Outcome,
    },
    Listed {
        to: Asker,
        step: Box<Step>,
    },
}

/// Held until everything with a number below `end` is written.
#[derive(Debug)]
pub(super) struct Held {
    end: u64,
    outgoing: Outgoing,
}

impl Held {
    /// The request that waits for an answer, if any.
    pub(super) fn into_request(self) -> Option<Request> {
        match self.outgoing {
            Outgoing::Answer { request, .. } => Some(*request),
            Outgoing::Bytes { .. } | Outgoing::Listed { .. } => None,
        }
    }
}

impl World {
    /// Writes what the state machine has noted, and sends what has waited for that.
    pub(super) fn persist(&mut self, n: usize) {
        let now = self.schedule.now;
        let process = &mut self.nodes[n];
        let (boot, Some(node)) = (process.boot, &process.node) else { return };
        if let Some(until) = process.store.write(node, now) {
            self.schedule.at(until, Event::Disk { node: n as u8, boot });
        }
        if let Some(why) = self.nodes[n].store.take_failure() {
            self.tell(None, || format!("the disk of {} fails: {why}", char::from(b'A' + n as u8)));
            self.schedule.after(0, Event::Disk { node: n as u8, boot });
        }
        self.say_written(n);
    }

    /// Sends something once everything that has happened so far is written.
    ///
    /// IMPORTANT: everything that leaves a node and reveals what it holds must go through here.
    pub(super) fn send_when_durable(&mut self, n: usize, outgoing: Outgoing) {
        self.persist(n);
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let end = node.noted().end();
        if process.store.is_written(end) {
            return self.send_now(n, outgoing);
        }
        if process.store.has_failed() {
            return self.discard(n, outgoing);
        }
        if let Outgoing::Bytes { conn, side: OPENER, .. } = outgoing
            && let Some(link) = process.links.values_mut().find(|link| link.conn == Some(conn))
        {
            link.is_held = true;
        }
        process.held.push_back(Held { end, outgoing });
    }

    fn say_written(&mut self, n: usize) {
        loop {
            let process = &mut self.nodes[n];
            let Some(end) = process.held.front().map(|held| held.end) else { return };
            let (is_written, has_failed) = (process.store.is_written(end), process.store.has_failed());
            if !is_written && !has_failed {
                return;
            }
            let Some(held) = process.held.pop_front() else { return };
            if is_written {
                self.send_now(n, held.outgoing);
            } else {
                self.discard(n, held.outgoing);
            }
        }
    }

    fn send_now(&mut self, n: usize, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Bytes { conn, side, bytes } => {
                if side == OPENER
                    && let Some(link) = self.nodes[n].links.values_mut().find(|link| link.conn == Some(conn))
                {
                    link.is_held = false;
                }
                self.network.send(&mut self.schedule, conn, side, bytes);
            }
            Outgoing::Answer { request, outcome } => self.answer(n, &request, outcome),
            Outgoing::Listed { to, step } => self.send_step(n, usize::from(to.node), *step),
        }
    }

    /// The disk has failed: what waits for it is never sent; whoever waits for it sees a broken connection.
    fn discard(&mut self, n: usize, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Bytes { conn, side, .. } => {
                if self.network.conn(conn).kind == Kind::Link && self.network.conn(conn).ends[side].is_open {
                    self.network.close(&mut self.schedule, conn, side);
                    if side == ACCEPTER {
                        self.replica_loses(n, conn);
                    } else {
                        self.primary_loses(n, conn);
                    }
                }
            }
            Outgoing::Answer { request, .. } => self.answer(n, &request, Outcome::Unknown),
            Outgoing::Listed { .. } => {}
        }
    }

    /// Answers a request that was carried out.
    pub(super) fn answer_once_written(&mut self, n: usize, request: Box<Request>, outcome: Outcome) {
        let operation = &request.operation;
        if operation.is_write() || operation.read == ReadLevel::Linear {
            self.send_when_durable(n, Outgoing::Answer { request, outcome });
        } else {
            self.answer(n, &request, outcome);
        }
    }

    /// Whether a connection of a primary waits for a disk that hangs: meanwhile nothing more is read from it.
    pub(crate) fn waits_for_disk(&self, n: usize, conn: ConnId, side: usize) -> bool {
        let is_of =
            |held: &Held| matches!(held.outgoing, Outgoing::Bytes { conn: of, side: ACCEPTER, .. } if of == conn);
        side == ACCEPTER
            && self.nodes.get(n).is_some_and(|process| process.held.iter().any(is_of))
            && self.disk_has_hung(n, self.local(n))
    }

    /// Whether no more may be sent to the coordinator for now.
    pub(super) fn holds_much_for_coordinator(&self, n: usize) -> bool {
        let process = &self.nodes[n];
        if process.held.len() < HELD {
            return false;
        }
        let is_for_coordinator = |held: &&Held| match &held.outgoing {
            Outgoing::Bytes { conn, .. } => self.network.conn(*conn).kind == Kind::Session,
            _ => false,
        };
        process.held.iter().filter(is_for_coordinator).count() >= HELD
    }

    /// The fsync in progress is done, or the disk has failed.
    pub(crate) fn disk_due(&mut self, n: usize) {
        self.persist(n);
        if self.nodes[n].store.is_off() {
            return self.lose_power_at_call(n);
        }
        if self.nodes[n].store.has_failed() && !self.nodes[n].is_leaving {
            self.stop_for_disk(n);
        }
        self.flush_all(n);
        self.settle(n);
    }

    /// Runs background work of the disk, and gives up on requests that have waited too long.
    pub(super) fn tick_disk(&mut self, n: usize) {
        let now = self.schedule.now;
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        self.stats.snapshots += process.store.tick(node, now);
        if process.held.is_empty() {
            return;
        }
        let mut late = Vec::new();
        process.held.retain_mut(|held| match &mut held.outgoing {
            Outgoing::Answer { request, .. } if request.deadline <= now => {
                late.push(request.clone());
                false
            }
            _ => true,
        });
        for request in late {
            self.answer(n, &request, Outcome::Unknown);
        }
    }
}
