//! A client that sends and does not read.
//!
//! Many clients send a long pipeline whole before they read an answer. When the answers have filled the sockets' buffers
//! neither end would go on, for each waits for the other to read. So once a client has taken nothing for a moment, its
//! requests are read and carried out all the same, and their answers are kept, up to a limit of the connection and one of
//! the process. Beyond that nothing more is read; and a client that still takes nothing is cut off.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::connection::{
    Connection, Flow, KEPT_BYTES, Session, Stopped, WRITE_STALL, go_on, reads_nothing, write_while_taken,
};
use crate::listener::Limits;

/// A client that has taken nothing for so long is read on from.
const READ_ON_AFTER: Duration = Duration::from_millis(100);

/// A client that has more to its name than its limit and takes nothing for so long is cut off.
const CUT_OFF_AFTER: Duration = Duration::from_secs(10);

/// How much of answers may wait in all, for clients that read none. Beyond it their requests are not read.
const WAITING_BYTES: usize = 1024 * 1024 * 1024;

/// A part of what may wait in all, given back when this is dropped.
struct Share<'a> {
    limits: &'a Limits,
    bytes: usize,
}

impl Share<'_> {
    /// Makes the share so large. Says whether there is room for more.
    fn resize(&mut self, bytes: usize) -> bool {
        // Wraps where it shrinks, and back.
        let before = self.limits.waiting.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        let all = before.wrapping_add(bytes.wrapping_sub(self.bytes));
        self.bytes = bytes;
        all < WAITING_BYTES
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.limits.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Connection {
    /// Writes the output, all of it. Where the client takes nothing, goes on with its requests meanwhile; then `stopped` is
    /// why that has stopped.
    pub(crate) async fn deliver<S: Session>(
        &mut self,
        session: &mut S,
        stopped: &mut Stopped,
        limits: &Limits,
    ) -> io::Result<()> {
        let patience = if S::KEEPS_ANSWERS { READ_ON_AFTER } else { CUT_OFF_AFTER };
        let mut sent = write_while_taken(&self.stream, &self.output, patience).await?;
        if sent < self.output.len() && !S::KEEPS_ANSWERS {
            limits.cut_off.fetch_add(1, Ordering::Relaxed);
            return Err(reads_nothing());
        }
        if sent < self.output.len() {
            sent = self.keep_answers(sent, session, stopped, limits).await?;
        }
        debug_assert_eq!(sent, self.output.len(), "everything is delivered");
        self.output.clear();
        if self.output.capacity() > KEPT_BYTES {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Writes a long value from where it is stored, as far as the client takes it: all of it, where no more may wait in all.
    pub(crate) async fn write_long(&mut self, value: &[u8], limits: &Limits) -> io::Result<usize> {
        let written = write_while_taken(&self.stream, value, READ_ON_AFTER).await?;
        let rest = value.get(written..).unwrap_or_default();
        if rest.is_empty() || limits.waiting.load(Ordering::Relaxed) + rest.len() < WAITING_BYTES {
            return Ok(written);
        }
        match write_while_taken(&self.stream, rest, WRITE_STALL).await? {
            more if more == rest.len() => Ok(value.len()),
            _ => Err(reads_nothing()),
        }
    }

    /// Reads on and keeps the answers, of which `sent` bytes are written, until all are.
    async fn keep_answers<S: Session>(
        &mut self,
        mut sent: usize,
        session: &mut S,
        stopped: &mut Stopped,
        limits: &Limits,
    ) -> io::Result<usize> {
        let mut share = Share { limits, bytes: 0 };
        let mut taken_at = Instant::now();
        let mut input_ended = false;
        while sent < self.output.len() {
            if sent >= KEPT_BYTES {
                self.output.drain(..sent);
                sent = 0;
            }
            let waiting = self.output.len() - sent;
            let is_over = waiting > limits.flags.client_output_limit;
            let may_read = share.resize(waiting) && !is_over && !input_ended;
            if may_read && session.is_half_settled() {
                self.keep_more(session, stopped).await?;
                continue;
            }
            if may_read && *stopped == Stopped::Handler(Flow::Body) {
                self.keep_body(session);
                *stopped = Stopped::Handler(Flow::Next);
                continue;
            }
            if may_read && matches!(stopped, Stopped::Handler(Flow::Next | Flow::Settle)) {
                self.keep_more(session, stopped).await?;
                continue;
            }
            let until = taken_at + if is_over { CUT_OFF_AFTER } else { WRITE_STALL };
            let wants_more = may_read && *stopped == Stopped::NeedsMore;
            tokio::select! {
                // A client that takes its answers is not cut off, although it was not looked at for long.
                biased;
                writable = self.stream.writable() => {
                    writable?;
                    match self.stream.try_write(self.output.get(sent..).unwrap_or_default()) {
                        Ok(written) => (sent, taken_at) = (sent + written, Instant::now()),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                readable = self.stream.readable(), if wants_more => {
                    readable?;
                    match self.reader.fill_now(&self.stream) {
                        // The loop that called this will find the end again.
                        Ok(0) => input_ended = true,
                        Ok(_) => self.keep_more(session, stopped).await?,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                () = sleep_until(until) => {
                    limits.cut_off.fetch_add(1, Ordering::Relaxed);
                    return Err(reads_nothing());
                }
            }
        }
        Ok(sent)
    }

    /// Goes on with what has arrived and keeps the answers.
    async fn keep_more<S: Session>(&mut self, session: &mut S, stopped: &mut Stopped) -> io::Result<()> {
        // In a buffer of its own: a session looks at how full it is.
        let mut answers = Vec::new();
        go_on(&mut self.reader, session, stopped, &mut answers).await?;
        self.output.append(&mut answers);
        session.answered();
        Ok(())
    }

    /// Keeps a long value: it cannot be sent from where it is.
    fn keep_body<S: Session>(&mut self, session: &mut S) {
        if let Some(body) = session.take_body() {
            self.output.extend_from_slice(body.bytes());
            self.output.extend_from_slice(body.end);
        }
    }
}
