//! Walks through the keys of the whole cluster, and requests with many keys.

use std::time::{Duration, Instant};

use e2e::cluster::Setup;
use e2e::connection::{Connection, Reply, array};
use e2e::load::Load;

/// One page, requested until it is given: a page that would lack keys is refused.
#[track_caller]
fn page(node: &mut Connection, request: &str) -> Vec<String> {
    let head = node.insist(request);
    let count = head.strip_prefix("OK ").and_then(|head| head.strip_suffix(':')?.parse::<usize>().ok());
    let keys = node.lines();
    assert_eq!(Some(keys.len()), count, "{request}: {head}");
    keys
}

/// All keys of a walk, page by page; `between` is called after each page with the number of keys so far.
#[track_caller]
fn walk(node: &mut Connection, request: &str, mut between: impl FnMut(usize)) -> Vec<String> {
    let mut walked: Vec<String> = Vec::new();
    for number in 1.. {
        let after = walked.last().map(|last| format!(" AFTER {last}")).unwrap_or_default();
        let keys = page(node, &format!("{request}{after}"));
        if keys.is_empty() {
            break;
        }
        walked.extend(keys);
        between(number);
    }
    walked
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}:{number:05}")).collect()
}

#[track_caller]
fn store(node: &mut Connection, keys: &[String]) {
    let puts: Vec<_> = keys.iter().map(|key| format!("PUT {key} value of {key}")).collect();
    assert!(node.insist_all(&puts).iter().all(|answer| answer == "OK"));
}

#[test]
fn a_walk_has_every_key_once_while_a_node_is_killed_and_another_joins() {
    let mut cluster = Setup { heartbeat_timeout: "1s", ..Setup::default() }.start();
    let mut node = cluster.connect_at(1, "quorum", "linear");
    let keys = names("walk", 3_000);
    store(&mut node, &keys);
    // Other keys come and go among them.
    let mut churning = cluster.connect_at(2, "quorum", "linear");
    let churn = Load::start("keys that come and go", move |round| {
        let key = format!("walk:{:05}-gone", round % 3_000);
        // While nobody leads the slot, writes are refused; that is not what this test is about.
        churning.try_ask(&format!("PUT {key} v")).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while churning.try_ask(&format!("DELETE {key}")).map_err(|error| error.to_string())? != "OK" {
            if Instant::now() >= deadline {
                return Err(format!("{key} cannot be deleted"));
            }
        }
        Ok(())
    });
    let walked = walk(&mut node, "PREFIX walk: LIMIT 100", |number| match number {
        4 => cluster.kill(0),
        8 => {
            cluster.add_node();
        }
        _ => {}
    });
    churn.finish_without_failure();
    assert!(walked.is_sorted_by(|one, next| one < next), "in their order, none twice");
    let (gone, found): (Vec<_>, Vec<_>) = walked.into_iter().partition(|key| key.ends_with("-gone"));
    assert_eq!(found, keys, "and {} that came and went", gone.len());
    cluster.wait_until_settled();
    for index in [1, 2, 3] {
        let mut any = cluster.connect_at(index, "quorum", "linear");
        assert_eq!(walk(&mut any, "RANGE walk: walk:99999 LIMIT 10000", |_| ()).len(), 3_000);
        assert_eq!(any.insist("COUNT walk:"), "OK 3000");
        assert_eq!(any.insist("COUNT walk:01"), "OK 1000");
    }
}

#[test]
fn any_node_lists_the_keys_of_all_in_the_order_of_their_bytes() {
    let cluster = Setup::default().start();
    let keys = ["order:", "order:A", "order:a", "order:a:b", "order:ab", "order:é"];
    for key in keys {
        assert_eq!(cluster.connect(0).ask(&format!("PUT {key} v")), "OK");
    }
    assert_eq!(cluster.connect(1).ask("DELETE order:A"), "OK");
    let left = ["order:", "order:a", "order:a:b", "order:ab", "order:é"];
    for index in 0..3 {
        let mut node = cluster.connect(index);
        assert_eq!(page(&mut node, "PREFIX order:"), left);
        assert_eq!(page(&mut node, "prefix order: limit 2 after order:"), ["order:a", "order:a:b"]);
        assert_eq!(
            page(&mut node, "RANGE order:a order:ab"),
            ["order:a", "order:a:b"],
            "the second bound is not in it"
        );
        assert_eq!(page(&mut node, "PREFIX order:ab AFTER order:ab"), [""; 0]);
        assert_eq!(node.ask("COUNT order:a"), "OK 3");
        assert_eq!(node.ask("COUNT nothing"), "OK 0");
    }
}

