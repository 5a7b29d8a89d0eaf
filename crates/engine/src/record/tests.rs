use super::*;

#[test]
fn a_record_gives_back_what_it_was_made_of() {
    let version = Version { epoch: Epoch(1), seq: 2 };
    let identity = Some(Identity { client: b"me", seq: 7 });
    let (long_key, long_value) = ([b'k'; limits::KEY_BYTES], [b'v'; 70_000]);
    let mut writes = Vec::new();
    Writes::push(b"k", Effect::Delete, &mut writes);
    Writes::push(b"l", Effect::PutUntil(&long_value[..300], WallTime(9)), &mut writes);
    let ops = [
        Op::Write { key: b"k", effect: Effect::Put(b"v"), identity: None, reply: b"" },
        Op::Write { key: b"k", effect: Effect::Put(b""), identity, reply: b"" },
        Op::Write { key: b"", effect: Effect::Delete, identity, reply: b"" },
        Op::Write { key: b"k", effect: Effect::Delete, identity: None, reply: b"" },
        Op::Write { key: b"k", effect: Effect::Expire, identity: None, reply: b"" },
        Op::Write { key: b"k", effect: Effect::PutUntil(b"v", WallTime(7)), identity: None, reply: b"" },
        Op::Write { key: b"k", effect: Effect::PutUntil(b"", WallTime(u64::MAX)), identity, reply: b"" },
        Op::Declined { identity: Identity { client: b"me", seq: 7 }, found: version, reply: b"" },
        Op::Declined { identity: Identity { client: b"me", seq: 7 }, found: version, reply: b":0" },
        Op::Write { key: b"k", effect: Effect::Put(b"v"), identity, reply: b":12" },
        Op::Write { key: b"", effect: Effect::PutUntil(b"", WallTime(9)), identity, reply: &[b'$'; 1_025] },
        Op::Write { key: b"k", effect: Effect::Delete, identity, reply: b"+" },
        Op::Write { key: &long_key, effect: Effect::Put(b"v"), identity, reply: b":12" },
        Op::Write { key: b"k", effect: Effect::PutUntil(&long_value, WallTime(7)), identity: None, reply: b"" },
        Op::Multi { writes: Writes::known(&writes), identity: None, reply: b"" },
        Op::Multi { writes: Writes::known(&writes), identity, reply: b":1" },
        Op::Barrier,
    ];
    // Each one both with everything fitting into the word, and with something that does not.
    for epoch in [0, 1, SHORT_EPOCH_MOST, SHORT_EPOCH_MOST + 1, u64::MAX] {
        for seq in [0, 1, SHORT_SEQ_MOST, SHORT_SEQ_MOST + 1, u64::MAX] {
            let version = Version { epoch: Epoch(epoch), seq };
            for op in ops {
                let record = Record::new(version, op);
                assert_eq!((record.version(), record.op()), (version, op));
                let parts: Vec<_> = record.parts().collect();
                if let Op::Multi { writes, .. } = op {
                    assert!(parts.iter().map(|part| (part.key(), part.effect())).eq(writes.iter()));
                    assert!(parts.iter().all(|part| part.version() == version));
                } else {
                    assert_eq!(parts, []);
                }
            }
        }
    }
}

#[test]
fn keys_and_values_of_every_length_have_room() {
    let bytes = [7; 4_200];
    for key_len in [0, 1, 255, 256, 257] {
        for value_len in (0..300).chain(3_800..bytes.len()) {
            let (key, value) = (&bytes[..key_len], &bytes[..value_len]);
            let record = Record::entry(Version::NONE, key, Effect::Put(value));
            assert_eq!((record.key(), record.value()), (key, Some(value)));
        }
    }
}

#[test]
fn what_records_are_compared_by_is_all_that_they_hold() {
    let version = |epoch, seq| Version { epoch: Epoch(epoch), seq };
    let put = |version, key: &[u8], value: &[u8]| Record::entry(version, key, Effect::Put(value));
    let records = [
        put(version(1, 2), b"ke", b"y"),
        put(version(1, 2), b"k", b"ey"),
        put(version(1, 3), b"ke", b"y"),
        put(version(2, 2), b"ke", b"y"),
        put(version(1 << 40, 2), b"ke", b"y"),
        Record::entry(version(1, 2), b"ke", Effect::Delete),
        Record::entry(version(1, 2), b"ke", Effect::Expire),
    ];
    for (at, one) in records.iter().enumerate() {
        for (with, other) in records.iter().enumerate() {
            assert_eq!((one == other, one.digest() == other.digest()), (at == with, at == with), "{one:?} {other:?}");
        }
    }
}

