//! Inbound connections, as `CLIENT LIST` reports them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::time::Timestamp;
use net::listener::Shared;
use proto::commands::COMMANDS;
use tokio::net::TcpStream;

/// All client connections, and their counters.
#[derive(Debug)]
pub struct Clients {
    /// The operator's settings, and the connection counters.
    pub shared: Arc<Shared>,
    connected: Mutex<BTreeMap<u64, Arc<Client>>>,
    last_id: AtomicU64,
    /// Commands without keys that were carried out.
    commands: AtomicU64,
    /// When the command rate was last computed, the total then, and the rate per second.
    rate: Mutex<(Timestamp, u64, u64)>,
}

/// One client connection.
#[derive(Debug)]
pub struct Client {
    /// Its number; later connections have higher ones.
    pub id: u64,
    addr: Option<SocketAddr>,
    local_addr: Option<SocketAddr>,
    since: Timestamp,
    /// When something last arrived from it, in microseconds of the node's clock.
    heard: AtomicU64,
    /// The index of its last command in the table of commands.
    command: AtomicUsize,
    details: Mutex<Details>,
}

/// What a client has said about itself.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// Its name.
    pub name: String,
    /// The library that it uses.
    pub library: String,
    /// That library's version.
    pub library_version: String,
    /// It has chosen RESP3.
    pub is_three: bool,
    /// It has sent `CLIENT NO-EVICT on`.
    pub no_evict: bool,
    /// It has sent `CLIENT NO-TOUCH on`.
    pub no_touch: bool,
}

/// A connection's entry in the list, which lasts as long as this value.
#[derive(Debug)]
pub struct Listed {
    clients: Arc<Clients>,
    /// The listed client.
    pub client: Arc<Client>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.client.id);
    }
}

impl Clients {
    /// Starts without connections.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            connected: Mutex::default(),
            last_id: AtomicU64::new(0),
            commands: AtomicU64::new(0),
            rate: Mutex::default(),
        })
    }

    /// Adds a connection to the list.
    #[must_use]
    pub fn list(self: &Arc<Self>, stream: &TcpStream, now: Timestamp) -> Listed {
        let client = Arc::new(Client {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            addr: stream.peer_addr().ok(),
            local_addr: stream.local_addr().ok(),
            since: now,
            heard: AtomicU64::new(now.0),
            command: AtomicUsize::new(usize::MAX),
            details: Mutex::default(),
        });
        self.lock().insert(client.id, Arc::clone(&client));
        Listed { clients: Arc::clone(self), client }
    }

    /// How many connections there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// The connections with these numbers, or all, ordered by number.
    #[must_use]
    pub fn select(&self, ids: Option<&BTreeSet<u64>>) -> Vec<Arc<Client>> {
        let connected = self.lock();
        match ids {
            None => connected.values().cloned().collect(),
            Some(ids) => ids.iter().filter_map(|id| connected.get(id).cloned()).collect(),
        }
    }

    /// Counts a command without keys.
    pub fn add_command(&self) {
        self.commands.fetch_add(1, Ordering::Relaxed);
    }

    /// How many commands without keys were carried out.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.commands.load(Ordering::Relaxed)
    }

    /// The number of commands per second, averaged since the last computation; recomputed after a second at the
    /// earliest. `total` is the number of commands so far.
    #[must_use]
    pub fn rate(&self, now: Timestamp, total: u64) -> u64 {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, before, _) = *rate;
        let millis = u64::try_from((now - at).as_millis()).unwrap_or(u64::MAX);
        if millis >= 1_000 {
            *rate = (now, total, total.saturating_sub(before).saturating_mul(1_000) / millis);
        }
        rate.2
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Notes that requests of it have arrived, the last of them this command if known.
    pub fn heard(&self, now: Timestamp, command: Option<usize>) {
        self.heard.store(now.0, Ordering::Relaxed);
        if let Some(command) = command {
            self.command.store(command, Ordering::Relaxed);
        }
    }

    /// The address that it connects from.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// What it has said about itself.
    pub fn details(&self) -> MutexGuard<'_, Details> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its line in the list, without a line end. Figures that this node does not keep per connection are left out.
    #[must_use]
    pub fn line(&self, now: Timestamp) -> String {
        let Details { name, library, library_version, is_three, no_evict, no_touch } = self.details().clone();
        let addr = |addr: Option<SocketAddr>| addr.map_or_else(|| "?:0".to_owned(), |addr| addr.to_string());
        let flags = match (no_evict, no_touch) {
            (false, false) => "N",
            (true, false) => "e",
            (false, true) => "T",
            (true, true) => "eT",
        };
        let command = COMMANDS.get(self.command.load(Ordering::Relaxed)).map_or("NULL", |command| command.name);
        format!(
            "id={} addr={} laddr={} name={name} age={} idle={} flags={flags} db=0 sub=0 psub=0 ssub=0 multi=-1 \
             events=r cmd={command} user=default redir=-1 resp={} lib-name={library} lib-ver={library_version}",
            self.id,
            addr(self.addr),
            addr(self.local_addr),
            (now - self.since).as_secs(),
            (now - Timestamp(self.heard.load(Ordering::Relaxed))).as_secs(),
            if is_three { 3 } else { 2 },
        )
    }
}
