//! Copies that are not in sync, or not any more, and what they keep others waiting for.

use std::time::Duration;

use engine::coordinator::JoinRequest;
use engine::memory::Evict;
use engine::node::{TICK, Turn};
use proto::level::AckLevel;
use proto::limits;
use proto::peer::{Change, Modify};
use proto::session::NodeMessage;
use proto::slot::SlotId;

use crate::world::{COORDINATOR, World, addr_of};

/// A key of a slot.
fn key_of(slot: u16) -> String {
    (0..).map(|number| format!("key{number}")).find(|key| World::slot_of(key).0 == slot).expect("there is one")
}

/// The members of slot 0 that are in sync, the primary first.
fn members(world: &World) -> Vec<String> {
    let map = world.coordinator.known_map();
    map.slots().next().expect("a slot").1.isr.iter().map(|member| world.name(*member)).collect()
}

fn put(world: &mut World, at: &str, key: &str, value: &str) -> String {
    world.write(at, key, Change::Put(value.as_bytes()), AckLevel::Quorum)
}

/// A cluster, and a key of slot 0: A is in sync alone there, and counts on the coordinator, and B once was.
fn led_by_a_alone() -> (World, String) {
    let mut world = World::new();
    ["A", "B", "C"].iter().for_each(|name| world.boot(name));
    world.run(Duration::from_secs(3));
    let key = key_of(0);
    assert_eq!(put(&mut world, "A", &key, "old"), "OK, durable");
    world.crash("C", None);
    world.run(Duration::from_secs(1));
    world.cut("A", "B");
    world.run(Duration::from_secs(2));
    assert_eq!(members(&world), ["A"]);
    (world, key)
}

#[test]
fn a_primary_counts_on_whom_it_has_proposed_although_the_settings_of_the_cluster_change() {
    let mut world = World::new();
    ["A", "B", "C"].iter().for_each(|name| world.boot(name));
    world.run(Duration::from_secs(3));
    let key = key_of(0);
    let [primary, member, learner] = members(&world).try_into().expect("three members");
    assert_eq!(put(&mut world, &primary, &key, "old"), "OK, durable");
    world.crash(&learner, None);
    world.run(Duration::from_millis(1_500));
    world.boot(&learner);
    // The coordinator stops before it has admitted the learner again, and is started with another default level.
    world.stop_coordinator();
    world.wants.ack = AckLevel::Quorum;
    world.cut(&member, COORDINATOR);
    world.cut(&learner, COORDINATOR);
    world.start_coordinator(true);
    let mut proposed = Vec::new();
    while proposed.is_empty() {
        world.now = world.now + TICK;
        world.member(&primary).node.handle_timeout(world.now, &mut Turn::default());
        proposed = world.member(&primary).node.take_proposals();
        if proposed.is_empty() {
            world.run(TICK);
        }
    }
    // The proposal is under way when the new settings arrive, and the learner is far away.
    world.cut(&primary, &learner);
    world.cut(&learner, &primary);
    world.cuts.retain(|(_, to)| to != COORDINATOR);
    world.settle();
    assert_ne!(put(&mut world, &primary, &key, "new"), "OK, durable", "the learner may be admitted without it");
    let me = world.member(&primary).incarnation.expect("it has joined");
    for message in proposed {
        world.coordinator.handle_message(world.now, me, message);
    }
    world.run(Duration::from_millis(200));
    assert!(members(&world).contains(&learner), "it was admitted");
}

#[test]
fn a_shorter_timeout_gives_no_slot_away_whose_primary_counts_on_the_longer_one() {
    let (mut world, key) = led_by_a_alone();
    world.stop_coordinator();
    world.cut("A", COORDINATOR);
    world.cut("A", "C");
    world.wants.heartbeat_timeout = Duration::from_secs(2);
    world.start_coordinator(true);
    world.boot("C");
    let mut is_led_by_b = false;
    for _ in 0..100 {
        world.run(Duration::from_millis(200));
        is_led_by_b |= put(&mut world, "B", &key, "new") == "OK, durable";
        let read = world.read_linear("A", &key);
        assert!(!(is_led_by_b && read.contains("old")), "A reads {read} after B has written");
    }
    assert!(is_led_by_b, "nobody leads the slot");
}

#[test]
fn with_fewer_replicas_a_primary_does_not_do_without_a_former_member_that_may_still_lead() {
    let (mut world, key) = led_by_a_alone();
    world.stop_coordinator();
    world.wants.replicas = 0;
    world.start_coordinator(true);
    world.run(Duration::from_millis(60));
    // A is suspected when the coordinator has waited for C long enough and goes on; it hears of the new settings all the same.
    world.cut("A", COORDINATOR);
    let known = world.member("A").node.map().expect("it has joined").version;
    world.run(Duration::from_secs(2));
    let update = world.coordinator.map().update_since(known);
    assert_eq!(update.cluster_settings.replicas, 0);
    let node = &world.member("A").node;
    node.handle_map(world.now, &update, &mut Turn::default()).expect("it is of this cluster");
    node.coordinator_answered(world.now);
    let said = put(&mut world, "A", &key, "new");
    assert!(said.starts_with("refused"), "B may lead without it: {said}");
    world.run(Duration::from_secs(20));
    assert_eq!(members(&world), ["B"], "it has all that was ever promised");
    assert_eq!(put(&mut world, "B", &key, "newer"), "OK");
}

