//! What an observer knows who sees every record and every memory: which records were ever durable, who holds them, and
//! so what may be lost and what may not.
//!
//! A slot's durable records may be lost only if every copy that counts has lost its memory: each member of the in-sync
//! set and each remembered former member, according to the state that the coordinator has persisted. Nothing that one
//! of these lacks can have become durable, and they are at least as many as a quorum write waits for.
//!
//! If each of these has lost its memory or its power, the durable prefix shrinks to what the most complete of them has:
//! all of that must be present in the next primary.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::log::Log;
use engine::record::Record;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use proto::cluster_map::{MapVersion, SlotConfig};
use proto::id::{Epoch, Incarnation, Version};
use proto::peer::{Effect, Op, Term, WallTime};
use proto::slot::{SlotBits, SlotId};
use std::hash::BuildHasher as _;

use crate::client::Operation;
use crate::network::ProcId;
use crate::world::World;

/// What is known of a record.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    hash: u64,
    /// The same for what it makes the newest records of its keys, if it wrote several.
    parts: Vec<u64>,
    previous: Option<Version>,
    /// Who acknowledged it to a client, at level `async`.
    pub(crate) acknowledged: Option<Incarnation>,
}

/// What is known of a slot.
#[derive(Debug, Default)]
pub(crate) struct SlotModel {
    /// The terms of all records that were ever durable.
    pub(crate) durable_terms: Vec<Term>,
    pub(crate) durable: u64,
    /// Every copy was legitimately lost: nothing is known of its keys any more.
    pub(crate) is_lost: bool,
    /// What was durable up to this epoch is lost with them, whatever a primary of that time may still believe.
    pub(crate) lost_epoch: Epoch,
    /// The configuration that the coordinator persisted last.
    pub(crate) kept: Option<Arc<SlotConfig>>,
    /// The configuration that it published last.
    pub(crate) published: Option<Arc<SlotConfig>>,
    /// Who leads in which epoch, according to the maps that nodes have received.
    pub(crate) primaries: BTreeMap<Epoch, Incarnation>,
    /// The configurations that nodes have received.
    pub(crate) received: BTreeMap<MapVersion, Arc<SlotConfig>>,
    /// The versions of each key, and whether each is a deletion, in the order in which they were seen.
    pub(crate) keys: BTreeMap<Box<[u8]>, Vec<(Version, bool)>>,
    /// The records that give their keys a deadline.
    pub(crate) expiring: BTreeSet<Version>,
    /// The records of each write with an identity.
    pub(crate) identities: BTreeMap<(Box<[u8]>, u64), Vec<Version>>,
}

/// A deadline that was given to a value.
#[derive(Debug)]
pub(crate) struct GivenDeadline {
    pub(crate) key: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
    pub(crate) deadline: WallTime,
}

/// The observer.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) slots: Vec<SlotModel>,
    pub(crate) records: HashMap<(SlotId, Version), Seen, FixedState>,
    /// Which process now holds everything that an incarnation held.
    data: BTreeMap<Incarnation, ProcId>,
    /// Which process holds part of it, since its machine lost power. Data in neither map is lost.
    unproven: BTreeMap<Incarnation, ProcId>,
    /// Acknowledged writes that are lost and that a node has counted as lost.
    pub(crate) counted_losses: BTreeSet<(SlotId, Version)>,
    /// Every deadline that was given to a value.
    pub(crate) deadlines: Vec<GivenDeadline>,
    pub(crate) turn: usize,
    /// The incarnations named in any map that the coordinator persisted, and whether they are up in the latest of
    /// these.
    pub(crate) named: BTreeMap<Incarnation, bool>,
}

impl Oracle {
    pub(crate) fn new(bits: SlotBits) -> Self {
        let slots = bits.slots().map(|_| SlotModel::default()).collect();
        Self {
            slots,
            records: HashMap::default(),
            data: BTreeMap::new(),
            unproven: BTreeMap::new(),
            counted_losses: BTreeSet::new(),
            deadlines: Vec::new(),
            turn: 0,
            named: BTreeMap::new(),
        }
    }

    pub(crate) fn model(&mut self, slot: SlotId) -> &mut SlotModel {
        &mut self.slots[usize::from(slot.0)]
    }

    /// A process was given an incarnation.
    pub(crate) fn data_of(&mut self, proc: ProcId, incarnation: Incarnation) {
        self.data.insert(incarnation, proc);
    }

    /// The process that holds everything an incarnation held.
    pub(crate) fn holder(&self, incarnation: Incarnation) -> Option<ProcId> {
        self.data.get(&incarnation).copied()
    }

