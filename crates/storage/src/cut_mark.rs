//! Empty files, `cut-POSITION.mark`, that record where a repair has cut the log.
//!
//! A snapshot is copied while writes go on, so it may hold what the log says after its position. A log cut after that
//! position may say less than the snapshot holds: with that log, an older snapshot would silently give an older state.

use std::path::Path;

use crate::disk::{Disk, Mode};
use crate::error::{FileError, IoContext as _};

/// The name of the mark at a position.
pub(crate) fn name(position: u64) -> String {
    format!("cut-{position:020}.mark")
}

/// The position in the name of a mark; `None` for other files.
pub(crate) fn parse_name(file: &str) -> Option<u64> {
    let position = file.strip_prefix("cut-")?.strip_suffix(".mark")?.parse().ok()?;
    (name(position) == file).then_some(position)
}

/// Creates a mark. It is durable when this returns.
pub(crate) fn make(disk: &dyn Disk, directory: &Path, position: u64) -> Result<(), FileError> {
    let file = directory.join(name(position));
    disk.open(&file, Mode::Create).and_then(|mark| mark.sync_data()).io_context("make", &file)?;
    disk.sync_directory(directory).io_context("sync", directory)
}
