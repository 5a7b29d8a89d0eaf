//! The power is cut at any point, and loses any part of what was not synced.

use proptest::prelude::*;
use storage::bugs::NoBugs;
use storage::disk::sim::{Fault, Loss};

use crate::model::{Model, Step};

/// The possible steps of a run.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let loss = prop_oneof![6 => Just(Loss::Random), 1 => Just(Loss::Everything), 1 => Just(Loss::Nothing)];
    let fault = prop_oneof![Just(Fault::Io), Just(Fault::NoSpace), Just(Fault::Short)];
    // Few sizes, so that what was torn off fits the place of what follows.
    let size = prop_oneof![4 => Just(8_usize), 4 => Just(600), 1 => Just(40), 1 => Just(6_000)];
    let step = prop_oneof![
        10 => (1_usize..5, size).prop_map(|(count, size)| Step::Append { count, size }),
        4 => Just(Step::Sync),
        6 => Just(Step::SyncFurther),
        2 => (0_usize..4, 1_usize..3).prop_map(|(meanwhile, keep)| Step::Snapshot { meanwhile, keep }),
        3 => loss.prop_map(Step::Crash),
        1 => (0_u64..60).prop_map(Step::CrashTwice),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
        3 => (0_u64..40, fault).prop_map(|(calls, fault)| Step::Fault { calls, fault }),
        1 => Just(Step::ShortWrites),
    ];
    prop::collection::vec(step, 1..60)
}

#[test]
fn what_a_full_disk_refused_is_no_damage_after_a_stop_in_order() {
    let append = |count, size| Step::Append { count, size };
    let steps = [
        Step::Crash(Loss::Random),
        append(3, 600),
        append(2, 600),
        Step::Kill,
        Step::Stop,
        append(1, 40),
        Step::Crash(Loss::Random),
        Step::Fault { calls: 1, fault: Fault::NoSpace },
        Step::ShortWrites,
        append(2, 600),
        Step::Stop,
    ];
    assert_eq!(Model::play(4_019_381_805_539_405_214, &steps, NoBugs), Ok(()));
}

#[test]
fn a_sync_that_was_begun_and_never_ran_has_cleared_nothing_up() {
    let append = |count, size| Step::Append { count, size };
    let steps = [
        append(1, 600),
        Step::Crash(Loss::Random),
        append(3, 600),
        Step::Crash(Loss::Random),
        Step::Fault { calls: 4, fault: Fault::NoSpace },
        Step::ShortWrites,
        append(3, 8),
        Step::SyncFurther,
        Step::Stop,
    ];
    assert_eq!(Model::play(13_045_077_600_587_958_198, &steps, NoBugs), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_synced_is_recovered_in_order_and_nothing_is_invented(seed: u64, steps in steps()) {
        if let Err(wrong) = Model::play(seed, &steps, NoBugs) {
            return Err(TestCaseError::fail(wrong));
        }
    }
}
