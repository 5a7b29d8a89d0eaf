//! Waiting for a data directory that another process still uses, as after a quick restart: the old process may be
//! handing over while the new one starts.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::listener::bare;

/// How long a server waits for its data directory at startup. A node that was asked to stop ends within this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the port may answer meanwhile. IMPORTANT: longer than a node that was asked to stop keeps serving, the 2 s
/// of a hand-over.
const PORT_PATIENCE: Duration = Duration::from_millis(2_500);

/// Pause between two looks at a lock.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause between two looks at a port, and how long it may take to answer.
const PORT_PAUSE: Duration = Duration::from_millis(100);
const PORT_TIMEOUT: Duration = Duration::from_millis(500);

/// Waits at startup for a data directory that the old process of this server may still use. Gives up as soon as it is
/// clear that it is not stopping, because this server's port keeps answering: binding it will say that it is taken. A
/// process that was killed may have its port for a while, too, but answers nothing.
pub async fn wait_for_predecessor(host: &str, port: u16, directory: &Path, lock: &Path) {
    tokio::select! {
        biased;
        () = wait_until_free(directory, lock, PATIENCE) => {}
        () = has_answered_for(host, port, PORT_PATIENCE) => {}
    }
}

/// Waits until no other process holds the lock of a data directory, but no longer than `patience`. Logs that it waits.
///
/// This is no more than a look: it creates nothing and leaves the lock free. Whoever opens the directory afterwards
/// takes the lock, or says why that is impossible. Call this before the port is bound, since the other process may have
/// that, too.
async fn wait_until_free(directory: &Path, lock: &Path, patience: Duration) {
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

/// Waits until a server has answered at a port for this long without a break. Nobody answers at port 0.
async fn has_answered_for(host: &str, port: u16, span: Duration) {
    let mut since = None;
    loop {
        let start = Instant::now();
        if port == 0 || !answers(host, port).await {
            since = None;
        } else if start - *since.get_or_insert(start) >= span {
            return;
        }
        sleep(PORT_PAUSE).await;
    }
}

/// Whether anything that listens on this port answers a request, however it answers.
async fn answers(host: &str, port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect((bare(host), port)).await?;
        stream.write_all(b"PING\n").await?;
        stream.read(&mut [0]).await
    };
    matches!(timeout(PORT_TIMEOUT, asked).await, Ok(Ok(1)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

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

    #[tokio::test]
    async fn only_a_port_that_keeps_answering_ends_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let span = Duration::from_millis(300);
        // As of a process that was killed: the system accepts, and nobody answers.
        let waiting = timeout(span * 4, has_answered_for("127.0.0.1", port, span)).await;
        assert!(waiting.is_err(), "nobody answers");
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(b"PONG\n").await;
            }
        });
        let start = Instant::now();
        timeout(LONG, has_answered_for("127.0.0.1", port, span)).await.unwrap();
        assert!(start.elapsed() >= span, "{:?}", start.elapsed());
        serving.abort();
        let _ = serving.await;
        let waiting = timeout(span * 4, has_answered_for("127.0.0.1", port, span)).await;
        assert!(waiting.is_err(), "nobody listens");
    }
}
