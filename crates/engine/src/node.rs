//! A node: all its slots, the map it goes by, and what passes between it and the others.
//!
//! A [`Node`] is shared by every task of its process. Requests for keys take the lock of one slot and nothing else.
//! Locks are taken in one order: a slot, then the queue of a replica; the map is read and let go before either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapError, MapUpdate, MapVersion, Member};
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::peer::{Effect, LinkReply};
use proto::session::{NodeMessage, SlotAt};
use proto::slot::{Position, SlotBits, SlotId};

use crate::outbox::{Acked, Lag, Outbox, Stamp};
use crate::record::Record;
use crate::slot::{Effects, Slot};
use crate::table::KeyHasher;
use crate::time::Timestamp;

/// How long a slot takes no writes for a hand-over. After that its primary goes on, and the coordinator asks again.
pub const HANDOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// The key's slot is not served here now. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotHere;

/// Where a request for a slot can go, as the map has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// The primary, if there is one, whoever that is.
    pub primary: Option<(Incarnation, NodeAddr)>,
    /// The other copies that are up.
    pub replicas: Vec<(Incarnation, NodeAddr)>,
    /// Addresses of holders that are not up, where no holder is.
    pub missing: Vec<NodeAddr>,
}

/// Something that an operator wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another node follows a newer primary of this slot; what this one had accepted since is dropped.
    Deposed(SlotId),
    /// A slot's new primary lacks so many records that this copy has; they are dropped here as well.
    CutAway(SlotId, usize),
    /// A replica's queue has overflowed; it is filled again in so many slots.
    Overflowed(NodeAddr, usize),
    /// So many slots were to be handed over and were not in time.
    HandOverTimedOut(usize),
}

/// Queues that have something new. One serves a whole batch of requests; whoever sends is woken once at its end.
#[derive(Debug, Default)]
pub struct Turn {
    touched: Vec<Arc<Outbox>>,
}

impl Turn {
    /// The queues that were touched since the last call.
    pub fn touched(&mut self) -> impl Iterator<Item = Arc<Outbox>> {
        self.touched.drain(..)
    }

    fn touch(&mut self, outbox: &Arc<Outbox>) {
        if !self.touched.iter().any(|known| Arc::ptr_eq(known, outbox)) {
            self.touched.push(Arc::clone(outbox));
        }
    }
}

/// The node. See the module's text.
#[derive(Debug)]
pub struct Node {
    bits: SlotBits,
    hasher: KeyHasher,
    slots: Box<[Mutex<Slot>]>,
    view: RwLock<View>,
    outboxes: Mutex<BTreeMap<Incarnation, Arc<Outbox>>>,
    proposals: Mutex<Proposals>,
    events: Mutex<Vec<Event>>,
    stamps: AtomicU64,
    closed: AtomicBool,
}

/// Who this node is and what the coordinator has published.
#[derive(Debug, Default, Clone)]
struct View {
    me: Incarnation,
    map: Option<Arc<ClusterMap>>,
}

/// What the coordinator is to be asked for, gathered until its session takes it.
#[derive(Debug, Default)]
struct Proposals {
    admit: BTreeMap<Incarnation, Vec<SlotAt>>,
    expel: BTreeMap<Incarnation, Vec<SlotAt>>,
    release: BTreeMap<Incarnation, Vec<SlotAt>>,
    /// Slots that are being handed over: to whom, and since when.
    handing_over: BTreeMap<SlotId, (Incarnation, Timestamp)>,
}