/// Also where one copy is all that there should be.
#[test]
fn a_name_is_not_given_away_whose_node_serves_alone() {
    let mut world = World::new();
    world.wants.replicas = 0;
    world.start_coordinator(false);
    ["A", "B", "C"].iter().for_each(|name| world.boot(name));
    world.run(Duration::from_secs(3));
    let [primary] = members(&world).try_into().expect("one member");
    let key = key_of(0);
    assert_eq!(put(&mut world, &primary, &key, "old"), "OK");
    let cut_off = world.member(&primary).incarnation.expect("it has joined");
    world.cut(&primary, COORDINATOR);
    world.coordinator.session_ended(world.now, cut_off);
    world.run(Duration::from_secs(1));
    let unregistered = world.coordinator.unregister(world.now, &addr_of(&primary));
    assert!(unregistered.is_err(), "it may serve on");
    let joins = |world: &mut World| {
        let joined = world.coordinator.join(world.now, JoinRequest::new(addr_of(&primary))).ok()?.incarnation;
        Some(world.coordinator.handle_message(world.now, joined, NodeMessage::Heartbeat { incarnation: joined }))
    };
    while joins(&mut world) != Some(true) {
        world.run(Duration::from_millis(200));
    }
    assert_ne!(world.read_linear(&primary, &key), "old", "another start has its name, and the slot starts anew");
}

#[test]
fn a_name_is_not_given_away_whose_node_counts_on_an_answer_it_has_had() {
    let (mut world, key) = led_by_a_alone();
    // A is cut off, and its session ends. A start without its data wants its name.
    let cut_off = world.member("A").incarnation.expect("it has joined");
    world.cut("A", COORDINATOR);
    world.coordinator.session_ended(world.now, cut_off);
    let joins = |world: &mut World| {
        let now = world.now;
        let joined = world.coordinator.join(now, JoinRequest::new(addr_of("A"))).ok()?.incarnation;
        Some(world.coordinator.handle_message(now, joined, NodeMessage::Heartbeat { incarnation: joined }))
    };
    let mut refused = 0;
    while joins(&mut world) != Some(true) {
        refused += 1;
        world.run(Duration::from_millis(200));
        let is_led_by_b = put(&mut world, "B", &key, "new") == "OK, durable";
        assert!(!(is_led_by_b && world.read_linear("A", &key) == "old"), "A reads a value that B has replaced");
    }
    assert!((40..60).contains(&refused), "the name was free after {refused} times 200 ms");
    assert_ne!(world.read_linear("A", &key), "old", "who is cut off serves no more");
}

/// A cluster of one node, A, that wants no replicas.
fn without_replicas() -> World {
    let mut world = World::new();
    world.stop_coordinator();
    world.wants.replicas = 0;
    world.start_coordinator(false);
    world.boot("A");
    world.run(Duration::from_secs(3));
    world
}

#[test]
fn a_lone_copy_does_not_wait_for_one_that_does_not_count() {
    let mut world = without_replicas();
    world.cut("A", "B");
    world.boot("B");
    world.run(Duration::from_secs(2));
    for slot in 0..4 {
        let key = key_of(slot);
        assert_eq!(put(&mut world, "A", &key, "v"), "OK");
        assert_eq!(world.read_linear("A", &key), "v");
    }
    assert!(world.coordinator.known_map().slots().any(|(_, config)| !config.learners.is_empty()), "B is to be filled");
}

/// The primary could still have to cut the delete away, and bring back what it has replaced.
#[test]
fn no_tombstone_is_purged_that_all_copies_have_but_that_is_not_durable() {
    let (mut world, key) = led_by_a_alone();
    world.stop_coordinator();
    // B is filled, but the coordinator does not admit it, and a majority it needs.
    world.heal();
    world.run(Duration::from_millis(500));
    assert_eq!(world.write("A", &key, Change::Delete, AckLevel::Async), "OK");
    assert_eq!(world.read("B", &key, true), Some(None), "B has it too");
    let marks = |world: &World| {
        world.member("A").node.inspect(SlotId(0), |slot| (slot.durable(), slot.log().purged(), slot.last().seq))
    };
    let (durable, purged, last) = marks(&world);
    assert!(purged <= durable && durable < last, "purged {purged}, durable {durable} of {last}");
    world.start_coordinator(true);
    world.run(Duration::from_secs(3));
    let (_, purged, _) = marks(&world);
    assert!(purged >= last, "it is purged once it is durable");
}

