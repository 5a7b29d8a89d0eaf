//! One slot on one node: its records and its role.
//!
//! Each slot is a plain struct behind its own lock. As a primary (`slot/primary.rs`) it gives each write the next
//! sequence number and queues the record for every follower, all under that lock, so each queue holds a slot's records
//! in order. It also knows what each follower has, and hence what is durable. As a replica (`slot/replica.rs`) it
//! accepts records only in that order: each record names its predecessor, and if that is not the last record held here,
//! the slot says so. At every moment, therefore, a copy equals its primary's state as of some record.

mod damage;
mod memory;
mod primary;
mod replica;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::cluster_map::{ClusterSettings, MapVersion, SlotConfig};
use proto::id::{Epoch, Incarnation, Version};
use proto::level::AckLevel;
use proto::limits;
use proto::peer::WallTime;
use proto::session::Ancestors;
use proto::slot::SlotId;

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::completions::{Completion, Sweep};
use crate::journal::{Entry, Noted, SlotSnapshot};
use crate::listing::Listing;
use crate::log::{Log, TailBudget};
use crate::losses::Loss;
use crate::memory::{Memory, Usage};
use crate::modify::OwnedReply;
use crate::node::{Event, Turn, Upcoming};
use crate::outbox::{Outbox, Stamp};
use crate::peers::Peers;
use crate::record::Record;
use crate::table::{KeyHasher, Table};
use crate::time::Timestamp;

pub use damage::Damage;
pub use primary::EXPEL_AFTER;
pub(crate) use primary::{Effects, Victim};
pub(crate) use replica::{Alignment, Incoming, Next, Step};

/// The state of one slot, in the order of how often it is needed. With its lock it takes three cache lines: a local read
/// touches only the first, and a record the first two.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Slot<B: Bugs = NoBugs> {
    role: Role,
    table: Table,
    /// The highest epoch heard of. Messages from lower epochs are rejected.
    epoch: Epoch,
    log: Log,
    /// The version of the configuration that the current role comes from.
    config: MapVersion,
    /// The time until which this node has promised not to lead the slot.
    promised_until: Timestamp,
    /// The stamp of the last alignment or fill that a primary has sent.
    stamp: u64,
    bugs: B,
}

#[derive(Debug, Default)]
enum Role {
    /// This node holds no copy of the slot.
    #[default]
    Idle,
    Primary(primary::Primary),
    Replica(replica::Replica),
}

/// How much of a slot, with its lock, the next record touches, in bytes.
pub(crate) const RECORD_BYTES: usize = 128;

/// The context that a slot's methods run in.
#[derive(Debug)]
pub(crate) struct SlotContext<'a> {
    pub(crate) now: Timestamp,
    pub(crate) id: SlotId,
    pub(crate) me: Incarnation,
    /// The incarnations whose data this node has found on its disk.
    pub(crate) ancestors: &'a Ancestors,
    pub(crate) hasher: &'a KeyHasher,
    pub(crate) tails: &'a TailBudget,
    pub(crate) memory: &'a Memory,
    /// How many bytes a write may exceed the memory limit by.
    pub(crate) memory_slack: u64,
    pub(crate) noted: &'a Noted,
    pub(crate) peers: &'a Peers,
    pub(crate) stamps: &'a AtomicU64,
    /// The wall-clock time, in milliseconds, at which the node's own clock was zero.
    pub(crate) wall_at_zero: u64,
    /// The time until which the coordinator cannot have given this node's slots to another node.
    pub(crate) coordinator_until: Timestamp,
    /// The node is leaving. It does not take back what it has released, whatever its map says.
    pub(crate) is_closed: bool,
}

/// Why a slot refuses a request. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This node does not lead the slot, or not at the moment: another node does, or this one will shortly.
    NotHere,
    /// Too few copies are in sync for the requested level.
    TooFew {
        /// The level.
        level: AckLevel,
        /// How many copies it needs.
        needs: usize,
        /// How many are in sync.
        has: usize,
    },
    /// The write was retried so late that its outcome is no longer known.
    Stale,
    /// No more client completions can be remembered now.
    Busy,
    /// The write needs more memory than this node may use.
    Full {
        /// How many bytes are missing.
        lacks: u64,
    },
    /// The write needs more memory, and the node of this replica is over its limit.
    ReplicaFull(Incarnation),
    /// The keys that are to be changed together are not in one slot.
    CrossSlot,
}

