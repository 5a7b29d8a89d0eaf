//! Counts of what happened, so that a run that found nothing shows what it went through.

use std::fmt;

use engine::node::Event as NodeEvent;

/// Defines [`Stats`] with these counters.
macro_rules! stats {
    ($($(#[$meta:meta])* $name:ident)*) => {
        /// Counts of what happened in a run, or in several.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each is what its name says, and is only shown")]
        pub struct Stats {
            pub seeds: u64,
            /// The simulated time, in microseconds.
            pub simulated: u64,
            $($(#[$meta])* pub $name: u64,)*
        }

        impl Stats {
            /// Adds the counts of another run.
            pub fn add(&mut self, other: &Self) {
                self.seeds += other.seeds;
                self.simulated += other.simulated;
                $(self.$name += other.$name;)*
            }
        }

        impl fmt::Display for Stats {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} seeds, {} simulated seconds", self.seeds, self.simulated / 1_000_000)?;
                $(write!(f, ", {} {}", self.$name, stringify!($name).replace('_', " "))?;)*
                Ok(())
            }
        }
    };
}

stats! {
    events
    operations
    answered
    acknowledged
    multi_writes
    refused
    unknown
    outage_answered
    promotions
    hand_overs
    hand_overs_late
    fills
    overflows
    deposed
    expelled
    suspected
    cut_off
    removed
    cut_away
    async_lost
    breaks
    cuts
    pauses
    crashes
    memory_losses
    power_losses
    orderly_stops
    crashed_starts
    killed_starts
    disk_failures
    disk_stalls
    full_disks
    bit_flips
    damages
    snapshots
    torn_tails
    unproven_promotions
    leaves
    coordinator_crashes
    state_losses
    started_anew
    lost_slots
    shortened_slots
    undecided
    pages
    lists_of_replicas
    full
    keys_evicted
    comparisons
    differences
    decommissions
    dismissals
    fills_limited
    misnamed
    restarts
    rolled
    impostors_refused
    states_put_back
    /// How often one was put back after the coordinator had gone on with some of the nodes.
    forks
    old_retries
    unregistrations
    accepted_losses
}

impl Stats {
    /// Counts an event reported by a node.
    pub(crate) fn node_event(&mut self, event: &NodeEvent) {
        match event {
            NodeEvent::Deposed(_) => self.deposed += 1,
            NodeEvent::CutAway(_, records) => self.cut_away += records,
            NodeEvent::Unresponsive(_, slots) => self.expelled += *slots as u64,
            NodeEvent::Overflowed(..) => self.overflows += 1,
            NodeEvent::MemoryFull { .. } | NodeEvent::ReplicaMemoryFull(..) => {}
            NodeEvent::Differs(..) => self.differences += 1,
            NodeEvent::HandOverTimedOut(slots) => self.hand_overs_late += *slots as u64,
        }
    }
}
