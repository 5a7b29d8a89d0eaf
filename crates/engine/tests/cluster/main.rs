//! Whole clusters in one thread, without faults other than those in a story. Random faults, by seed, are the
//! simulator's job: `crates/sim`.
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "whatever goes wrong here fails its test")]

mod by_hand;
mod copies;
mod handed_over;
mod memory;
mod resent;
mod starts;
mod stories;
mod world;
