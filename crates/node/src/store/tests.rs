//! A data directory on a simulated disk: what a node does when the disk is full, fails, or is damaged.

mod failing;

use std::path::Path;
use std::time::{Duration, Instant};

use engine::node::Turn;
use engine::time::Timestamp;
use engine::waiting::Waiting;
use net::clock::Clock;
use net::shutdown::Shutdown;
use proto::cluster_map::{ClusterMap, ClusterSettings, MapVersion, Member, SlotConfig};
use proto::id::{Epoch, NodeAddr};
use proto::peer::{Change, Write};
use proto::slot::SLOT_BITS;
use storage::SimDisk;
use storage::disk::sim::{Fault, Operation};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::snapshots::{Finished, Keep, Snapshots};
use super::*;
use crate::driver::Driver;

/// How long to wait for something that must happen.
const SOON: Duration = Duration::from_secs(20);

pub(crate) const ME: Incarnation = Incarnation(1 << 20);

/// A node with a data directory on a simulated disk. Its log thread runs once it is started.
pub(crate) struct Durable {
    pub(crate) driver: Driver,
    pub(crate) store: Store,
    journal: Option<storage::Journal>,
    running: Option<Running>,
    _background: Shutdown,
}

impl Durable {
    pub(crate) fn open(disk: &SimDisk, fsync: Fsync) -> Self {
        Self::try_open(disk, fsync).expect("the directory is sound")
    }

    /// Opens the log without its thread, which would itself hold it now and then.
    pub(crate) fn open_log(&mut self) {
        let log = log::Log::new(self.journal.take().expect("it is opened once"), Arc::default());
        *self.store.shared.log.lock().expect("nobody has panicked") = Some(log);
    }

    fn try_open(disk: &SimDisk, fsync: Fsync) -> anyhow::Result<Self> {
        let interval = Duration::from_millis(10);
        let settings = Settings { path: "/data".into(), fsync, interval };
        let opened = open::open_on(Arc::new(disk.clone()), &settings, Timestamp::default(), 1, 7)?;
        let background = Shutdown::new();
        let found = Some((opened.node, opened.store.clone()));
        let driver = Driver::new(
            addr(),
            Clock::start(),
            found,
            (0, engine::memory::Evict::None),
            Duration::from_secs(1),
            Arc::default(),
            &background,
        );
        Ok(Self { driver, store: opened.store, journal: Some(opened.journal), running: None, _background: background })
    }

    pub(crate) fn start(&mut self) {
        self.start_after((storage::Position::START, 0));
    }

    /// Starts with the position and size of the last snapshot.
    fn start_after(&mut self, snapshot: (storage::Position, u64)) {
        self.start_syncing(snapshot, Duration::from_millis(10));
    }

    fn start_syncing(&mut self, snapshot: (storage::Position, u64), interval: Duration) {
        let journal = self.journal.take().expect("it is started once");
        let running = self.store.start(self.driver.clone(), journal, snapshot, interval, Handle::current());
        self.running = Some(running.expect("the system has a thread"));
    }

    /// Makes it the primary of all slots, without replicas.
    pub(crate) async fn leads(self) -> Self {
        self.driver.node().joined(ME);
        self.leads_in(1).await;
        self
    }

    /// Makes it their primary in this epoch.
    async fn leads_in(&self, epoch: u64) {
        self.driver.handle_map(&map_in(epoch).update_since(MapVersion(epoch - 1))).expect("the map is whole");
        eventually("it takes writes", || self.write(b"first", b"") == Some(())).await;
    }

    /// From now on its disk counts as full.
    pub(crate) fn fill_disk(&self) {
        self.store.shared.health.send_replace(Health::Full);
    }

    /// Writes, if the node accepts it.
    pub(crate) fn write(&self, key: &[u8], value: &[u8]) -> Option<()> {
        if !self.driver.takes_writes() {
            return None;
        }
        let (node, mut turn) = (self.driver.node(), Turn::default());
        let write = Write::new(key, Change::Put(value));
        let written = node.write(self.driver.clock().now(), node.slot_of(key), &write, &Waiting::new(), &mut turn);
        written.ok().map(|_| ())
    }

    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        let node = self.driver.node();
        node.inspect(node.slot_of(key), |slot| {
            let found = slot.records().find(|record| record.key() == key)?;
            found.value().map(<[u8]>::to_vec)
        })
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // If a test has made the disk fail, this fails too.
            let _ = running.close();
        }
    }
}

