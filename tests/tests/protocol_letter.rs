//! Every row of the protocol's tables, to the letter.

use std::time::Duration;

use e2e::cluster::{self, Setup};
use e2e::connection::{Connection, Reply, exchange};
use e2e::server;
use e2e::wait::{SOON, ensure, eventually, throughout};

#[test]
fn each_request_to_a_node_has_its_answer() {
    let cluster = cluster::shared();
    // Through every node: an answer given by another node reads like the node's own.
    for index in 0..3 {
        let mut node = cluster.connect(index);
        let key = format!("letter-node:{index}");
        for (request, answer) in [
            ("GET KEY", "NOT_FOUND"),
            ("DELETE KEY", "OK"),
            ("PUT KEY value", "OK"),
            ("GET KEY", "VALUE value"),
            ("REPLICATE KEY pushed", "OK"),
            ("GET KEY", "VALUE pushed"),
            ("DELETE KEY", "OK"),
            ("GET KEY", "NOT_FOUND"),
            ("PING", "PONG"),
        ] {
            assert_eq!(node.ask(&request.replace("KEY", &key)), answer, "{request}");
        }
        let info = node.ask("INFO");
        let start = format!("OK Node {} keys=", cluster.node(index).addr);
        let keys = info.strip_prefix(&start).and_then(|rest| rest.split(' ').next()).map(str::parse::<u64>);
        assert!(matches!(keys, Some(Ok(_))), "{info:?} should start with {start:?} and a number");
        assert_eq!(node.ask("QUIT"), "OK");
        node.is_closed();
    }
}

#[test]
fn each_wrong_request_to_a_node_has_its_error() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    for request in ["", "   ", "FOO", "FOO bar", "PUTT k v", "LIST_NODES", "REGISTER_NODE 127.0.0.1 5001", "VALUE v"] {
        assert_eq!(node.ask(request), "ERROR Unknown command", "{request:?}");
    }
    for (verb, requests) in [
        ("PUT", &["PUT", "PUT k", "PUT k ", "put k\t"][..]),
        ("GET", &["GET", "GET ", "get k k"]),
        ("DELETE", &["DELETE", "DELETE k k"]),
        ("REPLICATE", &["REPLICATE", "REPLICATE k"]),
        ("INFO", &["INFO all"]),
        ("PING", &["PING now"]),
        ("QUIT", &["QUIT now"]),
    ] {
        for request in requests {
            assert_eq!(node.ask(request), format!("ERROR Invalid {verb} format"), "{request:?}");
        }
    }
    node.send(b"PUT k \xff\xfe\n");
    let answer = node.line();
    assert!(answer.starts_with("ERROR NOTTEXT "), "{answer}");
    assert_eq!(node.ask("PING"), "PONG", "none of these closes the connection");
}

#[test]
fn each_array_to_a_node_has_its_answer() {
    let cluster = cluster::shared();
    for index in 0..3 {
        let mut node = cluster.connect(index);
        let key = format!("letter-array:{index}");
        let mut call = |words: &[&str]| node.call(words);
        assert_eq!(call(&["GET", &key]), Reply::Null);
        assert_eq!(call(&["DELETE", &key]), Reply::ok());
        assert_eq!(call(&["PUT", &key, "v w"]), Reply::ok());
        assert_eq!(call(&["GET", &key]), Reply::bulk("v w"));
        assert_eq!(call(&["put", &key, ""]), Reply::ok());
        assert_eq!(call(&["get", &key]), Reply::bulk(""));
        assert_eq!(call(&["REPLICATE", &key, "pushed"]), Reply::ok());
        assert_eq!(call(&["GET", &key]), Reply::bulk("pushed"));
        assert_eq!(call(&["DELETE", &key]), Reply::ok());
        assert_eq!(call(&["GET", &key]), Reply::Null);
        assert_eq!(call(&["PING"]), Reply::Text("PONG".to_owned()));
        assert_eq!(call(&["QUIT"]), Reply::ok());
        node.is_closed();
    }
}

