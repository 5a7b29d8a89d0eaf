//! Many keys at once: each is read or written on its own at its own primary, concurrently.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::panic::resume_unwind;

use tokio::task::{JoinError, JoinSet};

use crate::client::Client;
use crate::error::Error;
use crate::placement::Placement;

/// How many keys are in flight at a time.
const AT_ONCE: usize = 64;

impl Client {
    /// Reads many keys concurrently. Returns one result per key, in the order given.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(3).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// let stored = client.put_many([("user:1", "Alice"), ("user:2", "Bob")]).await;
    /// assert!(stored.iter().all(Result::is_ok));
    /// let values = client.get_many(["user:2", "user:3"]).await;
    /// assert_eq!(values, [Ok(Some(b"Bob".to_vec())), Ok(None)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// For each key: as [`Client::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Vec<u8>>, Error>> {
        side_by_side(
            keys.into_iter().map(|key| {
                let (client, key) = (self.clone(), key.as_ref().to_vec());
                async move { client.get(key).await }
            }),
            AT_ONCE,
        )
        .await
    }

    /// Stores many values, each under its key, concurrently. Returns one result per pair, in the order given. If a key is
    /// named twice, only its last value is stored, and all its pairs have the result of that.
    ///
    /// # Errors
    /// For each key: as [`Client::put`]. A failure does not affect the other keys.
    pub async fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Vec<Result<Placement, Error>> {
        // For each pair, which of the writes it is; for each key, its write.
        let (mut places, mut writes, mut write_of) = (Vec::new(), Vec::<(Vec<u8>, Vec<u8>)>::new(), HashMap::new());
        for (key, value) in pairs {
            let (key, value) = (key.as_ref().to_vec(), value.as_ref().to_vec());
            let place = *write_of.entry(key.clone()).or_insert(writes.len());
            places.push(place);
            match writes.get_mut(place) {
                Some((_, earlier)) => *earlier = value,
                None => writes.push((key, value)),
            }
        }
        let results = side_by_side(
            writes.into_iter().map(|(key, value)| {
                let client = self.clone();
                async move { client.put(key, value).await }
            }),
            AT_ONCE,
        )
        .await;
        places.into_iter().filter_map(|place| results.get(place).cloned()).collect()
    }
}

/// Runs all calls, so many at a time. Dropping this future drops those in flight.
pub(crate) async fn side_by_side<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    calls: impl Iterator<Item = F>,
    at_once: usize,
) -> Vec<T> {
    let mut calls = calls.enumerate();
    let mut under_way = JoinSet::new();
    let mut results = Vec::new();
    loop {
        while under_way.len() < at_once
            && let Some((at, call)) = calls.next()
        {
            under_way.spawn(async move { (at, call.await) });
        }
        match under_way.join_next().await.transpose().map_err(JoinError::try_into_panic) {
            Ok(Some(done)) => results.push(done),
            Ok(None) => break,
            Err(Ok(panic)) => resume_unwind(panic),
            // The runtime is shutting down: it ends all tasks, this one next.
            Err(Err(_)) => pending().await,
        }
    }
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
