//! Very late retries: of writes that were answered long ago, before everything that is remembered of their client. None
//! may take effect again.
//!
//! They are drawn separately and nobody waits for their answers, so that everything else of a seed stays the same.

use std::collections::VecDeque;
use std::rc::Rc;

use engine::completions::COMPLETIONS_OF_A_CLIENT;
use seeded::Random;

use crate::client::{Operation, Outcome, Request};
use crate::knobs::Knobs;
use crate::schedule::Event;
use crate::workload::DEADLINE;
use crate::world::World;
/// How many writes of a client are kept, from which one is retried.
const KNOWN: usize = 2_000;

/// No client attempt that waits for an answer has this number.
const NOBODY: u32 = u32::MAX;

/// The writes that may be retried.
#[derive(Debug)]
pub(crate) struct OldRetries {
    random: Random,
    /// By client, oldest first.
    settled: Vec<VecDeque<Rc<Operation>>>,
}

impl OldRetries {
    pub(crate) fn new(knobs: &Knobs, seed: u64) -> Self {
        let settled = vec![VecDeque::new(); knobs.clients as usize];
        Self { random: Random::new(seed ^ 0x6f6c_6472_6574_7279), settled }
    }
}

impl World {
    /// An operation has ended: perhaps an old one is retried.
    pub(crate) fn retry_an_old_one(&mut self, c: usize, operation: &Rc<Operation>, outcome: &Outcome) {
        if self.knobs.old_retries == 0 {
            return;
        }
        let OldRetries { random, settled } = &mut self.old_retries;
        let settled = &mut settled[c];
        if operation.is_judged && operation.identity.is_some() && outcome.done().is_some() {
            settled.push_back(Rc::clone(operation));
            settled.truncate(KNOWN);
        }
        if !random.chance(self.knobs.old_retries) || settled.is_empty() {
            return;
        }
        let at = random.index(settled.len());
        let old = Rc::clone(&settled[at]);
        if settled.len() - at <= COMPLETIONS_OF_A_CLIENT {
            return;
        }
        self.stats.old_retries += 1;
        let node = random.index(self.nodes.len()) as u8;
        let delay = random.spread(100, 10_000);
        let deadline = self.schedule.now + delay + DEADLINE;
        let request = Box::new(Request { operation: old, serial: NOBODY, is_forwarded: false, deadline });
        self.schedule.after(delay, Event::Request { node, request });
    }
}
