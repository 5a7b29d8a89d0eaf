//! What the clients do, and what they record.

use std::rc::Rc;
use std::sync::Arc;

use proto::id::Version;
use proto::level::{AckLevel, ReadLevel};
use proto::slot::{Position, SlotId};

use crate::client::{Current, Operation, Outcome, Request, Response, Together, What};
use crate::counters::COUNTED;
use crate::history::{self, Action};
use crate::judges::oracle::ORACLE;
use crate::node::WALL_AT_START;
use crate::oracle::GivenDeadline;
use crate::schedule::Event;
use crate::world::World;

/// The prefix of the keys whose histories are judged.
pub(crate) const JUDGED: &str = "judged";

/// The maximum number of counter keys: so few that increments collide.
const COUNTED_KEYS: usize = 3;

/// How far a wall clock may drift before it is read again, in microseconds.
const DRIFT_IN_A_TICK: u64 = 10_000;

/// How long a client waits for an answer, in microseconds.
const PATIENCE: u64 = 3_000_000;

/// How long a node keeps a request, in microseconds.
pub(crate) const DEADLINE: u64 = 2_000_000;

/// Whether clients swap the value of a judged key. A swap goes by version: on a key that is also given deadlines it
/// might find another version of the very value that it expects.
fn may_swap(key: usize) -> bool {
    key.is_multiple_of(2)
}

/// How many times an operation with an identity is tried while its outcome is unknown.
const TRIES: u32 = 6;

impl World {
    /// A client's pause or patience is over.
    pub(crate) fn client_due(&mut self, c: usize, serial: u32) {
        let client = &mut self.clients[c];
        if client.serial != serial {
            return;
        }
        match &client.current {
            None if client.is_stopped => {}
            None => self.begin_operation(c),
            Some(current) if current.is_sent => self.came_to(c, Outcome::Unknown),
            Some(_) => self.send_request(c),
        }
    }

    pub(crate) fn response_arrives(&mut self, response: &Response) {
        let c = usize::from(response.client);
        if self.clients[c].serial == response.serial {
            self.came_to(c, response.outcome.clone());
        }
    }

    fn begin_operation(&mut self, c: usize) {
        let is_judged = !self.random.chance(self.knobs.async_share);
        let index = self.random.index(self.knobs.keys as usize);
        let key: Rc<str> = if is_judged { format!("{JUDGED}{index}") } else { format!("async{index}") }.into();
        let slot = self.bits.slot(&Position::of(key.as_bytes()));
        let client = &mut self.clients[c];
        client.writes += 1;
        let value: Rc<str> = format!("{c}-{}", client.writes).into();
        let seen = client.seen.get(index).cloned().flatten().filter(|_| is_judged);
        let what = match (self.random.below(100), seen) {
            (0..40, _) => What::Get,
            (40..70, _) => What::Put(value),
            (70..80, _) => What::Delete,
            (80..85, _) | (_, None | Some((None, _))) => What::PutIfAbsent(value),
            _ if self.knobs.expiry_share > 0 && !may_swap(index) => What::PutIfAbsent(value),
            (_, Some((Some(expected), version))) => What::Swap { expected, version, value },
        };
        let what = if is_judged || what.expected().is_none() { what } else { What::Get };
        let what = if self.knobs.expiry_share > 0 && self.random.chance(self.knobs.expiry_share) {
            self.with_deadline(what, index)
        } else {
            what
        };
        let (what, key, slot) =
            if is_judged && self.knobs.modify_share > 0 && self.random.chance(self.knobs.modify_share) {
                self.modification(what, key, index)
            } else {
                (what, key, slot)
            };
        let is_multi = is_judged && self.knobs.multi_share > 0 && self.random.chance(self.knobs.multi_share);
        let what = if is_multi { self.together(what, &key, slot) } else { what };
        let ack = match (is_judged, self.random.chance(150)) {
            (false, _) => AckLevel::Async,
            (true, _) if self.is_rolling() => AckLevel::Quorum,
            (true, false) => AckLevel::Quorum,
            (true, true) => AckLevel::All,
        };
        let read = if is_judged { ReadLevel::Linear } else { ReadLevel::Local };
        let is_rolling = self.is_rolling();
        let has_identity = what != What::Get && (self.random.chance(self.knobs.identity_share) || is_rolling);
        let client = &mut self.clients[c];
        let identity = has_identity.then(|| {
            client.identities += 1;
            client.identities
        });
        let operation = Rc::new(Operation { client: c as u8, key, slot, what, ack, read, identity, is_judged });
        let call = self.schedule.now;
        if operation.what == What::Count {
            self.counters.called(c as u8, &operation.key, call);
        }
        client.current = Some(Current { operation, key: index, call, tries: 0, is_uncertain: false, is_sent: false });
        self.stats.operations += 1;
        self.send_request(c);
    }

