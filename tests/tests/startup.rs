//! Starting: what is printed, and what is refused with which exit code.

use std::time::{Duration, Instant};

use e2e::client;
use e2e::connection::{Connection, exchange};
use e2e::process::{Ended, Process};
use e2e::server::{self, CLOSED_PORT};
use e2e::wait::{SOON, eventually};

#[track_caller]
fn ends(program: &str, args: &[&str]) -> Ended {
    let mut process = Process::start(program, args);
    process.wait_for_end(SOON)
}

/// Asserts that a program cannot run: it exits with code 1, with an error that contains each of `words`, and without a
/// panic.
#[track_caller]
fn cannot_run(program: &str, args: &[&str], words: &[&str]) {
    let ended = ends(program, args);
    assert_eq!(ended.code, Some(1), "{program} {args:?}: {}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{program} {args:?} should name {word:?}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(!ended.text().contains("Started"), "{}", ended.text());
}

#[test]
fn a_coordinator_and_a_node_print_the_first_versions_lines_and_where_the_data_is() {
    let coordinator = server::coordinator(&[]);
    assert_eq!(coordinator.process.stdout(), format!("[Coordinator] Started on 127.0.0.1:{}\n", coordinator.port));
    let node = server::node(coordinator.port, &[]);
    let port = node.port;
    let memory = format!("[Node {port}] {}\n", server::MEMORY_ONLY);
    let registered = format!("[Node {port}] Coordinator response: OK Node 127.0.0.1:{port} registered\n");
    assert_eq!(node.process.stdout(), format!("{memory}{registered}[Node {port}] Started on 127.0.0.1:{port}\n"));
    lists(&coordinator.addr, &format!("OK Nodes:\n  {}\n\nOK\n", node.addr));
}

#[test]
fn a_nodes_port_may_stand_alone_as_in_the_first_version() {
    let coordinator = server::coordinator(&[]);
    // A port that was free a moment ago.
    let free = server::node(coordinator.port, &[]).port;
    let node = server::start_again(|| {
        let args = [free.to_string(), "--coordinator-port".to_owned(), coordinator.port.to_string()];
        server::Starting(Process::start("node", args))
    });
    assert_eq!(node.port, free);
}

/// A node counts from its first heartbeat on, which it sends once it knows that it is registered.
#[track_caller]
fn lists(coordinator: &str, expected: &str) {
    eventually("the nodes are listed", SOON, || {
        let listed = exchange(coordinator, "LIST_NODES\nQUIT\n");
        if listed == expected { Ok(()) } else { Err(listed) }
    });
}

#[test]
fn an_advertised_host_is_the_nodes_name() {
    let coordinator = server::coordinator(&[]);
    let node = server::node(coordinator.port, &["--advertise", "localhost"]);
    let name = format!("localhost:{}", node.port);
    lists(&coordinator.addr, &format!("OK Nodes:\n  {name}\n\nOK\n"));
    let info = Connection::open(&node.addr).ask("INFO");
    assert!(info.starts_with(&format!("OK Node {name} keys=0")), "{info}");
    let registered = format!("[Node {}] Coordinator response: OK Node {name} registered\n", node.port);
    assert!(node.process.stdout().contains(&registered), "{}", node.process.stdout());

    let other = server::node(coordinator.port, &["--advertise", "kv-2.example:7002"]);
    lists(&coordinator.addr, &format!("OK Nodes:\n  kv-2.example:7002\n  {name}\n\nOK\n"));
    assert!(Connection::open(&other.addr).ask("INFO").starts_with("OK Node kv-2.example:7002 keys=0"));
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let coordinator = server::coordinator(&[]);
    let (taken, port) = (&coordinator.addr, coordinator.port.to_string());
    cannot_run("coordinator", &["--port", &port], &[taken, "taken"]);
    cannot_run("node", &[&port, "--coordinator-port", &port], &[taken, "taken"]);
    let listed = Connection::open(&coordinator.addr).ask("LIST_NODES");
    assert_eq!(listed, "OK No nodes registered", "a node binds before it registers");
}

/// Once it is clear that the server there is not just stopping, rather than when the wait for its directory ends.
#[test]
fn a_port_that_is_taken_is_the_error_soon_even_if_the_data_directory_is_in_use_too() {
    let directory = tempfile::tempdir().unwrap();
    let [path, other] = ["node", "coordinator"].map(|name| directory.path().join(name).display().to_string());
    let coordinator = server::coordinator(&["--data-dir", &other]);
    let node = server::node(coordinator.port, &["--data-dir", &path]);
    let start = Instant::now();
    let again = [
        server::start_node(coordinator.port, node.port, &["--data-dir", &path]),
        server::start_coordinator(coordinator.port, &["--data-dir", &other]),
    ];
    for (mut again, addr) in again.into_iter().zip([&node.addr, &coordinator.addr]) {
        let ended = again.0.wait_for_end(SOON);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("{addr} is taken by another program")), "{}", ended.stderr);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn a_data_directory_that_is_a_file_is_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data");
    std::fs::write(&file, "").unwrap();
    let path = file.to_str().unwrap();
    cannot_run("coordinator", &["--port", "0", "--data-dir", path], &[path, "not a directory"]);
    cannot_run("node", &["--port", "0", "--data-dir", path], &[path, "not a directory"]);
}

