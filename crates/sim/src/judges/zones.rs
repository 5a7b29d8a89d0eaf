//! Linearizability of one key without search, by zones.
//!
//! P. B. Gibbons and E. Korach, "Testing Shared Memories" (SIAM J. Computing 26(4), 1997), for registers whose values
//! are unique. The operations that wrote or found a value are its *cluster*; in any order they stand together. A
//! cluster's *zone* reaches from the earliest end to the latest call among them. It is *forward* if that end is before
//! that call, so that the value was certainly there throughout the zone, and *backward* otherwise. One cluster must
//! precede another if its earliest end is before the other's latest call. Two clusters must each precede the other
//! exactly if two forward zones overlap, or a backward one lies inside a forward one; if no two do, all can be put in
//! sequence.
//!
//! Beyond the paper:
//! - Times may be equal. An end precedes a call only if it is earlier, so zones that touch do not overlap, and an end
//!   that equals a call makes a backward zone of length 0. The argument still holds: in a shortest cycle of more than
//!   two clusters, each preceding the next, every cluster would have an earlier end than the one before it.
//! - Initial absence is a value that was written before all time, unless the key may have been deleted.
//! - A write of unknown outcome has no end. If nothing found its value, its zone is backward and endless, lies inside
//!   no other, and so never contradicts anything.
//! - Swaps belong to two clusters. These only touch at the swap, so no contradiction can be a false one.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::verdict::{Story, Verdict};
use crate::history::{Action, Operation, Outcome};

/// The write of a value, and the ends of its zone.
struct Cluster<'a> {
    write: &'a Operation,
    first_end: Bound<'a>,
    last_call: Bound<'a>,
    replaced_by: Option<&'a Operation>,
}

/// A moment, in microseconds, and the operation that it belongs to.
#[derive(Clone, Copy)]
struct Bound<'a> {
    time: u64,
    operation: &'a Operation,
}

impl<'a> Bound<'a> {
    /// The end of an operation; later than all time if it has none.
    fn end(operation: &'a Operation) -> Self {
        Self { time: operation.end.unwrap_or(u64::MAX), operation }
    }

    fn call(operation: &'a Operation) -> Self {
        Self { time: operation.call, operation }
    }
}

impl<'a> Cluster<'a> {
    fn new(write: &'a Operation) -> Self {
        Self { write, first_end: Bound::end(write), last_call: Bound::call(write), replaced_by: None }
    }

    /// Adds an operation that found the value.
    fn add(&mut self, operation: &'a Operation) {
        if Bound::end(operation).time < self.first_end.time {
            self.first_end = Bound::end(operation);
        }
        if operation.call > self.last_call.time {
            self.last_call = Bound::call(operation);
        }
    }

    fn is_forward(&self) -> bool {
        self.first_end.time < self.last_call.time
    }

    /// Whether some operation of this cluster had ended before one of the other was called.
    fn precedes(&self, other: &Self) -> bool {
        self.first_end.time < other.last_call.time
    }
}

/// Checks the operations on one key, in any order. This decides keys with only puts and gets; for other keys a pass
/// proves nothing, but a violation is real. Takes O(n log n) time.
///
/// # Errors
///
/// A violation, or a value that is written twice; never that it gave up.
pub fn check(operations: &[&Operation]) -> Result<(), Verdict> {
    let clusters = clusters(operations)?;
    check_absence(operations, &clusters)?;

    let (mut forward, backward): (Vec<_>, Vec<_>) = clusters.iter().partition(|cluster| cluster.is_forward());
    forward.sort_unstable_by_key(|cluster| cluster.first_end.time);
    for (one, next) in forward.iter().zip(forward.iter().skip(1)) {
        // Only the next zone can be the first to overlap.
        apart(one, next)?;
    }
    for inner in backward {
        // Forward zones do not overlap, so of those that begin before this one only the last can extend beyond it.
        let after = forward.partition_point(|outer| outer.precedes(inner));
        if let Some(outer) = after.checked_sub(1).and_then(|last| forward.get(last)) {
            apart(outer, inner)?;
        }
    }
    Ok(())
}

/// The clusters of all values that were written, in the order of `operations`.
fn clusters<'a>(operations: &[&'a Operation]) -> Result<Vec<Cluster<'a>>, Verdict> {
    let mut clusters = Vec::new();
    let mut by_value = HashMap::with_capacity_and_hasher(operations.len() / 2, FixedState::default());
    for &operation in operations {
        if let Some(value) = operation.written() {
            if by_value.insert(value, clusters.len()).is_some() {
                return Err(Verdict::WrittenTwice { key: operation.key.clone(), value: value.to_owned() });
            }
            clusters.push(Cluster::new(operation));
        }
    }
    for &operation in operations {
        let Some(value) = operation.found() else { continue };
        let Some(cluster) = by_value.get(value).and_then(|&index| clusters.get_mut(index)) else {
            return Err(Story::NeverWritten { found: operation.clone() }.of(&operation.key));
        };
        if Bound::end(operation).time < cluster.write.call {
            let story = Story::FoundBeforeWritten { found: operation.clone(), write: cluster.write.clone() };
            return Err(story.of(&operation.key));
        }
        if matches!(operation.action, Action::Swap { .. })
            && let Some(other) = cluster.replaced_by.replace(operation)
        {
            return Err(Story::ReplacedTwice { swaps: [other.clone(), operation.clone()] }.of(&operation.key));
        }
        cluster.add(operation);
    }
    Ok(clusters)
}

