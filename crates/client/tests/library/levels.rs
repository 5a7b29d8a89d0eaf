//! When writes are answered and what reads may return.

use client::{AckLevel, Client, Error, Levels, ReadLevel};
use fake_cluster::{Behaviour, FakeCluster};
use proto::error::ErrorReply;

use crate::{client, hasty_client};

const KEY: &[u8] = b"user:1";

#[tokio::test]
async fn a_client_without_levels_asks_for_none() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    client.put(KEY, "Alice").await.unwrap();
    client.get(KEY).await.unwrap();
    assert_eq!(cluster.nodes[0].requests(), ["line PUT user:1", "line GET user:1"]);
    assert_eq!(client.levels(), Levels::default());
}

#[tokio::test]
async fn a_connection_is_asked_for_a_level_once() {
    let cluster = FakeCluster::start(1).await;
    let builder = Client::builder().ack(AckLevel::Quorum).read(ReadLevel::Linear);
    let client = builder.connect(cluster.coordinator_addr()).await.unwrap();
    for value in [&b"Alice"[..], b"\xff"] {
        client.put(KEY, value).await.unwrap();
        assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(value));
    }
    client.node_info(cluster.nodes[0].addr()).await.unwrap();
    assert_eq!(
        cluster.nodes[0].requests(),
        [
            "line ACK quorum",
            "line PUT user:1 at quorum",
            "line READ linear",
            "line GET user:1 at linear",
            "array PUT user:1 at quorum",
            "line GET user:1 at linear",
            "array GET user:1 at linear",
            "line INFO",
        ]
    );
}

#[tokio::test]
async fn a_call_may_ask_for_another_level() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await.with(AckLevel::Quorum);
    let strictest = client.with(AckLevel::All);
    client.put(KEY, "1").await.unwrap();
    strictest.put_if_absent(KEY, "2").await.map(drop).unwrap();
    strictest.delete(KEY).await.unwrap();
    client.with(ReadLevel::Local).put(KEY, "3").await.unwrap();
    assert_eq!(
        cluster.nodes[0].requests(),
        [
            "line ACK quorum",
            "line PUT user:1 at quorum",
            "line ACK all",
            "line PUTNX user:1 at all",
            "line DELETE user:1 at all",
            "line ACK quorum",
            "line PUT user:1 at quorum",
        ]
    );
}

#[tokio::test]
async fn who_has_no_level_never_gets_a_connection_with_somebody_elses() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    for _ in 0..2 {
        client.with(AckLevel::Quorum).put(KEY, "1").await.unwrap();
        client.put(KEY, "2").await.unwrap();
        client.with(ReadLevel::Linear).get(KEY).await.unwrap();
        client.get(KEY).await.unwrap();
    }
    let requests = cluster.nodes[0].requests();
    let count = |request: &str| requests.iter().filter(|read| *read == request).count();
    for request in ["line PUT user:1", "line PUT user:1 at quorum", "line GET user:1", "line GET user:1 at linear"] {
        assert_eq!(count(request), 2, "{request}: {requests:?}");
    }
    assert_eq!((count("line ACK quorum"), count("line READ linear")), (1, 1), "{requests:?}");
}

#[tokio::test]
async fn the_levels_in_effect_are_the_clusters_where_the_client_has_none() {
    let cluster = FakeCluster::start(1).await;
    cluster.coordinator.change(|map| map.cluster_settings.ack = AckLevel::All);
    let client = client(&cluster).await.with(ReadLevel::Linear);
    assert_eq!(client.levels(), ReadLevel::Linear.into());
    assert_eq!(client.levels_in_effect(), Levels { ack: Some(AckLevel::All), read: Some(ReadLevel::Linear) });
}

#[tokio::test]
async fn a_node_that_turns_connections_away_has_refused_what_came_behind_a_level() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].set_behaviour(Behaviour::TurnAway("ERROR BUSY 10000 clients are connected\n"));
    let client = hasty_client(&cluster, 100).await.with(AckLevel::Quorum);
    for value in ["Alice", ""] {
        let error = client.put(KEY, value).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { reason, .. } if reason.starts_with("BUSY ")), "{error}");
    }
}

#[tokio::test]
async fn a_linear_read_is_never_answered_by_a_replica() {
    for behaviour in
        [Behaviour::HangUp, Behaviour::BeSilent, Behaviour::Refuse(ErrorReply::Unavailable("no lease".into()))]
    {
        let cluster = FakeCluster::start(3).await;
        let holders = cluster.holders_of(KEY);
        holders[0].set_behaviour(behaviour);
        holders[1].insert(KEY, b"old");
        hasty_client(&cluster, 400).await.with(ReadLevel::Linear).get(KEY).await.unwrap_err();
        // The same if the cluster's own level says so.
        cluster.coordinator.change(|map| map.cluster_settings.read = ReadLevel::Linear);
        hasty_client(&cluster, 400).await.get_versioned(KEY).await.unwrap_err();
        assert!(holders[1].requests().is_empty() && holders[2].requests().is_empty());
        let local = client(&cluster).await.with(ReadLevel::Local);
        assert_eq!(local.get(KEY).await.unwrap().as_deref(), Some(&b"old"[..]));
    }
}

#[tokio::test]
async fn a_linear_read_waits_for_the_primary() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await.with(ReadLevel::Linear);
    let primary = cluster.primary_of(KEY);
    primary.insert(KEY, b"Alice");
    primary.set_behaviour(Behaviour::Refuse(ErrorReply::Unavailable("no lease".into())));
    let (value, ()) = tokio::join!(client.get(KEY), async {
        primary.has_read(4).await;
        primary.set_behaviour(Behaviour::Serve);
    });
    assert_eq!(value.unwrap().as_deref(), Some(&b"Alice"[..]));
}

#[tokio::test]
async fn a_linear_read_turns_to_the_next_primary() {
    let cluster = FakeCluster::start(3).await;
    // Shorter than the patience with a primary that stays the primary.
    let client = hasty_client(&cluster, 1_900).await.with(ReadLevel::Linear);
    let holders = cluster.holders_of(KEY);
    holders[0].set_behaviour(Behaviour::BeSilent);
    holders[2].insert(KEY, b"Alice");
    let (read, ()) = tokio::join!(client.read(KEY), async {
        // READ and GET.
        holders[0].has_read(2).await;
        cluster.set_holders(KEY, &[holders[2], holders[1]]);
    });
    let read = read.unwrap();
    assert_eq!((read.value.as_deref(), read.from_replica), (Some(&b"Alice"[..]), false));
    assert!(holders[1].requests().is_empty());
}