    /// The process that holds all or part of what an incarnation held.
    pub(crate) fn keeper(&self, incarnation: Incarnation) -> Option<ProcId> {
        self.data.get(&incarnation).or(self.unproven.get(&incarnation)).copied()
    }

    /// Whether the process that holds all or part of an incarnation's data also holds any data of another one.
    pub(crate) fn brings_data(&self, incarnation: Incarnation) -> bool {
        let keeper = self.keeper(incarnation);
        let is_other = |(other, holder): (&Incarnation, &ProcId)| *other != incarnation && Some(*holder) == keeper;
        self.data.iter().any(is_other) || self.unproven.iter().any(is_other)
    }

    /// Whether any process holds any data of an incarnation.
    pub(crate) fn is_somewhere(&self, incarnation: Incarnation) -> bool {
        self.data.contains_key(&incarnation) || self.unproven.contains_key(&incarnation)
    }

    /// The processes that hold part of the data of these members, and may lack the end.
    fn unproven_holders(&self, config: &SlotConfig) -> BTreeSet<ProcId> {
        members(config).filter_map(|member| self.unproven.get(&member).copied()).collect()
    }

    /// Whether a process holds everything that one of these members held.
    pub(crate) fn holds_for(&self, proc: ProcId, config: &SlotConfig) -> bool {
        members(config).any(|member| self.holder(member) == Some(proc))
    }

    /// A record was seen, at its primary or in flight. Returns what is wrong with it.
    pub(crate) fn sight(
        &mut self,
        slot: SlotId,
        version: Version,
        previous: Option<Version>,
        op: &Op<'_>,
    ) -> Result<(), String> {
        let hash = hash_of(op);
        if let Some(seen) = self.records.get_mut(&(slot, version)) {
            if seen.hash != hash {
                return Err(format!("record {version} of slot {} is not the same everywhere", slot.0));
            }
            let before = *seen.previous.get_or_insert(previous.unwrap_or(Version::NONE));
            if previous.is_some_and(|previous| previous != before) && seen.previous.is_some() {
                return Err(format!("record {version} of slot {} follows on {before} and on {previous:?}", slot.0));
            }
            if previous.is_none() && before == Version::NONE {
                seen.previous = None;
            }
            return Ok(());
        }
        let part = |(key, effect)| hash_of(&Op::Write { key, effect, identity: None, reply: b"" });
        let (writes, identity, parts): (Vec<_>, _, _) = match *op {
            Op::Write { key, effect, identity, .. } => (vec![(key, effect)], identity, Vec::new()),
            Op::Multi { writes, identity, .. } => {
                (writes.iter().collect(), identity, writes.iter().map(part).collect())
            }
            Op::Declined { .. } | Op::Barrier => (Vec::new(), None, Vec::new()),
        };
        self.records.insert((slot, version), Seen { hash, parts, previous, acknowledged: None });
        if let Some(identity) = identity {
            let identity = (identity.client.into(), identity.seq);
            self.model(slot).identities.entry(identity).or_default().push(version);
        }
        for (key, effect) in writes {
            let model = self.model(slot);
            let versions = model.keys.entry(key.into()).or_default();
            versions.push((version, matches!(effect, Effect::Delete | Effect::Expire)));
            if let Effect::PutUntil(value, deadline) = effect {
                model.expiring.insert(version);
                self.deadlines.push(GivenDeadline { key: key.into(), value: value.into(), deadline });
            }
        }
        Ok(())
    }

    /// Whether this may be a record that was written: a version never seen may be one that nobody has heard of.
    pub(crate) fn may_be(&self, slot: SlotId, record: &Record) -> bool {
        let seen = self.records.get(&(slot, record.version()));
        let hash = hash_of(&record.op());
        seen.is_none_or(|seen| seen.hash == hash || seen.parts.contains(&hash))
    }

    /// A client is told that its write is done.
    pub(crate) fn acknowledged(&mut self, operation: &Operation, version: Version, by: Incarnation) {
        if !operation.is_judged
            && let Some(seen) = self.records.get_mut(&(operation.slot, version))
        {
            seen.acknowledged.get_or_insert(by);
        }
    }
}

impl SlotModel {
    /// Advances the durable prefix to `durable`, with the epochs of this log.
    pub(crate) fn advance(&mut self, log: &Log, durable: u64) {
        while self.durable < durable {
            let seq = self.durable + 1;
            let epoch = log.epoch_at(seq).unwrap_or_default();
            if self.durable_terms.last().is_none_or(|term| term.epoch != epoch) {
                self.durable_terms.push(Term { epoch, first: seq });
            }
            self.durable = seq;
        }
    }

    /// The last record that was ever durable.
    pub(crate) fn end(&self) -> Version {
        let epoch = self.durable_terms.last().map(|term| term.epoch).unwrap_or_default();
        Version { epoch, seq: self.durable }
    }

