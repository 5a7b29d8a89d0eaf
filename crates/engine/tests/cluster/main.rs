//! Whole clusters in one thread, without faults but those that a story tells of. Faults at random, by seed, are the
//! simulator's: `crates/sim`.
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "whatever goes wrong here fails its test")]

mod memory;
mod stories;
mod world;
