//! Where the prompt stores its history.

use std::env;
use std::path::{Path, PathBuf};

/// Names the history file; if set but empty, no history is kept.
const OVERRIDE: &str = "KV_HISTORY";

/// The history file; `None` if no history is to be kept, or there is no place for it.
pub(crate) fn file() -> Option<PathBuf> {
    if let Some(path) = env::var_os(OVERRIDE) {
        return (!path.is_empty()).then(|| path.into());
    }
    let state = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let dir = if cfg!(windows) {
        state("LOCALAPPDATA")?
    } else {
        // The XDG base directories: history is state, neither configuration nor data.
        state("XDG_STATE_HOME").or_else(|| Some(env::home_dir()?.join(".local/state")))?
    };
    Some(dir.join("kv-client").join("history"))
}

/// Creates the directory of the file if needed. If that fails, writing the file fails later and is reported then.
pub(crate) fn make_dir(file: &Path) {
    if let Some(dir) = file.parent()
        && let Err(error) = std::fs::create_dir_all(dir)
    {
        tracing::debug!(dir = %dir.display(), %error, "cannot create the directory of the history file");
    }
}
