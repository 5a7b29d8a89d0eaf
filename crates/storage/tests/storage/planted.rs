//! The tests can fail: they find bugs that others have had.

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use storage::bugs::{Bug, Bugs};

use crate::bits::flip_bits;
use crate::model::Model;
use crate::power_cuts::steps;

/// The bug with a number.
#[derive(Debug, Clone, Copy, Default)]
struct Planted<const NUMBER: usize>;

impl<const NUMBER: usize> Bugs for Planted<NUMBER> {
    fn plants(self, bug: Bug) -> bool {
        Bug::ALL[NUMBER] == bug
    }
}

/// How many runs it takes to find the bug; `None` if the property test would not find it in its number of runs.
fn runs_until_found<const NUMBER: usize>() -> Option<u64> {
    let mut runner = TestRunner::deterministic();
    let steps = steps();
    (0..2_000).find(|&seed| {
        let tree = steps.new_tree(&mut runner).expect("nothing is rejected");
        Model::play(seed, &tree.current(), Planted::<NUMBER>).is_err()
    })
}

fn found_by_power_cuts<const NUMBER: usize>(bug: Bug) {
    assert_eq!(Bug::ALL[NUMBER], bug);
    let runs = runs_until_found::<NUMBER>();
    assert!(runs.is_some(), "{bug:?} was not found");
}

#[test]
fn an_acknowledgement_before_the_sync_is_found() {
    found_by_power_cuts::<0>(Bug::AcknowledgeBeforeSync);
}

#[test]
fn a_directory_that_is_not_synced_is_found() {
    found_by_power_cuts::<1>(Bug::NoDirectorySync);
}

#[test]
fn a_rename_before_the_sync_is_found() {
    found_by_power_cuts::<2>(Bug::RenameBeforeSync);
}

#[test]
fn a_checksum_without_the_header_is_found() {
    assert!(flip_bits(Planted::<3>).is_err(), "{:?} was not found", Bug::ALL[3]);
}

#[test]
fn a_snapshot_that_misses_the_tail_is_found() {
    found_by_power_cuts::<4>(Bug::SnapshotMissesTail);
}

#[test]
fn a_sync_that_is_tried_again_is_found() {
    found_by_power_cuts::<5>(Bug::RetryAfterFailedSync);
}

#[test]
fn damage_that_is_taken_for_a_torn_tail_is_found() {
    assert!(flip_bits(Planted::<6>).is_err(), "{:?} was not found", Bug::ALL[6]);
}

#[test]
fn a_tail_that_is_not_cleared_is_found() {
    found_by_power_cuts::<7>(Bug::TailNotCleared);
}
