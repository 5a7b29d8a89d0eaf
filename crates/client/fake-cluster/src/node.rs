//! The fake node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::id::{Epoch, NodeAddr, Version};
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, Read, Wanted, Write};
use proto::range::{KeyRange, Keys};
use proto::request::NodeRequest;
use proto::response::Response;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::server::{Requests, Serve, Server};

/// What a node does with a request it has read. It answers `ACK` and `READ` in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers from its own table; nothing is replicated.
    Serve,
    /// Does nothing and never answers.
    BeSilent,
    /// Does nothing and closes the connection.
    HangUp,
    /// Carries the request out and never answers.
    ServeInSilence,
    /// Carries the request out and closes the connection: the answer is lost.
    LoseAnswer,
    /// Sends this on a new connection, and does nothing that is asked there.
    TurnAway(&'static str),
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
    table: Mutex<Table>,
    losses: Mutex<Vec<String>>,
    behaviour: watch::Sender<Behaviour>,
    requests: watch::Sender<Vec<String>>,
    identities: Mutex<Vec<Identity>>,
}

/// The client's name, and the number of the write.
type Identity = (Vec<u8>, u64);

/// What a node holds.
#[derive(Debug, Clone)]
struct Table {
    values: HashMap<Vec<u8>, (Version, Vec<u8>)>,
    /// Times to live in milliseconds, for values that have one.
    millis: HashMap<Vec<u8>, u64>,
    /// The version of the newest write.
    last: Version,
    /// The writes with an identity that took effect. They are never forgotten.
    completed: HashMap<Identity, Version>,
}

impl FakeNode {
    /// Starts a node that serves.
    pub async fn start() -> Self {
        let last = Version { epoch: Epoch(1), seq: 0 };
        let state = Arc::new(State {
            addr: OnceLock::new(),
            table: Mutex::new(Table {
                values: HashMap::new(),
                millis: HashMap::new(),
                last,
                completed: HashMap::new(),
            }),
            losses: Mutex::default(),
            behaviour: watch::Sender::new(Behaviour::Serve),
            requests: watch::Sender::new(Vec::new()),
            identities: Mutex::default(),
        });
        let server = Server::start(Arc::clone(&state)).await;
        state.addr.get_or_init(|| server.addr().clone());
        Self { server, state }
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> &NodeAddr {
        self.server.addr()
    }

    /// Sets what it does with requests from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.state.behaviour.send_replace(behaviour);
    }

    /// Puts a value into its table.
    pub fn insert(&self, key: &[u8], value: &[u8]) {
        self.state.table().apply(Write::new(key, Change::Put(value)));
    }

    /// The value in its table.
    #[must_use]
    pub fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.state.table().values.get(key).map(|(_, value)| value.clone())
    }

    /// The version of the newest write to its table. Its sequence number counts the writes that had an effect.
    #[must_use]
    pub fn last_version(&self) -> Version {
        self.state.table().last
    }

    /// Takes over from another node: from now on it holds what that node holds, including the outcomes of identified
    /// writes, and its own writes are in the next epoch.
    pub fn succeed(&self, other: &FakeNode) {
        let mut table = other.state.table().clone();
        table.last.epoch.0 += 1;
        *self.state.table() = table;
    }

    /// Sets what it reports about acknowledged writes that it lost.
    pub fn set_losses(&self, losses: &[&str]) {
        *self.state.losses.lock().expect(UNPOISONED) = losses.iter().map(|loss| (*loss).to_owned()).collect();
    }

    /// The requests it has read, whatever it did with them: the encoding, the verb and the key or level, and for a key
    /// the level that the connection asked for, such as `line GET user:1`, `line ACK quorum` and `array CAS user:1 at
    /// quorum`. The identity of a write is not included.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.borrow().clone()
    }

    /// The identities of the writes it has read, whatever it did with them: the client's name and the number.
    #[must_use]
    pub fn identities(&self) -> Vec<(String, u64)> {
        let identities = self.state.identities.lock().expect(UNPOISONED);
        identities.iter().map(|(client, seq)| (String::from_utf8_lossy(client).into_owned(), *seq)).collect()
    }

    /// Waits until it has read at least `count` requests.
    pub async fn has_read(&self, count: usize) {
        let mut requests = self.state.requests.subscribe();
        requests.wait_for(|requests| requests.len() >= count).await.expect("the sender is kept here");
    }

    /// Dies: closes all connections and refuses new ones. Keeps its table.
    pub async fn stop(&mut self) {
        self.server.stop().await;
    }

    /// Comes back to life on its old port.
    pub async fn restart(&mut self) {
        self.server.restart(Arc::clone(&self.state)).await;
    }
}

const UNPOISONED: &str = "nobody panics under this lock";

/// The levels that a connection asked for; `None` where it has not.
#[derive(Debug, Default)]
struct Asked {
    ack: Option<AckLevel>,
    read: Option<ReadLevel>,
}

