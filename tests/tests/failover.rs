//! The guarantees when a node dies, hangs, or is slow.

use std::time::{Duration, Instant};

use e2e::cluster::Setup;
use e2e::wait::{SOON, ensure, eventually};
use proto::slot::Position;

/// The 300 ms after which a read goes to a replica, plus a margin for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(6);

#[test]
fn an_answer_is_not_kept_back_for_a_request_whose_primary_is_dead_and_has_no_successor() {
    // Longer than what is expected at once.
    let mut cluster = Setup { node_args: &["--request-timeout", "9s"], ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "kept-back");
    let mut other = cluster.connect(1);
    // Without it nobody is promoted.
    cluster.coordinator.process.kill();
    cluster.kill(0);
    other.send(format!("PING\nPUT {key} v\nPING\n"));
    other.answers_within(AT_ONCE);
    assert_eq!(other.line(), "PONG");
    other.answers_within(SOON);
    let refused = other.line();
    assert!(refused.starts_with("ERROR UNAVAILABLE "), "{refused}");
    assert_eq!(other.line(), "PONG");
}

#[test]
fn a_read_is_answered_by_a_replica_at_once_when_the_primary_is_killed() {
    // A timeout long enough that nobody is removed while this test runs.
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "at-once");
    assert_eq!(cluster.connect(0).ask(&format!("PUT {key} survives")), "OK");
    cluster.wait_until_level();
    let mut others = [cluster.connect(1), cluster.connect(2)];
    cluster.kill(0);
    for other in &mut others {
        other.answers_within(AT_ONCE);
        assert_eq!(other.ask(&format!("GET {key}")), "VALUE survives");
        assert_eq!(other.ask(&format!("GET {key}-absent")), "NOT_FOUND");
    }
}

#[test]
fn writes_go_on_at_a_new_primary_with_every_value_there() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    cluster.store(0, "failover", 1_000, "");
    let key = cluster.key_led_by(0, "failover");
    let before = cluster.map();
    let killed = cluster.node(0).addr.clone();
    cluster.kill(0);
    for index in [1, 2] {
        let mut node = cluster.connect(index);
        eventually("a write to a key of the dead primary is taken", SOON, || {
            let answer = node.ask(&format!("PUT {key} written after {index}"));
            ensure(answer == "OK", || answer.clone())
        });
        assert_eq!(node.ask(&format!("GET {key}")), format!("VALUE written after {index}"));
    }
    cluster.wait_until_runners_listed();
    cluster.wait_until_settled();
    let after = cluster.map();
    assert!(after.version > before.version, "the map's version grows with every change");
    let taken_over = before.slots().zip(after.slots()).filter(|((slot, _), _)| {
        before.holders(*slot).next().is_some_and(|(_, member)| member.addr.as_str() == killed)
    });
    for ((slot, old), (_, new)) in taken_over {
        assert!(new.epoch > old.epoch, "slot {} has a new primary and needs a higher epoch", slot.0);
    }
    assert_eq!(cluster.connect(1).ask(&format!("PUT {key} {key}")), "OK");
    for index in [1, 2] {
        cluster.has(index, "failover", 1_000, "");
    }
}

#[test]
fn every_key_is_read_from_the_only_copy_that_is_left() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    cluster.store(0, "only-copy", 200, "");
    // The remaining node leads a third of the keys, and is the first replica of another third and the second of the
    // last.
    cluster.kill(0);
    cluster.kill(1);
    let mut left = cluster.connect(2);
    for i in 0..200 {
        left.answers_within(AT_ONCE);
        assert_eq!(left.ask(&format!("GET only-copy:{i}")), format!("VALUE only-copy:{i}"));
    }
}

#[test]
fn two_deaths_in_a_row_lose_nothing() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    cluster.store(0, "in-a-row", 500, "");
    cluster.kill(0);
    cluster.wait_until_led();
    cluster.has(1, "in-a-row", 500, "");
    cluster.store(1, "in-a-row", 500, " once more");
    cluster.kill(1);
    cluster.wait_until_led();
    cluster.has(2, "in-a-row", 500, " once more");
    cluster.store(2, "in-a-row", 500, " alone");
    cluster.has(2, "in-a-row", 500, " alone");
}

