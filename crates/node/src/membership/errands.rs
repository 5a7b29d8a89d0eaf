//! What must be on the disk before a message of the coordinator is taken.

use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion};
use proto::id::Incarnation;
use proto::session::{CoordinatorMessage, NodeMessage};
use storage::FileError;

use super::{Ended, Membership};
use crate::store::Store;

/// Something to be written. Then the message is offered again.
#[derive(Debug)]
pub(super) enum Errand {
    /// The incarnation that the coordinator has given to this start.
    Note(Incarnation),
    /// That this start is in a cluster, by its first map.
    Begin(Arc<ClusterMap>),
    /// A map in which a copy counts no more.
    Keep(Arc<ClusterMap>),
}

impl Membership {
    /// What is to be done before a message is taken.
    pub(super) fn errand_before(&self, message: &CoordinatorMessage<'_>) -> Option<Errand> {
        match message {
            CoordinatorMessage::Joined { incarnation, .. } if self.is_to_note(*incarnation) => {
                Some(Errand::Note(*incarnation))
            }
            CoordinatorMessage::Map { text } => {
                self.first_map(text).map(Errand::Begin).or_else(|| self.map_to_keep(text).map(Errand::Keep))
            }
            _ => None,
        }
    }

    /// Does it; says so where the session is over.
    pub(super) async fn run_errand(&mut self, errand: Errand, out: &mut Vec<u8>) -> Option<Ended> {
        match errand {
            Errand::Note(incarnation) => self.note(incarnation).await,
            Errand::Begin(map) => self.begin(map, out).await,
            Errand::Keep(map) => self.keep(map).await,
        }
    }

    /// Whether the data directory is to hear of an incarnation that the coordinator has given to this start.
    ///
    /// What is of a cluster and brought no map with it may be of another one than this coordinator's. It shows with the first map.
    fn is_to_note(&self, incarnation: Incarnation) -> bool {
        let is_known = |store: &Store| store.cluster().is_none() || self.driver.node().map().is_some();
        self.noted != Some(incarnation) && self.driver.store().is_some_and(is_known)
    }

    /// IMPORTANT: before the first heartbeat, with which the coordinator counts on this start. One that ends before its
    /// directory knows of it leaves data behind that no later start can show to be that of a member.
    async fn note(&mut self, incarnation: Incarnation) -> Option<Ended> {
        if let Some(store) = self.driver.store()
            && let Err(error) = store.note_incarnation(incarnation).await
        {
            return Some(unnoted(&error));
        }
        self.noted = Some(incarnation);
        None
    }

    /// The map, where it is the first that this start is sent.
    fn first_map(&self, text: &str) -> Option<Arc<ClusterMap>> {
        if self.incarnation.is_none() || self.begun == self.incarnation {
            return None;
        }
        let update = MapUpdate::parse(text.lines()).ok()?;
        // IMPORTANT: nothing is noted of one without a version. Its coordinator may never keep the name that it has.
        let map = ClusterMap::updated(None, &update).ok()?;
        (map.version > MapVersion(0)).then(|| Arc::new(map))
    }

    /// The node is in its cluster from now on. Only here it may find out that the cluster is not its own.
    async fn begin(&mut self, map: Arc<ClusterMap>, out: &mut Vec<u8>) -> Option<Ended> {
        let incarnation = self.incarnation?;
        if let Some(store) = self.driver.store() {
            // IMPORTANT: before anything is noted.
            if let Some(own) = store.cluster().filter(|own| *own != map.cluster) {
                NodeMessage::Leave.encode(out);
                return Some(Ended::Stranger(format!(
                    "the data in {} is of cluster {own}, and the coordinator at {} leads cluster {}; nothing was changed: \
                     name its own coordinator with --coordinator-host and --coordinator-port, or start with another \
                     --data-dir",
                    store.path().display(),
                    self.settings,
                    map.cluster
                )));
            }
            // IMPORTANT: what is written from now on is this start's, and the next one must be able to say so.
            if let Err(error) = store.begin(map, incarnation).await {
                return Some(unnoted(&error));
            }
        }
        self.begun = Some(incarnation);
        self.driver.node().joined(incarnation);
        None
    }

    /// The map, where it must be on the disk before the node goes by it.
    fn map_to_keep(&self, text: &str) -> Option<Arc<ClusterMap>> {
        self.driver.store()?;
        let update = MapUpdate::parse(text.lines()).ok().filter(|_| !self.dismissed)?;
        self.driver.node().to_be_kept(&update).filter(|map| map.version > self.map_kept)
    }

    async fn keep(&mut self, map: Arc<ClusterMap>) -> Option<Ended> {
        let version = map.version;
        if let Some(store) = self.driver.store()
            && let Err(error) = store.keep_map(map).await
        {
            return Some(unnoted(&error));
        }
        self.map_kept = version;
        None
    }
}

/// The disk has not taken what the next start must know of this one.
fn unnoted(error: &FileError) -> Ended {
    Ended::Unnoted(format!("the data directory does not take what the coordinator says: {error}: {}", error.source))
}
