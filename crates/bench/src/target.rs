//! Where requests are sent: one server, or the nodes of a cluster, each with the keys it leads.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
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

/// How long connecting, and an answer to a request outside the load, may take, if there is that much time.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);

/// The longest line of an answer to a request outside the load, in bytes.
const LINE_BYTES: u64 = 64 * 1024;

/// The longest map, in bytes, with what its lines take in memory. One with the most slots and nodes takes less.
const MAP_BYTES: usize = 64 * 1024 * 1024;

/// How often a coordinator is asked whether its cluster is complete.
const PAUSE: Duration = Duration::from_millis(50);

/// A server is there, but does not let this client in: the password is missing, wrong, or not wanted.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAdmitted(String);

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
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let mut led: BTreeMap<Incarnation, Vec<u32>> = BTreeMap::new();
        for number in keys.clone() {
            let slot = map.bits().slot(&Position::of(&sizes.make_key(number)));
            let primary = map.config(slot).primary.context("a slot has lost its primary")?;
            led.entry(primary).or_default().push(number);
        }
        // It takes a while to place millions of keys.
        let deadline = Instant::now() + patience;
        let servers = led.into_iter().map(|(primary, numbers)| {
            let member = map.member(primary).context("the primary of a slot is not a member")?;
            let addr = resolve(member.addr.as_str(), deadline)?;
            let numbers =
                if numbers.len() == keys.len() { Numbers::Range(keys.clone()) } else { Numbers::list(numbers) };
            Ok(Server { addr, numbers, node: Some(primary) })
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
        Self::of_map(name, map, at.coordinator.pids.clone(), keys, sizes, PATIENCE)
    }

    /// Whether a server leads a key.
    pub(crate) fn leads(&self, server: &Server, key: &[u8]) -> bool {
        match &self.map {
            Some(map) => map.config(map.bits().slot(&Position::of(key))).primary == server.node,
            None => true,
        }
    }
}

/// Resolves a host and port. If it has several addresses, returns the first that accepts a connection: `localhost` may
/// have one that the server does not listen on.
///
/// # Errors
/// If there is no such host.
pub fn resolve(host_and_port: &str, deadline: Instant) -> anyhow::Result<SocketAddr> {
    let found = host_and_port.to_socket_addrs().with_context(|| format!("cannot look up {host_and_port}"))?;
    first_reached(&found.collect::<Vec<_>>(), deadline).with_context(|| format!("{host_and_port} has no address"))
}

/// The first that accepts a connection. If none does, the first: connecting to it says why.
fn first_reached(addrs: &[SocketAddr], deadline: Instant) -> Option<SocketAddr> {
    let accepts = |(at, addr): &(usize, &SocketAddr)| {
        let rest = u32::try_from(addrs.len() - at).unwrap_or(u32::MAX);
        left(deadline).and_then(|left| TcpStream::connect_timeout(addr, left / rest)).is_ok()
    };
    match addrs {
        [] => None,
        [only] => Some(*only),
        [first, ..] => Some(addrs.iter().enumerate().find(accepts).map_or(*first, |(_, addr)| *addr)),
    }
}

/// Sends one request as an array and returns the first line of the answer.
///
/// # Errors
/// If the server cannot be reached or does not answer in time; [`NotAdmitted`] if it does not accept the password.
pub fn ask<W: AsRef<[u8]>>(
    addr: SocketAddr,
    password: Option<&Password>,
    deadline: Instant,
    words: &[W],
) -> anyhow::Result<String> {
    let mut stream = connect(addr, password, deadline)?;
    let mut request = Vec::new();
    frame::encode_array(words, &mut request);
    stream.write_all(&request).with_context(|| format!("cannot send to {addr}"))?;
    answer_line(&stream, addr, deadline)
}

/// Whether a server answers a line with RESP, as Redis does. Ours answer a line with a line.
///
/// # Errors
/// As [`ask`].
pub fn answers_in_resp(addr: SocketAddr, password: Option<&Password>, deadline: Instant) -> anyhow::Result<bool> {
    let mut stream = connect(addr, password, deadline)?;
    stream.write_all(b"PING\r\n").with_context(|| format!("cannot send to {addr}"))?;
    Ok(answer_line(&stream, addr, deadline)?.starts_with(['+', '-']))
}

