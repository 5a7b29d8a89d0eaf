//! The judges agree with each other, and with a check so simple that it is obviously right, on histories of a correct
//! register and on corrupted ones.
//!
//! `PROPTEST_CASES=100000 cargo test --release -p sim --test agreement` searches longer.

mod plain;
mod recorded;

use plain::is_linearizable;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use recorded::{Kinds, made_up, recorded, spoilt};
use sim::history::{History, Operation};
use sim::judges::{Verdict, judge, search, zones};

const LIMIT: u64 = 1_000_000;

/// Whether a judge passed a history. The judge must neither give up nor reject the history as unfit.
fn passes<T>(result: Result<T, Verdict>) -> bool {
    match result {
        Ok(_) => true,
        Err(Verdict::Violation(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

fn all(history: &History) -> Vec<&Operation> {
    history.operations().iter().collect()
}

fn by_zones(history: &History) -> bool {
    passes(zones::check(&all(history)))
}

fn by_search(history: &History) -> bool {
    passes(search::check(&all(history), LIMIT))
}

fn by_judge(history: &History) -> bool {
    passes(judge(history, LIMIT))
}

/// Small histories of all origins.
fn small(kinds: Kinds, most: usize) -> impl Strategy<Value = History> {
    prop_oneof![recorded(kinds, most), spoilt(kinds, most), made_up(kinds, most)]
}

fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { failure_persistence: None, cases: config.cases.saturating_mul(8), ..config }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn zones_and_search_find_what_the_plain_check_finds_in_puts_and_gets(history in small(Kinds::PutsAndGets, 6)) {
        let expected = is_linearizable(history.operations());
        prop_assert_eq!(by_zones(&history), expected, "zones, on\n{}", history);
        prop_assert_eq!(by_search(&history), expected, "search, on\n{}", history);
        prop_assert_eq!(by_judge(&history), expected, "judge, on\n{}", history);
    }

    #[test]
    fn search_finds_what_the_plain_check_finds(history in small(Kinds::All, 6)) {
        let expected = is_linearizable(history.operations());
        prop_assert_eq!(by_search(&history), expected, "search, on\n{}", history);
        prop_assert_eq!(by_judge(&history), expected, "judge, on\n{}", history);
        prop_assert!(by_zones(&history) || !expected, "zones, on\n{}", history);
    }

    #[test]
    fn search_finds_what_the_plain_check_finds_where_orders_are_many(history in small(Kinds::Crowded, 14)) {
        let expected = is_linearizable(history.operations());
        prop_assert_eq!(by_search(&history), expected, "search, on\n{}", history);
        prop_assert_eq!(by_judge(&history), expected, "judge, on\n{}", history);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_register_answered_passes(history in recorded(Kinds::All, 100)) {
        prop_assert!(by_search(&history), "search, on\n{}", history);
        prop_assert!(by_judge(&history), "judge, on\n{}", history);
    }

    #[test]
    fn puts_and_gets_that_a_register_answered_pass(history in recorded(Kinds::PutsAndGets, 100)) {
        prop_assert!(by_zones(&history), "zones, on\n{}", history);
        prop_assert!(by_search(&history), "search, on\n{}", history);
    }

    #[test]
    fn zones_and_search_agree_on_long_histories(history in spoilt(Kinds::PutsAndGets, 60)) {
        prop_assert_eq!(by_zones(&history), by_search(&history), "on\n{}", history);
    }

    #[test]
    fn the_text_form_keeps_every_history(history in spoilt(Kinds::All, 20)) {
        prop_assert_eq!(history.to_string().parse::<History>().unwrap(), history);
    }

    #[test]
    fn the_order_of_recording_does_not_matter(history in spoilt(Kinds::All, 12)) {
        let mut reversed = History::new();
        history.operations().iter().rev().for_each(|operation| reversed.push(operation.clone()));
        prop_assert_eq!(by_judge(&history), by_judge(&reversed), "on\n{}", history);
    }
}

/// Agreement means little if nearly all histories are of one kind.
#[test]
fn the_histories_are_good_and_bad_in_fair_shares() {
    let mut runner = TestRunner::deterministic();
    for (kinds, most) in [(Kinds::PutsAndGets, 6), (Kinds::All, 6), (Kinds::Crowded, 14)] {
        for (strategy, name) in [(spoilt(kinds, most).boxed(), "spoilt"), (made_up(kinds, most).boxed(), "made up")] {
            let histories = (0..1_000).map(|_| strategy.new_tree(&mut runner).expect("a history").current());
            let good = histories.filter(|history| is_linearizable(history.operations())).count();
            println!("{name}, up to {most} operations: {good} of 1000 are linearizable");
            assert!((100..=900).contains(&good), "{name}, up to {most} operations: {good} of 1000 are linearizable");
        }
    }
}
