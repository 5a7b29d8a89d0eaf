//! Damage to a copy, for testing what detects it.

use proto::id::Version;
use proto::peer::{Effect, WallTime};

use super::{Slot, SlotContext};
use crate::bugs::Damaged;
use crate::record::Record;

/// How a copy is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A key has a different value.
    Value,
    /// A key has a deadline that nobody gave it.
    Deadline,
    /// A key has a different version.
    Version,
    /// A key is missing.
    Lost,
    /// There is a key that was never written, or that was deleted.
    Extra,
}

impl Damage {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Value, Self::Deadline, Self::Version, Self::Lost, Self::Extra];
}

impl<B: Damaged> Slot<B> {
    /// Damages the table, and nothing else that this copy knows. `false` if it is empty.
    pub(crate) fn damage(&mut self, cx: &SlotContext<'_>, damage: Damage) -> bool {
        let records = self.table.records();
        let Some(record) = records.min_by(|one, other| one.key().cmp(other.key())).cloned() else { return false };
        let (key, version) = (record.key(), record.version());
        let value = record.value().unwrap_or_default();
        let damaged = match damage {
            Damage::Value => Record::entry(version, key, Effect::Put(&[value, b"!"].concat())),
            Damage::Deadline => Record::entry(version, key, Effect::PutUntil(value, WallTime(u64::MAX))),
            Damage::Version => Record::entry(Version { seq: version.seq + 1_000, ..version }, key, record.effect()),
            Damage::Lost => {
                self.drop_record(cx, &record);
                return true;
            }
            Damage::Extra => Record::entry(version, &[key, b"!"].concat(), Effect::Put(value)),
        };
        self.put(cx, damaged);
        true
    }
}