#[test]
fn keys_of_any_bytes_are_listed_in_an_array_and_refused_on_a_line() {
    let cluster = Setup::default().start();
    let mut node = cluster.connect(0);
    let keys: [&[u8]; 4] = [b"bytes:", b"bytes:\n", b"bytes:a b", b"bytes:\xff"];
    for key in keys {
        assert_eq!(node.call(&[b"PUT", key, b"v"]), Reply::ok());
    }
    let listed = |keys: &[&[u8]]| Reply::Array(keys.iter().map(Reply::bulk).collect());
    assert_eq!(node.call(&[&b"PREFIX"[..], b"bytes:"]), listed(&keys));
    assert_eq!(node.call(&[&b"RANGE"[..], b"bytes:", b"", b"AFTER", b"bytes:\n"]), listed(&keys[2..]));
    assert_eq!(node.call(&[&b"COUNT"[..], b""]), Reply::Number(4));
    let refused = node.ask("PREFIX bytes:");
    assert_eq!(refused, "ERROR BINARY key is not a word of a line (7 bytes); list it with the array encoding");
    assert_eq!(page(&mut node, "PREFIX bytes: LIMIT 1"), ["bytes:"]);
}

#[test]
fn a_page_that_would_lack_keys_is_not_given() {
    let setup = Setup { nodes: 2, replicas: 0, node_args: &["--request-timeout", "500ms"], ..Setup::default() };
    let mut cluster = setup.start();
    let (here, there) = (cluster.key_led_by(1, "lack"), cluster.key_led_by(0, "lack"));
    let mut node = cluster.connect(1);
    for key in [&here, &there] {
        assert_eq!(node.ask(&format!("PUT {key} v")), "OK");
    }
    let killed = cluster.node(0).addr.clone();
    cluster.kill(0);
    for request in ["PREFIX lack", "COUNT lack", "RANGE lack lacl LIMIT 1"] {
        let answer = node.ask(request);
        assert!(answer.starts_with("ERROR UNAVAILABLE ") && answer.contains("slot "), "{request}: {answer}");
        assert!(answer.contains(&killed) && answer.contains("nothing was changed"), "{request}: {answer}");
    }
    // With many keys, each has its own answer.
    node.send(format!("MGET {here} {there} {here}\n"));
    let answers = node.lines();
    assert_eq!((answers[0].as_str(), answers[2].as_str(), answers.len()), ("VALUE v", "VALUE v", 3));
    assert!(answers[1].starts_with("ERROR UNAVAILABLE "), "{}", answers[1]);
    let Reply::Array(stored) = node.call(&["MPUT", &there, "new", &here, "new"]) else { panic!("an answer for each") };
    assert!(
        matches!(&stored[..], [Reply::Error(error), Reply::Text(ok)] if error.starts_with("UNAVAILABLE ") && ok == "OK")
    );
    assert_eq!(node.ask(&format!("GET {here}")), "VALUE new");
}

#[cfg(unix)]
#[test]
fn a_node_lists_matching_keys_for_four_clients_at_a_time() {
    let node_args = &["--request-timeout", "2s"];
    let cluster = Setup { nodes: 2, replicas: 0, heartbeat_timeout: "300s", node_args, ..Setup::default() }.start();
    let mut clients: Vec<_> = (0..5).map(|_| cluster.connect(0)).collect();
    cluster.node(1).process.pause();
    // A list lasts until the time for it is up, so each of the four keeps its place for 2 s.
    let start = Instant::now();
    let mut last = clients.pop().expect("five clients");
    clients.iter_mut().for_each(|client| client.send("KEYS listed:*\n"));
    std::thread::sleep(Duration::from_millis(500));
    last.send("KEYS listed:*\n");
    for client in clients.iter_mut().chain([&mut last]) {
        let answer = client.line();
        assert!(answer.starts_with("ERROR UNAVAILABLE "), "{answer}");
    }
    assert!(start.elapsed() >= Duration::from_millis(3_500), "the fifth was not kept waiting: {:?}", start.elapsed());
    cluster.node(1).process.resume();
}

#[test]
fn the_only_copy_that_is_left_lists_every_key() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    let keys = names("left", 200);
    store(&mut cluster.connect(0), &keys);
    cluster.wait_until_level();
    cluster.kill(0);
    cluster.kill(1);
    let mut node = cluster.connect(2);
    assert_eq!(walk(&mut node, "PREFIX left: LIMIT 70", |_| ()), keys);
    assert_eq!(node.ask("COUNT left:"), "OK 200");
}

