//! Commands from a pipe or a file, one per line: no prompt, no banner, no color.

use std::io::{self, BufRead, Read as _};

use anyhow::Context as _;
use client::Error;
use proto::limits;

use crate::output::report_no_line;
use crate::session::{Next, Session};

/// Executes line after line until the end of the input, EXIT or QUIT. The last line may lack its newline.
pub(crate) fn run(session: &mut Session<'_>, mut input: impl BufRead) -> anyhow::Result<()> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        let printed = match read_line(&mut input, &mut line).context("cannot read from standard input")? {
            Line::End => break,
            Line::Whole => session.run_line(&line),
            Line::TooLong => {
                let text = format!("TOOLONG a line has at most {} bytes; nothing was sent", limits::LINE_BYTES);
                session.print(&report_no_line(session.format(), &Error::Invalid(text))).map(|()| Next::GoOn)
            }
        };
        match printed {
            Ok(Next::GoOn | Next::Interrupted) => {}
            Ok(Next::Leave) => break,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && !input.fill_buf()?.is_empty() => {
                anyhow::bail!("standard output was closed: the lines after line {number} were not executed")
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(error.into()),
            Err(error) => {
                let what = format!("cannot write to standard output: the lines after line {number} were not executed");
                return Err(error).context(what);
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Line {
    Whole,
    TooLong,
    End,
}

/// Reads a line of any bytes, without its line end. A line that is too long is skipped and never held in memory as a
/// whole.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    let limit = limits::LINE_BYTES;
    line.clear();
    input.take(limit as u64 + 1).read_until(b'\n', line)?;
    if line.is_empty() {
        return Ok(Line::End);
    }
    if line.pop_if(|last| *last == b'\n').is_some() {
        line.pop_if(|last| *last == b'\r');
    } else if line.len() > limit {
        input.skip_until(b'\n')?;
        return Ok(Line::TooLong);
    }
    Ok(Line::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_line_end_and_nothing_else() {
        let mut input = &b"PUT a \xff \r\n\n GET a"[..];
        let mut line = Vec::new();
        for expected in [&b"PUT a \xff "[..], b"", b" GET a"] {
            assert_eq!(read_line(&mut input, &mut line).unwrap(), Line::Whole);
            assert_eq!(line, expected);
        }
        assert_eq!(read_line(&mut input, &mut line).unwrap(), Line::End);
    }

    #[test]
    fn a_line_without_end_is_skipped() {
        let long = io::repeat(b'x').take(2 * limits::LINE_BYTES as u64);
        let mut input = io::BufReader::new(long.chain(&b"\nGET a\n"[..]));
        let mut line = Vec::new();
        assert_eq!(read_line(&mut input, &mut line).unwrap(), Line::TooLong);
        assert_eq!(read_line(&mut input, &mut line).unwrap(), Line::Whole);
        assert_eq!(line, b"GET a");
    }
}
