//! The on-disk format: a directory that was written once is readable, and matches docs/storage-format.md.

use std::path::{Path, PathBuf};

use storage::{DirectoryId, Disk as _, SimDisk};

use crate::support::{Opened, open, open_on, options, path, payload, payloads};

/// How many records the fixture holds. The snapshot has the first `IN_SNAPSHOT` of them.
const RECORDS: usize = 60;
const IN_SNAPSHOT: usize = 40;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storage/fixture-v1")
}

/// The fixture on a simulated disk.
fn load() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_directory(path()).expect("the disk works");
    for entry in std::fs::read_dir(fixture()).expect("it is committed") {
        let entry = entry.expect("it can be read");
        let name = entry.file_name().into_string().expect("our names are ASCII");
        let content = std::fs::read(entry.path()).expect("it can be read");
        disk.set_content(&path().join(name), &content).expect("the directory is there");
    }
    disk
}

/// Creates the fixture. Once a version is released, its fixture stays as it is.
fn make() -> SimDisk {
    let disk = SimDisk::new(1);
    let small = storage::Options { segment_bytes: 1024, reserve_bytes: 0, ..options() };
    let opened = open_on(std::sync::Arc::new(disk.clone()), path(), small, storage::bugs::NoBugs);
    let Opened { mut dir, mut journal, .. } = opened.expect("it is new");
    dir.update_identity(|identity| {
        identity.cluster = Some("c-1".to_owned());
        identity.begin_incarnation(3);
        identity.begin_incarnation(7);
    })
    .expect("the disk works");
    for number in 0..RECORDS {
        journal.append(&[payload(number)]).expect("there is room");
        let position = journal.sync().expect("the disk works");
        if number + 1 == IN_SNAPSHOT {
            let mut writer = dir.begin_snapshot(position).expect("the disk works");
            payloads(0..IN_SNAPSHOT).iter().for_each(|payload| writer.add(payload).expect("the disk works"));
            writer.finish(position).expect("the disk works");
            journal.remove_before(position).expect("the disk works");
        }
    }
    dir.close(journal).expect("the disk works");
    disk
}

#[test]
fn a_directory_of_version_1_is_opened() {
    if std::env::var_os("MAKE_FIXTURE").is_some() {
        let disk = make();
        std::fs::create_dir_all(fixture()).expect("it can be made");
        for name in disk.list(path()).expect("it is there") {
            let content = disk.content(&path().join(&name)).expect("it is there");
            std::fs::write(fixture().join(name), content).expect("it can be written");
        }
    }
    let opened = open(&load()).expect("it is whole");
    assert!(opened.payloads == payloads(0..RECORDS));
    assert_eq!(opened.recovery.snapshot_records, IN_SNAPSHOT as u64);
    let identity = opened.dir.identity();
    assert_eq!((identity.directory, identity.cluster.as_deref()), (DirectoryId(0xd1), Some("c-1")));
    assert_eq!(identity.incarnations, [3, 7]);
    assert!(opened.dir.found().stopped_in_order);
    let map = storage::map_file::load(&load(), path()).expect("it is whole").expect("it is there");
    assert!(map.starts_with("OK Map version=9 since=0 cluster=c-1 "), "{map}");
}

#[test]
fn the_log_is_what_the_document_says() {
    let disk = load();
    let names = disk.list(path()).expect("it is there");
    let mut position = 0;
    let mut before = None;
    let mut found = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".seg")) {
        let bytes = disk.content(&path().join(name)).expect("it is there");
        assert_eq!(&bytes[..8], b"kv-log\r\n");
        assert_eq!((number(&bytes, 8, 4), number(&bytes, 12, 16), number(&bytes, 36, 8)), (1, 0xd1, 1024));
        let first = number(&bytes, 28, 8);
        assert_eq!(*name, format!("log-{first:020}.seg"));
        assert!(bytes[44..60].iter().all(|&byte| byte == 0));
        assert_eq!(number(&bytes, 60, 4), checksum(&bytes[..60]));
        assert!(position == 0 || position == first, "segments follow on each other");
        position = first + 1024;
        let mut at = 64;
        while at + 24 <= bytes.len() && bytes[at..at + 24] != [0; 24] {
            let end = at + 24 + number(&bytes, at + 4, 4) as usize;
            assert_eq!(number(&bytes, at, 4), checksum(&bytes[at + 4..end]));
            let here = first + at as u128;
            assert_eq!(number(&bytes, at + 8, 8), here);
            if let Some(before) = before {
                assert_eq!(number(&bytes, at + 16, 4), here - before);
                assert!(number(&bytes, at + 20, 4) < here - before, "the frame before was synced");
            }
            before = Some(here);
            found.push(bytes[at + 24..end].to_vec());
            at = end;
        }
        assert!(bytes[at..].iter().all(|&byte| byte == 0));
    }
    assert!(payloads(0..RECORDS).ends_with(&found) && found.len() >= RECORDS - IN_SNAPSHOT);
}

