//! The client and its calls.

use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::MapError;
use proto::error::ErrorReply;
use proto::id::NodeAddr;
use proto::limits;
use tokio::time::Instant;

use crate::answer::{NotAnAnswer, Request};
use crate::coordinator::{self, Whom};
use crate::error::Error;
use crate::map_watch::{self, Maps, WatchEnd};
use crate::placement::Placement;
use crate::pool::Pool;
use crate::read::{self, Read};
use crate::write;

/// How long a call may take where nothing else was said.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Longer timeouts are cut to this one.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// A connection to the cluster.
///
/// Clones are cheap and share everything. All calls take `&self` and may run at the same time, each on a connection
/// of its own. When the last clone is dropped, the task that follows the cluster map ends, and all connections close.
#[derive(Debug, Clone)]
pub struct Client {
    cluster: Arc<Cluster>,
}

/// What a client is to be like, before it connects.
#[derive(Debug, Clone)]
pub struct Builder {
    timeout: Duration,
}

/// What all calls share.
#[derive(Debug)]
pub(crate) struct Cluster {
    coordinator: NodeAddr,
    timeout: Duration,
    pool: Arc<Pool>,
    maps: Maps,
}

impl Builder {
    /// How long a call may take, all its attempts together; connecting is a call, too. A day at most.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Connects to the cluster whose coordinator is at this address, and waits for the cluster map.
    ///
    /// Must be called within a tokio runtime with I/O and time; the task that follows the map runs there.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the text is no `host:port`, [`Error::NotReached`] where nobody answers there, or what
    /// answers is no coordinator.
    pub async fn connect(self, coordinator: impl AsRef<str>) -> Result<Client, Error> {
        let addr = coordinator.as_ref();
        let coordinator: NodeAddr = addr.parse().map_err(|error| Error::Invalid(format!("{addr:?}: {error}")))?;
        let pool = Arc::<Pool>::default();
        let deadline = Instant::now() + self.timeout;
        let maps = map_watch::start(coordinator.clone(), Arc::clone(&pool), deadline).await.map_err(|end| {
            let reason = match end {
                WatchEnd::Map(MapError::Malformed(_) | MapError::Gap) => NotAnAnswer.to_string(),
                end => end.to_string(),
            };
            Error::NotReached { whom: format!("the coordinator at {coordinator}"), reason }
        })?;
        Ok(Client { cluster: Arc::new(Cluster { coordinator, timeout: self.timeout, pool, maps }) })
    }
}

impl Client {
    /// What a client is like unless told otherwise: its calls time out after [`DEFAULT_TIMEOUT`].
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let coordinator = cluster.coordinator_addr();
    /// use std::time::Duration;
    ///
    /// let client = client::Client::builder().timeout(Duration::from_secs(2)).connect(coordinator).await?;
    /// # client.ping().await
    /// # }
    /// ```
    #[must_use]
    pub fn builder() -> Builder {
        Builder { timeout: DEFAULT_TIMEOUT }
    }

