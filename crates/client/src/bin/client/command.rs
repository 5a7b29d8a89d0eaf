//! A command with its arguments.
//!
//! Commands are parsed like lines on the wire: words are separated by spaces or tabs, the verb may be in any case, and
//! a value starts at the first non-blank after the key (or the version) and runs to the end of the text. Quotes are
//! part of it.

use std::str::FromStr;
use std::time::Duration;

use client::{AckLevel, Levels, NodeAddr, ReadLevel, Slots, Version};
use proto::limits;
use proto::request::{LONGEST_HEALTHY_WAIT, span_of};
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
        spec.verb.with_arguments(rest).ok_or_else(|| match one_word(rest) {
            Some(of) if spec.verb == Verb::Help => CommandError::Unknown(String::from_utf8_lossy(of).into_owned()),
            _ => CommandError::Usage { name: spec.name, usage: spec.usage() },
        })
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
                let (prefix, options) = split_word(rest);
                // `PREFIX LIMIT 3` has no prefix, and `PREFIX LIMIT` asks for the keys that begin with this word.
                let page = page_words(options).map(|page| (prefix, page));
                let (prefix, page) = page.or_else(|| page_words(rest).map(|page| (&b""[..], page)))?;
                Some(Command::Prefix { prefix, page })
            }
            Self::Range => {
                let (from, rest) = first_word(rest)?;
                let (to, rest) = first_word(rest)?;
                Some(Command::Range { from, to, page: page_words(rest)? })
            }
            Self::Count if rest.is_empty() => Some(Command::Count { prefix: b"" }),
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
                    let [host, port] = [host, port].map(|word| std::str::from_utf8(word).ok());
                    NodeAddr::from_words(host?, port?).ok().map(Command::Unregister)
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
    (span <= LONGEST_HEALTHY_WAIT).then_some(Some(span))
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
mod tests;
