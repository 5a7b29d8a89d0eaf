//! The task that follows the cluster map.
//!
//! It holds one connection to the coordinator, which sends every change of the map as it happens. While the coordinator
//! is away, the task reconnects with growing pauses, and all calls go on with the map they have.

use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapError, MapUpdate};
use proto::id::NodeAddr;
use proto::request::verbs;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::answer::Request;
use crate::connection::{Connection, Failure, Timeouts};
use crate::placement::Placement;
use crate::pool::Pool;

/// The first pause before reconnecting to the coordinator; pauses double up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long connecting to the coordinator may take once the client is running.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The newest map. A receiver is notified of every change.
pub(crate) type Maps = watch::Receiver<Arc<ClusterMap>>;

/// Exponential backoff.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Pauses {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }
}

/// Waits for a change of the map, for at most one pause. Returns `false` once the deadline has passed.
pub(crate) async fn wait_for_change(maps: &mut Maps, pause: Duration, deadline: Instant) -> bool {
    let end = deadline.min(Instant::now() + pause);
    if let Ok(Err(_)) = timeout_at(end, maps.changed()).await {
        // The watch task is gone along with its runtime; all that is left is to wait.
        sleep_until(end).await;
    }
    Instant::now() < deadline
}

/// Waits until a new map names a primary of the key other than this node.
pub(crate) async fn another_primary(maps: &mut Maps, key: &[u8], node: &NodeAddr) {
    let primary = |map: &ClusterMap| Placement::of(map, key).primary;
    new_map(maps, |map| primary(map).is_some_and(|primary| primary != *node)).await;
}

/// Waits until a new map says that this node is not up.
pub(crate) async fn is_down(maps: &mut Maps, node: &NodeAddr) {
    new_map(maps, |map| !map.is_node(node)).await;
}

async fn new_map(maps: &mut Maps, wanted: impl Fn(&ClusterMap) -> bool) {
    while maps.changed().await.is_ok() {
        if wanted(&maps.borrow_and_update()) {
            return;
        }
    }
    // No further map will come.
    std::future::pending().await
}

/// Connects to the coordinator, waits for the map, and spawns a task that follows it. The task ends when the last
/// receiver is dropped.
pub(crate) async fn start(coordinator: NodeAddr, pool: Arc<Pool>, deadline: Instant) -> Result<Maps, WatchEnd> {
    let mut watch = Watch::open(&coordinator, &pool, Timeouts::until(deadline)).await?;
    let first = watch.next(Timeouts::until(deadline)).await?;
    let (sender, maps) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = follow_for_ever(watch, &coordinator, &pool, &sender) => {}
        }
    });
    Ok(maps)
}

async fn follow_for_ever(
    mut watch: Watch,
    coordinator: &NodeAddr,
    pool: &Pool,
    sender: &watch::Sender<Arc<ClusterMap>>,
) {
    let mut pauses = Pauses::new(SHORTEST_PAUSE, LONGEST_PAUSE);
    let mut was_lost = false;
    loop {
        let end = loop {
            match watch.next(Timeouts::NONE).await {
                Ok(map) => {
                    if std::mem::take(&mut was_lost) {
                        tracing::info!(%coordinator, "the coordinator is back");
                    }
                    pauses = Pauses::new(SHORTEST_PAUSE, LONGEST_PAUSE);
                    publish(map, sender);
                    pool.keep_only(|addr| addr == coordinator || sender.borrow().is_node(addr));
                }
                Err(end) => break end,
            }
        };
        tracing::info!(%coordinator, %end, "lost the connection for map updates; keeping the current map");
        watch = loop {
            sleep(pauses.next()).await;
            match Watch::open(coordinator, pool, Timeouts::NONE.with_idle(CONNECT_PATIENCE)).await {
                Ok(watch) => break watch,
                Err(end) => tracing::debug!(%coordinator, %end, "the coordinator is still away"),
            }
        };
        was_lost = true;
    }
}

fn publish(map: ClusterMap, sender: &watch::Sender<Arc<ClusterMap>>) {
    sender.send_if_modified(|current| {
        let is_newer = supersedes(&map, current);
        if is_newer {
            tracing::debug!(version = map.version.0, "the cluster map has changed");
            *current = Arc::new(map);
        }
        is_newer
    });
}

/// Whether a map replaces the current one. Within a cluster, versions only grow. A coordinator that was started anew
/// and has not yet heard from its nodes has a map in which nobody holds anything; such a map is ignored.
fn supersedes(new: &ClusterMap, current: &ClusterMap) -> bool {
    if new.cluster == current.cluster {
        new.version > current.version
    } else {
        new.slots().any(|(_, config)| config.primary.is_some())
    }
}

/// Why no further map comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchEnd {
    /// Could not connect, or the connection broke.
    #[error(transparent)]
    Connection(#[from] Failure),
    /// The message was not a map, or was a change to a different map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The coordinator answered with this error.
    #[error("{0}")]
    Refused(String),
}

/// A connection on which map updates arrive, and the map as built from them.
#[derive(Debug)]
struct Watch {
    connection: Connection,
    map: Option<ClusterMap>,
}

impl Watch {
    async fn open(coordinator: &NodeAddr, pool: &Pool, timeouts: Timeouts) -> Result<Self, Failure> {
        let mut connection = pool.open(coordinator, timeouts).await?;
        if let Err(error) = connection.keep_alive() {
            tracing::debug!(%error, "cannot enable TCP keepalive: the loss of the coordinator will be noticed late");
        }
        connection.send(&Request::question(verbs::WATCH_MAP, None).bytes, timeouts).await?;
        Ok(Self { connection, map: None })
    }

    /// Waits for the map, or its next change. After an error the connection is of no further use.
    async fn next(&mut self, timeouts: Timeouts) -> Result<ClusterMap, WatchEnd> {
        let lines = self.connection.lines(|first| first.starts_with("OK Map "), timeouts).await?;
        if let Some(error) = lines.first().and_then(|first| first.strip_prefix("ERROR ")) {
            return Err(WatchEnd::Refused(error.to_owned()));
        }
        let update = MapUpdate::parse(lines.iter().map(String::as_str))?;
        let map = ClusterMap::updated(self.map.as_ref(), &update)?;
        self.map = Some(map.clone());
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::cluster_map::{MapVersion, SlotConfig};
    use proto::id::Incarnation;
    use proto::slot::{SlotBits, SlotId};

    fn map(cluster: &str, version: u64, has_primary: bool) -> ClusterMap {
        let mut map = ClusterMap::empty(cluster.to_owned(), SlotBits::new(1));
        map.version = MapVersion(version);
        if has_primary {
            map.set_config(SlotId(1), SlotConfig { primary: Some(Incarnation(1)), ..SlotConfig::default() }.into());
        }
        map
    }

    #[test]
    fn a_map_never_goes_back() {
        let current = map("a", 5, true);
        assert!(supersedes(&map("a", 6, false), &current), "a later version of the same cluster, whatever it says");
        assert!(!supersedes(&map("a", 5, true), &current));
        assert!(!supersedes(&map("a", 4, true), &current));
    }

    #[test]
    fn a_coordinator_that_knows_nobody_yet_is_no_news() {
        let current = map("a", 5, true);
        assert!(!supersedes(&map("b", 9, false), &current));
        assert!(supersedes(&map("b", 1, true), &current), "another cluster that has nodes is where requests go now");
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let mut pauses = Pauses::new(Duration::from_millis(50), Duration::from_millis(150));
        assert_eq!([50, 100, 150, 150].map(Duration::from_millis), std::array::from_fn(|_| pauses.next()));
    }
}
