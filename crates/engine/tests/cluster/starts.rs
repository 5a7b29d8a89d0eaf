//! Starts of nodes that a coordinator meets after it was restarted.

use std::time::Duration;

use engine::bugs::NoBugs;
use engine::coordinator::Coordinator;
use engine::output::{JoinError, Output};
use engine::time::Timestamp;
use proto::id::{Incarnation, NodeAddr};
use proto::session::{Ancestors, NodeMessage};

use crate::world::{addr_of, settings};

/// Lets a start join and be heard.
fn join(coordinator: &mut Coordinator, now: Timestamp, addr: NodeAddr, ancestors: Ancestors) -> Incarnation {
    let joined = coordinator.join(now, addr, None, 1, ancestors, None).expect("the name is free");
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
    let zombie = coordinator.join(now, addr_of("A"), Some(earlier), 1, Ancestors::default(), None);
    assert_eq!(zombie, Err(JoinError::Replaced));
    assert!(coordinator.map().slots().all(|(_, config)| config.isr == [later]), "what it has is waited for");
}
