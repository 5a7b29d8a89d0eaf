//! The names of a coordinator's files, by which a node recognises that a directory is not its own.

/// The file that the coordinator keeps locked.
pub const LOCK_NAME: &str = "coordinator.lock";

/// The coordinator's state.
pub const STATE_NAME: &str = "coordinator.state";
