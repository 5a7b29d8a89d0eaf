//! One slot on one node: its records and its role.
//!
//! A slot is a plain struct behind a lock of its own. As a primary it gives each write the next number and queues the
//! record for every replica, under that lock, so that a queue holds a slot's records in their order. As a replica it
//! takes records in that order only: each names the one before it, and where that is not the last one here, the slot
//! asks to be filled. A fill replaces all that the slot holds at once, so that at every moment a copy is what its
//! primary was at some record.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::cluster_map::{MapVersion, SlotConfig};
use proto::id::{Epoch, Incarnation, Version};
use proto::peer::{Effect, LinkReply};
use proto::slot::SlotId;

use crate::outbox::{Item, Outbox, Stamp};
use crate::record::Record;
use crate::table::{KeyHasher, Table};

/// The state of one slot. At rest and empty it takes less than 256 bytes.
#[derive(Debug, Default)]
pub struct Slot {
    table: Table,
    /// The last record held.
    last: Version,
    /// The highest epoch heard of. Nothing of a lower one is taken.
    epoch: Epoch,
    /// The version of the configuration that the role comes from.
    config: MapVersion,
    role: Role,
    /// The tombstones in the table and some that were overwritten since, oldest first.
    tombstones: VecDeque<Arc<Record>>,
}

#[derive(Debug, Default)]
enum Role {
    /// This node is no copy of the slot.
    #[default]
    Idle,
    Primary {
        followers: Vec<Follower>,
        intake: Intake,
    },
    Replica {
        /// The primary that has aligned with this copy in the present epoch.
        following: Option<Incarnation>,
        /// The copy is not level with its primary, who has been told so.
        awaiting_fill: bool,
    },
}

/// Whether a primary takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    Open,
    /// Handing over: waiting until the next primary has acknowledged the alignment with this stamp.
    Draining(Stamp),
    /// Handed over, as soon as the coordinator says so.
    Released,
}

/// A replica or learner, as its primary sees it.
#[derive(Debug)]
struct Follower {
    outbox: Arc<Outbox>,
    stamp: Stamp,
    is_learner: bool,
    progress: Progress,
    /// Every tombstone up to this number has been applied there.
    acked: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Was told where this slot stands, and has not answered.
    Aligning,
    /// Has missed something; a fill is to be made when its turn comes. Records are not queued meanwhile.
    WantsFill,
    /// A fill is on its way, and every record since.
    Filling,
    /// Takes each record as it comes.
    Level,
    /// Its queue has overflowed; it will be aligned anew.
    Behind,
}

/// What an acknowledgement calls for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The replica is a learner and level: it may be admitted to the in-sync set.
    pub admit: bool,
    /// The slot has been drained; the next primary may have it.
    pub released: bool,
}

impl Slot {
    /// The last record held.
    #[must_use]
    pub fn last(&self) -> Version {
        self.last
    }

    /// The version of the configuration that the slot goes by.
    #[must_use]
    pub fn config(&self) -> MapVersion {
        self.config
    }

