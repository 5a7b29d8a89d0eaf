//! One connection: its buffers and the loop around them.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use engine::record::Record;
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame, FrameDecoder, Frames};
use proto::response::Response;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;

use crate::listener::Shared;
use crate::processors;
use crate::shutdown::Shutdown;
use crate::stalled::Share;

/// The minimum buffer space for a read.
const READ_BYTES: usize = 16 * 1024;

/// A buffer that has grown beyond this is released once it is empty.
pub const KEPT_BYTES: usize = 256 * 1024;

/// Answers are written once they reach this size, even if more requests have arrived: a client that requests much and
/// reads nothing costs no more than this and one answer.
const OUTPUT_BYTES: usize = 256 * 1024;

/// A client that is over its limit for answers and takes nothing for this long is cut off.
pub const CUT_OFF_AFTER: Duration = Duration::from_secs(10);

/// A client that takes nothing for this long, while an answer waits for it, is disconnected.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(60);

/// How long a client that gets no more answers may take to close its side, and in the end while the process stops.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_AT_SHUTDOWN: Duration = Duration::from_millis(300);

/// With the original framing: the silence after which an unterminated request counts as complete.
const ORIGINAL_FRAMING_SILENCE: Duration = Duration::from_millis(20);

/// The maximum number of frames decoded before the first of them is handled.
const FRAMES_AT_ONCE: usize = 32;

/// What a session wants after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next request.
    Next,
    /// This request was not executed: it is offered again after [`Session::settle`] has run.
    Settle,
    /// Send the value from [`Session::take_body`] after the output written so far.
    Body,
    /// Write the answers, then close.
    Close,
    /// Write the answers, then return the connection to the caller: it speaks another protocol from here on.
    Upgrade,
}

impl Flow {
    /// What a session wants after a request that it could not parse.
    #[must_use]
    pub fn after(error: &ErrorReply) -> Self {
        if matches!(error, ErrorReply::Protocol(_)) { Self::Close } else { Self::Next }
    }
}

/// A long value, sent from where it is stored.
#[derive(Debug)]
pub struct Body {
    /// The record whose value it is.
    pub record: Record,
    /// The line end of its encoding, sent after the value.
    pub end: &'static [u8],
}

impl Body {
    /// The bytes of the value.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.record.value().unwrap_or_default()
    }
}

/// Executes the requests of one connection.
pub trait Session: Send {
    /// Whether requests are still carried out, and their answers kept, while the client reads none.
    const KEEPS_ANSWERS: bool = true;

    /// Called with upcoming requests, so that the session can prefetch for them. Either many have arrived together; or
    /// one has arrived alone, and others are read before it is carried out.
    fn look_ahead(&mut self, frames: Frames<'_>) {
        let _ = frames;
    }

    /// Executes a request and appends its answer, or keeps it for [`Session::settle`].
    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow;

    /// Answers the kept requests, in order. Called after every batch. What takes long should look at `client` now and
    /// then: see [`has_ended`].
    ///
    /// # Errors
    /// The results of this batch must not be sent; the connection must end.
    fn settle(&mut self, client: &TcpStream, out: &mut Vec<u8>) -> impl Future<Output = io::Result<()>> + Send;

    /// Whether [`Session::settle`] has answered only as many requests as it makes sense to buffer: send what it has
    /// written, then call it again before anything else.
    fn is_half_settled(&self) -> bool {
        false
    }

    /// The value to send after the output written so far, after [`Flow::Body`].
    fn body(&self) -> Option<&Body> {
        None
    }

    /// Takes this value.
    fn take_body(&mut self) -> Option<Body> {
        None
    }

    /// Called once the answers of a batch are written, or cannot be, so that the session can wake others.
    fn answered(&mut self);
}

/// Why [`Connection::serve`] has returned, if the connection is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There is nothing more to do on it.
    Closed,
    /// It speaks another protocol from here on.
    Upgraded,
}

/// Bytes that have arrived, and the frames in them.
#[derive(Debug, Default)]
pub struct FrameReader {
    input: BytesMut,
    decoder: FrameDecoder,
    /// All that has arrived is exactly one frame, which the decoder has found.
    is_one_frame: bool,
}

/// Once the requests of one batch have been executed for this long, a session lets other connections have their turn.
pub const STRETCH: Duration = Duration::from_millis(2);

/// Why [`FrameReader::frames`] has stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The rest of a frame has yet to arrive.
    NeedsMore,
    /// The handler returned this.
    Handler(Flow),
    /// What has arrived is not a frame. Where the next one begins is unknown.
    Bad(ErrorReply),
}

