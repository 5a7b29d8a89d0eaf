//! How a server runs from its flags to its exit code.

use std::future::Future;
use std::io::{self, ErrorKind, Write as _};
use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use tokio::runtime::Builder;

use crate::logging::{self, LogFlags};

/// How long work on blocking threads may go on when the server has ended.
const LAST_WORK: Duration = Duration::from_secs(1);

/// Parses the command line. Ends the process if it is wrong, with 2, or asks for help or the version: with 0, or with 1
/// if standard output cannot take it.
#[must_use]
pub fn flags<F: Parser>() -> F {
    F::try_parse().unwrap_or_else(|end| {
        // `Parser::parse` would ignore this error. Nobody misses what a closed pipe does not take.
        match end.print() {
            Err(error) if !end.use_stderr() && error.kind() != ErrorKind::BrokenPipe => {
                let _ = writeln!(io::stderr(), "cannot write to standard output: {error}");
                process::exit(1)
            }
            _ => process::exit(end.exit_code()),
        }
    })
}

/// Runs a server on a runtime until it ends. Exits with 0 if it was stopped on purpose; with 1 if it cannot run, with
/// the reason on standard error under its `name`.
pub fn run<F>(name: &str, log: &LogFlags, mut runtime: Builder, server: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let outcome = logging::start(log).and_then(|()| {
        abort_on_panic();
        let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
        let outcome = runtime.block_on(server());
        // A disk that hangs, or the resolution of a name, must not keep the process.
        runtime.shutdown_timeout(LAST_WORK);
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere else to report it.
            let _ = writeln!(io::stderr(), "{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line to standard output that somebody may be waiting for.
///
/// # Errors
/// Nobody reads standard output anymore.
pub fn say(line: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Makes a panic in any task abort the process, with the panic's own message, in test builds as in release builds: a
/// server that has lost a part of itself must not look alive.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}
