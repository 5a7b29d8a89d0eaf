//! What is written is what is read: requests, answers, messages and maps, in both encodings, however the bytes are cut.

#![expect(clippy::indexing_slicing, reason = "an index out of its range fails the test, as it should")]

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion, Member, SlotConfig};
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame, FrameDecoder, encode_array};
use proto::id::{Epoch, Incarnation, NodeAddr, Version};
use proto::limits;
use proto::peer::{Effect, Forward, Hello, KeyRequest, LinkKind, LinkMessage, LinkReply};
use proto::reply::{Reply, ReplyDecoder};
use proto::request::{
    CoordinatorRequest, NodeRequest, PeerWords, line_can_carry_key, line_can_put, split_replicas_word,
};
use proto::response::Response;
use proto::session::{CoordinatorMessage, Join, NodeMessage, SlotAt};
use proto::slot::{SlotBits, SlotId};

/// A request as its words, its verb in upper case: the common form of what is written and what is read.
type Request = Vec<Vec<u8>>;

fn request(words: &[&[u8]]) -> Request {
    words.iter().map(|word| word.to_vec()).collect()
}

fn node_words(request_read: &NodeRequest<'_>) -> Request {
    match *request_read {
        NodeRequest::Put { key, value, .. } => request(&[b"PUT", key, value]),
        NodeRequest::Get { key } => request(&[b"GET", key]),
        NodeRequest::Delete { key } => request(&[b"DELETE", key]),
        NodeRequest::Replicate { key, value } => request(&[b"REPLICATE", key, value]),
        NodeRequest::Info => request(&[b"INFO"]),
        NodeRequest::Ping => request(&[b"PING"]),
        NodeRequest::Quit => request(&[b"QUIT"]),
        NodeRequest::Peer(PeerWords(words)) => with_verb(b"PEER", words),
    }
}

fn coordinator_words(request_read: &CoordinatorRequest<'_>) -> Request {
    let addressed =
        |verb: &[u8], addr: &NodeAddr| request(&[verb, addr.host().as_bytes(), addr.port().to_string().as_bytes()]);
    match request_read {
        CoordinatorRequest::RegisterNode(addr) => addressed(b"REGISTER_NODE", addr),
        CoordinatorRequest::UnregisterNode(addr) => addressed(b"UNREGISTER_NODE", addr),
        CoordinatorRequest::Heartbeat(addr) => addressed(b"HEARTBEAT", addr),
        CoordinatorRequest::GetNodesForKey { key } => request(&[b"GET_NODES_FOR_KEY", key]),
        CoordinatorRequest::ListNodes => request(&[b"LIST_NODES"]),
        CoordinatorRequest::Map => request(&[b"MAP"]),
        CoordinatorRequest::WatchMap => request(&[b"WATCH_MAP"]),
        CoordinatorRequest::Info => request(&[b"INFO"]),
        CoordinatorRequest::Ping => request(&[b"PING"]),
        CoordinatorRequest::Quit => request(&[b"QUIT"]),
        CoordinatorRequest::Join(PeerWords(words)) => with_verb(b"JOIN", *words),
    }
}

fn with_verb<'a>(verb: &[u8], words: impl Iterator<Item = &'a [u8]>) -> Request {
    std::iter::once(verb.to_vec()).chain(words.map(<[u8]>::to_vec)).collect()
}

fn read_node(frame: Frame<'_>) -> Request {
    let read = NodeRequest::parse(frame).expect("a request to a node");
    if let NodeRequest::Put { encoding, .. } = read {
        assert_eq!(encoding, frame.encoding());
    }
    node_words(&read)
}

fn read_coordinator(frame: Frame<'_>) -> Request {
    coordinator_words(&CoordinatorRequest::parse(frame).expect("a request to the coordinator"))
}

/// Bytes among which those that mean something to a codec are frequent.
fn bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
    let meaningful = proptest::sample::select(b" \t\r\n*$+-0159:,.hGET\xff\0".to_vec());
    vec(prop_oneof![3 => meaningful, 1 => any::<u8>()], 0..longest)
}

