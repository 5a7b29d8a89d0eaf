//! One inbound connection: client requests, and what the connection becomes when another node opened it.

mod gather;
mod last;
mod many;

use std::io;
use std::sync::Arc;

use engine::node::Turn;
use engine::record::Record;
use engine::slot::{Executed, Refusal, Written};
use engine::time::Timestamp;
use net::connection::{Body, Connection, Ended, Flow, STRETCH, Session};
use net::gate;
use net::shutdown::Shutdown;
use proto::cluster_map::ClusterSettings;
use proto::error::ErrorReply;
use proto::frame::{self, Encoding, Frame, Frames};
use proto::id::NodeAddr;
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, Detail, Hello, KeyRequest, LinkKind, Read, Wanted, Write};
use proto::request::{NodeRequest, ServerCommand, split_replicas_word};
use proto::response::{Response, is_line};
use proto::slot::SlotId;
use tokio::net::TcpStream;

use crate::answering;
use crate::clients::Clients;
use crate::driver::Driver;
use crate::first_map::FirstMap;
use crate::from_node::{self, Upgrade};
use crate::gate::Unauthenticated;
use crate::routing::{self, DeferredBatch, Waits};
use crate::server_commands::{CommandOutcome, Front};
use crate::slots_ahead::SlotsAhead;
use crate::stats::{self, NotAnswered};
use crate::wait::{DeferredWait, WrittenSlots};
use crate::walks::DeferredWalk;

use gather::Gather;
use last::Last;
use many::{Begun, Kind};

/// Values of at least this size are sent from where they are stored; shorter ones are copied into the output buffer.
const BODY_BYTES: usize = 32 * 1024;

/// Once the answers to deferred requests reach this size, they are written out before more are produced.
const SETTLED_BYTES: usize = 256 * 1024;

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, driver: Driver, clients: Arc<Clients>, shutdown: Shutdown) {
    let mut connection = Connection::new(stream);
    let served = match serve_client(&mut connection, &driver, &clients, &shutdown).await {
        Ok(Some(upgrade)) => from_node::serve(connection, upgrade, driver, shutdown).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::debug!("a connection ended: {error}");
    }
}

/// Serves a client, until the connection ends or turns out to be a node's.
async fn serve_client(
    connection: &mut Connection,
    driver: &Driver,
    clients: &Arc<Clients>,
    shutdown: &Shutdown,
) -> io::Result<Option<Upgrade>> {
    let listed = clients.list(&connection.stream, driver.clock().now());
    let mut front = Front::new(clients, listed);
    loop {
        if !front.is_admitted() {
            let mut unauthenticated = Unauthenticated { driver, front };
            if !gate::pass(connection, &mut unauthenticated, &clients.shared, shutdown).await? {
                return Ok(None);
            }
            front = unauthenticated.front;
        }
        let mut client = ClientSession::new(driver, front, shutdown);
        if connection.serve(&mut client, &clients.shared, shutdown).await? == Ended::Closed {
            return Ok(None);
        }
        match client.upgrade {
            // It is no longer a client.
            Some(upgrade) => return Ok(Some(upgrade)),
            // It has sent RESET and must authenticate again.
            None => front = client.front,
        }
    }
}

/// The requests of a client.
struct ClientSession<'a> {
    driver: &'a Driver,
    /// Begins when connections are to end.
    shutdown: &'a Shutdown,
    front: Front,
    /// The slots it has written to, for `WAIT`.
    written: WrittenSlots,
    turn: Turn,
    /// The levels that this connection has asked for; until then the cluster's defaults apply.
    ack: Option<AckLevel>,
    read: Option<ReadLevel>,
    /// Values looked up once for the current batch of requests.
    batch: Option<Batch>,
    /// Requests that cannot be answered locally right away, and the answers queued behind them.
    deferred: DeferredBatch,
    /// Tickets of requests that are carried out but not yet durable.
    waits: Waits,
    unanswered: NotAnswered,
    /// A request to be answered after all deferred ones, and before the next is looked at.
    last: Option<(Last, Encoding)>,
    /// A multi-key request with a single answer, as far as it has been gathered.
    gather: Option<Gather>,
    /// A multi-key request of which some keys have been executed; the others wait until earlier requests are answered.
    begun: Option<Begun>,
    body: Option<Body>,
    first_map: FirstMap,
    upgrade: Option<Upgrade>,
    /// Something was carried out that nobody may learn of before it is on disk.
    must_persist: bool,
    /// This batch has taken so long that others come first.
    must_rest: bool,
    /// How many long pauses of the process the connection has seen.
    pauses_seen: u64,
    /// Slots of upcoming keys, already looked up.
    slots_ahead: SlotsAhead,
}