#[test]
fn a_deadline_costs_those_who_have_none_nothing() {
    let size = |effect| Record::entry(Version::NONE, b"k", effect).size();
    assert_eq!(size(Effect::Put(b"v")) + DEADLINE_BYTES, size(Effect::PutUntil(b"v", WallTime(1))));
}

#[test]
fn what_a_value_takes_is_known_before_its_record_is_made() {
    for (value, identity) in [(&b"v"[..], None), (&[7; 5_000], Some(Identity { client: b"me", seq: 7 }))] {
        for (effect, has_deadline) in [(Effect::Put(value), false), (Effect::PutUntil(value, WallTime(7)), true)] {
            for version in [Version::NONE, Version { epoch: Epoch(1 << 10), seq: 1 }] {
                let record = Record::new(version, Op::Write { key: b"key", effect, identity, reply: b"" });
                let expected = Record::usage_of_value(version, b"key", value, has_deadline, identity);
                assert_eq!(record.usage(), Usage::of_values(expected));
            }
        }
    }
}

#[test]
fn when_a_key_was_used_is_no_part_of_the_write() {
    let [used, unused] = [0, 1].map(|_| Record::entry(Version::NONE, b"k", Effect::Put(b"v")));
    used.touch(u16::MAX);
    assert_eq!((used.age(u16::MAX), used.age(2), unused.age(7)), (0, 3, 7));
    assert_eq!(used, unused);
}

#[test]
fn a_usual_record_takes_twelve_bytes_more_than_key_and_value() {
    let record = Record::entry(Version { epoch: Epoch(9), seq: 1_000_000 }, &[7; 16], Effect::Put(&[7; 100]));
    assert_eq!((record.size(), record.usage()), (128, Usage::of_values(128)));
}

#[test]
fn only_a_plain_put_of_the_same_size_is_overwritten() {
    let version = |epoch, seq| Version { epoch: Epoch(epoch), seq };
    let put = |value| Op::Write { key: b"key", effect: Effect::Put(value), identity: None, reply: b"" };
    let identity = Some(Identity { client: b"me", seq: 7 });
    let others = [
        Op::Write { key: b"key", effect: Effect::Put(b"12"), identity, reply: b"" },
        Op::Write { key: b"key", effect: Effect::Put(b"12"), identity, reply: b":1" },
        Op::Write { key: b"key", effect: Effect::PutUntil(b"12", WallTime(9)), identity: None, reply: b"" },
        Op::Write { key: b"key", effect: Effect::Delete, identity: None, reply: b"" },
        Op::Write { key: b"key", effect: Effect::Expire, identity: None, reply: b"" },
        Op::Barrier,
    ];
    for other in others {
        let mut record = Record::new(version(1, 2), other);
        let len = record.bytes().len().saturating_sub(3);
        assert!(!record.write_in_place(version(1, 3), &vec![b'x'; len]), "{record:?}");
        assert_eq!((record.version(), record.op()), (version(1, 2), other));
    }
    let (long, last) = (vec![b'x'; SHORT_MOST as usize - 2], version(SHORT_EPOCH_MOST, SHORT_SEQ_MOST));
    for (from, old, to, new, is_done) in [
        (version(1, 2), &b"12"[..], version(1, 3), &b"34"[..], true),
        (version(1, 2), b"", version(7, 1), b"", true),
        (version(1, 2), b"12", last, b"34", true),
        (last, b"12", version(1, 2), b"34", true),
        (version(1, 2), b"12", version(1, 3), b"345", false),
        (version(1, 2), b"12", version(1, 3), b"3", false),
        (version(1, 2), b"12", version(1, SHORT_SEQ_MOST + 1), b"34", false),
        (version(1, 2), b"12", version(SHORT_EPOCH_MOST + 1, 3), b"34", false),
        (version(1, SHORT_SEQ_MOST + 1), b"12", version(1, SHORT_SEQ_MOST + 2), b"34", false),
        (version(1, 2), &long, version(1, 3), &long, false),
    ] {
        let mut record = Record::new(from, put(old));
        record.touch(5);
        let held = record.clone();
        assert!(!record.write_in_place(to, new), "another holds {record:?}");
        assert_eq!(held.op(), put(old));
        drop(held);
        assert_eq!(record.write_in_place(to, new), is_done, "{from:?} to {to:?}");
        let expected = if is_done { (to, put(new)) } else { (from, put(old)) };
        assert_eq!((record.version(), record.op(), record.age(5)), (expected.0, expected.1, 0));
    }
}
