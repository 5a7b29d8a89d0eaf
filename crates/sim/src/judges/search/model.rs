//! The model that a search works on: the operations on one key as effects on a small number of states.
//!
//! Every operation finds, excludes, sets or changes the state of its key. States are numbers. Values that nothing
//! finds, expects or excludes share one number, as no answer can distinguish them (this partition of configurations
//! into equivalence classes is our own; Lowe 2017 leaves it to the specification of the object).

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::history::{Action, Operation, Outcome};
use crate::judges::verdict::{Story, Verdict};

/// What a key holds: [`ABSENT`], [`UNSEEN`], or the number of a value.
pub(super) type State = u32;

/// No value.
pub(super) const ABSENT: State = 0;

/// Any value that no operation looks at.
pub(super) const UNSEEN: State = 1;

/// The number of the first value that some operation looks at.
const FIRST_VALUE: State = 2;

/// Whether a state is a value of its own. It is entered at most once, as no value is written twice.
pub(super) fn is_value(state: State) -> bool {
    state >= FIRST_VALUE
}

/// What an operation that took effect requires of the state, and what it makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    /// Possible only in this state; changes nothing.
    Find(State),
    /// Possible in every state but this one; changes nothing.
    Exclude(State),
    /// Always possible.
    Set(State),
    /// Possible in one state.
    Change {
        /// The required state.
        from: State,
        /// The state it becomes.
        to: State,
    },
}

impl Effect {
    /// The state after the operation; `None` if it is not possible.
    pub(super) fn apply(self, state: State) -> Option<State> {
        match self {
            Self::Find(needed) => (state == needed).then_some(state),
            Self::Exclude(other) => (state != other).then_some(state),
            Self::Set(to) => Some(to),
            Self::Change { from, to } => (state == from).then_some(to),
        }
    }

    /// Whether the operation changes nothing in any state.
    pub(super) fn only_looks(self) -> bool {
        matches!(self, Self::Find(_) | Self::Exclude(_))
    }

    /// The state that the operation must find.
    pub(super) fn needs(self) -> Option<State> {
        match self {
            Self::Find(state) | Self::Change { from: state, .. } => Some(state),
            Self::Exclude(_) | Self::Set(_) => None,
        }
    }
}

/// An operation whose outcome is known.
pub(super) struct Step<'a> {
    pub(super) operation: &'a Operation,
    pub(super) end: u64,
    pub(super) effect: Effect,
}

/// Operations of unknown outcome with the same effect. As none of them ever ends, it does not matter which of those
/// already called takes effect, and the earliest is always taken first.
pub(super) struct Loose<'a> {
    pub(super) effect: Effect,
    /// Whether one of them must have taken effect, because its value was found; it is then a debt of the state that it
    /// needs.
    pub(super) owed: bool,
    /// Ordered by call.
    pub(super) operations: Vec<&'a Operation>,
}

/// The operations on one key.
pub(super) struct Model<'a> {
    /// The operations of known outcome, ordered by call.
    pub(super) steps: Vec<Step<'a>>,
    /// The other operations.
    pub(super) loose: Vec<Loose<'a>>,
    /// For each state that is a value, how many operations must find it.
    pub(super) debts: Vec<u32>,
    /// For each state that is a value, the last-called step that must find it.
    pub(super) last_finder: Vec<Option<usize>>,
}