    /// How many keys the slot holds.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.table.keys()
    }

    /// Whether this node leads the slot.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        matches!(self.role, Role::Primary { .. })
    }

    /// Whether this node has a whole copy, level or not, that a read may be answered from.
    #[must_use]
    pub fn holds_copy(&self) -> bool {
        match self.role {
            Role::Idle => false,
            Role::Primary { .. } => true,
            Role::Replica { awaiting_fill, .. } => !awaiting_fill || self.last != Version::NONE,
        }
    }

    /// The record of a key.
    #[must_use]
    pub fn get(&self, hasher: &KeyHasher, key: &[u8]) -> Option<&Arc<Record>> {
        self.table.get(hasher, key).filter(|record| !record.is_delete())
    }

    /// Whether writes are taken here and now.
    #[must_use]
    pub fn takes_writes(&self) -> bool {
        matches!(self.role, Role::Primary { intake: Intake::Open, .. })
    }

    /// Carries out a write and queues it for every replica. `touched` is told whose queue has something new.
    ///
    /// # Panics
    /// Where [`Slot::takes_writes`] is false.
    pub fn write(
        &mut self,
        hasher: &KeyHasher,
        id: SlotId,
        key: &[u8],
        effect: Effect<'_>,
        mut touched: impl FnMut(&Arc<Outbox>),
    ) {
        assert!(self.takes_writes(), "only an open primary gives a write its number");
        if effect == Effect::Delete && self.get(hasher, key).is_none() {
            return; // Absent already: there is nothing to order and nothing to send.
        }
        let previous = self.last;
        let version = Version { epoch: self.epoch, seq: previous.seq + 1 };
        let record = Arc::new(Record::new(version, key, effect));
        self.apply(hasher, Arc::clone(&record));
        if let Role::Primary { followers, .. } = &self.role {
            for follower in followers.iter().filter(|follower| follower.progress.takes_records()) {
                follower.outbox.push(Item::Record { slot: id, previous, record: Arc::clone(&record) });
                touched(&follower.outbox);
            }
            if followers.is_empty() {
                self.purge(hasher, version.seq);
            }
        }
    }

    fn apply(&mut self, hasher: &KeyHasher, record: Arc<Record>) {
        self.last = record.version;
        if record.is_delete() {
            self.tombstones.push_back(Arc::clone(&record));
        }
        self.table.insert(hasher, record);
    }

    /// Drops the tombstones up to `seq`; says whether there were any.
    fn purge(&mut self, hasher: &KeyHasher, seq: u64) -> bool {
        let mut any = false;
        while let Some(tombstone) = self.tombstones.pop_front_if(|tombstone| tombstone.version.seq <= seq) {
            self.table.purge(hasher, &tombstone);
            any = true;
        }
        any
    }

    /// Takes the role that a newer configuration gives this node.
    ///
    /// `outbox` gives the queue to another node; `stamp` gives numbers that were never used before.
    pub fn configure(
        &mut self,
        id: SlotId,
        me: Incarnation,
        config: &SlotConfig,
        mut outbox: impl FnMut(Incarnation) -> Option<Arc<Outbox>>,
        mut stamp: impl FnMut() -> Stamp,
    ) {
        self.config = config.version;
        let is_copy = config.isr.contains(&me) || config.learners.contains(&me);
        if config.primary != Some(me) {
            if !is_copy {
                // The others hold it: the coordinator removes a copy only then.
                self.give_up();
                self.epoch = self.epoch.max(config.epoch);
            } else if self.is_primary() || config.epoch > self.epoch || matches!(self.role, Role::Idle) {
                self.epoch = self.epoch.max(config.epoch);
                self.role = Role::Replica { following: None, awaiting_fill: true };
            }
            return;
        }

        let is_new_term = !self.is_primary() || self.epoch != config.epoch;
        self.epoch = config.epoch;
        let mut before = match std::mem::take(&mut self.role) {
            Role::Primary { followers, .. } if !is_new_term => followers,
            _ => Vec::new(),
        };
        let mut followers = Vec::new();
        let in_sync = config.isr.iter().filter(|member| **member != me).map(|member| (*member, false));
        for (member, is_learner) in in_sync.chain(config.learners.iter().map(|learner| (*learner, true))) {
            if let Some(at) = before.iter().position(|follower| follower.outbox.to == member) {
                let mut known = before.swap_remove(at);
                known.is_learner = is_learner;
                if is_learner && known.progress != Progress::Behind {
                    // IMPORTANT: a learner may have been dropped and taken in again by changes of which this node sees
                    // only the last, and may have given its copy up in between. It says anew that it is level.
                    known.stamp = stamp();
                    known.progress = Progress::Aligning;
                    known.align(id, self.epoch, self.config, self.last);
                }
                followers.push(known);
            } else if let Some(outbox) = outbox(member) {
                let mut follower =
                    Follower { outbox, stamp: stamp(), is_learner, progress: Progress::Aligning, acked: 0 };
                follower.align(id, self.epoch, self.config, self.last);
                followers.push(follower);
            }
        }
        self.role = Role::Primary { followers, intake: Intake::Open };
    }

    /// Drops the copy, and with it whatever role it had.
    pub fn give_up(&mut self) {
        *self = Self { epoch: self.epoch, config: self.config, ..Self::default() };
    }

    /// Starts to hand the slot over: takes no more writes, and asks the next primary to say when it has everything.
    /// `false` where that cannot be now.
    pub fn drain(&mut self, id: SlotId, to: Incarnation, stamp: Stamp) -> bool {
        let (epoch, config, last) = (self.epoch, self.config, self.last);
        let Role::Primary { followers, intake } = &mut self.role else { return false };
        let level = |follower: &&mut Follower| follower.outbox.to == to && follower.progress == Progress::Level;
        let Some(next) = followers.iter_mut().find(level) else { return false };
        *intake = Intake::Draining(stamp);
        next.outbox.push(Item::Align { slot: id, epoch, config, last, stamp });
        true
    }

    /// Takes writes again, since a hand-over has not come about in time. `false` where it has.
    pub fn reopen(&mut self) -> bool {
        match &mut self.role {
            Role::Primary { intake, .. } if *intake != Intake::Open => {
                *intake = Intake::Open;
                true
            }
            Role::Primary { .. } | Role::Replica { .. } | Role::Idle => false,
        }
    }

    /// A replica has acknowledged an alignment or a fill. `touched` is told whose queue has something new.
    pub fn follower_is_level(
        &mut self,
        hasher: &KeyHasher,
        id: SlotId,
        who: Incarnation,
        stamp: Stamp,
        seq: u64,
        touched: impl FnMut(&Arc<Outbox>),
    ) -> Effects {
        let mut effects = Effects::default();
        let Role::Primary { followers, intake } = &mut self.role else { return effects };
        if *intake == Intake::Draining(stamp) {
            *intake = Intake::Released;
            effects.released = true;
        }
        if let Some(follower) =
            followers.iter_mut().find(|follower| follower.outbox.to == who && follower.stamp == stamp)
            && matches!(follower.progress, Progress::Aligning | Progress::Filling)
        {
            follower.progress = Progress::Level;
            if follower.is_learner {
                effects.admit = true;
            }
        }
        self.follower_has_passed(hasher, id, who, seq, touched);
        effects
    }

    /// A replica has applied every tombstone up to `seq`. What all have applied may go, here and there.
    pub fn follower_has_passed(
        &mut self,
        hasher: &KeyHasher,
        id: SlotId,
        who: Incarnation,
        seq: u64,
        mut touched: impl FnMut(&Arc<Outbox>),
    ) {
        let Role::Primary { followers, .. } = &mut self.role else { return };
        if let Some(follower) = followers.iter_mut().find(|follower| follower.outbox.to == who) {
            follower.acked = follower.acked.max(seq);
        }
        let Some(all) = followers.iter().map(|follower| follower.acked).min() else { return };
        if self.purge(hasher, all)
            && let Role::Primary { followers, .. } = &self.role
        {
            for follower in followers.iter().filter(|follower| follower.progress == Progress::Level) {
                follower.outbox.push(Item::Purge { slot: id, seq: all });
                touched(&follower.outbox);
            }
        }
    }

    /// A replica has said that it is not level.
    pub fn follower_is_behind(&mut self, id: SlotId, who: Incarnation, epoch: Epoch) {
        if epoch != self.epoch {
            return;
        }
        let Role::Primary { followers, .. } = &mut self.role else { return };
        let Some(follower) = followers.iter_mut().find(|follower| follower.outbox.to == who) else { return };
        if follower.progress != Progress::Behind {
            follower.progress = Progress::WantsFill;
            follower.outbox.want_fill(id);
        }
    }

    /// Queues all that the slot holds for a replica that wants it.
    pub fn fill(&mut self, id: SlotId, who: Incarnation) {
        let (epoch, last) = (self.epoch, self.last);
        let Role::Primary { followers, .. } = &mut self.role else { return };
        let wants = |follower: &&mut Follower| follower.outbox.to == who && follower.progress == Progress::WantsFill;
        if let Some(follower) = followers.iter_mut().find(wants) {
            follower.progress = Progress::Filling;
            let records = self.table.records().map(Arc::clone).collect();
            follower.outbox.push(Item::Fill { slot: id, epoch, last, records, stamp: follower.stamp });
        }
    }

    /// A replica's queue has overflowed. Says whether it was in sync, so that it must be expelled.
    pub fn follower_has_overflowed(&mut self, who: Incarnation) -> bool {
        let Role::Primary { followers, .. } = &mut self.role else { return false };
        let Some(follower) = followers.iter_mut().find(|follower| follower.outbox.to == who) else { return false };
        follower.progress = Progress::Behind;
        !follower.is_learner
    }

    /// Begins again with a replica that had overflowed.
    pub fn realign_follower(&mut self, id: SlotId, who: Incarnation, stamp: Stamp) {
        let (epoch, config, last) = (self.epoch, self.config, self.last);
        let Role::Primary { followers, .. } = &mut self.role else { return };
        let behind = |follower: &&mut Follower| follower.outbox.to == who && follower.progress == Progress::Behind;
        if let Some(follower) = followers.iter_mut().find(behind) {
            follower.stamp = stamp;
            follower.progress = Progress::Aligning;
            follower.align(id, epoch, config, last);
        }
    }

    /// The learners that are level and wait to be admitted.
    pub fn level_learners(&self) -> impl Iterator<Item = Incarnation> {
        let followers = match &self.role {
            Role::Primary { followers, .. } => followers.as_slice(),
            Role::Idle | Role::Replica { .. } => &[],
        };
        let level = followers.iter().filter(|follower| follower.is_learner && follower.progress == Progress::Level);
        level.map(|follower| follower.outbox.to)
    }

    /// Another node follows a primary of a higher epoch: this one leads no longer, whatever its map says.
    pub fn depose(&mut self, epoch: Epoch) -> bool {
        let deposed = epoch > self.epoch && self.is_primary();
        if deposed {
            self.epoch = epoch;
            self.role = Role::Replica { following: None, awaiting_fill: true };
        }
        deposed
    }

    /// A primary says where it stands, as the first thing in its epoch. Says how many records here it does not have,
    /// and what to answer.
    pub fn align(
        &mut self,
        id: SlotId,
        from: Incarnation,
        epoch: Epoch,
        config: MapVersion,
        last: Version,
    ) -> (usize, Option<LinkReply>) {
        if let Some(refusal) = self.refuses(id, epoch) {
            return (0, Some(refusal));
        }
        if matches!(self.role, Role::Idle) && config <= self.config {
            return (0, None); // The map here is newer than the sender's, and does not want this node to have a copy.
        }
        // Within a term this copy may be ahead of an alignment, which was sent again after a broken connection.
        let level = if self.is_following(from, epoch) { self.last >= last } else { self.last == last };
        let cut = if level { 0 } else { self.table.records().filter(|record| record.version > last).count() };
        self.epoch = epoch;
        self.config = self.config.max(config);
        self.role = Role::Replica { following: Some(from), awaiting_fill: !level };
        (cut, (!level).then_some(LinkReply::Behind { slot: id, epoch }))
    }

    /// The primary's next record.
    pub fn replicate(
        &mut self,
        hasher: &KeyHasher,
        id: SlotId,
        from: Incarnation,
        previous: Version,
        record: Record,
    ) -> Option<LinkReply> {
        let epoch = record.version.epoch;
        if let Some(refusal) = self.refuses(id, epoch) {
            return Some(refusal);
        }
        if !self.is_following(from, epoch) || record.version <= self.last {
            return None; // Waiting for a fill that will bring it, or sent again after a broken connection.
        }
        if previous != self.last {
            self.role = Role::Replica { following: Some(from), awaiting_fill: true };
            return Some(LinkReply::Behind { slot: id, epoch });
        }
        self.apply(hasher, Arc::new(record));
        None
    }

    /// All that the primary holds, to take the place of all that is here.
    pub fn replace(
        &mut self,
        hasher: &KeyHasher,
        id: SlotId,
        from: Incarnation,
        epoch: Epoch,
        last: Version,
        records: Vec<Arc<Record>>,
    ) -> Option<LinkReply> {
        if let Some(refusal) = self.refuses(id, epoch) {
            return Some(refusal);
        }
        let waiting =
            matches!(self.role, Role::Replica { following: Some(primary), awaiting_fill: true } if primary == from);
        if waiting && epoch == self.epoch {
            self.table = Table::default();
            self.tombstones = records.iter().filter(|record| record.is_delete()).map(Arc::clone).collect();
            self.tombstones.make_contiguous().sort_by_key(|tombstone| tombstone.version);
            for record in records {
                self.table.insert(hasher, record);
            }
            self.last = last;
            self.role = Role::Replica { following: Some(from), awaiting_fill: false };
        }
        None
    }

    /// Every copy has passed `seq`.
    pub fn purge_as_told(&mut self, hasher: &KeyHasher, from: Incarnation, seq: u64) {
        if self.is_following(from, self.epoch) {
            self.purge(hasher, seq);
        }
    }

    fn refuses(&self, slot: SlotId, epoch: Epoch) -> Option<LinkReply> {
        let stale = epoch < self.epoch || (epoch == self.epoch && self.is_primary());
        stale.then_some(LinkReply::Deposed { slot, epoch: self.epoch })
    }

    /// Whether this copy is level with that primary in that epoch.
    fn is_following(&self, primary: Incarnation, epoch: Epoch) -> bool {
        let level =
            matches!(self.role, Role::Replica { following: Some(known), awaiting_fill: false } if known == primary);
        level && epoch == self.epoch
    }
}

impl Follower {
    fn align(&mut self, slot: SlotId, epoch: Epoch, config: MapVersion, last: Version) {
        self.outbox.push(Item::Align { slot, epoch, config, last, stamp: self.stamp });
    }
}

impl Progress {
    fn takes_records(self) -> bool {
        match self {
            Self::Aligning | Self::Filling | Self::Level => true,
            Self::WantsFill | Self::Behind => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_slot_is_small() {
        assert!(size_of::<Slot>() + 2 * size_of::<Follower>() <= 256, "{}", size_of::<Slot>());
    }
}