#[test]
fn the_snapshot_is_what_the_document_says() {
    let disk = load();
    let names = disk.list(path()).expect("it is there");
    let name = names.iter().find(|name| name.ends_with(".snap")).expect("there is one");
    let bytes = disk.content(&path().join(name)).expect("it is there");
    assert_eq!(&bytes[..8], b"kv-snap\n");
    assert_eq!((number(&bytes, 8, 4), number(&bytes, 12, 16)), (1, 0xd1));
    assert_eq!(*name, format!("snapshot-{:020}.snap", number(&bytes, 28, 8)));
    assert_eq!(number(&bytes, 60, 4), checksum(&bytes[..60]));
    // One block, which compresses, and the footer.
    let end = 84 + number(&bytes, 72, 4) as usize;
    assert_eq!(number(&bytes, 64, 4), checksum(&bytes[68..end]));
    assert_eq!((number(&bytes, 68, 4), number(&bytes, 80, 4)), (1, IN_SNAPSHOT as u128));
    let raw = lz4_flex::block::decompress(&bytes[84..end], number(&bytes, 76, 4) as usize).expect("it is LZ4");
    let expected = payloads(0..IN_SNAPSHOT);
    let plain: Vec<u8> = expected
        .iter()
        .flat_map(|payload| [&(payload.len() as u32).to_le_bytes(), payload.as_slice()].concat())
        .collect();
    assert!(raw == plain);
    let footer = &bytes[end..];
    assert_eq!(footer.len(), 48);
    assert_eq!(number(footer, 0, 4), checksum(&footer[4..]));
    let header = [number(footer, 4, 4), number(footer, 8, 4), number(footer, 12, 4), number(footer, 16, 4)];
    assert_eq!(header, [2, 28, 28, 0]);
    let totals = [number(footer, 20, 8), number(footer, 28, 8), number(footer, 36, 8), number(footer, 44, 4)];
    assert_eq!(totals, [1, IN_SNAPSHOT as u128, raw.len() as u128, checksum(&bytes[..end])]);
}

#[test]
fn the_identity_is_what_the_document_says() {
    let text = std::fs::read_to_string(fixture().join("identity")).expect("it is committed");
    let (first, body) = text.split_once('\n').expect("it has lines");
    assert_eq!(first, format!("node-identity 1 {} {:08x}", body.len(), checksum(body.as_bytes())));
    let keys: Vec<&str> = body.lines().filter_map(|line| line.split(' ').next()).collect();
    let named = ["directory", "cluster", "boot", "place", "log", "stopped", "incarnation", "incarnation"];
    assert_eq!(keys, named);
    assert!(body.starts_with("directory 000000000000000000000000000000d1\ncluster c-1\n"), "{body}");
}

#[test]
fn a_map_is_what_the_document_says() {
    let disk = load();
    storage::map_file::store(&disk, path(), "OK Map\nNODE").expect("the disk works");
    let bytes = disk.content(&path().join("map")).expect("it is there");
    let text = String::from_utf8(bytes).expect("it is text");
    assert_eq!(text, format!("node-map 1 11 {:08x}\nOK Map\nNODE", checksum(b"OK Map\nNODE")));
}

#[test]
fn a_file_of_a_later_version_is_refused_by_its_number() {
    let disk = load();
    let names = disk.list(path()).expect("it is there");
    let segment = names.iter().rfind(|name| name.ends_with(".seg")).expect("there are some");
    let file = path().join(segment);
    let mut bytes = disk.content(&file).expect("it is there");
    bytes[8] = 2;
    let sealed = checksum(&bytes[..60]) as u32;
    bytes[60..64].copy_from_slice(&sealed.to_le_bytes());
    disk.set_content(&file, &bytes).expect("it is there");
    let Err(error) = open(&disk) else { panic!("it is read all the same") };
    assert!(error.to_string().ends_with("it has format version 2, but this program reads version 1"), "{error}");
    let identity = disk.content(&path().join("identity")).expect("it is there");
    let later = String::from_utf8(identity).expect("it is text").replace("node-identity 1 ", "node-identity 9 ");
    disk.set_content(&path().join("identity"), later.as_bytes()).expect("it is there");
    let Err(error) = open(&disk) else { panic!("it is read all the same") };
    assert!(error.to_string().contains("format version 9"), "{error}");
}

fn number(bytes: &[u8], at: usize, length: usize) -> u128 {
    bytes[at..at + length].iter().rev().fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// CRC-32C, bit by bit, so that the crate we use is not checked against itself.
fn checksum(bytes: &[u8]) -> u128 {
    let mut register = u32::MAX;
    for &byte in bytes {
        register ^= u32::from(byte);
        for _ in 0..8 {
            let low = register & 1;
            register = (register >> 1) ^ (low * 0x82f6_3b78);
        }
    }
    u128::from(!register)
}
