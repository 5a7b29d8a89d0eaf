//! What is printed, and the matching exit code.
//!
//! As text, answers are worded exactly as in the first version. A value that is not a single line of text, or would
//! move the cursor of a terminal, is written as an escaped byte string, `b"a\nb"`; `--raw` and `--json` print it
//! exactly.
//!
//! Results go to standard output. In a session errors go there too, since they belong between the results; for a single
//! command, and with `--raw`, they go to standard error. JSON is one object per command on standard output, errors
//! included.

use std::io::{self, Write as _};
use std::process::ExitCode;

use client::{Cas, Error, NodeAddr, Placement, Read, Ttl, Version};

use crate::command::{Command, CommandError};
use crate::execute::Outcome;
use crate::json;
use crate::stats_table;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    /// The key is absent, is not at the requested version, or has no deadline to remove; or copies differed.
    No = 1,
    Usage = 2,
    NotReached = 3,
    Refused = 4,
    Unknown = 5,
    CannotRun = 6,
    /// By Ctrl-C, the code of which shells report for a program that it ends.
    Interrupted = 130,
}

impl Exit {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::NotReached { .. } => Self::NotReached,
            Error::Refused { .. } => Self::Refused,
            Error::Invalid(_) => Self::Usage,
            // An error that this program does not know yet may have changed something.
            _ => Self::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Raw,
    Json,
}

/// What one command prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// For standard output, newlines included.
    pub(crate) result: Vec<u8>,
    /// A line for standard error or, in a session, for standard output.
    pub(crate) error: Option<String>,
    pub(crate) exit: Exit,
}

/// Formats the outcome of a command.
pub(crate) fn report(format: Format, command: &Command<'_>, outcome: &Outcome) -> Report {
    let exit = match outcome {
        Outcome::Failed(error) => Exit::of(error),
        Outcome::Read(Read { value: None, .. }) | Outcome::ReadVersioned(Read { value: None, .. }) => Exit::No,
        Outcome::Conditional(Cas::Conflict(_)) | Outcome::Counted(false) | Outcome::Ttl(Ttl::Absent) => Exit::No,
        Outcome::ReadMany(read) => match read.iter().find_map(|read| read.as_ref().err()) {
            Some(error) => Exit::of(error),
            None if read.contains(&Ok(None)) => Exit::No,
            None => Exit::Done,
        },
        Outcome::StoredMany(stored) => of_writes(stored),
        Outcome::Verified(nodes) => match nodes.iter().find_map(|(_, told)| told.as_ref().err()) {
            Some(error) => Exit::of(error),
            None if nodes.iter().all(|(_, told)| is_equal(told)) => Exit::Done,
            None => Exit::No,
        },
        Outcome::Interrupted => Exit::Interrupted,
        _ => Exit::Done,
    };
    let (result, error) = match (format, outcome) {
        (Format::Json, _) => (json::of_outcome(command, outcome), None),
        (_, Outcome::Failed(error)) => (Vec::new(), Some(error_line(error))),
        (_, Outcome::Interrupted) => (Vec::new(), Some("[Client] Interrupted".to_owned())),
        (Format::Text, _) => (visible(&text(command, outcome)).into_bytes(), None),
        (Format::Raw, _) if command.levels().is_some() => (Vec::new(), None),
        (Format::Raw, _) => (raw(outcome), first_error(outcome)),
    };
    Report { result, error, exit }
}

/// The exit code of many writes. Unless all succeeded or none was carried out, something has happened, and the errors say
/// what.
fn of_writes(stored: &[Result<Placement, Error>]) -> Exit {
    let mut errors = stored.iter().filter_map(|stored| stored.as_ref().err()).peekable();
    let Some(first) = errors.peek().map(|error| Exit::of(error)) else { return Exit::Done };
    let failed = errors.filter(|error| Exit::of(error) != Exit::Unknown).count();
    if failed == stored.len() { first } else { Exit::Unknown }
}