#[test]
fn a_dead_replica_that_was_full_does_not_refuse_writes() {
    let mut world = World::new();
    world.boot("A");
    world.memory = (10_000, Evict::None);
    world.boot("B");
    world.memory = (0, Evict::None);
    world.boot("C");
    world.run(Duration::from_secs(3));
    world.crash("C", None);
    world.run(Duration::from_secs(2));
    let leads = |world: &World, key: &str| {
        let primary = world.coordinator.known_map().config(World::slot_of(key)).primary;
        primary.is_some_and(|primary| world.name(primary) == "A")
    };
    let keys: Vec<_> = (0..1_000).map(|number| format!("key{number}")).filter(|key| leads(&world, key)).collect();
    let value = "v".repeat(400);
    keys[..60].iter().for_each(|key| drop(put(&mut world, "A", key, &value)));
    world.run(Duration::from_millis(300));
    assert!(put(&mut world, "A", &keys[100], &value).starts_with("refused: ReplicaFull"));
    world.crash("B", None);
    world.run(Duration::from_secs(2));
    assert_eq!(world.write("A", &keys[101], Change::Put(value.as_bytes()), AckLevel::Async), "OK");
}

#[test]
fn a_cache_goes_on_while_a_copy_is_not_caught_up() {
    let mut world = World::new();
    world.memory = (200_000, Evict::Lru);
    ["A", "B", "C"].iter().for_each(|name| world.boot(name));
    world.run(Duration::from_secs(3));
    let key_is_led = |world: &World, key: &str| {
        let primary = world.coordinator.known_map().config(World::slot_of(key)).primary;
        primary.is_some_and(|primary| world.name(primary) == "A")
    };
    // C does not hear A, B does, and all reach the coordinator.
    world.cut("A", "C");
    world.run(Duration::from_secs(3));
    let keys: Vec<_> = (0..40_000).map(|number| format!("key{number}")).filter(|key| key_is_led(&world, key)).collect();
    let value = "v".repeat(100);
    for (number, key) in keys.iter().take(8_000).enumerate() {
        assert_eq!(put(&mut world, "A", key, &value), "OK, durable", "write {number}");
        if number % 20 == 0 {
            world.run(Duration::from_millis(20));
        }
    }
    assert!(world.member("A").node.keys() > 500, "{} keys are left", world.member("A").node.keys());
}

#[test]
fn replicas_stay_in_sync_while_the_longest_values_are_on_their_way() {
    let mut world = World::new();
    ["A", "B", "C"].iter().for_each(|name| world.boot(name));
    world.run(Duration::from_secs(3));
    let key = key_of(0);
    let primary = members(&world).swap_remove(0);
    let longest = vec![b'v'; limits::VALUE_BYTES];
    for value in [&longest, &b"short".to_vec(), &longest, &longest, &b"short".to_vec()] {
        world.write_unsettled(&primary, &key, Change::Put(value)).expect("it is led here");
    }
    world.run(Duration::from_millis(100));
    assert_eq!(members(&world).len(), 3);
    assert!(!world.log.iter().any(|event| event.contains("Overflowed")), "{:?}", world.log);
    let copies = world.names();
    assert!(copies.iter().all(|copy| world.read(copy, &key, true) == Some(Some("short".to_owned()))));
}

#[test]
fn what_a_node_wrote_alone_is_known_to_be_durable_by_those_that_came_later() {
    let mut world = World::new();
    world.boot("A");
    world.run(Duration::from_secs(3));
    let slots = || (0..4).map(SlotId);
    for slot in slots() {
        world.write("A", &key_of(slot.0), Change::Put(b"v"), AckLevel::Async);
    }
    let durable = |world: &World, name: &str| {
        slots().map(|slot| world.member(name).node.inspect(slot, |slot| slot.durable())).collect::<Vec<_>>()
    };
    assert_eq!(durable(&world, "A"), [0; 4], "no other copy is in sync");
    for name in ["B", "C"] {
        world.boot(name);
        world.run(Duration::from_secs(10));
    }
    for name in ["A", "B", "C"] {
        let durable = durable(&world, name);
        assert!(durable.iter().all(|seq| *seq > 0), "{name}: {durable:?}");
    }
}

#[test]
fn a_node_without_replicas_notices_every_deadline() {
    let mut world = without_replicas();
    let [put, from, to] = [(0, 0), (1, 0), (1, 1)].map(|(slot, nth)| {
        let keys = (0..).map(|number| format!("key{number}"));
        keys.filter(|key| World::slot_of(key).0 == slot).nth(nth).expect("there are many")
    });
    for key in [&put, &from] {
        assert_eq!(world.write("A", key, Change::PutFor(b"v", 2_000), AckLevel::Quorum), "OK");
    }
    // One record, which writes two keys.
    let rename = Modify::Rename { to: to.as_bytes(), if_absent: false };
    assert_eq!(world.write("A", &from, Change::Modify(rename), AckLevel::Quorum), "OK");
    let expiring = |world: &World| [0, 1].map(|slot| world.member("A").node.inspect(SlotId(slot), |it| it.expiring()));
    assert_eq!(expiring(&world), [1, 1]);
    world.run(Duration::from_secs(3));
    assert_eq!(expiring(&world), [0, 0], "nobody has read the keys");
}
