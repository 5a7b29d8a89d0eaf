//! Before the coordinator has sent this start of the node a map, the node does not know at which levels the cluster
//! reads and writes. Requests for which that matters wait.

use std::time::Duration;

use proto::error::ErrorReply;
use proto::level::{AckLevel, ReadLevel};
use proto::request::{NodeRequest, ServerCommand};
use tokio::time::{Instant, sleep};

use crate::answering::NO_MAP;
use crate::driver::Driver;

/// How often to look for a map.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How long after its start a node goes by the map on its disk, if the coordinator does not answer.
pub(crate) const OLD_MAP_AFTER: Duration = Duration::from_secs(3);

/// For how long after a wait in vain further requests are refused at once: those that were sent together.
const REFUSED_AFTER: Duration = Duration::from_secs(1);

/// A connection's wait for the first map.
#[derive(Debug, Default)]
pub(crate) struct FirstMap {
    since: Option<Instant>,
}

impl FirstMap {
    /// Whether a request depends on the cluster's settings, on a connection that has asked for these levels.
    #[must_use]
    pub(crate) fn is_needed_for(request: &NodeRequest<'_>, ack: Option<AckLevel>, read: Option<ReadLevel>) -> bool {
        match request {
            // What it means depends on the names of the nodes, too.
            NodeRequest::PutLine { .. } => true,
            NodeRequest::Write(_) | NodeRequest::PutMany(_) => ack.is_none(),
            NodeRequest::Read(_)
            | NodeRequest::Page(_)
            | NodeRequest::Count(_)
            | NodeRequest::GetMany(_)
            | NodeRequest::Server(ServerCommand::DbSize) => read.is_none(),
            NodeRequest::Keyspace(_) => ack.is_none() || read.is_none(),
            NodeRequest::Ack(_)
            | NodeRequest::ReadLevel(_)
            | NodeRequest::Losses
            | NodeRequest::Info
            | NodeRequest::Stats
            | NodeRequest::Verify
            | NodeRequest::Ping
            | NodeRequest::Quit
            | NodeRequest::Server(_)
            | NodeRequest::Peer(_) => false,
        }
    }

    /// A request needs the map, which is not there. Returns the answer if it has been waited for long enough; otherwise
    /// [`FirstMap::wait`] comes next.
    pub(crate) fn is_missed(&mut self, driver: &Driver) -> Option<ErrorReply> {
        let (now, timeout) = (Instant::now(), driver.request_timeout());
        let since = *self.since.get_or_insert(now);
        if now < since + timeout {
            return None;
        }
        if now >= since + timeout + REFUSED_AFTER {
            self.since = Some(now);
            return None;
        }
        Some(ErrorReply::Unavailable(NO_MAP.to_owned()))
    }

    /// Waits until the map is there, or for as long as a request may take.
    pub(crate) async fn wait(&mut self, driver: &Driver) {
        let Some(since) = self.since else { return };
        while !driver.knows_settings() && since.elapsed() < driver.request_timeout() {
            sleep(POLL_INTERVAL).await;
        }
        if driver.knows_settings() {
            self.since = None;
        }
    }
}
