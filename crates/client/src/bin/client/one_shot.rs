//! A single command from the command line, and its exit code.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use client::{Client, Error};
use proto::request::HEALTHY_WAIT;
use tokio::signal::ctrl_c;
use tokio::time::{Instant, sleep};

use crate::args::Args;
use crate::command::Command;
use crate::execute::{Outcome, execute, execute_alone, interrupted};
use crate::output::{Exit, Report, report, report_no_command, to_stderr};

/// How often to look for a coordinator that is away.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(200);

/// Executes the command and prints the outcome: results to standard output, errors to standard error.
pub(crate) async fn run(args: &Args, command: &[u8]) -> anyhow::Result<Exit> {
    let format = args.format();
    print(match Command::parse(command).and_then(Command::alone) {
        Err(error) => report_no_command(format, &error),
        Ok(command) => {
            let outcome = outcome(args, &command).await;
            // What is known by now may take long to print.
            tokio::spawn(async {
                if ctrl_c().await.is_ok() {
                    std::process::exit(Exit::Interrupted as i32);
                }
            });
            report(format, &command, &outcome)
        }
    })
}

/// Prints the only report of this run: its result to standard output, its error to standard error.
pub(crate) fn print(report: Report) -> anyhow::Result<Exit> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(&report.result).and_then(|()| stdout.flush()) {
        // The reader of the output has seen enough, but the exit code still tells.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    if let Some(error) = report.error {
        to_stderr(&error);
    }
    Ok(report.exit)
}

async fn outcome(args: &Args, command: &Command<'_>) -> Outcome {
    if let Some(outcome) = execute_alone(command) {
        return outcome;
    }
    let begun = Instant::now();
    // Whoever waits for the cluster to become healthy also waits for its coordinator.
    let until = match command {
        Command::WaitHealthy(span) => Some(begun + span.unwrap_or(HEALTHY_WAIT)),
        _ => None,
    };
    let client = tokio::select! {
        connected = connect_by(args, until) => match connected {
            Ok(client) => client,
            Err(error) => return Outcome::Failed(error),
        },
        Ok(()) = ctrl_c() => return Outcome::Interrupted,
    };
    tokio::select! {
        outcome = execute(&client, command, begun.into_std()) => outcome,
        Ok(()) = ctrl_c() => interrupted(command),
    }
}

/// Connects; tries again until a moment, if one is given.
async fn connect_by(args: &Args, until: Option<Instant>) -> Result<Client, Error> {
    loop {
        match crate::connect(args).await {
            Err(Error::NotReached { .. }) if until.is_some_and(|until| Instant::now() < until) => {
                sleep(COORDINATOR_PAUSE).await;
            }
            connected => return connected,
        }
    }
}
