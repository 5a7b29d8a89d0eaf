//! Linearizability of one key by search.
//!
//! The search of J. M. Wing and C. Gong, "Testing and verifying concurrent objects" (J. Parallel and Distributed
//! Computing 17, 1993): put an operation in order that is in turn and possible, continue from there, and backtrack if
//! that leads nowhere. With the memoization of G. Lowe, "Testing for linearizability" (Concurrency and Computation:
//! Practice and Experience 29(4), 2017): the set of ordered operations and the resulting state determine what can
//! follow, so no such pair is tried twice.
//!
//! What our registers allow beyond that, and why it misses no order:
//! - A read or a conflict that is in turn and possible goes next, without a choice. If it came later in some order, it
//!   can be moved up: no other operation notices. This does not hold for a delete of an absent key, which might have
//!   had something to delete later.
//! - A value that is still to be found is not overwritten: it never comes back, as no value is written twice.
//! - Operations of unknown outcome are tried last, and those with the same effect are distinguished only by their
//!   count. One that an unconditional write would directly follow is not tried: no other operation would notice it. A
//!   pair of set and state that was tried is not tried again with more of them used up, since leaving the unused ones
//!   out is always possible.

mod linearized;
mod model;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use foldhash::fast::FixedState;

use self::linearized::Linearized;
use self::model::{ABSENT, Effect, Model, State, count, is_value};
use super::verdict::{STORY_LENGTH, Story, Verdict};
use crate::history::{Action, Operation};

/// Checks the operations on one key, in any order, and returns how many steps it took. A step puts one operation in
/// order; `limit` is the maximum number of steps, including those that are undone. Memory grows with the steps: each
/// keeps about one bit for every operation in flight at the time, plus some 100 bytes.
///
/// # Errors
///
/// A violation, a value that is written twice, or the limit was reached first.
pub fn check(operations: &[&Operation], limit: u64) -> Result<u64, Verdict> {
    let Some(Operation { key, .. }) = operations.first().copied() else { return Ok(0) };
    let mut search = Search::new(Model::new(operations)?);
    let mut steps = 0;
    // Where the choices of what comes next begin, for the start and for each operation put in order.
    let mut nodes = vec![0];
    if search.expand() {
        return Ok(steps);
    }
    while let Some(&node) = nodes.last() {
        if search.choices.len() == node {
            search.note_dead_end();
            nodes.pop();
            search.take_back();
            continue;
        }
        if steps == limit {
            return Err(Verdict::GaveUp { key: key.clone(), steps });
        }
        steps += 1;
        search.put_next();
        nodes.push(search.choices.len());
        if search.expand() {
            return Ok(steps);
        }
    }
    Err(search.farthest.expect("the start was a dead end").of(key))
}

/// What may come next in the order: a step, or one of a class of loose operations.
#[derive(Clone, Copy)]
enum Choice {
    Step(usize),
    Loose(usize),
}

/// A choice that was made, with what is needed to undo it.
struct Made<'a> {
    choice: Choice,
    operation: &'a Operation,
    state: State,
    after_loose: bool,
}

struct Search<'a> {
    model: Model<'a>,
    linearized: Linearized,
    /// For each class of loose operations, how many have taken effect.
    used: Vec<u32>,
    state: State,
    /// Whether the last operation in order is a loose one.
    after_loose: bool,
    /// The order so far.
    order: Vec<Made<'a>>,
    /// The untried choices for all operations in `order`; the best is last.
    choices: Vec<Choice>,
    /// The sets and states that were tried, each with the values of `used`, concatenated.
    tried: HashMap<Box<[u64]>, Vec<u32>, FixedState>,
    /// The dead end with the most steps in order. `most` is their number.
    farthest: Option<Story>,
    most: usize,
}

impl<'a> Search<'a> {
    fn new(model: Model<'a>) -> Self {
        Self {
            linearized: Linearized::new(model.steps.len()),
            used: vec![0; model.loose.len()],
            state: ABSENT,
            after_loose: false,
            order: Vec::new(),
            choices: Vec::new(),
            tried: HashMap::default(),
            farthest: None,
            most: 0,
            model,
        }
    }

    /// Adds the choices of what comes next, or none if all of them are known to lead nowhere. Returns whether all steps
    /// are already in order.
    fn expand(&mut self) -> bool {
        if self.linearized.len() == self.model.steps.len() {
            return true;
        }
        let start = self.choices.len();
        let mut in_turn = self.linearized.in_turn(&self.model.steps);
        for (index, step) in in_turn.by_ref() {
            if step.effect.apply(self.state).is_none() {
                continue;
            }
            if step.effect.only_looks() {
                self.choices.truncate(start);
                self.choices.push(Choice::Step(index));
                return false;
            }
            if self.may_follow(step.effect, true) {
                self.choices.push(Choice::Step(index));
            }
        }
        let (horizon, window_end) = (in_turn.horizon(), in_turn.window_end());
        if !self.is_new(window_end) {
            self.choices.truncate(start);
            return false;
        }
        // The operation that ended first was probably first.
        let end = |choice: &Choice| match *choice {
            Choice::Step(index) => self.model.steps.get(index).map(|step| step.end),
            Choice::Loose(_) => None,
        };
        if let Some(new) = self.choices.get_mut(start..) {
            new.sort_by_key(|choice| std::cmp::Reverse(end(choice)));
        }
        let steps = self.choices.split_off(start);
        for (index, (class, &used)) in self.model.loose.iter().zip(&self.used).enumerate() {
            let called = class.operations.get(used as usize).is_some_and(|operation| operation.call <= horizon);
            let changes = class.effect.apply(self.state).is_some_and(|next| next != self.state);
            if called && changes && self.may_follow(class.effect, class.owed) {
                self.choices.push(Choice::Loose(index));
            }
        }
        self.choices.extend(steps);
        false
    }

