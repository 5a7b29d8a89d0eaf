//! A coordinator that keeps its state, and what goes on while there is no coordinator.

use std::time::{Duration, Instant};

use e2e::cluster::Setup;
use e2e::connection::Connection;
use e2e::server;
use e2e::wait::{SOON, ensure, eventually, throughout};
use proto::cluster_map::ClusterMap;

/// The nodes return to a coordinator within half a second and suspect the dead at once; the rest is a margin for a busy
/// machine.
const REPLACED_WITHIN: Duration = Duration::from_secs(8);

/// Asserts that nothing was taken over or restarted between two maps: a slot that still has its primary has the same
/// epoch. There may be changes: on a busy machine a replica is out of sync for a moment.
fn goes_on(before: &ClusterMap, after: &ClusterMap) {
    assert_eq!(after.cluster, before.cluster, "it is the same cluster");
    assert!(after.version >= before.version, "{} goes on from {}", after.version.0, before.version.0);
    for ((slot, old), (_, new)) in before.slots().zip(after.slots()) {
        let same = old.primary == new.primary;
        assert!(if same { new.epoch == old.epoch } else { new.epoch > old.epoch }, "slot {}: {old:?}, {new:?}", slot.0);
    }
}

#[test]
fn a_coordinator_with_its_state_goes_on_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { data_dir: Some(directory.path().to_owned()), ..Setup::default() };
    let mut cluster = setup.start();
    cluster.store(0, "kept", 200, "");
    let before = cluster.map();
    for round in 0..2 {
        cluster.coordinator.process.kill();
        cluster.start_coordinator_again();
        goes_on(&before, &cluster.map()); // From its first answer on, and when all nodes are back.
        cluster.store(1, "kept", 200, "");
        for node in cluster.nodes() {
            eventually(&format!("{} is back", node.addr), SOON, || {
                let stderr = node.process.stderr();
                ensure(stderr.matches("the coordinator is back").count() > round, || stderr.clone())
            });
        }
        goes_on(&before, &cluster.map());
    }
    for index in 0..3 {
        cluster.has(index, "kept", 200, "");
    }
}

#[test]
fn a_coordinator_that_cannot_save_its_state_stops_and_its_nodes_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Setup { data_dir: Some(directory.path().to_owned()), ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "unsaved");
    let before = cluster.map();
    // What is written first cannot be created, even by root.
    let obstacle = directory.path().join("coordinator.state.tmp");
    std::fs::create_dir(&obstacle).unwrap();
    let mut operator = Connection::open(&cluster.coordinator.addr);
    operator.send(format!("DECOMMISSION {}\n", cluster.node(2).addr));
    let ended = cluster.coordinator.process.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1));
    assert!(operator.try_line().is_err(), "what could not be saved is not confirmed");
    cluster.coordinator.process.says_on_stderr("cannot save the state: ");
    assert_eq!(cluster.connect(0).ask(&format!("PUT {key} v")), "OK");
    assert_eq!(cluster.connect(1).ask(&format!("GET {key}")), "VALUE v");

    std::fs::remove_dir(&obstacle).unwrap();
    cluster.start_coordinator_again();
    goes_on(&before, &cluster.map());
}

#[test]
fn without_a_coordinator_a_paused_node_goes_on_by_itself_and_a_dead_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = Some(directory.path().to_owned());
    let mut cluster = Setup { data_dir, node_args: &["--request-timeout", "2s"], ..Setup::default() }.start();
    let keys = [0, 1, 2].map(|index| cluster.key_led_by(index, "paused"));
    // On a busy machine copies may be out of sync for a moment, and then stay so for as long as there is no coordinator.
    cluster.wait_until_settled();
    cluster.coordinator.process.kill();
    cluster.node(0).process.pause();
    // Not a wait for anything: this is how long it is paused, several times as long as a lease.
    std::thread::sleep(Duration::from_secs(2));
    cluster.node(0).process.resume();
    let mut node = cluster.connect(1);
    assert_eq!(node.ask("ACK quorum"), "OK");
    for key in &keys {
        eventually("a write at quorum is taken", SOON, || {
            let answer = node.ask(&format!("PUT {key} v"));
            ensure(answer == "OK", || answer.clone())
        });
    }
    cluster.kill(0);
    let refused = node.ask(&format!("PUT {} w", keys[0]));
    assert!(refused.starts_with("ERROR UN"), "{refused}");
    cluster.start_coordinator_again();
    let mut node = cluster.connect(1);
    eventually("its successor takes a write", SOON, || {
        let answer = node.ask(&format!("PUT {} w", keys[0]));
        ensure(answer == "OK", || answer.clone())
    });
}

