//! The program `client` against a fake cluster: its output and its exit codes.

#![expect(clippy::unwrap_used, reason = "what panics here is a test that has failed")]

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

use fake_cluster::{Behaviour, FakeCluster};
use proto::error::ErrorReply;

const KEY: &[u8] = b"user:1";

/// Runs the program with these flags and this input.
async fn run(coordinator_port: u16, flags: &[&str], input: &[u8]) -> Output {
    run_and(coordinator_port, flags, input, |_| {}).await
}

/// The same, with something done to the program before it gets its input.
async fn run_and(
    coordinator_port: u16,
    flags: &[&str],
    input: &[u8],
    prepare: impl FnOnce(&mut Child) + Send + 'static,
) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.args(["--port", &coordinator_port.to_string()]).args(flags).env_remove("RUST_LOG");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_vec();
    let run = move || {
        let mut child = command.spawn().unwrap();
        prepare(&mut child);
        // A program that has already exited does not read its input.
        let _ = child.stdin.take().unwrap().write_all(&input);
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// Runs one command.
async fn one_shot(cluster: &FakeCluster, command: &str, flags: &[&str]) -> Output {
    run(cluster.coordinator.addr().port(), &[&["--command", command], flags].concat(), b"").await
}

/// The exit code, standard output and standard error.
fn parts(output: &Output) -> (i32, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

fn index_of_primary(cluster: &FakeCluster) -> usize {
    let addr = cluster.primary_of(KEY).addr();
    cluster.nodes.iter().position(|node| node.addr() == addr).unwrap()
}

#[tokio::test]
async fn one_command_prints_what_the_first_version_printed() {
    let cluster = FakeCluster::start(3).await;
    let addr: Vec<_> = cluster.holders_of(KEY).iter().map(|node| node.addr().clone()).collect();
    let mut sorted = addr.clone();
    sorted.sort();
    for (command, text) in [
        (
            "PUT user:1 Alice",
            format!("[Client] PUT user:1 = Alice [primary: {}, replicas: ['{}', '{}']]\n", addr[0], addr[1], addr[2]),
        ),
        ("get user:1", "[Client] GET user:1 = Alice\n".to_owned()),
        ("DELETE user:1", format!("[Client] DELETE user:1 [primary: {}]\n", addr[0])),
        ("LIST_NODES", format!("OK Nodes:\n  {}\n  {}\n  {}\n", sorted[0], sorted[1], sorted[2])),
        ("GET_NODES_FOR_KEY user:1", format!("PRIMARY {}\nREPLICA {}\nREPLICA {}\n", addr[0], addr[1], addr[2])),
        ("INFO", "OK Coordinator nodes=3\n".to_owned()),
        (&format!("INFO {}", addr[0]), format!("OK Node {} keys=0\n", addr[0])),
        ("STATUS", "OK Status healthy: all 64 slots are led, on 3 nodes\n".to_owned()),
        (
            &format!("VERIFY {}", addr[0]),
            format!("node {}:\n  OK Verified equal: of 1 slots led here 1 are equal\n", addr[0]),
        ),
        ("WAIT_HEALTHY 90s", "OK\n".to_owned()),
        ("STATS", "  nodes             3\n".to_owned()),
        (&format!("STATS {}", addr[0]), "  keys             0\n".to_owned()),
        ("PING", format!("[Client] PONG from the coordinator at {}\n", cluster.coordinator_addr())),
        (&format!("PING {}", addr[1]), format!("[Client] PONG from node {}\n", addr[1])),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, &[]).await), (0, text.as_str(), ""), "{command}");
    }
}

#[tokio::test]
async fn an_absent_key_exits_with_1() {
    let cluster = FakeCluster::start(1).await;
    assert_eq!(parts(&one_shot(&cluster, "GET k", &[]).await), (1, "[Client] GET k: NOT_FOUND\n", ""));
    assert_eq!(parts(&one_shot(&cluster, "GET k", &["--raw"]).await), (1, "", ""));
}

