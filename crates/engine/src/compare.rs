//! Anti-entropy: whether the copies of a slot are equal.
//!
//! A primary asks its in-sync replicas for the digest of a slot. The question stands in their queues like a record, so that
//! each is asked where its copy stands at the very record at which the primary has looked at its own; a copy that does not,
//! since the question was sent again after a broken connection, says so. A copy whose digest is another is expelled from
//! the in-sync set and filled again from the primary, never merged.
//!
//! Digests are not kept: a write would pay for that. Under the slot's lock the records are only pointed at; they are hashed
//! by whoever has the time ([`Contents::digest`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::peer::Compared;
use proto::slot::SlotId;

use crate::record::Record;
use crate::time::Timestamp;

/// How many slots are compared at a time.
pub(crate) const AT_ONCE: usize = 64;

/// A copy that has not answered for so long is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The pause before a slot is tried again that could not be compared.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// How often a slot is tried.
const TRIES: u8 = 5;

/// How long [`crate::node::Node::verified`] waits for the repair of what was found.
const REPAIRED_WITHIN: Duration = Duration::from_secs(60);

/// How many differences a report names.
const NAMED: usize = 16;

/// All records of a slot at one moment, but for tombstones that other copies may have dropped.
#[derive(Debug)]
pub struct Contents {
    records: Vec<Record>,
}

/// A digest that somebody waits for. To be computed outside of every lock.
#[derive(Debug)]
pub struct ToDigest {
    /// The slot.
    pub slot: SlotId,
    /// Names the question, among those of whoever asks.
    pub query: u64,
    /// What is to be hashed.
    pub contents: Contents,
}

impl Contents {
    /// These records without the tombstones up to `floor`.
    pub(crate) fn new<'a>(records: impl Iterator<Item = &'a Record>, floor: u64) -> Self {
        let counts = |record: &&Record| !(record.is_delete() && record.version().seq <= floor);
        Self { records: records.filter(counts).cloned().collect() }
    }

    /// The same for equal records, in whatever order: the sum of the digests of all. Each is of key, version, value,
    /// deadline and kind.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.records.iter().map(Record::digest).fold(0, u128::wrapping_add)
    }
}

/// Why a slot was not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotCompared {
    /// No other copy is in sync.
    Alone,
    /// Another node leads it now.
    NotLed,
    /// A copy has not answered.
    NoAnswer,
}

/// What a round of comparisons has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many slots this node led when it began.
    pub slots: usize,
    /// How many had nothing in them.
    pub empty: usize,
    /// How many are equal on all copies that are in sync.
    pub equal: usize,
    /// How many differed.
    pub different: usize,
    /// Some of those: the slot, and where the copy was that differed.
    pub named: Vec<(SlotId, NodeAddr)>,
    /// In how many of them the repair goes on.
    pub under_repair: usize,
    /// How many were not compared, and why.
    pub not_compared: BTreeMap<NotCompared, usize>,
}

/// Figures since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Slots that were compared.
    pub compared: u64,
    /// Copies that differed.
    pub different: u64,
    /// Copies that were filled again for that.
    pub repaired: u64,
}

/// A slot that is to be compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) slot: SlotId,
    /// Tombstones up to this number are known to be missing somewhere.
    pub(crate) floor: u64,
    due: Timestamp,
    tries: u8,
    in_round: bool,
}

/// What a primary has asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) epoch: Epoch,
    pub(crate) at: Version,
    pub(crate) followers: Vec<(Incarnation, NodeAddr)>,
    pub(crate) contents: Contents,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Begun {
    Asked(Asked),
    Empty,
    Not(NotCompared),
}

/// A comparison under way.
#[derive(Debug)]
struct Open {
    task: Task,
    epoch: Epoch,
    at: Version,
    since: Timestamp,
    own: Option<u128>,
    answers: Vec<(Incarnation, NodeAddr, Option<Compared>)>,
}

/// A copy that is not equal to its primary's.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) at: Version,
    pub(crate) who: Incarnation,
    pub(crate) addr: NodeAddr,
}

#[derive(Debug)]
struct Round {
    number: u64,
    left: usize,
    /// Since when only repairs are waited for.
    compared_at: Option<Timestamp>,
    report: Verified,
}

/// The comparisons of a node.
#[derive(Debug, Default)]
pub(crate) struct Comparisons {
    last_query: u64,
    waiting: VecDeque<Task>,
    open: BTreeMap<u64, Open>,
    /// The slot that the background comes to next, and how much of a slot it is ahead, in millionths.
    next: u16,
    credit: u64,
    round: Option<Round>,
    finished: Option<(u64, Verified)>,
    rounds: u64,
    /// Copies that differ and are not filled again yet.
    repairing: Vec<(SlotId, Incarnation)>,
    figures: Figures,
}

impl Comparisons {
    pub(crate) fn figures(&self) -> Figures {
        self.figures
    }

