//! Memory: that the count is exact whatever happens to the tables, and what a node does at its limit.

use std::time::Duration;

use engine::memory::{Evict, Usage};
use engine::node::TICK;
use engine::record::Record;
use engine::slot::Slot;
use proto::id::Version;
use proto::level::AckLevel;
use proto::peer::{Change, Identity, Write};

use crate::world::{World, addr_of};

/// A linear congruential generator (Knuth, MMIX) is random enough here.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn cluster(limit: u64, evict: Evict) -> World {
    let mut world = World::new();
    world.memory = (limit, evict);
    ["A", "B", "C"].iter().for_each(|name| world.start(name));
    world.run(Duration::from_secs(3));
    world
}

/// The primary of a key's slot; A if there is none.
fn leader(world: &World, key: &str) -> String {
    let primary = world.coordinator.map().config(World::slot_of(key)).primary;
    primary.map_or("A".to_owned(), |primary| world.name(primary))
}

fn put(world: &mut World, key: &str, bytes: usize) -> String {
    let at = leader(world, key);
    world.write(&at, key, Change::Put(&vec![b'v'; bytes]), AckLevel::Quorum)
}

fn delete(world: &mut World, key: &str) -> String {
    let at = leader(world, key);
    world.write(&at, key, Change::Delete, AckLevel::Quorum)
}

fn get(world: &World, key: &str) -> Option<String> {
    world.read(&leader(world, key), key, false).expect("the primary leads")
}

fn count_is_exact(world: &World) {
    for name in world.names() {
        let node = &world.member(&name).node;
        assert_eq!(node.memory().usage(), node.recount_memory(), "{name}");
    }
}

fn used(world: &World, name: &str) -> u64 {
    world.member(name).node.memory_figures().used
}

#[test]
fn what_is_counted_is_what_is_there_after_whatever_has_happened() {
    for (seed, limit, evict) in [(1, 0, Evict::None), (2, 20_000, Evict::None), (3, 20_000, Evict::Lru)] {
        let mut numbers = Numbers(seed);
        let mut world = cluster(limit, evict);
        let mut seen = Usage::default();
        for _ in 0..1_500 {
            let (key, size) = (format!("key{}", numbers.below(150)), numbers.below(400) as usize);
            let name = ["A", "B", "C"][numbers.below(3) as usize];
            let value = vec![b'v'; size];
            match numbers.below(100) {
                0 => world.kill(name),
                1 => world.start(name),
                2 => world.crash(name, None),
                3 => world.boot(name),
                4 => world.cut(name, if name == "A" { "B" } else { "A" }),
                5 => {
                    world.cuts.clear();
                    world.settle();
                }
                6..12 => world.run(Duration::from_millis(100 * numbers.below(20))),
                12..15 => _ = world.list(name, numbers.below(4) as u16, Some(3), "copy"),
                15..30 => _ = delete(&mut world, &key),
                30..40 => _ = world.write(name, &key, Change::PutFor(&value, 500), AckLevel::Async),
                _ => _ = world.write(name, &key, Change::Put(&value), AckLevel::Async),
            }
            count_is_exact(&world);
            let usage = world.member(name).node.memory().usage();
            seen = Usage { bytes: seen.bytes.max(usage.bytes), tombstones: seen.tombstones.max(usage.tombstones) };
        }
        assert!(seen.bytes > 5_000 && seen.tombstones > 0, "{seen:?}");
        ["A", "B", "C"].iter().for_each(|name| world.member(name).node.give_everything_up());
        assert!(world.names().iter().all(|name| used(&world, name) == 0));
    }
}

