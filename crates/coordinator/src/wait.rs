//! Waiting until the cluster is healthy.

use std::io;
use std::time::Duration;

use net::connection::Connection;
use net::shutdown::Shutdown;
use proto::error::ErrorReply;
use proto::response::Response;
use tokio::time::sleep;

use crate::driver::Driver;

/// How often it is looked at whether a change of the map has made it so: changes come in swarms.
const PAUSE: Duration = Duration::from_millis(50);

/// How often it is looked at where the map does not change. A node that is silent is no change of it.
const LOOK: Duration = Duration::from_millis(500);

/// How much a client may send ahead meanwhile, in bytes. What is beyond stays in its own buffers, and then it is not noticed
/// that it goes.
const SENT_AHEAD: usize = 64 * 1024;

/// Waits until every slot has all its copies where they belong and nothing moves, for at most `span`. `None`: the
/// coordinator stops. Others are served meanwhile.
///
/// # Errors
/// The connection is broken: nobody waits any more.
pub async fn wait_healthy(
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
        let look = tokio::time::Instant::now() + LOOK;
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
                let text = format!("the input has ended, so nobody may be there to wait; not healthy: {}", missing());
                return Ok(Some(Response::Error(ErrorReply::Timeout(text))));
            },
            () = shutdown.begun() => return Ok(None),
        }
    }
}
