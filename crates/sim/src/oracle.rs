//! What an observer knows who sees every record and every memory: which records were ever durable, who holds them, and
//! so what may be lost and what may not.
//!
//! A slot's durable records may be lost only where every copy that counts has lost its memory: each member of the
//! in-sync set and each of those that are remembered as former members, as the coordinator has kept them. Nothing can have
//! become durable that one of these lacks, and they are at least as many as a quorum write waits for.
//!
//! Where each of these has lost its memory or its power, what was durable is shortened to what the one has that has most:
//! all of that must be there in whatever leads next.

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
    previous: Option<Version>,
    /// Who has acknowledged it to a client, at the level `async`.
    pub(crate) acknowledged: Option<Incarnation>,
}

/// What is known of a slot.
#[derive(Debug, Default)]
pub(crate) struct Ghost {
    /// The terms of the records that were ever durable.
    pub(crate) durable_terms: Vec<Term>,
    pub(crate) durable: u64,
    /// Every copy was lost, rightly: nothing is known of its keys any more.
    pub(crate) is_lost: bool,
    /// What was durable in this epoch and before is lost with them, whatever a primary of then may still believe.
    pub(crate) lost_epoch: Epoch,
    /// The configuration that the coordinator has kept last.
    pub(crate) kept: Option<Arc<SlotConfig>>,
    /// The configuration that it has published last.
    pub(crate) published: Option<Arc<SlotConfig>>,
    /// Who leads in which epoch, by the maps that nodes have received.
    pub(crate) primaries: BTreeMap<Epoch, Incarnation>,
    /// The configurations that nodes have received.
    pub(crate) received: BTreeMap<MapVersion, Arc<SlotConfig>>,
    /// The versions of each key, and whether it was deleted, in the order in which they were seen.
    pub(crate) keys: BTreeMap<Box<[u8]>, Vec<(Version, bool)>>,
    /// The records that give their keys a deadline.
    pub(crate) expiring: BTreeSet<Version>,
    /// The records of each write with an identity.
    pub(crate) identities: BTreeMap<(Box<[u8]>, u64), Vec<Version>>,
}

/// A value was given a deadline.
#[derive(Debug)]
pub(crate) struct GivenDeadline {
    pub(crate) key: Box<[u8]>,
    pub(crate) value: Box<[u8]>,
    pub(crate) deadline: WallTime,
}

/// The observer.
#[derive(Debug)]
pub(crate) struct Oracle {
    pub(crate) slots: Vec<Ghost>,
    pub(crate) records: HashMap<(SlotId, Version), Seen, FixedState>,
    /// Which process holds now all that an incarnation held.
    data: BTreeMap<Incarnation, ProcId>,
    /// Which process holds some of it, since its machine has lost its power. What is in neither is lost.
    unproven: BTreeMap<Incarnation, ProcId>,
    /// Acknowledged writes that are lost, and counted so by a node.
    pub(crate) counted_losses: BTreeSet<(SlotId, Version)>,
    /// Each deadline that a value was given.
    pub(crate) deadlines: Vec<GivenDeadline>,
    pub(crate) turn: usize,
    /// Whom a map has named that the coordinator has kept, and whether they are up in the last of these.
    pub(crate) named: BTreeMap<Incarnation, bool>,
}

impl Oracle {
    pub(crate) fn new(bits: SlotBits) -> Self {
        let slots = bits.slots().map(|_| Ghost::default()).collect();
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

    pub(crate) fn ghost(&mut self, slot: SlotId) -> &mut Ghost {
        &mut self.slots[usize::from(slot.0)]
    }

    /// A process was given an incarnation.
    pub(crate) fn data_of(&mut self, proc: ProcId, incarnation: Incarnation) {
        self.data.insert(incarnation, proc);
    }

    /// Who holds what an incarnation held.
    pub(crate) fn holder(&self, incarnation: Incarnation) -> Option<ProcId> {
        self.data.get(&incarnation).copied()
    }

    /// Who holds all or some of what an incarnation held.
    pub(crate) fn keeper(&self, incarnation: Incarnation) -> Option<ProcId> {
        self.data.get(&incarnation).or(self.unproven.get(&incarnation)).copied()
    }

    /// Whether who holds all or some of what an incarnation held holds any of what another did.
    pub(crate) fn brings_data(&self, incarnation: Incarnation) -> bool {
        let keeper = self.keeper(incarnation);
        let is_other = |(other, holder): (&Incarnation, &ProcId)| *other != incarnation && Some(*holder) == keeper;
        self.data.iter().any(is_other) || self.unproven.iter().any(is_other)
    }

    /// Whether anybody holds any of what an incarnation held.
    pub(crate) fn is_somewhere(&self, incarnation: Incarnation) -> bool {
        self.data.contains_key(&incarnation) || self.unproven.contains_key(&incarnation)
    }

    /// Who holds some of what these held, and may lack the end.
    fn unproven_holders(&self, config: &SlotConfig) -> BTreeSet<ProcId> {
        members(config).filter_map(|member| self.unproven.get(&member).copied()).collect()
    }

    /// Whether a process holds what one of these held.
    pub(crate) fn holds_for(&self, proc: ProcId, config: &SlotConfig) -> bool {
        members(config).any(|member| self.holder(member) == Some(proc))
    }

    /// A record was seen, at its primary or on its way. Says what is wrong with it.
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
        self.records.insert((slot, version), Seen { hash, previous, acknowledged: None });
        if let Op::Write { key, effect, identity, .. } = op {
            let ghost = self.ghost(slot);
            let versions = ghost.keys.entry((*key).into()).or_default();
            versions.push((version, matches!(effect, Effect::Delete | Effect::Expire)));
            if let Some(identity) = identity {
                ghost.identities.entry((identity.client.into(), identity.seq)).or_default().push(version);
            }
            if let Effect::PutUntil(value, deadline) = effect {
                ghost.expiring.insert(version);
                let (key, value) = ((*key).into(), (*value).into());
                self.deadlines.push(GivenDeadline { key, value, deadline: *deadline });
            }
        }
        Ok(())
    }

