//! The client and its calls.

use std::sync::Arc;

use proto::error::ErrorReply;
use proto::id::{NodeAddr, Version};
use proto::limits;
use proto::peer::{Change, Wanted, Write};

use crate::builder::Builder;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::level::Levels;
use crate::placement::Placement;
use crate::read::{self, Read, Ttl};
use crate::write::{self, Cas};

/// A connection to the cluster.
///
/// Clones are cheap and share everything except their levels: [`Client::with`] returns a clone with other levels. All
/// calls take `&self` and may run concurrently, each on its own connection. When the last clone is dropped, the task
/// that follows the cluster map ends and all connections close.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) cluster: Arc<Cluster>,
    levels: Levels,
}

impl Client {
    pub(crate) fn new(cluster: Cluster, levels: Levels) -> Self {
        Self { cluster: Arc::new(cluster), levels }
    }

    /// Returns a builder with the defaults: calls time out after [`DEFAULT_TIMEOUT`](crate::DEFAULT_TIMEOUT) and use
    /// the levels that the cluster was started with.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let coordinator = cluster.coordinator_addr();
    /// use client::{AckLevel, Client};
    /// use std::time::Duration;
    ///
    /// let builder = Client::builder().timeout(Duration::from_secs(2)).ack(AckLevel::Quorum);
    /// let client = builder.connect(coordinator).await?;
    /// # client.ping().await
    /// # }
    /// ```
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Connects with the default settings.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(coordinator: impl AsRef<str>) -> Result<Self, Error> {
        Self::builder().connect(coordinator).await
    }

    /// The coordinator's address.
    #[must_use]
    pub fn coordinator(&self) -> &NodeAddr {
        self.cluster.coordinator()
    }