#[tokio::test]
async fn wrong_usage_exits_with_2() {
    let cluster = FakeCluster::start(1).await;
    for (command, text) in [
        ("PUT k", "Usage: PUT key value\n"),
        ("GET", "Usage: GET key\n"),
        ("DELETE a b", "Usage: DELETE key\n"),
        ("FOO", "Unknown command: FOO\n"),
        ("", "No command given; HELP lists them\n"),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, &[]).await), (2, "", text), "{command}");
    }
    let long = format!("GET {}", "k".repeat(proto::limits::KEY_BYTES + 1));
    let output = one_shot(&cluster, &long, &[]).await;
    let (code, _, error) = parts(&output);
    assert_eq!(code, 2);
    assert!(error.starts_with("[Client] ERROR TOOLONG key of 65537 bytes"), "{error}");
    for flags in [&["--timeout", "0s"][..], &["--raw", "--json"], &["--no-such-flag"]] {
        assert_eq!(one_shot(&cluster, "GET k", flags).await.status.code(), Some(2), "{flags:?}");
    }
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_exits_with_3() {
    let mut cluster = FakeCluster::start(1).await;
    cluster.coordinator.stop().await;
    let (addr, port) = (cluster.coordinator_addr(), cluster.coordinator.addr().port());
    let text = format!(
        "[Client] ERROR could not reach the coordinator at {addr}: connection refused; \
         start it with `coordinator`, or name it with --host and --port\n"
    );
    assert_eq!(parts(&one_shot(&cluster, "GET k", &[]).await), (3, "", text.as_str()));
    assert_eq!(parts(&run(port, &[], b"GET k\n").await), (3, "", text.as_str()), "also a session");
    let json = run(port, &["--json"], b"GET k\n").await;
    let (code, result, error) = parts(&json);
    assert_eq!((code, error), (3, ""));
    assert!(result.starts_with("{\"command\":\"\",\"error\":\"not_reached\",\"ok\":false,\"text\":"), "{result}");
    assert_eq!(one_shot(&cluster, "FOO", &[]).await.status.code(), Some(2), "usage is looked at first");
    assert_eq!(one_shot(&cluster, "HELP", &[]).await.status.code(), Some(0), "help needs no cluster");
    let help = one_shot(&cluster, "help putnx", &[]).await;
    assert_eq!(parts(&help).1, "Usage: PUTNX key value\n  store a value if the key is absent\n");
}

#[tokio::test]
async fn a_refusal_exits_with_4_and_an_unknown_outcome_with_5() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    let unknown = |why: &str| {
        let advice = "the write may have taken effect, or still may within two minutes: read the key after that before you repeat it";
        format!("[Client] ERROR UNKNOWN node {}: {why}; tried for 200ms; {advice}\n", node.addr())
    };
    for (behaviour, code, text) in [
        (
            Behaviour::Refuse(ErrorReply::Unavailable("no lease".into())),
            4,
            "[Client] ERROR UNAVAILABLE no lease\n".to_owned(),
        ),
        (Behaviour::Refuse(ErrorReply::Stale("too old".into())), 4, "[Client] ERROR STALE too old\n".to_owned()),
        (Behaviour::Refuse(ErrorReply::Unknown("lost".into())), 5, unknown("lost")),
        (Behaviour::HangUp, 5, unknown("it closed the connection before it answered")),
    ] {
        node.set_behaviour(behaviour);
        for command in ["PUT k v", "CAS k 1-1 v"] {
            let output = one_shot(&cluster, command, &["--timeout", "200ms"]).await;
            assert_eq!(parts(&output), (code, "", text.as_str()), "{command}");
        }
    }
}

