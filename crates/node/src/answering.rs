//! Turns what the state machine says of a request into the response.

use std::time::Duration;

use engine::losses::{Loss, Losses};
use engine::memory::MemoryFigures;
use engine::modify::OwnedReply;
use engine::record::Record;
use engine::slot::{Refusal, Written};
use proto::decimal;
use proto::error::ErrorReply;
use proto::id::NodeAddr;
use proto::level::AckLevel;
use proto::peer::{Detail, Effect, ModifyReply, WallTime, Wanted, Write};
use proto::response::{Response, is_line};

use crate::driver::Driver;

/// The `TTL` of an absent key.
const NO_KEY: i64 = -2;

/// The `TTL` of a key without a deadline.
const NO_DEADLINE: i64 = -1;

/// The longest value, in bytes, that Redis stores in one allocation with its header and reports as `embstr`.
const EMBEDDED_BYTES: usize = 44;

/// How many bytes of a key or value a line of `LOSSES` shows.
const SHOWN_BYTES: usize = 1_000;

/// The longest answer to `LOSSES`, in bytes. The client program accepts four times as much.
const LISTED_BYTES: usize = 16 * 1024 * 1024;

/// Why a request for a key is not answered before the first map.
pub(crate) const NO_MAP: &str =
    "this node has no map of the cluster yet; nothing was changed, check that the coordinator is running";

/// The answer to a read. `now` is called only where it matters.
#[must_use]
pub(crate) fn found(record: Option<&Record>, wanted: Wanted, now: impl Fn() -> WallTime) -> Response<'_> {
    let present = record.and_then(|record| Some((record, record.value()?)));
    match (wanted, present) {
        (Wanted::Ttl, None) => Response::Number(NO_KEY),
        (Wanted::Ttl, Some((record, _))) => match record.deadline() {
            // To the nearest second, as in Redis.
            Some(deadline) => Response::count(deadline.0.saturating_sub(now().0).saturating_add(500) / 1_000),
            None => Response::Number(NO_DEADLINE),
        },
        (Wanted::Versioned, Some((record, value))) => Response::Versioned(record.version(), value),
        (Wanted::Value, Some((_, value))) => Response::Value(value),
        (Wanted::Value | Wanted::Versioned, None) => Response::NotFound,
        (Wanted::Detail(wanted), present) => detail(present, wanted, now),
    }
}

/// The answer to a write.
#[must_use]
pub(crate) fn written<'a>(written: &'a Written, write: &Write<'_>) -> Response<'a> {
    match *written {
        Written::Modified(_, ref reply) => modified(reply),
        _ if write.change.is_counted() => Response::Number(i64::from(matches!(written, Written::Done(_)))),
        Written::Done(version) if write.expected.is_some() => Response::Written(version),
        Written::Done(_) => Response::Ok,
        Written::Conflict(version) => Response::Conflict(version),
    }
}

/// The error of a multi-key request that may have changed only some of its keys.
#[must_use]
pub(crate) fn half_done(error: &ErrorReply) -> ErrorReply {
    ErrorReply::Unknown(format!(
        "some keys may have been changed and others not, repeat it; one part was answered: {error}"
    ))
}

/// The answer to how long a key has not been used.
#[must_use]
pub(crate) fn idle(idle: Option<Duration>) -> Response<'static> {
    idle.map_or(Response::NotFound, |idle| Response::count(idle.as_secs()))
}

/// The answer to a read of something other than the value.
fn detail<'a>(present: Option<(&'a Record, &'a [u8])>, wanted: Detail, now: impl Fn() -> WallTime) -> Response<'a> {
    let Some((record, value)) = present else {
        return match wanted {
            Detail::MillisLeft | Detail::Deadline | Detail::DeadlineMillis => Response::Number(NO_KEY),
            Detail::Length | Detail::Presence => Response::Number(0),
            Detail::Kind => Response::Simple("none"),
            Detail::Range(..) => Response::Value(b""),
            Detail::Encoding | Detail::References | Detail::Idle | Detail::Frequency | Detail::Memory => {
                Response::NotFound
            }
        };
    };
    let deadline = |shown: fn(u64) -> u64| match record.deadline() {
        Some(deadline) => Response::count(shown(deadline.0)),
        None => Response::Number(NO_DEADLINE),
    };
    match wanted {
        Detail::MillisLeft => match record.deadline() {
            Some(deadline) => Response::count(deadline.0.saturating_sub(now().0)),
            None => Response::Number(NO_DEADLINE),
        },
        // To the nearest second, as in Redis.
        Detail::Deadline => deadline(|millis| millis.saturating_add(500) / 1_000),
        Detail::DeadlineMillis => deadline(|millis| millis),
        Detail::Length => Response::count(value.len() as u64),
        Detail::Presence | Detail::References => Response::Number(1),
        Detail::Kind => Response::Simple("string"),
        Detail::Range(start, end) => Response::Value(range(value, start, end)),
        Detail::Encoding => Response::Value(match value {
            value if decimal::integer(value).is_some() => b"int",
            value if value.len() <= EMBEDDED_BYTES => b"embstr",
            _ => b"raw",
        }),
        // Only the primary knows it, and answers with [`idle`].
        Detail::Idle => Response::Number(0),
        Detail::Frequency => Response::Error(ErrorReply::redis(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
             between policies at runtime LRU and LFU data will take some time to adjust.",
        )),
        Detail::Memory => Response::count(record.memory_bytes() as u64),
    }
}

