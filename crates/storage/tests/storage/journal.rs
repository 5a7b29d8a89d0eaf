//! The log in operation: positions, segments, syncs, a full disk, a failing disk.

use storage::disk::sim::{Fault, Loss, Operation};
use storage::disk::{Disk as _, Mode};
use storage::journal::BATCH_BYTES;
use storage::{JournalError, Position, SimDisk};

use crate::support::{Opened, open, options, path, payloads, segments};

#[test]
fn positions_grow_and_a_sync_returns_that_of_the_last_append() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    let first = journal.append(&payloads(0..3)).expect("there is room");
    let second = journal.append(&payloads(3..4)).expect("there is room");
    assert!(first < second && journal.synced() < first);
    assert_eq!(journal.sync().expect("the disk works"), second);
    assert_eq!((journal.synced(), journal.end()), (second, second));
    assert_eq!(journal.append::<&[u8]>(&[]).expect("nothing is asked for"), second);
}

#[test]
fn an_append_is_one_write_and_takes_empty_payloads() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let calls = disk.calls();
    journal.append(&[&b"one"[..], b"", b"three"]).expect("there is room");
    assert_eq!(disk.calls(), calls + 1);
    drop((dir, journal));
    disk.kill();
    assert_eq!(open(&disk).expect("it is whole").payloads, [&b"one"[..], b"", b"three"]);
}

#[test]
fn a_sync_makes_the_next_segment_before_it_is_needed() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[vec![1; 2_500]]).expect("there is room");
    journal.sync().expect("the disk works");
    assert_eq!(segments(&disk).len(), 2);
    let calls = disk.calls();
    journal.append(&[vec![2; 2_500]]).expect("there is room");
    assert_eq!(disk.calls(), calls + 1, "it goes into a segment that is there");
    drop((dir, journal));
}

#[test]
fn where_syncs_are_often_the_next_segment_is_made_beside_them_with_zeros_everywhere() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.set_syncs_often(true);
    assert!(journal.begin_next().is_none(), "it is too early");
    journal.append(&[vec![1; 2_500]]).expect("there is room");
    journal.sync().expect("the disk works");
    assert_eq!(segments(&disk).len(), 1, "no sync makes it");
    let task = journal.begin_next().expect("half of the segment is used");
    assert!(journal.begin_next().is_none(), "it is made once");
    journal.append(&[b"meanwhile"]).expect("there is room");
    let mut steps = 0;
    let next = task.run(|| steps += 1);
    assert!(steps > 0, "others have their turn");
    journal.end_next(next).expect("the disk works");
    assert_eq!(segments(&disk).len(), 2);
    let calls = disk.calls();
    journal.append(&[vec![2; 2_500]]).expect("there is room");
    assert_eq!(disk.calls(), calls + 1, "it goes into a segment that is there, and no zeros are written ahead");
    journal.sync().expect("the disk works");
    drop((dir, journal));
    disk.crash();
    assert_eq!(open(&disk).expect("it is whole").payloads, [vec![1; 2_500], b"meanwhile".to_vec(), vec![2; 2_500]]);
}

#[test]
fn a_next_segment_that_comes_too_late_or_has_no_room_does_no_harm_and_one_that_fails_ends_the_journal() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.set_syncs_often(true);
    journal.append(&[vec![1; 3_000]]).expect("there is room");
    let late = journal.begin_next().expect("half of the segment is used");
    journal.append(&[vec![2; 3_000]]).expect("there is room");
    journal.end_next(late.run(|| ())).expect("it is not needed");
    disk.inject(Some(Operation::SyncData), 1, Fault::NoSpace);
    let full = journal.begin_next().expect("half of the segment is used");
    journal.end_next(full.run(|| ())).expect("the append that needs it will say so");
    disk.clear_faults();
    journal.append(&[vec![3; 3_000]]).expect("there is room again");
    journal.sync().expect("the disk works");
    disk.inject(Some(Operation::SyncData), 1, Fault::Io);
    let failing = journal.begin_next().expect("half of the segment is used");
    journal.end_next(failing.run(|| ())).expect_err("the disk has failed");
    disk.clear_faults();
    journal.append(&[b"more"]).expect_err("nothing is taken any more");
    drop((dir, journal));
    disk.crash();
    assert_eq!(open(&disk).expect("it is whole").payloads, [vec![1; 3_000], vec![2; 3_000], vec![3; 3_000]]);
}

#[test]
fn a_payload_larger_than_a_segment_has_one_of_its_size() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let large = vec![7; 3 * options().segment_bytes as usize];
    let all = [vec![1; 3_000], large, vec![3; 3_000]];
    for payload in &all {
        journal.append(&[payload]).expect("there is room");
        journal.sync().expect("the disk works");
    }
    drop((dir, journal));
    disk.crash();
    assert!(open(&disk).expect("it is whole").payloads == all);
}

#[test]
fn more_than_an_append_takes_is_refused() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    let large = vec![0; BATCH_BYTES as usize];
    let error = journal.append(&[&large[..], b""]).expect_err("it is too large");
    assert!(matches!(error, JournalError::TooLarge { limit: BATCH_BYTES, .. }), "{error}");
    journal.append(&[b"small"]).expect("the journal goes on");
}

