//! The path of a write: the primary, again and again along the changes of the map, but sent at most once.

use std::time::Duration;

use proto::cluster_map::ClusterMap;
use proto::id::NodeAddr;
use tokio::time::Instant;

use crate::answer::{Answer, Meaning, NotAnAnswer, Request, meaning_of};
use crate::client::Cluster;
use crate::connection::{Failure, Patience};
use crate::error::Error;
use crate::map_watch::{Pauses, wait_for_change};
use crate::placement::Placement;

/// How long one attempt to connect may take. The primary may be up again, or another node, before the timeout.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// For how long the primary alone is tried, unless the timeout is short. A new map normally comes before; a node that
/// passes the request on would only wait for that map, too, and an answer that it then owes is an unknown outcome.
const PRIMARY_ALONE: Duration = Duration::from_secs(1);

/// The pauses between attempts; a new map ends each at once.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Why an attempt did not succeed.
enum Miss {
    /// Nothing was sent; another node may take the request.
    TryNext(Error),
    /// The node did nothing and knows no better; the cluster has to change first.
    Wait(Error),
    /// The call is over.
    Final(Error),
}

/// Carries out a PUT or DELETE. Gives who holds the key, as the map is at the end.
pub(crate) async fn write(cluster: &Cluster, key: &[u8], request: &Request) -> Result<Placement, Error> {
    let start = Instant::now();
    let deadline = cluster.deadline();
    let mut maps = cluster.maps();
    let mut pauses = Pauses::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut detours = None::<usize>;
    let mut failed = None;
    loop {
        let map = maps.borrow_and_update().clone();
        let placement = Placement::of(&map, key);
        let detour = detours.and_then(|count| detour(&map, &placement, count));
        for node in placement.primary.iter().chain(detour) {
            match attempt(cluster, node, request, deadline).await {
                Ok(()) => return Ok(Placement::of(&maps.borrow(), key)),
                Err(Miss::Final(error)) => return Err(error),
                Err(Miss::TryNext(error)) => {
                    tracing::debug!(%node, %error, "nothing was sent");
                    failed = Some(error);
                }
                Err(Miss::Wait(error)) => {
                    tracing::debug!(%node, %error, "nothing was done");
                    failed = Some(error);
                    break;
                }
            }
        }
        if !wait_for_change(&mut maps, pauses.next(), deadline).await {
            return Err(cluster.gave_up(failed));
        }
        if start.elapsed() >= PRIMARY_ALONE.min(cluster.timeout() / 4) {
            detours = Some(detours.map_or(0, |count| count + 1));
        }
    }
}

/// A node other than the primary, each time the next one: replicas first, as they are the first to lead the slot.
fn detour<'a>(map: &'a ClusterMap, placement: &'a Placement, count: usize) -> Option<&'a NodeAddr> {
    let others = map.members().filter(|(_, member)| member.up).map(|(_, member)| &member.addr);
    let others = others.filter(|addr| placement.holders().all(|holder| holder != *addr));
    let candidates: Vec<&NodeAddr> = placement.replicas.iter().chain(others).collect();
    candidates.get(count.checked_rem(candidates.len())?).copied()
}

async fn attempt(cluster: &Cluster, node: &NodeAddr, request: &Request, deadline: Instant) -> Result<(), Miss> {
    let patience = Patience::until(deadline);
    let not_sent = |reason: String| Miss::TryNext(Error::NotReached { whom: format!("node {node}"), reason });
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::cluster_map::Member;
    use proto::id::Incarnation;
    use proto::slot::SlotBits;

    #[test]
    fn detours_go_round_all_nodes_but_the_primary() {
        let addr = |port| NodeAddr::new("h", port).unwrap();
        let mut map = ClusterMap::empty("c".into(), SlotBits::new(0));
        let member = |port| Member { addr: addr(port), up: port != 5 };
        map.set_members((1..=5).map(|port| (Incarnation(u64::from(port)), member(port))).collect());
        let placement = Placement { primary: Some(addr(1)), replicas: vec![addr(3)] };
        let ports: Vec<_> = (0..5).map(|count| detour(&map, &placement, count).unwrap().port()).collect();
        assert_eq!(ports, [3, 2, 4, 3, 2], "replicas first, nodes that are up after them");

        let alone = Placement { primary: Some(addr(1)), replicas: Vec::new() };
        assert_eq!(detour(&ClusterMap::empty("c".into(), SlotBits::new(0)), &alone, 3), None);
    }
}
