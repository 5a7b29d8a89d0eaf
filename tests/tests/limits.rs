//! Bad input of every kind: it is refused, changes nothing, and harms nobody else.

#[cfg(unix)]
use std::collections::VecDeque;
use std::io::Write;
#[cfg(unix)]
use std::panic::AssertUnwindSafe;
#[cfg(unix)]
use std::path::Path;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::client;
use e2e::cluster::{self, Cluster, Setup};
use e2e::connection::{Connection, Reply, array, exchange};
use e2e::server;
use e2e::wait::{SOON, ensure, eventually, throughout};
use proto::limits;

const INCOMPLETE: &str = "ERROR Incomplete command: a line must end with a newline\n";

#[cfg(unix)]
#[test]
fn connections_never_take_the_files_away_that_the_log_needs() {
    let coordinator = server::coordinator(&[]);
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_few_files(300, coordinator.port, dir.path());
    node.process.says_on_stderr("serving at most 150 connections instead of 10000");
    let mut idle: Vec<_> = (0..400).filter_map(|_| Connection::try_open(&node.addr).ok()).collect();
    idle.truncate(148);
    let mut client = None;
    eventually("a client is let in", SOON, || {
        let mut one = Connection::open(&node.addr);
        let is_in = one.try_ask("PING").is_ok_and(|answer| answer == "PONG");
        client = is_in.then_some(one);
        ensure(is_in, || "not yet".to_owned())
    });
    write_segments(&mut client.unwrap());
    assert!(node.process.is_running());
}

/// Starts a node that the system grants fewer files than the clients want.
#[cfg(unix)]
fn node_with_few_files(files: usize, coordinator_port: u16, dir: &Path) -> server::Server {
    let program = e2e::process::program("node");
    let mut command = std::process::Command::new("sh");
    let limited = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
    command.args(["-c", &limited]).arg(program).args(["--port", "0"]);
    let dir = dir.to_str().expect("a temporary directory has a plain name");
    command.args(["--coordinator-port", &coordinator_port.to_string(), "--data-dir", dir]);
    server::Starting(e2e::process::Process::spawn("node", &mut command)).ready()
}

/// Writes so much that segments of the log are created in the meantime.
#[cfg(unix)]
fn write_segments(client: &mut Connection) {
    let value = "x".repeat(4_000_000);
    for round in 0..40 {
        assert_eq!(client.ask(&format!("PUT key{} {value}", round % 3)), "OK");
    }
}

#[cfg(unix)]
#[test]
fn connections_that_are_turned_away_leave_the_log_its_files_however_few_there_are() {
    let coordinator = server::coordinator(&[]);
    let dir = tempfile::tempdir().unwrap();
    let mut node = node_with_few_files(64, coordinator.port, dir.path());
    node.process.says_on_stderr("serving at most 32 connections instead of 10000");
    let mut client = Connection::open(&node.addr);
    assert_eq!(client.ask("PING"), "PONG");
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Some of them are let in, and the others stay until the node closes them.
        scope.spawn(|| {
            let mut open = VecDeque::new();
            while !end.load(Ordering::Relaxed) {
                open.extend(std::net::TcpStream::connect(&node.addr));
                if open.len() > 200 {
                    open.pop_front();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let written = std::panic::catch_unwind(AssertUnwindSafe(|| write_segments(&mut client)));
        end.store(true, Ordering::Relaxed);
        written.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(node.process.is_running());
}

/// Asserts that a node serves, and quickly.
#[track_caller]
fn serves(addr: &str) {
    let start = Instant::now();
    let mut node = Connection::open(addr);
    assert_eq!(node.ask("PUT served promptly"), "OK");
    assert_eq!(node.ask("GET served"), "VALUE promptly");
    assert!(start.elapsed() < Duration::from_secs(5), "it took {:?}", start.elapsed());
}

#[test]
fn a_line_cut_anywhere_is_never_carried_out() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("PUT cut:kept value"), "OK");
    for whole in ["PUT cut:put value", "REPLICATE cut:put value", "DELETE cut:kept", "PUT cut:kept other"] {
        for length in 1..=whole.len() {
            let addr = &cluster.node(length % 3).addr;
            assert_eq!(exchange(addr, &whole[..length]), INCOMPLETE, "{:?}", &whole[..length]);
        }
    }
    let (before, cut) = ("PUT cut:before whole\n", "PUT cut:kept cut");
    assert_eq!(exchange(&cluster.node(0).addr, format!("{before}{cut}")), format!("OK\n{INCOMPLETE}"));
    assert_eq!(node.ask("GET cut:before"), "VALUE whole", "what came whole is carried out");
    for key in ["cut:put", "cut:p", "cut:pu"] {
        assert_eq!(node.ask(&format!("GET {key}")), "NOT_FOUND");
    }
    assert_eq!(node.ask("GET cut:kept"), "VALUE value");
    let register = "REGISTER_NODE 127.0.0.1 6001";
    for length in 1..=register.len() {
        assert_eq!(exchange(&cluster.coordinator.addr, &register[..length]), INCOMPLETE);
    }
    assert_eq!(cluster.listed().len(), 3);
}

#[test]
fn an_array_cut_anywhere_is_never_carried_out() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("PUT cut-array:kept value"), "OK");
    for whole in [array(&["PUT", "cut-array:put", "value"]), array(&["DELETE", "cut-array:kept"])] {
        for length in 1..whole.len() {
            let answer = exchange(&cluster.node(length % 3).addr, &whole[..length]);
            assert!(answer.is_empty() || answer.starts_with('-') || answer.starts_with("ERROR "), "{answer:?}");
        }
    }
    assert_eq!(node.ask("GET cut-array:put"), "NOT_FOUND");
    assert_eq!(node.ask("GET cut-array:kept"), "VALUE value");
}

