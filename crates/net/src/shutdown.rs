//! Graceful shutdown: all tasks of a process end together, within a deadline.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by all tasks; the first call to [`Shutdown::begin`] ends them all.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    /// What the token knows, without its lock.
    has_begun: Arc<AtomicBool>,
    begun_at: Arc<OnceLock<Instant>>,
    tasks: TaskTracker,
    /// Where its tasks run, if not on the runtime of whoever starts them.
    runtime: Option<Handle>,
}

impl Shutdown {
    /// Creates a shutdown that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates one whose tasks all run on `runtime`, whoever starts them.
    #[must_use]
    pub fn on(runtime: Handle) -> Self {
        Self { runtime: Some(runtime), ..Self::default() }
    }

    /// Where its tasks run, if not on the runtime of whoever starts them.
    #[must_use]
    pub fn runtime(&self) -> Option<&Handle> {
        self.runtime.as_ref()
    }

    /// Tells every task to finish its work in progress and end.
    pub fn begin(&self) {
        self.begun_at.get_or_init(Instant::now);
        self.has_begun.store(true, Ordering::Relaxed);
        self.token.cancel();
    }

    /// Whether shutdown has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Waits until shutdown begins.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Waits until shutdown has been going on for this long.
    pub async fn begun_for(&self, span: Duration) {
        self.begun().await;
        sleep_until(*self.begun_at.get_or_init(Instant::now) + span).await;
    }

    /// Starts a task that [`Shutdown::all_ended`] waits for.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match &self.runtime {
            Some(runtime) => self.tasks.spawn_on(task, runtime),
            None => self.tasks.spawn(task),
        };
    }

    /// Waits until every task has ended. Call this only once shutdown has begun.
    pub async fn all_ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Waits for Ctrl-C, on Unix for SIGTERM as well, and on Linux for SIGHUP unless that is ignored, as under nohup.
///
/// # Errors
/// The system refuses a signal handler.
pub async fn signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = if may_ignore_hang_up() { None } else { Some(signal(SignalKind::hangup())?) };
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
            Some(_) = async { hang_up.as_mut()?.recv().await } => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Whether SIGHUP is ignored, as it is under nohup; also if the system does not say, as only Linux does in a file.
#[cfg(unix)]
fn may_ignore_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|ignored| ignored & 1 != 0)
}