impl FrameReader {
    /// A reader to which nothing has arrived yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what has arrived, without waiting; 0 at the end of the input.
    ///
    /// # Errors
    /// The connection is broken; [`io::ErrorKind::WouldBlock`] if nothing has arrived.
    pub(crate) fn fill_now(&mut self, from: &TcpStream) -> io::Result<usize> {
        self.input.reserve(self.input.len().clamp(READ_BYTES, 16 * READ_BYTES));
        from.try_read_buf(&mut self.input)
    }

    /// Reads what has arrived, or waits for input; 0 at the end of the input. Cancellation loses nothing.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = BytesMut::new();
        }
        // A long frame is read in larger steps. Memory grows with what arrives, never with an announced length.
        self.input.reserve(self.input.len().clamp(READ_BYTES, 16 * READ_BYTES));
        from.read_buf(&mut self.input).await
    }

    /// Passes what has arrived to `look` if it is exactly one frame, which is handled later.
    pub(crate) fn look_at_one(&mut self, look: impl FnOnce(Frames<'_>)) {
        self.is_one_frame = self.decoder.finds_one(&self.input);
        if self.is_one_frame {
            look(self.decoder.found(&self.input));
        }
    }

    /// Passes every frame that has arrived to `handle`, until it returns anything other than [`Flow::Next`].
    pub fn frames(&mut self, handle: impl FnMut(Frame<'_>) -> Flow) -> Stopped {
        self.frames_ahead(handle, |_, _| {}, |handle, frame| handle(frame))
    }

    /// Like [`FrameReader::frames`], but passes frames that have arrived together to `look_ahead` before handling the
    /// first. Both closures get `state`.
    pub fn frames_ahead<S>(
        &mut self,
        mut state: S,
        mut look_ahead: impl FnMut(&mut S, Frames<'_>),
        mut handle: impl FnMut(&mut S, Frame<'_>) -> Flow,
    ) -> Stopped {
        loop {
            let is_found = std::mem::take(&mut self.is_one_frame);
            match if is_found { Ok(1) } else { self.decoder.find(&self.input, FRAMES_AT_ONCE) } {
                Ok(0) => return Stopped::NeedsMore,
                Ok(1) => {}
                Ok(_) => look_ahead(&mut state, self.decoder.found(&self.input)),
                Err(error) => return Stopped::Bad(error),
            }
            let (mut done, mut flow) = (0, Flow::Next);
            for frame in self.decoder.found(&self.input) {
                flow = handle(&mut state, frame);
                done += usize::from(flow != Flow::Settle);
                if flow != Flow::Next {
                    break;
                }
            }
            self.input.advance(self.decoder.consume(done));
            if flow != Flow::Next {
                return Stopped::Handler(flow);
            }
        }
    }

    /// Sets whether frames are limited to the size allowed before authentication.
    pub(crate) fn limit_unauthenticated(&mut self, is_unauthenticated: bool) {
        self.decoder.limit_unauthenticated(is_unauthenticated);
    }

    /// How many bytes have arrived but are not consumed yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.input.len()
    }

    /// The encoding of a frame that has begun but not ended, if there is one.
    fn unfinished(&self) -> Option<Encoding> {
        let first = self.input.first().filter(|_| self.decoder.is_inside_frame())?;
        Some(if *first == b'*' { Encoding::Array } else { Encoding::Line })
    }

    fn unterminated(&mut self) -> Frame<'_> {
        self.decoder.decode_unterminated(&self.input)
    }
}

/// A connection with its buffers.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// The input that has arrived on it.
    pub reader: FrameReader,
    /// The output to be written to it.
    pub output: Vec<u8>,
}

