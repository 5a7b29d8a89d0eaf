//! Planned stops.
#![cfg(unix)]

#[cfg(target_os = "linux")]
use std::process::Command;
use std::time::Duration;

use e2e::cluster::Setup;
use e2e::connection::{Connection, array};
use e2e::load::Load;
#[cfg(target_os = "linux")]
use e2e::process::{Process, program};
use e2e::server;
use nix::sys::signal::Signal;

/// The most time a server may take to stop.
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn a_coordinator_stops_on_sigterm_and_on_ctrl_c() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut coordinator = server::coordinator(&[]);
        let mut idle = Connection::open(&coordinator.addr);
        assert_eq!(idle.ask("PING"), "PONG");
        coordinator.process.signal(signal);
        let ended = coordinator.process.wait_for_end(LIMIT);
        assert_eq!(ended.code, Some(0), "{signal}: {}", ended.stderr);
        idle.is_closed();
        assert!(Connection::try_open(&coordinator.addr).is_err(), "nobody listens any more");
    }
}

#[test]
fn a_node_stops_on_sigterm_and_on_ctrl_c_and_is_off_the_ring_at_once() {
    // A timeout so long that only the node's own farewell can take it off the list.
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    for (index, signal) in [(0, Signal::SIGTERM), (1, Signal::SIGINT)] {
        let mut idle = cluster.connect(index);
        assert_eq!(idle.ask("PING"), "PONG");
        cluster.node(index).process.signal(signal);
        let ended = cluster.node_mut(index).process.wait_for_end(LIMIT);
        assert_eq!(ended.code, Some(0), "{signal}: {}", ended.stderr);
        assert!(!cluster.listed().contains(&cluster.node(index).addr), "off the ring when it has ended");
        idle.is_closed();
    }
    cluster.wait_until_settled();
    assert_eq!(cluster.connect(2).ask("PUT alone works"), "OK");
    assert_eq!(cluster.connect(2).ask("GET alone"), "VALUE works");
}

