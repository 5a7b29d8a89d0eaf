//! The newest record of each key of one slot.

pub(crate) mod fetch;

use std::hash::BuildHasher;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::record::Record;

/// The hash of keys in tables. Keyed with a secret, so that nobody outside can choose keys that collide.
#[derive(Debug, Clone)]
pub struct KeyHasher(SeedableRandomState);

impl KeyHasher {
    /// A hasher with this secret; a process draws it at random when it starts.
    #[must_use]
    pub fn new(secret: u64) -> Self {
        Self(SeedableRandomState::with_seed(secret, SharedSeed::global_fixed()))
    }

    /// The hash of a key.
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash_one(key)
    }
}

/// A table of records by key, tombstones among them.
#[derive(Debug, Default)]
pub struct Table {
    records: HashTable<Record>,
    tombstones: usize,
}

impl Table {
    /// The newest record of a key.
    #[must_use]
    pub fn get(&self, hasher: &KeyHasher, key: &[u8]) -> Option<&Record> {
        self.records.find(hasher.hash(key), |record| record.key() == key)
    }

    /// Asks for the memory of the record of a key, which will be used soon.
    pub(crate) fn fetch(&self, hasher: &KeyHasher, key: &[u8]) {
        // Whatever is not ruled out by the bits of the hash in the table is the one, nearly always.
        let _ = self.records.find(hasher.hash(key), |record| {
            record.fetch();
            false
        });
    }

    /// Puts a record in the place of its key's last one, and gives that one.
    pub fn insert(&mut self, hasher: &KeyHasher, record: Record) -> Option<Record> {
        let hash = hasher.hash(record.key());
        let added = usize::from(record.is_delete());
        let same_key = |other: &Record| other.key() == record.key();
        self.tombstones += added;
        match self.records.entry(hash, same_key, |record| hasher.hash(record.key())) {
            Entry::Occupied(mut entry) => {
                self.tombstones -= usize::from(entry.get().is_delete());
                Some(std::mem::replace(entry.get_mut(), record))
            }
            Entry::Vacant(entry) => {
                entry.insert(record);
                None
            }
        }
    }

    /// Takes an insertion back: what it had replaced is there again, or the key is not.
    pub fn undo(&mut self, hasher: &KeyHasher, record: &Record, replaced: Option<Record>) {
        match replaced {
            Some(replaced) => {
                self.insert(hasher, replaced);
            }
            None => self.remove(hasher, record),
        }
    }

    /// Drops a tombstone, unless its key has been written since.
    pub fn purge(&mut self, hasher: &KeyHasher, tombstone: &Record) {
        self.remove(hasher, tombstone);
    }

    /// Drops a record, unless its key has been written since.
    fn remove(&mut self, hasher: &KeyHasher, record: &Record) {
        let same = |other: &Record| other.key() == record.key() && other.version() == record.version();
        if let Ok(entry) = self.records.find_entry(hasher.hash(record.key()), same) {
            entry.remove();
            self.tombstones -= usize::from(record.is_delete());
        }
    }

    /// How many keys have a value.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.records.len() - self.tombstones
    }

    /// All records, tombstones among them, in no order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::{Epoch, Version};
    use proto::peer::Effect;

    fn record(seq: u64, key: &str, effect: Effect<'_>) -> Record {
        Record::entry(Version { epoch: Epoch(1), seq }, key.as_bytes(), effect)
    }

    #[test]
    fn an_insertion_can_be_taken_back() {
        let hasher = KeyHasher::new(7);
        let mut table = Table::default();
        let records =
            [record(1, "a", Effect::Put(b"x")), record(2, "a", Effect::Delete), record(3, "a", Effect::Put(b"y"))];
        let replaced: Vec<_> = records.iter().map(|record| table.insert(&hasher, record.clone())).collect();
        assert_eq!((table.keys(), replaced[2].as_ref()), (1, Some(&records[1])));
        for (record, replaced) in records.iter().zip(replaced).rev() {
            assert_eq!(table.get(&hasher, b"a"), Some(record));
            table.undo(&hasher, record, replaced);
        }
        assert_eq!((table.keys(), table.records().count()), (0, 0));
    }

    #[test]
    fn the_newest_record_of_a_key_is_found_and_tombstones_go_when_purged() {
        let hasher = KeyHasher::new(7);
        let mut table = Table::default();
        table.insert(&hasher, record(1, "a", Effect::Put(b"x")));
        table.insert(&hasher, record(2, "b", Effect::Put(b"")));
        table.insert(&hasher, record(3, "a", Effect::Put(b"y")));
        assert_eq!(table.get(&hasher, b"a").unwrap().value(), Some(&b"y"[..]));
        assert_eq!(table.get(&hasher, b"b").unwrap().value(), Some(&b""[..]));
        assert_eq!((table.keys(), table.get(&hasher, b"c")), (2, None));

        let tombstone = record(4, "a", Effect::Delete);
        table.insert(&hasher, tombstone.clone());
        assert_eq!((table.keys(), table.records().count()), (1, 2));
        table.insert(&hasher, record(5, "a", Effect::Put(b"z")));
        table.purge(&hasher, &tombstone);
        assert_eq!(table.keys(), 2, "the key was written since");
        let tombstone = record(6, "a", Effect::Delete);
        table.insert(&hasher, tombstone.clone());
        table.purge(&hasher, &tombstone);
        assert_eq!((table.keys(), table.records().count()), (1, 1));
    }
}
