//! The fake coordinator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proto::cluster_map::{ClusterMap, MapVersion};
use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::id::NodeAddr;
use proto::request::CoordinatorRequest;
use proto::response::Response;
use proto::slot::Position;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::server::{Requests, Serve, Server};

/// A coordinator whose map changes only when a test changes it.
#[derive(Debug)]
pub struct FakeCoordinator {
    server: Server,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    map: watch::Sender<ClusterMap>,
    /// How many connections follow the map.
    watchers: watch::Sender<usize>,
    is_sick: AtomicBool,
}

impl FakeCoordinator {
    /// Starts a coordinator with this map.
    pub async fn start(map: ClusterMap) -> Self {
        let state = Arc::new(State {
            map: watch::Sender::new(map),
            watchers: watch::Sender::new(0),
            is_sick: AtomicBool::new(false),
        });
        Self { server: Server::start(Arc::clone(&state)).await, state }
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> &NodeAddr {
        self.server.addr()
    }

    /// Its map.
    #[must_use]
    pub fn map(&self) -> ClusterMap {
        self.state.map.borrow().clone()
    }

    /// Changes the map, with its version already raised, and tells everybody who follows it.
    pub fn change(&self, change: impl FnOnce(&mut ClusterMap)) {
        self.state.map.send_modify(|map| {
            map.version = MapVersion(map.version.0 + 1);
            change(map);
        });
    }

    /// Waits until exactly `count` connections follow the map.
    pub async fn watched_by(&self, count: usize) {
        let mut watchers = self.state.watchers.subscribe();
        watchers.wait_for(|now| *now == count).await.expect("the sender is kept here");
    }

    /// From now on the cluster is not healthy, however long somebody waits; the answer comes at once.
    pub fn fall_ill(&self) {
        self.state.is_sick.store(true, Ordering::Relaxed);
    }

    /// Stops: closes all connections and refuses new ones.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Comes back on its old port, with its map.
    pub async fn restart(&mut self) {
        self.server.restart(Arc::clone(&self.state)).await;
    }
}

/// Counts a connection among those that follow the map for as long as this value lives.
struct Watching<'a>(&'a watch::Sender<usize>);

impl<'a> Watching<'a> {
    fn start(watchers: &'a watch::Sender<usize>) -> Self {
        watchers.send_modify(|count| *count += 1);
        Self(watchers)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Serve for State {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut requests = Requests::default();
        while let Some(frame) = requests.next(&mut stream).await {
            let encoding = frame.as_ref().map_or(Encoding::Line, |frame| frame.encoding());
            let response = match frame.and_then(CoordinatorRequest::parse) {
                Ok(CoordinatorRequest::WatchMap) => return self.push_maps(&mut stream).await,
                Ok(request) => self.answer(&request),
                Err(error) => Response::Error(error),
            };
            if send(&mut stream, &response, encoding).await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn answer(&self, request: &CoordinatorRequest<'_>) -> Response<'static> {
        let map = self.map.borrow();
        match request {
            CoordinatorRequest::ListNodes => {
                let mut lines: Vec<String> = map.members().map(|(_, member)| format!("  {}", member.addr)).collect();
                if lines.is_empty() {
                    return Response::Text("OK No nodes registered".to_owned());
                }
                lines.sort();
                lines.insert(0, "OK Nodes:".to_owned());
                Response::Lines(lines)
            }
            CoordinatorRequest::GetNodesForKey { key } => {
                let words = ["PRIMARY"].into_iter().chain(std::iter::repeat("REPLICA"));
                let slot = map.bits().slot(&Position::of(key));
                let lines: Vec<String> =
                    words.zip(map.holders(slot)).map(|(word, (_, member))| format!("{word} {}", member.addr)).collect();
                if lines.is_empty() { Response::Error(ErrorReply::NoNodes) } else { Response::Lines(lines) }
            }
            CoordinatorRequest::Map => Response::Lines(map.update_since(MapVersion(0)).to_lines()),
            CoordinatorRequest::Forget(addr) => match map.members().find(|(_, member)| member.addr == *addr) {
                Some(_) => Response::Text(format!("OK Node {addr} is waited for no longer")),
                None => Response::Error(ErrorReply::NodeNotFound(addr.clone())),
            },
            CoordinatorRequest::UnregisterNode(addr) => Response::Text(format!("OK Node {addr} unregistered")),
            CoordinatorRequest::Decommission(addr) => Response::Text(format!("OK Node {addr} leaves")),
            CoordinatorRequest::Recommission(addr) => Response::Text(format!("OK Node {addr} stays")),
            CoordinatorRequest::Replace { old, new } => Response::Text(format!("OK Node {old} leaves for {new}")),
            CoordinatorRequest::AcceptLoss(slot) => {
                let count = if slot.is_some() { 1 } else { map.bits().count() };
                Response::Text(format!("OK {count} slots start anew"))
            }
            CoordinatorRequest::Info => Response::Text(format!("OK Coordinator nodes={}", map.members().count())),
            CoordinatorRequest::Stats => Response::stats(vec![format!("nodes {}", map.members().count())]),
            CoordinatorRequest::Status => {
                let (slots, nodes) = (map.bits().count(), map.members().count());
                Response::Lines(vec![format!("OK Status healthy: all {slots} slots are led, on {nodes} nodes")])
            }
            CoordinatorRequest::WaitHealthy(span) if self.is_sick.load(Ordering::Relaxed) => {
                let text = format!("not healthy after {} ms: 1 slot has no primary", span.as_millis());
                Response::Error(ErrorReply::Timeout(text))
            }
            CoordinatorRequest::WaitHealthy(_) => Response::Ok,
            CoordinatorRequest::Ping => Response::Pong,
            CoordinatorRequest::Quit => Response::Ok,
            _ => Response::Error(ErrorReply::UnknownCommand),
        }
    }

    async fn push_maps(&self, stream: &mut TcpStream) {
        let _watching = Watching::start(&self.watchers);
        let mut maps = self.map.subscribe();
        let mut known = MapVersion(0);
        loop {
            let update = {
                let map = maps.borrow_and_update();
                let update = map.update_since(known);
                known = map.version;
                update
            };
            if send(stream, &Response::Lines(update.to_lines()), Encoding::Line).await.is_err() {
                return;
            }
            // From here on only the coordinator speaks on this connection: if it becomes readable, it has ended.
            tokio::select! {
                _ = stream.readable() => return,
                changed = maps.changed() => if changed.is_err() { return },
            }
        }
    }
}

async fn send(stream: &mut TcpStream, response: &Response<'_>, encoding: Encoding) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    response.encode(encoding, &mut bytes);
    stream.write_all(&bytes).await
}