/// The outcome of a write, once it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The write took effect as this record; [`Version::NONE`] if it changed nothing.
    Done(Version),
    /// The condition did not hold; the key is at this version.
    Conflict(Version),
    /// A read-modify-write took effect as this record ([`Version::NONE`] if it changed nothing), and this is what the
    /// client is told.
    Modified(Version, OwnedReply),
}

/// What came of a request that was carried out: its answer, either immediate or deferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executed<T> {
    /// What to answer.
    pub answer: T,
    /// The ticket to wait for before answering; `None`: answer at once.
    pub ticket: Option<usize>,
}

impl<B: Bugs> Slot<B> {
    /// An empty slot of a node.
    pub(crate) fn new(bugs: B) -> Self {
        Self { bugs, ..Self::default() }
    }

    /// The last record held.
    #[must_use]
    pub fn last(&self) -> Version {
        self.log.last()
    }

    /// The version of the record that a primary orders next.
    fn next_version(&self) -> Version {
        Version { epoch: self.epoch, seq: self.last().seq + 1 }
    }

    /// The sequence number up to which the records are known to be durable.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.log.durable()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The highest epoch heard of.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The version of the configuration that the slot follows.
    #[must_use]
    pub fn config(&self) -> MapVersion {
        self.config
    }

    /// How many keys the slot holds.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.table.keys()
    }

    /// How many of them have a deadline.
    #[must_use]
    pub fn expiring(&self) -> usize {
        self.table.expiring()
    }

    /// Every record in the table, including tombstones, in no particular order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.table.records()
    }

    /// Whether this node leads the slot, as far as it knows.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        matches!(self.role, Role::Primary(_))
    }

    /// Whether this node has a complete copy, up to date or not, that can serve a read.
    #[must_use]
    pub fn holds_copy(&self) -> bool {
        match &self.role {
            Role::Idle => false,
            Role::Primary(_) => true,
            // A copy that no primary has aligned yet may be new, and empty only for that reason.
            Role::Replica(replica) => {
                (replica.following().is_some() && !replica.behind) || self.last() != Version::NONE
            }
        }
    }

    /// The primary that this replica follows and that has everything this copy has.
    #[must_use]
    pub fn level_with(&self) -> Option<Incarnation> {
        match &self.role {
            Role::Replica(replica) if !replica.diverged => replica.following(),
            _ => None,
        }
    }

    /// The record of a key, unless deleted or expired. `clock` is read only if that matters.
    #[inline]
    pub(crate) fn get(&self, cx: &SlotContext<'_>, key: &[u8], clock: impl Fn() -> Timestamp) -> Option<&Record> {
        let record = self.table.get(cx.hasher, key).filter(|record| !record.is_delete())?;
        cx.was_used(record);
        let is_expired = record.has_deadline() && record.is_expired(SlotContext { now: clock(), ..*cx }.wall());
        (!is_expired).then_some(record)
    }

    /// Lists the keys of the local copy, whatever its role, except those past their deadline; returns the expired ones.
    pub(crate) fn list_copy(&mut self, cx: &SlotContext<'_>, listing: &mut Listing) -> Vec<Record> {
        let before = Usage::of_values(self.table.order_bytes());
        let records = self.table.records_from(listing.start());
        let expired = listing.take_slot(cx.wall(), records);
        cx.memory.changed(Usage::of_values(self.table.order_bytes()) - before);
        expired
    }

    /// One step of forgetting client writes that need no longer be remembered.
    pub(crate) fn sweep_completions(&mut self, now: Timestamp, sweep: &mut Sweep) {
        let early = if self.bugs.plants(Bug::ForgottenTooEarly) { limits::REMEMBERED_FOR } else { Duration::ZERO };
        self.log.sweep_completions(now + early, sweep);
    }

    /// Prefetches memory that an operation will touch. [`Slot::fetch_more`] follows; other slots can be prefetched in
    /// between.
    pub(crate) fn fetch(&self, upcoming: Upcoming) {
        if let Some(hash) = upcoming.key_hash() {
            self.table.fetch(hash);
        }
        if upcoming.is_read() {
            return;
        }
        self.log.fetch();
        if let Role::Primary(primary) = &self.role {
            primary.fetch();
        }
    }

    /// The second call. Returns whether the key seems not to be where most are: then [`Slot::fetch_displaced`] follows.
    pub(crate) fn fetch_more(&self, upcoming: Upcoming) -> bool {
        if !upcoming.is_read() {
            self.log.fetch_oldest(self.table.expected_size());
        }
        upcoming.key_hash().is_some_and(|hash| self.table.fetch_record(hash, 0))
    }

    /// The third call, for such a key.
    pub(crate) fn fetch_displaced(&self, upcoming: Upcoming) {
        if let Some(hash) = upcoming.key_hash() {
            self.table.fetch_record(hash, 1);
        }
    }

    /// Takes on the role that a newer configuration assigns to this node. `outbox` returns the queue to another node.
    pub(crate) fn configure(
        &mut self,
        cx: &SlotContext<'_>,
        config: &SlotConfig,
        cluster_settings: &ClusterSettings,
        outbox: impl FnMut(Incarnation) -> Option<Arc<Outbox>>,
        turn: &mut Turn,
    ) {
        let is_new = self.config != config.version;
        self.config = config.version;
        if config.primary == Some(cx.me) {
            // If others already follow a newer primary, this configuration is stale and a newer map is on its way.
            if config.epoch >= self.epoch {
                self.lead(cx, config, is_new, cluster_settings, outbox, turn);
            }
            return;
        }
        let is_copy = config.copies().any(|copy| copy == cx.me || cx.ancestors.contains(copy));
        if !is_copy {
            // The others hold the data: only then does the coordinator remove a copy. But a copy that has never aligned
            // with the current primary, or has diverged and still waits for its fill, may hold records that no other
            // copy has. If its last record is one of the current primary's, it has aligned, before a restart perhaps.
            let is_aligned = config.primary.is_some()
                && (self.log.last().epoch == config.epoch
                    || self.epoch == config.epoch && self.level_with() == config.primary);
            self.leave_role(cx, config.epoch, turn);
            self.hear_of(cx, config.epoch);
            if cx.is_closed {
                // The node is stopping and must find its data at its next start: then it lacks only what is written
                // meanwhile.
                return;
            }
            if !is_aligned {
                self.archive_all_after(cx, self.log.durable(), turn);
            }
            self.give_up(cx);
        } else if self.is_primary() || config.epoch > self.epoch || matches!(self.role, Role::Idle) {
            self.become_replica(cx, self.epoch.max(config.epoch), turn);
        }
    }

    /// Becomes a copy that does not yet know where its primary stands.
    fn become_replica(&mut self, cx: &SlotContext<'_>, epoch: Epoch, turn: &mut Turn) {
        self.leave_role(cx, epoch, turn);
        self.hear_of(cx, epoch);
        self.role = Role::Replica(replica::Replica::default());
    }

    /// Raises the highest known epoch.
    fn hear_of(&mut self, cx: &SlotContext<'_>, epoch: Epoch) {
        if epoch > self.epoch {
            self.epoch = epoch;
            cx.noted.note_epoch(cx.id, epoch);
        }
    }

    /// Reports that another node leads the slot now. After a hand-over that is expected, so nothing is reported.
    fn tell_deposed(&self, cx: &SlotContext<'_>, turn: &mut Turn) {
        if self.is_primary() && !self.is_handing_over() {
            turn.events.push(Event::Deposed(cx.id));
        }
    }

    /// Ends the current role, because this epoch has another primary. Waiting requests are lost; a promise to the
    /// primary that was followed remains binding.
    fn leave_role(&mut self, cx: &SlotContext<'_>, epoch: Epoch, turn: &mut Turn) {
        match std::mem::take(&mut self.role) {
            Role::Idle => {}
            Role::Primary(mut primary) => turn.lose_all(primary.take_tickets()),
            Role::Replica(replica) => {
                let Some(primary) = replica.following() else { return };
                let promise = if self.bugs.plants(Bug::DeposedUntold) {
                    cx.peers.promise_to(primary)
                } else {
                    cx.peers.supersede(primary, cx.id, epoch)
                };
                if !replica.released {
                    self.promised_until = self.promised_until.max(promise);
                }
            }
        }
    }

    /// Drops the copy and its role.
    pub(crate) fn give_up(&mut self, cx: &SlotContext<'_>) {
        if self.last() != Version::NONE {
            cx.noted.note_drop(cx.id);
        }
        self.log.drop_tail(cx.tails);
        self.drop_table(cx);
        *self = Self {
            epoch: self.epoch,
            config: self.config,
            promised_until: self.promised_until,
            stamp: self.stamp,
            bugs: self.bugs,
            ..Self::default()
        };
    }

    /// Drops the tail. From now on, whoever lacks a record needs a fill.
    pub(crate) fn drop_tail(&mut self, tails: &TailBudget) {
        self.log.drop_tail(tails);
    }

    /// Whether the contents were found on disk and no map has yet decided what becomes of them.
    pub(crate) fn is_found(&self) -> bool {
        matches!(self.role, Role::Idle) && self.last() != Version::NONE
    }

    /// Whether the slot has never held a record nor heard of an epoch.
    pub(crate) fn is_untouched(&self) -> bool {
        self.last() == Version::NONE && self.epoch == Epoch::default()
    }

    /// What is known about clients' writes.
    fn completions(&self) -> impl Iterator<Item = (Box<[u8]>, u64, Completion)> {
        let is_untold = self.bugs.plants(Bug::ForgottenUntold);
        let known = self.log.known_completions().into_iter().flat_map(|known| known.iter());
        let told = known.filter(move |(_, done)| !(is_untold && done.version == Version::NONE));
        told.map(|(identity, done)| (identity.client.into(), identity.seq, done))
    }

    /// Everything the slot holds.
    pub(crate) fn whole(&self) -> SlotSnapshot {
        SlotSnapshot {
            epoch: self.epoch,
            last: self.log.last(),
            durable: self.log.durable(),
            purged: self.log.purged(),
            terms: self.log.terms(),
            records: self.table.records().cloned().collect(),
            completions: self.completions().collect(),
            tail: self.log.tail_entries().cloned().collect(),
        }
    }

    /// Replaces everything the slot holds.
    fn install(&mut self, cx: &SlotContext<'_>, whole: SlotSnapshot) {
        let SlotSnapshot { epoch, last, durable, purged, terms, records, completions, tail } = whole;
        self.epoch = self.epoch.max(epoch);
        // Tombstones that cutting the tail would restore have to be purged eventually, like the others.
        let overwritten =
            tail.iter().filter_map(|entry| entry.replaced.as_ref()).filter(|old| old.version().seq > purged);
        let tombstones = records.iter().chain(overwritten).filter(|record| record.is_delete()).cloned().collect();
        self.log.drop_tail(cx.tails);
        self.log = Log::filled(last, durable, purged, &terms, tombstones);
        self.log.restore_tail(tail, cx.tails);
        for (client, seq, completion) in &completions {
            let identity = proto::peer::Identity { client, seq: *seq };
            self.log.completions().insert(cx.now, identity, completion.clone());
        }
        if !self.bugs.plants(Bug::FillMerges) {
            self.drop_table(cx);
        }
        for record in records {
            self.put(cx, record);
        }
    }

    /// Replays an entry; `false` if it does not follow on from the current state.
    pub(crate) fn replay(&mut self, cx: &SlotContext<'_>, entry: Entry) -> bool {
        match entry {
            Entry::Record { durable, record, .. } => {
                if record.version() <= self.last() || record.version().seq != self.last().seq + 1 {
                    return false;
                }
                self.epoch = self.epoch.max(record.version().epoch);
                let record = if self.bugs.plants(Bug::DeadlineLostOnDisk) { record.without_deadline() } else { record };
                self.apply(cx, record, true);
                self.log.set_durable(durable, cx.tails);
            }
            Entry::Cut { to, .. } => return self.cut(cx, to).is_some(),
            Entry::Whole { mut whole, .. } => {
                if self.bugs.plants(Bug::TombstoneLostOnDisk) {
                    whole.records.retain(|record| !record.is_delete());
                }
                self.install(cx, whole);
            }
            Entry::Drop { .. } => self.give_up(cx),
            Entry::Purge { seq, .. } => {
                self.purge(cx, seq);
                self.log.set_purged(seq);
            }
            Entry::Epoch { epoch, .. } => self.epoch = self.epoch.max(epoch),
            // These entries do not belong to a slot.
            Entry::Loss(_) | Entry::Unkept { .. } => return false,
        }
        true
    }

    /// What a restarted node finds of the slot on disk: the records, without a role.
    pub(crate) fn recovered(mut self) -> Self {
        self.role = Role::Idle;
        self.config = MapVersion(0);
        self.promised_until = Timestamp::default();
        self
    }

    /// Archives what this copy has after `seq`. Records that later writes have overwritten and the tail no longer holds
    /// are only counted.
    fn archive_all_after(&self, cx: &SlotContext<'_>, seq: u64, turn: &mut Turn) {
        let last = self.log.last().seq;
        let mut records = self.log.tail();
        let is_whole = records.first().is_some_and(|first| first.version().seq <= seq + 1);
        if !is_whole {
            records = self.table.records().cloned().collect();
            records.sort_by_key(|record| record.version());
        }
        records.retain(|record| record.version().seq > seq);
        let barriers = records.iter().filter(|record| !record.is_asked_for()).count() as u64;
        let common = Version { epoch: self.log.epoch_at(seq).unwrap_or_default(), seq };
        self.archive(cx, records, common, last.saturating_sub(seq + barriers), turn);
    }

    /// Archives records that were cut away.
    fn archive(&self, cx: &SlotContext<'_>, records: Vec<Record>, common: Version, lost: u64, turn: &mut Turn) {
        if self.bugs.plants(Bug::LossUntold) {
            return;
        }
        let writes: Vec<_> = records.into_iter().filter(Record::is_asked_for).collect();
        // A record may have written several keys.
        let lost = lost.max(writes.len() as u64);
        turn.unkept += lost.saturating_sub(writes.len() as u64);
        if lost > 0 {
            turn.events.push(Event::CutAway(cx.id, lost));
        }
        let winner = self.epoch;
        turn.losses.extend(writes.into_iter().map(|record| Loss { slot: cx.id, record, common, winner }));
    }
}

impl SlotContext<'_> {
    /// The current wall-clock time.
    pub(crate) fn wall(&self) -> WallTime {
        self.now.on_the_wall(self.wall_at_zero)
    }

    /// Marks a key as used: a client has asked for its value, or written it.
    fn was_used(&self, record: &Record) {
        if self.memory.evicts() {
            record.touch(self.memory.clock());
        }
    }

    /// The wall-clock time this many milliseconds from now.
    fn deadline(&self, millis: u64) -> WallTime {
        WallTime(self.wall().0.saturating_add(millis))
    }

    fn next_stamp(&self) -> Stamp {
        Stamp(self.stamps.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_is_used_together_is_close_together() {
        let slot = size_of::<std::sync::Mutex<Slot>>();
        assert!(slot <= 192, "{slot} is more than three lines of the cache");
        let lock = slot - size_of::<Slot>();
        assert!(lock + offset_of!(Slot, table) + Table::READ_BYTES <= 64, "a local read touches more than a line");
        assert!(lock + offset_of!(Slot, log) + Log::RECORD_BYTES <= RECORD_BYTES, "a record touches more than two");
    }
}
