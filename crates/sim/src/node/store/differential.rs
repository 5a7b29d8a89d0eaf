//! One node on a simulated disk beside a plain map: whatever is asked, and however the node is stopped in between, both
//! give the same answers.
//!
//! The node is alone and always syncs, so each answer is final: nothing that was answered may be missing after any
//! stop, and nothing that was not answered may be there.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::listing::{Listing, PageSize};
use engine::node::{Node, TICK, Turn};
use engine::slot::{Executed, Written};
use engine::time::Timestamp;
use engine::waiting::Waiting;
use engine::walk::Walk;
use proto::cluster_map::{ClusterMap, ClusterSettings, MapVersion, Member, SlotConfig};
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::level::ReadLevel;
use proto::peer::{Change, Modify, WallTime, Write};
use proto::range::{Keys, PageRequest};
use proto::slot::SlotBits;
use seeded::Random;

use super::{Start, Store};
use crate::knobs::Knobs;
use crate::mutants::{AnyBug, Planted};
/// The number of operations.
const OPERATIONS: u64 = 1_000_000;

/// A planted bug must be found within this many operations.
const SEARCHED: u64 = 100_000;

/// The mean number of operations from one stop to the next.
const RUN: u64 = 2_000;

/// The number of keys to choose from.
const KEYS: u64 = 1_500;

/// The maximum number of keys in a page.
const PAGE: usize = 20;

const BITS: SlotBits = SlotBits::new(4);

/// What the wall clock shows at the start, in milliseconds.
const WALL: u64 = 1_700_000_000_000;

/// A key of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    value: Vec<u8>,
    version: Version,
    /// In milliseconds, as the wall clock shows them.
    deadline: Option<u64>,
}

struct Differential {
    random: Random,
    planted: Planted,
    store: Store,
    node: Node<Planted>,
    incarnation: u64,
    /// In microseconds.
    now: u64,
    last_tick: u64,
    turn: Turn,
    model: BTreeMap<Vec<u8>, Kept>,
    writes: u64,
    stops: u64,
    snapshots: u64,
}

