//! Walks, counts, and calls for many keys.

use std::time::Duration;

use client::{Error, ReadLevel};
use fake_cluster::{Behaviour, FakeCluster};
use proto::cluster_map::Member;
use proto::error::ErrorReply;
use tokio::time::{sleep, timeout};

use crate::{all_requests, client, hasty_client};

fn texts(keys: Vec<Vec<u8>>) -> Vec<String> {
    keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
}

#[tokio::test]
async fn a_walk_goes_on_behind_its_last_page_until_one_is_empty() {
    let cluster = FakeCluster::start(1).await;
    for key in ["k:1", "k:2", "k:3", "k:4\n", "l"] {
        cluster.nodes[0].insert(key.as_bytes(), b"v");
    }
    let client = client(&cluster).await.with(ReadLevel::Linear);
    let mut walk = client.prefix("k:").page_size(2);
    assert_eq!(walk.next_key().await.unwrap(), Some(b"k:1".to_vec()));
    assert_eq!(texts(walk.next_page().await.unwrap().unwrap()), ["k:2"], "what is left of the page");
    assert_eq!(texts(walk.next_page().await.unwrap().unwrap()), ["k:3", "k:4\n"]);
    assert_eq!((walk.next_page().await.unwrap(), walk.next_key().await.unwrap()), (None, None));
    let mut range = client.range("k:2", "").after("k:3");
    assert_eq!(texts(range.next_page().await.unwrap().unwrap()), ["k:4\n", "l"]);
    assert_eq!(client.count("k:").await.unwrap(), 4);
    let requests = all_requests(&cluster);
    assert_eq!(requests[..2], ["line READ linear", "array PAGE k: at linear"]);
    assert_eq!(requests.len(), 6, "nothing is asked for once a walk is over: {requests:?}");
}

#[tokio::test]
async fn another_node_is_asked_where_one_cannot_answer() {
    let cluster = FakeCluster::start(3).await;
    cluster.nodes.iter().for_each(|node| node.insert(b"k", b"v"));
    let unavailable = ErrorReply::Unavailable("slot 7 has no primary now".to_owned());
    cluster.nodes[0].set_behaviour(Behaviour::HangUp);
    cluster.nodes[1].set_behaviour(Behaviour::Refuse(unavailable.clone()));
    let client = hasty_client(&cluster, 500).await;
    assert_eq!(texts(client.prefix("").next_page().await.unwrap().unwrap()), ["k"]);
    assert_eq!(client.count("k").await.unwrap(), 1);
    cluster.nodes.iter().for_each(|node| node.set_behaviour(Behaviour::Refuse(unavailable.clone())));
    let mut walk = client.prefix("");
    assert!(
        matches!(walk.next_page().await, Err(Error::Refused { reason, .. }) if reason.starts_with("UNAVAILABLE slot 7"))
    );
    cluster.nodes.iter().for_each(|node| node.set_behaviour(Behaviour::Serve));
    assert_eq!(texts(walk.next_page().await.unwrap().unwrap()), ["k"], "the same page may be asked for again");
}

#[tokio::test]
async fn a_silent_node_is_left_as_soon_as_it_is_taken_for_dead() {
    let cluster = FakeCluster::start(1).await;
    let client = hasty_client(&cluster, 1_000).await;
    cluster.nodes[0].set_behaviour(Behaviour::BeSilent);
    let (count, ()) = tokio::join!(client.count(""), async {
        cluster.nodes[0].has_read(1).await;
        cluster.coordinator.change(|map| {
            let members = map.members().map(|(start, member)| (start, Member { up: false, ..member.clone() }));
            map.set_members(members.collect());
        });
    });
    let error = count.unwrap_err().to_string();
    assert!(error.contains("the coordinator took it for dead before it answered"), "{error}");
}

#[tokio::test]
async fn each_of_many_keys_has_its_own_answer_in_its_place() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    let keys: Vec<String> = (0..300).map(|number| format!("many:{number}")).collect();
    let long = "k".repeat(proto::limits::KEY_BYTES + 1);
    let mut pairs: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), key.as_str())).collect();
    pairs.insert(7, (&long, "v"));
    let stored = client.put_many(pairs).await;
    assert_eq!((stored.len(), stored.iter().filter(|stored| stored.is_err()).count()), (301, 1));
    assert!(matches!(&stored[7], Err(Error::Invalid(_))));
    let asked = keys.iter().rev().map(String::as_str).chain(["none"]);
    let read = client.get_many(asked).await;
    assert_eq!(read.last(), Some(&Ok(None)));
    assert!(keys.iter().rev().zip(&read).all(|(key, read)| read == &Ok(Some(key.clone().into_bytes()))));
}

#[tokio::test]
async fn every_client_begins_with_another_node() {
    let cluster = FakeCluster::start(3).await;
    for _ in 0..30 {
        client(&cluster).await.count("").await.unwrap();
    }
    assert!(cluster.nodes.iter().all(|node| !node.requests().is_empty()), "{:?}", all_requests(&cluster));
}

#[tokio::test]
async fn a_walk_that_has_begun_may_be_sent_elsewhere() {
    let cluster = FakeCluster::start(1).await;
    ["k:1", "k:2", "k:3"].iter().for_each(|key| cluster.nodes[0].insert(key.as_bytes(), b"v"));
    let client = client(&cluster).await;
    let mut walk = client.prefix("k:");
    assert_eq!(walk.next_key().await.unwrap(), Some(b"k:1".to_vec()));
    let mut walk = walk.after("k:2");
    assert_eq!(texts(walk.next_page().await.unwrap().unwrap()), ["k:3"], "not what is left of the first page");
    assert_eq!(walk.next_page().await.unwrap(), None);
    let mut walk = walk.after("k:1");
    assert_eq!(texts(walk.next_page().await.unwrap().unwrap()), ["k:2", "k:3"], "though it was over");
}

#[tokio::test]
async fn the_second_silent_node_has_twice_the_time_of_the_first() {
    let cluster = FakeCluster::start(3).await;
    cluster.nodes.iter().for_each(|node| node.set_behaviour(Behaviour::BeSilent));
    let client = client(&cluster).await;
    // The second is asked after 2 s, and the third after 4 s more.
    timeout(Duration::from_secs(5), client.count("")).await.unwrap_err();
    assert_eq!(all_requests(&cluster), ["array COUNT "; 2]);
}

#[tokio::test]
async fn few_walks_and_counts_of_a_client_are_in_flight_at_a_time() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].set_behaviour(Behaviour::BeSilent);
    let client = hasty_client(&cluster, 1_000).await;
    let counts: Vec<_> = (0..30)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.count("").await })
        })
        .collect();
    cluster.nodes[0].has_read(16).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(all_requests(&cluster).len(), 16);
    cluster.nodes[0].set_behaviour(Behaviour::Serve);
    for count in counts {
        assert!(matches!(count.await.unwrap(), Err(Error::NotReached { .. }) | Ok(0)));
    }
    assert_eq!(client.count("").await.unwrap(), 0);
}