    /// Whether a log has everything that was ever durable. Logs that share a record share all earlier ones (I5), so
    /// looking at the last one suffices. A log cannot be asked about records whose terms it has forgotten.
    pub(crate) fn is_in(&self, log: &Log) -> bool {
        let end = self.end();
        log.last().seq >= end.seq && log.epoch_at(end.seq).is_none_or(|epoch| epoch == end.epoch || end.epoch.0 == 0)
    }

    /// Up to which sequence number this log has the durable records.
    fn shared(&self, log: &Log) -> u64 {
        let epoch_of = |seq| self.durable_terms.iter().rev().find(|term| term.first <= seq).map(|term| term.epoch);
        let has = |seq: &u64| log.epoch_at(*seq).is_none_or(|epoch| Some(epoch) == epoch_of(*seq));
        (1..=self.durable.min(log.last().seq)).rev().find(has).unwrap_or(0)
    }

    /// An operator no longer wants what the members hold.
    pub(crate) fn is_given_up(&mut self) {
        self.lose_after(0);
    }

    /// Every copy is lost, except for what the best of them has, up to `durable`.
    fn lose_after(&mut self, durable: u64) {
        self.durable_terms.retain(|term| term.first <= durable);
        self.durable = durable;
        self.is_lost = true;
        self.lost_epoch = self.kept.as_ref().map_or(self.lost_epoch, |config| config.epoch);
    }
}

/// The members that each hold everything that was promised.
pub(crate) fn members(config: &SlotConfig) -> impl Iterator<Item = Incarnation> {
    config.isr.iter().chain(&config.elr).copied()
}

fn hash_of(op: &Op<'_>) -> u64 {
    let state = FixedState::with_seed(7);
    match op {
        Op::Barrier => 1,
        Op::Declined { identity, found, reply } => state.hash_one((identity, found, reply)),
        Op::Multi { writes, .. } => state.hash_one(writes),
        Op::Write { key, effect: Effect::Put(value), .. } => state.hash_one((key, value)),
        Op::Write { key, effect: Effect::PutUntil(value, deadline), .. } => state.hash_one((key, value, deadline)),
        Op::Write { key, effect: Effect::Delete, .. } => state.hash_one(key),
        Op::Write { key, effect: Effect::Expire, .. } => state.hash_one((key, "expired")),
    }
}

impl World {
    /// A process has lost its data. If that was the last copy that counts, the slot is lost.
    pub(crate) fn memory_lost(&mut self, n: ProcId) {
        self.oracle.data.retain(|_, holder| *holder != n);
        self.oracle.unproven.retain(|_, holder| *holder != n);
        self.shorten_all();
    }

    /// A process may have lost part of its data.
    pub(crate) fn proof_lost(&mut self, n: ProcId) {
        let lost: Vec<_> = self.oracle.data.extract_if(.., |_, holder| *holder == n).collect();
        self.oracle.unproven.extend(lost);
        self.shorten_all();
    }

    fn shorten_all(&mut self) {
        for slot in self.bits.slots() {
            self.lost_if_nobody_holds(slot);
            self.shorten(slot);
        }
    }

    /// If nobody holds everything that was durable, the durable prefix is now what the best copy has.
    pub(crate) fn shorten(&mut self, slot: SlotId) {
        let model = &self.oracle.slots[usize::from(slot.0)];
        let Some(config) = model.kept.clone() else { return };
        let holders = self.oracle.unproven_holders(&config);
        if holders.is_empty() || members(&config).any(|member| self.oracle.holder(member).is_some()) {
            return;
        }
        let nodes = holders.iter().filter_map(|n| self.nodes[*n].data());
        let best = nodes.map(|node| node.inspect(slot, |state| model.shared(state.log()))).max().unwrap_or(0);
        let durable = model.durable;
        self.tell(Some(slot), || {
            format!("slot {}: no copy is whole, {best} of {durable} durable records are left: {config:?}", slot.0)
        });
        self.stats.shortened_slots += u64::from(best < durable);
        self.oracle.model(slot).lose_after(best);
    }

    pub(crate) fn lost_if_nobody_holds(&mut self, slot: SlotId) {
        let model = &self.oracle.slots[usize::from(slot.0)];
        let Some(config) = model.kept.clone().filter(|config| members(config).next().is_some()) else { return };
        if members(&config).any(|member| self.oracle.is_somewhere(member)) {
            return;
        }
        self.tell(Some(slot), || format!("slot {}: every copy is lost: {config:?}", slot.0));
        self.stats.lost_slots += 1;
        self.oracle.model(slot).lose_after(0);
    }
}
