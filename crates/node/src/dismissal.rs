//! The end of a node that was decommissioned and has handed everything over: it deletes its data, reports that, and
//! exits.
//!
//! IMPORTANT: in this order. The coordinator keeps telling it to, at a later start too, until it has reported that it
//! has.

use std::time::Duration;

use anyhow::Context as _;
use net::shutdown::{self, Shutdown};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::driver::Driver;
use crate::membership::Farewell;
use crate::store::{self, Running};

/// How long requests in flight may take; all of them are for other nodes.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to tell the coordinator that the data is gone, unless a signal ends it sooner. The coordinator
/// may itself be away, and come back.
const TELL_TIMEOUT: Duration = Duration::from_secs(60);

/// Shuts the node down.
///
/// # Errors
/// The data could not be deleted. The next start of the node continues the deletion.
pub async fn end(
    driver: &Driver,
    connections: &Shutdown,
    background: &Shutdown,
    writing: Option<Running>,
    leave: oneshot::Sender<Farewell>,
) -> anyhow::Result<()> {
    tracing::warn!("decommissioned: everything is handed over; deleting this node's data");
    // IMPORTANT: listened to from here on, or a signal that comes meanwhile would be missed.
    let asked = tokio::spawn(shutdown::signal());
    connections.begin();
    if timeout(FINISH_TIMEOUT, connections.all_ended()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were dropped");
    }
    if let (Some(store), Some(writing)) = (driver.store(), writing) {
        let path = store.path().to_owned();
        let deleted = tokio::task::spawn_blocking(move || {
            // The data is about to be deleted, so it need not be whole.
            if let Err(error) = writing.close() {
                tracing::warn!("{error:#}");
            }
            store::discard(&path)
        });
        deleted.await.context("cannot delete the data")?.with_context(|| {
            let path = store.path().display();
            format!("the data in {path} could not be deleted; start the node again to continue the deletion")
        })?;
    }
    let (tell, told) = oneshot::channel();
    let is_sent = leave.send(Farewell { cleared: true, told: tell }).is_ok();
    let is_told = tokio::select! {
        told = timeout(TELL_TIMEOUT, told) => told.is_ok(),
        _ = asked => false,
    };
    if !(is_sent && is_told) {
        tracing::warn!(
            "could not tell the coordinator that the data is gone: it names this node in leaving= until you send it \
             RECOMMISSION, which it accepts once its --heartbeat-timeout has passed"
        );
    }
    background.begin();
    Ok(())
}