/// Mostly one word of text, at times anything.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => "[!-~а-я🦀]{1,20}".prop_map(String::into_bytes), 1 => bytes(40)]
}

/// Mostly text that a line could carry, at times anything.
fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![2 => "[!-~а-я][ -~\tа-я🦀]{0,60}".prop_map(String::into_bytes), 1 => bytes(200)]
}

fn addr() -> impl Strategy<Value = NodeAddr> {
    let host = prop_oneof!["[a-z0-9_.-]{1,30}", any::<u128>().prop_map(|ip| std::net::Ipv6Addr::from(ip).to_string())];
    (host, 1..=u16::MAX).prop_map(|(host, port)| NodeAddr::new(&host, port).expect("an address"))
}

fn verb(choices: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(choices).prop_map(|verb| verb.as_bytes().to_vec())
}

fn node_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (verb(&["PUT", "REPLICATE"]), key(), value()).prop_map(|(verb, key, value)| vec![verb, key, value]),
        (verb(&["GET", "DELETE"]), key()).prop_map(|(verb, key)| vec![verb, key]),
        verb(&["INFO", "PING", "QUIT"]).prop_map(|verb| vec![verb]),
        vec(bytes(20), 0..8).prop_map(|words| with_verb(b"PEER", words.iter().map(Vec::as_slice))),
    ]
}

fn coordinator_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (verb(&["REGISTER_NODE", "UNREGISTER_NODE", "HEARTBEAT"]), addr()).prop_map(|(verb, addr)| request(&[
            &verb,
            addr.host().as_bytes(),
            addr.port().to_string().as_bytes()
        ])),
        key().prop_map(|key| request(&[b"GET_NODES_FOR_KEY", &key])),
        verb(&["LIST_NODES", "MAP", "WATCH_MAP", "INFO", "PING", "QUIT"]).prop_map(|verb| vec![verb]),
        vec(bytes(20), 0..8).prop_map(|words| with_verb(b"JOIN", words.iter().map(Vec::as_slice))),
    ]
}

/// How a request is written: as a line where one can carry it and `line` asks for it, with these blanks and this case.
#[derive(Debug, Clone)]
struct Style {
    line: bool,
    lower: bool,
    blanks: String,
    carriage_return: bool,
}

fn style() -> impl Strategy<Value = Style> {
    (any::<bool>(), any::<bool>(), "[ \t]{1,3}", any::<bool>())
        .prop_map(|(line, lower, blanks, carriage_return)| Style { line, lower, blanks, carriage_return })
}

fn line_can_carry(words: &Request) -> bool {
    match &words.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"PEER" | b"JOIN", ..] => false,
        [b"PUT" | b"REPLICATE", key, value] => line_can_put(key, value),
        [b"GET" | b"DELETE" | b"GET_NODES_FOR_KEY", key] => line_can_carry_key(key),
        _ => true,
    }
}

fn write(words: &Request, style: &Style, out: &mut Vec<u8>) {
    let mut words = words.clone();
    let as_line = style.line && line_can_carry(&words);
    if style.lower {
        words[0].make_ascii_lowercase();
    }
    if as_line {
        out.extend_from_slice(&words.join(style.blanks.as_bytes()));
        out.extend_from_slice(if style.carriage_return { b"\r\n" } else { b"\n" });
    } else {
        encode_array(&words, out);
    }
}

/// Reads a stream as a connection does that gets it in pieces: `pieces` gives their lengths, again and again.
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

