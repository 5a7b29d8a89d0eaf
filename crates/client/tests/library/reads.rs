//! The primary answers; if it does not, a replica does.

use client::Error;
use fake_cluster::{Behaviour, FakeCluster};
use proto::error::ErrorReply;

use crate::{all_requests, client, hasty_client, index_of_primary};

const KEY: &[u8] = b"user:1";

/// A cluster whose replicas hold a value that its primary does not.
async fn cluster_with_value_on_replicas() -> FakeCluster {
    let cluster = FakeCluster::start(3).await;
    for replica in &cluster.holders_of(KEY)[1..] {
        replica.insert(KEY, b"Alice");
    }
    cluster
}

async fn reads_from_the_first_replica(cluster: &FakeCluster) {
    let read = client(cluster).await.read(KEY).await.unwrap();
    assert_eq!(read.value.as_deref(), Some(&b"Alice"[..]));
    assert!(read.from_replica);
    assert_eq!(read.node, *cluster.holders_of(KEY)[1].addr());
}

#[tokio::test]
async fn a_read_goes_straight_to_the_primary() {
    let cluster = FakeCluster::start(5).await;
    cluster.primary_of(KEY).insert(KEY, b"Alice");
    let read = client(&cluster).await.read(KEY).await.unwrap();
    assert_eq!(read.value.as_deref(), Some(&b"Alice"[..]));
    assert_eq!((read.node, read.from_replica), (cluster.primary_of(KEY).addr().clone(), false));
    assert_eq!(all_requests(&cluster), ["line GET user:1"]);
}

#[tokio::test]
async fn a_replica_is_read_when_the_primary_is_dead() {
    let mut cluster = cluster_with_value_on_replicas().await;
    let primary = index_of_primary(&cluster, KEY);
    cluster.nodes[primary].stop().await;
    reads_from_the_first_replica(&cluster).await;
}

#[tokio::test]
async fn a_replica_is_read_when_the_primary_does_not_answer() {
    let unavailable = ErrorReply::Unavailable("it is starting".into());
    for behaviour in [Behaviour::BeSilent, Behaviour::HangUp, Behaviour::Refuse(unavailable), Behaviour::Say(b"?\n")] {
        let cluster = cluster_with_value_on_replicas().await;
        cluster.primary_of(KEY).set_behaviour(behaviour);
        reads_from_the_first_replica(&cluster).await;
    }
}

#[tokio::test]
async fn the_next_replica_is_read_when_the_first_is_dead_too() {
    let cluster = cluster_with_value_on_replicas().await;
    let holders = cluster.holders_of(KEY);
    holders[0].set_behaviour(Behaviour::HangUp);
    holders[1].set_behaviour(Behaviour::HangUp);
    let read = client(&cluster).await.read(KEY).await.unwrap();
    assert_eq!(read.node, *holders[2].addr());
}

#[tokio::test]
async fn not_found_at_a_replica_is_an_answer() {
    let cluster = FakeCluster::start(3).await;
    cluster.primary_of(KEY).set_behaviour(Behaviour::HangUp);
    let read = client(&cluster).await.read(KEY).await.unwrap();
    assert_eq!((read.value, read.from_replica), (None, true));
}

#[tokio::test]
async fn a_value_that_is_no_line_is_read_as_an_array() {
    let cluster = FakeCluster::start(3).await;
    cluster.primary_of(KEY).insert(KEY, b"two\nlines");
    let client = client(&cluster).await;
    assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(&b"two\nlines"[..]));
    assert_eq!(all_requests(&cluster), ["line GET user:1", "array GET user:1"]);
}

#[tokio::test]
async fn a_read_that_nobody_answers_ends_with_the_timeout() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].set_behaviour(Behaviour::BeSilent);
    let error = hasty_client(&cluster, 200).await.get(KEY).await.unwrap_err();
    let Error::NotReached { whom, reason } = error else { panic!("{error}") };
    assert_eq!(whom, format!("node {}", cluster.nodes[0].addr()));
    assert_eq!(reason, "it did not answer in time; tried for 200ms");
}

#[tokio::test]
async fn a_read_that_everybody_refuses_gives_the_nodes_text() {
    let cluster = FakeCluster::start(3).await;
    for node in &cluster.nodes {
        node.set_behaviour(Behaviour::Refuse(ErrorReply::Busy("full".into())));
    }
    let error = hasty_client(&cluster, 200).await.get(KEY).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { by: Some(_), reason } if reason == "BUSY full"), "{error}");
}

#[tokio::test]
async fn a_read_may_be_refused_any_number_of_times() {
    let cluster = FakeCluster::start(3).await;
    let (client, holders) = (client(&cluster).await, cluster.holders_of(KEY));
    for holder in &holders {
        holder.insert(KEY, b"Alice");
        holder.set_behaviour(Behaviour::Refuse(ErrorReply::Busy("full".into())));
    }
    let (value, ()) = tokio::join!(client.get(KEY), async {
        for round in 1..=40 {
            holders[2].has_read(round).await;
            // A new map ends the pause before the next round.
            cluster.set_holders(KEY, &holders);
        }
        holders[2].set_behaviour(Behaviour::Serve);
        cluster.set_holders(KEY, &holders);
    });
    assert_eq!(value.unwrap().as_deref(), Some(&b"Alice"[..]));
}

#[tokio::test]
async fn an_error_that_no_repetition_cures_is_reported_at_once() {
    let cluster = FakeCluster::start(3).await;
    cluster.primary_of(KEY).set_behaviour(Behaviour::Refuse(ErrorReply::NotText));
    let error = client(&cluster).await.get(KEY).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.starts_with("NOTTEXT ")), "{error}");
    assert_eq!(all_requests(&cluster).len(), 1);
}

#[tokio::test]
async fn a_read_goes_on_with_the_next_map() {
    let cluster = FakeCluster::start(4).await;
    let holders = cluster.holders_of(KEY);
    for holder in &holders {
        holder.set_behaviour(Behaviour::HangUp);
    }
    let is_holder = |addr| holders.iter().any(|holder| holder.addr() == addr);
    let other = cluster.nodes.iter().find(|node| !is_holder(node.addr())).unwrap();
    other.insert(KEY, b"Alice");
    let client = client(&cluster).await;
    let (value, ()) = tokio::join!(client.get(KEY), async {
        holders[2].has_read(1).await;
        cluster.set_holders(KEY, &[other]);
    });
    assert_eq!(value.unwrap().as_deref(), Some(&b"Alice"[..]));
}
