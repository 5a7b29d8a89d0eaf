//! A command with its arguments.
//!
//! Commands are parsed like lines on the wire: words are separated by spaces or tabs, the verb may be in any case, and
//! a value starts at the first non-blank after the key (or the version) and runs to the end of the text. Quotes are
//! part of it.

use std::str::FromStr;
use std::time::Duration;

use client::{AckLevel, Levels, NodeAddr, ReadLevel, Slots, Version};
use proto::limits;
use proto::request::{LONGEST_WAIT, span_of};
use proto::slot::{SLOT_BITS, SlotId};

use crate::verb::{self, COMMANDS, Spec, Verb};

/// A command with its arguments, which may be any bytes.
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
    GetVersioned {
        key: &'a [u8],
    },
    Cas {
        key: &'a [u8],
        expected: Version,
        value: &'a [u8],
    },
    PutIfAbsent {
        key: &'a [u8],
        value: &'a [u8],
    },
    PutFor {
        key: &'a [u8],
        seconds: u64,
        value: &'a [u8],
    },
    Expire {
        key: &'a [u8],
        seconds: u64,
    },
    Ttl {
        key: &'a [u8],
    },
    Persist {
        key: &'a [u8],
    },
    Prefix {
        prefix: &'a [u8],
        page: PageWords<'a>,
    },
    Range {
        from: &'a [u8],
        to: &'a [u8],
        page: PageWords<'a>,
    },
    Count {
        prefix: &'a [u8],
    },
    GetMany(Vec<&'a [u8]>),
    PutMany(Vec<(&'a [u8], &'a [u8])>),
    /// `None` shows the current level.
    AckLevel(Option<AckLevel>),
    /// `None` shows the current level.
    ReadLevel(Option<ReadLevel>),
    ListNodes,
    GetNodesForKey {
        key: &'a [u8],
    },
    /// `None` means the coordinator.
    Info(Option<NodeAddr>),
    /// `None` means the coordinator.
    Stats(Option<NodeAddr>),
    Status,
    /// How long to wait; `None` leaves it to the coordinator.
    WaitHealthy(Option<Duration>),
    /// `None` means every node.
    Verify(Option<NodeAddr>),
    /// `None` means the coordinator.
    Ping(Option<NodeAddr>),
    Losses(NodeAddr),
    Forget(NodeAddr),
    Unregister(NodeAddr),
    AcceptLoss(Slots),
    Decommission(NodeAddr),
    Recommission(NodeAddr),
    Replace {
        old: NodeAddr,
        new: NodeAddr,
    },
    /// `None` means every command.
    Help(Option<&'static Spec>),
    Exit,
}

/// The options of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PageWords<'a> {
    pub(crate) limit: Option<usize>,
    pub(crate) after: Option<&'a [u8]>,
}

/// Why a text is not a command. The error texts are those of the first version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandError {
    /// A verb with the wrong arguments.
    #[error("Usage: {}", usage)]
    Usage {
        /// The verb.
        name: &'static str,
        /// The verb and its arguments.
        usage: String,
    },
    /// A level, which lasts as long as the connection, for a command that is alone on its connection.
    #[error("{name} {level} applies to the commands that follow it; with --command use --{} {level}", name.to_lowercase())]
    NeedsSession {
        /// The verb.
        name: &'static str,
        /// The level.
        level: String,
    },
    /// No such verb.
    #[error("Unknown command: {0}")]
    Unknown(String),
    /// Nothing but blanks.
    #[error("No command given; HELP lists them")]
    Empty,
}

impl<'a> Command<'a> {
    /// Parses a command.
    pub(crate) fn parse(text: &'a [u8]) -> Result<Self, CommandError> {
        let (word, rest) = split_word(text);
        if word.is_empty() {
            return Err(CommandError::Empty);
        }
        let spec = verb::find(word).ok_or_else(|| CommandError::Unknown(String::from_utf8_lossy(word).into_owned()))?;
        spec.verb.with_arguments(rest).ok_or_else(|| CommandError::Usage { name: spec.name, usage: spec.usage() })
    }