impl Connection {
    /// A connection on which nothing has been sent yet.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, reader: FrameReader::new(), output: Vec::new() }
    }

    /// Reads more input; 0 at the end of the input. Cancellation loses nothing.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.reader.fill(&mut self.stream).await
    }

    /// Writes all of the output.
    ///
    /// # Errors
    /// The connection is broken, or the other end has taken nothing for a minute.
    pub async fn flush(&mut self) -> io::Result<()> {
        write_all(&self.stream, &self.output).await?;
        self.output.clear();
        if self.output.capacity() > KEPT_BYTES {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Writes bytes ahead of the buffered output.
    ///
    /// # Errors
    /// As [`Connection::flush`].
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.stream, bytes).await
    }

    /// Serves requests until the client is done, breaks the protocol, or shutdown begins.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn serve<S: Session>(
        &mut self,
        session: &mut S,
        shared: &Shared,
        shutdown: &Shutdown,
    ) -> io::Result<Ended> {
        let original_framing = shared.flags.original_framing;
        let mut shutdown_begun = pin!(shutdown.begun());
        let mut stopped = Stopped::NeedsMore;
        let mut share = Share::new(shared);
        loop {
            let Self { reader, stream, output, .. } = self;
            let delivered = match go_on(reader, session, &mut stopped, stream, output).await {
                Ok(()) => self.deliver(session, &mut stopped, &mut share).await,
                gone => gone,
            };
            // Also if the client is gone: what was carried out is for others as well.
            session.answered();
            delivered?;
            match stopped {
                _ if session.is_half_settled() => continue,
                Stopped::Handler(Flow::Next | Flow::Settle) => continue,
                Stopped::Handler(Flow::Body) => {
                    if let Some(body) = session.take_body() {
                        self.write_long(&body, &mut share).await?;
                    }
                    continue;
                }
                Stopped::Handler(Flow::Upgrade) => return Ok(Ended::Upgraded),
                Stopped::Handler(Flow::Close) | Stopped::Bad(_) => {
                    self.linger(shutdown).await;
                    return Ok(Ended::Closed);
                }
                Stopped::NeedsMore => {}
            }
            // A client whose next requests are always there already would otherwise never let the process end.
            if shutdown.has_begun() {
                self.linger(shutdown).await;
                return Ok(Ended::Closed);
            }
            let is_line = self.reader.unfinished() == Some(Encoding::Line);
            let arrived = tokio::select! {
                biased;
                arrived = self.reader.fill(&mut self.stream) => arrived?,
                () = &mut shutdown_begun => return Ok(Ended::Closed),
                () = silence(shared.flags.idle_timeout) => {
                    shared.idle.fetch_add(1, Ordering::Relaxed);
                    return Ok(Ended::Closed);
                }
                // Evaluated even where the condition is false, but the timer is set up only when it is waited for.
                () = silence(ORIGINAL_FRAMING_SILENCE), if original_framing && is_line => {
                    while session.request(self.reader.unterminated(), &mut self.output) == Flow::Settle {
                        session.settle(&self.stream, &mut self.output).await?;
                        self.flush().await?;
                    }
                    return self.finish(session).await;
                }
            };
            if arrived == 0 {
                match self.reader.unfinished() {
                    Some(Encoding::Line) => {
                        Response::Error(ErrorReply::Incomplete).encode(Encoding::Line, &mut self.output);
                    }
                    Some(Encoding::Array | Encoding::Resp3) => {
                        Response::Error(ErrorReply::IncompleteArray).encode(Encoding::Array, &mut self.output);
                    }
                    None => {}
                }
                return self.finish(session).await;
            }
            if processors::is_one() {
                self.reader.look_at_one(|frames| session.look_ahead(frames));
                processors::all_read().await;
            }
        }
    }

    /// Lets the last answers arrive, for a shorter time once the process stops.
    pub(crate) async fn linger(&mut self, shutdown: &Shutdown) {
        let stopping = async {
            shutdown.begun().await;
            tokio::time::sleep(LINGER_AT_SHUTDOWN).await;
        };
        tokio::select! {
            () = let_the_answer_arrive(&mut self.stream) => {}
            () = stopping => {}
        }
    }

    /// Answers what is not answered yet, before the connection is closed.
    async fn finish<S: Session>(&mut self, session: &mut S) -> io::Result<Ended> {
        let finished = self.answer_the_rest(session).await;
        session.answered();
        finished.map(|()| Ended::Closed)
    }

    async fn answer_the_rest<S: Session>(&mut self, session: &mut S) -> io::Result<()> {
        session.settle(&self.stream, &mut self.output).await?;
        self.flush().await?;
        while session.is_half_settled() {
            session.settle(&self.stream, &mut self.output).await?;
            self.flush().await?;
        }
        if let Some(body) = session.take_body() {
            write_all(&self.stream, body.bytes()).await?;
            self.output.extend_from_slice(body.end);
            self.flush().await?;
        }
        Ok(())
    }
}

/// Executes what has arrived and answers the kept requests, until there is enough to write; `stopped` then tells why
/// no more was executed. Requests left to be answered by the previous call come first.
pub(crate) async fn go_on<S: Session>(
    reader: &mut FrameReader,
    session: &mut S,
    stopped: &mut Stopped,
    client: &TcpStream,
    output: &mut Vec<u8>,
) -> io::Result<()> {
    if !session.is_half_settled() {
        *stopped = execute(reader, session, output);
    }
    session.settle(client, output).await?;
    if !session.is_half_settled() {
        refuse_bad(reader, stopped, output);
    }
    Ok(())
}

