//! Directories in which no node starts: what a check reports, and what a repair gives up and keeps.

use std::sync::Arc;

use storage::bugs::NoBugs;
use storage::check::inspect;
use storage::disk::sim::Fault;
use storage::disk::{self, Mode};
use storage::error::Rejection;
use storage::map_file;
use storage::{DataDir, Disk as _, Flaw, Identity, OpenError, Recovered, Recovery, RepairReport, Report, SimDisk};

use crate::support::{Opened, files, open, options, path, payloads, segments};

fn check(disk: &SimDisk) -> Result<Report, OpenError> {
    storage::check(disk, path(), &mut |_| Ok(()))
}

fn repair(disk: &SimDisk) -> Result<RepairReport, OpenError> {
    storage::repair(disk, path(), options(), &mut || Box::new(|_| Ok(())))
}

/// Accepts everything except one payload.
fn rejects(bad: Vec<u8>) -> impl FnMut(Recovered<'_>) -> Result<(), Rejection> {
    move |recovered| {
        let (Recovered::Snapshot(payload) | Recovered::Log { payload, .. }) = recovered;
        if payload == bad { Err("it makes no sense".into()) } else { Ok(()) }
    }
}

/// Two hundred records, each synced, in several segments.
fn long_log() -> SimDisk {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    for payload in payloads(0..200) {
        journal.append(&[payload]).expect("there is room");
        journal.sync().expect("the disk works");
    }
    drop((dir, journal));
    disk.crash();
    disk
}

/// Where a record is: its segment and its offset there.
fn place(disk: &SimDisk, number: usize) -> (std::path::PathBuf, u64) {
    let mut positions = Vec::new();
    let report = inspect(disk, path(), &mut |position, _| positions.push(position)).expect("it is there");
    let position = positions[number];
    let segment = report.segments.iter().rfind(|segment| segment.first <= position).expect("it is in one");
    (segment.file.clone(), position.0 - segment.first.0)
}

#[test]
fn what_is_no_data_directory_is_neither_looked_at_nor_repaired_and_stays_as_it_is() {
    let disk = SimDisk::new(1);
    disk.create_directory(path()).expect("the disk works");
    disk::replace_file(&disk, path(), "notes.txt", b"mine").expect("the disk works");
    disk.open(&path().join("mine.tmp"), Mode::Create).expect("the disk works");
    let before = disk.list(path()).expect("it is there");
    assert!(matches!(check(&disk), Err(OpenError::NoData { .. })));
    assert!(matches!(repair(&disk), Err(OpenError::NoData { .. })));
    assert_eq!(disk.list(path()).expect("it is there"), before);
    // Nor does a node that starts there touch foreign files.
    drop(open(&disk).expect("a node may start there"));
    let after = disk.list(path()).expect("it is there");
    assert!(before.iter().all(|name| after.contains(name)), "{after:?}");
}

#[test]
fn a_coordinators_directory_is_neither_checked_nor_repaired_and_called_by_its_name() {
    let disk = SimDisk::new(1);
    disk.create_directory(path()).expect("the disk works");
    disk::replace_file(&disk, path(), "coordinator.state", b"a state").expect("the disk works");
    for error in [check(&disk).unwrap_err(), repair(&disk).unwrap_err()] {
        assert!(
            error.to_string().starts_with("/data is the data directory of a coordinator, not of a node"),
            "{error}"
        );
    }
    assert_eq!(disk.list(path()).expect("it is there"), ["coordinator.state"]);
}

#[test]
fn a_damaged_map_is_shown_by_a_check_and_set_aside_by_a_repair() {
    let disk = long_log();
    map_file::store(&disk, path(), "OK Map version=9 since=0 cluster=3f0c").expect("the disk works");
    assert!(check(&disk).expect("it is there").is_sound());
    disk.flip_bit(&path().join(map_file::NAME), 40, 0);
    let report = check(&disk).expect("it is there");
    assert!(!report.is_sound() && report.to_string().contains("/data/map"), "{report}");
    assert!(repair(&disk).expect("the disk works").to_string().contains("/data/map"));
    assert!(check(&disk).expect("it is there").is_sound());
}

