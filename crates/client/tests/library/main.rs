//! The library against a fake cluster on the loopback.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what panics here is a test that has failed")]

mod conditional;
mod coordinator;
mod levels;
mod reads;
mod retries;
mod routing;
mod values;
mod walks;
mod writes;

use std::time::Duration;

use client::Client;
use fake_cluster::FakeCluster;

/// A client of the cluster with ample time.
async fn client(cluster: &FakeCluster) -> Client {
    Client::connect(cluster.coordinator_addr()).await.expect("the coordinator is there")
}

/// A client with a short timeout.
async fn hasty_client(cluster: &FakeCluster, millis: u64) -> Client {
    let builder = Client::builder().timeout(Duration::from_millis(millis));
    builder.connect(cluster.coordinator_addr()).await.expect("the coordinator is there")
}

/// All requests that any node has read.
fn all_requests(cluster: &FakeCluster) -> Vec<String> {
    cluster.nodes.iter().flat_map(|node| node.requests()).collect()
}

/// The index of a key's primary among the nodes.
fn index_of_primary(cluster: &FakeCluster, key: &[u8]) -> usize {
    let addr = cluster.primary_of(key).addr();
    cluster.nodes.iter().position(|node| node.addr() == addr).expect("a node of the cluster")
}
