//! Requests from clients and nodes, as lines and as arrays.

use proptest::collection::vec;
use proptest::prelude::*;
use proto::frame::{Encoding, Frame, FrameDecoder, encode_array};
use proto::id::{NodeAddr, Version};
use proto::level::{AckLevel, ReadLevel};
use proto::limits;
use proto::peer::{Change, Read, Wanted, Write};
use proto::range::{Keys, PageRequest};
use proto::request::{
    Auth, CoordinatorRequest, NodeRequest, RawWords, ServerCommand, line_can_carry_key, line_can_put,
    split_replicas_word,
};
use proto::response::Response;

use crate::{addr, bytes, cases, client, counter, key, read_stream, value, version, with_array};

/// A request as its words, with its verb in upper case: the common form of what is written and what is read.
type Request = Vec<Vec<u8>>;

fn request(words: &[&[u8]]) -> Request {
    words.iter().map(|word| word.to_vec()).collect()
}

fn with_verb<'a>(verb: &[u8], words: impl Iterator<Item = &'a [u8]>) -> Request {
    std::iter::once(verb.to_vec()).chain(words.map(<[u8]>::to_vec)).collect()
}

fn node_words(request_read: &NodeRequest<'_>) -> Request {
    match *request_read {
        NodeRequest::Read(Read { key, wanted, level }) => {
            assert_eq!(level, ReadLevel::default());
            let verb: &[u8] = match wanted {
                Wanted::Value => b"GET",
                Wanted::Versioned => b"GETV",
                Wanted::Ttl => b"TTL",
                Wanted::Detail(_) => panic!("no command of this protocol asks for it"),
            };
            request(&[verb, key])
        }
        NodeRequest::Write(write) => write_words(write),
        NodeRequest::PutLine { key, value } => request(&[b"PUT", key, value]),
        NodeRequest::Page(PageRequest { keys, limit, after }) => {
            let limit = limit.to_string();
            let mut words = match keys {
                Keys::Prefix(prefix) => request(&[b"PREFIX", prefix]),
                Keys::Between(from, to) => request(&[b"RANGE", from, to]),
            };
            words.extend(request(&[b"LIMIT", limit.as_bytes()]));
            words.extend(after.map(|after| request(&[b"AFTER", after])).unwrap_or_default());
            words
        }
        NodeRequest::Count(prefix) => request(&[b"COUNT", prefix]),
        NodeRequest::GetMany(keys) => with_verb(b"MGET", keys),
        NodeRequest::PutMany(words) => with_verb(b"MPUT", words),
        NodeRequest::Keyspace(_) => panic!("no command of this protocol asks for it"),
        NodeRequest::Ack(level) => request(&[b"ACK", level.to_string().as_bytes()]),
        NodeRequest::ReadLevel(level) => request(&[b"READ", level.to_string().as_bytes()]),
        NodeRequest::Losses => request(&[b"LOSSES"]),
        NodeRequest::Info => request(&[b"INFO"]),
        NodeRequest::Stats => request(&[b"STATS"]),
        NodeRequest::Verify => request(&[b"VERIFY"]),
        NodeRequest::Ping => request(&[b"PING"]),
        NodeRequest::Quit => request(&[b"QUIT"]),
        NodeRequest::Server(ServerCommand::Info(RawWords(sections))) => with_verb(b"INFO", sections),
        NodeRequest::Server(ServerCommand::Ping(message)) => with_verb(b"PING", message.into_iter()),
        NodeRequest::Server(ServerCommand::Quit) => request(&[b"QUIT"]),
        NodeRequest::Server(command) => panic!("{command:?} is not among these requests"),
        NodeRequest::Peer(RawWords(words)) => with_verb(b"PEER", words),
    }
}

