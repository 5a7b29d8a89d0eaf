//! The commands, in one list from which parsing, help, completion and hints all come.
//!
//! A command is read as the wire reads a line: words are parted by spaces or tabs, the verb may be in any case, and a
//! value starts at the first non-blank after the key and runs to the end of the text. Quotes belong to it.

use client::NodeAddr;

/// What a verb asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
    Delete,
    ListNodes,
    GetNodesForKey,
    Info,
    Ping,
    Help,
    Exit,
}

/// A verb as people see it.
#[derive(Debug)]
pub(crate) struct Spec {
    verb: Verb,
    /// The verb as it is written, in upper case.
    pub(crate) name: &'static str,
    /// What follows it.
    pub(crate) arguments: &'static str,
    /// A word on what it does.
    about: &'static str,
}

impl Spec {
    const fn new(verb: Verb, name: &'static str, arguments: &'static str, about: &'static str) -> Self {
        Self { verb, name, arguments, about }
    }
}

/// Every command.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec::new(Verb::Put, "PUT", "key value", "store a value; it runs to the end of the line"),
    Spec::new(Verb::Get, "GET", "key", "read a value"),
    Spec::new(Verb::Delete, "DELETE", "key", "make a key absent"),
    Spec::new(Verb::ListNodes, "LIST_NODES", "", "the nodes that are registered"),
    Spec::new(Verb::GetNodesForKey, "GET_NODES_FOR_KEY", "key", "the nodes that hold a key"),
    Spec::new(Verb::Info, "INFO", "[host:port]", "about a node, or the coordinator"),
    Spec::new(Verb::Ping, "PING", "[host:port]", "whether a node, or the coordinator, answers"),
    Spec::new(Verb::Help, "HELP", "", "this list"),
    Spec::new(Verb::Exit, "EXIT", "", "leave"),
    Spec::new(Verb::Exit, "QUIT", "", "leave"),
];

/// A command with its arguments, which are any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command<'a> {
    Put {
        key: &'a [u8],
        value: &'a [u8],
    },
    Get {
        key: &'a [u8],
    },
    Delete {
        key: &'a [u8],
    },
    ListNodes,
    GetNodesForKey {
        key: &'a [u8],
    },
    /// None: the coordinator.
    Info(Option<NodeAddr>),
    /// None: the coordinator.
    Ping(Option<NodeAddr>),
    Help,
    Exit,
}

/// Why a text is no command. The texts are those of the first version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// A verb with the wrong words.
    #[error("Usage: {}", usage)]
    Usage {
        /// The verb.
        name: &'static str,
        /// The verb and its arguments.
        usage: String,
    },
    /// No such verb.
    #[error("Unknown command: {0}")]
    Unknown(String),
    /// Nothing but blanks.
    #[error("No command given; HELP lists them")]
    Empty,
}

impl<'a> Command<'a> {
    /// Reads a command.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, CommandError> {
        let (word, rest) = split_word(text);
        if word.is_empty() {
            return Err(CommandError::Empty);
        }
        let spec = COMMANDS.iter().find(|spec| word.eq_ignore_ascii_case(spec.name.as_bytes()));
        let spec = spec.ok_or_else(|| CommandError::Unknown(String::from_utf8_lossy(word).into_owned()))?;
        spec.verb.with_arguments(rest).ok_or_else(|| CommandError::Usage {
            name: spec.name,
            usage: format!("{} {}", spec.name, spec.arguments).trim_end().to_owned(),
        })
    }

    /// The verb as it is documented.
    pub(crate) fn name(&self) -> &'static str {
        let verb = match self {
            Self::Put { .. } => Verb::Put,
            Self::Get { .. } => Verb::Get,
            Self::Delete { .. } => Verb::Delete,
            Self::ListNodes => Verb::ListNodes,
            Self::GetNodesForKey { .. } => Verb::GetNodesForKey,
            Self::Info(_) => Verb::Info,
            Self::Ping(_) => Verb::Ping,
            Self::Help => Verb::Help,
            Self::Exit => Verb::Exit,
        };
        COMMANDS.iter().find(|spec| spec.verb == verb).map_or("", |spec| spec.name)
    }

    /// The key that it is about.
    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        match self {
            Self::Put { key, .. } | Self::Get { key } | Self::Delete { key } | Self::GetNodesForKey { key } => {
                Some(key)
            }
            _ => None,
        }
    }

    /// Whether it changes anything.
    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Put { .. } | Self::Delete { .. })
    }
}

