//! Redis's connection and server commands, RESP3, and what hostile clients run into.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, Setup, shared};
use e2e::connection::{Connection, Reply, array};
use e2e::wait::{SOON, ensure, eventually};

use crate::redis_data::differences;

const TRANSCRIPT: &str = include_str!("redis/server.txt");

/// Sends arrays and returns everything received until the server closed, which a final `QUIT` makes it do.
fn exchange(cluster: &Cluster, requests: &[&[&str]]) -> String {
    let mut node = cluster.connect(0);
    for words in requests.iter().chain([&["QUIT"][..]].iter()) {
        node.send(array(words));
    }
    String::from_utf8(node.rest()).expect("text")
}

/// The bulk string with which a node answers.
fn text(node: &mut Connection, words: &[&str]) -> String {
    match node.call(words) {
        Reply::Bulk(bytes) => String::from_utf8(bytes).expect("text"),
        other => panic!("{words:?} is answered with {other:?}"),
    }
}

#[test]
fn redis_commands_on_the_server_are_answered_as_redis_answers_them() {
    let cluster = shared();
    for index in 0..3 {
        let found = differences(TRANSCRIPT, &mut [cluster.connect(index)]);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn after_hello_3_answers_are_resp3_and_after_reset_resp2() {
    let cluster = shared();
    // If this node does not lead the key, the answer comes by way of another node.
    for key in [cluster.key_led_by(0, "resp3"), cluster.key_led_by(1, "resp3")] {
        let answers = exchange(
            &cluster,
            &[
                &["HELLO", "3", "SETNAME", "three"],
                &["GET", &key],
                &["CLIENT", "GETNAME"],
                &["CONFIG", "GET", "save"],
                &["CONFIG", "GET", "nothing"],
                &["MGET", &key],
                &["SET", &key, "v", "XX"],
                &["DEL", &key],
                &["COMMAND", "INFO", "ttl", "nothing"],
                &["INFO", "keyspace-of-nothing"],
                &["CLIENT", "SETNAME", ""],
                &["CLIENT", "GETNAME"],
                &["FOO"],
                &["RESET"],
                &["GET", &key],
                &["CLIENT", "GETNAME"],
            ],
        );
        let (hello, rest) = answers.split_at(answers.find("*0\r\n").expect("the modules, which are none") + 4);
        let id = hello.split("$2\r\nid\r\n:").nth(1).and_then(|rest| rest.split('\r').next()).expect("an id");
        assert_eq!(
            hello,
            format!(
                "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n$2\r\nid\r\n:{id}\r\n\
                 $4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
            )
        );
        assert_eq!(
            rest,
            "_\r\n$5\r\nthree\r\n%1\r\n$4\r\nsave\r\n$0\r\n\r\n%0\r\n*1\r\n_\r\n_\r\n:0\r\n\
             *2\r\n*10\r\n$3\r\nttl\r\n:2\r\n~2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n~3\r\n+@keyspace\r\n+@read\r\n+@fast\r\n\
             ~0\r\n~0\r\n~0\r\n_\r\n=4\r\ntxt:\r\n+OK\r\n_\r\n\
             -ERR unknown command 'FOO', with args beginning with: \r\n+RESET\r\n$-1\r\n$-1\r\n+OK\r\n"
        );
    }
}

#[test]
fn a_line_keeps_its_meaning_and_is_answered_by_a_line_until_hello() {
    let cluster = shared();
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("PING\r"), "PONG");
    assert!(node.ask("INFO").starts_with("OK Node "));
    assert_eq!(node.ask(""), "ERROR Unknown command");
    assert_eq!(node.ask("CLIENT ID"), "ERROR Unknown command");
    assert_eq!(node.call(&["PING"]), Reply::Text("PONG".to_owned()));
    assert_eq!(node.ask("PING"), "PONG", "an array before changes nothing");
    // Some clients end an array with an empty line. It is not a request.
    node.send([array(&["PING"]), b"\r\n".to_vec()].concat());
    assert_eq!(node.reply(), Reply::Text("PONG".to_owned()));
    assert_eq!(node.ask("PING"), "PONG");
    // Some clients send HELLO as a line.
    assert_eq!(node.ask("HELLO 9"), "-NOPROTO unsupported protocol version\r");
    node.send("hello 2\r\n");
    assert!(matches!(node.reply(), Reply::Array(items) if items.len() == 14));
    assert_eq!(node.ask("PING"), "+PONG\r");
    assert_eq!(node.ask("GET redis-line-absent"), "$-1\r");
    assert_eq!(node.ask("GET"), "-ERR Invalid GET format\r");
    assert_eq!(node.call(&["RESET"]), Reply::Text("RESET".to_owned()));
    assert_eq!(node.ask("PING"), "PONG");
}

#[test]
fn no_part_of_a_transaction_is_carried_out() {
    let cluster = shared();
    let part = "-ERR not carried out: transactions (MULTI) are not supported\r\n";
    let answers = exchange(
        &cluster,
        &[
            &["SET", "refused:1", "100"],
            &["MULTI"],
            &["DECRBY", "refused:1", "30"],
            &["GET", "refused:1"],
            &["exec"],
            &["GET", "refused:1"],
            &["MULTI"],
            &["DEL", "refused:1"],
            &["DISCARD"],
            &["MULTI"],
            &["RESET"],
            &["GET", "refused:1"],
        ],
    );
    let multi = "-ERR unknown command 'MULTI', with args beginning with: \r\n";
    let kept = "$3\r\n100\r\n";
    let expected = format!(
        "+OK\r\n{multi}{part}{part}-EXECABORT Transaction discarded because of previous errors.\r\n{kept}{multi}{part}+OK\r\n\
         {multi}+RESET\r\n{kept}+OK\r\n"
    );
    assert_eq!(answers, expected);
    // As a line it is not a command, and the next line is one again.
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("MULTI"), "ERROR Unknown command");
    assert_eq!(node.ask("PING"), "PONG");
}

