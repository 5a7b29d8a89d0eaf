//! A data directory: its lock, its identity, and the state in which it was found.

use std::sync::Arc;

use storage::disk::sim::{Fault, Loss};
use storage::error::Rejection;
use storage::{
    DataDir, DirectoryId, Disk as _, Flaw, Identity, OpenError, Options, Position, Recovered, Recovery, SimDisk,
};

use crate::support::{Opened, files, open, options, path, payloads, segments};

fn refusal(disk: &SimDisk) -> OpenError {
    match open(disk) {
        Err(error) => error,
        Ok(_) => panic!("it starts"),
    }
}

#[test]
fn a_second_process_is_refused_by_the_name_of_the_directory() {
    let disk = SimDisk::new(1);
    let first = open(&disk).expect("it is new");
    let error = refusal(&disk);
    assert!(matches!(&error, OpenError::InUse { directory } if directory == path()), "{error}");
    assert!(error.to_string().contains("/data"), "{error}");
    drop(first);
    open(&disk).expect("the first is gone");
}

#[test]
fn a_killed_process_leaves_no_lock() {
    let disk = SimDisk::new(1);
    let first = open(&disk).expect("it is new");
    disk.kill();
    open(&disk).expect("nobody has it");
    drop(first);
}

#[test]
fn an_identity_lasts_once_it_is_updated() {
    let disk = SimDisk::new(1);
    let Opened { mut dir, journal, .. } = open(&disk).expect("it is new");
    assert!(dir.found().new);
    dir.update_identity(|identity| {
        identity.cluster = Some("c-7".to_owned());
        identity.begin_incarnation(4);
    })
    .expect("the disk works");
    dir.update_identity(|identity| identity.begin_incarnation(9)).expect("the disk works");
    drop((dir, journal));
    disk.crash_losing(Loss::Everything);
    let again = open(&disk).expect("it is whole").dir;
    assert!(!again.found().new);
    let identity = again.identity();
    assert_eq!(identity.directory, DirectoryId(0xd1));
    assert_eq!((identity.cluster.as_deref(), identity.last_incarnation()), (Some("c-7"), Some(9)));
    assert_eq!(identity.incarnations, [4, 9]);
}

#[test]
fn a_start_knows_how_the_last_process_stopped() {
    let disk = SimDisk::new(1);
    let opened = open(&disk).expect("it is new");
    opened.dir.close(opened.journal).expect("the disk works");
    let opened = open(&disk).expect("it is whole");
    assert!(opened.dir.found().stopped_in_order && opened.dir.found().same_boot);
    disk.kill();
    let killed = open(&disk).expect("it is whole");
    assert!(!killed.dir.found().stopped_in_order && killed.dir.found().same_boot);
    drop((opened, killed));
    disk.crash();
    let crashed = open(&disk).expect("it is whole");
    assert!(!crashed.dir.found().stopped_in_order && !crashed.dir.found().same_boot);
}

#[test]
fn a_copied_directory_is_recognised() {
    let disk = SimDisk::new(1);
    let opened = open(&disk).expect("it is new");
    opened.dir.close(opened.journal).expect("the disk works");
    let copy = std::path::Path::new("/copy");
    disk.create_directory(copy).expect("the disk works");
    for name in disk.list(path()).expect("it is there") {
        let content = disk.content(&path().join(&name)).expect("it is there");
        disk.set_content(&copy.join(name), &content).expect("the directory is there");
    }
    let found = |at| DataDir::open(Arc::new(disk.clone()), at, options()).expect("it is whole").found();
    assert!(found(copy).copied);
    assert!(!found(path()).copied);
    let check = |at| storage::check(&disk, at, &mut |_| Ok(())).expect("it is there");
    assert!(check(path()).is_sound() && !check(copy).is_sound(), "{}", check(copy));
}

