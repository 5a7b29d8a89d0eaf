//! The newest record of each key of one slot.

pub(crate) mod fetch;
mod order;
pub(crate) mod shared;

use std::cell::Cell;
use std::hash::BuildHasher;

use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;

use proto::id::Version;

use crate::memory::{Usage, allocated};
use crate::record::Record;

use order::Order;

/// The hash of keys in tables. Keyed with a secret, so that outsiders cannot choose keys that collide.
#[derive(Debug, Clone)]
pub struct KeyHasher(SeedableRandomState);

impl KeyHasher {
    /// A hasher with this secret; a process chooses it at random when it starts.
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

/// How many records a group holds; with their tags, a group is one cache line.
const GROUP: usize = 7;

/// The table grows once no more than one in this many places is free.
const SPARE_PART: usize = 8;

/// The table shrinks once no more than one in this many places is taken.
const EMPTY_PART: usize = 8;

/// A tag that no record has.
const FREE: u8 = 0;

/// A table of records by key, including tombstones.
///
/// The hash of a key gives it a home group. The key is there or, if that group is full, in one of the groups that
/// follow. A group has a tag for each record, eight other bits of its hash, so almost always only the record that is
/// looked for is touched: a lookup visits one cache line for the group and one for the record. Each group counts the
/// records that went past it, and a lookup ends at a group that none has gone past (a simplified version of Facebook's
/// F14).
#[derive(Debug, Default)]
#[repr(C)]
pub struct Table {
    groups: Box<[Group]>,
    records: u32,
    tombstones: u32,
    /// How many records have a deadline.
    expiring: u32,
    /// The size of the record most recently written or looked up, in bytes, as an estimate for the next.
    expected_size: Cell<u16>,
    /// A key was added or dropped since the keys were last put in order. The order itself is left untouched, out of the
    /// cache: touching it would slow the write.
    order_is_old: bool,
    /// The order of the keys, once it has been asked for. Last, since hardly any operation looks at it.
    order: Option<Box<Order>>,
}

#[derive(Debug, Default, Clone)]
#[repr(align(64))]
struct Group {
    tags: [u8; GROUP],
    /// How many records are in later groups although this group is their home or on their way. Once at its limit it
    /// stays there, so it is never too low.
    passed: u8,
    records: [Option<Record>; GROUP],
}

/// Where to look for a key.
#[derive(Debug, Clone, Copy)]
struct Probe {
    home: usize,
    tag: u8,
}

/// Where a record is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// How many groups after its home.
    distance: usize,
    group: usize,
    at: usize,
}

impl Table {
    /// How much of a table an operation on a key touches, beside its groups.
    #[cfg(test)]
    pub(crate) const READ_BYTES: usize = std::mem::offset_of!(Self, order);

    /// The newest record of a key.
    #[must_use]
    pub fn get(&self, hasher: &KeyHasher, key: &[u8]) -> Option<&Record> {
        let record = self.at(self.place_of(hasher, key)?)?;
        self.note_size(record);
        Some(record)
    }

    /// Where the newest record of a key is, until the table is changed.
    pub(crate) fn place_of(&self, hasher: &KeyHasher, key: &[u8]) -> Option<Place> {
        self.find(self.probe(hasher.hash(key)), key)
    }

    /// The record at a place.
    pub(crate) fn at(&self, place: Place) -> Option<&Record> {
        self.groups.get(place.group)?.records.get(place.at)?.as_ref()
    }

    /// Prefetches a key's group, before [`Table::fetch_record`].
    pub(crate) fn fetch(&self, hash: u64) {
        if let Some(group) = self.groups.get(self.probe(hash).home) {
            fetch::fetch(group);
        }
    }

    /// Prefetches a key's record if it is in its home group, at `distance` 0, as most are. If it is not there but may be
    /// further on, prefetches the next group and returns true: call this again for distance 1, and so on.
    pub(crate) fn fetch_record(&self, hash: u64, distance: usize) -> bool {
        let Probe { home, tag } = self.probe(hash);
        let Some(group) = self.groups.get(self.group_after(home, distance)) else { return false };
        let mut is_here = false;
        for (_, record) in group.tagged(tag) {
            record.fetch_with_value(self.expected_size());
            is_here = true;
        }
        if is_here || group.passed == 0 {
            return false;
        }
        self.groups.get(self.group_after(home, distance + 1)).inspect(|next| fetch::fetch(*next)).is_some()
    }

    /// The size that the record used next has, as far as can be guessed, in bytes.
    pub(crate) fn expected_size(&self) -> usize {
        self.expected_size.get().into()
    }