#[test]
fn a_deleted_key_stays_deleted_at_failover() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    let keys = cluster.keys_led_by(0, "deleted", 50);
    let mut node = cluster.connect(1);
    for request in ["PUT KEY doomed\n", "DELETE KEY\n"] {
        node.send(keys.iter().map(|key| request.replace("KEY", key)).collect::<String>());
        for key in &keys {
            assert_eq!(node.line(), "OK", "{key}");
        }
        cluster.wait_until_level();
    }
    cluster.kill(0);
    let all_absent = |when: &str| {
        for index in [1, 2] {
            let mut node = cluster.connect(index);
            node.send(keys.iter().map(|key| format!("GET {key}\n")).collect::<String>());
            for key in &keys {
                assert_eq!(node.line(), "NOT_FOUND", "{key} {when}");
            }
        }
    };
    all_absent("at a replica, at once");
    cluster.wait_until_led();
    all_absent("at the new primary");
    for index in [1, 2] {
        assert_eq!(cluster.keys_on(index), 0, "a deleted key does not count");
    }
}

#[test]
fn a_write_to_a_dead_primary_is_never_answered_ok_and_lost() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    let keys = cluster.keys_led_by(0, "dead-primary", 40);
    cluster.kill(0);
    let mut node = cluster.connect(1);
    let mut taken = Vec::new();
    for key in &keys {
        let answer = node.ask(&format!("PUT {key} {key}"));
        match answer.as_str() {
            "OK" => taken.push(key),
            _ => assert!(
                answer.starts_with("ERROR UNAVAILABLE ") || answer.starts_with("ERROR UNKNOWN "),
                "refused, or unknown, and nothing else: {answer}"
            ),
        }
    }
    cluster.wait_until_led();
    for key in taken {
        assert_eq!(node.ask(&format!("GET {key}")), format!("VALUE {key}"));
    }
}

#[cfg(unix)]
#[test]
fn a_write_that_was_never_sent_to_a_primary_that_hangs_is_refused_and_not_unknown() {
    // Each attempt to connect takes 300 ms, so the second one is in progress when the time is up.
    let setup = Setup { nodes: 2, replicas: 0, node_args: &["--request-timeout", "500ms"], ..Setup::default() };
    let cluster = setup.start();
    let key = cluster.key_led_by(0, "never-sent");
    let mut other = cluster.connect(1);
    cluster.node(0).process.pause();
    let answer = other.ask(&format!("PUT {key} v"));
    assert!(answer.starts_with("ERROR UNAVAILABLE ") && answer.contains("nothing was changed"), "{answer}");
    cluster.node(0).process.resume();
    assert_eq!(other.ask(&format!("GET {key}")), "NOT_FOUND");
}

#[cfg(unix)]
#[test]
fn a_key_of_a_primary_that_hangs_is_read_from_a_replica() {
    let cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "hangs");
    assert_eq!(cluster.connect(1).ask(&format!("PUT {key} value")), "OK");
    cluster.wait_until_level();
    cluster.node(0).process.pause();
    for index in [1, 2] {
        let mut node = cluster.connect(index);
        node.answers_within(AT_ONCE);
        assert_eq!(node.ask(&format!("GET {key}")), "VALUE value");
    }
    cluster.node(0).process.resume();
    // It may have been replaced in the meantime: a local read may then still come from it, and a write that it takes
    // before it learns of that has an unknown outcome.
    let mut node = cluster.connect_at(1, "quorum", "linear");
    eventually("the key is written", SOON, || match node.insist(&format!("PUT {key} after")) {
        answer if answer.starts_with("ERROR UNKNOWN ") => Err(answer),
        answer => {
            assert_eq!(answer, "OK");
            Ok(())
        }
    });
    assert_eq!(cluster.connect_at(2, "quorum", "linear").insist(&format!("GET {key}")), "VALUE after");
}

