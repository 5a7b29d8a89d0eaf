//! A node: all its slots, the map it follows, and its exchanges with the other nodes and the coordinator.
//!
//! A [`Node`] is shared by every task of its process. Requests for keys take the lock of one slot and nothing else.
//! Locks are taken in one order: a slot, then what is noted, the queue of a replica or the promises to primaries; the map
//! is read and released before any of them.

mod compare;
mod disk;
mod fetch;
mod links;
mod membership;
mod memory;
mod neighbors;
mod stop;
mod sweep;
mod tick;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use proto::cluster_map::{ClusterMap, ClusterSettings, MapVersion, Member};
use proto::id::{Incarnation, NodeAddr, Version};
use proto::level::ReadLevel;
use proto::peer::{Change, List, WallTime, Write};
use proto::session::{Ancestors, Filling, SlotAt};
use proto::slot::{KeyToPlace, Position, SlotBits, SlotId};

use crate::bugs::{Bugs, NoBugs};
use crate::compare::Comparisons;
use crate::journal::Noted;
use crate::listing::Listing;
use crate::log::TailBudget;
use crate::losses::Losses;
use crate::memory::Memory;
use crate::outbox::{Lag, OUTBOX_ITEMS, Outbox};
use crate::pace::Pace;
use crate::peers::Peers;
use crate::record::Record;
use crate::slot::{Executed, Refusal, Slot, SlotContext, Written};
use crate::table::KeyHasher;
use crate::time::Timestamp;
use crate::waiting::Waiting;

use fetch::Steps;
use memory::Looks;
use neighbors::Neighbors;
use stop::Stopping;
use sweep::Sweeper;

pub(crate) use fetch::FETCHED_TOGETHER;
pub use fetch::Upcoming;
pub use turn::Turn;

/// How often [`Node::handle_timeout`] must be called.
pub const TICK: Duration = Duration::from_millis(20);

/// How long a slot accepts no writes for a hand-over. After that its primary continues, and the coordinator asks again.
pub const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Where a request for a slot can go, according to the map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// The primary, if there is one, even if that is this node.
    pub primary: Option<(Incarnation, NodeAddr)>,
    /// The other copies that are up.
    pub replicas: Vec<(Incarnation, NodeAddr)>,
    /// The addresses of holders that are down; only if no holder is up.
    pub missing: Vec<NodeAddr>,
}

/// Something that operators want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another node follows a newer primary of this slot; this node no longer leads it.
    Deposed(SlotId),
    /// A slot's new primary may lack this many writes that this copy had and has dropped; they are in the archive of
    /// losses.
    CutAway(SlotId, u64),
    /// A replica's queue has overflowed; its removal from the in-sync sets of this many slots is proposed.
    Overflowed(NodeAddr, usize),
    /// A replica has made no progress for too long; its removal from the in-sync sets of this many slots is proposed.
    Unresponsive(NodeAddr, usize),
    /// The hand-over of this many slots timed out.
    HandOverTimedOut(usize),
    /// Writes were refused that need more memory than there is here.
    MemoryFull {
        /// How much memory the keys take here, in bytes.
        used: u64,
        /// How much they may take.
        limit: u64,
        /// How many writes have been refused since the last such event.
        refused: u64,
    },
    /// So many writes were refused that need more memory than there is at a replica.
    ReplicaMemoryFull(NodeAddr, u64),
    /// A replica's copy of a slot differed from this one at a record. It is being refilled.
    Differs(SlotId, NodeAddr, Version),
}

