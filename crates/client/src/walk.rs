//! Walks through the keys of the cluster, page by page, and counts. Any node can answer for the whole cluster.

use std::collections::VecDeque;
use std::time::Duration;

use proto::id::NodeAddr;
use proto::limits;
use proto::range::{Keys, PageRequest};
use tokio::time::{Instant, timeout_at};

use crate::answer::{Answer, Meaning, NotAnAnswer, Request, meaning_of};
use crate::client::{Client, checked_key};
use crate::cluster::{Cluster, WALKS};
use crate::connection::{Failure, Timeouts};
use crate::error::{Error, more_telling};
use crate::map_watch::{Pauses, is_down, wait_for_change};

/// How long a node may be silent before another is asked. The node may itself be waiting for a silent one. Doubles with
/// every node that was silent: an overloaded cluster is slow everywhere, and has more to do with every request that is
/// sent again. The last node has all the remaining time while it is up: a node that cannot answer says why when its own
/// time is up.
const SILENCE: Duration = Duration::from_secs(2);

/// Pauses between rounds; a new map ends a pause at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A walk through the keys of the whole cluster in byte order, page by page.
///
/// A key that exists throughout the walk is returned exactly once, whatever else happens meanwhile. A key that is
/// written or deleted during the walk may or may not be returned. At [`ReadLevel::Local`](crate::ReadLevel::Local) this
/// holds for what the answering nodes have; if a primary does not answer, a replica's keys may be stale.
#[derive(Debug, Clone)]
pub struct Walk {
    client: Client,
    wanted: Wanted,
    limit: usize,
    after: Option<Vec<u8>>,
    page: VecDeque<Vec<u8>>,
    is_over: bool,
}

#[derive(Debug, Clone)]
enum Wanted {
    Prefix(Vec<u8>),
    Between(Vec<u8>, Vec<u8>),
}

impl Client {
    /// A walk through the keys that begin with these bytes, or through all keys if there are none.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), client::Error> {
    /// # let cluster = fake_cluster::FakeCluster::start(1).await;
    /// # let client = client::Client::connect(cluster.coordinator_addr()).await?;
    /// for (key, value) in [("user:1", "Alice"), ("user:2", "Bob"), ("x", "y")] {
    ///     client.put(key, value).await?;
    /// }
    /// let mut walk = client.prefix("user:").page_size(1);
    /// let mut keys = Vec::new();
    /// while let Some(key) = walk.next_key().await? {
    ///     keys.push(String::from_utf8_lossy(&key).into_owned());
    /// }
    /// assert_eq!(keys, ["user:1", "user:2"]);
    /// assert_eq!(client.count("user:").await?, 2);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Walk {
        Walk::new(self, Wanted::Prefix(prefix.as_ref().to_vec()))
    }

    /// A walk through the keys from `from` (inclusive) to `to` (exclusive). An empty `to` means no upper bound.
    #[must_use]
    pub fn range(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Walk {
        Walk::new(self, Wanted::Between(from.as_ref().to_vec(), to.as_ref().to_vec()))
    }

    /// Counts the keys in the whole cluster that begin with these bytes.
    ///
    /// # Errors
    /// As [`Walk::next_page`].
    pub async fn count(&self, prefix: impl AsRef<[u8]>) -> Result<u64, Error> {
        let request = Request::count(checked_key(prefix.as_ref())?, self.levels().read);
        let counted = |answer| if let Answer::Number(count) = answer { u64::try_from(count).ok() } else { None };
        ask_any(&self.cluster, &request, counted).await
    }
}

impl Walk {
    fn new(client: &Client, wanted: Wanted) -> Self {
        let limit = limits::DEFAULT_PAGE_KEYS;
        Self { client: client.clone(), wanted, limit, after: None, page: VecDeque::new(), is_over: false }
    }

    /// Sets the most keys a page may have, from 1 to 10,000; the default is 1,000.
    #[must_use]
    pub fn page_size(self, keys: usize) -> Self {
        Self { limit: keys.clamp(1, limits::PAGE_KEYS), ..self }
    }

    /// Starts after this key, to resume an earlier walk. A walk that has begun goes on after this key instead.
    #[must_use]
    pub fn after(self, key: impl AsRef<[u8]>) -> Self {
        Self { after: Some(key.as_ref().to_vec()), page: VecDeque::new(), is_over: false, ..self }
    }

