//! The flags of `client bench`, and the load they describe.

use std::num::NonZeroU64;
use std::time::Duration;

use bench::keys::{Distribution, Sizes};
use bench::workload::{Action, Workload};
use bench::{Load, Until};
use client::{Levels, NodeAddr};
use proto::frame::Encoding;
use proto::limits;

use crate::args::number;

/// The most bytes of values in flight over all connections.
const IN_FLIGHT_BYTES: usize = 1024 * 1024 * 1024;

/// Put a load on a cluster, or on one server, and measure it
///
/// Connections go to the nodes that lead the keys, like those of the library, and are spread evenly over them. The keys
/// read and written begin with `bench:`; they are stored first and left behind. Without --rate, each connection sends
/// its next request as soon as it is answered. With --rate, requests are due at fixed moments and latency is measured
/// from those, so that requests kept waiting by a slow server count as slow.
///
/// Ctrl-C ends the run, and so does a broken connection: what was measured until then is reported as partial results.
/// Exit codes: 0 done, 2 wrong flags, 3 the servers could not be reached at the beginning, 4 errors, a password that
/// was refused, or a connection broke later, 6 the client cannot run, 130 Ctrl-C.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct BenchArgs {
    /// get, put, mixed, or YCSB workloads a to f: d reads the latest, e lists keys in order, f reads and writes
    #[arg(default_value = "get", value_parser = workload)]
    pub(crate) workload: Workload,

    /// One server, ours or Redis, instead of a cluster with its coordinator
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) address: Option<NodeAddr>,

    /// How requests are encoded: resp means arrays, as in Redis, which takes no others
    #[arg(long, value_enum, default_value_t = Protocol::Resp)]
    pub(crate) protocol: Protocol,

    /// The number of connections
    #[arg(long, default_value_t = 50, value_parser = number(1..=10_000_usize))]
    pub(crate) connections: usize,

    /// The number of requests in flight per connection. Without --rate they are sent together
    #[arg(long, default_value_t = 1, value_parser = number(1..=4_096_usize))]
    pub(crate) pipeline: usize,

    /// The number of keys
    #[arg(long, default_value_t = 100_000, value_parser = number(1..=50_000_000_u32))]
    pub(crate) keys: u32,

    /// The length of a key, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = number(Sizes::KEY_LEAST..=limits::KEY_BYTES))]
    pub(crate) key_size: usize,

    /// The length of a value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = number(0..=limits::VALUE_BYTES))]
    pub(crate) value_size: usize,

    /// How often each key is requested. Default: as the workload defines it
    #[arg(long, value_enum)]
    pub(crate) distribution: Option<KeyDistribution>,

    /// With `mixed`: the percentage of requests that are GET; the others are PUT
    #[arg(long, value_name = "PERCENT", value_parser = number(0..=100_u8))]
    pub(crate) reads: Option<u8>,

    /// Operations per second, over all connections
    #[arg(long, value_name = "R", value_parser = number(1..=100_000_000_u64))]
    pub(crate) rate: Option<u64>,

    /// How long to measure
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub(crate) seconds: f64,

    /// End after this many operations, not counting those of the warm-up, instead of after a time
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = number(1..=u64::MAX))]
    pub(crate) requests: Option<u64>,

    /// The unmeasured warm-up, in seconds. Default: a fifth of --seconds, or nothing with --requests
    #[arg(long, value_name = "SECONDS", value_parser = seconds_or_none)]
    pub(crate) warm_up: Option<f64>,

    /// Do not store the keys first: they exist already, or it does not matter
    #[arg(long)]
    pub(crate) no_preload: bool,
}

/// How requests are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    Line,
    Resp,
}

/// How often each key is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KeyDistribution {
    /// Every key equally often
    Uniform,
    /// A few keys often, most rarely: Zipf's law with exponent 0.99
    Zipfian,
}

impl BenchArgs {
    /// Checks the flags against each other for errors that no single flag shows.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sizes = self.sizes();
        if u64::from(self.keys) > sizes.keys() {
            let least = (Sizes::KEY_LEAST..).find(|key| Sizes { key: *key, ..sizes }.keys() >= self.keys.into());
            return Err(format!(
                "there are only {} keys of {} bytes; {} keys need --key-size {} at least",
                sizes.keys(),
                self.key_size,
                self.keys,
                least.unwrap_or(limits::KEY_BYTES)
            ));
        }
        if self.reads.is_some() && self.workload != Workload::Mixed {
            return Err(format!("--reads is for the workload mixed, not for {}", self.workload));
        }
        if self.protocol == Protocol::Line && self.value_size == 0 {
            return Err("a line cannot carry an empty value; use --protocol resp, or --value-size 1".to_owned());
        }
        let in_flight = self.connections.saturating_mul(self.pipeline).saturating_mul(self.value_size);
        if in_flight > IN_FLIGHT_BYTES {
            return Err(format!(
                "{} connections with {} values of {} bytes in flight on each take more than 1 GiB of memory; lower one of \
                 the three",
                self.connections, self.pipeline, self.value_size
            ));
        }
        Ok(())
    }

    pub(crate) fn load(&self, levels: Levels) -> Load {
        let mix = self.workload.mix(self.reads.unwrap_or(50));
        let time = Duration::from_secs_f64(self.seconds);
        let usual_warm_up = if self.requests.is_some() { Duration::ZERO } else { time / 5 };
        Load {
            encoding: match self.protocol {
                Protocol::Line => Encoding::Line,
                Protocol::Resp => Encoding::Array,
            },
            sizes: self.sizes(),
            mix,
            distribution: match self.distribution {
                Some(KeyDistribution::Uniform) => Distribution::Uniform,
                Some(KeyDistribution::Zipfian) => Distribution::Zipfian,
                None => mix.distribution,
            },
            connections: self.connections,
            pipeline: self.pipeline,
            rate: self.rate.and_then(NonZeroU64::new),
            warm_up: self.warm_up.map_or(usual_warm_up, Duration::from_secs_f64),
            until: self.requests.map_or(Until::Elapsed(time), Until::Operations),
            strict: false,
            ack: levels.ack,
            read: levels.read,
        }
    }

    /// Whether anything is written, before or during the run.
    pub(crate) fn writes(&self, load: &Load) -> bool {
        !self.no_preload || [Action::Put, Action::Insert, Action::Modify].into_iter().any(|action| load.mix.has(action))
    }

    fn sizes(&self) -> Sizes {
        Sizes { key: self.key_size, value: self.value_size }
    }
}

fn workload(text: &str) -> Result<Workload, String> {
    text.parse()
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0.1 to 86400".to_owned()),
    }
}

fn seconds_or_none(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3_600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected a number of seconds from 0 to 3600".to_owned()),
    }
}
