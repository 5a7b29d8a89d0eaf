//! Replacing a primary before the timeout: when neither the coordinator nor a copy of one of its slots hears from it, or
//! when it and so many of the copies do not hear each other that the slot cannot go on with it and may without it. A
//! complaint alone may be the fault of a single connection.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::id::Incarnation;

use super::Coordinator;
use crate::bugs::Bugs;
use crate::registry::{Registry, SUSPECT_AFTER};
use crate::time::Timestamp;

/// How long a complaint counts. It is repeated while its cause lasts.
const COMPLAINT_TIME: Duration = Duration::from_secs(1);

/// For how long a primary that was replaced because it is cut off is handed no slots: at first, and at most.
const SHUNNED_LEAST: Duration = Duration::from_secs(10);
const SHUNNED_MOST: Duration = Duration::from_secs(300);

/// A coordinator that was not called for this long was asleep or cut off: heartbeats alone arrive more often.
const SLEPT: Duration = Duration::from_millis(400);

/// The complaints, and the times of the last call and the last look.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// By the node complained about and the complaining node: the time of the last complaint.
    complaints: BTreeMap<Incarnation, BTreeMap<Incarnation, Timestamp>>,
    /// By the primary: when it last asked to expel a copy that complained about it.
    parted: BTreeMap<Incarnation, Timestamp>,
    /// The primaries that were replaced because they are cut off: until when they are handed no slots, and the length of
    /// that pause.
    shunned: BTreeMap<Incarnation, (Timestamp, Duration)>,
    last_call: Timestamp,
    /// When all slots were last looked at.
    looked: Timestamp,
    /// When the coordinator last noticed that it had been asleep. What it hears right after is old.
    woke: Timestamp,
}

impl Suspicion {
    pub(super) fn last_call(&self) -> Timestamp {
        self.last_call
    }

    /// Returns whether the complaint is new, and not the repetition of one that counts already.
    pub(super) fn complaint(&mut self, now: Timestamp, from: Incarnation, about: Incarnation) -> bool {
        let before = self.complaints.entry(about).or_default().insert(from, now);
        before.is_none_or(|before| now - before >= COMPLAINT_TIME)
    }

    /// A primary asks to expel a copy because it does not hear it, or the copy does not follow.
    pub(super) fn expels(&mut self, now: Timestamp, primary: Incarnation, copy: Incarnation) {
        if self.complainers(now, primary).contains(&copy) {
            self.parted.insert(primary, now);
        }
    }

    /// A primary has filled a copy, so they hear each other.
    pub(super) fn hear_each_other(&mut self, primary: Incarnation, copy: Incarnation) {
        self.parted.remove(&primary);
        if let Some(complainers) = self.complaints.get_mut(&primary) {
            complainers.remove(&copy);
        }
    }

    /// A node leads slots from now on: what was said of it before is over.
    pub(super) fn leads(&mut self, primary: Incarnation) {
        self.parted.remove(&primary);
        self.complaints.remove(&primary);
    }

    /// A primary is replaced because it is cut off. Returns for how long it is handed no slots: longer each time, since
    /// it may still be unable to reach its replicas although they reach it.
    pub(super) fn replaced(&mut self, now: Timestamp, primary: Incarnation) -> Duration {
        let before = self.shunned.get(&primary).map_or(Duration::ZERO, |(_, pause)| *pause);
        let pause = (before * 2).clamp(SHUNNED_LEAST, SHUNNED_MOST);
        self.shunned.insert(primary, (now + pause, pause));
        pause
    }

    /// The nodes that are handed no slots for now.
    pub(super) fn shunned(&self, now: Timestamp) -> BTreeSet<Incarnation> {
        self.shunned.iter().filter(|(_, (until, _))| now < *until).map(|(node, _)| *node).collect()
    }

    /// When the next of them may be handed slots again.
    pub(super) fn next_pardon(&self) -> Option<Timestamp> {
        self.shunned.values().map(|(until, _)| *until).filter(|until| *until > self.last_call).min()
    }

    /// The nodes that are complained about, and who complained.
    pub(super) fn complaints(&self, now: Timestamp) -> BTreeMap<Incarnation, BTreeSet<Incarnation>> {
        let complaints = self.complaints.keys().map(|about| (*about, self.complainers(now, *about)));
        complaints.filter(|(_, from)| !from.is_empty()).collect()
    }

    /// The primaries that do not hear copies which do not hear them either.
    pub(super) fn parted(&self, now: Timestamp) -> BTreeSet<Incarnation> {
        let is_news = |at: Timestamp| now - at < COMPLAINT_TIME && now - self.woke >= SUSPECT_AFTER;
        self.parted.iter().filter(|(_, at)| is_news(**at)).map(|(primary, _)| *primary).collect()
    }

    fn complainers(&self, now: Timestamp, about: Incarnation) -> BTreeSet<Incarnation> {
        let from = self.complaints.get(&about).into_iter().flatten();
        from.filter(|(_, at)| now - **at < COMPLAINT_TIME).map(|(from, _)| *from).collect()
    }

    /// All slots are looked at.
    pub(super) fn look(&mut self, now: Timestamp) {
        self.looked = now;
    }

    /// When the next node that is complained about becomes suspected, if nothing is heard from it. In the past, if all
    /// slots have not been looked at since.
    pub(super) fn next_check(&self, registry: &Registry) -> Option<Timestamp> {
        let when = self.complaints.keys().filter_map(|about| registry.suspect_from(*about));
        when.filter(|when| *when > self.looked).min()
    }

    fn forget_old(&mut self, now: Timestamp) {
        self.complaints.retain(|_, from| {
            from.retain(|_, at| now - *at < COMPLAINT_TIME);
            !from.is_empty()
        });
        self.parted.retain(|_, at| now - *at < COMPLAINT_TIME);
        // Whoever has kept its slots for as long as it was handed none is as good as any other.
        self.shunned.retain(|_, (until, pause)| now < *until + *pause);
    }
}

impl<B: Bugs> Coordinator<B> {
    /// Must be called first whenever the coordinator is called.
    pub(super) fn wake(&mut self, now: Timestamp) {
        let slept = now - self.suspicion.last_call > SLEPT;
        self.suspicion.last_call = now;
        if slept {
            self.suspicion.woke = now;
            self.registry.excuse(now);
        }
        self.suspicion.forget_old(now);
    }
}
