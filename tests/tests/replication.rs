//! The guarantees when a primary is killed or stopped while it takes writes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, Setup};
use e2e::connection::Connection;
use e2e::load::Load;
use e2e::wait::ensure;
use proto::slot::Position;

/// A primary is replaced within 0.7 s, the promises to it run out within as much again, and the rest is a margin for a
/// busy machine.
const REPLACED_WITHIN: Duration = Duration::from_secs(8);

/// The 300 ms after which a read goes to a replica, plus a margin for a busy machine.
const READ_WITHIN: Duration = Duration::from_secs(6);

/// Asserts that a linear read through each of these nodes returns each key's own name.
fn has_all<'a>(cluster: &Cluster, through: &[usize], keys: impl Iterator<Item = &'a String> + Clone) {
    for index in through {
        let mut node = cluster.connect_at(*index, "quorum", "linear");
        let requests: Vec<_> = keys.clone().map(|key| format!("GET {key}")).collect();
        for (key, answer) in keys.clone().zip(node.insist_all(&requests)) {
            assert_eq!(answer, format!("VALUE {key}"), "through {}", cluster.node(*index).addr);
        }
    }
}

#[test]
fn quorum_writes_that_were_answered_survive_the_kill_of_their_primary_at_once_after_the_answer() {
    let mut cluster = Setup::default().start();
    let keys = cluster.keys_led_by(0, "answered", 1_000);
    let mut node = cluster.connect_at(0, "quorum", "linear");
    node.send(keys.iter().map(|key| format!("PUT {key} {key}\n")).collect::<String>());
    for key in &keys {
        assert_eq!(node.line(), "OK", "{key}");
    }
    cluster.kill(0);
    has_all(&cluster, &[1, 2], keys.iter());
}

#[test]
fn quorum_writes_that_were_answered_survive_the_kill_of_their_primary_among_others() {
    let mut cluster = Setup::default().start();
    let answered = Arc::new(Mutex::new(BTreeSet::new()));
    // Straight to the primary, so that each load ends with it: whether its last write took effect is unknown.
    let loads: Vec<_> = (0..4)
        .map(|client| {
            let keys = cluster.keys_led_by(0, &format!("among:{client}"), 2_000);
            let mut node = cluster.connect_at(0, "quorum", "linear");
            let answered = Arc::clone(&answered);
            Load::start("writing", move |round| {
                let key = &keys[usize::try_from(round).unwrap_or(usize::MAX) % keys.len()];
                if node.try_ask(&format!("PUT {key} {key}")).is_ok_and(|answer| answer == "OK") {
                    answered.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
                }
                Ok(())
            })
        })
        .collect();
    loads.iter().for_each(|load| load.goes_on_for(50));
    cluster.kill(0);
    for load in loads {
        load.finish_without_failure();
    }
    let answered = answered.lock().unwrap();
    assert!(answered.len() >= 4 * 50, "{}", answered.len());
    has_all(&cluster, &[1, 2], answered.iter());
}

#[test]
fn writes_to_every_slot_of_a_killed_primary_go_on_soon_although_its_heartbeat_timeout_is_far_away() {
    let mut cluster = Setup { heartbeat_timeout: "60s", ..Setup::default() }.start();
    // One key in each of many slots.
    let mut slots = BTreeSet::new();
    let bits = cluster.map().bits();
    let mut keys = cluster.keys_led_by(0, "gap", 500);
    keys.retain(|key| slots.insert(bits.slot(&Position::of(key.as_bytes()))));
    assert!(keys.len() > 100, "{} slots", keys.len());
    let mut nodes = [1, 2].map(|index| cluster.connect_at(index, "quorum", "linear"));
    // On a busy machine copies may be out of sync for a moment: a slot without others would wait for the heartbeats.
    cluster.wait_until_settled();
    cluster.kill(0);
    let killed = Instant::now();
    let requests: Vec<_> = keys.iter().map(|key| format!("PUT {key} {key}")).collect();
    for node in &mut nodes {
        assert!(node.insist_all(&requests).iter().all(|answer| answer == "OK"));
    }
    let gap = killed.elapsed();
    assert!(gap < REPLACED_WITHIN, "writes paused for {gap:?}");
    assert!(cluster.listed().contains(&cluster.node(0).addr), "it is replaced before it is taken off the ring");
    has_all(&cluster, &[1, 2], keys.iter());
}