/// Reads one array that is the whole of `bytes`, through a decoder that saw it grow byte by byte.
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_node_request_reads_back_cut_at_every_byte(words in node_request(), style in style()) {
        let mut bytes = Vec::new();
        write(&words, &style, &mut bytes);
        prop_assert_eq!(read_stream(&bytes, &[1], read_node), [words.clone()]);
        prop_assert_eq!(read_stream(&bytes, &[bytes.len()], read_node), [words.clone()]);
        // Each single cut: one piece, then all the rest.
        for cut in 1..bytes.len() {
            prop_assert_eq!(read_stream(&bytes, &[cut, bytes.len()], read_node), [words.clone()]);
        }
    }

    #[test]
    fn a_coordinator_request_reads_back_cut_at_every_byte(words in coordinator_request(), style in style()) {
        let mut bytes = Vec::new();
        write(&words, &style, &mut bytes);
        for cut in 1..=bytes.len() {
            prop_assert_eq!(read_stream(&bytes, &[cut, bytes.len()], read_coordinator), [words.clone()]);
        }
    }

    #[test]
    fn pipelined_requests_come_out_in_order(
        requests in vec((node_request(), style()), 1..40),
        pieces in vec(1usize..100, 1..20),
    ) {
        let mut stream = Vec::new();
        for (words, style) in &requests {
            write(words, style, &mut stream);
        }
        let expected: Vec<Request> = requests.into_iter().map(|(words, _)| words).collect();
        prop_assert_eq!(read_stream(&stream, &pieces, read_node), expected.clone());
        prop_assert_eq!(read_stream(&stream, &[stream.len()], read_node), expected);
    }

    #[test]
    fn an_array_reads_back_whatever_its_words(words in vec(bytes(30), 0..20)) {
        let mut bytes = Vec::new();
        encode_array(&words, &mut bytes);
        let read: Vec<Vec<u8>> = with_array(&bytes, |words| words.map(<[u8]>::to_vec).collect());
        prop_assert_eq!(read, words);
    }

    #[test]
    fn a_value_that_went_in_by_a_line_comes_out_by_a_line(key in key(), value in value()) {
        prop_assume!(line_can_put(&key, &value));
        let mut answer = Vec::new();
        Response::Value(&value).encode(Encoding::Line, &mut answer);
        let mut decoder = FrameDecoder::new();
        let (frame, consumed) = decoder.decode(&answer).unwrap().unwrap();
        let Frame::Line(line) = frame else { panic!("an array") };
        prop_assert_eq!(line.strip_prefix(b"VALUE "), Some(value.as_slice()));
        prop_assert_eq!(consumed, answer.len());
    }

    #[test]
    fn only_a_last_word_of_node_addresses_is_taken_off_a_line_value(
        parts in vec(
            proptest::sample::select(vec![
                "h:1", "h:2", "g:9", ",", " ", "\t", "\u{c}", "\u{a0}", "\u{3000}", "v", "\r", "[::1]:7", "h:01",
            ]),
            0..10,
        ),
    ) {
        let text = parts.concat();
        let is_node = |addr: &NodeAddr| addr.host() != "g";
        // By protocol.md: at least two words, parted by blanks, and the last names nodes only.
        let trimmed = text.trim_end_matches([' ', '\t']);
        let expected = match trimmed.rfind([' ', '\t']) {
            Some(blank) if !trimmed[..blank].trim_matches([' ', '\t']).is_empty()
                && trimmed[blank + 1..].split(',').all(|addr| addr.parse().is_ok_and(|addr| is_node(&addr))) =>
            {
                &trimmed[..blank]
            }
            _ => text.as_str(),
        };
        prop_assert_eq!(split_replicas_word(text.as_bytes(), is_node), expected.as_bytes());
    }

    #[test]
    fn answers_read_back_cut_at_every_byte(
        value in value(),
        text in "[ -~а-я]{0,40}",
        number in 0usize..1000,
        pieces in vec(1usize..50, 1..10),
    ) {
        let errors = [
            ErrorReply::UnknownCommand,
            ErrorReply::InvalidFormat("PUT"),
            ErrorReply::Incomplete,
            ErrorReply::NoNodes,
            ErrorReply::value_too_long(number),
            ErrorReply::Protocol("words"),
            ErrorReply::NotText,
            ErrorReply::Binary { len: number },
            ErrorReply::Unavailable(text.clone()),
            ErrorReply::Busy(text.clone()),
            ErrorReply::Unknown(text.clone()),
            ErrorReply::NotPeer(text.clone()),
            ErrorReply::Moved,
        ];
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for (response, read) in [
            (Response::Ok, Ok(Response::Ok)),
            (Response::Pong, Ok(Response::Pong)),
            (Response::Text(text.clone()), Ok(Response::Value(text.as_bytes()))),
            (Response::Value(&value), Ok(Response::Value(&value))),
            (Response::NotFound, Ok(Response::NotFound)),
        ].into_iter().chain(errors.into_iter().map(|error| {
            let text = if error.code().is_some() { error.to_string() } else { format!("ERR {error}") };
            (Response::Error(error), Err(text))
        })) {
            let mut one = Vec::new();
            response.encode(Encoding::Array, &mut one);
            let mut decoder = ReplyDecoder::new();
            for cut in 0..one.len() {
                prop_assert_eq!(decoder.decode(&one[..cut]), Ok(None));
            }
            let (reply, consumed) = decoder.decode(&one).unwrap().unwrap();
            prop_assert_eq!(consumed, one.len());
            match &read {
                Ok(read) => prop_assert_eq!(Response::from(reply), read.clone()),
                Err(text) => prop_assert_eq!(reply, Reply::Error(text)),
            }
            stream.extend_from_slice(&one);
            expected.push(format!("{reply:?}"));
        }
        // The same, one after the other, in random pieces.
        let (mut decoder, mut start, mut end, mut read) = (ReplyDecoder::new(), 0, 0, Vec::new());
        for piece in pieces.iter().cycle() {
            end = (end + piece).min(stream.len());
            while let Some((reply, consumed)) = decoder.decode(&stream[start..end]).unwrap() {
                read.push(format!("{reply:?}"));
                start += consumed;
            }
            if end == stream.len() {
                break;
            }
        }
        prop_assert_eq!(start, stream.len());
        prop_assert_eq!(read, expected);
    }
}

