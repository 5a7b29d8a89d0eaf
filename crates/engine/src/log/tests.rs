use super::*;
use proto::peer::{Effect, Op, Writes};

fn version(epoch: u64, seq: u64) -> Version {
    Version { epoch: Epoch(epoch), seq }
}

fn append(log: &mut Log, record: Record, replaced: Option<Record>, parts: Vec<Entry>, budget: &TailBudget) {
    log.append(&record, &parts);
    log.keep(Entry { record, replaced }, parts, budget);
}

fn log_of(epochs: &[u64], budget: &TailBudget) -> Log {
    let mut log = Log::default();
    for (at, epoch) in epochs.iter().enumerate() {
        let op = Op::Write { key: b"k", effect: Effect::Put(b"v"), identity: None, reply: b"" };
        let record = Record::new(version(*epoch, at as u64 + 1), op);
        append(&mut log, record, None, Vec::new(), budget);
    }
    log
}

#[test]
fn logs_agree_up_to_the_end_of_their_last_common_term() {
    let budget = TailBudget::default();
    for (mine, theirs, common) in [
        (&[1, 1, 1][..], &[1, 1][..], version(1, 2)),
        (&[1, 1], &[1, 1, 1], version(1, 2)),
        (&[1, 1, 1], &[1, 1, 2, 2], version(1, 2)),
        (&[1, 1, 3], &[1, 1, 2, 2], version(1, 2)),
        (&[1, 1, 2, 2], &[1, 1, 2, 3], version(2, 3)),
        (&[1], &[2], Version::NONE),
        (&[], &[1, 2], Version::NONE),
        // The second epoch began at another record, so it is not the same history.
        (&[1, 2, 2], &[2, 2], Version::NONE),
    ] {
        let (mine, theirs) = (log_of(mine, &budget), log_of(theirs, &budget));
        assert_eq!(mine.common(&theirs.terms(), theirs.last()), Some(common), "{mine:?} {theirs:?}");
        assert_eq!(theirs.common(&mine.terms(), mine.last()), Some(common));
    }
}

#[test]
fn the_tail_is_cut_and_continued_but_never_below_the_durable_mark() {
    let budget = TailBudget::default();
    let mut log = log_of(&[1, 1, 1, 2, 2], &budget);
    log.set_durable(2, &budget);
    assert!(log.cut(version(1, 1), &budget).is_none());
    assert_eq!(log.after(version(1, 3)).unwrap().len(), 2);
    assert!(log.after(version(1, 1)).is_none());
    assert!(log.after(version(2, 3)).is_none(), "no place of this log");
    let cut = log.cut(version(1, 3), &budget).unwrap();
    assert_eq!(cut.iter().map(|entry| entry.record.version()).collect::<Vec<_>>(), [version(2, 5), version(2, 4)]);
    assert_eq!((log.last(), log.terms().0.len()), (version(1, 3), 1));
    log.set_durable(9, &budget);
    assert_eq!((log.durable(), budget.used()), (3, 0));
}

#[test]
fn what_is_cut_or_restored_is_counted_once() {
    let budget = TailBudget::default();
    let mut log = log_of(&[1, 1, 1], &budget);
    let (terms, tail): (_, Vec<_>) = (log.terms(), log.tail_entries().cloned().collect());
    assert!(log.cut(version(1, 2), &budget).is_some());
    log.drop_tail(&budget);
    assert_eq!(budget.used(), 0);
    let mut log = Log::filled(version(1, 3), 0, 0, &terms, Vec::new());
    log.restore_tail(tail, &budget);
    assert_eq!(budget.used(), log.tail_entries().map(Entry::bytes).sum::<usize>());
    log.drop_tail(&budget);
    assert_eq!(budget.used(), 0);
}

/// A log with a plain record, a write of several keys, and another plain record; epoch 1.
fn log_with_several_keys(budget: &TailBudget) -> Log {
    let mut log = log_of(&[1], budget);
    let mut writes = Vec::new();
    Writes::push(b"k", Effect::Delete, &mut writes);
    Writes::push(b"l", Effect::Put(b"w"), &mut writes);
    let record = Record::new(version(1, 2), Op::Multi { writes: Writes::known(&writes), identity: None, reply: b"" });
    let replaced = log.tail().first().cloned();
    let parts = record.parts().zip([replaced, None]).map(|(record, replaced)| Entry { record, replaced }).collect();
    append(&mut log, record, None, parts, budget);
    let last = Record::entry(version(1, 3), b"k", Effect::Put(b"x"));
    append(&mut log, last, None, Vec::new(), budget);
    log
}