/// The node. See the module documentation.
#[derive(Debug)]
pub struct Node<B: Bugs = NoBugs> {
    bits: SlotBits,
    hasher: KeyHasher,
    slots: Box<[Cell<B>]>,
    steps: Mutex<Steps>,
    me: AtomicU64,
    /// The incarnations whose data this node found on its disk: the previous start, and those whose data that one had
    /// found. The map may still name any of them.
    ancestors: Ancestors,
    map: RwLock<Option<Arc<ClusterMap>>>,
    neighbors: Mutex<Neighbors>,
    peers: Peers,
    outboxes: Mutex<BTreeMap<Incarnation, Arc<Outbox>>>,
    tails: TailBudget,
    memory: Memory,
    memory_looks: Mutex<Looks>,
    pace: Pace,
    sweeper: Mutex<Sweeper>,
    noted: Noted,
    outbox_items: usize,
    proposals: Mutex<Proposals>,
    /// Which slots are to be looked at, by tick.
    agenda: Mutex<BTreeMap<u64, Vec<SlotId>>>,
    events: Mutex<Vec<Event>>,
    losses: Mutex<Losses>,
    comparisons: Mutex<Comparisons>,
    /// How long the background takes to compare every slot once, in microseconds; 0: never.
    compare_every: AtomicU64,
    stamps: AtomicU64,
    /// The time until which the coordinator, by its answers, cannot have taken this node off the ring.
    coordinator_until: AtomicU64,
    /// The map names no other node, so there is nobody to whom the coordinator could give a slot.
    is_alone: AtomicBool,
    /// The coordinator has sent its map in the current session.
    has_map_of_session: AtomicBool,
    /// The wall-clock time, in milliseconds, at which the node's own clock was zero.
    wall_at_zero: AtomicU64,
    last_tick: AtomicU64,
    /// The node is about to stop. What it leads is to be handed over before it closes.
    stopping: Mutex<Option<Stopping>>,
    closed: AtomicBool,
    /// The node has given everything up, and takes no role from a map again.
    is_out: AtomicBool,
    bugs: B,
}

/// A slot, aligned to a cache line, so that it takes three and no more.
#[derive(Debug)]
#[repr(align(64))]
struct Cell<B: Bugs>(Mutex<Slot<B>>);

/// Slots, each with the version of its configuration that was last seen: a request that is repeated while the
/// coordinator is away is kept only once.
type Slots = BTreeMap<SlotId, MapVersion>;

/// What the coordinator is to be asked for, collected until its session takes it.
#[derive(Debug, Default)]
struct Proposals {
    admit: BTreeMap<Incarnation, Slots>,
    expel: BTreeMap<Incarnation, Slots>,
    release: BTreeMap<Incarnation, Vec<SlotAt>>,
    /// This node is about to stop.
    stops: bool,
    complain: BTreeSet<Incarnation>,
    last_complaint: Timestamp,
    last_admission: Timestamp,
    /// Slots that are being handed over: to which node, and since when.
    handing_over: BTreeMap<SlotId, (Incarnation, Timestamp)>,
}

impl<B: Bugs> Node<B> {
    /// A node that holds nothing. `secret` keys the hash of its tables and is chosen at random.
    #[must_use]
    pub fn new(now: Timestamp, bits: SlotBits, secret: u64, bugs: B) -> Self {
        let slots = bits.slots().map(|_| Cell(Mutex::new(Slot::new(bugs)))).collect();
        Self::with(now, bits, KeyHasher::new(secret), slots, Ancestors::default(), None, bugs)
    }

    /// The same node with other limits: for its tails, in bytes, and for the number of messages that may wait for a
    /// replica. Lets tests reach limits that are never reached otherwise.
    #[must_use]
    pub fn limited(mut self, tail_bytes: usize, outbox_items: usize) -> Self {
        self.tails.set_limit(tail_bytes);
        self.outbox_items = outbox_items;
        for slot in self.bits.slots().take_while(|_| self.tails.used() > tail_bytes) {
            self.slot(slot).drop_tail(&self.tails);
        }
        self
    }

