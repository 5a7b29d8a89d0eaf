//! A coordinator with its nodes, each in its own process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use proto::cluster_map::{ClusterMap, MapUpdate};
use proto::id::NodeAddr;
use proto::slot::{Position, SlotId};

use crate::connection::Connection;
use crate::server::{self, Server};
use crate::wait::{self, eventually};

mod waits;

/// The composition of a cluster. Set what a test is about and leave the rest: `Setup { nodes: 4, ..Setup::default() }`.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The number of nodes.
    pub nodes: usize,
    /// `--replicas`.
    pub replicas: usize,
    /// `--virtual-nodes`. By default enough that each of three nodes leads a fair share, whatever their ports.
    pub virtual_nodes: u32,
    /// `--heartbeat-timeout`.
    pub heartbeat_timeout: &'static str,
    /// `--replace-after`: short, so that a dead node is replaced while a test waits for it.
    pub replace_after: &'static str,
    /// The coordinator's `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// If set, each node has its own data directory below it, named by its index.
    pub node_data: Option<PathBuf>,
    /// The password in [`PASSWORD_FILE`], if the cluster is to have one.
    pub password: Option<&'static str>,
    /// More arguments for the coordinator.
    pub coordinator_args: &'static [&'static str],
    /// More arguments for every node.
    pub node_args: &'static [&'static str],
}

/// A file that holds the password [`PASSWORD`] and nothing else.
pub const PASSWORD_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/auth/password.txt");

/// The content of that file.
pub const PASSWORD: &str = "a-Secret:of/the~tests";

/// A running cluster. Dropping it kills all its processes.
#[derive(Debug)]
pub struct Cluster {
    /// Its coordinator.
    pub coordinator: Server,
    nodes: Vec<Server>,
    setup: Setup,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 3,
            replicas: 2,
            virtual_nodes: 16,
            heartbeat_timeout: "10s",
            replace_after: "500ms",
            data_dir: None,
            node_data: None,
            password: None,
            coordinator_args: &[],
            node_args: &[],
        }
    }
}

impl Setup {
    /// Starts the cluster, and waits until every slot is in its place and every node knows it.
    ///
    /// # Panics
    /// When that does not happen.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Cluster {
        let coordinator = self.start_coordinator(0).ready();
        // All at once: they start in parallel and share the first map.
        let starting: Vec<_> = (0..self.nodes).map(|index| self.start_node(index, coordinator.port, 0)).collect();
        let nodes = starting.into_iter().map(server::Starting::ready).collect();
        let cluster = Cluster { coordinator, nodes, setup: self };
        cluster.wait_until_settled();
        cluster.wait_until_map_everywhere();
        cluster
    }

    fn start_coordinator(&self, port: u16) -> server::Starting {
        let (replicas, virtual_nodes) = (self.replicas.to_string(), self.virtual_nodes.to_string());
        let args = ["--replicas", &replicas, "--virtual-nodes", &virtual_nodes].into_iter().chain([
            "--heartbeat-timeout",
            self.heartbeat_timeout,
            "--replace-after",
            self.replace_after,
        ]);
        let args: Vec<&str> = args.collect();
        let data_dir =
            self.data_dir.as_deref().map(|dir| dir.to_str().expect("a temporary directory has a plain name"));
        let kept: Vec<&str> = data_dir.into_iter().flat_map(|dir| ["--data-dir", dir]).collect();
        server::start_coordinator(
            port,
            &[args.as_slice(), kept.as_slice(), &self.password_args(), self.coordinator_args].concat(),
        )
    }

    fn password_args(&self) -> Vec<&'static str> {
        self.password.iter().flat_map(|_| ["--password-file", PASSWORD_FILE]).collect()
    }

    /// The data directory of a node, if nodes have one.
    #[must_use]
    pub fn data_of(&self, index: usize) -> Option<PathBuf> {
        self.node_data.as_ref().map(|data| data.join(format!("node-{index}")))
    }

    fn start_node(&self, index: usize, coordinator_port: u16, port: u16) -> server::Starting {
        let data =
            self.data_of(index).map(|data| data.to_str().expect("a temporary directory has a plain name").to_owned());
        let kept: Vec<&str> = data.iter().flat_map(|dir| ["--data-dir", dir.as_str()]).collect();
        server::start_node(coordinator_port, port, &[kept.as_slice(), &self.password_args(), self.node_args].concat())
    }
}

/// A cluster of three nodes shared by several concurrent tests, so that not every test has to start its own. The tests
/// use separate keys and leave its processes alone. It is dropped with the last of them.
///
/// # Panics
/// When it does not start.
#[must_use]
#[track_caller]
pub fn shared() -> Arc<Cluster> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let cluster = Arc::new(Setup::default().start());
        *shared = Arc::downgrade(&cluster);
        cluster
    })
}

impl Cluster {
    /// The nodes, in the order in which they were started, including those that were killed.
    #[must_use]
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    /// A node, by its index in that order.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    #[track_caller]
    pub fn node(&self, index: usize) -> &Server {
        self.nodes.get(index).expect("the cluster has such a node")
    }