#[cfg(unix)]
#[test]
fn a_node_without_a_copy_reads_from_a_replica_while_the_map_names_a_primary_that_hangs() {
    let cluster = Setup { nodes: 4, replicas: 1, heartbeat_timeout: "300s", ..Setup::default() }.start();
    let map = cluster.map();
    let without = |key: &str, index: usize| {
        let addr = cluster.node(index).addr.as_str();
        map.holders(map.bits().slot(&Position::of(key.as_bytes()))).all(|(_, member)| member.addr.as_str() != addr)
    };
    let keys: Vec<String> =
        cluster.keys_led_by(0, "elsewhere", 100).into_iter().filter(|key| without(key, 1)).take(5).collect();
    assert!(!keys.is_empty(), "node 1 has a copy of everything");
    for key in &keys {
        assert_eq!(cluster.connect(1).ask(&format!("PUT {key} value")), "OK");
    }
    cluster.wait_until_level();
    // Nobody changes the map.
    cluster.coordinator.process.pause();
    cluster.node(0).process.pause();
    let mut node = cluster.connect(1);
    node.answers_within(AT_ONCE);
    for key in &keys {
        assert_eq!(node.ask(&format!("GET {key}")), "VALUE value");
    }
    cluster.node(0).process.resume();
    cluster.coordinator.process.resume();
}

#[cfg(unix)]
#[test]
fn a_replica_that_hangs_slows_nobody_and_is_level_again_afterwards() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    cluster.store(0, "slow", 300, " before");
    cluster.wait_until_settled();
    let keys = cluster.keys_led_by(0, "slow-large", 60);
    cluster.node(2).process.pause();
    // 60 MB: more than the kernel and any queue hold for a replica that reads nothing.
    let megabyte = "m".repeat(1_000_000);
    let mut node = cluster.connect(0);
    for key in &keys {
        let start = Instant::now();
        assert_eq!(node.ask(&format!("PUT {key} {megabyte}")), "OK");
        assert!(start.elapsed() < AT_ONCE, "a write waited {:?} for a replica", start.elapsed());
    }
    let small = cluster.keys_led_by(0, "slow-small", 500);
    node.answers_within(AT_ONCE);
    node.send(small.iter().map(|key| format!("PUT {key} {key}\n")).collect::<String>());
    for _ in &small {
        assert_eq!(node.line(), "OK");
    }
    let lag: u64 = cluster.info(0)["lag"].parse().unwrap();
    assert!(lag > 0, "what is not yet sent on is visible");

    cluster.node(2).process.resume();
    cluster.wait_until_level();
    cluster.wait_until_settled();
    eventually("the replica holds every key again", SOON, || {
        let keys = cluster.keys_on(2);
        ensure(keys == 300 + 60 + 500, || format!("{keys} keys"))
    });
    // From its own memory.
    cluster.kill(0);
    cluster.kill(1);
    let mut left = cluster.connect(2);
    for key in &keys {
        assert!(left.ask(&format!("GET {key}")) == format!("VALUE {megabyte}"), "{key}");
    }
    for key in &small {
        assert_eq!(left.ask(&format!("GET {key}")), format!("VALUE {key}"));
    }
}

#[test]
fn a_write_that_its_primary_never_answered_says_so_and_may_be_repeated_with_the_same_identity() {
    let setup = Setup { nodes: 2, replicas: 0, node_args: &["--request-timeout", "500ms"], ..Setup::default() };
    let cluster = setup.start();
    let key = cluster.key_led_by(0, "unanswered");
    let mut node = cluster.connect(1);
    // The connection between the nodes is open: what is sent on it arrives.
    assert_eq!(node.ask(&format!("PUT {key} old")), "OK");
    cluster.node(0).process.pause();
    let unanswered = "ERROR UNKNOWN the write was sent to the primary, which did not answer: it may or may not have taken \
                      effect; ";
    let once = format!("ONCE client 1 PUT {key} new");
    assert_eq!(node.ask(&once), format!("{unanswered}repeat it with the same ONCE"));
    cluster.node(0).process.resume();
    assert_eq!(node.insist(&once), "OK");
    assert_eq!(node.insist(&format!("GET {key}")), "VALUE new");
}
