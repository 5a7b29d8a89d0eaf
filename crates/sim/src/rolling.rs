//! A rolling restart: every process, including the coordinator, is stopped in an orderly way and started again, one
//! after the other, while clients go on. If nothing else goes wrong, no request at `quorum` fails, or waits as long as
//! it would after a crash.
//!
//! As in the client library, each write carries an identity and is retried, and reads are retried too. During faults a
//! rolling restart runs in whatever state the cluster is in, and shows that it loses nothing.

use engine::coordinator::Coordinator;

use crate::client::{Operation, Outcome};
use crate::faults::Remedy;
use crate::liveness::Phase;
use crate::mutants::Planted;
use crate::node::SurvivingData;
use crate::schedule::Event;
use crate::world::World;

/// How long a request may take, in microseconds. A new primary waits longer for the lease of one that has not handed
/// over; one that has just started waits as long as its earlier start may have promised to lead nothing.
const ANSWERED_WITHIN: u64 = 500_000;

/// The minimum time that a process is away, in microseconds, from when it is asked to stop.
const RESTART: u64 = 1_300_000;

/// How soon the cluster must be whole after each restart, in microseconds.
const WHOLE_WITHIN: u64 = 20_000_000;

/// The progress of the rolling restart at the end of a run.
#[derive(Debug, Default)]
pub(crate) struct Rolling {
    /// The process whose turn it is, once it has been stopped.
    stopped: Option<usize>,
    /// How many have been restarted.
    done: usize,
    since: u64,
    is_over: bool,
}

impl World {
    /// Begins the rolling restart, once per run, if a restart leaves enough copies for a quorum.
    pub(crate) fn rolls_at_end(&mut self) -> bool {
        let can = self.knobs.rolling_at_end > 0
            && self.coordinator.replicas == 2
            && self.nodes.len() > 2
            && self.knobs.max_memory == 0
            && self.knobs.wild_clocks == 0
            && !self.liveness.rolling.is_over;
        if can {
            self.stop_clients(false);
            self.liveness.rolling.since = self.schedule.now;
            self.enter(Phase::Rolling);
        }
        can
    }

    /// Stops the next process once the cluster is whole.
    pub(crate) fn look_at_rolling(&mut self) {
        let (now, proc) = (self.schedule.now, self.liveness.rolling.done);
        let waited = now - self.liveness.rolling.since;
        if let Some(stopped) = self.liveness.rolling.stopped {
            if waited < RESTART || self.is_stopping(stopped) {
                return;
            }
            self.start_again(stopped);
            let rolling = &mut self.liveness.rolling;
            (rolling.stopped, rolling.done, rolling.since) = (None, rolling.done + 1, now);
        } else if !self.is_healthy() {
            if waited >= WHOLE_WITHIN {
                let what = format!("not whole after {proc} restarts: {:?}", self.not_whole());
                self.broken("rolling restart", None, what);
            }
        } else if proc > self.nodes.len() {
            self.liveness.rolling.is_over = true;
            self.stats.rolled += 1;
            self.stop_clients(true);
            self.stop_comparing();
            self.enter(Phase::Resting);
        } else if waited >= 500_000 {
            self.stop_orderly(proc);
            (self.liveness.rolling.stopped, self.liveness.rolling.since) = (Some(proc), now);
        }
    }

    fn is_stopping(&self, proc: usize) -> bool {
        self.nodes.get(proc).is_some_and(|process| process.is_leaving && process.node.is_some())
    }

    /// What an operator waits for between restarts: that `WAIT_HEALTHY` succeeds.
    fn is_healthy(&mut self) -> bool {
        let now = self.coordinator_now();
        let says_so = |state: &mut Coordinator<Planted>| state.is_healthy(now);
        self.all_are_registered() && self.not_whole().is_none() && self.coordinator.state.as_mut().is_some_and(says_so)
    }

    /// Asks a process to stop, as by SIGTERM. The coordinator has already persisted everything that it knows.
    fn stop_orderly(&mut self, proc: usize) {
        if proc < self.nodes.len() {
            self.stop_node(proc, SurvivingData::Everything);
        } else if self.coordinator.state.is_some() {
            self.stop_coordinator();
        }
    }

    fn start_again(&mut self, proc: usize) {
        if proc < self.nodes.len() {
            self.start_node(proc);
        } else if self.coordinator.state.is_none() {
            self.start_coordinator();
        }
    }

    /// Restarts all processes one after the other, during whatever else goes on.
    pub(crate) fn roll(&mut self) {
        let between = self.faults.random.spread(RESTART, 5_000_000);
        for proc in 0..=self.nodes.len() {
            self.schedule.after(proc as u64 * between, Event::Remedy(Remedy::Restart(proc)));
        }
    }

    /// It is the turn of one process. A process that is down or stopping is skipped.
    pub(crate) fn restart_in_turn(&mut self, proc: usize) {
        let again = match self.nodes.get(proc) {
            Some(process) => {
                let can = process.node.is_some() && !process.is_leaving && !process.is_paused;
                can.then_some(Remedy::StartNode(proc))
            }
            None => {
                (self.coordinator.state.is_some() && !self.faults.state_is_lost).then_some(Remedy::StartCoordinator)
            }
        };
        if let Some(again) = again {
            self.stats.restarts += 1;
            self.stop_orderly(proc);
            self.schedule.after(RESTART, Event::Remedy(again));
        }
    }

    /// Whether no request may fail now.
    pub(crate) fn is_rolling(&self) -> bool {
        self.liveness.phase() == Phase::Rolling
    }

    /// Checks the outcome of an operation that was called at `call`.
    pub(crate) fn check_rolling(&mut self, operation: &Operation, call: u64, outcome: &Outcome) {
        let took = self.schedule.now - call;
        let is_answered = !matches!(outcome, Outcome::Refused | Outcome::Full | Outcome::Unknown);
        if self.is_rolling() && operation.is_judged && (took > ANSWERED_WITHIN || !is_answered) {
            let what = format!(
                "{outcome:?} after {} ms to client {}, who asked {:?} of {}",
                took / 1_000,
                operation.client,
                operation.what,
                operation.key
            );
            self.broken("rolling restart", Some(operation.slot), what);
        }
    }
}
