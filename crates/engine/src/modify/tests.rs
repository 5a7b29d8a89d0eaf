//! What each modification does to a key's value.

use proto::id::{Epoch, Version};
use proto::peer::Effect;

use super::*;

const NOW: WallTime = WallTime(1_000);

fn record(value: &str, deadline: Option<u64>) -> Record {
    let version = Version { epoch: Epoch(1), seq: 1 };
    let effect = match deadline {
        Some(deadline) => Effect::PutUntil(value.as_bytes(), WallTime(deadline)),
        None => Effect::Put(value.as_bytes()),
    };
    Record::entry(version, b"k", effect)
}

/// The effect of a modification on a value, and what the client is told, as text.
fn come_to(modify: Modify<'_>, present: Option<(&str, Option<u64>)>) -> String {
    come_to_beside(modify, present, b"")
}

/// The same where another key has a value, too.
fn come_to_beside(modify: Modify<'_>, present: Option<(&str, Option<u64>)>, other: &[u8]) -> String {
    let record = present.map(|(value, deadline)| record(value, deadline));
    let (outcome, reply) = evaluate(&modify, record.as_ref(), |key| key == other, NOW);
    let outcome = match outcome {
        Outcome::Unchanged => "unchanged".to_owned(),
        Outcome::Delete => "deleted".to_owned(),
        Outcome::Put(value, None) => String::from_utf8_lossy(&value).into_owned(),
        Outcome::Put(value, Some(until)) => format!("{} until {}", String::from_utf8_lossy(&value), until.0),
        Outcome::Multi(writes) => Writes::known(&writes)
            .iter()
            .map(|(key, effect)| {
                let key = String::from_utf8_lossy(key);
                match effect {
                    Effect::Put(value) => format!("{key}={}", String::from_utf8_lossy(value)),
                    Effect::PutUntil(value, until) => {
                        format!("{key}={} until {}", String::from_utf8_lossy(value), until.0)
                    }
                    Effect::Delete | Effect::Expire => format!("{key} deleted"),
                }
            })
            .collect::<Vec<_>>()
            .join(", "),
    };
    let reply = match reply.as_reply() {
        ModifyReply::Done => "done".to_owned(),
        ModifyReply::Nothing => "nothing".to_owned(),
        ModifyReply::Number(number) => number.to_string(),
        ModifyReply::Value(value) => format!("value {}", String::from_utf8_lossy(value)),
        ModifyReply::Error(error) => error.to_string(),
    };
    format!("{outcome}; {reply}")
}

