//! The path of a read: the primary, then the replicas if the primary does not answer and the read is not linear.

use std::time::Duration;

use proto::id::{NodeAddr, Version};
use proto::level::ReadLevel;
use proto::peer::{self, Wanted};

use crate::answer::{Answer, Meaning, NotAnAnswer, Request, meaning_of};
use crate::cluster::Cluster;
use crate::connection::{Failure, Timeouts};
use crate::error::{Error, more_telling};
use crate::map_watch::{Maps, Pauses, another_primary, wait_for_change};
use crate::placement::Placement;

/// How long the primary may be silent before the replicas are asked. Doubles with every round, so that a cluster slower
/// than this is answered in the end.
const PRIMARY_SILENCE: Duration = Duration::from_millis(300);

/// How long the primary may be silent before a linear read is sent again, on another connection. The retry has all the
/// remaining time: a primary that cannot answer yet says why when its own time is up.
const LINEAR_SILENCE: Duration = Duration::from_secs(2);

/// How long a replica may be silent in the first round. It asks the primary first, for up to 300 ms of its own.
const REPLICA_SILENCE: Duration = Duration::from_secs(1);

/// Pauses between rounds; a new map ends a pause at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The result of a read, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The value, byte for byte; `None` if the key is absent.
    pub value: Option<Vec<u8>>,
    /// The key's version; `None` if the key is absent, or the version was not asked for.
    pub version: Option<Version>,
    /// The node that answered.
    pub node: NodeAddr,
    /// A replica answered because the primary did not: it may not have the latest writes yet.
    pub from_replica: bool,
}

/// How much longer a key will have its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// The key is absent.
    Absent,
    /// It has no deadline.
    Forever,
    /// This many seconds, rounded to the nearest.
    Seconds(u64),
}

/// Why a node gave no value.
enum AttemptError {
    /// Another node, or a later attempt, may give one.
    TryNext(Error),
    /// Nobody will.
    Final(Error),
}

/// What every node is asked, and how.
struct Question<'a> {
    key: &'a [u8],
    request: Request,
    /// The same request, for a value that cannot go on a line.
    for_bytes: Request,
}

/// Reads a key, and its version if wanted.
pub(crate) async fn read(
    cluster: &Cluster,
    level: Option<ReadLevel>,
    key: &[u8],
    wanted: Wanted,
) -> Result<Read, Error> {
    let found = |answer| match answer {
        Answer::Value(value) => Some((Some(value), None)),
        Answer::Versioned(version, value) => Some((Some(value), Some(version))),
        Answer::NotFound => Some((None, None)),
        _ => None,
    };
    let ((value, version), node, from_replica) = ask_around(cluster, level, key, wanted, found).await?;
    Ok(Read { value, version, node, from_replica })
}

/// Asks how much longer a key will have its value.
pub(crate) async fn ttl(cluster: &Cluster, level: Option<ReadLevel>, key: &[u8]) -> Result<Ttl, Error> {
    let found = |answer| match answer {
        Answer::Number(-2) => Some(Ttl::Absent),
        Answer::Number(-1) => Some(Ttl::Forever),
        Answer::Number(seconds) => u64::try_from(seconds).ok().map(Ttl::Seconds),
        _ => None,
    };
    ask_around(cluster, level, key, Wanted::Ttl, found).await.map(|(ttl, ..)| ttl)
}

/// Asks the holders of a key until one gives an answer that `found` accepts. Returns what was found, the node, and
/// whether it is a replica.
async fn ask_around<T>(
    cluster: &Cluster,
    level: Option<ReadLevel>,
    key: &[u8],
    wanted: Wanted,
    found: impl Fn(Answer) -> Option<T>,
) -> Result<(T, NodeAddr, bool), Error> {
    let read = peer::Read { key, wanted, level: ReadLevel::default() };
    let question = Question { key, request: Request::read(&read, level), for_bytes: Request::read_bytes(&read, level) };
    let deadline = cluster.deadline();
    let mut maps = cluster.maps();
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut slowness = 1_u32;
    let mut failed = None;
    loop {
        let (placement, is_linear) = {
            let map = maps.borrow_and_update();
            (Placement::of(&map, key), level.unwrap_or(map.cluster_settings.read) == ReadLevel::Linear)
        };
        // A replica may lack writes that a linear read must return.
        let replicas = if is_linear { &[][..] } else { &placement.replicas };
        for node in placement.primary.iter().chain(replicas) {
            let from_replica = placement.primary.as_ref() != Some(node);
            let timeouts = Timeouts::until(deadline);
            let timeouts = match (from_replica, is_linear, replicas.is_empty()) {
                (true, ..) => timeouts.with_idle(REPLICA_SILENCE * slowness),
                (false, true, _) if slowness == 1 => timeouts.with_idle(LINEAR_SILENCE),
                (false, false, false) => timeouts.with_idle(PRIMARY_SILENCE * slowness),
                // There is nobody else to ask.
                (false, true, _) | (false, false, true) => timeouts,
            };
            let asked = ask(cluster, node, &question, timeouts, (!from_replica).then(|| maps.clone()), &found);
            match asked.await {
                Ok(found) => return Ok((found, node.clone(), from_replica)),
                Err(AttemptError::Final(error)) => return Err(error),
                Err(AttemptError::TryNext(error)) => {
                    tracing::debug!(%node, %error, "trying the next node");
                    failed = Some(more_telling(failed, error));
                }
            }
        }
        if !wait_for_change(&mut maps, pauses.next(), deadline).await {
            return Err(cluster.gave_up(failed));
        }
        slowness = slowness.saturating_mul(2);
    }
}

/// Asks one node. If `as_primary` is given, gives up as soon as those maps name another primary.
async fn ask<T>(
    cluster: &Cluster,
    node: &NodeAddr,
    question: &Question<'_>,
    timeouts: Timeouts,
    as_primary: Option<Maps>,
    found: impl Fn(Answer) -> Option<T>,
) -> Result<T, AttemptError> {
    let not_reached = |failure: Failure| {
        AttemptError::TryNext(Error::NotReached { whom: format!("node {node}"), reason: failure.to_string() })
    };
    let no_longer = async {
        match as_primary {
            Some(mut maps) => another_primary(&mut maps, question.key, node).await,
            None => std::future::pending().await,
        }
    };
    let answer = tokio::select! {
        biased;
        answer = exchange(cluster, node, question, timeouts) => answer.map_err(not_reached)?,
        () = no_longer => {
            return Err(not_reached(Failure::NoAnswer("another node took its place before it answered".to_owned())));
        }
    };
    match answer {
        Answer::Error(reason) => {
            let meaning = meaning_of(&reason);
            let refused = Error::Refused { by: Some(node.clone()), reason };
            Err(if meaning == Meaning::Never { AttemptError::Final(refused) } else { AttemptError::TryNext(refused) })
        }
        answer => found(answer).ok_or_else(|| not_reached(Failure::NoAnswer(NotAnAnswer.to_string()))),
    }
}

/// Asks one question. If the value cannot go on a line, asks again in the array encoding.
async fn exchange(
    cluster: &Cluster,
    node: &NodeAddr,
    question: &Question<'_>,
    timeouts: Timeouts,
) -> Result<Answer, Failure> {
    let answer = cluster.pool().exchange(node, &question.request, timeouts).await?;
    match answer {
        Answer::Error(error) if meaning_of(&error) == Meaning::Binary => {
            cluster.pool().exchange(node, &question.for_bytes, timeouts).await
        }
        answer => Ok(answer),
    }
}
