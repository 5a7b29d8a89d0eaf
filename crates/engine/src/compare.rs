//! Anti-entropy: whether the copies of a slot are equal.
//!
//! A primary asks its in-sync replicas for the digest of a slot. The question is queued like a record, so that each
//! replica answers for the very record at which the primary looked at its own copy. A replica that is not at that
//! record, because the question was resent after a broken connection, says so. A copy whose digest differs is expelled
//! from the in-sync set and refilled from the primary, never merged.
//!
//! Digests are not maintained, because every write would pay for that. Under the slot's lock the records are only
//! referenced; they are hashed later by whoever has time ([`Contents::digest`]).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::peer::Compared;
use proto::slot::SlotId;

use crate::record::Record;
use crate::time::Timestamp;

/// How many slots are compared at the same time.
pub(crate) const AT_ONCE: usize = 64;

/// How long a copy may take to answer before it is asked again.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The pause before a slot that could not be compared is retried.
const RETRY_AFTER: Duration = Duration::from_millis(300);

/// How often a slot is tried.
const TRIES: u8 = 5;

/// How long [`crate::node::Node::verified`] waits for copies to be repaired.
const REPAIRED_WITHIN: Duration = Duration::from_secs(60);

/// How many differences a report names.
const NAMED: usize = 16;

/// All records of a slot at one moment, except for tombstones that other copies may have dropped.
#[derive(Debug)]
pub struct Contents {
    records: Vec<Record>,
}

/// A requested digest. To be computed without holding any lock.
#[derive(Debug)]
pub struct ToDigest {
    /// The slot.
    pub slot: SlotId,
    /// Identifies the question among those of the same sender.
    pub query: u64,
    /// What to hash.
    pub contents: Contents,
}

impl Contents {
    /// The given records, without the tombstones up to `floor`.
    pub(crate) fn new<'a>(records: impl Iterator<Item = &'a Record>, floor: u64) -> Self {
        let counts = |record: &&Record| !(record.is_delete() && record.version().seq <= floor);
        Self { records: records.filter(counts).cloned().collect() }
    }

    /// The sum of the digests of all records, so the same for equal records in any order. Each digest covers key,
    /// version, value, deadline, and kind.
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
    /// Another node now leads it.
    NotLed,
    /// A copy has not answered.
    NoAnswer,
}

/// The result of a round of comparisons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many slots this node led when the round began.
    pub slots: usize,
    /// How many were empty.
    pub empty: usize,
    /// How many are equal on all in-sync copies.
    pub equal: usize,
    /// How many differed.
    pub different: usize,
    /// Some of those: the slot, and the address of the copy that differed.
    pub named: Vec<(SlotId, NodeAddr)>,
    /// How many copies are still being repaired.
    pub under_repair: usize,
    /// How many were not compared, and why.
    pub not_compared: BTreeMap<NotCompared, usize>,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Slots that were compared and found equal.
    pub compared: u64,
    /// Copies that differed.
    pub different: u64,
    /// Copies that were refilled because they differed.
    pub repaired: u64,
}

/// A slot to be compared.
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

/// The result of asking.
#[derive(Debug)]
pub(crate) enum Begun {
    Asked(Asked),
    Empty,
    Not(NotCompared),
}

/// A comparison in progress.
#[derive(Debug)]
struct Open {
    task: Task,
    epoch: Epoch,
    at: Version,
    since: Timestamp,
    own: Option<u128>,
    answers: Vec<(Incarnation, NodeAddr, Option<Compared>)>,
}

/// A copy that differs from its primary's.
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
    /// From this time on only repairs are waited for.
    compared_at: Option<Timestamp>,
    report: Verified,
}

/// The comparisons of a node.
#[derive(Debug, Default)]
pub(crate) struct Comparisons {
    last_query: u64,
    waiting: VecDeque<Task>,
    open: BTreeMap<u64, Open>,
    /// The slot that the background comes to next, and its accrued credit, in millionths of a slot.
    next: u16,
    credit: u64,
    round: Option<Round>,
    finished: Option<(u64, Verified)>,
    rounds: u64,
    /// Copies that differ and have not been refilled yet.
    repairing: Vec<(SlotId, Incarnation)>,
    figures: Figures,
}

impl Comparisons {
    pub(crate) fn figures(&self) -> Figures {
        self.figures
    }

    /// Begins a round of these slots, or joins the one in progress. Returns its number.
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

    /// Adds the slots that the background reaches in the time that has passed, at a rate that covers all `count` in
    /// `every`.
    pub(crate) fn go_on(&mut self, now: Timestamp, passed: Duration, every: Duration, count: usize) {
        let micros = u64::try_from(every.as_micros()).unwrap_or(u64::MAX).max(1);
        let passed = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let gained = passed.saturating_mul(count as u64).saturating_mul(1_000_000) / micros;
        // Time spent asleep is not made up for.
        self.credit = (self.credit + gained).min(AT_ONCE as u64 * 1_000_000);
        // A round covers every slot anyway.
        while self.credit >= 1_000_000 && self.round.is_none() && self.waiting.len() < AT_ONCE {
            self.credit -= 1_000_000;
            let slot = SlotId(self.next);
            self.next = u16::try_from((usize::from(self.next) + 1) % count.max(1)).unwrap_or(0);
            self.waiting.push_back(Task { slot, floor: 0, due: now, tries: 0, in_round: false });
        }
    }

    /// The next slot to compare.
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

    /// Notes the start of a slot's comparison.
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

    /// Notes the digest of the primary's own copy.
    pub(crate) fn own_digest(&mut self, now: Timestamp, query: u64, digest: u128) -> Vec<Difference> {
        if let Some(open) = self.open.get_mut(&query) {
            open.own = Some(digest);
        }
        self.conclude(now, query)
    }

    /// Notes a replica's answer.
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

    /// Gives up on comparisons that were not answered in time.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        let late = |_: &u64, open: &mut Open| now - open.since >= ANSWER_WITHIN;
        let late: Vec<Open> = self.open.extract_if(.., late).map(|(_, open)| open).collect();
        late.into_iter().for_each(|open| self.again(now, open.task, open.task.floor));
    }

    /// Compares the digests once all are known.
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

    /// A slot could not be compared: retries it later, or gives up.
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

    /// A copy that differed has been refilled.
    pub(crate) fn repaired(&mut self, slot: SlotId, who: Incarnation) {
        let before = self.repairing.len();
        self.repairing.retain(|repairing| *repairing != (slot, who));
        self.figures.repaired += u64::from(self.repairing.len() < before);
    }

    /// Copies that are still to be refilled.
    pub(crate) fn repairing(&self) -> Vec<(SlotId, Incarnation)> {
        self.repairing.clone()
    }

    /// This node no longer waits for the repair of this copy.
    pub(crate) fn forget_repair(&mut self, slot: SlotId, who: Incarnation) {
        self.repairing.retain(|repairing| *repairing != (slot, who));
    }

    /// Ends the round when everything has been compared and repaired, or when repairs take too long.
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
        let op = proto::peer::Op::Write { key: b"a", effect: Effect::Put(b"v"), identity, reply: b"" };
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
