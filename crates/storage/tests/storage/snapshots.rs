//! Snapshots: what makes one good, and what is used if the newest is not.

use storage::disk::sim::{Fault, Operation};
use storage::snapshot::SnapshotError;
use storage::{Flaw, OpenError, Position, SimDisk, SnapshotInfo};

use crate::support::{Opened, files, open, path, payloads, segments};

/// Some records, a snapshot of them, some more records; then the same again. Returns what was appended.
fn two_snapshots(disk: &SimDisk, keep_log: bool) -> Vec<Vec<u8>> {
    let Opened { dir, mut journal, .. } = open(disk).expect("it is new");
    let mut all = Vec::new();
    for round in 0..2 {
        let more = payloads(round * 100..round * 100 + 90);
        for payload in &more {
            journal.append(&[payload]).expect("there is room");
        }
        all.extend(more);
        snapshot(&dir, &mut journal, &all);
        let tail = payloads(round * 100 + 90..round * 100 + 100);
        journal.append(&tail).expect("there is room");
        all.extend(tail);
    }
    if !keep_log {
        let position = dir.retain_snapshots(2).expect("the disk works").expect("there are two");
        journal.remove_before(position).expect("the disk works");
    }
    journal.sync().expect("the disk works");
    drop((dir, journal));
    disk.crash();
    all
}

fn snapshot(dir: &storage::DataDir, journal: &mut storage::Journal, all: &[Vec<u8>]) -> SnapshotInfo {
    let mut writer = dir.begin_snapshot(journal.end()).expect("the disk works");
    all.iter().for_each(|payload| writer.add(payload).expect("the disk works"));
    let synced = journal.sync().expect("the disk works");
    writer.finish(synced).expect("the disk works")
}

#[test]
fn recovery_gives_the_newest_snapshot_and_then_the_log_behind_it() {
    let disk = SimDisk::new(1);
    let all = two_snapshots(&disk, false);
    let opened = open(&disk).expect("it is whole");
    assert!(opened.payloads == all);
    assert_eq!((opened.recovery.snapshot_records, opened.recovery.log_records), (190, 10));
    assert!(opened.recovery.damaged_snapshots.is_empty());
}

#[test]
fn a_damaged_snapshot_gives_way_to_an_older_one_and_is_kept() {
    let disk = SimDisk::new(1);
    let all = two_snapshots(&disk, false);
    let newest = files(&disk, ".snap").pop().expect("there are two");
    let length = disk.content(&newest).expect("it is there").len() as u64;
    for offset in 0..length {
        let disk = disk.fork(offset);
        disk.flip_bit(&newest, offset, (offset % 8) as u8);
        let opened = open(&disk).unwrap_or_else(|error| panic!("byte {offset}: {error}"));
        assert!(opened.payloads == all, "byte {offset}");
        assert_eq!((opened.recovery.snapshot_records, opened.recovery.log_records), (90, 110), "byte {offset}");
        assert_eq!(opened.recovery.damaged_snapshots[0].file, newest);
        assert_eq!(files(&disk, ".damaged").len(), 1);
        drop(opened);
        disk.crash();
        assert!(open(&disk).expect("it is whole").payloads == all);
    }
}

#[test]
fn the_log_goes_on_behind_a_snapshot_at_which_a_start_has_found_its_end() {
    let disk = SimDisk::new(1);
    let mut all = two_snapshots(&disk, false);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is whole");
    snapshot(&dir, &mut journal, &all);
    drop((dir, journal));
    let Opened { dir, mut journal, recovery, .. } = open(&disk).expect("it is whole");
    assert_eq!((recovery.snapshot_records, recovery.log_records), (200, 0));
    let more = payloads(200..210);
    journal.append(&more).expect("there is room");
    journal.sync().expect("the disk works");
    all.extend(more);
    drop((dir, journal));
    disk.crash();
    disk.flip_bit(&files(&disk, ".snap").pop().expect("there are three"), 100, 3);
    let opened = open(&disk).unwrap_or_else(|error| panic!("the snapshot before it and the log will do: {error}"));
    assert!(opened.payloads == all);
    assert_eq!((opened.recovery.snapshot_records, opened.recovery.log_records), (190, 20));
}

