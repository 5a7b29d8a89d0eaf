//! The connections that carry requests to other nodes: one per node, shared by all clients of this node, with many
//! requests in flight at once. Each request has a number, which its answer carries.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use engine::time::Timestamp;
use net::connection::KEPT_BYTES;
use proto::id::{Incarnation, NodeAddr};
use proto::peer::{Copies, Forward, LinkKind, List};
use proto::reply::{Reply, ReplyDecoder};
use proto::slot::SlotId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use crate::driver::Driver;
use crate::replication;

/// How long a connection may take to open.
const OPEN_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a node that has left may take for the answers that it still owes.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How many batches may wait for one connection. Further ones fail as not sent.
const QUEUED_BATCHES: usize = 1_024;

/// How often a connection with requests in flight is probed, with a question that is answered at once. A node that is
/// not reading sends a keepalive as often.
pub(crate) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// After this many consecutive probes without any input, the connection is given up. The outcome of requests in flight
/// on it is unknown, and later requests use a new connection: after a partition this one might carry nothing for
/// minutes.
const SILENT_PROBES: u64 = 3;

/// One more probe is allowed each time this many bytes have been sent since: no answer comes before all of a long
/// value has arrived.
const BYTES_PER_PROBE: u64 = 512 * 1024;

/// How much of the answers is read at a time: other tasks of the thread wait meanwhile.
const READ_BYTES: usize = 256 * 1024;

/// The number of such a probe. Requests are numbered from 1.
pub(crate) const PROBE_ID: u64 = 0;

/// The answer to one request, as RESP bytes, or why there is none.
pub(crate) type Answer = Result<Bytes, Failed>;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    /// The request was never sent: nothing has happened.
    NotSent,
    /// The connection broke after it was sent: it may have been carried out.
    Lost,
}

/// A request that is not sent yet. If it is dropped, it never will be, and its waiter is told so.
#[derive(Debug)]
struct Call {
    id: u64,
    bytes: Vec<u8>,
    answer: Option<oneshot::Sender<Answer>>,
    claim: Arc<Claim>,
}

/// Requests that are sent with one write.
#[derive(Debug)]
struct Batch {
    /// IMPORTANT: on the node's clock, which also counts while the machine is suspended. A batch that has waited for
    /// longer than a request may is not sent.
    made: Timestamp,
    calls: Vec<Call>,
}

/// Decides whether a request is sent or given up: the side that claims it first wins.
#[derive(Debug, Default)]
struct Claim(AtomicBool);

impl Claim {
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A request that has been handed to a connection.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Where its answer arrives.
    receiver: oneshot::Receiver<Answer>,
    /// The answer, once it is there.
    arrived: Option<Answer>,
    claim: Arc<Claim>,
}

impl Handed {
    /// Waits until the answer is there, but no longer than until this moment. Returns whether it is.
    pub(crate) async fn arrives_by(&mut self, until: Instant) -> bool {
        if self.arrived.is_none()
            && let Ok(answer) = timeout_at(until, &mut self.receiver).await
        {
            self.arrived = Some(answer.unwrap_or(Err(Failed::Lost)));
        }
        self.arrived.is_some()
    }

    /// The answer, if it is there; only once.
    pub(crate) fn take_answer(&mut self) -> Option<Answer> {
        self.arrived.take()
    }

    /// Stops waiting. Returns whether the request was not sent yet, and so never will be.
    #[must_use]
    pub(crate) fn take_back(&self) -> bool {
        self.claim.take()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            // A caller that no longer waits need not be told.
            let _ = answer.send(Err(Failed::NotSent));
        }
    }
}

/// The connections to all other nodes.
#[derive(Debug, Default)]
pub(crate) struct ForwardLinks {
    links: Mutex<HashMap<Incarnation, ForwardLink>>,
    ids: AtomicU64,
}

/// The health of a connection, as seen by the tasks that wait on it.
#[derive(Debug, Default)]
struct Health {
    /// A request has waited too long, and nothing has arrived since.
    stalled: AtomicBool,
    /// How often something has arrived: while this grows, a long answer may be on its way.
    reads: AtomicU64,
    /// How many bytes were sent since something last arrived.
    sent: AtomicU64,
}

#[derive(Debug)]
struct ForwardLink {
    batches: mpsc::Sender<Batch>,
    health: Arc<Health>,
}

