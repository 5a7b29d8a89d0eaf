//! A connection until its client has authenticated: it may send little, is sent little, can guess only slowly, and does
//! not stay for long.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame};
use proto::response::Response;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, Ended, Flow, Session};
use crate::listener::Shared;
use crate::shutdown::Shutdown;

/// A connection is closed after this many wrong passwords.
const GUESSES: u32 = 10;

/// How long a client may take to authenticate.
const LOGIN_TIME: Duration = Duration::from_secs(30);

/// How long the answer to a wrong password is delayed.
const DELAY: Duration = Duration::from_millis(100);

/// Once answers reach this size, they are written before more requests are handled.
const ANSWER_BYTES: usize = 4 * 1024;

/// The outcome of a request at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The client is let in.
    Admitted,
    /// It has given a wrong password, and is told so.
    WrongPassword,
    /// It is answered, and still not let in.
    Answered(Flow),
}

/// How a server handles requests from clients that have not authenticated.
pub trait Gatekeeper: Send {
    /// Answers a request of a client that has not authenticated.
    fn handle(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> AuthOutcome;
}

/// Serves a client until it has authenticated; returns whether it has.
///
/// # Errors
/// The connection is broken.
pub async fn pass(
    connection: &mut Connection,
    gatekeeper: &mut impl Gatekeeper,
    shared: &Shared,
    shutdown: &Shutdown,
) -> io::Result<bool> {
    connection.reader.limit_unauthenticated(true);
    let mut gate = Gate { gatekeeper, wrong: 0, is_late: false, encoding: Encoding::Line };
    let Ok(ended) = timeout(LOGIN_TIME, connection.serve(&mut gate, shared, shutdown)).await else {
        shared.idle.fetch_add(1, Ordering::Relaxed);
        // If an answer is half written, this one would be taken for its rest.
        if connection.output.is_empty() {
            let error = ErrorReply::login_timeout(LOGIN_TIME);
            Response::Error(error).encode(gate.encoding, &mut connection.output);
            connection.flush().await?;
        }
        connection.linger(shutdown).await;
        return Ok(false);
    };
    connection.reader.limit_unauthenticated(false);
    Ok(ended? == Ended::Upgraded)
}

struct Gate<'a, K> {
    gatekeeper: &'a mut K,
    /// How many wrong passwords were given.
    wrong: u32,
    /// The answer to a wrong password is being delayed.
    is_late: bool,
    /// The encoding of the last request.
    encoding: Encoding,
}

impl<K: Gatekeeper> Session for Gate<'_, K> {
    const KEEPS_ANSWERS: bool = false;

    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        if self.is_late || out.len() >= ANSWER_BYTES {
            return Flow::Settle;
        }
        self.encoding = frame.encoding();
        match self.gatekeeper.handle(frame, out) {
            AuthOutcome::Admitted => Flow::Upgrade,
            AuthOutcome::Answered(flow) => flow,
            AuthOutcome::WrongPassword => {
                (self.wrong, self.is_late) = (self.wrong + 1, true);
                if self.wrong >= GUESSES { Flow::Close } else { Flow::Next }
            }
        }
    }

    async fn settle(&mut self, _: &TcpStream, _: &mut Vec<u8>) -> io::Result<()> {
        if std::mem::take(&mut self.is_late) {
            sleep(DELAY).await;
        }
        Ok(())
    }

    fn answered(&mut self) {}
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::access::Access;
    use crate::listener::ConnectionFlags;

    /// Admits nobody.
    struct Closed;

    impl Gatekeeper for Closed {
        fn handle(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> AuthOutcome {
            Response::Error(ErrorReply::no_auth(frame.encoding())).encode(frame.encoding(), out);
            AuthOutcome::Answered(Flow::Next)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_authenticate_is_told_so_and_disconnected() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (sent, told) in [
            ("", "ERROR NOAUTH no password was given within 30 s: the connection is closed\n"),
            (
                "*1\r\n$4\r\nPING\r\n",
                "-NOAUTH Authentication required.\r\n\
                 -NOAUTH no password was given within 30 s: the connection is closed\r\n",
            ),
        ] {
            let shared = Shared::new(ConnectionFlags::default(), Access::new(None));
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.write_all(sent.as_bytes()).await.unwrap();
            let mut connection = Connection::new(listener.accept().await.unwrap().0);
            let client = async {
                let mut answers = String::new();
                client.read_to_string(&mut answers).await.unwrap();
                drop(client);
                answers
            };
            let (mut closed, shutdown) = (Closed, Shutdown::new());
            let (passed, answers) = tokio::join!(pass(&mut connection, &mut closed, &shared, &shutdown), client);
            assert_eq!((passed.unwrap(), answers.as_str()), (false, told));
            assert_eq!(shared.idle.load(Ordering::Relaxed), 1);
        }
    }
}
