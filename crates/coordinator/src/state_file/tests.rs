use std::error::Error as _;
use std::fs;

use coordinator::{LOCK_NAME, STATE_NAME};
use storage::SimDisk;
use storage::disk::sim::{Fault, Loss};

use super::*;

const WRITTEN_NAME: &str = "coordinator.state.tmp";

const TEXT: &str = "epoch 7\nnode 127.0.0.1:6000 – größer\n";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

fn opened(dir: &Path) -> (StateFile, Option<String>) {
    StateFile::open(dir).expect("the directory is free and its state whole")
}

fn loaded(dir: &Path) -> Option<String> {
    opened(dir).1
}

/// The flaw found in a state file with these bytes. The file is unchanged afterwards.
fn flaw(bytes: &[u8]) -> Flaw {
    let dir = directory();
    let file = dir.path().join(STATE_NAME);
    fs::write(&file, bytes).expect("written");
    let error = StateFile::open(dir.path()).expect_err("unusable");
    assert_eq!(fs::read(&file).expect("still there"), bytes);
    match error {
        StateError::Unusable { file: named, flaw } if named == file => flaw,
        other => panic!("{other}"),
    }
}

fn encoded(text: &[u8]) -> Vec<u8> {
    [first_line(text).as_bytes(), text].concat()
}

#[test]
fn what_was_saved_last_is_loaded_and_nothing_before_that() {
    let dir = directory();
    let (state, text) = opened(dir.path());
    assert_eq!(text, None);
    drop(state);
    for text in [TEXT, "shorter", "", "\n\n", TEXT] {
        let (state, _) = opened(dir.path());
        state.save("another before it").expect("saved");
        state.save(text).expect("saved");
        drop(state);
        assert_eq!(loaded(dir.path()).as_deref(), Some(text));
    }
}

#[test]
fn the_file_reads_as_documented() {
    let dir = directory();
    opened(dir.path()).0.save("abc").expect("saved");
    let expected = "coordinator-state 1 3 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\nabc";
    assert_eq!(fs::read_to_string(dir.path().join("coordinator.state")).expect("a file"), expected);
    assert!(!dir.path().join("coordinator.state.tmp").exists());
}

#[test]
fn missing_directories_are_made() {
    let dir = directory();
    let deep = dir.path().join("a/b/c");
    opened(&deep).0.save(TEXT).expect("saved");
    assert_eq!(loaded(&deep).as_deref(), Some(TEXT));
}

#[test]
fn damage_of_any_byte_is_noticed() {
    let whole = encoded(TEXT.as_bytes());
    assert_eq!(decode(&whole).as_deref(), Ok(TEXT));
    for at in 0..whole.len() {
        for flipped in 1..=u8::MAX {
            let mut damaged = whole.clone();
            damaged[at] ^= flipped;
            assert!(decode(&damaged).is_err(), "byte {at} changed by {flipped:#x}");
        }
    }
}

#[test]
fn a_cut_at_any_length_is_noticed() {
    let whole = encoded(TEXT.as_bytes());
    for length in 0..whole.len() {
        flaw(&whole[..length]);
    }
    assert_eq!(flaw(b""), Flaw::FirstLine);
    assert_eq!(flaw(&whole[..whole.len() - 1]), Flaw::Length { held: TEXT.len() - 1, said: TEXT.len() });
}

#[test]
fn what_else_can_be_wrong_is_told_apart() {
    let whole = encoded(TEXT.as_bytes());
    assert_eq!(flaw(&[&whole[..], b"x"].concat()), Flaw::Length { held: TEXT.len() + 1, said: TEXT.len() });
    assert_eq!(flaw(b"coordinator-state 2 what is here is not known\n"), Flaw::Version(2));
    assert_eq!(flaw(b"[package]\nname = 1\n"), Flaw::FirstLine);
    assert_eq!(flaw(&[b'x'; 4096]), Flaw::FirstLine);
    assert_eq!(flaw(&encoded(b"\xff\xfe")), Flaw::NotText);
    let mut damaged = whole;
    *damaged.last_mut().expect("not empty") ^= 1;
    assert_eq!(flaw(&damaged), Flaw::Digest);
}

#[test]
fn an_unusable_state_names_its_file_what_is_wrong_and_what_to_do() {
    let error = StateError::Unusable { file: PathBuf::from("/d/coordinator.state"), flaw: Flaw::Version(2) };
    assert_eq!(
        error.to_string(),
        "the coordinator's state in /d/coordinator.state cannot be used: it has format version 2, but this program \
         reads version 1. Nothing was changed. Restore the file, or start with another --data-dir to let the \
         coordinator take the state over from the nodes"
    );
}

