//! Questions that the coordinator answers, and questions to a node about itself.

use std::time::Duration;

use client::{Error, NodeAddr, Slots};
use fake_cluster::{Behaviour, FakeCluster};

use crate::client;

#[tokio::test]
async fn nodes_are_listed_sorted() {
    let cluster = FakeCluster::start(3).await;
    let mut nodes: Vec<NodeAddr> = cluster.nodes.iter().map(|node| node.addr().clone()).collect();
    nodes.sort();
    let client = client(&cluster).await;
    assert_eq!(client.list_nodes().await.unwrap(), nodes);
    assert_eq!(client.list_nodes().await.unwrap(), nodes, "also on the connection that the first call left idle");
}

#[tokio::test]
async fn without_nodes_none_are_listed_nobody_holds_a_key_and_no_copies_are_compared() {
    let cluster = FakeCluster::start(0).await;
    let client = client(&cluster).await;
    assert_eq!(client.list_nodes().await.unwrap(), []);
    for key in ["user:1", "user 1"] {
        let error = client.nodes_for_key(key).await.unwrap_err();
        assert!(matches!(&error, Error::Refused { reason, .. } if reason == "No nodes available"), "{error}");
    }
    let error = client.verify_all().await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason == "No nodes available"), "{error}");
}

#[tokio::test]
async fn everybody_says_who_they_are() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    let node = cluster.nodes[0].addr();
    client.put("k", "v").await.unwrap();
    assert_eq!(client.info().await.unwrap(), "OK Coordinator nodes=1");
    assert_eq!(client.node_info(node).await.unwrap(), format!("OK Node {node} keys=1"));
    client.ping().await.unwrap();
    client.ping_node(node).await.unwrap();
}

#[tokio::test]
async fn a_wait_for_health_may_be_without_a_limit() {
    let cluster = FakeCluster::start(1).await;
    client(&cluster).await.wait_healthy(Duration::MAX).await.unwrap();
}

#[tokio::test]
async fn a_wait_for_health_tells_the_time_asked_for_however_many_attempts_it_took() {
    let mut cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    cluster.coordinator.fall_ill();
    cluster.coordinator.stop().await;
    let (waited, ()) = tokio::join!(client.wait_healthy(Duration::from_secs(60)), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.coordinator.restart().await;
    });
    let error = waited.unwrap_err().to_string();
    assert_eq!(error, "TIMEOUT not healthy after 60000 ms: 1 slot has no primary");
}

#[tokio::test]
async fn a_node_that_is_gone_is_reported_by_name() {
    let mut cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    cluster.nodes[0].stop().await;
    let addr = cluster.nodes[0].addr();
    for error in [client.ping_node(addr).await.unwrap_err(), client.node_info(addr).await.unwrap_err()] {
        assert_eq!(error.to_string(), format!("could not reach node {addr}: connection refused"));
    }
}

#[tokio::test]
async fn a_node_tells_the_writes_that_it_has_lost() {
    let cluster = FakeCluster::start(1).await;
    let (client, node) = (client(&cluster).await, &cluster.nodes[0]);
    assert!(client.losses(node.addr()).await.unwrap().is_empty());
    let losses = ["PUT user:1 at 1-9", "DELETE user:2 at 1-10"];
    node.set_losses(&losses);
    assert_eq!(client.losses(node.addr()).await.unwrap(), losses);
    client.ping_node(node.addr()).await.unwrap();
}

#[tokio::test]
async fn an_operator_forgets_a_node_and_accepts_a_loss() {
    let mut cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    let node = cluster.nodes[0].addr().clone();
    assert_eq!(client.forget(&node).await.unwrap(), format!("OK Node {node} is waited for no longer"));
    let stranger: NodeAddr = "127.0.0.1:1".parse().unwrap();
    let refused = Error::Refused {
        by: Some(cluster.coordinator.addr().clone()),
        reason: "Node 127.0.0.1:1 not found".to_owned(),
    };
    assert_eq!(client.forget(&stranger).await, Err(refused));
    assert_eq!(client.accept_loss(Slots::One(7)).await.unwrap(), "OK 1 slots start anew");
    assert_eq!(client.accept_loss(Slots::All).await.unwrap(), "OK 64 slots start anew");
    cluster.coordinator.stop().await;
    let error = client.accept_loss(Slots::All).await.unwrap_err();
    assert!(matches!(error, Error::NotReached { .. }), "{error}");
}

#[tokio::test]
async fn after_a_question_without_an_answer_the_next_goes_over_a_new_connection() {
    let cluster = FakeCluster::start(1).await;
    let (client, node) = (client(&cluster).await, &cluster.nodes[0]);
    // Both are under way at the same time, and leave a connection each.
    let (first, second) = tokio::join!(client.ping_node(node.addr()), client.ping_node(node.addr()));
    first.and(second).unwrap();
    node.set_behaviour(Behaviour::TurnAway("ERROR BUSY 7 clients are connected\n"));
    let error = client.ping_node(node.addr()).await.unwrap_err();
    assert!(matches!(error, Error::NotReached { .. }), "{error}");
    let error = client.ping_node(node.addr()).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.starts_with("BUSY")), "{error}");
}
