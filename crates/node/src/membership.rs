//! The session with the coordinator: joining, heartbeats, the map, leaving.

mod following;
mod prerequisites;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use engine::coordinator::{REJOIN_PAUSE, REJOIN_TIMEOUT};
use engine::node::Turn;
use engine::time::Timestamp;
use net::access::disagreement;
use net::connection::{Connection, Flow, Stopped};
use proto::cluster_map::{MapError, MapUpdate, MapVersion};
use proto::frame::Frame;
use proto::id::Incarnation;
use proto::session::{CoordinatorMessage, Join, NodeMessage};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::disk_watch::DiskWatch;
use crate::driver::Driver;

use prerequisites::Prerequisite;

/// The first pause after the coordinator could not be reached; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause while joining for the first time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause after the coordinator has refused this node.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// A coordinator that answers no heartbeat for this long is reconnected to.
const SILENCE: Duration = Duration::from_secs(2);

/// While this many messages wait for the disk, no further proposals are taken from the node's state machine.
const HELD: usize = 16;

/// Where the coordinator is, and how often this node sends it heartbeats.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host of the coordinator: a name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Pause between heartbeats.
    pub heartbeat_interval: Duration,
    /// How many shares of the slots this node wants.
    pub weight: u32,
}

/// What the main task is told.
#[derive(Debug)]
pub enum Notice {
    /// The coordinator has registered this node for the first time; its text.
    Joined(String),
    /// The coordinator cannot be reached, and why. The session retries by itself.
    Unreachable(String),
    /// The coordinator has refused this node, and why. The session retries by itself.
    Refused(String),
    /// The coordinator leads another cluster than the one whose data this node has, their passwords do not match, or
    /// another start has taken this node's address; the text says what to do. The session is over.
    Rejected(String),
    /// This node was decommissioned and holds no part of any slot: it must delete its data, ask to leave, and exit.
    Dismissed,
}

/// What the main task sends when the node stops.
#[derive(Debug)]
pub struct Farewell {
    /// The node's data is deleted: it will not come back.
    pub cleared: bool,
    /// Signaled once the coordinator has been told.
    pub told: oneshot::Sender<()>,
}

impl Farewell {
    fn message(&self) -> NodeMessage {
        if self.cleared { NodeMessage::Cleared } else { NodeMessage::Leave }
    }
}

/// How a session ended.
enum Ended {
    /// It broke, or was refused for now: retry.
    Broken(String),
    /// What must not be forgotten cannot be written: retry.
    Unnoted(String),
    /// The coordinator refuses this node.
    Refused(String),
    /// The data directory belongs to another cluster than the coordinator's, their passwords do not match, or another
    /// start has taken this node's address.
    Rejected(String),
    /// An operator has taken this node off the ring. It stays out.
    Unregistered,
    /// This node has said that it is stopping, and the coordinator has received that.
    Left,
}

