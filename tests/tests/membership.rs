//! Nodes that come and go while the cluster serves.

use std::time::Duration;

use e2e::cluster::{Cluster, Setup};
use e2e::connection::Connection;
use e2e::load::Load;
use e2e::server::{self, coordinator, start_node};
use e2e::wait::{SOON, ensure, eventually, throughout};
use proto::cluster_map::{ClusterMap, MapUpdate};
use proto::session::{Ancestors, Join};

#[test]
fn a_node_that_joins_under_load_takes_its_share_and_no_stored_key_is_ever_absent() {
    let mut cluster = Setup { nodes: 2, replicas: 1, ..Setup::default() }.start();
    cluster.store(0, "join", 500, "");
    let reads = [0, 1].map(|index| Load::of_reads(&cluster.node(index).addr, "join", 500, ""));
    let writes = Load::of_writes(&cluster.node(0).addr, "join-new");
    writes.goes_on_for(50);

    let newcomer = cluster.add_node();
    let through_newcomer = Load::of_reads(&cluster.node(newcomer).addr, "join", 500, "");
    cluster.wait_until_settled();
    // Twice through all keys, now that they are in their place.
    through_newcomer.goes_on_for(1_000);

    through_newcomer.finish_without_failure();
    for load in reads {
        load.finish_without_failure();
    }
    let written = usize::try_from(writes.finish_without_failure()).unwrap();
    let led = cluster.keys_led_by(newcomer, "join", 50);
    assert_eq!(cluster.leader_of(&led[0]), newcomer, "the newcomer leads its share");
    for index in 0..3 {
        cluster.has(index, "join", 500, "");
        cluster.has(index, "join-new", written, "");
    }
    cluster.wait_until_level();
    // A node gives up a copy only when it knows that the others have everything.
    for index in 0..3 {
        assert_eq!(cluster.info(index)["losses"], "0", "of node {index}");
    }
    eventually("each key is held twice, and nowhere else", SOON, || {
        let held: usize = (0..3).map(|index| cluster.keys_on(index)).sum();
        ensure(held == 2 * (500 + written), || format!("{held} copies of {} keys", 500 + written))
    });
}

#[test]
fn a_change_of_the_map_is_told_at_once_to_those_who_watch() {
    let mut cluster = Setup { nodes: 2, ..Setup::default() }.start();
    let mut watch = Connection::open(&cluster.coordinator.addr);
    let updated = |map: Option<&ClusterMap>, lines: &[String]| {
        let update = MapUpdate::parse(lines.iter().map(String::as_str)).expect("WATCH_MAP sends maps");
        ClusterMap::updated(map, &update).expect("each change follows on the one before")
    };
    let mut map = updated(None, &watch.ask_lines("WATCH_MAP"));
    assert_eq!(map, cluster.map(), "first the whole map");
    let newcomer = cluster.add_node();
    let addr = cluster.node(newcomer).addr.parse().unwrap();
    let mut versions = vec![map.version];
    while !(map.is_node(&addr) && map.slots().all(|(_, config)| config.isr.len() == 3 && config.learners.is_empty())) {
        map = updated(Some(&map), &watch.lines());
        versions.push(map.version);
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "every change has a higher number: {versions:?}");
}

#[test]
fn a_node_that_is_gone_before_it_was_answered_is_not_waited_for() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let mut join = Vec::new();
    let addr = "127.0.0.1:9".parse().unwrap();
    Join { addr, incarnation: None, ancestors: Ancestors::default(), map: "", weight: 1 }.encode(&mut join);
    for half in [false, true] {
        let mut gone = Connection::open(&cluster.coordinator.addr);
        gone.send(&join);
        if half {
            gone.line();
        }
        drop(gone);
    }
    let answer = cluster.open(&cluster.coordinator.addr).ask("WAIT_HEALTHY 5s");
    assert_eq!(answer, "OK");
}

#[test]
fn registering_a_running_node_by_hand_is_a_warning_and_harmless() {
    let cluster = Setup { nodes: 2, ..Setup::default() }.start();
    cluster.store(0, "by-hand", 100, "");
    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    // On a busy machine a copy may be out of sync for a moment, which changes the map, too: then it is done again.
    eventually("nothing changes", SOON, || {
        let before = cluster.map();
        for (_, node) in cluster.running() {
            let answer = coordinator.ask(&format!("REGISTER_NODE 127.0.0.1 {}", node.port));
            assert_eq!(answer, format!("WARNING Node {} already registered", node.addr));
        }
        let after = cluster.map();
        ensure(after == before, || format!("{before:?} became {after:?}"))
    });
    for index in 0..2 {
        cluster.has(index, "by-hand", 100, "");
    }
}

