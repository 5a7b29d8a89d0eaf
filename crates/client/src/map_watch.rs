//! The task that keeps the cluster map.
//!
//! It holds one connection to the coordinator, on which every change of the map comes as it happens. While the
//! coordinator is away it knocks again with growing pauses, and everybody goes on with the map that is there.

use std::sync::Arc;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapError, MapUpdate};
use proto::id::NodeAddr;
use proto::request::verbs;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::answer::Request;
use crate::connection::{Connection, Failure, Patience};
use crate::placement::Placement;
use crate::pool::Pool;

/// The first pause before the coordinator is asked again; it doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long a connection to the coordinator may take, once the client is running.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The newest map. A receiver is told of every change.
pub(crate) type Maps = watch::Receiver<Arc<ClusterMap>>;

/// Pauses that double.
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

/// Waits for a change of the map, at most for a pause. `false`: the deadline has passed.
pub(crate) async fn wait_for_change(maps: &mut Maps, pause: Duration, deadline: Instant) -> bool {
    let end = deadline.min(Instant::now() + pause);
    if let Ok(Err(_)) = timeout_at(end, maps.changed()).await {
        // The watching task is gone together with its runtime; only time can help.
        sleep_until(end).await;
    }
    Instant::now() < deadline
}

/// Waits until the map names another primary of the key than this node.
pub(crate) async fn another_primary(maps: &mut Maps, key: &[u8], node: &NodeAddr) {
    while maps.changed().await.is_ok() {
        if Placement::of(&maps.borrow_and_update(), key).primary.is_some_and(|primary| primary != *node) {
            return;
        }
    }
    // No map will come any more.
    std::future::pending().await
}

/// Connects to the coordinator, waits for the map, and has a task follow it from then on. The task ends when the last
/// receiver is dropped.
pub(crate) async fn start(coordinator: NodeAddr, pool: Arc<Pool>, deadline: Instant) -> Result<Maps, WatchEnd> {
    let mut watch = Watch::open(&coordinator, &pool, Patience::until(deadline)).await?;
    let first = watch.next(Patience::until(deadline)).await?;
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
    loop {
        let end = loop {
            match watch.next(Patience::ENDLESS).await {
                Ok(map) => {
                    pauses = Pauses::new(SHORTEST_PAUSE, LONGEST_PAUSE);
                    publish(map, sender);
                    pool.keep_only(|addr| addr == coordinator || sender.borrow().is_node(addr));
                }
                Err(end) => break end,
            }
        };
        tracing::info!(%coordinator, %end, "no longer hears of changes of the map; goes on with the one it has");
        watch = loop {
            sleep(pauses.next()).await;
            match Watch::open(coordinator, pool, Patience::ENDLESS.with_silence(CONNECT_PATIENCE)).await {
                Ok(watch) => break watch,
                Err(end) => tracing::debug!(%coordinator, %end, "the coordinator is still away"),
            }
        };
        tracing::info!(%coordinator, "the coordinator is back");
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

/// Whether a map takes the place of the one that is here. Within a cluster versions only grow. A coordinator that was
/// started anew and has not yet heard of its nodes has a map in which nobody holds anything: that is no news.
fn supersedes(new: &ClusterMap, current: &ClusterMap) -> bool {
    if new.cluster == current.cluster {
        new.version > current.version
    } else {
        new.slots().any(|(_, config)| config.primary.is_some())
    }
}

/// Why no map comes any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchEnd {
    /// Not reached, or broken off.
    #[error(transparent)]
    Connection(#[from] Failure),
    /// What came is no map, or a change of another one.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The coordinator answered with this error.
    #[error("{0}")]
    Refused(String),
}

/// A connection on which the map comes, and the map as this connection has told it.
#[derive(Debug)]
struct Watch {
    connection: Connection,
    map: Option<ClusterMap>,
}

impl Watch {
    async fn open(coordinator: &NodeAddr, pool: &Pool, patience: Patience) -> Result<Self, Failure> {
        let mut connection = pool.open(coordinator, patience).await?;
        if let Err(error) = connection.keep_alive() {
            tracing::debug!(%error, "a coordinator that goes without a word will be noticed late");
        }
        connection.send(&Request::question(verbs::WATCH_MAP, None).bytes, patience).await?;
        Ok(Self { connection, map: None })
    }

    /// Waits for the map, or its next change. After an error the connection is of no further use.
    async fn next(&mut self, patience: Patience) -> Result<ClusterMap, WatchEnd> {
        let lines = self.connection.lines(|first| first.starts_with("OK Map "), patience).await?;
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
        map.set_version(MapVersion(version));
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
