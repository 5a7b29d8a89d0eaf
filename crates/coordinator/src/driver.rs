//! The state machine behind a lock, its clock, and how its outputs are carried out.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use engine::bugs::NoBugs;
use engine::coordinator::Coordinator;
use engine::output::{Accepted, Event, Output, Settings};
use engine::time::Timestamp;
use net::clock::Clock;
use net::random;
use net::shutdown::Shutdown;
use proto::cluster_map::{ClusterSettings, MapUpdate, MapVersion};
use proto::id::{Incarnation, NodeAddr};
use proto::session::CoordinatorMessage;
use proto::slot::SLOT_BITS;
use tokio::sync::{Notify, mpsc, watch};

use crate::config::Config;
use crate::state_file::StateFile;
use crate::stats::{Answered, Lost};

/// How many messages may wait for one node. A node that falls this far behind is better off joining again.
const SESSION_MESSAGES: usize = 1_024;

/// How long the result of a health check stays valid.
const HEALTH_POLL: Duration = Duration::from_millis(20);

/// The coordinator as shared by its tasks.
#[derive(Debug, Clone)]
pub struct Driver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    addr: SocketAddr,
    clock: Clock,
    started: Timestamp,
    answered: Answered,
    lost: Lost,
    coordinator: Mutex<Coordinator>,
    /// Where the state is saved, if anywhere.
    state_file: Option<StateFile>,
    /// The sessions of nodes: encoded messages sent here go to the node.
    sessions: Mutex<HashMap<Incarnation, mpsc::Sender<Vec<u8>>>>,
    /// The version of the published map. Tasks that send the map to others wait for its changes.
    published: watch::Sender<MapVersion>,
    /// A call may have moved the next deadline.
    called: Notify,
    /// When health was last checked, and the result.
    looked_at_health: Mutex<Option<(Timestamp, bool)>>,
}

impl Driver {
    /// Restores the saved state, if there is one, and starts the coordinator's own task, which ends with `shutdown`.
    ///
    /// # Errors
    /// The state cannot be read, is damaged, or is in use by another coordinator. Nothing was changed.
    pub fn start(config: &Config, addr: SocketAddr, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let settings = Settings {
            cluster_settings: config.cluster_settings(),
            virtual_nodes: config.virtual_nodes,
            replace_after: config.replace_after,
            moves_at_once: config.moves_at_once,
            bits: SLOT_BITS,
            cluster: format!("{:016x}", random::bits()),
            incarnations: (random::bits() >> 32) as u32,
        };
        let clock = Clock::start();
        let (state_file, kept) = match config.data_dir.as_deref().map(StateFile::open).transpose()? {
            Some((file, kept)) => (Some(file), kept),
            None => (None, None),
        };
        let coordinator = match kept {
            Some(state) => Coordinator::restored(clock.now(), settings, NoBugs, &state).with_context(|| {
                let dir = config.data_dir.as_deref().unwrap_or(std::path::Path::new("")).display();
                format!(
                    "the state in {dir} is intact but was not written by this program; nothing was changed: restore \
                     it, or start with another --data-dir to take the state over from the nodes"
                )
            })?,
            None => Coordinator::new(settings, NoBugs),
        };
        let version = coordinator.map().version;
        let driver = Self {
            shared: Arc::new(Shared {
                addr,
                clock,
                started: clock.now(),
                answered: Answered::default(),
                lost: Lost::default(),
                coordinator: Mutex::new(coordinator),
                state_file,
                sessions: Mutex::default(),
                published: watch::Sender::new(version),
                called: Notify::new(),
                looked_at_health: Mutex::default(),
            }),
        };
        driver.with(|_, _| ());
        shutdown.spawn(driver.clone().watch_the_clock(shutdown.clone()));
        Ok(driver)
    }

    /// Where the coordinator listens.
    #[must_use]
    pub(crate) fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// How long it has been running.
    #[must_use]
    pub(crate) fn uptime(&self) -> Duration {
        self.shared.clock.now() - self.shared.started
    }

    /// The coordinator's clock.
    #[must_use]
    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// The requests of people and clients answered since the start.
    #[must_use]
    pub(crate) fn answered(&self) -> &Answered {
        &self.shared.answered
    }

    /// The slots that have lost what they held since the start.
    #[must_use]
    pub(crate) fn lost(&self) -> &Lost {
        &self.shared.lost
    }

    /// Calls a function on the coordinator, and carries out the outputs that result.
    pub(crate) fn with<R>(&self, call: impl FnOnce(&mut Coordinator, Timestamp) -> R) -> R {
        let mut coordinator = self.lock();
        let result = call(&mut coordinator, self.shared.clock.now());
        let outputs: Vec<_> = std::iter::from_fn(|| coordinator.poll_output()).collect();
        // IMPORTANT: on disk before anybody learns of it; under the lock, so that states are saved in order; and once
        // for all changes of a call.
        if let Some(file) = &self.shared.state_file
            && outputs.contains(&Output::Keep)
        {
            keep(file, &coordinator.state());
        }
        for output in outputs {
            self.carry_out(&coordinator, output);
        }
        drop(coordinator);
        self.shared.called.notify_one();
        result
    }