/// The first error of a command with many keys, for `--raw`: the result holds the values of the others.
fn first_error(outcome: &Outcome) -> Option<String> {
    let error = match outcome {
        Outcome::ReadMany(read) => read.iter().find_map(|read| read.as_ref().err()),
        Outcome::StoredMany(stored) => stored.iter().find_map(|stored| stored.as_ref().err()),
        _ => None,
    };
    error.map(error_line)
}

/// What is printed for a text that is not a command.
pub(crate) fn report_no_command(format: Format, error: &CommandError) -> Report {
    match format {
        Format::Json => Report { result: json::of_no_command(error), error: None, exit: Exit::Usage },
        Format::Text | Format::Raw => {
            Report { result: Vec::new(), error: Some(visible(&error.to_string())), exit: Exit::Usage }
        }
    }
}

/// What is printed for an error that comes before any command: of a line that cannot be read, or of a cluster that
/// cannot be reached.
pub(crate) fn report_no_line(format: Format, error: &Error) -> Report {
    let exit = Exit::of(error);
    match format {
        Format::Json => Report { result: json::of_no_line(error), error: None, exit },
        Format::Text | Format::Raw => Report { result: Vec::new(), error: Some(error_line(error)), exit },
    }
}

/// An error in human-readable form.
pub(crate) fn error_line(error: &Error) -> String {
    visible(&format!("[Client] ERROR {error}"))
}

/// A text whose control characters do nothing to a terminal: servers may send any. Newlines and tabs stay.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\n' | '\t' => shown.push(char),
            char if char.is_control() => shown.extend(char.escape_unicode()),
            char => shown.push(char),
        }
    }
    shown
}

/// Prints a line to standard error. If nobody reads it any more, the exit code still tells.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn text(command: &Command<'_>, outcome: &Outcome) -> String {
    let key = printable(command.key().unwrap_or_default());
    match outcome {
        Outcome::Stored(placement) => {
            let value = printable(command.value().unwrap_or_default());
            let (primary, replicas) = (primary(placement), python_list(&placement.replicas));
            let verb = command.name();
            format!("[Client] {verb} {key} = {value} [primary: {primary}, replicas: {replicas}]\n")
        }
        Outcome::Deleted(placement) => format!("[Client] DELETE {key} [primary: {}]\n", primary(placement)),
        Outcome::Read(read) => text_of_read("GET", &key, read),
        Outcome::ReadVersioned(read) => text_of_read("GETV", &key, read),
        Outcome::Conditional(outcome) => {
            let (verb, value) = (command.name(), printable(command.value().unwrap_or_default()));
            match outcome {
                Cas::Written(version) => format!("[Client] {verb} {key} = {value} [version: {version}]\n"),
                Cas::Conflict(Version::NONE) => format!("[Client] {verb} {key}: CONFLICT, the key is absent\n"),
                Cas::Conflict(version) => {
                    format!("[Client] {verb} {key}: CONFLICT, the key is at version {version}\n")
                }
            }
        }
        Outcome::Counted(_) | Outcome::Ttl(_) => {
            format!("[Client] {} {key}: {}\n", command.name(), number(outcome).unwrap_or_default())
        }
        Outcome::Keys(keys) => {
            let lines: String = keys.iter().map(|key| format!("  {}\n", printable(key))).collect();
            format!("OK {}:\n{lines}", keys.len())
        }
        Outcome::Count(count) => format!("OK {count}\n"),
        Outcome::ReadMany(read) => text_of_many(command, read, |value| match value {
            Some(value) => format!(" = {}", printable(value)),
            None => ": NOT_FOUND".to_owned(),
        }),
        Outcome::StoredMany(stored) => {
            text_of_many(command, stored, |placement| format!(" [primary: {}]", primary(placement)))
        }
        Outcome::Level { level, is_own } => {
            let whose = if *is_own { "" } else { " (the cluster's)" };
            format!("[Client] {} {level}{whose}\n", command.name())
        }
        Outcome::Losses(losses) if losses.is_empty() => "OK No losses\n".to_owned(),
        Outcome::Losses(losses) => {
            let lines: String =
                losses.iter().map(|loss| format!("  {}\n", printable(loss.trim().as_bytes()))).collect();
            format!("OK {} losses:\n{lines}", losses.len())
        }
        Outcome::Stats(stats) => stats_table::table(stats),
        Outcome::Nodes(nodes) if nodes.is_empty() => "OK No nodes registered\n".to_owned(),
        Outcome::Nodes(nodes) => {
            let lines: String = nodes.iter().map(|node| format!("  {node}\n")).collect();
            format!("OK Nodes:\n{lines}")
        }
        Outcome::Pong { addr, is_coordinator: true } => format!("[Client] PONG from the coordinator at {addr}\n"),
        Outcome::Pong { addr, is_coordinator: false } => format!("[Client] PONG from node {addr}\n"),
        Outcome::Bye => "Goodbye!\n".to_owned(),
        // The same with or without text around it.
        other => String::from_utf8_lossy(&raw(other)).into_owned(),
    }
}

