//! Hostile input: a million random inputs crash no reader, none takes more memory than a small multiple of what was
//! sent, and none makes a reader scan the same bytes twice.
//!
//! The inputs come from a seed, so rerunning the test reproduces a failure.

#![expect(clippy::indexing_slicing, reason = "an index out of its range fails the test, as it should")]

use allocation_counter::measure;
use proto::cluster_map::{ClusterMap, MapUpdate};
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame, FrameDecoder, begin_array, encode_array, push_word};
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::level::{AckLevel, ReadLevel};
use proto::limits;
use proto::peer::{
    Change, Compared, Effect, Forward, Hello, Identity, KeyRequest, LinkKind, LinkMessage, LinkReply, Op, Read, Term,
    Terms, WallTime, Wanted, Write,
};
use proto::reply::{Reply, ReplyDecoder};
use proto::request::{CoordinatorRequest, NodeRequest};
use proto::response::Response;
use proto::session::{Ancestors, CoordinatorMessage, Join, NodeMessage, SlotAt};
use proto::slot::SlotId;
use seeded::Random;

/// The number of inputs of each of the two kinds; every reader gets every input.
const INPUTS: usize = 500_000;

/// The most memory per byte of input. A word takes at least 6 bytes on the wire and 8 in the decoder's list. The list
/// doubles as it grows and exists twice while it moves; the counter sees every move.
const BYTES_PER_BYTE: usize = 6;

/// Memory that even the shortest input may take: the smallest lists and an address.
const BYTES_AT_LEAST: usize = 512;

/// Passes a frame to every frame parser.
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

/// The result of reading a stream: how many frames, how many bytes they took, and the error that ended it.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    frames: usize,
    bytes: usize,
    error: Option<ErrorReply>,
}

/// Reads the frames of `input`; at first, only the first `cut` bytes have arrived.
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
                    // Nobody should call again after an error, but doing so must not crash the process.
                    let _ = decoder.decode(rest);
                    outcome.error = Some(error);
                    return outcome;
                }
            }
        }
    }
    outcome
}

/// As [`read_frames`], for answers: how many there were, how many bytes they took, and whether an error ended them.
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

/// Every reader reads the input in one piece and in two, with the same result and within its memory limit.
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
    // Half of them are bytes that the codecs look for.
    const SIGNS: &[u8] = b"*$+-:\r\n 019\t-,";
    let bits = random.next();
    let [byte, which, ..] = bits.to_le_bytes();
    if bits >> 63 == 0 { byte } else { SIGNS[usize::from(which) % SIGNS.len()] }
}

/// One of everything that is ever sent.
fn valid_inputs() -> Vec<Vec<u8>> {
    [requests(), messages_between_nodes(), messages_of_a_session(), answers()].concat()
}