#[test]
fn a_snapshot_that_was_cut_is_no_snapshot() {
    let disk = SimDisk::new(1);
    let all = two_snapshots(&disk, true);
    let newest = files(&disk, ".snap").pop().expect("there are two");
    let content = disk.content(&newest).expect("it is there");
    for length in 0..content.len() {
        let disk = disk.fork(length as u64);
        disk.set_content(&newest, &content[..length]).expect("it is there");
        let opened = open(&disk).unwrap_or_else(|error| panic!("cut at {length}: {error}"));
        assert!(opened.payloads == all, "cut at {length}");
        assert_eq!(opened.recovery.damaged_snapshots.len(), 1, "cut at {length}");
    }
}

#[test]
fn without_a_good_snapshot_the_whole_log_is_read() {
    let disk = SimDisk::new(1);
    let all = two_snapshots(&disk, true);
    files(&disk, ".snap").iter().for_each(|file| disk.flip_bit(file, 100, 0));
    let opened = open(&disk).expect("the log reaches back to the beginning");
    assert!(opened.payloads == all);
    assert_eq!(opened.recovery.damaged_snapshots.len(), 2);
}

#[test]
fn damaged_snapshots_over_a_log_that_does_not_reach_back_are_an_error_with_their_name() {
    let disk = SimDisk::new(1);
    two_snapshots(&disk, false);
    let snapshots = files(&disk, ".snap");
    snapshots.iter().for_each(|file| disk.flip_bit(file, 100, 0));
    let Err(OpenError::Damaged(damage)) = open(&disk) else { panic!("it starts without its data") };
    assert_eq!((&damage.file, damage.offset, &damage.flaw), (&snapshots[1], 64, &Flaw::Block));
    assert_eq!(files(&disk, ".snap"), snapshots, "nothing was changed");
}

#[test]
fn a_missing_snapshot_is_an_error() {
    let disk = SimDisk::new(1);
    two_snapshots(&disk, false);
    for file in files(&disk, ".snap") {
        storage::Disk::remove(&disk, &file).expect("it is there");
    }
    let Err(OpenError::Damaged(damage)) = open(&disk) else { panic!("it starts without its data") };
    assert_eq!(damage.flaw, Flaw::SegmentMissing);
}

#[test]
fn the_log_stands_in_for_the_only_snapshot() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let all = payloads(0..200);
    journal.append(&all).expect("there is room");
    snapshot(&dir, &mut journal, &all);
    assert_eq!(dir.retain_snapshots(2).expect("the disk works"), None, "nothing of the log can go");
    assert_eq!(dir.retain_snapshots(1).expect("the disk works"), Some(journal.end()), "unless one is enough");
    drop((dir, journal));
    disk.crash();
    disk.flip_bit(&files(&disk, ".snap")[0], 100, 3);
    assert!(open(&disk).expect("the log has everything").payloads == all);
}

#[test]
fn damage_in_the_log_below_the_snapshot_does_not_matter() {
    let disk = SimDisk::new(1);
    let all = two_snapshots(&disk, true);
    disk.flip_bit(&segments(&disk)[0], 100, 0);
    assert!(open(&disk).expect("nothing of it is needed").payloads == all);
}

#[test]
fn a_segment_below_the_snapshot_with_a_damaged_header_is_kept_aside() {
    let disk = SimDisk::new(1);
    let all = two_snapshots(&disk, true);
    disk.flip_bit(&segments(&disk)[0], 10, 0);
    assert!(open(&disk).expect("nothing of it is needed").payloads == all);
    assert_eq!(files(&disk, ".damaged").len(), 1);
}

#[test]
fn a_snapshot_of_what_is_not_on_disk_is_refused() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&payloads(0..3)).expect("there is room");
    let writer = dir.begin_snapshot(journal.end()).expect("the disk works");
    let refused = writer.finish(journal.synced());
    assert!(matches!(refused, Err(SnapshotError::LogBehind { .. })));
    assert!(files(&disk, ".tmp").is_empty() && files(&disk, ".snap").is_empty());
}