    /// The next keys, ascending and at least one; `None` at the end of the walk. A page may hold fewer keys than its
    /// limit, since it holds at most 1 MiB of them.
    ///
    /// # Errors
    /// [`Error::NotReached`] or [`Error::Refused`] if the keys of some slot could not be listed within the timeout: a
    /// page never omits any. The same page may be requested again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Vec<u8>>>, Error> {
        if !self.page.is_empty() {
            return Ok(Some(self.page.drain(..).collect()));
        }
        if self.is_over {
            return Ok(None);
        }
        let page = self.ask().await?;
        match page.last() {
            Some(last) => self.after = Some(last.clone()),
            None => self.is_over = true,
        }
        Ok(Some(page).filter(|page| !page.is_empty()))
    }

    /// The next key; `None` at the end of the walk. Fetches pages as needed.
    ///
    /// # Errors
    /// As [`Walk::next_page`].
    pub async fn next_key(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.page.is_empty() {
            self.page = self.next_page().await?.unwrap_or_default().into();
        }
        Ok(self.page.pop_front())
    }

    async fn ask(&self) -> Result<Vec<Vec<u8>>, Error> {
        let keys = match &self.wanted {
            Wanted::Prefix(prefix) => Keys::Prefix(checked_key(prefix)?),
            Wanted::Between(from, to) => Keys::Between(checked_key(from)?, checked_key(to)?),
        };
        let after = self.after.as_deref().map(checked_key).transpose()?;
        let request = Request::page(&PageRequest { keys, limit: self.limit, after }, self.client.levels().read);
        let listed = |answer| if let Answer::Keys(keys) = answer { Some(keys) } else { None };
        ask_any(&self.client.cluster, &request, listed).await
    }
}

/// Asks one node after another until one answers. Waits until few enough others of this client do so.
async fn ask_any<T>(cluster: &Cluster, request: &Request, wanted: impl Fn(Answer) -> Option<T>) -> Result<T, Error> {
    let deadline = cluster.deadline();
    let _place = timeout_at(deadline, cluster.walk()).await.map_err(|_| Error::NotReached {
        whom: "a node".to_owned(),
        reason: format!("{WALKS} walks and counts of this client are in flight already; {}", cluster.tried()),
    })?;
    let mut maps = cluster.maps();
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut silence = SILENCE;
    let mut failed = None;
    let turn = cluster.next_turn();
    loop {
        let mut nodes: Vec<NodeAddr> = {
            let map = maps.borrow_and_update();
            map.members().filter(|(_, member)| member.up).map(|(_, member)| member.addr.clone()).collect()
        };
        let begin = turn % nodes.len().max(1);
        nodes.rotate_left(begin);
        let last = nodes.last().cloned();
        for node in nodes {
            let timeouts = Timeouts::until(deadline);
            let timeouts = if last.as_ref() == Some(&node) { timeouts } else { timeouts.with_idle(silence) };
            let not_reached =
                |failure: Failure| Error::NotReached { whom: format!("node {node}"), reason: failure.to_string() };
            let mut watched = maps.clone();
            let asked_at = Instant::now();
            let answered = tokio::select! {
                biased;
                answered = cluster.pool().exchange(&node, request, timeouts) => answered,
                () = is_down(&mut watched, &node) => {
                    Err(Failure::NoAnswer("the coordinator took it for dead before it answered".to_owned()))
                }
            };
            let error = match answered {
                Err(failure) => {
                    if asked_at.elapsed() >= silence {
                        silence = silence.saturating_mul(2);
                    }
                    not_reached(failure)
                }
                Ok(Answer::Error(reason)) => {
                    let is_final = meaning_of(&reason) == Meaning::Never;
                    let refused = Error::Refused { by: Some(node.clone()), reason };
                    if is_final {
                        return Err(refused);
                    }
                    refused
                }
                Ok(answer) => match wanted(answer) {
                    Some(answer) => return Ok(answer),
                    None => not_reached(Failure::NoAnswer(NotAnAnswer.to_string())),
                },
            };
            tracing::debug!(%node, %error, "trying the next node");
            failed = Some(more_telling(failed, error));
        }
        if !wait_for_change(&mut maps, pauses.next(), deadline).await {
            return Err(cluster.gave_up(failed));
        }
    }
}