fn written(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

fn requests() -> Vec<Vec<u8>> {
    let lines = [
        "PUT key value\n",
        "put\tk  v w \r\n",
        "PUT k v 127.0.0.1:5001,h:2\n",
        "PUT k ключ\n",
        "GET key\nGETV key\n",
        "DELETE key\r\n",
        "REPLICATE k v\n",
        "CAS k 3-12 v w\n",
        "PUTNX k v\n",
        "ONCE me 7 CAS k 0 v\n",
        "once me 8 delete k\r\n",
        "ACK quorum\nREAD linear\n",
        "LOSSES\nINFO\nSTATS\nPING\nQUIT\n",
        "REGISTER_NODE 127.0.0.1 5001\n",
        "UNREGISTER_NODE ::1 5001\n",
        "HEARTBEAT host 65535\n",
        "GET_NODES_FOR_KEY user:1\n",
        "LIST_NODES\nMAP\nWATCH_MAP\n",
        "FORGET 127.0.0.1:5001\n",
        "ACCEPT_LOSS all\nACCEPT_LOSS 16383\n",
        "DECOMMISSION 127.0.0.1:5001\nRECOMMISSION h:1\nREPLACE h:1 h:2\n",
    ];
    let arrays = [
        &["GET", "a"][..],
        &["GETV", ""],
        &["PUT", "key", "a\r\nb"],
        &["DELETE", ""],
        &["CAS", "k", "3-12", "v"],
        &["PUTNX", "k", ""],
        &["ONCE", "me", "7", "PUT", "k", "v"],
        &["ONCE", "\0\n", "4611686018427387904", "CAS", "k", "0", "v"],
        &["ACK", "all"],
        &["READ", "local"],
        &["REGISTER_NODE", "h", "1"],
        &["FORGET", "[::1]:1"],
        &["ACCEPT_LOSS", "7"],
        &["DECOMMISSION", "h:1"],
        &["REPLACE", "h:1", "[::1]:2"],
        &[],
    ];
    let lines = lines.into_iter().map(|line| line.as_bytes().to_vec());
    lines.chain(arrays.into_iter().map(|words| written(|out| encode_array(words, out)))).collect()
}

fn messages_between_nodes() -> Vec<Vec<u8>> {
    let (slot, epoch) = (SlotId(77), Epoch(3));
    let version = Version { epoch, seq: 9 };
    let identity = Identity { client: b"me", seq: 7 };
    let terms = Terms(vec![Term { epoch: Epoch(1), first: 1 }, Term { epoch, first: 8 }]);
    let (key, put) = (b"k", Effect::Put(b"v"));
    let replicate = |op| LinkMessage::Replicate { slot, version, previous: version, durable: 8, op };
    let align = |terms| {
        let config = proto::cluster_map::MapVersion(8);
        LinkMessage::Align { slot, epoch, config, stamp: 4, from: version, durable: 8, terms, refill: false }
    };
    let messages = [
        LinkMessage::Beat { sent: 12 },
        align(Terms::default()),
        align(terms.clone()),
        replicate(Op::Write { key, effect: put, identity: None, reply: b"" }),
        replicate(Op::Write { key, effect: Effect::Delete, identity: Some(identity), reply: b"" }),
        replicate(Op::Write { key, effect: Effect::PutUntil(b"v", WallTime(77)), identity: None, reply: b"" }),
        replicate(Op::Write { key, effect: Effect::Expire, identity: None, reply: b"" }),
        replicate(Op::Declined { identity, found: version, reply: b"" }),
        replicate(Op::Write { key, effect: put, identity: Some(identity), reply: b":7" }),
        replicate(Op::Barrier),
        LinkMessage::Durable { slot, seq: 9 },
        LinkMessage::Fill {
            slot,
            epoch,
            stamp: 4,
            last: version,
            durable: 9,
            purged: 3,
            entries: 2,
            completions: 1,
            terms,
        },
        LinkMessage::Entry { version, key, effect: put },
        LinkMessage::Entry { version, key, effect: Effect::Delete },
        LinkMessage::Entry { version, key, effect: Effect::PutUntil(b"v", WallTime(77)) },
        LinkMessage::Entry { version, key, effect: Effect::Expire },
        LinkMessage::Completed { identity, version, found: Some(version), reply: b"" },
        LinkMessage::Purge { slot, seq: 9 },
        LinkMessage::Release { slot, epoch },
        LinkMessage::Compare { slot, query: 4, at: version, floor: 8 },
    ];
    let replies = [
        LinkReply::Ack { count: 5 },
        LinkReply::Lease { sent: 12 },
        LinkReply::Memory { over: 12 },
        LinkReply::Behind { slot, epoch, stamp: 4, last: Some(version) },
        LinkReply::Behind { slot, epoch, stamp: 4, last: None },
        LinkReply::Deposed { slot, epoch },
        LinkReply::Compared { slot, query: 4, compared: Compared::Digest(77) },
        LinkReply::Compared { slot, query: 4, compared: Compared::Purged(8) },
    ];
    let read = |wanted, level| KeyRequest::Read(Read { key, wanted, level });
    let write = Write::new(key, Change::Put(b"v"));
    let requests = [
        (true, read(Wanted::Value, ReadLevel::Local)),
        (false, read(Wanted::Versioned, ReadLevel::Linear)),
        (false, read(Wanted::Ttl, ReadLevel::Linear)),
        (false, KeyRequest::Write(write)),
        (false, KeyRequest::Write(Write { change: Change::PutFor(b"v", 60), ..write })),
        (false, KeyRequest::Write(Write { change: Change::Expire(60), ..write })),
        (false, KeyRequest::Write(Write { change: Change::Persist, ..write })),
        (false, KeyRequest::Write(Write { change: Change::Delete, ack: AckLevel::Quorum, ..write })),
        (false, KeyRequest::Write(Write { expected: Some(version), identity: Some(identity), ..write })),
    ];
    let messages = messages.iter().map(|message| written(|out| message.encode(out)));
    let replies = replies.iter().map(|reply| written(|out| reply.encode(out)));
    let forwards = requests.map(|(at_replica, request)| Forward { id: 9, at_replica, is_short: at_replica, request });
    let forwards = forwards.iter().map(|forward| written(|out| forward.encode(out)));
    messages.chain(replies).chain(forwards).collect()
}

fn messages_of_a_session() -> Vec<Vec<u8>> {
    let (slot, incarnation) = (SlotId(77), Incarnation(4));
    let slots = vec![SlotAt { slot, version: proto::cluster_map::MapVersion(8) }; 3];
    let last = vec![(slot, Version { epoch: Epoch(3), seq: 9 }); 3];
    let addr = NodeAddr::new("h", 1).expect("an address");
    let from_nodes = [
        NodeMessage::Heartbeat { incarnation },
        NodeMessage::Admit { follower: incarnation, slots: slots.clone() },
        NodeMessage::Expel { follower: incarnation, slots: slots.clone() },
        NodeMessage::Release { to: incarnation, slots: slots.clone() },
        NodeMessage::Complain { about: incarnation },
        NodeMessage::Positions { query: 3, last },
        NodeMessage::Resync,
        NodeMessage::Full,
        NodeMessage::Room,
        NodeMessage::Leave,
    ];
    let from_coordinator = [
        CoordinatorMessage::Joined { incarnation, text: "OK" },
        CoordinatorMessage::Beat,
        CoordinatorMessage::Map { text: "OK Map\nNODE" },
        CoordinatorMessage::HandOver { to: incarnation, slots },
        CoordinatorMessage::AskPositions { query: 3, slots: vec![slot; 3] },
        CoordinatorMessage::Left,
        CoordinatorMessage::Unregistered,
    ];
    let ancestors = Ancestors { unproven: vec![incarnation; 2], proven: vec![incarnation; 2] };
    let join = Join { addr: addr.clone(), incarnation: None, ancestors, map: "", weight: 1 };
    let hello =
        |kind| Hello { kind, cluster: "c".to_owned(), from_addr: addr.clone(), from: incarnation, to: incarnation };
    let openings = [
        written(|out| join.encode(out)),
        written(|out| hello(LinkKind::Forward).encode(out)),
        written(|out| hello(LinkKind::Replication).encode(out)),
    ];
    let from_nodes = from_nodes.iter().map(|message| written(|out| message.encode(out)));
    let from_coordinator = from_coordinator.iter().map(|message| written(|out| message.encode(out)));
    from_nodes.chain(from_coordinator).chain(openings).collect()
}

fn answers() -> Vec<Vec<u8>> {
    let version = Version { epoch: Epoch(3), seq: 12 };
    let answers = [
        Response::Ok,
        Response::Value(b"value\r\n"),
        Response::Versioned(version, b"a\r\nb"),
        Response::Written(version),
        Response::Conflict(Version::NONE),
        Response::NotFound,
        Response::Text("OK text".into()),
        Response::Lines(vec!["a".into(), "b".into()]),
        Response::Lines(vec!["a".into(); 3]),
        Response::Error(ErrorReply::UnknownCommand),
        Response::Error(ErrorReply::Busy("full".into())),
        Response::Error(ErrorReply::Full("all".into())),
    ];
    let numbers = [&b":12\r\n+OK 3-12\r\n"[..], b":0\r\n*2\r\n$1\r\n0\r\n$0\r\n\r\n"].map(<[u8]>::to_vec);
    answers.iter().map(|answer| written(|out| answer.encode(Encoding::Array, out))).chain(numbers).collect()
}

/// One to four changes: a byte replaced, inserted or removed, a piece repeated or copied from another input, the end
/// cut off.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.index(4) {
        let at = random.index(input.len() + 1);
        let end = (at + random.index(8)).min(input.len());
        match random.index(6) {
            0 if at < input.len() => input[at] = random_byte(random),
            1 => input.insert(at, random_byte(random)),
            2 => drop(input.drain(at..end)),
            3 => input.extend_from_within(at..end),
            4 => input.extend_from_slice(&others[random.index(others.len())]),
            _ if random.index(4) == 0 => input.truncate(at),
            _ => {}
        }
    }
}

