//! What a stranger sends: a million random inputs bring no reader down, none takes more memory than a small multiple of
//! what was sent, and none looks twice at what it has seen.
//!
//! The inputs come from a seed, so a failure is found again by running the test again.

#![expect(clippy::indexing_slicing, reason = "an index out of its range fails the test, as it should")]

mod support;

use allocation_counter::measure;
use proto::cluster_map::{ClusterMap, MapUpdate};
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame, FrameDecoder, begin_array, encode_array, push_word};
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::limits;
use proto::peer::{Effect, Forward, Hello, KeyRequest, LinkKind, LinkMessage, LinkReply};
use proto::reply::{Reply, ReplyDecoder};
use proto::request::{CoordinatorRequest, NodeRequest};
use proto::response::Response;
use proto::session::{CoordinatorMessage, Join, NodeMessage, SlotAt};
use proto::slot::SlotId;
use support::Random;

/// Inputs of each of the two kinds; every reader gets each of them.
const INPUTS: usize = 500_000;

/// The most memory for each byte of input. A word takes at least 6 bytes on the wire and 8 in the decoder's list,
/// which doubles as it grows and is held twice while it moves; the counter sees every move.
const BYTES_PER_BYTE: usize = 6;

/// Memory that even the shortest input may take: the smallest lists and an address.
const BYTES_AT_LEAST: usize = 512;

/// Gives a frame to every reader of frames.
fn read_frame(frame: Frame<'_>) {
    if let Ok(NodeRequest::Peer(words)) = NodeRequest::parse(frame) {
        let _ = Hello::parse(words.0);
    }
    if let Ok(CoordinatorRequest::Join(words)) = CoordinatorRequest::parse(frame) {
        let _ = Join::parse(words.0);
    }
    if let Frame::Array(words) = frame {
        let _ = LinkMessage::parse(words);
        let _ = LinkReply::parse(words);
        let _ = Forward::parse(words);
        let _ = NodeMessage::parse(words);
        let _ = CoordinatorMessage::parse(words);
    }
}

/// How a stream was read: how many frames, how many bytes they took, and the error that ended it.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    frames: usize,
    bytes: usize,
    error: Option<ErrorReply>,
}