fn addr() -> NodeAddr {
    NodeAddr::new("127.0.0.1", 7001).expect("an address")
}

pub(crate) fn map_of_one() -> ClusterMap {
    map_in(1)
}

fn map_in(epoch: u64) -> ClusterMap {
    let version = MapVersion(epoch);
    let mut map = ClusterMap::empty("c-1".to_owned(), SLOT_BITS);
    map.cluster_settings = ClusterSettings { replicas: 0, ..ClusterSettings::default() };
    map.set_members([(ME, Member { addr: addr(), up: true })].into());
    let config = SlotConfig { epoch: Epoch(epoch), version, primary: Some(ME), isr: vec![ME], ..SlotConfig::default() };
    let config = Arc::new(config);
    SLOT_BITS.slots().for_each(|slot| map.set_config(slot, Arc::clone(&config)));
    map.version = version;
    map
}

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_keeps_what_was_taken_and_heals_by_itself() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(3 << 20));
    let mut node = Durable::open(&disk, Fsync::Always).leads().await;
    node.start();
    let value = [7; 4096];
    let mut taken = 0;
    while node.write(format!("k{taken}").as_bytes(), &value).is_some() {
        node.driver.persist().await.expect("what was taken is written, on the reserve where need be");
        taken += 1;
        assert!(taken < 10_000, "the disk is never full");
    }
    assert!(taken > 100, "{taken} writes of 4 KiB were taken");
    assert_eq!(node.store.health(), Health::Full);
    assert_eq!(node.value(b"k0").as_deref(), Some(&value[..]), "reads go on");

    disk.set_capacity(Some(16 << 20));
    eventually("it heals", || node.store.health() == Health::Good).await;
    assert_eq!(node.write(b"again", b"v"), Some(()));
    node.driver.persist().await.expect("there is room");
    drop(node);
    let node = Durable::open(&disk, Fsync::Always);
    assert!((0..taken).all(|k| node.value(format!("k{k}").as_bytes()).is_some()), "each that was taken is there");
    assert_eq!(node.value(b"again").as_deref(), Some(&b"v"[..]));
}

#[tokio::test]
async fn on_a_full_disk_a_node_stops_in_order_and_starts_again() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(3 << 20));
    let mut node = Durable::open(&disk, Fsync::Always).leads().await;
    node.start();
    assert_eq!(node.write(b"k", b"v"), Some(()));
    node.driver.persist().await.expect("there is room");
    let is_full = || {
        let _ = disk.remove(Path::new("/data/reserve"));
        disk.set_capacity(Some(disk.used()));
    };
    is_full();
    node.running.take().expect("it runs").close().expect("it stops in order");
    drop(node);
    for _ in 0..3 {
        is_full();
        let node = Durable::open(&disk, Fsync::Always);
        assert_eq!(node.value(b"k").as_deref(), Some(&b"v"[..]));
        drop(node);
        disk.kill();
    }
    let _ = disk.remove(Path::new("/data/reserve-identity"));
    is_full();
    let error = format!("{:#}", Durable::try_open(&disk, Fsync::Always).err().expect("not even an identity has room"));
    assert!(error.contains("free some space and start again") && !error.contains("repair"), "{error}");
}

#[tokio::test]
async fn with_fsync_always_the_thread_writes() {
    let mut node = Durable::open(&SimDisk::new(1), Fsync::Always).leads().await;
    node.write(b"k", b"v").expect("it takes writes");
    let (journal, end) = (node.driver.node().noted(), node.driver.node().noted().end());
    assert!(!node.store.persist_soon(journal, end).await);
    node.start();
    node.driver.persist().await.expect("the thread writes it");
}

#[tokio::test]
async fn what_begins_a_term_without_a_release_is_on_disk_before_anybody_hears_of_it() {
    let mut node = Durable::open(&SimDisk::new(1), Fsync::Interval);
    node.start_syncing((storage::Position::START, 0), Duration::from_secs(3_600));
    let node = node.leads().await;
    let ends = || node.store.with_log(|log| (log.journal.end(), log.journal.synced()));
    node.driver.persist().await.expect("it is written");
    let (before, synced) = ends();
    assert!(before > synced, "a write waits for no sync");
    node.leads_in(2).await;
    node.driver.persist().await.expect("it is written");
    assert!(ends().1 > before, "the new term is on disk, and all before it");
}