/// Values shared by all requests that arrived together: looking them up costs as much as a request.
#[derive(Debug, Clone, Copy)]
struct Batch {
    now: Timestamp,
    cluster_settings: ClusterSettings,
    takes_writes: bool,
    /// The process stood still for long, perhaps after these requests arrived.
    is_outdated: bool,
    knows_settings: bool,
}

/// Writes the header of a value that is long enough to be sent from where it is stored and can be sent unchanged.
fn begin_body(record: &Record, encoding: Encoding, out: &mut Vec<u8>) -> Option<Body> {
    // Records are seldom so large, and their size is at hand.
    if record.size() < BODY_BYTES {
        return None;
    }
    let value = record.value().filter(|value| value.len() >= BODY_BYTES)?;
    let end: &[u8] = match encoding {
        Encoding::Array | Encoding::Resp3 => {
            frame::begin_bulk(value.len(), out);
            b"\r\n"
        }
        Encoding::Line if is_line(value) => {
            out.extend_from_slice(b"VALUE ");
            b"\n"
        }
        Encoding::Line => return None,
    };
    Some(Body { record: record.clone(), end })
}

/// Answers a read: writes the value, or the header of a long one.
fn answer_read(
    driver: &Driver,
    record: Option<&Record>,
    wanted: Wanted,
    encoding: Encoding,
    out: &mut Vec<u8>,
) -> Option<Body> {
    let body = record.filter(|_| wanted == Wanted::Value).and_then(|record| begin_body(record, encoding, out));
    if body.is_some() {
        return body;
    }
    match (wanted, encoding, record.and_then(Record::value)) {
        // By far the most common case.
        (Wanted::Value, Encoding::Array | Encoding::Resp3, Some(value)) => frame::push_word(value, out),
        _ => answering::found(record, wanted, || driver.wall()).encode(encoding, out),
    }
    None
}

impl<'a> ClientSession<'a> {
    fn new(driver: &'a Driver, front: Front, shutdown: &'a Shutdown) -> Self {
        Self {
            driver,
            shutdown,
            front,
            written: WrittenSlots::new(driver),
            turn: Turn::default(),
            ack: None,
            read: None,
            batch: None,
            deferred: DeferredBatch::default(),
            waits: Waits::default(),
            unanswered: NotAnswered::default(),
            last: None,
            gather: None,
            begun: None,
            body: None,
            first_map: FirstMap::default(),
            upgrade: None,
            must_persist: false,
            must_rest: false,
            pauses_seen: driver.awake().seen_by_new_connection(driver.clock().now()),
            slots_ahead: SlotsAhead::default(),
        }
    }

    fn execute(&mut self, request: NodeRequest<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let (response, flow) = match request {
            NodeRequest::Read(read) => {
                let level = self.read();
                return self.key_request(&KeyRequest::Read(Read { level, ..read }), encoding, out);
            }
            NodeRequest::PutLine { key, value } => {
                let is_node = |addr: &NodeAddr| self.driver.node().map().is_some_and(|map| map.is_node(addr));
                let put = Write::new(key, Change::Put(split_replicas_word(value, is_node)));
                let ack = self.ack();
                return self.key_request(&KeyRequest::Write(Write { ack, ..put }), encoding, out);
            }
            NodeRequest::Write(write) => {
                let ack = self.ack();
                return self.key_request(&KeyRequest::Write(Write { ack, ..write }), encoding, out);
            }
            NodeRequest::Page(page) => {
                let level = self.read();
                return self.answer_last(Last::Walk(DeferredWalk::page(page, level)), encoding);
            }
            NodeRequest::Count(prefix) => {
                let level = self.read();
                return self.answer_last(Last::Walk(DeferredWalk::count(prefix, level)), encoding);
            }
            NodeRequest::GetMany(keys) => return self.begin_many(Kind::Get, keys, encoding, out),
            NodeRequest::PutMany(words) => return self.begin_many(Kind::Put, words, encoding, out),
            NodeRequest::Keyspace(request) => return self.keyspace(request, encoding, out),
            NodeRequest::Ack(level) => {
                self.ack = Some(level);
                (Response::Ok, Flow::Next)
            }
            NodeRequest::ReadLevel(level) => {
                self.read = Some(level);
                (Response::Ok, Flow::Next)
            }
            NodeRequest::Losses => (self.driver.node().losses(answering::losses), self.rest_if_late()),
            NodeRequest::Info => (stats::info(self.driver), self.rest_if_late()),
            NodeRequest::Stats => (stats::stats(self.driver, self.front.clients()), self.rest_if_late()),
            NodeRequest::Verify => return self.answer_last(Last::Verify, encoding),
            NodeRequest::Ping => (Response::Pong, Flow::Next),
            NodeRequest::Quit => (Response::Ok, Flow::Close),
            NodeRequest::Server(command) => return self.server(command, encoding, out),
            NodeRequest::Peer(words) => match self.hello(words.0) {
                Ok(()) => (Response::Ok, Flow::Upgrade),
                Err(error) => (Response::Error(error), Flow::Next),
            },
        };
        response.encode(encoding, self.deferred.place(out));
        flow
    }

