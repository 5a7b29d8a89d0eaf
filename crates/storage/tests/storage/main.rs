//! What the crate promises, as tests: on a disk whose power is cut, and on real files.
#![expect(clippy::indexing_slicing, reason = "an index out of its range fails the test, as it should")]

mod bits;
mod directory;
mod discard;
mod failed_syncs;
mod faults;
mod format;
mod journal;
mod model;
mod planted;
mod power_cuts;
mod real_disk;
mod repair;
mod snapshots;
mod support;
