//! Which nodes this node leads and follows, with slot counts: the cost of a map change is proportional to what has
//! changed.

use std::collections::BTreeMap;

use proto::cluster_map::{ClusterMap, SlotConfig};
use proto::id::Incarnation;
use proto::slot::SlotId;

/// How many slots this node shares with each other node, according to the map.
#[derive(Debug, Default)]
pub(super) struct Neighbors {
    /// The incarnation that this node was counted as; `None` before the first map.
    me: Option<Incarnation>,
    /// The nodes with copies of what this node leads.
    followers: BTreeMap<Incarnation, usize>,
    /// The nodes that lead what this node has copies of.
    followed: BTreeMap<Incarnation, usize>,
}

impl Neighbors {
    /// Accounts for a change of the map, in these slots, from `before`, the map counted last.
    pub(super) fn update(
        &mut self,
        me: Incarnation,
        before: Option<&ClusterMap>,
        map: &ClusterMap,
        changed: impl Iterator<Item = SlotId>,
    ) {
        match before.filter(|_| self.me == Some(me)) {
            Some(before) => {
                for slot in changed {
                    self.count(me, before.config(slot), |slots| slots - 1);
                    self.count(me, map.config(slot), |slots| slots + 1);
                }
            }
            None => {
                *self = Self { me: Some(me), ..Self::default() };
                map.slots().for_each(|(_, config)| self.count(me, config, |slots| slots + 1));
            }
        }
        self.followers.retain(|_, slots| *slots > 0);
        self.followed.retain(|_, slots| *slots > 0);
    }

    pub(super) fn is_follower(&self, node: Incarnation) -> bool {
        self.followers.contains_key(&node)
    }

    pub(super) fn followed(&self) -> impl Iterator<Item = Incarnation> {
        self.followed.keys().copied()
    }

    fn count(&mut self, me: Incarnation, config: &SlotConfig, counted: impl Fn(usize) -> usize) {
        let Some(primary) = config.primary else { return };
        let count = |of: &mut BTreeMap<Incarnation, usize>, node| {
            let slots = of.entry(node).or_default();
            *slots = counted(*slots);
        };
        if primary == me {
            config.copies().for_each(|copy| count(&mut self.followers, copy));
        } else if config.copies().any(|copy| copy == me) {
            count(&mut self.followed, primary);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::cluster_map::MapVersion;
    use proto::slot::SlotBits;

    use super::*;

    #[test]
    fn what_has_changed_is_counted_as_the_whole_map_would_be() {
        let bits = SlotBits::new(8);
        let mut map = ClusterMap::empty("a".to_owned(), bits);
        let mut neighbors = Neighbors::default();
        neighbors.update(Incarnation(1), None, &map, std::iter::empty());
        let mut number = 1_u64;
        for version in 1..200 {
            let mut next = map.clone();
            for _ in 0..version % 5 {
                // Knuth's linear congruential generator; it is random enough here.
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let node = |shift: u32| Incarnation(number >> shift & 3);
                let config = SlotConfig {
                    version: MapVersion(version),
                    primary: (number >> 60 != 0).then_some(node(20)),
                    isr: vec![node(20), node(22)],
                    learners: vec![Incarnation((number >> 24 & 3) + 8)],
                    ..SlotConfig::default()
                };
                next.set_config(SlotId((number >> 40 & 255) as u16), Arc::new(config));
            }
            // From some point on the node has another incarnation, as after a restart.
            let me = if version < 150 { Incarnation(1) } else { Incarnation(2) };
            let changed: Vec<_> = next.changes_from(&map).map(|(slot, _)| slot).collect();
            neighbors.update(me, Some(&map), &next, changed.into_iter());
            let mut anew = Neighbors::default();
            anew.update(me, None, &next, std::iter::empty());
            assert_eq!((&neighbors.followers, &neighbors.followed), (&anew.followers, &anew.followed), "{version}");
            map = next;
        }
        assert!(neighbors.is_follower(Incarnation(8)) && neighbors.followed().next().is_some());
    }
}
