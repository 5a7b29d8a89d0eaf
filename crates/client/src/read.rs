//! The path of a read: the primary, and where it does not answer, the replicas.

use std::time::Duration;

use proto::id::NodeAddr;

use crate::answer::{Answer, Meaning, NotAnAnswer, Request, meaning_of};
use crate::client::Cluster;
use crate::connection::{Failure, Patience};
use crate::error::Error;
use crate::map_watch::{Pauses, wait_for_change};
use crate::placement::Placement;

/// How long the primary may be silent before the replicas are asked. It doubles with every round, so that a cluster
/// that is slower than this answers in the end.
const PRIMARY_SILENCE: Duration = Duration::from_millis(300);

/// How long a replica may be silent in the first round. It asks the primary first, for up to 300 ms of its own.
const REPLICA_SILENCE: Duration = Duration::from_secs(1);

/// The pauses between rounds; a new map ends each at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// What a read has found, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The value, byte for byte; none where the key is absent.
    pub value: Option<Vec<u8>>,
    /// The node that answered.
    pub node: NodeAddr,
    /// The primary did not answer and a replica did: it may not yet know of the last writes.
    pub from_replica: bool,
}

/// Why a node gave no value.
enum Miss {
    /// Another node, or a later attempt, may.
    AskOn(Error),
    /// Nobody will.
    Final(Error),
}

pub(crate) async fn read(cluster: &Cluster, key: &[u8]) -> Result<Read, Error> {
    let deadline = cluster.deadline();
    let mut maps = cluster.maps();
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let (mut primary_silence, mut replica_silence) = (PRIMARY_SILENCE, REPLICA_SILENCE);
    let mut failed = None;
    loop {
        let placement = Placement::of(&maps.borrow_and_update(), key);
        for node in placement.holders() {
            let from_replica = placement.primary.as_ref() != Some(node);
            let patience = Patience::until(deadline);
            let patience = match (from_replica, placement.replicas.is_empty()) {
                (true, _) => patience.with_silence(replica_silence),
                (false, false) => patience.with_silence(primary_silence),
                (false, true) => patience, // There is nobody else to ask.
            };
            match ask(cluster, node, key, patience).await {
                Ok(value) => return Ok(Read { value, node: node.clone(), from_replica }),
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::AskOn(error)) => {
                    tracing::debug!(%node, %error, "asks the next holder of the key");
                    // What a node says tells more than that another one is silent.
                    if !matches!((&failed, &error), (Some(Error::Refused { .. }), Error::NotReached { .. })) {
                        failed = Some(error);
                    }
                }
            }
        }
        if !wait_for_change(&mut maps, pauses.next(), deadline).await {
            return Err(cluster.gave_up(failed));
        }
        (primary_silence, replica_silence) = (primary_silence * 2, replica_silence * 2);
    }
}

/// Asks one node, by line, and once more as an array where the value is no line.
async fn ask(cluster: &Cluster, node: &NodeAddr, key: &[u8], patience: Patience) -> Result<Option<Vec<u8>>, Miss> {
    let not_reached =
        |failure: Failure| Miss::AskOn(Error::NotReached { whom: format!("node {node}"), reason: failure.to_string() });
    let mut answer = cluster.pool().exchange(node, &Request::get(key), patience).await.map_err(not_reached)?;
    if matches!(&answer, Answer::Error(error) if meaning_of(error) == Meaning::Binary) {
        answer = cluster.pool().exchange(node, &Request::get_bytes(key), patience).await.map_err(not_reached)?;
    }
    match answer {
        Answer::Value(value) => Ok(Some(value)),
        Answer::NotFound => Ok(None),
        Answer::Error(reason) => {
            let meaning = meaning_of(&reason);
            let refused = Error::Refused { by: Some(node.clone()), reason };
            Err(if meaning == Meaning::Never { Miss::Final(refused) } else { Miss::AskOn(refused) })
        }
        Answer::Ok | Answer::Text(_) => Err(not_reached(Failure::NoAnswer(NotAnAnswer.to_string()))),
    }
}
