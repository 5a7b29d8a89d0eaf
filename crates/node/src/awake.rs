//! Noticing that the process, or its machine, stood still.
//!
//! Whatever arrived meanwhile waits in the sockets, perhaps from clients that gave up long ago. A write with an identity
//! may have taken effect elsewhere since, and be forgotten by now: carried out here, it would take effect a second time.
//! So after a long pause nothing is carried out that arrived on connections from before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::time::Timestamp;

/// A pause of this length is a long one: much shorter than writes are remembered, and longer than any stall of a process
/// that runs.
const LONG: Duration = Duration::from_secs(60);

/// Whether the process runs, as its regular ticks tell.
#[derive(Debug)]
pub(crate) struct Awake {
    /// The last tick, in microseconds.
    ticked: AtomicU64,
    /// How many long pauses there were.
    pauses: AtomicU64,
}

impl Awake {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { ticked: AtomicU64::new(now.0), pauses: AtomicU64::new(0) }
    }

    /// Notes that the process runs. Called many times a second.
    pub(crate) fn tick(&self, now: Timestamp) {
        if self.is_late(now) {
            self.pauses.fetch_add(1, Ordering::SeqCst);
        }
        // IMPORTANT: after the pause is counted. Whoever sees this tick sees that, too.
        self.ticked.store(now.0, Ordering::SeqCst);
    }

    /// How many long pauses were noticed.
    pub(crate) fn pauses(&self) -> u64 {
        self.pauses.load(Ordering::SeqCst)
    }

    /// Whether there was a long pause since `pauses` were noticed, even if no tick has noticed it yet.
    pub(crate) fn has_paused_since(&self, pauses: u64, now: Timestamp) -> bool {
        self.is_late(now) || self.pauses() != pauses
    }

    fn is_late(&self, now: Timestamp) -> bool {
        now - Timestamp(self.ticked.load(Ordering::SeqCst)) >= LONG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_long_pause_is_seen_before_the_next_tick_and_for_ever_after() {
        let awake = Awake::new(at(1));
        let before = awake.pauses();
        for second in 2..200 {
            awake.tick(at(second));
            assert!(!awake.has_paused_since(before, at(second + 59)));
        }
        assert!(awake.has_paused_since(before, at(199 + 60)));
        awake.tick(at(199 + 60));
        assert!(awake.has_paused_since(before, at(199 + 60)));
        assert!(awake.has_paused_since(before, at(1_000)));
        assert!(!awake.has_paused_since(awake.pauses(), at(199 + 61)), "a connection from after it");
    }
}