#[test]
fn a_write_of_several_keys_is_sent_once_and_cut_with_all_its_parts() {
    let budget = TailBudget::default();
    let mut log = log_with_several_keys(&budget);
    let sent = |log: &Log, from| {
        let after = log.after(from).unwrap();
        after.iter().map(|(previous, record)| (previous.seq, record.version().seq)).collect::<Vec<_>>()
    };
    assert_eq!(sent(&log, version(1, 1)), [(1, 2), (2, 3)]);
    assert_eq!(sent(&log, version(1, 2)), [(2, 3)]);
    assert!(log.has_tombstone(2));
    let cut = log.cut(version(1, 1), &budget).unwrap();
    let undone: Vec<_> = cut.iter().filter(|entry| entry.record.is_write()).collect();
    assert_eq!(undone.iter().map(|entry| entry.record.key()).collect::<Vec<_>>(), [b"k", b"l", b"k"]);
    assert_eq!(undone.last().unwrap().replaced.as_ref().unwrap().value(), Some(&b"v"[..]));
    assert!(!log.has_tombstone(2), "the key is not deleted any more");
    assert_eq!((log.last(), sent(&log, Version::NONE)), (version(1, 1), vec![(0, 1)]));
    log.set_durable(1, &budget);
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_parts_of_a_record_are_kept_and_dropped_with_it() {
    let budget = TailBudget::default();
    let all = log_with_several_keys(&budget).tail_entries().map(Entry::bytes).sum::<usize>();
    assert_eq!(budget.used(), all);
    for limit in 1..2 * all {
        let budget = TailBudget::new(limit);
        let mut log = log_with_several_keys(&budget);
        let mut numbers: Vec<_> = log.tail().iter().map(|record| record.version().seq).collect();
        log.set_durable_keeping_tail(3, &budget);
        numbers.extend(log.tail_entries().map(|entry| entry.record.version().seq));
        let of_the_second = numbers.iter().filter(|number| **number == 2).count();
        assert!(of_the_second.is_multiple_of(3), "{limit}: {numbers:?}");
        log.drop_tail(&budget);
        assert_eq!(budget.used(), 0, "{limit}");
    }
}

#[test]
fn for_one_that_is_away_the_tail_is_kept_up_to_half_of_the_room() {
    let budget = TailBudget::default();
    let mut log = log_of(&[1, 1, 1, 1], &budget);
    let size = budget.used() / 4;
    log.set_durable_keeping_tail(3, &budget);
    assert_eq!((log.durable(), log.after(version(1, 1)).unwrap().len(), log.tail().len()), (3, 3, 1));
    assert!(log.cut(version(1, 2), &budget).is_none(), "what is durable is never cut");
    let record = |seq| Record::entry(version(1, seq), b"k", Effect::Put(b"v"));
    for seq in [5, 6] {
        append(&mut log, record(seq), Some(record(seq - 1)), Vec::new(), &budget);
    }
    assert_eq!(budget.used(), 8 * size, "with what they have replaced");
    log.set_durable_keeping_tail(5, &budget);
    assert_eq!(budget.used(), 7 * size, "what is durable needs it no more");
    assert!(log.cut(version(1, 5), &budget).unwrap()[0].replaced.is_some());
    let small = TailBudget::new(4 * size);
    let mut log = log_of(&[1, 1, 1, 1], &small);
    log.set_durable_keeping_tail(4, &small);
    assert_eq!((small.used(), log.after(version(1, 2)).unwrap().len()), (2 * size, 2));
    assert!(log.after(version(1, 1)).is_none());
    log.set_durable(4, &small);
    assert_eq!((small.used(), log.after(version(1, 3))), (0, None), "nobody is away any more");
}

#[test]
fn a_log_that_has_forgotten_its_terms_does_not_guess() {
    let budget = TailBudget::default();
    let epochs: Vec<u64> = (1..=2 * TERMS as u64).collect();
    let long = log_of(&epochs, &budget);
    assert_eq!(long.common(&log_of(&[1], &budget).terms(), version(1, 1)), None);
    assert_eq!(long.common(&long.terms(), long.last()), Some(long.last()));
}

#[test]
fn terms_that_no_log_can_have_are_compared_all_the_same() {
    let log = log_of(&[1, 1], &TailBudget::default());
    let terms = Terms(vec![Term { epoch: Epoch(1), first: 1 }, Term { epoch: Epoch(2), first: 0 }]);
    assert_eq!(log.common(&terms, version(2, 9)), Some(version(1, 0)));
}

#[test]
fn a_short_tail_takes_one_line_of_the_cache() {
    assert_eq!(size_of::<Tail>(), 64);
}
