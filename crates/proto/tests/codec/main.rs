//! Round trips: requests, answers, messages and maps read back as written, in both encodings, however the bytes are
//! split.

#![expect(clippy::indexing_slicing, reason = "an index out of its range fails the test, as it should")]

mod answers;
mod maps;
mod messages;
mod requests;

use proptest::collection::vec;
use proptest::prelude::*;
use proto::frame::{Frame, FrameDecoder};
use proto::id::{Epoch, NodeAddr, Version};
use proto::limits;

/// The usual number of random inputs, without a file of failed cases.
fn cases() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// Bytes, with a high share of those that are special to a codec.
fn bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let meaningful = proptest::sample::select(b" \t\r\n*$+-0159:,.hGET\xff\0".to_vec());
    vec(prop_oneof![3 => meaningful, 1 => any::<u8>()], 0..longest)
}

/// Mostly one word of text, sometimes anything.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => "[!-~а-я🦀]{1,20}".prop_map(String::into_bytes), 1 => bytes(40)]
}

/// Mostly text that a line can carry, sometimes anything.
fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![2 => "[!-~а-я][ -~\tа-я🦀]{0,60}".prop_map(String::into_bytes), 1 => bytes(200)]
}

/// The name of a client: like a key, but never empty and not as long.
fn client() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), bytes(limits::CLIENT_BYTES)).prop_flat_map(|(first, rest)| {
        let any_bytes = std::iter::once(first).chain(rest).collect::<Vec<u8>>();
        prop_oneof![3 => "[!-~]{1,16}".prop_map(String::into_bytes), 1 => Just(any_bytes)]
    })
}

fn addr() -> impl Strategy<Value = NodeAddr> {
    let host = prop_oneof!["[a-z0-9_.-]{1,30}", any::<u128>().prop_map(|ip| std::net::Ipv6Addr::from(ip).to_string())];
    (host, 1..=u16::MAX).prop_map(|(host, port)| NodeAddr::new(&host, port).expect("an address"))
}

/// Any valid counter.
fn counter() -> impl Strategy<Value = u64> {
    0..=limits::COUNTER
}

fn version() -> impl Strategy<Value = Version> {
    (counter(), counter()).prop_map(|(epoch, seq)| Version { epoch: Epoch(epoch), seq })
}

/// Reads a stream as a connection would that receives it in pieces: `pieces` gives their lengths, repeated as needed.
fn read_stream<T>(stream: &[u8], pieces: &[usize], mut read: impl FnMut(Frame<'_>) -> T) -> Vec<T> {
    let (mut decoder, mut buf, mut rest, mut out) = (FrameDecoder::new(), Vec::new(), stream, Vec::new());
    for piece in pieces.iter().cycle() {
        let (now, later) = rest.split_at((*piece).min(rest.len()));
        buf.extend_from_slice(now);
        rest = later;
        while let Some((frame, consumed)) = decoder.decode(&buf).expect("the stream has only frames") {
            assert!(0 < consumed && consumed <= buf.len());
            out.push(read(frame));
            buf.drain(..consumed);
        }
        if rest.is_empty() {
            break;
        }
    }
    assert!(buf.is_empty() && !decoder.is_inside_frame(), "the stream ends with a frame");
    out
}

/// Reads one array that is the whole of `bytes`, with a decoder that saw it grow byte by byte.
fn with_array<T>(bytes: &[u8], read: impl FnOnce(proto::frame::Words<'_>) -> T) -> T {
    let mut decoder = FrameDecoder::new();
    for cut in 0..bytes.len() {
        assert!(decoder.decode(&bytes[..cut]).expect("a frame").is_none(), "complete before its end, at {cut}");
    }
    match decoder.decode(bytes).expect("a frame") {
        Some((Frame::Array(words), consumed)) if consumed == bytes.len() => read(words),
        other => panic!("not one array: {other:?}"),
    }
}