    /// Replaces an operation by a read-modify-write.
    fn modification(&mut self, what: What, key: Rc<str>, index: usize) -> (What, Rc<str>, SlotId) {
        let slot = |key: &str| self.bits.slot(&Position::of(key.as_bytes()));
        if let Some(value) = what.value() {
            return (What::Exchange(Rc::clone(value)), Rc::clone(&key), slot(&key));
        }
        let key: Rc<str> = format!("{COUNTED}{}", index % COUNTED_KEYS).into();
        let slot = slot(&key);
        (What::Count, key, slot)
    }

    /// Turns a write into one of several keys, if there are others in the slot, and a read into a deletion, so that
    /// keys are absent.
    fn together(&mut self, what: What, key: &Rc<str>, slot: SlotId) -> What {
        let (What::Put(value) | What::PutIfAbsent(value)) = &what else {
            return if what == What::Get { What::Delete } else { what };
        };
        let others = (0..self.knobs.keys).map(|index| Rc::from(format!("{JUDGED}{index}")));
        let is_beside = |other: &Rc<str>| other != key && self.bits.slot(&Position::of(other.as_bytes())) == slot;
        let mut others: Vec<Rc<str>> = others.filter(is_beside).collect();
        if others.is_empty() {
            return what;
        }
        others.truncate(1 + self.random.index(others.len()));
        let keys = [Rc::clone(key)].into_iter().chain(others).collect();
        What::PutAllAbsent(Together::new(keys, Rc::clone(value)))
    }

    /// Turns a write into one that involves deadlines.
    fn with_deadline(&mut self, what: What, key: usize) -> What {
        let millis = self.random.between(1, self.knobs.longest_life);
        match what {
            What::Put(value) => What::PutFor(value, millis),
            What::Delete if may_swap(key) => what,
            What::Delete if self.random.chance(500) => What::Expire(millis),
            What::Delete => What::Persist,
            what => what,
        }
    }

    fn send_request(&mut self, c: usize) {
        if self.clients[c].map.is_none() || self.random.chance(50) {
            self.look_at_map(c);
        }
        let client = &mut self.clients[c];
        let Some(current) = &mut client.current else { return };
        current.is_sent = true;
        current.tries += 1;
        client.serial += 1;
        let (operation, serial) = (Rc::clone(&current.operation), client.serial);
        let primary = client.map.as_ref().and_then(|map| {
            let primary = map.config(operation.slot).primary?;
            map.member(primary).map(|member| member.addr.clone())
        });
        let any = self.random.index(self.nodes.len());
        let to = primary.filter(|_| !self.random.chance(100)).map_or(any, |addr| self.proc_of(&addr));
        let now = self.schedule.now;
        self.schedule.after(PATIENCE, Event::Client { client: c as u8, serial });
        if self.nodes[to].node.is_none() {
            // Refused at once; nobody has seen it.
            let response = Response { client: c as u8, serial, outcome: Outcome::Refused };
            return self.schedule.after(1_000, Event::Response(Box::new(response)));
        }
        if self.random.chance(self.knobs.client_loss) {
            return;
        }
        let delay = self.network.delay(to, to);
        let request = Box::new(Request { operation, serial, is_forwarded: false, deadline: now + DEADLINE });
        self.schedule.after(delay, Event::Request { node: to as u8, request });
    }

