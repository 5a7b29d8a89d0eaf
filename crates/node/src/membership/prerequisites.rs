//! What must be on disk before a message from the coordinator is handled.

use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion};
use proto::id::Incarnation;
use proto::session::{CoordinatorMessage, NodeMessage};
use storage::FileError;

use super::{Ended, Membership};
use crate::store::Store;

/// Something to write first. The message is then offered again.
#[derive(Debug)]
pub(super) enum Prerequisite {
    /// The incarnation that the coordinator has assigned to this start.
    Note(Incarnation),
    /// The fact that this start is in a cluster, with its first map.
    Begin(Arc<ClusterMap>),
    /// A map in which a copy no longer counts.
    Keep(Arc<ClusterMap>),
}

impl Membership {
    /// What must be written before a message is handled, if anything.
    pub(super) fn prerequisite_of(&self, message: &CoordinatorMessage<'_>) -> Option<Prerequisite> {
        match message {
            CoordinatorMessage::Joined { incarnation, .. } if self.is_to_note(*incarnation) => {
                Some(Prerequisite::Note(*incarnation))
            }
            CoordinatorMessage::Map { text } => {
                self.first_map(text).map(Prerequisite::Begin).or_else(|| self.map_to_keep(text).map(Prerequisite::Keep))
            }
            _ => None,
        }
    }

    /// Runs the prerequisite; returns how the session ended, if it did.
    pub(super) async fn fulfil(&mut self, prerequisite: Prerequisite, out: &mut Vec<u8>) -> Option<Ended> {
        match prerequisite {
            Prerequisite::Note(incarnation) => self.note(incarnation).await,
            Prerequisite::Begin(map) => self.begin(map, out).await,
            Prerequisite::Keep(map) => self.keep(map).await,
        }
    }

    /// Whether an incarnation assigned by the coordinator must be recorded in the data directory.
    ///
    /// A directory that belongs to a cluster but has no map may belong to another cluster than this coordinator's. The
    /// first map will tell.
    fn is_to_note(&self, incarnation: Incarnation) -> bool {
        let is_known = |store: &Store| store.cluster().is_none() || self.driver.node().map().is_some();
        self.noted != Some(incarnation) && self.driver.store().is_some_and(is_known)
    }

    /// Records the incarnation on disk. IMPORTANT: this happens before the first heartbeat, from which the coordinator
    /// counts on this start. A start that ended before its directory knew its incarnation would leave data that no
    /// later start can prove to be a member's.
    async fn note(&mut self, incarnation: Incarnation) -> Option<Ended> {
        if let Some(store) = self.driver.store()
            && let Err(error) = store.note_incarnation(incarnation).await
        {
            return Some(unnoted(&error));
        }
        self.noted = Some(incarnation);
        None
    }

    /// The map, if it is the first that this start has received.
    fn first_map(&self, text: &str) -> Option<Arc<ClusterMap>> {
        if self.incarnation.is_none() || self.begun == self.incarnation {
            return None;
        }
        let update = MapUpdate::parse(text.lines()).ok()?;
        // IMPORTANT: record nothing for a map without a version. Its coordinator may never keep the cluster name that
        // it has now.
        let map = ClusterMap::updated(None, &update).ok()?;
        (map.version > MapVersion(0)).then(|| Arc::new(map))
    }

    /// Makes the node part of its cluster. Only here can it find out that the cluster is not its own.
    async fn begin(&mut self, map: Arc<ClusterMap>, out: &mut Vec<u8>) -> Option<Ended> {
        let incarnation = self.incarnation?;
        if let Some(store) = self.driver.store() {
            // IMPORTANT: checked before anything is recorded.
            if let Some(own) = store.cluster().filter(|own| *own != map.cluster) {
                NodeMessage::Leave.encode(out);
                return Some(Ended::Rejected(format!(
                    "the data in {} belongs to cluster {own}, but the coordinator at {} leads cluster {}; nothing was \
                     changed: name the right coordinator with --coordinator-host and --coordinator-port, or start \
                     with another --data-dir",
                    store.path().display(),
                    self.settings,
                    map.cluster
                )));
            }
            // IMPORTANT: what is written from now on belongs to this start, and the next one must be able to say so.
            if let Err(error) = store.begin(map, incarnation).await {
                return Some(unnoted(&error));
            }
        }
        self.begun = Some(incarnation);
        self.driver.node().joined(incarnation);
        None
    }

    /// The map, if it must be on disk before the node applies it.
    fn map_to_keep(&self, text: &str) -> Option<Arc<ClusterMap>> {
        self.driver.store()?;
        // IMPORTANT: a node that was replaced leaves its data, and the map that says whose it is, as they are.
        let applies = |update: &MapUpdate| !self.dismissed && !self.is_replaced_in(update);
        let update = MapUpdate::parse(text.lines()).ok().filter(applies)?;
        self.driver.node().to_be_kept(&update).filter(|map| map.version > self.map_kept)
    }

    /// Whether another start is up under this node's address, after this one had been up itself.
    pub(super) fn is_replaced_in(&self, update: &MapUpdate) -> bool {
        let up = self.up_under_my_name(update);
        self.was_up && !up.is_empty() && !up.contains(&self.incarnation)
    }

    /// The starts that are up under this node's address.
    pub(super) fn up_under_my_name(&self, update: &MapUpdate) -> Vec<Option<Incarnation>> {
        let up = update.members().filter(|(_, member)| member.up && member.addr == *self.driver.addr());
        up.map(|(start, _)| Some(start)).collect()
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

/// The disk did not take what the next start must know of this one.
fn unnoted(error: &FileError) -> Ended {
    Ended::Unnoted(format!("cannot record in the data directory what the coordinator says: {error}: {}", error.source))
}
