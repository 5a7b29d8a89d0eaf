//! Sessions with a coordinator that the test plays.

use std::sync::Arc;

use net::connection::FrameReader;
use proto::cluster_map::ClusterMap;
use proto::id::Version;
use proto::peer::{Change, Write};
use storage::SimDisk;
use storage::disk::sim::{Fault, Operation};
use tokio::net::TcpListener;

use super::*;
use crate::store::Fsync;
use crate::store::tests::{Durable, ME, eventually, map_of_one};

/// The coordinator's end.
struct Played {
    stream: TcpStream,
    reader: FrameReader,
    heard: Vec<String>,
}

impl Played {
    /// Accepts the node's connection, and admits it with a map.
    async fn accept(listener: &TcpListener, map: &ClusterMap) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut played = Self { stream, reader: FrameReader::new(), heard: Vec::new() };
        played.hear("JOIN").await;
        played.say(&CoordinatorMessage::Joined { incarnation: ME, text: "OK" }).await;
        let text = map.update_since(MapVersion(0)).to_lines().join("\n");
        played.say(&CoordinatorMessage::Map { text: &text }).await;
        played
    }

    async fn say(&mut self, message: &CoordinatorMessage<'_>) {
        use tokio::io::AsyncWriteExt as _;
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Waits for a message with this verb.
    async fn hear(&mut self, verb: &str) {
        loop {
            if let Some(at) = self.heard.iter().position(|heard| heard == verb) {
                self.heard.drain(..=at);
                return;
            }
            let filled = timeout(Duration::from_secs(20), self.reader.fill(&mut self.stream)).await;
            assert!(matches!(filled, Ok(Ok(1..))), "{verb} does not come: {filled:?}");
            let heard = &mut self.heard;
            self.reader.frames(|frame| {
                let Frame::Array(mut words) = frame else { return Flow::Close };
                heard.push(String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned());
                Flow::Next
            });
        }
    }
}

async fn listen() -> (TcpListener, Settings) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heartbeat_interval = Duration::from_millis(20);
    (listener, Settings { host: "127.0.0.1".to_owned(), port, heartbeat_interval, weight: 1 })
}

#[tokio::test]
async fn what_the_node_says_of_its_data_waits_for_the_disk_and_heartbeats_do_not_before_that_hangs() {
    let mut node = Durable::open(&SimDisk::new(1), Fsync::Always);
    let (listener, settings) = listen().await;
    let (notices, mut noticed) = mpsc::channel(16);
    let (_leave, left) = oneshot::channel();
    let session = tokio::spawn(run(node.driver.clone(), settings, notices, left));
    let mut coordinator = Played::accept(&listener, &map_of_one()).await;
    assert!(matches!(noticed.recv().await, Some(Notice::Joined(_))));
    let driver = node.driver.clone();
    eventually("it takes a write", || {
        let (write, mut turn) = (Write::new(b"k", Change::Put(b"v")), Turn::default());
        let waiting = engine::waiting::Waiting::new();
        let slot = driver.node().slot_of(b"k");
        driver.node().write(driver.clock().now(), slot, &write, &waiting, &mut turn).is_ok()
    })
    .await;
    // The log thread is not running yet.
    let slots = vec![driver.node().slot_of(b"k")];
    assert_ne!(driver.node().positions(&slots)[0].1, Version::NONE);
    coordinator.say(&CoordinatorMessage::AskPositions { query: 7, slots }).await;
    for _ in 0..3 {
        coordinator.hear("HEARTBEAT").await;
        assert!(
            !coordinator.heard.iter().any(|heard| heard == "POSITIONS"),
            "it may claim what the disk does not hold"
        );
    }
    let until = Instant::now() + Duration::from_secs(20);
    while timeout(Duration::from_millis(500), coordinator.hear("HEARTBEAT")).await.is_ok() {
        assert!(Instant::now() < until, "its disk hangs, and it says that it lives");
    }
    node.start();
    coordinator.hear("POSITIONS").await;
    coordinator.hear("HEARTBEAT").await;
    session.abort();
}

#[tokio::test]
async fn a_node_that_has_deleted_its_data_ends_although_another_start_has_its_name() {
    let node = Durable::open(&SimDisk::new(1), Fsync::Always);
    let (listener, settings) = listen().await;
    let (notices, mut noticed) = mpsc::channel(16);
    let (leave, left) = oneshot::channel();
    let session = tokio::spawn(run(node.driver.clone(), settings, notices, left));
    let mut coordinator = Played::accept(&listener, &map_of_one()).await;
    assert!(matches!(noticed.recv().await, Some(Notice::Joined(_))));
    let (told, is_told) = oneshot::channel();
    assert!(leave.send(Farewell { cleared: true, told }).is_ok());
    coordinator.hear("CLEARED").await;
    drop(coordinator);
    let (stream, _) = listener.accept().await.unwrap();
    let mut again = Played { stream, reader: FrameReader::new(), heard: Vec::new() };
    again.hear("JOIN").await;
    again.say(&CoordinatorMessage::Replaced).await;
    timeout(Duration::from_secs(20), is_told).await.expect("in time").expect("it need not be waited for");
    session.await.expect("it does not panic");
}