impl Serve for State {
    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut requests = Requests::default();
        let mut asked = Asked::default();
        let behaviour = self.behaviour.borrow().clone();
        if let Behaviour::TurnAway(text) = behaviour {
            // A client that is already gone does not receive it. Whatever the client sends is read and discarded, since
            // closing a connection over unread bytes discards what was sent on it.
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = stream.shutdown().await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            return;
        }
        while let Some(frame) = requests.next(&mut stream).await {
            let behaviour = self.behaviour.borrow().clone();
            let encoding = frame.as_ref().map_or(Encoding::Line, |frame| frame.encoding());
            let mut answer = Vec::new();
            match frame.and_then(NodeRequest::parse) {
                Err(error) => Response::Error(error).encode(encoding, &mut answer),
                Ok(request) => {
                    self.note(encoding, &request, &asked);
                    match (request, behaviour) {
                        (NodeRequest::Ack(level), _) => {
                            asked.ack = Some(level);
                            Response::Ok.encode(encoding, &mut answer);
                        }
                        (NodeRequest::ReadLevel(level), _) => {
                            asked.read = Some(level);
                            Response::Ok.encode(encoding, &mut answer);
                        }
                        (request, Behaviour::Serve) => self.carry_out(request, encoding, &mut answer),
                        (request, Behaviour::ServeInSilence) => {
                            self.carry_out(request, encoding, &mut Vec::new());
                            std::future::pending().await
                        }
                        (request, Behaviour::LoseAnswer) => return self.carry_out(request, encoding, &mut Vec::new()),
                        (_, Behaviour::Refuse(error)) => Response::Error(error).encode(encoding, &mut answer),
                        (_, Behaviour::Say(bytes)) => answer.extend_from_slice(bytes),
                        (_, Behaviour::BeSilent) => std::future::pending().await,
                        (_, Behaviour::HangUp | Behaviour::TurnAway(_)) => return,
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
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect(UNPOISONED)
    }

    fn note(&self, encoding: Encoding, request: &NodeRequest<'_>, asked: &Asked) {
        let key = |verb: &str, key: &[u8], level: Option<String>| {
            let level = level.map(|level| format!(" at {level}")).unwrap_or_default();
            format!("{verb} {}{level}", String::from_utf8_lossy(key))
        };
        let ack = || asked.ack.map(|level| level.to_string());
        let what = match request {
            NodeRequest::PutLine { key: name, .. } => key("PUT", name, ack()),
            NodeRequest::Write(write) => {
                if let Some(identity) = write.identity {
                    let identity = (identity.client.to_vec(), identity.seq);
                    self.identities.lock().expect(UNPOISONED).push(identity);
                }
                key(verb_of(write), write.key, ack())
            }
            NodeRequest::Read(Read { key: name, wanted, .. }) => {
                key(wanted.verb(), name, asked.read.map(|level| level.to_string()))
            }
            NodeRequest::Page(page) => key("PAGE", &page.range().start, asked.read.map(|level| level.to_string())),
            NodeRequest::Count(prefix) => key("COUNT", prefix, asked.read.map(|level| level.to_string())),
            NodeRequest::Ack(level) => format!("ACK {level}"),
            NodeRequest::ReadLevel(level) => format!("READ {level}"),
            NodeRequest::Losses => "LOSSES".to_owned(),
            NodeRequest::Stats => "STATS".to_owned(),
            NodeRequest::Verify => "VERIFY".to_owned(),
            NodeRequest::Info => "INFO".to_owned(),
            NodeRequest::Ping => "PING".to_owned(),
            NodeRequest::Quit
            | NodeRequest::Peer(_)
            | NodeRequest::Server(_)
            | NodeRequest::GetMany(_)
            | NodeRequest::PutMany(_)
            | NodeRequest::Keyspace(_) => "OTHER".to_owned(),
        };
        let encoding = if encoding == Encoding::Line { "line" } else { "array" };
        self.requests.send_modify(|requests| requests.push(format!("{encoding} {what}")));
    }

    fn carry_out(&self, request: NodeRequest<'_>, encoding: Encoding, answer: &mut Vec<u8>) {
        let mut table = self.table();
        let response = match request {
            NodeRequest::PutLine { key, value } => table.apply(Write::new(key, Change::Put(value))),
            // The library makes no read-modify-writes, and asks only for values and their times to live.
            NodeRequest::Write(Write { change: Change::Modify(_), .. })
            | NodeRequest::Read(Read { wanted: Wanted::Detail(_), .. }) => Response::Error(ErrorReply::UnknownCommand),
            NodeRequest::Write(write) => table.apply(write),
            NodeRequest::Read(Read { key, wanted, .. }) => match (wanted, table.values.get(key)) {
                (Wanted::Ttl, None) => Response::Number(-2),
                (Wanted::Ttl, Some(_)) => Response::Number(table.ttl(key)),
                (_, None) => Response::NotFound,
                (Wanted::Versioned, Some((version, value))) => Response::Versioned(*version, value),
                (Wanted::Value | Wanted::Detail(_), Some((_, value))) => Response::Value(value),
            },
            NodeRequest::Stats => Response::stats(vec![format!("keys {}", table.values.len())]),
            NodeRequest::Verify => {
                Response::Lines(vec!["OK Verified equal: of 1 slots led here 1 are equal".to_owned()])
            }
            NodeRequest::Losses => {
                let losses = self.losses.lock().expect(UNPOISONED);
                if losses.is_empty() {
                    Response::Text("OK No losses".to_owned())
                } else {
                    let head = format!("OK {} losses:", losses.len());
                    Response::Lines(std::iter::once(head).chain(losses.iter().cloned()).collect())
                }
            }
            NodeRequest::Info => {
                let addr = self.addr.get().map_or("", NodeAddr::as_str);
                Response::Text(format!("OK Node {addr} keys={}", table.values.len()))
            }
            NodeRequest::Ping => Response::Pong,
            NodeRequest::Quit | NodeRequest::Ack(_) | NodeRequest::ReadLevel(_) => Response::Ok,
            NodeRequest::Page(page) => Response::Page(table.first_keys(&page.range(), page.limit)),
            NodeRequest::Count(prefix) => {
                Response::Number(table.first_keys(&Keys::Prefix(prefix).range(), usize::MAX).len() as i64)
            }
            // The library asks for each key separately.
            NodeRequest::Peer(_)
            | NodeRequest::Server(_)
            | NodeRequest::GetMany(_)
            | NodeRequest::PutMany(_)
            | NodeRequest::Keyspace(_) => Response::Error(ErrorReply::UnknownCommand),
        };
        response.encode(encoding, answer);
    }
}

fn verb_of(write: &Write<'_>) -> &'static str {
    match (write.change, write.expected) {
        (Change::Put(_), None) => "PUT",
        (Change::Put(_), Some(Version::NONE)) => "PUTNX",
        (Change::Put(_), Some(_)) => "CAS",
        (Change::PutFor(..), _) => "PUTEX",
        (Change::Delete, _) => "DELETE",
        (Change::Expire(_), _) => "EXPIRE",
        (Change::Persist, _) => "PERSIST",
        (Change::Modify(_), _) => "MODIFY",
    }
}

impl Table {
    fn ttl(&self, key: &[u8]) -> i64 {
        self.millis.get(key).map_or(-1, |left| i64::try_from(left / 1_000).expect("within the limit"))
    }

    fn first_keys(&self, range: &KeyRange, limit: usize) -> Vec<Box<[u8]>> {
        let is_in = |key: &&Vec<u8>| **key >= range.start && range.ends_after(key);
        let mut keys: Vec<Box<[u8]>> = self.values.keys().filter(is_in).map(|key| key.as_slice().into()).collect();
        keys.sort();
        keys.truncate(limit);
        keys
    }

    /// Carries out a write, unless it has been carried out before.
    fn apply(&mut self, write: Write<'_>) -> Response<'static> {
        let identity = write.identity.map(|identity| (identity.client.to_vec(), identity.seq));
        let completed = identity.as_ref().and_then(|identity| self.completed.get(identity)).copied();
        let version = match completed {
            Some(version) => version,
            None => {
                let current = self.values.get(write.key).map_or(Version::NONE, |(version, _)| *version);
                if write.expected.is_some_and(|expected| expected != current) {
                    return Response::Conflict(current);
                }
                let nothing_to_do = match write.change {
                    Change::Expire(_) => current == Version::NONE,
                    Change::Persist => !self.millis.contains_key(write.key),
                    Change::Put(_) | Change::PutFor(..) | Change::Delete | Change::Modify(_) => false,
                };
                if nothing_to_do {
                    return Response::Number(0);
                }
                self.last.seq += 1;
                self.change(write.key, write.change);
                self.completed.extend(identity.map(|identity| (identity, self.last)));
                self.last
            }
        };
        match write.expected {
            _ if write.change.is_counted() => Response::Number(1),
            Some(_) => Response::Written(version),
            None => Response::Ok,
        }
    }

    /// Time stands still here: nothing expires.
    fn change(&mut self, key: &[u8], change: Change<'_>) {
        self.millis.remove(key);
        match change {
            Change::Put(value) | Change::PutFor(value, _) => {
                self.values.insert(key.to_vec(), (self.last, value.to_vec()));
            }
            Change::Delete | Change::Expire(0) => {
                self.values.remove(key);
            }
            Change::Expire(_) | Change::Persist | Change::Modify(_) => {
                self.values.entry(key.to_vec()).and_modify(|(version, _)| *version = self.last);
            }
        }
        if let Change::PutFor(_, millis) | Change::Expire(millis @ 1..) = change {
            self.millis.insert(key.to_vec(), millis);
        }
    }
}
