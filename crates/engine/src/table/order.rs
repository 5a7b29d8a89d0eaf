//! The order of a table's keys, built when it is first asked for.

use super::{GROUP, Group};
use crate::record::Record;

/// The places of a table's records in key order: 4 bytes per key.
///
/// It holds places, not records. So replacing a key's newest record, whether by a value or a tombstone, leaves it
/// valid, and it keeps nothing alive that was overwritten. Any other change invalidates it.
#[derive(Debug, Default)]
pub(super) struct Order(Vec<u32>);

impl Order {
    /// Rebuilds the order from the current records.
    pub(super) fn sort(&mut self, groups: &[Group]) {
        let places = (0..).zip(groups).flat_map(|(number, group)| {
            let taken = group.records.iter().enumerate().filter(|(_, record)| record.is_some());
            taken.filter_map(move |(at, _)| u32::try_from(number * GROUP + at).ok())
        });
        self.0.clear();
        self.0.extend(places);
        self.0.shrink_to_fit();
        self.0.sort_unstable_by(|one, other| key_at(groups, *one).cmp(&key_at(groups, *other)));
    }

    /// The memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.0.capacity() * size_of::<u32>()
    }

    /// The records from `start` on, in key order.
    pub(super) fn from<'a>(&'a self, groups: &'a [Group], start: &[u8]) -> impl Iterator<Item = &'a Record> + use<'a> {
        let first = self.0.partition_point(|place| key_at(groups, *place).is_some_and(|key| key < start));
        self.0.iter().skip(first).filter_map(|place| record_at(groups, *place))
    }
}

fn record_at(groups: &[Group], place: u32) -> Option<&Record> {
    let place = place as usize;
    groups.get(place / GROUP)?.records.get(place % GROUP)?.as_ref()
}

fn key_at(groups: &[Group], place: u32) -> Option<&[u8]> {
    record_at(groups, place).map(Record::key)
}
