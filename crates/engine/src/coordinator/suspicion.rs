//! Suspecting that a node is dead before the timeout: when neither the coordinator nor a copy of one of its slots hears
//! from it. Either alone may be the fault of a single connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::id::Incarnation;

use super::Coordinator;
use crate::bugs::Bugs;
use crate::registry::Registry;
use crate::time::Timestamp;

/// How long a complaint counts. It is repeated while its cause lasts.
const COMPLAINT_TIME: Duration = Duration::from_secs(1);

/// A coordinator that was not called for this long was asleep or cut off: heartbeats alone arrive more often.
const SLEPT: Duration = Duration::from_millis(400);

/// The complaints, and the time of the last call.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// By the node complained about and the complaining node: the time of the last complaint.
    complaints: BTreeMap<Incarnation, BTreeMap<Incarnation, Timestamp>>,
    last_call: Timestamp,
}

impl Suspicion {
    pub(super) fn last_call(&self) -> Timestamp {
        self.last_call
    }

    pub(super) fn complaint(&mut self, now: Timestamp, from: Incarnation, about: Incarnation) {
        self.complaints.entry(about).or_default().insert(from, now);
    }

    /// The nodes that are both suspected and complained about, and who complained.
    pub(super) fn accused(&self, now: Timestamp, registry: &Registry) -> BTreeMap<Incarnation, BTreeSet<Incarnation>> {
        let mut accused = BTreeMap::new();
        for (about, from) in self.complaints.iter().filter(|(about, _)| registry.is_suspect(now, **about)) {
            let counts = |at: &Timestamp| now - *at < COMPLAINT_TIME;
            let from: BTreeSet<_> = from.iter().filter(|(_, at)| counts(at)).map(|(from, _)| *from).collect();
            if !from.is_empty() {
                accused.insert(*about, from);
            }
        }
        accused
    }

    /// When the next node that is complained about becomes suspected, if nothing is heard from it.
    pub(super) fn next_check(&self, registry: &Registry) -> Option<Timestamp> {
        let when = self.complaints.keys().filter_map(|about| registry.suspect_from(*about));
        when.filter(|when| *when > self.last_call).min()
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.complaints.retain(|_, from| {
            from.retain(|_, at| now - *at < COMPLAINT_TIME);
            !from.is_empty()
        });
    }
}

impl<B: Bugs> Coordinator<B> {
    /// Must be called first whenever the coordinator is called.
    pub(super) fn wake(&mut self, now: Timestamp) {
        let slept = now - self.suspicion.last_call > SLEPT;
        self.suspicion.last_call = now;
        if slept {
            self.registry.excuse(now);
        }
        self.suspicion.forget_old(now);
    }
}