#[test]
fn empty_lines_between_arrays_are_passed_over() {
    let cluster = shared();
    let mut node = cluster.connect(0);
    node.send("*1\r\n$4\r\nPING\r\n\r\n\n\r\n*1\r\n$4\r\nPING\r\n\r\nPING\r\n\r\nQUIT\r\n");
    assert_eq!(String::from_utf8(node.rest()).unwrap(), "+PONG\r\n+PONG\r\nPONG\nERROR Unknown command\nOK\n");
}

#[test]
fn a_pattern_that_is_slow_to_match_keeps_nobody_waiting() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    for number in 0..16 {
        let key = format!("{}{number}", "a".repeat(65_000));
        assert_eq!(node.call(&["SET", &key, "v"]), Reply::ok());
    }
    let longest = format!("*{}b", "a".repeat(1_022));
    let refused = node.call(&["KEYS", &format!("{longest}b")]);
    assert!(matches!(&refused, Reply::Error(error) if error.starts_with("TOOLONG pattern ")), "{refused:?}");
    node.send(array(&["KEYS", &longest]));
    let mut other = cluster.connect(0);
    for _ in 0..20 {
        assert_eq!(other.ask("PING"), "PONG");
    }
    node.is_silent_for(Duration::from_millis(1));
    assert_eq!(node.reply(), Reply::Array(Vec::new()));
}