#[test]
fn a_sound_directory_needs_no_repair() {
    let disk = long_log();
    let report = check(&disk).expect("it is there");
    assert!(report.is_sound(), "{report}");
    assert_eq!(report.segments.iter().map(|segment| segment.records).sum::<u64>(), 200);
    assert!(report.to_string().ends_with("A node can start here."), "{report}");
    let repaired = repair(&disk).expect("there is nothing to do");
    assert_eq!(repaired.to_string(), "/data: nothing to repair");
}

#[test]
fn a_check_goes_on_behind_damage_and_says_where_it_is() {
    let disk = long_log();
    let (file, offset) = place(&disk, 40);
    disk.flip_bit(&file, offset + 30, 2);
    let mut seen = Vec::new();
    let report = inspect(&disk, path(), &mut |_, payload| seen.push(payload.to_vec())).expect("it is there");
    let mut expected = payloads(0..200);
    let lost = expected.remove(40);
    assert!(seen == expected, "all but one can be read");
    let [(damage, bytes)] = report.damages.as_slice() else { panic!("{report}") };
    assert_eq!((&damage.file, damage.offset, *bytes), (&file, offset, 24 + lost.len() as u64));
    assert!(!report.is_sound());
    let text = report.to_string();
    assert!(text.contains(&format!("DAMAGE {} is damaged at byte {offset}", file.display())), "{text}");
    assert!(text.contains("A node cannot start here"), "{text}");
}

#[test]
fn a_repair_cuts_at_the_damage_and_keeps_what_it_cut() {
    let disk = long_log();
    let before = segments(&disk);
    let (file, offset) = place(&disk, 40);
    disk.flip_bit(&file, offset + 30, 2);
    let damaged = disk.content(&file).expect("it is there");
    assert!(matches!(open(&disk), Err(OpenError::Damaged(_))));
    let report = repair(&disk).expect("the disk works");
    let text = report.to_string();
    assert!(text.contains(&format!("cut {} at byte {offset}", file.display())), "{text}");
    let kept = files(&disk, ".set-aside");
    assert_eq!(kept.len(), before.len(), "{text}");
    assert!(kept.iter().any(|kept| disk.content(kept).as_ref() == Some(&damaged)), "the whole segment is kept");
    let mut opened = open(&disk).expect("it was repaired");
    assert!(opened.payloads == payloads(0..40));
    opened.journal.append(&[b"new"]).expect("there is room");
    opened.journal.sync().expect("the disk works");
    drop(opened);
    disk.crash();
    assert_eq!(open(&disk).expect("it is whole").payloads.len(), 41);
    assert_eq!(check(&disk.fork(1)).expect("it is there").set_aside.len(), kept.len());
}

/// Proves what it has, as a node that has joined does.
fn with_proof(disk: &SimDisk) {
    let mut opened = open(disk).expect("it is sound");
    opened.dir.update_identity(|identity| identity.begin_incarnation(7)).expect("the disk works");
}

/// Repeats `work` on copies of a disk, each of which stops at another call, until one does not stop it.
fn interrupted_everywhere(disk: &SimDisk, work: impl Fn(&SimDisk) -> bool, mut check: impl FnMut(SimDisk)) {
    for call in 0.. {
        let copy = disk.fork(call);
        copy.inject(None, call, Fault::PowerCut);
        let is_done = work(&copy);
        copy.crash();
        check(copy);
        if is_done {
            assert!(call > 10, "it was interrupted at {call} calls only");
            return;
        }
    }
}

#[test]
fn an_interrupted_repair_leaves_no_directory_that_claims_to_be_whole() {
    let disk = long_log();
    with_proof(&disk);
    let (file, offset) = place(&disk, 40);
    disk.flip_bit(&file, offset + 30, 2);
    let mut starts = 0;
    let repaired = |disk: &SimDisk| repair(disk).is_ok();
    interrupted_everywhere(&disk, repaired, |disk| {
        if let Ok(opened) = open(&disk) {
            assert_eq!(opened.payloads, payloads(0..40));
            assert!(opened.dir.identity().incarnations.is_empty(), "it claims to have all 200 records");
            starts += 1;
        }
    });
    assert!(starts > 2, "it starts after {starts} of the interruptions");
}

