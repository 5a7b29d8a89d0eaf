//! Requests that other nodes pass on, on one connection for all of that node's clients. Each is answered as soon as it can
//! be: one that waits for its replicas holds up no other. What this node does not lead goes back at once.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use engine::node::Turn;
use engine::record::Record;
use engine::slot::Answer;
use engine::waiting::{Outcome, Waiting};
use net::connection::{Connection, Flow, Stopped};
use net::shutdown::Shutdown;
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame, push_number, push_word};
use proto::level::ReadLevel;
use proto::peer::{Copies, Detail, Forward, KeyRequest, List, Read, SHORT_BYTES, Wanted, Write};
use proto::response::Response;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::answering;
use crate::driver::Driver;
use crate::wait;
use crate::walks;

/// How many requests may wait on one connection. Beyond it the connection is not read until some are answered.
const WAITING: usize = 16_384;

/// How many bytes of answers there may be, whether they wait or are not written. Beyond it, it is not read either.
const ANSWER_BYTES: usize = 1024 * 1024;

/// How many questions for keys are answered side by side on one connection. Beyond it, it is not read either.
const LISTS: usize = 512;

/// A request that is carried out and not yet durable.
struct Pending {
    id: u64,
    waiting: Waiting,
    /// What to answer once it is durable.
    answer: Vec<u8>,
    /// What to answer otherwise.
    failure: ErrorReply,
    deadline: Instant,
}

/// Serves a connection until the other node ends it, breaks the protocol, or shutdown begins.
///
/// # Errors
/// The connection is broken.
pub async fn serve(connection: &mut Connection, driver: &Driver, shutdown: &Shutdown) -> io::Result<()> {
    let mut session = ForwardSession::new(driver);
    // Listing goes on beside the requests for single keys, which do not wait for it.
    let mut listing = JoinSet::new();
    loop {
        let Connection { reader, output, .. } = connection;
        let stopped =
            reader.frames(|frame| if session.is_full(output) { Flow::Settle } else { session.request(frame, output) });
        for list in session.lists.drain(..) {
            let driver = driver.clone();
            listing.spawn(async move { (list.id, walks::list_here(&driver, &list).await) });
        }
        session.listing = listing.len();
        session.give_up_late(&mut connection.output);
        if std::mem::take(&mut session.must_persist) {
            driver.persist().await.map_err(io::Error::other)?;
        }
        connection.flush().await?;
        driver.finish(&mut session.turn);
        match stopped {
            Stopped::NeedsMore => {}
            Stopped::Handler(Flow::Settle) if session.is_full(&connection.output) => {}
            Stopped::Handler(Flow::Settle) => continue,
            Stopped::Handler(_) | Stopped::Bad(_) => return Ok(()),
        }
        let late = session.pending.iter().map(|pending| pending.deadline).min();
        let late = late.unwrap_or_else(|| Instant::now() + driver.request_timeout());
        let may_read = !session.is_full(&connection.output);
        let Connection { reader, stream, output } = connection;
        tokio::select! {
            read = reader.fill(stream), if may_read => if read? == 0 { return Ok(()) },
            () = poll_fn(|context| session.poll_settled(context, output)) => {}
            Some(listed) = listing.join_next() => {
                let (id, listed) = listed.map_err(io::Error::other)?;
                let mut answer = Vec::new();
                listed.encode(&mut answer);
                respond(id, &answer, &mut connection.output);
                session.listing = listing.len();
            }
            () = sleep_until(late) => {}
            () = shutdown.begun(), if session.pending.is_empty() => return Ok(()),
        }
    }
}

struct ForwardSession<'a> {
    driver: &'a Driver,
    turn: Turn,
    pending: Vec<Pending>,
    /// How long the answers are that wait in it.
    pending_bytes: usize,
    /// Questions for keys that have still to be begun, and how many are under way.
    lists: Vec<List>,
    listing: usize,
    /// Something was carried out of which nobody may hear before it is on disk.
    must_persist: bool,
}

