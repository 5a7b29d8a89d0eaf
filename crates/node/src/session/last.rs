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
    Wait(DeferredWait),
    Verify,
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

    /// Answers the request, or says that it cannot be finished because the process stops.
    pub(super) async fn answer(
        self,
        driver: &Driver,
        written: &mut WrittenSlots,
        client: &TcpStream,
        shutdown: &Shutdown,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) {
        let changes_keys = self.changes_keys();
        let too_late = shutdown.begun_for(LAST_MOMENTS);
        let finished = async {
            match self {
                Self::Walk(walk) => walk.answer(driver).await.encode(encoding, out),
                Self::Keyspace(request) => request.answer(driver, encoding, out).await,
                Self::Wait(wait) => {
                    let replicas = written.wait(driver, wait, client, shutdown).await;
                    Response::count(replicas as u64).encode(encoding, out);
                }
                Self::Verify => verify::verify(driver).await.encode(encoding, out),
            }
        };
        // An answer is written at once when it is complete: what is given up has written nothing.
        let is_answered = tokio::select! {
            biased;
            () = finished => true,
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
}
