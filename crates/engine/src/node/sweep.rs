//! Forgets completions in the background, a few slots at a time, so that their memory is bounded by the current
//! writers.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use proto::slot::SlotId;

use super::{Node, TICK};
use crate::bugs::Bugs;
use crate::completions::Sweep;
use crate::time::Timestamp;

/// Approximately how long it takes to sweep all slots.
const ROUND: Duration = Duration::from_secs(10);

/// How many times a tick goes on within a slot at most. A round with many clients takes longer.
const STEPS_PER_TICK: usize = 16;

/// The sweep, and the slot that is next.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    next: u16,
    sweep: Sweep,
}

impl<B: Bugs> Node<B> {
    /// Sweeps the next slots.
    pub(super) fn sweep_completions(&self, now: Timestamp) {
        let mut sweeper = self.sweeper();
        let Sweeper { next, sweep } = &mut *sweeper;
        let ticks = ROUND.as_millis() / TICK.as_millis();
        let mut slots = self.slots.len().div_ceil(usize::try_from(ticks).unwrap_or(usize::MAX));
        let mut steps = STEPS_PER_TICK;
        while slots > 0 && steps > 0 {
            self.slot(SlotId(*next)).sweep_completions(now, sweep);
            if !sweep.is_slot_done() {
                steps -= 1;
                continue;
            }
            slots -= 1;
            *next += 1;
            if usize::from(*next) == self.slots.len() {
                *next = 0;
                sweep.end_round();
            }
        }
    }

    fn sweeper(&self) -> MutexGuard<'_, Sweeper> {
        self.sweeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
