//! A small data directory on a simulated disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::bugs::{Bugs, NoBugs};
use storage::{DataDir, DirectoryId, Disk, Journal, OpenError, Options, Recovered, Recovery, SimDisk};

/// The path of the directory.
pub(crate) fn path() -> &'static Path {
    Path::new("/data")
}

/// Small segments, so that there are several of them.
pub(crate) fn options() -> Options {
    Options { segment_bytes: 4096, reserve_bytes: 8192, fresh_id: DirectoryId(0xd1) }
}

/// A directory that has been opened and recovered.
pub(crate) struct Opened<B: Bugs = NoBugs> {
    pub(crate) dir: DataDir<B>,
    pub(crate) journal: Journal<B>,
    pub(crate) recovery: Recovery,
    /// All recovered payloads, in order.
    pub(crate) payloads: Vec<Vec<u8>>,
}

pub(crate) fn open(disk: &SimDisk) -> Result<Opened, OpenError> {
    open_with(disk, NoBugs)
}

pub(crate) fn open_with<B: Bugs>(disk: &SimDisk, bugs: B) -> Result<Opened<B>, OpenError> {
    open_on(Arc::new(disk.clone()), path(), options(), bugs)
}

pub(crate) fn open_on<B: Bugs>(
    disk: Arc<dyn Disk>,
    path: &Path,
    options: Options,
    bugs: B,
) -> Result<Opened<B>, OpenError> {
    let mut dir = DataDir::open_with(disk, path, options, bugs)?;
    let mut payloads = Vec::new();
    let (journal, recovery) = dir.recover(&mut |recovered| {
        let (Recovered::Snapshot(payload) | Recovered::Log { payload, .. }) = recovered;
        payloads.push(payload.to_vec());
        Ok(())
    })?;
    Ok(Opened { dir, journal, recovery, payloads })
}

/// The payload with a number: its text and some padding.
pub(crate) fn payload(number: usize) -> Vec<u8> {
    let mut payload = format!("record {number} ").into_bytes();
    payload.resize(payload.len() + number * 7 % 23, b'.');
    payload
}

pub(crate) fn payloads(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(payload).collect()
}

/// The segments of the log, in order.
pub(crate) fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    files(disk, ".seg")
}

pub(crate) fn files(disk: &SimDisk, ending: &str) -> Vec<PathBuf> {
    let names = disk.list(path()).expect("the directory is there");
    names.iter().filter(|name| name.ends_with(ending)).map(|name| path().join(name)).collect()
}
