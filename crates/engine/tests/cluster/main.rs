//! Whole clusters in one thread: stories that read as transcripts, and random walks by seed.
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "whatever goes wrong here fails its test")]

mod random_walks;
mod stories;
mod world;