#[tokio::test]
async fn the_map_of_another_cluster_ends_the_session_before_anything_is_noted() {
    let disk = SimDisk::new(1);
    let node = Durable::open(&disk, Fsync::Always);
    let mut earlier = map_of_one();
    earlier.cluster = "c-0".to_owned();
    node.store.begin(Arc::new(earlier), Incarnation(5)).await.expect("the disk works");
    let (listener, settings) = listen().await;
    let (notices, mut noticed) = mpsc::channel(16);
    let (leave, left) = oneshot::channel();
    let session = tokio::spawn(run(node.driver.clone(), settings, notices, left));
    let mut coordinator = Played::accept(&listener, &map_of_one()).await;
    coordinator.hear("LEAVE").await;
    assert!(matches!(noticed.recv().await, Some(Notice::Joined(_))));
    let Some(Notice::Rejected(why)) = noticed.recv().await else { panic!("it goes on") };
    for says in ["/data", "cluster c-0", "leads cluster c-1", "nothing was changed", "--coordinator-host"] {
        assert!(why.contains(says), "{says}: {why}");
    }
    assert_eq!(node.driver.node().incarnation(), Incarnation::default(), "it has no part in that cluster");
    let (tell, told) = oneshot::channel();
    leave.send(Farewell { cleared: false, told: tell }).unwrap();
    told.await.expect("the session has ended");
    session.await.unwrap();
    drop(node);
    disk.crash();
    let again = Durable::open(&disk, Fsync::Always);
    assert_eq!(
        (again.store.cluster(), again.driver.node().ancestors().proven.as_slice()),
        (Some("c-0"), &[Incarnation(5)][..])
    );
}

#[tokio::test]
async fn a_start_is_noted_on_disk_before_the_coordinator_counts_on_it() {
    let disk = SimDisk::new(1);
    for earlier in [&[][..], &[ME]] {
        let node = Durable::open(&disk, Fsync::Always);
        assert_eq!(node.driver.node().ancestors().proven, earlier);
        let (listener, settings) = listen().await;
        let (notices, _noticed) = mpsc::channel(16);
        let (_leave, left) = oneshot::channel();
        let session = tokio::spawn(run(node.driver.clone(), settings, notices, left));
        let (stream, _) = listener.accept().await.unwrap();
        let mut coordinator = Played { stream, reader: FrameReader::new(), heard: Vec::new() };
        coordinator.hear("JOIN").await;
        let incarnation = Incarnation(ME.0 + earlier.len() as u64);
        coordinator.say(&CoordinatorMessage::Joined { incarnation, text: "OK" }).await;
        coordinator.hear("HEARTBEAT").await;
        session.abort();
        // No map has arrived, and the machine loses power.
        disk.crash();
    }
    let again = Durable::open(&disk, Fsync::Always);
    assert_eq!(again.store.cluster(), None);
    assert_eq!(again.driver.node().ancestors().proven, [ME, Incarnation(ME.0 + 1)]);
}

#[tokio::test]
async fn a_node_that_is_unregistered_never_claims_its_data_again_even_if_the_disk_was_full() {
    let disk = SimDisk::new(1);
    let mut node = Durable::open(&disk, Fsync::Always);
    node.start();
    let (listener, settings) = listen().await;
    let (notices, _noticed) = mpsc::channel(16);
    let (_leave, left) = oneshot::channel();
    let session = tokio::spawn(run(node.driver.clone(), settings, notices, left));
    let mut coordinator = Played::accept(&listener, &map_of_one()).await;
    let driver = node.driver.clone();
    let slot = driver.node().slot_of(b"k");
    eventually("it takes a write", || {
        let (write, mut turn) = (Write::new(b"k", Change::Put(b"v")), Turn::default());
        let waiting = engine::waiting::Waiting::new();
        driver.node().write(driver.clock().now(), slot, &write, &waiting, &mut turn).is_ok()
    })
    .await;
    assert_eq!(driver.node().next_ancestors().proven, [ME]);
    disk.inject(Some(Operation::Rename), 0, Fault::NoSpace);
    coordinator.say(&CoordinatorMessage::Unregistered).await;
    eventually("it gives everything up", || driver.node().positions(&[slot])[0].1 == Version::NONE).await;
    session.abort();
    drop((node, driver));
    disk.crash();
    let again = Durable::open(&disk, Fsync::Always);
    assert_eq!(again.store.cluster(), Some("c-1"));
    assert_eq!(again.driver.node().ancestors().iter().count(), 0);
}

#[tokio::test]
async fn that_a_lack_of_memory_is_over_is_told_once() {
    let node = Durable::open(&SimDisk::new(1), Fsync::Always);
    let (_listener, settings) = listen().await;
    let mut membership = Membership::new(node.driver.clone(), settings, mpsc::channel(1).0);
    membership.told_of_memory = vec![ME];
    let mut told = || {
        let mut out = Vec::new();
        membership.tell_memory(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(told(), "*1\r\n$6\r\nMEMORY\r\n");
    assert_eq!(told(), "", "it knows");
}
