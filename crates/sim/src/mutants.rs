//! Planted mistakes: which of them the state machines of a run have.

use engine::bugs::{Bug, Bugs};

/// The mistake of a run, or none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Planted(pub Option<Bug>);

impl Bugs for Planted {
    fn plants(self, bug: Bug) -> bool {
        self.0 == Some(bug)
    }
}
