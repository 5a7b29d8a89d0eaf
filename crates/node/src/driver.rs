//! The node state shared by its tasks, and which of them are woken when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::bugs::NoBugs;
use engine::memory::Evict;
use engine::node::{Event, Node, TICK, Turn};
use engine::outbox::Outbox;
use engine::time::Timestamp;
use net::access::Access;
use net::clock::Clock;
use net::random;
use net::shutdown::Shutdown;
use proto::cluster_map::{ClusterSettings, MapError, MapUpdate};
use proto::error::ErrorReply;
use proto::id::{Incarnation, NodeAddr};
use proto::peer::WallTime;
use proto::slot::{SLOT_BITS, SlotId};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::answering;
use crate::awake::Awake;
use crate::first_map::OLD_MAP_AFTER;
use crate::followed::Followed;
use crate::forward::ForwardLinks;
use crate::replication;
use crate::stats::Answered;
use crate::store::{DiskFailed, Health, Store};
use crate::verify;

/// How many pages of walks a node builds at a time. Each takes about a page of memory, 1 MiB, per node that is asked.
const WALKS: usize = 32;

/// How many `KEYS` a node carries out at a time. Each may collect what one answer has room for, some 128 MiB; answers that
/// clients have yet to read are not counted.
const LISTS: usize = 4;

/// The node as shared by its tasks. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Driver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: Node,
    store: Option<Store>,
    addr: NodeAddr,
    clock: Clock,
    started: Timestamp,
    awake: Awake,
    answered: Answered,
    request_timeout: Duration,
    access: Arc<Access>,
    forwards: ForwardLinks,
    walks: Semaphore,
    lists: Semaphore,
    links: Mutex<BTreeMap<Incarnation, Link>>,
    followed: Followed,
    map_changes: watch::Sender<u64>,
    /// The coordinator has sent this start a map.
    has_heard: AtomicBool,
    /// The node is no longer a member and follows the map as clients do.
    follows: AtomicBool,
    proposals: Notify,
    terms: AtomicU64,
    sent_to_replicas: AtomicU64,
    background: Shutdown,
}

/// The task that sends to one replica.
#[derive(Debug)]
struct Link {
    outbox: Arc<Outbox>,
    wake: Arc<Notify>,
    end: CancellationToken,
}

impl Driver {
    /// Creates a node that has not joined yet: one recovered from a data directory, or an empty one. Its keys may take
    /// `max_memory` bytes; 0 means no limit. The tasks that it starts end with `background`.
    #[must_use]
    pub fn new(
        addr: NodeAddr,
        clock: Clock,
        found: Option<(Node, Store)>,
        (max_memory, evict): (u64, Evict),
        request_timeout: Duration,
        access: Arc<Access>,
        background: &Shutdown,
    ) -> Self {
        let (node, store) = match found {
            Some((node, store)) => (node, Some(store)),
            None => (Node::new(clock.now(), SLOT_BITS, random::bits(), NoBugs), None),
        };
        let node = node.with_memory_limit(max_memory, evict);
        node.set_wall_clock(clock.now(), wall_clock());
        let shared = Shared {
            node,
            store,
            addr,
            clock,
            started: clock.now(),
            awake: Awake::new(clock.now()),
            answered: Answered::default(),
            request_timeout,
            access,
            forwards: ForwardLinks::default(),
            walks: Semaphore::new(WALKS),
            lists: Semaphore::new(LISTS),
            links: Mutex::default(),
            followed: Followed::default(),
            map_changes: watch::Sender::new(0),
            has_heard: AtomicBool::new(false),
            follows: AtomicBool::new(false),
            proposals: Notify::new(),
            terms: AtomicU64::new(0),
            sent_to_replicas: AtomicU64::new(0),
            background: background.clone(),
        };
        let driver = Self { shared: Arc::new(shared) };
        background.spawn(driver.clone().watch_the_clock());
        driver
    }