impl ForwardLinks {
    /// Sends requests to one node, in this order and before anything sent there later. Their own numbers are ignored.
    /// The answers arrive in whatever order they are ready.
    pub(crate) fn send(
        &self,
        driver: &Driver,
        to: Incarnation,
        addr: &NodeAddr,
        requests: &[Forward<'_>],
    ) -> Vec<Handed> {
        let mut batch = Vec::with_capacity(requests.len());
        let mut handed = Vec::with_capacity(requests.len());
        for request in requests {
            let (call, answer) = self.call(|id, bytes| Forward { id, ..*request }.encode(bytes));
            batch.push(call);
            handed.push(answer);
        }
        self.queue(driver, to, addr, batch);
        handed
    }

    /// Asks a node for keys, as [`ForwardLinks::send`] does for requests. The question's own number is ignored.
    pub(crate) fn send_list(&self, driver: &Driver, to: Incarnation, addr: &NodeAddr, list: List) -> Handed {
        let (call, handed) = self.call(|id, bytes| List { id, ..list }.encode(bytes));
        self.queue(driver, to, addr, vec![call]);
        handed
    }

    /// Asks a node how many replicas have its slots, as [`ForwardLinks::send`] does for requests.
    pub(crate) fn send_copies(
        &self,
        driver: &Driver,
        to: Incarnation,
        addr: &NodeAddr,
        slots: Vec<(SlotId, Option<u64>)>,
    ) -> Handed {
        let (call, handed) = self.call(|id, bytes| Copies { id, slots }.encode(bytes));
        self.queue(driver, to, addr, vec![call]);
        handed
    }

    fn call(&self, encode: impl FnOnce(u64, &mut Vec<u8>)) -> (Call, Handed) {
        let (answer, receiver) = oneshot::channel();
        let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        let mut bytes = Vec::new();
        encode(id, &mut bytes);
        let claim = Arc::new(Claim::default());
        (Call { id, bytes, answer: Some(answer), claim: Arc::clone(&claim) }, Handed { receiver, arrived: None, claim })
    }

    fn queue(&self, driver: &Driver, to: Incarnation, addr: &NodeAddr, calls: Vec<Call>) {
        let mut links = self.lock();
        let link = links.entry(to).or_insert_with(|| ForwardLink::start(driver, to, addr.clone()));
        // A batch that finds no room in the queue is dropped here.
        let _ = link.batches.try_send(Batch { made: driver.clock().now(), calls });
    }

    /// Whether a node has kept a request waiting too long and has sent nothing since.
    #[must_use]
    pub(crate) fn is_stalled(&self, to: Incarnation) -> bool {
        self.lock().get(&to).is_some_and(|link| link.health.stalled.load(Ordering::Relaxed))
    }

    /// Marks a node as stalled, because it has kept a request waiting too long, until it sends anything.
    pub(crate) fn set_stalled(&self, to: Incarnation) {
        if let Some(link) = self.lock().get(&to) {
            link.health.stalled.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for an answer: until the deadline, or with `patience` until the node has sent nothing for that long,
    /// counted from `since` at first. `None`: there was none in time.
    pub(crate) async fn answer(
        &self,
        from: Incarnation,
        handed: &mut Handed,
        since: Instant,
        patience: Option<Duration>,
        deadline: Instant,
    ) -> Option<Answer> {
        let mut waited_from = since;
        loop {
            // While data arrives, a long answer may be on its way.
            let reads = self.reads(from);
            let until = patience.map_or(deadline, |patience| deadline.min(waited_from + patience));
            if handed.arrives_by(until).await {
                return handed.take_answer();
            }
            if until == deadline || reads == self.reads(from) {
                return None;
            }
            waited_from = Instant::now();
        }
    }

    /// A number that grows whenever something arrives from a node.
    fn reads(&self, from: Incarnation) -> u64 {
        self.lock().get(&from).map_or(0, |link| link.health.reads.load(Ordering::Relaxed))
    }

    /// Stops sending to nodes that are no longer members. Requests in flight to them may still be answered.
    pub(crate) fn retain(&self, is_member: impl Fn(Incarnation) -> bool) {
        self.lock().retain(|to, _| is_member(*to));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Incarnation, ForwardLink>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ForwardLink {
    fn start(driver: &Driver, to: Incarnation, addr: NodeAddr) -> Self {
        let (sender, batches) = mpsc::channel(QUEUED_BATCHES);
        let link = Self { batches: sender, health: Arc::default() };
        let task = LinkTask { driver: driver.clone(), to, addr, batches, health: Arc::clone(&link.health) };
        let background = driver.background().clone();
        driver.background().spawn(async move {
            // Dropping the task drops its calls: each waiter learns whether its request was sent.
            tokio::select! {
                () = task.run() => {}
                () = background.begun() => {}
            }
        });
        link
    }
}

struct LinkTask {
    driver: Driver,
    to: Incarnation,
    addr: NodeAddr,
    batches: mpsc::Receiver<Batch>,
    health: Arc<Health>,
}

impl LinkTask {
    async fn run(mut self) {
        while let Some(batch) = self.batches.recv().await {
            match timeout(OPEN_TIMEOUT, replication::open(&self.driver, LinkKind::Forward, self.to, self.addr.as_str()))
                .await
            {
                Ok(Ok(stream)) => {
                    let error = self.exchange(stream, batch).await;
                    tracing::debug!("the connection to node {} ended: {error}", self.addr);
                    self.health.stalled.store(false, Ordering::Relaxed);
                }
                failed => {
                    tracing::debug!("node {} cannot be reached: {failed:?}", self.addr);
                    // Requests that have waited for this connection do not wait for the next one as well.
                    while self.batches.try_recv().is_ok() {}
                }
            }
        }
    }

    /// Sends and receives on one connection until it breaks; returns why it did.
    async fn exchange(&mut self, stream: TcpStream, first: Batch) -> io::Error {
        let (read, write) = stream.into_split();
        let waiting = PendingAnswers::default();
        self.health.sent.store(0, Ordering::Relaxed);
        let ended = tokio::select! {
            ended = send_batches(&self.driver, write, first, &mut self.batches, &waiting, &self.health) => ended,
            ended = receive_answers(read, &waiting, &self.health) => ended,
            ended = falls_silent(&waiting, &self.health) => Err(ended),
        };
        for answer in waiting.into_inner().unwrap_or_else(PoisonError::into_inner).into_values() {
            // A caller that no longer waits need not be told.
            let _ = answer.send(Err(Failed::Lost));
        }
        ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// The waiters for answers, by the number of their request.
type PendingAnswers = Mutex<HashMap<u64, oneshot::Sender<Answer>>>;

fn lock(waiting: &PendingAnswers) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send_batches(
    driver: &Driver,
    mut stream: OwnedWriteHalf,
    first: Batch,
    batches: &mut mpsc::Receiver<Batch>,
    waiting: &PendingAnswers,
    health: &Health,
) -> io::Result<()> {
    let mut next = Some(first);
    let mut bytes = Vec::new();
    let mut looks = looks();
    while let Some(batch) = next {
        if driver.clock().now() - batch.made < driver.request_timeout() {
            let mut waiting = lock(waiting);
            for mut call in batch.calls.into_iter().filter(|call| call.claim.take()) {
                bytes.extend_from_slice(&call.bytes);
                waiting.extend(call.answer.take().map(|answer| (call.id, answer)));
            }
        }
        health.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        stream.write_all(&bytes).await?;
        bytes.clear();
        bytes.shrink_to(KEPT_BYTES);
        next = loop {
            tokio::select! {
                batch = batches.recv() => break batch,
                _ = looks.tick() => {
                    if !lock(waiting).is_empty() {
                        Copies { id: PROBE_ID, slots: Vec::new() }.encode(&mut bytes);
                        stream.write_all(&bytes).await?;
                        bytes.clear();
                    }
                }
            }
        };
    }
    // No more will be sent: the node has left, but may still answer what was sent.
    sleep(LAST_ANSWERS).await;
    Ok(())
}

/// Returns once nothing arrives although requests wait, not even the answer to a probe.
async fn falls_silent(waiting: &PendingAnswers, health: &Health) -> io::Error {
    let mut looks = looks();
    let (mut reads, mut silent) = (0, 0);
    while silent < SILENT_PROBES + health.sent.load(Ordering::Relaxed) / BYTES_PER_PROBE {
        looks.tick().await;
        let reads_now = health.reads.load(Ordering::Relaxed);
        let is_silent = reads_now == reads && !lock(waiting).is_empty();
        (reads, silent) = (reads_now, if is_silent { silent + 1 } else { 0 });
    }
    io::Error::new(io::ErrorKind::TimedOut, "it does not answer")
}

fn looks() -> Interval {
    let mut looks = interval(PROBE_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

async fn receive_answers(mut stream: OwnedReadHalf, waiting: &PendingAnswers, health: &Health) -> io::Result<()> {
    let mut input = BytesMut::new();
    let mut decoder = ReplyDecoder::new();
    let mut id = None;
    loop {
        if input.is_empty() && input.capacity() > KEPT_BYTES {
            input = BytesMut::new();
        }
        input.reserve(16 * 1024);
        let read = stream.read_buf(&mut (&mut input).limit(READ_BYTES)).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        health.reads.fetch_add(1, Ordering::Relaxed);
        health.sent.store(0, Ordering::Relaxed);
        health.stalled.store(false, Ordering::Relaxed);
        let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let mut arrived = Vec::new();
        loop {
            let (reply, len) = match decoder.decode(&input) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => break,
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            };
            // Each answer follows the number of its request.
            match (id.take(), reply) {
                (None, Reply::Number(number)) => {
                    id = Some(u64::try_from(number).map_err(|_| wrong("an answer to no request"))?);
                }
                (None, _) => return Err(wrong("an answer without a number")),
                // Only a long answer is not copied: it keeps all of its buffer.
                (Some(number), _) if len > KEPT_BYTES => {
                    arrived.push((number, input.split_to(len).freeze()));
                    continue;
                }
                (Some(number), _) => {
                    arrived.push((number, Bytes::copy_from_slice(input.get(..len).unwrap_or_default())))
                }
            }
            input.advance(len);
        }
        let mut waiting = lock(waiting);
        for (id, bytes) in arrived.into_iter().filter(|(id, _)| *id != PROBE_ID) {
            let answer = waiting.remove(&id).ok_or_else(|| wrong("an answer to no request"))?;
            // A read that has meanwhile gone to a replica no longer waits.
            let _ = answer.send(Ok(bytes));
        }
    }
}
