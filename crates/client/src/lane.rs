//! Lanes: the names under which a client writes, so that a retried write takes effect once.
//!
//! A lane is a random name and a counter. It carries one write at a time, so its numbers reach the nodes in order. A
//! node remembers the last 64 writes of a name.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::peer::Identity;

/// How many free lanes are kept. Each was created for a write that ran while all other lanes were in use.
const FREE_LANES: usize = 1024;

/// The name of a lane, and the number of its last write.
#[derive(Debug)]
pub(crate) struct Lane {
    name: String,
    seq: u64,
}

/// The free lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    free: Mutex<Vec<Lane>>,
}

impl Lanes {
    /// Takes a lane, with the number for a new write. Dropping it abandons it: nobody writes under its name again.
    pub(crate) fn take(&self) -> Lane {
        let mut lane = self.free().pop().unwrap_or_else(Lane::new);
        lane.seq += 1;
        lane
    }

    /// Returns a lane.
    ///
    /// IMPORTANT: only once the outcome of its write is known for good. A write that may still be in flight must not be
    /// overtaken by the next one of its lane.
    pub(crate) fn put_back(&self, lane: Lane) {
        let mut free = self.free();
        if free.len() < FREE_LANES {
            free.push(lane);
        }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Lane>> {
        // Nothing under this lock can panic halfway.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn new() -> Self {
        // The standard library seeds its hashers from the system, each one separately. 64 bits are enough to
        // distinguish all the clients that a cluster meets within the minutes for which it remembers them.
        let name = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        Self { name, seq: 0 }
    }

    /// The identity of the write.
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity { client: self.name.as_bytes(), seq: self.seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_carries_one_write_at_a_time() {
        let lanes = Lanes::default();
        let (first, second) = (lanes.take(), lanes.take());
        assert_ne!(first.name, second.name);
        assert_eq!((first.seq, second.seq, first.name.len()), (1, 1, 16));
        let name = first.name.clone();
        lanes.put_back(first);
        drop(second);
        let third = lanes.take();
        assert_eq!(third.identity(), Identity { client: name.as_bytes(), seq: 2 });
        assert_ne!(lanes.take().name, name);
    }
}
