//! The cluster under test: a coordinator that keeps its state on disk, and nodes that keep theirs in memory.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::target::in_words;
use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion};
use proto::id::Incarnation;
use proto::slot::Position;

use crate::network::Network;
use crate::server::Server;

/// The number of replicas beside the primary.
const REPLICAS: &str = "2";

/// A node's positions on the ring: enough that each of five nodes leads a fair share.
const VIRTUAL_NODES: &str = "16";

/// How long the cluster may take until every slot has all its copies, once nothing disturbs it any more.
pub(crate) const HEALTHY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it must have stayed so. A coordinator that was paused handles the requests it got meanwhile when it goes
/// on.
const STABLE_FOR: Duration = Duration::from_millis(500);

/// How often a node that is to leave is decommissioned again. A node that was killed just after it left comes back as a
/// new one.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the coordinator may take to answer.
const ANSWER: Duration = Duration::from_millis(500);

/// The processes, and the hosts they run on.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) network: Network,
    /// The nodes, followed by the coordinator. A server's index is its host.
    servers: Vec<Server>,
    coordinator: SocketAddr,
    /// The newest map seen from the coordinator.
    last_map: Option<ClusterMap>,
    /// The incarnations that were killed or stopped. They no longer hold anything.
    gone: BTreeSet<Incarnation>,
}

impl Cluster {
    /// Starts a coordinator and the first `size` of `nodes` nodes from the programs in `programs`, with their files in
    /// `dir`, and waits until every slot has all its copies. The coordinator listens on `port`, the nodes on the ports
    /// after it.
    pub(crate) fn start(
        network: Network,
        nodes: usize,
        size: usize,
        port: u16,
        programs: &Path,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let coordinator_host = network.address(nodes);
        let data = dir.join("coordinator-data").display().to_string();
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let own_port = port.to_string();
        let mut servers = Vec::new();
        for node in 0..nodes {
            let node_port = port.checked_add(u16::try_from(node + 1)?).context("--port is too large")?.to_string();
            let host = network.address(node);
            let args = ["--host", &host, "--port", &node_port, "--coordinator-host", &coordinator_host];
            let args = [words(&args), words(&["--coordinator-port", &own_port])].concat();
            let mut server = Server::new(format!("node-{}", node + 1), node, &programs.join("node"), args, dir);
            server.is_wanted = node < size;
            servers.push(server);
        }
        let args = ["--host", &coordinator_host, "--port", &own_port, "--data-dir", &data];
        let more = ["--replicas", REPLICAS, "--virtual-nodes", VIRTUAL_NODES];
        let args = [words(&args), words(&more)].concat();
        servers.push(Server::new("coordinator".to_owned(), nodes, &programs.join("coordinator"), args, dir));
        let coordinator = format!("{coordinator_host}:{port}").parse().context("the coordinator has no address")?;
        let mut cluster = Self { network, servers, coordinator, last_map: None, gone: BTreeSet::new() };
        // The coordinator first, though nodes would wait for it.
        for server in cluster.servers.iter_mut().rev().filter(|server| server.is_wanted) {
            server.start(&cluster.network)?;
        }
        cluster.await_whole()?;
        Ok(cluster)
    }

    /// The coordinator's address.
    pub(crate) fn coordinator_addr(&self) -> SocketAddr {
        self.coordinator
    }

    /// The largest possible number of nodes. It is also the number of the coordinator among the servers.
    pub(crate) fn nodes(&self) -> usize {
        self.servers.len() - 1
    }

    /// A server, by number.
    pub(crate) fn server(&self, number: usize) -> &Server {
        self.servers.get(number).expect("servers are chosen among those that there are")
    }

    /// A server, by number, for changing its state.
    pub(crate) fn server_mut(&mut self, number: usize) -> &mut Server {
        self.servers.get_mut(number).expect("servers are chosen among those that there are")
    }

    /// All servers.
    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Starts a server again.
    pub(crate) fn start_server(&mut self, number: usize) -> anyhow::Result<()> {
        let server = self.servers.get_mut(number).expect("servers are chosen among those that there are");
        server.start(&self.network)
    }

