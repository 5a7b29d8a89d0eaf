//! One connection: its buffers and the loop round them.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use engine::record::Record;
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame, FrameDecoder};
use proto::response::Response;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::shutdown::Shutdown;

/// How much a read asks for at least.
const READ_BYTES: usize = 16 * 1024;

/// A buffer that has grown beyond this is given back once it is empty.
const KEPT_BYTES: usize = 256 * 1024;

/// Answers are written once they come to this, although more requests have arrived: a client that asks for much and
/// reads nothing costs no more than this and one answer.
const OUTPUT_BYTES: usize = 256 * 1024;

/// A client that takes nothing for so long, while an answer waits for it, is let go.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// With the original framing: the silence after which an unterminated request is taken for whole.
const ORIGINAL_FRAMING_SILENCE: Duration = Duration::from_millis(20);

/// What a session wants after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The next request.
    Next,
    /// This request was not executed: it must wait until [`Session::settle`] has run, and is then offered again.
    Settle,
    /// What [`Session::take_body`] gives belongs at the end of what was written.
    Body,
    /// Write the answers, then close.
    Close,
    /// Write the answers, then give the connection back: it speaks another protocol from here on.
    Upgrade,
}

/// A long value, sent from where it is stored.
#[derive(Debug)]
pub struct Body {
    /// The record whose value it is.
    pub record: Record,
    /// What ends it: the line end of its encoding.
    pub end: &'static [u8],
}

impl Body {
    /// The bytes of the value.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.record.value().unwrap_or_default()
    }
}

/// What executes the requests of one connection.
pub trait Session: Send {
    /// Executes a request and appends its answer, or keeps it for [`Session::settle`].
    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow;

    /// Answers the requests that were kept, in their order. Called after every batch.
    ///
    /// # Errors
    /// What this batch has come to must not be told; the connection is to end.
    fn settle(&mut self, out: &mut Vec<u8>) -> impl Future<Output = io::Result<()>> + Send;

    /// What follows the bytes written so far, after [`Flow::Body`].
    fn take_body(&mut self) -> Option<Body>;

    /// The answers of a batch are written: a good moment to wake others.
    fn answered(&mut self);
}

/// Why the loop of [`Connection::serve`] has ended, where the connection is still good.
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
}

/// Why [`FrameReader::frames`] has stopped.
#[derive(Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The rest of a frame has still to arrive.
    NeedsMore,
    /// The handler said so.
    Handler(Flow),
    /// What has arrived is no frame. Where the next one begins is unknown.
    Bad(ErrorReply),
}

impl FrameReader {
    /// Nothing has arrived.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what has arrived, or waits for it; 0 at the end of the input. Nothing is lost when this is cancelled.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.input.is_empty() && self.input.capacity() > KEPT_BYTES {
            self.input = BytesMut::new();
        }
        // A frame that has grown long is read in longer steps. Memory follows what arrives, never what was announced.
        self.input.reserve(self.input.len().clamp(READ_BYTES, 16 * READ_BYTES));
        from.read_buf(&mut self.input).await
    }

    /// Hands every frame that has arrived to `handle`, until it wants something else than the next.
    pub fn frames(&mut self, mut handle: impl FnMut(Frame<'_>) -> Flow) -> Stopped {
        loop {
            let (flow, consumed) = match self.decoder.decode(&self.input) {
                Ok(Some((frame, consumed))) => (handle(frame), consumed),
                Ok(None) => return Stopped::NeedsMore,
                Err(error) => return Stopped::Bad(error),
            };
            if flow != Flow::Settle {
                self.input.advance(consumed);
            }
            if flow != Flow::Next {
                return Stopped::Handler(flow);
            }
        }
    }

    /// How many bytes have arrived and were not taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.input.len()
    }

    /// The encoding of the frame that has begun and not ended, if there is one.
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
    /// What has arrived on it.
    pub reader: FrameReader,
    /// What is to be written to it.
    pub output: Vec<u8>,
}