#[cfg(target_os = "linux")]
#[test]
fn servers_stop_on_sighup_as_on_sigterm_but_not_if_they_were_started_to_ignore_it() {
    // Where `nohup` ignores it for these tests, it would for the servers, too; a signal that is caught is theirs again.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let caught = async { tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()) };
    let _caught = runtime.block_on(caught).expect("a process may catch SIGHUP");
    let mut cluster = Setup { nodes: 2, heartbeat_timeout: "300s", ..Setup::default() }.start();
    cluster.node(0).process.signal(Signal::SIGHUP);
    let ended = cluster.node_mut(0).process.wait_for_end(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(cluster.listed(), [cluster.node(1).addr.clone()]);
    cluster.coordinator.process.signal(Signal::SIGHUP);
    let ended = cluster.coordinator.process.wait_for_end(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" --port 0"]).arg(program("coordinator"));
    let mut coordinator = server::Starting(Process::spawn("coordinator", &mut shell)).ready();
    // It answers once it waits for signals.
    assert_eq!(Connection::open(&coordinator.addr).ask("PING"), "PONG");
    let status = std::fs::read_to_string(format!("/proc/{}/status", coordinator.process.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("Linux tells what is ignored");
    let mask = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
    assert_eq!(mask & 1, 1, "SIGHUP is the first: {ignored}");
    coordinator.process.signal(Signal::SIGHUP);
    assert_eq!(Connection::open(&coordinator.addr).ask("PING"), "PONG");
    assert_eq!(coordinator.stop().code, Some(0));
}

#[test]
fn stopping_a_node_right_after_its_answers_loses_nothing() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    let keys = cluster.keys_led_by(0, "last-words", 3_000);
    let mut node = cluster.connect(0);
    node.send(keys.iter().map(|key| format!("PUT {key} {key}\n")).collect::<String>());
    for key in &keys {
        assert_eq!(node.line(), "OK", "{key}");
    }
    // Most of the writes are still in the queues to the replicas now.
    let ended = cluster.node_mut(0).stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for index in [1, 2] {
        let mut node = cluster.connect(index);
        for key in &keys {
            assert_eq!(node.ask(&format!("GET {key}")), format!("VALUE {key}"));
        }
    }
}

#[test]
fn what_is_in_flight_is_finished_before_a_node_stops() {
    let mut cluster = Setup { nodes: 1, heartbeat_timeout: "300s", ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    let requests = (0..2_000).map(|i| format!("PUT in-flight:{i} {i}\n")).collect::<String>();
    node.send(&requests);
    // The first answer proves that the node has read from this connection.
    assert_eq!(node.line(), "OK");
    cluster.node(0).process.signal(Signal::SIGTERM);
    let answers = String::from_utf8(node.rest()).expect("answers are text");
    assert!(answers.lines().all(|line| line == "OK"), "{answers}");
    assert!(answers.is_empty() || answers.ends_with('\n'), "no answer is cut");
    let ended = cluster.node_mut(0).process.wait_for_end(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_write_that_comes_while_a_node_stops_is_passed_on_to_the_next_primary() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "passed-on");
    let mut node = cluster.connect(0);
    let (begin, begun) = std::sync::mpsc::channel();
    let writes = std::thread::spawn(move || {
        let mut answers = Vec::new();
        while let Ok(answer) = node.try_ask(&format!("PUT {key} {}", answers.len())) {
            answers.push(answer);
            let _ = begin.send(());
        }
        answers
    });
    // On a busy machine the thread may start late.
    begun.recv().expect("a write is answered before the node stops");
    let ended = cluster.node_mut(0).stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("did not finish in time"), "{}", ended.stderr);
    let answers = writes.join().unwrap();
    assert!(!answers.is_empty() && answers.iter().all(|answer| answer == "OK"), "{answers:?}");
}

#[test]
fn a_client_that_never_reads_does_not_keep_a_node_from_stopping() {
    let mut cluster = Setup { nodes: 1, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    assert_eq!(node.ask(&format!("PUT never-read {}", "x".repeat(1_000_000))), "OK");
    node.send("GET never-read\n".repeat(50));
    let ended = cluster.node_mut(0).stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_node_that_is_stopped_and_started_again_under_load_fails_no_request_of_the_others() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    cluster.store(0, "rolling", 500, "");
    let reads = Load::of_reads(&cluster.node(0).addr, "rolling", 500, "");
    let writes = Load::of_writes(&cluster.node(1).addr, "rolling-new");
    writes.goes_on_for(50);
    let ended = cluster.node_mut(2).stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    writes.goes_on_for(50);
    cluster.start_node_again(2);
    cluster.wait_until_settled();
    reads.finish_without_failure();
    let written = usize::try_from(writes.finish_without_failure()).unwrap();
    cluster.has(2, "rolling", 500, "");
    cluster.has(2, "rolling-new", written, "");
}

#[test]
fn a_node_stops_in_time_although_its_coordinator_is_gone_and_a_replica_hangs() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    let keys = cluster.keys_led_by(0, "hanging", 200);
    cluster.node(1).process.pause();
    let mut node = cluster.connect(0);
    node.send(keys.iter().map(|key| format!("PUT {key} {}\n", "x".repeat(10_000))).collect::<String>());
    for _ in &keys {
        assert_eq!(node.line(), "OK");
    }
    cluster.coordinator.process.kill();
    let ended = cluster.node_mut(0).stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn what_waits_for_other_nodes_is_answered_when_a_node_stops() {
    // Nobody takes over from the node that hangs. Without an answer from it, a request may take far longer than a stop.
    let setup = Setup { nodes: 2, replicas: 0, heartbeat_timeout: "300s", ..Setup::default() };
    let mut cluster = Setup { node_args: &["--request-timeout", "60s"], ..setup }.start();
    cluster.node(0).process.pause();
    let asked = ["WAIT 1 60000", "FLUSHALL", "COUNT a"].map(|request| {
        let mut node = cluster.connect(1);
        let request: Vec<_> = request.split(' ').collect();
        node.send([array(&["PING"]), array(&request)].concat());
        // They have arrived together.
        assert_eq!(node.line(), "+PONG\r");
        node
    });
    cluster.node(1).process.signal(Signal::SIGTERM);
    let answers = asked.map(|mut node| String::from_utf8(node.rest()).expect("answers are text"));
    let stopping = "this node is stopping";
    let half_done =
        "-UNKNOWN some keys may have been changed and others not, repeat it; one part was answered: UNAVAILABLE ";
    assert!(answers[0].starts_with(":0\r\n"), "{answers:?}");
    assert!(answers[1].starts_with(&format!("{half_done}{stopping}, ask another one\r\n")), "{answers:?}");
    assert!(
        answers[2].starts_with(&format!("-UNAVAILABLE {stopping}; nothing was changed, ask another one\r\n")),
        "{answers:?}"
    );
    let ended = cluster.node_mut(1).process.wait_for_end(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("did not finish in time"), "{}", ended.stderr);
}

#[test]
fn a_comparison_of_copies_is_answered_when_a_node_stops() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    cluster.store(0, "compared", 100, "");
    cluster.wait_until_level();
    // The digests of this one are awaited for a minute.
    cluster.node(2).process.pause();
    let mut node = cluster.connect(0);
    node.send("PING\nVERIFY\n");
    assert_eq!(node.line(), "PONG");
    cluster.node(0).process.signal(Signal::SIGTERM);
    let answer = String::from_utf8(node.rest()).expect("answers are text");
    assert!(answer == "ERROR UNAVAILABLE this node is stopping; nothing was changed, ask another one\n", "{answer}");
    let ended = cluster.node_mut(0).process.wait_for_end(LIMIT);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    cluster.node(2).process.resume();
}
