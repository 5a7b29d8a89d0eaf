//! The client follows the map, whatever happens to the coordinator.

use std::time::Duration;

use client::{Client, Error, NodeAddr};
use fake_cluster::{Behaviour, FakeCluster, FakeNode};
use proto::cluster_map::{ClusterMap, MapVersion};
use tokio::net::TcpListener;

use crate::{client, hasty_client};

const KEY: &[u8] = b"user:1";

/// Writes until the client has learned that this node leads the key.
async fn comes_to_write_to(client: &Client, node: &FakeNode) {
    let follows = async { while client.put(KEY, "Alice").await.unwrap().primary.as_ref() != Some(node.addr()) {} };
    tokio::time::timeout(Duration::from_secs(30), follows).await.expect("the client follows the map");
}

#[tokio::test]
async fn a_client_is_one_line_in_a_log() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    let debug = format!("{client:?}");
    assert!(debug.len() < 300 && debug.contains(client.coordinator().as_str()), "{debug}");
    let walk = format!("{:?}", client.prefix("user:"));
    assert!(walk.len() < 500, "{walk}");
}

#[tokio::test]
async fn requests_follow_every_change_of_the_map() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    for node in &cluster.nodes {
        cluster.set_holders(KEY, &[node]);
        comes_to_write_to(&client, node).await;
        assert_eq!(client.read(KEY).await.unwrap().node, *node.addr());
    }
}

#[tokio::test]
async fn a_coordinator_that_is_away_stops_nothing_and_is_followed_again() {
    let mut cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    cluster.coordinator.stop().await;
    client.put(KEY, "Alice").await.unwrap();
    assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(&b"Alice"[..]));
    let error = client.list_nodes().await.unwrap_err();
    assert!(matches!(error, Error::NotReached { .. }), "{error}");

    // The client learns of changes made while the coordinator was away once it is back.
    let successor = cluster.holders_of(KEY)[2];
    cluster.set_holders(KEY, &[successor]);
    let successor = successor.addr().clone();
    cluster.coordinator.restart().await;
    let successor = cluster.nodes.iter().find(|node| *node.addr() == successor).unwrap();
    comes_to_write_to(&client, successor).await;
    assert_eq!(client.list_nodes().await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_change_of_a_map_that_is_not_here_has_the_client_ask_anew() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    let successor = cluster.holders_of(KEY)[1];
    cluster.coordinator.change(|map| map.cluster = "another".to_owned());
    cluster.set_holders(KEY, &[successor]);
    comes_to_write_to(&client, successor).await;
}

#[tokio::test]
async fn a_coordinator_that_has_not_heard_of_its_nodes_is_no_news() {
    let mut cluster = FakeCluster::start(3).await;
    let client = hasty_client(&cluster, 1_000).await;
    let (primary, old) = (cluster.primary_of(KEY).addr().clone(), cluster.coordinator.map());
    cluster.coordinator.stop().await;
    cluster.coordinator.change(|map| *map = ClusterMap::empty("new".to_owned(), map.bits()));
    cluster.coordinator.watched_by(0).await;
    cluster.coordinator.restart().await;
    cluster.coordinator.watched_by(1).await;
    assert_eq!(client.put(KEY, "Alice").await.unwrap().primary, Some(primary.clone()));

    // Once it has heard from its nodes and resumes its cluster, it is followed as before.
    cluster.coordinator.change(|map| {
        let version = MapVersion(map.version.0 + old.version.0);
        *map = old;
        map.version = version;
    });
    let successor = cluster.holders_of(KEY)[1];
    cluster.set_holders(KEY, &[successor]);
    comes_to_write_to(&client, successor).await;
}

#[tokio::test]
async fn the_map_is_followed_until_the_last_clone_is_dropped() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    cluster.coordinator.watched_by(1).await;
    let clone = client.clone();
    drop(client);
    clone.put(KEY, "Alice").await.unwrap();
    cluster.coordinator.watched_by(1).await;
    drop(clone);
    cluster.coordinator.watched_by(0).await;
}

#[tokio::test]
async fn calls_run_side_by_side() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    let silent = cluster.primary_of(KEY);
    silent.set_behaviour(Behaviour::BeSilent);
    let stuck = tokio::spawn({
        let client = client.clone();
        async move { client.put(KEY, "Alice").await }
    });
    silent.has_read(1).await;
    let calls: Vec<_> = (0..100)
        .map(|i| format!("key:{i}"))
        .filter(|key| cluster.primary_of(key.as_bytes()).addr() != silent.addr())
        .map(|key| {
            let client = client.clone();
            tokio::spawn(async move {
                client.put(&key, &key).await.unwrap();
                assert_eq!(client.get(&key).await.unwrap(), Some(key.into_bytes()));
            })
        })
        .collect();
    assert!(!calls.is_empty());
    for call in calls {
        call.await.unwrap();
    }
    assert!(!stuck.is_finished());
    stuck.abort();
}

#[tokio::test]
async fn connecting_says_who_is_not_there() {
    let mut cluster = FakeCluster::start(1).await;
    let addr = cluster.coordinator_addr();
    cluster.coordinator.stop().await;
    let error = Client::connect(&addr).await.unwrap_err();
    assert_eq!(error.to_string(), format!("could not reach the coordinator at {addr}: connection refused"));

    let error = Client::connect(cluster.nodes[0].addr().as_str()).await.unwrap_err();
    assert!(matches!(&error, Error::NotReached { reason, .. } if reason.contains("is not a coordinator")), "{error}");

    let error = Client::connect("nowhere").await.unwrap_err();
    assert_eq!(error, Error::Invalid("\"nowhere\": an address is host:port".to_owned()));
}

#[tokio::test]
async fn connecting_to_somebody_who_says_nothing_ends_with_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = NodeAddr::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
    let error = Client::builder().timeout(Duration::from_millis(100)).connect(addr.as_str()).await.unwrap_err();
    assert!(matches!(&error, Error::NotReached { reason, .. } if reason == "it did not answer in time"), "{error}");
}
