//! The path of a write: the same write goes to the primary again and again, following changes of the map.

use std::time::{Duration, SystemTime};

use proto::id::{NodeAddr, Version};
use proto::level::AckLevel;
use proto::limits::RESENT_FOR;
use proto::peer::Write;
use tokio::time::{Instant, timeout_at};

use crate::answer::{Answer, Meaning, NotAnAnswer, Request, meaning_of};
use crate::cluster::Cluster;
use crate::connection::{Failure, Timeouts};
use crate::error::Error;
use crate::lane::LANES;
use crate::map_watch::{Maps, Pauses, another_primary, wait_for_change};
use crate::placement::Placement;

/// How long one attempt to connect may take. Before the timeout, the primary may be back up or another node may take
/// over.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// How long the primary may be silent before the write is sent again, on another connection; and how long then. A
/// primary that cannot answer yet says why once its own time is up, at the latest after a minute.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
const LATER_PATIENCE: Duration = Duration::from_secs(65);

/// Pauses between attempts; a new map ends a pause at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The outcome of a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a conflict is no error: nothing was written"]
pub enum Cas {
    /// The value is stored, and the key is now at this version.
    Written(Version),
    /// Nothing was changed: the key is at this version, not the expected one. [`Version::NONE`] means it is absent.
    Conflict(Version),
}

/// Why an attempt did not succeed.
enum AttemptError {
    /// Nothing was done; the cluster has to change first.
    Refused(Error),
    /// It may or may not have taken effect: a node says so, and why.
    OutcomeUnknown(String),
    /// It may or may not have taken effect: there was no answer.
    NoAnswer(String),
    /// Nothing was done, and a retry would fare no better.
    Final(Error),
}

/// Carries out an unconditional write. Returns who holds the key, according to the map at the end.
pub(crate) async fn write(cluster: &Cluster, level: Option<AckLevel>, write: Write<'_>) -> Result<Placement, Error> {
    let done = |answer: &Answer| (*answer == Answer::Ok).then_some(());
    carry_out(cluster, level, write, done).await?;
    Ok(Placement::of(&cluster.maps().borrow(), write.key))
}

/// Carries out a conditional write.
pub(crate) async fn write_if(cluster: &Cluster, level: Option<AckLevel>, write: Write<'_>) -> Result<Cas, Error> {
    let done = |answer: &Answer| match answer {
        Answer::Written(version) => Some(Cas::Written(*version)),
        Answer::Conflict(version) => Some(Cas::Conflict(*version)),
        _ => None,
    };
    carry_out(cluster, level, write, done).await
}

/// Carries out a write whose answer says whether there was anything to do.
pub(crate) async fn write_counted(cluster: &Cluster, level: Option<AckLevel>, write: Write<'_>) -> Result<bool, Error> {
    let done = |answer: &Answer| match answer {
        Answer::Number(0) => Some(false),
        Answer::Number(1) => Some(true),
        _ => None,
    };
    carry_out(cluster, level, write, done).await
}

async fn carry_out<T>(
    cluster: &Cluster,
    level: Option<AckLevel>,
    write: Write<'_>,
    done: impl Fn(&Answer) -> Option<T>,
) -> Result<T, Error> {
    let deadline = cluster.deadline();
    // If this future is dropped, the lane is abandoned.
    let lane = timeout_at(deadline, cluster.lanes().take()).await.map_err(|_| Error::NotReached {
        whom: "a node".to_owned(),
        reason: format!("{LANES} writes of this client are in flight already; {}", cluster.tried()),
    })?;
    let request = Request::write(&Write { identity: Some(lane.identity()), ..write }, level);
    let result = attempts(cluster, deadline, write.key, &request, done).await;
    if !matches!(result, Err(Error::Unknown { .. })) {
        cluster.lanes().put_back(lane);
    }
    result
}