#[test]
fn a_connection_that_breaks_in_the_middle_of_a_value_changes_nothing() {
    let cluster = cluster::shared();
    for index in 0..3 {
        let mut node = cluster.connect(index);
        node.send(format!("PUT broken:{index} {}", "x".repeat(300_000)));
        // Dropped with its value half sent.
    }
    let mut node = cluster.connect(0);
    throughout("nothing is stored", Duration::from_millis(300), || {
        for index in 0..3 {
            let answer = node.ask(&format!("GET broken:{index}"));
            ensure(answer == "NOT_FOUND", || answer.clone())?;
        }
        Ok::<(), String>(())
    });
}

#[test]
fn a_hundred_megabytes_without_a_newline_are_refused_while_others_are_served() {
    let cluster = cluster::shared();
    for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
        let mut flood = Connection::open(addr);
        let mut writer = flood.writer();
        let writing = std::thread::spawn(move || {
            let megabyte = vec![b'x'; 1_000_000];
            // Once the server has closed, it accepts no more bytes.
            for _ in 0..100 {
                if writer.write_all(&megabyte).is_err() {
                    break;
                }
            }
        });
        while !writing.is_finished() {
            serves(&cluster.node(0).addr);
            serves(&cluster.node(1).addr);
        }
        let answer = String::from_utf8_lossy(&flood.rest()).into_owned();
        assert!(answer.starts_with("ERROR TOOLONG line of ") && answer.ends_with('\n'), "{answer:?}");
        assert!(answer.contains(&limits::LINE_BYTES.to_string()), "it names the limit: {answer:?}");
        assert_eq!(answer.lines().count(), 1, "closed after one answer: {answer:?}");
        serves(&cluster.node(0).addr);
    }
}

