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
    Body, CUT_OFF_AFTER, Connection, Flow, KEPT_BYTES, Session, Stopped, WRITE_STALL, go_on, reads_nothing,
    write_while_taken,
};
use crate::listener::Shared;

/// Once a client has taken nothing for this long, its further requests are read all the same.
const READ_ON_AFTER: Duration = Duration::from_millis(100);

/// How many bytes of answers may wait in total for clients that read none. Beyond this, their requests are not read.
const WAITING_BYTES: usize = 1024 * 1024 * 1024;

/// A connection's share of the total that may wait, released on drop.
pub(crate) struct Share<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl<'a> Share<'a> {
    pub(crate) fn new(shared: &'a Shared) -> Self {
        Self { shared, bytes: 0 }
    }

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
        share: &mut Share<'_>,
    ) -> io::Result<()> {
        let patience = if S::KEEPS_ANSWERS { READ_ON_AFTER } else { CUT_OFF_AFTER };
        let mut sent = write_while_taken(&self.stream, &self.output, patience).await?;
        if sent < self.output.len() && !S::KEEPS_ANSWERS {
            share.shared.cut_off.fetch_add(1, Ordering::Relaxed);
            return Err(reads_nothing());
        }
        if sent < self.output.len() {
            sent = self.keep_answers(sent, session, stopped, share).await?;
        }
        if share.bytes > 0 {
            share.resize(0);
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
    pub(crate) async fn write_long(&mut self, body: &Body, share: &mut Share<'_>) -> io::Result<()> {
        let written = write_while_taken(&self.stream, body.bytes(), READ_ON_AFTER).await?;
        let mut rest = body.bytes().get(written..).unwrap_or_default();
        // IMPORTANT: reserved before it is copied, since many clients may stop reading at the same moment.
        if !rest.is_empty() && !share.resize(rest.len()) {
            share.resize(0);
            if write_while_taken(&self.stream, rest, WRITE_STALL).await? < rest.len() {
                share.shared.cut_off.fetch_add(1, Ordering::Relaxed);
                return Err(reads_nothing());
            }
            rest = &[];
        }
        self.output.extend_from_slice(rest);
        self.output.extend_from_slice(body.end);
        Ok(())
    }

    /// Reads on and keeps the answers until all are written; `sent` bytes of the output are written already.
    async fn keep_answers<S: Session>(
        &mut self,
        mut sent: usize,
        session: &mut S,
        stopped: &mut Stopped,
        share: &mut Share<'_>,
    ) -> io::Result<usize> {
        let shared = share.shared;
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
            // With a long value that comes next, and would be copied.
            let body = session.body().map_or(0, |body| body.bytes().len());
            let may_read = share.resize(waiting + body) && !is_over && !input_ended;
            if may_read && *stopped == Stopped::Handler(Flow::Body) && !session.is_half_settled() {
                self.keep_body(session);
                *stopped = Stopped::Handler(Flow::Settle);
                continue;
            }
            if may_read && (session.is_half_settled() || *stopped == Stopped::Handler(Flow::Settle)) {
                self.keep_more(&mut sent, &mut taken_at, session, stopped).await?;
                // The answers may be long, and many.
                tokio::task::yield_now().await;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::record::Record;
    use proto::id::Version;
    use proto::peer::Effect;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;
    use crate::listener::ConnectionFlags;

    /// More than the buffers of two sockets take.
    const LONG: usize = 32 * 1024 * 1024;

    #[tokio::test]
    async fn clients_that_stop_reading_at_the_same_moment_keep_no_more_than_may_wait_in_total() {
        let shared = Shared::new(ConnectionFlags::default(), Arc::default());
        // There is room for one value, and not for two.
        shared.waiting.store(WAITING_BYTES - LONG - LONG / 2, Ordering::Relaxed);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let mut ends = Vec::new();
        for _ in 0..2 {
            let client = TcpStream::connect(addr).await.expect("a connection");
            ends.push((client, Connection::new(listener.accept().await.expect("a connection").0)));
        }
        let record = Record::entry(Version::NONE, b"key", Effect::Put(&vec![b'v'; LONG]));
        let body = Body { record, end: b"" };
        let [(_first_client, first), (_second_client, second)] = ends.as_mut_slice() else { panic!("two") };
        let mut shares = [Share::new(&shared), Share::new(&shared)];
        let [first_share, second_share] = &mut shares;
        let both = async { tokio::join!(first.write_long(&body, first_share), second.write_long(&body, second_share)) };
        timeout(4 * READ_ON_AFTER, both).await.expect_err("one waits for its client");
        let mut kept = [first.output.len(), second.output.len()];
        kept.sort_unstable();
        assert!(kept[0] == 0 && kept[1] > LONG / 2, "{kept:?} bytes");
    }
}