impl Differential {
    fn new(seed: u64, planted: Planted) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let mut knobs = Knobs::of(seed);
        (knobs.sync_every, knobs.segment_bytes, knobs.short_writes) = (0, 64 * 1024, 50);
        let store = Store::new(&knobs, planted, random.fork());
        let mut differential = Self {
            random,
            planted,
            store,
            node: Node::new(Timestamp(0), BITS, 1, planted),
            incarnation: 0,
            now: 0,
            last_tick: 0,
            turn: Turn::default(),
            model: BTreeMap::new(),
            writes: 0,
            stops: 0,
            snapshots: 0,
        };
        differential.start()?;
        Ok(differential)
    }

    fn play(&mut self, operations: u64) -> Result<(), String> {
        for number in 0..operations {
            let stop = self.random.below(RUN) == 0;
            let done = if stop { self.stop() } else { self.operate() };
            done.map_err(|wrong| format!("operation {number}, after {} stops: {wrong}", self.stops))?;
        }
        self.stop()
    }

    fn wall(&self) -> u64 {
        WALL + self.now / 1_000
    }

    /// The node starts with what its disk has, and leads all slots.
    fn start(&mut self) -> Result<(), String> {
        let start = Start { now: Timestamp(self.now), bits: BITS, secret: self.random.next(), real: self.now };
        let found = self.store.start(start).map_err(|error| format!("it does not start: {error}"))?;
        if !found.is_proof && self.incarnation > 0 {
            return Err("it has synced always, and its data proves nothing".to_owned());
        }
        self.node = found.node.limited(4_096, 100);
        self.node.set_wall_clock(Timestamp(self.now), WallTime(self.wall()));
        self.incarnation += 1;
        let me = Incarnation(self.incarnation);
        let map = map_of_one(me, self.incarnation);
        self.store.begin(&map, me).map_err(|error| error.to_string())?;
        self.node.joined(me);
        let update = map.update_since(MapVersion(0));
        self.node.handle_map(Timestamp(self.now), &update, &mut self.turn).map_err(|error| error.to_string())?;
        for _ in 0..100 {
            if BITS.slots().all(|slot| self.node.is_serving(Timestamp(self.now), slot)) {
                return self.compare();
            }
            self.pass(TICK.as_micros() as u64);
        }
        Err("it does not lead its slots".to_owned())
    }

    /// Stops the node in a random way, and starts it again.
    fn stop(&mut self) -> Result<(), String> {
        self.stops += 1;
        let way = self.random.below(4);
        if way == 0 {
            if !self.store.close(&self.node) {
                return Err("it cannot stop in order".to_owned());
            }
        } else {
            // Nobody was told of what was not written: it must not come back.
            for _ in 0..self.random.below(3) {
                let key = self.key();
                let write = Write::new(&key, Change::Put(b"untold"));
                self.write(&write)?;
            }
        }
        let power = match way {
            0 | 1 => self.random.chance(500),
            2 => true,
            _ => {
                // The power is cut at a disk call while writes that nobody was told of are being written.
                self.store.cut_power_at(self.random.below(8));
                self.store.write(&self.node, self.now);
                return self.stop_at_call();
            }
        };
        self.store.crash(power);
        self.now += 1_000;
        self.start()
    }

    /// A first part of the last writes, of which nobody was told, may be there.
    fn stop_at_call(&mut self) -> Result<(), String> {
        self.store.crash(true);
        self.now += 1_000;
        self.take_untold();
        self.start()
    }

    /// Adopts into the model what the disk has of writes that nobody was told of.
    fn take_untold(&mut self) {
        let start = Start { now: Timestamp(self.now), bits: BITS, secret: 1, real: self.now };
        let Ok(found) = self.store.look(start) else { return };
        for slot in BITS.slots() {
            found.node.inspect(slot, |state| {
                for record in state.records().filter(|record| record.value() == Some(b"untold")) {
                    let (value, version) = (b"untold".to_vec(), record.version());
                    self.model.insert(record.key().to_vec(), Kept { value, version, deadline: None });
                }
            });
        }
    }

    /// Time passes, and the node gets its ticks.
    fn pass(&mut self, micros: u64) {
        self.now += micros;
        if self.now - self.last_tick >= TICK.as_micros() as u64 {
            self.last_tick = self.now;
            self.node.set_wall_clock(Timestamp(self.now), WallTime(self.wall()));
            self.node.handle_timeout(Timestamp(self.now), &mut self.turn);
            self.store.write(&self.node, self.now);
            self.snapshots += self.store.tick(&self.node, self.now);
        }
    }

    fn operate(&mut self) -> Result<(), String> {
        let micros = self.random.below(400);
        self.pass(micros);
        let wall = self.wall();
        let key = self.key();
        let found = self.model.get(&key).filter(|kept| kept.deadline.is_none_or(|at| at > wall)).cloned();
        let version = found.as_ref().map_or(Version::NONE, |kept| kept.version);
        self.writes += 1;
        let value = format!("value {}", self.writes).into_bytes();
        let millis = self.random.spread(1, 2_000);
        let (change, expected) = match self.random.below(100) {
            0..30 => (Change::Put(&value), None),
            30..42 => (Change::Delete, None),
            42..54 => (Change::PutFor(&value, millis), None),
            54..58 => (Change::Expire(self.random.below(2) * millis), None),
            58..62 => (Change::Persist, None),
            62..70 => (Change::Put(&value), Some(version)),
            70..74 => (Change::Delete, Some(version)),
            74..76 => (Change::Modify(Modify::Append(&value)), None),
            76..78 => (Change::Put(&value), Some(Version { epoch: version.epoch, seq: version.seq + 1 })),
            78..99 => return self.read(&key, found.map(|kept| kept.value)),
            _ => return self.page(),
        };
        let done = match self.write(&Write { expected, ..Write::new(&key, change) })? {
            Written::Done(version) | Written::Modified(version, _) => Some(version),
            Written::Conflict(_) => None,
        };
        self.store.write(&self.node, self.now);
        if !self.store.is_written(self.node.noted().end()) {
            return Err("it does not write".to_owned());
        }
        let (after, is_done) = modelled(found, change, expected.is_none_or(|it| it == version), wall);
        if is_done != done.is_some() {
            return Err(format!("{change:?} of {}: {done:?}", String::from_utf8_lossy(&key)));
        }
        match after {
            Some(kept) if is_done => {
                self.model.insert(key, Kept { version: done.unwrap_or_default(), ..kept });
            }
            Some(_) => {}
            None => drop(self.model.remove(&key)),
        }
        Ok(())
    }

    fn write(&mut self, write: &Write<'_>) -> Result<Written, String> {
        let slot = self.node.slot_of(write.key);
        let written = self.node.write(Timestamp(self.now), slot, write, &Waiting::new(), &mut self.turn);
        written.map(|Executed { answer, .. }| answer).map_err(|refusal| format!("a write is refused: {refusal:?}"))
    }

    fn key(&mut self) -> Vec<u8> {
        // A few keys are used often.
        let number = self.random.below(KEYS) * self.random.below(KEYS) / KEYS;
        format!("{:03}/{number}", number % 37).into_bytes()
    }

    fn read(&mut self, key: &[u8], expected: Option<Vec<u8>>) -> Result<(), String> {
        let (now, slot) = (Timestamp(self.now), self.node.slot_of(key));
        let value =
            |record: Option<&engine::record::Record>| record.and_then(|record| record.value()).map(<[u8]>::to_vec);
        let level = ReadLevel::Linear;
        let read = self.node.read(slot, key, level, || now, &Waiting::new(), &mut self.turn, value);
        let read = read.map_err(|refusal| format!("a read is refused: {refusal:?}"))?.answer;
        if read != expected {
            return Err(format!("{} is {read:?} and should be {expected:?}", String::from_utf8_lossy(key)));
        }
        Ok(())
    }

    /// One page of the keys with a prefix, or between two keys.
    fn page(&mut self) -> Result<(), String> {
        let (one, other) = (self.key(), self.key());
        let keys = if self.random.chance(500) {
            Keys::Prefix(one.get(..3).unwrap_or_default())
        } else {
            Keys::Between((&one).min(&other), (&one).max(&other))
        };
        let after = self.key();
        let after = self.random.chance(300).then_some(after.as_slice());
        let range = PageRequest { keys, limit: PAGE, after }.range();
        let size = PageSize { keys: PAGE, bytes: usize::MAX };
        let (map, now) = (self.node.map().ok_or("it has no map")?, Timestamp(self.now));
        let mut walk = Walk::new(BITS, ReadLevel::Linear, range.clone(), Some(size), self.planted);
        while !walk.is_whole() {
            for ask in walk.asks(&map, self.node.incarnation(), false) {
                let mut listing = Listing::new(&ask.list, usize::MAX);
                for slot in &ask.list.slots {
                    self.node.list(*slot, &ask.list, || now, &Waiting::new(), &mut self.turn, &mut listing);
                }
                walk.answered(ask.list.id, listing.finish());
            }
        }
        let wall = self.wall();
        let live = self.model.range(range.start.clone()..).filter(|(_, kept)| kept.deadline.is_none_or(|at| at > wall));
        let expected: Vec<_> = live.map(|(key, _)| key).take_while(|key| range.ends_after(key)).take(PAGE).collect();
        let given = walk.into_keys();
        if given.iter().map(|key| &**key).ne(expected.iter().map(|key| key.as_slice())) {
            return Err(format!("the page of {range:?} is {given:?} and should be {expected:?}"));
        }
        Ok(())
    }

    /// Checks that the node has exactly what the model has.
    fn compare(&mut self) -> Result<(), String> {
        let wall = self.wall();
        self.model.retain(|_, kept| kept.deadline.is_none_or(|at| at > wall));
        let mut found = BTreeMap::new();
        for slot in BITS.slots() {
            self.node.inspect(slot, |state| {
                for record in state.records().filter(|record| !record.is_expired(WallTime(wall))) {
                    let Some(value) = record.value() else { continue };
                    let (value, version) = (value.to_vec(), record.version());
                    let deadline = record.deadline().map(|at| at.0);
                    found.insert(record.key().to_vec(), Kept { value, version, deadline });
                }
            });
        }
        if found == self.model {
            return Ok(());
        }
        let differs = |key: &&Vec<u8>| found.get(*key) != self.model.get(*key);
        let key = found.keys().chain(self.model.keys()).find(differs).cloned().unwrap_or_default();
        let (has, should) = (found.get(&key), self.model.get(&key));
        Err(format!("after a start {} is {has:?} and should be {should:?}", String::from_utf8_lossy(&key)))
    }
}