/// Reads the frames of `input`, of which only the first `cut` bytes have come at first.
fn read_frames(input: &[u8], cut: usize) -> Outcome {
    let mut decoder = FrameDecoder::new();
    let mut outcome = Outcome::default();
    for end in [cut, input.len()] {
        loop {
            let rest = &input[outcome.bytes..end];
            match decoder.decode(rest) {
                Ok(Some((frame, consumed))) => {
                    assert!(0 < consumed && consumed <= rest.len(), "no progress, or more than there is");
                    read_frame(frame);
                    outcome.frames += 1;
                    outcome.bytes += consumed;
                }
                Ok(None) => break,
                Err(error) => {
                    // Nobody should ask again; who does must not bring the process down.
                    let _ = decoder.decode(rest);
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
    }
    outcome
}

/// As [`read_frames`], for answers: how many, how many bytes, and whether an error ended them.
fn read_replies(input: &[u8], cut: usize) -> (usize, usize, bool) {
    let mut decoder = ReplyDecoder::new();
    let (mut replies, mut bytes) = (0, 0);
    for end in [cut, input.len()] {
        loop {
            let rest = &input[bytes..end];
            match decoder.decode(rest) {
                Ok(Some((reply, consumed))) => {
                    assert!(0 < consumed && consumed <= rest.len(), "no progress, or more than there is");
                    let _ = Response::from(reply);
                    replies += 1;
                    bytes += consumed;
                }
                Ok(None) => break,
                Err(_) => {
                    let _ = decoder.decode(rest);
                    return (replies, bytes, true);
                }
            }
        }
    }
    (replies, bytes, false)
}

/// Every reader reads the input whole and in two pieces, to the same end, within its memory.
fn every_reader_survives(input: &[u8], cut: usize) {
    let allowed = u64::try_from(BYTES_PER_BYTE * input.len() + BYTES_AT_LEAST).expect("it fits");
    let (mut whole, mut pieces) = (Outcome::default(), Outcome::default());
    let taken = measure(|| whole = read_frames(input, input.len()));
    assert!(taken.bytes_max <= allowed, "{} bytes taken for {}: {input:?}", taken.bytes_max, input.len());
    let taken = measure(|| pieces = read_frames(input, cut));
    assert!(taken.bytes_max <= allowed, "{} bytes taken for {}: {input:?}", taken.bytes_max, input.len());
    assert_eq!(whole, pieces, "a cut at {cut} changes what is read of {input:?}");

    let (mut whole, mut pieces) = ((0, 0, false), (0, 0, false));
    let taken = measure(|| whole = read_replies(input, input.len()));
    assert!(taken.bytes_max <= allowed, "{} bytes taken for {}: {input:?}", taken.bytes_max, input.len());
    let taken = measure(|| pieces = read_replies(input, cut));
    assert!(taken.bytes_max <= allowed, "{} bytes taken for {}: {input:?}", taken.bytes_max, input.len());
    assert_eq!(whole, pieces, "a cut at {cut} changes what is read of {input:?}");
}

fn random_byte(random: &mut Random) -> u8 {
    // Half of them from the bytes that the codecs look for.
    const SIGNS: &[u8] = b"*$+-:\r\n 019\t-,";
    let bits = random.bits();
    let [byte, which, ..] = bits.to_le_bytes();
    if bits >> 63 == 0 { byte } else { SIGNS[usize::from(which) % SIGNS.len()] }
}

/// One of each thing that is ever sent.
fn valid_inputs() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = [
        "PUT key value\n",
        "put\tk  v w \r\n",
        "PUT k v 127.0.0.1:5001,h:2\n",
        "GET key\n",
        "DELETE key\r\n",
        "REPLICATE k v\n",
        "INFO\nPING\nQUIT\n",
        "REGISTER_NODE 127.0.0.1 5001\n",
        "UNREGISTER_NODE ::1 5001\n",
        "HEARTBEAT host 65535\n",
        "GET_NODES_FOR_KEY user:1\n",
        "LIST_NODES\n",
        "MAP\nWATCH_MAP\n",
        "PUT k ключ\n",
    ]
    .map(|line| line.as_bytes().to_vec())
    .into();
    for words in [&["GET", "a"][..], &["PUT", "key", "a\r\nb"], &["DELETE", ""], &["REGISTER_NODE", "h", "1"], &[]] {
        let mut bytes = Vec::new();
        encode_array(words, &mut bytes);
        inputs.push(bytes);
    }
    fn written(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        bytes
    }
    let (slot, epoch, incarnation) = (SlotId(77), Epoch(3), Incarnation(4));
    let version = Version { epoch, seq: 9 };
    let slots = vec![SlotAt { slot, version: proto::cluster_map::MapVersion(8) }; 3];
    let addr = NodeAddr::new("h", 1).expect("an address");
    let (put, delete) = (Effect::Put(b"v"), Effect::Delete);
    inputs.extend([
        written(|out| LinkMessage::Fill { slot, epoch, last: version, count: 2 }.encode(out)),
        written(|out| LinkMessage::Replicate { slot, version, previous: version, key: b"k", effect: put }.encode(out)),
        written(|out| LinkMessage::Entry { version, key: b"k", effect: delete }.encode(out)),
        written(|out| LinkReply::Deposed { slot, epoch }.encode(out)),
        written(|out| Forward { at_replica: true, request: KeyRequest::Get { key: b"k" } }.encode(out)),
        written(|out| NodeMessage::Admit { follower: incarnation, slots: slots.clone() }.encode(out)),
        written(|out| NodeMessage::Positions { query: 3, last: vec![(slot, version); 3] }.encode(out)),
        written(|out| CoordinatorMessage::HandOver { to: incarnation, slots: slots.clone() }.encode(out)),
        written(|out| CoordinatorMessage::AskPositions { query: 3, slots: vec![slot; 3] }.encode(out)),
        written(|out| CoordinatorMessage::Joined { incarnation, text: "OK" }.encode(out)),
        written(|out| Join { addr: addr.clone(), incarnation: None, map: "" }.encode(out)),
        written(|out| {
            let cluster = "c".to_owned();
            Hello { kind: LinkKind::Forward, cluster, from_addr: addr, from: incarnation, to: incarnation }.encode(out);
        }),
    ]);
    for response in [
        Response::Ok,
        Response::Value(b"value\r\n"),
        Response::NotFound,
        Response::Text("OK text".into()),
        Response::Lines(vec!["a".into(), "b".into()]),
        Response::Error(ErrorReply::UnknownCommand),
        Response::Error(ErrorReply::Busy("full".into())),
    ] {
        inputs.push(written(|out| response.encode(Encoding::Array, out)));
    }
    inputs
}

/// One to four changes: a byte replaced, put in or taken out, a piece repeated or taken from another input, the end
/// cut off.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(8)).min(input.len());
        match random.below(6) {
            0 if at < input.len() => input[at] = random_byte(random),
            1 => input.insert(at, random_byte(random)),
            2 => drop(input.drain(at..end)),
            3 => input.extend_from_within(at..end),
            4 => input.extend_from_slice(&others[random.below(others.len())]),
            _ if random.below(4) == 0 => input.truncate(at),
            _ => {}
        }
    }
}