#[test]
fn an_interrupted_start_that_cuts_records_leaves_no_directory_that_claims_to_be_whole() {
    let disk = long_log();
    with_proof(&disk);
    let (file, offset) = place(&disk, 199);
    disk.flip_bit(&file, offset + 30, 2);
    let start = |disk: &SimDisk| {
        let mut dir = DataDir::open(Arc::new(disk.clone()), path(), options()).ok()?;
        let mut count = 0;
        let mut deliver = |_: Recovered<'_>| {
            count += 1;
            Ok(())
        };
        let lose_proof = |recovery: &Recovery, identity: &mut Identity| {
            if recovery.torn_tail.is_some() {
                identity.lose_proof();
            }
        };
        dir.recover_as(&mut deliver, lose_proof).ok()?;
        Some((count, dir.identity().incarnations.clone()))
    };
    assert_eq!(start(&disk.fork(1)), Some((199, Vec::new())), "the last record is cut");
    let started = |disk: &SimDisk| start(disk).is_some();
    interrupted_everywhere(&disk, started, |disk| {
        assert_eq!(start(&disk), Some((199, Vec::new())), "it claims to have all 200 records");
    });
}

#[test]
fn a_repair_for_which_there_is_no_room_takes_none_and_succeeds_once_there_is() {
    let disk = long_log();
    let (file, offset) = place(&disk, 40);
    disk.flip_bit(&file, offset + 30, 2);
    disk.set_capacity(Some(disk.used() + 1_000));
    assert!(repair(&disk).is_err());
    let (used, kept) = (disk.used(), files(&disk, ".set-aside"));
    assert!(repair(&disk).is_err());
    assert_eq!((disk.used(), files(&disk, ".set-aside")), (used, kept), "what did not fit is gone");
    disk.set_capacity(None);
    repair(&disk).expect("there is room");
    assert_eq!(open(&disk).expect("it was repaired").payloads, payloads(0..40));
}

#[test]
fn what_a_start_would_reject_is_shown_by_a_check_and_given_up_by_a_repair() {
    let disk = long_log();
    let (file, offset) = place(&disk, 40);
    let bad = payloads(40..41).remove(0);
    let report = storage::check(&disk, path(), &mut rejects(bad.clone())).expect("it is there");
    assert!(!report.is_sound() && report.damages.is_empty(), "{report}");
    let refusal = report.refusal.expect("a node does not start here");
    for says in [&file.display().to_string(), &format!("at byte {offset}"), "it makes no sense"] {
        assert!(refusal.contains(says), "{says}: {refusal}");
    }
    let report = storage::repair(&disk, path(), options(), &mut || Box::new(rejects(bad.clone())));
    let text = report.expect("the disk works").to_string();
    assert!(text.contains(&format!("cut {} at byte {offset}", file.display())), "{text}");
    assert!(text.contains("it makes no sense"), "{text}");
    assert!(open(&disk).expect("it was repaired").payloads == payloads(0..40));
}

#[test]
fn a_snapshot_that_a_start_would_reject_is_set_aside_by_a_repair_and_the_log_serves() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&payloads(0..9)).expect("there is room");
    let synced = journal.sync().expect("the disk works");
    let mut writer = dir.begin_snapshot(synced).expect("the disk works");
    writer.add(b"rubbish").expect("the disk works");
    let info = writer.finish(synced).expect("the disk works");
    dir.close(journal).expect("the disk works");
    let bad = b"rubbish".to_vec();
    let refusal = storage::check(&disk, path(), &mut rejects(bad.clone())).expect("it is there").refusal;
    assert!(refusal.is_some_and(|refusal| refusal.contains(&info.file.display().to_string())));
    storage::repair(&disk, path(), options(), &mut || Box::new(rejects(bad.clone()))).expect("the disk works");
    assert!(open(&disk).expect("it was repaired").payloads == payloads(0..9));
}

#[test]
fn a_log_that_something_has_cut_short_is_no_torn_end_and_a_repair_gives_it_its_length_again() {
    for last in [true, false] {
        let disk = long_log();
        let all = segments(&disk);
        let (file, offset) = place(&disk, if last { 195 } else { 40 });
        let content = disk.content(&file).expect("it is there");
        disk.set_content(&file, &content[..offset as usize]).expect("it is there");
        let report = check(&disk).expect("it is there");
        let refusal = report.refusal.clone().expect("a node does not start here");
        let says = format!("{} is damaged at byte {offset}: the file ends there", file.display());
        assert!(refusal.contains(&says), "{refusal}");
        assert!(report.damages.iter().any(|(damage, _)| matches!(damage.flaw, Flaw::Short { .. })), "{report}");
        repair(&disk).expect("the disk works");
        assert!(open(&disk).expect("it was repaired").payloads == payloads(0..if last { 195 } else { 40 }));
        assert_eq!(disk.content(&file).expect("it is there").len(), content.len());
        assert_eq!(segments(&disk).len(), if last { all.len() } else { 1 });
    }
}