    /// Begins a round of these slots, or joins the one under way. Gives its number.
    pub(crate) fn begin_round(&mut self, now: Timestamp, slots: &[SlotId]) -> u64 {
        if let Some(round) = &self.round {
            return round.number;
        }
        self.rounds += 1;
        let report = Verified { slots: slots.len(), ..Verified::default() };
        self.round = Some(Round { number: self.rounds, left: slots.len(), compared_at: None, report });
        let task = |slot: &SlotId| Task { slot: *slot, floor: 0, due: now, tries: 0, in_round: true };
        self.waiting.extend(slots.iter().map(task));
        self.rounds
    }

    /// The report of a round, once it is over.
    pub(crate) fn finished(&self, number: u64) -> Option<Verified> {
        self.finished.as_ref().filter(|(finished, _)| *finished >= number).map(|(_, report)| report.clone())
    }

    /// Adds the slots that the background comes to in this time, where it takes `every` to come through all `count`.
    pub(crate) fn go_on(&mut self, now: Timestamp, passed: Duration, every: Duration, count: usize) {
        let micros = u64::try_from(every.as_micros()).unwrap_or(u64::MAX).max(1);
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let gained = passed.saturating_mul(count as u64).saturating_mul(1_000_000) / micros;
        // Whoever has slept does not make up for it.
        self.credit = (self.credit + gained).min(AT_ONCE as u64 * 1_000_000);
        while self.credit >= 1_000_000 {
            self.credit -= 1_000_000;
            let slot = SlotId(self.next);
            self.next = u16::try_from((usize::from(self.next) + 1) % count.max(1)).unwrap_or(0);
            // A round comes to it anyway.
            if self.round.is_none() && self.waiting.len() < AT_ONCE {
                self.waiting.push_back(Task { slot, floor: 0, due: now, tries: 0, in_round: false });
            }
        }
    }

    /// The next slot to begin with.
    pub(crate) fn next(&mut self, now: Timestamp) -> Option<Task> {
        if self.open.len() >= AT_ONCE {
            return None;
        }
        let at = self.waiting.iter().position(|task| task.due <= now)?;
        self.waiting.remove(at)
    }

    pub(crate) fn next_query(&mut self) -> u64 {
        self.last_query += 1;
        self.last_query
    }

    /// A slot was begun with.
    pub(crate) fn begun(&mut self, now: Timestamp, query: u64, task: Task, begun: Begun) -> Option<ToDigest> {
        match begun {
            Begun::Asked(Asked { epoch, at, followers, contents }) => {
                let answers = followers.into_iter().map(|(who, addr)| (who, addr, None)).collect();
                self.open.insert(query, Open { task, epoch, at, since: now, own: None, answers });
                Some(ToDigest { slot: task.slot, query, contents })
            }
            Begun::Empty => {
                self.done(task, |report| report.empty += 1);
                None
            }
            Begun::Not(why) => {
                self.done(task, |report| *report.not_compared.entry(why).or_default() += 1);
                None
            }
        }
    }

    /// The digest of the primary's own copy is known.
    pub(crate) fn own_digest(&mut self, now: Timestamp, query: u64, digest: u128) -> Vec<Difference> {
        if let Some(open) = self.open.get_mut(&query) {
            open.own = Some(digest);
        }
        self.conclude(now, query)
    }

    /// A replica has answered.
    pub(crate) fn answer(
        &mut self,
        now: Timestamp,
        from: Incarnation,
        slot: SlotId,
        query: u64,
        compared: Compared,
    ) -> Vec<Difference> {
        let open = self.open.get_mut(&query).filter(|open| open.task.slot == slot);
        let place = open.and_then(|open| open.answers.iter_mut().find(|(who, _, _)| *who == from));
        if let Some((_, _, answer)) = place {
            *answer = Some(compared);
        }
        self.conclude(now, query)
    }