#[test]
fn each_wrong_array_to_a_node_has_its_error() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    for (words, error) in [
        (&["FOO"][..], "ERR unknown command 'FOO', with args beginning with: "),
        (&["LIST_NODES"], "ERR unknown command 'LIST_NODES', with args beginning with: "),
        (&["PUT", "k"], "ERR wrong number of arguments for 'put' command"),
        (&["PUT", "k", "v", "w"], "ERR wrong number of arguments for 'put' command"),
        (&["GET"], "ERR wrong number of arguments for 'get' command"),
        (&["GET", "k", "k"], "ERR wrong number of arguments for 'get' command"),
        (&["DELETE"], "ERR wrong number of arguments for 'delete' command"),
        (&["REPLICATE", "k"], "ERR wrong number of arguments for 'replicate' command"),
    ] {
        assert_eq!(node.call(words), Reply::Error(error.to_owned()), "{words:?}");
    }
    assert_eq!(node.call(&["PING"]), Reply::Text("PONG".to_owned()), "none of these closes the connection");
}

#[test]
fn verbs_in_any_case_blanks_tabs_and_carriage_returns_are_taken() {
    let cluster = cluster::shared();
    let sent =
        "put letter-case:1 a\r\n  Put\tletter-case:2 \t b\n\tgEt   letter-case:1  \r\nGET\tletter-case:2\nping\r\n";
    assert_eq!(exchange(&cluster.node(0).addr, sent), "OK\nOK\nVALUE a\nVALUE b\nPONG\n");
    let sent = "list_nodes\r\nping\n";
    let listed: String = cluster.listed().iter().map(|addr| format!("  {addr}\n")).collect();
    assert_eq!(exchange(&cluster.coordinator.addr, sent), format!("OK Nodes:\n{listed}\nPONG\n"));
}

#[test]
fn a_value_is_everything_from_its_first_non_blank_to_the_end_of_the_line() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    for (i, (sent, kept)) in [
        ("a", "a"),
        ("two words", "two words"),
        ("{\"age\": 30}", "{\"age\": 30}"),
        ("\"important value\"", "\"important value\""),
        ("'single'  and   wide\tblanks", "'single'  and   wide\tblanks"),
        ("trailing blanks  \t ", "trailing blanks  \t "),
        (" \t leading blanks", "leading blanks"),
        ("a\rcarriage return inside", "a\rcarriage return inside"),
        ("ключ 🦀", "ключ 🦀"),
        ("VALUE NOT_FOUND", "VALUE NOT_FOUND"),
        ("[a,b] *3 $5 #!?", "[a,b] *3 $5 #!?"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(node.ask(&format!("PUT letter-value:{i} {sent}")), "OK", "{sent:?}");
        assert_eq!(node.ask(&format!("GET letter-value:{i}")), format!("VALUE {kept}"));
    }
}

#[test]
fn a_value_that_came_as_an_array_is_answered_to_a_line_where_a_line_can_carry_it() {
    let cluster = cluster::shared();
    for (value, line) in [
        (&b""[..], "VALUE "),
        (b" leading", "VALUE  leading"),
        (b"\t", "VALUE \t"),
        (b"a\nb", "ERROR BINARY value is not a line of text (3 bytes); read it with the array encoding"),
        (b"\n", "ERROR BINARY value is not a line of text (1 bytes); read it with the array encoding"),
        (b"\xff\xfe", "ERROR BINARY value is not a line of text (2 bytes); read it with the array encoding"),
    ] {
        for index in 0..3 {
            let mut node = cluster.connect(index);
            assert_eq!(node.call(&[b"PUT", &b"letter-binary"[..], value]), Reply::ok());
            assert_eq!(node.ask("GET letter-binary"), line, "{value:?}");
            assert_eq!(node.call(&["GET", "letter-binary"]), Reply::bulk(value));
        }
    }
}

#[test]
fn the_first_versions_word_of_replicas_is_taken_off_a_line_only_where_it_is_one() {
    let cluster = cluster::shared();
    let [a, b, c] = [0, 1, 2].map(|index| cluster.node(index).addr.clone());
    let mut node = cluster.connect(0);
    for (value, kept) in [
        (format!("v {b},{c}"), "v".to_owned()),
        (format!("two  words {b}"), "two  words".to_owned()),
        (format!("v {a},{b},{c}"), "v".to_owned()),
        // One of them is not a node of this cluster.
        (format!("v {b},127.0.0.1:1"), format!("v {b},127.0.0.1:1")),
        (format!("v {b},"), format!("v {b},")),
        (format!("v {b} {c}x"), format!("v {b} {c}x")),
        ("call me at 5".to_owned(), "call me at 5".to_owned()),
        // A single word is the value.
        (b.clone(), b.clone()),
        (format!("{b},{c}"), format!("{b},{c}")),
    ] {
        assert_eq!(node.ask(&format!("PUT letter-replicas {value}")), "OK");
        assert_eq!(node.ask("GET letter-replicas"), format!("VALUE {kept}"), "{value:?}");
        // An array states where its value ends.
        assert_eq!(node.call(&["PUT", "letter-replicas", &value]), Reply::ok());
        assert_eq!(node.call(&["GET", "letter-replicas"]), Reply::bulk(&value));
    }
}

