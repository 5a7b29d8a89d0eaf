//! Redis commands about several keys, or about all keys.

use super::redis::{Args, Parsed, not_an_integer, syntax, wrong_number};
use super::{KeyWords, NodeRequest, Rest, checked_key};
use crate::decimal::integer;
use crate::error::ErrorReply;
use crate::level::ReadLevel;
use crate::limits;
use crate::peer::{Change, Detail, Identity, KeyRequest, Modify, Read, Wanted, Write};

/// A request about several keys, or about all keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyspaceRequest<'a> {
    /// `DEL`, `UNLINK`: delete each key independently; the answer is how many were present.
    Delete(KeyWords<'a>),
    /// `EXISTS`, `TOUCH`: how many of the keys are present; a key named twice counts twice.
    Exists(KeyWords<'a>),
    /// `MSET`: write each key independently, with the value that follows it.
    Set(KeyWords<'a>),
    /// `MSETNX`: write all keys together, if none of them is present; all must be in one slot.
    SetAllAbsent {
        /// The keys, each followed by its value.
        pairs: KeyWords<'a>,
        /// The identity of the write, if the client gave one.
        identity: Option<Identity<'a>>,
    },
    /// `KEYS`: all keys that a pattern matches.
    Keys(&'a [u8]),
    /// `SCAN`: some of the keys, and where to continue.
    Scan(Scan<'a>),
    /// `RANDOMKEY`.
    Random,
    /// `FLUSHALL`, `FLUSHDB`: delete each key independently.
    Flush,
}

/// A request for the next keys of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Where to continue; 0 at the start.
    pub cursor: u64,
    /// The pattern that keys must match.
    pub pattern: Option<&'a [u8]>,
    /// About how many keys to look at, at least 1.
    pub count: u64,
    /// Whether the requested type is one that keys can have: every value is a `string`.
    pub is_of_strings: bool,
}

/// How many keys a scan looks at if the request gives no count.
const USUAL_COUNT: u64 = 10;

impl<'a> Rest<'a> {
    pub(super) fn keyspace(self, verb: &[u8]) -> Parsed<'a> {
        match verb {
            b"DEL" => self.args("del", 1..)?.delete(),
            b"UNLINK" => self.args("unlink", 1..)?.delete(),
            b"EXISTS" => self.args("exists", 1..)?.exists(),
            b"TOUCH" => self.args("touch", 1..)?.exists(),
            b"MSET" => self.args("mset", 2..)?.pairs(KeyspaceRequest::Set),
            b"MSETNX" => {
                let args = self.args("msetnx", 2..)?;
                // One slot is locked until all of them are written.
                let keys = args.words.count() / 2;
                if keys > limits::PAGE_KEYS {
                    return Err(ErrorReply::TooManyKeys { keys });
                }
                args.pairs(|pairs| KeyspaceRequest::SetAllAbsent { pairs, identity: None })
            }
            b"RENAME" => self.rename("rename", false),
            b"RENAMENX" => self.rename("renamenx", true),
            b"KEYS" => {
                let pattern = pattern(self.args("keys", 1..=1)?.next())?;
                Ok(NodeRequest::Keyspace(KeyspaceRequest::Keys(pattern)))
            }
            b"SCAN" => self.args("scan", 1..)?.scan(),
            b"RANDOMKEY" => {
                self.args("randomkey", ..=0)?;
                Ok(NodeRequest::Keyspace(KeyspaceRequest::Random))
            }
            b"FLUSHALL" => self.args("flushall", ..)?.flush(),
            b"FLUSHDB" => self.args("flushdb", ..)?.flush(),
            _ => super::server::parse(verb, self),
        }
    }

    fn rename(self, name: &'static str, if_absent: bool) -> Parsed<'a> {
        let [key, to] = self.exactly(name)?;
        let change = Change::Modify(Modify::Rename { to: checked_key(to)?, if_absent });
        Ok(NodeRequest::Write(Write::new(checked_key(key)?, change)))
    }
}

impl<'a> Args<'a> {
    fn checked(self) -> Result<KeyWords<'a>, ErrorReply> {
        for key in self.words {
            checked_key(key)?;
        }
        Ok(self.words)
    }

    fn delete(self) -> Parsed<'a> {
        let mut keys = self.checked()?;
        let all = keys;
        Ok(match (keys.next(), keys.next()) {
            (Some(key), None) => NodeRequest::Write(Write::new(key, Change::Modify(Modify::Delete))),
            _ => NodeRequest::Keyspace(KeyspaceRequest::Delete(all)),
        })
    }

    fn exists(self) -> Parsed<'a> {
        let mut keys = self.checked()?;
        let all = keys;
        Ok(match (keys.next(), keys.next()) {
            (Some(key), None) => NodeRequest::Read(presence(key, ReadLevel::default())),
            _ => NodeRequest::Keyspace(KeyspaceRequest::Exists(all)),
        })
    }

    fn pairs(self, request: impl FnOnce(KeyWords<'a>) -> KeyspaceRequest<'a>) -> Parsed<'a> {
        if !self.words.count().is_multiple_of(2) {
            return Err(wrong_number(self.name));
        }
        // No word can be longer than a value may be.
        for key in self.words.step_by(2) {
            checked_key(key)?;
        }
        Ok(NodeRequest::Keyspace(request(self.words)))
    }

    fn scan(mut self) -> Parsed<'a> {
        let cursor = cursor(self.next()).ok_or_else(|| ErrorReply::redis("ERR invalid cursor"))?;
        let mut scan = Scan { cursor, pattern: None, count: USUAL_COUNT, is_of_strings: true };
        while let Some(option) = self.words.next() {
            let Some(word) = self.words.next() else { return Err(syntax()) };
            match option {
                option if option.eq_ignore_ascii_case(b"COUNT") => {
                    scan.count = u64::try_from(integer(word).ok_or_else(not_an_integer)?).unwrap_or(0);
                    if scan.count == 0 {
                        return Err(syntax());
                    }
                }
                option if option.eq_ignore_ascii_case(b"MATCH") => scan.pattern = Some(pattern(word)?),
                option if option.eq_ignore_ascii_case(b"TYPE") => {
                    scan.is_of_strings = word.eq_ignore_ascii_case(b"string");
                }
                _ => return Err(syntax()),
            }
        }
        Ok(NodeRequest::Keyspace(KeyspaceRequest::Scan(scan)))
    }

    fn flush(mut self) -> Parsed<'a> {
        match (self.words.next(), self.words.next()) {
            (None, _) => {}
            (Some(how), None) if how.eq_ignore_ascii_case(b"SYNC") || how.eq_ignore_ascii_case(b"ASYNC") => {}
            _ => return Err(syntax()),
        }
        Ok(NodeRequest::Keyspace(KeyspaceRequest::Flush))
    }
}

/// Redis parses a cursor with C's `strtoul`: nothing is 0, and a negative number wraps around.
fn cursor(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return Some(0);
    }
    let number: i128 = std::str::from_utf8(word).ok()?.parse().ok()?;
    let magnitude = u64::try_from(number.unsigned_abs()).ok()?;
    Some(if number < 0 { magnitude.wrapping_neg() } else { magnitude })
}

/// A pattern within its limit.
pub(super) fn pattern(word: &[u8]) -> Result<&[u8], ErrorReply> {
    if word.len() > limits::PATTERN_BYTES {
        return Err(ErrorReply::TooLong { what: "pattern", len: word.len(), limit: limits::PATTERN_BYTES });
    }
    Ok(word)
}

fn presence(key: &[u8], level: ReadLevel) -> Read<'_> {
    Read { key, wanted: Wanted::Detail(Detail::Presence), level }
}

/// A request that asks whether a key is present.
#[must_use]
pub fn exists_request(key: &[u8], level: ReadLevel) -> KeyRequest<'_> {
    KeyRequest::Read(presence(key, level))
}
