//! One connection, and one exchange of a request and its answer on it.
//!
//! A connection carries one request at a time and is dropped on any failure, so nothing that arrives later can be
//! mistaken for the answer to another request.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

use password::Password;
use proto::frame::{Encoding, Frame, FrameDecoder, encode_array};
use proto::id::NodeAddr;
use proto::limits;
use proto::request::verbs;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::answer::{Answer, AnswerDecoder, Meaning, NotAnAnswer, Request, meaning_of};
use crate::level::Levels;

/// Enough for the answers of most requests, and the most that an idle connection keeps.
const BUFFER_BYTES: usize = 8 * 1024;

/// The longest multi-line answer, in bytes, with what its lines take in memory. A map with the most slots and nodes takes
/// less.
const LINES_BYTES: usize = 64 * 1024 * 1024;

/// An idle peer is probed after this long, and again at this interval, so that a peer that vanishes silently (an
/// unplugged cable, a power cut) is noticed within a minute.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How long to wait for a peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// The longest period without a byte. A long answer may take longer in total, as long as it keeps coming.
    pub(crate) idle: Duration,
    /// When the whole exchange must end.
    pub(crate) deadline: Option<Instant>,
}

impl Timeouts {
    /// Waits for as long as the connection lives.
    pub(crate) const NONE: Self = Self { idle: Duration::MAX, deadline: None };

    /// Waits until `deadline`.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { idle: Duration::MAX, deadline: Some(deadline) }
    }

    /// The same deadline, with at most this long without a byte.
    pub(crate) fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Waits for one step of an exchange.
    async fn wait<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let end = match (Instant::now().checked_add(self.idle), self.deadline) {
            (Some(silent), Some(deadline)) => silent.min(deadline),
            (Some(end), None) | (None, Some(end)) => end,
            (None, None) => return step.await,
        };
        timeout_at(end, step)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time")))
    }
}

/// Why an exchange gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// No byte of the request was sent.
    #[error("{0}")]
    NotSent(String),
    /// The peer does not accept the password. No byte of the request was sent.
    #[error("{0}")]
    NotAdmitted(String),
    /// The request was sent, at least in part.
    #[error("{0}")]
    NoAnswer(String),
}

/// A connection to a node or the coordinator.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Received and not yet consumed. Empty while the connection is idle.
    received: Vec<u8>,
    /// The levels that were requested on this connection.
    levels: Levels,
    /// The connection must not carry another request, since its answer could not be told from an earlier one's.
    is_spent: bool,
}

impl Connection {
    /// Connects, and authenticates if there is a password.
    pub(crate) async fn open(
        addr: &NodeAddr,
        password: Option<&Password>,
        timeouts: Timeouts,
    ) -> Result<Self, Failure> {
        let not_sent = |error: io::Error| Failure::NotSent(text_of(&error));
        let stream = timeouts.wait(TcpStream::connect(addr.as_str())).await.map_err(not_sent)?;
        // Requests are answered one by one; waiting to fill a packet would only delay them.
        stream.set_nodelay(true).map_err(not_sent)?;
        let received = Vec::with_capacity(BUFFER_BYTES);
        let mut connection = Self { stream, received, levels: Levels::default(), is_spent: false };
        if let Some(password) = password {
            connection.authenticate(password, timeouts).await?;
        }
        Ok(connection)
    }

