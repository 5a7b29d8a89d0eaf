//! The fake node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::id::NodeAddr;
use proto::request::NodeRequest;
use proto::response::Response;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::server::{Requests, Serve, Server};

/// What a node does with a request that it has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers from its own table; nothing is passed on.
    Serve,
    /// Never answers.
    BeSilent,
    /// Closes the connection.
    HangUp,
    /// Answers with this error.
    Refuse(ErrorReply),
    /// Answers with these bytes, whatever the encoding.
    Say(&'static [u8]),
}

/// A node with a table of its own.
#[derive(Debug)]
pub struct FakeNode {
    server: Server,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    addr: OnceLock<NodeAddr>,
    table: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    behaviour: watch::Sender<Behaviour>,
    requests: watch::Sender<Vec<String>>,
}

impl FakeNode {
    /// Starts a node that serves.
    pub async fn start() -> Self {
        let state = Arc::new(State {
            addr: OnceLock::new(),
            table: Mutex::default(),
            behaviour: watch::Sender::new(Behaviour::Serve),
            requests: watch::Sender::new(Vec::new()),
        });
        let server = Server::start(Arc::clone(&state)).await;
        state.addr.get_or_init(|| server.addr().clone());
        Self { server, state }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> &NodeAddr {
        self.server.addr()
    }

    /// What it does with requests from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.state.behaviour.send_replace(behaviour);
    }

    /// Puts a value into its table.
    pub fn insert(&self, key: &[u8], value: &[u8]) {
        self.state.table.lock().expect(UNPOISONED).insert(key.to_vec(), value.to_vec());
    }

    /// The value in its table.
    #[must_use]
    pub fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.state.table.lock().expect(UNPOISONED).get(key).cloned()
    }

    /// The requests that it has read, whatever it did with them: the encoding, the verb and the key, such as
    /// `line GET user:1`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.borrow().clone()
    }

    /// Waits until it has read so many requests.
    pub async fn has_read(&self, count: usize) {
        let mut requests = self.state.requests.subscribe();
        requests.wait_for(|requests| requests.len() >= count).await.expect("the sender is kept here");
    }

    /// Dies: closes all connections and refuses new ones. Its table stays.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Lives again, on its old port.
    pub async fn restart(&mut self) {
        self.server.restart(Arc::clone(&self.state)).await;
    }
}

const UNPOISONED: &str = "nobody panics under this lock";

impl Serve for State {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut requests = Requests::default();
        while let Some(frame) = requests.next(&mut stream).await {
            let behaviour = self.behaviour.borrow().clone();
            let encoding = frame.as_ref().map_or(Encoding::Line, |frame| frame.encoding());
            let mut answer = Vec::new();
            match frame.and_then(NodeRequest::parse) {
                Err(error) => Response::Error(error).encode(encoding, &mut answer),
                Ok(request) => {
                    self.note(encoding, &request);
                    match behaviour {
                        Behaviour::Serve => self.carry_out(request, encoding, &mut answer),
                        Behaviour::Refuse(error) => Response::Error(error).encode(encoding, &mut answer),
                        Behaviour::Say(bytes) => answer.extend_from_slice(bytes),
                        Behaviour::BeSilent => std::future::pending().await,
                        Behaviour::HangUp => return,
                    }
                }
            }
            if stream.write_all(&answer).await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn note(&self, encoding: Encoding, request: &NodeRequest<'_>) {
        let (verb, key) = match request {
            NodeRequest::Put { key, .. } => ("PUT", *key),
            NodeRequest::Get { key } => ("GET", *key),
            NodeRequest::Delete { key } => ("DELETE", *key),
            NodeRequest::Info => ("INFO", &b""[..]),
            NodeRequest::Ping => ("PING", &b""[..]),
            _ => ("OTHER", &b""[..]),
        };
        let encoding = if encoding == Encoding::Line { "line" } else { "array" };
        let noted = format!("{encoding} {verb} {}", String::from_utf8_lossy(key));
        self.requests.send_modify(|requests| requests.push(noted));
    }

    fn carry_out(&self, request: NodeRequest<'_>, encoding: Encoding, answer: &mut Vec<u8>) {
        let mut table = self.table.lock().expect(UNPOISONED);
        let response = match request {
            NodeRequest::Put { key, value, .. } => {
                table.insert(key.to_vec(), value.to_vec());
                Response::Ok
            }
            NodeRequest::Delete { key } => {
                table.remove(key);
                Response::Ok
            }
            NodeRequest::Get { key } => table.get(key).map_or(Response::NotFound, |value| Response::Value(value)),
            NodeRequest::Info => {
                let addr = self.addr.get().map_or("", NodeAddr::as_str);
                Response::Text(format!("OK Node {addr} keys={}", table.len()))
            }
            NodeRequest::Ping => Response::Pong,
            NodeRequest::Quit => Response::Ok,
            _ => Response::Error(ErrorReply::UnknownCommand),
        };
        response.encode(encoding, answer);
    }
}