#[test]
fn a_directory_with_a_damaged_segment_header_starts_after_a_repair() {
    let disk = long_log();
    let file = &segments(&disk)[1];
    disk.flip_bit(file, 10, 0);
    let report = check(&disk).expect("it is there");
    assert_eq!(report.damages[0].0.flaw, Flaw::Header);
    repair(&disk).expect("the disk works");
    let opened = open(&disk).expect("it was repaired");
    assert!(payloads(0..200).starts_with(&opened.payloads) && !opened.payloads.is_empty());
}

#[test]
fn a_directory_without_one_of_its_segments_starts_after_a_repair() {
    // That the newest segment is missing shows only after a clean stop.
    for missing in 0..2 {
        let disk = long_log();
        disk.remove(&segments(&disk)[missing]).expect("it is there");
        assert!(matches!(open(&disk), Err(OpenError::Damaged(_))));
        repair(&disk).expect("the disk works");
        let opened = open(&disk).expect("it was repaired");
        assert!(payloads(0..200).starts_with(&opened.payloads), "segment {missing}");
        assert_eq!(opened.payloads.is_empty(), missing == 0, "segment {missing}");
    }
}

#[test]
fn a_directory_that_lost_its_identity_starts_after_a_repair() {
    let identity = path().join("identity");
    let longer_than_any = vec![b'x'; 100_000];
    let flip = |disk: &SimDisk| disk.flip_bit(&identity, 50, 1);
    let overwrite = |disk: &SimDisk| disk.set_content(&identity, &longer_than_any).expect("it is there");
    for damage in [&flip as &dyn Fn(&SimDisk), &overwrite] {
        let disk = long_log();
        damage(&disk);
        assert!(matches!(open(&disk), Err(OpenError::Damaged(_))));
        assert!(check(&disk).expect("it is there").refusal.is_some());
        repair(&disk).expect("the disk works");
        let opened = open(&disk).expect("it was repaired");
        assert!(opened.payloads == payloads(0..200));
        assert_eq!((opened.dir.identity().cluster.clone(), opened.dir.identity().last_incarnation()), (None, None));
    }
}

#[test]
fn a_directory_without_a_good_snapshot_starts_empty_after_a_repair_and_keeps_everything() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    for _ in 0..3 {
        journal.append(&[[1; 3_000]]).expect("there is room");
    }
    let synced = journal.sync().expect("the disk works");
    let info = dir.begin_snapshot(synced).expect("the disk works").finish(synced).expect("the disk works");
    journal.remove_before(synced).expect("the disk works");
    dir.close(journal).expect("the disk works");
    disk.flip_bit(&info.file, 20, 0);
    assert!(matches!(open(&disk), Err(OpenError::Damaged(damage)) if damage.file == info.file));
    let kept = segments(&disk).len() + 1;
    let report = repair(&disk).expect("the disk works");
    assert_eq!(files(&disk, ".set-aside").len(), kept, "{report}");
    assert!(open(&disk).expect("it was repaired").payloads.is_empty());
}

#[test]
fn a_log_that_ends_before_its_snapshot_is_begun_anew_behind_it() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let good = journal.append(&payloads(0..9)).expect("there is room");
    journal.append(&payloads(9..10)).expect("there is room");
    let synced = journal.sync().expect("the disk works");
    let mut writer = dir.begin_snapshot(synced).expect("the disk works");
    payloads(0..10).iter().for_each(|payload| writer.add(payload).expect("the disk works"));
    writer.finish(synced).expect("the disk works");
    dir.close(journal).expect("the disk works");
    for segment in segments(&disk) {
        let content = disk.content(&segment).expect("it is there");
        disk.set_content(&segment, &content[..good.0 as usize]).expect("it is there");
    }
    // What is below the snapshot is not needed to start: the log continues after it.
    repair(&disk).expect("the disk works");
    let Opened { dir, mut journal, payloads: found, .. } = open(&disk).expect("it was repaired");
    assert!(found == payloads(0..10));
    journal.append(&payloads(10..11)).expect("there is room");
    dir.close(journal).expect("the disk works");
    assert!(open(&disk).expect("it is whole").payloads == payloads(0..11));
}

