//! Client requests at a node.

use std::rc::Rc;

use engine::modify::OwnedReply;
use engine::slot::{Executed, Refusal, Written};
use engine::waiting::{Outcome as Wait, Waiting};
use proto::id::Version;
use proto::peer::{Identity, ModifyReply, Write};

use crate::client::{Outcome, Request, Response, What};
use crate::schedule::Event;
use crate::world::World;

/// A request whose answer waits until a record is durable.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Box<Request>,
    outcome: Outcome,
    waiting: Waiting,
    ticket: usize,
}

/// The outcome of a read-modify-write, from what its client is told.
fn outcome_of(what: &What, reply: &OwnedReply, version: Version) -> Outcome {
    match reply.as_reply() {
        ModifyReply::Number(0) if matches!(what, What::PutAllAbsent(_)) => Outcome::Conflict,
        ModifyReply::Number(_) if matches!(what, What::PutAllAbsent(_)) => Outcome::Done(version),
        ModifyReply::Number(number) => Outcome::Counted(number, version),
        ModifyReply::Value(value) => {
            Outcome::Exchanged(Some(Rc::from(String::from_utf8_lossy(value).as_ref())), version)
        }
        ModifyReply::Nothing => Outcome::Exchanged(None, version),
        ModifyReply::Done | ModifyReply::Error(_) => Outcome::Conflict,
    }
}

impl World {
    /// A request arrives at a node, from a client or forwarded.
    pub(crate) fn request_arrives(&mut self, n: usize, request: Box<Request>) {
        self.attempt(n, request);
        self.settle(n);
    }

    fn attempt(&mut self, n: usize, request: Box<Request>) {
        let now = self.local(n);
        let operation = Rc::clone(&request.operation);
        let slot = operation.slot;
        let key = operation.key.as_bytes();
        let waiting = Waiting::new();
        let mut shows_expired = false;
        self.tell_wall_clock(n);
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let wall = node.wall(now);
        if operation.is_write() && !process.store.takes_writes() && node.leads(slot) {
            return self.answer(n, &request, Outcome::Refused);
        }
        let tried = if let Some(change) = operation.what.change() {
            let client = self.clients[usize::from(operation.client)].name.as_bytes();
            let write = Write {
                key,
                change,
                expected: operation.what.expected(),
                identity: operation.identity.map(|seq| Identity { client, seq }),
                ack: operation.ack,
            };
            let written = node.write(now, slot, &write, &waiting, &mut process.turn);
            written.map(|Executed { answer, ticket }| match answer {
                Written::Done(version) => (Outcome::Done(version), ticket),
                Written::Modified(version, reply) => (outcome_of(&operation.what, &reply, version), ticket),
                Written::Conflict(_) => (Outcome::Conflict, ticket),
            })
        } else {
            let read = node.read(
                slot,
                key,
                operation.read,
                || now,
                &waiting,
                &mut process.turn,
                |record| {
                    shows_expired = record.is_some_and(|record| record.is_expired(wall));
                    let value = record.and_then(|record| record.value());
                    let value = value.map(|value| Rc::from(String::from_utf8_lossy(value).as_ref()));
                    Outcome::Value(value, record.map_or(Version::NONE, |record| record.version()))
                },
            );
            read.map(|Executed { answer, ticket }| (answer, ticket))
        };
        if shows_expired {
            self.broken("I11", Some(slot), format!("{} is read past its deadline", operation.key));
        }
        match tried {
            Ok((outcome, ticket)) => {
                self.was_served(n, &request, &outcome);
                match ticket {
                    None => self.answer_once_written(n, request, outcome),
                    Some(ticket) => self.nodes[n].pending.push(Pending { request, outcome, waiting, ticket }),
                }
            }
            Err(Refusal::NotHere) => self.pass_on(n, request),
            Err(Refusal::Full { .. } | Refusal::ReplicaFull(_)) => {
                self.stats.full += 1;
                self.answer(n, &request, Outcome::Full);
            }
            Err(Refusal::TooFew { .. } | Refusal::Busy | Refusal::CrossSlot) => {
                self.answer(n, &request, Outcome::Refused);
            }
            // The outcome of the earlier attempt is no longer known.
            Err(Refusal::Stale) => self.answer(n, &request, Outcome::Unknown),
        }
    }

    /// Another node leads the slot, or this one will in a moment.
    fn pass_on(&mut self, n: usize, request: Box<Request>) {
        if self.schedule.now >= request.deadline {
            return self.answer(n, &request, Outcome::Refused);
        }
        let Some(node) = &self.nodes[n].node else { return };
        let primary = node.route(request.operation.slot).primary;
        match primary {
            Some((primary, addr)) if primary != node.incarnation() && !request.is_forwarded => {
                let to = self.proc_of(&addr);
                if self.network.is_blocked(n, to) {
                    return self.nodes[n].parked.push(*request);
                }
                let delay = self.network.delay(n, to);
                let request = Box::new(Request { is_forwarded: true, ..*request });
                self.schedule.after(delay, Event::Request { node: to as u8, request });
            }
            _ if request.is_forwarded && primary.is_none_or(|(primary, _)| primary != node.incarnation()) => {
                self.answer(n, &request, Outcome::Refused);
            }
            _ => self.nodes[n].parked.push(*request),
        }
    }

    /// Retries the requests that have waited for a primary.
    pub(super) fn retry_parked(&mut self, n: usize) {
        for request in std::mem::take(&mut self.nodes[n].parked) {
            self.attempt(n, Box::new(request));
        }
    }

    /// Answers the requests whose records are now durable, or that have waited too long.
    pub(super) fn answer_settled(&mut self, n: usize) {
        if self.nodes[n].pending.is_empty() {
            return;
        }
        let now = self.schedule.now;
        let mut pending = std::mem::take(&mut self.nodes[n].pending);
        let mut done = Vec::new();
        for waits in pending
            .extract_if(.., |waits| waits.waiting.outcome(waits.ticket).is_some() || waits.request.deadline <= now)
        {
            let outcome = match waits.waiting.outcome(waits.ticket) {
                Some(Wait::Durable) => waits.outcome,
                Some(Wait::Lost) | None => Outcome::Unknown,
            };
            done.push((waits.request, outcome));
        }
        self.nodes[n].pending = pending;
        for (request, outcome) in done {
            self.answer_once_written(n, request, outcome);
        }
    }

    pub(super) fn answer(&mut self, n: usize, request: &Request, outcome: Outcome) {
        let operation = &request.operation;
        if self.random.chance(self.knobs.client_loss) {
            return; // The client gives up after a while.
        }
        if let Some(version) = outcome.done() {
            let incarnation = self.nodes[n].node.as_ref().map(engine::node::Node::incarnation).unwrap_or_default();
            self.oracle.acknowledged(operation, version, incarnation);
        }
        let delay = self.network.delay(n, n);
        let response = Response { client: operation.client, serial: request.serial, outcome };
        self.schedule.after(delay, Event::Response(Box::new(response)));
    }

    /// The node that had a request is gone: its client learns it at once, or times out.
    pub(crate) fn no_answer(&mut self, request: &Request) {
        if self.is_rolling() || self.random.chance(500) {
            let client = request.operation.client;
            let response = Response { client, serial: request.serial, outcome: Outcome::Unknown };
            self.schedule.after(1_000, Event::Response(Box::new(response)));
        }
    }
}
