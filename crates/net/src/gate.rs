//! A connection until its client has authenticated. It may send little, is answered little, and guesses slowly.

use std::io;
use std::time::Duration;

use proto::frame::Frame;
use tokio::time::sleep;

use crate::connection::{Body, Connection, Ended, Flow, Session};
use crate::listener::Limits;
use crate::shutdown::Shutdown;

/// After so many wrong passwords a connection is closed.
const GUESSES: u32 = 10;

/// A wrong password is answered so late.
const DELAY: Duration = Duration::from_millis(100);

/// So much of answers is written before more requests have their turn.
const ANSWER_BYTES: usize = 4 * 1024;

/// What came of a request at the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knocked {
    /// The client is let in.
    Admitted,
    /// It has given a wrong password, and is told so.
    Wrong,
    /// It is answered, and still outside.
    Answered(Flow),
}

/// What a server takes from those outside.
pub trait Knock: Send {
    /// Answers a request of somebody who has not authenticated.
    fn knock(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Knocked;
}

/// Serves a client until it has authenticated, and says whether it has.
///
/// # Errors
/// The connection is broken.
pub async fn pass(
    connection: &mut Connection,
    knock: &mut impl Knock,
    limits: &Limits,
    shutdown: &Shutdown,
) -> io::Result<bool> {
    connection.reader.limit_to_stranger(true);
    let mut gate = Gate { knock, wrong: 0, is_late: false };
    let ended = connection.serve(&mut gate, limits, shutdown).await?;
    connection.reader.limit_to_stranger(false);
    Ok(ended == Ended::Upgraded)
}

struct Gate<'a, K> {
    knock: &'a mut K,
    /// How many wrong passwords were given.
    wrong: u32,
    /// One of them is not answered yet.
    is_late: bool,
}

impl<K: Knock> Session for Gate<'_, K> {
    const KEEPS_ANSWERS: bool = false;

    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        if self.is_late || out.len() >= ANSWER_BYTES {
            return Flow::Settle;
        }
        match self.knock.knock(frame, out) {
            Knocked::Admitted => Flow::Upgrade,
            Knocked::Answered(flow) => flow,
            Knocked::Wrong => {
                (self.wrong, self.is_late) = (self.wrong + 1, true);
                if self.wrong >= GUESSES { Flow::Close } else { Flow::Next }
            }
        }
    }

    async fn settle(&mut self, _: &mut Vec<u8>) -> io::Result<()> {
        if std::mem::take(&mut self.is_late) {
            sleep(DELAY).await;
        }
        Ok(())
    }

    fn take_body(&mut self) -> Option<Body> {
        None
    }

    fn answered(&mut self) {}
}
