//! The client program: single commands, a pipe, its output and its exit codes.

use e2e::client::{self, printed};
use e2e::cluster::{self, Cluster, Setup};
use e2e::connection::Reply;
use e2e::process::{Ended, Process};
use e2e::server::{self, CLOSED_PORT};
use e2e::wait::SOON;
use serde_json::{Value, json};

/// Runs one command against a cluster.
#[track_caller]
fn run(cluster: &Cluster, command: &str, more: &[&str]) -> Ended {
    client::command(cluster.coordinator.port, command, more)
}

/// Asserts what a command prints to standard output, and its exit code.
#[track_caller]
fn says(cluster: &Cluster, command: &str, expected: &str, code: i32) {
    let ended = run(cluster, command, &[]);
    assert_eq!(ended.text(), format!("{expected}\n"), "{command}, on standard error: {}", ended.stderr);
    assert_eq!(ended.code, Some(code), "{command}");
}

#[test]
fn it_prints_what_the_first_version_printed() {
    let cluster = cluster::shared();
    let holders = cluster.holders("client:1");
    let [primary, first, second] = &holders[..] else { panic!("{holders:?}") };
    let put = format!("[Client] PUT client:1 = Alice [primary: {primary}, replicas: ['{first}', '{second}']]");
    says(&cluster, "GET client:1", "[Client] GET client:1: NOT_FOUND", 1);
    says(&cluster, "PUT client:1 Alice", &put, 0);
    says(&cluster, "GET client:1", "[Client] GET client:1 = Alice", 0);
    says(&cluster, "get client:1", "[Client] GET client:1 = Alice", 0);
    says(&cluster, "DELETE client:1", &format!("[Client] DELETE client:1 [primary: {primary}]"), 0);
    says(&cluster, "DELETE client:1", &format!("[Client] DELETE client:1 [primary: {primary}]"), 0);
    says(&cluster, "GET client:1", "[Client] GET client:1: NOT_FOUND", 1);
    let nodes: Vec<_> = cluster.listed().iter().map(|addr| format!("  {addr}")).collect();
    says(&cluster, "LIST_NODES", &format!("OK Nodes:\n{}", nodes.join("\n")), 0);
    let placed = format!("PRIMARY {primary}\nREPLICA {first}\nREPLICA {second}");
    says(&cluster, "GET_NODES_FOR_KEY client:1", &placed, 0);
}

#[test]
fn it_says_when_there_is_no_replica_or_no_node() {
    let cluster = Setup { nodes: 1, ..Setup::default() }.start();
    let addr = &cluster.node(0).addr;
    says(&cluster, "PUT k v", &format!("[Client] PUT k = v [primary: {addr}, replicas: []]"), 0);
    says(&cluster, "GET_NODES_FOR_KEY k", &format!("PRIMARY {addr}"), 0);
    let coordinator = server::coordinator(&[]);
    let ended = client::command(coordinator.port, "LIST_NODES", &[]);
    assert_eq!((ended.text(), ended.code), ("OK No nodes registered\n", Some(0)));
}

#[test]
fn ping_and_info_reach_the_coordinator_and_any_node() {
    let cluster = cluster::shared();
    let ping = run(&cluster, "PING", &[]);
    assert_eq!(ping.code, Some(0), "{}", printed(&ping));
    assert!(ping.text().contains("PONG"), "{}", ping.text());
    let info = run(&cluster, "INFO", &[]);
    assert_eq!(info.code, Some(0), "{}", printed(&info));
    let addr = &cluster.node(2).addr;
    let info = run(&cluster, &format!("INFO {addr}"), &[]);
    assert_eq!(info.code, Some(0), "{}", printed(&info));
    assert!(info.text().contains(&format!("Node {addr} keys=")), "{}", info.text());
}