#[tokio::test]
async fn what_is_not_on_disk_yet_is_counted() {
    for (fsync, is_synced) in [(Fsync::Never, false), (Fsync::Interval, true)] {
        let mut node = Durable::open(&SimDisk::new(1), fsync).leads().await;
        node.start();
        node.write(b"k", b"v").expect("it takes writes");
        node.driver.persist().await.expect("there is room");
        eventually("the log has it", || node.store.figures().log_bytes > 0).await;
        let what = format!("with {fsync}, it is synced: {is_synced}");
        eventually(&what, || (node.store.figures().unsynced_bytes == 0) == is_synced).await;
    }
}

#[tokio::test]
async fn a_small_disk_heals_by_itself_when_it_is_full_of_the_past_of_a_few_keys() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(4 << 20));
    let mut node = Durable::open(&disk, Fsync::Interval).leads().await;
    node.start();
    let value = [7; 8192];
    for round in 0..4_000 {
        let key = format!("k{}", round % 20);
        eventually("a write is taken", || node.write(key.as_bytes(), &value).is_some()).await;
        node.driver.persist().await.expect("there is room");
    }
    assert!(node.store.figures().snapshots > 3, "{:?}", node.store.figures());
    eventually("the disk is not full", || node.store.health() == Health::Good).await;
}

#[test]
fn a_snapshot_is_due_after_256_mib_of_log_and_sooner_on_a_small_disk() {
    let after = |segment: u64, free: u64| writer::snapshot_after(segment << 20, free << 20) >> 20;
    assert_eq!([after(64, 1 << 20), after(64, 4096), after(64, 2048), after(32, 512)], [256, 256, 128, 32]);
    assert_eq!(after(64, 100), 64, "never less than a segment");
}

#[tokio::test]
async fn snapshots_are_made_under_a_load_that_never_ends() {
    let disk = SimDisk::new(1);
    // Small segments, so that a snapshot is soon due; after that, unlimited space.
    disk.set_capacity(Some(16 << 20));
    let mut node = Durable::open(&disk, Fsync::Never).leads().await;
    node.start();
    disk.set_capacity(None);
    let end = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (node, end) = (&node, &end);
            scope.spawn(move || {
                for number in 0..40_000 {
                    if end.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let _ = node.write(format!("w{writer}:{}", number % 20).as_bytes(), &[7; 4096]);
                    node.store.order(|orders| orders.write = true);
                }
            });
        }
        let deadline = Instant::now() + SOON;
        while node.store.figures().snapshots == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        end.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(node.store.figures().snapshots > 0, "{:?}", node.store.figures());
}

#[tokio::test]
async fn a_snapshot_that_failed_is_not_tried_again_at_once_however_small_the_segments_are() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(4 << 20));
    let mut node = Durable::open(&disk, Fsync::Interval).leads().await;
    node.start();
    disk.set_capacity(None);
    node.driver.persist().await.expect("the disk works");
    // Only the end of a snapshot lists the directory.
    disk.inject(Some(Operation::List), 0, Fault::NoSpace);
    let begun = Instant::now();
    while node.store.figures().snapshots == 0 {
        assert!(begun.elapsed() < SOON, "no snapshot was made");
        // About three segments.
        for number in 0..200 {
            assert!(node.write(format!("k{}", number % 20).as_bytes(), &[7; 4096]).is_some());
        }
        node.driver.persist().await.expect("the disk works");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(4), "after {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_full_disk_heals_though_more_waits_to_be_written_than_there_is_reserve() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(3 << 20));
    let mut node = Durable::open(&disk, Fsync::Never).leads().await;
    node.start();
    let put = |number: usize| {
        let (engine, mut turn) = (node.driver.node(), Turn::default());
        let (key, value) = (format!("k{}", number % 20), [7; 6000]);
        let write = Write::new(key.as_bytes(), Change::Put(&value));
        engine.write(node.driver.clock().now(), engine.slot_of(key.as_bytes()), &write, &Waiting::new(), &mut turn)
    };
    for number in 0.. {
        put(number).expect("it leads");
        node.driver.persist().await.expect("what was taken is written");
        if !node.driver.takes_writes() {
            break;
        }
    }
    // Like the records of a primary, which are not subject to refusal.
    (0..100).for_each(|number| _ = put(number).expect("it leads"));
    node.driver.persist().await.expect("a snapshot has made room");
    eventually("it heals", || node.store.health() == Health::Good).await;
}

