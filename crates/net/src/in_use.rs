//! Waiting for a data directory that another process still uses, as after a quick restart: the old process may be
//! handing over while the new one starts.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a server waits for its data directory at startup. A node that was asked to stop ends within this time.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Pause between two looks at a lock.
const PAUSE: Duration = Duration::from_millis(20);

/// Waits until no other process holds the lock of a data directory, but no longer than `patience`. Logs that it waits.
///
/// This is no more than a look: it creates nothing and leaves the lock free. Whoever opens the directory afterwards
/// takes the lock, or says why that is impossible. Call this before the port is bound, since the other process may have
/// that, too.
pub async fn wait_until_free(directory: &Path, lock: &Path, patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut is_told = false;
    while is_locked(lock) && Instant::now() < deadline {
        if !is_told {
            tracing::info!(
                "another process uses the data directory {}: waiting up to {} for it to stop",
                directory.display(),
                humantime::format_duration(patience)
            );
            is_told = true;
        }
        sleep(PAUSE).await;
    }
}

/// Whether another process holds the lock. If that cannot be found out, whoever opens the directory will say so.
fn is_locked(lock: &Path) -> bool {
    // A shared lock, so that two that wait do not take each other for a user of the directory.
    File::open(lock).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_directory_that_nobody_uses_is_not_waited_for() {
        let directory = std::env::temp_dir();
        let lock = directory.join(format!("no-such-lock-{}", std::process::id()));
        wait_until_free(&directory, &lock, LONG).await;
        assert!(!lock.exists(), "nothing is created");
    }

    #[tokio::test]
    async fn a_directory_in_use_is_waited_for_until_it_is_free_or_patience_ends() {
        let directory = std::env::temp_dir();
        let lock = directory.join(format!("lock-of-a-test-{}", std::process::id()));
        let held = File::create(&lock).unwrap();
        held.lock().unwrap();
        let start = Instant::now();
        wait_until_free(&directory, &lock, Duration::from_millis(100)).await;
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());

        let waiting = wait_until_free(&directory, &lock, LONG);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err(), "it is still in use");
        drop(held);
        waiting.await;
        std::fs::remove_file(&lock).unwrap();
    }
}