#[test]
fn a_value_comes_back_byte_for_byte_with_raw() {
    let cluster = cluster::shared();
    for value in [
        "Alice",
        "two words",
        "{\"age\": 30}",
        "\"important value\"",
        "trailing blanks  ",
        "ключ 🦀",
        // As a line, the last word would be taken for the first version's replicas.
        &format!("call {}", cluster.node(0).addr),
        &format!("call {},{}", cluster.node(1).addr, cluster.node(2).addr),
        &cluster.node(0).addr,
    ] {
        let put = run(&cluster, &format!("PUT raw:1 {value}"), &[]);
        assert_eq!(put.code, Some(0), "{value:?}: {}", printed(&put));
        let get = run(&cluster, "GET raw:1", &["--raw"]);
        assert_eq!((get.stdout.as_slice(), get.code), (value.as_bytes(), Some(0)), "{value:?}: {}", get.stderr);
    }
    let bytes = b"\0 two\nlines \xff\r\n";
    assert_eq!(cluster.connect(0).call(&[b"PUT", &b"raw:2"[..], bytes]), Reply::ok());
    assert_eq!(run(&cluster, "GET raw:2", &["--raw"]).stdout, bytes);
    assert_eq!(cluster.connect(0).call(&["PUT", "raw:3", ""]), Reply::ok());
    let empty = run(&cluster, "GET raw:3", &["--raw"]);
    assert_eq!((empty.stdout.as_slice(), empty.code), (&b""[..], Some(0)));
    let absent = run(&cluster, "GET raw:4", &["--raw"]);
    assert_eq!((absent.stdout.as_slice(), absent.code), (&b""[..], Some(1)), "nothing that could be taken for a value");
}

#[test]
fn json_is_one_object_a_command() {
    let cluster = cluster::shared();
    let holders = cluster.holders("json:1");
    let (primary, replicas) = (&holders[0], &holders[1..]);
    for (command, code, members) in [
        ("PUT json:1 {\"age\": 30}", 0, json!({"key": "json:1", "primary": primary, "replicas": replicas})),
        ("GET json:1", 0, json!({"key": "json:1", "found": true, "value": "{\"age\": 30}"})),
        ("GET json:absent", 1, json!({"key": "json:absent", "found": false})),
        ("DELETE json:1", 0, json!({"key": "json:1", "primary": primary})),
        ("LIST_NODES", 0, json!({"nodes": cluster.listed()})),
        ("GET_NODES_FOR_KEY json:1", 0, json!({"key": "json:1", "primary": primary, "replicas": replicas})),
        ("PING", 0, json!({})),
        ("PUT json:1", 2, json!({"ok": false, "error": "usage"})),
    ] {
        let ended = run(&cluster, command, &["--json"]);
        assert_eq!(ended.code, Some(code), "{command}: {}", printed(&ended));
        let text = ended.text();
        assert_eq!(text.lines().count(), 1, "{command}: {text}");
        let object: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(object["command"], command.split(' ').next().unwrap_or_default(), "{text}");
        assert_eq!(object["ok"], code != 2, "{text}");
        for (name, value) in members.as_object().unwrap() {
            assert_eq!(object.get(name), Some(value), "{command} should have {name}: {text}");
        }
    }
    let port = cluster.coordinator.port.to_string();
    let ended = client::run_with_input(&["--port", &port, "--json"], b"PUT json:2 v\nGET json:2\nGET json:none\nFOO\n");
    for line in ended.text().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok_and(|object| object.is_object()), "{line}");
    }
    assert_eq!(ended.text().lines().count(), 4, "{}", ended.text());
}

#[test]
fn why_nobody_can_answer_a_linear_read_or_a_count_is_said_before_the_clients_time_is_up() {
    let node_args = &["--request-timeout", "2s"];
    let mut cluster = Setup { nodes: 2, replicas: 1, heartbeat_timeout: "1s", node_args, ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "why");
    cluster.kill(1);
    cluster.wait_until_leads_nothing(1);
    // A majority does not have it and never will.
    assert_eq!(cluster.connect(0).ask(&format!("PUT {key} v")), "OK");
    let port = cluster.coordinator.port;
    for (command, why) in [
        (format!("GET {key}"), "has not answered a linear read in time"),
        ("COUNT why".to_owned(), "does not list its keys now"),
    ] {
        let ended = client::command(port, &command, &["--timeout", "8s", "--read", "linear"]);
        let said = &ended.stderr;
        assert!(ended.code == Some(4), "{command}: {:?} {said}", ended.code);
        assert!(said.contains("ERROR UNAVAILABLE") && said.contains(why), "{command}: {said}");
    }
}