#[test]
fn at_the_limit_what_needs_more_is_refused_and_all_else_goes_on() {
    let mut world = cluster(20_000, Evict::None);
    let mut stored = Vec::new();
    let refused = loop {
        let key = format!("key{}", stored.len());
        match put(&mut world, &key, 400).as_str() {
            "OK, durable" => stored.push(key),
            refused => break (key, refused.to_owned()),
        }
    };
    assert!(refused.1.starts_with("refused: Full { lacks: "), "{refused:?}");
    assert!(stored.len() > 30 && used(&world, "A") <= 20_000, "{} keys, {} bytes", stored.len(), used(&world, "A"));
    assert_eq!(get(&world, &refused.0), None, "nothing was changed");
    let at = leader(&world, &refused.0);
    assert_eq!(world.member(&at).node.memory_figures().refused, 1);

    assert_eq!(get(&world, &stored[0]).map(|value| value.len()), Some(400), "reads go on");
    assert_eq!(put(&mut world, &stored[0], 400), "OK, durable", "what takes no more is taken");
    assert_eq!(put(&mut world, &stored[0], 10), "OK, durable", "what takes less is taken");
    let at = leader(&world, &stored[1]);
    for change in [Change::Expire(60_000), Change::Persist] {
        assert_eq!(world.write(&at, &stored[1], change, AckLevel::Quorum), "OK, durable");
    }
    assert_eq!(world.write_if_absent(&at, &stored[1], "taken"), "declined", "a condition is looked at first");
    for key in &stored[2..6] {
        assert_eq!(delete(&mut world, key), "OK, durable");
    }
    world.run(Duration::from_secs(1));
    assert_eq!(put(&mut world, &refused.0, 400), "OK, durable", "there is room again");
}

#[test]
fn where_a_replica_is_over_its_limit_its_primaries_refuse_until_it_has_room() {
    let mut world = World::new();
    ["A", "B"].iter().for_each(|name| world.start(name));
    world.memory = (10_000, Evict::None);
    world.start("C");
    world.run(Duration::from_secs(3));
    let keys: Vec<_> = (0..1_000).map(|n| format!("key{n}")).filter(|key| leader(&world, key) != "C").collect();
    // A replica accepts what arrives before its primary knows that it is over its limit.
    for key in &keys[..60] {
        assert_eq!(put(&mut world, key, 400), "OK, durable");
    }
    assert!(used(&world, "C") > 10_000);
    world.run(Duration::from_millis(200));
    let refused = put(&mut world, &keys[100], 400);
    assert!(refused.starts_with("refused: ReplicaFull"), "{refused}");
    let at = leader(&world, &keys[100]);
    let short = |world: &World, later| world.member(&at).node.short_of_memory(world.now + Duration::from_secs(later));
    let lacks_memory = world.member("C").node.incarnation();
    assert_eq!(short(&world, 0), [lacks_memory], "the replica, not whoever refuses for it");
    assert_eq!(short(&world, 61), [], "nothing was refused for a while");
    assert_eq!(put(&mut world, &keys[0], 400), "OK, durable", "what takes no more is taken");
    for key in &keys[..60] {
        assert_eq!(delete(&mut world, key), "OK, durable");
    }
    world.run(Duration::from_millis(200));
    assert_eq!(put(&mut world, &keys[100], 400), "OK, durable");
    count_is_exact(&world);
}

#[test]
fn the_least_recently_used_keys_go_and_stay_gone_on_every_copy() {
    let mut world = cluster(60_000, Evict::Lru);
    for name in ["A", "B", "C"] {
        world.kill(name);
        world.boot(name);
    }
    // The name of the last one is free once it cannot serve any longer.
    world.run(Duration::from_secs(12));
    let hot: Vec<_> = (0..20).map(|n| format!("hot{n}")).collect();
    for key in &hot {
        assert_eq!(put(&mut world, key, 200), "OK, durable");
    }
    for n in 0..1_000 {
        assert_eq!(put(&mut world, &format!("cold{n}"), 200), "OK, durable");
        if n % 10 == 0 {
            hot.iter().for_each(|key| _ = get(&world, key));
            world.run(Duration::from_millis(20));
        }
    }
    world.run(Duration::from_secs(1));
    let evicted: u64 = ["A", "B", "C"].iter().map(|name| world.member(name).node.memory_figures().evicted).sum();
    assert!(evicted >= 700, "{evicted}");
    let cold: Vec<_> = (0..1_000).map(|n| format!("cold{n}")).filter(|key| get(&world, key).is_none()).collect();
    assert!(cold.len() >= 700, "{}", cold.len());
    let kept = hot.iter().filter(|key| get(&world, key).is_some()).count();
    assert!(kept >= 19, "of 20 keys that are read all the time {kept} are left");
    for name in world.names() {
        let (used, keys) = (used(&world, &name), world.member(&name).node.keys());
        assert!(used <= 61_000 && keys >= 100, "{name}: {used} bytes, {keys} keys");
        assert!(cold.iter().all(|key| world.read(&name, key, true) == Some(None)), "{name} has what was evicted");
        assert_eq!(world.member(&name).node.losses(engine::losses::Losses::count), 0);
    }

    for name in ["A", "B", "C"] {
        world.crash(name, None);
        world.run(Duration::from_secs(2));
        assert!(cold.iter().all(|key| get(&world, key).is_none()), "it is back at the failover of {name}");
        world.boot(name);
        world.run(Duration::from_secs(2));
        assert!(cold.iter().all(|key| get(&world, key).is_none()), "it is back at the restart of {name}");
    }
    count_is_exact(&world);
}

