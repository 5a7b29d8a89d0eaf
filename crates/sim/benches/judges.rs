//! Measures what it costs to judge a history, without generating it.
//!
//! `cargo bench -p sim --bench judges`

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use sim::history::{Action, History, Operation, Outcome};
use sim::judges::{judge, zones};

fn main() {
    divan::main();
}

const OPERATIONS: u64 = 1_000_000;

/// Eight clients taking turns, each operation overlapping its neighbors; half writes and half reads, in the order of
/// their calls. With `conditional`, a third of the writes are swaps.
fn history(operations: u64, keys: u64, conditional: bool) -> History {
    let mut history = History::new();
    let mut values: Vec<Option<String>> = vec![None; usize::try_from(keys).expect("few keys")];
    for n in 0..operations {
        let key = n / 2 % keys;
        let value = values.get_mut(usize::try_from(key).expect("few keys")).expect("a value for each key");
        let action = if n % 2 == 1 {
            Action::Get { result: value.clone() }
        } else {
            let new = format!("v{n}");
            match value.replace(new.clone()) {
                Some(expected) if conditional && n % 3 == 0 => {
                    Action::Swap { expected, value: new, outcome: Outcome::Done }
                }
                _ => Action::Put { value: new },
            }
        };
        let client = u32::try_from(n % 8).expect("a remainder");
        history.push(Operation { client, key: format!("user:{key}"), call: n * 10, end: Some(n * 10 + 70), action });
    }
    history
}

#[divan::bench(sample_count = 10)]
fn zones_of_one_key(bencher: Bencher<'_, '_>) {
    let history = history(OPERATIONS, 1, false);
    let operations: Vec<_> = history.operations().iter().collect();
    bencher.counter(ItemsCount::new(OPERATIONS)).bench_local(|| zones::check(black_box(&operations)));
}

#[divan::bench(sample_count = 10, args = [1, 1_000])]
fn puts_and_gets(bencher: Bencher<'_, '_>, keys: u64) {
    let history = history(OPERATIONS, keys, false);
    bencher.counter(ItemsCount::new(OPERATIONS)).bench_local(|| judge(black_box(&history), u64::MAX).expect("a pass"));
}

#[divan::bench(sample_count = 10, args = [1, 1_000])]
fn swaps_too(bencher: Bencher<'_, '_>, keys: u64) {
    let operations = OPERATIONS / 10;
    let history = history(operations, keys, true);
    bencher.counter(ItemsCount::new(operations)).bench_local(|| judge(black_box(&history), u64::MAX).expect("a pass"));
}