#[test]
fn a_node_that_is_unregistered_warns_and_stays_out_until_it_is_started_again() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    cluster.store(0, "unregister", 300, "");
    let (addr, port) = (cluster.node(2).addr.clone(), cluster.node(2).port);
    let reads = Load::of_reads(&cluster.node(0).addr, "unregister", 300, "");
    reads.goes_on_for(10);

    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    let answer = coordinator.ask(&format!("UNREGISTER_NODE 127.0.0.1 {port}"));
    assert_eq!(answer, format!("OK Node {addr} unregistered"));
    cluster.node(2).process.says_on_stderr("WARN");
    // Its heartbeats, many of which fit into this time, do not bring it back.
    throughout("an unregistered node stays out", Duration::from_secs(2), || {
        let listed = cluster.listed();
        ensure(!listed.contains(&addr), || format!("{listed:?}"))
    });
    assert_eq!(coordinator.ask(&format!("HEARTBEAT 127.0.0.1 {port}")), format!("ERROR Node {addr} not found"));
    assert!(cluster.node_mut(2).process.is_running(), "it is told, not ended");
    let (running, out) = (cluster.node(0).addr.clone(), cluster.node(1).addr.clone());
    eventually("the others hold everything", SOON, || {
        let mut holders = cluster.holders("unregister:0");
        holders.sort();
        let mut others = vec![running.clone(), out.clone()];
        others.sort();
        ensure(holders == others, || format!("{holders:?}"))
    });

    cluster.kill(2);
    cluster.start_node_again(2);
    cluster.wait_until_settled();
    reads.finish_without_failure();
    for index in 0..3 {
        cluster.has(index, "unregister", 300, "");
    }
}

#[test]
fn another_node_under_the_name_of_one_that_lives_is_refused_and_nothing_is_lost() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    cluster.store(0, "name", 100, "");
    let before = cluster.map();
    let name = &cluster.node(0).addr;
    let mut other = start_node(cluster.coordinator.port, 0, &["--advertise", name, "--join-timeout", "1500ms"]).0;
    let ended = other.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("BUSY another live node uses the name {name}")), "{}", ended.stderr);
    let said = cluster.coordinator.process.stderr();
    let said = said.matches(&format!("node {name} is refused: BUSY ")).count();
    assert_eq!(said, 1, "however often it has tried");
    assert_eq!(cluster.map(), before, "nothing has changed");
    cluster.has(0, "name", 100, "");
}

#[cfg(unix)]
#[test]
fn a_node_whose_name_was_taken_while_it_hung_stops_and_its_data_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let (node_data, data_dir) = (Some(dir.path().to_owned()), Some(dir.path().join("coordinator")));
    let setup = Setup { nodes: 1, replicas: 0, heartbeat_timeout: "1s", node_data, data_dir, ..Setup::default() };
    let mut cluster = setup.start();
    cluster.store(0, "taken", 100, "");
    // The node got its incarnation from a different start of the coordinator than those that join from now on.
    cluster.coordinator.process.kill();
    cluster.start_coordinator_again();
    cluster.node(0).process.says_on_stderr("the coordinator is back");
    cluster.wait_until_settled();
    let (name, data) = (cluster.node(0).addr.clone(), dir.path().join("node-0"));
    cluster.node(0).process.pause();
    // Refused at first, and registered once the node that hangs is considered dead.
    let other = start_node(cluster.coordinator.port, 0, &["--advertise", &name]).ready();
    eventually("the other is registered", SOON, || {
        let listed = cluster.listed();
        ensure(listed.contains(&name), || format!("{listed:?}"))
    });
    cluster.node(0).process.resume();
    let ended = cluster.node_mut(0).process.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for says in [format!("another node was started as {name}"), format!("is still in {}", data.display())] {
        assert!(ended.stderr.contains(&says), "{says}: {}", ended.stderr);
    }
    drop(other);

    // Given a coordinator that knows no other node, it finds everything.
    let coordinator = coordinator(&[]);
    let args = ["--advertise", &name, "--data-dir", data.to_str().unwrap()];
    let found = start_node(coordinator.port, 0, &args).ready();
    let mut client = Connection::open(&found.addr);
    eventually("it serves what it held", SOON, || {
        let value = client.ask("GET taken:99");
        ensure(value.starts_with("VALUE "), || value.clone())
    });
}