/// The bytes from offset `start` to offset `end` inclusive; negative offsets count from the end.
fn range(value: &[u8], start: i64, end: i64) -> &[u8] {
    let len = i64::try_from(value.len()).unwrap_or(i64::MAX);
    if start < 0 && end < 0 && start > end {
        return b"";
    }
    let from_start = |offset: i64| if offset < 0 { len.saturating_add(offset).max(0) } else { offset };
    let (start, end) = (from_start(start), from_start(end).min(len - 1));
    match (usize::try_from(start), usize::try_from(end)) {
        (Ok(start), Ok(end)) => value.get(start..=end).unwrap_or_default(),
        _ => b"",
    }
}

/// The answer to a read-modify-write.
fn modified(reply: &OwnedReply) -> Response<'_> {
    match reply.as_reply() {
        ModifyReply::Done => Response::Ok,
        ModifyReply::Nothing => Response::NotFound,
        ModifyReply::Number(number) => Response::Number(number),
        ModifyReply::Value(value) => Response::Value(value),
        ModifyReply::Error(mistake) => Response::Error(ErrorReply::redis(mistake.to_string())),
    }
}

/// The answer to a request that was refused for good.
#[must_use]
pub(crate) fn refused(refusal: Refusal, driver: &Driver) -> ErrorReply {
    match refusal {
        Refusal::NotHere => ErrorReply::Moved,
        Refusal::TooFew { level, needs, has } => {
            let advice = if level == AckLevel::All { "ACK quorum" } else { "ACK async, which promises less" };
            ErrorReply::Unavailable(format!(
                "{level} needs {needs} in-sync copies, this slot has {has}: wait for those that are away, start another \
                 node, or ask for {advice}"
            ))
        }
        Refusal::CrossSlot => ErrorReply::redis("CROSSSLOT Keys in request don't hash to the same slot"),
        Refusal::Stale => ErrorReply::Stale(
            "this write is older than every remembered write of its client: nothing was done now, but it may have \
             been done before; read the key"
                .to_owned(),
        ),
        Refusal::Busy => ErrorReply::Busy(
            "too many writes with an identity are remembered for this slot; nothing was changed, try again later, or \
             without ONCE"
                .to_owned(),
        ),
        Refusal::Full { .. } => {
            let MemoryFigures { used, limit, evicts, .. } = driver.node().memory_figures();
            let changed =
                if evicts { "the key is unchanged, others may have been evicted" } else { "nothing was changed" };
            ErrorReply::Full(format!(
                "the key's primary, {}, has no memory left for it: {used} bytes are in use, --max-memory is {limit}; {changed}, \
                 {FULL}",
                driver.addr()
            ))
        }
        Refusal::ReplicaFull(replica) => {
            let map = driver.node().map();
            let addr = map.as_ref().and_then(|map| map.member(replica)).map(|member| &member.addr);
            let replica = addr.map_or_else(|| "a replica".to_owned(), |addr| format!("the replica {addr}"));
            ErrorReply::Full(format!("{replica} of the key is over its --max-memory; nothing was changed, {FULL}"))
        }
    }
}

/// What to do when there is no memory for a write.
const FULL: &str = "reads continue: DELETE keys, raise --max-memory or start another node, then repeat it";

/// The answer to a write at its primary, this node, whose disk is full or has failed.
#[must_use]
pub(crate) fn disk_refuses(addr: &NodeAddr, is_full: bool) -> ErrorReply {
    let why = if is_full {
        "is full; nothing was changed, reads continue: free some space on it, or try again once another node leads \
         the key"
    } else {
        "has failed; nothing was changed: try again, another node is about to take over the key"
    };
    ErrorReply::Unavailable(format!("the disk of the key's primary, {addr}, {why}"))
}

/// The answer to a write that was carried out but has not become durable.
#[must_use]
pub(crate) fn not_durable(identified: bool) -> ErrorReply {
    ErrorReply::Unknown(format!(
        "the primary has the write, but its replicas did not confirm it in time: it may or may not have taken effect; \
         {}",
        advice(identified)
    ))
}

