//! The state that all calls of a client share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proto::error::ErrorReply;
use proto::id::NodeAddr;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::admin::Whom;
use crate::error::Error;
use crate::lane::Lanes;
use crate::map_watch::Maps;
use crate::pool::Pool;
use crate::random;

/// How many walks and counts of a client are in flight at most. Each is work for all nodes: more of them at a time
/// would not be answered sooner.
pub(crate) const WALKS: usize = 16;

/// The cluster as the client knows it, and the client's resources for talking to it.
pub(crate) struct Cluster {
    coordinator: NodeAddr,
    timeout: Duration,
    pool: Arc<Pool>,
    lanes: Lanes,
    maps: Maps,
    walks: Semaphore,
    /// The turn of the next request that any node can answer.
    next_turn: AtomicUsize,
}

/// Without the map, which has megabytes of text.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("coordinator", &self.coordinator)
            .field("timeout", &self.timeout)
            .field("map_version", &self.maps.borrow().version.0)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    pub(crate) fn new(coordinator: NodeAddr, timeout: Duration, pool: Arc<Pool>, maps: Maps) -> Self {
        let walks = Semaphore::new(WALKS);
        // Many programs make a client for one request: all begin with the same node unless the first turn is random.
        let first_turn = random::bits() as usize;
        let next_turn = AtomicUsize::new(first_turn);
        Self { coordinator, timeout, pool, lanes: Lanes::default(), maps, walks, next_turn }
    }

    pub(crate) fn coordinator(&self) -> &NodeAddr {
        &self.coordinator
    }

    /// When a call that starts now must end.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// The newest map, with notice of every later one.
    pub(crate) fn maps(&self) -> Maps {
        self.maps.clone()
    }

    /// Where to start when any node can answer: a different node each time, so that all share the work.
    pub(crate) fn next_turn(&self) -> usize {
        self.next_turn.fetch_add(1, Ordering::Relaxed)
    }

    /// A place among the walks and counts in flight, once there is one.
    pub(crate) async fn walk(&self) -> SemaphorePermit<'_> {
        self.walks.acquire().await.expect("nobody closes it")
    }

    pub(crate) fn addr_of<'a>(&'a self, whom: Whom<'a>) -> &'a NodeAddr {
        match whom {
            Whom::Coordinator => &self.coordinator,
            Whom::Node(addr) => addr,
        }
    }

    /// How long a call tried before it gave up, for its error text.
    pub(crate) fn tried(&self) -> String {
        self.tried_for(Duration::MAX)
    }

    /// The same of a call that gives up after `most` at the latest.
    pub(crate) fn tried_for(&self, most: Duration) -> String {
        format!("tried for {}", humantime::format_duration(self.timeout.min(most)))
    }

    /// The error of a call that ran out of time, built from the last failure. Without one there was nobody to ask.
    pub(crate) fn gave_up(&self, failed: Option<Error>) -> Error {
        let tried = self.tried();
        match failed {
            None => {
                let has_nodes = self.maps.borrow().members().any(|(_, member)| member.up);
                let reason = if has_nodes {
                    format!("UNAVAILABLE no node holds the key; {tried}")
                } else {
                    format!("{}; {tried}", ErrorReply::NoNodes)
                };
                Error::Refused { by: None, reason }
            }
            Some(Error::Refused { by: None, reason }) => {
                Error::Refused { by: None, reason: format!("{reason}; {tried}") }
            }
            Some(Error::NotReached { whom, reason }) => {
                Error::NotReached { whom, reason: format!("{reason}; {tried}") }
            }
            Some(error) => error,
        }
    }
}