/// Each value is longer than a piece of the log, and disks of several sizes fill up after the first pieces of one: a
/// snapshot makes room for the rest.
async fn is_full_in_the_middle_of_a_payload(fsync: Fsync) {
    let value = |round: u8| vec![round; 2 * pieces::PIECE_BYTES];
    let mut was_in_the_middle = 0;
    for capacity in (60..100).step_by(2) {
        let disk = SimDisk::new(1);
        disk.set_capacity(Some(capacity << 20));
        let mut node = Durable::open(&disk, fsync).leads().await;
        node.start();
        let mut is_in_the_middle = false;
        for round in 0..8 {
            // With a reserve, the rest would be written at once.
            let _ = disk.remove(Path::new("/data/reserve"));
            eventually("a write is taken", || node.write(b"large", &value(round)).is_some()).await;
            let written = node.driver.node().noted().end();
            eventually("it is written", || {
                is_in_the_middle |= node.store.with_log(|log| log.end_of_whole() < log.journal.end());
                node.driver.is_written(written)
            })
            .await;
        }
        was_in_the_middle += u64::from(is_in_the_middle);
        drop(node);
        disk.kill();
        let node = Durable::open(&disk, fsync);
        assert!(node.value(b"large") == Some(value(7)), "what was written is there, on a disk of {capacity} MiB");
        if was_in_the_middle == 3 {
            return;
        }
    }
    panic!("{was_in_the_middle} disks were full in the middle of a payload");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_in_the_middle_of_a_payload_heals_and_is_read_again() {
    is_full_in_the_middle_of_a_payload(Fsync::Never).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_where_each_write_is_synced() {
    is_full_in_the_middle_of_a_payload(Fsync::Always).await;
}

#[tokio::test]
async fn a_slot_larger_than_a_piece_goes_through_log_and_snapshot() {
    let disk = SimDisk::new(1);
    let mut node = Durable::open(&disk, Fsync::Never).leads().await;
    let value = vec![7; 3 * pieces::PIECE_BYTES];
    // Before the log is first written, so that it is one payload with everything that came before.
    assert_eq!(node.write(b"large", &value), Some(()));
    node.start();
    node.driver.persist().await.expect("there is room");
    eventually("it has read it", || node.store.health() == Health::Good).await;
    drop(node);
    let mut node = Durable::open(&disk, Fsync::Never);
    assert!(node.value(b"large").as_ref() == Some(&value), "from the log");
    let mut snapshots = Snapshots::new((storage::Position::START, 0));
    make_snapshot(&mut node, &mut snapshots).await;
    drop(node);
    disk.kill();
    let node = Durable::open(&disk, Fsync::Never);
    assert!(node.value(b"large") == Some(value), "from a snapshot");
}

/// Makes a snapshot of a node whose log thread is not running.
async fn make_snapshot(node: &mut Durable, snapshots: &mut Snapshots) {
    let journal = node.journal.as_mut().expect("it is not started");
    snapshots.begin(&node.driver, &node.store, journal.end());
    write_and_sync(&node.driver, &node.store, journal);
    let mut finished = None;
    eventually("a snapshot is made", || {
        finished = advance(snapshots, &node.store, journal);
        finished.is_some()
    })
    .await;
}

/// The snapshot that follows gets the space first; otherwise the log could take it, and nothing would shorten the log.
#[tokio::test]
async fn a_disk_without_room_for_a_third_snapshot_lets_the_first_go() {
    const KEYS: u32 = 50;
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(8 << 20));
    let mut node = Durable::open(&disk, Fsync::Never).leads().await;
    disk.set_capacity(None);
    let mut state = 1_u64;
    let mut put = |node: &Durable, number: u32| {
        // Incompressible data, which a snapshot cannot shrink.
        let value: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(64 << 10)
        .collect();
        node.write(&number.to_be_bytes(), &value)
    };
    let mut snapshots = Snapshots::new((storage::Position::START, 0));
    for _ in 0..2 {
        (0..KEYS).for_each(|number| put(&node, number).expect("it leads"));
        make_snapshot(&mut node, &mut snapshots).await;
    }
    let oldest = |disk: &SimDisk| {
        let files = disk.list(Path::new("/data")).expect("it is there");
        files.into_iter().filter(|name| name.ends_with(".snap")).min()
    };
    let first = oldest(&disk);
    // Less than a snapshot takes, the reserve included.
    disk.set_capacity(Some(disk.used() + (1 << 20)));
    node.start_after(snapshots.made);
    // The disk fills up many times over.
    for number in (0..KEYS).cycle().take(12 * KEYS as usize) {
        eventually("it takes writes again", || put(&node, number).is_some()).await;
        node.driver.persist().await.expect("what was taken is written");
    }
    eventually("it heals", || node.store.health() == Health::Good).await;
    assert_ne!(oldest(&disk), first);
}

fn advance(snapshots: &mut Snapshots, store: &Store, journal: &storage::Journal) -> Option<Finished> {
    snapshots.advance(store, journal.end(), journal.synced(), Keep::Two).expect("the disk works")
}

fn write_and_sync(driver: &Driver, store: &Store, journal: &mut storage::Journal) {
    if let Some((payload, taken)) = driver.node().noted().take() {
        pieces::cut(payload).iter().for_each(|piece| _ = journal.append(&[piece]).expect("there is room"));
        store.note_written(taken.end);
    }
    journal.sync().expect("the disk works");
}

#[tokio::test]
async fn a_snapshot_is_named_once_the_log_has_on_disk_all_that_it_holds_so_that_the_one_before_serves_as_well() {
    let disk = SimDisk::new(1);
    let mut node = Durable::open(&disk, Fsync::Never).leads().await;
    let mut snapshots = Snapshots::new((storage::Position::START, 0));
    assert_eq!(node.write(b"old", b"v"), Some(()));
    make_snapshot(&mut node, &mut snapshots).await;

    let before = disk.list(Path::new("/data")).expect("it is there");
    let journal = node.journal.as_mut().expect("it is not started");
    let position = journal.append(&[open::policy(Fsync::Never)]).expect("there is room");
    let write = Write::new(b"new", Change::Put(b"v"));
    let (engine, mut turn) = (node.driver.node(), Turn::default());
    engine
        .write(node.driver.clock().now(), engine.slot_of(b"new"), &write, &Waiting::new(), &mut turn)
        .expect("it leads");
    snapshots.begin(&node.driver, &node.store, position);
    // What it has copied is first not in the log at all, then not on disk.
    for written in [false, true] {
        if written {
            let (payload, taken) = engine.noted().take().expect("there is a write");
            journal.append(&[payload]).expect("there is room");
            node.store.note_written(taken.end);
        }
        for _ in 0..20 {
            assert!(advance(&mut snapshots, &node.store, journal).is_none());
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(snapshots.wants_sync(), written);
        let after = disk.list(Path::new("/data")).expect("it is there");
        let named = after.iter().filter(|name| name.ends_with(".snap") && !before.contains(name));
        assert_eq!(named.count(), 0, "the log has not got it on disk");
    }
    journal.sync().expect("the disk works");
    eventually("it is named", || advance(&mut snapshots, &node.store, journal).is_some()).await;
    let newest = disk.list(Path::new("/data")).expect("it is there").into_iter().rfind(|name| name.ends_with(".snap"));
    drop(node);
    disk.kill();
    disk.flip_bit(&Path::new("/data").join(newest.expect("there are two")), 100, 0);
    let node = Durable::open(&disk, Fsync::Never);
    assert_eq!((node.value(b"old"), node.value(b"new")), (Some(b"v".to_vec()), Some(b"v".to_vec())));
}

#[tokio::test]
async fn a_directory_has_its_map_before_it_is_of_a_cluster() {
    for calls in 0..12 {
        let disk = SimDisk::new(calls);
        let node = Durable::open(&disk, Fsync::Always);
        disk.inject(None, calls, Fault::Io);
        let begun = node.store.begin(Arc::new(map_of_one()), ME).await;
        drop(node);
        disk.crash();
        let again = Durable::open(&disk, Fsync::Always);
        let has_map = again.driver.node().map().is_some();
        assert!(has_map || again.store.cluster().is_none(), "call {calls}");
        if begun.is_ok() {
            assert_eq!(again.store.cluster(), Some("c-1"));
            assert_eq!(again.driver.node().ancestors().proven, [ME]);
        }
    }
}
