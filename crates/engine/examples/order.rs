//! Measures what the order of keys costs those who never ask for it: a million keys in 16,384 tables are read and
//! overwritten at random, alternately without and with an order; prints the medians. `cargo run --release -p engine
//! --example order`.
#![expect(clippy::disallowed_methods, reason = "it measures times")]
#![expect(clippy::print_stdout, reason = "what it measures is what it is run for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use engine::record::Record;
use engine::table::{KeyHasher, Table};
use proto::id::{Epoch, Version};
use proto::peer::Effect;
use proto::slot::{Position, SLOT_BITS};

const KEYS: u64 = 1_000_000;
const OPERATIONS: u64 = 1_000_000;
const ROUNDS: usize = 7;

fn main() {
    let hasher = KeyHasher::new(7);
    let mut tables: Vec<Table> = SLOT_BITS.slots().map(|_| Table::default()).collect();
    for number in 0..KEYS {
        insert(&mut tables, &hasher, number, number);
    }
    let before = resident();
    let start = Instant::now();
    let listed: usize = tables.iter_mut().map(|table| table.records_from(b"").count()).sum();
    println!("the first walk over {listed} keys: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    let start = Instant::now();
    let found = tables.iter_mut().filter_map(|table| table.records_from(b"key:0000000000500000").next()).count();
    println!("a page begins in {found} slots: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    if let (Some(before), Some(after)) = (before, resident()) {
        println!("memory of the order: {:.1} bytes a key", (after - before) as f64 / KEYS as f64);
    }
    let mut seq = KEYS;
    for (what, run) in [
        ("read", read as fn(&mut [Table], &KeyHasher, u64, u64)),
        ("overwrite", |tables, hasher, number, seq| insert(tables, hasher, number % KEYS, seq)),
        ("new key", |tables, hasher, _, seq| insert(tables, hasher, seq, seq)),
    ] {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for (times, has_order) in [(&mut without, false), (&mut with, true)] {
                for table in &mut tables {
                    seq += 1;
                    let added = record(KEYS * 1_000 + seq, seq);
                    table.insert(&hasher, added.clone());
                    black_box(table.records_from(b"").count());
                    // One more key makes the order stale; writing the same key again does not.
                    table.insert(&hasher, if has_order { added } else { record(KEYS * 2_000 + seq, seq) });
                }
                let start = Instant::now();
                let mut state = seq;
                for _ in 0..OPERATIONS / if what == "new key" { 20 } else { 1 } {
                    // A linear congruential generator (Knuth, MMIX) is random enough here.
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    seq += 1;
                    run(&mut tables, &hasher, (state >> 33) % KEYS, seq);
                }
                times.push(start.elapsed());
            }
        }
        let (without, with) = (median(without), median(with));
        println!("{what}: {without:?} without, {with:?} with: {:.3}", with.as_secs_f64() / without.as_secs_f64());
    }
}

fn read(tables: &mut [Table], hasher: &KeyHasher, number: u64, _: u64) {
    let key = key(number);
    black_box(table_of(tables, &key).get(hasher, &key));
}

fn insert(tables: &mut [Table], hasher: &KeyHasher, number: u64, seq: u64) {
    let record = record(number, seq);
    table_of(tables, record.key()).insert(hasher, record);
}

fn record(number: u64, seq: u64) -> Record {
    Record::entry(Version { epoch: Epoch(1), seq }, &key(number), Effect::Put(&[b'v'; 100]))
}

fn key(number: u64) -> Vec<u8> {
    format!("key:{number:016}").into_bytes()
}

fn table_of<'a>(tables: &'a mut [Table], key: &[u8]) -> &'a mut Table {
    let slot = SLOT_BITS.slot(&Position::of(key));
    tables.get_mut(usize::from(slot.0)).expect("a table for each slot")
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The process's resident memory, in bytes; `None` if the system does not report it.
fn resident() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    pages.split_whitespace().nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}
