//! The program `client`: runs one command and exits with a code, offers an interactive prompt, or reads commands from a
//! pipe.
//!
//! - `args`: the flags.
//! - `verb`: the verbs, in one list that drives parsing, help, completion and hints. `command`: a verb with its
//!   arguments.
//! - `execute`: maps commands to library calls.
//! - `output`, `stats_table` and `json`: what is printed, and the matching exit code.
//! - `bench`: puts a load on a cluster and reports the results.
//! - `one_shot`, `pipe`, `repl`: the three ways to run. `session`: what the last two share. `prompt` and `history`:
//!   completion, hints and history at the interactive prompt.

mod args;
mod bench;
mod command;
mod execute;
mod history;
mod json;
mod one_shot;
mod output;
mod pipe;
mod prompt;
mod repl;
mod session;
mod stats_table;
mod verb;

use std::env;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;
use client::{Client, Error};
use rustyline::error::ReadlineError;
use tracing_subscriber::EnvFilter;

use crate::args::{Args, Subcommand};
use crate::output::{Exit, report_no_line, to_stderr};
use crate::session::Session;

fn main() -> ExitCode {
    let args = Args::of_command_line();
    log_to_stderr(&args);
    match run(&args) {
        Ok(exit) => exit.into(),
        // The reader of the output has seen enough, as in `client ... | head -1`.
        Err(error) if is_broken_pipe(&error) => Exit::Done.into(),
        Err(error) => {
            to_stderr(&format!("client: {error:#}"));
            Exit::CannotRun.into()
        }
    }
}

fn run(args: &Args) -> anyhow::Result<Exit> {
    if let Some(Subcommand::Bench(load)) = &args.subcommand {
        return bench::run(args, load);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1) // A client waits; the thread that it runs on is the second.
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let exit = match &args.command {
        Some(command) => runtime.block_on(one_shot::run(args, command.as_encoded_bytes())),
        None => run_session(args, &runtime),
    };
    // A host name lookup may still be in progress. Do not wait for it.
    runtime.shutdown_background();
    exit
}

fn run_session(args: &Args, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Exit> {
    let client = match runtime.block_on(connect(args)) {
        Ok(client) => client,
        Err(error) => return one_shot::print(report_no_line(args.format(), &error)),
    };
    // The session runs on this thread, where reading may block; the runtime's own threads go on following the map.
    let at_prompt = io::stdin().is_terminal();
    let mut session = Session::new(client, runtime.handle(), args.format(), at_prompt);
    if at_prompt {
        repl::run(&mut session)?;
    } else {
        pipe::run(&mut session, io::stdin().lock())?;
    }
    Ok(Exit::Done)
}

/// Connects. On failure, the error says what the user can do about it.
async fn connect(args: &Args) -> Result<Client, Error> {
    let mut builder = Client::builder().timeout(args.timeout);
    if let Some(password) = args.password().map_err(|error| Error::Invalid(error.to_string()))? {
        builder = builder.password(password);
    }
    let connected = builder.connect(args.coordinator()).await;
    connected.map(|client| client.with(args.levels())).map_err(|error| match error {
        Error::NotReached { whom, reason } if !is_there(&reason) => {
            let advice = "start it with `coordinator`, or name it with --host and --port";
            Error::NotReached { whom, reason: format!("{reason}; {advice}") }
        }
        Error::Refused { by, reason } if reason.starts_with("NOAUTH") => {
            Error::Refused { by, reason: format!("{reason}: give the file that contains it with --password-file") }
        }
        other => other,
    })
}

/// Whether a coordinator that could not be reached is there all the same: it is busy, or silent.
fn is_there(reason: &str) -> bool {
    reason.starts_with("BUSY") || reason == "max number of clients reached" || reason.contains("in time")
}

fn log_to_stderr(args: &Args) {
    let filter = match args.log_level {
        Some(level) => EnvFilter::new(level.to_string()),
        None => match env::var("RUST_LOG").as_deref().map(EnvFilter::try_new) {
            Ok(Ok(filter)) => filter,
            Ok(Err(error)) => {
                to_stderr(&format!("client: RUST_LOG cannot be read, warnings are logged: {error}"));
                EnvFilter::new("warn")
            }
            Err(_) => EnvFilter::new("warn"),
        },
    };
    let color = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(color)
        .log_internal_errors(false)
        .init();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    match error.downcast_ref::<ReadlineError>() {
        Some(ReadlineError::Io(error)) => is_broken(error),
        #[cfg(unix)]
        Some(ReadlineError::Errno(number)) => is_broken(&io::Error::from(*number)),
        _ => error.downcast_ref::<io::Error>().is_some_and(is_broken),
    }
}