/// Checks that nothing found the key absent after it had had a value, unless it may have been deleted.
fn check_absence(operations: &[&Operation], clusters: &[Cluster<'_>]) -> Result<(), Verdict> {
    let may_vanish = |operation: &&Operation| matches!(operation.action, Action::Delete | Action::Expire { .. });
    if operations.iter().any(may_vanish) {
        return Ok(());
    }
    let found_absent = |operation: &&&Operation| {
        matches!(operation.action, Action::Get { result: None } | Action::PutIfAbsent { outcome: Outcome::Done, .. })
    };
    let last_absent = operations.iter().filter(found_absent).max_by_key(|operation| operation.call);
    let first_present = clusters.iter().map(|cluster| cluster.first_end).min_by_key(|end| end.time);
    match (first_present, last_absent) {
        (Some(present), Some(&absent)) if present.time < absent.call => {
            let story = Story::AbsentAgain { present: present.operation.clone(), absent: absent.clone() };
            Err(story.of(&absent.key))
        }
        _ => Ok(()),
    }
}

/// Checks that two clusters do not each precede the other.
fn apart(one: &Cluster<'_>, other: &Cluster<'_>) -> Result<(), Verdict> {
    if !(one.precedes(other) && other.precedes(one)) {
        return Ok(());
    }
    let pair =
        |end: &Cluster<'_>, call: &Cluster<'_>| [end.first_end.operation.clone(), call.last_call.operation.clone()];
    Err(Story::Interleaved { forth: pair(one, other), back: pair(other, one) }.of(&one.write.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    fn check_text(text: &str) -> Result<(), Verdict> {
        let history: History = text.parse().unwrap();
        check(&history.operations().iter().collect::<Vec<_>>())
    }

    fn story(text: &str) -> String {
        check_text(text).unwrap_err().to_string()
    }

    #[test]
    fn what_one_register_could_have_answered_passes() {
        check_text("").unwrap();
        check_text("1 0 5 k get -\n2 3 9 k put a\n1 6 8 k get -\n1 9 9 k get a\n3 20 21 k get a\n").unwrap();
        // Two writes at once, in the order that the reads saw.
        check_text("1 0 9 k put a\n2 0 9 k put b\n3 2 3 k get b\n3 4 5 k get a\n3 10 11 k get a\n").unwrap();
        // Equal times leave the order open.
        check_text("1 0 5 k put a\n1 5 9 k put b\n2 9 10 k get a\n").unwrap();
    }

    #[test]
    fn a_stale_read_is_told_by_its_four_ends() {
        let text = "1 0 10 k put a\n1 20 30 k put b\n2 35 38 k get b\n2 40 50 k get a\n";
        assert_eq!(
            story(text),
            "key k: not linearizable: of two values each came before the other\n  \
             put a by client 1, from 0 to 10 µs\n    had ended before\n  get b by client 2, from 35 to 38 µs\n  \
             put b by client 1, from 20 to 30 µs\n    had ended before\n  get a by client 2, from 40 to 50 µs"
        );
    }

    #[test]
    fn a_lost_write_is_found() {
        assert!(story("1 0 1 k put a\n1 2 3 k put b\n2 4 5 k get a\n").contains("each came before the other"));
        assert!(story("1 0 1 k put a\n2 4 5 k get -\n").contains("absent after it had had a value"));
    }

    #[test]
    fn a_write_that_takes_effect_twice_is_found() {
        // The repeat of a put arrives after another put.
        let text = "1 0 9 k put a\n2 3 4 k put b\n3 5 6 k get b\n3 10 11 k get a\n";
        check_text(text).unwrap();
        assert!(story(&format!("{text}3 12 13 k get b\n")).contains("each came before the other"));
    }

    #[test]
    fn a_value_from_nowhere_is_found() {
        assert!(story("1 0 1 k put a\n2 2 3 k get x\n").contains("never written\n  get x by client 2"));
        assert!(story("1 0 1 k get a\n2 2 3 k put a\n").contains("before its write was called"));
    }

    #[test]
    fn an_unknown_write_may_show_late_or_never_but_not_vanish() {
        let start = "1 0 - k put a\n1 2 3 k put b\n2 4 5 k get b\n";
        check_text(start).unwrap();
        check_text(&format!("{start}2 6 7 k get a\n2 8 9 k get a\n")).unwrap();
        assert!(story(&format!("{start}2 6 7 k get a\n2 8 9 k get b\n")).contains("each came before the other"));
        assert!(story("1 0 - k put a\n2 6 7 k get a\n2 8 9 k get -\n").contains("absent after"));
    }

    #[test]
    fn a_value_that_is_written_twice_is_the_recorders_bug() {
        let twice = Verdict::WrittenTwice { key: "k".into(), value: "a".into() };
        assert_eq!(check_text("1 0 1 k put a\n1 2 3 k put a\n"), Err(twice));
        check_text("1 0 1 k put b\n1 2 3 k put-if-absent a conflict\n1 2 3 k put a\n").unwrap();
    }

    #[test]
    fn zones_find_what_is_wrong_with_conditional_writes() {
        let start = "1 0 1 k put-if-absent a done\n1 2 5 k swap a b done\n";
        check_text(&format!("{start}2 2 5 k get a\n2 6 7 k get b\n")).unwrap();
        assert!(story(&format!("{start}2 6 7 k get a\n")).contains("each came before the other"));
        assert!(story(&format!("{start}2 6 7 k swap a c done\n")).contains("two swaps replaced"));
        assert!(story(&format!("{start}2 6 7 k put-if-absent c done\n")).contains("absent after"));
        check_text(&format!("{start}2 3 4 k delete\n2 6 7 k put-if-absent c done\n")).unwrap();
    }
}
