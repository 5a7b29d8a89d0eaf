//! The judges of histories.
//!
//! - [`linearizable`]: splits a history by key and picks the check for each. Linearizability is local: a history is
//!   linearizable if and only if that of each key is (Herlihy and Wing 1990, theorem 1), so no check sees two keys.
//! - [`zones`]: decides keys that are only put and read, in the time of a sort, and finds most problems with others.
//! - [`search`]: decides keys that also have deletes and conditional writes; may need exponential time, and gives up.
//! - [`oracle`]: compares what a run left behind with what it acknowledged.
//! - [`verdict`]: the findings of the judges, told with the fewest operations.

pub mod linearizable;
pub mod oracle;
pub mod search;
pub mod verdict;
pub mod zones;

pub use linearizable::{Summary, judge};
pub use oracle::append_final_reads;
pub use verdict::{Story, Verdict, Violation};
