//! The bugs in the storage of nodes, with a seed that finds each.

use sim::mutants::AnyBug;
use storage::bugs::Bug;

use super::is_found;

/// Like `FOUND_BY` of the engine's bugs.
const FOUND_BY: [(Bug, u64); 8] = [
    (Bug::AcknowledgeBeforeSync, 2),
    (Bug::NoDirectorySync, 41),
    (Bug::RenameBeforeSync, 393),
    (Bug::ChecksumWithoutHeader, 111),
    (Bug::SnapshotMissesTail, 2),
    (Bug::DamageTakenForTornTail, 39),
    (Bug::TailNotCleared, 35),
    (Bug::GivenUpClaimed, 5),
];

#[test]
fn every_planted_bug_of_the_storage_is_found() {
    let is_recorded = |bug: &AnyBug| FOUND_BY.iter().any(|(found, _)| *bug == AnyBug::from(*found));
    let of_storage = AnyBug::all().filter(|bug| matches!(bug, AnyBug::Storage(_)));
    let missing: Vec<_> = of_storage.filter(|bug| !is_recorded(bug)).collect();
    assert_eq!(missing, [], "no seed is recorded");
    for (bug, seed) in FOUND_BY {
        is_found(bug.into(), seed);
    }
}