#[test]
fn a_coordinator_with_an_older_state_goes_on_from_what_the_nodes_know() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster =
        Setup { data_dir: Some(directory.path().to_owned()), heartbeat_timeout: "1s", ..Setup::default() }.start();
    cluster.store(0, "older", 200, "");
    let state = directory.path().join("coordinator.state");
    let older = std::fs::read(&state).unwrap();
    // Meanwhile other nodes lead and take writes.
    cluster.kill(2);
    cluster.wait_until_leads_nothing(2);
    cluster.start_node_again(2);
    cluster.wait_until_settled();
    cluster.store(0, "newer", 200, "");
    let before = cluster.map();

    cluster.coordinator.process.kill();
    std::fs::write(&state, older).unwrap();
    cluster.start_coordinator_again();
    cluster.coordinator.process.says_on_stderr("started with an outdated state");
    cluster.wait_until_settled();
    let after = cluster.map();
    assert_eq!(after.cluster, before.cluster, "it is the same cluster");
    for ((slot, old), (_, new)) in before.slots().zip(after.slots()) {
        assert!(new.epoch.0 > old.epoch.0 + 500_000, "slot {}: {old:?}, {new:?}", slot.0);
    }
    for index in 0..3 {
        cluster.has(index, "older", 200, "");
        cluster.has(index, "newer", 200, "");
    }
}

#[test]
fn a_coordinator_with_an_older_state_says_which_nodes_that_have_left_it_waits_for_until_it_is_to_forget_them() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = Some(directory.path().to_owned());
    let mut cluster = Setup { nodes: 4, data_dir, heartbeat_timeout: "1s", ..Setup::default() }.start();
    cluster.store(0, "older", 200, "");
    let state = directory.path().join("coordinator.state");
    let older = std::fs::read(&state).unwrap();
    let left = cluster.node(3).addr.clone();
    let answer = Connection::open(&cluster.coordinator.addr).ask(&format!("DECOMMISSION {left}"));
    assert!(answer.starts_with("OK "), "{answer}");
    cluster.node_mut(3).process.wait_for_end(3 * SOON);
    cluster.wait_until_settled();
    let before = cluster.map();

    cluster.coordinator.process.kill();
    std::fs::write(&state, older).unwrap();
    cluster.start_coordinator_again();
    let said = format!("promoted until {left} have reported; start them, or FORGET");
    cluster.coordinator.process.says_on_stderr(&said);
    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    let info = coordinator.ask("INFO");
    let knows = format!(" map={} cluster={} ", before.version.0, before.cluster);
    assert!(info.contains(&knows) && info.ends_with(&format!(" waiting_for={left}")), "{knows}: {info}");
    let status = coordinator.ask_lines("STATUS");
    assert!(status[0].contains(&format!("waiting for {left} to report")) && status[0].contains("FORGET"), "{status:?}");
    assert_eq!(coordinator.ask(&format!("FORGET {left}")), format!("OK Node {left} is not waited for"));
    cluster.wait_until_settled();
    cluster.has(0, "older", 200, "");
}

