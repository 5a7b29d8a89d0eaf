//! Requests that another node forwards, on one connection for all of that node's clients. Each is answered as soon as
//! it can be: one that waits for its replicas holds up no other, and long values wait until shorter answers are sent.
//! Requests for slots that this node does not lead are returned at once.

use std::collections::VecDeque;
use std::future::{poll_fn, ready};
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use engine::node::Turn;
use engine::record::Record;
use engine::slot::{Executed, Refusal};
use engine::time::Timestamp;
use engine::waiting::{Outcome, Waiting};
use net::connection::{Connection, Flow, STRETCH, Stopped};
use net::shutdown::Shutdown;
use proto::error::ErrorReply;
use proto::frame::{self, Encoding, Frame, push_number, push_word};
use proto::level::ReadLevel;
use proto::peer::{Copies, Detail, Forward, KeyRequest, List, Read, SHORT_BYTES, Wanted, Write};
use proto::response::Response;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until};

use crate::answering;
use crate::driver::Driver;
use crate::forward::{PROBE_ID, PROBE_INTERVAL};
use crate::wait;
use crate::walks;

/// How many requests may wait on one connection. Beyond this, nothing is read from it until some are answered.
const WAITING: usize = 16_384;

/// How many bytes of answers may be waiting or unwritten. Beyond this, nothing is read either.
const ANSWER_BYTES: usize = 1024 * 1024;

/// A keepalive: an answer to no request, which shows that this node is alive.
const PROBE_ANSWER: &[u8] = b"$0\r\n\r\n";

/// How many questions for keys are answered concurrently on one connection. Beyond this, nothing is read either.
const LISTS: usize = 512;

/// A request that is carried out but not yet durable.
struct Pending {
    id: u64,
    waiting: Waiting,
    /// What to answer once it is durable.
    answer: Prepared,
    /// What to answer otherwise.
    failure: ErrorReply,
    deadline: Instant,
}

/// The answer to a request.
enum Prepared {
    /// Already encoded.
    Bytes(Vec<u8>),
    /// What a read has found. Keeping it takes no extra memory as long as the record is the key's newest.
    Found { record: Option<Record>, wanted: Wanted, is_short: bool },
}

impl Prepared {
    fn found(record: Option<&Record>, wanted: Wanted, is_short: bool) -> Self {
        Self::Found { record: record.cloned(), wanted, is_short }
    }

    /// How much memory of its own it takes, in bytes.
    fn len(&self) -> usize {
        if let Self::Bytes(bytes) = self { bytes.len() } else { 0 }
    }

    /// Whether it is probably a long value.
    fn is_long(&self) -> bool {
        match self {
            Self::Bytes(_) => false,
            Self::Found { record, is_short, .. } => {
                !is_short && record.as_ref().is_some_and(|record| record.size() > SHORT_BYTES)
            }
        }
    }

    fn respond(&self, id: u64, driver: &Driver, out: &mut Vec<u8>) {
        let (record, wanted, is_short) = match self {
            Self::Bytes(bytes) => return respond(id, bytes, out),
            Self::Found { record, wanted, is_short } => (record.as_ref(), *wanted, *is_short),
        };
        let found = answering::found(record, wanted, || driver.wall());
        let is_long = is_short && found.value().is_some_and(|value| value.len() > SHORT_BYTES);
        let answer = if is_long { Response::Error(ErrorReply::Long) } else { found };
        begin_response(id, out);
        answer.encode(Encoding::Array, out);
    }
}

