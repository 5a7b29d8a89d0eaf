//! A slot's share of its node's memory. Every change to its table that changes this share goes through here.

use super::{Refusal, Slot, SlotContext};
use crate::bugs::Bugs;
use crate::memory::Usage;
use crate::record::Record;
use crate::table::Table;

impl<B: Bugs> Slot<B> {
    /// The memory that the table takes, counted from scratch.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.table.usage()
    }

    /// How long ago a key was used, by the clock of [`crate::memory`]; `None` if it is absent.
    ///
    /// # Errors
    /// This node does not lead the slot.
    pub(crate) fn age(&self, cx: &SlotContext<'_>, key: &[u8]) -> Result<Option<u16>, Refusal> {
        if !self.is_primary() {
            return Err(Refusal::NotHere);
        }
        let record = self.table.get(cx.hasher, key).filter(|record| !record.is_delete());
        let present = record.filter(|record| !record.has_deadline() || !record.is_expired(cx.wall()));
        Ok(present.map(|record| record.age(cx.memory.clock())))
    }

    /// Replaces the newest record of a key, and returns the replaced one.
    pub(super) fn put(&mut self, cx: &SlotContext<'_>, record: Record) -> Option<Record> {
        cx.was_used(&record);
        let added = record.usage();
        self.change_table(cx, added, |table| table.insert(cx.hasher, record))
    }

    /// Undoes a record, restoring the one it replaced, if any.
    pub(super) fn take_back(&mut self, cx: &SlotContext<'_>, record: &Record, replaced: Option<Record>) {
        let added = replaced.as_ref().map(Record::usage).unwrap_or_default();
        self.change_table(cx, added, |table| table.undo(cx.hasher, record, replaced));
    }

    /// Drops a record if it is its key's newest. Outside of tests it is always a tombstone.
    pub(super) fn drop_record(&mut self, cx: &SlotContext<'_>, record: &Record) {
        self.change_table(cx, Usage::default(), |table| table.remove(cx.hasher, record));
    }

    /// Drops all records.
    pub(super) fn drop_table(&mut self, cx: &SlotContext<'_>) {
        cx.memory.changed(Usage::default() - self.table.usage());
        self.table = Table::default();
    }

    /// Applies a change that adds this much and returns the record it removed.
    fn change_table(
        &mut self,
        cx: &SlotContext<'_>,
        added: Usage,
        change: impl FnOnce(&mut Table) -> Option<Record>,
    ) -> Option<Record> {
        let groups = self.table.group_count();
        let removed = change(&mut self.table);
        let grown = self.table.grown_since(groups);
        let freed = removed.as_ref().map(Record::usage).unwrap_or_default();
        cx.memory.changed(added + grown - freed);
        removed
    }
}