    /// A node, by its index in that order.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    #[track_caller]
    pub fn node_mut(&mut self, index: usize) -> &mut Server {
        self.nodes.get_mut(index).expect("the cluster has such a node")
    }

    /// The nodes that have not ended, with their indices.
    pub fn running(&self) -> impl Iterator<Item = (usize, &Server)> {
        self.nodes.iter().enumerate().filter(|(_, node)| !node.process.has_ended())
    }

    /// Whether fewer nodes run than a majority of the copies of a slot.
    fn few_run(&self) -> bool {
        self.running().count() <= self.setup.replicas.div_ceil(2)
    }

    /// A connection to a process of the cluster, authenticated if necessary.
    #[must_use]
    #[track_caller]
    pub fn open(&self, addr: &str) -> Connection {
        let mut connection = Connection::open(addr);
        if let Some(password) = self.setup.password {
            assert_eq!(connection.ask(&format!("AUTH {password}")), "OK");
        }
        connection
    }

    /// A connection to a node.
    #[must_use]
    #[track_caller]
    pub fn connect(&self, index: usize) -> Connection {
        self.open(&self.node(index).addr)
    }

    /// A connection to a node, set to these levels for writes and reads.
    #[must_use]
    #[track_caller]
    pub fn connect_at(&self, index: usize, ack: &str, read: &str) -> Connection {
        let mut connection = self.connect(index);
        for request in [format!("ACK {ack}"), format!("READ {read}")] {
            assert_eq!(connection.ask(&request), "OK", "{request}");
        }
        connection
    }

    /// The index of the node with this address.
    ///
    /// # Panics
    /// When no node has it.
    #[must_use]
    #[track_caller]
    pub fn index_of(&self, addr: &str) -> usize {
        let found = self.nodes.iter().position(|node| node.addr == addr);
        found.unwrap_or_else(|| panic!("{addr} is no node of this cluster"))
    }

    /// The addresses of the registered nodes, sorted, as the coordinator lists them.
    #[must_use]
    #[track_caller]
    pub fn listed(&self) -> Vec<String> {
        let mut connection = self.open(&self.coordinator.addr);
        let head = connection.ask("LIST_NODES");
        if head == "OK No nodes registered" {
            return Vec::new();
        }
        assert_eq!(head, "OK Nodes:");
        let line = |line: String| line.strip_prefix("  ").expect("two blanks before each address").to_owned();
        connection.lines().into_iter().map(line).collect()
    }

    /// The nodes that hold a key, the primary first, according to the coordinator.
    ///
    /// # Panics
    /// When no node does.
    #[must_use]
    #[track_caller]
    pub fn holders(&self, key: &str) -> Vec<String> {
        let lines = self.open(&self.coordinator.addr).ask_lines(&format!("GET_NODES_FOR_KEY {key}"));
        let roles = std::iter::once("PRIMARY ").chain(std::iter::repeat("REPLICA "));
        let holder = |(line, role): (&String, &str)| {
            line.strip_prefix(role).unwrap_or_else(|| panic!("{line:?} should start with {role:?}")).to_owned()
        };
        lines.iter().zip(roles).map(holder).collect()
    }

    /// The index of the node that leads a key.
    #[must_use]
    #[track_caller]
    pub fn leader_of(&self, key: &str) -> usize {
        self.index_of(self.holders(key).first().expect("somebody leads every key"))
    }

    /// `count` keys that a node leads now, all starting with `prefix`.
    #[must_use]
    #[track_caller]
    pub fn keys_led_by(&self, index: usize, prefix: &str, count: usize) -> Vec<String> {
        let map = self.map();
        let addr = &self.node(index).addr;
        let leads = |key: &String| {
            let mut holders = map.holders(map.bits().slot(&Position::of(key.as_bytes())));
            holders.next().is_some_and(|(_, member)| member.addr.as_str() == addr)
        };
        let keys: Vec<_> = (0..1_000_000).map(|i| format!("{prefix}:{i}")).filter(leads).take(count).collect();
        assert_eq!(keys.len(), count, "{addr} leads too little");
        keys
    }

    /// A key that a node leads now.
    #[must_use]
    #[track_caller]
    pub fn key_led_by(&self, index: usize, prefix: &str) -> String {
        self.keys_led_by(index, prefix, 1).remove(0)
    }

    /// The cluster map, as the coordinator gives it.
    ///
    /// # Panics
    /// When it gives none.
    #[must_use]
    #[track_caller]
    pub fn map(&self) -> ClusterMap {
        parse_map(&self.open(&self.coordinator.addr).ask_lines("MAP"))
    }