    /// Connects with everything as it is unless told otherwise.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(coordinator: impl AsRef<str>) -> Result<Self, Error> {
        Self::builder().connect(coordinator).await
    }

    /// The coordinator's address.
    #[must_use]
    pub fn coordinator(&self) -> &NodeAddr {
        &self.cluster.coordinator
    }

    /// Stores a value under a key, both any bytes. Gives who holds the key.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// let placement = client.put("user:1", b"bytes \x00\xff\n").await?;
    /// assert!(placement.primary.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unknown`]: it may or may not be stored, and was sent once. After any other error nothing was changed:
    /// [`Error::NotReached`] and [`Error::Refused`] only come once the timeout has passed, or repeating is no use.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Placement, Error> {
        let (key, value) = (checked_key(key.as_ref())?, value.as_ref());
        if value.len() > limits::VALUE_BYTES {
            return Err(Error::too_long(&ErrorReply::value_too_long(value.len())));
        }
        write::write(&self.cluster, key, &Request::put(key, value)).await
    }

    /// Reads a key's value, byte for byte; none where the key is absent.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// client.put("user:1", "Alice").await?;
    /// assert_eq!(client.get("user:1").await?, Some(b"Alice".to_vec()));
    /// assert_eq!(client.get("user:2").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] or [`Error::Refused`] where nobody who holds the key gave an answer within the timeout.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.read(key).await.map(|read| read.value)
    }

    /// Reads a key's value and says which node answered: where it was a replica, the value may be an older one.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// let placement = client.put("user:1", "Alice").await?;
    /// let read = client.read("user:1").await?;
    /// assert_eq!(Some(read.node), placement.primary);
    /// assert!(!read.from_replica);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn read(&self, key: impl AsRef<[u8]>) -> Result<Read, Error> {
        read::read(&self.cluster, checked_key(key.as_ref())?).await
    }

    /// Makes a key absent, whether or not it was there. Gives who holds the key.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// client.put("user:1", "Alice").await?;
    /// client.delete("user:1").await?;
    /// assert_eq!(client.get("user:1").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Placement, Error> {
        let key = checked_key(key.as_ref())?;
        write::write(&self.cluster, key, &Request::delete(key)).await
    }

    /// The nodes that are registered, sorted, as the coordinator has them.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// assert_eq!(client.list_nodes().await?.len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] where the coordinator does not answer. It is asked once.
    pub async fn list_nodes(&self) -> Result<Vec<NodeAddr>, Error> {
        coordinator::list_nodes(&self.cluster).await
    }

    /// Who holds a key now, as the coordinator has it.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// let placement = client.nodes_for_key("user:1").await?;
    /// assert_eq!(placement.replicas.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] where the coordinator does not answer, [`Error::Refused`] where no node is registered. It
    /// is asked once.
    pub async fn nodes_for_key(&self, key: impl AsRef<[u8]>) -> Result<Placement, Error> {
        coordinator::nodes_for_key(&self.cluster, checked_key(key.as_ref())?).await
    }

    /// What the coordinator says of itself, one line.
    ///
    /// # Errors
    /// [`Error::NotReached`] where it does not answer. It is asked once.
    pub async fn info(&self) -> Result<String, Error> {
        coordinator::info(&self.cluster, Whom::Coordinator).await
    }

    /// What a node says of itself, one line: `OK Node host:port keys=N`, and more words of the form `name=value`.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// for node in client.list_nodes().await? {
    ///     assert_eq!(client.node_info(&node).await?, format!("OK Node {node} keys=0"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotReached`] where the node does not answer. It is asked once.
    pub async fn node_info(&self, node: &NodeAddr) -> Result<String, Error> {
        coordinator::info(&self.cluster, Whom::Node(node)).await
    }

    /// Asks the coordinator for a sign of life.
    ///
    /// # Errors
    /// [`Error::NotReached`] where it gives none.
    pub async fn ping(&self) -> Result<(), Error> {
        coordinator::ping(&self.cluster, Whom::Coordinator).await
    }

    /// Asks a node for a sign of life.
    ///
    /// # Errors
    /// [`Error::NotReached`] where it gives none.
    pub async fn ping_node(&self, node: &NodeAddr) -> Result<(), Error> {
        coordinator::ping(&self.cluster, Whom::Node(node)).await
    }
}

impl Cluster {
    /// When a call that starts now is to end.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The newest map, and word of every later one.
    pub(crate) fn maps(&self) -> Maps {
        self.maps.clone()
    }

    pub(crate) fn addr_of<'a>(&'a self, whom: Whom<'a>) -> &'a NodeAddr {
        match whom {
            Whom::Coordinator => &self.coordinator,
            Whom::Node(addr) => addr,
        }
    }

    /// The error of a call whose time is over, from what went wrong last. Without that there was nobody to ask.
    pub(crate) fn gave_up(&self, failed: Option<Error>) -> Error {
        let tried = humantime::format_duration(self.timeout);
        match failed {
            None => {
                let has_nodes = self.maps.borrow().members().any(|(_, member)| member.up);
                let reason = if has_nodes {
                    format!("UNAVAILABLE no node holds the key; tried for {tried}")
                } else {
                    format!("{}; tried for {tried}", ErrorReply::NoNodes)
                };
                Error::Refused { by: None, reason }
            }
            Some(Error::Refused { by: None, reason }) => {
                Error::Refused { by: None, reason: format!("{reason}; tried for {tried}") }
            }
            Some(Error::NotReached { whom, reason }) => {
                Error::NotReached { whom, reason: format!("{reason}; tried for {tried}") }
            }
            Some(error) => error,
        }
    }
}

fn checked_key(key: &[u8]) -> Result<&[u8], Error> {
    if key.len() > limits::KEY_BYTES {
        return Err(Error::too_long(&ErrorReply::key_too_long(key.len())));
    }
    Ok(key)
}