#[test]
fn a_connection_is_listed_with_what_it_has_said_of_itself() {
    let cluster = shared();
    let (mut one, mut other) = (cluster.connect(0), cluster.connect(0));
    let Reply::Number(id) = one.call(&["CLIENT", "ID"]) else { panic!("no number") };
    for words in [
        &["CLIENT", "SETNAME", "listed"][..],
        &["CLIENT", "SETINFO", "LIB-NAME", "mine"],
        &["CLIENT", "SETINFO", "lib-ver", "1.2"],
        &["CLIENT", "NO-EVICT", "on"],
        &["CLIENT", "NO-TOUCH", "on"],
    ] {
        assert_eq!(one.call(words), Reply::ok(), "{words:?}");
    }
    let list = text(&mut other, &["CLIENT", "LIST", "ID", &id.to_string()]);
    assert!(list.starts_with(&format!("id={id} addr=127.0.0.1:")), "{list}");
    for word in
        ["name=listed", "flags=eT", "db=0", "cmd=client", "user=default", "resp=2", "lib-name=mine", "lib-ver=1.2\n"]
    {
        assert!(list.contains(word), "{word} in {list}");
    }
    assert_eq!(list.lines().count(), 1);
    assert_eq!(
        other.call(&["CLIENT", "SETINFO", "LIB-NAME", "a b"]),
        Reply::Error("ERR lib-name cannot contain spaces, newlines or special characters.".to_owned())
    );
    assert_eq!(
        other.call(&["CLIENT", "SETINFO", "FOO", "a"]),
        Reply::Error("ERR Unrecognized option 'FOO'".to_owned())
    );
    let Reply::Error(error) = other.call(&["CLIENT", "SETNAME", &"n".repeat(257)]) else { panic!("a long name") };
    assert!(error.starts_with("TOOLONG client name of 257 bytes, the limit is 256"), "{error}");
    drop(one);
    eventually("a connection that has ended is not listed", SOON, || {
        let list = text(&mut other, &["CLIENT", "LIST"]);
        ensure(!list.contains("name=listed"), || list.clone())
    });
}

#[test]
fn info_and_dbsize_tell_true_figures() {
    let cluster = Setup { nodes: 2, ..Setup::default() }.start();
    cluster.store(0, "size", 100, "");
    let mut node = cluster.connect(1);
    assert_eq!(node.call(&["DBSIZE"]), Reply::Number(100));
    // Both nodes have all keys, whichever leads them.
    for key in ["size:0", "size:1", "size:2"] {
        assert_eq!(node.call(&["EXPIRE", key, "1000"]), Reply::Number(1));
    }
    assert_eq!(node.call(&["WAIT", "1", "10000"]), Reply::Number(1));
    let figures = |node: &mut Connection| text(node, &["INFO"]);
    let all = figures(&mut node);
    for section in ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "Keyspace"] {
        assert!(all.contains(&format!("# {section}\r\n")), "{section} in {all}");
    }
    for line in [
        "redis_version:7.0.15",
        "connected_clients:1",
        "role:master",
        "rejected_connections:0",
        "db0:keys=100,expires=3,avg_ttl=0",
    ] {
        assert!(all.contains(&format!("{line}\r\n")), "{line} in {all}");
    }
    let port = cluster.node(1).port;
    assert!(all.contains(&format!("tcp_port:{port}\r\n")));
    // A single replica is the one that lags most.
    let replica = format!("\nslave0:ip=127.0.0.1,port={},state=online,offset=0,lag=", cluster.node(0).port);
    assert!(all.contains(&replica) && all.contains("\nmaster_repl_offset:"), "{all}");
    let only = text(&mut node, &["INFO", "keyspace", "SERVER"]);
    assert!(only.starts_with("# Server\r\n") && only.contains("\r\n\r\n# Keyspace\r\n"), "{only}");
    assert_eq!(only.matches("# ").count(), 2);
}