#[test]
fn replicate_from_a_client_is_a_put_at_the_keys_primary() {
    let cluster = cluster::shared();
    for index in 0..3 {
        let key = format!("letter-replicate:{index}");
        let mut node = cluster.connect(index);
        assert_eq!(node.ask(&format!("REPLICATE {key} first {index}")), "OK");
        assert_eq!(node.ask(&format!("PUT {key} second")), "OK");
        assert_eq!(node.ask(&format!("REPLICATE {key} third {index}")), "OK");
        cluster.wait_until_level();
        for other in 0..3 {
            assert_eq!(cluster.connect(other).ask(&format!("GET {key}")), format!("VALUE third {index}"));
        }
    }
}

#[test]
fn messages_between_nodes_are_refused_from_a_client() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("PUT letter-peer kept"), "OK");
    // A record with a version, as a primary sends it.
    let record = ["REPLICATE", "5", "9-1", "0-0", "PUT", "letter-peer", "planted"];
    assert_eq!(node.call(&record), Reply::Error("ERR wrong number of arguments for 'replicate' command".to_owned()));
    for words in [&["ALIGN", "5", "9", "9-1"][..], &["FILL", "5", "9", "9-1", "1"], &["PURGE", "5", "1"]] {
        let Reply::Error(error) = node.call(words) else { panic!("{words:?} is taken") };
        assert!(error.starts_with("ERR unknown command '"), "{error}");
    }
    assert_eq!(node.ask("PEER REPLICATION x"), "ERROR Invalid PEER format");
    assert_eq!(node.ask("GET letter-peer"), "VALUE kept");
    // A peer that names another cluster, or another incarnation, is rejected.
    let addr = &cluster.node(1).addr;
    let cluster_id = cluster.map().cluster;
    for hello in [
        ["PEER", "REPLICATION", "some-other-cluster", addr, "1", "1"],
        ["PEER", "FORWARD", &cluster_id, addr, "1", "999999999"],
    ] {
        let reply = cluster.connect(0).call(&hello);
        assert!(matches!(&reply, Reply::Error(text) if text.starts_with("NOTPEER ")), "{hello:?}: {reply:?}");
    }
}

#[test]
fn each_request_to_the_coordinator_has_its_answer() {
    let coordinator = server::coordinator(&["--heartbeat-timeout", "60s"]);
    let mut connection = Connection::open(&coordinator.addr);
    let mut ask = |request: &str| connection.ask(request);
    assert_eq!(ask("LIST_NODES"), "OK No nodes registered");
    assert_eq!(ask("GET_NODES_FOR_KEY key"), "ERROR No nodes available");
    assert_eq!(ask("HEARTBEAT 127.0.0.1 6001"), "ERROR Node 127.0.0.1:6001 not found");
    assert_eq!(ask("UNREGISTER_NODE 127.0.0.1 6001"), "ERROR Node 127.0.0.1:6001 not found");
    assert_eq!(ask("REGISTER_NODE 127.0.0.1 6002"), "OK Node 127.0.0.1:6002 registered");
    assert_eq!(ask("REGISTER_NODE 127.0.0.1 6002"), "WARNING Node 127.0.0.1:6002 already registered");
    assert_eq!(ask("register_node 127.0.0.1 6001"), "OK Node 127.0.0.1:6001 registered");
    assert_eq!(ask("REGISTER_NODE kv-3.example 7000"), "OK Node kv-3.example:7000 registered");
    let beat = ask("HEARTBEAT 127.0.0.1 6001");
    assert!(beat == "OK" || beat.starts_with("OK "), "{beat}");
    assert_eq!(ask("UNREGISTER_NODE 127.0.0.1 6002"), "OK Node 127.0.0.1:6002 unregistered");
    assert_eq!(ask("UNREGISTER_NODE 127.0.0.1 6002"), "ERROR Node 127.0.0.1:6002 not found");
    assert_eq!(ask("HEARTBEAT 127.0.0.1 6002"), "ERROR Node 127.0.0.1:6002 not found");
    assert_eq!(ask("PING"), "PONG");
    let info = ask("INFO");
    assert!(info.starts_with("OK "), "{info}");
    assert_eq!(ask("QUIT"), "OK");
    connection.is_closed();
    // A multi-line answer ends with an empty line; a one-line answer has none after it.
    let listed = exchange(&coordinator.addr, "LIST_NODES\nPING\n");
    assert_eq!(listed, "OK Nodes:\n  127.0.0.1:6001\n  kv-3.example:7000\n\nPONG\n");
    let empty = server::coordinator(&[]);
    let answers = exchange(&empty.addr, "LIST_NODES\nGET_NODES_FOR_KEY k\nPING\n");
    assert_eq!(answers, "OK No nodes registered\nERROR No nodes available\nPONG\n");
}