    fn note_size(&self, record: &Record) {
        self.expected_size.set(u16::try_from(record.size()).unwrap_or(u16::MAX));
    }

    /// Replaces the newest record of a key, and returns the replaced one.
    pub fn insert(&mut self, hasher: &KeyHasher, record: Record) -> Option<Record> {
        let hash = hasher.hash(record.key());
        self.note_size(&record);
        self.tombstones += u32::from(record.is_delete());
        self.expiring += u32::from(record.has_deadline());
        if let Some(place) = self.find(self.probe(hash), record.key()) {
            let place = self.groups.get_mut(place.group).and_then(|group| group.records.get_mut(place.at));
            let replaced = place.and_then(|place| place.replace(record));
            self.tombstones -= u32::from(replaced.as_ref().is_some_and(Record::is_delete));
            self.expiring -= u32::from(replaced.as_ref().is_some_and(Record::has_deadline));
            return replaced;
        }
        if self.is_taken() {
            self.grow(hasher);
        }
        self.add(hash, record);
        self.records += 1;
        self.order_is_old = true;
        None
    }

    /// Writes over the record of a key at its place, if it is a plain put whose value is as long as this one, and nobody
    /// else holds it. Returns the record as it is then.
    pub(crate) fn write_in_place(
        &mut self,
        place: Place,
        key: &[u8],
        version: Version,
        value: &[u8],
    ) -> Option<&Record> {
        let record = self.groups.get_mut(place.group)?.records.get_mut(place.at)?.as_mut()?;
        // The key is compared although the place is known: a wrong place would write over another key.
        if record.key() != key || !record.write_in_place(version, value) {
            return None;
        }
        let record = self.at(place)?;
        self.note_size(record);
        Some(record)
    }

    /// Undoes an insertion: restores the replaced record, or removes the key. Returns what was there.
    pub fn undo(&mut self, hasher: &KeyHasher, record: &Record, replaced: Option<Record>) -> Option<Record> {
        match replaced {
            Some(replaced) => self.insert(hasher, replaced),
            None => self.remove(hasher, record),
        }
    }

    /// Drops a record, unless its key has been written since. Returns what was dropped.
    pub fn remove(&mut self, hasher: &KeyHasher, record: &Record) -> Option<Record> {
        let probe = self.probe(hasher.hash(record.key()));
        let Place { distance, group, at } = self.find(probe, record.key())?;
        let group = self.groups.get_mut(group)?;
        let (tag, place) = (group.tags.get_mut(at)?, group.records.get_mut(at)?);
        let removed = place.take_if(|known| known.version() == record.version())?;
        *tag = FREE;
        for passed in 0..distance {
            let group = self.group_after(probe.home, passed);
            if let Some(group) = self.groups.get_mut(group).filter(|group| group.passed < u8::MAX) {
                group.passed -= 1;
            }
        }
        self.records -= 1;
        self.tombstones -= u32::from(record.is_delete());
        self.expiring -= u32::from(record.has_deadline());
        self.order_is_old = true;
        self.shrink(hasher);
        Some(removed)
    }

    /// How many keys have a value.
    #[must_use]
    pub fn keys(&self) -> usize {
        (self.records - self.tombstones) as usize
    }

    /// How many records have a deadline.
    #[must_use]
    pub fn expiring(&self) -> usize {
        self.expiring as usize
    }

    /// The records whose keys have this hash, and perhaps some others.
    pub(crate) fn with_hash(&self, hash: u64) -> impl Iterator<Item = &Record> {
        let Probe { home, tag } = self.probe(hash);
        let mut went_on = true;
        let groups = (0..self.groups.len()).map(move |distance| self.group_after(home, distance));
        let groups = groups.filter_map(|number| self.groups.get(number));
        let on_the_way = groups.take_while(move |group| std::mem::replace(&mut went_on, group.passed > 0));
        on_the_way.flat_map(move |group| group.tagged(tag).map(|(_, record)| record))
    }