#[test]
fn many_keys_are_answered_in_their_order_however_much_it_is() {
    // Without replicas no primary changes just because the machine is busy: this test is about the answers alone.
    let cluster = Setup { replicas: 0, heartbeat_timeout: "300s", ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    node.answers_within(Duration::from_secs(60));
    let keys = names("many", 1_500);
    // Together far more than a node collects before it answers, and one long enough to be sent from where it is stored.
    let value = |at: usize| vec![b'a' + (at % 26) as u8; if at == 700 { 100_000 } else { 1_000 }];
    let values: Vec<_> = (0..keys.len()).map(value).collect();
    let mut words = vec![b"MPUT".to_vec()];
    words.extend(keys.iter().zip(&values).flat_map(|(key, value)| [key.clone().into_bytes(), value.clone()]));
    assert_eq!(node.call(&words), Reply::Array(vec![Reply::ok(); keys.len()]));
    for index in 0..3 {
        let mut node = cluster.connect(index);
        node.answers_within(Duration::from_secs(60));
        let mut words = vec!["MGET", "many:none"];
        words.extend(keys.iter().map(String::as_str));
        // Pipelined among others, whose answers keep their places.
        node.send([array(&["GET", "many:00007"]), array(&words), array(&["PING"])].concat());
        assert_eq!(node.reply(), Reply::bulk(&values[7]));
        let Reply::Array(read) = node.reply() else { panic!("an answer for each") };
        assert_eq!((read.len(), &read[0]), (keys.len() + 1, &Reply::Null));
        for (at, reply) in read.iter().skip(1).enumerate() {
            assert_eq!(reply, &Reply::bulk(&values[at]), "{}", keys[at]);
        }
        assert_eq!(node.reply(), Reply::Text("PONG".into()));
    }
    // If a key is repeated, its last value stays.
    let twice: Vec<&str> = ["MPUT"].into_iter().chain(["many:x", "1", "many:y", "1", "many:x", "2"]).collect();
    assert_eq!(node.call(&twice), Reply::Array(vec![Reply::ok(); 3]));
    assert_eq!(node.ask_lines("MGET many:x many:y"), ["VALUE 2", "VALUE 1"]);
}

#[test]
fn the_client_walks_counts_and_reads_many_keys() {
    let cluster = Setup::default().start();
    let run = |command: &str, more: &[&str]| {
        let ended = e2e::client::command(cluster.coordinator.port, command, more);
        (String::from_utf8_lossy(&ended.stdout).into_owned(), ended.code)
    };
    let (stored, code) = run("MPUT c:1 one c:2 two d:1 three", &[]);
    assert!(stored.starts_with("[Client] MPUT c:1 [primary: ") && code == Some(0), "{stored}");
    assert_eq!(run("PREFIX c:", &[]), ("OK 2:\n  c:1\n  c:2\n".into(), Some(0)));
    assert_eq!(run("RANGE c:1 c:2", &["--raw"]), ("c:1\n".into(), Some(0)));
    assert_eq!(run("PREFIX c: LIMIT 1 AFTER c:1", &["--read", "linear", "--raw"]), ("c:2\n".into(), Some(0)));
    assert_eq!(run("COUNT c:", &[]), ("OK 2\n".into(), Some(0)));
    assert_eq!(run("COUNT", &[]), ("OK 3\n".into(), Some(0)), "all keys");
    assert_eq!(run("PREFIX", &["--raw"]), ("c:1\nc:2\nd:1\n".into(), Some(0)));
    assert_eq!(run("PREFIX LIMIT 1 AFTER c:2", &["--raw"]), ("d:1\n".into(), Some(0)));
    assert_eq!(run("MGET c:2 c:3", &["--raw"]), ("two\n\n".into(), Some(1)));
}

#[test]
fn what_is_asked_behind_a_walk_is_answered_behind_it() {
    let cluster = Setup::default().start();
    let mut node = cluster.connect(0);
    node.send("PUT pipe:1 a\nPREFIX pipe:\nPUT pipe:2 b\nCOUNT pipe:\nGET pipe:2\nPREFIX pipe:\n");
    assert_eq!(node.line(), "OK");
    assert_eq!(node.lines(), ["OK 1:", "pipe:1"]);
    assert_eq!((node.line(), node.line(), node.line()), ("OK".into(), "OK 2".into(), "VALUE b".into()));
    assert_eq!(node.lines(), ["OK 2:", "pipe:1", "pipe:2"]);
}