    /// Sets the arguments with which nodes are started from now on.
    pub fn set_node_args(&mut self, args: &'static [&'static str]) {
        self.setup.node_args = args;
    }

    /// What a node reports about itself: the `name=value` words of its INFO.
    #[must_use]
    #[track_caller]
    pub fn info(&self, index: usize) -> BTreeMap<String, String> {
        let addr = &self.node(index).addr;
        // The places of connections that have just been closed may be taken for a moment longer.
        let line = eventually(&format!("{addr} has room for one more client"), wait::SOON, || {
            let line = self.connect(index).ask("INFO");
            if line.starts_with("ERROR BUSY ") { Err(line) } else { Ok(line) }
        });
        let words = line.strip_prefix(&format!("OK Node {addr} ")).unwrap_or_else(|| panic!("INFO answered {line:?}"));
        words.split(' ').filter_map(|word| word.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    /// How many keys a node holds, as it reports itself.
    #[must_use]
    #[track_caller]
    pub fn keys_on(&self, index: usize) -> usize {
        let info = self.info(index);
        info.get("keys").and_then(|keys| keys.parse().ok()).expect("INFO has keys=N")
    }

    /// Stores `prefix:0` to `prefix:N-1` in one batch through a node, each with its own name plus `suffix` as its
    /// value, and waits until all copies have them. At level `quorum` where enough nodes run: on a busy machine a primary
    /// may be silent for so long that it is failed over, and lose what it has acknowledged at `async`.
    #[track_caller]
    pub fn store(&self, index: usize, prefix: &str, count: usize, suffix: &str) {
        let ack = if self.few_run() { "async" } else { "quorum" };
        let mut connection = self.connect_at(index, ack, "local");
        let puts: Vec<_> = (0..count).map(|i| format!("PUT {prefix}:{i} {prefix}:{i}{suffix}")).collect();
        for (put, first) in puts.iter().zip(connection.insist_all(&puts)) {
            let mut first = Some(first);
            eventually(&format!("{put:?} is stored"), wait::SOON, || {
                let answer = first.take().unwrap_or_else(|| connection.insist(put));
                // It may have taken effect or not: the same again does no harm.
                if answer.starts_with("ERROR UNKNOWN ") {
                    return Err(answer);
                }
                assert_eq!(answer, "OK", "{put}");
                Ok(())
            });
        }
        self.wait_until_level();
    }

    /// Asserts that a node returns what [`Cluster::store`] stored.
    #[track_caller]
    pub fn has(&self, index: usize, prefix: &str, count: usize, suffix: &str) {
        let mut connection = self.connect(index);
        connection.send((0..count).map(|i| format!("GET {prefix}:{i}\n")).collect::<String>());
        for i in 0..count {
            assert_eq!(connection.line(), format!("VALUE {prefix}:{i}{suffix}"), "through {}", self.node(index).addr);
        }
    }

    /// Kills a node as `kill -9` does.
    #[track_caller]
    pub fn kill(&mut self, index: usize) {
        self.node_mut(index).process.kill();
    }

    /// Restarts a node that has ended, on its old port.
    #[track_caller]
    pub fn start_node_again(&mut self, index: usize) {
        assert!(self.node(index).process.has_ended(), "a node is started again after it ended");
        let (coordinator_port, port) = (self.coordinator.port, self.node(index).port);
        *self.node_mut(index) = server::start_again(|| self.setup.start_node(index, coordinator_port, port));
    }

    /// Starts another node and returns its index.
    #[track_caller]
    pub fn add_node(&mut self) -> usize {
        self.nodes.push(self.setup.start_node(self.nodes.len(), self.coordinator.port, 0).ready());
        self.nodes.len() - 1
    }

    /// Restarts the coordinator and every node after all have ended; the nodes in parallel.
    #[track_caller]
    pub fn start_all_again(&mut self) {
        self.start_coordinator_again();
        let (setup, coordinator_port) = (&self.setup, self.coordinator.port);
        std::thread::scope(|scope| {
            for (index, node) in self.nodes.iter_mut().enumerate() {
                assert!(node.process.has_ended(), "a node is started again after it ended");
                let port = node.port;
                scope.spawn(move || {
                    *node = server::start_again(|| setup.start_node(index, coordinator_port, port));
                });
            }
        });
    }

    /// Sets the numbers with which the coordinator is started from now on.
    pub fn change(&mut self, replicas: usize, virtual_nodes: u32) {
        (self.setup.replicas, self.setup.virtual_nodes) = (replicas, virtual_nodes);
    }

    /// Restarts the coordinator on its old port.
    #[track_caller]
    pub fn start_coordinator_again(&mut self) {
        assert!(self.coordinator.process.has_ended(), "a coordinator is started again after it ended");
        let port = self.coordinator.port;
        self.coordinator = server::start_again(|| self.setup.start_coordinator(port));
    }
}

/// Parses the lines that answer `MAP`.
///
/// # Panics
/// When they are not a complete map.
#[must_use]
#[track_caller]
pub fn parse_map(lines: &[String]) -> ClusterMap {
    let update = MapUpdate::parse(lines.iter().map(String::as_str)).expect("MAP answers with a map");
    ClusterMap::updated(None, &update).expect("MAP answers with the whole map")
}

/// Whether exactly these nodes hold a slot, the first of them as its primary.
#[must_use]
pub fn is_held_by(map: &ClusterMap, slot: SlotId, wanted: &[&NodeAddr]) -> bool {
    map.holders(slot).map(|(_, member)| &member.addr).eq(wanted.iter().copied())
}