#[tokio::test]
async fn versions_are_printed_and_asked_for_and_a_conflict_exits_with_1() {
    let cluster = FakeCluster::start(1).await;
    for (command, code, text) in [
        ("GETV user:1", 1, "[Client] GETV user:1: NOT_FOUND\n"),
        ("PUTNX user:1 Alice", 0, "[Client] PUTNX user:1 = Alice [version: 1-1]\n"),
        ("PUTNX user:1 Bob", 1, "[Client] PUTNX user:1: CONFLICT, the key is at version 1-1\n"),
        ("getv user:1", 0, "[Client] GETV user:1 = Alice [version: 1-1]\n"),
        ("CAS user:1 1-1 Alice B.", 0, "[Client] CAS user:1 = Alice B. [version: 1-2]\n"),
        ("CAS user:1 1-1 Carol", 1, "[Client] CAS user:1: CONFLICT, the key is at version 1-2\n"),
        ("CAS user:2 1-1 Carol", 1, "[Client] CAS user:2: CONFLICT, the key is absent\n"),
        ("CAS user:2 0 Carol", 0, "[Client] CAS user:2 = Carol [version: 1-3]\n"),
        ("GET user:1", 0, "[Client] GET user:1 = Alice B.\n"),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, &[]).await), (code, text, ""), "{command}");
    }
    for (command, code, text) in [
        ("GETV user:1", 0, "1-2 Alice B."),
        ("GETV user:3", 1, ""),
        ("CAS user:1 1-2 Dave", 0, "1-4\n"),
        ("PUTNX user:1 Dave", 1, "1-4\n"),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, &["--raw"]).await), (code, text, ""), "{command}");
    }
    let usage = "Usage: CAS key version value; GETV tells the version, such as 3-12, and 0 stands for an absent key\n";
    assert_eq!(parts(&one_shot(&cluster, "CAS user:1 Alice", &[]).await), (2, "", usage));
}

#[tokio::test]
async fn levels_are_flags_of_one_command_and_commands_of_a_session() {
    let cluster = FakeCluster::start(1).await;
    let node = &cluster.nodes[0];
    one_shot(&cluster, "PUT k v", &["--ack", "quorum"]).await;
    one_shot(&cluster, "GET k", &["--read", "linear"]).await;
    assert_eq!(
        node.requests(),
        ["line ACK quorum", "line PUT k at quorum", "line READ linear", "line GET k at linear"]
    );
    for (command, flags, text) in [
        ("ACK", &[][..], "[Client] ACK async (the cluster's)\n"),
        ("ACK", &["--ack", "all"], "[Client] ACK all\n"),
        ("READ", &["--raw"], "local\n"),
        ("READ", &["--json"], "{\"command\":\"READ\",\"level\":\"local\",\"ok\":true,\"own\":false}\n"),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, flags).await), (0, text, ""), "{command} {flags:?}");
    }
    let error = "ACK quorum applies to the commands that follow it; with --command use --ack quorum\n";
    assert_eq!(parts(&one_shot(&cluster, "ACK quorum", &[]).await), (2, "", error));
    assert_eq!(one_shot(&cluster, "GET k", &["--ack", "most"]).await.status.code(), Some(2));

    let input = b"ACK quorum\nPUT k v\nack\nread LINEAR\nGET k\nACK most\nREAD\n";
    let text = format!(
        "[Client] ACK quorum\n\
         [Client] PUT k = v [primary: {}, replicas: []]\n\
         [Client] ACK quorum\n\
         [Client] READ linear\n\
         [Client] GET k = v\n\
         Usage: ACK [async|quorum|all]\n\
         [Client] READ linear\n",
        node.addr()
    );
    let port = cluster.coordinator.addr().port();
    assert_eq!(parts(&run(port, &[], input).await), (0, text.as_str(), ""));
    assert_eq!(
        node.requests()[4..],
        ["line ACK quorum", "line PUT k at quorum", "line READ linear", "line GET k at linear"]
    );
    assert_eq!(parts(&run(port, &["--raw"], b"READ linear\nGET k\n").await), (0, "v", ""), "the value alone");
}

#[tokio::test]
async fn an_operator_sees_losses_and_decides_about_them() {
    let cluster = FakeCluster::start(1).await;
    let node = cluster.nodes[0].addr();
    let losses = format!("LOSSES {node}");
    assert_eq!(parts(&one_shot(&cluster, &losses, &[]).await), (0, "OK No losses\n", ""));
    cluster.nodes[0].set_losses(&["PUT k at 1-9"]);
    for (command, flags, code, text) in [
        (losses.as_str(), &[][..], 0, "OK 1 losses:\n  PUT k at 1-9\n"),
        (&losses, &["--raw"], 0, "PUT k at 1-9\n"),
        (&losses, &["--json"], 0, "{\"command\":\"LOSSES\",\"losses\":[\"PUT k at 1-9\"],\"ok\":true}\n"),
        (&format!("UNREGISTER_NODE {node}"), &[], 0, &format!("OK Node {node} unregistered\n")),
        (&format!("FORGET {node}"), &[], 0, &format!("OK Node {node} is waited for no longer\n")),
        (&format!("DECOMMISSION {node}"), &[], 0, &format!("OK Node {node} leaves\n")),
        (&format!("recommission {node}"), &[], 0, &format!("OK Node {node} stays\n")),
        (&format!("REPLACE {node} h:2"), &[], 0, &format!("OK Node {node} leaves for h:2\n")),
        ("ACCEPT_LOSS 12", &[], 0, "OK 1 slots start anew\n"),
        (
            "accept_loss all",
            &["--json"],
            0,
            "{\"command\":\"ACCEPT_LOSS\",\"ok\":true,\"text\":\"OK 64 slots start anew\"}\n",
        ),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, flags).await), (code, text, ""), "{command} {flags:?}");
    }
    for (command, code, error) in [
        ("FORGET 127.0.0.1:1", 4, "[Client] ERROR Node 127.0.0.1:1 not found\n"),
        ("FORGET", 2, "Usage: FORGET host:port\n"),
        ("ACCEPT_LOSS some", 2, "Usage: ACCEPT_LOSS slot|all\n"),
        ("LOSSES", 2, "Usage: LOSSES host:port\n"),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, &[]).await), (code, "", error), "{command}");
    }
}