    /// The verb as it is documented.
    pub(crate) fn name(&self) -> &'static str {
        let verb = match self {
            Self::Put { .. } => Verb::Put,
            Self::Get { .. } => Verb::Get,
            Self::Delete { .. } => Verb::Delete,
            Self::GetVersioned { .. } => Verb::GetVersioned,
            Self::Cas { .. } => Verb::Cas,
            Self::PutIfAbsent { .. } => Verb::PutIfAbsent,
            Self::PutFor { .. } => Verb::PutFor,
            Self::Expire { .. } => Verb::Expire,
            Self::Ttl { .. } => Verb::Ttl,
            Self::Persist { .. } => Verb::Persist,
            Self::Prefix { .. } => Verb::Prefix,
            Self::Range { .. } => Verb::Range,
            Self::Count { .. } => Verb::Count,
            Self::GetMany(_) => Verb::GetMany,
            Self::PutMany(_) => Verb::PutMany,
            Self::AckLevel(_) => Verb::AckLevel,
            Self::ReadLevel(_) => Verb::ReadLevel,
            Self::ListNodes => Verb::ListNodes,
            Self::GetNodesForKey { .. } => Verb::GetNodesForKey,
            Self::Info(_) => Verb::Info,
            Self::Stats(_) => Verb::Stats,
            Self::Status => Verb::Status,
            Self::WaitHealthy(_) => Verb::WaitHealthy,
            Self::Verify(_) => Verb::Verify,
            Self::Ping(_) => Verb::Ping,
            Self::Losses(_) => Verb::Losses,
            Self::Forget(_) => Verb::Forget,
            Self::Unregister(_) => Verb::Unregister,
            Self::AcceptLoss(_) => Verb::AcceptLoss,
            Self::Decommission(_) => Verb::Decommission,
            Self::Recommission(_) => Verb::Recommission,
            Self::Replace { .. } => Verb::Replace,
            Self::Help(_) => Verb::Help,
            Self::Exit => Verb::Exit,
        };
        COMMANDS.iter().find(|spec| spec.verb == verb).map_or("", |spec| spec.name)
    }

    /// The key that the command is about.
    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        match self {
            Self::Put { key, .. }
            | Self::Get { key }
            | Self::Delete { key }
            | Self::GetVersioned { key }
            | Self::Cas { key, .. }
            | Self::PutIfAbsent { key, .. }
            | Self::PutFor { key, .. }
            | Self::Expire { key, .. }
            | Self::Ttl { key }
            | Self::Persist { key }
            | Self::GetNodesForKey { key } => Some(key),
            _ => None,
        }
    }

    /// The keys that the command is about, if it takes several.
    pub(crate) fn keys(&self) -> Vec<&'a [u8]> {
        match self {
            Self::GetMany(keys) => keys.clone(),
            Self::PutMany(pairs) => pairs.iter().map(|(key, _)| *key).collect(),
            _ => Vec::new(),
        }
    }

    /// The value that the command stores.
    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        match self {
            Self::Put { value, .. }
            | Self::Cas { value, .. }
            | Self::PutIfAbsent { value, .. }
            | Self::PutFor { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Whether the command changes a key.
    pub(crate) fn is_write(&self) -> bool {
        self.value().is_some()
            || matches!(self, Self::Delete { .. } | Self::Expire { .. } | Self::Persist { .. } | Self::PutMany(_))
    }

    /// The level that the command sets for those after it.
    pub(crate) fn levels(&self) -> Option<Levels> {
        match self {
            Self::AckLevel(level) => level.map(Levels::from),
            Self::ReadLevel(level) => level.map(Levels::from),
            _ => None,
        }
    }

    /// Returns the command, unless it makes no sense without commands after it.
    pub(crate) fn alone(self) -> Result<Self, CommandError> {
        let level = match &self {
            Self::AckLevel(Some(level)) => level.to_string(),
            Self::ReadLevel(Some(level)) => level.to_string(),
            _ => return Ok(self),
        };
        Err(CommandError::NeedsSession { name: self.name(), level })
    }
}

impl Verb {
    fn with_arguments(self, rest: &[u8]) -> Option<Command<'_>> {
        match self {
            Self::Put => key_and_value(rest).map(|(key, value)| Command::Put { key, value }),
            Self::Get => one_word(rest).map(|key| Command::Get { key }),
            Self::Delete => one_word(rest).map(|key| Command::Delete { key }),
            Self::GetVersioned => one_word(rest).map(|key| Command::GetVersioned { key }),
            Self::Cas => {
                let (key, rest) = key_and_value(rest)?;
                let (version, value) = key_and_value(rest)?;
                Some(Command::Cas { key, expected: parsed(version)?, value })
            }
            Self::PutIfAbsent => key_and_value(rest).map(|(key, value)| Command::PutIfAbsent { key, value }),
            Self::PutFor => {
                let (key, rest) = key_and_value(rest)?;
                let (seconds, value) = key_and_value(rest)?;
                let seconds = seconds_of(seconds).filter(|seconds| *seconds > 0)?;
                Some(Command::PutFor { key, seconds, value })
            }
            Self::Expire => {
                let (key, rest) = key_and_value(rest)?;
                Some(Command::Expire { key, seconds: seconds_of(one_word(rest)?)? })
            }
            Self::Ttl => one_word(rest).map(|key| Command::Ttl { key }),
            Self::Persist => one_word(rest).map(|key| Command::Persist { key }),
            Self::Prefix => {
                let (prefix, rest) = first_word(rest)?;
                Some(Command::Prefix { prefix, page: page_words(rest)? })
            }
            Self::Range => {
                let (from, rest) = first_word(rest)?;
                let (to, rest) = first_word(rest)?;
                Some(Command::Range { from, to, page: page_words(rest)? })
            }
            Self::Count => one_word(rest).map(|prefix| Command::Count { prefix }),
            Self::GetMany => Some(words(rest)).filter(|keys| !keys.is_empty()).map(Command::GetMany),
            Self::PutMany => {
                let words = words(rest);
                let (pairs, left) = words.as_chunks::<2>();
                let is_whole = left.is_empty() && !pairs.is_empty();
                is_whole.then(|| Command::PutMany(pairs.iter().map(|[key, value]| (*key, *value)).collect()))
            }
            Self::AckLevel => optional(rest).map(Command::AckLevel),
            Self::ReadLevel => optional(rest).map(Command::ReadLevel),
            Self::GetNodesForKey => one_word(rest).map(|key| Command::GetNodesForKey { key }),
            Self::Info => optional(rest).map(Command::Info),
            Self::Stats => optional(rest).map(Command::Stats),
            Self::Status => rest.is_empty().then_some(Command::Status),
            Self::WaitHealthy => wait(rest).map(Command::WaitHealthy),
            Self::Verify => optional(rest).map(Command::Verify),
            Self::Ping => optional(rest).map(Command::Ping),
            Self::Losses => parsed(one_word(rest)?).map(Command::Losses),
            Self::Forget => parsed(one_word(rest)?).map(Command::Forget),
            // Either two words, as the coordinator takes it and errors name it, or one.
            Self::Unregister => match words(rest)[..] {
                [node] => parsed(node).map(Command::Unregister),
                [host, port] => {
                    NodeAddr::new(std::str::from_utf8(host).ok()?, parsed(port)?).ok().map(Command::Unregister)
                }
                _ => None,
            },
            Self::AcceptLoss => match one_word(rest)? {
                word if word.eq_ignore_ascii_case(b"all") => Some(Command::AcceptLoss(Slots::All)),
                word => {
                    let slot = parsed(word).filter(|slot| SLOT_BITS.has(SlotId(*slot)));
                    slot.map(|slot| Command::AcceptLoss(Slots::One(slot)))
                }
            },
            Self::Decommission => parsed(one_word(rest)?).map(Command::Decommission),
            Self::Recommission => parsed(one_word(rest)?).map(Command::Recommission),
            Self::Replace => {
                let (old, rest) = key_and_value(rest)?;
                Some(Command::Replace { old: parsed(old)?, new: parsed(one_word(rest)?)? })
            }
            Self::ListNodes => rest.is_empty().then_some(Command::ListNodes),
            Self::Help if rest.is_empty() => Some(Command::Help(None)),
            Self::Help => verb::find(one_word(rest)?).map(|spec| Command::Help(Some(spec))),
            Self::Exit => rest.is_empty().then_some(Command::Exit),
        }
    }
}

