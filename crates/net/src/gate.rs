//! A connection until its client has authenticated: it may send little, is sent little, and can guess only slowly.

use std::io;
use std::time::Duration;

use proto::frame::Frame;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::connection::{Connection, Ended, Flow, Session};
use crate::listener::Shared;
use crate::shutdown::Shutdown;

/// A connection is closed after this many wrong passwords.
const GUESSES: u32 = 10;

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
    let mut gate = Gate { gatekeeper, wrong: 0, is_late: false };
    let ended = connection.serve(&mut gate, shared, shutdown).await?;
    connection.reader.limit_unauthenticated(false);
    Ok(ended == Ended::Upgraded)
}

struct Gate<'a, K> {
    gatekeeper: &'a mut K,
    /// How many wrong passwords were given.
    wrong: u32,
    /// The answer to a wrong password is being delayed.
    is_late: bool,
}

impl<K: Gatekeeper> Session for Gate<'_, K> {
    const KEEPS_ANSWERS: bool = false;

    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        if self.is_late || out.len() >= ANSWER_BYTES {
            return Flow::Settle;
        }
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