/// Keeps a session with the coordinator. Once `leave` has asked to leave and that is done, or the node is
/// unregistered, it only follows the map until the process ends.
pub async fn run(
    driver: Driver,
    settings: Settings,
    notices: mpsc::Sender<Notice>,
    mut leave: oneshot::Receiver<Farewell>,
) {
    let mut membership = Membership::new(driver, settings, notices);
    loop {
        let ended = membership.session(&mut leave).await;
        // A node that has left is no longer a member. But the coordinator must learn that its data is gone, or it
        // keeps waiting for this node.
        let is_heard = matches!(ended, Ended::Left | Ended::Unregistered);
        if let Some(left) = membership.left.take_if(|left| is_heard || !left.cleared) {
            // The coordinator knows that this node is stopping, or is gone itself. The main task may have given up
            // waiting.
            let _ = left.told.send(());
            return membership.follow().await;
        }
        let longest = match ended {
            Ended::Left => return membership.follow().await,
            Ended::Unregistered => {
                tracing::warn!("this node was unregistered: it stays out until it is started again");
                return membership.stay_out(leave).await;
            }
            Ended::Rejected(why) => {
                membership.notify(Notice::Rejected(why)).await;
                // The main task stops the process. Nobody else needs to be told.
                let left = match membership.left.take() {
                    Some(left) => Some(left),
                    None => leave.await.ok(),
                };
                let _ = left.map(|left| left.told.send(()));
                return;
            }
            Ended::Refused(why) => {
                let settings = &membership.settings;
                let why = format!("the coordinator at {settings} has refused this node: {why}");
                membership.report(why, Notice::Refused).await;
                REFUSED_PAUSE
            }
            Ended::Unnoted(why) => {
                membership.report(why, Notice::Refused).await;
                LONGEST_PAUSE
            }
            Ended::Broken(why) => {
                let why = format!("cannot reach the coordinator at {}: {why}", membership.settings);
                membership.report(why, Notice::Unreachable).await;
                if membership.incarnation.is_some() { REJOIN_PAUSE } else { LONGEST_PAUSE }
            }
        };
        tokio::select! {
            () = sleep(membership.pause.min(longest)) => membership.pause = (membership.pause * 2).min(longest),
            Ok(left) = &mut leave, if membership.left.is_none() => {
                if left.cleared {
                    // The coordinator is told once it is back.
                    membership.left = Some(left);
                    continue;
                }
                // There is no coordinator to tell.
                let _ = left.told.send(());
                return membership.follow().await;
            }
        }
    }
}

struct Membership {
    driver: Driver,
    settings: Settings,
    notices: mpsc::Sender<Notice>,
    incarnation: Option<Incarnation>,
    /// The incarnation recorded in the data directory.
    noted: Option<Incarnation>,
    /// The incarnation under which the node is in its cluster: it has a map, and what it must not forget of that is
    /// written.
    begun: Option<Incarnation>,
    /// Some map of its cluster has listed this incarnation as up.
    was_up: bool,
    /// The reason for the coordinator's absence that was logged last.
    reported: Option<String>,
    /// Signaled once the coordinator knows that this node is stopping.
    left: Option<Farewell>,
    /// Send times of the heartbeats that this session's coordinator has not answered yet.
    beats: VecDeque<Timestamp>,
    /// Messages for the coordinator, each held until the journal is written up to its number; oldest first.
    held: VecDeque<(u64, Vec<u8>)>,
    /// The newest map that had to be on disk before the node applied it, and is.
    map_kept: MapVersion,
    /// This session's coordinator has not confirmed the password yet.
    awaits_admission: bool,
    /// This session's coordinator knows that the disk is full.
    told_full: bool,
    /// This session's coordinator has been told of fills that this node is making.
    told_of_fills: bool,
    /// The nodes of which this session's coordinator knows that they lack memory.
    told_of_memory: Vec<Incarnation>,
    /// This node was told to delete its data. It applies no more maps.
    dismissed: bool,
    disk_watch: DiskWatch,
    /// How long to wait before the next session.
    pause: Duration,
}