#[test]
fn a_file_of_another_directory_is_recognised() {
    let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
    drop(open(&disk).expect("it is new"));
    let other_options = Options { fresh_id: DirectoryId(0xd2), ..options() };
    let mut dir = DataDir::open(Arc::new(other.clone()), path(), other_options).expect("it is new");
    dir.recover(&mut |_| Ok(())).expect("it is empty");
    let segment = &segments(&disk)[0];
    disk.set_content(segment, &other.content(segment).expect("it is there")).expect("it is there");
    let OpenError::Damaged(damage) = refusal(&disk) else { panic!("it is not damaged") };
    assert_eq!((&damage.file, damage.flaw), (segment, Flaw::OtherDirectory(DirectoryId(0xd2))));
}

#[test]
fn data_without_an_identity_is_refused() {
    let disk = SimDisk::new(1);
    drop(open(&disk).expect("it is new"));
    disk.remove(&path().join("identity")).expect("it is there");
    assert!(matches!(refusal(&disk), OpenError::IdentityMissing { .. }));
}

#[test]
fn the_directory_of_a_coordinator_is_refused_unless_a_node_has_used_it_before() {
    for name in ["coordinator.lock", "coordinator.state"] {
        let disk = SimDisk::new(1);
        disk.create_directory(path()).expect("the disk works");
        disk.set_content(&path().join(name), b"").expect("the directory is there");
        assert!(matches!(refusal(&disk), OpenError::OfCoordinator { .. }), "{name}");
        disk.remove(&path().join(name)).expect("it is there");
        drop(open(&disk).expect("it is no longer a coordinator's"));
        disk.set_content(&path().join(name), b"").expect("the directory is there");
        drop(open(&disk).expect("it is a node's, too"));
    }
}

#[test]
fn a_damaged_identity_is_refused_by_its_name() {
    let disk = SimDisk::new(1);
    drop(open(&disk).expect("it is new"));
    disk.flip_bit(&path().join("identity"), 40, 1);
    let OpenError::Damaged(damage) = refusal(&disk) else { panic!("it is not damaged") };
    assert_eq!((damage.file, damage.flaw), (path().join("identity"), Flaw::Identity));
}

#[test]
fn a_log_that_is_gone_is_missed() {
    let disk = SimDisk::new(1);
    drop(open(&disk).expect("it is new"));
    for segment in segments(&disk) {
        disk.remove(&segment).expect("it is there");
    }
    let OpenError::Damaged(damage) = refusal(&disk) else { panic!("it is not damaged") };
    assert_eq!(damage.flaw, Flaw::SegmentMissing);
}

/// The disk went away for a while and came back: a record is missing although the machine was not restarted. A start
/// that is killed may have removed what follows, and then nothing shows it any more.
#[test]
fn a_start_that_is_killed_at_any_call_leaves_a_torn_log_or_has_noted_it() {
    let start = |disk: &SimDisk| {
        let mut dir = DataDir::open(Arc::new(disk.clone()), path(), options())?;
        let lose_proof = |recovery: &Recovery, identity: &mut Identity| {
            if recovery.torn_tail.as_ref().is_some_and(|torn| torn.followed) {
                identity.lose_proof();
            }
        };
        dir.recover_as(&mut |_| Ok(()), lose_proof)?;
        Ok::<_, OpenError>(dir.identity().clone())
    };
    for calls in 0.. {
        let disk = SimDisk::new(1);
        let Opened { mut dir, mut journal, .. } = open(&disk).expect("it is new");
        dir.update_identity(|identity| identity.begin_incarnation(4)).expect("the disk works");
        let [from, to] = [0..5, 5..6].map(|numbers| journal.append(&payloads(numbers)).expect("there is room"));
        journal.append(&payloads(6..8)).expect("there is room");
        disk.kill();
        let segment = &segments(&disk)[0];
        let mut content = disk.content(segment).expect("it is there");
        content[from.0 as usize..to.0 as usize].fill(0);
        disk.set_content(segment, &content).expect("it is there");
        disk.inject(None, calls, Fault::PowerCut);
        let is_killed = start(&disk).is_err();
        disk.kill();
        let identity = start(&disk).expect("the disk works");
        assert_eq!((identity.unproven, identity.incarnations), (vec![4], vec![]), "killed after {calls} calls");
        if !is_killed {
            assert!(calls > 10, "it makes {calls} calls");
            return;
        }
    }
}

