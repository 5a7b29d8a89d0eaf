//! What a primary may do after it has released a slot, and after it has heard that another leads it.

use std::sync::Arc;
use std::time::Duration;

use engine::bugs::NoBugs;
use engine::journal::Replay;
use engine::node::{Node, Turn};
use engine::waiting::{Outcome, Waiting};
use proto::cluster_map::{ClusterMap, MapVersion, Member, SlotConfig};
use proto::id::{Epoch, Incarnation};
use proto::level::AckLevel;
use proto::peer::{Change, Write};
use proto::session::{Ancestors, NodeMessage, SlotAt};
use proto::slot::SlotBits;

use crate::by_hand::{Link, SLOT, at, empty_map, key, lead, nodes, publish, put};

/// The slot as the map has it.
fn slot_at(map: &ClusterMap) -> SlotAt {
    SlotAt { slot: SLOT, version: map.config(SLOT).version }
}

/// The first node leads the slot since the second map, and both others have what it has stored.
fn led_by<'a>(a: &'a Node, b: &'a Node, c: &'a Node) -> (ClusterMap, Waiting, Link<'a>, Link<'a>) {
    let (mut map, waiting) = (empty_map(), Waiting::new());
    publish(at(0), &[a, b, c], &lead(&mut map, SLOT, 2, 1));
    let (mut to_b, mut to_c) = (Link::new(a, b), Link::new(a, c));
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(1)));
    assert_eq!(put(at(2), a, b"old", AckLevel::Async, &waiting), Ok(None));
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(3)));
    (map, waiting, to_b, to_c)
}

/// After it has released the slot, its followers may have heard of another primary, and have told nobody yet.
#[test]
fn a_primary_whose_hand_over_has_timed_out_serves_once_all_have_confirmed_again_that_they_follow_it() {
    let [a, b, c] = nodes();
    let (map, waiting, mut to_b, mut to_c) = led_by(&a, &b, &c);
    a.hand_over(at(4), Incarnation(2), &[slot_at(&map)], &mut Turn::default());
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(4)));
    let released = a.take_proposals();
    assert!(matches!(released[..], [NodeMessage::Release { to: Incarnation(2), .. }]), "{released:?}");
    // Nothing comes of it. Leases are renewed all the time.
    for millis in (100..=1_200).step_by(20) {
        [&mut to_b, &mut to_c].into_iter().for_each(|link| link.only_beat(at(millis)));
        a.handle_timeout(at(millis), &mut Turn::default());
        let refused = put(at(millis), &a, b"new", AckLevel::Async, &waiting);
        assert!(refused.is_err(), "it serves after {millis} ms, and they may follow another");
    }
    to_c.exchange(at(1_201));
    assert!(put(at(1_201), &a, b"new", AckLevel::Async, &waiting).is_err(), "B may lead");
    to_b.exchange(at(1_202));
    let ticket =
        put(at(1_203), &a, b"new", AckLevel::Quorum, &waiting).expect("it leads").expect("it waits for B and C");
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(1_204)));
    assert_eq!(waiting.outcome(ticket), Some(Outcome::Durable));
}

/// As above, but a map that changes something else in the slot lets it go on.
#[test]
fn a_primary_that_has_released_a_slot_and_goes_on_by_a_new_map_asks_all_again_too() {
    let [a, b, c] = nodes();
    let (mut map, waiting, mut to_b, mut to_c) = led_by(&a, &b, &c);
    a.hand_over(at(4), Incarnation(2), &[slot_at(&map)], &mut Turn::default());
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(4)));
    assert!(!a.take_proposals().is_empty());
    publish(at(5), &[&a], &lead(&mut map, SLOT, 2, 1));
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.only_beat(at(6)));
    assert!(put(at(6), &a, b"new", AckLevel::Async, &waiting).is_err(), "they may follow another");
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(7)));
    assert_eq!(put(at(8), &a, b"new", AckLevel::Async, &waiting), Ok(None));
}