fn write_words(Write { key, change, expected, identity, ack }: Write<'_>) -> Request {
    assert_eq!(ack, AckLevel::default());
    let mut words = Vec::new();
    if let Some(identity) = identity {
        words.extend(request(&[b"ONCE", identity.client, identity.seq.to_string().as_bytes()]));
    }
    words.extend(match (change, expected) {
        (Change::Put(value), None) => request(&[b"PUT", key, value]),
        (Change::Delete, None) => request(&[b"DELETE", key]),
        (Change::Put(value), Some(Version::NONE)) => request(&[b"PUTNX", key, value]),
        (Change::Put(value), Some(version)) => request(&[b"CAS", key, version.to_string().as_bytes(), value]),
        (Change::PutFor(value, millis), None) => {
            request(&[b"PUTEX", key, (millis / 1_000).to_string().as_bytes(), value])
        }
        (Change::Expire(millis), None) => request(&[b"EXPIRE", key, (millis / 1_000).to_string().as_bytes()]),
        (Change::Persist, None) => request(&[b"PERSIST", key]),
        (Change::Modify(_), None) => panic!("no command of this protocol asks for it"),
        (_, Some(_)) => panic!("no other request has a condition"),
    });
    words
}

/// The canonical form of requests that mean the same.
fn meaning(mut words: Request) -> Request {
    let verb = verb_at(&words);
    match words[verb].as_slice() {
        b"REPLICATE" => words[verb] = b"PUT".to_vec(),
        b"CAS" if words[verb + 2] == b"0" => {
            words[verb] = b"PUTNX".to_vec();
            words.remove(verb + 2);
        }
        _ => {}
    }
    words
}

/// The position of the verb: at the front, or after the identity.
fn verb_at(words: &Request) -> usize {
    if words[0] == b"ONCE" { 3 } else { 0 }
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
        CoordinatorRequest::Forget(addr) => request(&[b"FORGET", addr.as_str().as_bytes()]),
        CoordinatorRequest::Decommission(addr) => request(&[b"DECOMMISSION", addr.as_str().as_bytes()]),
        CoordinatorRequest::Recommission(addr) => request(&[b"RECOMMISSION", addr.as_str().as_bytes()]),
        CoordinatorRequest::Replace { old, new } => {
            request(&[b"REPLACE", old.as_str().as_bytes(), new.as_str().as_bytes()])
        }
        CoordinatorRequest::AcceptLoss(None) => request(&[b"ACCEPT_LOSS", b"all"]),
        CoordinatorRequest::AcceptLoss(Some(slot)) => request(&[b"ACCEPT_LOSS", slot.0.to_string().as_bytes()]),
        CoordinatorRequest::Map => request(&[b"MAP"]),
        CoordinatorRequest::WatchMap => request(&[b"WATCH_MAP"]),
        CoordinatorRequest::Info => request(&[b"INFO"]),
        CoordinatorRequest::Stats => request(&[b"STATS"]),
        CoordinatorRequest::Status => request(&[b"STATUS"]),
        CoordinatorRequest::WaitHealthy(span) => {
            request(&[b"WAIT_HEALTHY", format!("{}ms", span.as_millis()).as_bytes()])
        }
        CoordinatorRequest::Ping => request(&[b"PING"]),
        CoordinatorRequest::Quit => request(&[b"QUIT"]),
        CoordinatorRequest::Join(RawWords(words)) => with_verb(b"JOIN", *words),
        CoordinatorRequest::Auth(Auth { user, password }) => with_verb(b"AUTH", user.iter().chain([password]).copied()),
    }
}

fn read_node(frame: Frame<'_>) -> Request {
    let read = NodeRequest::parse(frame).expect("a request to a node");
    let is_line = frame.encoding() == Encoding::Line;
    assert!(is_line || !matches!(read, NodeRequest::PutLine { .. }), "only a line may end with a list of replicas");
    node_words(&read)
}

fn read_coordinator(frame: Frame<'_>) -> Request {
    coordinator_words(&CoordinatorRequest::parse(frame).expect("a request to the coordinator"))
}

fn verb(choices: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    proptest::sample::select(choices).prop_map(|verb| verb.as_bytes().to_vec())
}

