//! One connection to a node: requests of clients, and what it becomes when another node opens it.

use std::io;
use std::sync::Arc;

use engine::node::{NotHere, Turn};
use engine::record::Record;
use net::connection::{Body, Connection, Ended, Flow, Session};
use net::shutdown::Shutdown;
use proto::error::ErrorReply;
use proto::frame::{self, Encoding, Frame};
use proto::id::{Incarnation, NodeAddr};
use proto::peer::{Effect, Forward, Hello, KeyRequest, LinkKind};
use proto::request::{NodeRequest, split_replicas_word};
use proto::response::{Response, is_line};
use tokio::net::TcpStream;

use crate::driver::Driver;
use crate::replication;
use crate::routing::{self, Kept};

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
        Some((LinkKind::Forward, _)) => {
            let mut peer = ForwardSession { driver, turn: Turn::default(), body: None };
            connection.serve(&mut peer, false, shutdown).await.map(|_| ())
        }
        None => Ok(()),
    }
}

/// The requests of a client.
struct ClientSession<'a> {
    driver: &'a Driver,
    turn: Turn,
    /// Requests that cannot be answered here and now, with the answers that wait behind them.
    kept: Vec<Kept>,
    kept_bytes: usize,
    body: Option<Body>,
    upgrade: Option<(LinkKind, Incarnation)>,
}

/// Writes what stands before a value, where the value is long enough to be sent from where it is, and can be as it is.
fn begin_body(record: &Arc<Record>, encoding: Encoding, out: &mut Vec<u8>) -> Option<Body> {
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
    Some(Body { record: Arc::clone(record), end })
}

/// Answers a read: the value at once, or the start of a long one.
fn answer_read(record: Option<&Arc<Record>>, encoding: Encoding, out: &mut Vec<u8>) -> Option<Body> {
    let Some(record) = record else {
        Response::NotFound.encode(encoding, out);
        return None;
    };
    let body = begin_body(record, encoding, out);
    if body.is_none() {
        record.value().map_or(Response::NotFound, Response::Value).encode(encoding, out);
    }
    body
}

impl<'a> ClientSession<'a> {
    fn new(driver: &'a Driver) -> Self {
        Self { driver, turn: Turn::default(), kept: Vec::new(), kept_bytes: 0, body: None, upgrade: None }
    }

    /// Executes a request for a key, or keeps it where that is not possible here and now.
    fn key_request(&mut self, request: KeyRequest<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let node = self.driver.node();
        let slot = node.slot_of(request.key());
        if self.kept.iter().any(|kept| kept.slot == slot) {
            return Flow::Settle; // One client's requests for one key are carried out in their order.
        }
        if self.kept_bytes > KEPT_BYTES {
            return Flow::Settle;
        }
        let out = self.kept.last_mut().map_or(out, |last| &mut last.after);
        let done = match request {
            KeyRequest::Get { key } => {
                let body = &mut self.body;
                node.read(slot, key, |record| *body = answer_read(record, encoding, out))
            }
            KeyRequest::Write { key, effect } => node.write(slot, key, effect, &mut self.turn).map(|()| {
                Response::Ok.encode(encoding, out);
            }),
        };
        match done {
            Ok(()) if self.body.is_some() && !self.kept.is_empty() => self.body_behind_kept(),
            Ok(()) if self.body.is_some() => Flow::Body,
            Ok(()) => Flow::Next,
            Err(NotHere) => {
                let kept = Kept::new(slot, request, encoding);
                self.kept_bytes += kept.size();
                self.kept.push(kept);
                Flow::Next
            }
        }
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
            "OK Node {} keys={} slots_led={} lag={} lag_bytes={} incarnation={} map={map}",
            self.driver.addr(),
            node.keys(),
            node.slots_led(),
            lag.items,
            lag.bytes,
            node.incarnation(),
        ))
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
        if map.member(hello.from).is_none_or(|member| member.addr != hello.from_addr) {
            return refused(format!("this node knows no incarnation {} at {}", hello.from, hello.from_addr));
        }
        self.upgrade = Some((hello.kind, hello.from));
        Ok(())
    }
}

impl Session for ClientSession<'_> {
    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        let encoding = frame.encoding();
        let put = |key, value| KeyRequest::Write { key, effect: Effect::Put(value) };
        let (response, flow) = match NodeRequest::parse(frame) {
            Ok(NodeRequest::Get { key }) => return self.key_request(KeyRequest::Get { key }, encoding, out),
            Ok(NodeRequest::Put { key, value, encoding: Encoding::Line }) => {
                let is_node = |addr: &NodeAddr| self.driver.node().map().is_some_and(|map| map.is_node(addr));
                return self.key_request(put(key, split_replicas_word(value, is_node)), encoding, out);
            }
            // A REPLICATE has no version, so it cannot take a place in the slot's order by itself: it is a PUT.
            Ok(NodeRequest::Put { key, value, .. } | NodeRequest::Replicate { key, value }) => {
                return self.key_request(put(key, value), encoding, out);
            }
            Ok(NodeRequest::Delete { key }) => {
                return self.key_request(KeyRequest::Write { key, effect: Effect::Delete }, encoding, out);
            }
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

    async fn settle(&mut self, out: &mut Vec<u8>) {
        if !self.kept.is_empty() {
            self.kept_bytes = 0;
            // What this batch has written here must not wait for what other nodes answer.
            self.answered();
            routing::answer_all(self.driver, std::mem::take(&mut self.kept), out).await;
        }
    }

    fn take_body(&mut self) -> Option<Body> {
        self.body.take()
    }

    fn answered(&mut self) {
        self.driver.wake_touched(&mut self.turn);
    }
}

/// Requests that other nodes pass on. Each is answered at once: what this node does not lead goes back.
struct ForwardSession<'a> {
    driver: &'a Driver,
    turn: Turn,
    body: Option<Body>,
}

impl Session for ForwardSession<'_> {
    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        let encoding = frame.encoding();
        let Frame::Array(words) = frame else { return Flow::Close };
        let node = self.driver.node();
        let done = Forward::parse(words).map(|forward| {
            let slot = node.slot_of(forward.request.key());
            match forward.request {
                KeyRequest::Get { key } => {
                    let body = &mut self.body;
                    let answer = |record: Option<&Arc<Record>>| *body = answer_read(record, encoding, out);
                    if forward.at_replica { node.read_copy(slot, key, answer) } else { node.read(slot, key, answer) }
                }
                KeyRequest::Write { key, effect } => node.write(slot, key, effect, &mut self.turn).map(|()| {
                    Response::Ok.encode(encoding, out);
                }),
            }
        });
        match done {
            Ok(Ok(())) if self.body.is_some() => Flow::Body,
            Ok(Ok(())) => Flow::Next,
            Ok(Err(NotHere)) => {
                Response::Error(ErrorReply::Moved).encode(encoding, out);
                Flow::Next
            }
            Err(error) => {
                Response::Error(error).encode(encoding, out);
                Flow::Close
            }
        }
    }

    async fn settle(&mut self, _: &mut Vec<u8>) {}

    fn take_body(&mut self) -> Option<Body> {
        self.body.take()
    }

    fn answered(&mut self) {
        self.driver.wake_touched(&mut self.turn);
    }
}
