//! The cluster map and its changes as text.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proto::cluster_map::{ClusterMap, ClusterSettings, MapUpdate, MapVersion, Member, SlotConfig};
use proto::id::{Epoch, Incarnation};
use proto::level::{AckLevel, ReadLevel};
use proto::limits;
use proto::slot::{SlotBits, SlotId};

use crate::{addr, cases};

fn incarnations() -> impl Strategy<Value = Vec<Incarnation>> {
    vec((1u64..9).prop_map(Incarnation), 0..4)
}

fn config() -> impl Strategy<Value = Arc<SlotConfig>> {
    let primary = proptest::option::of((1u64..9).prop_map(Incarnation));
    let copies = (incarnations(), incarnations(), incarnations());
    (0u64..4, 0u64..4, primary, copies).prop_map(|(epoch, version, primary, (isr, learners, elr))| {
        let (epoch, version) = (Epoch(epoch), MapVersion(version));
        Arc::new(SlotConfig { epoch, version, primary, isr, learners, elr })
    })
}

fn members() -> impl Strategy<Value = BTreeMap<Incarnation, Member>> {
    let member = (addr(), any::<bool>()).prop_map(|(addr, up)| Member { addr, up });
    proptest::collection::btree_map((1u64..9).prop_map(Incarnation), member, 0..6)
}

fn cluster_settings() -> impl Strategy<Value = ClusterSettings> {
    let ack = proptest::sample::select(vec![AckLevel::Async, AckLevel::Quorum, AckLevel::All]);
    let read = proptest::sample::select(vec![ReadLevel::Local, ReadLevel::Linear]);
    (0..=limits::REPLICAS, ack, read, 0u64..1 << 40).prop_map(|(replicas, ack, read, millis)| {
        let heartbeat_timeout = Duration::from_millis(millis);
        ClusterSettings { replicas, ack, read, heartbeat_timeout }
    })
}

fn cluster_map() -> impl Strategy<Value = ClusterMap> {
    // Few different configurations, so that runs of equal ones occur.
    let slots = |bits: u8| vec(0usize..3, 1 << bits).prop_map(move |picks| (SlotBits::new(bits), picks));
    ((0u8..7).prop_flat_map(slots), vec(config(), 3), members(), cluster_settings(), "[a-z0-9-]{1,12}").prop_map(
        |((bits, picks), configs, members, cluster_settings, cluster)| {
            let mut map = ClusterMap::empty(cluster, bits);
            map.cluster_settings = cluster_settings;
            map.set_members(members);
            map.version = MapVersion(4);
            for (slot, pick) in bits.slots().zip(picks) {
                map.set_config(slot, Arc::clone(&configs[pick]));
            }
            map
        },
    )
}

/// The update as read back from its text.
fn through_text(update: &MapUpdate) -> MapUpdate {
    let text = update.to_lines().join("\n");
    MapUpdate::parse(text.lines()).expect("a map")
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_map_reads_back_from_its_text(map in cluster_map()) {
        let whole = map.update_since(MapVersion(0));
        let read = through_text(&whole);
        prop_assert_eq!(&read, &whole);
        prop_assert_eq!(ClusterMap::updated(None, &read), Ok(map));
    }

    #[test]
    fn a_change_leads_from_the_old_map_to_the_new(
        old in cluster_map(),
        (members, cluster_settings) in (members(), cluster_settings()),
        changes in vec((any::<u16>(), config()), 0..10),
    ) {
        let mut new = old.clone();
        new.cluster_settings = cluster_settings;
        new.set_members(members);
        new.version = MapVersion(9);
        for (slot, config) in changes {
            let slot = SlotId(slot % u16::try_from(old.bits().count()).unwrap());
            new.set_config(slot, Arc::new(SlotConfig { version: MapVersion(9), ..(*config).clone() }));
        }
        let change = new.update_since(old.version);
        let read = through_text(&change);
        prop_assert_eq!(&read, &change);
        prop_assert_eq!(ClusterMap::updated(Some(&old), &read), Ok(new));
    }

    #[test]
    fn any_text_is_a_map_or_refused(text in "(OK Map )?[ -~\nа-я]{0,100}") {
        let _ = MapUpdate::parse(text.split('\n'));
    }

    #[test]
    fn a_damaged_map_is_refused_or_a_map_of_its_own(
        map in cluster_map(),
        edits in vec((any::<proptest::sample::Index>(), "[ -~\n]{0,3}", 0usize..3), 1..4),
    ) {
        let mut text = map.update_since(MapVersion(0)).to_lines().join("\n");
        for (at, put, cut) in edits {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.replace_range(at..end, &put);
            prop_assume!(!text.is_empty());
        }
        if let Ok(update) = MapUpdate::parse(text.split('\n')) {
            prop_assert_eq!(through_text(&update), update.clone());
            let _ = ClusterMap::updated(None, &update);
            let _ = ClusterMap::updated(Some(&map), &update);
        }
    }
}