#[test]
fn a_replica_over_its_limit_has_its_primaries_evict() {
    let mut world = World::new();
    world.memory = (1_000_000, Evict::Lru);
    ["A", "B"].iter().for_each(|name| world.start(name));
    world.memory = (20_000, Evict::Lru);
    world.start("C");
    world.run(Duration::from_secs(3));
    for n in 0..400 {
        assert_eq!(put(&mut world, &format!("key{n}"), 200), "OK, durable");
        world.run(Duration::from_millis(100));
    }
    world.run(Duration::from_secs(1));
    assert!(used(&world, "C") <= 21_000, "{}", used(&world, "C"));
    let keys = ["A", "B", "C"].map(|name| world.member(name).node.keys());
    assert!(keys.iter().all(|count| *count == keys[0] && *count >= 30), "{keys:?}");
}

#[test]
fn a_node_far_over_its_limit_evicts_what_it_leads_and_takes_writes_meanwhile() {
    let mut world = cluster(100_000_000, Evict::Lru);
    for n in 0..100_000 {
        assert_eq!(put(&mut world, &format!("key{n}"), 20), "OK, durable");
        if n % 1_000 == 0 {
            world.run(Duration::from_millis(20));
        }
    }
    // After a second it leads a part of the slots again. What the others lead is not evicted yet.
    world.memory = (300_000, Evict::Lru);
    world.crash("B", None);
    world.boot("B");
    for n in 0..40 {
        world.run(Duration::from_millis(100));
        let answer = put(&mut world, &format!("new{n}"), 20);
        assert_eq!(answer, "OK, durable", "{n}: {} bytes in use", used(&world, "B"));
    }
    assert!(used(&world, "B") <= 310_000, "{}", used(&world, "B"));
    let evicted = ["A", "B", "C"].map(|name| world.member(name).node.memory_figures().evicted);
    assert!(evicted.iter().all(|count| *count > 0), "{evicted:?}");
    assert!(world.member("B").node.keys() >= 2_500, "{} keys are left", world.member("B").node.keys());
    count_is_exact(&world);
}

#[test]
fn a_long_value_takes_the_place_of_many_short_ones_or_of_none() {
    let mut world = cluster(4_000_000, Evict::Lru);
    for number in 0..20_000 {
        assert_eq!(put(&mut world, &format!("key{number}"), 150), "OK, durable", "{number}");
        if number % 100 == 0 {
            world.run(Duration::from_millis(20));
        }
    }
    world.run(Duration::from_secs(1));
    let at = leader(&world, "long");
    let before = world.member(&at).node.keys();
    let too_long = put(&mut world, "long", 3_000_000);
    assert!(too_long.starts_with("refused: Full"), "its primary leads too few keys: {too_long}");
    assert_eq!(world.member(&at).node.keys(), before, "nothing is evicted in vain");
    let accepted = put(&mut world, "long", 900_000);
    assert_eq!(accepted, "OK, durable", "of {before} keys {} are left", world.member(&at).node.keys());
    world.run(Duration::from_secs(2));
    count_is_exact(&world);
    let used = used(&world, &at);
    assert!(used <= 4_000_000, "{used} bytes are in use");
}

#[test]
fn a_value_for_which_there_is_never_room_evicts_nothing() {
    let mut world = cluster(20_000, Evict::Lru);
    assert_eq!(put(&mut world, "small", 200), "OK, durable");
    let refused = put(&mut world, "huge", 100_000);
    assert!(refused.starts_with("refused: Full"), "{refused}");
    assert_eq!(get(&world, "small").map(|value| value.len()), Some(200));
}

