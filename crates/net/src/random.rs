//! Random bits from the system, by way of the standard library's hash seeds.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

/// 64 random bits: for identities and for secrets that keep clients from choosing keys that collide.
#[must_use]
pub fn bits() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
