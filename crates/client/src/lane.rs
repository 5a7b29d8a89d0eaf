//! Lanes: the names under which a client writes, so that a retried write takes effect once.
//!
//! A lane is a random name and a counter. It carries one write at a time, so its numbers reach the nodes in order. A
//! node remembers the last 64 writes of a name.

use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::peer::Identity;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::random;

/// How many lanes a client has, and so how many of its writes are in flight at most. IMPORTANT: a slot remembers 65,536
/// writes and names, 65 for each lane that writes to it often, and refuses other lanes then.
pub(crate) const LANES: usize = 256;

/// The name of a lane, and the number of its last write.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    name: String,
    seq: u64,
    _place: SemaphorePermit<'a>,
}

/// The lanes of a client.
#[derive(Debug)]
pub(crate) struct Lanes {
    places: Semaphore,
    /// Of those that are free, the name and the number of the last write.
    free: Mutex<Vec<(String, u64)>>,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { places: Semaphore::new(LANES), free: Mutex::default() }
    }
}

impl Lanes {
    /// Takes a lane, with the number for a new write; waits until one is free. Dropping it abandons it: nobody writes
    /// under its name again.
    pub(crate) async fn take(&self) -> Lane<'_> {
        let place = self.places.acquire().await.expect("nobody closes it");
        let (name, last) = self.free().pop().unwrap_or_else(|| (new_name(), 0));
        Lane { name, seq: last + 1, _place: place }
    }

    /// Returns a lane.
    ///
    /// IMPORTANT: only once the outcome of its write is known for good. A write that may still be in flight must not be
    /// overtaken by the next one of its lane.
    pub(crate) fn put_back(&self, lane: Lane<'_>) {
        let Lane { name, seq, _place: place } = lane;
        self.free().push((name, seq));
        drop(place);
    }

    fn free(&self) -> MutexGuard<'_, Vec<(String, u64)>> {
        // Nothing under this lock can panic halfway.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_name() -> String {
    // 64 bits are enough to distinguish all the clients that a cluster meets within the minutes for which it remembers
    // them.
    format!("{:016x}", random::bits())
}

impl Lane<'_> {
    /// The identity of the write.
    pub(crate) fn identity(&self) -> Identity<'_> {
        Identity { client: self.name.as_bytes(), seq: self.seq }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_lane_carries_one_write_at_a_time() {
        let lanes = Lanes::default();
        let (first, second) = (lanes.take().await, lanes.take().await);
        assert_ne!(first.name, second.name);
        assert_eq!((first.seq, second.seq, first.name.len()), (1, 1, 16));
        let name = first.name.clone();
        lanes.put_back(first);
        drop(second);
        let third = lanes.take().await;
        assert_eq!(third.identity(), Identity { client: name.as_bytes(), seq: 2 });
        assert_ne!(lanes.take().await.name, name);
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_only_so_many_lanes_and_a_write_waits_for_one() {
        let lanes = Lanes::default();
        let mut taken = Vec::new();
        for _ in 0..LANES {
            taken.push(lanes.take().await);
        }
        timeout(Duration::from_secs(1), lanes.take()).await.expect_err("all are taken");
        lanes.put_back(taken.pop().expect("one of them"));
        assert_eq!(lanes.take().await.seq, 2);
    }
}
