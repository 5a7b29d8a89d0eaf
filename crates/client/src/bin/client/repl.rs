//! The interactive prompt.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use client::Error;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Editor};

use crate::command::Command;
use crate::execute::Outcome;
use crate::history;
use crate::output::{Exit, Format, Report, report, report_no_line};
use crate::prompt::CommandHelper;
use crate::session::{Next, Session};
use crate::verb;

const PROMPT: &str = ">> ";

/// How many lines of history are kept.
const HISTORY_LINES: usize = 1000;

/// Reads and executes commands until EXIT, QUIT or Ctrl-D.
pub(crate) fn run(session: &mut Session<'_>) -> anyhow::Result<()> {
    let mut editor = editor().context("cannot use the terminal")?;
    let mut history = history::file();
    if let Some(file) = &history {
        history::make_dir(file);
        match editor.load_history(file) {
            // There is no history yet at the first start.
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                let file = file.display();
                tracing::warn!("cannot read the history {file}: {error}; nothing is added to it: move it aside");
                history = None;
            }
            Ok(()) => {}
        }
    }
    if session.format() == Format::Text {
        session.print(&banner(session))?;
    }
    loop {
        match editor.readline(PROMPT) {
            // Pasted text may have several lines. Each is a command.
            Ok(lines) => {
                for line in lines.lines() {
                    remember(&mut editor, line, history.as_deref());
                    match session.run_line(line.as_bytes())? {
                        Next::GoOn => {}
                        Next::Interrupted => break,
                        Next::Leave => return Ok(()),
                    }
                }
            }
            // Ctrl-C: discard the current line.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => {
                session.print(&report(session.format(), &Command::Exit, &Outcome::Bye))?;
                return Ok(());
            }
            // Bytes that are not text were typed or pasted: discard the line, as with Ctrl-C.
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                let error = Error::Invalid("the line was dropped: it is not UTF-8 text".to_owned());
                session.print(&report_no_line(session.format(), &error))?;
            }
            Err(error) => return Err(error).context("cannot read from the terminal"),
        }
    }
}

fn editor() -> rustyline::Result<Editor<CommandHelper, DefaultHistory>> {
    let config = Config::builder().max_history_size(HISTORY_LINES)?.history_ignore_dups(true)?.build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(CommandHelper));
    Ok(editor)
}

/// Adds a line to the history, and to its file at once, since a session may end in many ways. The client also works
/// without a history.
fn remember(editor: &mut Editor<CommandHelper, DefaultHistory>, line: &str, file: Option<&Path>) {
    if line.trim().is_empty() {
        return;
    }
    let added = editor.add_history_entry(line);
    let kept = added.and_then(|_| file.map_or(Ok(()), |file| editor.append_history(file)));
    if let Err(error) = kept {
        tracing::debug!(%error, "a line is missing from the history");
    }
}

fn banner(session: &Session<'_>) -> Report {
    let text = format!(
        "Connected to the coordinator at {}. Commands, in any case:\n{}\
         Tab completes, Ctrl-C clears the line, Ctrl-D leaves.\n",
        session.client().coordinator(),
        verb::list()
    );
    Report { result: text.into_bytes(), error: None, exit: Exit::Done }
}