    /// Calls a function that changes nothing.
    pub(crate) fn look<R>(&self, call: impl FnOnce(&Coordinator) -> R) -> R {
        call(&self.lock())
    }

    /// Whether every slot has all its copies where they belong, and nothing moves. A recent result is reused, so that
    /// many waiting clients cost no more than one.
    #[must_use]
    pub(crate) fn is_healthy(&self) -> bool {
        let mut looked = self.shared.looked_at_health.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.shared.clock.now();
        match *looked {
            Some((when, is_healthy)) if now - when < HEALTH_POLL => is_healthy,
            _ => {
                let is_healthy = self.with(|coordinator, now| coordinator.is_healthy(now));
                *looked = Some((now, is_healthy));
                is_healthy
            }
        }
    }

    /// What has changed in the map since a version; `None` if nothing has.
    #[must_use]
    pub(crate) fn map_since(&self, since: MapVersion) -> Option<MapUpdate> {
        let coordinator = self.lock();
        let map = coordinator.map();
        (map.version > since).then(|| map.update_since(since))
    }

    /// A receiver that is notified when the map changes.
    #[must_use]
    pub(crate) fn watch_map(&self) -> watch::Receiver<MapVersion> {
        self.shared.published.subscribe()
    }

    /// Opens a session: from now on messages for this node go to the returned receiver. An earlier session of the node
    /// ends.
    #[must_use]
    pub(crate) fn open_session(&self, node: Incarnation) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(SESSION_MESSAGES);
        self.sessions().insert(node, sender);
        receiver
    }

    /// Ends a node's session, unless a newer one has taken its place.
    pub(crate) fn close_session(&self, node: Incarnation, receiver: mpsc::Receiver<Vec<u8>>) {
        drop(receiver);
        self.has_gone(node);
    }

    /// Handles the end of a node's connection: its session ends too, unless another one is open.
    pub(crate) fn has_gone(&self, node: Incarnation) {
        let was_last = {
            let mut sessions = self.sessions();
            let was_last = sessions.get(&node).is_none_or(mpsc::Sender::is_closed);
            if was_last {
                sessions.remove(&node);
            }
            was_last
        };
        if was_last {
            self.with(|coordinator, now| coordinator.session_ended(now, node));
        }
    }

    async fn watch_the_clock(self, shutdown: Shutdown) {
        loop {
            let deadline = self.lock().next_deadline();
            tokio::select! {
                () = self.shared.clock.sleep_until(deadline) => {
                    self.with(|coordinator, now| coordinator.handle_timeout(now));
                }
                () = self.shared.called.notified() => {}
                () = shutdown.begun() => return,
            }
        }
    }

    fn carry_out(&self, coordinator: &Coordinator, output: Output) {
        match output {
            Output::Keep => {}
            Output::Publish => {
                self.shared.published.send_replace(coordinator.map().version);
            }
            Output::AskPositions { to, query, slots } => {
                self.send(to, &CoordinatorMessage::AskPositions { query, slots });
            }
            Output::HandOver { from, to, slots } => self.send(from, &CoordinatorMessage::HandOver { to, slots }),
            Output::CloseSession(node) => {
                self.sessions().remove(&node);
            }
            Output::Unregistered(node) => {
                self.send(node, &CoordinatorMessage::Unregistered);
                self.sessions().remove(&node);
            }
            Output::Dismiss(node) => self.send(node, &CoordinatorMessage::Dismiss),
            Output::Event(event) => {
                self.shared.lost.note(&event);
                log(&event);
            }
        }
    }

    fn send(&self, to: Incarnation, message: &CoordinatorMessage<'_>) {
        let mut sessions = self.sessions();
        let Some(session) = sessions.get(&to) else { return };
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        if session.try_send(bytes).is_err() {
            // Gone, or not reading: the session ends, and the node joins again or is found silent.
            sessions.remove(&to);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Coordinator> {
        // A panic under the lock ends the process; nobody continues with what it left.
        self.shared.coordinator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Incarnation, mpsc::Sender<Vec<u8>>>> {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Saves the state. A coordinator that cannot must stop, because what it decided next could be forgotten. Nodes and
/// clients work without it until it is started again.
fn keep(file: &StateFile, state: &str) {
    if let Err(error) = tokio::task::block_in_place(|| file.save(state)) {
        let error = anyhow::Error::from(error);
        tracing::error!("cannot save the state: {error:#}; stopping. Fix the disk and start again");
        std::process::exit(1);
    }
}

fn listed(nodes: &[NodeAddr]) -> String {
    let nodes: Vec<_> = nodes.iter().map(NodeAddr::as_str).collect();
    nodes.join(", ")
}

/// What has changed, and what follows from that.
fn resized(copies: (usize, usize), virtual_nodes: (u32, u32)) -> String {
    let mut changes = Vec::new();
    if copies.0 != copies.1 {
        changes.push(format!("the cluster now keeps {} copies of each key (before: {})", copies.1, copies.0));
    }
    if virtual_nodes.0 != virtual_nodes.1 {
        changes.push(format!("a node now has {} positions on the ring (before: {})", virtual_nodes.1, virtual_nodes.0));
    }
    let min_isr = ClusterSettings { replicas: copies.1 - 1, ..ClusterSettings::default() }.min_isr();
    let refused = if min_isr > copies.0 {
        format!("; until {min_isr} copies of a slot are in sync, its writes at quorum are refused")
    } else {
        String::new()
    };
    format!("{}. Slots move to where they now belong{refused}", changes.join(", and "))
}

fn log(event: &Event) {
    match event {
        Event::Registered(addr, incarnation) => tracing::info!(%incarnation, "node {addr} registered"),
        Event::Returned(addr, incarnation) => tracing::info!(%incarnation, "node {addr} is back"),
        Event::Restarted(addr, incarnation) => {
            tracing::warn!(%incarnation, "node {addr} was restarted: it catches up before it leads again");
        }
        Event::Unregistered(addr) => tracing::warn!("node {addr} unregistered; it stays out until it is started again"),
        Event::Leaving(addr) => tracing::warn!("decommissioning node {addr}: handing its slots over"),
        Event::LeavesFor(old, new) => tracing::warn!("node {old} will be decommissioned once node {new} has joined"),
        Event::Stays(addr) => tracing::info!("the decommissioning of node {addr} was cancelled"),
        Event::Decommissioned(addr) => {
            tracing::info!("node {addr} has handed its slots over, deleted its data and left")
        }
        Event::Replaced(addr) => {
            tracing::warn!("node {addr} was away for too long: re-creating its copies on other nodes")
        }
        Event::Full(addr) => {
            tracing::warn!(
                "the disk of node {addr} is full: other nodes lead its slots where they can until it has room"
            );
        }
        Event::Room(addr) => tracing::info!("the disk of node {addr} has room again"),
        Event::Stopping(addr) => tracing::debug!("node {addr} is stopping: handing its slots over"),
        Event::Left(addr) => tracing::info!("node {addr} left"),
        Event::CutOff(addr, pause) => tracing::warn!(
            "node {addr} and replicas of its slots do not hear each other: failing over to those replicas; it is handed no \
             slots for {} s",
            pause.as_secs()
        ),
        Event::Suspected(addr) => tracing::warn!("node {addr} is silent and its replicas report it: failing over"),
        Event::Awaiting(nodes) => tracing::warn!(
            "taking over the state from the nodes: no replica is promoted until {} have reported; start them, or \
             FORGET host:port those that are gone for good",
            listed(nodes)
        ),
        Event::Forgotten(addr) => tracing::warn!("no longer waiting for node {addr}, as requested by an operator"),
        Event::LossAccepted(Accepted { anew, unproven }) => {
            if *anew > 0 {
                tracing::error!("{anew} slots start empty: an operator accepted the loss of their data");
            }
            if *unproven > 0 {
                tracing::error!(
                    "{unproven} slots continue with what is left: an operator accepted the loss of the rest"
                );
            }
        }
        Event::Dead(addr) => tracing::warn!("node {addr} is dead: no heartbeat within the timeout"),
        Event::Refused(addr, why) => tracing::warn!("node {addr} is refused: {why}"),
        Event::Outdated { known, held } => tracing::error!(
            "this coordinator was started with an outdated state: a node knows of later changes (map version {} here, \
             {} on the node); continuing from what the nodes have, once all that are named there or here have \
             reported: FORGET host:port those that were decommissioned since",
            known.0,
            held.0
        ),
        Event::Adopted(version) => tracing::warn!(
            "took the map over from the nodes, at version {}: if another coordinator leads them, stop this one",
            version.0
        ),
        Event::Resized { copies, virtual_nodes } => {
            tracing::warn!("started with different settings: {}", resized(*copies, *virtual_nodes));
        }
        Event::Serving(version) => tracing::info!("serving the map at version {}", version.0),
        Event::Promoted(slots) => tracing::warn!("promoted replicas: {slots} slots had lost their primary"),
        Event::UnprovenWait(slots, nodes) => tracing::error!(
            "{slots} slots wait for {}: the available copies may lack the last writes, which those nodes may have. \
             Start them, or use ACCEPT_LOSS all or UNREGISTER_NODE host port to continue without them",
            listed(nodes)
        ),
        Event::PromotedUnproven(slots, nodes) => tracing::error!(
            "{slots} slots had no copy left that is known to be complete, and continue with those that have the most \
             records, on {}: writes acknowledged in the last moments before a power cut, or given up by a repair, may \
             be missing",
            listed(nodes)
        ),
        Event::PromotedOlder(slots, nodes) => tracing::error!(
            "{slots} slots lost every copy that was in sync, and continue with older ones, on {}: what was written \
             since those were in sync is lost, and what was deleted since is back",
            listed(nodes)
        ),
        Event::Unheld(slots) => {
            tracing::error!("{slots} slots lost every copy, and there is no node to hold them: their data is gone");
        }
        Event::StartedAnew(slots) => {
            tracing::error!("{slots} slots lost every copy that held anything and start empty: their data is gone");
        }
    }
}
