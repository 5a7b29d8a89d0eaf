//! Redis's data commands, compared with what Redis itself answers: `redis/data.txt` holds its replies.

use std::time::{Duration, Instant};

use e2e::cluster::{Setup, shared};
use e2e::connection::{Connection, Reply, array};
use e2e::wait;
use proto::slot::{Position, SLOT_BITS};

const TRANSCRIPT: &str = include_str!("redis/data.txt");

/// A request of the transcript and its reply.
#[derive(Debug, Default)]
struct Exchange {
    line: usize,
    words: Vec<Vec<u8>>,
    /// Only the kind of the reply is known beforehand.
    is_kind_only: bool,
    reply: Vec<String>,
}

fn exchanges(transcript: &str) -> Vec<Exchange> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for (number, line) in transcript.lines().enumerate() {
        if let Some(request) = line.strip_prefix('>') {
            let (request, is_kind_only) = request.strip_prefix('?').map_or((request, false), |request| (request, true));
            let (line, words) = (number + 1, words(request));
            exchanges.push(Exchange { line, words, is_kind_only, ..Exchange::default() });
        } else if let (Some(reply), Some(last)) = (line.strip_prefix('<'), exchanges.last_mut()) {
            last.reply.push(reply.strip_prefix(' ').unwrap_or(reply).to_owned());
        }
    }
    exchanges
}

/// Splits a request at blanks; a quoted word may contain blanks and escapes.
fn words(request: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = request.trim_start();
    while !rest.is_empty() {
        let word;
        (word, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let is_end = |at: usize| !quoted[..at].ends_with('\\') || quoted[..at].ends_with("\\\\");
                let end = quoted.match_indices('"').map(|(at, _)| at).find(|at| is_end(*at)).expect("a closing quote");
                (unescaped(&quoted[..end]), &quoted[end + 1..])
            }
            None => {
                let (word, rest) = rest.split_at(rest.find(' ').unwrap_or(rest.len()));
                (word.as_bytes().to_vec(), rest)
            }
        };
        words.push(word);
        rest = rest.trim_start();
    }
    words
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.bytes();
    while let Some(byte) = chars.next() {
        bytes.push(match byte {
            b'\\' => match chars.next().expect("something behind a backslash") {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let mut digit =
                        || chars.next().and_then(|digit| char::from(digit).to_digit(16)).expect("two digits");
                    u8::try_from(digit() * 16 + digit()).expect("two digits are a byte")
                }
                other => other,
            },
            byte => byte,
        });
    }
    bytes
}

/// A reply as written in the transcript.
fn shown(reply: &Reply) -> Vec<String> {
    match reply {
        Reply::Text(text) => vec![format!("+{}", escaped(text.as_bytes()))],
        Reply::Error(text) => vec![format!("-{}", escaped(text.as_bytes()))],
        Reply::Bulk(bytes) => vec![format!("${}", bytes.len()), escaped(bytes)],
        Reply::Number(number) => vec![format!(":{number}")],
        Reply::Null => vec!["$-1".to_owned()],
        Reply::Array(items) => {
            std::iter::once(format!("*{}", items.len())).chain(items.iter().flat_map(shown)).collect()
        }
    }
}

fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        match byte {
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            32..127 => text.push(char::from(*byte)),
            byte => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    match text.strip_suffix(' ') {
        Some(before) => format!("{before}\\x20"),
        None => text,
    }
}

/// The answer to a request. A starved node drops out of the in-sync sets for a while, and a quorum write is then
/// refused: the request is sent again.
fn ask(node: &mut Connection, words: &[Vec<u8>]) -> Reply {
    let deadline = Instant::now() + wait::SOON;
    loop {
        node.send(array(words));
        let reply = node.reply();
        if !is_refused(&reply) || Instant::now() > deadline {
            return reply;
        }
    }
}

fn is_refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(error) if error.starts_with("UNAVAILABLE"))
}

