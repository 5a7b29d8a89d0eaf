//! A sync that failed: the kernel shows what the disk does not have. What was not synced is not trusted, and what was cut
//! stays cut.

use std::path::PathBuf;

use storage::disk::sim::{Fault, Loss, Operation};
use storage::{JournalError, OpenError, SimDisk, repair};

use crate::support::{Opened, open, options, path, payloads, segments};

fn first_segment() -> PathBuf {
    path().join("log-00000000000000000000.seg")
}

/// A log of three records. The second was not synced when the power was cut, and is damaged: a start cuts it and the third.
/// The third begins at `at`.
fn torn(at: usize) -> SimDisk {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[b"first"]).expect("there is room");
    let second = journal.sync().expect("the disk works").0;
    let header = 24;
    journal.append(&[vec![b'A'; at - second as usize - header]]).expect("there is room");
    assert_eq!(journal.end().0, at as u64);
    journal.append(&[vec![b'G'; 1_200]]).expect("there is room");
    drop(journal);
    disk.crash_losing(Loss::Nothing);
    disk.flip_bit(&first_segment(), second + header as u64 + 2, 1);
    disk
}

#[test]
fn what_a_start_has_cut_does_not_come_back_although_its_sync_failed() {
    // At a sector boundary, the disk may keep all of the third record.
    for (at, stops_in_order) in [(417, false), (417, true), (1_024, false), (1_024, true)] {
        let disk = torn(at);
        disk.inject(Some(Operation::SyncData), 0, Fault::Io);
        assert!(matches!(open(&disk), Err(OpenError::File(_))));
        disk.kill();
        let Opened { dir, mut journal, payloads, .. } = open(&disk).expect("the kernel shows no more than the first");
        assert_eq!(payloads, [b"first"]);
        // Ends where the third record began.
        let next = vec![b'B'; at - journal.end().0 as usize - 24];
        journal.append(&[&next]).expect("there is room");
        journal.sync().expect("the disk works");
        if stops_in_order {
            dir.close(journal).expect("the disk works");
        } else {
            drop((dir, journal));
        }
        disk.crash_losing(Loss::Everything);
        let found = open(&disk).unwrap_or_else(|error| panic!("at {at}: {error}"));
        assert_eq!(found.payloads, [b"first".to_vec(), next], "at {at}, stopped in order: {stops_in_order}");
        assert_eq!(found.recovery.torn_tail, None);
    }
}

#[test]
fn what_a_repair_has_cut_does_not_come_back_although_its_sync_failed() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    let records = [[b'a'; 600], [b'b'; 600], [b'c'; 600]];
    let ends = records.map(|record| {
        journal.append(&[record]).expect("there is room");
        journal.sync().expect("the disk works").0
    });
    drop(journal);
    disk.kill();
    disk.flip_bit(&first_segment(), ends[0] + 30, 1);
    let fix = |disk: &SimDisk| repair(disk, path(), options(), &mut || Box::new(|_| Ok(())));
    let mut failed = 0;
    for calls in 0..6 {
        let disk = disk.fork(calls);
        disk.inject(Some(Operation::SyncData), calls, Fault::Io);
        if fix(&disk).is_ok() {
            continue;
        }
        failed += 1;
        disk.kill();
        fix(&disk).expect("the disk works");
        let Opened { mut journal, .. } = open(&disk).expect("it is repaired");
        journal.append(&[b"new"]).expect("there is room");
        journal.sync().expect("the disk works");
        drop(journal);
        disk.crash_losing(Loss::Everything);
        let found = open(&disk).unwrap_or_else(|error| panic!("sync {calls}: {error}")).payloads;
        assert_eq!(found, [records[0].to_vec(), b"new".to_vec()], "sync {calls}");
    }
    assert!(failed > 2, "{failed} syncs failed");
}

#[test]
fn after_a_start_whose_sync_failed_the_kernel_is_no_witness() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[b"not synced"]).expect("there is room");
    drop(journal);
    disk.kill();
    assert!(open(&disk.fork(2)).expect("the disk works").dir.found().same_boot);
    disk.inject(Some(Operation::SyncData), 0, Fault::Io);
    assert!(matches!(open(&disk), Err(OpenError::File(_))));
    disk.kill();
    assert!(!open(&disk).expect("the disk works").dir.found().same_boot);
}

#[test]
fn a_sync_that_fails_for_lack_of_space_is_not_repeated() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    let mut appended = journal.append(&payloads(0..1));
    while appended.is_ok() {
        // The append that begins the sixth segment first syncs that one's header, then the oldest.
        if segments(&disk).len() == 5 {
            disk.clear_faults();
            disk.inject(Some(Operation::SyncData), 1, Fault::NoSpace);
        }
        assert!(segments(&disk).len() < 7, "nothing was synced");
        appended = journal.append(&payloads(0..9));
    }
    assert!(matches!(appended, Err(JournalError::Failed(_))), "{appended:?}");
    assert!(matches!(journal.sync(), Err(JournalError::Poisoned { .. })));
}