#[test]
fn the_longest_key_and_value_are_stored_and_one_byte_more_is_refused() {
    // One copy each: on a busy machine, a node handling this much is silent for so long that a replica would replace
    // it.
    let cluster = Setup { nodes: 2, replicas: 0, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    let key = "k".repeat(limits::KEY_BYTES);
    assert_eq!(node.ask(&format!("PUT {key} long key")), "OK");
    assert_eq!(cluster.connect(1).ask(&format!("GET {key}")), "VALUE long key");
    let refused = format!("ERROR TOOLONG key of {} bytes, the limit is {}", key.len() + 1, limits::KEY_BYTES);
    for request in ["PUT KEY v", "GET KEY", "DELETE KEY"] {
        let answer = node.ask(&request.replace("KEY", &format!("{key}k")));
        assert!(answer.starts_with(&refused), "{answer}");
    }

    let value = "v".repeat(limits::VALUE_BYTES);
    assert_eq!(node.ask(&format!("PUT long-value {value}")), "OK");
    for index in 0..2 {
        // Linear, so not from a copy: a node that takes long to forward this much is waited for.
        let reply = cluster.connect_at(index, "async", "linear").call(&["GET", "long-value"]);
        assert!(reply == Reply::bulk(&value), "through node {index}: {:.200}", format!("{reply:?}"));
    }
    let answer = node.ask(&format!("PUT long-value {value}v"));
    assert!(answer.starts_with("ERROR TOOLONG value of "), "{answer}");
    assert_eq!(node.ask("PING"), "PONG", "a long value in a line of lawful length leaves the connection open");
    // The header of an array gives the length; what it announces is not read and takes no memory.
    let mut announcing = cluster.connect(0);
    announcing.send(format!("*3\r\n$3\r\nPUT\r\n$1\r\nk\r\n${}\r\n", limits::VALUE_BYTES + 1));
    let answer = String::from_utf8_lossy(&announcing.rest()).into_owned();
    assert!(answer.starts_with("-TOOLONG value of ") && answer.ends_with("\r\n"), "{answer:?}");
    assert!(cluster.connect(1).call(&["GET", "long-value"]) == Reply::bulk(&value), "nothing was changed");
}

#[test]
fn what_is_no_array_is_refused_and_the_connection_closed() {
    let cluster = cluster::shared();
    for garbage in [
        &b"*\r\n"[..],
        b"*x\r\n",
        b"*1048577\r\n",
        b"*99999999999999999999999999\r\n",
        b"*1\n$4\nPING\n",
        b"*1\r\n+PING\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$4\r\nPINGPONG\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"****************************************",
        b"*1\r\n$1111111111111111111111111111111111111111111",
    ] {
        for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
            let mut connection = Connection::open(addr);
            connection.send(garbage);
            connection.send("PING\n");
            let answer = String::from_utf8_lossy(&connection.rest()).into_owned();
            let shown = String::from_utf8_lossy(garbage);
            assert!(answer.starts_with("-PROTOCOL ") || answer.starts_with("-TOOLONG "), "{shown:?}: {answer:?}");
            assert_eq!(answer.matches("\r\n").count(), 1, "one answer, then the end: {shown:?}: {answer:?}");
        }
    }
    serves(&cluster.node(0).addr);
}

#[test]
fn commands_in_the_body_of_an_http_request_are_not_carried_out() {
    let cluster = cluster::shared();
    let headers = "Host: 127.0.0.1:5001\r\nContent-Type: text/plain\r\n\r\n";
    for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
        for first in ["POST / HTTP/1.1", "DELETE / HTTP/1.1"] {
            let mut connection = Connection::open(addr);
            connection.send(format!("{first}\r\n{headers}PUT from-a-web-page 1\nPING\n"));
            let answer = String::from_utf8_lossy(&connection.rest()).into_owned();
            let last = "ERROR PROTOCOL HTTP is not understood here; nothing was changed and the connection is closed\n";
            assert!(answer.ends_with(last), "{first}: {answer:?}");
        }
    }
    assert_eq!(Connection::open(&cluster.node(0).addr).ask("GET from-a-web-page"), "NOT_FOUND");
}

#[test]
fn an_array_without_words_is_passed_over() {
    let cluster = cluster::shared();
    for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
        assert_eq!(exchange(addr, "*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n"), "+PONG\r\n", "{addr}");
    }
}

#[test]
fn random_bytes_harm_nobody() {
    let cluster = Setup { nodes: 2, ..Setup::default() }.start();
    cluster.store(0, "noise", 100, "");
    // Pseudo-random numbers that are the same in every run (Knuth's multiplier).
    let mut state: u64 = 42;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    for round in 0..200 {
        let length = usize::from(byte()) * 8;
        let mut noise: Vec<u8> = (0..length).map(|_| byte()).collect();
        if round % 2 == 0 {
            noise.splice(..0, *b"*3\r\n$");
        }
        for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
            let mut connection = Connection::open(addr);
            // The server may close before it has read everything.
            if connection.try_send(&noise).is_ok() && connection.try_send(b"\n").is_ok() {
                let _ = connection.writer().shutdown(std::net::Shutdown::Write);
            }
            connection.rest();
        }
    }
    serves(&cluster.node(0).addr);
    cluster.has(1, "noise", 100, "");
    assert_eq!(cluster.listed().len(), 2);
}

#[test]
fn a_client_that_never_reads_its_answers_takes_no_memory_and_harms_nobody() {
    // At most 64 MiB may be kept for it.
    never_reads(Setup { nodes: 1, ..Setup::default() }.start(), &["large".to_owned()], 200_000_000);
}

#[test]
fn nor_does_one_whose_answers_another_node_gives() {
    let node_args = &["--client-output-limit", "1MiB"];
    let cluster = Setup { nodes: 2, replicas: 0, node_args, ..Setup::default() }.start();
    let keys = cluster.keys_led_by(1, "large", 200);
    never_reads(cluster, &keys, 50_000_000);
}