impl Node {
    /// A node that holds nothing. `secret` keys its tables and is drawn at random.
    #[must_use]
    pub fn new(bits: SlotBits, secret: u64) -> Self {
        Self {
            bits,
            hasher: KeyHasher::new(secret),
            slots: bits.slots().map(|_| Mutex::default()).collect(),
            view: RwLock::default(),
            outboxes: Mutex::default(),
            proposals: Mutex::default(),
            events: Mutex::default(),
            stamps: AtomicU64::new(1),
            closed: AtomicBool::new(false),
        }
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot_of(&self, key: &[u8]) -> SlotId {
        self.bits.slot(&Position::of(key))
    }

    /// Whether there is a slot of this number.
    #[must_use]
    pub fn has_slot(&self, slot: SlotId) -> bool {
        usize::from(slot.0) < self.slots.len()
    }

    // Requests for keys.

    /// Reads a key at its primary. `read` sees the record, under the slot's lock.
    ///
    /// # Errors
    /// This node does not lead the slot.
    pub fn read<R>(
        &self,
        slot: SlotId,
        key: &[u8],
        read: impl FnOnce(Option<&Arc<Record>>) -> R,
    ) -> Result<R, NotHere> {
        let slot = self.slot(slot);
        if slot.is_primary() { Ok(read(slot.get(&self.hasher, key))) } else { Err(NotHere) }
    }

    /// Reads a key from whatever copy is here, since its primary does not answer.
    ///
    /// # Errors
    /// This node has no copy of the slot.
    pub fn read_copy<R>(
        &self,
        slot: SlotId,
        key: &[u8],
        read: impl FnOnce(Option<&Arc<Record>>) -> R,
    ) -> Result<R, NotHere> {
        let slot = self.slot(slot);
        if slot.holds_copy() { Ok(read(slot.get(&self.hasher, key))) } else { Err(NotHere) }
    }

    /// Writes a key at its primary.
    ///
    /// # Errors
    /// This node does not lead the slot, or is handing it over. Nothing was done.
    pub fn write(&self, slot: SlotId, key: &[u8], effect: Effect<'_>, turn: &mut Turn) -> Result<(), NotHere> {
        let mut state = self.slot(slot);
        if !state.takes_writes() || self.closed.load(Ordering::Relaxed) {
            return Err(NotHere);
        }
        state.write(&self.hasher, slot, key, effect, |outbox| turn.touch(outbox));
        Ok(())
    }

    /// Takes no write any more: the node is about to leave. When this returns, every write that was taken is queued.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Whoever holds a slot's lock may not have seen it; whoever takes the lock after this has.
        self.bits.slots().for_each(|slot| drop(self.slot(slot)));
    }

    /// Where requests for a slot go.
    #[must_use]
    pub fn route(&self, slot: SlotId) -> Route {
        let Some(map) = self.map() else { return Route::default() };
        let primary = map.config(slot).primary;
        let named = |(incarnation, member): (Incarnation, &Member)| (incarnation, member.addr.clone());
        let (up, down): (Vec<_>, Vec<_>) = map.holders(slot).partition(|(_, member)| member.up);
        let (primary, replicas): (Vec<_>, Vec<_>) =
            up.into_iter().map(named).partition(|(incarnation, _)| Some(*incarnation) == primary);
        let none_is_up = primary.is_empty() && replicas.is_empty();
        let missing = down.into_iter().filter(|_| none_is_up).map(|(_, member)| member.addr.clone()).collect();
        Route { primary: primary.into_iter().next(), replicas, missing }
    }