/// One line for each of many keys.
fn text_of_many<T>(command: &Command<'_>, results: &[Result<T, Error>], text: impl Fn(&T) -> String) -> String {
    let lines = command.keys().into_iter().zip(results).map(|(key, result)| {
        let (verb, key) = (command.name(), printable(key));
        match result {
            Ok(done) => format!("[Client] {verb} {key}{}\n", text(done)),
            Err(error) => format!("[Client] {verb} {key}: ERROR {error}\n"),
        }
    });
    lines.collect()
}

fn text_of_read(verb: &str, key: &str, read: &Read) -> String {
    let (notice, from) = if read.from_replica {
        ("[Client] Primary node failed, trying replicas...\n", format!(" (from replica {})", read.node))
    } else {
        ("", String::new())
    };
    match &read.value {
        Some(value) => {
            let version = read.version.map(|version| format!(" [version: {version}]")).unwrap_or_default();
            format!("{notice}[Client] {verb} {key} = {}{version}{from}\n", printable(value))
        }
        None => format!("{notice}[Client] {verb} {key}: NOT_FOUND{from}\n"),
    }
}

fn raw(outcome: &Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Read(read) => read.value.clone().unwrap_or_default(),
        // The version, a blank, and everything after that is the value.
        Outcome::ReadVersioned(read) => match (read.version, &read.value) {
            (Some(version), Some(value)) => [format!("{version} ").as_bytes(), value].concat(),
            _ => Vec::new(),
        },
        Outcome::Keys(keys) => keys.iter().flat_map(|key| [key, &b"\n"[..]].concat()).collect(),
        Outcome::Count(count) => format!("{count}\n").into_bytes(),
        // One line for each key, empty where there is no value.
        Outcome::ReadMany(read) => {
            let value = |read: &Result<Option<Vec<u8>>, Error>| read.clone().ok().flatten().unwrap_or_default();
            read.iter().flat_map(|read| [value(read), b"\n".to_vec()].concat()).collect()
        }
        Outcome::Conditional(Cas::Written(version) | Cas::Conflict(version)) => format!("{version}\n").into_bytes(),
        Outcome::Counted(_) | Outcome::Ttl(_) => format!("{}\n", number(outcome).unwrap_or_default()).into_bytes(),
        Outcome::Level { level, .. } => format!("{level}\n").into_bytes(),
        Outcome::Losses(losses) => losses.iter().map(|loss| format!("{loss}\n")).collect::<String>().into_bytes(),
        Outcome::Stats(stats) => {
            stats.iter().map(|(name, figure)| format!("{name} {figure}\n")).collect::<String>().into_bytes()
        }
        Outcome::Nodes(nodes) => nodes.iter().map(|node| format!("{node}\n")).collect::<String>().into_bytes(),
        Outcome::Holders(placement) => {
            let primary = placement.primary.iter().map(|node| format!("PRIMARY {node}\n"));
            let replicas = placement.replicas.iter().map(|node| format!("REPLICA {node}\n"));
            primary.chain(replicas).collect::<String>().into_bytes()
        }
        Outcome::Status(lines) => lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes(),
        Outcome::Verified(nodes) => verified(nodes).into_bytes(),
        Outcome::Info(line) | Outcome::CoordinatorReply(line) => format!("{line}\n").into_bytes(),
        Outcome::Pong { .. } => b"PONG\n".to_vec(),
        Outcome::Help(text) => text.clone().into_bytes(),
        // A successful write has nothing to say, and an error is not a result.
        Outcome::Stored(_)
        | Outcome::StoredMany(_)
        | Outcome::Deleted(_)
        | Outcome::Bye
        | Outcome::Interrupted
        | Outcome::Failed(_) => Vec::new(),
    }
}

