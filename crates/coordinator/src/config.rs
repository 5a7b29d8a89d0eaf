//! The command-line flags of the coordinator.

use std::path::PathBuf;
use std::time::Duration;

use net::listener::ConnectionFlags;
use net::logging::LogFlags;
use proto::cluster_map::ClusterSettings;
use proto::level::{AckLevel, ReadLevel};
use proto::limits;
use proto::slot::SLOT_BITS;

/// Keeps the node registry and the hash ring of a cluster: which node holds which key, and which nodes are alive.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "coordinator", version)]
pub struct Config {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on; 0 picks a free one and prints it.
    #[arg(long, default_value_t = 5000)]
    pub port: u16,

    /// Copies of each key in addition to its primary.
    #[arg(long, default_value_t = 2, value_parser = replicas)]
    pub replicas: usize,

    /// Positions of each node on the hash ring. More positions spread keys more evenly; starting with another number
    /// moves slots.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::VIRTUAL_NODES)))]
    pub virtual_nodes: u32,

    /// When a write is answered: async (the primary has it), quorum (the whole in-sync set has it, at least a majority
    /// of the copies), all (every copy has it). A connection may choose another level with ACK.
    #[arg(long, default_value_t, value_name = "LEVEL")]
    pub ack: AckLevel,

    /// What a read may return: local (the newest value on the node that answers), linear (only what the whole in-sync
    /// set has, read at the primary). A connection may choose another level with READ.
    #[arg(long, default_value_t, value_name = "LEVEL")]
    pub read: ReadLevel,

    /// Directory for the coordinator's state, so that it can be restarted at any time. Without it a restarted
    /// coordinator takes the state over from the nodes, and waits until every one of them is back.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// How long a node may be silent before it is taken off the ring.
    #[arg(long, default_value = "10s", value_parser = heartbeat_timeout)]
    pub heartbeat_timeout: Duration,

    /// How long a node that is dead or has stopped may be away before its copies are rebuilt on other nodes. Another
    /// copy leads at once.
    #[arg(long, default_value = "30s", value_parser = replace_after)]
    pub replace_after: Duration,

    /// Number of slots copied at one time to nodes that do not have them; 0 sets no limit. Slots that lack the most
    /// copies go first.
    #[arg(long, default_value_t = 2_048, value_name = "SLOTS", value_parser = moves_at_once)]
    pub moves_at_once: usize,

    /// Who is served, and how.
    #[command(flatten)]
    pub connections: ConnectionFlags,

    /// Where log lines go.
    #[command(flatten)]
    pub log: LogFlags,
}

impl Config {
    /// The settings that every node follows.
    #[must_use]
    pub fn cluster_settings(&self) -> ClusterSettings {
        ClusterSettings {
            replicas: self.replicas,
            ack: self.ack,
            read: self.read,
            heartbeat_timeout: self.heartbeat_timeout,
        }
    }
}

fn replicas(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number <= limits::REPLICAS => Ok(number),
        _ => Err(format!("expected a number from 0 to {}", limits::REPLICAS)),
    }
}

fn moves_at_once(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number <= SLOT_BITS.count() => Ok(number),
        _ => Err(format!("expected a number from 0 to {}", SLOT_BITS.count())),
    }
}

fn replace_after(text: &str) -> Result<Duration, String> {
    let grace = humantime::parse_duration(text).map_err(|error| format!("{error} (examples: 30s, 5m, 0s)"))?;
    if grace > Duration::from_secs(24 * 3600) {
        return Err("expected a time of at most 24h".to_owned());
    }
    Ok(grace)
}

fn heartbeat_timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|error| format!("{error} (examples: 10s, 500ms)"))?;
    let (least, most) = (Duration::from_millis(500), Duration::from_secs(3600));
    if timeout < least || timeout > most {
        return Err("expected a time from 500ms to 1h; nodes send a heartbeat every 200 ms".to_owned());
    }
    Ok(timeout)
}