/// Serves a connection until the other node ends it, breaks the protocol, or shutdown begins.
///
/// # Errors
/// The connection is broken.
pub(crate) async fn serve(connection: &mut Connection, driver: &Driver, shutdown: &Shutdown) -> io::Result<()> {
    let mut session = ForwardSession::new(driver);
    // Listing runs beside the requests for single keys, which do not wait for it.
    let mut listing = JoinSet::new();
    loop {
        let Connection { reader, output, .. } = connection;
        session.begun = driver.clock().now();
        let stopped = reader.frames(|frame| {
            if session.must_rest || session.is_full(output) { Flow::Settle } else { session.request(frame, output) }
        });
        let must_rest = std::mem::take(&mut session.must_rest);
        for list in session.lists.drain(..) {
            let driver = driver.clone();
            listing.spawn(async move { (list.id, walks::list_here(&driver, &list).await) });
        }
        session.listing = listing.len();
        session.give_up_late(&mut connection.output);
        if std::mem::take(&mut session.must_persist) {
            // The replicas get the records meanwhile, whatever becomes of this connection.
            driver.wake_touched(&mut session.turn);
            persist(connection, driver).await?;
        }
        connection.flush().await?;
        driver.finish(&mut session.turn);
        match stopped {
            Stopped::NeedsMore => {}
            Stopped::Handler(Flow::Settle) if must_rest => {
                yield_now().await;
                session.rest(connection).await?;
                continue;
            }
            Stopped::Handler(Flow::Settle) if session.is_full(&connection.output) => {}
            Stopped::Handler(Flow::Settle) => continue,
            Stopped::Handler(_) | Stopped::Bad(_) => return Ok(()),
        }
        // They are in the order of their deadlines.
        let late = session.pending.first().map(|pending| pending.deadline);
        let late = late.unwrap_or_else(|| Instant::now() + driver.request_timeout());
        let may_read = !session.is_full(&connection.output);
        let mut long = None;
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
            () = ready(()), if !session.long.is_empty() => long = session.long.pop_front(),
            () = sleep_until(late) => {}
            // Probes are not read now, so the other node gets keepalives instead.
            () = sleep(PROBE_INTERVAL), if !may_read => respond(PROBE_ID, PROBE_ANSWER, output),
            () = shutdown.begun(), if session.pending.is_empty() && session.long.is_empty() => return Ok(()),
        }
        if let Some((id, answer)) = long {
            send_long(connection, driver, id, &answer).await?;
        }
    }
}

/// Sends a long value from where it is stored, so that the other node hears of it at once.
async fn send_long(connection: &mut Connection, driver: &Driver, id: u64, answer: &Prepared) -> io::Result<()> {
    let value = match answer {
        Prepared::Found { record: Some(record), wanted: Wanted::Value, .. } => record.value(),
        _ => None,
    };
    let Some(value) = value else {
        answer.respond(id, driver, &mut connection.output);
        return Ok(());
    };
    begin_response(id, &mut connection.output);
    frame::begin_bulk(value.len(), &mut connection.output);
    connection.flush().await?;
    connection.write(value).await?;
    connection.output.extend_from_slice(b"\r\n");
    // IMPORTANT: at once, since keepalives are written ahead of the output.
    connection.flush().await
}

/// Waits until what was carried out is on disk, for at most the request timeout. Meanwhile keepalives tell the other
/// node that this one is alive.
async fn persist(connection: &Connection, driver: &Driver) -> io::Result<()> {
    let mut persisted = pin!(driver.persist());
    let deadline = Instant::now() + driver.request_timeout();
    loop {
        tokio::select! {
            done = &mut persisted => return done.map_err(io::Error::other),
            () = sleep_until(deadline) => return Err(io::ErrorKind::TimedOut.into()),
            () = sleep(PROBE_INTERVAL) => {
                let mut bytes = Vec::new();
                respond(PROBE_ID, PROBE_ANSWER, &mut bytes);
                connection.write(&bytes).await?;
            }
        }
    }
}

struct ForwardSession<'a> {
    driver: &'a Driver,
    turn: Turn,
    pending: Vec<Pending>,
    /// The size of the answers in `pending`, in bytes.
    pending_bytes: usize,
    /// Long values, and the requests that they answer. They are sent one by one.
    long: VecDeque<(u64, Prepared)>,
    /// Questions for keys that are yet to be started, and how many are in progress.
    lists: Vec<List>,
    listing: usize,
    /// When the requests that arrived together began to be carried out, and whether that has taken so long that others
    /// come first.
    begun: Timestamp,
    must_rest: bool,
    /// Something was carried out that nobody may learn of before it is on disk.
    must_persist: bool,
}