/// Any number that a counter can have come to.
fn counter() -> impl Strategy<Value = u64> {
    0..=limits::COUNTER
}

fn version() -> impl Strategy<Value = Version> {
    (counter(), counter()).prop_map(|(epoch, seq)| Version { epoch: Epoch(epoch), seq })
}

fn slots_at() -> impl Strategy<Value = Vec<SlotAt>> {
    let one = (any::<u16>(), counter());
    vec(one.prop_map(|(slot, version)| SlotAt { slot: SlotId(slot), version: MapVersion(version) }), 0..20)
}

/// Each message of a kind, written by `encode` and read by `parse`, alone and all in one stream.
macro_rules! messages_read_back {
    ($pieces:expr, $kind:ident, $messages:expr) => {{
        let mut stream = Vec::new();
        let messages = $messages;
        for message in &messages {
            let mut one = Vec::new();
            message.encode(&mut one);
            with_array(&one, |words| assert_eq!($kind::parse(words).as_ref(), Ok(message)));
            stream.extend_from_slice(&one);
        }
        let mut expected = messages.iter();
        let read = read_stream(&stream, $pieces, |frame| match frame {
            Frame::Array(words) => assert_eq!($kind::parse(words).as_ref().ok(), expected.next()),
            Frame::Line(_) => panic!("a message is an array"),
        });
        assert_eq!(read.len(), messages.len());
    }};
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_between_nodes_read_back(
        (slot, epoch, config, count) in (any::<u16>(), counter(), counter(), counter()),
        (last, previous) in (version(), version()),
        (key, value) in (bytes(40), bytes(100)),
        pieces in vec(1usize..100, 1..10),
    ) {
        let (slot, epoch, config) = (SlotId(slot), Epoch(epoch), MapVersion(config));
        let (key, value) = (key.as_slice(), value.as_slice());
        let (put, delete) = (Effect::Put(value), Effect::Delete);
        messages_read_back!(&pieces, LinkMessage, [
            LinkMessage::Align { slot, epoch, config, last },
            LinkMessage::Replicate { slot, version: last, previous, key, effect: put },
            LinkMessage::Replicate { slot, version: last, previous, key, effect: delete },
            LinkMessage::Fill { slot, epoch, last, count },
            LinkMessage::Entry { version: last, key, effect: put },
            LinkMessage::Entry { version: last, key, effect: delete },
            LinkMessage::Purge { slot, seq: count },
        ]);
        messages_read_back!(&pieces, LinkReply, [
            LinkReply::Ack { count },
            LinkReply::Behind { slot, epoch },
            LinkReply::Deposed { slot, epoch },
        ]);
        messages_read_back!(&pieces, Forward, [false, true].into_iter().flat_map(|at_replica| [
            KeyRequest::Get { key },
            KeyRequest::Write { key, effect: put },
            KeyRequest::Write { key, effect: delete },
        ].map(|request| Forward { at_replica, request })).collect::<Vec<_>>());
    }

    #[test]
    fn messages_of_a_session_read_back(
        (incarnation, query) in (counter(), counter()),
        slots in slots_at(),
        last in vec((any::<u16>().prop_map(SlotId), version()), 0..20),
        (text, cluster) in (any::<String>(), any::<String>()),
        addr in addr(),
        pieces in vec(1usize..100, 1..10),
    ) {
        let incarnation = Incarnation(incarnation);
        let asked: Vec<SlotId> = last.iter().map(|(slot, _)| *slot).collect();
        messages_read_back!(&pieces, NodeMessage, [
            NodeMessage::Heartbeat { incarnation },
            NodeMessage::Admit { follower: incarnation, slots: slots.clone() },
            NodeMessage::Expel { follower: incarnation, slots: slots.clone() },
            NodeMessage::Release { to: incarnation, slots: slots.clone() },
            NodeMessage::Positions { query, last },
            NodeMessage::Resync,
            NodeMessage::Leave,
        ]);
        messages_read_back!(&pieces, CoordinatorMessage, [
            CoordinatorMessage::Joined { incarnation, text: &text },
            CoordinatorMessage::Beat,
            CoordinatorMessage::Map { text: &text },
            CoordinatorMessage::HandOver { to: incarnation, slots },
            CoordinatorMessage::AskPositions { query, slots: asked },
            CoordinatorMessage::Left,
            CoordinatorMessage::Unregistered,
        ]);
        // The openings come as requests: PEER to a node, JOIN to the coordinator.
        for kind in [LinkKind::Replication, LinkKind::Forward] {
            let (cluster, from_addr) = (cluster.clone(), addr.clone());
            let hello = Hello { kind, cluster, from_addr, from: incarnation, to: Incarnation(query) };
            let mut bytes = Vec::new();
            hello.encode(&mut bytes);
            with_array(&bytes, |words| match NodeRequest::parse(Frame::Array(words)) {
                Ok(NodeRequest::Peer(words)) => assert_eq!(Hello::parse(words.0), Ok(hello)),
                other => panic!("not PEER: {other:?}"),
            });
        }
        // Incarnation 0 is never given out: on the wire it says that there is none.
        for incarnation in [None, Some(incarnation).filter(|given| given.0 != 0)] {
            let join = Join { addr: addr.clone(), incarnation, map: &text };
            let mut bytes = Vec::new();
            join.encode(&mut bytes);
            with_array(&bytes, |words| match CoordinatorRequest::parse(Frame::Array(words)) {
                Ok(CoordinatorRequest::Join(words)) => assert_eq!(Join::parse(words.0), Ok(join)),
                other => panic!("not JOIN: {other:?}"),
            });
        }
    }
}

