//! What a run is asked to do.

use std::num::NonZeroU64;
use std::time::Duration;

use proto::frame::Encoding;
use proto::level::{AckLevel, ReadLevel};

use crate::keys::{Distribution, Sizes};
use crate::workload::{Action, Mix};

/// A load on a target.
#[derive(Debug, Clone)]
pub struct Load {
    /// How requests are encoded.
    pub encoding: Encoding,
    /// The sizes of keys and values.
    pub sizes: Sizes,
    /// The mix of operations.
    pub mix: Mix,
    /// Which keys are requested.
    pub distribution: Distribution,
    /// The number of connections, spread evenly over the servers of the target.
    pub connections: usize,
    /// The number of requests in flight per connection. Without a rate they are sent together, and the next batch when
    /// all are answered.
    pub pipeline: usize,
    /// Operations per second, over all connections; without a rate each connection sends its next request as soon as it
    /// is answered. With a rate, latency counts from the moment a request was due, whether or not it could be sent
    /// then.
    pub rate: Option<NonZeroU64>,
    /// The unmeasured warm-up.
    pub warm_up: Duration,
    /// When the run ends.
    pub until: Until,
    /// Whether an error, a missing key, or a value that does not belong to its key fails the run, as does all that cuts
    /// it short. Otherwise they are counted, and what was measured until then is kept.
    pub strict: bool,
    /// The ack level that connections ask for.
    pub ack: Option<AckLevel>,
    /// The read level that connections ask for.
    pub read: Option<ReadLevel>,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Once every connection has gone through all keys of its server, in order.
    AllKeys,
    /// Once this much time was measured.
    Elapsed(Duration),
    /// Once this many operations begun after the warm-up were answered, over all connections.
    Operations(Count),
}

/// A number of operations.
pub type Count = u64;

impl Load {
    /// One connection with one request in flight, one kind of operation, uniform keys, and every answer checked. The
    /// unmeasured warm-up is a fifth of the time.
    #[must_use]
    pub fn steady(action: Action, encoding: Encoding, sizes: Sizes, time: Duration) -> Self {
        Self {
            encoding,
            sizes,
            mix: Mix::only(action),
            distribution: Distribution::Uniform,
            connections: 1,
            pipeline: 1,
            rate: None,
            warm_up: time / 5,
            until: Until::Elapsed(time),
            strict: true,
            ack: None,
            read: None,
        }
    }
}
