//! The path of a write: the primary, again and again along the changes of the map, but sent at most once.

use std::time::Duration;

use proto::id::NodeAddr;
use tokio::time::Instant;

use crate::answer::{Answer, Meaning, NotAnAnswer, Request, meaning_of};
use crate::client::Cluster;
use crate::connection::{Failure, Patience};
use crate::error::Error;
use crate::map_watch::{Pauses, wait_for_change};
use crate::placement::Placement;

/// How long one attempt to connect may take. The primary may be up again, or be another node, before the timeout.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// The pauses between attempts; a new map ends each at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why an attempt did not succeed.
enum Miss {
    /// Nothing was done, or not even sent; the cluster has to change first.
    Wait(Error),
    /// The call is over.
    Final(Error),
}

/// Carries out a PUT or DELETE. Gives who holds the key, as the map is at the end.
pub(crate) async fn write(cluster: &Cluster, key: &[u8], request: &Request) -> Result<Placement, Error> {
    let deadline = cluster.deadline();
    let mut maps = cluster.maps();
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut failed = None;
    loop {
        let placement = Placement::of(&maps.borrow_and_update(), key);
        if let Some(node) = &placement.primary {
            match attempt(cluster, node, request, deadline).await {
                Ok(()) => return Ok(Placement::of(&maps.borrow(), key)),
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::Wait(error)) => {
                    tracing::debug!(%node, %error, "nothing was done");
                    failed = Some(error);
                }
            }
        }
        if !wait_for_change(&mut maps, pauses.next(), deadline).await {
            return Err(cluster.gave_up(failed));
        }
    }
}

async fn attempt(cluster: &Cluster, node: &NodeAddr, request: &Request, deadline: Instant) -> Result<(), Miss> {
    let patience = Patience::until(deadline);
    let not_sent = |why: String| {
        let reason = format!("UNAVAILABLE the primary {node} could not be reached: {why}; nothing was changed");
        Miss::Wait(Error::Refused { by: None, reason })
    };
    let unknown = |reason: String| {
        let advice = "the write may have taken effect: read the key before you repeat it";
        Miss::Final(Error::Unknown { reason: format!("node {node}: {reason}; {advice}") })
    };
    let connecting = patience.with_silence(CONNECT_PATIENCE);
    let connection = cluster.pool().connection(node, connecting).await;
    let mut connection = connection.map_err(|failure| not_sent(failure.to_string()))?;
    // IMPORTANT: from here on only a failure that says so, or an answer, allows the request to be sent again.
    let answer = connection.exchange(request, patience).await.map_err(|failure| match failure {
        Failure::NotSent(reason) => not_sent(reason),
        Failure::NoAnswer(reason) => unknown(reason),
    })?;
    cluster.pool().put_back(node, connection);
    match answer {
        Answer::Ok => Ok(()),
        Answer::Error(reason) => {
            let meaning = meaning_of(&reason);
            let refused = |reason| Error::Refused { by: Some(node.clone()), reason };
            Err(match meaning {
                Meaning::Later => Miss::Wait(refused(reason)),
                Meaning::Never | Meaning::Binary => Miss::Final(refused(reason)),
                Meaning::Unknown => {
                    let reason = reason.strip_prefix("UNKNOWN ").unwrap_or(&reason).to_owned();
                    Miss::Final(Error::Unknown { reason })
                }
            })
        }
        Answer::Value(_) | Answer::NotFound | Answer::Text(_) => Err(unknown(NotAnAnswer.to_string())),
    }
}
