//! Histories: those that a correct register leaves behind, the same with a few changes, and made-up ones.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sim::history::{Action, History, Operation, Outcome};

/// Which operations a history may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kinds {
    PutsAndGets,
    All,
    /// All, most of them concurrent, and many of unknown outcome.
    Crowded,
}

/// The numbers from which an operation is made.
#[derive(Debug, Clone)]
struct Draft {
    kind: u8,
    /// The time from the previous operation's instant to its own.
    gap: u64,
    /// How long before its instant it is called; `after`: how long after its instant it is answered.
    before: u64,
    after: u64,
    /// The fate of a write: 0 unknown and done, 1 unknown and never done, otherwise answered.
    fate: u8,
    /// Picks a value if one is needed.
    pick: Index,
}

fn drafts(kinds: Kinds, most: usize) -> impl Strategy<Value = Vec<Draft>> {
    let kind = match kinds {
        Kinds::PutsAndGets => 0u8..2,
        Kinds::All | Kinds::Crowded => 0..6,
    };
    let (longest, fates) = if kinds == Kinds::Crowded { (20u64, 4u8) } else { (7, 8) };
    let draft = (kind, 0u64..4, 0..longest, 0..longest, 0..fates, any::<Index>())
        .prop_map(|(kind, gap, before, after, fate, pick)| Draft { kind, gap, before, after, fate, pick });
    vec(draft, 1..=most)
}

/// A name for each written value; `v0` is never written.
fn value(number: usize) -> String {
    format!("v{number}")
}

/// A history of a register in which each operation takes effect at one instant between call and end.
pub(crate) fn recorded(kinds: Kinds, most: usize) -> impl Strategy<Value = History> {
    drafts(kinds, most).prop_map(|drafts| {
        let mut instant = 20;
        let mut register = None;
        let operations = drafts.iter().enumerate().map(|(index, draft)| {
            instant += draft.gap;
            let action = take_effect(draft, index + 1, &mut register);
            let unknown = draft.fate < 2 && !matches!(action, Action::Get { .. });
            let end = (!unknown).then_some(instant + draft.after);
            Operation { client: 1, key: "k".into(), call: instant - draft.before, end, action }
        });
        history(operations)
    })
}

/// Applies an operation to a register; returns it with its answer.
fn take_effect(draft: &Draft, number: usize, register: &mut Option<String>) -> Action {
    let value = value(number);
    let outcome = |done| match (draft.fate, done) {
        (0 | 1, _) => Outcome::Unknown,
        (_, true) => Outcome::Done,
        (_, false) => Outcome::Conflict,
    };
    let (action, new) = match draft.kind {
        0 => (Action::Put { value: value.clone() }, Some(Some(value))),
        1 | 2 => (Action::Get { result: register.clone() }, None),
        3 => (Action::Delete, Some(None)),
        4 => {
            let done = register.is_none();
            (Action::PutIfAbsent { value: value.clone(), outcome: outcome(done) }, done.then_some(Some(value)))
        }
        _ => {
            // Two of three swaps expect the present value.
            let other = self::value(draft.pick.index(number));
            let expected = register.clone().filter(|_| draft.pick.index(3) > 0).unwrap_or(other);
            let done = register.as_ref() == Some(&expected);
            let action = Action::Swap { expected, value: value.clone(), outcome: outcome(done) };
            (action, done.then_some(Some(value)))
        }
    };
    if let Some(new) = new.filter(|_| draft.fate != 1) {
        *register = new;
    }
    action
}

/// A history of a register with up to three changes, which may or may not make it impossible.
pub(crate) fn spoilt(kinds: Kinds, most: usize) -> impl Strategy<Value = History> {
    let changes = (0u8..6, any::<Index>(), any::<Index>(), 0u64..12);
    (recorded(kinds, most), vec(changes, 1..4)).prop_map(|(recorded, changes)| {
        let mut operations = recorded.operations().to_vec();
        let values = operations.len() + 1;
        for (what, which, pick, time) in changes {
            if operations.is_empty() {
                break;
            }
            let which = which.index(operations.len());
            if what == 0 {
                operations.remove(which);
            } else if let Some(operation) = operations.get_mut(which) {
                change(operation, what, &value(pick.index(values)), time);
            }
        }
        history(operations)
    })
}

/// Changes one thing about an operation so that a history may still hold it.
fn change(operation: &mut Operation, what: u8, other: &str, time: u64) {
    let length = operation.end.map(|end| end - operation.call);
    match (what, &mut operation.action) {
        // Moved.
        (1, _) => {
            operation.call = operation.call.saturating_sub(6) + time;
            operation.end = length.map(|length| operation.call + length);
        }
        // Shortened.
        (2, _) => operation.end = length.map(|length| operation.call + length.min(time / 4)),
        // Outcome becomes known or unknown.
        (3, Action::Put { .. } | Action::Delete) => {
            operation.end = if length.is_some() { None } else { Some(operation.call + time) };
        }
        (3, Action::PutIfAbsent { outcome, .. } | Action::Swap { outcome, .. }) => {
            (operation.end, *outcome) = match (*outcome, time % 2) {
                (Outcome::Unknown, 0) => (Some(operation.call + time), Outcome::Done),
                (Outcome::Unknown, _) => (Some(operation.call + time), Outcome::Conflict),
                _ => (None, Outcome::Unknown),
            };
        }
        // A different answer.
        (_, Action::Get { result }) => *result = (other != "v0" || time == 0).then(|| other.to_owned()),
        (4, Action::PutIfAbsent { outcome, .. } | Action::Swap { outcome, .. }) => {
            *outcome = match *outcome {
                Outcome::Done => Outcome::Conflict,
                Outcome::Conflict => Outcome::Done,
                Outcome::Unknown => Outcome::Unknown,
            };
        }
        (_, Action::Swap { expected, .. }) => *expected = other.to_owned(),
        _ => {}
    }
}

/// A history that nobody recorded: all times and answers are random.
pub(crate) fn made_up(kinds: Kinds, most: usize) -> impl Strategy<Value = History> {
    drafts(kinds, most).prop_map(|drafts| {
        let count = drafts.len() as u64;
        let operations = drafts.iter().enumerate().map(|(index, draft)| {
            let other = draft.pick.index(drafts.len() + 1);
            // A register that happens to hold the drawn value.
            let mut register = (other > 0).then(|| value(other));
            let action = take_effect(draft, index + 1, &mut register);
            let unknown = draft.fate < 2 && !matches!(action, Action::Get { .. });
            let call = (draft.before * 4 + draft.gap) % (count + 2);
            let end = (!unknown).then_some(call + draft.after);
            Operation { client: 1, key: "k".into(), call, end, action }
        });
        history(operations)
    })
}

fn history(operations: impl IntoIterator<Item = Operation>) -> History {
    let mut history = History::new();
    operations.into_iter().for_each(|operation| history.push(operation));
    history
}
