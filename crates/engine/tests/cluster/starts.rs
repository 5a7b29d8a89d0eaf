//! Starts of nodes that a coordinator meets after it was restarted.

use std::collections::BTreeSet;
use std::time::Duration;

use engine::bugs::NoBugs;
use engine::coordinator::{Coordinator, JoinRequest};
use engine::output::{DecommissionError, JoinError, Output};
use engine::time::Timestamp;
use proto::id::{Incarnation, NodeAddr};
use proto::session::{Ancestors, NodeMessage};

use crate::world::{World, addr_of, settings};

/// Lets a start join and be heard.
fn join(coordinator: &mut Coordinator, now: Timestamp, addr: NodeAddr, ancestors: Ancestors) -> Incarnation {
    let request = JoinRequest { ancestors, ..JoinRequest::new(addr) };
    let joined = coordinator.join(now, request).expect("the name is free");
    heartbeat(coordinator, now, joined.incarnation);
    joined.incarnation
}

fn heartbeat(coordinator: &mut Coordinator, now: Timestamp, incarnation: Incarnation) {
    assert!(coordinator.handle_message(now, incarnation, NodeMessage::Heartbeat { incarnation }));
}

/// The state that the coordinator wants to have persisted.
fn kept(coordinator: &mut Coordinator) -> Option<String> {
    let outputs: Vec<_> = std::iter::from_fn(|| coordinator.poll_output()).collect();
    outputs.contains(&Output::Keep).then(|| coordinator.state())
}

#[test]
fn an_earlier_start_does_not_take_the_place_of_a_later_one_that_is_away_after_a_restart_of_the_coordinator_either() {
    let mut now = Timestamp(1_000_000);
    let second = Duration::from_secs(1);
    let mut coordinator = Coordinator::new(settings(1), NoBugs);
    let earlier = join(&mut coordinator, now, addr_of("A"), Ancestors::default());
    now = now + 2 * second;
    coordinator.handle_timeout(now);
    // It is cut off. After a while another start comes in its place and from then on holds everything.
    coordinator.session_ended(now, earlier);
    now = now + 2 * second;
    let later = join(&mut coordinator, now, addr_of("A"), Ancestors::default());
    for _ in 0..10 {
        now = now + second / 4;
        heartbeat(&mut coordinator, now, later);
        coordinator.handle_timeout(now);
    }
    let mut state = kept(&mut coordinator).expect("the map has changed");
    assert!(coordinator.map().slots().all(|(_, config)| config.isr == [later]));
    // The later one goes away, and the coordinator is restarted.
    assert!(coordinator.handle_message(now, later, NodeMessage::Leave));
    state = kept(&mut coordinator).unwrap_or(state);
    now = now + second;
    let mut coordinator = Coordinator::restored(now, settings(2), NoBugs, &state).expect("a state reads back");
    now = now + 2 * second;
    coordinator.handle_timeout(now);
    let zombie = JoinRequest { incarnation: Some(earlier), ..JoinRequest::new(addr_of("A")) };
    let zombie = coordinator.join(now, zombie);
    assert_eq!(zombie, Err(JoinError::Replaced));
    assert!(coordinator.map().slots().all(|(_, config)| config.isr == [later]), "what it has is waited for");
}

/// Lets each of these nodes release the slots that it is asked for, until nothing is asked any more. Returns the last
/// state to be persisted and who is told to delete what it holds.
fn carry_out(coordinator: &mut Coordinator, now: Timestamp) -> (Option<String>, Vec<Incarnation>) {
    let (mut state, mut dismissed) = (None, Vec::new());
    while let Some(output) = coordinator.poll_output() {
        match output {
            Output::Keep => state = Some(coordinator.state()),
            Output::HandOver { from, to, slots } => {
                assert!(coordinator.handle_message(now, from, NodeMessage::Release { to, slots }));
            }
            Output::Dismiss(node) => dismissed.push(node),
            _ => {}
        }
    }
    (state, dismissed)
}

#[test]
fn a_node_that_deletes_its_data_cannot_stay_after_a_restart_of_the_coordinator_either() {
    let mut now = Timestamp(1_000_000);
    let second = Duration::from_secs(1);
    let mut coordinator = Coordinator::new(settings(1), NoBugs);
    let starts = ["A", "B", "C"].map(|name| join(&mut coordinator, now, addr_of(name), Ancestors::default()));
    let [_, b, c] = starts;
    now = now + second;
    coordinator.handle_timeout(now);
    coordinator.decommission(now, &addr_of("C")).expect("others stay");
    let (mut state, mut dismissed) = (None, Vec::new());
    for _ in 0..10 {
        now = now + second / 4;
        starts.iter().for_each(|start| heartbeat(&mut coordinator, now, *start));
        coordinator.handle_timeout(now);
        let (kept, told) = carry_out(&mut coordinator, now);
        state = kept.or(state);
        dismissed.extend(told);
    }
    assert!(!dismissed.is_empty() && dismissed.iter().all(|node| *node == c), "{dismissed:?}");
    // Another node stops, so that nobody would be told to delete anything now.
    assert!(coordinator.handle_message(now, b, NodeMessage::Leave));
    state = carry_out(&mut coordinator, now).0.or(state);
    assert_eq!(coordinator.recommission(now, &addr_of("C")), Err(DecommissionError::TooLate));

    let state = state.expect("the map has changed");
    let mut coordinator = Coordinator::restored(now, settings(2), NoBugs, &state).expect("a state reads back");
    now = now + 2 * second;
    coordinator.handle_timeout(now);
    assert_eq!(coordinator.recommission(now, &addr_of("C")), Err(DecommissionError::TooLate));
    heartbeat(&mut coordinator, now, c);
    assert_eq!(carry_out(&mut coordinator, now).1, [c], "it may not have been told");
}

