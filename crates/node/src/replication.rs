//! Replication connections: one long-lived connection from a primary's node to each replica's, for all slots that the
//! two share.

use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use engine::inbox::Inbox;
use engine::node::Turn;
use engine::outbox::Outbox;
use engine::peers::BEAT;
use net::access::disagreement;
use net::connection::{Connection, Flow, FrameReader, Stopped};
use net::processors;
use net::shutdown::Shutdown;
use proto::frame::Frame;
use proto::id::Incarnation;
use proto::peer::{Hello, LinkKind, LinkMessage, LinkReply};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::disk_watch::DiskWatch;
use crate::driver::Driver;
use crate::followed::Connected;
use crate::verify;

/// How much is encoded and written at once.
const BATCH_BYTES: usize = 256 * 1024;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A replica that answers no beats for this long is reconnected to.
const SILENCE: Duration = Duration::from_secs(3);

/// At most this much of the answer to the opening messages of a connection is read, in bytes.
const ANSWER_BYTES: usize = 1_024;

/// The pause between connection attempts grows from the first value to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How many digests may wait to be sent to a primary: more than it requests at a time.
const DIGESTS: usize = 256;

/// Sends one replica what its queue holds, until the map no longer wants that. Reconnects broken connections.
pub(crate) async fn send(driver: Driver, outbox: Arc<Outbox>, wake: Arc<Notify>, end: CancellationToken) {
    let mut pause = PAUSES.0;
    loop {
        if outbox.has_overflowed() {
            driver.node().restart_overflowed(driver.clock().now(), &outbox);
            driver.finish(&mut Turn::default());
        }
        let link = Link { driver: &driver, outbox: &outbox, wake: &wake };
        let error = tokio::select! {
            error = link.run(&mut pause) => error,
            () = end.cancelled() => return,
            () = driver.background().begun() => return,
        };
        tracing::debug!("the link to replica {} ended: {error}", outbox.addr);
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            () = end.cancelled() => return,
            () = driver.background().begun() => return,
        }
    }
}

struct Link<'a> {
    driver: &'a Driver,
    outbox: &'a Outbox,
    wake: &'a Notify,
}