fn incarnations() -> impl Strategy<Value = Vec<Incarnation>> {
    vec((1u64..9).prop_map(Incarnation), 0..4)
}

fn config() -> impl Strategy<Value = Arc<SlotConfig>> {
    let primary = proptest::option::of((1u64..9).prop_map(Incarnation));
    (0u64..4, 0u64..4, primary, incarnations(), incarnations()).prop_map(|(epoch, version, primary, isr, learners)| {
        Arc::new(SlotConfig {
            epoch: Epoch(epoch),
            version: MapVersion(version),
            primary,
            isr,
            learners,
            elr: Vec::new(),
        })
    })
}

fn members() -> impl Strategy<Value = BTreeMap<Incarnation, Member>> {
    let member = (addr(), any::<bool>()).prop_map(|(addr, up)| Member { addr, up });
    proptest::collection::btree_map((1u64..9).prop_map(Incarnation), member, 0..6)
}

fn cluster_map() -> impl Strategy<Value = ClusterMap> {
    // Few different configurations, so that runs of equal ones appear.
    let slots = |bits: u8| vec(0usize..3, 1 << bits).prop_map(move |picks| (SlotBits::new(bits), picks));
    ((0u8..7).prop_flat_map(slots), vec(config(), 3), members(), "[a-z0-9-]{1,12}").prop_map(
        |((bits, picks), configs, members, cluster)| {
            let mut map = ClusterMap::empty(cluster, bits);
            map.set_members(members);
            map.set_version(MapVersion(4));
            for (slot, pick) in bits.slots().zip(picks) {
                map.set_config(slot, Arc::clone(&configs[pick]));
            }
            map
        },
    )
}