    /// All records, including tombstones, in no particular order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.groups.iter().flat_map(|group| group.records.iter().flatten())
    }

    /// The records from `start` on in key order, including tombstones. The first call, and the next one after a key was
    /// added or dropped, sorts all keys.
    pub fn records_from<'a>(&'a mut self, start: &[u8]) -> impl Iterator<Item = &'a Record> + use<'a> {
        let Self { groups, order, order_is_old, .. } = self;
        let order = order.get_or_insert_default();
        if std::mem::take(order_is_old) {
            order.sort(groups);
        }
        order.from(groups, start)
    }

    /// The memory that the table takes, counted from scratch.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let groups = Usage::of_values(self.group_bytes() + self.order_bytes());
        self.records().map(Record::usage).fold(groups, std::ops::Add::add)
    }

    /// How many groups it has.
    pub(crate) fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The memory that its groups take beyond what `count` groups did.
    pub(crate) fn grown_since(&self, count: usize) -> Usage {
        if count == self.groups.len() {
            return Usage::default();
        }
        Usage::of_values(self.group_bytes()) - Usage::of_values(bytes_of_groups(count))
    }

    /// The memory that its groups take, in bytes.
    pub(crate) fn group_bytes(&self) -> usize {
        bytes_of_groups(self.groups.len())
    }

    /// How many bytes the groups would grow by if a key were added now.
    pub(crate) fn growth(&self) -> usize {
        if self.is_taken() { bytes_of_groups(self.next_count()) - self.group_bytes() } else { 0 }
    }

    /// The memory that the order of the keys takes, in bytes.
    pub(crate) fn order_bytes(&self) -> usize {
        self.order.as_ref().map_or(0, |order| order.bytes())
    }

    /// Iterates over the records that are not tombstones, starting at a random place.
    pub(crate) fn sample(&self, random: u64) -> impl Iterator<Item = &Record> {
        let start = self.probe(random).home;
        let groups =
            (0..self.groups.len()).filter_map(move |distance| self.groups.get(self.group_after(start, distance)));
        groups.flat_map(|group| group.records.iter().flatten()).filter(|record| !record.is_delete())
    }

    /// Whether so many places are taken that groups are added with the next key.
    fn is_taken(&self) -> bool {
        self.records as usize >= self.groups.len() * GROUP * (SPARE_PART - 1) / SPARE_PART
    }

    /// How many groups there are after growing: half as many again.
    fn next_count(&self) -> usize {
        self.groups.len() + self.groups.len().div_ceil(2).max(1)
    }

    fn probe(&self, hash: u64) -> Probe {
        // The upper half is mapped onto the groups (Lemire, "Fast random integer generation in an interval", 2019), so
        // that their number need not be a power of two.
        let home = ((hash >> 32) * self.groups.len() as u64) >> 32;
        let tag = u8::try_from(hash & 0xff).unwrap_or_default().max(FREE + 1);
        Probe { home: usize::try_from(home).unwrap_or_default(), tag }
    }

    fn group_after(&self, home: usize, distance: usize) -> usize {
        let group = home + distance;
        if group < self.groups.len() { group } else { group - self.groups.len() }
    }

    fn find(&self, probe: Probe, key: &[u8]) -> Option<Place> {
        for distance in 0..self.groups.len() {
            let number = self.group_after(probe.home, distance);
            let group = self.groups.get(number)?;
            if let Some((at, _)) = group.tagged(probe.tag).find(|(_, record)| record.key() == key) {
                return Some(Place { distance, group: number, at });
            }
            if group.passed == 0 {
                return None;
            }
        }
        None
    }

    /// Adds a record whose key is not in the table; there must be room.
    fn add(&mut self, hash: u64, record: Record) {
        let Probe { home, tag } = self.probe(hash);
        for distance in 0..self.groups.len() {
            let number = self.group_after(home, distance);
            let Some(group) = self.groups.get_mut(number) else { return };
            if let Some((free, place)) = group.tags.iter_mut().zip(&mut group.records).find(|(tag, _)| **tag == FREE) {
                (*free, *place) = (tag, Some(record));
                return;
            }
            group.passed = group.passed.saturating_add(1);
        }
    }

    /// Adds groups.
    fn grow(&mut self, hasher: &KeyHasher) {
        self.rebuild(hasher, self.next_count());
    }

    /// Releases memory if the table has much more room than it needs: the remaining records fill half of it.
    fn shrink(&mut self, hasher: &KeyHasher) {
        let records = self.records as usize;
        let count = (2 * records).div_ceil(GROUP);
        if records <= self.groups.len() * GROUP / EMPTY_PART && count < self.groups.len() {
            self.rebuild(hasher, count);
        }
    }

    fn rebuild(&mut self, hasher: &KeyHasher, count: usize) {
        let groups = std::mem::replace(&mut self.groups, vec![Group::default(); count].into_boxed_slice());
        for record in groups.into_iter().flat_map(|group| group.records).flatten() {
            self.add(hasher.hash(record.key()), record);
        }
    }
}

