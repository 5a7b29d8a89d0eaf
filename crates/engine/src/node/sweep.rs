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

/// How many clients are visited while a slot is locked: a few hundred microseconds of work.
const CLIENTS_PER_LOCK: usize = 512;

/// How many of these steps a tick takes at most. A round with many clients takes longer.
const STEPS_PER_TICK: usize = 16;

/// The progress of the current round, and what is known about clients.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    next: u16,
    /// The last client visited in the next slot, if that is not finished.
    after: Option<Box<[u8]>>,
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
        let Sweep { next, after, oldest, seen } = &mut *sweep;
        let mut steps = STEPS_PER_TICK;
        for _ in 0..count {
            loop {
                let mut slot = self.slot(SlotId(*next));
                *after = slot.sweep_completions(now, oldest, seen, after.as_deref(), CLIENTS_PER_LOCK);
                if after.is_none() {
                    break;
                }
                steps -= 1;
                if steps == 0 {
                    return;
                }
            }
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