/// The update as a reader of its text gets it.
fn through_text(update: &MapUpdate) -> MapUpdate {
    let text = update.to_lines().join("\n");
    MapUpdate::parse(text.lines()).expect("a map")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_map_reads_back_from_its_text(map in cluster_map()) {
        let whole = map.update_since(MapVersion(0));
        let read = through_text(&whole);
        prop_assert_eq!(&read, &whole);
        prop_assert_eq!(ClusterMap::updated(None, &read), Ok(map));
    }

    #[test]
    fn a_change_leads_from_the_old_map_to_the_new(
        old in cluster_map(),
        members in members(),
        changes in vec((any::<u16>(), config()), 0..10),
    ) {
        let mut new = old.clone();
        new.set_members(members);
        new.set_version(MapVersion(9));
        for (slot, config) in changes {
            let slot = SlotId(slot % u16::try_from(old.bits().count()).unwrap());
            new.set_config(slot, Arc::new(SlotConfig { version: MapVersion(9), ..(*config).clone() }));
        }
        let change = new.update_since(old.version);
        let read = through_text(&change);
        prop_assert_eq!(&read, &change);
        prop_assert_eq!(ClusterMap::updated(Some(&old), &read), Ok(new));
    }

    #[test]
    fn any_text_is_a_map_or_refused(text in "(OK Map )?[ -~\nа-я]{0,100}") {
        let _ = MapUpdate::parse(text.split('\n'));
    }

    #[test]
    fn a_damaged_map_is_refused_or_a_map_of_its_own(
        map in cluster_map(),
        edits in vec((any::<proptest::sample::Index>(), "[ -~\n]{0,3}", 0usize..3), 1..4),
    ) {
        let mut text = map.update_since(MapVersion(0)).to_lines().join("\n");
        for (at, put, cut) in edits {
            let at = at.index(text.len());
            let end = (at + cut).min(text.len());
            text.replace_range(at..end, &put);
            prop_assume!(!text.is_empty());
        }
        if let Ok(update) = MapUpdate::parse(text.split('\n')) {
            prop_assert_eq!(through_text(&update), update.clone());
            let _ = ClusterMap::updated(None, &update);
            let _ = ClusterMap::updated(Some(&map), &update);
        }
    }
}

#[test]
fn the_longest_key_and_value_pass_in_both_encodings() {
    let (key, value) = (vec![b'k'; limits::KEY_BYTES], vec![b'v'; limits::VALUE_BYTES]);
    let mut array = Vec::new();
    encode_array(&[b"REPLICATE", key.as_slice(), value.as_slice()], &mut array);
    let line = [b"REPLICATE", key.as_slice(), value.as_slice()].join(&b" "[..]);
    let line = [line.as_slice(), b"\r\n"].concat();
    for bytes in [array, line] {
        let mut decoder = FrameDecoder::new();
        let (frame, consumed) = decoder.decode(&bytes).unwrap().unwrap();
        assert_eq!(consumed, bytes.len());
        // No assert_eq here: nobody wants to read its message.
        assert!(NodeRequest::parse(frame) == Ok(NodeRequest::Replicate { key: &key, value: &value }));
    }
}
