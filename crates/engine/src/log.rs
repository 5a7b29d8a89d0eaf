//! The order of one slot's records on one copy: where the log ends, how far it is durable, and its tail.
//!
//! The tail holds the records that are not known to be durable, each with the record of its key that it replaced. At a
//! primary that is missing a copy, it also keeps those that have become durable since the copy went missing, as far as
//! there is room, so that a copy that is away only briefly can be sent what it lacks. A write of several keys is one
//! record; in the tail, one for each of its keys precedes it, with the same version. A new primary uses the tail to
//! bring the others up to date, and a copy that has diverged uses it to truncate back to where it agrees with its
//! primary. If the tail does not reach back far enough, the copy is filled instead. Durable records are never truncated.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use proto::id::{Epoch, Version};
use proto::peer::{Term, Terms};
use smallvec::SmallVec;

use crate::completions::{Completions, Sweep};
use crate::near::NearQueue;
use crate::record::Record;
use crate::table::fetch::fetch;
use crate::time::Timestamp;

/// The limit for the tails of all slots of a node together, in bytes of records and of those that they have replaced. A
/// slot whose tail does not fit drops it; whoever needs it is filled.
pub const TAIL_BYTES: usize = 64 * 1024 * 1024;

/// How many of its terms a log remembers. Copies that agree only on older ones are filled.
const TERMS: usize = 32;

/// How many of them are stored inline.
const USUAL_TERMS: usize = 1;

/// How much the tails of a node hold together, and how much they may hold.
#[derive(Debug)]
pub struct TailBudget {
    used: AtomicUsize,
    limit: usize,
}

/// A record of the tail, and the record it replaced.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The record, or what becomes the newest record of one of the keys that the following record writes.
    pub record: Record,
    /// The previous record of the same key, as long as the record is not known to be durable.
    pub replaced: Option<Record>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.record.size() + self.replaced.as_ref().map_or(0, Record::size)
    }
}

/// The log of one slot on one node. What a record touches comes first.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Log {
    last: Version,
    durable: u64,
    /// `None` until a record is kept. A primary without followers drops it: nobody will ever ask for one.
    tail: Option<Box<Tail>>,
    cold: Option<Box<ColdState>>,
    /// Oldest first; not empty while there is a record.
    terms: SmallVec<[Term; USUAL_TERMS]>,
}

/// The last records, without a gap, in one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tail {
    entries: NearQueue<Entry>,
    bytes: usize,
}

/// State of a slot with deleted keys, with clients that give their writes an identity, or with many past terms.
#[derive(Debug, Default)]
struct ColdState {
    /// Older terms were forgotten.
    terms_forgotten: bool,
    /// The tombstones in the table, and some that have been overwritten since, oldest first.
    tombstones: VecDeque<Record>,
    /// Tombstones up to this number may be gone.
    purged: u64,
    completions: Completions,
}

impl Log {
    /// How much of a log the next record of the same term touches.
    #[cfg(test)]
    pub(crate) const RECORD_BYTES: usize = std::mem::offset_of!(Self, terms);

    /// The log of a slot that has just been filled.
    #[must_use]
    pub fn filled(last: Version, durable: u64, purged: u64, terms: &Terms, tombstones: Vec<Record>) -> Self {
        if last == Version::NONE {
            return Self::default();
        }
        let mut tombstones = VecDeque::from(tombstones);
        tombstones.make_contiguous().sort_by_key(|tombstone| tombstone.version());
        // The sender may know only these terms; what it forgot is forgotten here, too.
        let mut terms: SmallVec<_> = terms.0.iter().copied().collect();
        let terms_forgotten = terms.is_empty() || terms.len() >= TERMS;
        if terms.is_empty() {
            terms.push(Term { epoch: last.epoch, first: last.seq });
        }
        let is_rare = terms_forgotten || purged > 0 || !tombstones.is_empty();
        let cold = ColdState { terms_forgotten, tombstones, purged, completions: Completions::default() };
        Self { last, durable: durable.min(last.seq), tail: None, cold: is_rare.then(|| Box::new(cold)), terms }
    }