/// Runs a transcript, each request on the next of the connections, and returns the answers that differ.
pub(crate) fn differences(transcript: &str, nodes: &mut [Connection]) -> Vec<String> {
    let mut differences = Vec::new();
    let mut node = 0;
    for Exchange { line, words, is_kind_only, reply } in exchanges(transcript) {
        node = (node + 1) % nodes.len();
        let mut answer = shown(&ask(nodes.get_mut(node).expect("one of them"), &words));
        if is_kind_only {
            answer.truncate(1);
            answer.iter_mut().for_each(|line| line.truncate(1));
        }
        if answer != reply {
            differences.push(format!("line {line}: Redis answers {reply:?}, a node {answer:?}"));
        }
    }
    differences
}

#[test]
fn redis_commands_on_data_are_answered_as_redis_answers_them() {
    let cluster = Setup::default().start();
    // Whoever leads a key, two out of three requests for it go to another node.
    for (ack, read) in [("async", "local"), ("quorum", "linear")] {
        let mut nodes: Vec<_> = (0..3).map(|at| cluster.connect_at(at, ack, read)).collect();
        // Reads go to the primary, as local ones do while it lives, so that one node's writes are visible to the next.
        let found = differences(TRANSCRIPT, &mut nodes);
        assert!(found.is_empty(), "at {ack} and {read}:\n{}", found.join("\n"));
        assert_eq!(ask(&mut nodes[0], &[b"FLUSHALL".to_vec()]), Reply::ok());
    }
}

#[test]
fn commands_of_other_kinds_of_data_are_unknown() {
    let cluster = shared();
    let mut node = cluster.connect(0);
    for words in [&["LPUSH", "l", "a"][..], &["HSET", "h", "f", "v"], &["ZADD", "z", "1", "m"], &["SADD", "s", "m"]] {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let Reply::Error(error) = ask(&mut node, &words) else { panic!("{words:?} is not refused") };
        assert!(error.starts_with("ERR unknown command '"), "{error}");
    }
}

#[test]
fn pipelined_commands_of_several_keys_keep_their_order() {
    let cluster = shared();
    let mut node = cluster.connect_at(0, "quorum", "linear");
    let key = |number: usize| format!("redis-order:{number}").into_bytes();
    let keys: Vec<_> = (0..50).map(key).collect();
    let with = |verb: &str, words: &[Vec<u8>]| array(&[&[verb.as_bytes().to_vec()], words].concat());
    let pairs: Vec<_> = keys.iter().flat_map(|key| [key.clone(), b"1".to_vec()]).collect();
    let twice = [keys.clone(), keys.clone()].concat();
    let mut requests = Vec::new();
    requests.extend(with("MSET", &pairs));
    requests.extend(with("INCR", &[key(7)]));
    requests.extend(with("EXISTS", &twice));
    requests.extend(with("DEL", &twice));
    requests.extend(with("EXISTS", &keys));
    requests.extend(with("GET", &[key(7)]));
    let deadline = Instant::now() + wait::SOON;
    let replies = loop {
        node.send(&requests);
        let replies: Vec<_> = (0..6).map(|_| node.reply()).collect();
        if !replies.iter().any(is_refused) || Instant::now() > deadline {
            break replies;
        }
    };
    let numbers = [2, 100, 50, 0].map(Reply::Number);
    let [two, hundred, fifty, zero] = numbers;
    assert_eq!(replies, [Reply::ok(), two, hundred, fifty, zero, Reply::Null]);
}

/// A request is executed in parts when other nodes lead its keys. Each part took longer the more words the request had,
/// so that these requests would take hours.
#[test]
fn the_time_that_many_keys_take_grows_with_their_number_alone() {
    let cluster = shared();
    let mut node = Connection::open(&cluster.node(0).addr);
    let begin = Instant::now();
    let names: Vec<String> = (0..20_000).map(|at| format!("many-keys-{at}")).collect();
    let with = |verb: &'static str| std::iter::once(verb).chain(names.iter().map(String::as_str)).collect::<Vec<_>>();
    let pairs = names.iter().flat_map(|name| [name.as_str(), "v"]);
    assert_eq!(node.call(&std::iter::once("MSET").chain(pairs).collect::<Vec<_>>()), Reply::ok());
    assert_eq!(node.call(&with("EXISTS")), Reply::Number(20_000));
    // The same key again and again: each waits for the one before it.
    for key in &names[..3] {
        let again = std::iter::once("EXISTS").chain(std::iter::repeat_n(key.as_str(), 10_000)).collect::<Vec<_>>();
        assert_eq!(node.call(&again), Reply::Number(10_000));
        let line = format!("EXISTS{}", format!(" \t{key}").repeat(10_000));
        assert_eq!(node.ask(&line), "OK 10000");
    }
    assert_eq!(node.call(&with("DEL")), Reply::Number(20_000));
    assert!(begin.elapsed() < Duration::from_secs(30), "it took {:?}", begin.elapsed());
}