/// A word and what follows it, which must not be empty.
fn key_and_value(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    match split_word(rest) {
        (_, b"") => None,
        key_and_value => Some(key_and_value),
    }
}

fn one_word(rest: &[u8]) -> Option<&[u8]> {
    match split_word(rest) {
        (b"", _) => None,
        (word, b"") => Some(word),
        _ => None,
    }
}

/// The first word, and what follows it; `None` if there is no word.
fn first_word(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    Some(split_word(rest)).filter(|(word, _)| !word.is_empty())
}

/// All words.
fn words(mut rest: &[u8]) -> Vec<&[u8]> {
    std::iter::from_fn(|| {
        let (word, behind) = first_word(rest)?;
        rest = behind;
        Some(word)
    })
    .collect()
}

/// `[LIMIT n] [AFTER key]`, in any order.
fn page_words(rest: &[u8]) -> Option<PageWords<'_>> {
    let mut page = PageWords::default();
    let words = words(rest);
    let (pairs, left) = words.as_chunks::<2>();
    for [word, argument] in pairs {
        if word.eq_ignore_ascii_case(b"LIMIT") && page.limit.is_none() {
            page.limit = Some(parsed(argument).filter(|limit| (1..=limits::PAGE_KEYS).contains(limit))?);
        } else if word.eq_ignore_ascii_case(b"AFTER") && page.after.is_none() {
            page.after = Some(argument);
        } else {
            return None;
        }
    }
    left.is_empty().then_some(page)
}

