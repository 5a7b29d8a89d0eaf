//! One connection: its requests in flight, and when it sends the next.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::net::TcpStream;
use seeded::Random;

use crate::keys::Draw;
use crate::load::{Load, Until};
use crate::outcome::Recorder;
use crate::reply::{self, Reply, Wanted, first_line};
use crate::request::Requests;
use crate::target::{ANSWER, Server, Target, connect};
use crate::workload::Action;
use crate::zipfian::Zipfian;

/// The minimum that a read asks for.
const READ_BYTES: usize = 64 * 1024;

/// The most keys that one scan requests, as in YCSB.
const SCAN_KEYS: u64 = 100;

/// How many numbers are tried to find a key to insert.
const INSERT_TRIES: u64 = 10_000;

/// When requests are sent.
#[derive(Debug)]
pub(crate) enum Pace {
    /// As many together as may be in flight, and the next batch when all are answered.
    Closed,
    /// Each when it is due: this connection's first at `due`, then one every `step`.
    Open { due: Instant, step: Duration },
}

/// A request that has not been answered.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    action: Action,
    number: u32,
    wanted: Wanted,
    /// When it was due; without a rate, when it was sent.
    since: Instant,
}

pub(crate) struct Connection<'a> {
    pub(crate) stream: TcpStream,
    target: &'a Target,
    server: &'a Server,
    load: &'a Load,
    requests: Requests,
    draw: Draw,
    random: Random,
    pace: Pace,
    /// How many operations remain to be started.
    left: u64,
    /// With [`Until::AllKeys`], the index of the next key.
    place: u32,
    /// The number of the next key to insert.
    insert: u64,
    in_flight: VecDeque<InFlight>,
    /// Encoded requests, of which `sent` bytes are sent.
    output: Vec<u8>,
    sent: usize,
    /// Received bytes lie between `from` and `end`.
    input: Vec<u8>,
    from: usize,
    end: usize,
    /// Everything is answered, and nothing more will be sent.
    pub(crate) is_done: bool,
    /// When the last answer came, or, if nothing was in flight then, when something was sent again.
    heard: Instant,
}

impl<'a> Connection<'a> {
    /// Connects. `at` is its index among the connections of the run.
    pub(crate) fn open(
        target: &'a Target,
        server: &'a Server,
        load: &'a Load,
        at: usize,
        zipfian: Option<Arc<Zipfian>>,
    ) -> anyhow::Result<Self> {
        let connections = load.connections as u64;
        let left = match load.until {
            Until::AllKeys => server.numbers.len().into(),
            Until::Elapsed(_) => u64::MAX,
            Until::Operations(count) => count / connections + u64::from((at as u64) < count % connections),
        };
        let stream = connect(server.addr, target.password.as_ref(), Instant::now() + ANSWER)?;
        set_levels(&stream, load)?;
        stream.set_nonblocking(true).context("cannot set up a connection")?;
        Ok(Self {
            stream: TcpStream::from_std(stream),
            target,
            server,
            load,
            requests: Requests::new(load.encoding, load.sizes, target.dialect),
            draw: Draw::new(server.numbers.clone(), load.distribution, zipfian),
            random: Random::new(at as u64),
            pace: Pace::Closed,
            left,
            place: 0,
            insert: u64::from(target.keys.end) + at as u64,
            in_flight: VecDeque::with_capacity(load.pipeline),
            output: Vec::new(),
            sent: 0,
            input: vec![0; READ_BYTES],
            from: 0,
            end: 0,
            is_done: false,
            heard: Instant::now(),
        })
    }

    /// With a rate: when the first request is due, and the interval to the next.
    pub(crate) fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Sends what is due by now. The connection may be done afterwards.
    pub(crate) fn pump(&mut self, recorder: &Recorder, now: Instant) -> anyhow::Result<()> {
        if !recorder.is_over(now) {
            match self.pace {
                Pace::Closed if self.in_flight.is_empty() => {
                    for _ in 0..self.load.pipeline {
                        self.begin(now, now, recorder.start);
                    }
                }
                Pace::Closed => {}
                Pace::Open { mut due, step } => {
                    while self.in_flight.len() < self.load.pipeline && due <= now && self.left > 0 {
                        self.begin(due, now, recorder.start);
                        due += step;
                    }
                    self.pace = Pace::Open { due, step };
                }
            }
        }
        self.is_done = self.in_flight.is_empty() && (self.left == 0 || recorder.is_over(now));
        self.flush()
    }

    /// With a rate: how many operations were due in the measured time and not started.
    pub(crate) fn unsent(&self, start: Instant, end: Instant) -> u64 {
        match self.pace {
            Pace::Open { due, step } if due.max(start) < end && self.left > 0 => {
                let due = ((end - due.max(start)).as_nanos() / step.as_nanos().max(1)) as u64 + 1;
                due.min(self.left)
            }
            _ => 0,
        }
    }