/// Whether a node found all copies equal.
pub(crate) fn is_equal(told: &Result<Vec<String>, Error>) -> bool {
    told.as_ref().is_ok_and(|lines| lines.first().is_some_and(|first| first.starts_with("OK Verified equal:")))
}

/// What each node found, or why it did not answer.
fn verified(nodes: &[(NodeAddr, Result<Vec<String>, Error>)]) -> String {
    let mut text = String::new();
    for (node, told) in nodes {
        text.push_str(&format!("node {node}:\n"));
        match told {
            Ok(lines) => lines.iter().for_each(|line| text.push_str(&format!("  {line}\n"))),
            Err(error) => text.push_str(&format!("  ERROR {error}\n")),
        }
    }
    text
}

/// The number that the node answered, if the answer is a number.
pub(crate) fn number(outcome: &Outcome) -> Option<i64> {
    match outcome {
        Outcome::Counted(is_done) => Some(i64::from(*is_done)),
        Outcome::Ttl(Ttl::Absent) => Some(-2),
        Outcome::Ttl(Ttl::Forever) => Some(-1),
        Outcome::Ttl(Ttl::Seconds(seconds)) => i64::try_from(*seconds).ok(),
        _ => None,
    }
}

fn primary(placement: &Placement) -> String {
    placement.primary.as_ref().map_or_else(|| "None".to_owned(), NodeAddr::to_string)
}

/// Formats a list of strings as the first version, a Python program, did.
fn python_list(nodes: &[NodeAddr]) -> String {
    let quoted: Vec<String> = nodes.iter().map(|node| format!("'{node}'")).collect();
    format!("[{}]", quoted.join(", "))
}

