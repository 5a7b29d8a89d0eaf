//! One connection to the coordinator.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::coordinator::JoinRequest;
use engine::output::{JoinError, Joined};
use net::connection::{Connection, Ended, Flow, STRETCH, Session, Stopped};
use net::gate;
use net::listener::Shared;
use net::shutdown::Shutdown;
use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion};
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame};
use proto::id::{Incarnation, NodeAddr};
use proto::request::CoordinatorRequest;
use proto::response::Response;
use proto::session::{CoordinatorMessage, Join, NodeMessage};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::driver::Driver;
use crate::gate::Unauthenticated;
use crate::moves;
use crate::stats::{self, NotAnswered};
use crate::wait::wait_healthy;

/// Serves a connection until it ends.
pub async fn serve(stream: TcpStream, driver: Driver, shared: Arc<Shared>, shutdown: Shutdown) {
    let mut connection = Connection::new(stream);
    if let Err(error) = run(&mut connection, &driver, &shared, &shutdown).await {
        tracing::debug!("a connection ended: {error}");
    }
}

async fn run(connection: &mut Connection, driver: &Driver, shared: &Shared, shutdown: &Shutdown) -> io::Result<()> {
    if shared.access.password().is_some() {
        let mut unauthenticated = Unauthenticated { access: &shared.access, from: connection.stream.peer_addr().ok() };
        if !gate::pass(connection, &mut unauthenticated, shared, shutdown).await? {
            return Ok(());
        }
    }
    let from = connection.stream.peer_addr().ok();
    let mut client =
        ClientSession { driver, shared, from, unanswered: NotAnswered::default(), upgrade: None, begun: None };
    loop {
        let served = connection.serve(&mut client, shared, shutdown).await;
        if !matches!(served, Ok(Ended::Upgraded)) {
            // A node has joined, but was gone before it was answered.
            if let Some(Upgrade::Node { joined, .. }) = client.upgrade.take() {
                driver.has_gone(joined.incarnation);
            }
            return served.map(|_| ());
        }
        match client.upgrade.take() {
            Some(Upgrade::Wait(encoding, span)) => {
                let Some(response) = wait_healthy(connection, driver, span, shutdown).await? else { return Ok(()) };
                response.encode(encoding, &mut connection.output);
            }
            Some(Upgrade::Watch(encoding)) => return watch(connection, driver, encoding, shutdown).await,
            Some(Upgrade::Node { addr, joined }) => {
                let messages = driver.open_session(joined.incarnation);
                let mut node = NodeSession { driver, addr, node: joined.incarnation, sent: MapVersion(0), messages };
                let ended = node.run(connection, &joined, shutdown).await;
                // IMPORTANT: what changes now would not reach those whose sessions have ended before.
                if !shutdown.has_begun() {
                    driver.close_session(node.node, node.messages);
                }
                return ended;
            }
            None => unreachable!("a request that upgrades the connection says to what"),
        }
    }
}

/// What a connection becomes after its requests.
enum Upgrade {
    /// A client that follows the map.
    Watch(Encoding),
    /// A client that waits, for at most this long, until the cluster is healthy, and then continues as before.
    Wait(Encoding, Duration),
    /// The session of a node.
    Node { addr: NodeAddr, joined: Joined },
}

/// The requests of people and clients.
struct ClientSession<'a> {
    driver: &'a Driver,
    shared: &'a Shared,
    from: Option<SocketAddr>,
    unanswered: NotAnswered,
    /// When the first request of this batch was executed.
    begun: Option<Instant>,
    upgrade: Option<Upgrade>,
}