impl Link<'_> {
    /// Runs one connection until it breaks; returns why it did.
    async fn run(&self, pause: &mut Duration) -> io::Error {
        let opened = open(self.driver, LinkKind::Replication, self.outbox.to, self.outbox.addr.as_str());
        let stream = match timeout(CONNECT_TIMEOUT, opened).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return error,
            Err(_) => return io::ErrorKind::TimedOut.into(),
        };
        *pause = PAUSES.0;
        self.outbox.reconnected();
        let (read, write) = stream.into_split();
        let ended = tokio::select! {
            ended = self.write(write) => ended,
            ended = self.read(read) => ended,
        };
        ended.err().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    async fn write(&self, mut stream: OwnedWriteHalf) -> io::Result<()> {
        let mut batch = Vec::new();
        let mut next_beat = Instant::now();
        loop {
            if self.outbox.has_overflowed() {
                return Err(io::Error::other("the queue overflowed"));
            }
            self.driver.node().make_fills(self.driver.clock().now(), self.outbox);
            if Instant::now() >= next_beat {
                self.beat(&mut stream, &mut next_beat).await?;
            }
            batch.clear();
            // A long value leaves no memory behind.
            batch.shrink_to(2 * BATCH_BYTES);
            if self.outbox.take(&mut batch, BATCH_BYTES) {
                // IMPORTANT: a replica that has a record is evidence that the record is on this node's disk as well.
                self.persist(&mut stream, &mut next_beat).await?;
                stream.write_all(&batch).await?;
                self.driver.count_sent_to_replicas(batch.len());
                continue;
            }
            tokio::select! {
                // Requests that have arrived are carried out first, so that their records go out with the same call.
                // On one processor that is so already, since all are read before the first is carried out.
                () = self.wake.notified() => if !processors::is_one() {
                    tokio::task::yield_now().await;
                },
                () = sleep_until(next_beat) => {}
            }
        }
    }

    async fn beat(&self, stream: &mut OwnedWriteHalf, next_beat: &mut Instant) -> io::Result<()> {
        let mut beat = Vec::new();
        self.driver.node().beat(self.driver.clock().now(), &mut beat);
        *next_beat = Instant::now() + BEAT;
        stream.write_all(&beat).await?;
        self.driver.count_sent_to_replicas(beat.len());
        Ok(())
    }

    /// Waits until this node's disk has everything. A long record may take longer than a lease lasts, so beats go on
    /// meanwhile, unless the disk hangs.
    async fn persist(&self, stream: &mut OwnedWriteHalf, next_beat: &mut Instant) -> io::Result<()> {
        let mut disk = DiskWatch::default();
        let mut persisted = pin!(self.driver.persist());
        loop {
            tokio::select! {
                biased;
                persisted = &mut persisted => return persisted.map_err(io::Error::other),
                () = sleep_until(*next_beat), if !disk.hangs(self.driver) => self.beat(stream, next_beat).await?,
            }
        }
    }

    async fn read(&self, mut stream: OwnedReadHalf) -> io::Result<()> {
        let mut reader = FrameReader::new();
        let mut turn = Turn::default();
        loop {
            match timeout(SILENCE, reader.fill(&mut stream)).await {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the replica does not answer")),
            }
            let now = self.driver.clock().now();
            let stopped = reader.frames(|frame| {
                let Frame::Array(words) = frame else { return Flow::Close };
                let reply = LinkReply::parse(words);
                let node = self.driver.node();
                let understood = reply.is_ok_and(|reply| node.handle_link_reply(now, self.outbox, reply, &mut turn));
                if understood { Flow::Next } else { Flow::Close }
            });
            if stopped != Stopped::NeedsMore {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the replica does not speak the protocol"));
            }
            self.driver.finish(&mut turn);
            if self.outbox.may_fill() {
                self.wake.notify_one();
            }
        }
    }
}

/// Opens a connection to another node of the cluster.
///
/// # Errors
/// It cannot be reached, or refuses: it is another incarnation, or belongs to another cluster.
pub(crate) async fn open(driver: &Driver, kind: LinkKind, to: Incarnation, addr: &str) -> io::Result<TcpStream> {
    let map = driver.node().map().ok_or_else(|| io::Error::other("this node has no map yet"))?;
    let hello = Hello {
        kind,
        cluster: map.cluster.clone(),
        from_addr: driver.addr().clone(),
        from: driver.node().incarnation(),
        to,
    };
    let mut bytes = Vec::new();
    let answers = if driver.access().encode_auth(&mut bytes) { 2 } else { 1 };
    hello.encode(&mut bytes);
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    stream.write_all(&bytes).await?;
    for _ in 0..answers {
        let answer = read_line(&mut stream).await?;
        if answer == "+OK" {
            continue;
        }
        if let Some(what) = disagreement(&format!("node {addr}"), &answer) {
            driver.access().warn(|| what);
        }
        return Err(io::Error::other(format!("refused: {answer}")));
    }
    Ok(stream)
}

