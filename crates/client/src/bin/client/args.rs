//! The flags.

use std::ffi::OsString;
use std::fmt::Display;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process;
use std::str::FromStr;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser};
use client::{AckLevel, Levels, NodeAddr, Password, PasswordError, ReadLevel};
use tracing_subscriber::filter::LevelFilter;

use crate::bench::args::BenchArgs;
use crate::output::{Exit, Format, to_stderr};
use crate::verb;

/// A longer timeout is taken for a typing error.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

const EXIT_CODES: &str = "\
Exit codes of --command:
  0  done
  1  no: the key was not found (for MGET: any of them); its version did not match (CAS, PUTNX); there was nothing to do
     (EXPIRE, PERSIST); or VERIFY found copies that differ
  2  usage: a wrong flag, command or argument; nothing was sent
  3  could not reach the cluster
  4  refused: nothing happened, it is safe to repeat
  5  outcome unknown: a write may or may not have taken effect; or MPUT stored some keys and not others
  6  the client itself cannot run, or cannot write its output
  130  interrupted by Ctrl-C (5 if a write was under way)

Without --command, commands are read from the terminal, or one per line from a pipe; the exit code is then 2 if the
password file cannot be used, 3 if the cluster could not be reached at startup, 4 if it refused the password, 6 if the
client cannot go on, and otherwise 0, even if commands failed.

Environment:
  KV_HISTORY  the history file of the prompt; if empty, no history is kept
  RUST_LOG    what to log, unless --log-level is given
  NO_COLOR    if set, the prompt and log lines have no color";

/// Reads and writes the keys of a cluster.
#[derive(Debug, Parser)]
#[command(name = "client", version, allow_negative_numbers = true, after_help = after_help())]
#[command(subcommand_help_heading = "More", disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) subcommand: Option<Subcommand>,

    /// The host of the coordinator
    #[arg(long, global = true, default_value = "127.0.0.1", value_parser = host)]
    pub(crate) host: String,

    /// The port of the coordinator
    #[arg(long, global = true, default_value_t = proto::limits::COORDINATOR_PORT, value_parser = number(1..=u16::MAX))]
    pub(crate) port: u16,

    /// Run one command, such as "PUT key value", and exit with its exit code
    #[arg(long, value_name = "COMMAND")]
    pub(crate) command: Option<OsString>,

    /// Print only the value, byte for byte, with no newline after it, except before a prompt; errors go to standard
    /// error
    #[arg(long, conflicts_with = "json")]
    pub(crate) raw: bool,

    /// Print one JSON object per command, on one line; bytes that are not UTF-8 text are in `..._base64` members
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// The file with the cluster's password, if it has one
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,

    /// The time limit for a command, including all its attempts, such as 500ms or 1m; VERIFY has ten minutes more, and
    /// WAIT_HEALTHY its own time. With bench, for finding the servers
    #[arg(long, global = true, value_name = "DURATION", default_value = "20s", value_parser = timeout)]
    pub(crate) timeout: Duration,

    /// When writes are answered: async, quorum or all. Default: the level that the cluster was started with
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) ack: Option<AckLevel>,

    /// What reads may return: local or linear. Default: the level that the cluster was started with
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) read: Option<ReadLevel>,

    /// What to log to standard error: off, error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<LevelFilter>,
}

/// What the program does besides running commands.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Subcommand {
    Bench(BenchArgs),
}

impl Args {
    /// Parses the command line and checks the flags as a whole. Exits the program if they are wrong.
    pub(crate) fn of_command_line() -> Self {
        let args = Self::try_parse().unwrap_or_else(|end| leave(&with_advice(end)));
        if let Err((kind, what)) = args.check() {
            leave(&Self::command().error(kind, what));
        }
        args
    }

    fn check(&self) -> Result<(), (ErrorKind, String)> {
        let Some(Subcommand::Bench(bench)) = &self.subcommand else { return Ok(()) };
        if self.command.is_some() || self.raw {
            return Err((ErrorKind::ArgumentConflict, "bench cannot be used with --command or --raw".to_owned()));
        }
        bench.check().map_err(|what| (ErrorKind::ValueValidation, what))
    }

    /// The coordinator's address, `host:port`.
    pub(crate) fn coordinator(&self) -> String {
        // The host was validated when the flags were parsed; if it is invalid after all, connecting reports it.
        NodeAddr::new(&self.host, self.port)
            .map_or_else(|_| format!("{}:{}", self.host, self.port), |addr| addr.to_string())
    }

    /// Reads the password file, if one is given.
    pub(crate) fn password(&self) -> Result<Option<Password>, PasswordError> {
        self.password_file.as_deref().map(Password::read).transpose()
    }

    pub(crate) fn levels(&self) -> Levels {
        Levels { ack: self.ack, read: self.read }
    }

    pub(crate) fn format(&self) -> Format {
        match (self.raw, self.json) {
            (true, _) => Format::Raw,
            (_, true) => Format::Json,
            _ => Format::Text,
        }
    }
}

