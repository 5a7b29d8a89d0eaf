//! Versions, and writes conditional on one.

use client::{Cas, Version};
use fake_cluster::{Behaviour, FakeCluster};

use crate::{all_requests, client};

const KEY: &[u8] = b"user:1";

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_value_comes_with_the_version_of_its_key() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    assert_eq!(client.get_versioned(KEY).await.unwrap(), None);
    for (seq, value) in [&b"Alice"[..], b"", b"3-12 Bob", b"two\nlines", b"\xff"].into_iter().enumerate() {
        client.put(KEY, value).await.unwrap();
        let expected = Version { seq: seq as u64 + 1, ..version("1-0") };
        assert_eq!(client.get_versioned(KEY).await.unwrap(), Some((expected, value.to_vec())));
    }
    assert_eq!(client.read(KEY).await.unwrap().version, None, "it was not asked for");
}

#[tokio::test]
async fn a_replica_tells_its_version_where_the_primary_does_not_answer() {
    let cluster = FakeCluster::start(3).await;
    let holders = cluster.holders_of(KEY);
    holders[0].set_behaviour(Behaviour::HangUp);
    holders[1].insert(KEY, b"Alice");
    let read = client(&cluster).await.read_versioned(KEY).await.unwrap();
    assert_eq!((read.value.as_deref(), read.version), (Some(&b"Alice"[..]), Some(version("1-1"))));
    assert_eq!((&read.node, read.from_replica), (holders[1].addr(), true));
}

#[tokio::test]
async fn a_value_is_set_at_the_expected_version_alone() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    for value in ["Alice", "", "v h:1", "two\nlines"] {
        client.put(KEY, "before").await.unwrap();
        let (before, _) = client.get_versioned(KEY).await.unwrap().unwrap();
        let Cas::Written(after) = client.compare_and_set(KEY, before, value).await.unwrap() else {
            panic!("nobody else writes")
        };
        assert!(after > before);
        assert_eq!(client.compare_and_set(KEY, before, "other").await, Ok(Cas::Conflict(after)));
        assert_eq!(client.get_versioned(KEY).await.unwrap(), Some((after, value.as_bytes().to_vec())));
    }
    client.delete(KEY).await.unwrap();
    assert_eq!(client.compare_and_set(KEY, version("1-1"), "late").await, Ok(Cas::Conflict(Version::NONE)));
    assert_eq!(client.get(KEY).await.unwrap(), None);
}

#[tokio::test]
async fn a_value_is_put_where_there_is_none() {
    let cluster = FakeCluster::start(1).await;
    let client = client(&cluster).await;
    for key in [&b"k"[..], b"a b", b"\xff"] {
        let Cas::Written(written) = client.put_if_absent(key, "first").await.unwrap() else { panic!("it was absent") };
        assert_eq!(client.put_if_absent(key, "second").await, Ok(Cas::Conflict(written)));
        assert_eq!(client.get(key).await.unwrap().as_deref(), Some(&b"first"[..]));
    }
    assert_eq!(all_requests(&cluster)[..2], ["line PUTNX k", "line PUTNX k"]);
}

#[tokio::test]
async fn of_many_who_count_none_is_lost() {
    let cluster = FakeCluster::start(3).await;
    let client = client(&cluster).await;
    client.put("count", "0").await.unwrap();
    let counters: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    let (version, value) = client.get_versioned("count").await.unwrap().unwrap();
                    let next = String::from_utf8(value).unwrap().parse::<u64>().unwrap() + 1;
                    if let Cas::Written(_) = client.compare_and_set("count", version, next.to_string()).await.unwrap() {
                        return;
                    }
                }
            })
        })
        .collect();
    for counter in counters {
        counter.await.unwrap();
    }
    assert_eq!(client.get("count").await.unwrap().as_deref(), Some(&b"8"[..]));
}