#[test]
fn where_the_newest_snapshot_and_the_log_below_it_are_damaged_the_one_before_serves_after_a_repair() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    for end in [50, 100, 150] {
        for payload in payloads(end - 50..end) {
            journal.append(&[payload]).expect("there is room");
            journal.sync().expect("the disk works");
        }
        if end < 150 {
            let mut writer = dir.begin_snapshot(journal.end()).expect("there is room");
            payloads(0..end).iter().for_each(|payload| writer.add(payload).expect("there is room"));
            writer.finish(journal.synced()).expect("there is room");
        }
    }
    drop((dir, journal));
    disk.crash();
    let (file, offset) = place(&disk, 70);
    disk.flip_bit(&file, offset + 30, 2);
    disk.flip_bit(&files(&disk, ".snap")[1], 200, 2);
    repair(&disk).expect("it can be repaired");
    assert!(open(&disk).expect("it starts").payloads == payloads(0..70), "all before the damage is there");
}

#[test]
fn neither_looks_at_a_directory_in_use_or_makes_one() {
    let disk = SimDisk::new(1);
    assert!(matches!(check(&disk), Err(OpenError::File(_))));
    let opened = open(&disk).expect("it is new");
    assert!(matches!(check(&disk), Err(OpenError::InUse { .. })));
    assert!(matches!(repair(&disk), Err(OpenError::InUse { .. })));
    drop(opened);
}

#[test]
fn a_torn_tail_is_shown_and_is_no_reason_not_to_start() {
    let disk = long_log();
    let (file, offset) = place(&disk, 199);
    disk.flip_bit(&file, offset + 5, 0);
    let report = check(&disk).expect("it is there");
    assert_eq!(report.refusal, None);
    let torn = report.torn_tail.clone().expect("its end is torn");
    assert_eq!((torn.file, torn.offset), (file, offset));
    assert!(report.to_string().contains("A crash tore the end of the log"), "{report}");
    assert!(report.is_sound(), "{report}");
    let opened = crate::support::open_on(Arc::new(disk), path(), options(), NoBugs).expect("it starts");
    assert_eq!(opened.payloads.len(), 199);
}

#[test]
fn bytes_behind_the_last_record_are_cut_by_a_start_and_no_damage() {
    let disk = long_log();
    let (file, offset) = place(&disk, 199);
    let end = offset + 24 + payloads(199..200)[0].len() as u64;
    disk.flip_bit(&file, end + 7, 0);
    let report = check(&disk).expect("it is there");
    assert!(report.is_sound() && report.to_string().contains("the last 8 bytes"), "{report}");
    let opened = open(&disk).expect("it starts");
    assert_eq!(opened.payloads.len(), 200);
}

#[test]
fn a_torn_tail_in_which_good_records_follow_may_be_damage_and_is_shown_as_such() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&payloads(0..3)).expect("there is room");
    drop((dir, journal));
    let (file, offset) = place(&disk, 1);
    disk.flip_bit(&file, offset + 5, 0);
    let report = check(&disk).expect("it is there");
    assert!(report.refusal.is_none() && !report.is_sound(), "{report}");
    assert!(report.to_string().contains("The end of the log is damaged, or a crash tore it."), "{report}");
}

#[test]
fn damage_that_no_start_needs_to_read_is_no_reason_for_a_repair() {
    let disk = SimDisk::new(1);
    let mut opened = open(&disk).expect("it is new");
    write_and_snapshot(&mut opened, 0..40);
    write_and_snapshot(&mut opened, 40..80);
    drop(opened);
    disk.flip_bit(&segments(&disk)[0], 100, 0);
    let report = check(&disk).expect("it is there");
    assert!(report.refusal.is_none() && !report.is_sound(), "{report}");
    assert!(report.to_string().contains("Do not repair it"), "{report}");
}