/// A write that may follow an identity.
fn write_request() -> impl Strategy<Value = Request> {
    let version = prop_oneof![4 => version(), 1 => Just(Version::NONE)];
    prop_oneof![
        (verb(&["PUT", "PUTNX"]), key(), value()).prop_map(|(verb, key, value)| vec![verb, key, value]),
        (key(), version, value())
            .prop_map(|(key, version, value)| { request(&[b"CAS", &key, version.to_string().as_bytes(), &value]) }),
        (verb(&["DELETE", "PERSIST"]), key()).prop_map(|(verb, key)| request(&[&verb, &key])),
        (key(), 1..=limits::TTL_SECONDS, value()).prop_map(|(key, seconds, value)| request(&[
            b"PUTEX",
            &key,
            seconds.to_string().as_bytes(),
            &value
        ])),
        (key(), 0..=limits::TTL_SECONDS).prop_map(|(key, seconds)| request(&[
            b"EXPIRE",
            &key,
            seconds.to_string().as_bytes()
        ])),
    ]
}

fn node_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        2 => write_request(),
        2 => (client(), counter(), write_request()).prop_map(|(client, seq, write)| {
            request(&[b"ONCE", &client, seq.to_string().as_bytes()]).into_iter().chain(write).collect()
        }),
        1 => (key(), value()).prop_map(|(key, value)| request(&[b"REPLICATE", &key, &value])),
        2 => (verb(&["GET", "GETV", "TTL"]), key()).prop_map(|(verb, key)| vec![verb, key]),
        1 => (key(), 1..=limits::PAGE_KEYS, proptest::option::of(key())).prop_map(|(prefix, limit, after)| {
            let after = after.map(|after| request(&[b"AFTER", &after])).unwrap_or_default();
            request(&[b"PREFIX", &prefix, b"LIMIT", limit.to_string().as_bytes()]).into_iter().chain(after).collect()
        }),
        1 => (key(), key()).prop_map(|(from, to)| request(&[b"RANGE", &from, &to, b"LIMIT", b"7"])),
        1 => key().prop_map(|prefix| request(&[b"COUNT", &prefix])),
        1 => vec(key(), 1..8).prop_map(|keys| with_verb(b"MGET", keys.iter().map(Vec::as_slice))),
        1 => vec((key(), value()), 1..4).prop_map(|pairs| {
            with_verb(b"MPUT", pairs.iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()]))
        }),
        1 => verb(&["async", "quorum", "all"]).prop_map(|level| vec![b"ACK".to_vec(), level]),
        1 => verb(&["local", "linear"]).prop_map(|level| vec![b"READ".to_vec(), level]),
        1 => verb(&["LOSSES", "INFO", "STATS", "VERIFY", "PING", "QUIT"]).prop_map(|verb| vec![verb]),
        1 => vec(bytes(20), 0..8).prop_map(|words| with_verb(b"PEER", words.iter().map(Vec::as_slice))),
    ]
}

fn coordinator_request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (verb(&["AUTH"]), proptest::collection::vec("[!-~]{1,20}", 1..3)).prop_map(|(verb, words)| {
            let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
            request(&[&[verb.as_slice()][..], &words].concat())
        }),
        (verb(&["REGISTER_NODE", "UNREGISTER_NODE", "HEARTBEAT"]), addr()).prop_map(|(verb, addr)| request(&[
            &verb,
            addr.host().as_bytes(),
            addr.port().to_string().as_bytes()
        ])),
        key().prop_map(|key| request(&[b"GET_NODES_FOR_KEY", &key])),
        addr().prop_map(|addr| request(&[b"FORGET", addr.as_str().as_bytes()])),
        (verb(&["DECOMMISSION", "RECOMMISSION"]), addr())
            .prop_map(|(verb, addr)| request(&[&verb, addr.as_str().as_bytes()])),
        (addr(), addr()).prop_map(|(old, new)| request(&[
            b"REPLACE",
            old.as_str().as_bytes(),
            new.as_str().as_bytes()
        ])),
        proptest::option::of(0..16_384u16).prop_map(|slot| {
            request(&[b"ACCEPT_LOSS", slot.map_or("all".to_owned(), |slot| slot.to_string()).as_bytes()])
        }),
        (0..86_400_000u32).prop_map(|millis| request(&[b"WAIT_HEALTHY", format!("{millis}ms").as_bytes()])),
        verb(&["LIST_NODES", "MAP", "WATCH_MAP", "INFO", "STATS", "STATUS", "PING", "QUIT"])
            .prop_map(|verb| vec![verb]),
        vec(bytes(20), 0..8).prop_map(|words| with_verb(b"JOIN", words.iter().map(Vec::as_slice))),
    ]
}