fn answer_line(stream: &TcpStream, addr: SocketAddr, deadline: Instant) -> anyhow::Result<String> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(Timed { stream, deadline }.take(LINE_BYTES));
    reader.read_until(b'\n', &mut line).with_context(|| format!("no answer of {addr}"))?;
    let is_long = line.len() as u64 == LINE_BYTES;
    anyhow::ensure!(!is_long || line.ends_with(b"\n"), "no answer of {addr}: what it sends has no end");
    anyhow::ensure!(line.ends_with(b"\n"), "no answer of {addr}: it closed the connection");
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// A connection that is read until a moment at the latest.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl io::Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = left(self.deadline)?;
        self.stream.set_read_timeout(Some(left))?;
        let mut stream = self.stream;
        stream.read(buffer).map_err(|error| match in_words(error, left) {
            late if late.kind() == ErrorKind::TimedOut && left < ANSWER => too_late(),
            error => error,
        })
    }
}

/// How long the next step may take of what must end at a moment.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(too_late()) } else { Ok(left.min(ANSWER)) }
}

fn too_late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "it did not answer in time")
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
pub(crate) fn connect(addr: SocketAddr, password: Option<&Password>, deadline: Instant) -> anyhow::Result<TcpStream> {
    let connected = left(deadline).and_then(|left| TcpStream::connect_timeout(&addr, left));
    let mut stream = connected.with_context(|| format!("cannot connect to {addr}"))?;
    stream.set_nodelay(true).context("cannot set up a connection")?;
    if let Some(password) = password {
        let mut request = Vec::new();
        frame::encode_array(&["AUTH", password.as_str()], &mut request);
        stream.write_all(&request).with_context(|| format!("cannot send to {addr}"))?;
        admitted(addr, &answer_line(&stream, addr, deadline)?)?;
    }
    stream.set_read_timeout(Some(ANSWER)).context("cannot set up a connection")?;
    Ok(stream)
}

/// Whether this answer to a password lets the client in.
fn admitted(addr: SocketAddr, answer: &str) -> anyhow::Result<()> {
    let error = answer.trim_start_matches("ERROR ").trim_start_matches('-');
    match answer {
        "+OK" => Ok(()),
        _ if error == "ERR max number of clients reached" || error.starts_with("BUSY") => {
            anyhow::bail!("{addr} is busy: {error}")
        }
        _ if error.contains("without any password") => {
            Err(NotAdmitted(format!("{addr} was started without a password: leave yours out")).into())
        }
        _ => Err(NotAdmitted(format!("{addr} rejected the password: {error}")).into()),
    }
}