impl Verb {
    fn with_arguments(self, rest: &[u8]) -> Option<Command<'_>> {
        match self {
            Self::Put => match split_word(rest) {
                (_, b"") => None,
                (key, value) => Some(Command::Put { key, value }),
            },
            Self::Get => one_word(rest).map(|key| Command::Get { key }),
            Self::Delete => one_word(rest).map(|key| Command::Delete { key }),
            Self::GetNodesForKey => one_word(rest).map(|key| Command::GetNodesForKey { key }),
            Self::Info => optional_addr(rest).map(Command::Info),
            Self::Ping => optional_addr(rest).map(Command::Ping),
            Self::ListNodes => rest.is_empty().then_some(Command::ListNodes),
            Self::Help => rest.is_empty().then_some(Command::Help),
            Self::Exit => rest.is_empty().then_some(Command::Exit),
        }
    }
}

fn one_word(rest: &[u8]) -> Option<&[u8]> {
    match split_word(rest) {
        (b"", _) => None,
        (word, b"") => Some(word),
        _ => None,
    }
}

fn optional_addr(rest: &[u8]) -> Option<Option<NodeAddr>> {
    if rest.is_empty() {
        return Some(None);
    }
    std::str::from_utf8(one_word(rest)?).ok()?.parse().ok().map(Some)
}

/// The first word of a text, and what follows it from its next non-blank on.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = without_blanks(text);
    let end = text.iter().position(is_blank).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, without_blanks(rest))
}

fn without_blanks(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !is_blank(byte)).unwrap_or(text.len());
    text.split_at(start).1
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The commands with a word on each, one a line.
pub(crate) fn list() -> String {
    let usages: Vec<String> = COMMANDS.iter().map(|spec| format!("{} {}", spec.name, spec.arguments)).collect();
    let width = usages.iter().map(String::len).max().unwrap_or_default();
    let lines = usages.iter().zip(COMMANDS).map(|(usage, spec)| format!("  {usage:width$}  {}\n", spec.about));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_runs_to_the_end_of_the_text() {
        for (text, value) in [
            (&b"PUT k v"[..], &b"v"[..]),
            (b"  put\tk \t v  w  ", b"v  w  "),
            (b"Put k {\"age\": 30}", b"{\"age\": 30}"),
            (b"PUT k 'a b'", b"'a b'"),
            (b"PUT k \xff\n", b"\xff\n"),
        ] {
            assert_eq!(Command::parse(text), Ok(Command::Put { key: b"k", value }), "{text:?}");
        }
    }

    #[test]
    fn verbs_are_read_in_any_case() {
        assert_eq!(Command::parse(b"get k "), Ok(Command::Get { key: b"k" }));
        assert_eq!(Command::parse(b"Delete k"), Ok(Command::Delete { key: b"k" }));
        assert_eq!(Command::parse(b"list_nodes"), Ok(Command::ListNodes));
        assert_eq!(Command::parse(b"get_nodes_for_key k"), Ok(Command::GetNodesForKey { key: b"k" }));
        assert_eq!(Command::parse(b"info"), Ok(Command::Info(None)));
        assert_eq!(Command::parse(b"ping h:1"), Ok(Command::Ping(Some("h:1".parse().unwrap()))));
        assert_eq!(Command::parse(b"quit"), Ok(Command::Exit));
    }

    #[test]
    fn wrong_words_get_the_usage_of_their_verb() {
        for (text, message) in [
            ("PUT", "Usage: PUT key value"),
            ("put k", "Usage: PUT key value"),
            ("PUT k  ", "Usage: PUT key value"),
            ("GET", "Usage: GET key"),
            ("GET a b", "Usage: GET key"),
            ("DELETE", "Usage: DELETE key"),
            ("LIST_NODES x", "Usage: LIST_NODES"),
            ("INFO nowhere", "Usage: INFO [host:port]"),
            ("FOO bar", "Unknown command: FOO"),
            ("  ", "No command given; HELP lists them"),
        ] {
            assert_eq!(Command::parse(text.as_bytes()).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn every_command_is_listed_and_names_itself() {
        let list = list();
        for spec in COMMANDS {
            assert!(list.contains(&format!("  {} {}", spec.name, spec.arguments)), "{}", spec.name);
            let arguments = if spec.arguments == "key value" { "key value" } else { "key" };
            let text = if spec.arguments.starts_with("key") {
                format!("{} {arguments}", spec.name)
            } else {
                spec.name.to_owned()
            };
            let command = Command::parse(text.as_bytes()).unwrap();
            assert!(command.name() == spec.name || command == Command::Exit, "{text}");
        }
    }
}
