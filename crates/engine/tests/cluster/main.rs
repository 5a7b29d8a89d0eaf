//! Whole clusters in one thread: stories that read as transcripts.
#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "whatever goes wrong here fails its test")]

mod stories;
mod world;
