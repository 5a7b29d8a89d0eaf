//! Idle connections, several per node.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use password::Password;
use proto::id::NodeAddr;

use crate::answer::{Answer, Request};
use crate::connection::{Connection, Failure, Timeouts};
use crate::level::LevelRequirement;

/// How many idle connections are kept per node. When another one is returned, the one that has been idle longest is
/// closed.
const IDLE_PER_NODE: usize = 128;

/// Idle connections. A connection in use belongs to its call alone and is returned only after a complete answer.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Sent first on every new connection.
    password: Option<Password>,
    idle: Mutex<HashMap<NodeAddr, Vec<Connection>>>,
}

impl Pool {
    pub(crate) fn new(password: Option<Password>) -> Self {
        Self { password, idle: Mutex::default() }
    }

    /// A new connection.
    pub(crate) async fn open(&self, addr: &NodeAddr, timeouts: Timeouts) -> Result<Connection, Failure> {
        Connection::open(addr, self.password.as_ref(), timeouts).await
    }

    /// Sends a request to a node and waits for its answer, on an idle connection or a new one.
    pub(crate) async fn exchange(
        &self,
        addr: &NodeAddr,
        request: &Request,
        timeouts: Timeouts,
    ) -> Result<Answer, Failure> {
        let mut connection = self.connection(addr, request.need, timeouts).await?;
        let answer = connection.exchange(request, timeouts).await;
        if answer.is_ok() {
            self.put_back(addr, connection);
        } else {
            self.forget(addr);
        }
        answer
    }

    /// Closes the idle connections to a node: they may be dead in the same way as one that failed. The next attempt opens
    /// a new one.
    pub(crate) fn forget(&self, addr: &NodeAddr) {
        self.idle().remove(addr);
    }

    /// An idle connection that is still usable and can meet this need, or a new one.
    pub(crate) async fn connection(
        &self,
        addr: &NodeAddr,
        need: LevelRequirement,
        timeouts: Timeouts,
    ) -> Result<Connection, Failure> {
        while let Some(connection) = self.take_idle(addr, need) {
            if connection.is_usable() {
                return Ok(connection);
            }
        }
        self.open(addr, timeouts).await
    }

    /// Keeps a connection whose last answer was read completely.
    pub(crate) fn put_back(&self, addr: &NodeAddr, connection: Connection) {
        if connection.is_spent() {
            return;
        }
        let mut idle = self.idle();
        let connections = idle.entry(addr.clone()).or_default();
        if connections.len() == IDLE_PER_NODE {
            // Its levels may not be those asked for now; it could block the pool forever.
            connections.remove(0);
        }
        connections.push(connection);
    }

    /// Closes the idle connections to nodes that are gone.
    pub(crate) fn keep_only(&self, is_known: impl Fn(&NodeAddr) -> bool) {
        self.idle().retain(|addr, _| is_known(addr));
    }

    fn take_idle(&self, addr: &NodeAddr, need: LevelRequirement) -> Option<Connection> {
        let mut idle = self.idle();
        let connections = idle.get_mut(addr)?;
        match connections.iter().rposition(|connection| need.is_met_by(connection.levels())) {
            Some(at) => Some(connections.remove(at)),
            None if need.can_be_set() => connections.pop(),
            None => None,
        }
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<NodeAddr, Vec<Connection>>> {
        // Nothing under this lock can panic halfway, and idle connections are intact in any case.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