/// The memory that this many groups take, in bytes.
fn bytes_of_groups(count: usize) -> usize {
    allocated(count * size_of::<Group>())
}

impl Group {
    /// The records with this tag, and their places. The one just behind such a record may be among them although its tag
    /// differs, in the lowest bit.
    fn tagged(&self, tag: u8) -> impl Iterator<Item = (usize, &Record)> {
        // All tags are compared at once (after Warren, "Hacker's Delight", 6-1). Subtracting one sets the highest bit of
        // a byte that is zero, because it has this tag, and borrows from the next one, which may then seem to be zero,
        // too. The highest byte is no tag, and left out.
        const LOW: u64 = u64::from_le_bytes([1; 8]);
        const HIGH: u64 = LOW << 7;
        let [a, b, c, d, e, f, g] = self.tags;
        let differences = u64::from_le_bytes([a, b, c, d, e, f, g, self.passed]) ^ (LOW * u64::from(tag));
        let mut zeros = differences.wrapping_sub(LOW) & !differences & (HIGH >> 8);
        std::iter::from_fn(move || {
            let at = zeros.trailing_zeros() as usize / 8;
            zeros &= zeros.wrapping_sub(1);
            Some((at, self.records.get(at)?))
        })
        .filter_map(|(at, record)| Some((at, record.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Epoch;
    use proto::peer::{Effect, WallTime};

    fn record(seq: u64, key: &str, effect: Effect<'_>) -> Record {
        Record::entry(Version { epoch: Epoch(1), seq }, key.as_bytes(), effect)
    }

    #[test]
    fn a_group_is_one_line() {
        assert_eq!((size_of::<Group>(), align_of::<Group>()), (64, 64));
    }

    #[test]
    fn it_holds_what_a_plain_map_holds() {
        for (seed, keys) in [(1, 5), (2, 40), (3, 700)] {
            let hasher = KeyHasher::new(seed);
            let (mut table, mut model) = (Table::default(), std::collections::BTreeMap::new());
            // A linear congruential generator (Knuth, MMIX) is random enough here.
            let mut state = seed;
            for seq in 1..40_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let key = format!("key:{}", (state >> 33) % keys);
                match (state >> 20) % 4 {
                    0 => {
                        if let Some(newest) = model.remove(&key) {
                            assert_eq!(table.remove(&hasher, &newest), Some(newest));
                        }
                    }
                    choice => {
                        let effect = match choice {
                            1 => Effect::Delete,
                            2 => Effect::PutUntil(b"v", WallTime(seq)),
                            _ => Effect::Put(b"v"),
                        };
                        let new = record(seq, &key, effect);
                        assert_eq!(table.insert(&hasher, new.clone()), model.insert(key.clone(), new));
                    }
                }
                assert_eq!(table.get(&hasher, key.as_bytes()), model.get(&key));
                if (state >> 40) % 16 == 0 {
                    let start = format!("key:{}", (state >> 50) % keys);
                    let expected = model.range(start.clone()..).map(|(_, record)| record);
                    assert!(table.records_from(start.as_bytes()).eq(expected), "from {start} on");
                }
            }
            let mut records: Vec<_> = table.records().cloned().collect();
            records.sort_by(|one, other| one.key().cmp(other.key()));
            let mut expected: Vec<_> = model.into_values().collect();
            expected.sort_by(|one, other| one.key().cmp(other.key()));
            assert_eq!(records, expected);
            assert_eq!(table.keys(), expected.iter().filter(|record| !record.is_delete()).count());
            assert_eq!(table.expiring(), expected.iter().filter(|record| record.has_deadline()).count());
            let found = |record: &Record| table.with_hash(hasher.hash(record.key())).any(|found| found == record);
            assert!(expected.iter().all(found), "each is found by its hash");
            expected.iter().for_each(|record| _ = table.remove(&hasher, record));
            assert_eq!((table.records().count(), table.expiring()), (0, 0));
            assert_eq!(table.usage().tombstones, 0);
            assert_eq!(table.group_bytes(), 0, "an empty table takes no memory");
        }
    }

    #[test]
    fn prefetching_goes_on_to_the_group_where_a_record_is() {
        let hasher = KeyHasher::new(8);
        let mut table = Table::default();
        let keys: Vec<_> = (0..2_000).map(|key| format!("key:{key}")).collect();
        for (seq, key) in (1..).zip(&keys) {
            table.insert(&hasher, record(seq, key, Effect::Put(b"v")));
        }
        let mut displaced = 0;
        for key in &keys {
            let hash = hasher.hash(key.as_bytes());
            let Place { distance, .. } = table.find(table.probe(hash), key.as_bytes()).expect("it is there");
            // Another key on the way may have the same tag, and is then taken for this one.
            let stopped = (0..).find(|distance| !table.fetch_record(hash, *distance)).expect("it ends");
            assert!(stopped <= distance, "{key} is {distance} groups away, and prefetching went {stopped}");
            displaced += usize::from(stopped == distance && distance > 0);
        }
        assert!(displaced > 20, "{displaced} of {} are not in their home group", keys.len());
        let absent = (0..1_000).map(|key| hasher.hash(format!("absent:{key}").as_bytes()));
        let went_on = absent.filter(|hash| table.fetch_record(*hash, 0)).count();
        assert!(went_on < 300, "for {went_on} of 1000 keys that are not there, prefetching went on");
        assert!(!table.fetch_record(0, usize::MAX / 2), "there is no such group");
    }

    #[test]
    fn a_record_is_expected_to_be_as_large_as_the_last_one_used() {
        let hasher = KeyHasher::new(9);
        let mut table = Table::default();
        let mut sizes = Vec::new();
        for (seq, len) in [(1, 10), (2, 3_000), (3, 100)] {
            let record = record(seq, &format!("key:{len}"), Effect::Put(&vec![b'v'; len]));
            sizes.push(record.size());
            table.insert(&hasher, record);
            assert_eq!(Some(&table.expected_size()), sizes.last());
        }
        assert_eq!(table.get(&hasher, b"key:3000").map(Record::size), Some(table.expected_size()));
        let place = table.place_of(&hasher, b"key:10").expect("it is there");
        let version = Version { epoch: Epoch(1), seq: 4 };
        assert!(table.write_in_place(place, b"key:10", version, &[b'w'; 10]).is_some());
        assert_eq!(Some(&table.expected_size()), sizes.first());
    }

    #[test]
    fn the_order_outlives_what_takes_the_place_of_a_record_and_keeps_nothing_alive() {
        let hasher = KeyHasher::new(7);
        let mut table = Table::default();
        for (seq, key) in [(1, "b"), (2, "a"), (3, "c")] {
            table.insert(&hasher, record(seq, key, Effect::Put(b"old")));
        }
        let keys = |table: &mut Table| table.records_from(b"").map(|record| record.key().to_vec()).collect::<Vec<_>>();
        assert_eq!(
            (table.order.is_some(), keys(&mut table)),
            (false, vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec()])
        );
        let replaced = table.insert(&hasher, record(4, "b", Effect::Put(b"new"))).unwrap();
        table.insert(&hasher, record(5, "c", Effect::Delete));
        assert!(!table.order_is_old);
        assert!(replaced.is_unique(), "whoever has replaced it holds it alone");
        table.insert(&hasher, record(6, "aa", Effect::Put(b"")));
        assert!(table.order_is_old);
        assert_eq!(keys(&mut table).len(), 4);
        table.remove(&hasher, &record(5, "c", Effect::Delete));
        assert!(table.order_is_old);
        assert_eq!(keys(&mut table), [b"a".to_vec(), b"aa".to_vec(), b"b".to_vec()]);
    }

    #[test]
    fn memory_is_given_back_as_records_go() {
        let hasher = KeyHasher::new(7);
        let mut table = Table::default();
        let records: Vec<_> = (0..1_000).map(|seq| record(seq, &format!("key{seq}"), Effect::Delete)).collect();
        records.iter().for_each(|record| _ = table.insert(&hasher, record.clone()));
        let full = table.group_bytes();
        for (gone, record) in records.iter().enumerate() {
            table.remove(&hasher, record);
            assert!(records.iter().skip(gone + 1).step_by(50).all(|left| table.get(&hasher, left.key()).is_some()));
            let left = records.len() - gone - 1;
            assert!(table.group_bytes() <= full / 2 || left > records.len() / 10, "{left} are left");
        }
        assert_eq!(table.group_bytes(), 0);
        table.insert(&hasher, record(1, "a", Effect::Put(b"v")));
        assert_eq!(table.group_bytes(), size_of::<Group>());
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
        table.remove(&hasher, &tombstone);
        assert_eq!(table.keys(), 2, "the key was written since");
        let tombstone = record(6, "a", Effect::Delete);
        table.insert(&hasher, tombstone.clone());
        table.remove(&hasher, &tombstone);
        assert_eq!((table.keys(), table.records().count()), (1, 1));
    }
}
