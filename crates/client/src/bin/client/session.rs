//! What the prompt and the pipe share: running one command after another on one client.

use std::io::{self, Write as _};
use std::time::Instant;

use client::Client;
use tokio::runtime::Handle;

use crate::command::Command;
use crate::execute::{Outcome, execute, interrupted};
use crate::output::{Format, Report, report, report_no_command, to_stderr};

/// A session. It runs on a thread that may block, separate from the runtime.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    client: Client,
    runtime: &'a Handle,
    format: Format,
}

/// Whether a session continues after a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// The command was interrupted: what was pasted after it is not wanted either.
    Interrupted,
    Leave,
}

impl<'a> Session<'a> {
    pub(crate) fn new(client: Client, runtime: &'a Handle, format: Format) -> Self {
        Self { client, runtime, format }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Executes a line and prints the outcome. A blank line is not a command.
    pub(crate) fn run_line(&mut self, line: &[u8], can_interrupt: bool) -> io::Result<Next> {
        if line.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Ok(Next::GoOn);
        }
        match Command::parse(line) {
            Err(error) => self.print(&report_no_command(self.format, &error))?,
            Ok(command) => {
                if let Some(levels) = command.levels() {
                    self.client = self.client.with(levels);
                }
                let (outcome, was_interrupted) = self.runtime.block_on(self.outcome(&command, can_interrupt));
                self.print(&report(self.format, &command, &outcome))?;
                if outcome == Outcome::Bye {
                    return Ok(Next::Leave);
                }
                if was_interrupted {
                    return Ok(Next::Interrupted);
                }
            }
        }
        Ok(Next::GoOn)
    }

    /// The outcome, and whether it is that of an interruption.
    async fn outcome(&self, command: &Command<'_>, can_interrupt: bool) -> (Outcome, bool) {
        if !can_interrupt {
            return (execute(&self.client, command, Instant::now()).await, false);
        }
        tokio::select! {
            outcome = execute(&self.client, command, Instant::now()) => (outcome, false),
            Ok(()) = tokio::signal::ctrl_c() => (interrupted(command), true),
        }
    }

    /// Prints at once: whoever sent a line is waiting for its answer.
    pub(crate) fn print(&self, report: &Report) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&report.result)?;
        match &report.error {
            // Standard output carries the bytes of values; an error among them could not be told apart.
            Some(error) if self.format == Format::Raw => to_stderr(error),
            Some(error) => writeln!(stdout, "{error}")?,
            None => {}
        }
        stdout.flush()
    }
}
