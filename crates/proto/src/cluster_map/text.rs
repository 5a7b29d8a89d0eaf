//! The text form of a map; see [`crate::cluster_map`] for an example.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{ClusterSettings, Departures, MapError, MapUpdate, Member, SlotConfig};
use crate::id::{Incarnation, NodeAddr};
use crate::limits;
use crate::slot::{SlotBits, SlotId};

/// The prefixes, in the first line of a map, of the nodes that are leaving and of those that leave once replaced.
const LEAVING: &str = "leaving=";
const REPLACING: &str = "replacing=";

impl MapUpdate {
    /// The lines of the update, without newlines.
    #[must_use]
    pub fn to_lines(&self) -> Vec<String> {
        let ClusterSettings { replicas, ack, read, heartbeat_timeout } = self.cluster_settings;
        let mut head = format!(
            "OK Map version={} since={} cluster={} slots={} replicas={replicas} ack={ack} read={read} timeout={}",
            self.version.0,
            self.since.0,
            self.cluster,
            self.bits.count(),
            heartbeat_timeout.as_millis()
        );
        let Departures { leaving, replacing } = &self.departures;
        let replacing: Vec<_> = replacing.iter().flat_map(|(new, old)| [new, old]).collect();
        for (name, nodes) in [(LEAVING, leaving.iter().collect()), (REPLACING, replacing)] {
            if !nodes.is_empty() {
                let nodes: Vec<_> = nodes.into_iter().map(NodeAddr::as_str).collect();
                // Writing to a String cannot fail.
                let _ = write!(head, " {name}{}", nodes.join(","));
            }
        }
        let mut lines = vec![head];
        for (incarnation, member) in &self.members {
            lines.push(format!("NODE {incarnation} {} {}", member.addr, if member.up { "up" } else { "down" }));
        }
        for (first, last, config) in &self.runs {
            lines.push(format!(
                "SLOTS {} {} epoch={} version={} primary={} isr={} learners={} elr={}",
                first.0,
                last.0,
                config.epoch,
                config.version.0,
                list(config.primary.as_slice()),
                list(&config.isr),
                list(&config.learners),
                list(&config.elr)
            ));
        }
        lines
    }

    /// Reads the text of an update.
    ///
    /// # Errors
    /// [`MapError::Malformed`] says what is wrong with the text.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, MapError> {
        let mut lines = lines.into_iter();
        let head =
            lines.next().and_then(|line| line.strip_prefix("OK Map ")).ok_or(MapError::Malformed("no first line"))?;
        let mut words = head.split(' ');
        let version = field(words.next(), "version=")?;
        let since = field(words.next(), "since=")?;
        let cluster = field(words.next(), "cluster=")?;
        let count: usize = field(words.next(), "slots=")?;
        if !count.is_power_of_two() || count > 1 << 16 {
            return Err(MapError::Malformed("slots= is not a power of two up to 65536"));
        }
        let cluster_settings = ClusterSettings {
            replicas: field(words.next(), "replicas=")?,
            ack: field(words.next(), "ack=")?,
            read: field(words.next(), "read=")?,
            heartbeat_timeout: Duration::from_millis(field(words.next(), "timeout=")?),
        };
        if cluster_settings.replicas > limits::REPLICAS {
            return Err(MapError::Malformed("replicas= is over its limit"));
        }
        let mut departures = Departures::default();
        for word in words {
            if let Some(leaving) = word.strip_prefix(LEAVING) {
                departures.leaving = nodes(leaving)?.into_iter().collect();
            } else if let Some(replacing) = word.strip_prefix(REPLACING) {
                let pairs = nodes(replacing)?;
                departures.replacing = pairs.as_chunks().0.iter().cloned().map(|[new, old]| (new, old)).collect();
            }
        }
        let mut update = Self {
            version,
            since,
            cluster,
            cluster_settings,
            departures,
            bits: SlotBits::new(u8::try_from(count.trailing_zeros()).unwrap_or(16)),
            members: BTreeMap::new(),
            runs: Vec::new(),
        };
        for line in lines.take_while(|line| !line.is_empty()) {
            if let Some(node) = line.strip_prefix("NODE ") {
                let (incarnation, member) = parse_node(node).ok_or(MapError::Malformed("invalid NODE line"))?;
                update.members.insert(incarnation, member);
            } else if let Some(run) = line.strip_prefix("SLOTS ") {
                let run = parse_run(run)?;
                // IMPORTANT: whoever gets an update looks its slots up in a map.
                if usize::from(run.1.0) >= update.bits.count() {
                    return Err(MapError::Malformed("a slot number is too large"));
                }
                update.runs.push(run);
            } else {
                return Err(MapError::Malformed("unknown line"));
            }
        }
        Ok(update)
    }
}

fn nodes(list: &str) -> Result<Vec<NodeAddr>, MapError> {
    let node = |word: &str| word.parse().map_err(|_| MapError::Malformed("invalid address"));
    list.split(',').map(node).collect()
}

fn parse_node(line: &str) -> Option<(Incarnation, Member)> {
    let mut words = line.split(' ');
    let incarnation = words.next()?.parse().ok()?;
    let addr = words.next()?.parse().ok()?;
    let up = match words.next()? {
        "up" => true,
        "down" => false,
        _ => return None,
    };
    Some((incarnation, Member { addr, up }))
}

fn parse_run(line: &str) -> Result<(SlotId, SlotId, Arc<SlotConfig>), MapError> {
    let mut words = line.split(' ');
    let first = field(words.next(), "")?;
    let last = field(words.next(), "")?;
    if first > last {
        return Err(MapError::Malformed("a range of slots ends before it starts"));
    }
    let config = SlotConfig {
        epoch: field(words.next(), "epoch=")?,
        version: field(words.next(), "version=")?,
        primary: incarnations(words.next(), "primary=")?.first().copied(),
        isr: incarnations(words.next(), "isr=")?,
        learners: incarnations(words.next(), "learners=")?,
        elr: incarnations(words.next(), "elr=")?,
    };
    Ok((SlotId(first), SlotId(last), Arc::new(config)))
}

fn field<T: FromStr>(word: Option<&str>, name: &'static str) -> Result<T, MapError> {
    let value = word.and_then(|word| word.strip_prefix(name)).and_then(|value| value.parse().ok());
    value.ok_or(MapError::Malformed("a field is missing or has an invalid value"))
}

fn incarnations(word: Option<&str>, name: &'static str) -> Result<Vec<Incarnation>, MapError> {
    let list: String = field(word, name)?;
    if list == "-" {
        return Ok(Vec::new());
    }
    list.split(',').map(|inc| inc.parse().map_err(|_| MapError::Malformed("invalid incarnation"))).collect()
}

fn list(incarnations: &[Incarnation]) -> String {
    let mut text = String::new();
    for incarnation in incarnations {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{incarnation}");
    }
    if text.is_empty() { "-".to_owned() } else { text }
}
