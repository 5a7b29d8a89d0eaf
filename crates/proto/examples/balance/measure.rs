//! How evenly a ring spreads the slots.

use proto::id::NodeAddr;
use proto::ring::HashRing;
use proto::slot::SLOT_BITS;

/// The load of the most loaded node relative to the mean of all nodes; 1.0 is perfectly even.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Balance {
    /// By slots that a node leads: the work of writes.
    pub(crate) primaries: f64,
    /// By slots that a node holds a copy of: the memory needed.
    pub(crate) copies: f64,
}

impl Balance {
    /// The balance of one ring, with `copies` copies of each slot.
    ///
    /// # Panics
    /// If the ring has no nodes.
    #[must_use]
    pub(crate) fn of(ring: &HashRing, copies: usize) -> Self {
        let nodes = ring.nodes();
        let (mut leads, mut holds) = (vec![0u32; nodes.len()], vec![0u32; nodes.len()]);
        for owners in ring.slot_owners(SLOT_BITS, copies) {
            for (rank, owner) in owners.into_iter().enumerate() {
                let node = nodes.binary_search(owner).expect("an owner stands on the ring");
                holds.get_mut(node).map(|count| *count += 1).expect("there is a count for each node");
                if rank == 0 {
                    leads.get_mut(node).map(|count| *count += 1).expect("there is a count for each node");
                }
            }
        }
        Self { primaries: max_over_mean(&leads), copies: max_over_mean(&holds) }
    }

    /// The mean over clusters of `nodes` nodes that differ only in the names of their nodes, and the worst of them,
    /// each figure separately.
    #[must_use]
    pub(crate) fn over_name_sets(sets: usize, nodes: usize, virtual_nodes: u32, copies: usize) -> (Self, Self) {
        let mut mean = Self { primaries: 0.0, copies: 0.0 };
        let mut worst = mean;
        for set in 0..sets {
            let names = (1..=nodes).map(|i| NodeAddr::new(&format!("10.0.{set}.{i}"), 5001).expect("an address"));
            let one = Self::of(&HashRing::with_nodes(virtual_nodes, names), copies);
            mean.primaries += one.primaries / sets as f64;
            mean.copies += one.copies / sets as f64;
            worst.primaries = worst.primaries.max(one.primaries);
            worst.copies = worst.copies.max(one.copies);
        }
        (mean, worst)
    }
}

fn max_over_mean(counts: &[u32]) -> f64 {
    let max = counts.iter().max().expect("there are nodes");
    f64::from(*max) * counts.len() as f64 / f64::from(counts.iter().sum::<u32>())
}