/// Executes what has arrived, until there is enough to write.
fn execute<S: Session>(reader: &mut FrameReader, session: &mut S, output: &mut Vec<u8>) -> Stopped {
    let look_ahead = |session: &mut &mut S, frames: Frames<'_>| session.look_ahead(frames);
    reader.frames_ahead(session, look_ahead, |session, frame| {
        if output.len() >= OUTPUT_BYTES { Flow::Settle } else { session.request(frame, output) }
    })
}

/// Whether the client has closed the connection, or at least its own side: it sends no more requests, and whether it
/// reads another answer is unknown. Does not wait, and reads nothing.
#[must_use]
pub fn has_ended(client: &TcpStream) -> bool {
    let mut readiness = pin!(client.ready(Interest::READABLE));
    match readiness.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(ready)) => ready.is_read_closed(),
        Poll::Ready(Err(_)) => true,
        Poll::Pending => false,
    }
}

/// Waits for `timeout`; forever if it is zero, without reading the clock.
async fn silence(timeout: Duration) {
    if timeout.is_zero() { std::future::pending().await } else { tokio::time::sleep(timeout).await }
}

/// Shuts down the output, then reads and discards input for a moment, until the client closes, too. Closing at once with
/// unread bytes would reset the connection and lose the last answers.
pub(crate) async fn let_the_answer_arrive(stream: &mut TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut rest = [0; READ_BYTES];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // The connection ends whether the client reads the answer or not.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// Writes all bytes.
async fn write_all(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let written = write_while_taken(stream, bytes, WRITE_STALL).await?;
    if written == bytes.len() { Ok(()) } else { Err(reads_nothing()) }
}

pub(crate) fn reads_nothing() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers")
}

/// Writes bytes, at once if the socket takes them, as it nearly always does. Gives up if the socket takes none for
/// `patience`; returns how many bytes it took.
pub(crate) async fn write_while_taken(stream: &TcpStream, bytes: &[u8], patience: Duration) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match stream.try_write(bytes.get(done..).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match tokio::time::timeout(patience, stream.writable()).await {
                    Ok(writable) => writable?,
                    Err(_) => return Ok(done),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Answers invalid input, after the answers to the requests before it.
fn refuse_bad(reader: &FrameReader, stopped: &Stopped, out: &mut Vec<u8>) {
    if let Stopped::Bad(error) = stopped {
        let encoding = reader.unfinished().unwrap_or(Encoding::Line);
        Response::Error(error.clone()).encode(encoding, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the handler gets for input that arrives in these parts, and how it ends; each part is looked at first or
    /// not.
    fn handled(parts: &[&[u8]], is_looked_at: bool) -> (Vec<String>, Stopped) {
        let (mut reader, mut frames, mut looked_at) = (FrameReader::new(), Vec::new(), 0);
        let mut stopped = Stopped::NeedsMore;
        for part in parts {
            reader.input.extend_from_slice(part);
            if is_looked_at {
                reader.look_at_one(|frames| looked_at += frames.count());
            }
            let before = frames.len();
            stopped = reader.frames(|frame| {
                frames.push(format!("{frame:?}"));
                Flow::Next
            });
            let arrived_alone = frames.len() - before == 1 && reader.pending() == 0;
            assert_eq!(looked_at, usize::from(is_looked_at && arrived_alone), "of {parts:?}");
            looked_at = 0;
        }
        (frames, stopped)
    }

    #[test]
    fn what_arrives_together_is_looked_at_together() {
        let mut reader = FrameReader::new();
        reader.input.extend_from_slice(b"GET a\nGET b\nGET c\n");
        reader.look_at_one(|_| panic!("there are three"));
        let mut looked_at = Vec::new();
        reader.frames_ahead((), |(), frames| looked_at.push(frames.count()), |(), _| Flow::Next);
        assert_eq!(looked_at, [3]);
    }

    #[test]
    fn what_is_looked_at_first_is_handled_all_the_same() {
        let whole: &[&[u8]] =
            &[b"GET a\n", b"*2\r\n$3\r\nGET\r\n$1\r\nb\r\n", b"GET c\nGET d\n", b"*1\r\n$4\r\nPING\r\nPING\n"];
        for bytes in whole {
            for (first, second) in (0..=bytes.len()).map(|at| bytes.split_at(at)) {
                let parts = [first, second];
                assert_eq!(handled(&parts, true), handled(&parts, false), "of {parts:?}");
            }
        }
        for bad in [&b"*2\r\n$x\r\n"[..], b"*1\r\n$4\r\nPING\r\n*x\r\n", b"PING\n*x\r\n"] {
            let (frames, stopped) = handled(&[bad], true);
            assert!(matches!(stopped, Stopped::Bad(_)), "{bad:?}");
            assert_eq!((frames, stopped), handled(&[bad], false), "of {bad:?}");
        }
    }
}
