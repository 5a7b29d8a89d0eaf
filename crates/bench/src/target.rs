//! Where requests are sent: one server, or the nodes of a cluster, each with the keys it leads.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use password::Password;
use proto::cluster_map::{ClusterMap, MapUpdate};
use proto::frame;
use proto::id::Incarnation;
use proto::slot::Position;

use crate::keys::{Numbers, Sizes};
use crate::request::Dialect;

/// How long a cluster may take to be complete.
const PATIENCE: Duration = Duration::from_secs(60);

/// A map that has not changed for this long counts as settled: hand-overs come one after the other.
const SETTLED: Duration = Duration::from_millis(1_500);

/// How long connecting, and an answer to a request outside the load, may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A server as named on the command line: its address, and the processes that do its work.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its address.
    pub addr: SocketAddr,
    /// Its processes.
    pub pids: Vec<u32>,
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected IP:PORT, or IP:PORT/PID,PID,... such as 127.0.0.1:5000/4711,4712";
        let (addr, pids) = text.split_once('/').map_or((text, None), |(addr, pids)| (addr, Some(pids)));
        let pids = pids.into_iter().flat_map(|pids| pids.split(',')).map(str::parse);
        Ok(Self {
            addr: addr.parse().map_err(|_| EXPECTED)?,
            pids: pids.collect::<Result<_, _>>().map_err(|_| EXPECTED)?,
        })
    }
}

/// A cluster as named on the command line.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// How many nodes it has.
    pub nodes: usize,
    /// The address of its coordinator, and the processes of its nodes.
    pub coordinator: Place,
    /// What is special about it, for its name in the table; may be empty.
    pub remark: String,
}

impl FromStr for Cluster {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected NODES@IP:PORT, such as 3@127.0.0.1:5000";
        let (text, remark) = text.split_once('#').unwrap_or((text, ""));
        let (nodes, coordinator) = text.split_once('@').ok_or(EXPECTED)?;
        let nodes = nodes.parse().map_err(|_| EXPECTED)?;
        Ok(Self { nodes, coordinator: coordinator.parse()?, remark: remark.to_owned() })
    }
}

/// Something to measure.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name in tables.
    pub name: String,
    /// Its servers. Connections are spread evenly over them.
    pub servers: Vec<Server>,
    /// The processes that do the work.
    pub pids: Vec<u32>,
    /// How it is told to store a value.
    pub dialect: Dialect,
    /// The numbers of all its keys; inserted keys have numbers after these.
    pub keys: Range<u32>,
    /// The password its servers are given first.
    pub password: Option<Password>,
    map: Option<Arc<ClusterMap>>,
}

/// One server of a target.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address.
    pub addr: SocketAddr,
    /// The keys requested from it.
    pub numbers: Numbers,
    node: Option<Incarnation>,
}

impl Target {
    /// A single server that holds all keys.
    #[must_use]
    pub fn single(name: &str, at: &Place, dialect: Dialect, keys: Range<u32>) -> Self {
        let servers = vec![Server { addr: at.addr, numbers: Numbers::Range(keys.clone()), node: None }];
        Self { name: name.to_owned(), servers, pids: at.pids.clone(), dialect, keys, password: None, map: None }
    }

    /// The nodes of a cluster, as named in its map.
    ///
    /// # Errors
    /// If the map names a node that cannot be found, or too few of the keys have a primary.
    pub fn of_map(
        name: String,
        map: ClusterMap,
        pids: Vec<u32>,
        keys: Range<u32>,
        sizes: Sizes,
    ) -> anyhow::Result<Self> {
        let mut led: BTreeMap<Incarnation, Vec<u32>> = BTreeMap::new();
        for number in keys.clone() {
            let slot = map.bits().slot(&Position::of(&sizes.make_key(number)));
            let primary = map.config(slot).primary.context("a slot has lost its primary")?;
            led.entry(primary).or_default().push(number);
        }
        let servers = led.into_iter().map(|(primary, numbers)| {
            let member = map.member(primary).context("the primary of a slot is not a member")?;
            let addr = resolve(member.addr.as_str())?;
            Ok(Server { addr, numbers: Numbers::List(numbers.into()), node: Some(primary) })
        });
        let servers = servers.collect::<anyhow::Result<_>>()?;
        Ok(Self { name, servers, pids, dialect: Dialect::Put, keys, password: None, map: Some(Arc::new(map)) })
    }

    /// Waits until all nodes of a cluster are up and their slots have settled.
    ///
    /// # Errors
    /// If that takes longer than a minute.
    pub fn cluster(at: &Cluster, keys: Range<u32>, sizes: Sizes) -> anyhow::Result<Self> {
        let map = settled_map(at)?;
        let mut name = if at.nodes == 1 { "one node".to_owned() } else { format!("{} nodes", at.nodes) };
        if !at.remark.is_empty() {
            name = format!("{name}, {}", at.remark);
        }
        Self::of_map(name, map, at.coordinator.pids.clone(), keys, sizes)
    }

    /// Whether a server leads a key.
    pub(crate) fn leads(&self, server: &Server, key: &[u8]) -> bool {
        match &self.map {
            Some(map) => map.config(map.bits().slot(&Position::of(key))).primary == server.node,
            None => true,
        }
    }
}

/// Resolves a host and port.
///
/// # Errors
/// If there is no such host.
pub fn resolve(host_and_port: &str) -> anyhow::Result<SocketAddr> {
    let mut found = host_and_port.to_socket_addrs().with_context(|| format!("cannot look up {host_and_port}"))?;
    found.next().with_context(|| format!("{host_and_port} has no address"))
}

