//! A retried write is the same write: it takes effect once.

use client::{AckLevel, Cas, Error, Version};
use fake_cluster::{Behaviour, FakeCluster, FakeNode};
use proto::error::ErrorReply;

use crate::{all_requests, client, hasty_client};

const KEY: &[u8] = b"user:1";

/// The identity of the only write that a node has read, however often.
fn only_identity(node: &FakeNode) -> (String, u64) {
    let mut identities = node.identities();
    identities.dedup();
    assert_eq!(identities.len(), 1, "{identities:?}");
    identities.remove(0)
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_takes_effect_once() {
    let cluster = FakeCluster::start(3).await;
    let (client, primary) = (client(&cluster).await, cluster.primary_of(KEY));
    primary.set_behaviour(Behaviour::LoseAnswer);
    let (written, ()) = tokio::join!(client.put_if_absent(KEY, "Alice"), async {
        primary.has_read(2).await;
        primary.set_behaviour(Behaviour::Serve);
    });
    // A second write would have found the key and answered that it is not absent.
    assert_eq!(written, Ok(Cas::Written("1-1".parse().unwrap())));
    assert_eq!(primary.last_version().seq, 1);
    assert!(primary.identities().len() >= 3, "it was sent again");
    only_identity(primary);
}

#[tokio::test]
async fn the_answer_of_a_write_may_be_lost_any_number_of_times() {
    let cluster = FakeCluster::start(3).await;
    let (client, primary, holders) = (client(&cluster).await, cluster.primary_of(KEY), cluster.holders_of(KEY));
    primary.set_behaviour(Behaviour::LoseAnswer);
    let (written, ()) = tokio::join!(client.put_if_absent(KEY, "Alice"), async {
        for attempt in 1..=80 {
            primary.has_read(attempt).await;
            // A new map ends the pause before the next attempt.
            cluster.set_holders(KEY, &holders);
        }
        primary.set_behaviour(Behaviour::Serve);
    });
    assert_eq!(written, Ok(Cas::Written("1-1".parse().unwrap())));
    only_identity(primary);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_takes_effect_once_across_a_failover() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    let holders = cluster.holders_of(KEY);
    let version = {
        holders[0].insert(KEY, b"Alice");
        holders[0].last_version()
    };
    holders[0].set_behaviour(Behaviour::LoseAnswer);
    let (written, ()) = tokio::join!(client.compare_and_set(KEY, version, "Bob"), async {
        holders[0].has_read(1).await;
        holders[1].succeed(holders[0]);
        cluster.set_holders(KEY, &holders[1..]);
    });
    assert_eq!(written, Ok(Cas::Written("1-2".parse().unwrap())), "what the first attempt would have answered");
    assert_eq!(holders[1].value(KEY).as_deref(), Some(&b"Bob"[..]));
    assert_eq!(holders[1].last_version().seq, 2, "the successor has not written anew");
    assert_eq!(only_identity(holders[0]), only_identity(holders[1]));
}

#[tokio::test]
async fn a_silent_primary_is_left_as_soon_as_another_takes_its_place() {
    let cluster = FakeCluster::start(3).await;
    // Shorter than the patience with a primary that stays the primary.
    let client = hasty_client(&cluster, 1_900).await;
    let holders = cluster.holders_of(KEY);
    holders[0].set_behaviour(Behaviour::ServeInSilence);
    let (stored, ()) = tokio::join!(client.put(KEY, "Alice"), async {
        holders[0].has_read(1).await;
        holders[1].succeed(holders[0]);
        cluster.set_holders(KEY, &holders[1..]);
    });
    assert_eq!(stored.unwrap().primary.as_ref(), Some(holders[1].addr()));
    assert_eq!(holders[1].last_version().seq, 1);
    assert_eq!(only_identity(holders[0]), only_identity(holders[1]));
}

#[tokio::test]
async fn a_silent_primary_is_asked_again_where_nobody_takes_its_place() {
    let cluster = FakeCluster::start(1).await;
    let (client, node) = (client(&cluster).await, &cluster.nodes[0]);
    node.set_behaviour(Behaviour::ServeInSilence);
    let (stored, ()) = tokio::join!(client.delete(KEY), async {
        node.has_read(1).await;
        node.set_behaviour(Behaviour::Serve);
    });
    stored.unwrap();
    assert_eq!(node.requests(), ["line DELETE user:1", "line DELETE user:1"]);
    assert_eq!(node.last_version().seq, 1);
    only_identity(node);
}

/// Writes to a cluster whose primary behaves like this until the timeout. Returns why the outcome is unknown.
async fn ends_unknown(behaviour: Behaviour) -> String {
    let cluster = FakeCluster::start(3).await;
    cluster.primary_of(KEY).set_behaviour(behaviour);
    let error = hasty_client(&cluster, 300).await.put(KEY, "Alice").await.unwrap_err();
    let Error::Unknown { reason } = error else { panic!("{error}") };
    only_identity(cluster.primary_of(KEY));
    assert!(all_requests(&cluster).iter().all(|request| request == "line PUT user:1"));
    let end = "; tried for 300ms; the write may have taken effect, or still may within two minutes: read the key after that before you repeat it";
    let reason = reason.strip_suffix(end).unwrap_or_else(|| panic!("{reason}"));
    let primary = cluster.primary_of(KEY).addr();
    reason.strip_prefix(&format!("node {primary}: ")).unwrap_or_else(|| panic!("{reason}")).to_owned()
}

#[tokio::test]
async fn a_write_that_is_never_answered_is_unknown() {
    for (behaviour, why) in [
        (Behaviour::HangUp, "it closed the connection before it answered"),
        (Behaviour::LoseAnswer, "it closed the connection before it answered"),
        (Behaviour::BeSilent, "it did not answer in time"),
        (Behaviour::Refuse(ErrorReply::Unknown("the primary is lost".into())), "the primary is lost"),
    ] {
        assert_eq!(ends_unknown(behaviour).await, why);
    }
    let reason = ends_unknown(Behaviour::Say(b"HTTP/1.1 400 Bad Request\r\n")).await;
    assert!(reason.contains("is not in this protocol"), "{reason}");
    // An answer of this protocol, but to a different request.
    let reason = ends_unknown(Behaviour::Say(b"OK 1-1\n")).await;
    assert!(reason.contains("is not in this protocol"), "{reason}");
}

#[tokio::test]
async fn a_refusal_says_nothing_about_an_earlier_attempt() {
    let cluster = FakeCluster::start(1).await;
    let (client, node) = (hasty_client(&cluster, 500).await, &cluster.nodes[0]);
    for refusal in [
        ErrorReply::Unavailable("no lease".into()),
        ErrorReply::Stale("a later write of this client is known".into()),
        ErrorReply::NotText,
    ] {
        let before = node.identities().len();
        node.set_behaviour(Behaviour::LoseAnswer);
        let (error, ()) = tokio::join!(client.put(KEY, "Alice"), async {
            node.has_read(before + 1).await;
            node.set_behaviour(Behaviour::Refuse(refusal.clone()));
        });
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{refusal}: {error}");
    }
}

#[tokio::test]
async fn a_write_that_is_stale_at_once_is_refused_for_good() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    node.set_behaviour(Behaviour::Refuse(ErrorReply::Stale("older than what is known".into())));
    let error = client(&cluster).await.put(KEY, "Alice").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.starts_with("STALE ")), "{error}");
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn writes_one_after_the_other_are_numbered_under_one_name() {
    let cluster = FakeCluster::start(1).await;
    let (client, node) = (client(&cluster).await, &cluster.nodes[0]);
    client.put("a", "1").await.unwrap();
    client.clone().delete("b").await.unwrap();
    let written = client.with(AckLevel::All).put_if_absent("c", "\n").await;
    assert_eq!(written, Ok(Cas::Written("1-3".parse().unwrap())));
    assert_eq!(client.compare_and_set("a", Version::NONE, "2").await, Ok(Cas::Conflict("1-1".parse().unwrap())));
    let identities = node.identities();
    let name = &identities[0].0;
    assert_eq!(identities, (1..=4).map(|seq| (name.clone(), seq)).collect::<Vec<_>>());
    assert!(name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name}");
}