impl<'a> ForwardSession<'a> {
    fn new(driver: &'a Driver) -> Self {
        let (turn, pending, lists) = (Turn::default(), Vec::new(), Vec::new());
        Self { driver, turn, pending, pending_bytes: 0, lists, listing: 0, must_persist: false }
    }

    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        let Frame::Array(words) = frame else { return Flow::Close };
        if List::is_one(words) {
            let Ok(list) = List::parse(words) else { return Flow::Close };
            self.lists.push(list);
            return Flow::Next;
        }
        if Copies::is_one(words) {
            let Ok(copies) = Copies::parse(words) else { return Flow::Close };
            let mut answer = Vec::new();
            let mut bytes = Vec::with_capacity(copies.slots.len() * 9);
            wait::answers_here(self.driver, &copies.slots).iter().for_each(|slot| slot.encode(&mut bytes));
            push_word(&bytes, &mut answer);
            respond(copies.id, &answer, out);
            return Flow::Next;
        }
        match Forward::parse(words) {
            Ok(Forward { id, at_replica, is_short, request: KeyRequest::Read(read) }) => {
                self.read(id, at_replica, is_short, read, out);
            }
            Ok(Forward { id, request: KeyRequest::Write(write), .. }) => self.write(id, write, out),
            Err(_) => return Flow::Close,
        }
        Flow::Next
    }

    fn read(&mut self, id: u64, at_replica: bool, is_short: bool, read: Read<'_>, out: &mut Vec<u8>) {
        self.must_persist |= read.level == ReadLevel::Linear;
        let node = self.driver.node();
        let slot = node.slot_of(read.key);
        let (waiting, mut answer) = (Waiting::new(), Vec::new());
        let encode = |record: Option<&Record>| {
            let found = answering::found(record, read.wanted, || self.driver.wall());
            let is_long = is_short && found.value().is_some_and(|value| value.len() > SHORT_BYTES);
            if is_long { Response::Error(ErrorReply::Long) } else { found }.encode(Encoding::Array, &mut answer);
        };
        let clock = || self.driver.clock().now();
        let done = if read.wanted == Wanted::Detail(Detail::Idle) && !at_replica {
            node.idle(slot, read.key, clock()).map(|idle| {
                answering::idle(idle).encode(Encoding::Array, &mut answer);
                None
            })
        } else if at_replica {
            node.read_copy(slot, read.key, clock, encode).map(|()| None)
        } else {
            node.read(slot, read.key, read.level, clock, &waiting, &mut self.turn, encode).map(|answer| answer.ticket)
        };
        match done {
            Ok(None) => respond(id, &answer, out),
            // A read that has come to nothing may be tried again.
            Ok(Some(_)) => self.wait(id, waiting, answer, ErrorReply::Moved),
            Err(refusal) => respond_error(id, answering::refused(refusal, self.driver), out),
        }
    }

    fn write(&mut self, id: u64, write: Write<'_>, out: &mut Vec<u8>) {
        if !self.driver.takes_writes() {
            let refusal = answering::disk_refuses(self.driver.addr(), self.driver.is_full());
            return respond_error(id, refusal, out);
        }
        self.must_persist = true;
        let (node, now) = (self.driver.node(), self.driver.clock().now());
        let waiting = Waiting::new();
        let encode = |written| {
            let mut answer = Vec::new();
            answering::written(&written, &write).encode(Encoding::Array, &mut answer);
            answer
        };
        match node.write(now, node.slot_of(write.key), &write, &waiting, &mut self.turn) {
            Ok(Answer { answer, ticket: None }) => respond(id, &encode(answer), out),
            Ok(Answer { answer, .. }) => {
                self.wait(id, waiting, encode(answer), answering::not_durable(write.identity.is_some()));
            }
            Err(refusal) => respond_error(id, answering::refused(refusal, self.driver), out),
        }
    }

    fn wait(&mut self, id: u64, waiting: Waiting, answer: Vec<u8>, failure: ErrorReply) {
        let deadline = Instant::now() + self.driver.request_timeout();
        self.pending_bytes += answer.len();
        self.pending.push(Pending { id, waiting, answer, failure, deadline });
    }

    fn is_full(&self, out: &[u8]) -> bool {
        self.pending.len() >= WAITING
            || self.lists.len() + self.listing >= LISTS
            || out.len() + self.pending_bytes >= ANSWER_BYTES
    }

    /// Ready once some waits are over, whose answers are then written.
    fn poll_settled(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<()> {
        let before = self.pending.len();
        self.pending.retain(|pending| {
            if pending.waiting.poll_settled(context).is_pending() {
                return true;
            }
            self.pending_bytes -= pending.answer.len();
            match pending.waiting.outcome(0) {
                Some(Outcome::Durable) => respond(pending.id, &pending.answer, out),
                Some(Outcome::Lost) | None => respond_error(pending.id, pending.failure.clone(), out),
            }
            false
        });
        if self.pending.len() < before { Poll::Ready(()) } else { Poll::Pending }
    }

    fn give_up_late(&mut self, out: &mut Vec<u8>) {
        let now = Instant::now();
        self.pending.retain(|pending| {
            let is_late = now >= pending.deadline;
            if is_late {
                self.pending_bytes -= pending.answer.len();
                respond_error(pending.id, pending.failure.clone(), out);
            }
            !is_late
        });
    }
}

fn respond(id: u64, answer: &[u8], out: &mut Vec<u8>) {
    out.push(b':');
    push_number(id, out);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(answer);
}

fn respond_error(id: u64, error: ErrorReply, out: &mut Vec<u8>) {
    let mut answer = Vec::new();
    Response::Error(error).encode(Encoding::Array, &mut answer);
    respond(id, &answer, out);
}