    fn look_at_map(&mut self, c: usize) {
        let any = self.random.index(self.nodes.len());
        if let Some(map) = self.nodes[any].node.as_ref().and_then(engine::node::Node::map) {
            self.clients[c].map = Some(Arc::clone(&map));
        }
    }

    /// An attempt has ended.
    fn came_to(&mut self, c: usize, outcome: Outcome) {
        let now = self.schedule.now;
        let pause = self.random.below(self.knobs.think) + 1;
        let is_rolling = self.is_rolling();
        let client = &mut self.clients[c];
        client.serial += 1;
        let serial = client.serial;
        let Some(mut current) = client.current.take() else { return };
        let operation = Rc::clone(&current.operation);
        let is_retried = operation.identity.is_some() && current.tries < TRIES;
        let again = match outcome {
            // As the client library does.
            Outcome::Refused | Outcome::Unknown if is_rolling && operation.is_judged => {
                current.is_uncertain |= outcome == Outcome::Unknown && operation.is_write();
                now - current.call < PATIENCE
            }
            Outcome::Unknown => {
                current.is_uncertain |= operation.is_write();
                operation.is_write() && is_retried
            }
            Outcome::Refused | Outcome::Full => current.is_uncertain && is_retried,
            Outcome::Done(_)
            | Outcome::Conflict
            | Outcome::Value(..)
            | Outcome::Exchanged(..)
            | Outcome::Counted(..) => false,
        };
        if outcome == Outcome::Refused || outcome == Outcome::Unknown {
            client.map = None;
        }
        if again {
            current.is_sent = false;
            client.current = Some(current);
            return self.schedule.after(pause + 20_000, Event::Client { client: c as u8, serial });
        }
        self.schedule.after(pause, Event::Client { client: c as u8, serial });
        self.trace.mix(now ^ u64::from(serial));
        self.trace.tell(now, Some(operation.slot), || {
            format!(
                "client {c}: {:?} {} {:?} {:?} from {}: {outcome:?}",
                operation.what, operation.key, operation.ack, operation.identity, current.call
            )
        });
        let is_known = !matches!(outcome, Outcome::Refused | Outcome::Full | Outcome::Unknown);
        if is_known {
            self.stats.answered += 1;
            self.stats.acknowledged += u64::from(outcome.done().is_some());
            let is_multi = matches!(operation.what, What::PutAllAbsent(_));
            self.stats.multi_writes += u64::from(is_multi && outcome.done().is_some());
            if self.liveness.is_outage {
                self.stats.outage_answered += 1;
            }
        } else if current.is_uncertain {
            self.stats.unknown += 1;
        } else {
            self.stats.refused += 1;
        }
        if !is_known && outcome != Outcome::Full {
            self.refused_in_peace(c, &operation, &outcome);
        }
        self.check_rolling(&operation, current.call, &outcome);
        if operation.is_judged {
            self.remember(c, &current, &outcome);
        }
        self.retry_an_old_one(c, &operation, &outcome);
    }

    /// Records when values may expire.
    pub(crate) fn remember_deadlines(&mut self) {
        for GivenDeadline { key, value, deadline } in std::mem::take(&mut self.oracle.deadlines) {
            let (key, value) =
                (String::from_utf8_lossy(&key).into_owned(), String::from_utf8_lossy(&value).into_owned());
            // The node with the fastest clock is the first to see the deadline pass.
            let real = (deadline.0 - WALL_AT_START).saturating_sub(self.knobs.wall_skew) * 1_000;
            let call = real.saturating_sub(DRIFT_IN_A_TICK);
            if key.starts_with(JUDGED) {
                let action = Action::Expire { value };
                self.history.push(history::Operation { client: ORACLE, key, call, end: None, action });
            }
        }
    }

