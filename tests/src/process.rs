//! Child processes that are watched and never outlive their test.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::wait::{self, eventually};

/// A running program. Its output is read continuously, so it never blocks on a full pipe, and printed if the test that
/// owns it fails. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Captured,
    stderr: Captured,
    readers: Vec<JoinHandle<()>>,
    ended: bool,
}

/// What a process has written so far.
#[derive(Debug, Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

/// How a process ended, and everything it wrote.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, with bytes that are not text replaced.
    pub stderr: String,
    /// How long it took to end, counted from when the wait began.
    pub took: Duration,
}

/// The path of one of the workspace's programs, next to the running test.
///
/// # Panics
/// When it is not there: Cargo builds programs only for the packages that it was asked to test.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test is known");
    let profile = test.ancestors().nth(2).expect("a test runs in target/<profile>/deps");
    let path = profile.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is not built: run `cargo test --workspace`, or `cargo build --workspace` first",
        path.display()
    );
    path
}

impl Process {
    /// Starts one of the workspace's programs with these arguments and an empty standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start<S: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self::spawn(name, Command::new(program(name)).args(args).stdin(Stdio::null()))
    }

    /// Starts a command. `name` is used in messages. The `RUST_LOG` of whoever runs the tests does not reach it; one
    /// set on the command does.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        if !command.get_envs().any(|(variable, _)| variable == "RUST_LOG") {
            command.env_remove("RUST_LOG");
        }
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (stdout, stderr) = (Captured::default(), Captured::default());
        let readers = [
            child.stdout.take().map(|pipe| stdout.fill_from(pipe)),
            child.stderr.take().map(|pipe| stderr.fill_from(pipe)),
        ];
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            readers: readers.into_iter().flatten().collect(),
            ended: false,
        }
    }

    /// Its process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Renames it, once more is known about it.
    pub fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Writes to its standard input and closes it.
    ///
    /// # Panics
    /// When it was started without one, or has closed it.
    pub fn feed(&mut self, input: &[u8]) {
        self.tell(input);
        self.child.stdin = None;
    }

    /// Writes to its standard input, which stays open.
    ///
    /// # Panics
    /// As [`Process::feed`].
    pub fn tell(&mut self, input: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("the process was started with a standard input");
        stdin.write_all(input).unwrap_or_else(|error| panic!("{} does not take its input: {error}", self.name));
    }

    /// Waits for a line on its standard output for which `pick` returns a value.
    ///
    /// # Panics
    /// When the process ends, or [`wait::SOON`] passes, without such a line.
    #[track_caller]
    pub fn line_of_stdout<T>(&mut self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        eventually(&format!("{} prints {what}", self.name), wait::SOON, || {
            let ended = self.child.try_wait().expect("a child can be asked for");
            if ended.is_some() {
                self.join_readers();
            }
            let stdout = self.stdout();
            // The last piece is a line only once its newline has arrived.
            let found = stdout.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).find_map(&pick);
            match (found, ended) {
                (Some(found), _) => Ok(found),
                (None, Some(status)) => {
                    panic!("{} ended with {status} before it printed {what}\n{}", self.name, self.transcript())
                }
                (None, None) => Err(self.transcript()),
            }
        })
    }

    /// Waits until its standard error contains a text.
    ///
    /// # Panics
    /// When it does not within [`wait::SOON`].
    #[track_caller]
    pub fn says_on_stderr(&self, text: &str) {
        eventually(&format!("{} says {text:?} on standard error", self.name), wait::SOON, || {
            let stderr = self.stderr();
            if stderr.contains(text) { Ok(()) } else { Err(stderr) }
        });
    }

    /// Whether it is known to have ended: it was killed, or waited for.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked for").is_none()
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        // An error means that it has ended already, as intended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.ended = true;
        self.join_readers();
    }

    /// Waits until it ends by itself, and returns everything it wrote.
    ///
    /// # Panics
    /// When it is still running after `deadline`.
    #[track_caller]
    pub fn wait_for_end(&mut self, deadline: Duration) -> Ended {
        let start = Instant::now();
        let status: ExitStatus = eventually(&format!("{} ends", self.name), deadline, || {
            let ended = self.child.try_wait().expect("a child can be asked for");
            ended.ok_or_else(|| format!("it still runs\n{}", self.transcript()))
        });
        let took = start.elapsed();
        self.ended = true;
        self.join_readers();
        Ended { code: status.code(), stdout: self.stdout.bytes(), stderr: self.stderr(), took }
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone already.
    #[cfg(unix)]
    #[track_caller]
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let id = i32::try_from(self.id()).expect("a process id is a positive i32");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal)
            .unwrap_or_else(|error| panic!("{} cannot be sent {signal}: {error}", self.name));
    }

    /// Pauses it until [`Process::resume`]. The kernel goes on accepting connections for it.
    ///
    /// # Panics
    /// When it does not stop.
    #[cfg(unix)]
    #[track_caller]
    pub fn pause(&self) {
        self.signal(nix::sys::signal::Signal::SIGSTOP);
        // The signal does not stop a process with several threads instantly: each stops by itself.
        #[cfg(target_os = "linux")]
        eventually(&format!("{} is stopped", self.name), wait::SOON, || {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id())).map_err(|error| error.to_string())?;
            for task in tasks.flatten() {
                let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                let state = stat.rsplit(") ").next().unwrap_or_default().chars().next();
                wait::ensure(state == Some('T'), || format!("a thread of it is in state {state:?}"))?;
            }
            Ok::<(), String>(())
        });
    }

    /// Resumes it after [`Process::pause`].
    #[cfg(unix)]
    #[track_caller]
    pub fn resume(&self) {
        self.signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// Its resident memory in bytes.
    ///
    /// # Panics
    /// When the system does not report it.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the process runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells VmRSS");
        let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number of kB");
        kilobytes * 1024
    }

    /// Everything it wrote, to help find the cause of a failure.
    fn transcript(&self) -> String {
        let (name, stdout, stderr) = (&self.name, self.stdout(), self.stderr());
        format!("--- {name}, standard output\n{stdout}--- {name}, standard error\n{stderr}---")
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            // A reader cannot panic: it only copies bytes.
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.transcript());
        }
    }
}

impl Captured {
    fn fill_from(&self, mut pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let captured = self.clone();
        std::thread::spawn(move || {
            let mut chunk = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                let read = chunk.get(..length).unwrap_or_default();
                captured.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(read);
            }
        })
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

impl Ended {
    /// Its standard output as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    #[must_use]
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the output is text")
    }
}
