//! The client's settings, and how it connects.

use std::sync::Arc;
use std::time::Duration;

use password::Password;
use proto::cluster_map::MapError;
use proto::error::ErrorReply;
use proto::id::NodeAddr;
use proto::level::{AckLevel, ReadLevel};
use tokio::time::Instant;

use crate::answer::NotAnAnswer;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::connection::Failure;
use crate::error::Error;
use crate::level::Levels;
use crate::map_watch::{self, WatchEnd};
use crate::pool::Pool;

/// The default timeout of a call.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// Longer timeouts are clamped to this.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// A client's settings before it connects.
#[derive(Debug, Clone)]
pub struct Builder {
    timeout: Duration,
    levels: Levels,
    password: Option<Password>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { timeout: DEFAULT_TIMEOUT, levels: Levels::default(), password: None }
    }

    /// Sets how long a call may take, including all its attempts. Connecting counts as a call, too. At most one day. A
    /// write that may have taken effect is sent again for at most eight minutes, because the cluster forgets writes after
    /// ten.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Sets when writes are answered, overriding the level that the cluster was started with.
    #[must_use]
    pub fn ack(mut self, level: AckLevel) -> Self {
        self.levels.ack = Some(level);
        self
    }

    /// Sets what reads may return, overriding the level that the cluster was started with.
    #[must_use]
    pub fn read(mut self, level: ReadLevel) -> Self {
        self.levels.read = Some(level);
        self
    }

    /// Sets the password that the coordinator and the nodes were started with.
    #[must_use]
    pub fn password(mut self, password: Password) -> Self {
        self.password = Some(password);
        self
    }

    /// Connects to the cluster whose coordinator is at this address, and waits for the cluster map.
    ///
    /// Must be called within a tokio runtime with I/O and time enabled; the task that follows the map runs there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text is not a `host:port`; [`Error::NotReached`] if nobody answers there, or whoever
    /// answers is not a coordinator; [`Error::Refused`] if the coordinator requires a password that was not given, or
    /// has a different one.
    pub async fn connect(self, coordinator: impl AsRef<str>) -> Result<Client, Error> {
        let addr = coordinator.as_ref();
        let coordinator: NodeAddr = addr.parse().map_err(|error| Error::Invalid(format!("{addr:?}: {error}")))?;
        let pool = Arc::new(Pool::new(self.password));
        let deadline = Instant::now() + self.timeout;
        let maps = map_watch::start(coordinator.clone(), Arc::clone(&pool), deadline).await.map_err(|end| {
            let refused = |reason| Error::Refused { by: Some(coordinator.clone()), reason };
            let reason = match end {
                WatchEnd::Refused(reason) if reason.starts_with("NOAUTH") => return refused(reason),
                WatchEnd::Connection(failure @ Failure::NotAdmitted(_)) => {
                    return refused(format!("the coordinator at {coordinator}: {failure}"));
                }
                WatchEnd::Refused(reason) if reason == ErrorReply::UnknownCommand.to_string() => {
                    "what answers there is not a coordinator; it may be a node".to_owned()
                }
                WatchEnd::Map(MapError::Malformed(_) | MapError::Gap) => NotAnAnswer.to_string(),
                end => end.to_string(),
            };
            Error::NotReached { whom: format!("the coordinator at {coordinator}"), reason }
        })?;
        Ok(Client::new(Cluster::new(coordinator, self.timeout, pool, maps), self.levels))
    }
}
