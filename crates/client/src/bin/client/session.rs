//! What the prompt and the pipe share: running one command after another on one client.

use std::io::{self, IsTerminal as _, Write};
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
    /// Lines come from the prompt, where Ctrl-C ends a command, and not the session.
    at_prompt: bool,
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
    pub(crate) fn new(client: Client, runtime: &'a Handle, format: Format, at_prompt: bool) -> Self {
        Self { client, runtime, format, at_prompt }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Executes a line and prints the outcome. A blank line is not a command.
    pub(crate) fn run_line(&mut self, line: &[u8]) -> io::Result<Next> {
        if line.iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Ok(Next::GoOn);
        }
        match Command::parse(line) {
            Err(error) => self.print(&report_no_command(self.format, &error))?,
            Ok(command) => {
                if let Some(levels) = command.levels() {
                    self.client = self.client.with(levels);
                }
                let (outcome, was_interrupted) = self.runtime.block_on(self.outcome(&command));
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
    async fn outcome(&self, command: &Command<'_>) -> (Outcome, bool) {
        if !self.at_prompt {
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
        // Input may be a terminal although the output is kept, byte for byte.
        let before_prompt = self.at_prompt && stdout.is_terminal();
        write(&mut stdout, report, self.format, before_prompt)?;
        stdout.flush()
    }
}

/// Writes what a command prints, where the prompt may come next.
fn write(out: &mut impl Write, report: &Report, format: Format, before_prompt: bool) -> io::Result<()> {
    out.write_all(&report.result)?;
    if before_prompt && report.result.last().is_some_and(|last| *last != b'\n') {
        // The prompt is drawn over the line that the cursor is on.
        out.write_all(b"\n")?;
    }
    match &report.error {
        // Standard output carries the bytes of values; an error among them could not be told apart.
        Some(error) if format == Format::Raw => to_stderr(error),
        Some(error) => writeln!(out, "{error}")?,
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Exit;

    #[test]
    fn the_prompt_comes_on_a_line_of_its_own() {
        for (result, before_prompt, printed) in
            [("v", true, "v\n"), ("v\n", true, "v\n"), ("", true, ""), ("v", false, "v"), ("v\n", false, "v\n")]
        {
            let report = Report { result: result.into(), error: None, exit: Exit::Done };
            let mut out = Vec::new();
            write(&mut out, &report, Format::Raw, before_prompt).unwrap();
            assert_eq!(out, printed.as_bytes());
        }
    }
}