    /// The nodes that should be in the cluster, or those that should not.
    pub(crate) fn wanted(&self, is_wanted: bool) -> Vec<usize> {
        (0..self.nodes()).filter(|node| self.server(*node).is_wanted == is_wanted).collect()
    }

    /// Starts another node.
    pub(crate) fn add(&mut self, node: usize) -> anyhow::Result<()> {
        self.server_mut(node).is_wanted = true;
        self.start_server(node)
    }

    /// Has a node leave.
    pub(crate) fn remove(&mut self, node: usize) -> anyhow::Result<()> {
        self.server_mut(node).is_wanted = false;
        self.decommission(node)
    }

    /// If the coordinator does not answer, it is asked again, see [`AGAIN`].
    fn decommission(&self, node: usize) -> anyhow::Result<()> {
        let request = format!("DECOMMISSION {}\n", self.node_addr(node)?);
        let Ok(answer) = ask(self.coordinator, &request, |_| true).map(|lines| lines.concat()) else { return Ok(()) };
        let is_good = answer.starts_with("OK ") || answer.ends_with(" not found");
        anyhow::ensure!(is_good, "the coordinator refused to decommission {}: {answer}", self.server(node).name);
        Ok(())
    }

    /// Notes that a node is about to lose its memory.
    pub(crate) fn will_forget(&mut self, node: usize) {
        let incarnations = self.incarnations(node);
        self.gone.extend(incarnations);
    }

    /// The incarnations at a node's address in the newest map seen.
    pub(crate) fn incarnations(&self, node: usize) -> Vec<Incarnation> {
        let Ok(addr) = self.node_addr(node).map(|addr| addr.to_string()) else { return Vec::new() };
        let members = self.last_map.iter().flat_map(ClusterMap::members);
        members.filter(|(_, member)| member.addr.as_str() == addr).map(|(incarnation, _)| incarnation).collect()
    }

    fn node_addr(&self, node: usize) -> anyhow::Result<SocketAddr> {
        let port = self.coordinator.port() + u16::try_from(node + 1)?;
        format!("{}:{port}", self.network.address(node)).parse().context("a node has no address")
    }

    /// The coordinator's map, or the last one seen if it does not answer.
    pub(crate) fn map(&mut self) -> Option<&ClusterMap> {
        if let Ok(Some(map)) = read_map(self.coordinator) {
            self.last_map = Some(map);
        }
        self.last_map.as_ref()
    }

    /// Checks whether any server has exited.
    ///
    /// # Errors
    /// If one has and should not have.
    pub(crate) fn look_after(&mut self) -> anyhow::Result<()> {
        self.servers.iter_mut().try_for_each(Server::look_after)
    }

    /// Whether a node leads the slot of a key, according to the newest map seen.
    pub(crate) fn leads(&self, node: usize, key: &str) -> bool {
        let Some(map) = &self.last_map else { return false };
        let primary = map.config(map.bits().slot(&Position::of(key.as_bytes()))).primary;
        primary.is_some_and(|primary| self.incarnations(node).contains(&primary))
    }

    /// What the servers report about themselves.
    pub(crate) fn state(&self) -> String {
        let mut told = Vec::new();
        for server in &self.servers {
            let lines = if server.host == self.nodes() {
                let both = ["STATUS\n", "MAP\n"].map(|request| ask(self.coordinator, request, str::is_empty));
                both.into_iter().collect::<Result<Vec<_>, _>>().map(|both| both.concat())
            } else {
                self.node_addr(server.host).and_then(|addr| ask(addr, "INFO\n", |_| true))
            };
            told.push(format!("{}:", server.name));
            told.extend(lines.unwrap_or_else(|error| vec![format!("{error:#}")]));
        }
        told.join("\n")
    }