impl Session for ClientSession<'_> {
    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        if self.begun.get_or_insert_with(Instant::now).elapsed() >= STRETCH {
            return Flow::Settle;
        }
        let encoding = frame.encoding();
        if matches!(frame, Frame::Array(words) if words.is_empty()) {
            return Flow::Next; // As at a node.
        }
        let request = match CoordinatorRequest::parse(frame) {
            Ok(request) => request,
            Err(error) => {
                let flow = Flow::after(&error);
                Response::Error(error).encode(encoding, out);
                return flow;
            }
        };
        if let Some(kind) = stats::kind(&request) {
            self.unanswered.add(self.driver.clock().now(), kind);
        }
        match request {
            CoordinatorRequest::Quit => {
                Response::Ok.encode(encoding, out);
                Flow::Close
            }
            CoordinatorRequest::WatchMap => {
                self.upgrade = Some(Upgrade::Watch(encoding));
                Flow::Upgrade
            }
            CoordinatorRequest::WaitHealthy(span) => {
                self.upgrade = Some(Upgrade::Wait(encoding, span));
                Flow::Upgrade
            }
            CoordinatorRequest::Join(words) => match self.join(words.0) {
                Ok(upgrade) => {
                    self.upgrade = Some(upgrade);
                    Flow::Upgrade
                }
                Err(JoinError::Unregistered) => {
                    CoordinatorMessage::Unregistered.encode(out);
                    Flow::Close
                }
                Err(JoinError::Replaced) => {
                    CoordinatorMessage::Replaced.encode(out);
                    Flow::Close
                }
                Err(JoinError::Refused(error)) => {
                    Response::Error(error).encode(encoding, out);
                    Flow::Close
                }
            },
            request => {
                self.answer(&request).encode(encoding, out);
                Flow::Next
            }
        }
    }

    async fn settle(&mut self, _: &TcpStream, _: &mut Vec<u8>) -> std::io::Result<()> {
        if self.begun.take().is_some_and(|begun| begun.elapsed() >= STRETCH) {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn answered(&mut self) {
        self.unanswered.answered(|| self.driver.clock().now(), self.driver.answered());
    }
}

/// The answer to a command about one node; an error if that node is not known.
fn if_known(is_known: bool, addr: &NodeAddr, answer: impl FnOnce() -> Response<'static>) -> Response<'static> {
    if is_known { answer() } else { Response::Error(ErrorReply::NodeNotFound(addr.clone())) }
}

impl ClientSession<'_> {
    fn answer(&self, request: &CoordinatorRequest<'_>) -> Response<'static> {
        match request {
            CoordinatorRequest::RegisterNode(addr) => {
                match self.driver.with(|coordinator, now| coordinator.register_by_hand(now, addr.clone())) {
                    Ok(new) => Response::Text(registered(addr, !new)),
                    Err(error) => Response::Error(error),
                }
            }
            CoordinatorRequest::UnregisterNode(addr) => {
                match self.driver.with(|coordinator, now| coordinator.unregister(now, addr)) {
                    Ok(()) => Response::Text(format!("OK Node {addr} unregistered")),
                    Err(error) => Response::Error(error),
                }
            }
            CoordinatorRequest::Heartbeat(addr) => {
                let is_known = self.driver.with(|coordinator, now| coordinator.heartbeat(now, addr));
                if_known(is_known, addr, || Response::Ok)
            }
            CoordinatorRequest::GetNodesForKey { key } => {
                match self.driver.look(|coordinator| coordinator.nodes_for_key(key)) {
                    Ok(nodes) => Response::Lines(named(&nodes)),
                    Err(error) => Response::Error(error),
                }
            }
            CoordinatorRequest::ListNodes => self.driver.look(|coordinator| {
                let nodes: Vec<String> = coordinator.nodes().map(|addr| format!("  {addr}")).collect();
                if nodes.is_empty() {
                    return Response::Text("OK No nodes registered".to_owned());
                }
                Response::Lines(std::iter::once("OK Nodes:".to_owned()).chain(nodes).collect())
            }),
            CoordinatorRequest::Forget(addr) => {
                let is_known = self.driver.with(|coordinator, now| coordinator.forget(now, addr));
                if_known(is_known, addr, || Response::Text(format!("OK Node {addr} is not waited for")))
            }
            CoordinatorRequest::AcceptLoss(slot) => {
                let accepted = match self.driver.with(|coordinator, now| coordinator.accept_loss(now, *slot)) {
                    Ok(accepted) => accepted,
                    Err(error) => return Response::Error(error),
                };
                let unproven = match accepted.unproven {
                    0 => String::new(),
                    slots => format!(", {slots} go on with what is left"),
                };
                Response::Text(format!("OK {} slots start anew{unproven}", accepted.anew))
            }
            CoordinatorRequest::Decommission(addr) => {
                moves::decommissioned(addr, self.driver.with(|coordinator, now| coordinator.decommission(now, addr)))
            }
            CoordinatorRequest::Recommission(addr) => {
                moves::recommissioned(addr, self.driver.with(|coordinator, now| coordinator.recommission(now, addr)))
            }
            CoordinatorRequest::Replace { old, new } => {
                moves::replaced(old, new, self.driver.with(|coordinator, now| coordinator.replace(now, old, new)))
            }
            CoordinatorRequest::Info => self.info(),
            CoordinatorRequest::Map => Response::Lines(
                self.driver.look(|coordinator| coordinator.known_map().update_since(MapVersion(0)).to_lines()),
            ),
            CoordinatorRequest::Stats => stats::stats(self.driver, self.shared),
            CoordinatorRequest::Status => {
                Response::Lines(self.driver.with(|coordinator, now| coordinator.status(now)).lines())
            }
            CoordinatorRequest::Auth(auth) => match self.shared.access.admit(*auth, self.from) {
                Ok(()) => Response::Ok,
                Err(error) => Response::Error(error),
            },
            CoordinatorRequest::Ping => Response::Pong,
            CoordinatorRequest::Quit
            | CoordinatorRequest::WatchMap
            | CoordinatorRequest::WaitHealthy(_)
            | CoordinatorRequest::Join(_) => {
                unreachable!("the caller handles what ends the connection or turns it into something else")
            }
        }
    }

    fn info(&self) -> Response<'static> {
        let addr = self.driver.addr();
        self.driver.look(|coordinator| {
            // What nodes go by, also while their map is being taken over.
            let (nodes, map) = (coordinator.nodes().count(), coordinator.known_map());
            let (cluster, version, levels) = (&map.cluster, map.version.0, map.cluster_settings);
            let awaited = coordinator.awaited();
            let awaited = list(awaited.iter());
            let leaving = list(coordinator.leaving().map(|(addr, _)| addr));
            let away = list(coordinator.away().map(|(addr, _)| addr));
            Response::Text(format!(
                "OK Coordinator {addr} nodes={nodes} map={version} cluster={cluster} ack={} read={} \
                 leaving={leaving} away={away} unproven_promotions={} waiting_for={awaited}",
                levels.ack,
                levels.read,
                coordinator.unproven_promotions()
            ))
        })
    }

    fn join(&self, words: proto::frame::Words<'_>) -> Result<Upgrade, JoinError> {
        let join = Join::parse(words).map_err(JoinError::Refused)?;
        let held = if join.map.is_empty() {
            None
        } else {
            let update = MapUpdate::parse(join.map.lines());
            let map = update.and_then(|update| ClusterMap::updated(None, &update));
            Some(map.map_err(|error| JoinError::Refused(ErrorReply::NotPeer(error.to_string())))?)
        };
        let Join { addr, incarnation, ancestors, weight, .. } = join;
        if let Some(from) = self.from.map(|from| from.ip()).filter(|from| !from.is_loopback())
            && is_loopback(addr.host())
        {
            tracing::warn!(
                "node {addr} has joined from {from}, but no other machine reaches it by that name: start it with \
                 --host or --advertise"
            );
        }
        let request = JoinRequest { addr: addr.clone(), incarnation, weight, ancestors, held };
        let joined = self.driver.with(|coordinator, now| coordinator.join(now, request))?;
        Ok(Upgrade::Node { addr, joined })
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn list<'a>(nodes: impl Iterator<Item = &'a NodeAddr>) -> String {
    let nodes: Vec<_> = nodes.map(NodeAddr::as_str).collect();
    if nodes.is_empty() { "-".to_owned() } else { nodes.join(",") }
}

fn registered(addr: &NodeAddr, again: bool) -> String {
    if again { format!("WARNING Node {addr} already registered") } else { format!("OK Node {addr} registered") }
}

fn named(nodes: &[NodeAddr]) -> Vec<String> {
    let role = |at| if at == 0 { "PRIMARY" } else { "REPLICA" };
    nodes.iter().enumerate().map(|(at, addr)| format!("{} {addr}", role(at))).collect()
}

/// Sends a client the map, and then each change of it, until the client disconnects. The first block is the whole map,
/// even if nothing is in it yet; every block ends with an empty line.
async fn watch(
    connection: &mut Connection,
    driver: &Driver,
    encoding: Encoding,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let mut published = driver.watch_map();
    let whole =
        driver.look(|coordinator| (coordinator.map().version, coordinator.known_map().update_since(MapVersion(0))));
    let mut sent = whole.0;
    Response::Lines(whole.1.to_lines()).encode(encoding, &mut connection.output);
    loop {
        connection.flush().await?;
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return Ok(()) },
            // The client has nothing more to say: its input is ignored, and the end of its input ends the watch.
            read = connection.fill() => {
                let stopped = connection.reader.frames(|_| Flow::Next);
                if read? == 0 || stopped != Stopped::NeedsMore {
                    return Ok(());
                }
            }
            () = shutdown.begun() => return Ok(()),
        }
        if let Some(update) = driver.map_since(sent) {
            sent = update.version;
            Response::Lines(update.condensed().to_lines()).encode(encoding, &mut connection.output);
        }
    }
}