#[test]
fn every_request_succeeds_while_the_coordinator_is_away_and_no_node_fails() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Setup {
        heartbeat_timeout: "1s",
        data_dir: Some(directory.path().to_owned()),
        coordinator_args: &["--ack", "quorum", "--read", "linear"],
        ..Setup::default()
    }
    .start();
    let mut nodes = [0, 1, 2].map(|index| cluster.connect(index));
    let mut round = 0;
    let mut requests_succeed = |what: &str, duration: Duration| {
        throughout(what, duration, || {
            round += 1;
            for (index, node) in nodes.iter_mut().enumerate() {
                let key = format!("away:{round}:{index}");
                for (request, answer) in
                    [(format!("PUT {key} v"), "OK"), (format!("GET {key}"), "VALUE v"), (format!("DELETE {key}"), "OK")]
                {
                    let got = node.ask(&request);
                    ensure(got == answer, || format!("{request}: {got}"))?;
                }
            }
            Ok::<(), String>(())
        });
    };
    cluster.coordinator.process.kill();
    // Longer than any lease and than two heartbeat timeouts.
    requests_succeed("requests without a coordinator", Duration::from_millis(2500));
    cluster.start_coordinator_again();
    requests_succeed("requests while it comes back", Duration::from_millis(1500));
    cluster.wait_until_runners_listed();
}

#[test]
fn a_node_that_dies_while_the_coordinator_is_away_is_replaced_soon_after_that_is_back_with_its_state() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Setup {
        data_dir: Some(directory.path().to_owned()),
        coordinator_args: &["--ack", "quorum", "--read", "linear"],
        ..Setup::default()
    }
    .start();
    let keys = cluster.keys_led_by(0, "both", 100);
    let mut nodes = [1, 2].map(|index| cluster.connect(index));
    nodes[0].send(keys.iter().map(|key| format!("PUT {key} before\n")).collect::<String>());
    for key in &keys {
        assert_eq!(nodes[0].line(), "OK", "{key}");
    }
    cluster.coordinator.process.kill();
    cluster.kill(0);
    cluster.start_coordinator_again();
    let back = Instant::now();
    for (node, key) in nodes.iter_mut().zip(&keys) {
        assert_eq!(node.insist(&format!("PUT {key} before")), "OK");
    }
    assert!(back.elapsed() < REPLACED_WITHIN, "writes waited for {:?}", back.elapsed());
    for node in &mut nodes {
        for key in &keys {
            assert_eq!(node.insist(&format!("GET {key}")), "VALUE before", "{key}");
        }
    }
}

#[test]
fn a_second_coordinator_on_the_same_directory_is_refused_and_leaves_the_first_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made").join("by it");
    let path = path.to_str().unwrap();
    let mut first = server::coordinator(&["--data-dir", path]);
    let ended = server::start_coordinator(0, &["--data-dir", path]).0.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(ended.text(), "", "it has not started");
    let says = format!("another coordinator uses the directory {path}; each needs its own --data-dir");
    assert!(ended.stderr.contains(&says), "{}", ended.stderr);
    assert_eq!(Connection::open(&first.addr).ask("PING"), "PONG");
    // When it ends, however that happens, the directory becomes free. A coordinator that is started earlier waits.
    let third = server::start_coordinator(first.port, &["--data-dir", path]);
    third.0.says_on_stderr(&format!("another process uses the data directory {path}: waiting up to 10s"));
    first.process.kill();
    let third = third.ready();
    assert_eq!(Connection::open(&third.addr).ask("PING"), "PONG");
}