    /// Waits until exactly the wanted nodes are up, and every slot has all the copies that it can have on them. Returns
    /// how long that took.
    ///
    /// # Errors
    /// If it does not happen in time, with what is missing.
    pub(crate) fn await_whole(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        // The version of a map that lacks nothing, and when it was first seen.
        let mut whole: Option<(MapVersion, Instant)> = None;
        let mut told = start;
        loop {
            self.look_after()?;
            if told.elapsed() >= AGAIN {
                told = Instant::now();
                for node in self.wanted(false).into_iter().filter(|node| self.server(*node).is_running()) {
                    self.decommission(node)?;
                }
            }
            let missing = match (self.look_whether_whole(), whole) {
                (Ok(version), Some((seen, since))) if seen == version => {
                    if since.elapsed() >= STABLE_FOR {
                        return Ok(since - start);
                    }
                    None
                }
                (Ok(version), _) => {
                    whole = Some((version, Instant::now()));
                    Some("its map changes".to_owned())
                }
                (Err(missing), _) => {
                    whole = None;
                    Some(missing)
                }
            };
            if let Some(missing) = missing.filter(|_| start.elapsed() >= HEALTHY_TIMEOUT) {
                anyhow::bail!("the cluster is not healthy {HEALTHY_TIMEOUT:?} after the last fault: {missing}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The version of the map if it lacks nothing, and otherwise what is missing.
    fn look_whether_whole(&mut self) -> Result<MapVersion, String> {
        for server in &self.servers {
            if server.is_wanted && !server.has_started() {
                return Err(format!("{} has not reported that it is serving", server.name));
            }
            if !server.is_wanted && server.is_running() {
                return Err(format!("{} was decommissioned and still runs", server.name));
            }
        }
        let map = read_map(self.coordinator).map_err(|error| format!("cannot get the coordinator's map: {error:#}"))?;
        let map = map.ok_or("the coordinator has no map")?;
        let missing = missing(&map, self.wanted(true).len(), &self.gone);
        let version = map.version;
        self.last_map = Some(map);
        missing.map_or(Ok(version), Err)
    }
}

/// What a map lacks to be that of a complete cluster.
fn missing(map: &ClusterMap, nodes: usize, gone: &BTreeSet<Incarnation>) -> Option<String> {
    let up = map.members().filter(|(incarnation, member)| member.up && !gone.contains(incarnation)).count();
    if up != nodes || map.members().count() != nodes {
        return Some(format!("{up} of {nodes} nodes are up, of {} in the map", map.members().count()));
    }
    if !map.departures.leaving.is_empty() {
        return Some(format!("still leaving: {:?}", map.departures.leaving));
    }
    let copies = map.cluster_settings.copies().min(nodes);
    let mut poor = map.slots().filter(|(_, config)| {
        config.primary.is_none() || config.isr.len() != copies || !config.learners.is_empty() || !config.elr.is_empty()
    });
    let (slot, config) = poor.next()?;
    let count = poor.count() + 1;
    Some(format!("{count} slots have not {copies} copies in sync and nothing else; slot {} is {config:?}", slot.0))
}

/// The coordinator's map; `None` if it has none yet.
fn read_map(coordinator: SocketAddr) -> anyhow::Result<Option<ClusterMap>> {
    let lines = ask(coordinator, "MAP\n", |line| line.is_empty() || line.starts_with("ERROR "))?;
    if lines.last().is_some_and(|last| last.starts_with("ERROR ")) {
        return Ok(None);
    }
    let lines = lines.iter().filter(|line| !line.is_empty());
    let update = MapUpdate::parse(lines.map(String::as_str))?;
    Ok(Some(ClusterMap::updated(None, &update)?))
}

/// The lines of an answer, up to and including its last.
fn ask(server: SocketAddr, request: &str, is_last: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER).context("cannot connect")?;
    stream.set_read_timeout(Some(ANSWER)).context("cannot set up the connection")?;
    stream.write_all(request.as_bytes()).context("cannot send the request")?;
    let mut answer = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|error| in_words(error, ANSWER)).context("cannot read its answer")?;
        let ends = is_last(&line);
        answer.push(line);
        if ends {
            return Ok(answer);
        }
    }
    anyhow::bail!("the answer was cut short")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_reported_in_words() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = ask(silent.local_addr().unwrap(), "MAP\n", |_| true).unwrap_err();
        assert_eq!(format!("{error:#}"), "cannot read its answer: nothing arrived for 0.5 s");
    }
}
