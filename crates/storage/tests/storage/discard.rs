//! The data of a node that leaves for good is deleted completely, whenever the power fails.

use std::path::Path;
use std::sync::Arc;

use storage::disk::sim::{Fault, Loss};
use storage::disk::{read_file, replace_file};
use storage::{DataDir, Disk, OpenError, RealDisk, SimDisk, check, discard, repair};

use crate::support::{open, options, path, payloads};

const MAP: &str = "map";

/// A directory with a log of several segments, a snapshot, a foreign file, and a file of the caller's.
fn filled(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    let mut opened = open(&disk).expect("a new directory");
    opened.dir.update_identity(|identity| identity.begin_incarnation(7)).expect("the disk takes it");
    for payload in payloads(0..400) {
        opened.journal.append(&[&payload]).expect("the disk takes it");
    }
    let end = opened.journal.sync().expect("the disk takes it");
    let mut snapshot = opened.dir.begin_snapshot(end).expect("the disk takes it");
    snapshot.add(b"all of it").expect("the disk takes it");
    snapshot.finish(end).expect("the disk takes it");
    replace_file(&disk, path(), MAP, b"a map").expect("the disk takes it");
    replace_file(&disk, path(), "notes", b"a person's").expect("the disk takes it");
    opened.dir.close(opened.journal).expect("the disk takes it");
    disk
}

#[test]
fn nothing_is_left_but_the_lock_and_what_is_not_ours() {
    let disk = filled(1);
    discard(&disk, path(), &[MAP]).expect("the disk takes it");
    assert_eq!(disk.list(path()).expect("a list"), ["lock", "notes"]);
    let opened = open(&disk).expect("a new directory");
    assert!(opened.dir.found().new && opened.payloads.is_empty());
    assert_eq!(opened.dir.identity().last_incarnation(), None);
    let in_use = discard(&disk, path(), &[MAP]);
    assert!(matches!(in_use, Err(OpenError::InUse { .. })), "{in_use:?}");
}

#[test]
fn a_power_cut_leaves_everything_or_a_directory_that_the_next_start_finds_new() {
    let (mut whole, mut new) = (0, 0);
    for seed in 0..300 {
        let disk = filled(seed);
        disk.inject(None, seed / 3, Fault::Io);
        let discarded = discard(&disk, path(), &[MAP]);
        disk.clear_faults();
        disk.crash_losing([Loss::Random, Loss::Everything, Loss::Nothing][seed as usize % 3]);
        let opened = open(&disk).expect("whatever is left, a start goes by it");
        let has_map = read_file(&disk, &path().join(MAP), 100).expect("the disk reads").is_some();
        if opened.dir.found().new {
            new += 1;
            assert!(opened.payloads.is_empty() && !has_map, "seed {seed}");
        } else {
            whole += 1;
            assert!(discarded.is_err(), "seed {seed}: it was said to be deleted");
            assert_eq!(opened.dir.identity().last_incarnation(), Some(7), "seed {seed}");
            assert!(has_map && opened.payloads == [b"all of it"], "seed {seed}");
        }
    }
    assert!(whole > 10 && new > 10, "{whole} whole, {new} new");
}

#[test]
fn a_check_and_a_repair_leave_a_deletion_to_the_next_start() {
    let disk = filled(1);
    replace_file(&disk, path(), "discarded", b"").expect("the disk takes it");
    let files = disk.list(path()).expect("a list");
    let checked = check(&disk, path(), &mut |_| Ok(())).map(|_| ());
    let repaired = repair(&disk, path(), options(), &mut || Box::new(|_| Ok(()))).map(|_| ());
    for refused in [checked, repaired] {
        assert!(matches!(refused, Err(OpenError::Discarded { .. })), "{refused:?}");
    }
    assert_eq!(disk.list(path()).expect("a list"), files);
    assert!(open(&disk).expect("the deletion is completed").dir.found().new);
}

#[test]
fn a_real_directory_is_new_again() {
    let parent = tempfile::tempdir().expect("a place");
    let data: &Path = &parent.path().join("data");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::default());
    drop(DataDir::open(Arc::clone(&disk), data, options()).expect("a new directory"));
    assert!(!DataDir::open(Arc::clone(&disk), data, options()).expect("it is there").found().new);
    discard(disk.as_ref(), data, &[MAP]).expect("the disk takes it");
    assert!(DataDir::open(disk, data, options()).expect("a new directory").found().new);
}