#[test]
fn a_damaged_state_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Setup { nodes: 1, data_dir: Some(directory.path().to_owned()), ..Setup::default() }.start();
    cluster.coordinator.process.kill();
    let file = directory.path().join("coordinator.state");
    let whole = std::fs::read(&file).expect("the state is kept in this file");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let half = whole[..whole.len() / 2].to_vec();
    for (damaged, flaw) in [
        (flipped, "it is damaged"),
        (half, "bytes, but its first line says"),
        (Vec::new(), "its first line is not that of a coordinator's state"),
    ] {
        std::fs::write(&file, &damaged).unwrap();
        let args = ["--data-dir", directory.path().to_str().unwrap()];
        let ended = server::start_coordinator(0, &args).0.wait_for_end(SOON);
        assert_eq!(ended.code, Some(1), "{flaw}: {}", ended.stderr);
        assert_eq!(ended.text(), "", "it has not started");
        let says = |text: &str| assert!(ended.stderr.contains(text), "{text}: {}", ended.stderr);
        says(&format!("the coordinator's state in {} cannot be used", file.display()));
        says(flaw);
        says("Restore the file, or start with another --data-dir");
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "it is left as it is");
    }
    // Once restored, it is good again.
    std::fs::write(&file, &whole).unwrap();
    cluster.start_coordinator_again();
    cluster.wait_until_settled();
}

#[test]
fn slots_whose_every_copy_is_dead_wait_until_an_operator_accepts_the_loss() {
    let mut cluster = Setup {
        nodes: 2,
        replicas: 0,
        heartbeat_timeout: "1s",
        node_args: &["--request-timeout", "2s"],
        ..Setup::default()
    }
    .start();
    let keys = cluster.keys_led_by(0, "accept", 2);
    cluster.store(1, "safe", 20, "");
    let safe = cluster.key_led_by(1, "safe");
    let mut node = cluster.connect(1);
    for key in &keys {
        assert_eq!(node.ask(&format!("PUT {key} gone")), "OK");
    }
    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    assert_eq!(coordinator.ask("ACCEPT_LOSS all"), "OK 0 slots start anew", "nothing is lost");
    for request in ["ACCEPT_LOSS", "ACCEPT_LOSS some", "ACCEPT_LOSS 1 2", "ACCEPT_LOSS -1"] {
        assert_eq!(coordinator.ask(request), "ERROR Invalid ACCEPT_LOSS format", "{request}");
    }
    cluster.kill(0);
    cluster.wait_until_runners_listed();
    for key in &keys {
        for request in [format!("PUT {key} v"), format!("GET {key}")] {
            let answer = node.ask(&request);
            assert!(answer.starts_with("ERROR UNAVAILABLE "), "{request}: {answer}");
        }
    }
    let bits = cluster.map().bits();
    let slot = |key: &str| bits.slot(&proto::slot::Position::of(key.as_bytes())).0;
    assert_ne!(slot(&keys[0]), slot(&keys[1]));
    assert_eq!(coordinator.ask(&format!("ACCEPT_LOSS {}", slot(&safe))), "OK 0 slots start anew");
    assert_eq!(coordinator.ask(&format!("ACCEPT_LOSS {}", slot(&keys[0]))), "OK 1 slots start anew");
    eventually("the slot starts anew, empty", SOON, || {
        let answer = node.ask(&format!("GET {}", keys[0]));
        ensure(answer == "NOT_FOUND", || answer.clone())
    });
    assert_eq!(node.ask(&format!("PUT {} anew", keys[0])), "OK");
    assert!(node.ask(&format!("GET {}", keys[1])).starts_with("ERROR UNAVAILABLE "), "that one was not named");
    let answer = coordinator.ask("accept_loss ALL");
    assert!(answer.starts_with("OK ") && answer.ends_with(" slots start anew") && answer != "OK 0 slots start anew");
    cluster.wait_until_settled();
    assert_eq!(node.ask(&format!("GET {}", keys[1])), "NOT_FOUND");
    assert_eq!(node.ask(&format!("GET {}", keys[0])), "VALUE anew");
    assert_eq!(node.ask(&format!("GET {safe}")), format!("VALUE {safe}"));
    cluster.coordinator.process.says_on_stderr("start empty: an operator accepted");
    let slots: usize = answer.split(' ').nth(1).and_then(|slots| slots.parse().ok()).unwrap();
    let stats = coordinator.ask_lines("STATS");
    let counted = [format!("slots_started_empty {}", slots + 1), "slots_continued_with_older_copies 0".to_owned()];
    assert!(counted.iter().all(|line| stats.contains(line)), "{counted:?}: {stats:?}");
}