#[test]
fn an_address_registered_by_hand_takes_no_place_of_a_node_and_holds_up_none_that_leaves() {
    let mut world = World::new();
    ["A", "B", "C", "D"].iter().for_each(|name| world.boot(name));
    world.run(Duration::from_secs(3));
    assert_eq!(world.coordinator.register_by_hand(world.now, addr_of("E")), Ok(true));
    world.coordinator.decommission(world.now, &addr_of("D")).expect("others stay");
    for _ in 0..8 {
        assert!(world.coordinator.heartbeat(world.now, &addr_of("E")));
        world.run(Duration::from_secs(1));
    }
    let map = world.coordinator.known_map();
    for (slot, config) in map.slots() {
        let copies: BTreeSet<_> = config.copies().map(|copy| world.name(copy)).collect();
        assert_eq!(copies, ["A", "B", "C"].map(str::to_owned).into(), "{slot:?}");
    }
    assert!(world.coordinator.is_healthy(world.now));
}

#[test]
fn a_state_reads_back_and_none_of_its_lines_may_be_missing() {
    let mut now = Timestamp(1_000_000);
    let mut coordinator = Coordinator::new(settings(1), NoBugs);
    for name in ["A", "B", "C"] {
        join(&mut coordinator, now, addr_of(name), Ancestors::default());
    }
    now = now + Duration::from_secs(1);
    coordinator.handle_timeout(now);
    let state = kept(&mut coordinator).expect("there is a map");
    let restored = Coordinator::restored(now, settings(2), NoBugs, &state).expect("it reads back");
    assert!(coordinator.map().slots().eq(restored.map().slots()), "each slot is as it was saved");
    assert!(restored.map().members().eq(coordinator.map().members()));
    let (map, lines) = state.split_once("\n\n").expect("lines follow the map");
    for missing in lines.lines() {
        let others: String = lines.lines().filter(|line| *line != missing).flat_map(|line| [line, "\n"]).collect();
        let refused = Coordinator::restored(now, settings(2), NoBugs, &format!("{map}\n\n{others}"));
        let name = missing.split(' ').next().expect("a line begins with its name");
        let said = refused.err().map(|error| error.to_string());
        assert_eq!(said, Some(format!("the line {name} is missing or invalid")));
    }
}

/// A primary that counts on the coordinator goes by the timeout of the last map that it has received.
#[test]
fn a_shorter_timeout_drops_nobody_before_the_longer_one_has_passed_however_often_the_coordinator_is_restarted() {
    let timeout = |millis| {
        let mut settings = settings(1);
        settings.cluster_settings.heartbeat_timeout = Duration::from_millis(millis);
        settings
    };
    let mut now = Timestamp(1_000_000);
    let mut coordinator = Coordinator::new(timeout(10_000), NoBugs);
    let nodes = ["A", "B"].map(|name| join(&mut coordinator, now, addr_of(name), Ancestors::default()));
    now = now + Duration::from_secs(2);
    coordinator.handle_timeout(now);
    let mut state = kept(&mut coordinator).expect("there is a map");
    // The first start makes the new settings known; A is cut off just before.
    for _ in 0..2 {
        coordinator = Coordinator::restored(now, timeout(1_000), NoBugs, &state).expect("a state reads back");
        let back = JoinRequest { incarnation: Some(nodes[1]), ..JoinRequest::new(addr_of("B")) };
        let back = coordinator.join(now, back);
        assert!(back.expect("it is known").again);
        now = now + Duration::from_millis(1_100);
        heartbeat(&mut coordinator, now, nodes[1]);
        coordinator.handle_timeout(now);
        assert_eq!(coordinator.map().cluster_settings.heartbeat_timeout, Duration::from_secs(1));
        state = kept(&mut coordinator).unwrap_or(state);
    }
    let mut has_a_after = |time| {
        let until = now + time;
        while now < until {
            now = now + Duration::from_millis(250);
            heartbeat(&mut coordinator, now, nodes[1]);
            coordinator.handle_timeout(now);
        }
        coordinator.nodes().any(|node| *node == addr_of("A"))
    };
    assert!(has_a_after(Duration::from_secs(8)), "it may serve for so long");
    assert!(!has_a_after(Duration::from_secs(4)));
}
