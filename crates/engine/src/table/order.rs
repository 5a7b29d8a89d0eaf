//! The order of a table's keys, made when somebody first asks for it.

use super::{GROUP, Group};
use crate::record::Record;

/// Where the records of a table lie, in the order of their keys: 4 bytes a key.
///
/// It names places and not records. So a record that takes the place of its key's last one, be it a value or a tombstone,
/// leaves it as it is, and nothing that was overwritten is kept alive. Any other change makes it wrong.
#[derive(Debug, Default)]
pub(super) struct Order(Vec<u32>);

impl Order {
    /// Makes it the order of what is there.
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

    /// What it takes in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.0.capacity() * size_of::<u32>()
    }

    /// The records from a key on, in their order.
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
