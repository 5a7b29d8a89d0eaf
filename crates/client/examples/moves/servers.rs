//! The processes under test: a coordinator and nodes, on free ports of 127.0.0.1.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::keys::Sizes;
use bench::target::{self, Place};
use bench::workload::Action;
use bench::{Load, Target};
use client::{AckLevel, Builder, Client, NodeAddr};
use proto::frame::Encoding;
use tokio::runtime::Runtime;

/// The sizes of keys and values.
pub(crate) const SIZES: Sizes = Sizes { key: 16, value: 100 };

/// How long a cluster may take to become healthy, and a process to stop.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A process, which is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) addr: NodeAddr,
}

/// A coordinator, and what it takes to start its nodes.
#[derive(Debug)]
pub(crate) struct Servers {
    programs: PathBuf,
    coordinator: Server,
}

impl Servers {
    /// Starts a coordinator for three copies and this many nodes, each with its own directory in `data` if given.
    pub(crate) fn start(programs: &Path, nodes: usize, data: Option<&Path>) -> anyhow::Result<(Self, Vec<Server>)> {
        let mut command = Command::new(programs.join("coordinator"));
        command.args(["--port", "0", "--replicas", "2", "--virtual-nodes", "128"]);
        let servers = Self { programs: programs.to_owned(), coordinator: Server::start(command)? };
        let nodes = (0..nodes).map(|number| {
            let data = data.map(|data| data.join(format!("node-{number}")));
            servers.node(0, data.as_deref())
        });
        let nodes = nodes.collect::<anyhow::Result<_>>()?;
        Ok((servers, nodes))
    }

    /// Starts a node; port 0 takes a free one.
    pub(crate) fn node(&self, port: u16, data: Option<&Path>) -> anyhow::Result<Server> {
        let mut command = Command::new(self.programs.join("node"));
        let coordinator = self.coordinator.addr.port().to_string();
        command.args(["--port", &port.to_string(), "--coordinator-port", &coordinator]);
        if let Some(data) = data {
            command.arg("--data-dir").arg(data);
        }
        Server::start(command)
    }

    /// A client that writes at quorum.
    pub(crate) fn client(&self, runtime: &Runtime) -> anyhow::Result<Client> {
        let builder: Builder = Client::builder().ack(AckLevel::Quorum);
        runtime.block_on(builder.connect(self.coordinator.addr.as_str())).context("the client cannot connect")
    }

    /// Stores keys, once the nodes' slots have settled.
    pub(crate) fn fill(&self, nodes: usize, keys: u32) -> anyhow::Result<()> {
        let addr: SocketAddr = self.coordinator.addr.as_str().parse().context("the coordinator has no address")?;
        let coordinator = Place { addr, pids: Vec::new() };
        let cluster = target::Cluster { nodes, coordinator, remark: String::new() };
        let target = Target::cluster(&cluster, 0..keys, SIZES)?;
        let load = Load::steady(Action::Put, Encoding::Array, SIZES, Duration::ZERO);
        bench::fill(&target, &load, None, &mut |_| ()).context("cannot fill the nodes")?;
        Ok(())
    }
}

impl Server {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdout = child.stdout.take().context("a server has no output")?;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what a server says")?;
            if let Some(addr) = line.split_once(" Started on ").and_then(|(_, addr)| addr.parse().ok()) {
                return Ok(Self { child, addr });
            }
        }
        anyhow::bail!("a server has ended while starting: {command:?}")
    }

    /// Sends SIGTERM to ask it to stop.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        anyhow::ensure!(asked.context("cannot run kill")?.success(), "a node cannot be stopped");
        Ok(())
    }

    /// Waits until it has exited with code 0.
    pub(crate) fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().context("a node is gone")? {
                anyhow::ensure!(status.success(), "a node has ended with {status}");
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("a node has not stopped within {PATIENCE:?}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until every slot has all its copies where they belong. Returns how long that took.
pub(crate) fn healthy(runtime: &Runtime, client: &Client) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    runtime.block_on(client.wait_healthy(PATIENCE)).context("the cluster does not become healthy")?;
    Ok(begin.elapsed())
}