/// How a request is written: as a line if `line` asks for it and a line can carry it, with these blanks and this case.
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

fn line_can_carry(words: &[Vec<u8>]) -> bool {
    match &words.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"PEER" | b"JOIN" | b"MPUT", ..] => false,
        [b"PREFIX" | b"RANGE" | b"COUNT" | b"MGET", words @ ..] => words.iter().all(|word| line_can_carry_key(word)),
        [b"ONCE", client, ..] => line_can_carry_key(client) && line_can_carry(&words[3..]),
        [b"PUT" | b"PUTNX" | b"REPLICATE", key, value] | [b"CAS" | b"PUTEX", key, _, value] => line_can_put(key, value),
        [b"GET" | b"GETV" | b"TTL" | b"DELETE" | b"PERSIST" | b"GET_NODES_FOR_KEY", key] | [b"EXPIRE", key, _] => {
            line_can_carry_key(key)
        }
        _ => true,
    }
}

fn write(words: &Request, style: &Style, out: &mut Vec<u8>) {
    let mut words = words.clone();
    let as_line = style.line && line_can_carry(&words);
    if style.lower {
        let verb = verb_at(&words);
        words[verb].make_ascii_lowercase();
        words[0].make_ascii_lowercase();
    }
    if as_line {
        out.extend_from_slice(&words.join(style.blanks.as_bytes()));
        out.extend_from_slice(if style.carriage_return { b"\r\n" } else { b"\n" });
    } else {
        encode_array(&words, out);
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_node_request_reads_back_cut_at_every_byte(words in node_request(), style in style()) {
        let mut bytes = Vec::new();
        write(&words, &style, &mut bytes);
        let expected = [meaning(words)];
        prop_assert_eq!(read_stream(&bytes, &[1], read_node), expected.clone());
        prop_assert_eq!(read_stream(&bytes, &[bytes.len()], read_node), expected.clone());
        // Every single cut: one piece, then all the rest.
        for cut in 1..bytes.len() {
            prop_assert_eq!(read_stream(&bytes, &[cut, bytes.len()], read_node), expected.clone());
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
        let expected: Vec<Request> = requests.into_iter().map(|(words, _)| meaning(words)).collect();
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
    fn a_value_that_went_in_by_a_line_comes_out_by_a_line(key in key(), value in value(), version in version()) {
        prop_assume!(line_can_put(&key, &value));
        for (response, before) in [
            (Response::Value(&value), "VALUE ".to_owned()),
            (Response::Versioned(version, &value), format!("VALUE {version} ")),
        ] {
            let mut answer = Vec::new();
            response.encode(Encoding::Line, &mut answer);
            let mut decoder = FrameDecoder::new();
            let (frame, consumed) = decoder.decode(&answer).unwrap().unwrap();
            let Frame::Line(line) = frame else { panic!("an array") };
            prop_assert_eq!(line.strip_prefix(before.as_bytes()), Some(value.as_slice()));
            prop_assert_eq!(consumed, answer.len());
        }
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
        // By protocol.md: at least two words, separated by blanks, and the last names only nodes.
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
        // Not assert_eq: its message would be unreadable.
        assert!(NodeRequest::parse(frame) == Ok(NodeRequest::Write(Write::new(&key, Change::Put(&value)))));
    }
}