#[test]
fn wait_tells_how_many_replicas_have_what_was_written() {
    let cluster = Setup::default().start();
    cluster.wait_until_level();
    let mut node = cluster.connect(0);
    // One key led by each of the nodes.
    let keys: Vec<_> = (0..3).map(|index| cluster.key_led_by(index, "wait")).collect();
    for round in 0..3 {
        for key in &keys {
            assert_eq!(node.call(&["PUT", key, &round.to_string()]), Reply::ok());
        }
        assert_eq!(node.call(&["WAIT", "2", "10000"]), Reply::Number(2), "round {round}");
    }
    let start = Instant::now();
    assert_eq!(node.call(&["WAIT", "3", "300"]), Reply::Number(2), "there are only two");
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(node.call(&["WAIT", "0", "0"]), Reply::Number(2));
    // A replica that does not answer is not counted: what is written now has reached one at most.
    let key = cluster.key_led_by(0, "wait-paused");
    #[cfg(unix)]
    {
        cluster.node(2).process.pause();
        assert_eq!(node.call(&["PUT", &key, "late"]), Reply::ok());
        let Reply::Number(replicas) = node.call(&["WAIT", "2", "200"]) else { panic!("no number") };
        cluster.node(2).process.resume();
        assert!(replicas <= 1, "{replicas} replicas, of which one is paused");
        // Deleting everything is a write, too.
        cluster.wait_until_level();
        assert_eq!(node.call(&["WAIT", "2", "10000"]), Reply::Number(2));
        cluster.node(2).process.pause();
        assert_eq!(node.call(&["FLUSHALL"]), Reply::ok());
        let Reply::Number(replicas) = node.call(&["WAIT", "2", "200"]) else { panic!("no number") };
        cluster.node(2).process.resume();
        assert!(replicas <= 1, "{replicas} replicas, of which one is paused");
    }
}

#[test]
fn wait_ends_when_its_client_has_closed_its_side() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    let connected = |node: &mut Connection| text(node, &["INFO", "clients"]).contains("\r\nconnected_clients:1\r\n");
    eventually("the others have left", SOON, || ensure(connected(&mut node), || "not yet".to_owned()));
    let wait = array(&["WAIT", "9", "600000"]);
    let mut asks = cluster.connect(0);
    asks.send(&wait);
    asks.end_input();
    assert_eq!(asks.reply(), Reply::Number(0), "it may still read the answer");
    let mut gone: Vec<_> = (0..20).map(|_| cluster.connect(0)).collect();
    gone.iter_mut().for_each(|client| client.send(&wait));
    drop((asks, gone));
    eventually("nothing waits for clients that are gone", SOON, || {
        ensure(connected(&mut node), || text(&mut node, &["CLIENT", "LIST"]))
    });
}

#[test]
fn answers_are_not_kept_back_by_a_wait_after_them() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    node.send([array(&["SET", "before", "1"]), array(&["GET", "before"]), array(&["WAIT", "9", "600000"])].concat());
    assert_eq!(node.reply(), Reply::ok());
    assert_eq!(node.reply(), Reply::bulk("1"));
}

#[test]
fn answers_that_a_slow_reader_has_yet_to_take_are_not_kept_back_by_a_wait_after_them() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    let value = "x".repeat(100_000);
    assert_eq!(node.call(&["SET", "long", &value]), Reply::ok());
    // More than the sockets hold, and less than the node keeps for a client.
    node.send([array(&["GET", "long"]).repeat(300), array(&["WAIT", "9", "600000"])].concat());
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..300 {
        assert!(node.reply() == Reply::bulk(&value));
    }
}

#[cfg(unix)]
#[test]
fn answers_are_not_kept_back_by_another_node_that_is_slow() {
    let cluster = Setup::default().start();
    cluster.wait_until_level();
    let [here, there] = [0, 1].map(|index| cluster.key_led_by(index, "kept-back"));
    let mut node = cluster.connect(0);
    let pipeline = [array(&["GET", &there]), array(&["SET", &here, "1"]), array(&["INCR", &there])].concat();
    node.send(&pipeline);
    assert_eq!([node.reply(), node.reply(), node.reply()], [Reply::Null, Reply::ok(), Reply::Number(1)]);
    cluster.node(1).process.pause();
    node.send([array(&["INCR", &here]), array(&["INCR", &there])].concat());
    assert_eq!(node.reply(), Reply::Number(2));
    node.is_silent_for(Duration::from_millis(200));
    cluster.node(1).process.resume();
    node.reply();
}