/// Whoever the slot was to be handed to has left the map, with all other copies.
#[test]
fn a_primary_that_hands_over_serves_on_once_there_is_nobody_to_hand_over_to() {
    for is_released in [false, true] {
        let [a, b, c] = nodes();
        let (mut map, waiting, mut to_b, mut to_c) = led_by(&a, &b, &c);
        // Without the acknowledgement of this record the slot is only drained.
        assert_eq!(put(at(3), &a, b"new", AckLevel::Async, &waiting), Ok(None));
        a.hand_over(at(4), Incarnation(2), &[slot_at(&map)], &mut Turn::default());
        if is_released {
            [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(4)));
            to_b.exchange(at(4));
        }
        assert_eq!(!a.take_proposals().is_empty(), is_released);
        let mut alone = SlotConfig::clone(map.config(SLOT));
        map.version = MapVersion(map.version.0 + 1);
        (alone.version, alone.isr) = (map.version, vec![Incarnation(1)]);
        map.set_config(SLOT, Arc::new(alone));
        publish(at(5), &[&a], &map.update_since(MapVersion(0)));
        a.coordinator_answered(at(5));
        assert_eq!(put(at(6), &a, b"last", AckLevel::Async, &waiting), Ok(None));
    }
}

#[test]
fn a_node_does_not_lead_by_a_map_of_an_earlier_term_than_it_has_heard_of() {
    let [a, b, c] = nodes();
    let (mut map, waiting, mut to_b, mut to_c) = led_by(&a, &b, &c);
    // A is told of the later maps after the others. Meanwhile B has led, then A without knowing it, and B again.
    let earlier = lead(&mut map, SLOT, 4, 1);
    publish(at(10), &[&b, &c], &lead(&mut map, SLOT, 5, 2));
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(11)));
    assert!(!a.inspect(SLOT, |slot| slot.is_primary()), "B has said that it leads");
    publish(at(20), &[&a], &earlier);
    assert!(!a.inspect(SLOT, |slot| slot.is_primary()), "two would lead in one term");
    let mut from_b = Link::new(&b, &a);
    from_b.exchange(at(21));
    assert_eq!(a.inspect(SLOT, |slot| slot.level_with()), Some(Incarnation(2)));
    let later = at(1_000);
    assert!(later - at(11) > Duration::from_millis(660));
    assert!(put(later, &a, b"new", AckLevel::Async, &waiting).is_err());
}

/// What it was found with may still have to be cut away, if another leads after all.
#[test]
fn a_slot_that_was_found_is_kept_as_it_is_until_its_term_begins() {
    let (mut map, bits) = (empty_map(), SlotBits::new(1));
    let node = Replay::new(at(0), bits, 1, NoBugs).finish(at(0), Ancestors::default(), None);
    let [_, b, c] = nodes();
    node.joined(Incarnation(1));
    publish(at(700), &[&node, &b, &c], &lead(&mut map, SLOT, 1, 1));
    let (mut to_b, mut to_c) = (Link::new(&node, &b), Link::new(&node, &c));
    [&mut to_b, &mut to_c].into_iter().for_each(|link| link.exchange(at(701)));
    let waiting = Waiting::new();
    assert_eq!(put(at(702), &node, b"value", AckLevel::Async, &waiting), Ok(None));
    let key = key();
    node.write(at(702), SLOT, &Write::new(&key, Change::Delete), &waiting, &mut Turn::default()).expect("it leads");
    let mut again = Replay::new(at(1_000), bits, 1, NoBugs);
    again.log(&node.noted().take().expect("it was noted").0).expect("it is a log");
    let ancestors = Ancestors { proven: vec![Incarnation(1)], unproven: Vec::new() };
    let again = again.finish(at(1_000), ancestors, None);
    again.joined(Incarnation(4));
    let mut config = SlotConfig::clone(map.config(SLOT));
    map.version = MapVersion(map.version.0 + 1);
    (config.version, config.epoch, config.isr) = (map.version, Epoch(2), vec![Incarnation(4)]);
    config.primary = Some(Incarnation(4));
    map.set_config(SLOT, Arc::new(config));
    map.set_members(vec![(Incarnation(4), Member { addr: "n:1".parse().unwrap(), up: true })].into_iter().collect());
    publish(at(1_001), &[&again], &map.update_since(MapVersion(0)));
    let has_tombstone = |node: &Node| node.inspect(SLOT, |slot| (slot.last().seq, slot.log().has_tombstone(u64::MAX)));
    assert_eq!(has_tombstone(&again), (2, true), "it may still have promised not to lead");
    again.handle_timeout(at(1_700), &mut Turn::default());
    assert_eq!(has_tombstone(&again), (3, false));
}