/// Runs `INPUTS` inputs that `make` writes, on two threads with a seed each.
fn with_random_inputs(seed: u64, make: impl Fn(&mut Random, &mut Vec<u8>) + Sync) {
    let half = |seed| {
        let mut random = Random::new(seed);
        let mut input = Vec::new();
        for _ in 0..INPUTS / 2 {
            input.clear();
            make(&mut random, &mut input);
            let cut = random.below(input.len() + 1);
            every_reader_survives(&input, cut);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| half(seed));
        half(seed + 1);
    });
}

#[test]
fn half_a_million_inputs_of_random_bytes_bring_no_reader_down() {
    with_random_inputs(1, |random, input| {
        let len = random.below(40);
        input.extend((0..len).map(|_| random_byte(random)));
    });
}

#[test]
fn half_a_million_damaged_inputs_bring_no_reader_down() {
    let valid = valid_inputs();
    for one in &valid {
        every_reader_survives(one, one.len() / 2);
    }
    with_random_inputs(3, |random, input| {
        input.extend_from_slice(&valid[random.below(valid.len())]);
        mutate(input, &valid, random);
    });
}

#[test]
fn damaged_maps_bring_nobody_down() {
    const MAP: &str = "OK Map version=9 since=0 cluster=c slots=16\nNODE 1 127.0.0.1:5001 up\nNODE 2 h:1 down\n\
                       SLOTS 0 14 epoch=3 version=9 primary=1 isr=1,2 learners=-\n\
                       SLOTS 15 15 epoch=1 version=1 primary=- isr=- learners=2";
    let valid: Vec<Vec<u8>> = MAP.split_inclusive('\n').map(|line| line.as_bytes().to_vec()).collect();
    let mut random = Random::new(5);
    let mut input = Vec::new();
    for _ in 0..50_000 {
        input.clear();
        input.extend_from_slice(MAP.as_bytes());
        mutate(&mut input, &valid, &mut random);
        let text = String::from_utf8_lossy(&input);
        let mut update = None;
        let taken = measure(|| update = MapUpdate::parse(text.split('\n')).ok());
        // A list of incarnations takes the most: 8 bytes for each digit and comma, and twice while it moves.
        let allowed = u64::try_from(12 * text.len() + 2_048).expect("it fits");
        assert!(taken.bytes_max <= allowed, "{} bytes taken for {}: {text}", taken.bytes_max, text.len());
        if let Some(update) = update {
            let _ = ClusterMap::updated(None, &update);
        }
    }
}

#[test]
fn a_declared_length_takes_no_memory() {
    for declared in [
        &b"*1048576\r\n"[..],
        b"*1048577\r\n",
        b"*99999999999999999999\r\n",
        b"*2\r\n$67108864\r\n",
        b"*2\r\n$67108865\r\n",
        b"*1048576\r\n$67108864\r\n",
    ] {
        let taken = measure(|| {
            let _ = FrameDecoder::new().decode(declared);
        });
        assert_eq!(taken.bytes_total, 0, "{declared:?}");
    }
    for declared in [&b"$67108864\r\n"[..], b"$99999999999999999999\r\n", b"$200000000\r\n"] {
        let taken = measure(|| {
            let _ = ReplyDecoder::new().decode(declared);
        });
        assert_eq!(taken.bytes_total, 0, "{declared:?}");
    }
}

#[test]
fn the_longest_array_of_empty_words_takes_a_small_multiple_of_its_size() {
    let mut input = Vec::new();
    begin_array(limits::ARRAY_WORDS, &mut input);
    for _ in 0..limits::ARRAY_WORDS {
        push_word(b"", &mut input);
    }
    let mut outcome = Outcome::default();
    let taken = measure(|| outcome = read_frames(&input, input.len() / 2));
    assert_eq!(outcome, Outcome { frames: 1, bytes: input.len(), error: None });
    assert!(taken.bytes_max <= u64::try_from(BYTES_PER_BYTE * input.len()).unwrap(), "{taken:?}");
}

