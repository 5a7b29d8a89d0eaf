//! Writes that this node has dropped because the next primary may not have them.
//!
//! Of those that were acknowledged, only writes at level `async` can be lost this way; some were never acknowledged, and
//! the primary may have others after all. They are kept here for people to inspect, up to a limit, and only counted
//! beyond it.

use std::collections::VecDeque;

use proto::id::{Epoch, Version};
use proto::slot::SlotId;

use crate::record::Record;

/// How many lost writes are kept.
pub const LOSSES: usize = 10_000;

/// How many bytes of lost writes are kept.
pub const LOSS_BYTES: usize = 16 * 1024 * 1024;

/// A lost write.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The slot of its key.
    pub slot: SlotId,
    /// The write.
    pub record: Record,
    /// The last record that this node and the next primary shared.
    pub common: Version,
    /// The epoch of the primary that lacks the write.
    pub winner: Epoch,
}

/// The archive of lost writes.
#[derive(Debug, Default)]
pub struct Losses {
    kept: VecDeque<Loss>,
    bytes: usize,
    /// How many writes were lost in total.
    count: u64,
}

impl Losses {
    /// Keeps a lost write; the oldest ones are dropped if there is no room.
    pub fn add(&mut self, loss: Loss) {
        self.count += 1;
        self.bytes += loss.record.size();
        self.kept.push_back(loss);
        while self.kept.len() > LOSSES || (self.bytes > LOSS_BYTES && self.kept.len() > 1) {
            self.bytes -= self.kept.pop_front().map_or(0, |loss| loss.record.size());
        }
    }

    /// Counts lost writes that could not be kept, because later writes had overwritten them.
    pub fn add_unkept(&mut self, writes: u64) {
        self.count += writes;
    }

    /// How many writes were lost in total; with a data directory, since it was created.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The lost writes that are kept, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Loss> {
        self.kept.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::peer::Effect;

    #[test]
    fn what_does_not_fit_is_counted_all_the_same() {
        let mut losses = Losses::default();
        let record = Record::entry(Version::NONE, b"k", Effect::Put(b"v"));
        for _ in 0..LOSSES + 5 {
            losses.add(Loss { slot: SlotId(1), record: record.clone(), common: Version::NONE, winner: Epoch(2) });
        }
        losses.add_unkept(2);
        assert_eq!((losses.iter().count(), losses.count()), (LOSSES, LOSSES as u64 + 7));
    }
}