    /// The last record.
    #[must_use]
    pub fn last(&self) -> Version {
        self.last
    }

    /// The sequence number up to which the whole in-sync set is known to have the records.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// The epoch of a record of this log; `None` if it has no record of this number or has forgotten its term.
    #[must_use]
    pub fn epoch_at(&self, seq: u64) -> Option<Epoch> {
        let terms = (1..=self.last.seq).contains(&seq).then_some(&self.terms)?;
        terms.iter().rev().find(|term| term.first <= seq).map(|term| term.epoch)
    }

    /// The terms, for use in a message.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms(self.terms.to_vec())
    }

    /// The tail, oldest first.
    pub(crate) fn tail_entries(&self) -> impl Iterator<Item = &Entry> {
        self.tail.iter().flat_map(|tail| tail.entries.iter())
    }

    /// Gives a filled log its tail: its last records, oldest first.
    pub(crate) fn restore_tail(&mut self, tail: Vec<Entry>, budget: &TailBudget) {
        if self.last == Version::NONE || tail.is_empty() {
            return;
        }
        let bytes = tail.iter().map(Entry::bytes).sum();
        budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.tail = Some(Box::new(Tail { entries: tail.into_iter().collect(), bytes }));
    }

    /// The client writes that have taken effect.
    pub fn completions(&mut self) -> &mut Completions {
        &mut self.cold_mut().completions
    }

    /// The client writes that have taken effect, if any had an identity.
    #[must_use]
    pub fn known_completions(&self) -> Option<&Completions> {
        self.cold.as_ref().map(|cold| &cold.completions)
    }

    /// One step of forgetting client writes that need no longer be remembered.
    pub fn sweep_completions(&mut self, now: Timestamp, sweep: &mut Sweep) {
        match &mut self.cold {
            Some(cold) => cold.completions.sweep(now, sweep),
            None => Completions::default().sweep(now, sweep),
        }
    }

    /// The number up to which tombstones may be missing.
    #[must_use]
    pub fn purged(&self) -> u64 {
        self.cold.as_ref().map_or(0, |cold| cold.purged)
    }

    /// Appends the next record, with its parts if it is a write of several keys. It must then either be kept in the tail
    /// or, if nobody will ever ask for it, the tail be dropped.
    pub fn append(&mut self, record: &Record, parts: &[Entry]) {
        let last = record.version();
        let Version { epoch, seq } = last;
        let before = std::mem::replace(&mut self.last, last);
        // The last term is that of the last record, whose epoch is closer at hand.
        if before.epoch != epoch || before.seq == 0 {
            self.terms.push(Term { epoch, first: seq });
            if self.terms.len() > TERMS {
                self.terms.remove(0);
                self.cold_mut().terms_forgotten = true;
            }
        }
        if record.is_delete() {
            self.cold_mut().tombstones.push_back(record.clone());
        }
        for part in parts.iter().filter(|part| part.record.is_delete()) {
            self.cold_mut().tombstones.push_back(part.record.clone());
        }
    }

    /// Keeps the last record and its parts in the tail, if they fit.
    pub fn keep(&mut self, entry: Entry, parts: Vec<Entry>, budget: &TailBudget) {
        debug_assert_eq!(entry.record.version(), self.last, "it was appended before");
        let bytes = entry.bytes() + parts.iter().map(Entry::bytes).sum::<usize>();
        if budget.used() + bytes > budget.limit {
            return self.drop_tail(budget);
        }
        budget.used.fetch_add(bytes, Ordering::Relaxed);
        let tail = self.tail.get_or_insert_default();
        tail.bytes += bytes;
        parts.into_iter().for_each(|part| tail.entries.push_back(part));
        tail.entries.push_back(entry);
    }

    /// Advances the durable mark; the tail up to it is no longer needed. The mark never moves back, nor past the end.
    pub fn set_durable(&mut self, seq: u64, budget: &TailBudget) {
        self.durable = self.durable.max(seq.min(self.last.seq));
        self.forget_durable(0, budget);
    }

    /// Like [`Log::set_durable`], for when a copy is away: what that copy will lack is kept while the node's tails hold
    /// less than half of their limit. The other half is reserved for what is not durable.
    pub fn set_durable_keeping_tail(&mut self, seq: u64, budget: &TailBudget) {
        let before = self.durable;
        self.durable = self.durable.max(seq.min(self.last.seq));
        self.forget_replaced(before, budget);
        if budget.used() > budget.limit / 2 {
            self.forget_durable(budget.limit / 2, budget);
        }
    }

    /// Forgets what records have replaced that have become durable since the mark was at `before`: they are never
    /// truncated.
    fn forget_replaced(&mut self, before: u64, budget: &TailBudget) {
        let durable = self.durable;
        let Some(tail) = self.tail.as_mut().filter(|_| durable > before) else { return };
        let new = tail.entries.iter_mut_from(|entry| entry.record.version().seq <= before);
        let new = new.take_while(|entry| entry.record.version().seq <= durable);
        let freed = new.filter_map(|entry| entry.replaced.take()).map(|replaced| replaced.size()).sum();
        tail.bytes -= freed;
        budget.give_back(freed);
    }

    /// Forgets the oldest durable records until the node's tails hold no more than this.
    fn forget_durable(&mut self, until: usize, budget: &TailBudget) {
        let durable = self.durable;
        let Some(tail) = &mut self.tail else { return };
        let (mut freed, used) = (0, if until == 0 { usize::MAX } else { budget.used() });
        let mut last_freed = 0;
        // A record goes with all its parts.
        while let Some(entry) = tail.entries.pop_front_if(|entry| {
            let seq = entry.record.version().seq;
            seq <= last_freed || (seq <= durable && used - freed > until)
        }) {
            freed += entry.bytes();
            last_freed = entry.record.version().seq;
        }
        tail.bytes -= freed;
        budget.give_back(freed);
    }

    /// The records after `from`, oldest first, each with the version of the record before it; `None` if the tail does
    /// not reach back that far.
    #[must_use]
    pub fn after(&self, from: Version) -> Option<Vec<(Version, Record)>> {
        if from == self.last {
            return Some(Vec::new());
        }
        if self.last == Version::NONE || from.seq < self.before_tail() || !self.contains(from) {
            return None;
        }
        let mut previous = from;
        let mut records = Vec::new();
        let mut entries = self.tail_entries().filter(|entry| entry.record.version().seq > from.seq).peekable();
        while let Some(Entry { record, .. }) = entries.next() {
            let is_part = entries.peek().is_some_and(|next| next.record.version() == record.version());
            if !is_part {
                records.push((previous, record.clone()));
                previous = record.version();
            }
        }
        Some(records)
    }

    /// The records that are not known to be durable and their parts, oldest first, as far as they are kept.
    #[must_use]
    pub fn tail(&self) -> Vec<Record> {
        let entries = self.tail_entries().filter(|entry| entry.record.version().seq > self.durable);
        entries.map(|entry| entry.record.clone()).collect()
    }

    /// The last record that this log shares with a log that has these terms and ends with `last`; `None` if that cannot
    /// be determined because one of them has forgotten terms.
    ///
    /// One epoch has one primary and hence one order of records: two logs that share an epoch share its records up to
    /// the end of the shorter one, and everything before (the epoch check of KIP-101 and KIP-279, the log matching of
    /// Raft).
    #[must_use]
    pub fn common(&self, terms: &Terms, last: Version) -> Option<Version> {
        let mine = self.terms();
        for (at, term) in mine.0.iter().enumerate().rev() {
            let Some(other) = terms.0.iter().position(|other| other == term) else { continue };
            let end = |terms: &[Term], at: usize, last: Version| {
                terms.get(at + 1).map_or(last.seq, |next| next.first.saturating_sub(1))
            };
            let seq = end(&mine.0, at, self.last).min(end(&terms.0, other, last));
            return Some(Version { epoch: term.epoch, seq });
        }
        let forgotten = self.has_forgotten_terms() || terms.0.len() >= TERMS;
        (!forgotten).then_some(Version::NONE)
    }

    /// Truncates the log to one of its own records and returns what was cut, newest first; `None`, with nothing
    /// changed, if the tail does not reach back that far.
    pub fn cut(&mut self, to: Version, budget: &TailBudget) -> Option<Vec<Entry>> {
        if self.last == Version::NONE || to.seq < self.before_tail().max(self.durable) {
            return None;
        }
        let mut cut = Vec::new();
        let mut freed = 0;
        let mut pop = || self.tail.as_mut()?.entries.pop_back_if(|entry| entry.record.version().seq > to.seq);
        while let Some(mut entry) = pop() {
            freed += entry.bytes();
            if let Some(cold) = &mut self.cold {
                if entry.record.is_delete() {
                    cold.tombstones.pop_back_if(|last| last.version() == entry.record.version());
                }
                if let Some(identity) = entry.record.identity() {
                    cold.completions.undo(identity, entry.record.version());
                }
                // A tombstone that all copies had passed is not restored.
                entry.replaced = entry.replaced.filter(|old| !(old.is_delete() && old.version().seq <= cold.purged));
            }
            cut.push(entry);
        }
        self.tail.iter_mut().for_each(|tail| tail.bytes -= freed);
        budget.give_back(freed);
        while self.terms.last().is_some_and(|term| term.first > to.seq) {
            self.terms.pop();
        }
        self.last = to;
        Some(cut)
    }

    /// Takes the next tombstone up to `seq`, where every copy has passed `seq`.
    pub fn next_purged(&mut self, seq: u64) -> Option<Record> {
        let cold = self.cold.as_mut()?;
        let tombstone = cold.tombstones.pop_front_if(|tombstone| tombstone.version().seq <= seq)?;
        cold.purged = cold.purged.max(tombstone.version().seq);
        Some(tombstone)
    }

    /// Notes that tombstones up to `seq` are gone, although this log may not have known the last of them.
    pub(crate) fn set_purged(&mut self, seq: u64) {
        let cold = self.cold_mut();
        cold.purged = cold.purged.max(seq);
    }

    /// Whether there is a tombstone up to `seq`.
    #[must_use]
    pub fn has_tombstone(&self, seq: u64) -> bool {
        let oldest = self.cold.as_ref().and_then(|cold| cold.tombstones.front());
        oldest.is_some_and(|tombstone| tombstone.version().seq <= seq)
    }

    /// Drops the tail. Must be called before a log is dropped, so that the budget stays right.
    pub fn drop_tail(&mut self, budget: &TailBudget) {
        if let Some(tail) = self.tail.take() {
            budget.give_back(tail.bytes);
        }
    }

    /// Prefetches memory that the next record will touch. This is the first of two calls; other slots can be prefetched
    /// in between.
    pub(crate) fn fetch(&self) {
        if let Some(tail) = &self.tail {
            fetch(&**tail);
        }
    }

    /// The second call: prefetches what is dropped when the durable mark moves. `size` is the usual size of a record in
    /// bytes.
    pub(crate) fn fetch_oldest(&self, size: usize) {
        if let Some(entry) = self.tail.as_ref().and_then(|tail| tail.entries.front()) {
            entry.record.fetch();
            // The next record is usually written where this one was.
            entry.replaced.iter().for_each(|replaced| replaced.fetch_with_value(size));
        }
    }

    /// Where the tail begins: the number of the record before its first.
    fn before_tail(&self) -> u64 {
        self.tail_entries().next().map_or(self.last.seq, |first| first.record.version().seq.saturating_sub(1))
    }

    /// Whether a version is one of this log's own.
    fn contains(&self, place: Version) -> bool {
        let term = self.terms.iter().rev().find(|term| term.first <= place.seq);
        term.map_or(place == Version::NONE && !self.has_forgotten_terms(), |term| term.epoch == place.epoch)
    }

    fn has_forgotten_terms(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| cold.terms_forgotten)
    }

    fn cold_mut(&mut self) -> &mut ColdState {
        self.cold.get_or_insert_default()
    }
}

impl Default for TailBudget {
    /// A budget of [`TAIL_BYTES`].
    fn default() -> Self {
        Self::new(TAIL_BYTES)
    }
}

impl TailBudget {
    /// How much the tails hold, in bytes of records.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A budget of this many bytes, none of it used.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
