//! The command line of a node: wrong flags are refused with exit code 2, what cannot run exits with 1 and says why.

use std::net::TcpListener;
use std::process::{Command, Output};

fn node(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_node")).args(args).output().expect("the program starts")
}

#[test]
fn wrong_flags_exit_with_2_and_name_themselves() {
    for (args, named) in [
        (&[][..], "PORT"),
        (&["70000"], "70000"),
        (&["--port", "x"], "--port"),
        (&["5001", "--port", "5002"], "--port"),
        (&["0", "--coordinator-port", "0"], "--coordinator-port"),
        (&["0", "--join-timeout", "never"], "--join-timeout"),
        (&["0", "--heartbeat-interval", "1h"], "--heartbeat-interval"),
        (&["0", "--request-timeout", "0s"], "--request-timeout"),
        (&["0", "--request-timeout", "61s"], "--request-timeout"),
        (&["0", "--advertise", "two words"], "--advertise"),
        (&["0", "--advertise", "host:0"], "--advertise"),
        (&["0", "--max-clients", "0"], "--max-clients"),
        (&["0", "--max-memory", "much"], "examples: 512mb, 2GiB, 1000000000"),
        (&["0", "--max-memory", "0"], "from 1mb"),
        (&["0", "--max-memory=-5mb"], "examples: 512mb, 2GiB"),
        (&["0", "--max-memory", "-5"], "examples: 512mb, 2GiB"),
        (&["0", "--max-memory", "1kb"], "from 1mb"),
        (&["0", "--evict", "lru"], "--max-memory"),
        (&["0", "--max-memory", "1gb", "--evict", "lfu"], "--evict"),
    ] {
        let output = node(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(named), "{args:?}: {stderr}");
    }
}

#[test]
fn what_cannot_run_exits_with_1_and_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port().to_string();
    for (args, why) in [
        (&["--port", &port][..], "is taken by another program"),
        (&["0", "--host", "no-such-host.invalid"], "does not resolve"),
        (&["0", "--host", "0.0.0.0"], "--advertise HOST"),
        (&["0", "--log-file", "/no/such/folder/log"], "log file"),
    ] {
        let output = node(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }
}

#[test]
fn a_node_without_a_coordinator_gives_up_in_time() {
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let output = node(&["0", "--coordinator-port", &closed.port().to_string(), "--join-timeout", "300ms"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("gave up joining after 300ms") && stderr.contains("--coordinator-port"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.lines().count() == 1 && stdout.contains("Memory only"), "it has not started: {stdout}");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (flag, text) in [("--help", "--coordinator-host"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = node(&[flag]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(text), "{flag}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn help_that_cannot_be_written_exits_with_1() {
    for flag in ["--help", "--version"] {
        let full = std::fs::File::create("/dev/full").expect("Linux has it");
        let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
        let output = command.arg(flag).stdout(full).output().expect("the program starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flag}: {stderr}");
        assert!(stderr.contains("cannot write to standard output"), "{flag}: {stderr}");
    }
}