#[test]
fn a_crashed_node_that_is_back_at_once_is_filled_before_it_leads() {
    let mut cluster = Setup::default().start();
    cluster.store(0, "back", 500, "");
    let reads = Load::of_reads(&cluster.node(1).addr, "back", 500, "");
    reads.goes_on_for(50);
    cluster.kill(0);
    // Long before the heartbeat timeout: its session has ended.
    cluster.start_node_again(0);
    comes_back_whole(&cluster, reads);
}

#[test]
fn a_crashed_node_that_is_back_after_its_removal_is_filled_before_it_leads() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    cluster.store(0, "back", 500, "");
    let reads = Load::of_reads(&cluster.node(1).addr, "back", 500, "");
    reads.goes_on_for(50);
    cluster.kill(0);
    cluster.wait_until_runners_listed();
    cluster.wait_until_led();
    cluster.start_node_again(0);
    comes_back_whole(&cluster, reads);
}

/// Checks the return of node 0, which has just been restarted with nothing in memory.
fn comes_back_whole(cluster: &Cluster, reads: Load) {
    let through_itself = Load::of_reads(&cluster.node(0).addr, "back", 500, "");
    cluster.wait_until_settled();
    through_itself.goes_on_for(1_000);
    through_itself.finish_without_failure();
    reads.finish_without_failure();
    assert_eq!(cluster.keys_on(0), 500, "it was given every key");
    assert_eq!(cluster.leader_of(&cluster.key_led_by(0, "back")), 0, "it leads its share again");
    cluster.has(0, "back", 500, "");
}

/// It has no map, and cannot know at which level the cluster writes.
#[cfg(unix)]
#[test]
fn a_node_that_the_coordinator_has_not_answered_yet_goes_by_no_level_of_its_own() {
    let coordinator = coordinator(&["--ack", "quorum"]);
    let mut node = server::node(coordinator.port, &[]);
    let port = node.port;
    let refused = Connection::open(&node.addr).ask("PUT before alone");
    assert!(refused.starts_with("ERROR UNAVAILABLE "), "one copy is no quorum: {refused}");
    node.process.kill();
    coordinator.process.pause();
    let starting = start_node(coordinator.port, port, &["--request-timeout", "5s"]);
    let mut client = None;
    eventually("its port is open", SOON, || Connection::try_open(&node.addr).map(|opened| client = Some(opened)));
    let mut client = client.expect("it is open");
    assert_eq!(client.ask("PING"), "PONG", "what needs no map is answered");
    client.send("PUT early value\nGET early\n");
    client.is_silent_for(Duration::from_millis(300));
    coordinator.process.resume();
    let _node = starting.ready();
    let answer = client.line();
    assert!(answer.starts_with("ERROR UNAVAILABLE "), "{answer}");
    assert_ne!(client.line(), "VALUE value");
}

/// What it is told as a follower is not exact, and would make a coordinator take its own state for outdated.
#[cfg(unix)]
#[test]
fn a_node_that_was_unregistered_keeps_the_map_of_its_membership() {
    let directory = tempfile::tempdir().unwrap();
    let node_data = Some(directory.path().to_owned());
    let mut cluster = Setup { nodes: 4, heartbeat_timeout: "1s", node_data, ..Setup::default() }.start();
    cluster.wait_until_settled();
    let port = cluster.node(3).port;
    let answer = Connection::open(&cluster.coordinator.addr).ask(&format!("UNREGISTER_NODE 127.0.0.1 {port}"));
    assert_eq!(answer, format!("OK Node 127.0.0.1:{port} unregistered"));
    cluster.node(3).process.says_on_stderr("this node was unregistered");
    let map = directory.path().join("node-3").join("map");
    let follows = |cluster: &Cluster| {
        let (version, info) = (cluster.map().version.0, cluster.info(3));
        ensure(info.get("map").is_some_and(|map| map.parse::<u64>().is_ok_and(|map| map >= version)), || {
            format!("{info:?}")
        })
    };
    eventually("it follows the map", SOON, || follows(&cluster));
    let kept = std::fs::read(&map).expect("it is there");
    cluster.kill(2);
    cluster.wait_until_leads_nothing(2);
    cluster.start_node_again(2);
    eventually("it follows the map", SOON, || follows(&cluster));
    assert_eq!(cluster.node_mut(3).stop().code, Some(0));
    assert!(std::fs::read(&map).expect("it is there") == kept, "the map was written again");
}