/// The answer to a write that was sent to the primary, and not answered by it.
#[must_use]
pub(crate) fn unanswered(identified: bool) -> ErrorReply {
    ErrorReply::Unknown(format!(
        "the write was sent to the primary, which did not answer: it may or may not have taken effect; {}",
        advice(identified)
    ))
}

/// What to do about a write that may or may not have taken effect.
fn advice(identified: bool) -> &'static str {
    if identified { "repeat it with the same ONCE" } else { "read the key to find out" }
}

/// The answer to `LOSSES`.
#[must_use]
pub(crate) fn losses(losses: &Losses) -> Response<'static> {
    if losses.count() == 0 {
        return Response::Text("OK No losses".to_owned());
    }
    let mut lines = vec![format!("OK {} losses:", losses.count())];
    let mut bytes = 0;
    // If there is no room for all of them, the latest are told. An escaped byte is up to four characters.
    lines.extend(losses.iter().rev().map(loss).take_while(|line| {
        bytes += line.len() + 1;
        bytes <= LISTED_BYTES
    }));
    if let Some(listed) = lines.get_mut(1..) {
        listed.reverse();
    }
    Response::Lines(lines)
}

fn loss(Loss { slot, record, common, winner }: &Loss) -> String {
    let (slot, version) = (slot.0, record.version());
    let place = format!("slot={slot} version={version} common={common} epoch={winner}");
    let key = shown(record.key());
    match record.effect() {
        Effect::Put(value) => format!("{place} PUT {key} {}", shown(value)),
        Effect::PutUntil(value, deadline) => format!("{place} PUT {key} {} until={}", shown(value), deadline.0),
        Effect::Delete | Effect::Expire => format!("{place} DELETE {key}"),
    }
}

/// Bytes on a line: unchanged if a line can carry them, otherwise escaped. Of many, the first, and how many there are.
fn shown(bytes: &[u8]) -> String {
    let (begin, rest) = bytes.split_at_checked(SHOWN_BYTES).unwrap_or((bytes, b""));
    let begin = match std::str::from_utf8(begin) {
        // The cut is within a character.
        Err(error) if !rest.is_empty() && error.error_len().is_none() => {
            begin.get(..error.valid_up_to()).unwrap_or(begin)
        }
        _ => begin,
    };
    let text =
        if is_line(begin) { String::from_utf8_lossy(begin).into_owned() } else { begin.escape_ascii().to_string() };
    if rest.is_empty() { text } else { format!("{text}... ({} bytes)", bytes.len()) }
}

#[cfg(test)]
mod tests {
    use engine::record::Record;
    use proto::id::{Epoch, Version};
    use proto::slot::SlotId;

    use super::*;

    fn lost(key: &[u8], value: &[u8]) -> Loss {
        let record = Record::entry(Version::NONE, key, Effect::Put(value));
        Loss { slot: SlotId(1), record, common: Version::NONE, winner: Epoch(2) }
    }

    fn lines(all: &Losses) -> Vec<String> {
        if let Response::Lines(lines) = losses(all) { lines } else { panic!("there are losses") }
    }

    #[test]
    fn long_keys_and_values_of_lost_writes_are_cut() {
        let mut all = Losses::default();
        all.add(lost(b"k", &[b'v'; SHOWN_BYTES]));
        all.add(lost(&[b'k'; SHOWN_BYTES + 1], &[0xff; 2_000_000]));
        // The cut would be within the last character.
        all.add(lost(b"k", format!("{}\u{e4}v", "v".repeat(SHOWN_BYTES - 1)).as_bytes()));
        let [head, whole, cut, text] = &lines(&all)[..] else { panic!("three losses") };
        assert_eq!(head, "OK 3 losses:");
        assert!(whole.ends_with(&format!(" PUT k {}", "v".repeat(SHOWN_BYTES))), "{whole}");
        let (key, value) = ("k".repeat(SHOWN_BYTES), "\\xff".repeat(SHOWN_BYTES));
        assert!(cut.ends_with(&format!(" PUT {key}... (1001 bytes) {value}... (2000000 bytes)")), "{cut}");
        assert!(text.ends_with(&format!(" PUT k {}... (1002 bytes)", "v".repeat(SHOWN_BYTES - 1))), "{text}");
    }

    #[test]
    fn the_latest_losses_are_listed_where_all_of_them_escaped_are_too_long() {
        let mut all = Losses::default();
        for number in 0..9_000 {
            all.add(lost(format!("k{number}").as_bytes(), &[0xff; 1_500]));
        }
        let lines = lines(&all);
        assert_eq!(lines[0], "OK 9000 losses:");
        assert!((4_000..4_200).contains(&lines.len()), "{}", lines.len());
        assert!(lines.iter().map(|line| line.len() + 1).sum::<usize>() <= LISTED_BYTES + lines[0].len() + 1);
        assert!(lines[lines.len() - 2].contains(" k8998 ") && lines[lines.len() - 1].contains(" k8999 "));
    }
}