fn parsed<T: FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// How long a key is to live. A negative number expires it at once, as on a node.
fn seconds_of(word: &[u8]) -> Option<u64> {
    parsed::<i64>(word).map(|seconds| u64::try_from(seconds).unwrap_or(0))
}

/// One word parsed as a `T`, or nothing.
fn optional<T: FromStr>(rest: &[u8]) -> Option<Option<T>> {
    if rest.is_empty() { Some(None) } else { parsed(one_word(rest)?).map(Some) }
}

/// A duration, or nothing.
fn wait(rest: &[u8]) -> Option<Option<Duration>> {
    if rest.is_empty() {
        return Some(None);
    }
    let span = std::str::from_utf8(one_word(rest)?).ok().and_then(span_of)?;
    (span <= LONGEST_WAIT).then_some(Some(span))
}

/// The first word of a text, and the rest from the next non-blank on.
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
        assert_eq!(Command::parse(b"stats h:1"), Ok(Command::Stats("h:1".parse().ok())));
        assert_eq!(Command::parse(b"status"), Ok(Command::Status));
        assert_eq!(Command::parse(b"wait_healthy"), Ok(Command::WaitHealthy(None)));
        let wait = Command::WaitHealthy(Some(Duration::from_millis(1_500)));
        assert_eq!(Command::parse(b"WAIT_HEALTHY 1500ms"), Ok(wait));
        assert_eq!(Command::parse(b"ping h:1"), Ok(Command::Ping(Some("h:1".parse().unwrap()))));
        assert_eq!(Command::parse(b"quit"), Ok(Command::Exit));
        assert_eq!(Command::parse(b"ack QUORUM"), Ok(Command::AckLevel(Some(AckLevel::Quorum))));
        assert_eq!(Command::parse(b"READ"), Ok(Command::ReadLevel(None)));
        assert_eq!(Command::parse(b"losses h:1"), Ok(Command::Losses("h:1".parse().unwrap())));
        assert_eq!(Command::parse(b"accept_loss ALL"), Ok(Command::AcceptLoss(Slots::All)));
        let node = NodeAddr::new("h", 1).unwrap();
        for words in [&b"unregister_node h 1"[..], b"UNREGISTER_NODE h:1"] {
            assert_eq!(Command::parse(words), Ok(Command::Unregister(node.clone())));
        }
        assert_eq!(Command::parse(b"accept_loss 7"), Ok(Command::AcceptLoss(Slots::One(7))));
        let [old, new] = ["h:1", "h:2"].map(|node| node.parse::<NodeAddr>().unwrap());
        assert_eq!(Command::parse(b"decommission h:1"), Ok(Command::Decommission(old.clone())));
        assert_eq!(Command::parse(b"RECOMMISSION h:1"), Ok(Command::Recommission(old.clone())));
        assert_eq!(Command::parse(b"REPLACE h:1  h:2"), Ok(Command::Replace { old, new }));
    }

    #[test]
    fn a_condition_or_a_time_stands_before_the_value() {
        let expected = "3-12".parse().unwrap();
        assert_eq!(Command::parse(b"cas k\t3-12  v w "), Ok(Command::Cas { key: b"k", expected, value: b"v w " }));
        let absent = Command::Cas { key: b"k", expected: Version::NONE, value: b"v" };
        assert_eq!(Command::parse(b"CAS k 0 v"), Ok(absent));
        assert_eq!(Command::parse(b"putex k 60  v w"), Ok(Command::PutFor { key: b"k", seconds: 60, value: b"v w" }));
        assert_eq!(Command::parse(b"expire k -1"), Ok(Command::Expire { key: b"k", seconds: 0 }));
        assert_eq!(Command::parse(b"ttl k"), Ok(Command::Ttl { key: b"k" }));
        assert_eq!(Command::parse(b"persist k"), Ok(Command::Persist { key: b"k" }));
        assert_eq!(Command::parse(b"putnx k v w"), Ok(Command::PutIfAbsent { key: b"k", value: b"v w" }));
    }

    #[test]
    fn pages_and_many_keys_are_asked_for_by_words() {
        let page = PageWords { limit: Some(5), after: Some(b"user:1") };
        let prefix = Command::Prefix { prefix: b"user:", page };
        assert_eq!(Command::parse(b"prefix user: AFTER user:1 limit 5 "), Ok(prefix));
        let range = Command::Range { from: b"a", to: b"b", page: PageWords::default() };
        assert_eq!(Command::parse(b"RANGE a b"), Ok(range));
        assert_eq!(Command::parse(b"COUNT user:"), Ok(Command::Count { prefix: b"user:" }));
        assert_eq!(Command::parse(b"MGET a  b"), Ok(Command::GetMany(vec![b"a", b"b"])));
        assert_eq!(Command::parse(b"MPUT a 1 b 2"), Ok(Command::PutMany(vec![(b"a", b"1"), (b"b", b"2")])));
        for text in
            ["PREFIX", "PREFIX a LIMIT", "PREFIX a LIMIT 10001", "PREFIX a b", "RANGE a", "COUNT", "MGET", "MPUT a"]
        {
            assert!(matches!(Command::parse(text.as_bytes()), Err(CommandError::Usage { .. })), "{text}");
        }
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
            ("STATUS h:1", "Usage: STATUS"),
            ("WAIT_HEALTHY soon", "Usage: WAIT_HEALTHY [time]; such as 90s or 1500ms, 60s unless given"),
            ("GETV", "Usage: GETV key"),
            (
                "CAS k v",
                "Usage: CAS key version value; GETV tells the version, such as 3-12, and 0 stands for an absent key",
            ),
            (
                "CAS k one v",
                "Usage: CAS key version value; GETV tells the version, such as 3-12, and 0 stands for an absent key",
            ),
            ("PUTNX k", "Usage: PUTNX key value"),
            ("ACK most", "Usage: ACK [async|quorum|all]"),
            ("READ quorum", "Usage: READ [local|linear]"),
            ("PUTEX k v", "Usage: PUTEX key seconds value"),
            ("PUTEX k 0 v", "Usage: PUTEX key seconds value"),
            ("EXPIRE k", "Usage: EXPIRE key seconds"),
            ("TTL a b", "Usage: TTL key"),
            ("PERSIST", "Usage: PERSIST key"),
            ("LOSSES", "Usage: LOSSES host:port"),
            ("FORGET h 1", "Usage: FORGET host:port"),
            ("UNREGISTER_NODE h", "Usage: UNREGISTER_NODE host port"),
            ("DECOMMISSION h", "Usage: DECOMMISSION host:port"),
            (
                "REPLACE h:1",
                "Usage: REPLACE old new; each is host:port, and the new one may be started before or after",
            ),
            ("ACCEPT_LOSS", "Usage: ACCEPT_LOSS slot|all"),
            ("ACCEPT_LOSS some", "Usage: ACCEPT_LOSS slot|all"),
            ("ACCEPT_LOSS 16384", "Usage: ACCEPT_LOSS slot|all"),
            ("FOO bar", "Unknown command: FOO"),
            ("  ", "No command given; HELP lists them"),
        ] {
            assert_eq!(Command::parse(text.as_bytes()).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn every_command_is_listed_and_names_itself() {
        let list = crate::verb::list();
        for spec in COMMANDS {
            assert!(list.contains(&format!("  {} {}", spec.name, spec.arguments)), "{}", spec.name);
            let given = match spec.arguments {
                "key version value" => "key 3-12 value",
                "key seconds value" => "key 60 value",
                "key seconds" => "key 60",
                "host:port" => "h:1",
                "host port" => "h 1",
                "old new" => "h:1 h:2",
                "slot|all" => "all",
                "prefix [LIMIT n] [AFTER key]" => "prefix limit 3",
                "from to [LIMIT n] [AFTER key]" => "from to after key",
                "key value [key value ...]" => "key value",
                optional if optional.starts_with('[') => "",
                words => words,
            };
            let text = format!("{} {given}", spec.name);
            let command = Command::parse(text.as_bytes()).unwrap();
            assert!(command.name() == spec.name || command == Command::Exit, "{text}");
            for word in spec.words() {
                assert!(Command::parse(format!("{} {word}", spec.name).as_bytes()).is_ok(), "{word}");
            }
        }
    }

    #[test]
    fn a_level_is_for_the_commands_that_follow() {
        let alone = |text: &'static str| Command::parse(text.as_bytes()).unwrap().alone();
        let error = alone("ack Quorum").unwrap_err().to_string();
        assert_eq!(error, "ACK quorum applies to the commands that follow it; with --command use --ack quorum");
        assert!(alone("READ linear").is_err());
        assert_eq!(alone("ACK"), Ok(Command::AckLevel(None)));
        assert_eq!(alone("GET k"), Ok(Command::Get { key: b"k" }));
    }
}
