//! The time a node with a data directory takes from its start to its first answer.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::Target;
use bench::target::{Cluster, Place};

use crate::pairs::{Bound, verdict};
use crate::report::spread;
use crate::shape::{SIZES, fill};

/// How long a node may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two attempts to get an answer.
const PAUSE: Duration = Duration::from_millis(1);

/// The goal for that time, in seconds.
const GOAL: Bound = Bound::AtMost(3.0);

/// A node that this program starts, fills, and restarts.
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    node: NodeToStart,
    /// The number of keys to store.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    keys: u32,
    /// How often to restart the node in each way.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

/// A node's process, which is killed when this value is dropped.
pub(crate) struct Node(Child);

impl Node {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have exited already, and there is nobody to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node with a data directory, not started yet.
#[derive(Debug, clap::Args)]
pub(crate) struct NodeToStart {
    /// The program `node`.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// The address of the node's coordinator.
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: Place,
    /// An empty directory for the node's data.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// How to end a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By SIGTERM: it shuts down cleanly.
    Stopped,
    /// By SIGKILL.
    Killed,
}

/// Measures, and returns a table in Markdown.
pub(crate) fn measure(run: &Restart) -> anyhow::Result<String> {
    let (mut node, addr) = run.node.start(0)?;
    let cluster = run.node.cluster();
    eprintln!("storing {} keys", run.keys);
    fill(&Target::cluster(&cluster, 0..run.keys, SIZES)?, SIZES.value).context("cannot fill the node")?;

    let mut text = format!(
        "| from the start of a node with {} keys to its first answer | seconds (least to most) | goal | met |\n\
         |---|---:|---:|---|\n",
        run.keys
    );
    for (end, how) in [(End::Stopped, "stopped in order"), (End::Killed, "killed")] {
        let mut times = Vec::new();
        for round in 1..=run.rounds {
            eprint!("\r\x1b[K{how}, round {round} of {}", run.rounds);
            stop(node, end)?;
            let begin = Instant::now();
            let started = run.node.start(addr.port())?;
            node = started.0;
            first_answer(addr, round % run.keys)?;
            times.push(begin.elapsed().as_secs_f64());
        }
        eprint!("\r\x1b[K");
        let times = spread(times.into_iter()).context("nothing was measured")?;
        text += &format!("| {how} before | {times} | {GOAL} | {} |\n", verdict(GOAL.is_met(times.middle)));
    }
    Ok(text)
}

impl NodeToStart {
    /// The cluster that consists of this node alone.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster { nodes: 1, coordinator: self.coordinator.clone(), remark: String::new() }
    }

    /// Starts the node and waits until it announces its address; port 0 picks a free one.
    pub(crate) fn start(&self, port: u16) -> anyhow::Result<(Node, SocketAddr)> {
        let coordinator = self.coordinator.addr;
        let child = Command::new(&self.program)
            .args(["--port", &port.to_string(), "--data-dir"])
            .arg(&self.data_dir)
            .args(["--coordinator-host", &coordinator.ip().to_string()])
            .args(["--coordinator-port", &coordinator.port().to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut node = Node(child.with_context(|| format!("cannot start {}", self.program.display()))?);
        let stdout = node.0.stdout.take().context("the node has no output")?;
        for line in BufReader::new(stdout).lines() {
            let line = line.context("cannot read what the node says")?;
            if let Some(addr) = line.split_once(" Started on ").and_then(|(_, addr)| addr.parse().ok()) {
                return Ok((node, addr));
            }
        }
        anyhow::bail!("the node with its data in {} ended while starting", self.data_dir.display())
    }
}

fn stop(mut node: Node, end: End) -> anyhow::Result<()> {
    match end {
        End::Stopped => {
            let asked = Command::new("kill").args(["-TERM", &node.0.id().to_string()]).status();
            anyhow::ensure!(asked.context("cannot run kill")?.success(), "the node cannot be stopped");
        }
        End::Killed => node.0.kill().context("the node cannot be killed")?,
    }
    let deadline = Instant::now() + PATIENCE;
    while node.0.try_wait().context("the node is gone")?.is_none() {
        anyhow::ensure!(Instant::now() < deadline, "the node has not stopped within {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Asks for a key until its value arrives.
fn first_answer(addr: SocketAddr, number: u32) -> anyhow::Result<()> {
    let request = [b"GET ", &SIZES.make_key(number)[..], b"\n"].concat();
    let deadline = Instant::now() + PATIENCE;
    let mut answer = String::new();
    while Instant::now() < deadline {
        if ask(addr, &request, &mut answer).is_ok() && answer.starts_with("VALUE ") {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    anyhow::bail!("no value within {PATIENCE:?}; the last answer was {answer:?}")
}

fn ask(addr: SocketAddr, request: &[u8], answer: &mut String) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    answer.clear();
    BufReader::new(stream).read_line(answer).map(|_| ())
}