#[test]
fn the_holders_of_a_key_are_a_primary_and_its_replicas_one_a_line() {
    let cluster = cluster::shared();
    let answer = exchange(&cluster.coordinator.addr, "GET_NODES_FOR_KEY user:1\nPING\n");
    let lines: Vec<_> = answer.split('\n').collect();
    let [primary, first, second, "", "PONG", ""] = lines[..] else { panic!("{answer:?}") };
    let holders = [("PRIMARY ", primary), ("REPLICA ", first), ("REPLICA ", second)]
        .map(|(role, line)| line.strip_prefix(role).unwrap_or_else(|| panic!("{line:?} should start with {role:?}")));
    let mut sorted = holders.map(str::to_owned);
    sorted.sort();
    assert_eq!(sorted.to_vec(), cluster.listed(), "each of the three nodes once");
}

#[test]
fn each_wrong_request_to_the_coordinator_has_its_error() {
    let coordinator = server::coordinator(&[]);
    let mut connection = Connection::open(&coordinator.addr);
    for request in ["", "FOO", "PUT a b", "GET a", "REGISTER 127.0.0.1 1"] {
        assert_eq!(connection.ask(request), "ERROR Unknown command", "{request:?}");
    }
    for (verb, words) in [
        (
            "REGISTER_NODE",
            &["", " 127.0.0.1", " 127.0.0.1 0", " 127.0.0.1 65536", " 127.0.0.1 x", " 127.0.0.1 5001 x"][..],
        ),
        ("REGISTER_NODE", &[" ho/st 5001", " 127.0.0.1:5001 5001", " 127.0.0.1 -1", " 127.0.0.1 +1"]),
        ("UNREGISTER_NODE", &["", " 127.0.0.1", " 127.0.0.1 port"]),
        ("HEARTBEAT", &["", " 127.0.0.1", " 127.0.0.1 0"]),
        ("GET_NODES_FOR_KEY", &["", " a b"]),
        ("LIST_NODES", &[" all"]),
        ("PING", &[" x"]),
        ("QUIT", &[" x"]),
    ] {
        for words in words {
            let request = format!("{verb}{words}");
            assert_eq!(connection.ask(&request), format!("ERROR Invalid {verb} format"), "{request:?}");
        }
    }
    assert_eq!(connection.ask("LIST_NODES"), "OK No nodes registered", "none of these registers anything");
}

#[test]
fn the_coordinator_takes_arrays_too() {
    let coordinator = server::coordinator(&["--heartbeat-timeout", "60s"]);
    let mut connection = Connection::open(&coordinator.addr);
    assert_eq!(connection.call(&["LIST_NODES"]), Reply::bulk("OK No nodes registered"));
    assert_eq!(connection.call(&["GET_NODES_FOR_KEY", "k"]), Reply::Error("ERR No nodes available".to_owned()));
    let registered = Reply::bulk("OK Node 127.0.0.1:6001 registered");
    assert_eq!(connection.call(&["REGISTER_NODE", "127.0.0.1", "6001"]), registered);
    let nodes = [Reply::bulk("OK Nodes:"), Reply::bulk("  127.0.0.1:6001")];
    assert_eq!(connection.call(&["list_nodes"]), Reply::Array(nodes.to_vec()));
    let format = Reply::Error("ERR Invalid REGISTER_NODE format".to_owned());
    assert_eq!(connection.call(&["REGISTER_NODE", "127.0.0.1"]), format);
    assert_eq!(connection.call(&["FOO"]), Reply::Error("ERR Unknown command".to_owned()));
    assert_eq!(connection.call(&["PING"]), Reply::Text("PONG".to_owned()));
    assert_eq!(connection.ask("PING"), "PONG", "a line on the same connection");
    assert_eq!(connection.call(&["QUIT"]), Reply::ok());
    connection.is_closed();
}