/// Sends one request as an array and returns the first line of the answer.
///
/// # Errors
/// If the server cannot be reached or does not answer in time.
pub fn ask<W: AsRef<[u8]>>(addr: SocketAddr, password: Option<&Password>, words: &[W]) -> anyhow::Result<String> {
    let mut stream = connect(addr, password)?;
    let mut request = Vec::new();
    frame::encode_array(words, &mut request);
    stream.write_all(&request).with_context(|| format!("cannot send to {addr}"))?;
    answer_line(&stream, addr)
}

/// Whether a server answers a line with RESP, as Redis does. Ours answer a line with a line.
///
/// # Errors
/// As [`ask`].
pub fn answers_in_resp(addr: SocketAddr, password: Option<&Password>) -> anyhow::Result<bool> {
    let mut stream = connect(addr, password)?;
    stream.write_all(b"PING\r\n").with_context(|| format!("cannot send to {addr}"))?;
    Ok(answer_line(&stream, addr)?.starts_with(['+', '-']))
}

fn answer_line(stream: &TcpStream, addr: SocketAddr) -> anyhow::Result<String> {
    let mut line = Vec::new();
    let read = BufReader::new(stream).read_until(b'\n', &mut line).map_err(|error| in_words(error, ANSWER));
    read.with_context(|| format!("no answer of {addr}"))?;
    anyhow::ensure!(line.ends_with(b"\n"), "no answer of {addr}: it closed the connection");
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// The error of a read with a timeout. If that has expired, the system's error is one of sockets that do not block, and
/// names no time.
#[must_use]
pub fn in_words(error: io::Error, timeout: Duration) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            io::Error::new(ErrorKind::TimedOut, format!("nothing arrived for {} s", timeout.as_secs_f64()))
        }
        _ => error,
    }
}

/// Connects, and authenticates if there is a password.
pub(crate) fn connect(addr: SocketAddr, password: Option<&Password>) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&addr, ANSWER).with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_read_timeout(Some(ANSWER)).context("cannot set up a connection")?;
    stream.set_nodelay(true).context("cannot set up a connection")?;
    if let Some(password) = password {
        let mut request = Vec::new();
        frame::encode_array(&["AUTH", password.as_str()], &mut request);
        stream.write_all(&request).with_context(|| format!("cannot send to {addr}"))?;
        let answer = answer_line(&stream, addr)?;
        anyhow::ensure!(answer == "+OK", "{addr} rejected the password: {}", answer.trim_start_matches('-'));
    }
    Ok(stream)
}

fn settled_map(at: &Cluster) -> anyhow::Result<ClusterMap> {
    let deadline = Instant::now() + PATIENCE;
    let mut unchanged: Option<(ClusterMap, Instant)> = None;
    while Instant::now() < deadline {
        let map = read_map(at.coordinator.addr, None)?.filter(|map| stands(map, at.nodes));
        match (map, &unchanged) {
            (Some(map), Some((known, since))) if map.version == known.version => {
                if since.elapsed() >= SETTLED {
                    return Ok(map);
                }
            }
            (map, _) => unchanged = map.map(|map| (map, Instant::now())),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("its {} nodes did not settle within {PATIENCE:?}", at.nodes)
}

/// Whether all nodes are up, every slot has a primary, and no copy is still being filled.
fn stands(map: &ClusterMap, nodes: usize) -> bool {
    let up = map.members().filter(|(_, member)| member.up).count();
    up == nodes && map.slots().all(|(_, config)| config.primary.is_some() && config.learners.is_empty())
}

/// Waits for a map in which every slot has a primary, and returns it.
///
/// # Errors
/// If the coordinator cannot be reached, or its cluster is not complete in time.
pub fn serving_map(
    coordinator: SocketAddr,
    password: Option<&Password>,
    patience: Duration,
) -> anyhow::Result<ClusterMap> {
    let deadline = Instant::now() + patience;
    loop {
        let map = read_map(coordinator, password)?;
        match map.filter(|map| map.slots().all(|(_, config)| config.primary.is_some())) {
            Some(map) => return Ok(map),
            None if Instant::now() >= deadline => {
                anyhow::bail!("the cluster has keys that no node leads; have its nodes been started?")
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The coordinator's current map; `None` if it has none yet.
fn read_map(coordinator: SocketAddr, password: Option<&Password>) -> anyhow::Result<Option<ClusterMap>> {
    let mut stream = connect(coordinator, password).context("cannot reach the coordinator")?;
    stream.write_all(b"MAP\n").context("cannot ask the coordinator for its map")?;
    let mut lines: Vec<String> = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.map_err(|error| in_words(error, ANSWER)).context("cannot read the coordinator's map")?;
        if line == "ERROR Unknown command" || line.starts_with('-') {
            anyhow::bail!("{coordinator} is not a coordinator: it answered {line}");
        }
        anyhow::ensure!(!line.starts_with("ERROR NOAUTH"), "the coordinator requires a password: {line}");
        if line.starts_with("ERROR ") {
            return Ok(None);
        }
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let update = MapUpdate::parse(lines.iter().map(String::as_str))?;
    Ok(Some(ClusterMap::updated(None, &update)?))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_is_silent_or_closes_the_connection_is_reported_in_words() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stream = connect(addr, None).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let silent = answer_line(&stream, addr).unwrap_err();
        assert_eq!(format!("{silent:#}"), format!("no answer of {addr}: nothing arrived for 5 s"));
        drop(listener.accept().unwrap());
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let closed = answer_line(&stream, addr).unwrap_err();
        assert_eq!(format!("{closed:#}"), format!("no answer of {addr}: it closed the connection"));
    }
}