/// What a lone node has deleted or evicted does not take the place of what it stores.
#[test]
fn a_node_without_any_other_copy_keeps_no_tombstones() {
    let mut world = lone(200_000, Evict::Lru);
    let write = |world: &mut World, key: &str, change| world.write("A", key, change, AckLevel::Async);
    for number in 0..1_000 {
        let key = format!("session{number}");
        assert_eq!(write(&mut world, &key, Change::Put(b"v")), "OK");
        write(&mut world, &key, Change::Delete);
    }
    world.run(Duration::from_secs(1));
    let empty = used(&world, "A");
    assert!(empty < 10_000, "{empty} bytes for no key");
    for number in 0..10_000 {
        let said = write(&mut world, &format!("cache{number}"), Change::Put(&[b'v'; 60]));
        assert_eq!(said, "OK", "key {number}");
        if number % 1_000 == 0 {
            world.run(TICK);
        }
    }
    assert!(world.member("A").node.keys() > 1_000);
    count_is_exact(&world);
}

/// A cluster of one node.
fn lone(limit: u64, evict: Evict) -> World {
    let mut world = World::new();
    world.memory = (limit, evict);
    world.start("A");
    world.run(Duration::from_secs(3));
    world
}

/// The record of a key on a node.
fn record_at(world: &World, name: &str, key: &str) -> Record {
    let found = |slot: &Slot| slot.records().find(|record| record.key() == key.as_bytes()).cloned();
    world.member(name).node.inspect(World::slot_of(key), found).expect("the key was written")
}

/// Where that record lies.
fn place_of(world: &World, name: &str, key: &str) -> usize {
    record_at(world, name, key).key().as_ptr().addr()
}

#[test]
fn a_value_takes_the_place_of_one_as_long_unless_another_copy_or_a_reader_needs_that() {
    let mut world = World::new();
    world.boot("A");
    world.run(Duration::from_secs(3));
    let key = "key";
    let last = |world: &World| world.member("A").node.inspect(World::slot_of(key), Slot::last);
    let write = |world: &mut World, change, is_read: bool, in_place: bool| {
        let (before, last_before, record) = (place_of(world, "A", key), last(world), record_at(world, "A", key));
        let (version, effect) = (record.version(), format!("{:?}", record.effect()));
        let held = is_read.then_some(record);
        assert_eq!(world.write("A", key, change, AckLevel::Async), "OK");
        assert_eq!(place_of(world, "A", key) == before, in_place, "{effect} became {change:?}");
        assert_eq!(last(world), Version { seq: last_before.seq + 1, ..last_before });
        assert_eq!(record_at(world, "A", key).version(), last(world));
        if let Some(held) = held {
            assert_eq!((held.version(), format!("{:?}", held.effect())), (version, effect), "it is being read");
        }
        count_is_exact(world);
    };
    assert_eq!(world.write("A", key, Change::Put(b"12"), AckLevel::Async), "OK");
    write(&mut world, Change::Put(b"34"), false, true);
    write(&mut world, Change::Put(b"56"), true, false);
    write(&mut world, Change::Put(b"7"), false, false);
    write(&mut world, Change::PutFor(b"8", 60_000), false, false);
    write(&mut world, Change::Put(b"123456789"), false, false);
    write(&mut world, Change::Put(b"987654321"), false, true);
    // What is on disk is what was written last.
    world.crash("A", None);
    world.boot("A");
    world.run(Duration::from_secs(3));
    assert_eq!(get(&world, key).as_deref(), Some("987654321"));
    write(&mut world, Change::Put(b"111111111"), false, true);
    for name in ["B", "C"] {
        world.boot(name);
        world.run(Duration::from_secs(10));
        assert_eq!(world.read(name, key, true), Some(Some("111111111".to_owned())));
    }
    // From now on it may have to be restored.
    let at = leader(&world, key);
    let before = place_of(&world, &at, key);
    assert_eq!(put(&mut world, key, 9), "OK, durable");
    assert_ne!(place_of(&world, &at, key), before);
    count_is_exact(&world);
}