    async fn authenticate(&mut self, password: &Password, timeouts: Timeouts) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        encode_array(&[verbs::AUTH, password.as_str()], &mut bytes);
        let answer = match self.send(&bytes, timeouts).await {
            Ok(()) => self.answer(AnswerDecoder::new(Encoding::Array), timeouts).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(Answer::Ok) => Ok(()),
            Ok(Answer::Error(error)) if meaning_of(&error) == Meaning::Later => Err(Failure::NotSent(error)),
            Ok(Answer::Error(error)) if error.contains("without any password") => {
                Err(Failure::NotAdmitted("it was started without a password: leave yours out".to_owned()))
            }
            Ok(Answer::Error(error)) => Err(Failure::NotAdmitted(format!("it rejected the password: {error}"))),
            Ok(_) => Err(Failure::NotSent(NotAnAnswer.to_string())),
            // The request itself was not sent.
            Err(failure) => Err(Failure::NotSent(failure.to_string())),
        }
    }

    /// The levels that were requested on this connection; unset where the cluster's own apply.
    pub(crate) fn levels(&self) -> Levels {
        self.levels
    }

    /// Whether the connection must not carry another request.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_spent
    }

    /// Has the operating system detect a peer that vanished silently.
    pub(crate) fn keep_alive(&self) -> io::Result<()> {
        SockRef::from(&self.stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
    }

    /// Whether an idle connection can carry another request: the peer has neither closed it nor sent anything.
    ///
    /// This asks the operating system itself, since tokio's view of the socket may lag a few events behind, and a
    /// request sent on a connection that the peer has closed must be sent again.
    pub(crate) fn is_usable(&self) -> bool {
        let peeked = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        !self.is_spent
            && self.received.is_empty()
            && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends a request and waits for its answer. If the connection's levels are not those the request needs, they are
    /// requested in the same write.
    pub(crate) async fn exchange(&mut self, request: &Request, timeouts: Timeouts) -> Result<Answer, Failure> {
        let set = (!request.need.is_met_by(self.levels)).then(|| request.need.line());
        let sent = match &set {
            None => self.send(&request.bytes, timeouts).await,
            Some(line) => self.send(&[line.as_bytes(), &request.bytes].concat(), timeouts).await,
        };
        if let Err(failure) = sent {
            // A node that turns a connection away says why before it closes it.
            let encoding = if set.is_some() { Encoding::Line } else { request.encoding };
            let answer = AnswerDecoder::new(encoding).decode(self.rest(timeouts).await);
            return if let Ok(Some((answer @ Answer::Error(_), _))) = answer { Ok(answer) } else { Err(failure) };
        }
        if let Some(line) = set {
            match self.answer(AnswerDecoder::new(Encoding::Line), timeouts).await? {
                Answer::Ok => self.levels = request.need.added_to(self.levels),
                other => return self.level_refused(line.trim_end(), other),
            }
        }
        self.answer(AnswerDecoder::of(request), timeouts).await
    }

    /// Decides the outcome of a request that was sent behind a level that the node did not accept.
    fn level_refused(&mut self, level: &str, answer: Answer) -> Result<Answer, Failure> {
        self.is_spent = true;
        match answer {
            // The node has turned the connection away and reads nothing from it, or it asks for a password and has
            // carried out neither request.
            Answer::Error(error) if meaning_of(&error) == Meaning::Later || error.starts_with("NOAUTH") => {
                Ok(Answer::Error(error))
            }
            // The request behind it may have been carried out, but not at the level asked for.
            Answer::Error(error) => Err(Failure::NoAnswer(format!("it refused {level}: {error}"))),
            _ => Err(no_protocol(NotAnAnswer)),
        }
    }

    /// Waits for the next answer.
    async fn answer(&mut self, mut decoder: AnswerDecoder, timeouts: Timeouts) -> Result<Answer, Failure> {
        loop {
            let answer = decoder.decode(&self.received).map_err(no_protocol)?;
            if let Some((answer, used)) = answer {
                self.received.drain(..used);
                self.received.shrink_to(BUFFER_BYTES);
                return Ok(answer);
            }
            self.receive(timeouts).await?;
        }
    }

    /// Sends the bytes of a request.
    ///
    /// IMPORTANT: [`Failure::NotSent`] means that nothing was done, so it is returned only while the system has not
    /// accepted a single byte. Half a request counts as sent: a node with the original framing may carry it out.
    pub(crate) async fn send(&mut self, mut bytes: &[u8], timeouts: Timeouts) -> Result<(), Failure> {
        let mut is_untouched = true;
        while !bytes.is_empty() {
            match timeouts.wait(self.stream.write(bytes)).await {
                Ok(0) => return Err(Failure::NoAnswer("the connection takes no more bytes".to_owned())),
                Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
                Err(error) if is_untouched => return Err(Failure::NotSent(text_of(&error))),
                Err(error) => return Err(Failure::NoAnswer(text_of(&error))),
            }
            is_untouched = false;
        }
        Ok(())
    }

    /// The lines of an answer: up to an empty line if `has_more` says so of the first line, otherwise just that one. An
    /// answer in the array encoding is returned as its words, or as one line with its type marker.
    pub(crate) async fn lines(
        &mut self,
        has_more: impl Fn(&str) -> bool,
        timeouts: Timeouts,
    ) -> Result<Vec<String>, Failure> {
        let mut lines: Vec<String> = Vec::new();
        let mut decoder = FrameDecoder::new();
        let mut start = 0;
        loop {
            let unread = self.received.get(start..).unwrap_or_default();
            // Lines that are short take more memory than their bytes.
            if start + lines.len() * size_of::<String>() > LINES_BYTES {
                return Err(no_protocol(NotAnAnswer));
            }
            match decoder.decode(unread).map_err(no_protocol)? {
                None if start + unread.len() > LINES_BYTES => return Err(no_protocol(NotAnAnswer)),
                None => {
                    self.receive(timeouts).await?;
                    continue;
                }
                Some((Frame::Array(words), used)) => {
                    lines = words.map(text).collect::<Result<_, _>>()?;
                    start += used;
                    break;
                }
                Some((Frame::Line(b""), used)) if !lines.is_empty() => {
                    start += used;
                    break;
                }
                Some((Frame::Line(line), used)) => {
                    lines.push(text(line)?);
                    start += used;
                }
            }
            if let [first] = lines.as_slice()
                && !has_more(first)
            {
                break;
            }
        }
        self.received.drain(..start);
        self.received.shrink_to(BUFFER_BYTES);
        Ok(lines)
    }

    /// Waits for more bytes.
    async fn receive(&mut self, timeouts: Timeouts) -> Result<(), Failure> {
        match timeouts.wait(self.stream.read_buf(&mut self.received)).await {
            Ok(0) => Err(Failure::NoAnswer("it closed the connection before it answered".to_owned())),
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::NoAnswer(text_of(&error))),
        }
    }

    /// What had arrived before the connection broke.
    async fn rest(&mut self, timeouts: Timeouts) -> &[u8] {
        while self.received.len() < limits::ARRAY_HEADER_BYTES + BUFFER_BYTES && self.receive(timeouts).await.is_ok() {}
        &self.received
    }
}

fn text(line: &[u8]) -> Result<String, Failure> {
    std::str::from_utf8(line).map(str::to_owned).map_err(no_protocol)
}

fn no_protocol<E>(_: E) -> Failure {
    Failure::NoAnswer(NotAnAnswer.to_string())
}

/// A short description of an operating system error, without its number.
fn text_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "it broke the connection".to_owned(),
        _ => error.to_string(),
    }
}
