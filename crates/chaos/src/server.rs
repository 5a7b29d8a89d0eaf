//! A server: its process through all its restarts, and what can be done to it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::network::Network;
use crate::signals::{Signal, send};

/// How long a server may take to stop after SIGTERM: what it promises, plus a margin for a busy machine.
const STOP: Duration = Duration::from_secs(12);

/// How long the threads of a process may take to stop after SIGSTOP.
const STAND_STILL: Duration = Duration::from_secs(2);

/// A server. Its process is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its name in logs: `coordinator`, `node-3`.
    pub(crate) name: String,
    /// The host it runs on.
    pub(crate) host: usize,
    program: String,
    args: Vec<String>,
    /// The files for its standard output and standard error.
    said: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    is_paused: bool,
    /// Whether it should be in the cluster. A node that should not be is decommissioned, and may exit with code 0 at
    /// any time.
    pub(crate) is_wanted: bool,
    /// Since when it has been asked to stop.
    asked: Option<Instant>,
    /// How long it took to stop, each time it was asked to.
    stops: Vec<Duration>,
}

impl Server {
    /// A server that is not running yet. Its files are in `dir`.
    pub(crate) fn new(name: String, host: usize, program: &Path, args: Vec<String>, dir: &Path) -> Self {
        let (said, log) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.log")));
        let program = program.display().to_string();
        Self {
            name,
            host,
            program,
            args,
            said,
            log,
            child: None,
            is_paused: false,
            is_wanted: true,
            asked: None,
            stops: Vec::new(),
        }
    }

    /// Starts it. IMPORTANT: call this on the main thread; the process is killed when that thread ends.
    pub(crate) fn start(&mut self, network: &Network) -> anyhow::Result<()> {
        let said = File::create(&self.said).with_context(|| format!("cannot write {}", self.said.display()))?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = network.command(self.host, &self.program);
        command.args(&self.args).env_remove("RUST_LOG").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(said).stderr(log);
        // Keep Ctrl-C for this program, which ends its servers itself.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.name))?);
        (self.is_paused, self.asked) = (false, None);
        Ok(())
    }

    /// Whether its process exists, running or paused.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether its current process has announced that it serves.
    pub(crate) fn has_started(&self) -> bool {
        self.is_running()
            && self.asked.is_none()
            && fs::read_to_string(&self.said).is_ok_and(|said| said.contains("] Started on "))
    }

    /// Checks whether it has exited.
    ///
    /// # Errors
    /// If it exited unasked or with a nonzero exit code, or is still running too long after it was asked to stop.
    pub(crate) fn look_after(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let ended = child.try_wait().with_context(|| format!("cannot ask for {}", self.name))?;
        match (ended, self.asked) {
            (None, Some(asked)) => {
                anyhow::ensure!(asked.elapsed() < STOP, "{} runs {STOP:?} after it was asked to stop", self.name);
            }
            (None, None) => {}
            (Some(status), asked) => {
                self.child = None;
                let (name, words) = (&self.name, self.last_words());
                if !self.is_wanted && status.success() {
                    return Ok(());
                }
                let asked = asked.with_context(|| format!("{name} has ended by itself with {status}:\n{words}"))?;
                anyhow::ensure!(status.success(), "{name} was asked to stop and ended with {status}:\n{words}");
                self.stops.push(asked.elapsed());
            }
        }
        Ok(())
    }

    /// How long it took to stop, each time it was asked to.
    pub(crate) fn stops(&self) -> &[Duration] {
        &self.stops
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("cannot kill {}", self.name))?;
            child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(())
    }

    /// Asks it to stop, without waiting for that.
    pub(crate) fn terminate(&mut self) -> anyhow::Result<()> {
        self.asked = Some(Instant::now());
        self.signal(Signal::Terminate)
    }

    /// Pauses it. Returns once each of its threads has stopped.
    pub(crate) fn pause(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::Stop)?;
        self.is_paused = true;
        let asked = Instant::now();
        while !self.stands_still() {
            anyhow::ensure!(asked.elapsed() < STAND_STILL, "{} does not stand still after SIGSTOP", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Resumes it.
    pub(crate) fn resume(&mut self) -> anyhow::Result<()> {
        self.is_paused = false;
        self.signal(Signal::Continue)
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }

    /// The lines of its log that report a panic.
    pub(crate) fn panics(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("panicked at")).map(str::to_owned).collect()
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        send(child.id(), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Whether every thread has stopped. The signal does not stop a process with several threads instantly: each stops
    /// by itself.
    fn stands_still(&self) -> bool {
        let Some(child) = &self.child else { return true };
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", child.id())) else { return true };
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_none_or(|state| state.starts_with('T'))
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has exited already, as intended.
        let _ = self.kill();
    }
}
