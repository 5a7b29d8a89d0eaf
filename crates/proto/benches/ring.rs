//! What it costs to find a key's owners, next to the hash that it starts with, and to parse a request, next to copying
//! it.
//!
//! `cargo bench -p proto --bench ring`

use std::time::Duration;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use proto::frame::{FrameDecoder, encode_array};
use proto::id::NodeAddr;
use proto::request::NodeRequest;
use proto::ring::HashRing;
use proto::slot::{KeyToPlace, Position, SLOT_BITS};
use sha2::{Digest, Sha256};

fn main() {
    // Divan's default sample of 100 calls is too small to time a tenth of a microsecond.
    divan::Divan::default().min_time(Duration::from_millis(200)).config_with_args().main();
}

const KEY: &[u8] = b"user:1234567";
const VIRTUAL_NODES: [u32; 3] = [3, 16, 128];
const VALUE_BYTES: [usize; 3] = [16, 1_024, 65_536];

fn ring(nodes: usize, virtual_nodes: u32) -> HashRing {
    let names = (1..=nodes).map(|i| NodeAddr::new(&format!("10.0.{}.{}", i / 250, i % 250), 5001).expect("an address"));
    HashRing::with_nodes(virtual_nodes, names)
}

/// Enough keys that the processor cannot learn the path of a single lookup.
fn keys() -> Vec<Vec<u8>> {
    (0..4_096).map(|i| format!("user:{:07}", i * 241).into_bytes()).collect()
}

/// Calls `look_up` with one key after another.
fn for_each_key<T>(bencher: Bencher<'_, '_>, look_up: impl Fn(&[u8]) -> T + Sync) {
    let keys = keys();
    let next = std::sync::atomic::AtomicUsize::new(0);
    bencher.bench(|| {
        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % keys.len();
        look_up(black_box(keys.get(at).map_or(KEY, Vec::as_slice)))
    });
}

#[divan::bench]
fn sha256_of_the_key(bencher: Bencher<'_, '_>) {
    for_each_key(bencher, |key| Sha256::digest(key));
}

#[divan::bench]
fn slot_of_the_key(bencher: Bencher<'_, '_>) {
    for_each_key(bencher, |key| SLOT_BITS.slot(&Position::of(key)));
}

/// The slots of keys that have arrived together, hashed one by one and back to back.
#[divan::bench(args = [false, true])]
fn slots_of_32_keys(bencher: Bencher<'_, '_>, back_to_back: bool) {
    let keys: Vec<_> = keys().into_iter().take(32).collect();
    let (mut to_place, mut slots) = (Vec::new(), Vec::new());
    bencher.counter(ItemsCount::new(keys.len())).bench_local(|| {
        to_place.clear();
        slots.clear();
        if back_to_back {
            to_place.extend(black_box(&keys).iter().map(|key| KeyToPlace::new(key)));
            slots.extend(to_place.iter().map(|key| key.slot(SLOT_BITS)));
        } else {
            slots.extend(black_box(&keys).iter().map(|key| SLOT_BITS.slot(&Position::of(key))));
        }
        black_box(&slots).len()
    });
}

/// Three owners of a key, including the hash of the key.
#[divan::bench(args = VIRTUAL_NODES, consts = [3, 10, 100])]
fn owners<const NODES: usize>(bencher: Bencher<'_, '_>, virtual_nodes: u32) {
    let ring = ring(NODES, virtual_nodes);
    for_each_key(bencher, |key| ring.owners(key, 3).len());
}

/// The map of all slots, after a node has joined or left.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn slot_map_of_1000_nodes_of_128(bencher: Bencher<'_, '_>) {
    let ring = ring(1_000, 128);
    bencher.bench(|| ring.slot_owners(SLOT_BITS, 3));
}

/// One more node, and the map of all slots after it.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn join_and_slot_map_of_1000_nodes_of_128(bencher: Bencher<'_, '_>) {
    let ring = ring(999, 128);
    let new = NodeAddr::new("10.9.9.9", 5001).expect("an address");
    bencher.with_inputs(|| ring.clone()).bench_refs(|ring| {
        ring.add(new.clone());
        ring.slot_owners(SLOT_BITS, 3).len()
    });
}

/// The ring itself, from scratch, as when a coordinator starts: 128,000 hashes, sorted.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn ring_of_1000_nodes_of_128(bencher: Bencher<'_, '_>) {
    bencher.bench(|| ring(1_000, 128));
}

/// Decodes and parses one request.
fn read_request(bencher: Bencher<'_, '_>, bytes: &[u8]) {
    let mut decoder = FrameDecoder::new();
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| {
        let (frame, consumed) = decoder.decode(black_box(bytes)).expect("a frame").expect("the whole of it");
        black_box(NodeRequest::parse(frame).expect("a request"));
        consumed
    });
}

#[divan::bench]
fn get_as_line(bencher: Bencher<'_, '_>) {
    read_request(bencher, b"GET user:1234567\n");
}

#[divan::bench]
fn get_as_array(bencher: Bencher<'_, '_>) {
    let mut bytes = Vec::new();
    encode_array(&[b"GET", KEY], &mut bytes);
    read_request(bencher, &bytes);
}

#[divan::bench(args = VALUE_BYTES)]
fn put_as_line(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let value = vec![b'v'; value_bytes];
    read_request(bencher, &[b"PUT ", KEY, b" ", &value, b"\n"].concat());
}

#[divan::bench(args = VALUE_BYTES)]
fn put_as_array(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let mut bytes = Vec::new();
    encode_array(&[b"PUT", KEY, &vec![b'v'; value_bytes]], &mut bytes);
    read_request(bencher, &bytes);
}

/// Copies as many bytes as the PUT above has: the baseline for parsing them.
#[divan::bench(args = VALUE_BYTES)]
fn memcpy(bencher: Bencher<'_, '_>, value_bytes: usize) {
    let bytes = vec![b'v'; value_bytes + KEY.len() + 6];
    let mut copy = vec![0; bytes.len()];
    bencher
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)));
}