#[test]
fn short_and_long_values_of_other_nodes_are_answered_in_their_order() {
    let cluster = Setup { nodes: 2, replicas: 0, ..Setup::default() }.start();
    let mut client = cluster.connect(0);
    let keys = [0, 1].map(|index| cluster.keys_led_by(index, "order", 20));
    let keys: Vec<String> =
        keys[0].iter().zip(&keys[1]).flat_map(|(one, other)| [one.clone(), other.clone()]).collect();
    let values: Vec<String> = (0..keys.len()).map(|at| format!("{at}:").repeat([1, 40_000, 4_000][at % 3])).collect();
    for (key, value) in keys.iter().zip(&values) {
        assert_eq!(client.ask(&format!("PUT {key} {value}")), "OK");
    }
    for _ in 0..20 {
        client.send(keys.iter().map(|key| format!("GET {key}\n")).collect::<String>());
    }
    for value in (0..20).flat_map(|_| &values) {
        assert!(client.line() == format!("VALUE {value}"), "{:.9}", value);
    }
}

#[test]
fn a_short_value_does_not_wait_for_long_ones_that_were_forwarded_before_it() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let mut client = cluster.connect(0);
    let long = "x".repeat(1_000_000);
    assert_eq!((client.ask(&format!("PUT long {long}")), client.ask("PUT short y")), ("OK".into(), "OK".into()));
    // Another node's connection.
    let (map, incarnation) = (cluster.map(), &cluster.info(0)["incarnation"]);
    let mut link = cluster.connect(0);
    let hello = ["PEER", "FORWARD", &map.cluster, "127.0.0.1:1", "1", incarnation];
    assert_eq!(link.call(&hello), Reply::ok());
    for level in ["local", "linear"] {
        let get = |id: &str, key: &str| array(&["FORWARD", id, "READ", level, "GET", key]);
        link.send([get("1", "long"), get("2", "long"), get("3", "short")].concat());
        let answers: Vec<_> = (0..3).map(|_| (link.reply(), link.reply())).collect();
        let [short, long] = ["y", &long].map(Reply::bulk);
        let numbered = [(3, short), (1, long.clone()), (2, long)].map(|(id, value)| (Reply::Number(id), value));
        assert!(answers == numbered, "{level}: {:?}", answers.iter().map(|(id, _)| id).collect::<Vec<_>>());
    }
}

#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "only Linux tells what a process holds"))]
fn never_reads(mut cluster: Cluster, keys: &[String], most: usize) {
    let mut greedy = cluster.connect(0);
    for key in keys {
        assert_eq!(greedy.ask(&format!("PUT {key} {}", "x".repeat(1_000_000))), "OK");
    }
    #[cfg(target_os = "linux")]
    let before: Vec<usize> = cluster.running().map(|(_, node)| node.process.resident_bytes()).collect();
    // Some 50 KB of requests, asking for 5 GB of answers.
    greedy.send(keys.iter().cycle().take(5_000).map(|key| format!("GET {key}\n")).collect::<String>());
    let mut other = cluster.connect(0);
    other.answers_within(Duration::from_secs(5));
    throughout("others are served", Duration::from_secs(1), || {
        ensure(other.ask("PUT other served") == "OK", String::new)?;
        ensure(other.ask("GET other") == "VALUE served", String::new)?;
        #[cfg(target_os = "linux")]
        {
            for ((_, node), before) in cluster.running().zip(&before) {
                let more = node.process.resident_bytes().saturating_sub(*before);
                ensure(more < most, || format!("the node at {} holds {more} bytes more", node.addr))?;
            }
        }
        Ok::<(), String>(())
    });
    assert!(cluster.node_mut(0).process.is_running());
    // The client may still change its mind: every answer arrives complete.
    for _ in 0..100 {
        assert_eq!(greedy.line().len(), "VALUE ".len() + 1_000_000);
    }
}

