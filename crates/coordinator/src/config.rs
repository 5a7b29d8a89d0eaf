//! The command-line flags of the coordinator.

use std::path::PathBuf;
use std::time::Duration;

use net::flags;
use net::listener::ConnectionFlags;
use net::logging::LogFlags;
use proto::cluster_map::ClusterSettings;
use proto::level::{AckLevel, ReadLevel};
use proto::limits;
use proto::slot::SLOT_BITS;

/// Keeps the node registry and the hash ring of a cluster: which node holds which key, and which nodes are alive.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "coordinator", version, allow_negative_numbers = true)]
pub struct Config {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,

    /// Port to listen on; 0 picks a free one and prints it.
    #[arg(long, default_value_t = limits::COORDINATOR_PORT, value_parser = flags::number(0..=u16::MAX))]
    pub port: u16,

    /// Copies of each key in addition to its primary.
    #[arg(long, default_value_t = 2, value_parser = flags::number(0..=limits::REPLICAS))]
    pub replicas: usize,

    /// Positions of each node on the hash ring. More positions spread keys more evenly; starting with another number
    /// moves slots.
    #[arg(long, default_value_t = 3, value_parser = flags::number(1..=limits::VIRTUAL_NODES))]
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

    /// How long a node may be silent before it is taken off the ring. Nodes send a heartbeat every 200 ms.
    #[arg(long, default_value = "10s", value_parser = flags::time("500ms", "1h"))]
    pub heartbeat_timeout: Duration,

    /// How long a node that is dead or has stopped may be away before its copies are rebuilt on other nodes. Another
    /// copy leads at once.
    #[arg(long, default_value = "30s", value_parser = flags::time("0s", "24h"))]
    pub replace_after: Duration,

    /// Number of slots copied at one time to nodes that do not have them; 0 sets no limit. Slots that lack the most
    /// copies go first.
    #[arg(long, default_value_t = 2_048, value_name = "SLOTS", value_parser = flags::number(0..=SLOT_BITS.count()))]
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
