//! The command line of the coordinator: wrong flags are refused with exit code 2 and name themselves.

use std::process::{Command, Output};

fn coordinator(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coordinator")).args(args).output().expect("the program starts")
}

#[test]
fn wrong_flags_exit_with_2_and_name_themselves() {
    for (args, named) in [
        (&["--port", "70000"][..], "--port"),
        (&["--replicas", "99"], "--replicas"),
        (&["--replicas", "-1"], "-1"),
        (&["--virtual-nodes", "0"], "--virtual-nodes"),
        (&["--virtual-nodes", "5000"], "--virtual-nodes"),
        (&["--heartbeat-timeout", "soon"], "--heartbeat-timeout"),
        (&["--heartbeat-timeout", "1ms"], "--heartbeat-timeout"),
        (&["--moves-at-once", "16385"], "--moves-at-once"),
        (&["--moves-at-once", "some"], "--moves-at-once"),
        (&["--log-level", "loud"], "--log-level"),
        (&["--max-clients", "many"], "--max-clients"),
        (&["--color"], "--color"),
    ] {
        let output = coordinator(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(named), "{args:?}: {stderr}");
    }
}

#[test]
fn a_host_that_does_not_resolve_exits_with_1() {
    let output = coordinator(&["--host", "no-such-host.invalid", "--port", "0"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no-such-host.invalid does not resolve"), "{stderr}");
}

#[test]
fn help_and_version_go_to_standard_output() {
    for (flag, text) in [("--help", "--heartbeat-timeout"), ("--version", env!("CARGO_PKG_VERSION"))] {
        let output = coordinator(&[flag]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(text), "{flag}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn help_that_cannot_be_written_exits_with_1() {
    for flag in ["--help", "--version"] {
        let full = std::fs::File::create("/dev/full").expect("Linux has it");
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        let output = command.arg(flag).stdout(full).output().expect("the program starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{flag}: {stderr}");
        assert!(stderr.contains("cannot write to standard output"), "{flag}: {stderr}");
    }
}
