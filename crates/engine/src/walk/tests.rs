//! Walks over a model: a plain map of all keys, and nodes that answer from it, refuse, fail, or answer twice.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::cluster_map::{ClusterMap, MapVersion, Member, SlotConfig};
use proto::id::Epoch;
use proto::peer::WallTime;
use proto::range::{Keys, PageRequest};
use proto::slot::Position;

use super::*;
use crate::listing::Listing;

const BITS: SlotBits = SlotBits::new(3);

/// A linear congruential generator (Knuth, MMIX) is random enough here.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn config(primary: Option<u64>, isr: &[u64]) -> Arc<SlotConfig> {
    Arc::new(SlotConfig {
        epoch: Epoch(1),
        version: MapVersion(1),
        primary: primary.map(Incarnation),
        isr: isr.iter().copied().map(Incarnation).collect(),
        elr: Vec::new(),
        learners: Vec::new(),
    })
}

/// A map of nodes 1, 2, and 3, with the given primary for each slot.
fn map(primary: impl Fn(SlotId) -> u64) -> ClusterMap {
    let mut map = ClusterMap::empty("c".into(), BITS);
    let member = |number: u16| {
        let addr = NodeAddr::new("n", number).unwrap();
        (Incarnation(number.into()), Member { addr, up: true })
    };
    map.set_members([1, 2, 3].map(member).into());
    for slot in BITS.slots() {
        let primary = primary(slot);
        map.set_config(slot, config(Some(primary), &[primary, primary % 3 + 1, (primary + 1) % 3 + 1]));
    }
    map
}

/// The answer of a node that has these keys and serves the slots for which `serves` returns `true`.
fn answer(keys: &BTreeSet<Vec<u8>>, list: &List, bytes: usize, serves: impl Fn(SlotId) -> bool) -> Listed {
    let mut listing = Listing::new(list, bytes);
    for slot in &list.slots {
        if !serves(*slot) {
            listing.refuse(*slot);
            continue;
        }
        let records: Vec<_> = keys
            .range(list.range.start.clone()..)
            .filter(|key| BITS.slot(&Position::of(key)) == *slot)
            .map(|key| {
                let version = proto::id::Version { epoch: Epoch(1), seq: 1 };
                crate::record::Record::entry(version, key, proto::peer::Effect::Put(b""))
            })
            .collect();
        listing.take_slot(WallTime(0), records.iter());
    }
    listing.finish()
}

/// Fetches one page while nodes refuse, fail, and answer late.
fn page(random: &mut Random, keys: &BTreeSet<Vec<u8>>, request: &PageRequest<'_>, level: ReadLevel) -> Vec<Box<[u8]>> {
    let size = PageSize { keys: request.limit, bytes: 60 };
    let mut walk = Walk::new(BITS, level, request.range(), Some(size), NoBugs);
    let mut late: Vec<(u64, Listed)> = Vec::new();
    for round in 0.. {
        assert!(round < 1_000, "it comes to an end");
        let shift = random.below(3) as u64;
        let map = map(|slot| (u64::from(slot.0) + shift) % 3 + 1);
        for ask in walk.asks(&map, Incarnation(1), random.below(2) == 0) {
            let serves = random.below(256) | random.below(256);
            let listed = answer(keys, &ask.list, random.below(30), |slot| serves & (1 << slot.0) != 0);
            match random.below(5) {
                0 => walk.failed(ask.list.id),
                1 => {
                    // The answer arrives after it was given up, and is ignored.
                    walk.failed(ask.list.id);
                    late.push((ask.list.id, listed));
                }
                2 => {
                    walk.answered(ask.list.id, listed.clone());
                    walk.answered(ask.list.id, listed);
                }
                _ => walk.answered(ask.list.id, listed),
            }
        }
        late.drain(..).for_each(|(ask, listed)| walk.answered(ask, listed));
        if walk.is_whole() {
            break;
        }
    }
    walk.into_keys()
}

