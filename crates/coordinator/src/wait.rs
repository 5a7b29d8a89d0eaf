//! Waiting until the cluster is healthy.

use std::io;
use std::time::Duration;

use net::connection::Connection;
use net::shutdown::Shutdown;
use proto::error::ErrorReply;
use proto::response::Response;
use tokio::time::sleep;

use crate::driver::Driver;

/// The pause between a change of the map and the next health check: changes come in bursts.
const PAUSE: Duration = Duration::from_millis(50);

/// How often health is checked while the map does not change. A node that falls silent does not change the map.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How much a client may send ahead while it waits, in bytes. Anything beyond stays in its own buffers, and its
/// disconnect then goes unnoticed.
const SENT_AHEAD: usize = 64 * 1024;

/// Waits until every slot has all its copies where they belong and nothing moves, for at most `span`. Returns `None`
/// if the coordinator stops. Others are served meanwhile.
///
/// # Errors
/// The connection is broken: nobody is waiting anymore.
pub(crate) async fn wait_healthy(
    connection: &mut Connection,
    driver: &Driver,
    span: Duration,
    shutdown: &Shutdown,
) -> io::Result<Option<Response<'static>>> {
    let mut published = driver.watch_map();
    let deadline = tokio::time::Instant::now() + span;
    loop {
        published.borrow_and_update();
        if driver.is_healthy() {
            return Ok(Some(Response::Ok));
        }
        let missing = || driver.with(|coordinator, now| coordinator.status(now)).missing();
        let look = tokio::time::Instant::now() + POLL_INTERVAL;
        let changed = async {
            // The driver lives as long as its connections.
            let _ = published.changed().await;
            sleep(PAUSE).await;
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(look.min(deadline)) => if look > deadline {
                let text = format!("not healthy after {} ms: {}", span.as_millis(), missing());
                return Ok(Some(Response::Error(ErrorReply::Timeout(text))));
            },
            read = connection.fill(), if connection.reader.pending() < SENT_AHEAD => if read? == 0 {
                let text = format!("the client closed its side; stopped waiting, not healthy: {}", missing());
                return Ok(Some(Response::Error(ErrorReply::Timeout(text))));
            },
            () = shutdown.begun() => return Ok(None),
        }
    }
}