impl<'a> ForwardSession<'a> {
    fn new(driver: &'a Driver) -> Self {
        Self {
            driver,
            turn: Turn::default(),
            pending: Vec::new(),
            pending_bytes: 0,
            long: VecDeque::new(),
            lists: Vec::new(),
            listing: 0,
            begun: Timestamp::default(),
            must_rest: false,
            must_persist: false,
        }
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
        let node = self.driver.node();
        let slot = node.slot_of(read.key);
        let waiting = Waiting::new();
        let mut answer = Prepared::Bytes(Vec::new());
        let take = |record: Option<&Record>| answer = Prepared::found(record, read.wanted, is_short);
        let clock = || self.driver.clock().now();
        let done = if read.wanted == Wanted::Detail(Detail::Idle) && !at_replica {
            node.idle(slot, read.key, clock()).map(|idle| {
                let mut bytes = Vec::new();
                answering::idle(idle).encode(Encoding::Array, &mut bytes);
                answer = Prepared::Bytes(bytes);
                None
            })
        } else if at_replica {
            node.read_copy(slot, read.key, clock, take).map(|()| None)
        } else {
            node.read(slot, read.key, read.level, clock, &waiting, &mut self.turn, take).map(|answer| answer.ticket)
        };
        self.must_persist |= read.level == ReadLevel::Linear && done.is_ok();
        match done {
            Ok(None) if answer.is_long() => self.long.push_back((id, answer)),
            Ok(None) => answer.respond(id, self.driver, out),
            // A read that could not be completed may be retried.
            Ok(Some(_)) => self.wait(id, waiting, answer, ErrorReply::Moved),
            Err(refusal) => respond_error(id, answering::refused(refusal, self.driver), out),
        }
    }

    fn write(&mut self, id: u64, write: Write<'_>, out: &mut Vec<u8>) {
        let (node, now) = (self.driver.node(), self.driver.clock().now());
        let slot = node.slot_of(write.key);
        if let Some(refusal) = self.driver.disk_refusal(slot) {
            return respond_error(id, refusal, out);
        }
        let waiting = Waiting::new();
        let encode = |written| {
            let mut answer = Vec::new();
            answering::written(&written, &write).encode(Encoding::Array, &mut answer);
            answer
        };
        let written = node.write(now, slot, &write, &waiting, &mut self.turn);
        self.must_persist |= !matches!(written, Err(Refusal::NotHere));
        // A short request may rewrite a long value.
        self.must_rest |= write.change.reads_first() && self.driver.clock().now() - self.begun >= STRETCH;
        match written {
            Ok(Executed { answer, ticket: None }) => respond(id, &encode(answer), out),
            Ok(Executed { answer, .. }) => {
                let answer = Prepared::Bytes(encode(answer));
                self.wait(id, waiting, answer, answering::not_durable(write.identity.is_some()));
            }
            Err(refusal) => respond_error(id, answering::refused(refusal, self.driver), out),
        }
    }

    fn wait(&mut self, id: u64, waiting: Waiting, answer: Prepared, failure: ErrorReply) {
        let deadline = Instant::now() + self.driver.request_timeout();
        self.pending_bytes += answer.len();
        self.pending.push(Pending { id, waiting, answer, failure, deadline });
    }

    fn is_full(&self, out: &[u8]) -> bool {
        self.pending.len() + self.long.len() >= WAITING
            || self.lists.len() + self.listing >= LISTS
            || out.len() + self.pending_bytes >= ANSWER_BYTES
    }