/// The session of a node: its heartbeats and proposals in one direction, the map and the coordinator's messages in the
/// other.
struct NodeSession<'a> {
    driver: &'a Driver,
    addr: NodeAddr,
    node: Incarnation,
    /// The version of the map that the node has been sent.
    sent: MapVersion,
    messages: mpsc::Receiver<Vec<u8>>,
}

impl NodeSession<'_> {
    async fn run(&mut self, connection: &mut Connection, joined: &Joined, shutdown: &Shutdown) -> io::Result<()> {
        let mut published = self.driver.watch_map();
        let text = &registered(&self.addr, joined.again);
        CoordinatorMessage::Joined { incarnation: self.node, text }.encode(&mut connection.output);
        loop {
            self.send_map(&mut connection.output);
            connection.flush().await?;
            // Every node is sent the last map. One that lacks it would wait for copies that have given up theirs.
            if shutdown.has_begun() {
                return Ok(());
            }
            tokio::select! {
                message = self.messages.recv() => match message {
                    // What the coordinator wants from a node follows from the map, so the map goes first.
                    Some(bytes) => {
                        self.send_map(&mut connection.output);
                        connection.output.extend_from_slice(&bytes);
                    }
                    // A newer session of this node has taken over, or the node was unregistered.
                    None => return Ok(()),
                },
                changed = published.changed() => if changed.is_err() { return Ok(()) },
                read = connection.fill() => {
                    let is_over = read? == 0 || (!shutdown.has_begun() && !self.handle(connection));
                    if is_over {
                        return connection.flush().await;
                    }
                }
                () = shutdown.begun() => {}
            }
        }
    }

    fn send_map(&mut self, out: &mut Vec<u8>) {
        if let Some(update) = self.driver.map_since(self.sent) {
            self.sent = update.version;
            CoordinatorMessage::Map { text: &update.to_lines().join("\n") }.encode(out);
        }
    }

    /// Handles what has arrived; returns `false` if the session is over.
    fn handle(&mut self, connection: &mut Connection) -> bool {
        let Connection { reader, output, .. } = connection;
        let mut messages = Vec::new();
        let stopped = reader.frames(|frame| {
            let Frame::Array(words) = frame else { return Flow::Close };
            let Ok(message) = NodeMessage::parse(words) else { return Flow::Close };
            messages.push(message);
            Flow::Next
        });
        // Everything that has arrived is handled in one call: its changes are saved and published once.
        let (mut beats, mut resync, mut left) = (0, false, false);
        let known = self.driver.with(|coordinator, now| {
            messages.into_iter().all(|message| {
                let is_beat = matches!(message, NodeMessage::Heartbeat { .. });
                resync |= message == NodeMessage::Resync;
                left |= matches!(message, NodeMessage::Leave | NodeMessage::Cleared);
                let known = coordinator.handle_message(now, self.node, message);
                beats += usize::from(is_beat && known);
                known
            })
        });
        // IMPORTANT: a node that is no longer registered gets no beat. It would keep relying on the coordinator.
        (0..beats).for_each(|_| CoordinatorMessage::Beat.encode(output));
        if resync {
            self.sent = MapVersion(0);
        }
        if left {
            CoordinatorMessage::Left.encode(output);
        }
        known && stopped == Stopped::NeedsMore && !left
    }
}