#[test]
fn clients_at_their_limit_keep_no_node_out() {
    let full = &["--max-clients", "4"];
    let mut cluster = Setup {
        nodes: 2,
        replicas: 1,
        password: Some(cluster::PASSWORD),
        coordinator_args: full,
        node_args: full,
        ..Setup::default()
    }
    .start();
    cluster.kill(1);
    let auth = format!("AUTH {}", cluster::PASSWORD);
    // The node that is left has one place at the coordinator.
    let held = [(&cluster.coordinator.addr, 3), (&cluster.node(0).addr, 4)].map(|(addr, places)| {
        let mut held = Vec::new();
        // The places of the killed node's connections become free a moment later.
        eventually("clients have every place", SOON, || {
            let mut client = Connection::open(addr);
            let answer = client.try_ask(&auth).map_err(|error| error.to_string())?;
            if answer == "OK" {
                held.push(client);
            }
            ensure(held.len() == places, || format!("{} of {places}, and then: {answer}", held.len()))
        });
        held
    });
    cluster.start_node_again(1);
    let [_coordinator, mut node] = held;
    let client = node.first_mut().expect("a client of the node");
    assert_eq!(client.ask("ACK quorum"), "OK");
    eventually("a write reaches both nodes", SOON, || {
        let answer = client.ask("PUT reaches both");
        ensure(answer == "OK", || answer)
    });
    for addr in [&cluster.coordinator.addr, &cluster.node(0).addr] {
        let answer = Connection::open(addr).ask(&auth);
        assert!(answer.starts_with("ERROR BUSY "), "clients still have every place: {answer}");
    }
    full_coordinator_is_told_as_one(cluster.coordinator.port, &["--password-file", cluster::PASSWORD_FILE]);
}

/// The client program says that the coordinator is full, at once, and does not advise to start one.
fn full_coordinator_is_told_as_one(port: u16, flags: &[&str]) {
    let port_words = port.to_string();
    let bench = [&["bench", "get", "--keys", "10", "--port", &port_words][..], flags].concat();
    for ended in [client::command(port, "LIST_NODES", flags), client::run(&bench)] {
        let printed = client::printed(&ended);
        assert_eq!(ended.code, Some(3), "{printed}");
        assert!(printed.contains("BUSY 5 clients") || printed.contains("max number of clients"), "{printed}");
        assert!(!["start it", "rejected", "leads"].iter().any(|wrong| printed.contains(wrong)), "{printed}");
    }
}

#[test]
fn a_client_above_the_limit_is_told_so_and_the_next_is_served_once_there_is_room() {
    let coordinator = server::coordinator(&["--max-clients", "5"]);
    let cluster = Setup { nodes: 1, node_args: &["--max-clients", "5"], ..Setup::default() }.start();
    for addr in [&coordinator.addr, &cluster.node(0).addr] {
        let mut served = Vec::new();
        let refusal = loop {
            let mut connection = Connection::open(addr);
            // It may be closed before it accepts the request.
            let answer = connection.try_ask("PING");
            match answer {
                Ok(answer) if answer == "PONG" => served.push(connection),
                Ok(answer) => break answer,
                Err(error) => panic!("closed without a word: {error}"),
            }
            assert!(served.len() <= 5, "more than the limit are served");
        };
        assert!(refusal.starts_with("ERROR BUSY 5 clients are connected"), "{refusal}");
        assert!(served.iter_mut().all(|connection| connection.ask("PING") == "PONG"), "those before are still served");
        if *addr == coordinator.addr {
            full_coordinator_is_told_as_one(coordinator.port, &[]);
        }
        drop(served);
        eventually("there is room again", SOON, || {
            let answer = Connection::open(addr).try_ask("PING").map_err(|error| error.to_string())?;
            ensure(answer == "PONG", || answer.clone())
        });
    }
}

#[test]
fn clients_that_are_refused_do_not_keep_others_from_being_looked_at() {
    let cluster = Setup { nodes: 1, node_args: &["--max-clients", "1"], ..Setup::default() }.start();
    let addr = &cluster.node(0).addr;
    let mut served = Connection::open(addr);
    eventually("the only place is taken", SOON, || {
        let answer = served.try_ask("PING");
        if !answer.as_ref().is_ok_and(|answer| answer == "PONG") {
            served = Connection::open(addr);
        }
        ensure(matches!(&answer, Ok(answer) if answer == "PONG"), || format!("{answer:?}"))
    });
    // Each stays open after it was refused, and may do so for 2 s; more of them than are looked at at a time.
    let mut refused = Vec::new();
    for _ in 0..150 {
        let mut client = Connection::open(addr);
        let answer = client.try_ask("PING").expect("an answer");
        assert!(answer.starts_with("ERROR BUSY 1 clients are connected"), "{answer}");
        refused.push(client);
    }
    assert_eq!(served.ask("PING"), "PONG");
}
