//! Completions are forgotten in the background, some slots at a time, so that memory for them is bounded by who writes now.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use proto::slot::SlotId;

use super::{Node, TICK};
use crate::bugs::Bugs;
use crate::completions::{OldestKept, Seen};
use crate::time::Timestamp;

/// In about what time all slots are swept.
const ROUND: Duration = Duration::from_secs(10);

/// How far the present round is, and what is known of clients.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next: u16,
    /// As the round before has found it.
    oldest: OldestKept,
    seen: Seen,
}

impl<B: Bugs> Node<B> {
    /// Sweeps the next slots.
    pub(super) fn sweep_completions(&self, now: Timestamp) {
        let mut sweep = self.sweep();
        let ticks = ROUND.as_millis() / TICK.as_millis();
        let count = self.slots.len().div_ceil(usize::try_from(ticks).unwrap_or(usize::MAX));
        let Sweep { next, oldest, seen } = &mut *sweep;
        for _ in 0..count {
            self.slot(SlotId(*next)).sweep_completions(now, oldest, seen);
            *next += 1;
            if usize::from(*next) == self.slots.len() {
                *next = 0;
                *oldest = std::mem::take(seen).oldest_kept();
            }
        }
    }

    fn sweep(&self) -> MutexGuard<'_, Sweep> {
        self.sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