#[test]
fn wait_counts_no_replica_once_an_async_write_may_be_lost_whatever_the_level_is_now() {
    let mut cluster = Setup::default().start();
    cluster.wait_until_level();
    let key = cluster.key_led_by(0, "wait-lost");
    let mut node = cluster.connect(1);
    assert_eq!(node.call(&["WAIT", "2", "10000"]), Reply::Number(2));
    assert_eq!(node.call(&["PUT", &key, "v"]), Reply::ok());
    cluster.kill(0);
    eventually("another node leads the key", SOON, || {
        ensure(cluster.leader_of(&key) != 0, || "its node is dead".to_owned())
    });
    assert_eq!(node.ask("ACK quorum"), "OK");
    assert_eq!(node.call(&["WAIT", "1", "10000"]), Reply::Number(0));
    assert_eq!(node.call(&["WAIT", "1", "10000"]), Reply::Number(1), "it was told");
}

/// Short requests may rewrite long values: each of these copies sixteen megabytes.
#[test]
fn a_pipeline_of_short_requests_that_take_long_lets_others_come_first() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let mut pipelines: Vec<_> = (0..=workers).map(|_| cluster.connect(0)).collect();
    let long = (16_u64 << 20).to_string();
    for (number, pipeline) in pipelines.iter_mut().enumerate() {
        let key = format!("long-{number}");
        assert_eq!(pipeline.call(&["SETRANGE", &key, &long, "x"]), Reply::Number((16 << 20) + 1));
        pipeline.send(array(&["APPEND", &key, "x"]).repeat(150));
    }
    let mut other = cluster.connect(0);
    let answered = other.ask_lines("STATS");
    let count = answered.iter().find_map(|line| line.strip_prefix("conditional_count ")).expect("a figure");
    // If each pipeline kept its thread until its end, one would have ended before this was answered.
    assert!(count.parse::<u64>().expect("a number") < 150, "{count} were answered");
    let last = Reply::Number((16 << 20) + 151);
    for pipeline in &mut pipelines {
        let answers = (0..150).map(|_| pipeline.reply()).last();
        assert_eq!(answers, Some(last.clone()));
    }
}