#[cfg(unix)]
#[test]
fn local_reads_never_stop_while_a_primary_is_paused_and_then_killed() {
    let mut cluster = Setup::default().start();
    cluster.store(1, "never-stop", 300, "");
    let reads = [1, 2].map(|index| {
        let mut node = cluster.connect_at(index, "quorum", "local");
        node.answers_within(READ_WITHIN);
        Load::start("reading", move |round| {
            let key = format!("never-stop:{}", round % 300);
            let answer = node.try_ask(&format!("GET {key}")).unwrap_or_else(|error| format!("no answer: {error}"));
            ensure(answer == format!("VALUE {key}"), || format!("GET {key}: {answer}"))
        })
    });
    cluster.node(0).process.pause();
    cluster.wait_until_leads_nothing(0);
    reads.iter().for_each(|load| load.goes_on_for(300));
    cluster.node(0).process.resume();
    cluster.wait_until_settled();
    reads.iter().for_each(|load| load.goes_on_for(300));
    cluster.kill(0);
    cluster.wait_until_leads_nothing(0);
    reads.iter().for_each(|load| load.goes_on_for(300));
    for load in reads {
        load.finish_without_failure();
    }
}

#[cfg(unix)]
#[test]
fn what_was_passed_on_to_a_node_that_hangs_is_told_to_be_unknown_long_before_its_time_is_up() {
    let cluster = Setup { nodes: 2, replicas: 0, heartbeat_timeout: "60s", ..Setup::default() }.start();
    let keys = cluster.keys_led_by(1, "hangs", 2);
    let mut client = cluster.connect(0);
    assert_eq!(client.ask(&format!("PUT {} before", keys[0])), "OK");
    cluster.node(1).process.pause();
    let asked = Instant::now();
    let answer = client.ask(&format!("PUT {} meanwhile", keys[0]));
    assert!(answer.starts_with("ERROR UNKNOWN "), "{answer}");
    // A request may take 15 s, but the connection may be silent for only two to three.
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    cluster.node(1).process.resume();
    assert_eq!(client.ask(&format!("PUT {} after", keys[1])), "OK");
    assert_eq!(client.ask(&format!("GET {}", keys[1])), "VALUE after");
}

#[cfg(unix)]
#[test]
fn a_planned_stop_of_a_primary_fails_no_quorum_write_and_pauses_them_only_briefly() {
    let mut cluster = Setup { coordinator_args: &["--ack", "quorum"], ..Setup::default() }.start();
    let longest = Arc::new(AtomicU64::new(0));
    let writes = [(1, "planned-a"), (2, "planned-b")].map(|(index, prefix)| {
        let mut node = Connection::open(&cluster.node(index).addr);
        let longest = Arc::clone(&longest);
        Load::start("writing", move |round| {
            let sent = Instant::now();
            let answer = node.try_ask(&format!("PUT {prefix}:{round} {prefix}:{round}"));
            longest.fetch_max(u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            let answer = answer.unwrap_or_else(|error| format!("no answer: {error}"));
            ensure(answer == "OK", || format!("PUT {prefix}:{round}: {answer}"))
        })
    });
    writes.iter().for_each(|load| load.goes_on_for(100));
    let ended = cluster.node_mut(0).stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    writes.iter().for_each(|load| load.goes_on_for(300));
    let longest = Duration::from_millis(longest.load(Ordering::Relaxed));
    for (load, prefix) in writes.into_iter().zip(["planned-a", "planned-b"]) {
        let written = load.finish_without_failure();
        let keys: Vec<_> = (0..written).map(|round| format!("{prefix}:{round}")).collect();
        has_all(&cluster, &[1, 2], keys.iter());
    }
    assert!(longest < REPLACED_WITHIN, "a write waited for {longest:?}");
}