#[test]
fn a_snapshot_that_fails_leaves_nothing_behind() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&payloads(0..3)).expect("there is room");
    let synced = journal.sync().expect("the disk works");
    let mut writer = dir.begin_snapshot(synced).expect("the disk works");
    writer.add(b"something").expect("the disk works");
    disk.inject(Some(Operation::SyncData), 0, Fault::Io);
    assert!(matches!(writer.finish(synced), Err(SnapshotError::File(_))));
    assert!(files(&disk, ".tmp").is_empty() && files(&disk, ".snap").is_empty());
    // The log does not depend on the snapshot.
    journal.append(&payloads(3..4)).expect("there is room");
    journal.sync().expect("the disk works");
}

#[test]
fn a_snapshot_that_a_crash_interrupted_is_removed_by_the_next_start() {
    let disk = SimDisk::new(1);
    let Opened { dir, journal, .. } = open(&disk).expect("it is new");
    let mut writer = dir.begin_snapshot(journal.end()).expect("the disk works");
    writer.add(b"something").expect("the disk works");
    disk.kill();
    drop((dir, journal, writer));
    storage::Disk::list(&disk, path()).expect("it is there");
    disk.set_content(&path().join("snapshot-00000000000000000064.tmp"), b"half").expect("it is there");
    let opened = open(&disk).expect("it is whole");
    assert!(files(&disk, ".tmp").is_empty());
    assert_eq!(opened.recovery.snapshot, None);
}

#[test]
fn payloads_of_any_size_come_back_and_what_compresses_is_compressed() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let synced = journal.sync().expect("the disk works");
    let mut noise = 1_u32;
    let mut random = |length: usize| {
        let next = || {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        };
        std::iter::repeat_with(next).take(length).collect::<Vec<u8>>()
    };
    let all = vec![vec![], vec![5; 300_000], random(200_000), random(65_536), vec![], vec![7; 65_530], random(10)];
    let mut writer = dir.begin_snapshot(synced).expect("the disk works");
    all.iter().for_each(|payload| writer.add(payload).expect("the disk works"));
    let info = writer.finish(synced).expect("the disk works");
    assert_eq!((info.records, info.position), (7, synced));
    assert!((265_000..275_000).contains(&info.bytes), "{} bytes", info.bytes);
    drop((dir, journal));
    disk.crash();
    assert!(open(&disk).expect("it is whole").payloads == all);
}

#[test]
fn an_empty_snapshot_is_one() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&payloads(0..3)).expect("there is room");
    let info = snapshot(&dir, &mut journal, &[]);
    assert_eq!(info.records, 0);
    drop((dir, journal));
    disk.crash();
    let opened = open(&disk).expect("it is whole");
    assert_eq!((opened.payloads.len(), opened.recovery.snapshot), (0, Some(info.position)));
    assert!(info.position > Position::START);
}

#[test]
fn a_snapshot_that_the_disk_does_not_return_gives_way_to_an_older_one() {
    let disk = SimDisk::new(1);
    let all = two_snapshots(&disk, false);
    for reads in 0..20 {
        let disk = disk.fork(reads);
        disk.inject(Some(Operation::Read), reads, Fault::Io);
        let opened = match open(&disk) {
            Ok(opened) => opened,
            // Whatever else it does not return is not read from elsewhere; it may be there again at the next start.
            Err(OpenError::File(_)) => continue,
            Err(error) => panic!("{error}"),
        };
        let [damage] = opened.recovery.damaged_snapshots.as_slice() else { continue };
        assert!(matches!(damage.flaw, Flaw::Unreadable(_)), "{damage}");
        assert!(opened.payloads == all);
        return;
    }
    panic!("no start did without the newest snapshot");
}

#[test]
fn a_snapshot_of_another_release_is_refused_and_left_alone() {
    let disk = SimDisk::new(1);
    two_snapshots(&disk, false);
    let newest = files(&disk, ".snap").pop().expect("there are two");
    let mut content = disk.content(&newest).expect("it is there");
    content[8..12].copy_from_slice(&2u32.to_le_bytes());
    let checksum = crc32c::crc32c(&content[..60]);
    content[60..64].copy_from_slice(&checksum.to_le_bytes());
    disk.set_content(&newest, &content).expect("it is there");
    let refused = open(&disk).map(|_| ()).expect_err("it cannot be read");
    assert!(refused.to_string().contains("format version 2"), "{refused}");
    assert_eq!(files(&disk, ".snap").pop(), Some(newest));
}