#[test]
fn the_end_of_a_log_that_was_whole_when_the_node_stopped_is_missed() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    let good = journal.append(&payloads(0..5)).expect("there is room");
    let end = journal.append(&payloads(5..6)).expect("there is room");
    dir.close(journal).expect("the disk works");
    let segment = &segments(&disk)[0];
    let mut content = disk.content(segment).expect("it is there");
    content[good.0 as usize..].fill(0);
    disk.set_content(segment, &content).expect("it is there");
    let OpenError::Damaged(damage) = refusal(&disk) else { panic!("it is not damaged") };
    assert_eq!((damage.offset, damage.flaw), (good.0, Flaw::EndMissing { end: good, reached: end }));
}

#[test]
fn what_the_receiver_cannot_use_is_named_and_left_as_it_is() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&payloads(0..5)).expect("there is room");
    dir.close(journal).expect("the disk works");
    let mut dir = DataDir::open(Arc::new(disk.clone()), path(), options()).expect("it is whole");
    let mut last = Position::START;
    let error = dir.recover(&mut |recovered| {
        let Recovered::Log { position, payload } = recovered else { panic!("there is no snapshot") };
        last = position;
        if payload == payloads(3..4)[0] { Err(Rejection::from("of a later release")) } else { Ok(()) }
    });
    let Err(OpenError::Rejected { file, offset, reason }) = error else { panic!("it was taken") };
    assert_eq!(
        (file, offset, reason.to_string()),
        (segments(&disk)[0].clone(), last.0, "of a later release".to_owned())
    );
    drop(dir);
    assert_eq!(open(&disk).expect("nothing was changed").payloads, payloads(0..5));
}

#[test]
fn segments_of_another_size_are_read_and_followed() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    journal.append(&[[1; 3_000]]).expect("there is room");
    dir.close(journal).expect("the disk works");
    let larger = Options { segment_bytes: 16 * 1024, ..options() };
    let again = crate::support::open_on(Arc::new(disk.clone()), path(), larger, storage::bugs::NoBugs);
    let Opened { dir, mut journal, .. } = again.expect("it is whole");
    for _ in 0..6 {
        journal.append(&[[2; 3_000]]).expect("there is room");
    }
    dir.close(journal).expect("the disk works");
    assert_eq!(open(&disk).expect("it is whole").payloads.len(), 7);
}

#[test]
fn settings_without_sense_are_refused() {
    let disk = SimDisk::new(1);
    let tiny = Options { segment_bytes: 100, ..options() };
    let refused = DataDir::open(Arc::new(disk.clone()), path(), tiny);
    assert!(matches!(refused, Err(OpenError::SegmentBytes { segment_bytes: 100, .. })));
}

#[test]
fn segments_that_came_back_over_a_gap_are_removed() {
    let disk = SimDisk::new(1);
    let Opened { dir, mut journal, .. } = open(&disk).expect("it is new");
    for _ in 0..6 {
        journal.append(&[[1; 3_000]]).expect("there is room");
    }
    let position = journal.sync().expect("the disk works");
    dir.begin_snapshot(position).expect("the disk works").finish(position).expect("the disk works");
    journal.append(&[b"tail"]).expect("there is room");
    let stale = segments(&disk)[1].clone();
    let content = disk.content(&stale).expect("it is there");
    journal.remove_before(position).expect("the disk works");
    dir.close(journal).expect("the disk works");
    disk.set_content(&stale, &content).expect("the directory is there");
    let opened = open(&disk).expect("nothing of it is needed");
    assert_eq!(opened.payloads, [b"tail"]);
    assert!(!files(&disk, ".seg").contains(&stale));
}
