//! Handling clients that send but do not read.
//!
//! Many clients send a whole long pipeline before they read an answer. Once the answers have filled the sockets'
//! buffers, neither end would make progress, since each waits for the other to read. So once a client has taken
//! nothing for a moment, its requests are still read and carried out, and their answers are kept, up to a limit per
//! connection and one for the process. Beyond that nothing more is read, and a client that still takes nothing is cut
//! off.

use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::connection::{
    CUT_OFF_AFTER, Connection, Flow, KEPT_BYTES, Session, Stopped, WRITE_STALL, go_on, reads_nothing, write_while_taken,
};
use crate::listener::Shared;

/// Once a client has taken nothing for this long, its further requests are read all the same.
const READ_ON_AFTER: Duration = Duration::from_millis(100);

/// How many bytes of answers may wait in total for clients that read none. Beyond this, their requests are not read.
const WAITING_BYTES: usize = 1024 * 1024 * 1024;

/// A connection's share of the total that may wait, released on drop.
struct Share<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Share<'_> {
    /// Sets the size of the share. Returns whether there is room for more.
    fn resize(&mut self, bytes: usize) -> bool {
        // Wraps around if the share shrinks, and back.
        let before = self.shared.waiting.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        let all = before.wrapping_add(bytes.wrapping_sub(self.bytes));
        self.bytes = bytes;
        all < WAITING_BYTES
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.shared.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Connection {
    /// Writes all of the output. If the client takes nothing, goes on with its requests meanwhile; `stopped` then
    /// tells why that has stopped.
    pub(crate) async fn deliver<S: Session>(
        &mut self,
        session: &mut S,
        stopped: &mut Stopped,
        shared: &Shared,
    ) -> io::Result<()> {
        let patience = if S::KEEPS_ANSWERS { READ_ON_AFTER } else { CUT_OFF_AFTER };
        let mut sent = write_while_taken(&self.stream, &self.output, patience).await?;
        if sent < self.output.len() && !S::KEEPS_ANSWERS {
            shared.cut_off.fetch_add(1, Ordering::Relaxed);
            return Err(reads_nothing());
        }
        if sent < self.output.len() {
            sent = self.keep_answers(sent, session, stopped, shared).await?;
        }
        assert_eq!(sent, self.output.len(), "everything is delivered");
        self.output.clear();
        if self.output.capacity() > KEPT_BYTES {
            self.output = Vec::new();
        }
        Ok(())
    }

    /// Writes a long value from where it is stored, as far as the client takes it; all of it, if no more may wait in
    /// total.
    pub(crate) async fn write_long(&mut self, value: &[u8], shared: &Shared) -> io::Result<usize> {
        let written = write_while_taken(&self.stream, value, READ_ON_AFTER).await?;
        let rest = value.get(written..).unwrap_or_default();
        if rest.is_empty() || shared.waiting.load(Ordering::Relaxed) + rest.len() < WAITING_BYTES {
            return Ok(written);
        }
        match write_while_taken(&self.stream, rest, WRITE_STALL).await? {
            more if more == rest.len() => Ok(value.len()),
            _ => Err(reads_nothing()),
        }
    }

    /// Reads on and keeps the answers until all are written; `sent` bytes of the output are written already.
    async fn keep_answers<S: Session>(
        &mut self,
        mut sent: usize,
        session: &mut S,
        stopped: &mut Stopped,
        shared: &Shared,
    ) -> io::Result<usize> {
        let mut share = Share { shared, bytes: 0 };
        let mut taken_at = Instant::now();
        let mut input_ended = false;
        while sent < self.output.len() {
            // Half of it at least: what is left is moved.
            if sent >= KEPT_BYTES.max(self.output.len() / 2) {
                self.output.drain(..sent);
                sent = 0;
            }
            let waiting = self.output.len() - sent;
            let is_over = waiting > shared.flags.client_output_limit;
            let may_read = share.resize(waiting) && !is_over && !input_ended;
            if may_read && session.is_half_settled() {
                self.keep_more(&mut sent, &mut taken_at, session, stopped).await?;
                continue;
            }
            if may_read && *stopped == Stopped::Handler(Flow::Body) {
                self.keep_body(session);
                *stopped = Stopped::Handler(Flow::Settle);
                continue;
            }
            if may_read && *stopped == Stopped::Handler(Flow::Settle) {
                self.keep_more(&mut sent, &mut taken_at, session, stopped).await?;
                continue;
            }
            let until = taken_at + if is_over { CUT_OFF_AFTER } else { WRITE_STALL };
            let wants_more = may_read && *stopped == Stopped::NeedsMore;
            tokio::select! {
                // A client that takes its answers is not cut off, even if it was not checked for a long time.
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
                        // The caller's loop will see the end again.
                        Ok(0) => input_ended = true,
                        Ok(_) => self.keep_more(&mut sent, &mut taken_at, session, stopped).await?,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(error),
                    }
                }
                () = sleep_until(until) => {
                    shared.cut_off.fetch_add(1, Ordering::Relaxed);
                    return Err(reads_nothing());
                }
            }
        }
        Ok(sent)
    }

    /// Goes on with what has arrived and keeps the answers. That may take long, so the client can take those that are
    /// kept already meanwhile.
    async fn keep_more<S: Session>(
        &mut self,
        sent: &mut usize,
        taken_at: &mut Instant,
        session: &mut S,
        stopped: &mut Stopped,
    ) -> io::Result<()> {
        let Self { reader, stream, output, .. } = self;
        // A separate buffer, because a session looks at how full the output is.
        let mut answers = Vec::new();
        {
            let mut going_on = pin!(go_on(reader, session, stopped, stream, &mut answers));
            loop {
                tokio::select! {
                    biased;
                    done = &mut going_on => break done?,
                    writable = stream.writable(), if *sent < output.len() => {
                        writable?;
                        match stream.try_write(output.get(*sent..).unwrap_or_default()) {
                            Ok(written) => (*sent, *taken_at) = (*sent + written, Instant::now()),
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
            }
        }
        output.append(&mut answers);
        session.answered();
        Ok(())
    }

    /// Keeps a long value, which cannot be sent from where it is stored.
    fn keep_body<S: Session>(&mut self, session: &mut S) {
        if let Some(body) = session.take_body() {
            self.output.extend_from_slice(body.bytes());
            self.output.extend_from_slice(body.end);
        }
    }
}