#[test]
fn a_node_registered_by_hand_stays_while_it_beats_and_is_removed_when_it_does_not() {
    let coordinator = server::coordinator(&["--heartbeat-timeout", "600ms"]);
    let mut connection = Connection::open(&coordinator.addr);
    assert_eq!(connection.ask("REGISTER_NODE 127.0.0.1 6001"), "OK Node 127.0.0.1:6001 registered");
    throughout("a beating node stays registered", Duration::from_millis(1500), || {
        let beat = connection.ask("HEARTBEAT 127.0.0.1 6001");
        ensure(beat.starts_with("OK"), || beat.clone())
    });
    eventually("a silent node is removed", SOON, || {
        let listed = connection.ask("LIST_NODES");
        if listed == "OK Nodes:" {
            connection.lines();
        }
        ensure(listed == "OK No nodes registered", || listed.clone())
    });
    assert_eq!(connection.ask("HEARTBEAT 127.0.0.1 6001"), "ERROR Node 127.0.0.1:6001 not found");
    assert_eq!(connection.ask("REGISTER_NODE 127.0.0.1 6001"), "OK Node 127.0.0.1:6001 registered", "taken in again");
}

#[test]
fn the_server_closes_after_quit_and_at_the_end_of_input() {
    let cluster = cluster::shared();
    for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
        assert_eq!(exchange(addr, "PING\nPING\n"), "PONG\nPONG\n");
        assert_eq!(exchange(addr, ""), "");
        let mut connection = Connection::open(addr);
        connection.send("PING\nQUIT\nPING\n");
        assert_eq!(String::from_utf8_lossy(&connection.rest()), "PONG\nOK\n", "nothing after QUIT is answered");
    }
}

#[test]
fn a_request_without_its_newline_waits_for_it() {
    let cluster = cluster::shared();
    for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
        let mut connection = Connection::open(addr);
        connection.send("PI");
        connection.is_silent_for(Duration::from_millis(200));
        connection.send("NG");
        connection.is_silent_for(Duration::from_millis(200));
        connection.send("\n");
        assert_eq!(connection.line(), "PONG");
    }
}

#[test]
fn original_framing_takes_a_request_that_is_followed_by_silence_as_whole() {
    let cluster = Setup {
        nodes: 1,
        coordinator_args: &["--original-framing"],
        node_args: &["--original-framing"],
        ..Setup::default()
    }
    .start();
    let node = cluster.node(0);
    let once = |addr: &str, request: &str| {
        let mut connection = Connection::open(addr);
        connection.send(request);
        String::from_utf8_lossy(&connection.rest()).into_owned()
    };
    assert_eq!(once(&node.addr, "PUT framing:1 {\"age\": 30}"), "OK\n");
    assert_eq!(once(&node.addr, "GET framing:1"), "VALUE {\"age\": 30}\n");
    assert_eq!(once(&node.addr, &format!("PUT framing:2 v {}", node.addr)), "OK\n");
    assert_eq!(once(&node.addr, "GET framing:2"), "VALUE v\n");
    assert_eq!(once(&node.addr, "DELETE framing:1"), "OK\n");
    assert_eq!(once(&node.addr, "GET framing:1"), "NOT_FOUND\n");
    assert_eq!(once(&node.addr, "NONSENSE"), "ERROR Unknown command\n");
    assert_eq!(once(&cluster.coordinator.addr, "LIST_NODES"), format!("OK Nodes:\n  {}\n\n", node.addr));
    assert_eq!(once(&cluster.coordinator.addr, "GET_NODES_FOR_KEY k"), format!("PRIMARY {}\n\n", node.addr));
    let registered = once(&cluster.coordinator.addr, "REGISTER_NODE 127.0.0.1 6001");
    assert_eq!(registered, "OK Node 127.0.0.1:6001 registered\n");
    // What arrives with a newline is served as usual, and the connection stays open.
    let mut connection = Connection::open(&node.addr);
    assert_eq!(connection.ask("PING"), "PONG");
    assert_eq!(connection.ask("GET framing:2"), "VALUE v");
    assert_eq!(connection.call(&["GET", "framing:2"]), Reply::bulk("v"));
    // An array states its length: a pause within it means nothing.
    connection.send("*2\r\n$3\r\nGET\r\n$9\r\nfram");
    connection.is_silent_for(Duration::from_millis(100));
    connection.send("ing:2\r\n");
    assert_eq!(connection.reply(), Reply::bulk("v"));
    connection.send("PING\nGET framing:2");
    assert_eq!(String::from_utf8_lossy(&connection.rest()), "PONG\nVALUE v\n");
}
