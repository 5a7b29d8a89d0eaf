//! Idle connections, several per node.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use password::Password;
use proto::id::NodeAddr;
use tokio::time::Instant;

use crate::answer::{Answer, Request};
use crate::connection::{Connection, Failure, Timeouts};
use crate::level::LevelRequirement;

/// How many idle connections are kept per node. When another one is returned, the one that has been idle longest is
/// closed.
const IDLE_PER_NODE: usize = 128;

/// Connections that have been idle for longer are closed when another one is returned: the last returned is taken
/// first, so that those beyond what is in use now would stay.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// A connection that nobody uses, and since when.
#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// Idle connections. A connection in use belongs to its call alone and is returned only after a complete answer.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// Sent first on every new connection.
    password: Option<Password>,
    /// Those of each node in the order in which they were returned.
    idle: Mutex<HashMap<NodeAddr, VecDeque<Idle>>>,
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
        let since = Instant::now();
        let mut idle = self.idle();
        let connections = idle.entry(addr.clone()).or_default();
        // One that the node has closed would otherwise hold its descriptor until its turn comes, perhaps never.
        let is_stale = |longest: &mut Idle| since - longest.since > LONGEST_IDLE || !longest.connection.is_usable();
        while connections.pop_front_if(is_stale).is_some() {}
        if connections.len() == IDLE_PER_NODE {
            // Its levels may not be those asked for now; it could block the pool forever.
            connections.pop_front();
        }
        connections.push_back(Idle { connection, since });
    }

    /// Closes the idle connections to nodes that are gone.
    pub(crate) fn keep_only(&self, is_known: impl Fn(&NodeAddr) -> bool) {
        self.idle().retain(|addr, _| is_known(addr));
    }

    fn take_idle(&self, addr: &NodeAddr, need: LevelRequirement) -> Option<Connection> {
        let mut idle = self.idle();
        let connections = idle.get_mut(addr)?;
        let fitting = connections.iter().rposition(|idle| need.is_met_by(idle.connection.levels()));
        let taken = match fitting {
            Some(at) => connections.remove(at),
            None if need.can_be_set() => connections.pop_back(),
            None => None,
        };
        taken.map(|idle| idle.connection)
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<NodeAddr, VecDeque<Idle>>> {
        // Nothing under this lock can panic halfway, and idle connections are intact in any case.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time;

    use super::*;

    /// A pool with this many idle connections, each returned right after the last, and their other ends.
    async fn with_idle(count: usize) -> (Pool, NodeAddr, Vec<TcpStream>, Vec<Connection>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr: NodeAddr = listener.local_addr().unwrap().to_string().parse().unwrap();
        let pool = Pool::new(None);
        let timeouts = Timeouts::until(Instant::now() + Duration::from_secs(20));
        let (mut ends, mut connections) = (Vec::new(), Vec::new());
        for _ in 0..count {
            connections.push(pool.open(&addr, timeouts).await.unwrap());
            ends.push(listener.accept().await.unwrap().0);
        }
        (pool, addr, ends, connections)
    }

    fn count(pool: &Pool, addr: &NodeAddr) -> usize {
        pool.idle().get(addr).map_or(0, VecDeque::len)
    }

    #[tokio::test]
    async fn what_the_node_has_closed_is_dropped_when_another_is_returned() {
        let (pool, addr, mut ends, mut connections) = with_idle(4).await;
        let last = connections.pop().unwrap();
        connections.into_iter().for_each(|connection| pool.put_back(&addr, connection));
        assert_eq!(count(&pool, &addr), 3);
        ends.drain(..2);
        let is_closed = |idle: &Idle| !idle.connection.is_usable();
        while pool.idle().get(&addr).unwrap().iter().filter(|idle| is_closed(idle)).count() < 2 {
            time::sleep(Duration::from_millis(1)).await;
        }
        pool.put_back(&addr, last);
        assert_eq!(count(&pool, &addr), 2);
    }

    #[tokio::test]
    async fn what_has_been_idle_for_long_is_dropped_when_another_is_returned() {
        let (pool, addr, _ends, mut connections) = with_idle(3).await;
        let last = connections.pop().unwrap();
        time::pause();
        connections.into_iter().for_each(|connection| pool.put_back(&addr, connection));
        time::advance(LONGEST_IDLE + Duration::from_millis(1)).await;
        pool.put_back(&addr, last);
        assert_eq!(count(&pool, &addr), 1);
    }
}
