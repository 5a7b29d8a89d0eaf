//! Whether all copies of a key are identical.
//!
//! A node forwards a client's request to the key's primary. It reveals what it holds itself only to another node, on a
//! connection for forwarded requests that asks whether a replica may answer. So this module poses as another node.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::target::in_words;
use proto::cluster_map::{ClusterMap, Member};
use proto::id::Incarnation;
use proto::level::ReadLevel;
use proto::peer::{Forward, Hello, KeyRequest, LinkKind, Read, Wanted};
use proto::reply::{Reply, ReplyDecoder};
use proto::slot::Position;

use crate::cluster::Cluster;

/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What a copy holds of a key: the version and the value; `None` if the key is absent.
type Held = Option<(String, String)>;

/// How long the last writes may take to reach all copies, and copies to be where the map places them.
const LEVEL: Duration = Duration::from_secs(5);

/// Waits until the copies of all keys are identical. Returns the differences that remain.
///
/// # Errors
/// If a copy repeatedly cannot be queried.
pub(crate) fn await_equal(cluster: &mut Cluster, keys: &[String]) -> anyhow::Result<Vec<String>> {
    let start = Instant::now();
    loop {
        let compared =
            cluster.map().context("there is no map to compare copies by").and_then(|map| differences(map, keys));
        if matches!(&compared, Ok(differences) if differences.is_empty()) || start.elapsed() > LEVEL {
            return compared;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Asks every holder of every key. Returns the keys whose copies differ, with what each copy holds.
fn differences(map: &ClusterMap, keys: &[String]) -> anyhow::Result<Vec<String>> {
    let mut connections = BTreeMap::new();
    for (incarnation, member) in map.members() {
        let connection = Asking::open(map, incarnation, member);
        connections.insert(incarnation, connection.with_context(|| format!("cannot ask node {}", member.addr))?);
    }
    let mut differences = Vec::new();
    for key in keys {
        let mut copies: Vec<(String, Held)> = Vec::new();
        for (incarnation, member) in map.holders(map.bits().slot(&Position::of(key.as_bytes()))) {
            let connection = connections.get_mut(&incarnation).context("a holder is not a member")?;
            let held = connection
                .held(key)
                .with_context(|| format!("cannot read the copy of {key} on node {}", member.addr))?;
            copies.push((member.addr.to_string(), held));
        }
        if copies.iter().any(|(_, held)| Some(held) != copies.first().map(|(_, first)| first)) {
            let told = copies.iter().map(|(addr, held)| match held {
                Some((version, value)) => format!("{addr} has {value} at {version}"),
                None => format!("{addr} has nothing"),
            });
            differences.push(format!("{key}: {}", told.collect::<Vec<_>>().join(", ")));
        }
    }
    Ok(differences)
}

/// A connection to a node for asking what the node itself holds.
struct Asking {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Asking {
    fn open(map: &ClusterMap, to: Incarnation, member: &Member) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(member.addr.as_str()).context("cannot connect")?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        let another = map.members().find(|(incarnation, _)| *incarnation != to);
        let (from, Member { addr, .. }) = another.context("there is no other node to ask as")?;
        let hello = Hello { kind: LinkKind::Forward, cluster: map.cluster.clone(), from_addr: addr.clone(), from, to };
        let mut asking = Self { stream, read: Vec::new() };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        asking.stream.write_all(&bytes)?;
        asking.reply(|reply| match reply {
            Reply::Text("OK") => Ok(()),
            other => anyhow::bail!("it answered {other:?}"),
        })?;
        Ok(asking)
    }

    fn held(&mut self, key: &str) -> anyhow::Result<Held> {
        let read = Read { key: key.as_bytes(), wanted: Wanted::Versioned, level: ReadLevel::Local };
        let mut bytes = Vec::new();
        Forward { id: 0, at_replica: true, is_short: false, request: KeyRequest::Read(read) }.encode(&mut bytes);
        self.stream.write_all(&bytes)?;
        self.reply(|number| match number {
            Reply::Number(0) => Ok(()),
            other => anyhow::bail!("it answered {other:?}"),
        })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.reply(|reply| match reply {
            Reply::Pair(version, value) => Ok(Some((text(version), text(value)))),
            Reply::Null => Ok(None),
            other => anyhow::bail!("it answered {other:?}"),
        })
    }

    /// Waits for one reply and passes it to `look`.
    fn reply<T>(&mut self, look: impl FnOnce(Reply<'_>) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut chunk = [0; 4096];
        loop {
            if let Some((reply, used)) = ReplyDecoder::new().decode(&self.read)? {
                let looked = look(reply);
                self.read.drain(..used);
                return looked;
            }
            let read = self.stream.read(&mut chunk).map_err(|error| in_words(error, ANSWER));
            let length = read.context("no answer came")?;
            anyhow::ensure!(length > 0, "it closed the connection");
            self.read.extend_from_slice(chunk.get(..length).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_answer_is_reported_in_words() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(silent.local_addr().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let error = Asking { stream, read: Vec::new() }.reply(|_| Ok(())).unwrap_err();
        assert_eq!(format!("{error:#}"), "no answer came: nothing arrived for 5 s");
    }
}
