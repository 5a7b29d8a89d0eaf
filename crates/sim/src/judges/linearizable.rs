//! The judge of whole histories.
//!
//! Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects" (ACM TOPLAS 12(3), 1990): a
//! history is linearizable if and only if its part on each object is, and here each key is an object.

use std::collections::HashMap;
use std::fmt;

use foldhash::fast::FixedState;

use super::verdict::Verdict;
use super::{search, zones};
use crate::history::{Action, History, Operation};

/// What was checked in a history that passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// The number of operations.
    pub operations: usize,
    /// The number of keys they were on.
    pub keys: usize,
    /// The number of keys that needed a search.
    pub searched: usize,
    /// The total number of steps of all searches.
    pub steps: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, keys, searched, steps } = self;
        write!(f, "linearizable: {operations} operations on {keys} keys, {searched} of them searched in {steps} steps")
    }
}

/// Decides whether a history is linearizable. `limit` is how many steps the search of one key may take; a search that
/// never takes a wrong turn takes one step per operation.
///
/// # Errors
///
/// The first key in byte order that has a violation or a value that was written twice. Only if there is none: the first
/// key whose search gave up.
pub fn judge(history: &History, limit: u64) -> Result<Summary, Verdict> {
    let mut summary = Summary { operations: history.operations().len(), ..Summary::default() };
    let mut gave_up = None;
    for operations in by_key(history) {
        summary.keys += 1;
        zones::check(&operations)?;
        if operations.iter().all(|operation| matches!(operation.action, Action::Put { .. } | Action::Get { .. })) {
            continue;
        }
        summary.searched += 1;
        match search::check(&operations, limit) {
            Ok(steps) => summary.steps += steps,
            Err(verdict @ Verdict::GaveUp { .. }) => gave_up = gave_up.or(Some(verdict)),
            Err(verdict) => return Err(verdict),
        }
    }
    gave_up.map_or(Ok(summary), Err)
}

/// The operations on each key, by key.
fn by_key(history: &History) -> Vec<Vec<&Operation>> {
    let mut keys: HashMap<&str, Vec<&Operation>, FixedState> = HashMap::default();
    for operation in history.operations() {
        keys.entry(&operation.key).or_default().push(operation);
    }
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable_by_key(|&(key, _)| key);
    keys.into_iter().map(|(_, operations)| operations).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge_text(text: &str, limit: u64) -> Result<Summary, Verdict> {
        judge(&text.parse().unwrap(), limit)
    }

    /// A key that a search with a limit of 2 gives up on.
    const LONG: &str = "1 0 1 a put v\n1 2 3 a delete\n1 4 5 a get -\n";

    #[test]
    fn a_history_that_passes_is_summed_up() {
        let summary = judge_text(&format!("{LONG}1 0 1 b put v\n1 2 3 c get -\n"), 3).unwrap();
        assert_eq!(summary, Summary { operations: 5, keys: 3, searched: 1, steps: 3 });
        assert_eq!(summary.to_string(), "linearizable: 5 operations on 3 keys, 1 of them searched in 3 steps");
    }

    #[test]
    fn giving_up_is_no_pass() {
        let verdict = judge_text(LONG, 2).unwrap_err();
        assert_eq!(verdict, Verdict::GaveUp { key: "a".into(), steps: 2 });
        assert_eq!(verdict.to_string(), "key a: undecided after 2 steps of the search, which is the limit");
    }

    #[test]
    fn a_violation_counts_more_than_giving_up() {
        let verdict = judge_text(&format!("{LONG}1 0 1 b get v\n"), 2).unwrap_err();
        assert!(matches!(verdict, Verdict::Violation(violation) if violation.key == "b"));
    }

    #[test]
    fn the_same_value_may_be_written_to_two_keys() {
        judge_text("1 0 1 a put v\n1 2 3 b put v\n", 10).unwrap();
    }
}