#[test]
fn a_scan_of_small_steps_has_every_key_whichever_nodes_make_it() {
    let cluster = Setup::default().start();
    let mut nodes: Vec<_> = (0..3).map(|at| cluster.connect_at(at, "quorum", "linear")).collect();
    let mut stored: Vec<Vec<u8>> = (0..2_000).map(|number| format!("scan:{number:05}").into_bytes()).collect();
    for keys in stored.chunks(500) {
        let pairs = keys.iter().flat_map(|key| [key.clone(), b"v".to_vec()]);
        assert_eq!(ask(&mut nodes[0], &[b"MSET".to_vec()].into_iter().chain(pairs).collect::<Vec<_>>()), Reply::ok());
    }
    let (mut cursor, mut found, mut steps) = (b"0".to_vec(), Vec::new(), 0);
    loop {
        let request = [b"SCAN".to_vec(), cursor, b"COUNT".to_vec(), b"100".to_vec()];
        let Reply::Array(items) = ask(&mut nodes[steps % 3], &request) else { panic!("no scan") };
        let [Reply::Bulk(next), Reply::Array(keys)] = items.as_slice() else { panic!("not two items: {items:?}") };
        found.extend(keys.iter().map(|key| match key {
            Reply::Bulk(key) => key.clone(),
            other => panic!("no key: {other:?}"),
        }));
        steps += 1;
        cursor = next.clone();
        if cursor == b"0" {
            break;
        }
    }
    found.sort();
    stored.sort();
    assert!(steps > 2, "{steps} steps");
    assert_eq!(found, stored);
    let Reply::Bulk(random) = ask(&mut nodes[1], &[b"RANDOMKEY".to_vec()]) else { panic!("no key") };
    assert!(stored.contains(&random));
    assert_eq!(ask(&mut nodes[2], &[b"FLUSHALL".to_vec()]), Reply::ok());
    assert_eq!(ask(&mut nodes[1], &[b"KEYS".to_vec(), b"*".to_vec()]), Reply::Array(Vec::new()));
}

#[cfg(unix)]
#[test]
fn flushall_waits_for_a_node_that_is_slower_than_the_others() {
    let cluster = Setup::default().start();
    cluster.wait_until_level();
    let mut node = cluster.connect_at(0, "quorum", "linear");
    let pairs: Vec<String> = (0..3_000).flat_map(|at| [format!("flush:{at}"), "v".to_owned()]).collect();
    let words: Vec<&str> = std::iter::once("MSET").chain(pairs.iter().map(String::as_str)).collect();
    assert_eq!(node.call(&words), Reply::ok());
    let there = cluster.key_led_by(2, "flush");
    let mut local = cluster.connect(0);
    cluster.node(2).process.pause();
    let (answered, resumed) = std::thread::scope(|scope| {
        // The keys are listed without it after 0.3 s. Then its keys are deleted, which takes until it goes on.
        let resumed = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(450));
            let resumed = Instant::now();
            cluster.node(2).process.resume();
            resumed
        });
        assert_eq!(local.call(&["FLUSHALL"]), Reply::ok());
        (Instant::now(), resumed.join().expect("it resumes"))
    });
    assert!(answered > resumed || cluster.leader_of(&there) != 2, "answered before that node has answered");
    assert_eq!(node.call(&["DBSIZE"]), Reply::Number(0));
}