impl<'a> Model<'a> {
    /// The model of the operations on one key, in any order.
    ///
    /// # Errors
    ///
    /// A value that is written twice, or a value that was found but never written.
    pub(super) fn new(operations: &[&'a Operation]) -> Result<Self, Verdict> {
        check_values(operations)?;
        let states = States::new(operations);
        let mut operations = operations.to_vec();
        operations.sort_by_key(|operation| operation.call);

        let mut steps = Vec::new();
        let mut loose: Vec<Loose<'_>> = Vec::new();
        let mut by_effect: HashMap<Effect, usize, FixedState> = HashMap::default();
        for operation in operations {
            let effect = states.effect(&operation.action);
            if let Some(end) = operation.end {
                steps.push(Step { operation, end, effect });
                continue;
            }
            let class = *by_effect.entry(effect).or_insert(loose.len());
            match loose.get_mut(class) {
                Some(class) => class.operations.push(operation),
                None => loose.push(Loose { effect, owed: false, operations: vec![operation] }),
            }
        }
        let mut model = Self { steps, loose, debts: vec![0; states.count()], last_finder: vec![None; states.count()] };
        model.count_debts();
        Ok(model)
    }

    fn count_debts(&mut self) {
        for (index, step) in self.steps.iter().enumerate() {
            if let Some(state) = step.effect.needs().filter(|&state| is_value(state)) {
                *count(&mut self.debts, state) += 1;
                if let Some(last) = self.last_finder.get_mut(state as usize) {
                    *last = Some(index);
                }
            }
        }
        // If the value of a swap of unknown outcome was found, the swap did find the value that it replaced, and so on
        // backwards.
        let mut more = true;
        while more {
            more = false;
            for class in &mut self.loose {
                let Effect::Change { from, to } = class.effect else { continue };
                if !class.owed && is_value(from) && is_value(to) && *count(&mut self.debts, to) > 0 {
                    *count(&mut self.debts, from) += 1;
                    class.owed = true;
                    more = true;
                }
            }
        }
    }
}

/// The debts of a state.
pub(super) fn count(debts: &mut [u32], state: State) -> &mut u32 {
    debts.get_mut(state as usize).expect("every state that an effect names is counted")
}

/// The numbers of the values that some operation looks at.
struct States<'a>(HashMap<&'a str, State, FixedState>);

impl<'a> States<'a> {
    fn new(operations: &[&'a Operation]) -> Self {
        let mut numbers: HashMap<&'a str, State, FixedState> = HashMap::default();
        for operation in operations {
            let looked_at = match &operation.action {
                Action::Get { result } => result.as_deref(),
                Action::Swap { expected, .. } => Some(expected.as_str()),
                Action::Expire { value } => Some(value.as_str()),
                _ => None,
            };
            if let Some(value) = looked_at {
                let next = State::try_from(numbers.len()).expect("fewer than 4 billion values") + FIRST_VALUE;
                numbers.entry(value).or_insert(next);
            }
        }
        Self(numbers)
    }

    fn count(&self) -> usize {
        self.0.len() + FIRST_VALUE as usize
    }

    fn of(&self, value: &str) -> State {
        self.0.get(value).copied().unwrap_or(UNSEEN)
    }

    /// The effect of an operation; if its outcome is unknown, the effect that it has if it takes effect.
    fn effect(&self, action: &Action) -> Effect {
        match action {
            Action::Put { value } => Effect::Set(self.of(value)),
            Action::Get { result } => Effect::Find(result.as_deref().map_or(ABSENT, |value| self.of(value))),
            Action::Delete => Effect::Set(ABSENT),
            Action::Expire { value } => Effect::Change { from: self.of(value), to: ABSENT },
            Action::Look { is_there: true } => Effect::Exclude(ABSENT),
            Action::Look { is_there: false } => Effect::Find(ABSENT),
            Action::PutIfAbsent { outcome: Outcome::Conflict, .. } => Effect::Exclude(ABSENT),
            Action::PutIfAbsent { value, .. } => Effect::Change { from: ABSENT, to: self.of(value) },
            Action::Swap { expected, outcome: Outcome::Conflict, .. } => Effect::Exclude(self.of(expected)),
            Action::Swap { expected, value, .. } => Effect::Change { from: self.of(expected), to: self.of(value) },
        }
    }
}

/// Checks that each value is written at most once, and each value that was found at least once.
fn check_values(operations: &[&Operation]) -> Result<(), Verdict> {
    let mut writes: HashMap<&str, &Operation, FixedState> = HashMap::default();
    for &operation in operations {
        let Some(value) = operation.written() else { continue };
        if writes.insert(value, operation).is_some() {
            return Err(Verdict::WrittenTwice { key: operation.key.clone(), value: value.to_owned() });
        }
    }
    match operations.iter().find(|operation| operation.found().is_some_and(|value| !writes.contains_key(value))) {
        Some(&found) => Err(Story::NeverWritten { found: found.clone() }.of(&found.key)),
        None => Ok(()),
    }
}