    /// Whether an operation that may change the state may be next. `owed`: whether it is itself one of the debts of the
    /// state that it needs.
    fn may_follow(&self, effect: Effect, owed: bool) -> bool {
        if self.after_loose && matches!(effect, Effect::Set(_)) {
            return false;
        }
        let own = u32::from(owed && effect.needs() == Some(self.state));
        !is_value(self.state) || self.model.debts.get(self.state as usize) == Some(&own)
    }

    /// Records the current set and state. Returns `false` if they were tried before with no more loose operations used.
    fn is_new(&mut self, window_end: usize) -> bool {
        let mut key = Vec::with_capacity(8);
        key.push(u64::from(self.state) << 1 | u64::from(self.after_loose));
        key.push(self.linearized.first() as u64);
        key.extend_from_slice(self.linearized.window(window_end));
        // For a swap from a value, it does not matter whether it was used: before the value came it was not, and after
        // the value was gone it never can be.
        let used = self.model.loose.iter().zip(&self.used).map(|(class, &used)| match class.effect {
            Effect::Change { from, .. } if is_value(from) => 0,
            _ => used,
        });
        let classes = self.used.len();
        match self.tried.get_mut(key.as_slice()) {
            None => {
                self.tried.insert(key.into_boxed_slice(), used.collect());
                true
            }
            Some(_) if classes == 0 => false,
            Some(tried) => {
                if tried
                    .chunks_exact(classes)
                    .any(|less| less.iter().zip(used.clone()).all(|(&less, used)| less <= used))
                {
                    return false;
                }
                tried.extend(used);
                true
            }
        }
    }

    /// Puts the best choice in order.
    fn put_next(&mut self) {
        let choice = self.choices.pop().expect("a node with choices");
        let (operation, effect) = self.account(choice, true);
        self.order.push(Made { choice, operation, state: self.state, after_loose: self.after_loose });
        self.state = effect.apply(self.state).expect("only what is possible is a choice");
        self.after_loose = matches!(choice, Choice::Loose(_));
    }

    /// Undoes the last operation in order; does nothing at the start.
    fn take_back(&mut self) {
        if let Some(made) = self.order.pop() {
            self.account(made.choice, false);
            self.state = made.state;
            self.after_loose = made.after_loose;
        }
    }

    /// Adds a choice to the sets and debts, or removes it from them.
    fn account(&mut self, choice: Choice, enter: bool) -> (&'a Operation, Effect) {
        let (operation, effect, owed) = match choice {
            Choice::Step(index) => {
                if enter {
                    self.linearized.insert(index);
                } else {
                    self.linearized.remove(index);
                }
                let step = self.model.steps.get(index).expect("a step of the model");
                (step.operation, step.effect, true)
            }
            Choice::Loose(index) => {
                let class = self.model.loose.get(index).expect("a class of the model");
                let used = self.used.get_mut(index).expect("a count for each class");
                *used = if enter { *used + 1 } else { *used - 1 };
                let last = if enter { *used - 1 } else { *used };
                let operation = class.operations.get(last as usize).expect("one that is left");
                (*operation, class.effect, class.owed)
            }
        };
        if let Some(state) = effect.needs().filter(|&state| owed && is_value(state)) {
            let debts = count(&mut self.model.debts, state);
            *debts = if enter { *debts - 1 } else { *debts + 1 };
        }
        (operation, effect)
    }

    /// Keeps the story of the current dead end, unless one with as many steps in order is known.
    fn note_dead_end(&mut self) {
        if self.farthest.is_none() || self.linearized.len() > self.most {
            self.most = self.linearized.len();
            self.farthest = Some(self.dead_end());
        }
    }

    fn dead_end(&self) -> Story {
        let earlier = self.order.len().saturating_sub(STORY_LENGTH);
        let ordered: Vec<_> = self.order.iter().skip(earlier).map(|made| made.operation.clone()).collect();
        let wrote = |made: &&Made<'_>| made.operation.written().is_some() || made.operation.action == Action::Delete;
        let owed = self.model.last_finder.get(self.state as usize).copied().flatten();
        Story::Stuck {
            earlier,
            ordered,
            value: self.order.iter().rfind(wrote).and_then(|made| made.operation.written()).map(str::to_owned),
            owed: owed
                .filter(|&index| !self.linearized.contains(index))
                .and_then(|index| self.model.steps.get(index))
                .map(|step| step.operation.clone()),
            next: self
                .linearized
                .in_turn(&self.model.steps)
                .take(STORY_LENGTH)
                .map(|(_, step)| step.operation.clone())
                .collect(),
        }
    }
}
