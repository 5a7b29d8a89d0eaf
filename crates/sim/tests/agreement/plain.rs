//! The plain check: tries all orders, by the definition of linearizability and nothing else.

use std::collections::HashSet;

use sim::history::{Action, Operation, Outcome};

/// Whether some order of the operations on one key explains their answers. For up to 32 operations.
pub(crate) fn is_linearizable(operations: &[Operation]) -> bool {
    some_order(operations, 0, None, &mut HashSet::new())
}

/// Whether the operations not in `ordered`, one bit per operation, can follow when the key has this value. `failed`
/// holds the arguments for which the answer was no.
fn some_order(
    operations: &[Operation],
    ordered: u32,
    value: Option<&str>,
    failed: &mut HashSet<(u32, Option<String>)>,
) -> bool {
    let missing = |index: usize| ordered >> index & 1 == 0;
    let all_missing = || operations.iter().enumerate().filter(|&(index, _)| missing(index));
    if all_missing().all(|(_, operation)| operation.end.is_none()) {
        return true;
    }
    if failed.contains(&(ordered, value.map(str::to_owned))) {
        return false;
    }
    for (index, operation) in all_missing() {
        if all_missing().any(|(_, other)| other.end.is_some_and(|end| end < operation.call)) {
            continue;
        }
        if let Some(next) = apply(&operation.action, value)
            && some_order(operations, ordered | 1 << index, next, failed)
        {
            return true;
        }
    }
    failed.insert((ordered, value.map(str::to_owned)));
    false
}

/// The value after an action; `None` if its answer would have been different.
fn apply<'a>(action: &'a Action, value: Option<&'a str>) -> Option<Option<&'a str>> {
    let (holds, new, outcome) = match action {
        Action::Put { value } => return Some(Some(value)),
        Action::Delete => return Some(None),
        Action::Expire { value: old } => return (value == Some(old)).then_some(None),
        Action::Look { is_there } => return (value.is_some() == *is_there).then_some(value),
        Action::Get { result } => return (result.as_deref() == value).then_some(value),
        Action::PutIfAbsent { value: new, outcome } => (value.is_none(), new, outcome),
        Action::Swap { expected, value: new, outcome } => (value == Some(expected), new, outcome),
    };
    match outcome {
        Outcome::Done if !holds => None,
        Outcome::Conflict if holds => None,
        _ => Some(if holds { Some(new) } else { value }),
    }
}
