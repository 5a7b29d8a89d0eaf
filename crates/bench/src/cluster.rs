//! Where requests are sent: the echo server, Redis, or the nodes of a cluster, each with the keys that it leads.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use proto::cluster_map::{ClusterMap, MapUpdate};
use proto::id::Incarnation;
use proto::slot::Position;

use crate::shape::{Dialect, KEYS, key};

/// How long a cluster may take until it stands.
const PATIENCE: Duration = Duration::from_secs(60);

/// A map that has not changed for so long is taken for settled: hand-overs come one after the other.
const SETTLED: Duration = Duration::from_millis(1_500);

/// How long an answer of the coordinator may take.
const ANSWER: Duration = Duration::from_secs(5);

/// A server as it is named on the command line: where it listens, and which processes do its work.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) addr: SocketAddr,
    pub(crate) pids: Vec<u32>,
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "IP:PORT is expected, or IP:PORT/PID,PID,... such as 127.0.0.1:5000/4711,4712";
        let (addr, pids) = text.split_once('/').map_or((text, None), |(addr, pids)| (addr, Some(pids)));
        let pids = pids.into_iter().flat_map(|pids| pids.split(',')).map(str::parse);
        Ok(Self {
            addr: addr.parse().map_err(|_| EXPECTED)?,
            pids: pids.collect::<Result<_, _>>().map_err(|_| EXPECTED)?,
        })
    }
}

/// A cluster as it is named on the command line.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    /// How many nodes it has.
    pub(crate) nodes: usize,
    /// Where its coordinator listens, and the processes of its nodes.
    pub(crate) coordinator: Place,
    /// What is special about it, for its name in the table; empty where nothing is.
    pub(crate) remark: String,
}

impl FromStr for Cluster {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "NODES@IP:PORT is expected, such as 3@127.0.0.1:5000";
        let (text, remark) = text.split_once('#').unwrap_or((text, ""));
        let (nodes, coordinator) = text.split_once('@').ok_or(EXPECTED)?;
        let nodes = nodes.parse().map_err(|_| EXPECTED)?;
        Ok(Self { nodes, coordinator: coordinator.parse()?, remark: remark.to_owned() })
    }
}

/// Something to be measured.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its name in the table.
    pub(crate) name: String,
    /// Where it listens, and the numbers of the keys that are asked for there. Connections are spread evenly.
    pub(crate) servers: Vec<(SocketAddr, Vec<u32>)>,
    /// The processes that do the work.
    pub(crate) pids: Vec<u32>,
    /// How it is told to store a value.
    pub(crate) dialect: Dialect,
}

impl Target {
    /// The echo server, which answers for every key.
    pub(crate) fn echo(at: &Place) -> Self {
        Self::single("the echo server", at, Dialect::Put, 0..KEYS)
    }

    /// One server that has all keys.
    pub(crate) fn single(name: &str, at: &Place, dialect: Dialect, keys: Range<u32>) -> Self {
        Self { name: name.to_owned(), servers: vec![(at.addr, keys.collect())], pids: at.pids.clone(), dialect }
    }

    /// Waits until all nodes of a cluster are there and their slots have found their places.
    pub(crate) fn cluster(at: &Cluster, keys: Range<u32>) -> anyhow::Result<Self> {
        let map = settled_map(at)?;
        let mut led: BTreeMap<Incarnation, Vec<u32>> = BTreeMap::new();
        for number in keys {
            let slot = map.bits().slot(&Position::of(&key(number)));
            let primary = map.config(slot).primary.context("a slot has lost its primary")?;
            led.entry(primary).or_default().push(number);
        }
        let servers = led.into_iter().map(|(primary, keys)| {
            let member = map.member(primary).context("a slot is led by nobody known")?;
            let addr =
                member.addr.as_str().parse().context("a node has a name for an address; give it an IP address")?;
            Ok((addr, keys))
        });
        let mut name = if at.nodes == 1 { "one node".to_owned() } else { format!("{} nodes", at.nodes) };
        if !at.remark.is_empty() {
            name = format!("{name}, {}", at.remark);
        }
        let servers = servers.collect::<anyhow::Result<_>>()?;
        Ok(Self { name, servers, pids: at.coordinator.pids.clone(), dialect: Dialect::Put })
    }
}

fn settled_map(at: &Cluster) -> anyhow::Result<ClusterMap> {
    let deadline = Instant::now() + PATIENCE;
    let mut unchanged: Option<(ClusterMap, Instant)> = None;
    while Instant::now() < deadline {
        let map = read_map(at.coordinator.addr)?.filter(|map| stands(map, at.nodes));
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
    anyhow::bail!("its {} nodes have not found their places within {PATIENCE:?}", at.nodes)
}

/// Whether all nodes are there, every slot is led, and no copy is still being filled.
fn stands(map: &ClusterMap, nodes: usize) -> bool {
    let up = map.members().filter(|(_, member)| member.up).count();
    up == nodes && map.slots().all(|(_, config)| config.primary.is_some() && config.learners.is_empty())
}

/// The map as the coordinator has it; `None` where it has none yet.
fn read_map(coordinator: SocketAddr) -> anyhow::Result<Option<ClusterMap>> {
    let mut stream = TcpStream::connect(coordinator).context("cannot connect to the coordinator")?;
    stream.set_read_timeout(Some(ANSWER)).context("cannot set up the connection")?;
    stream.write_all(b"MAP\n").context("cannot ask the coordinator for its map")?;
    let mut lines: Vec<String> = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.context("cannot read the coordinator's map")?;
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