#[test]
fn commands_from_a_pipe_are_answered_without_prompt_and_colour() {
    let cluster = cluster::shared();
    let port = cluster.coordinator.port.to_string();
    let holders = cluster.holders("pipe:1");
    let [primary, first, second] = &holders[..] else { panic!("{holders:?}") };
    let ended = client::run_with_input(&["--port", &port], b"PUT pipe:1 a b\nGET pipe:1\nget pipe:none\nLIST_NODES\n");
    let nodes: String = cluster.listed().iter().map(|addr| format!("  {addr}\n")).collect();
    let expected = format!(
        "[Client] PUT pipe:1 = a b [primary: {primary}, replicas: ['{first}', '{second}']]\n\
         [Client] GET pipe:1 = a b\n[Client] GET pipe:none: NOT_FOUND\nOK Nodes:\n{nodes}"
    );
    assert!(ended.text().starts_with(&expected), "{:?}", ended.text());
    assert!(!printed(&ended).contains('\x1b'), "no color: {:?}", printed(&ended));
    assert!(!printed(&ended).contains(">> "), "no prompt: {:?}", printed(&ended));
}

#[test]
fn code_2_is_for_a_command_that_is_none() {
    let cluster = cluster::shared();
    for (command, says) in [
        ("FOO", "Unknown command: FOO"),
        ("FOO bar", "Unknown command: FOO"),
        ("PUT", "Usage: PUT key value"),
        ("PUT k", "Usage: PUT key value"),
        ("put k ", "Usage: PUT key value"),
        ("GET", "Usage: GET key"),
        ("GET a b", "Usage: GET key"),
        ("DELETE", "Usage: DELETE key"),
        ("GET_NODES_FOR_KEY", "Usage: GET_NODES_FOR_KEY key"),
        ("INFO not-an-address", ""),
        ("", ""),
    ] {
        let ended = run(&cluster, command, &[]);
        assert_eq!(ended.code, Some(2), "{command:?}: {}", printed(&ended));
        assert!(printed(&ended).contains(says), "{command:?}: {}", printed(&ended));
    }
    let long = "k".repeat(proto::limits::KEY_BYTES + 1);
    let ended = run(&cluster, &format!("PUT {long} v"), &[]);
    assert_eq!(ended.code, Some(2), "a key that no cluster takes: {}", printed(&ended));
    assert!(printed(&ended).contains("TOOLONG"), "{}", printed(&ended));
}

#[test]
fn code_3_is_for_a_cluster_that_cannot_be_reached() {
    let port = CLOSED_PORT.to_string();
    for command in ["GET k", "PUT k v", "DELETE k", "LIST_NODES", "GET_NODES_FOR_KEY k", "PING", "INFO"] {
        let ended = client::command(CLOSED_PORT, command, &["--timeout", "1s"]);
        assert_eq!(ended.code, Some(3), "{command}: {}", printed(&ended));
        assert!(printed(&ended).contains(&format!("127.0.0.1:{port}")), "{command} names it: {}", printed(&ended));
        assert!(!printed(&ended).contains("panicked"), "{}", printed(&ended));
    }
    let ended = client::run(&["--host", "no-such-host.invalid", "--command", "GET k", "--timeout", "1s"]);
    assert_eq!(ended.code, Some(3), "{}", printed(&ended));
}

#[test]
fn code_4_is_for_a_write_that_certainly_did_not_happen() {
    let coordinator = server::coordinator(&[]);
    for command in ["PUT k v", "DELETE k"] {
        let ended = client::command(coordinator.port, command, &["--timeout", "1s"]);
        assert_eq!(ended.code, Some(4), "{command}: {}", printed(&ended));
        assert!(printed(&ended).contains("No nodes available"), "{command}: {}", printed(&ended));
    }
}