    /// Returns the same client with these levels for its calls. Levels that are not named stay as they are.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// use client::{AckLevel, ReadLevel};
    ///
    /// // Answered once a majority of the key's copies has it.
    /// client.with(AckLevel::Quorum).put("user:1", "Alice").await?;
    ///
    /// // Never older than an answered quorum write.
    /// let strict = client.with(AckLevel::Quorum).with(ReadLevel::Linear);
    /// assert_eq!(strict.get("user:1").await?, Some(b"Alice".to_vec()));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn with(&self, levels: impl Into<Levels>) -> Self {
        Self { cluster: Arc::clone(&self.cluster), levels: levels.into().or(self.levels) }
    }

    /// The levels that this client asks for.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels
    }

    /// The levels of this client's calls: those it asks for, otherwise the cluster's own. Both are always set.
    #[must_use]
    pub fn levels_in_effect(&self) -> Levels {
        let cluster_settings = self.cluster.maps().borrow().cluster_settings;
        self.levels.or(Levels { ack: Some(cluster_settings.ack), read: Some(cluster_settings.read) })
    }

    /// Stores a value under a key. Both may be any bytes. Returns who holds the key.
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
    /// [`Error::Unknown`]: the value may or may not be stored, at most once; the same write was retried until the
    /// timeout had passed. After any other error nothing was changed: [`Error::Refused`] is returned only once the
    /// timeout has passed, or when a retry is of no use.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Placement, Error> {
        let (key, value) = (checked_key(key.as_ref())?, checked_value(value.as_ref())?);
        write::write(&self.cluster, self.levels.ack, Write::new(key, Change::Put(value))).await
    }

    /// Stores a value if the key is at this version, as returned by [`Client::get_versioned`]. [`Version::NONE`] means:
    /// if the key is absent. Every write of a key gives it a new version.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// use client::Cas;
    ///
    /// client.put("visits", "41").await?;
    /// // Adds one, however many others do the same.
    /// let version = loop {
    ///     let (version, value) = client.get_versioned("visits").await?.expect("it was stored above");
    ///     let visits: u64 = String::from_utf8_lossy(&value).parse().expect("a number");
    ///     if let Cas::Written(version) = client.compare_and_set("visits", version, (visits + 1).to_string()).await? {
    ///         break version;
    ///     }
    /// };
    /// assert_eq!(client.get_versioned("visits").await?, Some((version, b"42".to_vec())));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`]. It is not an error if the key is at another version.
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Version,
        value: impl AsRef<[u8]>,
    ) -> Result<Cas, Error> {
        let (key, value) = (checked_key(key.as_ref())?, checked_value(value.as_ref())?);
        let write = Write { expected: Some(expected), ..Write::new(key, Change::Put(value)) };
        write::write_if(&self.cluster, self.levels.ack, write).await
    }

    /// Stores a value if the key is absent.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// use client::Cas;
    ///
    /// let Cas::Written(version) = client.put_if_absent("leader", "me").await? else { panic!("it was absent") };
    /// assert_eq!(client.put_if_absent("leader", "you").await?, Cas::Conflict(version));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::compare_and_set`].
    pub async fn put_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Cas, Error> {
        self.compare_and_set(key, Version::NONE, value).await
    }

    /// Reads a key's value, byte for byte; `None` if the key is absent.
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
    /// [`Error::NotReached`] or [`Error::Refused`] if nobody who may answer did so within the timeout: any holder of
    /// the key, or for a linear read only its primary.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.read(key).await.map(|read| read.value)
    }

    /// Reads a key's value and reports which node answered. If that was a replica, the value may be stale.
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
        read::read(&self.cluster, self.levels.read, checked_key(key.as_ref())?, Wanted::Value).await
    }

    /// Reads a key's value and version, for [`Client::compare_and_set`]; `None` if the key is absent.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// client.put("user:1", "Alice").await?;
    /// let (version, value) = client.get_versioned("user:1").await?.expect("it was stored above");
    /// println!("{} at version {version}", String::from_utf8_lossy(&value));
    /// assert_eq!(client.get_versioned("user:2").await?, None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Version, Vec<u8>)>, Error> {
        let read = self.read_versioned(key).await?;
        Ok(read.version.zip(read.value))
    }

    /// As [`Client::read`], and sets [`Read::version`] to the key's version.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn read_versioned(&self, key: impl AsRef<[u8]>) -> Result<Read, Error> {
        read::read(&self.cluster, self.levels.read, checked_key(key.as_ref())?, Wanted::Versioned).await
    }

    /// Deletes a key, whether or not it exists. Returns who holds the key.
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
        write::write(&self.cluster, self.levels.ack, Write::new(key, Change::Delete)).await
    }

    /// Stores a value for `seconds`, from 1 to 10,000,000,000; after that the key is absent. Another write of the key
    /// replaces the deadline along with the value. Returns who holds the key.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// use client::Ttl;
    ///
    /// client.put_for("session:1", "Alice", 3600).await?;
    /// assert_eq!(client.ttl("session:1").await?, Ttl::Seconds(3600));
    /// assert!(client.persist("session:1").await?);
    /// assert_eq!(client.ttl("session:1").await?, Ttl::Forever);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn put_for(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        seconds: u64,
    ) -> Result<Placement, Error> {
        let (key, value) = (checked_key(key.as_ref())?, checked_value(value.as_ref())?);
        let change = Change::PutFor(value, millis(seconds, 1)?);
        write::write(&self.cluster, self.levels.ack, Write::new(key, change)).await
    }

    /// Sets a key to expire in `seconds`, up to 10,000,000,000; with 0 it becomes absent at once. Returns false if the
    /// key is already absent. Like every write, this gives the key a new version.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn expire(&self, key: impl AsRef<[u8]>, seconds: u64) -> Result<bool, Error> {
        let key = checked_key(key.as_ref())?;
        let change = Change::Expire(millis(seconds, 0)?);
        write::write_counted(&self.cluster, self.levels.ack, Write::new(key, change)).await
    }

    /// Removes a key's deadline, so that it keeps its value. Returns false if it has none or is absent.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = checked_key(key.as_ref())?;
        write::write_counted(&self.cluster, self.levels.ack, Write::new(key, Change::Persist)).await
    }

    /// How much longer a key will have its value.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn ttl(&self, key: impl AsRef<[u8]>) -> Result<Ttl, Error> {
        read::ttl(&self.cluster, self.levels.read, checked_key(key.as_ref())?).await
    }
}

pub(crate) fn checked_key(key: &[u8]) -> Result<&[u8], Error> {
    if key.len() > limits::KEY_BYTES {
        return Err(Error::too_long(&ErrorReply::key_too_long(key.len())));
    }
    Ok(key)
}

fn checked_value(value: &[u8]) -> Result<&[u8], Error> {
    if value.len() > limits::VALUE_BYTES {
        return Err(Error::too_long(&ErrorReply::value_too_long(value.len())));
    }
    Ok(value)
}

/// Converts seconds to milliseconds, if they are within the allowed range.
fn millis(seconds: u64, least: u64) -> Result<u64, Error> {
    if (least..=limits::TTL_SECONDS).contains(&seconds) {
        return Ok(seconds * 1_000);
    }
    let range = format!("{least} to {}", limits::TTL_SECONDS);
    Err(Error::Invalid(format!("the time to live must be {range} seconds, not {seconds}; nothing was changed")))
}
