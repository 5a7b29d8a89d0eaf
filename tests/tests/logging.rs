//! What the servers log, and where to.

use std::io::BufRead as _;
use std::process::{Command, Stdio};

use e2e::cluster::Setup;
use e2e::connection::Connection;
use e2e::process::{Process, program};
use e2e::server::{self, Starting};
use e2e::wait::{SOON, ensure, eventually};

#[test]
fn a_node_that_registers_leaves_is_replaced_or_dies_is_one_clear_line_each() {
    let mut cluster = Setup { nodes: 2, heartbeat_timeout: "1s", ..Setup::default() }.start();
    let addrs = [cluster.node(0).addr.clone(), cluster.node(1).addr.clone()];
    // Everything that the coordinator has logged about a node.
    let said = |cluster: &e2e::cluster::Cluster, addr: &str| -> Vec<String> {
        let stderr = cluster.coordinator.process.stderr();
        stderr.lines().filter(|line| line.contains(addr)).map(str::to_owned).collect()
    };
    for addr in &addrs {
        let lines = said(&cluster, addr);
        assert_eq!(lines.len(), 1, "one line for its registration: {lines:#?}");
        assert!(lines[0].contains("INFO") && lines[0].contains("registered"), "{lines:?}");
    }
    cluster.kill(0);
    cluster.wait_until_runners_listed();
    let is_dead = |line: &String| line.contains("is dead: no heartbeat within the timeout");
    let dead = eventually("the death is logged", SOON, || match said(&cluster, &addrs[0]).get(1..) {
        Some(lines) if lines.iter().any(is_dead) => Ok(lines.to_vec()),
        lines => Err(format!("{lines:?}")),
    });
    // A starved node may have been replaced before, too.
    let (removed, replaced): (Vec<_>, Vec<_>) = dead.into_iter().partition(is_dead);
    assert_eq!(removed.len(), 1, "one line for its removal: {removed:#?}");
    assert!(replaced.iter().any(|line| line.contains("is silent and its replicas report it: failing over")));
    assert!(replaced.iter().all(|line| line.contains("failing over")), "{replaced:#?}");
    #[cfg(unix)]
    {
        cluster.node_mut(1).stop();
        let left = eventually("the leave is logged", SOON, || match said(&cluster, &addrs[1]).get(1..) {
            Some(lines) if !lines.is_empty() => Ok(lines.to_vec()),
            _ => Err("nothing"),
        });
        assert_eq!(left.len(), 1, "one line for its leave: {left:#?}");
        assert!(left[0].contains("left") || left[0].contains("leave") || left[0].contains("stop"), "{left:?}");
    }
}

#[test]
fn logs_are_json_where_asked_for() {
    let coordinator = server::coordinator(&["--log-format", "json"]);
    let node = server::node(coordinator.port, &["--log-format", "json", "--log-level", "debug"]);
    for (name, process) in [("coordinator", &coordinator.process), ("node", &node.process)] {
        let line = eventually(&format!("the {name} logs"), SOON, || {
            let stderr = process.stderr();
            stderr.split_once('\n').map(|(line, _)| line.to_owned()).ok_or(stderr)
        });
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(event["level"].is_string() && event["timestamp"].is_string(), "{line}");
    }
}

#[test]
fn logs_go_to_a_file_where_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("coordinator.log");
    let coordinator = server::coordinator(&["--log-file", path.to_str().unwrap()]);
    let node = server::node(coordinator.port, &[]);
    eventually("the registration is in the file", SOON, || {
        let log = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        ensure(log.contains(&node.addr), || log.clone())
    });
    assert!(!coordinator.process.stderr().contains(&node.addr), "and not on standard error");
    let mut nowhere = Process::start("coordinator", ["--port", "0", "--log-file", "/no/such/directory/log"]);
    let ended = nowhere.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("/no/such/directory/log"), "{}", ended.stderr);
}

#[test]
fn a_log_that_nobody_takes_stops_nobody() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(program("coordinator"));
    command.args(["--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writer);
    let mut coordinator = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(coordinator.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let addr = line.trim_end().strip_prefix("[Coordinator] Started on ").map(str::to_owned);
    let answers = addr.map(|addr| {
        let mut client = Connection::open(&addr);
        // It logs that a node is registered.
        [client.ask("REGISTER_NODE 127.0.0.1 6000"), client.ask("PING")]
    });
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    let expected = ["OK Node 127.0.0.1:6000 registered", "PONG"].map(str::to_owned);
    assert_eq!(answers, Some(expected), "{line:?}");
}

#[test]
fn the_log_level_is_what_the_flag_or_rust_log_says() {
    let start = |args: &[&str], rust_log: Option<&str>| {
        let mut command = Command::new(program("coordinator"));
        command.args(["--port", "0"]).args(args).stdin(Stdio::null());
        if let Some(rust_log) = rust_log {
            command.env("RUST_LOG", rust_log);
        }
        let coordinator = Starting(Process::spawn("coordinator", &mut command)).ready();
        let node = server::node(coordinator.port, &[]);
        (coordinator, node)
    };
    let (verbose, node) = start(&[], None);
    verbose.process.says_on_stderr(&node.addr);
    for (args, rust_log) in [(&["--log-level", "error"][..], None), (&[], Some("error"))] {
        let (quiet, node) = start(args, rust_log);
        // The coordinator has registered it by then: the node has announced that it is registered.
        assert!(!quiet.process.stderr().contains(&node.addr), "{args:?} {rust_log:?}: {}", quiet.process.stderr());
    }
}