/// Writes records, each synced, and a snapshot that begins halfway and holds all of them, like one that is copied while
/// writes go on.
fn write_and_snapshot(opened: &mut Opened, numbers: std::ops::Range<usize>) -> std::path::PathBuf {
    let half = numbers.start.midpoint(numbers.end);
    let mut begun = None;
    for number in numbers.clone() {
        if number == half {
            begun = Some(opened.dir.begin_snapshot(opened.journal.end()).expect("the disk works"));
        }
        opened.journal.append(&payloads(number..number + 1)).expect("there is room");
        opened.journal.sync().expect("the disk works");
    }
    let mut writer = begun.expect("there are some");
    for payload in payloads(0..numbers.end) {
        writer.add(&payload).expect("the disk works");
    }
    writer.finish(opened.journal.synced()).expect("the disk works").file
}

fn is_damage_of(file: &std::path::Path, opened: Result<Opened, OpenError>) {
    assert!(matches!(&opened, Err(OpenError::Damaged(damage)) if damage.file == *file), "{:?}", opened.map(|_| ()));
}

#[test]
fn a_log_that_was_cut_is_no_substitute_for_a_snapshot_that_may_hold_more() {
    for snapshots in [1, 2] {
        let disk = SimDisk::new(1);
        let mut opened = open(&disk).expect("it is new");
        let mut newest = write_and_snapshot(&mut opened, 0..100);
        if snapshots == 2 {
            newest = write_and_snapshot(&mut opened, 100..200);
        }
        drop(opened);
        disk.crash();
        // After the position of the newest snapshot, which holds this record, too.
        let (file, offset) = place(&disk, snapshots * 100 - 10);
        disk.flip_bit(&file, offset + 30, 2);
        repair(&disk).expect("the disk works");
        let opened = open(&disk).expect("it was repaired");
        assert_eq!(opened.recovery.snapshot_records, snapshots as u64 * 100);
        drop(opened);
        disk.crash();
        disk.flip_bit(&newest, 70, 1);
        is_damage_of(&newest, open(&disk));
        repair(&disk).expect("the disk works");
        let opened = open(&disk).expect("on an operator's word it serves");
        let kept = opened.payloads.last().expect("there are some");
        assert_eq!(kept, &payloads(0..snapshots * 100 - 10).pop().expect("there are some"));
    }
}

#[test]
fn a_stop_in_order_whose_log_has_lost_its_end_is_a_cut_too() {
    let disk = SimDisk::new(1);
    let mut opened = open(&disk).expect("it is new");
    let newest = write_and_snapshot(&mut opened, 0..100);
    opened.dir.close(opened.journal).expect("the disk works");
    let (file, offset) = place(&disk, 90);
    let mut content = disk.content(&file).expect("it is there");
    content[offset as usize..].fill(0);
    disk.set_content(&file, &content).expect("it is there");
    is_damage_of(&file, open(&disk));
    repair(&disk).expect("the disk works");
    drop(open(&disk).expect("it was repaired"));
    disk.crash();
    disk.flip_bit(&newest, 70, 1);
    is_damage_of(&newest, open(&disk));
}

#[test]
fn the_mark_of_a_cut_says_nothing_of_later_snapshots_and_goes_with_the_earlier_ones() {
    let disk = SimDisk::new(1);
    drop(write_and_snapshot(&mut open(&disk).expect("it is new"), 0..100));
    disk.crash();
    let (file, offset) = place(&disk, 90);
    disk.flip_bit(&file, offset + 30, 2);
    repair(&disk).expect("the disk works");
    assert_eq!(files(&disk, ".mark").len(), 1);
    let newest = write_and_snapshot(&mut open(&disk).expect("it was repaired"), 100..200);
    disk.crash();
    let damaged = disk.fork(1);
    damaged.flip_bit(&newest, 70, 1);
    let opened = open(&damaged).expect("the snapshot before and the log hold all");
    assert_eq!(opened.recovery.damaged_snapshots.len(), 1);
    assert!(opened.payloads == [payloads(0..100), payloads(50..90), payloads(100..200)].concat());
    drop(opened);
    let mut opened = open(&disk).expect("it is whole");
    write_and_snapshot(&mut opened, 200..300);
    assert_eq!(files(&disk, ".mark").len(), 1, "the snapshot before the cut is still there");
    opened.dir.retain_snapshots(2).expect("the disk works");
    drop(opened);
    disk.crash();
    drop(open(&disk).expect("it is whole"));
    assert_eq!(files(&disk, ".mark").len(), 0);
}
