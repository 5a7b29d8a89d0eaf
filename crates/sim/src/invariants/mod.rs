//! What must always hold, one file per judge. Reports name an invariant by its number:
//!
//! - I1, I2: primaries, epochs and the sets of a slot (`epochs`).
//! - I3, I4: what is durable is where it must be (`durable`).
//! - I5, I6: one order for all copies, and marks that only grow and that purges do not pass (`order`, `marks`).
//! - I7: one node serves a slot (`serving`).
//! - I8: histories are linearizable, and I11: nothing deleted or expired comes back ([`crate::run`], by
//!   [`crate::judges`]).
//! - I9: exactly once (`exactly_once`).
//! - I10: what is lost is listed (`losses`).
//! - I12: our own moves never reduce the sets of a slot ([`crate::moves`]).
//! - I14, I15: restarts and damaged disks (`disks`).
//! - I16: limits (`limits`).
//!
//! `older`, `proofs` and [`crate::liveness`] name theirs in words.
//!
//! Each step checks what it has touched, so that runs stay fast; every thousandth step checks everything.

mod disks;
mod durable;
mod epochs;
mod exactly_once;
mod limits;
mod losses;
mod marks;
mod older;
mod order;
mod proofs;
mod serving;

use engine::node::Node;
use engine::record::Record;
use proto::cluster_map::MapVersion;
use proto::id::{Incarnation, Version};
use proto::peer::{Change, Effect, LinkMessage, Modify, Op, Terms};
use proto::slot::SlotId;

use crate::client::{Outcome, Request};
use crate::mutants::Planted;
use crate::world::{World, same};

pub(crate) use marks::Marks;

/// The state of a replica's slot before it takes a message.
pub(crate) struct Before {
    slot: SlotId,
    last: Version,
    /// The terms of its log.
    terms: Terms,
    /// The primary that the copy followed, if that primary had everything that the copy had.
    level_with: Option<Incarnation>,
    /// How many writes the node had counted as lost.
    losses: u64,
}

impl Before {
    fn of(node: &Node<Planted>, slot: SlotId) -> Self {
        let losses = node.losses(engine::losses::Losses::count);
        node.inspect(slot, |state| Self {
            slot,
            last: state.last(),
            terms: state.log().terms(),
            level_with: state.level_with(),
            losses,
        })
    }
}

impl World {
    /// Records the state before a replica takes a message.
    pub(crate) fn before_message(&mut self, n: usize, message: &LinkMessage<'_>) -> Option<Before> {
        let slot = match message {
            LinkMessage::Align { slot, .. } => *slot,
            LinkMessage::Fill { slot, .. } => {
                self.nodes[n].marks.filling = Some(*slot);
                self.stats.fills += 1;
                *slot
            }
            LinkMessage::Entry { .. } | LinkMessage::Completed { .. } => self.nodes[n].marks.filling?,
            LinkMessage::Replicate { slot, version, previous, op, .. } => {
                if let Err(what) = self.oracle.sight(*slot, *version, Some(*previous), op) {
                    self.broken("I5", Some(*slot), what);
                }
                return None;
            }
            _ => return None,
        };
        let node = self.nodes[n].node.as_ref()?;
        Some(Before::of(node, slot))
    }

    /// Checks the state after a replica has taken a message.
    pub(crate) fn after_message(
        &mut self,
        n: usize,
        from: Incarnation,
        message: &LinkMessage<'_>,
        before: Option<Before>,
    ) {
        match message {
            LinkMessage::Replicate { slot, .. } | LinkMessage::Durable { slot, .. } => self.check_marks(n, *slot),
            _ => {}
        }
        if let LinkMessage::Align { slot, .. } | LinkMessage::Fill { slot, .. } | LinkMessage::Release { slot, .. } =
            message
        {
            let name = &self.nodes[n].name;
            let from = from.0 & 0xffff;
            self.trace.tell(self.schedule.now, Some(*slot), || format!("{name} < {from}: {message:?}"));
        }
        if let Some(before) = before {
            let slot = before.slot;
            if matches!(message, LinkMessage::Fill { .. } | LinkMessage::Entry { .. } | LinkMessage::Completed { .. }) {
                self.nodes[n].marks.filled.insert(slot);
            }
            self.check_cut(n, before);
            self.check_copy(n, slot);
        }
    }

    /// A node's roles may have changed.
    pub(crate) fn node_changed(&mut self, n: usize) {
        let Some(node) = &self.nodes[n].node else { return };
        let leads = |slot: &SlotId| node.inspect(*slot, engine::slot::Slot::is_primary);
        let led: Vec<_> = self.bits.slots().filter(leads).collect();
        self.nodes[n].marks.purged.retain(|slot, _| led.contains(slot));
        self.nodes[n].marks.led = led;
        for slot in self.bits.slots() {
            self.nodes[n].marks.forget_given_up(slot);
            self.check_copy(n, slot);
        }
    }

