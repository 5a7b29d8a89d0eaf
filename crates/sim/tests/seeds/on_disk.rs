//! The mistakes of what nodes keep on disk, and a seed that finds each.

use storage::bugs::Bug;

use super::is_found;

/// As `FOUND_BY`.
const FOUND_BY: [(Bug, u64); 8] = [
    (Bug::AcknowledgeBeforeSync, 2),
    (Bug::NoDirectorySync, 29),
    (Bug::RenameBeforeSync, 46),
    (Bug::ChecksumWithoutHeader, 112),
    (Bug::SnapshotMissesTail, 4),
    (Bug::RetryAfterFailedSync, 118),
    (Bug::DamageTakenForTornTail, 10),
    (Bug::TailNotCleared, 55),
];

#[test]
fn every_planted_mistake_of_the_storage_is_found() {
    let missing: Vec<_> = Bug::ALL.into_iter().filter(|bug| FOUND_BY.iter().all(|(found, _)| found != bug)).collect();
    assert_eq!(missing, [], "no seed is recorded");
    for (bug, seed) in FOUND_BY {
        is_found(bug.into(), seed);
    }
}