#[test]
fn what_is_written_in_place_is_remembered_if_its_client_said_who_it_is() {
    let mut world = lone(0, Evict::None);
    let put = |world: &mut World, value: &[u8], identity| {
        world.carry_out("A", &Write { ack: AckLevel::Async, identity, ..Write::new(b"key", Change::Put(value)) })
    };
    let once = Some(Identity { client: b"me", seq: 1 });
    for (value, identity) in [(b"12", None), (b"34", once), (b"56", None), (b"34", once)] {
        assert_eq!(put(&mut world, value, identity), "OK");
    }
    assert_eq!(get(&world, "key").as_deref(), Some("56"), "the last write was carried out before");
}

#[test]
fn a_condition_is_looked_at_before_anything_is_written_in_place() {
    let mut world = lone(0, Evict::None);
    assert_eq!(world.write("A", "key", Change::Put(b"12"), AckLevel::Async), "OK");
    let other = record_at(&world, "A", "key").version();
    assert_eq!(world.write("A", "key", Change::Put(b"34"), AckLevel::Async), "OK");
    for expected in [other, Version::NONE] {
        let put = Write::new(b"key", Change::Put(b"56"));
        assert_eq!(world.carry_out("A", &Write { expected: Some(expected), ..put }), "declined");
    }
    assert_eq!(get(&world, "key").as_deref(), Some("34"));
}

#[test]
fn what_is_written_in_place_again_and_again_is_in_use() {
    let mut world = lone(200_000, Evict::Lru);
    let use_it = |world: &mut World| world.write("A", "hot", Change::Put(&[b'h'; 60]), AckLevel::Async);
    assert_eq!(use_it(&mut world), "OK");
    for number in 0..20_000 {
        if number % 20 == 0 {
            // A read would count as a use, too.
            let is_there = |slot: &Slot| slot.records().any(|record| record.key() == b"hot" && !record.is_delete());
            let is_there = world.member("A").node.inspect(World::slot_of("hot"), is_there);
            assert!(is_there, "evicted before key {number}");
            assert_eq!(use_it(&mut world), "OK");
        }
        assert_eq!(world.write("A", &format!("cache{number}"), Change::Put(&[b'v'; 60]), AckLevel::Async), "OK");
        if number % 1_000 == 0 {
            world.run(TICK);
        }
    }
    count_is_exact(&world);
}

/// What is written in place is missing in the tail, so what the tail holds must not be sent any more.
#[test]
fn a_copy_that_comes_back_does_not_miss_what_was_written_in_place() {
    let mut world = World::new();
    for name in ["A", "B", "C"] {
        world.boot(name);
    }
    world.run(Duration::from_secs(3));
    let keys = |slot| (0..).map(|number| format!("key{number}")).filter(move |key| World::slot_of(key).0 == slot);
    let [first, second]: [String; 2] = std::array::from_fn(|nth| keys(0).nth(nth).expect("there are many"));
    let at = leader(&world, &first);
    let others: Vec<String> = world.names().into_iter().filter(|name| *name != at).collect();
    assert_eq!((put(&mut world, &first, 3), put(&mut world, &second, 3)), ("OK, durable".into(), "OK, durable".into()));
    world.run(Duration::from_secs(3));
    // What the one that is away lacks is kept in the tail.
    world.crash(&others[0], None);
    world.run(Duration::from_secs(2));
    assert_eq!(put(&mut world, &first, 3), "OK, durable");
    world.crash(&others[1], None);
    assert_eq!(world.write(&at, &first, Change::Put(b"new"), AckLevel::Async), "OK");
    world.run(Duration::from_secs(2));
    for name in &others {
        world.coordinator.unregister(world.now, &addr_of(name)).expect("it is down");
    }
    world.run(Duration::from_secs(1));
    let before = place_of(&world, &at, &second);
    assert_eq!(world.write(&at, &second, Change::Put(b"mor"), AckLevel::Async), "OK");
    assert_eq!(place_of(&world, &at, &second), before, "it was written in place");
    for name in &others {
        world.boot(name);
    }
    world.run(Duration::from_secs(5));
    for name in ["A", "B", "C"] {
        let read = |key| world.read(name, key, true).flatten();
        assert_eq!((read(&first).as_deref(), read(&second).as_deref()), (Some("new"), Some("mor")), "{name}");
    }
}
