//! Deletes the data of a node that leaves its cluster for good. A crash at any moment leaves either everything, or a
//! directory that looks new to the next start.

use std::path::Path;

use crate::directory::{IDENTITY_RESERVE_NAME, LOCK_NAME, RESERVE_NAME, lock};
use crate::disk::{Disk, read_file, replace_file};
use crate::error::{FileError, IoContext as _, OpenError};
use crate::identity;
use crate::survey::Listing;
use crate::{cut_mark, segment, snapshot};

/// While this file exists, the directory is being deleted. It names files that are not this crate's, one per line.
pub(crate) const MARK_NAME: &str = "discarded";

const MARK_BYTES_MOST: u64 = 64 * 1024;

/// Deletes everything in a directory: the log, snapshots, the identity, files set aside, and the files named in `also`.
/// Other files stay. No process may be using the directory. Blocks on the disk.
///
/// # Errors
/// The directory is in use, or the disk failed. Either everything is left, or the next start deletes the rest; safe to
/// repeat.
pub fn discard(disk: &dyn Disk, directory: &Path, also: &[&str]) -> Result<(), OpenError> {
    let _lock = lock(disk, directory)?;
    // IMPORTANT: the mark is on disk before anything is deleted. A log without its end, or an identity without its log,
    // would look like damage, or, worse, like the data of a node.
    replace_file(disk, directory, MARK_NAME, also.join("\n").as_bytes())?;
    finish(disk, directory)?;
    Ok(())
}

/// Refuses a directory whose deletion has begun.
pub(crate) fn ensure_not_begun(disk: &dyn Disk, directory: &Path) -> Result<(), OpenError> {
    match read_file(disk, &directory.join(MARK_NAME), MARK_BYTES_MOST)? {
        Some(_) => Err(OpenError::Discarded { directory: directory.to_owned() }),
        None => Ok(()),
    }
}

/// Continues a deletion that has begun. Returns whether there was one.
pub(crate) fn finish(disk: &dyn Disk, directory: &Path) -> Result<bool, FileError> {
    let mark = directory.join(MARK_NAME);
    let Some(also) = read_file(disk, &mark, MARK_BYTES_MOST)? else { return Ok(false) };
    let also = String::from_utf8_lossy(&also).into_owned();
    let listing = Listing::read(disk, directory)?;
    let rest = [listing.unfinished, listing.set_aside].concat();
    let is_ours = |name: &String| {
        segment::parse_name(name).is_some()
            || snapshot::parse_name(name).is_some()
            || cut_mark::parse_name(name).is_some()
            || [identity::NAME, RESERVE_NAME, IDENTITY_RESERVE_NAME].contains(&name.as_str())
            || also.lines().any(|other| other == name)
            || rest.contains(name)
    };
    let names = disk.list(directory).io_context("list", directory)?;
    for name in names.iter().filter(|name| is_ours(name) && ![LOCK_NAME, MARK_NAME].contains(&name.as_str())) {
        let file = directory.join(name);
        disk.remove(&file).io_context("remove", file)?;
    }
    // IMPORTANT: all files are gone from the disk before the mark is.
    disk.sync_directory(directory).io_context("sync", directory)?;
    disk.remove(&mark).io_context("remove", &mark)?;
    disk.sync_directory(directory).io_context("sync", directory)?;
    Ok(true)
}