#[tokio::test]
async fn a_value_from_a_replica_says_so() {
    let mut cluster = FakeCluster::start(3).await;
    let replica = cluster.holders_of(KEY)[1].addr().clone();
    cluster.holders_of(KEY)[1].insert(KEY, b"Alice");
    let primary = index_of_primary(&cluster);
    cluster.nodes[primary].stop().await;
    let text = format!(
        "[Client] Primary node failed, trying replicas...\n[Client] GET user:1 = Alice (from replica {replica})\n"
    );
    assert_eq!(parts(&one_shot(&cluster, "GET user:1", &[]).await), (0, text.as_str(), ""));
    let json = format!(
        "{{\"command\":\"GET\",\"found\":true,\"from\":\"{replica}\",\"key\":\"user:1\",\"ok\":true,\
         \"replica\":true,\"value\":\"Alice\"}}\n"
    );
    assert_eq!(parts(&one_shot(&cluster, "GET user:1", &["--json"]).await), (0, json.as_str(), ""));
}

#[tokio::test]
async fn raw_prints_the_bytes_of_a_value_and_nothing_else() {
    let cluster = FakeCluster::start(1).await;
    for value in [&b"Alice"[..], b"", b"two\nlines\n", b"\xff\x00\r"] {
        cluster.nodes[0].insert(b"k", value);
        let output = one_shot(&cluster, "GET k", &["--raw"]).await;
        assert_eq!(output.stdout, value);
        assert!(output.status.success() && output.stderr.is_empty());
    }
    assert_eq!(parts(&one_shot(&cluster, "PUT k v", &["--raw"]).await), (0, "", ""));
}

