//! The answers to increments: each increment took effect at most once, and those of one key took effect one after the
//! other.
//!
//! If clients only ever add 1 to a key, each increment gets a number of its own. So an increment was lost, done twice,
//! or given the answer of another if two got the same number, if a number exceeds the count of increments, or if it
//! does not exceed all numbers that were answered before its increment was called.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// The prefix of the counter keys.
pub(crate) const COUNTED: &str = "counted";

/// The increments of all keys.
#[derive(Debug, Default)]
pub(crate) struct Counters(BTreeMap<Rc<str>, Vec<Increment>>);

#[derive(Debug)]
struct Increment {
    client: u8,
    call: u64,
    /// When it was answered, and with what number.
    answer: Option<(u64, i64)>,
}

impl Counters {
    /// A client calls an increment; from now on it may take effect at any time.
    pub(crate) fn called(&mut self, client: u8, key: &Rc<str>, call: u64) {
        self.0.entry(Rc::clone(key)).or_default().push(Increment { client, call, answer: None });
    }

    /// The last increment that a client called is answered.
    pub(crate) fn answered(&mut self, client: u8, key: &str, end: u64, number: i64) {
        let increments = self.0.get_mut(key).into_iter().flatten();
        if let Some(last) = increments.rev().find(|increment| increment.client == client) {
            last.answer = Some((end, number));
        }
    }

    /// The keys with faulty increments, each with what is wrong.
    pub(crate) fn judge(&self) -> impl Iterator<Item = (&str, String)> {
        self.0.iter().filter_map(|(key, increments)| Some((&**key, wrong(increments)?)))
    }
}

fn wrong(increments: &[Increment]) -> Option<String> {
    let mut told = BTreeSet::new();
    for Increment { client, call, answer } in increments {
        let Some((end, number)) = *answer else { continue };
        let who = format!("an increment of client {client} from {call} to {end} µs is told {number}");
        if !told.insert(number) {
            return Some(format!("{who}, as another is"));
        }
        let called = increments.iter().filter(|other| other.call <= end).count();
        if usize::try_from(number).is_ok_and(|number| number > called) {
            return Some(format!("{who}, and {called} were called for"));
        }
        let before = increments.iter().filter_map(|other| other.answer).filter(|(end, _)| end < call);
        if let Some((_, higher)) = before.max_by_key(|(_, number)| *number).filter(|(_, before)| *before >= number) {
            return Some(format!("{who}, and another was told {higher} before"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with increments, each given as its call and, if it was answered, its end and number.
    fn judged(increments: &[(u64, Option<(u64, i64)>)]) -> Option<String> {
        let of = |(call, answer): &(u64, Option<(u64, i64)>)| Increment { client: 1, call: *call, answer: *answer };
        wrong(&increments.iter().map(of).collect::<Vec<_>>())
    }

    #[test]
    fn increments_that_one_counter_could_have_answered_pass() {
        assert_eq!(judged(&[(0, Some((9, 2))), (1, Some((5, 1))), (10, None), (20, Some((21, 4)))]), None);
        assert_eq!(judged(&[(0, None), (1, Some((5, 1))), (6, Some((7, 2)))]), None);
    }

    #[test]
    fn what_no_counter_answers_is_found() {
        let found =
            |increments: &[_], what: &str| assert!(judged(increments).unwrap().contains(what), "{increments:?}");
        found(&[(0, Some((1, 1))), (0, Some((3, 1)))], "as another is");
        found(&[(0, Some((1, 2))), (2, Some((3, 3)))], "and 1 were called for");
        found(&[(0, None), (0, Some((1, 2))), (2, Some((3, 1)))], "was told 2 before");
    }
}