/// What becomes of a key, and whether the write is done. The version is filled in later.
fn modelled(found: Option<Kept>, change: Change<'_>, holds: bool, wall: u64) -> (Option<Kept>, bool) {
    let kept = |value: &[u8], deadline| Some(Kept { value: value.to_vec(), version: Version::NONE, deadline });
    match change {
        Change::Put(_) | Change::PutFor(..) | Change::Delete if !holds => (found, false),
        Change::Put(value) => (kept(value, None), true),
        Change::PutFor(value, millis) => (kept(value, Some(wall + millis)), true),
        Change::Delete => (None, true),
        Change::Expire(millis) => match found {
            Some(_) if millis == 0 => (None, true),
            Some(found) => (Some(Kept { deadline: Some(wall + millis), ..found }), true),
            None => (None, false),
        },
        Change::Persist => match found {
            Some(found) if found.deadline.is_some() => (Some(Kept { deadline: None, ..found }), true),
            found => (found, false),
        },
        Change::Modify(Modify::Append(more)) => match found {
            Some(found) => (Some(Kept { value: [&found.value, more].concat(), ..found }), true),
            None => (kept(more, None), true),
        },
        Change::Modify(_) => (found, false),
    }
}

/// The map by which one node leads all slots, at its start with this number.
fn map_of_one(me: Incarnation, number: u64) -> ClusterMap {
    let mut map = ClusterMap::empty("c".to_owned(), BITS);
    map.cluster_settings = ClusterSettings { replicas: 0, ..ClusterSettings::default() };
    let addr = NodeAddr::new("n", 1).expect("a valid address");
    map.set_members([(me, Member { addr, up: true })].into());
    let config = Arc::new(SlotConfig {
        epoch: Epoch(number),
        version: MapVersion(number),
        primary: Some(me),
        isr: vec![me],
        ..SlotConfig::default()
    });
    BITS.slots().for_each(|slot| map.set_config(slot, Arc::clone(&config)));
    map.version = MapVersion(number);
    map
}

