//! What a slot takes in its node's memory. Whatever changes its table goes through here.

use super::{Place, Refusal, Slot};
use crate::bugs::Bugs;
use crate::memory::Usage;
use crate::record::Record;
use crate::table::Table;

impl<B: Bugs> Slot<B> {
    /// What its table takes in memory, counted anew.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.table.usage()
    }

    /// How long ago a key was used, by the clock of [`crate::memory`]; none where it is absent.
    ///
    /// # Errors
    /// This node does not lead the slot.
    pub(crate) fn age(&self, place: Place<'_>, key: &[u8]) -> Result<Option<u16>, Refusal> {
        if !self.is_primary() {
            return Err(Refusal::NotHere);
        }
        let record = self.table.get(place.hasher, key).filter(|record| !record.is_delete());
        let present = record.filter(|record| !record.has_deadline() || !record.is_expired(place.wall()));
        Ok(present.map(|record| record.age(place.memory.clock())))
    }

    /// Puts a record in the place of its key's last one, and gives that one.
    pub(super) fn put(&mut self, place: Place<'_>, record: Record) -> Option<Record> {
        if place.memory.evicts() {
            record.touch(place.memory.clock());
        }
        let added = record.usage();
        self.change_table(place, added, |table| table.insert(place.hasher, record))
    }

    /// Takes a record back that has replaced another, or none.
    pub(super) fn take_back(&mut self, place: Place<'_>, record: &Record, replaced: Option<Record>) {
        let added = replaced.as_ref().map(Record::usage).unwrap_or_default();
        self.change_table(place, added, |table| table.undo(place.hasher, record, replaced));
    }

    /// Drops a record, a tombstone unless by mistake, if it is its key's newest.
    pub(super) fn drop_record(&mut self, place: Place<'_>, record: &Record) {
        self.change_table(place, Usage::default(), |table| table.purge(place.hasher, record));
    }

    /// Drops all records.
    pub(super) fn drop_table(&mut self, place: Place<'_>) {
        place.memory.changed(Usage::default() - self.table.usage());
        self.table = Table::default();
    }

    /// Makes a change that adds so much and gives the record that it has removed.
    fn change_table(
        &mut self,
        place: Place<'_>,
        added: Usage,
        change: impl FnOnce(&mut Table) -> Option<Record>,
    ) -> Option<Record> {
        let groups = self.table.group_bytes();
        let removed = change(&mut self.table);
        let grown = Usage::of_values(self.table.group_bytes()) - Usage::of_values(groups);
        let freed = removed.as_ref().map(Record::usage).unwrap_or_default();
        place.memory.changed(added + grown - freed);
        removed
    }
}