#[test]
fn code_4_is_also_for_a_write_whose_primary_is_dead_and_has_no_successor() {
    let mut cluster = Setup { nodes: 2, replicas: 0, heartbeat_timeout: "300s", ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "refused");
    cluster.kill(0);
    for command in [format!("PUT {key} v"), format!("DELETE {key}")] {
        let ended = run(&cluster, &command, &["--timeout", "1s"]);
        assert_eq!(ended.code, Some(4), "{command}: {}", printed(&ended));
        assert!(printed(&ended).contains("ERROR"), "{command}: {}", printed(&ended));
    }
}

#[cfg(unix)]
#[test]
fn code_5_is_for_a_write_that_was_sent_and_not_answered() {
    let cluster = Setup { nodes: 1, replicas: 0, heartbeat_timeout: "300s", ..Setup::default() }.start();
    cluster.node(0).process.pause();
    for command in ["PUT unknown v", "DELETE unknown"] {
        let ended = run(&cluster, command, &["--timeout", "1s"]);
        assert_eq!(ended.code, Some(5), "{command}: {}", printed(&ended));
    }
}

#[test]
fn a_read_goes_to_a_replica_when_the_primary_is_dead_and_says_so() {
    let mut cluster = Setup { heartbeat_timeout: "300s", ..Setup::default() }.start();
    let key = cluster.key_led_by(0, "from-replica");
    assert_eq!(run(&cluster, &format!("PUT {key} Alice"), &[]).code, Some(0));
    cluster.wait_until_level();
    let replicas = cluster.holders(&key).split_off(1);
    let (mut client, _home) = client::start_at_pipe(&["--port", &cluster.coordinator.port.to_string()]);
    let get = format!("GET {key}\n");
    let value = format!("[Client] GET {key} = Alice");
    client.tell(get.as_bytes());
    client.line_of_stdout("the value", |line| (line == value).then_some(()));
    // So that no replica becomes the primary in the meantime. The client goes on with the map it has.
    cluster.coordinator.process.kill();
    cluster.kill(0);
    client.feed(get.as_bytes());
    let ended = client.wait_for_end(SOON);
    let from = |replica: &String| {
        ended.text()
            == format!("{value}\n[Client] Primary node failed, trying replicas...\n{value} (from replica {replica})\n")
    };
    assert!(replicas.iter().any(from), "{:?}, {}", ended.text(), ended.stderr);
    assert_eq!(ended.code, Some(0));
}

#[test]
fn a_write_waits_for_the_new_primary() {
    let mut cluster = Setup::default().start();
    let key = cluster.key_led_by(0, "waits");
    cluster.kill(0);
    // Retried along the changes of the map, within the default timeout of 20 s.
    let ended = run(&cluster, &format!("PUT {key} v"), &[]);
    assert_eq!(ended.code, Some(0), "{}", printed(&ended));
    assert_eq!(run(&cluster, &format!("GET {key}"), &["--raw"]).stdout, b"v");
}

#[cfg(unix)]
#[test]
fn an_interrupted_command_ends_with_130_and_a_write_with_5() {
    use nix::sys::signal::Signal::SIGINT;

    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    cluster.wait_until_settled();
    cluster.node(0).process.pause();
    for (command, is_under_way, code, told) in [
        ("GET key", "trying the next node", 130, "Interrupted"),
        ("PUT key value", "retrying the write", 5, "may have taken effect"),
    ] {
        let port = cluster.coordinator.port.to_string();
        let args = ["--port", &port, "--log-level", "debug", "--read", "linear", "--command", command];
        let mut client = Process::start("client", args);
        client.says_on_stderr(is_under_way);
        client.signal(SIGINT);
        let ended = client.wait_for_end(SOON);
        assert_eq!(ended.code, Some(code), "{command}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{command}: {}", ended.stderr);
    }
    cluster.node(0).process.resume();
}