impl Settings {
    async fn connect(&self) -> io::Result<TcpStream> {
        TcpStream::connect((self.host.as_str(), self.port)).await
    }
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Membership {
    fn new(driver: Driver, settings: Settings, notices: mpsc::Sender<Notice>) -> Self {
        Self {
            driver,
            settings,
            notices,
            incarnation: None,
            noted: None,
            begun: None,
            was_up: false,
            reported: None,
            left: None,
            beats: VecDeque::new(),
            held: VecDeque::new(),
            map_kept: MapVersion(0),
            awaits_admission: false,
            told_full: false,
            told_of_fills: false,
            told_of_memory: Vec::new(),
            dismissed: false,
            disk_watch: DiskWatch::default(),
            pause: FIRST_PAUSE,
        }
    }

    /// Runs one session until it ends.
    async fn session(&mut self, leave: &mut oneshot::Receiver<Farewell>) -> Ended {
        let stream = match timeout(REJOIN_TIMEOUT, self.settings.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ended::Broken(error.to_string()),
            Err(_) => return Ended::Broken("no answer".to_owned()),
        };
        let mut connection = Connection::new(stream);
        match self.talk(&mut connection, leave).await {
            Ok(ended) => ended,
            Err(error) => Ended::Broken(error.to_string()),
        }
    }

    async fn talk(
        &mut self,
        connection: &mut Connection,
        leave: &mut oneshot::Receiver<Farewell>,
    ) -> io::Result<Ended> {
        connection.stream.set_nodelay(true)?;
        self.awaits_admission = self.driver.access().encode_auth(&mut connection.output);
        self.join(&mut connection.output);
        self.beats.clear();
        self.held.clear();
        (self.told_full, self.told_of_fills) = (false, false);
        self.told_of_memory.clear();
        let mut beats = interval(self.settings.heartbeat_interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            connection.flush().await?;
            let (driver, written) = (self.driver.clone(), self.held.front().map(|(end, _)| *end));
            tokio::select! {
                // First what has arrived: after a pause of this process, the answers to its heartbeats are there.
                biased;
                read = connection.fill() => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    heard = Instant::now();
                    if let Some(ended) = self.handle(connection).await {
                        connection.flush().await?;
                        return Ok(ended);
                    }
                }
                persisted = driver.persist_up_to(written.unwrap_or_default()), if written.is_some() => {
                    // What can never be written is never sent: the node stops.
                    let held = self.held.pop_front().filter(|_| persisted.is_ok());
                    held.iter().for_each(|(_, bytes)| connection.output.extend_from_slice(bytes));
                }
                _ = beats.tick() => {
                    if self.disk_hangs() {
                        // Nobody answers what is not sent.
                        heard = Instant::now();
                        continue;
                    }
                    if heard.elapsed() > SILENCE.max(self.settings.heartbeat_interval * 2) {
                        return Ok(Ended::Broken("it does not answer heartbeats".to_owned()));
                    }
                    if let Some(incarnation) = self.incarnation {
                        NodeMessage::Heartbeat { incarnation }.encode(&mut connection.output);
                        self.beats.push_back(self.driver.clock().now());
                        self.tell_fills(&mut connection.output);
                        self.tell_memory(&mut connection.output);
                    }
                }
                () = self.driver.proposals() => {}
                Ok(left) = &mut *leave, if self.left.is_none() => {
                    left.message().encode(&mut connection.output);
                    self.left = Some(left);
                }
            }
            if self.incarnation.is_some() {
                self.propose(&mut connection.output);
            }
        }
    }

    /// Whether the disk hangs.
    ///
    /// IMPORTANT: such a node stops sending heartbeats. It cannot acknowledge any write, so another copy must lead in
    /// its place. If the disk is full, heartbeats resume once no other node could lead its slots.
    fn disk_hangs(&mut self) -> bool {
        self.disk_watch.hangs(&self.driver) && (!self.driver.is_full() || self.driver.node().leads_for_others())
    }

    /// Tells the coordinator whether the disk is full, and sends it the node's proposals.
    fn propose(&mut self, out: &mut Vec<u8>) {
        let is_full = self.driver.is_full();
        if is_full != self.told_full {
            self.told_full = is_full;
            let message = if is_full { NodeMessage::Full } else { NodeMessage::Room };
            message.encode(out);
        }
        if self.held.len() < HELD {
            self.driver.node().take_proposals().iter().for_each(|proposal| self.say_once_written(proposal, out));
        }
    }

    /// Reports the progress of the fills that this node makes, with each heartbeat while it makes any.
    fn tell_fills(&mut self, out: &mut Vec<u8>) {
        let fills = self.driver.node().fills();
        let makes_any = !fills.is_empty();
        if makes_any || self.told_of_fills {
            NodeMessage::Filling { fills }.encode(out);
        }
        self.told_of_fills = makes_any;
    }

    /// Reports, when that has changed, who lacks the memory for which this node has just refused writes.
    fn tell_memory(&mut self, out: &mut Vec<u8>) {
        let short = self.driver.node().short_of_memory(self.driver.clock().now());
        if short != self.told_of_memory {
            self.told_of_memory.clone_from(&short);
            NodeMessage::Memory { short }.encode(out);
        }
    }