#[tokio::test]
async fn json_prints_one_object_errors_included() {
    let cluster = FakeCluster::start(1).await;
    let node = cluster.nodes[0].addr();
    cluster.nodes[0].insert(b"bytes", b"\xff");
    for (command, code, text) in [
        ("PUT k v", 0, format!(r#"{{"command":"PUT","key":"k","ok":true,"primary":"{node}","replicas":[]}}"#)),
        (
            "GET bytes",
            0,
            format!(
                r#"{{"command":"GET","found":true,"from":"{node}","key":"bytes","ok":true,"replica":false,"value_base64":"/w=="}}"#
            ),
        ),
        (
            "GET absent",
            1,
            format!(r#"{{"command":"GET","found":false,"from":"{node}","key":"absent","ok":true,"replica":false}}"#),
        ),
        ("PUTNX n v", 0, r#"{"command":"PUTNX","key":"n","ok":true,"version":"1-3","written":true}"#.to_owned()),
        ("CAS n 1-1 v", 1, r#"{"command":"CAS","key":"n","ok":true,"version":"1-3","written":false}"#.to_owned()),
        (
            "GETV n",
            0,
            format!(
                r#"{{"command":"GETV","found":true,"from":"{node}","key":"n","ok":true,"replica":false,"value":"v","version":"1-3"}}"#
            ),
        ),
        ("FOO", 2, r#"{"command":"FOO","error":"usage","ok":false,"text":"Unknown command: FOO"}"#.to_owned()),
        ("LIST_NODES", 0, format!(r#"{{"command":"LIST_NODES","nodes":["{node}"],"ok":true}}"#)),
    ] {
        assert_eq!(parts(&one_shot(&cluster, command, &["--json"]).await), (code, format!("{text}\n").as_str(), ""));
    }
}

#[tokio::test]
async fn a_pipe_gets_results_and_errors_in_order() {
    let cluster = FakeCluster::start(1).await;
    let port = cluster.coordinator.addr().port();
    let node = cluster.nodes[0].addr();
    let input = b"put a b  c \n\nGET a\r\nFOO\nPUT x\nGET y\nPUT bytes \xff\nDELETE a\nGET a";
    let text = format!(
        "[Client] PUT a = b  c  [primary: {node}, replicas: []]\n\
         [Client] GET a = b  c \n\
         Unknown command: FOO\n\
         Usage: PUT key value\n\
         [Client] GET y: NOT_FOUND\n\
         [Client] PUT bytes = b\"\\xff\" [primary: {node}, replicas: []]\n\
         [Client] DELETE a [primary: {node}]\n\
         [Client] GET a: NOT_FOUND\n"
    );
    assert_eq!(parts(&run(port, &[], input).await), (0, text.as_str(), ""));
    assert_eq!(cluster.nodes[0].value(b"bytes").as_deref(), Some(&b"\xff"[..]));
}

#[tokio::test]
async fn a_pipe_ends_at_exit() {
    let cluster = FakeCluster::start(1).await;
    let port = cluster.coordinator.addr().port();
    assert_eq!(parts(&run(port, &[], b"Exit\nPUT a b\n").await), (0, "Goodbye!\n", ""));
    assert_eq!(parts(&run(port, &["--raw"], b"QUIT\nPUT a b\n").await), (0, "", ""));
    assert_eq!(cluster.nodes[0].value(b"a"), None);
}

#[tokio::test]
async fn a_pipe_whose_output_nobody_reads_tells_what_was_not_carried_out() {
    let cluster = FakeCluster::start(1).await;
    let port = cluster.coordinator.addr().port();
    let nobody_reads = |child: &mut Child| drop(child.stdout.take());
    let output = run_and(port, &[], b"PUT a 1\nPUT b 2\n", nobody_reads).await;
    let text = "client: standard output was closed: the lines after line 1 were not executed\n";
    assert_eq!(parts(&output), (6, "", text));
    assert!(cluster.nodes[0].value(b"a").is_some() && cluster.nodes[0].value(b"b").is_none());
    assert_eq!(parts(&run_and(port, &[], b"PUT c 3\n", nobody_reads).await), (0, "", ""));
}

#[tokio::test]
async fn errors_of_a_raw_pipe_stay_out_of_its_values() {
    let cluster = FakeCluster::start(1).await;
    cluster.nodes[0].insert(b"a", b"1\n");
    let output = run(cluster.coordinator.addr().port(), &["--raw"], b"GET a\nFOO\nGET a\n").await;
    assert_eq!(parts(&output), (0, "1\n1\n", "Unknown command: FOO\n"));
}

/// Runs the program with another standard output.
async fn run_into(coordinator_port: u16, flags: &[&str], stdout: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_client"));
    command.args(["--port", &coordinator_port.to_string()]).args(flags).env_remove("RUST_LOG").stdout(stdout);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn one_command_whose_output_nobody_reads_keeps_its_exit_code() {
    let cluster = FakeCluster::start(1).await;
    let port = cluster.coordinator.addr().port();
    for (command, exit) in [("GET a", 1), ("FOO", 2), ("PUT a 1", 0)] {
        let (_, closed) = std::io::pipe().unwrap();
        assert_eq!(
            parts(&run_into(port, &["--json", "--command", command], closed).await),
            (exit, "", ""),
            "{command}"
        );
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn output_that_cannot_be_written_exits_with_6() {
    let cluster = FakeCluster::start(1).await;
    let port = cluster.coordinator.addr().port();
    let text = "client: cannot write to standard output: No space left on device (os error 28)\n";
    for flags in [&["--command", "PUT a 1"][..], &["--help"], &["--version"]] {
        let full = std::fs::File::create("/dev/full").unwrap();
        assert_eq!(parts(&run_into(port, flags, full).await), (6, "", text), "{flags:?}");
    }
}
