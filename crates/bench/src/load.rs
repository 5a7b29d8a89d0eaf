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
    /// How requests are written.
    pub encoding: Encoding,
    /// How long keys and values are.
    pub sizes: Sizes,
    /// What is asked.
    pub mix: Mix,
    /// Which keys are asked for.
    pub distribution: Distribution,
    /// How many connections there are, spread evenly over the servers of the target.
    pub connections: usize,
    /// How many requests a connection has in flight. Without a rate they are sent together, and the next when all are
    /// answered.
    pub pipeline: usize,
    /// Operations in a second, over all connections; without it each connection asks as fast as it is answered. With a
    /// rate latency counts from the moment at which a request was due, whether or not it could be sent then.
    pub rate: Option<NonZeroU64>,
    /// What goes before and is not measured.
    pub warm_up: Duration,
    /// When the run ends.
    pub until: Until,
    /// An error, a key that is not there, or a value that is not the one that belongs to its key fails the run. Else
    /// they are counted.
    pub strict: bool,
    /// The levels that connections ask for.
    pub ack: Option<AckLevel>,
    /// The same of reads.
    pub read: Option<ReadLevel>,
}

/// When a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Every connection has been through all keys of its server, in their order.
    AllKeys,
    /// So much time was measured.
    Elapsed(Duration),
    /// So many operations are answered, over all connections.
    Operations(Count),
}

/// How many operations.
pub type Count = u64;

impl Load {
    /// As many connections and requests in flight as it takes, one kind of operation, uniform keys, and every answer checked.
    /// A fifth of the time goes before, unmeasured.
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