    /// Sends a message once the journal is written up to now. IMPORTANT: whoever learns this node's position, or what
    /// it proposes, relies on the data that it has. So the message is held until that data is written, while
    /// heartbeats go on.
    fn say_once_written(&mut self, message: &NodeMessage, out: &mut Vec<u8>) {
        let end = self.driver.node().noted().end();
        if self.held.is_empty() && self.driver.is_written(end) {
            return message.encode(out);
        }
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.held.push_back((end, bytes));
    }

    fn join(&self, out: &mut Vec<u8>) {
        let map = self.driver.node().map();
        let lines = map.map(|map| map.update_since(MapVersion(0)).to_lines().join("\n")).unwrap_or_default();
        let (addr, ancestors) = (self.driver.addr().clone(), self.driver.node().ancestors().clone());
        let weight = self.settings.weight;
        Join { addr, incarnation: self.incarnation, ancestors, map: &lines, weight }.encode(out);
    }

    /// Handles what has arrived; returns how the session ended, if it did.
    async fn handle(&mut self, connection: &mut Connection) -> Option<Ended> {
        loop {
            let Connection { reader, output, .. } = connection;
            let was_dismissed = self.dismissed;
            let (mut ended, mut joined, mut prerequisite) = (None, None, None);
            let stopped = reader.frames(|frame| {
                match frame {
                    Frame::Array(words) => match CoordinatorMessage::parse(words) {
                        Ok(message) => {
                            prerequisite = self.prerequisite_of(&message);
                            if prerequisite.is_some() {
                                return Flow::Settle; // It is offered again.
                            }
                            match message {
                                CoordinatorMessage::Joined { incarnation, text } => {
                                    self.joined(incarnation, output);
                                    joined = Some(text.to_owned());
                                }
                                CoordinatorMessage::Map { text } => ended = self.follow_map_change(text, output),
                                message => ended = self.obey(message, output),
                            }
                        }
                        Err(error) => ended = Some(Ended::Broken(error.to_string())),
                    },
                    Frame::Line(b"+OK") if self.awaits_admission => self.awaits_admission = false,
                    Frame::Line(line) => ended = Some(self.refused(line)),
                }
                if ended.is_some() { Flow::Close } else { Flow::Next }
            });
            if let Some(text) = joined {
                if self.reported.take().is_some() {
                    tracing::info!("the coordinator is back");
                }
                tracing::debug!("joined: {text}");
                self.notify(Notice::Joined(text)).await;
            }
            if self.dismissed && !was_dismissed {
                self.notify(Notice::Dismissed).await;
            }
            if let Some(prerequisite) = prerequisite {
                let begins = matches!(prerequisite, Prerequisite::Begin(_));
                if let Some(ended) = self.fulfil(prerequisite, &mut connection.output).await {
                    return Some(ended);
                }
                if begins {
                    self.pause = FIRST_PAUSE;
                }
                continue;
            }
            return match (&ended, stopped) {
                (None, Stopped::Bad(error)) => Some(Ended::Broken(error.to_string())),
                _ => ended,
            };
        }
    }

    /// The coordinator has assigned this start its incarnation, or recognizes it.
    fn joined(&mut self, incarnation: Incarnation, out: &mut Vec<u8>) {
        self.incarnation = Some(incarnation);
        if self.begun == Some(incarnation) {
            self.pause = FIRST_PAUSE;
            // Do this before the next message, which is the map: the node must know its incarnation to find its part
            // in the map.
            self.driver.node().joined(incarnation);
        }
        // The coordinator counts this start from the first message that the node sends under its incarnation.
        NodeMessage::Heartbeat { incarnation }.encode(out);
        self.beats.push_back(self.driver.clock().now());
        if let Some(left) = &self.left {
            left.message().encode(out); // The session before has broken before it was heard.
        }
    }

