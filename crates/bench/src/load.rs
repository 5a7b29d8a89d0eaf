//! The generator: one thread for all connections, woken when an answer has arrived.
//!
//! Each connection sends as many requests as its shape has in flight with one write, and the next as soon as all are
//! answered. Requests are made in place, answers are checked by comparing bytes, and next to nothing is
//! allocated meanwhile, so that an operation costs the generator little more than its system calls.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use proto::frame::Encoding;

use crate::cluster::Target;
use crate::cpu;
use crate::shape::{Dialect, Shape, Template, Verb, key};

/// An answer that takes longer than this fails the run.
const ANSWER: Duration = Duration::from_secs(10);

/// How many bytes of requests are in flight on a connection, about, while keys are stored before anything is measured.
/// A socket's buffer takes so many whole.
const FILL_BYTES: usize = 8 * 1024;

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// Every connection has been through all keys of its server.
    AllKeys,
    /// So much time was measured. A fifth of it goes before, unmeasured.
    Elapsed(Duration),
}

/// What one run has come to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measurement {
    /// Answers in a second, over all connections.
    pub(crate) per_second: f64,
    /// From the write that carried a request to the read that carried the end of its answer: the median.
    pub(crate) p50: Duration,
    /// The same, which 99 of 100 requests stay below.
    pub(crate) p99: Duration,
    /// Processor time of the server for one request, where it is known.
    pub(crate) cpu: Option<Duration>,
}

/// Stores every key at the server that leads it.
pub(crate) fn fill(target: &Target, value_bytes: usize) -> anyhow::Result<()> {
    let (verb, encoding) = (Verb::Put, Encoding::Array);
    let pipeline = (FILL_BYTES / value_bytes).clamp(1, 64);
    let shape = Shape { verb, encoding, value_bytes, connections: target.servers.len(), pipeline };
    run(target, shape, Until::AllKeys).map(|_| ())
}

/// Loads a target until it is time to stop.
///
/// # Errors
/// A connection has broken, or an answer is wrong or missing.
pub(crate) fn run(target: &Target, shape: Shape, until: Until) -> anyhow::Result<Measurement> {
    let mut poll = Poll::new().context("cannot wait for sockets")?;
    let mut connections = Vec::new();
    for at in 0..shape.connections {
        let (addr, keys) = target.servers.get(at % target.servers.len()).context("there is no server")?;
        let mut connection = Connection::open(*addr, shape, target.dialect, Keys::new(keys, at, until))?;
        let registry = poll.registry();
        registry.register(&mut connection.stream, Token(at), Interest::READABLE).context("cannot wait for a socket")?;
        connections.push(connection);
    }

    let cpu_before = cpu::used(&target.pids);
    let begin = Instant::now();
    let (start, stop) = match until {
        Until::AllKeys => (begin, None),
        Until::Elapsed(time) => (begin + time / 5, Some(begin + time / 5 + time)),
    };
    let mut window = Window { start, stop, answers: 0, latencies: Vec::with_capacity(1 << 22) };
    for connection in &mut connections {
        connection.send(begin)?;
    }
    let mut open = connections.len();
    let mut events = Events::with_capacity(connections.len());
    while open > 0 {
        match poll.poll(&mut events, Some(ANSWER)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot wait for sockets"),
        }
        anyhow::ensure!(!events.is_empty(), "no answer within {ANSWER:?}");
        for event in &events {
            let Some(connection) = connections.get_mut(event.token().0) else { continue };
            open -= usize::from(connection.readable(&mut window)? == Progress::Done);
        }
    }
    let cpu = cpu::used(&target.pids).zip(cpu_before).map(|(after, before)| after.saturating_sub(before));
    Ok(window.measurement(cpu))
}

