//! Acknowledged means present: what is there at the end of a run must follow from what the run acknowledged.
//!
//! This is the final read of Kingsbury's Jepsen tests (jepsen-io/jepsen, the checkers of sets and queues): after all
//! faults have healed and the store has come to rest, every key is read once more. These reads precede nothing and
//! follow everything that was answered, so a write that was acknowledged and then lost shows even on a key that no
//! client used again.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Action, History, Operation};

/// The client number of the appended reads.
pub const ORACLE: u32 = u32::MAX;

/// Appends to a history a read of each key in `finals`, with the value that a linearizable read found after the run, or
/// `None` if the key was absent. The reads are called after everything else in the history has ended, so any operation
/// without an end may still precede them. Returns the keys of the history that are not in `finals`: nothing is known of
/// them at the end, and a caller that meant to read all keys has missed these.
///
/// # Panics
///
/// If the history reaches the end of time, `u64::MAX` microseconds.
#[must_use = "keys that were not read at the end are not judged at the end"]
pub fn append_final_reads(history: &mut History, finals: &BTreeMap<String, Option<String>>) -> Vec<String> {
    let keys: BTreeSet<&String> = history.operations().iter().map(|operation| &operation.key).collect();
    let missed = keys.into_iter().filter(|key| !finals.contains_key(*key)).cloned().collect();

    let time = history.last_time().checked_add(1).expect("a history in microseconds ends before u64::MAX");
    for (key, result) in finals {
        let action = Action::Get { result: result.clone() };
        history.push(Operation { client: ORACLE, key: key.clone(), call: time, end: Some(time), action });
    }
    missed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judges::{Summary, Verdict, judge};

    fn judge_with_finals(text: &str, finals: &[(&str, Option<&str>)]) -> Result<Summary, Verdict> {
        let mut history: History = text.parse().unwrap();
        let finals = finals.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect();
        assert_eq!(append_final_reads(&mut history, &finals), [""; 0]);
        judge(&history, 1_000)
    }

    #[test]
    fn an_acknowledged_write_must_be_there_at_the_end() {
        let text = "1 0 1 a put v\n1 2 3 a put w\n1 2 3 b put-if-absent x done\n";
        judge_with_finals(text, &[("a", Some("w")), ("b", Some("x"))]).unwrap();
        judge_with_finals(text, &[("a", Some("w")), ("b", None)]).unwrap_err();
        judge_with_finals(text, &[("a", Some("v")), ("b", Some("x"))]).unwrap_err();
    }

    #[test]
    fn an_unknown_write_may_be_there_at_the_end() {
        let text = "1 0 - a put v\n1 2 3 a put w\n1 8 - a delete\n";
        for value in [Some("v"), Some("w"), None] {
            judge_with_finals(text, &[("a", value)]).unwrap();
        }
    }

    #[test]
    fn a_deleted_key_stays_deleted() {
        judge_with_finals("1 0 1 a put v\n1 2 3 a delete\n", &[("a", Some("v"))]).unwrap_err();
    }

    #[test]
    fn a_key_that_was_never_touched_is_absent() {
        judge_with_finals("", &[("a", None)]).unwrap();
        judge_with_finals("", &[("a", Some("v"))]).unwrap_err();
    }

    #[test]
    fn keys_that_were_not_read_are_named() {
        let mut history: History = "1 0 1 b put v\n1 0 1 a put v\n1 2 3 b get v\n".parse().unwrap();
        assert_eq!(append_final_reads(&mut history, &BTreeMap::new()), ["a", "b"]);
    }
}
