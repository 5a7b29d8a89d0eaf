//! Nodes that use the name of another node, as a wrong `--advertise` makes them. None may take the place of a live
//! node: that node would delete its data.
//!
//! They are drawn separately and exchange only two messages with the coordinator, so that everything else of a seed
//! stays the same.

use std::time::Duration;

use engine::coordinator::JoinRequest;
use engine::output::JoinError;
use proto::id::Incarnation;
use proto::session::NodeMessage;
use seeded::Random;

use crate::knobs::Knobs;
use crate::schedule::Event;
use crate::world::World;
/// A node certainly lives if the coordinator has answered a heartbeat that it sent within this time.
const HEARD_WITHIN: Duration = Duration::from_millis(400);

/// What an impostor does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Joins,
    /// With its first heartbeat it would be registered.
    Speaks(Incarnation),
}

/// The impostors of a run.
#[derive(Debug)]
pub(crate) struct Impostors {
    random: Random,
    left: u64,
}

impl Impostors {
    pub(crate) fn new(knobs: &Knobs, seed: u64) -> Self {
        Self { random: Random::new(seed ^ 0x696d_706f_7374_6f72), left: knobs.impostors }
    }
}

impl World {
    pub(crate) fn plan_impostors(&mut self) {
        for _ in 0..self.impostors.left {
            let at = self.impostors.random.between(1_000_000, self.faults.until);
            let node = self.impostors.random.index(self.nodes.len()) as u8;
            self.schedule.at(at, Event::Impostor { node, step: Step::Joins });
        }
    }

    pub(crate) fn impostor_due(&mut self, n: usize, step: Step) {
        match step {
            Step::Joins => self.impostor_joins(n),
            Step::Speaks(incarnation) => self.impostor_speaks(n, incarnation),
        }
    }

    fn impostor_joins(&mut self, n: usize) {
        let (addr, lives) = (self.nodes[n].addr.clone(), self.surely_lives(n));
        let joined = self.coordinate(|state, now| state.join(now, JoinRequest::new(addr)));
        match joined {
            Some(Ok(joined)) => {
                let after = self.impostors.random.spread(1_000, 3_000_000);
                let step = Step::Speaks(joined.incarnation);
                self.schedule.after(after, Event::Impostor { node: n as u8, step });
            }
            Some(Err(JoinError::Refused(_))) => self.stats.impostors_refused += u64::from(lives),
            Some(Err(_)) | None => {}
        }
    }

    /// If the node may be gone, the impostor gives up: it would be entitled to the name, and the node's data would be
    /// lost.
    fn impostor_speaks(&mut self, n: usize, incarnation: Incarnation) {
        if !self.surely_lives(n) {
            self.coordinate(|state, now| state.session_ended(now, incarnation));
            return;
        }
        let heartbeat = NodeMessage::Heartbeat { incarnation };
        if self.coordinate(|state, now| state.handle_message(now, incarnation, heartbeat)) == Some(true) {
            let name = self.nodes[n].name.clone();
            self.broken("one name, one node", None, format!("another node is registered as {name}, which lives"));
        }
    }

    fn surely_lives(&self, n: usize) -> bool {
        let process = &self.nodes[n];
        let is_heard = process.is_registered() && self.local(n) - process.answered < HEARD_WITHIN;
        is_heard
            && !process.is_paused
            && !process.is_leaving
            && !self.operator.has_taken_off(n)
            && self.knobs.wild_clocks == 0
            && !self.faults.state_is_lost
    }
}