/// The span of time in which answers count.
struct Window {
    start: Instant,
    /// None: no end.
    stop: Option<Instant>,
    /// How many answers have come, before and after the window too.
    answers: u32,
    /// In nanoseconds, one for each answer that counts.
    latencies: Vec<u32>,
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        self.stop.is_some_and(|stop| now >= stop)
    }

    fn answered(&mut self, sent: Instant, now: Instant, answers: usize) {
        self.answers += answers as u32;
        if now >= self.start && !self.is_over(now) {
            let latency = u32::try_from((now - sent).as_nanos()).unwrap_or(u32::MAX);
            self.latencies.extend(std::iter::repeat_n(latency, answers));
        }
    }

    fn measurement(mut self, cpu: Option<Duration>) -> Measurement {
        let measured = self.stop.map_or_else(|| self.start.elapsed(), |stop| stop - self.start);
        let mut quantile = |part: usize, of: usize| {
            let at = self.latencies.len() * part / of;
            if at >= self.latencies.len() {
                return Duration::ZERO;
            }
            Duration::from_nanos((*self.latencies.select_nth_unstable(at).1).into())
        };
        let (p50, p99) = (quantile(50, 100), quantile(99, 100));
        let per_second = self.latencies.len() as f64 / measured.as_secs_f64();
        Measurement { per_second, p50, p99, cpu: cpu.and_then(|cpu| cpu.checked_div(self.answers)) }
    }
}

/// The order in which a connection asks for keys: all of them, again and again.
struct Keys<'a> {
    all: &'a [u32],
    at: usize,
    step: usize,
    /// How many keys are left to ask for.
    left: usize,
}

impl<'a> Keys<'a> {
    fn new(all: &'a [u32], connection: usize, until: Until) -> Self {
        match until {
            Until::AllKeys => Self { all, at: 0, step: 1, left: all.len() },
            Until::Elapsed(_) => {
                // Steps of the golden ratio scatter the keys; without a common divisor they meet every one.
                let mut step = all.len() * 618 / 1_000;
                while greatest_common_divisor(step, all.len()) != 1 {
                    step += 1;
                }
                Self { all, at: connection * 7_919 % all.len().max(1), step, left: usize::MAX }
            }
        }
    }

    fn next(&mut self) -> u32 {
        let key = self.all.get(self.at).copied().unwrap_or_default();
        self.left = self.left.saturating_sub(1);
        self.at += self.step;
        if self.at >= self.all.len() {
            self.at -= self.all.len();
        }
        key
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    Done,
}

struct Connection<'a> {
    stream: TcpStream,
    keys: Keys<'a>,
    request: Template,
    answer: Template,
    /// The requests in flight, one after the other.
    output: Vec<u8>,
    /// The answers that must come.
    expected: Vec<u8>,
    /// The answers that have come, up to `arrived`.
    input: Vec<u8>,
    arrived: usize,
    sent: Instant,
}