    /// Executes a request for a key, or defers it if it cannot be executed locally right away.
    fn key_request(&mut self, request: &KeyRequest<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let slot = self.slots_ahead.take(request.key()).unwrap_or_else(|| self.driver.node().slot_of(request.key()));
        // One client's requests for one key are carried out in order.
        if self.deferred.blocks(slot) { Flow::Settle } else { self.request_in_slot(slot, request, encoding, out) }
    }

    /// The same for a request that may be carried out before others which are deferred.
    fn request_in_slot(
        &mut self,
        slot: SlotId,
        request: &KeyRequest<'_>,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) -> Flow {
        if self.deferred.is_full() {
            return Flow::Settle;
        }
        let now = self.batch().now;
        self.unanswered.add(now, stats::kind(request));
        match request {
            KeyRequest::Read(read) => self.read_request(slot, read, encoding, out),
            KeyRequest::Write(write) => self.write_request(slot, write, encoding, out),
        }
    }

    fn read_request(&mut self, slot: SlotId, read: &Read<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let Self { driver, deferred, waits, body, turn, must_persist, .. } = self;
        if read.wanted == Wanted::Detail(Detail::Idle) {
            // Only the primary knows it, and only roughly.
            let read = Read { level: ReadLevel::Local, ..*read };
            deferred.defer(slot, KeyRequest::Read(read), encoding);
            return Flow::Next;
        }
        let (node, waiting) = (driver.node(), &waits.waiting);
        let clock = || driver.clock().now();
        let mut answer = |record: Option<&Record>, deferred: &mut DeferredBatch| {
            *body = answer_read(driver, record, read.wanted, encoding, deferred.place(out));
        };
        if read.level == ReadLevel::Local {
            let take = |record: Option<&Record>| answer(record, deferred);
            if node.read(slot, read.key, read.level, clock, waiting, turn, take).is_err() {
                deferred.defer(slot, KeyRequest::Read(*read), encoding);
            }
        } else {
            // Encoded after the slot is unlocked: it may be long.
            let mut found = None;
            let take = |record: Option<&Record>| found = record.cloned();
            let done = node.read(slot, read.key, read.level, clock, waiting, turn, take);
            // What a linear read shows must be persisted first.
            *must_persist |= done.is_ok();
            match done {
                Ok(Executed { ticket: None, .. }) => answer(found.as_ref(), deferred),
                Ok(Executed { ticket: Some(ticket), .. }) => {
                    let found = |out: &mut Vec<u8>| {
                        answering::found(found.as_ref(), read.wanted, || driver.wall()).encode(encoding, out);
                    };
                    deferred.defer_carried_out(slot, KeyRequest::Read(*read), encoding, ticket, found);
                }
                Err(_) => deferred.defer(slot, KeyRequest::Read(*read), encoding),
            }
        }
        match &self.body {
            Some(_) if self.deferred.is_empty() => Flow::Body,
            Some(_) => self.body_behind_kept(),
            None => Flow::Next,
        }
    }