#[test]
fn a_directory_belongs_to_one_at_a_time() {
    let dir = directory();
    let (first, _) = opened(dir.path());
    first.save(TEXT).expect("saved");
    let error = StateFile::open(dir.path()).expect_err("refused");
    assert!(matches!(error, StateError::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    first.save("later").expect("the refused one took nothing away");
    drop(first);
    assert_eq!(loaded(dir.path()).as_deref(), Some("later"));
}

#[test]
fn a_state_that_cannot_be_used_leaves_the_directory_free() {
    let dir = directory();
    let file = dir.path().join(STATE_NAME);
    fs::write(&file, "damaged").expect("written");
    StateFile::open(dir.path()).expect_err("unusable");
    fs::write(&file, encoded(TEXT.as_bytes())).expect("restored");
    assert_eq!(loaded(dir.path()).as_deref(), Some(TEXT));
}

#[test]
fn what_a_crashed_write_left_changes_nothing() {
    let dir = directory();
    let left = dir.path().join(WRITTEN_NAME);
    fs::write(&left, encoded(b"never finished, and longer than what comes after it")).expect("written");
    assert_eq!(loaded(dir.path()), None);
    opened(dir.path()).0.save(TEXT).expect("saved over it");
    fs::write(&left, "cut").expect("written");
    assert_eq!(loaded(dir.path()).as_deref(), Some(TEXT));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = directory();
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    for place in [file.clone(), file.join("below")] {
        let error = StateFile::open(&place).expect_err("a file is in the way");
        assert!(matches!(error, StateError::Directory { .. }), "{error}");
        assert!(error.to_string().contains(&place.display().to_string()), "{error}");
        assert!(error.source().is_some());
    }
}

// Permissions do not restrict the superuser, so these tests put directories where files belong.

#[test]
fn the_data_directory_of_a_node_is_refused_unless_a_coordinator_has_used_it_before() {
    let dir = directory();
    fs::write(dir.path().join(identity::NAME), "").expect("written");
    let error = StateFile::open(dir.path()).expect_err("it is a node's");
    assert!(matches!(error, StateError::OfNode { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1, "nothing was added");
    fs::write(dir.path().join(LOCK_NAME), "").expect("written");
    opened(dir.path());
}

#[test]
fn a_lock_that_cannot_be_written_is_named() {
    let dir = directory();
    fs::create_dir(dir.path().join(LOCK_NAME)).expect("made");
    let error = StateFile::open(dir.path()).expect_err("not a file");
    assert!(matches!(error, StateError::Lock { .. }), "{error}");
    assert!(error.to_string().contains(LOCK_NAME), "{error}");
}

#[test]
fn a_state_that_cannot_be_read_is_not_taken_for_none() {
    let dir = directory();
    fs::create_dir(dir.path().join(STATE_NAME)).expect("made");
    let error = StateFile::open(dir.path()).expect_err("not a file");
    assert!(matches!(error, StateError::Unreadable { .. }), "{error}");
    assert!(error.to_string().contains(STATE_NAME), "{error}");
}

#[test]
fn a_text_that_cannot_be_written_leaves_the_one_before() {
    let dir = directory();
    let (state, _) = opened(dir.path());
    state.save(TEXT).expect("saved");
    let in_the_way = dir.path().join(WRITTEN_NAME);
    fs::create_dir(&in_the_way).expect("made");
    let error = state.save("new").expect_err("not a file");
    assert!(error.to_string().contains(WRITTEN_NAME), "{error}");
    let too_long = "x".repeat(STATE_BYTES + 1);
    assert!(matches!(state.save(&too_long), Err(SaveError::TooLong(_))));
    drop(state);
    assert_eq!(loaded(dir.path()).as_deref(), Some(TEXT));
    fs::remove_dir(&in_the_way).expect("removed");
    opened(dir.path()).0.save("new").expect("repeated");
    assert_eq!(loaded(dir.path()).as_deref(), Some("new"));
}

#[test]
fn saves_at_the_same_time_leave_one_of_the_texts_whole() {
    let dir = directory();
    let (state, _) = opened(dir.path());
    let texts: Vec<String> = (1..=4).map(|number| number.to_string().repeat(number * 10_000)).collect();
    std::thread::scope(|scope| {
        for text in &texts {
            scope.spawn(|| (0..5).for_each(|_| state.save(text).expect("saved")));
        }
    });
    drop(state);
    assert!(texts.contains(&loaded(dir.path()).expect("a text")));
}

#[test]
fn a_power_cut_at_any_call_leaves_one_of_the_two_texts_and_the_new_one_once_it_is_saved() {
    let dir = Path::new("/data");
    let open = |disk: &SimDisk| StateFile::open_on(Arc::new(disk.clone()), dir).expect("whole");
    for loss in [Loss::Everything, Loss::Nothing, Loss::Random] {
        let mut cut_short = 0;
        for calls in 0.. {
            let disk = SimDisk::new(calls);
            let (state, _) = open(&disk);
            state.save("before").expect("saved");
            disk.inject(None, calls, Fault::PowerCut);
            let saved = state.save("after, and longer");
            disk.crash_losing(loss);
            let found = open(&disk).1.expect("a text");
            match saved {
                Ok(()) => assert_eq!(found, "after, and longer"),
                Err(_) => assert!(["before", "after, and longer"].contains(&found.as_str()), "{found}"),
            }
            if saved.is_ok() {
                break;
            }
            cut_short += 1;
        }
        assert!(cut_short >= 5, "create, write, sync, rename and sync: {cut_short}");
    }
}
