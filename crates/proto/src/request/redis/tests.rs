//! Redis's syntax: what it means, and that malformed input is refused, whatever comes.

use super::*;
use crate::frame::{FrameDecoder, encode_array};
use crate::peer::Identity;
use crate::request::{KeyspaceRequest, Scan};

fn array<T>(words: &[&[u8]], look: impl FnOnce(Parsed<'_>) -> T) -> T {
    let mut bytes = Vec::new();
    encode_array(words, &mut bytes);
    let mut decoder = FrameDecoder::new();
    look(NodeRequest::parse(decoder.decode(&bytes).unwrap().unwrap().0))
}

fn of(text: &str) -> Vec<&[u8]> {
    text.split(' ').map(str::as_bytes).collect()
}

#[track_caller]
fn means(text: &str, change: Change<'_>) {
    array(&of(text), |parsed| assert_eq!(parsed, Ok(NodeRequest::Write(Write::new(b"k", change))), "{text}"));
}

#[track_caller]
fn refused(text: &str, error: &str) {
    array(&of(text), |parsed| assert_eq!(parsed.unwrap_err().to_string(), error, "{text}"));
}

#[test]
fn a_set_is_the_least_that_it_means() {
    let set =
        |condition, expiry, reply_mode| Change::Modify(Modify::Set { value: b"v", condition, expiry, reply_mode });
    means("SET k v", Change::Put(b"v"));
    means("set k v EX 10", Change::PutFor(b"v", 10_000));
    means("SET k v px 10", Change::PutFor(b"v", 10));
    means("SETEX k 10 v", Change::PutFor(b"v", 10_000));
    means("PSETEX k 10 v", Change::PutFor(b"v", 10));
    means("SET k v KEEPTTL", set(Condition::Always, Expiry::Keep, ReplyMode::Done));
    means("SET k v NX GET EX 1", set(Condition::Absent, Expiry::For(1_000), ReplyMode::Old));
    means("SET k v XX PXAT 5", set(Condition::Present, Expiry::Until(WallTime(5)), ReplyMode::Done));
    means("SET k v IFEQ w", set(Condition::Equals(b"w"), Expiry::Never, ReplyMode::Done));
    means("SETNX k v", set(Condition::Absent, Expiry::Never, ReplyMode::Count));
    means("GETSET k v", set(Condition::Always, Expiry::Never, ReplyMode::Old));
    for text in ["SET k v NX IFEQ w", "SET k v IFEQ", "SET k v IFEQ a IFEQ b", "SET k v EX 1 PX 1", "SET k v NX XX"] {
        refused(text, "ERR syntax error");
    }
}

#[test]
fn lives_are_within_their_limits() {
    let too_long = (limits::TTL_MILLIS + 1).to_string();
    refused(&format!("SET k v PX {too_long}"), "ERR invalid expire time in 'set' command");
    refused(&format!("PEXPIRE k {too_long}"), "ERR invalid expire time in 'pexpire' command");
    refused("SET k v PXAT 9223372036854775807", "ERR invalid expire time in 'set' command");
    means(&format!("PEXPIRE k {}", limits::TTL_MILLIS), Change::Expire(limits::TTL_MILLIS));
    means("EXPIRE k -9223372036854775", Change::Expire(0));
    let condition = ExpireIf { has_one: true, is_earlier: true, ..ExpireIf::default() };
    means("EXPIRE k 1 XX gt", Change::Modify(Modify::Expire { expiry: Expiry::For(1_000), condition }));
    means("PERSIST k", Change::Persist);
}

#[test]
fn numbers_and_bytes_are_read() {
    means("DECRBY k 5", Change::Modify(Modify::Increment(-5)));
    means("INCRBY k -5", Change::Modify(Modify::Increment(-5)));
    means("SETRANGE k 3 v", Change::Modify(Modify::Overwrite(3, b"v")));
    means("SETRANGE k 9223372036854775807 v", Change::Modify(Modify::Overwrite(limits::COUNTER, b"v")));
    refused("DECRBY k -9223372036854775808", "ERR decrement would overflow");
    refused("INCRBYFLOAT k nan", "ERR value is not a valid float");
}

#[test]
fn commands_about_several_keys_name_them() {
    array(&of("DEL a b"), |parsed| {
        let Ok(NodeRequest::Keyspace(KeyspaceRequest::Delete(keys))) = parsed else { panic!("{parsed:?}") };
        assert!(keys.eq([b"a", b"b"]));
    });
    means("UNLINK k", Change::Modify(Modify::Delete));
    array(&of("scan 7 match a* COUNT 5 type STRING"), |parsed| {
        let scan = Scan { cursor: 7, pattern: Some(b"a*"), count: 5, is_of_strings: true };
        assert_eq!(parsed, Ok(NodeRequest::Keyspace(KeyspaceRequest::Scan(scan))));
    });
    refused("MSET a 1 b", "ERR wrong number of arguments for 'mset' command");
    let long = vec![b'k'; limits::KEY_BYTES + 1];
    for words in [&[&b"DEL"[..], b"a", &long][..], &[b"MSET", &long, b"v"], &[b"INCR", &long], &[b"STRLEN", &long]] {
        array(words, |parsed| assert_eq!(parsed, Err(ErrorReply::key_too_long(long.len()))));
    }
}

#[test]
fn a_cursor_is_read_as_redis_reads_it() {
    let most = u64::MAX.to_string();
    for (text, cursor) in
        [("", 0), ("-0", 0), ("+5", 5), ("-1", u64::MAX), (&*format!("-{most}"), 1), (&*most, u64::MAX)]
    {
        let scan = Scan { cursor, pattern: None, count: 10, is_of_strings: true };
        array(&[b"SCAN", text.as_bytes()], |parsed| {
            assert_eq!(parsed, Ok(NodeRequest::Keyspace(KeyspaceRequest::Scan(scan))), "{text:?}");
        });
    }
    for cursor in ["18446744073709551616", "-18446744073709551616", "-", "+", "-+5", "--5", "5x"] {
        refused(&format!("SCAN {cursor}"), "ERR invalid cursor");
    }
}

#[test]
fn only_a_write_of_one_key_has_an_identity() {
    let identity = Some(Identity { client: b"me", seq: 7 });
    array(&of("ONCE me 7 INCR k"), |parsed| {
        let write = Write { identity, ..Write::new(b"k", Change::Modify(Modify::Increment(1))) };
        assert_eq!(parsed, Ok(NodeRequest::Write(write)));
    });
    for text in ["GET k", "DEL a b", "FOO", "TTL k", "ONCE me 7 SET k v", "EXISTS k", "TOUCH k", "GETEX k"] {
        refused(&format!("ONCE me 7 {text}"), "Invalid ONCE format");
    }
    refused("ONCE me 7 INCR", "ERR wrong number of arguments for 'incr' command");
}

#[test]
fn an_unknown_command_is_quoted_within_bounds() {
    let long = vec![b'a'; 70_000];
    let many: Vec<&[u8]> = std::iter::repeat_n(long.as_slice(), 100).collect();
    array(&many, |parsed| assert!(parsed.unwrap_err().to_string().len() < 400));
    array(&[b"FOO", b"a\0b", b"\xff"], |parsed| {
        let text = "ERR unknown command 'FOO', with args beginning with: 'a' '\u{fffd}' ";
        assert_eq!(parsed.unwrap_err().to_string(), text);
    });
    array(&[b"OBJECT", &long, b"k"], |parsed| assert!(parsed.unwrap_err().to_string().len() < 400));
}

#[test]
fn every_command_takes_whatever_words_come() {
    const NAMES: [&str; 40] = [
        "SET",
        "SETNX",
        "GETSET",
        "SETEX",
        "PSETEX",
        "GETDEL",
        "GETEX",
        "APPEND",
        "STRLEN",
        "GETRANGE",
        "SUBSTR",
        "SETRANGE",
        "INCR",
        "DECR",
        "INCRBY",
        "DECRBY",
        "INCRBYFLOAT",
        "EXPIRE",
        "PEXPIRE",
        "EXPIREAT",
        "PEXPIREAT",
        "PERSIST",
        "TTL",
        "PTTL",
        "EXPIRETIME",
        "TYPE",
        "OBJECT",
        "MEMORY",
        "DEL",
        "EXISTS",
        "MSET",
        "MSETNX",
        "RENAME",
        "KEYS",
        "SCAN",
        "RANDOMKEY",
        "FLUSHALL",
        "TOUCH",
        "MGET",
        "GET",
    ];
    let words: [&[u8]; 12] = [
        b"",
        b"\xff",
        b"-1",
        b"9223372036854775807",
        b"EX",
        b"PXAT",
        b"KEEPTTL",
        b"GET",
        b"USAGE",
        b"1e999",
        b"COUNT",
        b"0",
    ];
    for name in NAMES {
        for a in words {
            for b in words {
                for c in words {
                    for count in 0..=4 {
                        let all = [name.as_bytes(), a, b, c, a];
                        array(&all[..=count], |parsed| {
                            if let Err(error) = parsed {
                                assert!(error.code().is_some(), "{name} {a:?} {b:?} {c:?}: {error}");
                            }
                        });
                    }
                }
            }
        }
    }
}