    fn write_request(&mut self, slot: SlotId, write: &Write<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        if !self.batch().takes_writes
            && let Some(refusal) = self.driver.disk_refusal(slot)
        {
            Response::Error(refusal).encode(encoding, self.deferred.place(out));
            return Flow::Next;
        }
        self.written.add(slot, write.ack);
        let now = self.batch().now;
        let written = self.driver.node().write(now, slot, write, &self.waits.waiting, &mut self.turn);
        self.must_persist |= !matches!(written, Err(Refusal::NotHere));
        match written {
            // By far the most common case.
            Ok(Executed { answer: Written::Done(_), ticket: None })
                if write.expected.is_none() && !write.change.is_counted() =>
            {
                Response::Ok.encode(encoding, self.deferred.place(out));
            }
            Ok(Executed { answer, ticket: None }) => {
                answering::written(&answer, write).encode(encoding, self.deferred.place(out));
            }
            Ok(Executed { answer, ticket: Some(ticket) }) => {
                let encode = |out: &mut Vec<u8>| answering::written(&answer, write).encode(encoding, out);
                self.deferred.defer_carried_out(slot, KeyRequest::Write(*write), encoding, ticket, encode);
            }
            Err(Refusal::NotHere) => self.deferred.defer(slot, KeyRequest::Write(*write), encoding),
            Err(refusal) => {
                let error = answering::refused(refusal, self.driver);
                Response::Error(error).encode(encoding, self.deferred.place(out));
            }
        }
        // A short request may rewrite a long value.
        if write.change.reads_first() {
            self.rest_if_late();
        }
        Flow::Next
    }

    /// Notes whether this batch has taken so long that others come first.
    fn rest_if_late(&mut self) -> Flow {
        self.must_rest |= self.driver.clock().now() - self.batch().now >= STRETCH;
        Flow::Next
    }

    /// Executes a RESP command about the connection or the server.
    fn server(&mut self, command: ServerCommand<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let now = self.batch().now;
        match self.front.execute(self.driver, now, command, encoding, self.deferred.place(out)) {
            CommandOutcome::Answered(Flow::Next) => self.rest_if_late(),
            CommandOutcome::Answered(flow) => flow,
            CommandOutcome::Admitted | CommandOutcome::WrongPassword => Flow::Next,
            CommandOutcome::Reset => {
                (self.ack, self.read) = (None, None);
                if self.front.is_admitted() { Flow::Next } else { Flow::Upgrade }
            }
            CommandOutcome::Count => {
                let level = self.read();
                self.answer_last(Last::Walk(DeferredWalk::count(b"", level)), encoding)
            }
            CommandOutcome::Wait { replicas, millis } => {
                self.answer_last(Last::Wait(DeferredWait { replicas, millis }), encoding)
            }
        }
    }

    /// Defers a request, to be answered after everything that is deferred.
    fn answer_last(&mut self, request: Last, encoding: Encoding) -> Flow {
        self.last = Some((request, encoding));
        Flow::Next
    }

    fn batch(&mut self) -> Batch {
        self.batch.unwrap_or_else(|| self.begin_batch())
    }

    #[inline(never)]
    fn begin_batch(&mut self) -> Batch {
        let (driver, now) = (self.driver, self.driver.clock().now());
        *self.batch.insert(Batch {
            now,
            cluster_settings: driver.cluster_settings(),
            takes_writes: driver.takes_writes(),
            is_outdated: driver.awake().has_paused_since(self.pauses_seen, now),
            knows_settings: driver.knows_settings(),
        })
    }

    /// The acknowledgement level of this connection's writes.
    fn ack(&mut self) -> AckLevel {
        self.ack.unwrap_or_else(|| self.batch().cluster_settings.ack)
    }

    /// The level of this connection's reads.
    fn read(&mut self) -> ReadLevel {
        self.read.unwrap_or_else(|| self.batch().cluster_settings.read)
    }

    /// Copies a long value behind requests that have no answer yet: it cannot be sent from where it is.
    fn body_behind_kept(&mut self) -> Flow {
        if let Some(body) = self.body.take() {
            self.deferred.add_answer(body.bytes());
            self.deferred.add_answer(body.end);
        }
        Flow::Next
    }