#[test]
fn a_host_that_does_not_resolve_is_a_clear_error() {
    let nowhere = "no-such-host.invalid";
    cannot_run("coordinator", &["--host", nowhere, "--port", "0"], &[nowhere]);
    cannot_run("node", &["--host", nowhere, "--port", "0"], &[nowhere]);
    let join = ["--port", "0", "--coordinator-host", nowhere, "--join-timeout", "1s"];
    cannot_run("node", &join, &[nowhere]);
}

#[test]
fn a_node_without_a_coordinator_gives_up_after_its_join_timeout() {
    let port = CLOSED_PORT.to_string();
    let coordinator = format!("127.0.0.1:{port}");
    let mut node = Process::start("node", ["--port", "0", "--coordinator-port", &port, "--join-timeout", "1s"]);
    let ended = node.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.took >= Duration::from_millis(700), "it tried for a second, not {:?}", ended.took);
    let tries = ended.stderr.lines().filter(|line| line.contains(&coordinator)).count();
    assert!(tries >= 2, "it says so while it tries, and when it gives up: {}", ended.stderr);
    assert!(!ended.text().contains("Started"), "{}", ended.text());
}

#[test]
fn a_node_whose_coordinator_is_something_else_gives_up() {
    // A node is not a coordinator: it answers, but not what was asked for.
    let coordinator = server::coordinator(&[]);
    let other = server::node(coordinator.port, &[]);
    let port = other.port.to_string();
    let join = ["--port", "0", "--coordinator-port", &port, "--join-timeout", "1s"];
    cannot_run("node", &join, &["what answers there is not a coordinator; it may be a node"]);
}

#[test]
fn absurd_flags_are_usage_errors() {
    let cases: [(&str, &[&[&str]]); 3] = [
        (
            "coordinator",
            &[
                &["--no-such-flag"],
                &["--port", "65536"],
                &["--port", "-1"],
                &["--port", "http"],
                &["--replicas", "16"],
                &["--replicas", "-1"],
                &["--virtual-nodes", "0"],
                &["--virtual-nodes", "1025"],
                &["--heartbeat-timeout", "soon"],
                &["--heartbeat-timeout", "0s"],
                &["--max-clients", "0"],
                &["--log-level", "loud"],
                &["--log-format", "xml"],
                &["stray"],
            ],
        ),
        (
            "node",
            &[
                &[],
                &["--no-such-flag"],
                &["65536"],
                &["port"],
                &["5001", "--port", "5002"],
                &["5001", "5002"],
                &["--port", "0", "--advertise", "not a host"],
                &["--port", "0", "--advertise", "host:0"],
                &["--port", "0", "--coordinator-port", "0"],
                &["--port", "0", "--join-timeout", "x"],
                &["--port", "0", "--heartbeat-interval", "0s"],
                &["--port", "0", "--max-clients", "0"],
                &["--port", "0", "--log-level", "loud"],
            ],
        ),
        ("client", &[&["--no-such-flag"], &["--port", "65536"], &["--timeout", "x"], &["--raw", "--json"], &["stray"]]),
    ];
    for (program, lines) in cases {
        for args in lines {
            let ended = ends(program, args);
            assert_eq!(ended.code, Some(2), "{program} {args:?}: {}{}", ended.text(), ended.stderr);
            assert!(!ended.stderr.is_empty(), "{program} {args:?} should say what is wrong");
            assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        }
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for program in ["coordinator", "node", "client"] {
        let help = ends(program, &["--help"]);
        assert_eq!(help.code, Some(0), "{}", help.stderr);
        assert!(help.text().contains("--port"), "{}", help.text());
        let version = ends(program, &["--version"]);
        assert_eq!(version.code, Some(0), "{}", version.stderr);
        assert!(version.text().contains(program), "{}", version.text());
    }
    let ended = client::run(&["--help"]);
    assert!(ended.text().contains("--command"), "{}", ended.text());
}