#[test]
fn a_walk_gives_what_a_plain_map_holds_whatever_nodes_do() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut keys = BTreeSet::new();
        for _ in 0..random.below(80) {
            let len = random.below(8);
            keys.insert((0..len).map(|_| b"a\xff\0b"[random.below(4)]).collect::<Vec<u8>>());
        }
        let level = [ReadLevel::Local, ReadLevel::Linear][random.below(2)];
        let bounds = [&b""[..], b"a", b"\xff", b"b\0"];
        let (from, to) = (bounds[random.below(4)], bounds[random.below(4)]);
        let keys_asked = [Keys::Prefix(from), Keys::Between(from, to)][random.below(2)];
        let mut walked: Vec<Vec<u8>> = Vec::new();
        loop {
            let after = walked.last().cloned();
            let request = PageRequest { keys: keys_asked, limit: random.below(12) + 1, after: after.as_deref() };
            let page = page(&mut random, &keys, &request, level);
            assert!(page.len() <= request.limit);
            if page.is_empty() {
                break;
            }
            walked.extend(page.into_iter().map(Vec::from));
        }
        let range = keys_asked.range();
        let expected: Vec<_> = keys.range(range.start.clone()..).filter(|key| range.ends_after(key)).cloned().collect();
        assert_eq!(walked, expected, "seed {seed}");
    }
}

#[test]
fn a_page_waits_for_the_slots_that_were_refused() {
    let keys: BTreeSet<Vec<u8>> = (0..20).map(|number| format!("k{number}").into_bytes()).collect();
    let range = Keys::Prefix(b"").range();
    let mut walk = Walk::new(BITS, ReadLevel::Linear, range, None, NoBugs);
    let all = map(|_| 2);
    let [ask] = &walk.asks(&all, Incarnation(1), false)[..] else { panic!("one node leads all") };
    assert_eq!((ask.to, ask.list.slots.len(), ask.list.at_replica), (Incarnation(2), 8, false));
    assert_eq!(walk.asks(&all, Incarnation(1), true), [], "all are under way");
    walk.answered(ask.list.id, answer(&keys, &ask.list, 100, |slot| slot.0 != 5));
    assert_eq!((walk.is_whole(), walk.missing()), (false, Some(SlotId(5))));
    // The slot has moved meanwhile.
    let [again] = &walk.asks(&map(|_| 3), Incarnation(1), true)[..] else { panic!("one slot is left") };
    assert_eq!(
        (again.to, again.list.slots.as_slice(), again.list.at_replica),
        (Incarnation(3), &[SlotId(5)][..], false)
    );
    walk.answered(ask.list.id, answer(&keys, &ask.list, 100, |_| true));
    assert!(!walk.is_whole(), "what was answered before is not counted twice");
    walk.answered(again.list.id, answer(&keys, &again.list, 100, |_| true));
    assert_eq!(walk.into_count(), 20);
}

#[test]
fn a_replica_is_asked_where_the_primary_is_silent_or_late_and_the_read_is_local() {
    let walk = |level| Walk::new(BITS, level, Keys::Prefix(b"").range(), None, NoBugs);
    let whom = |mut walk: Walk, was_silent, is_late| {
        let map = map(|_| 2);
        let first = walk.asks(&map, Incarnation(3), false).remove(0);
        if was_silent {
            walk.failed(first.list.id);
        } else {
            let refused = first.list.slots.clone();
            walk.answered(first.list.id, Listed { refused, ..Listed::default() });
        }
        let second = walk.asks(&map, Incarnation(3), is_late).remove(0);
        (second.to.0, second.list.at_replica)
    };
    assert_eq!(whom(walk(ReadLevel::Local), true, false), (3, true), "its own copy first");
    assert_eq!(whom(walk(ReadLevel::Local), false, true), (3, true));
    assert_eq!(whom(walk(ReadLevel::Local), false, false), (2, false), "it may be about to lead");
    assert_eq!(whom(walk(ReadLevel::Linear), true, true), (2, false), "a replica cannot answer for the others");
    assert_eq!(whom(walk(ReadLevel::Local).where_served(), true, true), (2, false), "nor does it serve them");
}

#[test]
fn a_slot_without_a_primary_is_asked_of_its_copies_one_after_the_other() {
    let mut map = map(|_| 2);
    for slot in BITS.slots() {
        map.set_config(slot, config(None, &[1, 2]));
    }
    let mut walk = Walk::new(BITS, ReadLevel::Local, Keys::Prefix(b"").range(), None, NoBugs);
    let mut asked = Vec::new();
    for _ in 0..6 {
        for ask in walk.asks(&map, Incarnation(3), true) {
            asked.push(ask.to.0);
            walk.failed(ask.list.id);
        }
    }
    assert!(asked.contains(&1) && asked.contains(&2), "{asked:?}");
    let mut walk = Walk::new(BITS, ReadLevel::Linear, Keys::Prefix(b"").range(), None, NoBugs);
    assert_eq!(walk.asks(&map, Incarnation(3), true), []);
    assert_eq!(walk.missing(), Some(SlotId(0)));
}