    fn with(
        now: Timestamp,
        bits: SlotBits,
        hasher: KeyHasher,
        slots: Box<[Cell<B>]>,
        ancestors: Ancestors,
        map: Option<Arc<ClusterMap>>,
        bugs: B,
    ) -> Self {
        Self {
            bits,
            hasher,
            slots,
            steps: Mutex::default(),
            me: AtomicU64::new(0),
            ancestors,
            map: RwLock::new(map),
            neighbors: Mutex::default(),
            peers: Peers::new(now),
            outboxes: Mutex::default(),
            tails: TailBudget::default(),
            memory: Memory::default(),
            memory_looks: Mutex::default(),
            pace: Pace::default(),
            sweeper: Mutex::default(),
            noted: Noted::default(),
            outbox_items: OUTBOX_ITEMS,
            proposals: Mutex::default(),
            agenda: Mutex::default(),
            events: Mutex::default(),
            losses: Mutex::default(),
            comparisons: Mutex::default(),
            compare_every: AtomicU64::new(0),
            stamps: AtomicU64::new(1),
            coordinator_until: AtomicU64::new(0),
            is_alone: AtomicBool::new(false),
            has_map_of_session: AtomicBool::new(false),
            wall_at_zero: AtomicU64::new(0),
            last_tick: AtomicU64::new(now.0),
            stopping: Mutex::default(),
            closed: AtomicBool::new(false),
            is_out: AtomicBool::new(false),
            bugs,
        }
    }

    /// The slot of a key.
    #[must_use]
    pub fn slot_of(&self, key: &[u8]) -> SlotId {
        self.bits.slot(&Position::of(key))
    }

    /// The slot of a key made ready.
    #[must_use]
    pub fn slot_at(&self, key: &KeyToPlace) -> SlotId {
        key.slot(self.bits)
    }

    /// Whether a slot with this number exists.
    #[must_use]
    pub fn has_slot(&self, slot: SlotId) -> bool {
        usize::from(slot.0) < self.slots.len()
    }

    // Requests for keys.