    /// Whether the process stood still.
    pub(crate) fn awake(&self) -> &Awake {
        &self.shared.awake
    }

    /// Tells the state machine on every tick that time has passed.
    async fn watch_the_clock(self) {
        let background = self.background().clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = Turn::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = background.begun() => return,
            }
            let now = self.clock().now();
            self.awake().tick(now);
            self.node().set_wall_clock(now, wall_clock());
            self.node().note_requests(now, || self.answered().total());
            self.node().handle_timeout(now, &mut turn);
            let wanted = turn.to_digest();
            if !wanted.is_empty() {
                verify::digest_own(&self, wanted);
            }
            self.finish(&mut turn);
        }
    }

    /// Acts on the results of a turn: wakes links and the session with the coordinator, and logs.
    pub fn finish(&self, turn: &mut Turn) {
        self.wake_touched(turn);
        if self.node().has_proposals() {
            self.propose();
        }
        self.report_events();
    }

    /// Who is let in, and the password with which this node authenticates to others.
    #[must_use]
    pub(crate) fn access(&self) -> &Access {
        &self.shared.access
    }

    /// The state machine.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.shared.node
    }

    /// The data directory, if the node has one.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.shared.store.as_ref()
    }

    /// Waits until everything that has happened so far is written as `--fsync` asks. Call it before anybody learns of
    /// it.
    ///
    /// # Errors
    /// It never will be written.
    pub(crate) async fn persist(&self) -> Result<(), DiskFailed> {
        self.persist_up_to(self.node().noted().end()).await
    }

    /// Like [`Self::persist`], for everything below `end` in the journal.
    ///
    /// # Errors
    /// It never will be written.
    pub(crate) async fn persist_up_to(&self, end: u64) -> Result<(), DiskFailed> {
        match &self.shared.store {
            Some(store) => store.persist(self.node().noted(), end).await,
            None => Ok(()),
        }
    }

    /// Writes everything below `end` if that is quick and needs no waiting. Returns whether it is written.
    pub(crate) async fn persist_soon(&self, end: u64) -> bool {
        match &self.shared.store {
            Some(store) => store.persist_soon(self.node().noted(), end).await,
            None => true,
        }
    }

    /// Waits until everything below `end` is written, where [`Self::persist_soon`] has not written it.
    ///
    /// # Errors
    /// It never will be written.
    pub(crate) async fn wait_written(&self, end: u64) -> Result<(), DiskFailed> {
        match &self.shared.store {
            Some(store) => store.wait_written(self.node().noted(), end).await,
            None => Ok(()),
        }
    }

    /// Whether everything below `end` in the journal is written.
    #[must_use]
    pub(crate) fn is_written(&self, end: u64) -> bool {
        self.shared.store.as_ref().is_none_or(|store| store.is_written(end))
    }

    /// Whether the disk is full.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.shared.store.as_ref().is_some_and(|store| store.health() == Health::Full)
    }

    /// Whether the disk accepts writes.
    #[must_use]
    pub(crate) fn takes_writes(&self) -> bool {
        self.shared.store.as_ref().is_none_or(Store::is_good)
    }

    /// The answer to a write in a slot that this node leads while its disk takes none; `None`: carry it out, or leave
    /// it to another node.
    #[must_use]
    pub(crate) fn disk_refusal(&self, slot: SlotId) -> Option<ErrorReply> {
        let refuses = !self.takes_writes() && self.node().leads(slot);
        refuses.then(|| answering::disk_refuses(self.addr(), self.is_full()))
    }

    /// The connections from primaries.
    #[must_use]
    pub(crate) fn followed(&self) -> &Followed {
        &self.shared.followed
    }

    /// The node's own address.
    #[must_use]
    pub(crate) fn addr(&self) -> &NodeAddr {
        &self.shared.addr
    }

    /// When the node started.
    #[must_use]
    pub(crate) fn started(&self) -> Timestamp {
        self.shared.started
    }

    /// The client requests answered since the start.
    #[must_use]
    pub(crate) fn answered(&self) -> &Answered {
        &self.shared.answered
    }

    /// How many bytes it has sent to its replicas since the start: records, fills, and their overhead.
    #[must_use]
    pub(crate) fn sent_to_replicas(&self) -> u64 {
        self.shared.sent_to_replicas.load(Ordering::Relaxed)
    }

    /// Adds to [`Self::sent_to_replicas`].
    pub(crate) fn count_sent_to_replicas(&self, bytes: usize) {
        self.shared.sent_to_replicas.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The node's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// The wall-clock time, as used for deadlines.
    #[must_use]
    pub(crate) fn wall(&self) -> WallTime {
        self.node().wall(self.clock().now())
    }

    /// How long a request may wait for a primary.
    #[must_use]
    pub(crate) fn request_timeout(&self) -> Duration {
        self.shared.request_timeout
    }

    /// The connections that carry forwarded requests.
    #[must_use]
    pub(crate) fn forwards(&self) -> &ForwardLinks {
        &self.shared.forwards
    }

    /// Permits for building pages of walks: each page holds one while it is being built.
    #[must_use]
    pub(crate) fn walks(&self) -> &Semaphore {
        &self.shared.walks
    }

    /// Permits for listing all keys that match: each list holds one until it is answered.
    #[must_use]
    pub(crate) fn lists(&self) -> &Semaphore {
        &self.shared.lists
    }

    /// The cluster settings that the operator has chosen; before there is a map, the defaults.
    #[must_use]
    pub(crate) fn cluster_settings(&self) -> ClusterSettings {
        self.shared.node.cluster_settings()
    }

    /// Whether the cluster's settings are known: the coordinator has sent this start a map; or it has not for a while,
    /// and the node goes by the one on its disk.
    #[must_use]
    pub(crate) fn knows_settings(&self) -> bool {
        let goes_by_the_old_map =
            || self.clock().now() - self.started() >= OLD_MAP_AFTER && self.node().map().is_some();
        self.shared.has_heard.load(Ordering::Acquire) || goes_by_the_old_map()
    }

    /// The node is no longer a member: from now on it follows the map as clients do.
    pub(crate) fn follow(&self) {
        self.shared.follows.store(true, Ordering::Release);
    }

    /// Whether it does. What clients are told of the versions of slots is not exact, so such a map is not kept.
    #[must_use]
    pub(crate) fn follows(&self) -> bool {
        self.shared.follows.load(Ordering::Acquire)
    }

    /// A number that grows whenever the map gives a slot another primary.
    #[must_use]
    pub(crate) fn terms(&self) -> u64 {
        self.shared.terms.load(Ordering::SeqCst)
    }

    /// The switch that shuts down the node's background tasks.
    #[must_use]
    pub(crate) fn background(&self) -> &Shutdown {
        &self.shared.background
    }

    /// A receiver that is notified when the map changes.
    #[must_use]
    pub(crate) fn watch_map(&self) -> watch::Receiver<u64> {
        self.shared.map_changes.subscribe()
    }

    /// Wakes the links whose queues a batch of requests has added to.
    pub(crate) fn wake_touched(&self, turn: &mut Turn) {
        let mut touched = turn.touched().peekable();
        if touched.peek().is_none() {
            return;
        }
        let links = self.links();
        for outbox in touched {
            if let Some(link) = links.get(&outbox.to) {
                link.wake.notify_one();
            }
        }
    }

    /// Applies a change of the map, and starts and stops links accordingly.
    ///
    /// # Errors
    /// The change does not follow on from the current map; nothing has changed.
    pub(crate) fn handle_map(&self, update: &MapUpdate) -> Result<(), MapError> {
        let own = self.shared.store.as_ref().and_then(Store::cluster);
        if own.is_some_and(|own| own != update.cluster) {
            return Err(MapError::OtherCluster);
        }
        // IMPORTANT: counted before anybody is asked under the new map, so that whoever has seen no change was talking
        // to the old primaries.
        if self.node().map().is_some_and(|before| update.changes_a_primary(&before)) {
            self.shared.terms.fetch_add(1, Ordering::SeqCst);
        }
        let mut turn = Turn::default();
        self.shared.node.handle_map(self.clock().now(), update, &mut turn)?;
        self.shared.has_heard.store(true, Ordering::Release);
        let mut links = self.links();
        let outboxes = self.shared.node.outboxes();
        links.retain(|_, link| {
            let wanted = outboxes.iter().any(|outbox| Arc::ptr_eq(outbox, &link.outbox));
            if !wanted {
                link.end.cancel();
            }
            wanted
        });
        for outbox in outboxes {
            let link = links.entry(outbox.to).or_insert_with(|| {
                let link = Link { outbox, wake: Arc::default(), end: CancellationToken::new() };
                let outbox = Arc::clone(&link.outbox);
                let task = replication::send(self.clone(), outbox, Arc::clone(&link.wake), link.end.clone());
                self.shared.background.spawn(task);
                link
            });
            link.wake.notify_one();
        }
        drop(links);
        let map = self.shared.node.map();
        let is_member = |node| map.as_ref().is_some_and(|map| map.member(node).is_some_and(|member| member.up));
        self.shared.forwards.retain(is_member);
        self.shared.map_changes.send_modify(|changes| *changes += 1);
        self.finish(&mut turn);
        Ok(())
    }

    /// Signals that there may be something to propose to the coordinator.
    pub fn propose(&self) {
        self.shared.proposals.notify_one();
    }

    /// Waits until there may be something to propose.
    pub(crate) async fn proposals(&self) {
        self.shared.proposals.notified().await;
    }

    /// Logs the state machine's events.
    pub(crate) fn report_events(&self) {
        let mut deposed = 0;
        let mut cut = (0, 0);
        for event in self.shared.node.take_events() {
            match event {
                Event::Deposed(_) => deposed += 1,
                Event::CutAway(_, writes) => cut = (cut.0 + 1, cut.1 + writes),
                Event::Overflowed(replica, slots) => {
                    tracing::warn!("replica {replica} is too slow: resynchronizing {slots} slots");
                }
                Event::Unresponsive(replica, slots) => {
                    tracing::warn!(
                        "replica {replica} does not respond: proposing to remove it from the in-sync sets of {slots} \
                         slots"
                    );
                }
                Event::MemoryFull { used, limit, refused } => {
                    tracing::warn!(
                        "refused {refused} writes for lack of memory: keys take {used} bytes here, --max-memory is \
                         {limit}; DELETE keys, raise --max-memory or start another node"
                    );
                }
                Event::ReplicaMemoryFull(replica, refused) => {
                    tracing::warn!(
                        "refused {refused} writes for lack of memory on replica {replica}, which is over its \
                         --max-memory; DELETE keys, raise it or start another node"
                    );
                }
                Event::Differs(slot, replica, at) => {
                    tracing::error!(
                        "the copy of slot {} on {replica} differs from this one at record {at}: refilling it from \
                         here. Check that machine's memory and disk",
                        slot.0
                    );
                }
                Event::HandOverTimedOut(slots) => {
                    tracing::warn!("the hand-over of {slots} slots timed out; this node keeps leading them");
                }
            }
        }
        if deposed > 0 {
            tracing::warn!(
                "{deposed} slots have got a new primary or a new term: writes under way in them are UNKNOWN, unless they \
                 have an identity"
            );
        }
        if cut.1 > 0 {
            tracing::warn!(
                "{} writes in {} slots were dropped, since their new primary may not have them: what was acknowledged at \
                 level async is lost then; LOSSES lists them",
                cut.1,
                cut.0
            );
        }
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<Incarnation, Link>> {
        self.shared.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The system's wall-clock time; the start of 1970 if the clock shows an earlier time.
fn wall_clock() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