    /// The map that the node goes by, if it has one.
    #[must_use]
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).map.clone()
    }

    /// The incarnation that the coordinator has given this node; 0 before it has.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.view.read().unwrap_or_else(PoisonError::into_inner).me
    }

    /// How many keys are stored here, copies of other nodes' keys among them.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.bits.slots().map(|slot| self.slot(slot).keys()).sum()
    }

    /// How many slots this node leads.
    #[must_use]
    pub fn slots_led(&self) -> usize {
        self.bits.slots().filter(|slot| self.slot(*slot).is_primary()).count()
    }

    /// What all replicas together have still to acknowledge.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let lags = self.outboxes().into_iter().map(|outbox| outbox.lag());
        lags.fold(Lag::default(), |sum, lag| Lag { items: sum.items + lag.items, bytes: sum.bytes + lag.bytes })
    }

    // What the coordinator says.

    /// The coordinator has registered this node. Whatever was to be proposed is proposed again: it may have got lost.
    pub fn joined(&self, me: Incarnation) {
        self.view.write().unwrap_or_else(PoisonError::into_inner).me = me;
        let mut admit: BTreeMap<Incarnation, Vec<SlotAt>> = BTreeMap::new();
        for slot in self.bits.slots() {
            let state = self.slot(slot);
            for learner in state.level_learners() {
                admit.entry(learner).or_default().push(SlotAt { slot, version: state.config() });
            }
        }
        *self.proposals() = Proposals { admit, ..Proposals::default() };
    }

    /// The map has changed.
    ///
    /// # Errors
    /// The change does not follow on the map held here, which is as it was: ask for the whole map. Or the map is that of
    /// another cluster: what is held here has no place in it.
    pub fn handle_map(&self, update: &MapUpdate) -> Result<(), MapError> {
        let before = self.map();
        if before.as_ref().is_some_and(|before| before.cluster != update.cluster) {
            return Err(MapError::OtherCluster);
        }
        let map = Arc::new(ClusterMap::updated(before.as_deref(), update)?);
        if map.bits() != self.bits {
            return Err(MapError::Malformed("its slots are cut in another way"));
        }
        let me = {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            view.map = Some(Arc::clone(&map));
            view.me
        };
        for (slot, config) in map.slots() {
            if before.as_ref().is_some_and(|before| Arc::ptr_eq(before.config(slot), config)) {
                continue;
            }
            let mut state = self.slot(slot);
            // A primary of a newer map than this one may have told the slot its configuration already.
            if state.config() > map.version || state.config() == config.version {
                continue;
            }
            let outbox = |to| map.member(to).map(|member| self.outbox(to, &member.addr));
            state.configure(slot, me, config, outbox, || self.next_stamp());
            drop(state);
            self.proposals().handing_over.remove(&slot);
        }
        let followers: BTreeSet<Incarnation> = map
            .slots()
            .filter(|(_, config)| config.primary == Some(me))
            .flat_map(|(_, config)| config.isr.iter().chain(&config.learners).copied())
            .collect();
        self.lock_outboxes().retain(|to, _| followers.contains(to));
        Ok(())
    }

    /// The node was taken off the ring: it leads and holds nothing any more, whatever its map says.
    pub fn give_everything_up(&self) {
        self.bits.slots().for_each(|slot| self.slot(slot).give_up());
        self.lock_outboxes().clear();
        *self.proposals() = Proposals::default();
    }

    /// The coordinator asks to hand slots over to a replica that is in sync.
    pub fn hand_over(&self, now: Timestamp, to: Incarnation, slots: &[SlotAt]) {
        for SlotAt { slot, version } in slots.iter().filter(|at| self.has_slot(at.slot)) {
            // Noted before it starts: once it has started, its end may come at any moment.
            self.proposals().handing_over.insert(*slot, (to, now));
            let mut state = self.slot(*slot);
            if state.config() != *version || !state.drain(*slot, to, self.next_stamp()) {
                drop(state);
                self.proposals().handing_over.remove(slot);
            }
        }
    }

    /// How far this node stands in some slots.
    #[must_use]
    pub fn positions(&self, slots: &[SlotId]) -> Vec<(SlotId, Version)> {
        slots.iter().filter(|slot| self.has_slot(**slot)).map(|slot| (*slot, self.slot(*slot).last())).collect()
    }

    /// What the coordinator is to be asked for. Each proposal is given out once; it is given again after
    /// [`Node::joined`], and where the configuration has changed meanwhile.
    #[must_use]
    pub fn take_proposals(&self) -> Vec<NodeMessage> {
        let mut proposals = self.proposals();
        let admit = std::mem::take(&mut proposals.admit);
        let expel = std::mem::take(&mut proposals.expel);
        let release = std::mem::take(&mut proposals.release);
        let expel = expel.into_iter().map(|(follower, slots)| NodeMessage::Expel { follower, slots });
        let admit = admit.into_iter().map(|(follower, slots)| NodeMessage::Admit { follower, slots });
        let release = release.into_iter().map(|(to, slots)| NodeMessage::Release { to, slots });
        expel.chain(admit).chain(release).collect()
    }

    /// Whether [`Node::take_proposals`] has any.
    #[must_use]
    pub fn has_proposals(&self) -> bool {
        let proposals = self.proposals();
        !(proposals.admit.is_empty() && proposals.expel.is_empty() && proposals.release.is_empty())
    }

    /// Time has passed: slots whose hand-over has not come about in time take writes again.
    pub fn handle_timeout(&self, now: Timestamp) {
        let late: Vec<SlotId> = {
            let mut proposals = self.proposals();
            let late = |_: &SlotId, (_, since): &mut (Incarnation, Timestamp)| now - *since >= HANDOVER_TIMEOUT;
            proposals.handing_over.extract_if(.., late).map(|(slot, _)| slot).collect()
        };
        let reopened = late.iter().filter(|slot| self.slot(**slot).reopen()).count();
        if reopened > 0 {
            self.event(Event::HandOverTimedOut(reopened));
        }
    }

    /// What has happened since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    // The links to replicas, on the primary's side.

    /// The queues to the nodes that follow this one. Each wants one link, as long as it is listed.
    #[must_use]
    pub fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.lock_outboxes().values().map(Arc::clone).collect()
    }

    /// A replica has answered. `false` where the answer makes no sense: close the connection.
    #[must_use]
    pub fn handle_link_reply(&self, from: &Outbox, reply: LinkReply, turn: &mut Turn) -> bool {
        match reply {
            LinkReply::Ack { count } => {
                let Some(acked) = from.acknowledge(count) else { return false };
                for acked in acked {
                    self.handle_acked(from.to, acked, turn);
                }
            }
            LinkReply::Behind { slot, epoch } if self.has_slot(slot) => {
                self.slot(slot).follower_is_behind(slot, from.to, epoch);
            }
            LinkReply::Deposed { slot, epoch } if self.has_slot(slot) => {
                if self.slot(slot).depose(epoch) {
                    self.event(Event::Deposed(slot));
                }
            }
            LinkReply::Behind { .. } | LinkReply::Deposed { .. } => return false,
        }
        true
    }

    /// Makes the fills that a replica waits for, as many as may wait in its queue.
    pub fn make_fills(&self, outbox: &Outbox) {
        while let Some(slot) = outbox.next_fill() {
            self.slot(slot).fill(slot, outbox.to);
        }
    }

    /// A replica's queue has overflowed: marks it behind in every slot and begins anew with it.
    pub fn restart_overflowed(&self, outbox: &Outbox) {
        let mut expel = Vec::new();
        for slot in self.bits.slots() {
            let mut state = self.slot(slot);
            if state.follower_has_overflowed(outbox.to) {
                expel.push(SlotAt { slot, version: state.config() });
            }
        }
        self.event(Event::Overflowed(outbox.addr.clone(), expel.len()));
        self.proposals().expel.insert(outbox.to, expel);
        outbox.restart();
        for slot in self.bits.slots() {
            self.slot(slot).realign_follower(slot, outbox.to, self.next_stamp());
        }
    }

    fn handle_acked(&self, from: Incarnation, acked: Acked, turn: &mut Turn) {
        match acked {
            Acked::Aligned { slot, stamp, seq } | Acked::Filled { slot, stamp, seq } => {
                let mut state = self.slot(slot);
                let effects =
                    state.follower_is_level(&self.hasher, slot, from, stamp, seq, |outbox| turn.touch(outbox));
                let version = state.config();
                drop(state);
                self.carry_out(SlotAt { slot, version }, from, effects);
            }
            Acked::Tombstone { slot, seq } => {
                self.slot(slot).follower_has_passed(&self.hasher, slot, from, seq, |outbox| turn.touch(outbox));
            }
        }
    }

    fn carry_out(&self, at: SlotAt, follower: Incarnation, effects: Effects) {
        if effects == Effects::default() {
            return;
        }
        let mut proposals = self.proposals();
        if effects.admit {
            proposals.admit.entry(follower).or_default().push(at);
        }
        if effects.released && proposals.handing_over.contains_key(&at.slot) {
            proposals.release.entry(follower).or_default().push(at);
        }
    }

    // The links from primaries, on the replica's side.

    pub(crate) fn align(
        &self,
        slot: SlotId,
        from: Incarnation,
        epoch: Epoch,
        config: MapVersion,
        last: Version,
    ) -> Option<LinkReply> {
        let (cut, reply) = self.slot(slot).align(slot, from, epoch, config, last);
        if cut > 0 {
            self.event(Event::CutAway(slot, cut));
        }
        reply
    }

    pub(crate) fn replicate(
        &self,
        slot: SlotId,
        from: Incarnation,
        previous: Version,
        record: Record,
    ) -> Option<LinkReply> {
        self.slot(slot).replicate(&self.hasher, slot, from, previous, record)
    }

    pub(crate) fn replace(
        &self,
        slot: SlotId,
        from: Incarnation,
        epoch: Epoch,
        last: Version,
        records: Vec<Arc<Record>>,
    ) -> Option<LinkReply> {
        self.slot(slot).replace(&self.hasher, slot, from, epoch, last, records)
    }

    pub(crate) fn purge_as_told(&self, slot: SlotId, from: Incarnation, seq: u64) {
        self.slot(slot).purge_as_told(&self.hasher, from, seq);
    }

    // Small parts.

    fn slot(&self, slot: SlotId) -> MutexGuard<'_, Slot> {
        let slot = self.slots.get(usize::from(slot.0)).expect("a slot number was checked where it came in");
        // A panic under the lock ends the process, so whoever sees a poisoned lock is on the way out as well.
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outbox(&self, to: Incarnation, addr: &NodeAddr) -> Arc<Outbox> {
        let mut outboxes = self.lock_outboxes();
        Arc::clone(outboxes.entry(to).or_insert_with(|| Arc::new(Outbox::new(to, addr.clone()))))
    }

    fn lock_outboxes(&self) -> MutexGuard<'_, BTreeMap<Incarnation, Arc<Outbox>>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proposals(&self) -> MutexGuard<'_, Proposals> {
        self.proposals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    fn next_stamp(&self) -> Stamp {
        Stamp(self.stamps.fetch_add(1, Ordering::Relaxed))
    }
}