    /// Records the result of an operation.
    fn remember(&mut self, c: usize, current: &Current, outcome: &Outcome) {
        let now = self.schedule.now;
        let operation = &current.operation;
        if let Outcome::Counted(number, _) = outcome {
            self.counters.answered(c as u8, &operation.key, now, *number);
        }
        if operation.what == What::Count {
            return;
        }
        let seen = match outcome {
            Outcome::Value(value, version) => Some((value.clone(), *version)),
            Outcome::Done(version) | Outcome::Exchanged(_, version) if *version != Version::NONE => {
                operation.what.value().map(|value| (Some(Rc::clone(value)), *version))
            }
            _ => None,
        };
        if let Some(place) = self.clients[c].seen.get_mut(current.key)
            && (seen.is_some() || *outcome == Outcome::Conflict)
        {
            *place = seen;
        }
        // An earlier attempt that arrives late may still do what a later one was told had not been done.
        let conflict_is_final = *outcome == Outcome::Conflict && !current.is_uncertain;
        let (end, done) = match outcome {
            Outcome::Done(_) | Outcome::Exchanged(..) | Outcome::Counted(..) => (Some(now), history::Outcome::Done),
            Outcome::Conflict if conflict_is_final => (Some(now), history::Outcome::Conflict),
            Outcome::Value(..) => (Some(now), history::Outcome::Done),
            Outcome::Conflict | Outcome::Refused | Outcome::Full | Outcome::Unknown => {
                (None, history::Outcome::Unknown)
            }
        };
        if end.is_none() && !current.is_uncertain {
            return; // Nothing was done.
        }
        let text = |text: &Rc<str>| text.to_string();
        let action = match (&operation.what, outcome) {
            (What::Get, Outcome::Value(value, _)) => Action::Get { result: value.as_ref().map(text) },
            (What::Get, _) => return,
            (What::Put(value) | What::PutFor(value, _), _) => Action::Put { value: text(value) },
            (What::Expire(_), Outcome::Done(_)) => Action::Look { is_there: true },
            (What::Expire(_), Outcome::Conflict) if conflict_is_final => Action::Look { is_there: false },
            (What::Expire(_) | What::Persist, _) => return,
            (What::Delete, _) => Action::Delete,
            // If it returned an old value, it was a swap of that value; if it returned none, it found the key absent.
            (What::Exchange(value), Outcome::Exchanged(Some(before), _)) => {
                Action::Swap { expected: text(before), value: text(value), outcome: done }
            }
            (What::Exchange(value), Outcome::Exchanged(None, _)) => {
                Action::PutIfAbsent { value: text(value), outcome: done }
            }
            (What::Exchange(value), _) => Action::Put { value: text(value) },
            (What::Count, _) => return,
            // Some key had a value, whichever.
            (What::PutAllAbsent(_), Outcome::Conflict) if conflict_is_final => return,
            (What::PutIfAbsent(value) | What::PutAllAbsent(Together { value, .. }), _) => {
                Action::PutIfAbsent { value: text(value), outcome: done }
            }
            (What::Swap { expected, value, .. }, _) => {
                Action::Swap { expected: text(expected), value: text(value), outcome: done }
            }
        };
        let client = u32::from(operation.client);
        let keys = match &operation.what {
            What::PutAllAbsent(Together { keys, .. }) => keys,
            _ => std::slice::from_ref(&operation.key),
        };
        for key in keys.iter().map(text) {
            if self.knobs.evict > 0
                && let Some(value) = operation.what.value()
            {
                // Any stored value may be evicted at any time.
                let (key, action) = (key.clone(), Action::Expire { value: text(value) });
                self.history.push(history::Operation { client: ORACLE, key, call: current.call, end: None, action });
            }
            let action = action.clone();
            self.history.push(history::Operation { client, key, call: current.call, end, action });
        }
    }
}