impl<'a> Connection<'a> {
    fn open(addr: SocketAddr, shape: Shape, dialect: Dialect, keys: Keys<'a>) -> anyhow::Result<Self> {
        let stream = std::net::TcpStream::connect(addr).with_context(|| format!("cannot connect to {addr}"))?;
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).context("cannot set up a connection")?;
        let request = Template::request(shape, dialect);
        let answer = Template::answer(shape, dialect);
        Ok(Self {
            stream: TcpStream::from_std(stream),
            keys,
            output: request.bytes.repeat(shape.pipeline),
            expected: answer.bytes.repeat(shape.pipeline),
            input: vec![0; answer.bytes.len() * shape.pipeline],
            arrived: 0,
            sent: Instant::now(),
            request,
            answer,
        })
    }

    /// Sends the next requests.
    fn send(&mut self, now: Instant) -> anyhow::Result<()> {
        let requests = self.output.chunks_exact_mut(self.request.bytes.len());
        let answers = self.expected.chunks_exact_mut(self.answer.bytes.len());
        for (request, answer) in requests.zip(answers) {
            let key = key(self.keys.next());
            self.request.write_key(&key, request);
            self.answer.write_key(&key, answer);
        }
        self.arrived = 0;
        self.sent = now;
        // All that was sent before is answered, so the socket's buffer is empty and takes a few kilobytes whole.
        let written = self.stream.write(&self.output).context("cannot send requests")?;
        anyhow::ensure!(written == self.output.len(), "the socket took {written} of {} bytes", self.output.len());
        Ok(())
    }

    /// Reads what has arrived; when it completes the answers, checks them and sends what comes next.
    fn readable(&mut self, window: &mut Window) -> anyhow::Result<Progress> {
        loop {
            let space = self.input.get_mut(self.arrived..).unwrap_or_default();
            if space.is_empty() {
                return Ok(Progress::Done);
            }
            match self.stream.read(space) {
                Ok(0) => anyhow::bail!("the server has closed a connection{}", self.told()),
                Ok(read) => self.take(read, window)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waiting),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read answers"),
            }
            // After a new batch nothing can be there yet, and what arrives makes a new event. Where sockets report
            // only after they were read empty, one more read is needed.
            if self.arrived == 0 && !cfg!(windows) {
                return Ok(Progress::Waiting);
            }
        }
    }

    fn take(&mut self, read: usize, window: &mut Window) -> anyhow::Result<()> {
        let now = Instant::now();
        let length = self.answer.bytes.len();
        let before = self.arrived / length;
        self.arrived += read;
        let after = self.arrived / length;
        let span = before * length..after * length;
        if self.input.get(span.clone()) != self.expected.get(span) {
            anyhow::bail!("a wrong answer{}", self.told());
        }
        window.answered(self.sent, now, after - before);
        let all_answered = self.arrived == self.expected.len();
        if all_answered && self.keys.left > 0 && !window.is_over(now) {
            self.send(now)?;
        }
        Ok(())
    }

    /// What the server has said, for an error message.
    fn told(&self) -> String {
        let length = self.answer.bytes.len();
        let chunks = self.input.get(..self.arrived).unwrap_or_default().chunks(length);
        let wrong = chunks.zip(self.expected.chunks(length)).find(|(came, expected)| !expected.starts_with(came));
        wrong.map_or_else(String::new, |(came, _)| format!(": {}", came.escape_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Place;
    use crate::shape::{VALUE_BYTES, shapes};

    /// A server on a thread of its own, for the rest of the test.
    fn target<F>(serve: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static) -> Target
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { serve(tokio::net::TcpListener::from_std(listener).unwrap()).await })
        });
        Target::echo(&Place { addr, pids: vec![std::process::id()] })
    }

    #[test]
    fn every_shape_is_answered_by_the_echo_server() {
        let mut target = target(crate::echo::accept);
        fill(&target, VALUE_BYTES).unwrap();
        for (_, keys) in &mut target.servers {
            keys.truncate(100);
        }
        for shape in shapes() {
            // All answers count. Of a span of time, another process may take the whole.
            let measured = run(&target, shape, Until::AllKeys).unwrap();
            assert!(measured.per_second > 0.0 && measured.p50 <= measured.p99, "{shape}: {measured:?}");
            assert_eq!(measured.cpu.is_some(), cfg!(target_os = "linux"), "{measured:?}");
        }
    }

    #[test]
    fn a_wrong_answer_fails_the_run() {
        let target = target(|listener| async move {
            loop {
                let (mut stream, _) = listener.accept().await?;
                let mut request = [0; 64];
                let read = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await?;
                assert!(read > 0);
                tokio::io::AsyncWriteExt::write_all(&mut stream, &b"NOT_FOUND\n".repeat(20)).await?;
            }
        });
        let shape = shapes()[8];
        assert_eq!((shape.verb, shape.encoding, shape.pipeline), (Verb::Get, Encoding::Line, 1));
        let error = run(&target, shape, Until::Elapsed(Duration::from_secs(5))).unwrap_err();
        assert!(error.to_string().starts_with("a wrong answer: NOT_FOUND"), "{error}");
    }

    #[test]
    fn every_key_comes_before_any_comes_again() {
        let all: Vec<u32> = (0..1_000).collect();
        for until in [Until::AllKeys, Until::Elapsed(Duration::ZERO)] {
            let mut keys = Keys::new(&all, 3, until);
            let mut seen: Vec<u32> = (0..1_000).map(|_| keys.next()).collect();
            seen.sort_unstable();
            assert_eq!(seen, all);
        }
    }
}
