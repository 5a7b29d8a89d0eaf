//! A coordinator or a node as a running process.

use std::time::Duration;

use crate::process::{Ended, Process};
use crate::wait::{self, eventually};

/// The host on which everything in the tests listens.
pub const HOST: &str = "127.0.0.1";

/// What a node without a data directory says about its data when it starts.
pub const MEMORY_ONLY: &str = "Memory only: its data is lost when it stops";

/// A port on which nothing listens: listening there takes root, and nobody has used its service since 1988.
pub const CLOSED_PORT: u16 = 1;

/// A server that has announced that it accepts connections.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub process: Process,
    /// `host:port`: its address and, for a node, its name in the cluster.
    pub addr: String,
    /// The port.
    pub port: u16,
}

/// A server that has been started and has not announced yet that it accepts connections.
#[derive(Debug)]
pub struct Starting(pub Process);

/// Starts a coordinator on this port, unless `args` say otherwise. Port 0 lets the system pick one.
#[must_use]
pub fn start_coordinator(port: u16, args: &[&str]) -> Starting {
    let port = port.to_string();
    Starting(Process::start("coordinator", ["--port", &port].iter().chain(args)))
}

/// Starts a node in the cluster of the coordinator at this port. Port 0 lets the system pick the node's own.
#[must_use]
pub fn start_node(coordinator_port: u16, port: u16, args: &[&str]) -> Starting {
    let (coordinator_port, port) = (coordinator_port.to_string(), port.to_string());
    Starting(Process::start("node", ["--coordinator-port", &coordinator_port, "--port", &port].iter().chain(args)))
}

/// A coordinator that is ready, on a port picked by the system.
#[must_use]
#[track_caller]
pub fn coordinator(args: &[&str]) -> Server {
    start_coordinator(0, args).ready()
}

/// A node that is ready, on a port picked by the system.
#[must_use]
#[track_caller]
pub fn node(coordinator_port: u16, args: &[&str]) -> Server {
    start_node(coordinator_port, 0, args).ready()
}

/// Restarts a server on its old port.
///
/// Between the two starts, the system may briefly use the port for somebody's connection, so a start that finds its
/// port taken is retried.
///
/// # Panics
/// When the port does not become free, or the server ends for another reason.
#[must_use]
#[track_caller]
pub fn start_again(start: impl Fn() -> Starting) -> Server {
    eventually("a server starts again on its port", wait::SOON, || start().ready_or_ended())
}

impl Starting {
    /// Waits until the server announces that it accepts connections.
    ///
    /// # Panics
    /// When it ends instead, or says nothing.
    #[must_use]
    #[track_caller]
    pub fn ready(mut self) -> Server {
        let (name, port) = self.0.line_of_stdout("that it has started", started);
        self.into_server(name, port)
    }

    #[track_caller]
    fn ready_or_ended(mut self) -> Result<Server, String> {
        let found = eventually("a server is ready or ends", wait::SOON, || {
            let running = self.0.is_running();
            match self.0.stdout().lines().find_map(started) {
                Some(found) => Ok(Some(found)),
                None if running => Err("neither"),
                None => Ok(None),
            }
        });
        match found {
            Some((name, port)) => Ok(self.into_server(name, port)),
            None => {
                let ended = self.0.wait_for_end(wait::SOON);
                assert!(ended.stderr.contains("is taken"), "it ended for another reason: {}", ended.stderr);
                Err(ended.stderr)
            }
        }
    }

    fn into_server(mut self, name: String, port: u16) -> Server {
        self.0.rename(name);
        Server { process: self.0, addr: format!("{HOST}:{port}"), port }
    }
}

impl Server {
    /// Asks it to stop, as an operator does, and waits until it has.
    ///
    /// # Panics
    /// When it is still running after the 10 s that a server may take.
    #[cfg(unix)]
    #[track_caller]
    pub fn stop(&mut self) -> Ended {
        self.process.signal(nix::sys::signal::Signal::SIGTERM);
        self.process.wait_for_end(Duration::from_secs(10))
    }
}

/// Parses `[Coordinator] Started on 127.0.0.1:5000` and `[Node 5001] Started on 127.0.0.1:5001`.
fn started(line: &str) -> Option<(String, u16)> {
    let (name, addr) = line.strip_prefix('[')?.split_once("] Started on ")?;
    let port = addr.strip_prefix(HOST)?.strip_prefix(':')?.parse().ok()?;
    let named_well = name == "Coordinator" || name == format!("Node {port}");
    named_well.then(|| (name.to_owned(), port))
}