#[test]
fn others_append_while_a_sync_runs() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let first = journal.append(&[b"before"]).expect("there is room");
    let task = journal.begin_sync().expect("the disk works");
    let second = journal.append(&[b"meanwhile"]).expect("there is room");
    let synced = std::thread::spawn(move || task.run()).join().expect("it does not panic");
    assert_eq!(journal.end_sync(synced).expect("the disk works"), first);
    assert!(second > journal.synced());
    drop((dir, journal));
}

#[test]
fn a_sync_of_nothing_new_leaves_the_disk_alone() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    let end = journal.append(&[b"one"]).expect("there is room");
    journal.sync().expect("the disk works");
    let calls = disk.calls();
    assert_eq!(journal.sync().expect("the disk works"), end);
    assert_eq!(disk.calls(), calls);
}

#[test]
#[should_panic(expected = "one sync at a time")]
fn two_syncs_at_once_are_a_mistake_of_the_caller() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    let _first = journal.begin_sync().expect("the disk works");
    let _second = journal.begin_sync();
}

#[test]
fn a_segment_that_was_made_in_advance_too_late_is_not_taken() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[vec![1; 3_000]]).expect("there is room");
    let task = journal.begin_sync().expect("the disk works");
    journal.append(&[vec![2; 3_000]]).expect("there is room");
    journal.end_sync(task.run()).expect("the disk works");
    journal.sync().expect("the disk works");
    drop((dir, journal));
    disk.crash();
    assert_eq!(open(&disk).expect("it is whole").payloads, [vec![1; 3_000], vec![2; 3_000]]);
}

#[test]
fn after_a_sync_that_failed_nothing_is_appended_or_synced_again() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[b"lost"]).expect("there is room");
    disk.inject(Some(Operation::SyncData), 0, Fault::Io);
    assert!(matches!(journal.sync(), Err(JournalError::Failed(_))));
    let reason = journal.poison().expect("it is poisoned").to_owned();
    assert!(reason.contains("log-00000000000000000000.seg"), "{reason}");
    for _ in 0..2 {
        assert!(matches!(journal.sync(), Err(JournalError::Poisoned { .. })));
        assert!(matches!(journal.append(&[b"new"]), Err(JournalError::Poisoned { .. })));
        assert!(matches!(journal.remove_before(Position::LIMIT), Err(JournalError::Poisoned { .. })));
    }
}

#[test]
fn a_sync_that_failed_poisons_even_if_nobody_hears_of_it() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[b"lost"]).expect("there is room");
    let task = journal.begin_sync().expect("the disk works");
    disk.inject(Some(Operation::SyncData), 0, Fault::Io);
    drop(task.run());
    assert!(matches!(journal.sync(), Err(JournalError::Poisoned { .. })));
}

#[test]
fn the_log_leaves_a_snapshot_the_space_that_it_claims() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    disk.set_capacity(Some(disk.used() + 64 * 1024));
    journal.set_claimed(64 * 1024);
    let taken = (0..20).take_while(|_| journal.append(&[vec![1; 500]]).is_ok()).count();
    assert!((1..20).contains(&taken), "only the segment that is there has room: {taken} appends");
    journal.sync().expect("the disk works");
    assert_eq!(segments(&disk).len(), 1, "no sync makes another");
    let refused = journal.append(&[vec![1; 500]]).expect_err("a segment would take what is claimed");
    assert!(matches!(refused, JournalError::NoSpace(_)) && dir.free_space().expect("it tells") == 64 * 1024);

    journal.set_claimed(32 * 1024);
    journal.append(&[vec![1; 500]]).expect("there is room beside what is claimed");
}

#[test]
fn a_full_disk_refuses_and_heals_when_there_is_room() {
    let disk = SimDisk::new(1);
    disk.set_capacity(Some(32 * 1024));
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let mut taken = Vec::new();
    let refused = loop {
        let payload = vec![taken.len() as u8; 500];
        match journal.append(&[&payload]) {
            Ok(_) => taken.push(payload),
            Err(error) => break error,
        }
        assert!(taken.len() < 100, "the disk never fills up");
    };
    assert!(matches!(refused, JournalError::NoSpace(_)), "{refused}");
    assert!(journal.room() < 600);
    assert!(matches!(journal.append(&[vec![0; 500]]), Err(JournalError::NoSpace(_))), "it is still full");
    journal.sync().expect("what was taken can be synced");
    // Space that was reserved for this moment.
    assert!(dir.release_reserve().expect("the disk works"));
    let payload = vec![taken.len() as u8; 500];
    journal.append(&[&payload]).expect("there is room now");
    taken.push(payload);
    assert!(!dir.restore_reserve().expect("the disk works"), "there is no room for it");
    disk.set_capacity(None);
    journal.append(&[b"healed"]).expect("there is room now");
    taken.push(b"healed".to_vec());
    assert!(dir.restore_reserve().expect("the disk works"));
    journal.sync().expect("the disk works");
    drop((dir, journal));
    disk.crash();
    assert!(open(&disk).expect("it is whole").payloads == taken);
}