impl Connection {
    /// A connection on which nothing was said yet.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, reader: FrameReader::new(), output: Vec::new() }
    }

    /// Reads more; 0 at the end of the input. Nothing is lost when this is cancelled.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.reader.fill(&mut self.stream).await
    }

    /// Writes the output, all of it.
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

    /// Serves requests until the client is done, breaks the protocol, or shutdown begins.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn serve<S: Session>(
        &mut self,
        session: &mut S,
        original_framing: bool,
        shutdown: &Shutdown,
    ) -> io::Result<Ended> {
        let mut shutdown_begun = pin!(shutdown.begun());
        loop {
            let stopped = self.execute(session);
            session.settle(&mut self.output).await?;
            if let Stopped::Bad(error) = &stopped {
                let encoding = self.reader.unfinished().unwrap_or(Encoding::Line);
                Response::Error(error.clone()).encode(encoding, &mut self.output);
            }
            self.flush().await?;
            session.answered();
            match stopped {
                Stopped::Handler(Flow::Next | Flow::Settle) => continue,
                Stopped::Handler(Flow::Body) => {
                    self.write_body(session).await?;
                    continue;
                }
                Stopped::Handler(Flow::Upgrade) => return Ok(Ended::Upgraded),
                Stopped::Handler(Flow::Close) => return Ok(Ended::Closed),
                Stopped::Bad(_) => {
                    let_the_answer_arrive(&mut self.stream).await;
                    return Ok(Ended::Closed);
                }
                Stopped::NeedsMore => {}
            }
            let is_line = self.reader.unfinished() == Some(Encoding::Line);
            let arrived = tokio::select! {
                arrived = self.reader.fill(&mut self.stream) => arrived?,
                () = &mut shutdown_begun => return Ok(Ended::Closed),
                () = tokio::time::sleep(ORIGINAL_FRAMING_SILENCE), if original_framing && is_line => {
                    while session.request(self.reader.unterminated(), &mut self.output) == Flow::Settle {
                        session.settle(&mut self.output).await?;
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
                    Some(Encoding::Array) => {
                        Response::Error(ErrorReply::IncompleteArray).encode(Encoding::Array, &mut self.output);
                    }
                    None => {}
                }
                return self.finish(session).await;
            }
        }
    }

    /// Executes what has arrived, until there is enough to write.
    fn execute<S: Session>(&mut self, session: &mut S) -> Stopped {
        let Self { reader, output, .. } = self;
        let mut full = false;
        let stopped = reader.frames(|frame| {
            if output.len() >= OUTPUT_BYTES {
                full = true;
                return Flow::Settle;
            }
            session.request(frame, output)
        });
        if full { Stopped::Handler(Flow::Next) } else { stopped }
    }

    async fn finish<S: Session>(&mut self, session: &mut S) -> io::Result<Ended> {
        session.settle(&mut self.output).await?;
        self.flush().await?;
        self.write_body(session).await?;
        self.flush().await?;
        session.answered();
        Ok(Ended::Closed)
    }

    async fn write_body<S: Session>(&mut self, session: &mut S) -> io::Result<()> {
        if let Some(body) = session.take_body() {
            write_all(&self.stream, body.bytes()).await?;
            self.output.extend_from_slice(body.end);
        }
        Ok(())
    }
}

/// Ends the output, then reads and forgets for a moment. Closing at once, with bytes unread, would reset the connection
/// and take the last answer with it.
pub(crate) async fn let_the_answer_arrive(stream: &mut TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut rest = [0; READ_BYTES];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether the client reads it or not, the connection ends.
    let _ = tokio::time::timeout(Duration::from_secs(2), drain).await;
}

/// Writes all bytes: at once where the socket takes them, which it nearly always does.
async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let stalled = || io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing");
                tokio::time::timeout(WRITE_STALL, stream.writable()).await.map_err(|_| stalled())??;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