/// Formats bytes as text on one line.
fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control() && c != '\t') => text.to_owned(),
        _ => format!("b\"{}\"", bytes.escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> NodeAddr {
        text.parse().unwrap()
    }

    fn placement(replicas: &[&str]) -> Placement {
        Placement { primary: Some(addr("127.0.0.1:5001")), replicas: replicas.iter().map(|text| addr(text)).collect() }
    }

    fn read(value: Option<&[u8]>, from_replica: bool) -> Outcome {
        let node = addr("127.0.0.1:5003");
        Outcome::Read(Read { value: value.map(<[u8]>::to_vec), version: None, node, from_replica })
    }

    fn read_versioned(value: &str, from_replica: bool) -> Outcome {
        let (node, version) = (addr("127.0.0.1:5003"), Some(version("3-12")));
        Outcome::ReadVersioned(Read { value: Some(value.as_bytes().to_vec()), version, node, from_replica })
    }

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn level(level: &str, is_own: bool) -> Outcome {
        Outcome::Level { level: level.to_owned(), is_own }
    }

    fn printed(format: Format, command: &str, outcome: &Outcome) -> String {
        let report = report(format, &Command::parse(command.as_bytes()).unwrap(), outcome);
        String::from_utf8(report.result).unwrap() + report.error.as_deref().unwrap_or_default()
    }

    #[test]
    fn what_a_server_says_does_nothing_to_the_terminal() {
        let refused = Error::Refused { by: None, reason: "FULL \u{1b}[31mred\u{7}".to_owned() };
        assert!(error_line(&refused).ends_with("FULL \\u{1b}[31mred\\u{7}"), "{}", error_line(&refused));
        assert_eq!(visible("a\tb\n\u{9b}c"), "a\tb\n\\u{9b}c");
    }

    #[test]
    fn many_writes_of_which_some_took_effect_are_not_called_refused() {
        let stored = || Ok(Placement { primary: None, replicas: Vec::new() });
        let refused = || Err(Error::Refused { by: None, reason: "FULL".to_owned() });
        let unknown = || Err(Error::Unknown { reason: "no answer".to_owned() });
        assert_eq!(of_writes(&[stored(), stored()]), Exit::Done);
        assert_eq!(of_writes(&[refused(), refused()]), Exit::Refused);
        assert_eq!(of_writes(&[refused(), stored()]), Exit::Unknown);
        assert_eq!(of_writes(&[refused(), unknown()]), Exit::Unknown);
    }

    #[test]
    fn texts_are_the_first_versions() {
        let stored = Outcome::Stored(placement(&["127.0.0.1:5002", "127.0.0.1:5003"]));
        let failed = Outcome::Failed(Error::Refused { by: None, reason: "BUSY full".into() });
        for (command, outcome, text) in [
            (
                "PUT user:1 Alice",
                stored,
                "[Client] PUT user:1 = Alice [primary: 127.0.0.1:5001, replicas: ['127.0.0.1:5002', '127.0.0.1:5003']]\n",
            ),
            (
                "PUT k v w ",
                Outcome::Stored(placement(&[])),
                "[Client] PUT k = v w  [primary: 127.0.0.1:5001, replicas: []]\n",
            ),
            ("GET user:1", read(Some(b"Alice"), false), "[Client] GET user:1 = Alice\n"),
            ("GET user:1", read(None, false), "[Client] GET user:1: NOT_FOUND\n"),
            (
                "GET user:1",
                read(Some(b"Alice"), true),
                "[Client] Primary node failed, trying replicas...\n\
                 [Client] GET user:1 = Alice (from replica 127.0.0.1:5003)\n",
            ),
            (
                "DELETE user:1",
                Outcome::Deleted(placement(&["h:1"])),
                "[Client] DELETE user:1 [primary: 127.0.0.1:5001]\n",
            ),
            ("LIST_NODES", Outcome::Nodes(vec![addr("h:1"), addr("h:2")]), "OK Nodes:\n  h:1\n  h:2\n"),
            ("LIST_NODES", Outcome::Nodes(Vec::new()), "OK No nodes registered\n"),
            ("GET_NODES_FOR_KEY k", Outcome::Holders(placement(&["h:2"])), "PRIMARY 127.0.0.1:5001\nREPLICA h:2\n"),
            ("INFO h:1", Outcome::Info("OK Node h:1 keys=0".into()), "OK Node h:1 keys=0\n"),
            ("PING h:1", Outcome::Pong { addr: addr("h:1"), is_coordinator: false }, "[Client] PONG from node h:1\n"),
            (
                "PING",
                Outcome::Pong { addr: addr("h:1"), is_coordinator: true },
                "[Client] PONG from the coordinator at h:1\n",
            ),
            ("EXIT", Outcome::Bye, "Goodbye!\n"),
            ("PUT k v", failed, "[Client] ERROR BUSY full"),
        ] {
            assert_eq!(printed(Format::Text, command, &outcome), text);
        }
    }

    #[test]
    fn newer_commands_are_printed_in_the_same_style() {
        let losses = || Outcome::Losses(vec!["PUT k at 1-9".to_owned(), "\x1b[2J".to_owned()]);
        for (command, outcome, text) in [
            ("GETV k", read_versioned("v w", false), "[Client] GETV k = v w [version: 3-12]\n"),
            (
                "GETV k",
                read_versioned("v", true),
                "[Client] Primary node failed, trying replicas...\n\
                 [Client] GETV k = v [version: 3-12] (from replica 127.0.0.1:5003)\n",
            ),
            (
                "CAS k 3-11 v w",
                Outcome::Conditional(Cas::Written(version("3-12"))),
                "[Client] CAS k = v w [version: 3-12]\n",
            ),
            (
                "CAS k 3-11 v",
                Outcome::Conditional(Cas::Conflict(version("3-12"))),
                "[Client] CAS k: CONFLICT, the key is at version 3-12\n",
            ),
            (
                "CAS k 3-11 v",
                Outcome::Conditional(Cas::Conflict(Version::NONE)),
                "[Client] CAS k: CONFLICT, the key is absent\n",
            ),
            (
                "PUTNX k v",
                Outcome::Conditional(Cas::Conflict(version("3-12"))),
                "[Client] PUTNX k: CONFLICT, the key is at version 3-12\n",
            ),
            (
                "PUTEX k 9 v",
                Outcome::Stored(placement(&[])),
                "[Client] PUTEX k = v [primary: 127.0.0.1:5001, replicas: []]\n",
            ),
            ("EXPIRE k 9", Outcome::Counted(true), "[Client] EXPIRE k: 1\n"),
            ("PERSIST k", Outcome::Counted(false), "[Client] PERSIST k: 0\n"),
            ("TTL k", Outcome::Ttl(Ttl::Seconds(9)), "[Client] TTL k: 9\n"),
            ("TTL k", Outcome::Ttl(Ttl::Forever), "[Client] TTL k: -1\n"),
            ("ACK quorum", level("quorum", true), "[Client] ACK quorum\n"),
            ("READ", level("local", false), "[Client] READ local (the cluster's)\n"),
            ("LOSSES h:1", Outcome::Losses(Vec::new()), "OK No losses\n"),
            ("LOSSES h:1", losses(), "OK 2 losses:\n  PUT k at 1-9\n  b\"\\x1b[2J\"\n"),
            ("FORGET h:1", Outcome::CoordinatorReply("OK Node h:1 forgotten".to_owned()), "OK Node h:1 forgotten\n"),
        ] {
            assert_eq!(printed(Format::Text, command, &outcome), text);
        }
    }

    #[test]
    fn keys_and_many_values_are_one_a_line() {
        let failed = || Error::Refused { by: None, reason: "UNAVAILABLE x".into() };
        let keys = Outcome::Keys(vec![b"user:1".to_vec(), b"a\nb".to_vec()]);
        assert_eq!(printed(Format::Text, "PREFIX user:", &keys), "OK 2:\n  user:1\n  b\"a\\nb\"\n");
        assert_eq!(printed(Format::Raw, "RANGE a b", &keys), "user:1\na\nb\n");
        assert_eq!(printed(Format::Text, "COUNT user:", &Outcome::Count(3)), "OK 3\n");
        assert_eq!(printed(Format::Raw, "COUNT user:", &Outcome::Count(3)), "3\n");
        let read = Outcome::ReadMany(vec![Ok(Some(b"Alice".to_vec())), Ok(None), Err(failed())]);
        assert_eq!(
            printed(Format::Text, "MGET a b c", &read),
            "[Client] MGET a = Alice\n[Client] MGET b: NOT_FOUND\n[Client] MGET c: ERROR UNAVAILABLE x\n"
        );
        assert_eq!(printed(Format::Raw, "MGET a b c", &read), "Alice\n\n\n[Client] ERROR UNAVAILABLE x");
        let stored = Outcome::StoredMany(vec![Ok(placement(&[])), Err(failed())]);
        assert_eq!(
            printed(Format::Text, "MPUT a 1 b 2", &stored),
            "[Client] MPUT a [primary: 127.0.0.1:5001]\n[Client] MPUT b: ERROR UNAVAILABLE x\n"
        );
        let exit = |outcome| report(Format::Text, &Command::parse(b"MGET a b").unwrap(), &outcome).exit;
        assert_eq!(exit(read), Exit::Refused);
        assert_eq!(exit(Outcome::ReadMany(vec![Ok(None)])), Exit::No);
        assert_eq!(exit(stored), Exit::Unknown, "a is stored");
    }

    #[test]
    fn raw_is_the_value_alone() {
        for (command, outcome, text) in [
            ("GET k", read(Some(b"a\nb"), true), "a\nb"),
            ("GET k", read(None, false), ""),
            ("PUT k v", Outcome::Stored(placement(&[])), ""),
            ("DELETE k", Outcome::Deleted(placement(&[])), ""),
            ("LIST_NODES", Outcome::Nodes(vec![addr("h:1")]), "h:1\n"),
            ("PING", Outcome::Pong { addr: addr("h:1"), is_coordinator: true }, "PONG\n"),
            ("QUIT", Outcome::Bye, ""),
            ("GETV k", read_versioned("a b\n", true), "3-12 a b\n"),
            ("CAS k 3-11 v", Outcome::Conditional(Cas::Written(version("3-12"))), "3-12\n"),
            ("PUTNX k v", Outcome::Conditional(Cas::Conflict(version("3-12"))), "3-12\n"),
            ("PUTEX k 9 v", Outcome::Stored(placement(&[])), ""),
            ("EXPIRE k 9", Outcome::Counted(true), "1\n"),
            ("TTL k", Outcome::Ttl(Ttl::Absent), "-2\n"),
            ("ACK", level("quorum", true), "quorum\n"),
            ("ACK quorum", level("quorum", true), ""),
            ("LOSSES h:1", Outcome::Losses(vec!["PUT k".to_owned()]), "PUT k\n"),
        ] {
            assert_eq!(printed(Format::Raw, command, &outcome), text, "{command}");
        }
    }

    #[test]
    fn what_would_not_stay_on_its_line_is_escaped() {
        assert_eq!(printable("ключ\t\"1\"".as_bytes()), "ключ\t\"1\"");
        assert_eq!(printable(b""), "");
        assert_eq!(printable(b"a\nb"), "b\"a\\nb\"");
        assert_eq!(printable(b"\x1b[2J"), "b\"\\x1b[2J\"");
        assert_eq!(printable(b"\xff"), "b\"\\xff\"");
    }

    #[test]
    fn each_kind_of_outcome_has_its_exit_code() {
        let failed = |error| Outcome::Failed(error);
        let text = || String::new();
        for (outcome, code) in [
            (read(Some(b"v"), true), 0),
            (read(None, true), 1),
            (Outcome::Conditional(Cas::Written(version("3-12"))), 0),
            (Outcome::Conditional(Cas::Conflict(version("3-12"))), 1),
            (Outcome::Counted(true), 0),
            (Outcome::Counted(false), 1),
            (Outcome::Ttl(Ttl::Forever), 0),
            (Outcome::Ttl(Ttl::Absent), 1),
            (failed(Error::Invalid(text())), 2),
            (failed(Error::NotReached { whom: text(), reason: text() }), 3),
            (failed(Error::Refused { by: None, reason: text() }), 4),
            (failed(Error::Unknown { reason: text() }), 5),
        ] {
            for format in [Format::Text, Format::Raw, Format::Json] {
                assert_eq!(report(format, &Command::Get { key: b"k" }, &outcome).exit as u8, code);
            }
        }
        assert_eq!(report_no_command(Format::Text, &CommandError::Empty).exit as u8, 2);
    }
}
