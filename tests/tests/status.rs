//! What `STATUS` reports and what `WAIT_HEALTHY` waits for.

use std::time::{Duration, Instant};

use e2e::client;
use e2e::cluster::{Cluster, Setup};
use e2e::connection::Connection;
use e2e::wait::{self, ensure, eventually};

fn coordinator(cluster: &Cluster) -> Connection {
    Connection::open(&cluster.coordinator.addr)
}

/// Waits until `STATUS` satisfies `fits`.
#[track_caller]
fn status_becomes(cluster: &Cluster, what: &str, fits: impl Fn(&[String]) -> bool) -> Vec<String> {
    let mut coordinator = coordinator(cluster);
    eventually(what, 2 * wait::SOON, || {
        let lines = coordinator.ask_lines("STATUS");
        ensure(fits(&lines), || format!("{lines:#?}")).map(|()| lines)
    })
}

fn begins(lines: &[String], word: &str) -> bool {
    lines.first().is_some_and(|first| first.starts_with(&format!("OK Status {word}: ")))
}

#[test]
fn a_whole_cluster_is_healthy_and_who_waits_for_that_is_answered_at_once() {
    let cluster = Setup::default().start();
    let healthy = "OK Status healthy: all 16384 slots have 3 of 3 copies in sync, on 3 nodes, and nothing moves";
    assert_eq!(coordinator(&cluster).ask("WAIT_HEALTHY 90s"), "OK");
    status_becomes(&cluster, "all is well", |lines| *lines == [healthy]);
    let port = cluster.coordinator.port;
    // On a busy machine, a node may miss heartbeats for a moment.
    for (command, more, expected) in [
        ("STATUS", &[][..], format!("{healthy}\n")),
        (
            "STATUS",
            &["--json"],
            format!("{{\"command\":\"STATUS\",\"lines\":[\"{healthy}\"],\"ok\":true,\"status\":\"healthy\"}}\n"),
        ),
        ("WAIT_HEALTHY 1500ms", &[], "OK\n".to_owned()),
    ] {
        eventually(command, wait::SOON, || {
            let printed = client::printed(&client::command(port, command, more));
            ensure(printed == expected, || printed.clone())
        });
    }
}

#[test]
fn a_dead_node_is_named_first_as_silent_and_then_as_missing_until_another_comes() {
    let mut cluster = Setup { heartbeat_timeout: "4s", ..Setup::default() }.start();
    let dead = cluster.node(2).addr.clone();
    cluster.kill(2);
    status_becomes(&cluster, "the dead node is named", |lines| {
        let says = |words: &str| lines.iter().any(|line| line.contains(words));
        begins(lines, "degraded")
            && says(&format!("node {dead} has been silent"))
            && says(&format!("slots have 2 of 3 copies in sync, {dead} not responding: restart it"))
    });

    let answer = coordinator(&cluster).ask("WAIT_HEALTHY 100ms");
    assert!(answer.starts_with("ERROR TIMEOUT not healthy after 100 ms: "), "{answer}");
    for millis in [1, 300] {
        let ended = client::command(cluster.coordinator.port, &format!("WAIT_HEALTHY {millis}ms"), &[]);
        let printed = client::printed(&ended);
        let told = format!("not healthy after {millis} ms: ");
        assert!(ended.code == Some(4) && printed.contains(&told), "the time asked for, not what is left: {printed}");
    }

    let too_few = "16384 slots have 2 of 3 copies in sync, there are only 2 nodes for 3 copies: start another node";
    let is_told = |lines: &[String]| lines.iter().any(|line| line.starts_with(too_few));
    status_becomes(&cluster, "a node is missing", |lines| begins(lines, "degraded") && is_told(lines));

    // A waiting client is answered once the cluster is whole again, and others are served meanwhile, on the same
    // machine and elsewhere.
    let mut waiting = coordinator(&cluster);
    waiting.send("WAIT_HEALTHY 60s\nPING\n");
    assert_eq!(coordinator(&cluster).ask("PING"), "PONG");
    cluster.add_node();
    assert_eq!(waiting.line(), "OK");
    assert_eq!(waiting.line(), "PONG");
    status_becomes(&cluster, "all is whole", |lines| begins(lines, "healthy"));
}

#[test]
fn a_node_that_is_being_filled_is_told_with_how_far_it_is() {
    let mut cluster = Setup::default().start();
    let value = "x".repeat(500);
    cluster.store(0, "fill", 4_000, &value);
    // Watched for from before it begins, since it may not take long. On a busy machine others may be filled as well.
    let at = cluster.coordinator.addr.clone();
    let others: Vec<_> = cluster.nodes().iter().map(|node| format!("node {} ", node.addr)).collect();
    let watching = std::thread::spawn(move || {
        let mut coordinator = Connection::open(&at);
        eventually("a node is being filled", 2 * wait::SOON, || {
            let lines = coordinator.ask_lines("STATUS");
            let is_new = |line: &&String| !others.iter().any(|other| line.starts_with(other));
            let is_told = |line: &&String| line.contains(" is being filled: ") && line.ends_with(" to go");
            let line = lines.iter().find(|line| is_told(line) && is_new(line));
            line.cloned().ok_or_else(|| format!("{lines:#?}"))
        })
    });
    let new = cluster.add_node();
    let line = watching.join().expect("it was seen");
    let filling = format!("node {} is being filled: ", cluster.node(new).addr);
    assert!(line.starts_with(&filling) && line.contains(" slots done"), "{line}");
    assert_eq!(coordinator(&cluster).ask("WAIT_HEALTHY"), "OK");
    cluster.wait_until_settled();
}

#[test]
fn slots_that_wait_for_their_last_holder_say_for_whom_and_what_can_be_done() {
    let mut cluster = Setup { nodes: 2, replicas: 0, heartbeat_timeout: "1s", ..Setup::default() }.start();
    let last = cluster.node(1).addr.clone();
    cluster.kill(1);
    let waits = format!("slots wait for {last}, the last holder: start it, or accept the loss with");
    let lines = status_becomes(&cluster, "its slots wait", |lines| {
        begins(lines, "unavailable") && lines.iter().any(|line| line.contains(&waits))
    });
    assert!(lines.iter().any(|line| line.contains("ACCEPT_LOSS slot|all: slots ")), "{lines:#?}");
    eventually("the loss can be accepted", wait::SOON, || {
        coordinator(&cluster).ask("ACCEPT_LOSS all");
        let answer = coordinator(&cluster).ask("WAIT_HEALTHY 1s");
        ensure(answer == "OK", || answer.clone())
    });
}

#[test]
fn a_wait_ends_with_its_client() {
    let cluster =
        Setup { nodes: 1, replicas: 1, coordinator_args: &["--max-clients", "3"], ..Setup::default() }.start();
    let start = Instant::now();
    // The node takes one of the three places. If disconnected clients went on waiting, there would soon be none left.
    for _ in 0..5 {
        eventually("there is room for one more", wait::SOON, || {
            let mut waiting = coordinator(&cluster);
            let answer = waiting.ask("PING");
            ensure(answer == "PONG", || answer.clone())?;
            waiting.send("WAIT_HEALTHY 1h\n");
            Ok::<(), String>(())
        });
    }
    assert!(start.elapsed() < Duration::from_secs(60));
    let answer = eventually("there is room for one more", wait::SOON, || {
        let answer = coordinator(&cluster).ask("WAIT_HEALTHY later");
        ensure(!answer.starts_with("ERROR BUSY"), || answer.clone()).map(|()| answer)
    });
    assert_eq!(answer, "ERROR Invalid WAIT_HEALTHY format");
}
