//! The same on real files of this machine.

use std::path::Path;
use std::sync::Arc;

use storage::bugs::NoBugs;
use storage::disk::Place;
use storage::{Disk as _, OpenError, RealDisk, check, repair};

use crate::support::{Opened, open_on, options, payloads};

fn open(path: &Path) -> Result<Opened, OpenError> {
    open_on(Arc::new(RealDisk::default()), path, options(), NoBugs)
}

#[test]
fn what_was_appended_is_there_after_a_restart_with_a_snapshot_and_without() {
    let temporary = tempfile::tempdir().expect("a directory can be made");
    let path = temporary.path().join("data").join("node");
    let Opened { dir, mut journal, .. } = open(&path).expect("it is new");
    for payload in payloads(0..300) {
        journal.append(&[payload]).expect("there is room");
    }
    // No sync and no clean stop: the data is in the kernel.
    drop((dir, journal));
    let Opened { dir, mut journal, payloads: found, .. } = open(&path).expect("it is whole");
    assert!(found == payloads(0..300));
    let position = journal.sync().expect("the disk works");
    let mut writer = dir.begin_snapshot(position).expect("the disk works");
    found.iter().for_each(|payload| writer.add(payload).expect("the disk works"));
    writer.finish(position).expect("the disk works");
    let oldest = dir.retain_snapshots(1).expect("the disk works").expect("there is one");
    journal.remove_before(oldest).expect("the disk works");
    journal.append(&payloads(300..400)).expect("there is room");
    dir.close(journal).expect("the disk works");
    let opened = open(&path).expect("it is whole");
    assert!(opened.payloads == payloads(0..400));
    assert!(opened.dir.found().stopped_in_order && !opened.dir.found().copied);
    assert_eq!(opened.recovery.log_records, 100);
}

#[test]
fn a_second_one_is_refused_a_check_too() {
    let temporary = tempfile::tempdir().expect("a directory can be made");
    let opened = open(temporary.path()).expect("it is new");
    assert!(matches!(open(temporary.path()), Err(OpenError::InUse { .. })));
    assert!(matches!(check(&RealDisk::default(), temporary.path(), &mut |_| Ok(())), Err(OpenError::InUse { .. })));
    if cfg!(unix) {
        std::fs::remove_file(temporary.path().join("lock")).expect("it is there");
        assert!(matches!(open(temporary.path()), Err(OpenError::InUse { .. })), "whoever took it for a stale one");
    }
    drop(opened);
    assert!(check(&RealDisk::default(), temporary.path(), &mut |_| Ok(())).expect("nobody has it").is_sound());
}

#[test]
fn a_damaged_log_is_refused_and_repaired() {
    let temporary = tempfile::tempdir().expect("a directory can be made");
    let Opened { dir, mut journal, .. } = open(temporary.path()).expect("it is new");
    journal.append(&payloads(0..20)).expect("there is room");
    dir.close(journal).expect("the disk works");
    let file = temporary.path().join("log-00000000000000000000.seg");
    let mut bytes = std::fs::read(&file).expect("it is there");
    bytes[300] ^= 1;
    std::fs::write(&file, &bytes).expect("it can be written");
    assert!(matches!(open(temporary.path()), Err(OpenError::Damaged(damage)) if damage.file == file));
    repair(&RealDisk::default(), temporary.path(), options(), &mut || Box::new(|_| Ok(()))).expect("the disk works");
    let found = open(temporary.path()).expect("it was repaired").payloads;
    assert!(payloads(0..20).starts_with(&found) && !found.is_empty());
}

#[test]
fn a_copied_directory_is_recognised_where_the_system_tells() {
    let temporary = tempfile::tempdir().expect("a directory can be made");
    let (original, copy) = (temporary.path().join("original"), temporary.path().join("copy"));
    let opened = open(&original).expect("it is new");
    opened.dir.close(opened.journal).expect("the disk works");
    std::fs::create_dir(&copy).expect("it can be made");
    for name in RealDisk::default().list(&original).expect("it is there") {
        std::fs::copy(original.join(&name), copy.join(&name)).expect("it can be copied");
    }
    let tells = RealDisk::default().place(&original).expect("it is there").number != 0;
    assert_eq!(open(&copy).expect("it is whole").dir.found().copied, tells);
    assert!(!open(&original).expect("it is whole").dir.found().copied);
    assert!(RealDisk::default().free_space(&original).expect("it is there") > 0);
}

#[test]
fn a_directory_with_the_number_of_another_is_a_copy_and_one_of_an_earlier_build_is_none() {
    let temporary = tempfile::tempdir().expect("a directory can be made");
    let mut opened = open(temporary.path()).expect("it is new");
    let Place { number, inode } = RealDisk::default().place(temporary.path()).expect("it is there");
    if number == 0 {
        return assert_eq!(inode, 0, "the system tells both or neither");
    }
    for (recorded, is_copied) in [(number, false), (inode, false), (number ^ 1, true), (0, false)] {
        opened.dir.update_identity(|identity| identity.place = recorded).expect("the disk works");
        drop(opened);
        opened = open(temporary.path()).expect("it is whole");
        assert_eq!(opened.dir.found().copied, is_copied, "{recorded}, here {number}");
        assert_eq!(opened.dir.identity().place, number, "from now on");
    }
}

#[test]
#[cfg(unix)]
fn nobody_else_may_read_a_directory_that_is_made() {
    use std::os::unix::fs::PermissionsExt as _;
    let temporary = tempfile::tempdir().expect("a directory can be made");
    let path = temporary.path().join("data");
    drop(open(&path).expect("it is new"));
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}

/// A process that cannot open more files can still sync it.
#[test]
#[cfg(unix)]
fn a_directory_that_was_synced_is_not_opened_again() {
    let temporary = tempfile::tempdir().expect("a directory can be made");
    let (path, disk) = (temporary.path().join("data"), RealDisk::default());
    disk.create_directory(&path).expect("the disk works");
    disk.sync_directory(&path).expect("it is there");
    std::fs::remove_dir(&path).expect("it is empty");
    disk.sync_directory(&path).expect("it is still open");
}
