//! One connection to a node: requests of clients, and what it becomes when another node opens it.

use std::io;

use engine::node::Turn;
use engine::record::Record;
use engine::slot::{Answer, Refusal, Written};
use engine::time::Timestamp;
use engine::waiting::Waiting;
use net::connection::{Body, Connection, Ended, Flow, Session};
use net::shutdown::Shutdown;
use proto::cluster_map::Promises;
use proto::error::ErrorReply;
use proto::frame::{self, Encoding, Frame};
use proto::id::{Incarnation, NodeAddr};
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, Hello, KeyRequest, LinkKind, Read, Wanted, Write};
use proto::request::{NodeRequest, split_replicas_word};
use proto::response::{Response, is_line};
use proto::slot::SlotId;
use tokio::net::TcpStream;

use crate::answering;
use crate::driver::Driver;
use crate::replication;
use crate::routing::{self, Kept};
use crate::serve_forwards;
use crate::store::{Figures, Health};

/// Values from this size on are sent from where they are stored; shorter ones are copied among the other answers.
const BODY_BYTES: usize = 32 * 1024;

/// How much of requests is kept for other nodes before they are sent.
const KEPT_BYTES: usize = 1024 * 1024;

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, driver: Driver, original_framing: bool, shutdown: Shutdown) {
    let mut connection = Connection::new(stream);
    if let Err(error) = run(&mut connection, &driver, original_framing, &shutdown).await {
        tracing::debug!("a connection ended: {error}");
    }
}

async fn run(
    connection: &mut Connection,
    driver: &Driver,
    original_framing: bool,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let mut client = ClientSession::new(driver);
    if connection.serve(&mut client, original_framing, shutdown).await? == Ended::Closed {
        return Ok(());
    }
    match client.upgrade {
        Some((LinkKind::Replication, from)) => replication::receive(connection, driver, from, shutdown).await,
        Some((LinkKind::Forward, _)) => serve_forwards::serve(connection, driver, shutdown).await,
        None => Ok(()),
    }
}

/// The requests of a client.
struct ClientSession<'a> {
    driver: &'a Driver,
    turn: Turn,
    /// What this connection has asked for; until then the cluster's levels count.
    ack: Option<AckLevel>,
    read: Option<ReadLevel>,
    /// What was looked up for the present batch of requests.
    batch: Option<Batch>,
    /// Requests that cannot be answered here and now, with the answers that wait behind them.
    kept: Vec<Kept>,
    kept_bytes: usize,
    /// How many of them have not been carried out.
    kept_whole: usize,
    /// The waits of the requests that are carried out and not yet durable.
    waiting: Waiting,
    body: Option<Body>,
    upgrade: Option<(LinkKind, Incarnation)>,
    /// Something was carried out of which nobody may hear before it is on disk.
    must_persist: bool,
}

/// What all requests that have arrived together share: looking it up costs as much as a request.
#[derive(Debug, Clone, Copy)]
struct Batch {
    now: Timestamp,
    promises: Promises,
}

