//! Requests that concern more than one key's primary. Each is answered after everything that is deferred.

use std::time::Duration;

use net::shutdown::Shutdown;
use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::response::Response;
use tokio::net::TcpStream;

use crate::answering;
use crate::driver::Driver;
use crate::keyspace::DeferredKeyspace;
use crate::verify;
use crate::wait::{DeferredWait, WrittenSlots};
use crate::walks::DeferredWalk;

/// How long such a request may take once connections end because the process stops. Its client must get an answer before
/// the process drops what has not finished.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// Such a request.
#[derive(Debug)]
pub(super) enum Last {
    /// A page of a walk, or a count.
    Walk(DeferredWalk),
    /// A request about all keys.
    Keyspace(DeferredKeyspace),
    Wait(DeferredWait, Encoding),
    Verify(Encoding),
}

impl Last {
    /// Whether it goes through keys.
    pub(super) fn is_walk(&self) -> bool {
        matches!(self, Self::Walk(_) | Self::Keyspace(_))
    }

    /// Whether it changes keys.
    pub(super) fn changes_keys(&self) -> bool {
        matches!(self, Self::Keyspace(request) if request.is_flush())
    }

    fn encoding(&self) -> Encoding {
        match self {
            Self::Walk(walk) => walk.encoding(),
            Self::Keyspace(request) => request.encoding(),
            Self::Wait(_, encoding) | Self::Verify(encoding) => *encoding,
        }
    }

    /// Answers the request, or says that it cannot be finished because the process stops.
    pub(super) async fn answer(
        self,
        driver: &Driver,
        written: &mut WrittenSlots,
        client: &TcpStream,
        shutdown: &Shutdown,
        out: &mut Vec<u8>,
    ) {
        let (encoding, changes_keys) = (self.encoding(), self.changes_keys());
        let too_late = shutdown.begun_for(LAST_MOMENTS);
        // An answer is written at once when it is complete: what is given up has written nothing.
        let is_answered = tokio::select! {
            biased;
            () = self.finish(driver, written, client, shutdown, out) => true,
            () = too_late => false,
        };
        if !is_answered {
            let what =
                if changes_keys { "this node is stopping" } else { "this node is stopping; nothing was changed" };
            let error = ErrorReply::Unavailable(format!("{what}, ask another one"));
            let error = if changes_keys { answering::half_done(&error) } else { error };
            Response::Error(error).encode(encoding, out);
        }
    }

    async fn finish(
        self,
        driver: &Driver,
        written: &mut WrittenSlots,
        client: &TcpStream,
        shutdown: &Shutdown,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Walk(walk) => walk.answer(driver, out).await,
            Self::Keyspace(request) => request.answer(driver, out).await,
            Self::Wait(wait, encoding) => {
                let replicas = written.wait(driver, wait, client, shutdown).await;
                Response::Number(replicas.try_into().unwrap_or(i64::MAX)).encode(encoding, out);
            }
            Self::Verify(encoding) => verify::verify(driver).await.encode(encoding, out),
        }
    }
}