    /// Gives up what was not answered in time.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let late = |_: &u64, open: &mut Open| now - open.since >= ANSWER_WITHIN;
        let late: Vec<Open> = self.open.extract_if(.., late).map(|(_, open)| open).collect();
        late.into_iter().for_each(|open| self.again(now, open.task, open.task.floor));
    }

    /// Compares, once everything is known.
    fn conclude(&mut self, now: Timestamp, query: u64) -> Vec<Difference> {
        let is_known = |open: &Open| open.own.is_some() && open.answers.iter().all(|(_, _, answer)| answer.is_some());
        if !self.open.get(&query).is_some_and(is_known) {
            return Vec::new();
        }
        let Some(Open { task, epoch, at, own, answers, .. }) = self.open.remove(&query) else { return Vec::new() };
        let mut differences = Vec::new();
        let mut floor = None;
        for (who, addr, answer) in answers {
            match answer {
                Some(Compared::Digest(digest)) if Some(digest) == own => {}
                Some(Compared::Digest(_)) => {
                    differences.push(Difference { slot: task.slot, epoch, at, who, addr });
                }
                Some(Compared::Purged(seq)) => floor = Some(floor.unwrap_or(0).max(seq)),
                Some(Compared::Elsewhere) | None => floor = Some(floor.unwrap_or(0)),
            }
        }
        self.figures.different += differences.len() as u64;
        self.repairing.extend(differences.iter().map(|difference| (difference.slot, difference.who)));
        if let Some(round) = self.round.as_mut().filter(|_| task.in_round) {
            let room = NAMED.saturating_sub(round.report.named.len());
            let named = differences.iter().map(|difference| (difference.slot, difference.addr.clone()));
            round.report.named.extend(named.take(room));
        }
        match floor {
            _ if !differences.is_empty() => self.done(task, |report| report.different += 1),
            Some(floor) => self.again(now, task, floor),
            None => {
                self.figures.compared += 1;
                self.done(task, |report| report.equal += 1);
            }
        }
        differences
    }

    /// A slot could not be compared: it is tried again, or given up.
    fn again(&mut self, now: Timestamp, task: Task, floor: u64) {
        let task = Task { tries: task.tries + 1, floor: task.floor.max(floor), due: now + RETRY_AFTER, ..task };
        if task.tries < TRIES {
            self.waiting.push_back(task);
        } else {
            self.done(task, |report| *report.not_compared.entry(NotCompared::NoAnswer).or_default() += 1);
        }
    }

    fn done(&mut self, task: Task, note: impl FnOnce(&mut Verified)) {
        if let Some(round) = self.round.as_mut().filter(|_| task.in_round) {
            note(&mut round.report);
            round.left -= 1;
        }
    }

    /// A copy that differed was filled again.
    pub(crate) fn repaired(&mut self, slot: SlotId, who: Incarnation) {
        let before = self.repairing.len();
        self.repairing.retain(|repairing| *repairing != (slot, who));
        self.figures.repaired += u64::from(self.repairing.len() < before);
    }

    /// Copies that are to be filled again.
    pub(crate) fn repairing(&self) -> Vec<(SlotId, Incarnation)> {
        self.repairing.clone()
    }

    /// This copy is none of this node's any more.
    pub(crate) fn forget_repair(&mut self, slot: SlotId, who: Incarnation) {
        self.repairing.retain(|repairing| *repairing != (slot, who));
    }

    /// Ends the round where everything is compared and repaired, or the repair takes too long.
    pub(crate) fn end_round(&mut self, now: Timestamp) {
        let Some(round) = self.round.as_mut().filter(|round| round.left == 0) else { return };
        let since = *round.compared_at.get_or_insert(now);
        if !self.repairing.is_empty() && now - since < REPAIRED_WITHIN {
            return;
        }
        if let Some(Round { number, mut report, .. }) = self.round.take() {
            report.under_repair = self.repairing.len();
            self.finished = Some((number, report));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::peer::{Effect, WallTime};

    fn record(seq: u64, key: &str, effect: Effect<'_>) -> Record {
        Record::entry(Version { epoch: Epoch(1), seq }, key.as_bytes(), effect)
    }

    fn digest(records: &[Record], floor: u64) -> u128 {
        Contents::new(records.iter(), floor).digest()
    }

    #[test]
    fn a_digest_tells_every_part_of_a_record_and_no_order() {
        let (a, b) = (record(1, "a", Effect::Put(b"v")), record(2, "b", Effect::Put(b"w")));
        assert_eq!(digest(&[a.clone(), b.clone()], 0), digest(&[b.clone(), a.clone()], 0));
        let others = [
            record(3, "a", Effect::Put(b"v")),
            record(1, "c", Effect::Put(b"v")),
            record(1, "a", Effect::Put(b"u")),
            record(1, "av", Effect::Put(b"")),
            record(1, "a", Effect::PutUntil(b"v", WallTime(5))),
            record(1, "a", Effect::PutUntil(b"v", WallTime(6))),
            record(1, "a", Effect::Delete),
            record(1, "a", Effect::Expire),
        ];
        let mut seen = vec![digest(std::slice::from_ref(&a), 0), digest(&[a.clone(), a], 0), digest(&[], 0)];
        for other in others {
            let digest = digest(std::slice::from_ref(&other), 0);
            assert!(!seen.contains(&digest), "{other:?}");
            seen.push(digest);
        }
    }

    #[test]
    fn an_identity_is_no_part_of_it_since_a_fill_leaves_it_out() {
        let identity = Some(proto::peer::Identity { client: b"me", seq: 7 });
        let op = proto::peer::Op::Write { key: b"a", effect: Effect::Put(b"v"), identity, told: b"" };
        let with = Record::new(Version { epoch: Epoch(1), seq: 1 }, op);
        assert_eq!(digest(&[with], 0), digest(&[record(1, "a", Effect::Put(b"v"))], 0));
    }

    #[test]
    fn tombstones_up_to_the_floor_do_not_count() {
        let (value, old, new) =
            (record(1, "a", Effect::Put(b"v")), record(2, "b", Effect::Delete), record(3, "c", Effect::Expire));
        let all = [value.clone(), old, new.clone()];
        assert_eq!(digest(&all, 2), digest(&[value.clone(), new], 0));
        assert_eq!(digest(&all, 3), digest(&[value], 0));
    }
}