/// Writes what stands before a value, where the value is long enough to be sent from where it is, and can be as it is.
fn begin_body(record: &Record, encoding: Encoding, out: &mut Vec<u8>) -> Option<Body> {
    let value = record.value().filter(|value| value.len() >= BODY_BYTES)?;
    let end: &[u8] = match encoding {
        Encoding::Array => {
            out.push(b'$');
            frame::push_number(value.len() as u64, out);
            out.extend_from_slice(b"\r\n");
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

/// Answers a read: the value at once, or the start of a long one.
fn answer_read(
    driver: &Driver,
    record: Option<&Record>,
    wanted: Wanted,
    encoding: Encoding,
    out: &mut Vec<u8>,
) -> Option<Body> {
    let body = record.filter(|_| wanted == Wanted::Value).and_then(|record| begin_body(record, encoding, out));
    if body.is_none() {
        answering::found(record, wanted, || driver.wall()).encode(encoding, out);
    }
    body
}

impl<'a> ClientSession<'a> {
    fn new(driver: &'a Driver) -> Self {
        Self {
            driver,
            turn: Turn::default(),
            ack: None,
            read: None,
            batch: None,
            kept: Vec::new(),
            kept_bytes: 0,
            kept_whole: 0,
            waiting: Waiting::new(),
            body: None,
            upgrade: None,
            must_persist: false,
        }
    }

    /// Executes a request for a key, or keeps it where that is not possible here and now.
    fn key_request(&mut self, request: KeyRequest<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let slot = self.driver.node().slot_of(request.key());
        if self.kept_whole > 0 && self.kept.iter().any(|kept| kept.slot == slot && !kept.is_carried_out()) {
            return Flow::Settle; // One client's requests for one key are carried out in their order.
        }
        if self.kept_bytes > KEPT_BYTES {
            return Flow::Settle;
        }
        self.must_persist |= matches!(&request, KeyRequest::Read(read) if read.level == ReadLevel::Linear);
        match request {
            KeyRequest::Read(read) => self.read_request(slot, read, encoding, out),
            KeyRequest::Write(write) => self.write_request(slot, write, encoding, out),
        }
    }

    fn read_request(&mut self, slot: SlotId, read: Read<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let Self { driver, kept, waiting, body, turn, .. } = self;
        let node = driver.node();
        let clock = || driver.clock().now();
        if read.level == ReadLevel::Local {
            let out = kept.last_mut().map_or(out, |last| &mut last.after);
            let answer = |record: Option<&Record>| *body = answer_read(driver, record, read.wanted, encoding, out);
            match node.read(slot, read.key, read.level, clock, waiting, turn, answer) {
                Ok(_) if self.body.is_some() && !self.kept.is_empty() => self.body_behind_kept(),
                Ok(_) if self.body.is_some() => Flow::Body,
                Ok(_) => Flow::Next,
                Err(_) => self.keep(Kept::new(slot, KeyRequest::Read(read), encoding)),
            }
        } else {
            let mut bytes = Vec::new();
            let answer = |record: Option<&Record>| {
                answering::found(record, read.wanted, || driver.wall()).encode(encoding, &mut bytes);
            };
            match node.read(slot, read.key, read.level, clock, waiting, turn, answer) {
                Ok(Answer { ticket: None, .. }) => {
                    kept.last_mut().map_or(out, |last| &mut last.after).append(&mut bytes);
                    Flow::Next
                }
                Ok(Answer { ticket: Some(ticket), .. }) => {
                    self.keep(Kept::carried_out(slot, KeyRequest::Read(read), encoding, ticket, bytes))
                }
                Err(_) => self.keep(Kept::new(slot, KeyRequest::Read(read), encoding)),
            }
        }
    }

    fn write_request(&mut self, slot: SlotId, write: Write<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        if !self.driver.takes_writes() && self.driver.node().leads(slot) {
            let out = self.kept.last_mut().map_or(out, |last| &mut last.after);
            Response::Error(answering::disk_full()).encode(encoding, out);
            return Flow::Next;
        }
        self.must_persist = true;
        let now = self.batch().now;
        let written = self.driver.node().write(now, slot, &write, &self.waiting, &mut self.turn);
        let out = self.kept.last_mut().map_or(out, |last| &mut last.after);
        match written {
            // By far the most common.
            Ok(Answer { answer: Written::Done(_), ticket: None })
                if write.expected.is_none() && !write.change.is_counted() =>
            {
                Response::Ok.encode(encoding, out);
                Flow::Next
            }
            Ok(Answer { answer, ticket: None }) => {
                answering::written(answer, &write).encode(encoding, out);
                Flow::Next
            }
            Ok(Answer { answer, ticket: Some(ticket) }) => {
                let mut bytes = Vec::new();
                answering::written(answer, &write).encode(encoding, &mut bytes);
                self.keep(Kept::carried_out(slot, KeyRequest::Write(write), encoding, ticket, bytes))
            }
            Err(Refusal::NotHere) => self.keep(Kept::new(slot, KeyRequest::Write(write), encoding)),
            Err(refusal) => {
                Response::Error(answering::refused(refusal)).encode(encoding, out);
                Flow::Next
            }
        }
    }

    fn keep(&mut self, kept: Kept) -> Flow {
        self.kept_bytes += kept.size();
        self.kept_whole += usize::from(!kept.is_carried_out());
        self.kept.push(kept);
        Flow::Next
    }

    fn batch(&mut self) -> Batch {
        let driver = self.driver;
        *self.batch.get_or_insert_with(|| Batch { now: driver.clock().now(), promises: driver.promises() })
    }

    /// The level of this connection's writes.
    fn ack(&mut self) -> AckLevel {
        self.ack.unwrap_or_else(|| self.batch().promises.ack)
    }

    /// The level of this connection's reads.
    fn read(&mut self) -> ReadLevel {
        self.read.unwrap_or_else(|| self.batch().promises.read)
    }

    /// A long value behind requests that have no answer yet is copied: it cannot be sent from where it is.
    fn body_behind_kept(&mut self) -> Flow {
        if let (Some(body), Some(last)) = (self.body.take(), self.kept.last_mut()) {
            last.after.extend_from_slice(body.bytes());
            self.kept_bytes += body.bytes().len();
            last.after.extend_from_slice(body.end);
        }
        Flow::Next
    }

    fn info(&self) -> Response<'static> {
        let node = self.driver.node();
        let (lag, map) = (node.lag(), node.map().map_or(0, |map| map.version.0));
        Response::Text(format!(
            "OK Node {} keys={} slots_led={} lag={} lag_bytes={} incarnation={} map={map} losses={} tail_bytes={} {}",
            self.driver.addr(),
            node.keys(),
            node.slots_led(),
            lag.items,
            lag.bytes,
            node.incarnation(),
            node.losses(engine::losses::Losses::count),
            node.tail_bytes(),
            self.storage(),
        ))
    }

    fn storage(&self) -> String {
        let Some(store) = self.driver.store() else { return "storage=memory".to_owned() };
        let (figures, health) = (store.figures(), store.health());
        let disk = match health {
            Health::Good => "good",
            Health::Full => "full",
            Health::Failed(_) => "failed",
        };
        let Figures { log_bytes, snapshots } = figures;
        format!("storage=disk fsync={} disk={disk} log_bytes={log_bytes} snapshots={snapshots}", store.fsync())
    }

    /// Another node opens a connection of the cluster.
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
        // What is passed on is a client's request, whoever passes it on; and a node that stops passes on what it still has
        // when the map no longer names it.
        let must_be_known = hello.kind == LinkKind::Replication;
        if must_be_known && map.member(hello.from).is_none_or(|member| member.addr != hello.from_addr) {
            return refused(format!("this node knows no incarnation {} at {}", hello.from, hello.from_addr));
        }
        self.upgrade = Some((hello.kind, hello.from));
        Ok(())
    }
}

impl Session for ClientSession<'_> {
    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        let encoding = frame.encoding();
        let (response, flow) = match NodeRequest::parse(frame) {
            Ok(NodeRequest::Read(read)) => {
                let level = self.read();
                return self.key_request(KeyRequest::Read(Read { level, ..read }), encoding, out);
            }
            Ok(NodeRequest::PutLine { key, value }) => {
                let is_node = |addr: &NodeAddr| self.driver.node().map().is_some_and(|map| map.is_node(addr));
                let put = Write::new(key, Change::Put(split_replicas_word(value, is_node)));
                let ack = self.ack();
                return self.key_request(KeyRequest::Write(Write { ack, ..put }), encoding, out);
            }
            Ok(NodeRequest::Write(write)) => {
                let ack = self.ack();
                return self.key_request(KeyRequest::Write(Write { ack, ..write }), encoding, out);
            }
            Ok(NodeRequest::Ack(level)) => {
                self.ack = Some(level);
                (Response::Ok, Flow::Next)
            }
            Ok(NodeRequest::ReadLevel(level)) => {
                self.read = Some(level);
                (Response::Ok, Flow::Next)
            }
            Ok(NodeRequest::Losses) => (self.driver.node().losses(answering::losses), Flow::Next),
            Ok(NodeRequest::Info) => (self.info(), Flow::Next),
            Ok(NodeRequest::Ping) => (Response::Pong, Flow::Next),
            Ok(NodeRequest::Quit) => (Response::Ok, Flow::Close),
            Ok(NodeRequest::Peer(words)) => match self.hello(words.0) {
                Ok(()) => (Response::Ok, Flow::Upgrade),
                Err(error) => (Response::Error(error), Flow::Next),
            },
            Err(error) => (Response::Error(error), Flow::Next),
        };
        response.encode(encoding, self.kept.last_mut().map_or(out, |last| &mut last.after));
        flow
    }

    async fn settle(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        self.batch = None;
        if !self.kept.is_empty() {
            (self.kept_bytes, self.kept_whole) = (0, 0);
            // What this batch has written here must not wait for what other nodes answer.
            self.answered();
            routing::answer_all(self.driver, std::mem::take(&mut self.kept), &mut self.waiting, out).await;
        }
        if std::mem::take(&mut self.must_persist) {
            // What cannot be kept is not answered: the connection ends, and the client knows that the outcome is unknown.
            let persisted = tokio::time::timeout(self.driver.request_timeout(), self.driver.persist());
            persisted.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn take_body(&mut self) -> Option<Body> {
        self.body.take()
    }

    fn answered(&mut self) {
        self.driver.wake_touched(&mut self.turn);
    }
}