fn settled_map(at: &Cluster) -> anyhow::Result<ClusterMap> {
    let deadline = Instant::now() + PATIENCE;
    let mut unchanged: Option<(ClusterMap, Instant)> = None;
    while Instant::now() < deadline {
        let map = Some(read_map(at.coordinator.addr, None, deadline)?).filter(|map| stands(map, at.nodes));
        match (map, &unchanged) {
            (Some(map), Some((known, since))) if map.version == known.version => {
                if since.elapsed() >= SETTLED {
                    return Ok(map);
                }
            }
            (map, _) => unchanged = map.map(|map| (map, Instant::now())),
        }
        std::thread::sleep(PAUSE);
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
/// If the coordinator cannot be reached, does not answer with a map, or its cluster is not complete in time;
/// [`NotAdmitted`] if the password is the reason.
pub fn serving_map(
    coordinator: SocketAddr,
    password: Option<&Password>,
    deadline: Instant,
) -> anyhow::Result<ClusterMap> {
    loop {
        let map = read_map(coordinator, password, deadline)?;
        if map.slots().all(|(_, config)| config.primary.is_some()) {
            return Ok(map);
        }
        // Another question would only tell that there is no time left for an answer.
        if Instant::now() + 2 * PAUSE >= deadline {
            anyhow::bail!("the cluster has keys that no node leads; have its nodes been started?")
        }
        std::thread::sleep(PAUSE);
    }
}

/// The coordinator's current map.
fn read_map(coordinator: SocketAddr, password: Option<&Password>, deadline: Instant) -> anyhow::Result<ClusterMap> {
    let mut stream = connect(coordinator, password, deadline)?;
    stream.write_all(b"MAP\n").context("cannot ask the coordinator for its map")?;
    let reader = BufReader::new(Timed { stream: &stream, deadline }.take(MAP_BYTES as u64));
    let mut lines: Vec<String> = Vec::new();
    let (mut bytes, mut is_whole) = (0, false);
    for line in reader.lines() {
        let line = line.context("cannot read the coordinator's map")?;
        if line == "ERROR Unknown command" || line.starts_with('-') {
            anyhow::bail!("{coordinator} is not a coordinator: it answered {line}");
        }
        if line.starts_with("ERROR NOAUTH") {
            return Err(NotAdmitted(format!("the coordinator requires a password: {line}")).into());
        }
        anyhow::ensure!(!line.starts_with("ERROR "), "the coordinator answered {line}");
        bytes += line.len() + size_of::<String>();
        anyhow::ensure!(bytes < MAP_BYTES, "{coordinator} is not a coordinator: what it sends has no end");
        is_whole = line.is_empty();
        if is_whole {
            break;
        }
        lines.push(line);
    }
    anyhow::ensure!(is_whole, "cannot read the coordinator's map: it closed the connection");
    let update = MapUpdate::parse(lines.iter().map(String::as_str))?;
    Ok(ClusterMap::updated(None, &update)?)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that accepts one connection, reads something and sends these bytes, more than once if told so.
    fn server(bytes: &'static [u8], times: usize, pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1_000]).unwrap();
            for _ in 0..times {
                // The client may have gone.
                if stream.write_all(bytes).is_err() {
                    return;
                }
                thread::sleep(pause);
            }
        });
        addr
    }

    fn map_error(bytes: &'static [u8], times: usize, pause: Duration) -> anyhow::Error {
        let deadline = Instant::now() + Duration::from_secs(30);
        serving_map(server(bytes, times, pause), None, deadline).unwrap_err()
    }

    #[test]
    fn a_server_that_is_silent_or_closes_the_connection_is_reported_in_words() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let soon = || Instant::now() + Duration::from_millis(50);
        let stream = connect(addr, None, Instant::now() + ANSWER).unwrap();
        let silent = answer_line(&stream, addr, soon()).unwrap_err();
        assert_eq!(format!("{silent:#}"), format!("no answer of {addr}: it did not answer in time"));
        assert_eq!(in_words(ErrorKind::WouldBlock.into(), ANSWER).to_string(), "nothing arrived for 5 s");
        drop(listener.accept().unwrap());
        let closed = answer_line(&stream, addr, Instant::now() + ANSWER).unwrap_err();
        assert_eq!(format!("{closed:#}"), format!("no answer of {addr}: it closed the connection"));
    }

    #[test]
    fn of_several_addresses_the_first_that_accepts_a_connection_is_taken() {
        let [gone, other] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let deadline = Instant::now() + ANSWER;
        assert_eq!(first_reached(&[gone, addr, other], deadline), Some(addr));
        assert_eq!(first_reached(&[gone, other], deadline), Some(gone));
        assert_eq!(first_reached(&[], deadline), None);
    }

    #[test]
    fn why_there_is_no_map_is_told() {
        let busy = map_error(b"ERROR BUSY 7 clients are connected\n", 1, Duration::ZERO);
        assert_eq!(busy.to_string(), "the coordinator answered ERROR BUSY 7 clients are connected");
        let no_auth = map_error(b"ERROR NOAUTH Authentication required.\n", 1, Duration::ZERO);
        assert!(no_auth.is::<NotAdmitted>(), "{no_auth}");
        let half = map_error(b"OK Map 1\n", 1, Duration::ZERO);
        assert!(half.to_string().ends_with("it closed the connection"), "{half}");
    }

    #[test]
    fn a_map_without_end_is_not_read_for_ever() {
        for bytes in [&[b'x'; 100_000], &b"x\n".repeat(50_000)[..]] {
            let error = map_error(bytes.to_vec().leak(), 10_000, Duration::ZERO);
            assert!(error.to_string().ends_with("what it sends has no end"), "{error}");
        }
        let drip = server(b"O", 1_000, Duration::from_millis(20));
        let begun = Instant::now();
        let error = serving_map(drip, None, begun + Duration::from_millis(300)).unwrap_err();
        assert!(format!("{error:#}").ends_with("it did not answer in time"), "{error:#}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_a_server_says_to_a_password_is_told_apart() {
        let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
        admitted(addr, "+OK").unwrap();
        for (answer, told, not_admitted) in [
            ("-ERR max number of clients reached", "127.0.0.1:1 is busy: ERR max number of clients reached", false),
            ("-WRONGPASS invalid", "127.0.0.1:1 rejected the password: WRONGPASS invalid", true),
            (
                "-ERR AUTH <password> called without any password configured",
                "127.0.0.1:1 was started without a password: leave yours out",
                true,
            ),
        ] {
            let error = admitted(addr, answer).unwrap_err();
            assert_eq!((error.to_string().as_str(), error.is::<NotAdmitted>()), (told, not_admitted));
        }
    }
}