    /// Since when an answer has been missing.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        (!self.in_flight.is_empty()).then_some(self.heard)
    }

    /// How many operations were started and are not answered.
    pub(crate) fn unanswered(&self) -> u64 {
        self.in_flight.len() as u64
    }

    /// Starts an operation. It is not one of those that remain if that is before `start`, the end of the warm-up.
    fn begin(&mut self, since: Instant, now: Instant, start: Instant) {
        if self.left == 0 {
            return;
        }
        self.left -= u64::from(since >= start);
        if self.in_flight.is_empty() {
            self.heard = now;
        }
        let (action, number) = self.next();
        let wanted = match action {
            Action::Get | Action::Modify => self.requests.get(number, &mut self.output),
            Action::Put | Action::Insert => self.requests.put(number, &mut self.output),
            Action::Scan => {
                let limit = 1 + self.random.below(SCAN_KEYS);
                self.requests.scan(number, limit, &mut self.output)
            }
        };
        self.in_flight.push_back(InFlight { action, number, wanted, since });
    }

    fn next(&mut self) -> (Action, u32) {
        if self.load.until == Until::AllKeys {
            self.place += 1;
            return (Action::Put, self.draw.at(self.place - 1));
        }
        match self.load.mix.next(&mut self.random) {
            Action::Insert => (Action::Insert, self.next_insert()),
            action => (action, self.draw.next(&mut self.random)),
        }
    }

    /// The next number whose key this connection's server leads. After the last number it starts over. Where there are so
    /// few keys that none is found, it is a key that is stored.
    fn next_insert(&mut self) -> u32 {
        let keys = self.load.sizes.keys();
        for _ in 0..keys.min(INSERT_TRIES) {
            let number = (self.insert % keys) as u32;
            self.insert += self.load.connections as u64;
            if self.target.leads(self.server, &self.load.sizes.make_key(number)) {
                return number;
            }
        }
        self.draw.next(&mut self.random)
    }

    /// Sends as much as the socket accepts.
    fn flush(&mut self) -> anyhow::Result<()> {
        while let Some(rest) = self.output.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("cannot send to {}", self.server.addr)),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }

    /// Handles a socket that is readable or writable.
    pub(crate) fn ready(&mut self, recorder: &mut Recorder) -> anyhow::Result<()> {
        self.flush()?;
        loop {
            if self.input.len() - self.end < READ_BYTES / 2 {
                self.make_room();
            }
            let space = self.input.get_mut(self.end..).unwrap_or_default();
            let asked = space.len();
            match self.stream.read(space) {
                Ok(0) => anyhow::bail!("{} has closed a connection{}", self.server.addr, self.told()),
                Ok(read) => {
                    self.end += read;
                    self.take(recorder)?;
                    // A read that returned less than requested has emptied the socket, and whatever arrives later
                    // raises a new event. On systems where sockets report only after they were read empty, one more
                    // read is needed.
                    if read < asked && !cfg!(windows) {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read from {}", self.server.addr)),
            }
        }
    }

    fn make_room(&mut self) {
        self.input.copy_within(self.from..self.end, 0);
        (self.from, self.end) = (0, self.end - self.from);
        if self.input.len() - self.end < READ_BYTES / 2 {
            self.input.resize(self.input.len() * 2, 0);
        }
    }

    /// Takes the complete answers and sends what comes next.
    fn take(&mut self, recorder: &mut Recorder) -> anyhow::Result<()> {
        let now = Instant::now();
        while let Some(request) = self.in_flight.front().copied() {
            let arrived = self.input.get(self.from..self.end).unwrap_or_default();
            let read = reply::read(arrived, self.load.encoding, request.wanted);
            let Some((reply, used)) = read.with_context(|| format!("{}{}", self.server.addr, self.told()))? else {
                break;
            };
            let judged = judge(&mut self.requests, self.load.strict, request, reply);
            if let Err(what) = judged {
                anyhow::bail!("{what} of {}{}", self.server.addr, self.told());
            }
            self.in_flight.pop_front();
            self.heard = now;
            match reply {
                Reply::Refused(error) => recorder.refused(error),
                Reply::Missing | Reply::Value(_) if request.action == Action::Modify => {
                    recorder.read(reply == Reply::Missing, request.since, now);
                    let wanted = self.requests.put(request.number, &mut self.output);
                    self.in_flight.push_back(InFlight { wanted, ..request });
                }
                _ => {
                    recorder.read(reply == Reply::Missing, request.since, now);
                    recorder.done(request.action, request.since, now);
                    if request.action == Action::Insert {
                        self.draw.insert(request.number);
                    }
                }
            }
            self.from += used;
        }
        if self.from == self.end {
            (self.from, self.end) = (0, 0);
        } else if self.in_flight.is_empty() {
            anyhow::bail!("{} sent an unsolicited reply{}", self.server.addr, self.told());
        }
        self.pump(recorder, now)
    }

    /// What the server sent, for an error message.
    fn told(&self) -> String {
        let said = self.input.get(self.from..self.end).unwrap_or_default();
        if said.is_empty() { String::new() } else { format!(": {}", first_line(said)) }
    }
}

/// Requests the levels of the load.
fn set_levels(stream: &std::net::TcpStream, load: &Load) -> anyhow::Result<()> {
    let ack = load.ack.map(|level| format!("ACK {level}\n"));
    let read = load.read.map(|level| format!("READ {level}\n"));
    for request in [ack, read].into_iter().flatten() {
        let mut writer = stream;
        writer.write_all(request.as_bytes()).context("cannot ask for a level")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).context("no answer to a level")?;
        anyhow::ensure!(answer == "OK\n", "the level was refused: {}", answer.trim_end());
    }
    Ok(())
}

/// Whether an answer is acceptable.
fn judge(requests: &mut Requests, strict: bool, request: InFlight, reply: Reply<'_>) -> Result<(), &'static str> {
    match reply {
        Reply::Refused(_) if strict => Err("an error"),
        Reply::Missing if strict => Err("a key is missing: a wrong answer"),
        Reply::Value(value) if strict && !requests.is_value(request.number, value) => Err("a wrong answer"),
        _ => Ok(()),
    }
}
