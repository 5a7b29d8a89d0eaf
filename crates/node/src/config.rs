//! The command-line flags of a node.

use std::path::PathBuf;
use std::time::Duration;

use net::flags;
use net::listener::ConnectionFlags;
use net::logging::LogFlags;
use proto::id::{AddrError, NodeAddr};
use proto::limits;

use crate::store::Fsync;

/// A storage node of the key-value store. It registers with the coordinator, stores its share of the keys, and serves
/// any key of the cluster.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "node",
    version,
    allow_negative_numbers = true,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(group(clap::ArgGroup::new("which_port").required(true).args(["port_word", "port"])))]
pub struct Config {
    /// What to do instead of running a node.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Port to listen on; 0 picks a free one and prints it.
    #[arg(value_name = "PORT", value_parser = flags::number(0..=u16::MAX))]
    pub port_word: Option<u16>,

    /// Port to listen on, given as a flag.
    #[arg(long, value_parser = flags::number(0..=u16::MAX))]
    pub port: Option<u16>,

    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,

    /// Address at which others reach this node, if different from the one it listens on.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = advertised)]
    pub advertise: Option<Advertised>,

    /// Host of the coordinator.
    #[arg(long, default_value = "127.0.0.1")]
    pub coordinator_host: String,

    /// Port of the coordinator.
    #[arg(long, default_value_t = limits::COORDINATOR_PORT, value_parser = flags::number(1..=u16::MAX))]
    pub coordinator_port: u16,

    /// Directory for the node's data, which then survives any stop. Without it all data is in memory only.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// When a write counts as written to the data directory.
    #[arg(long, value_enum, default_value_t = Fsync::Interval, value_name = "WHEN", requires = "data_dir")]
    pub fsync: Fsync,

    /// How often to sync the log to disk, with --fsync interval.
    #[arg(long, default_value = "1s", value_parser = flags::time("10ms", "1h"), requires = "data_dir")]
    pub fsync_interval: Duration,

    /// How much memory the keys may take. Without it there is no limit.
    #[arg(long, value_name = "SIZE", value_parser = flags::size::<u64>("1mb", "64PiB"))]
    pub max_memory: Option<u64>,

    /// What to do with a write that needs more memory than --max-memory leaves.
    #[arg(long, value_enum, default_value_t = Evict::None, value_name = "WHAT", requires = "max_memory")]
    pub evict: Evict,

    /// How long to try to reach the coordinator at startup.
    #[arg(long, default_value = "30s", value_parser = flags::time("100ms", "24h"))]
    pub join_timeout: Duration,

    /// Pause between heartbeats. Keep it well below the coordinator's --heartbeat-timeout.
    #[arg(long, default_value = "200ms", value_parser = flags::time("10ms", "1m"))]
    pub heartbeat_interval: Duration,

    /// This node's relative share of the keys: a node twice the size of the others takes 2.
    #[arg(long, default_value_t = 1, value_parser = flags::number(1..=limits::WEIGHT))]
    pub weight: u32,

    /// How fast this node fills other nodes' copies when slots move, in MiB per second for all of them together; 0
    /// sets no limit. It slows down as client load grows, to no less than one twenty-fifth.
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = flags::number(0..=u32::MAX))]
    pub move_rate: u32,

    /// How long a request for a key may wait for a primary that can serve it.
    // IMPORTANT: see `proto::limits::RESENT_FOR` for why it is not longer.
    #[arg(long, default_value = "15s", value_parser = flags::time("100ms", "1m"))]
    pub request_timeout: Duration,

    /// Period in which the copies of every slot that this node leads are compared once, in the background. A copy that
    /// differs is filled again. VERIFY compares them at once.
    #[arg(long, default_value = "10m", value_parser = flags::time("10s", "365d"))]
    pub compare_every: Duration,

    /// Who is served, and how.
    #[command(flatten)]
    pub connections: ConnectionFlags,

    /// Where log lines go.
    #[command(flatten)]
    pub log: LogFlags,
}

impl Config {
    /// The requested port, from either the flag or the positional argument.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port_word.or(self.port).unwrap_or(0)
    }

    /// The address at which others reach this node, once the port is known.
    ///
    /// # Errors
    /// The flags yield no address that others could use.
    pub fn advertised(&self, bound_port: u16) -> anyhow::Result<NodeAddr> {
        let (host, port) = match &self.advertise {
            Some(Advertised { host, port }) => (host, port.unwrap_or(bound_port)),
            None => (&self.host, bound_port),
        };
        anyhow::ensure!(
            !matches!(host.as_str(), "0.0.0.0" | "::" | "[::]"),
            "{host} means every address and cannot be advertised; set --advertise HOST"
        );
        NodeAddr::new(host, port).map_err(|error| anyhow::anyhow!("others cannot use the host {host}: {error}"))
    }
}

/// The value of `--evict`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Evict {
    /// Refuse it with ERROR FULL.
    None,
    /// Evict the least recently used keys.
    Lru,
}

impl From<Evict> for engine::memory::Evict {
    fn from(evict: Evict) -> Self {
        match evict {
            Evict::None => Self::None,
            Evict::Lru => Self::Lru,
        }
    }
}

/// Operator commands for a data directory whose node is not running.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Check a data directory and report what is wrong with it. Changes nothing. Exits with 1 if it is not sound.
    Check {
        /// The directory.
        dir: PathBuf,
    },
    /// Keep the good parts of a data directory and set the rest aside, so that its node can start again.
    Repair {
        /// The directory.
        dir: PathBuf,
        /// Accept that this node loses what is set aside. Replicas give back what they have of it.
        #[arg(long, required = true)]
        accept_loss: bool,
    },
}

/// The value of `--advertise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    host: String,
    port: Option<u16>,
}

fn advertised(text: &str) -> Result<Advertised, String> {
    match text.parse::<NodeAddr>() {
        Ok(addr) => Ok(Advertised { host: addr.host().to_owned(), port: Some(addr.port()) }),
        // Without a port it may be a bare host; any port will do to validate it.
        Err(no_addr) => match NodeAddr::new(text, 1) {
            Ok(addr) => Ok(Advertised { host: addr.host().to_owned(), port: None }),
            Err(no_host) => Err(if no_addr == AddrError::NoPort { no_host } else { no_addr }.to_string()),
        },
    }
}