/// A command given as if it were a flag: says how to give it.
fn with_advice(end: clap::Error) -> clap::Error {
    match end.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) if verb::find(word.as_bytes()).is_some() => {
            let what = format!("a command is one word for the shell: client --command \"{word} ...\"");
            Args::command().error(ErrorKind::InvalidSubcommand, what)
        }
        _ => end,
    }
}

/// Ends the program with what the parser says: that a flag is wrong, or the help or the version.
fn leave(end: &clap::Error) -> ! {
    // `clap::Error::exit` would ignore this error. Nobody misses what a closed pipe does not take.
    match end.print() {
        Err(error) if !end.use_stderr() && error.kind() != io::ErrorKind::BrokenPipe => {
            to_stderr(&format!("client: cannot write to standard output: {error}"));
            process::exit(Exit::CannotRun as i32)
        }
        _ => process::exit(end.exit_code()),
    }
}

fn after_help() -> String {
    format!("Commands:\n{}\n{EXIT_CODES}", verb::list())
}

fn host(text: &str) -> Result<String, String> {
    NodeAddr::new(text, 1).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(timeout) if !timeout.is_zero() && timeout <= LONGEST_TIMEOUT => Ok(timeout),
        _ => Err("expected a time of more than 0 and at most 24h, with its unit (examples: 5s, 500ms, 1m)".to_owned()),
    }
}

/// Reads a whole number within a range.
pub(crate) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Clone,
{
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("expected a number from {} to {}", range.start(), range.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn absurd_values_are_refused() {
        for flags in [
            &["--timeout", "0s"][..],
            &["--timeout", "soon"],
            &["--timeout", "2days"],
            &["--port", "0"],
            &["--port", "65536"],
            &["--host", ""],
            &["--host", "a b"],
            &["--log-level", "loud"],
            &["--raw", "--json"],
            &["--ack", "most"],
            &["--read", ""],
            &["PUT"],
        ] {
            let error = Args::try_parse_from([&["client"], flags].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{flags:?}");
        }
    }

    #[test]
    fn a_command_without_its_flag_is_told_the_flag() {
        let advice = |word| with_advice(Args::try_parse_from(["client", word, "key"]).unwrap_err()).to_string();
        assert!(advice("get").contains("client --command \"get ...\""), "{}", advice("get"));
        assert!(advice("fetch").contains("unrecognized subcommand 'fetch'"));
    }

    #[test]
    fn an_error_says_what_is_expected() {
        for (flag, value, what) in [
            ("--timeout", "x", "expected a time of more than 0 and at most 24h, with its unit (examples: 5s,"),
            ("--timeout", "5", "expected a time of more than 0"),
            ("--timeout", "0s", "expected a time of more than 0"),
            ("--port", "x", "expected a number from 1 to 65535"),
        ] {
            let error = Args::try_parse_from(["client", flag, value]).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn levels_are_given_in_any_case_or_not_at_all() {
        let levels = |flags: &[&str]| Args::try_parse_from([&["client"], flags].concat()).unwrap().levels();
        assert_eq!(levels(&[]), Levels::default());
        assert_eq!(levels(&["--ack", "Quorum"]), AckLevel::Quorum.into());
        assert_eq!(levels(&["--read", "linear"]), ReadLevel::Linear.into());
    }

    #[test]
    fn a_host_and_a_port_are_an_address() {
        for (host, expected) in [("localhost", "localhost:5000"), ("::1", "[::1]:5000"), ("[::1]", "[::1]:5000")] {
            let args = Args::try_parse_from(["client", "--host", host]).unwrap();
            assert_eq!(args.coordinator(), expected);
            assert_eq!(args.timeout, client::DEFAULT_TIMEOUT);
        }
    }

    #[test]
    fn flags_of_a_load_are_looked_at_together() {
        let checked = |flags: &[&str]| {
            let args = Args::try_parse_from([&["client"], flags].concat()).map_err(|error| error.to_string())?;
            args.check().map_err(|(_, what)| what)
        };
        for flags in ["bench", "bench e --rate 100", "bench mixed --reads 80", "--port 7 bench put --json --ack quorum"]
        {
            assert_eq!(checked(&flags.split(' ').collect::<Vec<_>>()), Ok(()), "{flags}");
        }
        for (flags, what) in [
            ("bench g", "one of get, put, mixed"),
            ("bench --connections 0", "expected a number from 1 to 10000"),
            ("bench --key-size 8 --keys 1000", "1000 keys need --key-size 9 at least"),
            ("bench get --reads 80", "--reads is for the workload mixed, not for get"),
            ("bench mixed --reads 101", "expected a number from 0 to 100"),
            ("bench --seconds 1 --requests 5", "cannot be used with"),
            ("bench --seconds 0", "from 0.1 to 86400"),
            ("bench --protocol line --value-size 0", "a line cannot carry an empty value"),
            ("bench --value-size 1000000 --connections 2000", "more than 1 GiB"),
            ("--command PING bench", "--command or --raw"),
            ("bench --rate x", "expected a number from 1 to 100000000"),
        ] {
            let error = checked(&flags.split(' ').collect::<Vec<_>>()).unwrap_err();
            assert!(error.contains(what), "{flags}: {error}");
        }
    }
}
