//! Huge pages, for a node that holds much.
//!
//! A look-up in a million keys waits for the table of pages as often as for the key; with pages of 2 MiB that table fits
//! into the processor. The allocator asks for them for everything that it holds (`.cargo/config.toml`). A small node would
//! only be larger and slower to start for it, so that it is given none.

use std::io;
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_thp_disable;

use crate::info::status_bytes;

/// A process with so many bytes in memory is large.
const LARGE: u64 = 64 << 20;

/// How often is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Has the system give this process huge pages only once it is large. A system that does not let it set that gives them
/// from the start, or never.
///
/// # Errors
/// No thread can be started.
pub fn only_when_large() -> io::Result<()> {
    if set_thp_disable(true).is_err() {
        return Ok(());
    }
    thread::Builder::new().name("huge-pages".to_owned()).spawn(|| {
        while status_bytes("VmRSS").is_some_and(|bytes| bytes < LARGE) {
            thread::sleep(LOOK_EVERY);
        }
        match set_thp_disable(false) {
            Ok(()) => tracing::debug!("large enough for huge pages"),
            Err(error) => tracing::debug!(%error, "no huge pages"),
        }
    })?;
    Ok(())
}
