//! Empty files, `cut-POSITION.mark`, that say where a repair has cut the log.
//!
//! A snapshot is copied while writes go on: it may hold what the log says behind its position. A log that was cut behind
//! that position may say less than the snapshot holds, and an older snapshot with that log would give an older state, in
//! silence.

use std::path::Path;

use crate::disk::{Disk, Mode};
use crate::error::{FileError, Named as _};

/// The name of the mark of a position.
pub(crate) fn name(position: u64) -> String {
    format!("cut-{position:020}.mark")
}

/// The position of a mark of this name; `None` for other files.
pub(crate) fn parse_name(file: &str) -> Option<u64> {
    let position = file.strip_prefix("cut-")?.strip_suffix(".mark")?.parse().ok()?;
    (name(position) == file).then_some(position)
}

/// Makes a mark, which lasts when this returns.
pub(crate) fn make(disk: &dyn Disk, directory: &Path, position: u64) -> Result<(), FileError> {
    let file = directory.join(name(position));
    disk.open(&file, Mode::Create).and_then(|mark| mark.sync_data()).named("make", &file)?;
    disk.sync_directory(directory).named("sync", directory)
}