#[tokio::test]
async fn no_name_has_two_writes_under_way() {
    let cluster = FakeCluster::start(1).await;
    let (client, node) = (hasty_client(&cluster, 200).await, &cluster.nodes[0]);
    client.put(KEY, "1").await.unwrap();
    // The outcome of this write stays unknown, and that of the next is never received.
    node.set_behaviour(Behaviour::ServeInSilence);
    client.put(KEY, "2").await.unwrap_err();
    let read = node.requests().len();
    tokio::select! {
        _ = client.put(KEY, "3") => panic!("a silent node does not answer"),
        () = node.has_read(read + 1) => {}
    }
    node.set_behaviour(Behaviour::Serve);
    let (one, two) = tokio::join!(client.put(KEY, "4"), client.put(KEY, "5"));
    one.and(two).unwrap();
    let mut identities = node.identities();
    identities.dedup();
    let (first, second) = (identities[0].clone(), identities[1].clone());
    assert_eq!((first.1, second), (1, (first.0.clone(), 2)));
    let names: std::collections::BTreeSet<&str> = identities.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((identities.len(), names.len()), (5, 4), "the last three have names of their own: {identities:?}");
}

#[tokio::test]
async fn what_a_node_has_said_of_a_write_is_told_rather_than_its_later_silence() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    node.set_behaviour(Behaviour::Refuse(ErrorReply::Unknown("its replicas did not confirm it".into())));
    let client = hasty_client(&cluster, 500).await;
    let (written, ()) = tokio::join!(client.put(KEY, "Alice"), async {
        node.has_read(2).await;
        node.set_behaviour(Behaviour::BeSilent);
    });
    let Err(Error::Unknown { reason }) = written else { panic!("{written:?}") };
    assert!(reason.contains("its replicas did not confirm it"), "{reason}");
}