    /// Whether this may be a record that was written: what was never seen may be one that nobody has heard of.
    pub(crate) fn may_be(&self, slot: SlotId, record: &Record) -> bool {
        let seen = self.records.get(&(slot, record.version()));
        seen.is_none_or(|seen| seen.hash == hash_of(&record.op()))
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

impl Ghost {
    /// The records up to `durable` are durable in this log.
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

    /// Whether a log has all that was ever durable. Where two logs share a record they share all before (I5), so it is
    /// enough to look at the last. What a log has forgotten it cannot be asked for.
    pub(crate) fn is_in(&self, log: &Log) -> bool {
        let end = self.end();
        log.last().seq >= end.seq && log.epoch_at(end.seq).is_none_or(|epoch| epoch == end.epoch || end.epoch.0 == 0)
    }

    /// Up to where this log has what was ever durable.
    fn shared(&self, log: &Log) -> u64 {
        let epoch_of = |seq| self.durable_terms.iter().rev().find(|term| term.first <= seq).map(|term| term.epoch);
        let has = |seq: &u64| log.epoch_at(*seq).is_none_or(|epoch| Some(epoch) == epoch_of(*seq));
        (1..=self.durable.min(log.last().seq)).rev().find(has).unwrap_or(0)
    }

    /// Every copy is lost, but for what the best of them has up to `durable`.
    fn lose_after(&mut self, durable: u64) {
        self.durable_terms.retain(|term| term.first <= durable);
        self.durable = durable;
        self.is_lost = true;
        self.lost_epoch = self.kept.as_ref().map_or(self.lost_epoch, |config| config.epoch);
    }
}

/// Those of whom each holds all that was promised.
pub(crate) fn members(config: &SlotConfig) -> impl Iterator<Item = Incarnation> {
    config.isr.iter().chain(&config.elr).copied()
}

fn hash_of(op: &Op<'_>) -> u64 {
    let state = FixedState::with_seed(7);
    match op {
        Op::Barrier => 1,
        Op::Declined { identity, found, reply } => state.hash_one((identity, found, reply)),
        Op::Write { key, effect: Effect::Put(value), .. } => state.hash_one((key, value)),
        Op::Write { key, effect: Effect::PutUntil(value, deadline), .. } => state.hash_one((key, value, deadline)),
        Op::Write { key, effect: Effect::Delete, .. } => state.hash_one(key),
        Op::Write { key, effect: Effect::Expire, .. } => state.hash_one((key, "expired")),
    }
}

impl World {
    /// What a process held is lost. Where it was the last copy that counts, the slot is.
    pub(crate) fn memory_lost(&mut self, n: ProcId) {
        self.oracle.data.retain(|_, holder| *holder != n);
        self.oracle.unproven.retain(|_, holder| *holder != n);
        self.shorten_all();
    }

    /// Some of what a process held may be lost.
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

    /// Where nobody is left who holds all that was durable, what is durable is what the best copy has.
    pub(crate) fn shorten(&mut self, slot: SlotId) {
        let ghost = &self.oracle.slots[usize::from(slot.0)];
        let Some(config) = ghost.kept.clone() else { return };
        let holders = self.oracle.unproven_holders(&config);
        if holders.is_empty() || members(&config).any(|member| self.oracle.holder(member).is_some()) {
            return;
        }
        let nodes = holders.iter().filter_map(|n| self.nodes[*n].data());
        let best = nodes.map(|node| node.inspect(slot, |state| ghost.shared(state.log()))).max().unwrap_or(0);
        let durable = ghost.durable;
        self.tell(Some(slot), || {
            format!("slot {}: no copy is whole, {best} of {durable} durable records are left: {config:?}", slot.0)
        });
        self.stats.shortened_slots += u64::from(best < durable);
        self.oracle.ghost(slot).lose_after(best);
    }

    pub(crate) fn lost_if_nobody_holds(&mut self, slot: SlotId) {
        let ghost = &self.oracle.slots[usize::from(slot.0)];
        let Some(config) = ghost.kept.clone().filter(|config| members(config).next().is_some()) else { return };
        if members(&config).any(|member| self.oracle.is_somewhere(member)) {
            return;
        }
        self.tell(Some(slot), || format!("slot {}: every copy is lost: {config:?}", slot.0));
        self.stats.lost_slots += 1;
        self.oracle.ghost(slot).lose_after(0);
    }
}
