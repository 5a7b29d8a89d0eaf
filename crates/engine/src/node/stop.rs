//! A planned stop. Other members take over what this node leads before it stops accepting requests, so that none has to
//! wait.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::id::Incarnation;

use super::{Node, Turn};
use crate::bugs::{Bug, Bugs};
use crate::time::Timestamp;

/// A stopping node gives up waiting for its slots to be handed over after this long without progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_millis(500);

/// The limit for the whole wait.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// The progress of the hand-over before a stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopping {
    since: Timestamp,
    /// How many slots were left, and since when.
    left: usize,
    left_since: Timestamp,
}

impl<B: Bugs> Node<B> {
    /// The node is about to stop: the coordinator is asked to have other members lead what it leads. The node keeps
    /// serving until [`Node::close`], which is due once [`Node::is_handed_over`].
    pub fn prepare_to_stop(&self, now: Timestamp) {
        let stopping = Stopping { since: now, left: usize::MAX, left_since: now };
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(stopping);
        self.proposals().stops = true;
    }

    /// Whether a node that is about to stop no longer leads anything that another member could lead, or has waited long
    /// enough for that.
    #[must_use]
    pub fn is_handed_over(&self, now: Timestamp) -> bool {
        let left = self.slots_to_hand_over();
        let mut stopping = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stopping) = &mut *stopping else { return false };
        if left < stopping.left {
            (stopping.left, stopping.left_since) = (left, now);
        }
        let is_planted = self.bugs.plants(Bug::StopsWithoutRelease);
        is_planted || left == 0 || now - stopping.left_since >= PROGRESS_TIMEOUT || now - stopping.since >= STOP_TIMEOUT
    }

    /// How many slots this node leads that another member could lead, according to the map.
    fn slots_to_hand_over(&self) -> usize {
        let Some(map) = self.map() else { return 0 };
        let me = self.incarnation();
        let is_up = |member: &Incarnation| *member != me && map.member(*member).is_some_and(|member| member.up);
        map.slots().filter(|(_, config)| config.primary == Some(me) && config.isr.iter().any(is_up)).count()
    }

    /// Stops accepting writes: the node is about to leave. When this returns, every accepted write is queued.
    pub fn close(&self, now: Timestamp, turn: &mut Turn) {
        self.closed.store(true, Ordering::Relaxed);
        // Whoever holds a slot's lock may not have seen the flag; whoever takes the lock after this has.
        self.bits.slots().for_each(|slot| self.slot(slot).release(&self.cx(now, slot), turn));
        self.finish(turn);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}