fn set(condition: Condition<'static>, expiry: Expiry, reply_mode: ReplyMode) -> Modify<'static> {
    Modify::Set { value: b"new", condition, expiry, reply_mode }
}

#[test]
fn a_condition_decides_whether_a_value_is_set() {
    use Condition::{Absent, Always, Equals, Present};
    let there = Some(("old", Some(5_000)));
    for (condition, expiry, reply_mode, present, expected) in [
        (Always, Expiry::Keep, ReplyMode::Done, there, "new until 5000; done"),
        (Always, Expiry::Keep, ReplyMode::Done, None, "new; done"),
        (Always, Expiry::Never, ReplyMode::Old, there, "new; value old"),
        (Always, Expiry::Never, ReplyMode::Old, None, "new; nothing"),
        (Absent, Expiry::Never, ReplyMode::Count, there, "unchanged; 0"),
        (Absent, Expiry::For(10), ReplyMode::Count, None, "new until 1010; 1"),
        (Absent, Expiry::Never, ReplyMode::Old, there, "unchanged; value old"),
        (Present, Expiry::Until(WallTime(7_000)), ReplyMode::Done, there, "new until 7000; done"),
        (Present, Expiry::Never, ReplyMode::Done, None, "unchanged; nothing"),
        (Equals(b"old"), Expiry::Never, ReplyMode::Done, there, "new; done"),
        (Equals(b"other"), Expiry::Never, ReplyMode::Done, there, "unchanged; nothing"),
        (Equals(b""), Expiry::Never, ReplyMode::Done, None, "unchanged; nothing"),
        (Always, Expiry::Until(WallTime(1_000)), ReplyMode::Done, there, "deleted; done"),
        (Always, Expiry::Until(WallTime(1)), ReplyMode::Done, None, "unchanged; done"),
    ] {
        assert_eq!(
            come_to(set(condition, expiry, reply_mode), present),
            expected,
            "{condition:?} {expiry:?} {reply_mode:?}"
        );
    }
}

#[test]
fn values_are_taken_and_given_other_deadlines() {
    let there = Some(("v", Some(5_000)));
    for (modify, present, expected) in [
        (Modify::Delete, there, "deleted; 1"),
        (Modify::Delete, None, "unchanged; 0"),
        (Modify::GetDel, there, "deleted; value v"),
        (Modify::GetDel, None, "unchanged; nothing"),
        (Modify::GetEx(Expiry::Never), there, "v; value v"),
        (Modify::GetEx(Expiry::Never), Some(("v", None)), "unchanged; value v"),
        (Modify::GetEx(Expiry::For(1)), there, "v until 1001; value v"),
        (Modify::GetEx(Expiry::Until(WallTime(5_000))), there, "unchanged; value v"),
        (Modify::GetEx(Expiry::Until(WallTime(999))), there, "deleted; value v"),
        (Modify::GetEx(Expiry::For(1)), None, "unchanged; nothing"),
    ] {
        assert_eq!(come_to(modify, present), expected, "{modify:?} {present:?}");
    }
}

#[test]
fn a_deadline_may_depend_on_the_one_before() {
    let with = |flags: &str| ExpireIf {
        has_none: flags.contains('N'),
        has_one: flags.contains('X'),
        is_earlier: flags.contains('G'),
        is_later: flags.contains('L'),
    };
    let (endless, ends) = (Some(("v", None)), Some(("v", Some(5_000))));
    for (flags, until, present, expected) in [
        ("", 6_000, endless, "v until 6000; 1"),
        ("", 6_000, None, "unchanged; 0"),
        ("N", 6_000, endless, "v until 6000; 1"),
        ("N", 6_000, ends, "unchanged; 0"),
        ("X", 6_000, endless, "unchanged; 0"),
        ("X", 6_000, ends, "v until 6000; 1"),
        ("G", 6_000, endless, "unchanged; 0"),
        ("G", 6_000, ends, "v until 6000; 1"),
        ("G", 5_000, ends, "unchanged; 0"),
        ("L", 6_000, endless, "v until 6000; 1"),
        ("L", 4_000, ends, "v until 4000; 1"),
        ("L", 6_000, ends, "unchanged; 0"),
        ("XL", 4_000, endless, "unchanged; 0"),
        ("", 5_000, ends, "unchanged; 1"),
        ("", 1_000, ends, "deleted; 1"),
        ("G", 1_000, ends, "unchanged; 0"),
    ] {
        let modify = Modify::Expire { expiry: Expiry::Until(WallTime(until)), condition: with(flags) };
        assert_eq!(come_to(modify, present), expected, "{flags} {until} {present:?}");
    }
}

#[test]
fn bytes_are_joined_and_the_deadline_is_kept() {
    let there = Some(("Hello", Some(5_000)));
    for (modify, present, expected) in [
        (Modify::Append(b" you"), there, "Hello you until 5000; 9"),
        (Modify::Append(b""), there, "unchanged; 5"),
        (Modify::Append(b""), None, "; 0"),
        (Modify::Append(b"a"), None, "a; 1"),
        (Modify::Overwrite(1, b"ipp"), there, "Hippo until 5000; 5"),
        (Modify::Overwrite(4, b"abc"), there, "Hellabc until 5000; 7"),
        (Modify::Overwrite(2, b"x"), None, "\0\0x; 3"),
        (Modify::Overwrite(7, b"x"), there, "Hello\0\0x until 5000; 8"),
        (Modify::Overwrite(9, b""), None, "unchanged; 0"),
        (Modify::Overwrite(u64::MAX, b""), there, "unchanged; 5"),
    ] {
        assert_eq!(come_to(modify, present), expected, "{modify:?}");
    }
}

#[test]
fn no_value_grows_past_its_limit() {
    let limit = limits::VALUE_BYTES as u64;
    let too_long = "unchanged; ERR string exceeds maximum allowed size (proto-max-bulk-len)";
    assert_eq!(come_to(Modify::Overwrite(limit, b"x"), None), too_long);
    assert_eq!(come_to(Modify::Overwrite(u64::MAX, b"x"), Some(("v", None))), too_long);
    let most = vec![b'v'; limits::VALUE_BYTES];
    let (outcome, reply) = evaluate(&Modify::Append(&most), None, |_| false, NOW);
    assert!(matches!(outcome, Outcome::Put(..)));
    assert_eq!(reply.as_reply(), ModifyReply::Number(limits::VALUE_BYTES as i64));
    assert_eq!(come_to(Modify::Append(&most), Some(("v", None))), too_long);
}

#[test]
fn numbers_are_added_or_refused() {
    let decimal = |text: &str| Modify::IncrementDecimal(Decimal::parse(text.as_bytes()).unwrap());
    for (modify, present, expected) in [
        (Modify::Increment(1), None, "1; 1"),
        (Modify::Increment(-3), Some(("1", Some(5_000))), "-2 until 5000; -2"),
        (Modify::Increment(1), Some(("01", None)), "unchanged; ERR value is not an integer or out of range"),
        (Modify::Increment(i64::MAX), Some(("1", None)), "unchanged; ERR increment or decrement would overflow"),
        (decimal("0.1"), Some(("0.2", Some(5_000))), "0.3 until 5000; value 0.3"),
        (decimal("-0.5"), None, "-0.5; value -0.5"),
        (decimal("1"), Some(("x", None)), "unchanged; ERR value is not a valid float"),
        (decimal("9e20"), Some(("9e20", None)), "unchanged; ERR increment would produce NaN or Infinity"),
    ] {
        assert_eq!(come_to(modify, present), expected, "{modify:?} {present:?}");
    }
}

#[test]
fn several_keys_are_set_only_if_all_are_absent() {
    let mut writes = Vec::new();
    for (key, value) in [(b"k", b"1"), (b"l", b"2")] {
        Writes::push(key, Effect::Put(value), &mut writes);
    }
    let set_all = Modify::SetAllAbsent(Writes::known(&writes));
    assert_eq!(come_to_beside(set_all, None, b"m"), "k=1, l=2; 1");
    assert_eq!(come_to_beside(set_all, None, b"l"), "unchanged; 0");
    assert_eq!(come_to_beside(set_all, Some(("old", None)), b"m"), "unchanged; 0");
}

#[test]
fn a_value_is_moved_to_another_key_with_its_deadline() {
    let (there, until) = (Some(("v", None)), Some(("v", Some(5_000))));
    for (to, if_absent, present, other, expected) in [
        (&b"l"[..], false, there, &b""[..], "k deleted, l=v; done"),
        (b"l", false, until, b"l", "k deleted, l=v until 5000; done"),
        (b"l", true, until, b"m", "k deleted, l=v until 5000; 1"),
        (b"l", true, there, b"l", "unchanged; 0"),
        (b"k", false, there, b"", "unchanged; done"),
        (b"k", true, there, b"", "unchanged; 0"),
        (b"k", false, None, b"", "unchanged; ERR no such key"),
        (b"l", true, None, b"l", "unchanged; ERR no such key"),
    ] {
        assert_eq!(come_to_beside(Modify::Rename { to, if_absent }, present, other), expected, "{to:?} {if_absent}");
    }
    let longest = "v".repeat(limits::VALUE_BYTES);
    assert_eq!(
        come_to(Modify::Rename { to: b"l", if_absent: false }, Some((&longest, None))),
        "unchanged; ERR string exceeds maximum allowed size (proto-max-bulk-len)"
    );
}