    /// What cannot be persisted is not answered: the connection ends, so the client knows that the outcome is unknown.
    async fn persisted(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.must_persist) { self.waits.persisted(self.driver).await } else { Ok(()) }
    }

    /// Handles another node's request to open a cluster connection.
    fn hello(&mut self, words: proto::frame::Words<'_>) -> Result<(), ErrorReply> {
        let hello = Hello::parse(words)?;
        let node = self.driver.node();
        let map = node.map().ok_or_else(|| ErrorReply::NotPeer("this node has no map yet; try again".to_owned()))?;
        let refused = |why: String| Err(ErrorReply::NotPeer(why));
        if hello.cluster != map.cluster {
            return refused(format!("this node belongs to cluster {}, not {}", map.cluster, hello.cluster));
        }
        if hello.to != node.incarnation() {
            return refused(format!("this node is incarnation {}, not {}", node.incarnation(), hello.to));
        }
        // A forwarded request is a client's request, whoever forwards it; and a stopping node still forwards what it
        // has when the map no longer names it.
        let must_be_known = hello.kind == LinkKind::Replication;
        if must_be_known && map.member(hello.from).is_none_or(|member| member.addr != hello.from_addr) {
            return refused(format!("this node knows no incarnation {} at {}", hello.from, hello.from_addr));
        }
        self.upgrade = Some(Upgrade { kind: hello.kind, from: hello.from });
        Ok(())
    }
}

impl Session for ClientSession<'_> {
    fn look_ahead(&mut self, frames: Frames<'_>) {
        self.slots_ahead.prefetch(self.driver.node(), frames);
    }

    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        if self.batch().is_outdated {
            return Flow::Close;
        }
        let Some(encoding) = self.front.encoding(frame) else { return Flow::Next };
        if self.must_rest || self.is_half_settled() || self.deferred.is_full() {
            return Flow::Settle;
        }
        if let Some(begun) = self.begun.take() {
            return self.go_on_with_many(begun, frame, encoding, out);
        }
        if let Some(refusal) = self.front.refuse_in_transaction(frame) {
            refusal.encode(encoding, self.deferred.place(out));
            return Flow::Next;
        }
        match NodeRequest::parse(frame) {
            Ok(request) if !self.batch().knows_settings && FirstMap::is_needed_for(&request, self.ack, self.read) => {
                let Some(error) = self.first_map.is_missed(self.driver) else { return Flow::Settle };
                Response::Error(error).encode(encoding, self.deferred.place(out));
                Flow::Next
            }
            Ok(request) => self.execute(request, encoding, out),
            Err(error) => {
                self.front.note_multi(frame, encoding);
                let flow = Flow::after(&error);
                Response::Error(error).encode(encoding, self.deferred.place(out));
                flow
            }
        }
    }

    async fn settle(&mut self, client: &TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
        if std::mem::take(&mut self.must_rest) {
            self.driver.wake_touched(&mut self.turn);
            tokio::task::yield_now().await;
        }
        if let Some(batch) = self.batch.take() {
            self.front.client().heard(batch.now, None);
        }
        self.slots_ahead.forget();
        if !self.deferred.is_empty() {
            // Records that this batch has written here must not wait for other nodes' answers.
            self.driver.wake_touched(&mut self.turn);
            // Gathered answers are short, and not written out yet.
            let (out, most) = match &mut self.gather {
                Some(gather) => (&mut gather.answers, usize::MAX),
                None => (&mut *out, SETTLED_BYTES),
            };
            routing::answer_all(self.driver, &self.deferred, &mut self.waits, most, out).await;
            if self.waits.is_half_answered() {
                return self.persisted().await;
            }
            self.deferred.clear();
        }
        // It may take long, so the answers before it are sent first.
        if let Some((last, encoding)) = self.last.take_if(|_| out.is_empty()) {
            self.driver.wake_touched(&mut self.turn);
            if last.is_walk() {
                self.unanswered.add(self.driver.clock().now(), stats::WALK);
            }
            // IMPORTANT: only now, since what was settled before has taken it.
            self.must_persist |= last.changes_keys();
            last.answer(self.driver, &mut self.written, client, self.shutdown, encoding, out).await;
            // A client may have sent many of these.
            tokio::task::yield_now().await;
        }
        if out.is_empty() {
            self.first_map.wait(self.driver).await;
        }
        self.persisted().await
    }

    fn is_half_settled(&self) -> bool {
        self.waits.is_half_answered() || self.last.is_some()
    }

    fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    fn take_body(&mut self) -> Option<Body> {
        self.body.take()
    }

    fn answered(&mut self) {
        self.driver.wake_touched(&mut self.turn);
        self.unanswered.answered(|| self.driver.clock().now(), self.driver.answered());
    }
}