    /// Reads a key at its primary. `read` sees the record under the slot's lock; afterwards `clock` is read if the read
    /// is linear or the value has a deadline. If the answer has a ticket of `waiting`, it may be given only once the
    /// ticket is settled, if at all. A linear read that finds a value past its deadline records that.
    ///
    /// # Errors
    /// This node does not lead the slot or, for a linear read, may no longer do so.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another thing, and the hottest path makes no struct of them"
    )]
    pub fn read<R>(
        &self,
        slot: SlotId,
        key: &[u8],
        level: ReadLevel,
        clock: impl Fn() -> Timestamp,
        waiting: &Waiting,
        turn: &mut Turn,
        read: impl FnOnce(Option<&Record>) -> R,
    ) -> Result<Executed<R>, Refusal> {
        let mut state = self.slot(slot);
        let cx = &self.cx(Timestamp::default(), slot);
        let answer = state.read(cx, key, level, clock, waiting, turn, read);
        drop(state);
        if level == ReadLevel::Linear {
            self.finish(turn);
        }
        answer
    }

    /// Reads a key from the local copy, whatever its role, because the primary does not answer. `clock` is read if the
    /// value has a deadline.
    ///
    /// # Errors
    /// This node has no copy of the slot.
    pub fn read_copy<R>(
        &self,
        slot: SlotId,
        key: &[u8],
        clock: impl Fn() -> Timestamp,
        read: impl FnOnce(Option<&Record>) -> R,
    ) -> Result<R, Refusal> {
        let cx = &self.cx(Timestamp::default(), slot);
        let slot = self.slot(slot);
        if slot.holds_copy() { Ok(read(slot.get(cx, key, clock))) } else { Err(Refusal::NotHere) }
    }

    /// The minimum time for which a key has not been used, as far as its primary knows; `None` if absent. Asking is not
    /// a use.
    ///
    /// # Errors
    /// This node does not lead the slot.
    pub fn idle(&self, slot: SlotId, key: &[u8], now: Timestamp) -> Result<Option<Duration>, Refusal> {
        let cx = &self.cx(now, slot);
        let age = self.slot(slot).age(cx, key)?;
        Ok(age.map(|age| self.memory.idle(age, now)))
    }

    /// Sets the wall clock. Must be called at the start and each [`TICK`], so that changes of the clock are noticed.
    pub fn set_wall_clock(&self, now: Timestamp, wall: WallTime) {
        let at_zero = wall.0.wrapping_sub(now.on_the_wall(0).0);
        self.wall_at_zero.store(at_zero, Ordering::Relaxed);
    }

    /// The wall-clock time at `now`, as far as the node knows.
    #[must_use]
    pub fn wall(&self, now: Timestamp) -> WallTime {
        now.on_the_wall(self.wall_at_zero.load(Ordering::Relaxed))
    }

    /// Lists the keys of one slot for a page of a walk, or refuses to. `clock` is read once the slot is locked. Nobody
    /// may hear of a linear list until all tickets of `waiting` are settled as durable. A linear list that hides values
    /// past their deadlines records that.
    pub fn list(
        &self,
        slot: SlotId,
        list: &List,
        clock: impl FnOnce() -> Timestamp,
        waiting: &Waiting,
        turn: &mut Turn,
        listing: &mut Listing,
    ) {
        let mut state = self.slot(slot);
        let cx = &self.cx(clock(), slot);
        let is_listed = if list.at_replica {
            let holds_copy = state.holds_copy();
            if holds_copy {
                state.list_copy(cx, listing);
            }
            holds_copy
        } else {
            state.list(cx, list, waiting, turn, listing).is_ok()
        };
        drop(state);
        self.finish(turn);
        if !is_listed {
            listing.refuse(slot);
        }
    }

    /// Writes a key at its primary. If the answer has a ticket of `waiting`, it is given once the ticket is settled.
    ///
    /// # Errors
    /// The write was refused; nothing was done.
    pub fn write(
        &self,
        now: Timestamp,
        slot: SlotId,
        write: &Write<'_>,
        waiting: &Waiting,
        turn: &mut Turn,
    ) -> Result<Executed<Written>, Refusal> {
        if let Change::Modify(modify) = &write.change
            && modify.other_keys().any(|key| self.slot_of(key) != slot)
        {
            return Err(Refusal::CrossSlot);
        }
        let mut written = self.write_once(now, slot, 0, write, waiting, turn);
        if let Err(refusal @ (Refusal::Full { .. } | Refusal::ReplicaFull(_))) = written {
            written = self.write_in_full_memory(now, slot, write, waiting, turn, refusal);
        }
        self.finish(turn);
        written
    }

    /// `memory_slack`: how many bytes the memory limit may be exceeded by.
    fn write_once(
        &self,
        now: Timestamp,
        slot: SlotId,
        memory_slack: u64,
        write: &Write<'_>,
        waiting: &Waiting,
        turn: &mut Turn,
    ) -> Result<Executed<Written>, Refusal> {
        let mut state = self.slot(slot);
        if self.closed.load(Ordering::Relaxed) {
            return Err(Refusal::NotHere);
        }
        let mut cx = self.cx(now, slot);
        cx.memory_slack = memory_slack;
        state.write(&cx, write, waiting, turn)
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
        // A member restarted without proof of its data is here, so it is not what is being waited for.
        let is_back = |addr: &NodeAddr| map.members().any(|(_, member)| member.up && member.addr == *addr);
        let missing = down.into_iter().map(|(_, member)| member.addr.clone());
        let missing = missing.filter(|addr| none_is_up && !is_back(addr)).collect();
        Route { primary: primary.into_iter().next(), replicas, missing }
    }

    /// The map that the node follows, if it has one.
    #[must_use]
    pub fn map(&self) -> Option<Arc<ClusterMap>> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The settings in that map; the default ones if there is no map.
    #[must_use]
    pub fn cluster_settings(&self) -> ClusterSettings {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        map.as_ref().map(|map| map.cluster_settings).unwrap_or_default()
    }

    /// The incarnation that the coordinator gave this node; 0 before that.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        Incarnation(self.me.load(Ordering::Relaxed))
    }

    /// How many keys are stored here, including copies of other nodes' keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.bits.slots().map(|slot| self.slot(slot).keys()).sum()
    }

    /// How many of them have a deadline.
    #[must_use]
    pub fn expiring(&self) -> usize {
        self.bits.slots().map(|slot| self.slot(slot).expiring()).sum()
    }

    /// How many slots this node leads.
    #[must_use]
    pub fn slots_led(&self) -> usize {
        self.bits.slots().filter(|slot| self.slot(*slot).is_primary()).count()
    }

    /// Whether this node serves a slot now.
    #[must_use]
    pub fn is_serving(&self, now: Timestamp, slot: SlotId) -> bool {
        self.slot(slot).is_serving(&self.cx(now, slot))
    }

    /// Whether this node leads a slot that another member of its in-sync set could lead.
    #[must_use]
    pub fn leads_for_others(&self) -> bool {
        let now = self.last_tick();
        self.bits.slots().any(|slot| self.slot(slot).leads_for_others(now))
    }

    /// Whether this node leads a slot, as far as it knows.
    #[must_use]
    pub fn leads(&self, slot: SlotId) -> bool {
        self.slot(slot).is_primary()
    }

    /// Inspects a slot.
    pub fn inspect<R>(&self, slot: SlotId, look: impl FnOnce(&Slot<B>) -> R) -> R {
        look(&self.slot(slot))
    }

    /// Everything that all replicas together have yet to acknowledge.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let lags = self.outboxes().into_iter().map(|outbox| outbox.lag());
        lags.fold(Lag::default(), |sum, lag| Lag { items: sum.items + lag.items, bytes: sum.bytes + lag.bytes })
    }

    /// The fills this node has yet to make, one entry per receiving node.
    #[must_use]
    pub fn fills(&self) -> Vec<Filling> {
        self.outboxes().iter().filter_map(|outbox| outbox.filling()).collect()
    }

    /// How much is kept for bringing replicas up to date, in bytes of records.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.tails.used()
    }

    /// Inspects the writes that this node has dropped because the next primary may not have them.
    pub fn losses<R>(&self, look: impl FnOnce(&Losses) -> R) -> R {
        look(&self.lock_losses())
    }

    /// What has happened since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The queues to the nodes that follow this one. Each needs one link for as long as it is listed.
    #[must_use]
    pub fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.lock_outboxes().values().map(Arc::clone).collect()
    }

    // Helpers.

    fn cx(&self, now: Timestamp, id: SlotId) -> SlotContext<'_> {
        SlotContext {
            now,
            id,
            me: self.incarnation(),
            ancestors: &self.ancestors,
            hasher: &self.hasher,
            tails: &self.tails,
            memory: &self.memory,
            memory_slack: 0,
            noted: &self.noted,
            peers: &self.peers,
            stamps: &self.stamps,
            wall_at_zero: self.wall_at_zero.load(Ordering::Relaxed),
            coordinator_until: match self.is_alone.load(Ordering::Relaxed) {
                true => Timestamp(u64::MAX),
                false => Timestamp(self.coordinator_until.load(Ordering::Relaxed)),
            },
            is_closed: self.closed.load(Ordering::Relaxed),
        }
    }

    fn lock_losses(&self) -> MutexGuard<'_, Losses> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, slot: SlotId) -> MutexGuard<'_, Slot<B>> {
        let slot = self.slots.get(usize::from(slot.0)).expect("a slot number was checked where it came in");
        // A panic under the lock ends the process, so whoever sees a poisoned lock is about to end as well.
        slot.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_outboxes(&self) -> MutexGuard<'_, BTreeMap<Incarnation, Arc<Outbox>>> {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn neighbors(&self) -> MutexGuard<'_, Neighbors> {
        self.neighbors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proposals(&self) -> MutexGuard<'_, Proposals> {
        self.proposals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}
