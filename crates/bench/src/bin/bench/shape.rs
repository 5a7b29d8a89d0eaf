//! The kinds of load in the tables, and a single measurement of each.

use std::fmt;
use std::time::Duration;

use bench::keys::Sizes;
use bench::request::Verb;
use bench::workload::Action;
use bench::{Load, Target};
use proto::frame::Encoding;

/// The default number of keys.
pub(crate) const KEYS: u32 = 100_000;

/// The default sizes of keys and values.
pub(crate) const SIZES: Sizes = Sizes { key: 16, value: 100 };

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) verb: Verb,
    pub(crate) encoding: Encoding,
    /// The length of a value, in bytes.
    pub(crate) value_bytes: usize,
    pub(crate) connections: usize,
    /// How many requests of one connection are sent together; all must be answered before the next are sent.
    pub(crate) pipeline: usize,
}

/// The result of one run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Measurement {
    /// Answers per second, over all connections.
    pub(crate) per_second: f64,
    /// The median time from the write that carried a request to the read that carried the end of its answer.
    pub(crate) p50: Duration,
    /// The same, as the 99th percentile.
    pub(crate) p99: Duration,
    /// Processor time of the server per request, if known.
    pub(crate) cpu: Option<Duration>,
    /// The same plus that of the generator.
    pub(crate) all_cpu: Option<Duration>,
}

/// All kinds of load, in the order of the table.
pub(crate) fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for verb in [Verb::Put, Verb::Get] {
        for encoding in [Encoding::Line, Encoding::Array] {
            for (connections, pipeline) in [(1, 1), (1, 16), (50, 1), (50, 16)] {
                shapes.push(Shape { verb, encoding, value_bytes: SIZES.value, connections, pipeline });
            }
        }
    }
    shapes
}

/// Stores every key of a target, with values of this length.
pub(crate) fn fill(target: &Target, value_bytes: usize) -> anyhow::Result<()> {
    let sizes = Sizes { value: value_bytes, ..SIZES };
    let load = Load::steady(Action::Put, Encoding::Array, sizes, Duration::ZERO);
    bench::fill(target, &load, None, &mut |_| ()).map(|_| ())
}

impl Shape {
    /// The load of this shape, with every answer checked.
    pub(crate) fn load(self, time: Duration) -> Load {
        let action = match self.verb {
            Verb::Put => Action::Put,
            Verb::Get => Action::Get,
        };
        let sizes = Sizes { value: self.value_bytes, ..SIZES };
        let Self { connections, pipeline, encoding, .. } = self;
        Load { connections, pipeline, ..Load::steady(action, encoding, sizes, time) }
    }

    /// Loads a target for so long.
    pub(crate) fn measure(self, target: &Target, time: Duration) -> anyhow::Result<Measurement> {
        let outcome = bench::run(target, &self.load(time), Duration::MAX, None, &mut |_| ())?;
        Ok(Measurement {
            per_second: outcome.per_second(),
            p50: outcome.percentile(50.0),
            p99: outcome.percentile(99.0),
            cpu: outcome.server_cpu,
            all_cpu: outcome.server_cpu.zip(outcome.own_cpu).map(|(server, own)| server + own),
        })
    }

    /// The name of the verb.
    pub(crate) fn verb(self) -> &'static str {
        match self.verb {
            Verb::Put => "PUT",
            Verb::Get => "GET",
        }
    }

    /// The name of the encoding.
    pub(crate) fn encoding(self) -> &'static str {
        match self.encoding {
            Encoding::Line => "line",
            Encoding::Array | Encoding::Resp3 => "array",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, pipeline, .. } = self;
        write!(f, "{} {}, {connections} connections, {pipeline} in flight", self.verb(), self.encoding())
    }
}
