//! Random walks of a small cluster through crashes, cuts, joins and leaves, by seed. After each, the faults stop, and
//! what must hold of every cluster at rest is checked. Invariants that must hold at every moment are checked all along.
//!
//! `WALKS=10000 cargo test -p engine --test cluster random_walks` walks longer; `FIRST=n` starts at another seed.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::world::{COORDINATOR, World};
use proto::id::{Epoch, Incarnation};
use proto::peer::Effect;
use proto::slot::SlotId;

const STEPS: u64 = 60;
const KEYS: u64 = 12;

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn pick<'a>(&mut self, names: &'a [String]) -> &'a str {
        let at = usize::try_from(self.below(names.len() as u64)).expect("a small number");
        &names[at]
    }
}

/// The seeds to walk: 300 from 0, unless the environment says otherwise.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let first = number("FIRST", 0);
    first..first + number("WALKS", 300)
}

/// Who has ever led a slot in an epoch, by cluster.
type Terms = BTreeMap<(String, SlotId, Epoch), Incarnation>;

#[test]
fn whatever_happens_the_cluster_comes_to_rest_whole() {
    for seed in seeds() {
        let mut random = Random(seed);
        let mut world = World::new();
        let mut terms = Terms::new();
        ["A", "B", "C", "D"]
            .iter()
            .take(3 + usize::try_from(random.below(2)).expect("0 or 1"))
            .for_each(|n| world.start(n));
        world.run(Duration::from_millis(1_200));
        for step in 0..STEPS {
            walk(&mut world, &mut random, step);
            check_always(&world, &mut terms, seed);
        }
        heal(&mut world);
        check_at_rest(&world, seed);
    }
}

/// What was on every copy is not lost by any one node's death at a time, whatever else happens.
#[test]
fn one_death_at_a_time_loses_nothing_that_was_replicated() {
    for seed in seeds() {
        let mut random = Random(seed);
        let mut world = World::new();
        ["A", "B", "C"].iter().for_each(|name| world.start(name));
        world.run(Duration::from_millis(1_200));
        let mut model = BTreeMap::new();
        for round in 0..6 {
            for key in 0..KEYS {
                let (key, value) = (format!("key{key}"), format!("{round}"));
                let effect = if random.below(4) == 0 { None } else { Some(value) };
                let written = world.names().iter().any(|name| {
                    world.write(
                        name,
                        &key,
                        effect.as_ref().map_or(Effect::Delete, |value| Effect::Put(value.as_bytes())),
                    )
                });
                assert!(written, "seed {seed}: nobody takes {key} in a cluster at rest");
                model.insert(key, effect);
            }
            world.settle();
            let names = world.names();
            let victim = random.pick(&names).to_owned();
            world.kill(&victim);
            world.run(Duration::from_millis(200 * random.below(80)));
            for (key, value) in &model {
                let copies: Vec<_> = names.iter().filter(|name| world.member(name).runs).collect();
                assert!(
                    copies.iter().any(|name| world.read(name, key, true).as_ref() == Some(value)),
                    "seed {seed} {key}"
                );
            }
            world.start(&victim);
            for _ in 0..100 {
                world.run(Duration::from_millis(200));
                for (key, value) in &model {
                    let led = names.iter().filter_map(|name| world.read(name, key, false)).collect::<Vec<_>>();
                    assert!(led.iter().all(|read| read == value), "seed {seed}: {key} is {led:?}, was {value:?}");
                }
            }
            check_at_rest(&world, seed);
        }
    }
}

fn walk(world: &mut World, random: &mut Random, step: u64) {
    let names = world.names();
    let (one, other) = (random.pick(&names).to_owned(), random.pick(&names).to_owned());
    match random.below(20) {
        0..=8 => {
            let key = format!("key{}", random.below(KEYS));
            let value = format!("{step}");
            let effect = if random.below(4) == 0 { Effect::Delete } else { Effect::Put(value.as_bytes()) };
            world.write(&one, &key, effect);
        }
        9 => world.kill(&one),
        10 | 11 if !world.member(&one).runs => world.start(&one),
        12 if world.member(&one).runs && world.member(&one).incarnation.is_some() => world.leave(&one),
        13 => world.cut(&one, &other),
        14 => world.cut(&one, COORDINATOR),
        15 => world.cuts.clear(),
        16 if names.len() < 5 => world.start("E"),
        17 => {
            // A coordinator without a state that hears none of the old nodes for a second begins a new cluster, and the
            // old nodes are refused: nothing is lost by that, but it does not come to rest by itself.
            world.stop_coordinator();
            world.cuts.retain(|(from, to)| from != COORDINATOR && to != COORDINATOR);
            world.run(Duration::from_millis(200 * random.below(10)));
            world.start_coordinator();
        }
        18 => world.run(Duration::from_secs(random.below(14))),
        _ => world.run(Duration::from_millis(200)),
    }
    world.settle();
}

fn heal(world: &mut World) {
    world.cuts.clear();
    for name in world.names() {
        if !world.member(&name).runs {
            world.start(&name);
        }
    }
    world.run(Duration::from_secs(30));
}

/// At most one primary of a slot in an epoch; the primary is in sync; nobody is in sync and a learner at once.
fn check_always(world: &World, terms: &mut Terms, seed: u64) {
    for (slot, config) in world.coordinator.map().slots() {
        let Some(primary) = config.primary else { continue };
        let term = (world.coordinator.map().cluster.clone(), slot, config.epoch);
        let known = *terms.entry(term).or_insert(primary);
        assert_eq!(known, primary, "seed {seed}: two primaries of slot {} in epoch {}", slot.0, config.epoch);
        assert!(config.isr.contains(&primary), "seed {seed}: the primary of slot {} is not in sync", slot.0);
        assert!(!config.learners.iter().any(|learner| config.isr.contains(learner)), "seed {seed}: {config:?}");
    }
}

/// Every slot is held by whom the ring wants, all level with the primary, and by nobody else.
fn check_at_rest(world: &World, seed: u64) {
    for (slot, config) in world.coordinator.map().slots() {
        let wanted = world.names().len().min(3);
        assert_eq!(config.isr.len(), wanted, "seed {seed}: slot {} at rest: {config:?}\n{:#?}", slot.0, world.log);
        assert_eq!(
            config.primary,
            config.isr.first().copied(),
            "seed {seed}: slot {} is not led at its target",
            slot.0
        );
        assert_eq!(config.learners, [], "seed {seed}: slot {}", slot.0);
        let primary = world.name(config.primary.expect("a primary"));
        for name in world.names() {
            let node = &world.member(&name).node;
            let holds = config.isr.contains(&world.member(&name).incarnation.expect("all have joined"));
            if holds {
                let expected = world.member(&primary).node.positions(&[slot]);
                assert_eq!(node.positions(&[slot]), expected, "seed {seed}: {name} is not level in slot {}", slot.0);
            }
            for key in (0..KEYS).map(|key| format!("key{key}")).filter(|key| World::slot_of(key) == slot) {
                let copy = world.read(&name, &key, true);
                let expected = if holds { world.read(&primary, &key, false) } else { None };
                assert_eq!(copy, expected, "seed {seed}: {key} at {name}, led by {primary}");
            }
        }
        assert_eq!(world.member(&primary).node.lag().items, 0, "seed {seed}: {primary} at rest");
    }
}
