//! The session with the coordinator: joining, heartbeats, the map, leaving.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use engine::coordinator::{REJOIN_PAUSE, REJOIN_TIMEOUT};
use engine::node::Turn;
use engine::time::Timestamp;
use net::connection::{Connection, Flow, Stopped};
use proto::cluster_map::{MapError, MapUpdate, MapVersion};
use proto::frame::{Frame, encode_array};
use proto::id::Incarnation;
use proto::request::verbs;
use proto::session::{CoordinatorMessage, Join, NodeMessage};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::driver::Driver;

/// The first pause after the coordinator could not be reached; each next is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause while joining for the first time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause where the coordinator has refused this node.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// A coordinator that answers no heartbeat for so long is connected to anew.
const SILENCE: Duration = Duration::from_secs(2);

/// Where the coordinator is, and how often it hears from this node.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host of the coordinator: a name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Pause between heartbeats.
    pub heartbeat_interval: Duration,
}

/// What the main task is told.
#[derive(Debug)]
pub enum Notice {
    /// The coordinator has registered this node for the first time; its words.
    Joined(String),
    /// The coordinator cannot be reached or has refused; why. The session tries again by itself.
    Failed(String),
}

/// How one session has ended.
enum Ended {
    /// It broke, or was refused for now: try again.
    Broken(String),
    /// The coordinator will not have this node.
    Refused(String),
    /// An operator has taken this node off the ring. It stays out.
    Unregistered,
    /// This node has said that it stops, and the coordinator has heard it.
    Left,
}