/// Reads a line and not a byte more: the replica may send its position right after it.
async fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    while line.len() < ANSWER_BYTES {
        match stream.read_u8().await? {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// Applies what a primary sends on a connection that it has opened.
///
/// # Errors
/// The connection is broken, or the primary violates the protocol. Everything acknowledged is applied.
pub(crate) async fn receive(
    connection: &mut Connection,
    driver: &Driver,
    from: Incarnation,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let connected = driver.followed().open(from);
    driver.node().heard_from(driver.clock().now(), from);
    let ended = follow(connection, driver, from, &connected, shutdown).await;
    if driver.followed().close(from, &connected) {
        driver.node().link_ended(from);
    }
    ended
}

async fn follow(
    connection: &mut Connection,
    driver: &Driver,
    from: Incarnation,
    connected: &Connected,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let mut inbox = Inbox::new(from);
    let mut turn = Turn::default();
    let mut unwritten = None;
    let (digests, mut digested) = mpsc::channel(DIGESTS);
    loop {
        let now = driver.clock().now();
        let Connection { reader, output, .. } = connection;
        let mut leases = Vec::new();
        let taken = connected.take(|| {
            let stopped = reader.frames(&mut |frame: Frame<'_>| {
                let Frame::Array(words) = frame else { return Flow::Close };
                let handled = LinkMessage::parse(words).and_then(|message| {
                    if !matches!(message, LinkMessage::Beat { .. }) {
                        return inbox.handle(now, driver.node(), message, &mut turn, output);
                    }
                    inbox.apply(now, driver.node(), &mut turn, output);
                    inbox.handle(now, driver.node(), message, &mut turn, &mut leases)
                });
                match handled {
                    Ok(()) => Flow::Next,
                    Err(error) => {
                        tracing::warn!("a primary does not speak the protocol: {error}");
                        Flow::Close
                    }
                }
            });
            // This also applies the records gathered so far.
            inbox.acknowledge(now, driver.node(), &mut turn, output);
            stopped
        });
        let Some(stopped) = taken else { return Ok(()) };
        // A lease is no evidence of records, so it does not wait for the disk.
        connection.write(&leases).await?;
        let end = driver.node().noted().end();
        if unwritten.is_none() && driver.persist_soon(end).await {
            connection.flush().await?;
        } else {
            let answers = unwritten.get_or_insert_with(Unwritten::new);
            answers.add(end, &mut connection.output);
            let may_read = stopped == Stopped::NeedsMore;
            if answers.send(connection, driver, may_read).await? == Sent::HasInput {
                continue;
            }
            unwritten = None;
        }
        let wanted = turn.to_digest();
        if !wanted.is_empty() {
            verify::digest_for(driver, wanted, &digests);
        }
        driver.finish(&mut turn);
        if stopped != Stopped::NeedsMore {
            return Ok(());
        }
        tokio::select! {
            read = connection.fill() => {
                if read? == 0 {
                    return Ok(());
                }
                // No beat comes while a long record is on its way.
                driver.node().heard_from(driver.clock().now(), from);
            }
            Some(answer) = digested.recv() => answer.encode(&mut connection.output),
            () = shutdown.begun() => return Ok(()),
        }
    }
}

/// What a primary is told once the disk has what it is about.
#[derive(Debug)]
struct Unwritten {
    /// Each with the number in the journal below which everything must be written.
    answers: VecDeque<(u64, Vec<u8>)>,
    /// When the first answer of this series began to wait.
    since: Instant,
    disk: DiskWatch,
}

/// How [`Unwritten::send`] has ended.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    /// The primary has been told everything.
    All,
    /// More has arrived.
    HasInput,
}

impl Unwritten {
    fn new() -> Self {
        Self { answers: VecDeque::new(), since: Instant::now(), disk: DiskWatch::default() }
    }

    fn add(&mut self, end: u64, answer: &mut Vec<u8>) {
        match self.answers.back_mut() {
            Some((last, before)) if *last == end => before.append(answer),
            _ => self.answers.push_back((end, std::mem::take(answer))),
        }
    }

    /// Sends the answers, each once it may be sent. A long record may take longer to write than a lease lasts: so after
    /// a moment this returns as soon as more has arrived, if it `may_read`, unless the disk hangs.
    async fn send(&mut self, connection: &mut Connection, driver: &Driver, may_read: bool) -> io::Result<Sent> {
        while let Some((end, answer)) = self.answers.front() {
            let read = async {
                sleep_until(self.since + BEAT / 4).await;
                connection.fill().await
            };
            tokio::select! {
                biased;
                written = driver.wait_written(*end) => written.map_err(io::Error::other)?,
                read = read, if may_read && !self.disk.hangs(driver) => match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    _ => return Ok(Sent::HasInput),
                },
            }
            connection.write(answer).await?;
            self.answers.pop_front();
        }
        Ok(Sent::All)
    }
}
