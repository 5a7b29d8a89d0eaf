//! The client program.

use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Ended, Process, program};

/// Longer than the client's own `--timeout` of 20 s.
const DEADLINE: Duration = Duration::from_secs(40);

/// Runs the client once with these arguments and an empty standard input.
///
/// # Panics
/// When it does not end.
#[must_use]
#[track_caller]
pub fn run(args: &[&str]) -> Ended {
    run_with_input(args, b"")
}

/// Runs a single client command against a coordinator.
///
/// # Panics
/// When it does not end.
#[must_use]
#[track_caller]
pub fn command(coordinator_port: u16, command: &str, more: &[&str]) -> Ended {
    let port = coordinator_port.to_string();
    run(&[&["--port", &port, "--command", command], more].concat())
}

/// Runs the client with its standard input from a pipe.
///
/// # Panics
/// When it does not end.
#[must_use]
#[track_caller]
pub fn run_with_input(args: &[&str], input: &[u8]) -> Ended {
    let (mut client, _home) = start_at_pipe(args);
    client.feed(input);
    client.wait_for_end(DEADLINE)
}

/// Starts the client with its standard input from a pipe, and also returns its home directory.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn start_at_pipe(args: &[&str]) -> (Process, TempDir) {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let client = Process::spawn("client", at_home(home.path()).args(args).stdin(Stdio::piped()));
    (client, home)
}

/// The client program with its own home directory, so that no test reads or writes the history of whoever runs it.
#[must_use]
pub fn at_home(home: &std::path::Path) -> Command {
    let mut command = Command::new(program("client"));
    command.env("HOME", home).env("USERPROFILE", home);
    for variable in ["KV_HISTORY", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(variable);
    }
    command
}

/// Everything that a run printed, standard output first, for test messages.
#[must_use]
pub fn printed(ended: &Ended) -> String {
    let mut text = String::from_utf8_lossy(&ended.stdout).into_owned();
    text.push_str(&ended.stderr);
    text
}