    /// The coordinator has answered with an error.
    fn refused(&self, line: &[u8]) -> Ended {
        let text = String::from_utf8_lossy(line).trim_start_matches('-').to_owned();
        if let Some(what) = disagreement(&format!("the coordinator at {}", self.settings), &text) {
            let why = format!("{what}; start both with the same --password-file ({text})");
            return if self.begun.is_none() { Ended::Rejected(why) } else { Ended::Refused(why) };
        }
        // Once it has been in its cluster, the node goes on with the map it has, whoever answers at the coordinator's
        // address now.
        if self.begun.is_none() && text.contains("NOTPEER ") {
            return Ended::Rejected(format!("the coordinator at {} has refused this node: {text}", self.settings));
        }
        if !(line.starts_with(b"-") || text.starts_with("ERROR ")) {
            return Ended::Broken(
                "its reply is not in this protocol; another service may be listening there".to_owned(),
            );
        }
        if text.starts_with("ERR unknown command") {
            return Ended::Broken("what answers there is not a coordinator; it may be a node".to_owned());
        }
        Ended::Refused(text)
    }

    fn follow_map_change(&mut self, text: &str, out: &mut Vec<u8>) -> Option<Ended> {
        if self.dismissed {
            return None;
        }
        if self.begun != self.incarnation {
            NodeMessage::Resync.encode(out);
            return None;
        }
        let update = MapUpdate::parse(text.lines());
        // IMPORTANT: checked before the node applies the map and deletes its data.
        if let Ok(update) = &update {
            if self.is_replaced_in(update) {
                return Some(self.replaced());
            }
            self.was_up |= self.up_under_my_name(update).contains(&self.incarnation);
        }
        match update.and_then(|update| self.driver.handle_map(&update)) {
            Ok(()) => None,
            Err(error @ MapError::OtherCluster) => Some(Ended::Refused(error.to_string())),
            Err(error) => {
                tracing::debug!("asking for the whole map: {error}");
                NodeMessage::Resync.encode(out);
                None
            }
        }
    }

    fn replaced(&self) -> Ended {
        let addr = self.driver.addr();
        let left = self.driver.store().map_or_else(
            || "it had no data on disk".to_owned(),
            |store| format!("its data is still in {}", store.path().display()),
        );
        Ended::Rejected(format!(
            "another node was started as {addr} while the coordinator at {} could not hear this one, which has \
             stopped; {left}: start one of the two with another port or --advertise",
            self.settings
        ))
    }

    /// Carries out what the coordinator says; returns how that ends the session, if it does.
    fn obey(&mut self, message: CoordinatorMessage<'_>, out: &mut Vec<u8>) -> Option<Ended> {
        let node = self.driver.node();
        match message {
            // Both are handled by the caller.
            CoordinatorMessage::Joined { .. } | CoordinatorMessage::Map { .. } => None,
            CoordinatorMessage::Beat => {
                if let Some(sent) = self.beats.pop_front() {
                    node.coordinator_answered(sent);
                }
                None
            }
            CoordinatorMessage::HandOver { to, slots } => {
                let mut turn = Turn::default();
                node.hand_over(self.driver.clock().now(), to, &slots, &mut turn);
                self.driver.finish(&mut turn);
                None
            }
            CoordinatorMessage::AskPositions { query, slots } => {
                let positions = NodeMessage::Positions { query, last: node.positions(&slots) };
                // If there are too many, drop it: a coordinator that asks again has a newer query, and this one has
                // timed out.
                if self.held.len() < 2 * HELD {
                    self.say_once_written(&positions, out);
                }
                None
            }
            CoordinatorMessage::Dismiss => {
                if !self.dismissed {
                    self.dismissed = true;
                    node.give_everything_up();
                }
                None
            }
            CoordinatorMessage::Left => Some(Ended::Left),
            CoordinatorMessage::Unregistered => Some(Ended::Unregistered),
            CoordinatorMessage::Replaced => Some(self.replaced()),
        }
    }

    /// Logs why the coordinator is away, once per reason; before the first join, tells the main task instead.
    async fn report(&mut self, why: String, notice: impl FnOnce(String) -> Notice) {
        if self.incarnation.is_some() {
            if self.reported.as_ref() != Some(&why) {
                tracing::warn!("{why}; continuing with the present map, trying again");
                self.reported = Some(why);
            }
        } else {
            self.notify(notice(why)).await;
        }
    }

    async fn notify(&self, notice: Notice) {
        // Once the node is stopping, the main task no longer listens.
        let _ = self.notices.send(notice).await;
    }
}