async fn attempts<T>(
    cluster: &Cluster,
    mut deadline: Instant,
    key: &[u8],
    request: &Request,
    done: impl Fn(&Answer) -> Option<T>,
) -> Result<T, Error> {
    // The second counts time for which this machine is suspended, the first may not.
    let mut first_sent: Option<(Instant, SystemTime)> = None;
    let mut maps = cluster.maps();
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut patience = ANSWER_PATIENCE;
    let mut refused = None;
    // IMPORTANT: once an attempt may have taken effect, only an answer that says what became of the write settles it. A
    // later attempt that was refused says nothing about the earlier one.
    let mut open = None;
    loop {
        let is_over = first_sent.is_some_and(|(_, at)| at.elapsed().is_ok_and(|passed| passed >= RESENT_FOR));
        if let Some(reason) = open.as_ref().filter(|_| is_over) {
            return Err(unknown(&format!("{reason}; {}", cluster.tried_for(RESENT_FOR))));
        }
        let primary = Placement::of(&maps.borrow_and_update(), key).primary;
        if let Some(node) = &primary {
            let (first_sent, _) = *first_sent.get_or_insert_with(|| (Instant::now(), SystemTime::now()));
            let timeouts = Timeouts::until(deadline).with_idle(patience);
            let miss = match exchange(cluster, node, key, request, timeouts, maps.clone()).await {
                Err(miss) => miss,
                Ok(answer) => match done(&answer) {
                    Some(done) => return Ok(done),
                    None => miss_of(node, answer),
                },
            };
            // What a node has said tells more than a later silence.
            let is_silent = matches!(miss, AttemptError::NoAnswer(_));
            match miss {
                AttemptError::Refused(error) => {
                    tracing::debug!(%node, %error, "nothing was done");
                    refused = Some(error);
                }
                AttemptError::OutcomeUnknown(reason) | AttemptError::NoAnswer(reason) => {
                    tracing::debug!(%reason, "retrying the write");
                    open = Some(if is_silent { open.unwrap_or(reason) } else { reason });
                    patience = LATER_PATIENCE;
                    // IMPORTANT: the cluster would take a write that it has forgotten for a new one.
                    deadline = deadline.min(first_sent + RESENT_FOR);
                }
                AttemptError::Final(error) => {
                    return Err(match open {
                        None => error,
                        Some(reason) => unknown(&format!("{reason}; sent again, node {node} answered: {error}")),
                    });
                }
            }
        }
        if !wait_for_change(&mut maps, pauses.next(), deadline).await {
            return Err(match open {
                None => cluster.gave_up(refused),
                Some(reason) => unknown(&format!("{reason}; {}", cluster.tried_for(RESENT_FOR))),
            });
        }
    }
}

/// Makes one attempt. It ends early if the map names another primary.
async fn exchange(
    cluster: &Cluster,
    node: &NodeAddr,
    key: &[u8],
    request: &Request,
    timeouts: Timeouts,
    mut maps: Maps,
) -> Result<Answer, AttemptError> {
    let not_sent = |why: &str| {
        let reason = format!("UNAVAILABLE the primary {node} could not be reached: {why}; nothing was changed");
        AttemptError::Refused(Error::Refused { by: None, reason })
    };
    let connecting = timeouts.with_idle(CONNECT_PATIENCE.min(timeouts.idle));
    let connection = tokio::select! {
        biased;
        connection = cluster.pool().connection(node, request.need, connecting) => connection,
        () = another_primary(&mut maps, key, node) => return Err(not_sent("another node has taken its place")),
    };
    let mut connection = connection.map_err(|failure| not_sent(&failure.to_string()))?;
    // IMPORTANT: from here on, assume that nothing was done only if a failure or an answer says so.
    let answer = tokio::select! {
        biased;
        answer = connection.exchange(request, timeouts) => answer,
        () = another_primary(&mut maps, key, node) => {
            Err(Failure::NoAnswer("another node took its place before it answered".to_owned()))
        }
    };
    match answer {
        Ok(answer) => {
            cluster.pool().put_back(node, connection);
            Ok(answer)
        }
        Err(failure) => {
            cluster.pool().forget(node);
            Err(match failure {
                Failure::NotSent(_) | Failure::NotAdmitted(_) => not_sent(&failure.to_string()),
                Failure::NoAnswer(reason) => AttemptError::NoAnswer(format!("node {node}: {reason}")),
            })
        }
    }
}

/// Classifies an answer other than the one hoped for.
fn miss_of(node: &NodeAddr, answer: Answer) -> AttemptError {
    let Answer::Error(reason) = answer else {
        return AttemptError::OutcomeUnknown(format!("node {node}: {NotAnAnswer}"));
    };
    let meaning = meaning_of(&reason);
    let refused = |reason| Error::Refused { by: Some(node.clone()), reason };
    match meaning {
        Meaning::Later => AttemptError::Refused(refused(reason)),
        Meaning::Never | Meaning::Binary => AttemptError::Final(refused(reason)),
        Meaning::Unknown => {
            AttemptError::OutcomeUnknown(format!("node {node}: {}", reason.strip_prefix("UNKNOWN ").unwrap_or(&reason)))
        }
    }
}

fn unknown(reason: &str) -> Error {
    let advice = "the write may have taken effect, or still may within two minutes: \
                  read the key after that before you repeat it";
    Error::Unknown { reason: format!("{reason}; {advice}") }
}