    /// Ready once some waits have ended and their answers are written.
    fn poll_settled(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<()> {
        let before = self.pending.len();
        self.pending.retain_mut(|pending| {
            // Many may settle at once: what is already there is written before more is added.
            if out.len() >= ANSWER_BYTES || pending.waiting.poll_settled(context).is_pending() {
                return true;
            }
            self.pending_bytes -= pending.answer.len();
            match pending.waiting.outcome(0) {
                Some(Outcome::Durable) if pending.answer.is_long() => {
                    let answer = std::mem::replace(&mut pending.answer, Prepared::Bytes(Vec::new()));
                    self.long.push_back((pending.id, answer));
                }
                Some(Outcome::Durable) => pending.answer.respond(pending.id, self.driver, out),
                Some(Outcome::Lost) | None => respond_error(pending.id, pending.failure.clone(), out),
            }
            false
        });
        if self.pending.len() < before { Poll::Ready(()) } else { Poll::Pending }
    }

    /// While requests that arrived together take long: what is ready is answered, and the other node learns that this
    /// one is alive. Its probes come after those requests.
    async fn rest(&mut self, connection: &mut Connection) -> io::Result<()> {
        poll_fn(|context| {
            let _ = self.poll_settled(context, &mut connection.output);
            Poll::Ready(())
        })
        .await;
        respond(PROBE_ID, PROBE_ANSWER, &mut connection.output);
        match self.long.pop_front() {
            Some((id, answer)) => send_long(connection, self.driver, id, &answer).await,
            None => Ok(()),
        }
    }

    fn give_up_late(&mut self, out: &mut Vec<u8>) {
        let now = Instant::now();
        let late = self.pending.partition_point(|pending| now >= pending.deadline);
        for pending in self.pending.drain(..late) {
            self.pending_bytes -= pending.answer.len();
            respond_error(pending.id, pending.failure, out);
        }
    }
}

fn begin_response(id: u64, out: &mut Vec<u8>) {
    out.push(b':');
    push_number(id, out);
    out.extend_from_slice(b"\r\n");
}

fn respond(id: u64, answer: &[u8], out: &mut Vec<u8>) {
    begin_response(id, out);
    out.extend_from_slice(answer);
}

fn respond_error(id: u64, error: ErrorReply, out: &mut Vec<u8>) {
    let mut answer = Vec::new();
    Response::Error(error).encode(Encoding::Array, &mut answer);
    respond(id, &answer, out);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::id::Version;
    use proto::peer::{Change, Effect, Modify};
    use storage::SimDisk;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::store::Fsync;
    use crate::store::tests::Durable;

    fn answer_to_write(node: &Durable) -> String {
        let mut out = Vec::new();
        ForwardSession::new(&node.driver).write(7, Write::new(b"k", Change::Put(b"v")), &mut out);
        String::from_utf8(out).expect("it is text")
    }

    #[tokio::test]
    async fn a_long_value_is_written_whole_before_a_keepalive_can_come() {
        let node = Durable::open(&SimDisk::new(1), Fsync::Never);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        let mut connection = Connection::new(listener.accept().await.expect("a connection").0);
        let value = vec![b'v'; 100_000];
        let record = Record::entry(Version::NONE, b"k", Effect::Put(&value));
        let found = Prepared::found(Some(&record), Wanted::Value, false);
        let expected = [b":7\r\n$100000\r\n".as_slice(), &value, b"\r\n"].concat();
        let mut arrived = vec![0; expected.len()];
        let sent = send_long(&mut connection, &node.driver, 7, &found);
        let both = async { tokio::join!(sent, client.read_exact(&mut arrived)) };
        let (sent, read) = timeout(Duration::from_secs(20), both).await.expect("all of it is written");
        assert!(sent.is_ok() && read.is_ok() && connection.output.is_empty());
        assert!(arrived == expected, "{:?}...", String::from_utf8_lossy(&arrived[..20]));
    }

    #[tokio::test]
    async fn others_come_first_once_values_have_been_rewritten_for_long() {
        let node = Durable::open(&SimDisk::new(1), Fsync::Never).leads().await;
        let mut session = ForwardSession::new(&node.driver);
        let append = Write::new(b"k", Change::Modify(Modify::Append(b"v")));
        session.begun = node.driver.clock().now();
        // Each takes microseconds.
        let mut appends = 0;
        while !session.must_rest && appends < 1_000_000 {
            session.write(7, append, &mut Vec::new());
            appends += 1;
        }
        assert!(session.must_rest && appends > 1, "after {appends}");
        let mut session = ForwardSession::new(&node.driver);
        session.write(7, Write::new(b"k", Change::Put(b"v")), &mut Vec::new());
        assert!(!session.must_rest, "a plain write takes no longer for a long value");
    }

    #[tokio::test]
    async fn a_node_with_a_full_disk_refuses_only_writes_in_slots_that_it_leads() {
        let node = Durable::open(&SimDisk::new(1), Fsync::Never);
        node.fill_disk();
        let answer = answer_to_write(&node);
        assert!(answer.starts_with(":7\r\n-MOVED "), "the primary may have room: {answer}");
        let node = Durable::open(&SimDisk::new(2), Fsync::Never).leads().await;
        node.fill_disk();
        let refused = answer_to_write(&node);
        assert!(refused.contains("UNAVAILABLE") && refused.contains("is full"), "{refused}");
    }
}