/// Keeps a session with the coordinator. Once `leave` has asked to leave and that is done, or the node is unregistered,
/// it only follows the map, until the process ends.
pub async fn run(
    driver: Driver,
    settings: Settings,
    notices: mpsc::Sender<Notice>,
    mut leave: oneshot::Receiver<oneshot::Sender<()>>,
) {
    let mut membership =
        Membership { driver, settings, notices, incarnation: None, reported: None, left: None, beats: VecDeque::new() };
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = membership.session(&mut leave, &mut pause).await;
        if let Some(left) = membership.left.take() {
            // The coordinator knows that this node stops, or is gone itself. The main task may have given up waiting.
            let _ = left.send(());
            return membership.follow().await;
        }
        let longest = match ended {
            Ended::Left => return membership.follow().await,
            Ended::Unregistered => {
                tracing::warn!("this node was unregistered: it stays out until it is started again");
                return membership.stay_out(leave).await;
            }
            Ended::Refused(why) => {
                let settings = &membership.settings;
                let why = format!("the coordinator at {settings} has refused this node: {why}");
                membership.report(why).await;
                REFUSED_PAUSE
            }
            Ended::Broken(why) => {
                membership.report(format!("cannot reach the coordinator at {}: {why}", membership.settings)).await;
                if membership.incarnation.is_some() { REJOIN_PAUSE } else { LONGEST_PAUSE }
            }
        };
        tokio::select! {
            () = sleep(pause.min(longest)) => pause = (pause * 2).min(longest),
            Ok(left) = &mut leave => {
                // Nobody is there to be told.
                let _ = left.send(());
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
    /// What the log says already of why the coordinator is away.
    reported: Option<String>,
    /// Whom to tell once the coordinator knows that this node stops.
    left: Option<oneshot::Sender<()>>,
    /// When the heartbeats were sent that this session's coordinator has not answered.
    beats: VecDeque<Timestamp>,
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
    /// Runs one session until it ends.
    async fn session(&mut self, leave: &mut oneshot::Receiver<oneshot::Sender<()>>, pause: &mut Duration) -> Ended {
        let stream = match timeout(REJOIN_TIMEOUT, self.settings.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ended::Broken(error.to_string()),
            Err(_) => return Ended::Broken("no answer".to_owned()),
        };
        let mut connection = Connection::new(stream);
        match self.talk(&mut connection, leave, pause).await {
            Ok(ended) => ended,
            Err(error) => Ended::Broken(error.to_string()),
        }
    }

    async fn talk(
        &mut self,
        connection: &mut Connection,
        leave: &mut oneshot::Receiver<oneshot::Sender<()>>,
        pause: &mut Duration,
    ) -> io::Result<Ended> {
        connection.stream.set_nodelay(true)?;
        self.join(&mut connection.output);
        self.beats.clear();
        let mut beats = interval(self.settings.heartbeat_interval);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            connection.flush().await?;
            tokio::select! {
                read = connection.fill() => {
                    if read? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    heard = Instant::now();
                    if let Some(ended) = self.handle(connection, pause).await {
                        return Ok(ended);
                    }
                }
                _ = beats.tick() => {
                    if heard.elapsed() > SILENCE.max(self.settings.heartbeat_interval * 2) {
                        return Ok(Ended::Broken("it does not answer heartbeats".to_owned()));
                    }
                    if let Some(incarnation) = self.incarnation {
                        NodeMessage::Heartbeat { incarnation }.encode(&mut connection.output);
                        self.beats.push_back(self.driver.clock().now());
                    }
                }
                () = self.driver.proposals() => {}
                Ok(left) = &mut *leave, if self.left.is_none() => {
                    self.left = Some(left);
                    NodeMessage::Leave.encode(&mut connection.output);
                }
            }
            if self.incarnation.is_some() {
                for proposal in self.driver.node().take_proposals() {
                    proposal.encode(&mut connection.output);
                }
            }
        }
    }

    fn join(&self, out: &mut Vec<u8>) {
        let map = self.driver.node().map();
        let lines = map.map(|map| map.update_since(MapVersion(0)).to_lines().join("\n")).unwrap_or_default();
        let (addr, ancestors) = (self.driver.addr().clone(), self.driver.node().ancestors().clone());
        Join { addr, incarnation: self.incarnation, ancestors, map: &lines }.encode(out);
    }

    /// Takes in what has arrived; says so where the session is over.
    async fn handle(&mut self, connection: &mut Connection, pause: &mut Duration) -> Option<Ended> {
        let Connection { reader, output, .. } = connection;
        let (mut ended, mut joined) = (None, None);
        let stopped = reader.frames(|frame| {
            let message = match frame {
                Frame::Array(words) => CoordinatorMessage::parse(words),
                Frame::Line(line) => {
                    ended = Some(Ended::Refused(String::from_utf8_lossy(line).trim_start_matches('-').to_owned()));
                    return Flow::Close;
                }
            };
            match message {
                Ok(CoordinatorMessage::Joined { incarnation, text }) => {
                    // IMPORTANT: what is written from now on is this start's, and the next one must be able to say so.
                    let noted = self.driver.store().map_or(Ok(()), |store| store.begin_incarnation(incarnation.0));
                    if let Err(error) = noted {
                        ended = Some(Ended::Broken(format!("cannot note the incarnation: {error}")));
                        return Flow::Close;
                    }
                    // Before the next message, which is the map: the node must know who it is to find its part in it.
                    self.driver.node().joined(incarnation);
                    // The coordinator counts this start of the node from the first word that it says as such.
                    NodeMessage::Heartbeat { incarnation }.encode(output);
                    self.beats.push_back(self.driver.clock().now());
                    self.incarnation = Some(incarnation);
                    joined = Some(text.to_owned());
                }
                Ok(message) => ended = self.obey(message, output),
                Err(error) => ended = Some(Ended::Broken(error.to_string())),
            }
            if ended.is_some() { Flow::Close } else { Flow::Next }
        });
        if let Some(text) = joined {
            *pause = FIRST_PAUSE;
            if self.reported.take().is_some() {
                tracing::info!("the coordinator is back");
            }
            tracing::debug!("joined: {text}");
            self.notify(Notice::Joined(text)).await;
        }
        match (&ended, stopped) {
            (None, Stopped::Bad(error)) => Some(Ended::Broken(error.to_string())),
            _ => ended,
        }
    }

    /// Does what the coordinator says; says so where that ends the session.
    fn obey(&mut self, message: CoordinatorMessage<'_>, out: &mut Vec<u8>) -> Option<Ended> {
        let node = self.driver.node();
        match message {
            CoordinatorMessage::Joined { .. } => None,
            CoordinatorMessage::Beat => {
                if let Some(sent) = self.beats.pop_front() {
                    node.coordinator_answered(sent);
                }
                None
            }
            CoordinatorMessage::Map { text } => {
                let handled = MapUpdate::parse(text.lines()).and_then(|update| self.driver.handle_map(&update));
                match handled {
                    Ok(()) => None,
                    Err(error @ MapError::OtherCluster) => Some(Ended::Refused(error.to_string())),
                    Err(error) => {
                        tracing::debug!("asking for the whole map: {error}");
                        NodeMessage::Resync.encode(out);
                        None
                    }
                }
            }
            CoordinatorMessage::HandOver { to, slots } => {
                let mut turn = Turn::default();
                node.hand_over(self.driver.clock().now(), to, &slots, &mut turn);
                self.driver.finish(&mut turn);
                None
            }
            CoordinatorMessage::AskPositions { query, slots } => {
                NodeMessage::Positions { query, last: node.positions(&slots) }.encode(out);
                None
            }
            CoordinatorMessage::Left => Some(Ended::Left),
            CoordinatorMessage::Unregistered => Some(Ended::Unregistered),
        }
    }

    /// Logs why the coordinator is away, once for each reason, or tells the main task while that waits for the first join.
    async fn report(&mut self, why: String) {
        if self.incarnation.is_some() {
            if self.reported.as_ref() != Some(&why) {
                tracing::warn!("{why}; the node goes on with the map it has and tries again");
                self.reported = Some(why);
            }
        } else {
            self.notify(Notice::Failed(why)).await;
        }
    }

    async fn notify(&self, notice: Notice) {
        // Once the node has started, the main task listens no more.
        let _ = self.notices.send(notice).await;
    }

    /// Leads and holds nothing any more, and follows the map only to pass requests on.
    async fn stay_out(self, leave: oneshot::Receiver<oneshot::Sender<()>>) {
        self.driver.node().give_everything_up();
        tokio::select! {
            () = self.follow() => {}
            Ok(left) = leave => {
                // The coordinator does not count on this node, so there is nothing to tell it.
                let _ = left.send(());
            }
        }
    }

    /// Follows the map as clients do, for as long as the process lives, to pass requests on.
    async fn follow(&self) {
        loop {
            let ended = self.follow_map().await;
            tracing::debug!("following the map: {ended:?}");
            sleep(LONGEST_PAUSE).await;
        }
    }

    async fn follow_map(&self) -> io::Result<()> {
        let mut connection = Connection::new(self.settings.connect().await?);
        encode_array(&[verbs::WATCH_MAP], &mut connection.output);
        connection.flush().await?;
        while connection.fill().await? > 0 {
            let stopped = connection.reader.frames(|frame| {
                let Frame::Array(words) = frame else { return Flow::Close };
                let lines: Option<Vec<&str>> = words.map(|line| std::str::from_utf8(line).ok()).collect();
                let update = MapUpdate::parse(lines.unwrap_or_default());
                let followed = update.and_then(|update| self.driver.handle_map(&update));
                if followed.is_ok() { Flow::Next } else { Flow::Close }
            });
            if stopped != Stopped::NeedsMore {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not a map that follows on the last"));
            }
        }
        Ok(())
    }
}