#[test]
fn a_repeated_increment_with_an_identity_is_answered_as_the_first() {
    let cluster = shared();
    let mut nodes: Vec<_> = (0..3).map(|at| cluster.connect_at(at, "quorum", "linear")).collect();
    let once = |seq: &str, words: &[&str]| {
        let words = [&["ONCE", "redis-test", seq], words].concat();
        words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>()
    };
    let number = Reply::Number;
    for (seq, words, answer) in [
        ("1", &["INCR", "redis-once"][..], number(1)),
        ("2", &["INCRBY", "redis-once", "10"], number(11)),
        ("1", &["INCR", "redis-once"], number(1)),
        ("3", &["GETSET", "redis-once", "x"], Reply::bulk("11")),
        ("2", &["INCRBY", "redis-once", "10"], number(11)),
        ("4", &["INCR", "redis-once"], Reply::Error("ERR value is not an integer or out of range".to_owned())),
        ("5", &["SET", "redis-once", "7"], Reply::ok()),
        ("4", &["INCR", "redis-once"], Reply::Error("ERR value is not an integer or out of range".to_owned())),
        ("6", &["DEL", "redis-once"], number(1)),
        ("6", &["DEL", "redis-once"], number(1)),
        ("7", &["SET", "redis-once", "9", "XX"], Reply::Null),
        ("8", &["SETNX", "redis-once", "9"], number(1)),
        ("7", &["SET", "redis-once", "9", "XX"], Reply::Null),
        ("9", &["DEL", "redis-once", "redis-other"], Reply::Error("ERR Invalid ONCE format".to_owned())),
        ("9", &["GET", "redis-once"], Reply::Error("ERR Invalid ONCE format".to_owned())),
    ] {
        for node in &mut nodes {
            assert_eq!(ask(node, &once(seq, words)), answer, "{seq} {words:?}");
        }
    }
}

#[test]
#[cfg(unix)]
fn an_error_is_the_answer_of_a_repeated_write_at_any_other_primary() {
    let cluster = Setup::default().start();
    cluster.wait_until_settled();
    let keys = cluster.keys_led_by(0, "redis-wrong", 8);
    let mut node = cluster.connect_at(1, "quorum", "linear");
    for key in &keys {
        assert_eq!(ask(&mut node, &["SET", key, "abc"].map(|word| word.as_bytes().to_vec())), Reply::ok());
    }
    cluster.node(0).process.pause();
    // Some are led by the node that is asked now, and some by the third.
    for (seq, key) in keys.iter().enumerate() {
        let seq = (seq + 1).to_string();
        let reply = ask(&mut node, &["ONCE", "redis-wrong", &seq, "INCR", key].map(|word| word.as_bytes().to_vec()));
        assert_eq!(reply, Reply::Error("ERR value is not an integer or out of range".to_owned()), "{key}");
    }
    cluster.node(0).process.resume();
}

#[test]
fn a_line_may_not_store_what_no_array_may_carry() {
    let cluster = shared();
    let value = "v".repeat((64 << 20) + 1);
    for verb in ["SET redis-long", "MSET redis-long", "SETEX redis-long 9", "GETSET redis-long", "APPEND redis-long"] {
        let mut node = cluster.connect(0);
        let refused = "ERROR TOOLONG value of 67108865 bytes, the limit is 67108864; nothing was changed";
        assert_eq!(node.ask(&format!("{verb} {value}")), refused, "{verb}");
        assert_eq!(node.ask("GET redis-long"), "NOT_FOUND");
    }
}

#[test]
fn a_line_may_say_redis_commands_too() {
    let cluster = shared();
    let mut node = cluster.connect(1);
    for (line, answer) in [
        ("SET redis-line 5 EX 100", "OK"),
        ("INCR redis-line", "OK 6"),
        ("incrby redis-line x", "ERROR ERR value is not an integer or out of range"),
        ("STRLEN redis-line", "OK 1"),
        ("TYPE redis-line", "string"),
        ("GETDEL redis-line", "VALUE 6"),
        ("GETDEL redis-line", "NOT_FOUND"),
        ("SET redis-line", "ERROR ERR wrong number of arguments for 'set' command"),
        ("DEL redis-line redis-line", "OK 0"),
        ("LPUSH l a", "ERROR Unknown command"),
    ] {
        assert_eq!(node.ask(line), answer, "{line}");
    }
}