    /// A node has been called.
    pub(crate) fn check_node(&mut self, n: usize) {
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        // To a lone primary, even unwritten records are durable: nobody knows of them yet, and they may be lost.
        let is_written = process.store.is_written(node.noted().end());
        let (mut moved, mut purged) = (Vec::new(), Vec::new());
        let mut expired = Vec::new();
        for slot in &process.marks.led {
            let last = node.inspect(*slot, engine::slot::Slot::last);
            if process.marks.looked_at.insert(*slot, last) != Some(last) {
                // Nobody asked for these records, so without a replica they are seen nowhere else.
                expired.extend(node.inspect(*slot, expiries).into_iter().map(|record| (*slot, record)));
            }
            let (durable, passed) = node.inspect(*slot, |state| (state.durable(), state.log().purged()));
            if process.marks.purged.insert(*slot, passed).is_some_and(|before| before < passed) {
                purged.push(*slot);
            }
            if is_written && durable != process.marks.durable(*slot) {
                moved.push(*slot);
            }
        }
        for (slot, record) in expired {
            if let Err(what) = self.oracle.sight(slot, record.version(), None, &record.op()) {
                self.broken("I5", Some(slot), what);
            }
        }
        purged.into_iter().for_each(|slot| self.check_purged(n, slot));
        for slot in moved {
            self.check_marks(n, slot);
            self.check_durable_at_primary(n, slot);
        }
    }

    /// A node has accepted a request.
    pub(crate) fn was_served(&mut self, n: usize, request: &Request, outcome: &Outcome) {
        let operation = &request.operation;
        if operation.is_write() || operation.is_judged {
            self.check_only_server(n, operation.slot);
        }
        if let Some(version) = outcome.done().filter(|version| *version != Version::NONE) {
            self.check_written(n, operation, version);
        }
    }

    /// The coordinator has persisted a change of the map.
    pub(crate) fn map_kept(&mut self) {
        let Some(state) = &self.coordinator.state else { return };
        let map = state.map().clone();
        if map.version == MapVersion(0) {
            return;
        }
        let (mut begun, mut not_asked) = (None, 0);
        for (slot, config) in map.slots() {
            if self.oracle.model(slot).kept.as_ref().is_some_and(|kept| same(kept, config)) {
                continue;
            }
            let before = self.oracle.model(slot).kept.replace(std::sync::Arc::clone(config));
            self.check_configuration(slot, before.as_deref(), config, map.cluster_settings.min_isr());
            if let Some(before) = &before {
                self.check_move(slot, before, config);
                self.check_older_copies(slot, before, config, &map);
                if self.begins_fill(before, config) {
                    begun = Some(slot);
                } else {
                    not_asked += usize::from(self.fills_unasked(&map, before, config));
                }
            }
            // A proposal of a primary, or an answer of a copy that is promoted because of it, may be outdated if that
            // node then lost power, as all others did: it may no longer name the best copy. Whoever is promoted and is
            // up must be the best.
            self.shorten(slot);
            self.check_members(slot, "when the configuration was kept");
            self.lost_if_nobody_holds(slot);
        }
        self.check_fills(&map, begun, not_asked);
        self.oracle.named.values_mut().for_each(|is_up| *is_up = false);
        self.oracle.named.extend(map.members().map(|(member, at)| (member, at.up)));
    }

    /// The coordinator publishes a change of the map.
    pub(crate) fn map_published(&mut self) {
        if self.faults.state_is_lost {
            self.check_leaves();
        }
        self.faults.state_is_lost = false;
        let Some(state) = &self.coordinator.state else { return };
        let map = state.map().clone();
        for (slot, config) in map.slots() {
            if self.oracle.model(slot).published.as_ref().is_some_and(|published| same(published, config)) {
                continue;
            }
            self.tell(Some(slot), || format!("slot {}: {config:?}", slot.0));
            self.oracle.model(slot).published = Some(std::sync::Arc::clone(config));
        }
    }

    /// Checks everything.
    pub(crate) fn check_whole(&mut self) {
        for slot in self.bits.slots() {
            self.check_members(slot, "at some moment");
            self.check_servers(slot);
        }
        for n in 0..self.nodes.len() {
            self.check_limits(n);
        }
        self.check_some_fold();
    }

    fn running(&self, n: usize) -> Option<&Node<Planted>> {
        self.nodes.get(n)?.node.as_ref()
    }
}

/// The records that a primary has ordered itself because a deadline had passed, if they are the newest of their keys.
fn expiries(slot: &engine::slot::Slot<Planted>) -> Vec<Record> {
    slot.records().filter(|record| record.effect() == Effect::Expire).cloned().collect()
}

/// The record of a client's write, if it is known without the primary.
fn op_of<'a>(operation: &'a crate::client::Operation, client: &'a str) -> Option<Op<'a>> {
    let identity = operation.identity.map(|seq| proto::peer::Identity { client: client.as_bytes(), seq });
    let effect = match operation.what.change()? {
        Change::Modify(Modify::SetAllAbsent(writes)) => return Some(Op::Multi { writes, identity, reply: b"" }),
        Change::Put(value) => Effect::Put(value),
        Change::Delete => Effect::Delete,
        Change::PutFor(..) | Change::Expire(_) | Change::Persist | Change::Modify(_) => return None,
    };
    Some(Op::Write { key: operation.key.as_bytes(), effect, identity, reply: b"" })
}