/// Each of these looks at all slots.
#[test]
fn a_pipeline_of_questions_that_take_long_lets_others_come_first() {
    const QUESTIONS: usize = 1_000;
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    for (addr, question) in [(&cluster.node(0).addr, "INFO\n"), (&cluster.coordinator.addr, "ACCEPT_LOSS all\n")] {
        let answered = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..=workers {
                let answered = &answered;
                scope.spawn(move || {
                    let mut pipeline = Connection::open(addr);
                    pipeline.send(question.repeat(QUESTIONS));
                    for _ in 0..QUESTIONS {
                        pipeline.line();
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            let all_begin = || answered.load(Ordering::Relaxed) > 0;
            eventually("they are being answered", SOON, || ensure(all_begin(), || "not yet".to_owned()));
            let before = answered.load(Ordering::Relaxed);
            assert_eq!(Connection::open(addr).ask("PING"), "PONG");
            let meanwhile = answered.load(Ordering::Relaxed) - before;
            // If each pipeline kept its thread until its end, one would have ended before this was answered.
            assert!(meanwhile < QUESTIONS / 2, "{question:?}: {meanwhile} were answered first");
        });
    }
}

#[test]
fn hostile_input_is_bounded_before_and_after_hello() {
    let cluster = shared();
    let long = "x".repeat(100_000);
    for hello in [None, Some(["HELLO", "2"]), Some(["HELLO", "3"])] {
        let mut node = cluster.connect(0);
        if let Some(words) = hello {
            node.send(array(&words));
        }
        for words in [
            &["HELLO", &long][..],
            &["HELLO", "3", &long],
            &["HELLO", "3", "SETNAME", &long],
            &["CLIENT", &long],
            &["CLIENT", "SETINFO", "lib-name", &long],
            &["COMMAND", "LIST", "FILTERBY", "PATTERN", &"*a".repeat(50_000)],
            &["CONFIG", "GET", &"*[".repeat(50_000)],
            &["INFO", &long],
            &["WAIT", "99999999999999999999", "1"],
            &["WAIT", "1", "99999999999999999999"],
            &[&long, &long],
        ] {
            node.send(array(words));
        }
        let many: Vec<&str> =
            std::iter::once("COMMAND").chain(["INFO"]).chain(std::iter::repeat_n("x", 10_000)).collect();
        node.send(array(&many));
        node.send(array(&["ECHO", "still there"]));
        node.send(array(&["QUIT"]));
        let answers = String::from_utf8_lossy(&node.rest()).into_owned();
        assert!(
            answers.ends_with("$11\r\nstill there\r\n+OK\r\n"),
            "{hello:?}: it ends with {:?}",
            answers.get(answers.len() - 80..)
        );
        assert!(answers.len() < 200_000, "{hello:?}: {} bytes", answers.len());
        // An announced length takes no memory before its bytes arrive, and a malformed array ends the connection.
        let mut node = cluster.connect(0);
        if let Some(words) = hello {
            node.send(array(&words));
        }
        node.send("*2\r\n$4\r\nECHO\r\n$67108865\r\n");
        assert!(String::from_utf8_lossy(&node.rest()).contains("-TOOLONG value of 67108865 bytes"), "{hello:?}");
    }
}

#[test]
fn a_pipeline_that_is_sent_whole_before_an_answer_is_read_is_answered_whole() {
    let cluster = Setup { nodes: 1, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    assert_eq!(node.call(&["PUT", "long", &"v".repeat(100_000)]), Reply::ok());
    // Both directions exceed the socket buffers, so neither end may wait for the other to read.
    let request = [array(&["GET", "long"]), array(&["ECHO", &"e".repeat(100_000)])].concat();
    node.send(request.repeat(200));
    for _ in 0..200 {
        assert_eq!(node.reply(), Reply::bulk("v".repeat(100_000)));
        assert_eq!(node.reply(), Reply::bulk("e".repeat(100_000)));
    }
}

#[test]
fn a_client_that_reads_nothing_is_cut_off_at_its_output_limit_and_counted() {
    let cluster = Setup { nodes: 1, node_args: &["--client-output-limit", "1MiB"], ..Setup::default() }.start();
    let mut other = cluster.connect(0);
    assert_eq!(other.ask(&format!("PUT large {}", "x".repeat(100_000))), "OK");
    let mut greedy = cluster.connect(0);
    greedy.send("GET large\n".repeat(2_000));
    eventually("it is cut off", Duration::from_secs(40), || {
        let info = text(&mut other, &["INFO", "stats"]);
        ensure(info.contains("client_output_buffer_limit_disconnections:1\r\n"), || info.clone())
    });
    // What is already under way still arrives; then the connection ends, before everything is answered.
    assert!(greedy.rest().len() < 150_000_000);
    assert!(other.ask_lines("STATS").contains(&"connections_cut_off 1".to_owned()));
}

#[test]
fn a_client_that_says_nothing_is_let_go_and_counted() {
    let cluster = Setup { nodes: 1, node_args: &["--idle-timeout", "300ms"], ..Setup::default() }.start();
    let mut idle = cluster.connect(0);
    assert_eq!(idle.ask("PING"), "PONG");
    idle.is_closed();
    let info = text(&mut cluster.connect(0), &["INFO", "stats"]);
    assert!(info.contains("idle_disconnections:1\r\n"), "{info}");
}

#[test]
fn a_redis_client_above_the_limit_is_told_so_in_its_own_encoding() {
    let cluster = Setup { nodes: 1, node_args: &["--max-clients", "5"], ..Setup::default() }.start();
    // The places of those who waited for the start become free a moment later.
    let mut served = Vec::new();
    eventually("five are served", SOON, || {
        let mut connection = cluster.connect(0);
        let answer = connection.call(&["PING"]);
        if answer == Reply::Text("PONG".to_owned()) {
            served.push(connection);
        }
        ensure(served.len() == 5, || format!("{} are, and then: {answer:?}", served.len()))
    });
    let rejected = |node: &mut Connection| {
        let info = text(node, &["INFO", "stats"]);
        let figure = info.lines().find_map(|line| line.strip_prefix("rejected_connections:"));
        figure.expect("INFO has this line").parse::<u64>().expect("a number")
    };
    let before = rejected(&mut served[0]);
    let refusal = cluster.connect(0).call(&["PING"]);
    assert_eq!(refusal, Reply::Error("ERR max number of clients reached".to_owned()));
    assert_eq!(rejected(&mut served[0]), before + 1);
    // A client that has sent nothing gets the error as a line.
    let mut silent = cluster.connect(0);
    assert!(silent.line().starts_with("ERROR BUSY 5 clients are connected"));
}

#[test]
fn command_docs_have_the_shape_that_redis_cli_reads() {
    let cluster = shared();
    let answers = exchange(
        &cluster,
        &[&["COMMAND", "DOCS", "mset", "nope"], &["COMMAND", "DOCS", "CLIENT|NO-EVICT"], &["COMMAND", "DOCS", "ping"]],
    );
    // Recorded from redis-server 7.0.15, without complexities and key positions, and with this store's own wording.
    let expected = "*2 mset *8 summary 'Stores several values' since 1.0.1 group string arguments \
        *1 *8 name key_value type block flags *1 +multiple arguments *2 *4 name key type key *4 name value type string \
        *2 client|no-evict *8 summary 'No effect: no connection is dropped for lack of memory' since 7.0.0 \
        group connection arguments *1 *6 name on_or_off type oneof arguments \
        *2 *6 name on type pure-token token ON *6 name off type pure-token token OFF \
        *2 ping *8 summary 'Answers PONG, or the message' since 1.0.0 group connection arguments \
        *1 *6 name message type string flags *1 +optional +OK";
    let mut shown = Vec::new();
    let mut lines = answers.split("\r\n");
    while let Some(line) = lines.next().filter(|line| !line.is_empty()) {
        shown.push(match line.starts_with('$') {
            false => line.to_owned(),
            true => {
                lines.next().map(|text| if text.contains(' ') { format!("'{text}'") } else { text.to_owned() }).unwrap()
            }
        });
    }
    assert_eq!(shown.join(" "), expected);
    let mut node = cluster.connect(0);
    let many: Vec<&str> = ["COMMAND", "DOCS"].into_iter().chain(std::iter::repeat_n("get", 1_000)).collect();
    let Reply::Array(one) = node.call(&many) else { panic!("no list") };
    assert_eq!(one.len(), 2, "each command once, however often it is named");
    let Reply::Array(all) = node.call(&["COMMAND", "DOCS"]) else { panic!("no list") };
    assert_eq!(Reply::Number(all.len() as i64 / 2), node.call(&["COMMAND", "COUNT"]));
}

#[test]
fn help_lists_what_each_command_with_subcommands_has() {
    let cluster = shared();
    let answers = exchange(&cluster, &[&["MEMORY", "help"], &["CLIENT", "HELP"]]);
    let expected = "*5\r\n+MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:\r\n\
        +USAGE key [SAMPLES count]\r\n+    The bytes that a key takes.\r\n+HELP\r\n+    Lists the subcommands.\r\n";
    assert!(answers.starts_with(expected), "{answers}");
    assert!(answers.contains("\r\n+SETINFO LIB-NAME libname|LIB-VER libver\r\n"), "{answers}");
}