/// Runs `INPUTS` inputs written by `make`, on two threads with one seed each.
fn with_random_inputs(seed: u64, make: impl Fn(&mut Random, &mut Vec<u8>) + Sync) {
    let half = |seed| {
        let mut random = Random::new(seed);
        let mut input = Vec::new();
        for _ in 0..INPUTS / 2 {
            input.clear();
            make(&mut random, &mut input);
            let cut = random.index(input.len() + 1);
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
        let len = random.index(40);
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
        input.extend_from_slice(&valid[random.index(valid.len())]);
        mutate(input, &valid, random);
    });
}

#[test]
fn damaged_maps_bring_nobody_down() {
    const MAP: &str = "OK Map version=9 since=0 cluster=c slots=16 replicas=2 ack=async read=local timeout=10000\nNODE 1 127.0.0.1:5001 up\nNODE 2 h:1 down\n\
                       SLOTS 0 14 epoch=3 version=9 primary=1 isr=1,2 learners=- elr=-\n\
                       SLOTS 15 15 epoch=1 version=1 primary=- isr=- learners=2 elr=1";
    let before = MapUpdate::parse(MAP.split('\n')).expect("a valid map");
    let before = ClusterMap::updated(None, &before).expect("a whole map");
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
        // A list of incarnations takes the most: 8 bytes for each digit and comma, and double that while it moves.
        let allowed = u64::try_from(12 * text.len() + 2_048).expect("it fits");
        assert!(taken.bytes_max <= allowed, "{} bytes taken for {}: {text}", taken.bytes_max, text.len());
        if let Some(update) = update {
            // What a node does with it, whatever map it has.
            let _ = update.changes_a_primary(&before);
            for current in [None, Some(&before)] {
                let _ = ClusterMap::updated(current, &update);
            }
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
    for declared in [
        &b"$67108864\r\n"[..],
        b"$99999999999999999999\r\n",
        b"$200000000\r\n",
        b"*2\r\n$67108864\r\n",
        b"*2\r\n$3\r\n1-2\r\n$67108864\r\n",
    ] {
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
    assert!(taken.bytes_current <= 8_192 + 512, "{taken:?}");
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
    assert_eq!(taken.count_total, 2, "the lists of frames and words are made once for a connection: {taken:?}");
}

/// Feeds `input` in pieces. After each call, overwrites what the decoder has seen with newlines, except the first
/// `kept` and the `last` bytes. A decoder that looked there again would find the end of a line, or a broken header.
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
    // 1 MiB byte by byte would be 5 * 10^11 steps if each call started again at the front.
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
        // A header is read again from its start once its end has arrived: at most this many bytes.
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
    let pair = format!("*2\r\n$3\r\n1-2\r\n{bulk}");
    let until_text = pair.len() - text.len() - 2;
    for (input, kept) in [(bulk, "$1048576\r\n".len()), (line, 1), (pair, until_text)] {
        for piece in [1, 1024] {
            let mut decoder = ReplyDecoder::new();
            feed_and_overwrite(input.as_bytes(), piece, kept, 2, |buf| match decoder.decode(buf).unwrap() {
                Some((Reply::Bulk(found), consumed)) => found.len() == text.len() && consumed == input.len(),
                Some((Reply::Pair(b"1-2", found), consumed)) => found.len() == text.len() && consumed == input.len(),
                Some((Reply::Text(found), consumed)) => found.len() == text.len() && consumed == input.len(),
                Some(other) => panic!("{other:?}"),
                None => false,
            });
        }
    }
}
