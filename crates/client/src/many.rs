//! Many keys at once: each read or written on its own, side by side, at its own primary.

use std::future::{Future, pending};
use std::panic::resume_unwind;

use tokio::task::{JoinError, JoinSet};

use crate::client::Client;
use crate::error::Error;
use crate::placement::Placement;

/// How many keys are under way at a time.
const AT_ONCE: usize = 64;

impl Client {
    /// Reads many keys, side by side. Gives one answer for each, in their order.
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
    /// Of each key: as [`Client::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<Option<Vec<u8>>, Error>> {
        side_by_side(keys.into_iter().map(|key| {
            let (client, key) = (self.clone(), key.as_ref().to_vec());
            async move { client.get(key).await }
        }))
        .await
    }

    /// Stores many values, each under its key, side by side. Gives one answer for each, in their order. A key that is named
    /// twice has one of its values in the end, and nobody can tell which.
    ///
    /// # Errors
    /// Of each key: as [`Client::put`]. The others are stored all the same.
    pub async fn put_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Vec<Result<Placement, Error>> {
        side_by_side(pairs.into_iter().map(|(key, value)| {
            let (client, key, value) = (self.clone(), key.as_ref().to_vec(), value.as_ref().to_vec());
            async move { client.put(key, value).await }
        }))
        .await
    }
}

/// Makes all calls, some at a time. Where this is dropped, so are those that are under way.
async fn side_by_side<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    calls: impl Iterator<Item = F>,
) -> Vec<T> {
    let mut calls = calls.enumerate();
    let mut under_way = JoinSet::new();
    let mut results = Vec::new();
    loop {
        while under_way.len() < AT_ONCE
            && let Some((at, call)) = calls.next()
        {
            under_way.spawn(async move { (at, call.await) });
        }
        match under_way.join_next().await.transpose().map_err(JoinError::try_into_panic) {
            Ok(Some(done)) => results.push(done),
            Ok(None) => break,
            Err(Ok(panic)) => resume_unwind(panic),
            // The runtime ends all tasks, this one next.
            Err(Err(_)) => pending().await,
        }
    }
    results.sort_unstable_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
