//! Forgets completions in the background, a few slots at a time, so that their memory is bounded by the current
//! writers.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use proto::slot::SlotId;

use super::{Node, TICK};
use crate::bugs::Bugs;
use crate::completions::{OldestKept, Seen};
use crate::time::Timestamp;

/// Approximately how long it takes to sweep all slots.
const ROUND: Duration = Duration::from_secs(10);

/// The progress of the current round, and what is known about clients.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next: u16,
    /// The result of the previous round.
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
