//! Disks that fail or hang, and machines that cannot open more files.

use proto::level::ReadLevel;
use proto::peer::List;
use proto::range::Keys;

use super::*;
use crate::disk_watch::DiskWatch;
use crate::walks::list_here;

#[tokio::test]
async fn after_an_fsync_that_failed_nothing_is_acknowledged_and_the_node_is_told_to_stop() {
    let disk = SimDisk::new(1);
    let mut node = Durable::open(&disk, Fsync::Always).leads().await;
    node.start();
    assert_eq!(node.write(b"good", b"v"), Some(()));
    node.driver.persist().await.expect("the disk works");
    disk.inject(Some(Operation::SyncData), 0, Fault::Io);
    assert_eq!(node.write(b"bad", b"v"), Some(()));
    assert_eq!(node.driver.persist().await, Err(DiskFailed));
    let why = node.store.failed().await;
    assert!(why.contains("sync") && why.contains(".seg"), "it names what failed: {why}");
    assert!(!node.driver.takes_writes());
    disk.clear_faults();
    assert_eq!(node.driver.persist().await, Err(DiskFailed), "it is not tried again");
    let closed = node.running.take().expect("it runs").close();
    assert!(closed.is_err(), "the next start is not told that all is well");
}

#[tokio::test]
async fn a_disk_that_has_failed_proves_nothing_unless_all_was_synced() {
    // The node may be stopping already when the disk fails; then nobody but `close` learns of it.
    let cases = [(Fsync::Always, true, true), (Fsync::Interval, false, true), (Fsync::Interval, false, false)];
    for (fsync, proves, is_noticed) in cases {
        let disk = SimDisk::new(1);
        let mut node = Durable::open(&disk, fsync).leads().await;
        node.store.note_incarnation(Incarnation(5)).await.expect("the disk works");
        node.start();
        assert_eq!(node.write(b"good", b"v"), Some(()));
        node.driver.persist().await.expect("the disk works");
        disk.inject(Some(Operation::SyncData), 0, Fault::Io);
        assert_eq!(node.write(b"bad", b"v"), Some(()));
        node.store.failed().await;
        if is_noticed {
            node.store.lose_proof().await;
        }
        assert!(node.running.take().expect("it runs").close().is_err());
        drop(node);
        disk.kill();
        let again = Durable::open(&disk, fsync);
        assert_eq!(!again.driver.node().ancestors().proven.is_empty(), proves, "{fsync}, {is_noticed}");
    }
}

#[tokio::test]
async fn a_map_that_cannot_be_written_stops_the_node_and_one_for_which_there_is_no_room_does_not() {
    let disk = SimDisk::new(1);
    let node = Durable::open(&disk, Fsync::Interval).leads().await;
    let newer = |version| {
        let mut map = map_of_one();
        map.version = MapVersion(version);
        Arc::new(map)
    };
    disk.inject(Some(Operation::SyncData), 0, Fault::NoSpace);
    node.store.keep_map(newer(2)).await.expect("it is saved later");
    assert_eq!(node.store.health(), Health::Good);
    disk.inject(Some(Operation::SyncData), 0, Fault::Io);
    assert!(node.store.keep_map(newer(3)).await.is_err());
    assert!(node.store.failed().await.contains("map.tmp"));
    assert!(!node.driver.takes_writes());
}

/// A machine that cannot open more files does not have a failed disk: the node waits, and goes on.
#[cfg(unix)]
#[tokio::test]
async fn want_of_descriptors_passes() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(16 << 20));
    let mut node = Durable::open(&disk, Fsync::Interval).leads().await;
    disk.set_capacity(None);
    node.start();
    let (value, mut was_full) = ([7; 8192], false);
    for round in 0..600 {
        // No file for a segment, until the log cannot continue without one.
        disk.refuse_opens(!was_full);
        let key = format!("k{}", round % 20);
        eventually("a write is taken", || {
            was_full |= node.store.health() == Health::Full;
            disk.refuse_opens(!was_full);
            node.write(key.as_bytes(), &value).is_some()
        })
        .await;
        let written = node.driver.node().noted().end();
        eventually("it is written in the end", || {
            was_full |= node.store.health() == Health::Full;
            disk.refuse_opens(!was_full);
            let is_written = node.driver.is_written(written);
            node.store.order(|orders| orders.write |= !is_written);
            is_written
        })
        .await;
    }
    assert!(was_full, "no file was missed");
    eventually("the disk is good", || node.store.health() == Health::Good).await;
    assert_eq!(node.value(b"k0").as_deref(), Some(&value[..]));
}

#[tokio::test]
async fn a_linear_list_does_not_wait_for_a_disk_that_hangs() {
    let node = Durable::open(&SimDisk::new(1), Fsync::Always).leads().await;
    // Its thread does not run, so nothing is written.
    assert_eq!(node.write(b"key", b"v"), Some(()));
    let slots = vec![node.driver.node().slot_of(b"key")];
    for (level, found) in [(ReadLevel::Local, 1), (ReadLevel::Linear, 0)] {
        let range = Keys::Prefix(b"key").range();
        let list =
            List { id: 1, level, at_replica: false, must_serve: false, limit: Some(10), range, slots: slots.clone() };
        let listed = timeout(SOON, list_here(&node.driver, &list)).await.expect("within the request timeout");
        assert_eq!((listed.keys.len(), listed.refused.len()), (found, 1 - found), "{level}");
    }
}

#[tokio::test]
async fn a_disk_hangs_that_has_taken_nothing_for_a_second_and_not_one_that_is_slow() {
    let mut node = Durable::open(&SimDisk::new(1), Fsync::Always).leads().await;
    // Its thread does not run, so nothing is written.
    let mut watch = DiskWatch::default();
    let mut now = Instant::now();
    assert!(!watch.hangs_at(&node.driver, now));
    for _ in 0..4 {
        now += Duration::from_millis(900);
        node.store.shared.taken.fetch_add(1, Ordering::Relaxed);
        assert!(!watch.hangs_at(&node.driver, now), "it takes one piece after the other");
    }
    assert!(!watch.hangs_at(&node.driver, now + Duration::from_millis(900)));
    assert!(watch.hangs_at(&node.driver, now + Duration::from_millis(1_100)));
    node.start();
    node.driver.persist().await.expect("the disk works");
    assert!(!watch.hangs_at(&node.driver, now + Duration::from_secs(9)));
}