#[test]
fn an_idle_decoder_does_not_keep_the_memory_of_a_huge_array() {
    let mut input = Vec::new();
    encode_array(&vec![""; 100_000], &mut input);
    let mut decoder = FrameDecoder::new();
    let taken = measure(|| {
        assert!(decoder.decode(&input).unwrap().is_some());
        assert!(decoder.decode(b"").unwrap().is_none());
    });
    assert!(taken.bytes_max > 800_000, "{taken:?}");
    assert!(taken.bytes_current <= 8_192, "{taken:?}");
}

#[test]
fn a_decoder_takes_memory_once_for_a_thousand_requests() {
    let mut stream = Vec::new();
    for _ in 0..1_000 {
        encode_array(&["PUT", "key", "value"], &mut stream);
        stream.extend_from_slice(b"PUT key value\n");
    }
    let mut outcome = Outcome::default();
    let taken = measure(|| outcome = read_frames(&stream, stream.len()));
    assert_eq!(outcome.frames, 2_000);
    assert_eq!(taken.count_total, 1, "the list of words is made once for a connection: {taken:?}");
}

/// Feeds `input` in pieces, and after each call writes newlines over what the decoder has seen but for its `last` bytes
/// and the `kept` first ones. A decoder that looked there again would find the end of a line, or a broken header.
fn feed_and_overwrite(input: &[u8], piece: usize, kept: usize, last: usize, mut decode: impl FnMut(&[u8]) -> bool) {
    let mut buf = Vec::with_capacity(input.len());
    let mut overwritten = kept;
    for piece in input.chunks(piece) {
        buf.extend_from_slice(piece);
        let complete = decode(&buf);
        assert_eq!(complete, buf.len() == input.len(), "after {} bytes", buf.len());
        let seen = buf.len().saturating_sub(last);
        if let Some(old) = buf.get_mut(overwritten..seen) {
            old.fill(b'\n');
            overwritten = seen;
        }
    }
}

#[test]
fn no_byte_of_a_line_is_looked_at_twice() {
    // 1 MiB byte by byte would be 5 * 10^11 looks if each call started again at the front.
    for (len, piece) in [(1 << 20, 1), (16 << 20, 1024)] {
        let mut input = vec![b'v'; len];
        input[len - 1] = b'\n';
        let mut decoder = FrameDecoder::new();
        feed_and_overwrite(&input, piece, 0, 0, |buf| match decoder.decode(buf).unwrap() {
            Some((Frame::Line(line), consumed)) => line.len() == len - 1 && consumed == len,
            Some((Frame::Array(_), _)) => panic!("an array"),
            None => false,
        });
    }
}

#[test]
fn no_byte_of_an_array_is_looked_at_twice() {
    let value = vec![b'v'; 1 << 18];
    let words = [&b"PUT"[..], &value, b"key", &value, b"", &value];
    let mut input = Vec::new();
    encode_array(&words, &mut input);
    for piece in [1, 1024] {
        let mut decoder = FrameDecoder::new();
        // The header that is being read is read from its start when its end has come: at most so many bytes.
        feed_and_overwrite(&input, piece, 0, limits::ARRAY_HEADER_BYTES, |buf| match decoder.decode(buf).unwrap() {
            Some((Frame::Array(found), consumed)) => {
                assert!(found.map(<[u8]>::len).eq(words.iter().map(|word| word.len())));
                consumed == input.len()
            }
            Some((Frame::Line(_), _)) => panic!("a line"),
            None => false,
        });
    }
}

#[test]
fn no_byte_of_an_answer_is_looked_at_twice() {
    let text = "x".repeat(1 << 20);
    let bulk = format!("$1048576\r\n{text}\r\n");
    let line = format!("+{text}\r\n");
    for (input, kept) in [(bulk, "$1048576\r\n".len()), (line, 1)] {
        for piece in [1, 1024] {
            let mut decoder = ReplyDecoder::new();
            feed_and_overwrite(input.as_bytes(), piece, kept, 2, |buf| match decoder.decode(buf).unwrap() {
                Some((Reply::Bulk(found), consumed)) => found.len() == text.len() && consumed == input.len(),
                Some((Reply::Text(found), consumed)) => found.len() == text.len() && consumed == input.len(),
                Some(other) => panic!("{other:?}"),
                None => false,
            });
        }
    }
}
