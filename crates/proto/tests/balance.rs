//! Checks what the documents say about the number of virtual nodes against the ring.

#[path = "../examples/balance/measure.rs"]
mod measure;

use measure::Balance;

const NAME_SETS: usize = 20;
const COPIES: usize = 3;

#[test]
fn few_virtual_nodes_leave_one_node_with_twice_its_share() {
    let (mean, _) = Balance::over_name_sets(NAME_SETS, 10, 3, COPIES);
    assert!((1.7..2.2).contains(&mean.primaries), "{mean:?}");
}

#[test]
fn a_hundred_and_twenty_eight_virtual_nodes_are_even_within_a_fifth() {
    let (mean, worst) = Balance::over_name_sets(NAME_SETS, 10, 128, COPIES);
    assert!(mean.primaries < 1.16, "{mean:?}");
    assert!(worst.primaries < 1.20, "{worst:?}");
    assert!(mean.copies < 1.10, "{mean:?}");
}

#[test]
fn more_virtual_nodes_are_more_even() {
    let figures = [3, 16, 64, 256].map(|virtual_nodes| Balance::over_name_sets(NAME_SETS, 5, virtual_nodes, COPIES).0);
    for pair in figures.windows(2) {
        assert!(pair[1].primaries < pair[0].primaries && pair[1].copies < pair[0].copies, "{figures:?}");
    }
}

#[test]
fn as_many_copies_as_nodes_are_even_whatever_the_ring() {
    let (_, worst) = Balance::over_name_sets(NAME_SETS, 3, 3, COPIES);
    assert!((worst.copies - 1.0).abs() < 1e-9, "{worst:?}");
}