#[test]
fn a_node_starts_on_a_full_disk() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&payloads(0..3)).expect("there is room");
    journal.sync().expect("the disk works");
    drop((dir, journal));
    disk.crash();
    disk.set_capacity(Some(disk.used()));
    let mut opened = open(&disk).expect("the reserve has room for what a start must write");
    assert_eq!(opened.payloads, payloads(0..3));
    opened.journal.append(&[b"one more"]).expect("its segment has room");
}

#[test]
fn a_start_that_was_interrupted_while_it_made_the_reserve_leaves_none_that_is_empty() {
    let disk = SimDisk::new(1);
    drop(open(&disk).expect("it is new"));
    for name in ["reserve", "reserve-identity"] {
        let file = path().join(name);
        assert!(disk.open(&file, Mode::Create).expect("the disk works").length().expect("the disk works") == 0);
        drop(open(&disk).expect("it is whole"));
        let length = disk.open(&file, Mode::Read).expect("it is there").length().expect("the disk works");
        assert!(length >= 4096, "{name} has {length} bytes");
    }
}

#[test]
fn what_was_refused_does_not_come_back_after_what_was_taken_instead() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
        // All of the same length, so that the remains of the first would fit exactly after the second.
        disk.set_short_writes(1);
        disk.inject(Some(Operation::Write), seed % 3 + 1, Fault::NoSpace);
        let refused = journal.append(&[[1; 600], [2; 600], [3; 600]]);
        assert!(matches!(refused, Err(JournalError::NoSpace(_))));
        disk.set_short_writes(0);
        journal.append(&[[9; 600]]).expect("there is room");
        journal.sync().expect("the disk works");
        drop((dir, journal));
        disk.crash();
        assert!(open(&disk).expect("it is whole").payloads == [vec![9; 600]], "seed {seed}");
    }
}

#[test]
fn segments_go_once_they_lie_below_a_position() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    for _ in 0..4 {
        journal.append(&[vec![1; 3_000]]).expect("there is room");
    }
    let before = journal.stats();
    journal.remove_before(Position::LIMIT).expect("the disk works");
    assert_eq!(journal.stats(), before, "nothing goes that was not synced");
    let end = journal.sync().expect("the disk works");
    journal.remove_before(end).expect("the disk works");
    assert_eq!(journal.stats().first.0, end.0 / 4_096 * 4_096);
    assert_eq!(segments(&disk).len(), journal.stats().segments);
}

#[test]
fn others_append_and_sync_while_segments_are_removed() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    for _ in 0..4 {
        journal.append(&[vec![1; 3_000]]).expect("there is room");
    }
    let end = journal.sync().expect("the disk works");
    let first = journal.stats().first;
    // The second of three files is not removed.
    disk.inject(Some(Operation::Remove), 1, Fault::NoSpace);
    let removed = journal.begin_removal(end).expect("the disk works").expect("segments are full").run();
    disk.clear_faults();
    journal.append(&[vec![2; 3_000]]).expect("there is room");
    let end = journal.sync().expect("the disk works");
    assert_eq!(journal.stats().first, first, "the journal has not heard of it");
    assert!(matches!(journal.end_removal(removed), Err(JournalError::NoSpace(_))));
    assert_eq!(journal.stats().first.0, first.0 + 4_096);
    let removed = journal.begin_removal(end).expect("the disk works").expect("one was left").run();
    journal.end_removal(removed).expect("the disk works");
    assert_eq!(journal.stats().first.0, end.0 / 4_096 * 4_096);
    assert_eq!(segments(&disk).len(), journal.stats().segments);
}

#[test]
fn a_segment_that_a_crash_has_emptied_is_dropped_and_made_again() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
        journal.append(&[[1; 3_000]]).expect("there is room");
        journal.sync().expect("the disk works");
        journal.append(&[[2; 3_000]]).expect("there is room");
        drop((dir, journal));
        disk.crash_losing(Loss::Everything);
        let Opened { dir, mut journal, payloads, .. } = open(&disk).expect("it is whole");
        assert!(payloads == [[1; 3_000]]);
        journal.append(&[[3; 3_000]]).expect("there is room");
        dir.close(journal).expect("the disk works");
        disk.crash();
        assert!(open(&disk).expect("it is whole").payloads == [[1; 3_000], [3; 3_000]]);
    }
}

#[test]
fn a_slow_disk_says_how_slow() {
    let disk = SimDisk::new(1);
    let Opened { mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[b"slow"]).expect("there is room");
    disk.inject(Some(Operation::SyncData), 0, Fault::Slow { micros: 250_000 });
    journal.sync().expect("it goes well in the end");
    assert_eq!(disk.take_delay_micros(), 250_000);
    assert_eq!(disk.take_delay_micros(), 0);
}

#[test]
fn everything_may_move_between_threads() {
    fn moves<T: Send>() {}
    moves::<storage::Journal>();
    moves::<storage::DataDir>();
    moves::<storage::SnapshotWriter>();
    moves::<storage::journal::SyncTask>();
    moves::<storage::journal::Synced>();
    moves::<storage::snapshot::SnapshotReader>();
    moves::<SimDisk>();
}