#[test]
fn each_increment_with_an_identity_counts_once_while_the_primary_is_killed() {
    let mut cluster = Setup::default().start();
    let key = cluster.key_led_by(0, "redis-count");
    let mut node = cluster.connect_at(1, "quorum", "linear");
    // On a starved machine the coordinator takes its time to promote a replica.
    let deadline = Instant::now() + 6 * wait::SOON;
    for seq in 1..=60 {
        if seq == 20 {
            // A starved copy is out of the in-sync sets and cannot take over.
            cluster.wait_until_settled();
            cluster.kill(0);
        }
        let number = seq.to_string();
        let request = ["ONCE", "redis-counter", &number, "INCR", &key].map(|word| word.as_bytes().to_vec());
        loop {
            node.send(array(&request));
            match node.reply() {
                // Whether it is repeated or new, the number is the one that this increment produced.
                Reply::Number(told) => break assert_eq!(told, seq),
                Reply::Error(error) => assert!(Instant::now() < deadline, "{error}"),
                other => panic!("no answer to an INCR: {other:?}"),
            }
        }
    }
    assert_eq!(ask(&mut node, &[b"GET".to_vec(), key.into_bytes()]), Reply::bulk("60"));
}

#[test]
fn keys_of_one_slot_change_together_while_the_primary_is_killed() {
    let mut cluster = Setup::default().start();
    let slot = |key: &String| SLOT_BITS.slot(&Position::of(key.as_bytes()));
    let first = cluster.key_led_by(0, "redis-multi");
    let others = (0..).map(|number| format!("redis-multi-{number}")).filter(|other| slot(other) == slot(&first));
    let keys: Vec<String> = [first.clone()].into_iter().chain(others.take(2)).collect();
    let [a, b, c] = keys.as_slice() else { panic!("three keys") };
    let mut node = cluster.connect_at(1, "quorum", "linear");
    let elsewhere = (0..).map(|number| format!("redis-multi-{number}")).find(|other| slot(other) != slot(a));
    for (verb, words) in
        [("MSETNX", vec![a, b, elsewhere.as_ref().unwrap(), b]), ("RENAME", vec![a, elsewhere.as_ref().unwrap()])]
    {
        let words: Vec<_> = [verb].into_iter().chain(words.into_iter().map(String::as_str)).collect();
        node.send(array(&words));
        let refused = "CROSSSLOT Keys in request don't hash to the same slot";
        assert_eq!(node.reply(), Reply::Error(refused.to_owned()), "{words:?}");
    }
    let deadline = Instant::now() + 6 * wait::SOON;
    let mut seq = 0;
    for round in 1..=20 {
        if round == 7 {
            // A starved copy is out of the in-sync sets and cannot take over.
            cluster.wait_until_settled();
            cluster.kill(0);
        }
        let value = round.to_string();
        let mut once = |words: &[&str], answer: Reply| {
            seq += 1;
            let number = seq.to_string();
            let request = [&["ONCE", "redis-multi", &number], words].concat();
            loop {
                node.send(array(&request));
                match node.reply() {
                    Reply::Error(error) => assert!(Instant::now() < deadline, "{error}"),
                    told => break assert_eq!(told, answer, "{request:?}"),
                }
            }
        };
        once(&["MSETNX", a, &value, b, &value, c, &value], Reply::Number(1));
        once(&["MSETNX", a, "other", b, "other"], Reply::Number(0));
        once(&["RENAME", b, a], Reply::ok());
        once(&["RENAMENX", c, a], Reply::Number(0));
        once(&["RENAMENX", c, b], Reply::Number(1));
        let value = || Reply::bulk(&value);
        let present = ask(&mut node, &["MGET", a, b, c].map(|word| word.as_bytes().to_vec()));
        assert_eq!(present, Reply::Array(vec![value(), value(), Reply::Null]));
        for key in [a, b] {
            let delete = ["DEL", key].map(|word| word.as_bytes().to_vec());
            assert_eq!(ask(&mut node, &delete), Reply::Number(1));
        }
    }
}
