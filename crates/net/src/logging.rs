//! Where log events go: standard error, unless a file is named. Standard output is reserved for what people wait for.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// The command-line flags for logging.
#[derive(Debug, Clone, clap::Args)]
pub struct LogFlags {
    /// Least severe level to log: error, warn, info, debug or trace [default: info, or what RUST_LOG says].
    #[arg(long, value_name = "LEVEL", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: Option<String>,

    /// Format of log lines.
    #[arg(long, value_name = "FORM", default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,

    /// Append log lines to this file instead of standard error.
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// Starts logging for the whole process.
///
/// # Errors
/// The file cannot be opened, RUST_LOG cannot be read, or logging was started before.
pub fn start(flags: &LogFlags) -> anyhow::Result<()> {
    let filter = match (&flags.log_level, std::env::var("RUST_LOG")) {
        (Some(level), _) => EnvFilter::new(level),
        (None, Ok(rules)) if !rules.is_empty() => {
            // The error's text already includes that of its source.
            EnvFilter::try_new(&rules).map_err(|error| anyhow::anyhow!("RUST_LOG={rules}: {error}"))?
        }
        (None, _) => EnvFilter::new("info"),
    };
    let to_file = flags.log_file.is_some();
    let writer = match &flags.log_file {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            BoxMakeWriter::new(Arc::new(file.with_context(|| format!("cannot open the log file {}", path.display()))?))
        }
    };
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    // IMPORTANT: a line that cannot be written is lost, and nothing more happens. Reporting that on standard error
    // panics if standard error is what cannot be written, as on a full disk.
    let events = events.log_internal_errors(false);
    let started = if flags.log_format == "json" {
        events.json().try_init()
    } else {
        use std::io::IsTerminal as _;
        let is_terminal = !to_file && std::io::stderr().is_terminal();
        events.with_ansi(has_color(is_terminal, std::env::var_os("NO_COLOR").as_deref())).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

/// Whether log lines are colored: on a terminal, unless the user wants none (<https://no-color.org>).
fn has_color(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_is_for_terminals_whose_users_want_it() {
        for (is_terminal, no_color, expected) in
            [(true, None, true), (true, Some(""), true), (true, Some("1"), false), (false, None, false)]
        {
            assert_eq!(has_color(is_terminal, no_color.map(OsStr::new)), expected, "{is_terminal} {no_color:?}");
        }
    }
}
