//! A write goes to the primary and is retried until it is accepted.

use client::Error;
use fake_cluster::{Behaviour, FakeCluster};
use proto::error::ErrorReply;
use proto::limits;

use crate::{all_requests, client, hasty_client, index_of_primary};

const KEY: &[u8] = b"user:1";

#[tokio::test]
async fn a_write_goes_to_the_primary_alone() {
    let cluster = FakeCluster::start(5).await;
    let client = client(&cluster).await;
    let placement = client.put(KEY, "Alice").await.unwrap();
    let holders: Vec<_> = cluster.holders_of(KEY).iter().map(|node| node.addr().clone()).collect();
    assert_eq!(placement.primary.as_ref(), Some(&holders[0]));
    assert_eq!(placement.replicas, holders[1..]);
    assert_eq!(client.delete(KEY).await.unwrap(), placement);
    assert_eq!(cluster.primary_of(KEY).requests(), ["line PUT user:1", "line DELETE user:1"]);
    assert_eq!(all_requests(&cluster).len(), 2);
}

#[tokio::test]
async fn a_write_that_was_refused_is_tried_until_it_is_taken() {
    let cluster = FakeCluster::start(3).await;
    let primary = cluster.primary_of(KEY);
    primary.set_behaviour(Behaviour::Refuse(ErrorReply::Unavailable("no lease".into())));
    let client = client(&cluster).await;
    let (stored, ()) = tokio::join!(client.put(KEY, "Alice"), async {
        primary.has_read(2).await;
        primary.set_behaviour(Behaviour::Serve);
    });
    stored.unwrap();
    assert_eq!(primary.value(KEY).as_deref(), Some(&b"Alice"[..]));
}

#[tokio::test]
async fn a_write_that_is_refused_to_the_end_gives_the_nodes_text() {
    let cluster = FakeCluster::start(3).await;
    let primary = cluster.primary_of(KEY);
    primary.set_behaviour(Behaviour::Refuse(ErrorReply::Unavailable("no lease".into())));
    let error = hasty_client(&cluster, 200).await.delete(KEY).await.unwrap_err();
    let refused = Error::Refused { by: Some(primary.addr().clone()), reason: "UNAVAILABLE no lease".into() };
    assert_eq!(error, refused);
}

#[tokio::test]
async fn a_node_that_answers_arrays_by_line_is_understood() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].set_behaviour(Behaviour::Say(b"ERROR BUSY 10000 clients are connected\n"));
    let error = hasty_client(&cluster, 100).await.put(KEY, b"\xff").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { reason, .. } if reason.starts_with("BUSY ")), "{error}");
}

#[tokio::test]
async fn a_write_waits_for_the_map_in_which_another_node_leads() {
    let mut cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    let primary = index_of_primary(&cluster, KEY);
    cluster.nodes[primary].stop().await;
    let successors = cluster.holders_of(KEY)[1..].to_vec();
    // The first future is polled first, so the map changes after the connection was refused.
    let (stored, ()) = tokio::join!(client.put(KEY, "Alice"), async { cluster.set_holders(KEY, &successors) });
    let placement = stored.unwrap();
    assert_eq!(placement.primary.as_ref(), Some(successors[0].addr()));
    assert_eq!(successors[0].value(KEY).as_deref(), Some(&b"Alice"[..]));
}

#[tokio::test]
async fn a_write_that_could_not_be_sent_says_so() {
    let mut cluster = FakeCluster::start(1).await;
    let client = hasty_client(&cluster, 200).await;
    cluster.nodes[0].stop().await;
    let error = client.put(KEY, "Alice").await.unwrap_err();
    let addr = cluster.nodes[0].addr();
    assert_eq!(
        error.to_string(),
        format!(
            "UNAVAILABLE the primary {addr} could not be reached: connection refused; nothing was changed; tried for 200ms"
        )
    );
}

#[tokio::test]
async fn without_nodes_a_write_is_refused() {
    let cluster = FakeCluster::start(0).await;
    let error = hasty_client(&cluster, 100).await.put(KEY, "Alice").await.unwrap_err();
    assert_eq!(error, Error::Refused { by: None, reason: "No nodes available; tried for 100ms".into() });
}

#[tokio::test]
async fn a_node_that_was_started_again_takes_the_next_write() {
    let mut cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    for value in ["one", "two", "three"] {
        client.put(KEY, value).await.unwrap();
        // The client's idle connection to the node is now closed.
        cluster.nodes[0].stop().await;
        cluster.nodes[0].restart().await;
    }
    assert_eq!(cluster.nodes[0].value(KEY).as_deref(), Some(&b"three"[..]));
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind_for_the_next() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    let client = client(&cluster).await;
    client.put(KEY, "Alice").await.unwrap();
    node.set_behaviour(Behaviour::BeSilent);
    tokio::select! {
        _ = client.put(KEY, "Bob") => panic!("a silent node does not answer"),
        () = node.has_read(2) => {}
    }
    node.set_behaviour(Behaviour::Serve);
    assert_eq!(client.get(KEY).await.unwrap().as_deref(), Some(&b"Alice"[..]));
}

#[tokio::test]
async fn what_is_too_long_is_never_sent() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    let key = vec![b'k'; limits::KEY_BYTES + 1];
    for error in [
        client.put(&key, "v").await.unwrap_err(),
        client.get(&key).await.unwrap_err(),
        client.delete(&key).await.unwrap_err(),
        client.put(KEY, vec![0; limits::VALUE_BYTES + 1]).await.unwrap_err(),
    ] {
        assert!(matches!(&error, Error::Invalid(reason) if reason.starts_with("TOOLONG ")), "{error}");
    }
    assert!(all_requests(&cluster).is_empty());
}

#[tokio::test]
async fn a_write_is_not_sent_again_once_the_cluster_may_have_forgotten_it() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].set_behaviour(Behaviour::ServeInSilence);
    let client = hasty_client(&cluster, 3_600_000).await;
    // Time passes only where everybody waits for it.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let error = client.put(KEY, "Alice").await.unwrap_err();
    assert!(matches!(&error, Error::Unknown { reason } if reason.contains("tried for 8m")), "{error}");
    let tried = start.elapsed().as_secs();
    assert!((480..600).contains(&tried), "{tried} s");
}

#[tokio::test]
async fn of_a_key_that_is_stored_twice_at_once_the_last_value_stays() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    for round in 0..50 {
        let [first, last] = [format!("first {round}"), format!("last {round}")];
        let stored = client.put_many([("twice", &first), ("once", &first), ("twice", &last)]).await;
        assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        assert_eq!((stored.len(), &stored[0]), (3, &stored[2]));
        assert_eq!(client.get("twice").await.unwrap(), Some(last.into_bytes()));
        assert_eq!(client.get("once").await.unwrap(), Some(first.into_bytes()));
    }
}
