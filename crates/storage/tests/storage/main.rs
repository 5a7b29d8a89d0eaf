//! What the crate promises, as claims: on a disk whose power is cut, and on real files.

mod bits;
mod directory;
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