#[test]
fn a_node_gives_the_answers_of_a_plain_map_through_all_restarts() {
    let mut differential = Differential::new(1, Planted(None)).expect("it starts");
    let played = differential.play(OPERATIONS);
    assert_eq!(played, Ok(()));
    assert!(differential.stops > OPERATIONS / RUN / 2 && differential.snapshots > 100, "{} stops", differential.stops);
    assert!(differential.model.len() > 100, "{} keys at the end", differential.model.len());
}

#[test]
fn bugs_make_it_give_others() {
    let found = |bug: AnyBug| {
        let mut differential = Differential::new(1, Planted(Some(bug)))?;
        differential.play(SEARCHED)
    };
    use engine::bugs::Bug::{DeadlineLostOnDisk, ExpireUnchecked, PositionApartFromData};
    use storage::bugs::Bug::{AcknowledgeBeforeSync, NoDirectorySync, SnapshotMissesTail};
    let of_engine = [DeadlineLostOnDisk, ExpireUnchecked, PositionApartFromData].map(AnyBug::from);
    let of_storage = [AcknowledgeBeforeSync, NoDirectorySync, SnapshotMissesTail].map(AnyBug::from);
    for bug in of_engine.into_iter().chain(of_storage) {
        assert!(found(bug).is_err(), "{bug} is not found");
    }
}
