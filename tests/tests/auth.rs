//! A cluster with a password: clients with the password are served as usual, and nobody else is.

use std::io::Write as _;
use std::time::{Duration, Instant};

use e2e::client::{self, printed};
use e2e::cluster::{Cluster, PASSWORD, PASSWORD_FILE, Setup};
use e2e::connection::{Connection, Reply, array};
use e2e::process::Process;
use e2e::server;
use e2e::wait::{SOON, ensure, eventually};

const OTHER_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/auth/other.txt");
const WRONG: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NOAUTH_LINE: &str = "ERROR NOAUTH Authentication required: nothing was done; send AUTH and the password first";

fn closed_cluster() -> Cluster {
    Setup { password: Some(PASSWORD), heartbeat_timeout: "1s", ..Setup::default() }.start()
}

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

#[test]
fn strangers_are_refused_until_they_authenticate_and_after_reset() {
    let node = Setup { nodes: 1, replicas: 0, password: Some(PASSWORD), ..Setup::default() }.start();
    let addr = &node.node(0).addr;
    let mut client = Connection::open(addr);
    let required = error("NOAUTH Authentication required.");
    for words in
        [&["GET", "k"][..], &["SET", "k", "v"], &["PING"], &["COMMAND"], &["CLIENT", "ID"], &["NOSUCH"], &["SET"]]
    {
        assert_eq!(client.call(words), required, "{words:?}");
    }
    for line in ["GET k", "PUT k v", "PING", "INFO", "no such", "GET"] {
        assert_eq!(client.ask(line), NOAUTH_LINE, "{line}");
    }
    let Reply::Error(hello) = client.call(&["HELLO", "3"]) else { panic!("a stranger is greeted") };
    assert!(hello.starts_with("NOAUTH HELLO must be called with the client already authenticated, "), "{hello}");
    assert_eq!(client.call(&["AUTH"]), error("ERR wrong number of arguments for 'auth' command"));
    assert_eq!(client.call(&["AUTH", "a", "b", "c"]), error("ERR syntax error"));
    assert_eq!(client.ask("AUTH"), "ERROR Invalid AUTH format");
    for words in [&["AUTH", "wrong"][..], &["AUTH", "nobody", PASSWORD], &["HELLO", "2", "AUTH", "default", "wrong"]] {
        assert_eq!(client.call(words), error(WRONG), "{words:?}");
    }
    assert_eq!(client.ask("AUTH wrong"), format!("ERROR {WRONG}"));
    assert_eq!(client.call(&["RESET"]), Reply::Text("RESET".to_owned()));
    assert_eq!(client.call(&["AUTH", PASSWORD]), Reply::ok());
    assert_eq!(client.call(&["SET", "k", "v"]), Reply::ok());
    assert_eq!(client.call(&["AUTH", "wrong"]), error(WRONG));
    assert_eq!(client.call(&["GET", "k"]), Reply::bulk("v"), "who is in stays in");
    assert_eq!(client.call(&["RESET"]), Reply::Text("RESET".to_owned()));
    assert_eq!(client.call(&["GET", "k"]), required);
    assert_eq!(client.ask(&format!("AUTH default {PASSWORD}")), "OK");
    assert_eq!(client.ask("GET k"), "VALUE v");
    assert_eq!(client.ask("QUIT"), "OK");

    // Everything may be sent at once, whatever its size after the password.
    let long = "x".repeat(200_000);
    let mut eager = Connection::open(addr);
    eager.send(
        [array(&["HELLO", "2", "AUTH", "default", PASSWORD]), array(&["SET", "k", &long]), array(&["STRLEN", "k"])]
            .concat(),
    );
    assert!(matches!(eager.reply(), Reply::Array(_)));
    assert_eq!(eager.reply(), Reply::ok());
    assert_eq!(eager.reply(), Reply::Number(200_000));

    let mut stranger = Connection::open(&node.coordinator.addr);
    for line in ["LIST_NODES", "MAP", "WATCH_MAP", "STATS", "UNREGISTER_NODE 127.0.0.1 1", "no such"] {
        assert_eq!(stranger.ask(line), NOAUTH_LINE, "{line}");
    }
    assert_eq!(stranger.call(&["JOIN", "127.0.0.1:9", "0", "0", "0", "", "1"]), required);
    assert_eq!(stranger.ask("AUTH wrong"), format!("ERROR {WRONG}"));
    assert_eq!(stranger.call(&["AUTH", PASSWORD]), Reply::ok());
    assert!(stranger.ask("INFO").starts_with("OK Coordinator "));
    for addr in [addr, &node.coordinator.addr] {
        let stats = node.open(addr).ask_lines("STATS");
        let wrong = stats.iter().find_map(|line| line.strip_prefix("wrong_passwords ")).expect("a count");
        assert!(wrong.parse::<u64>().expect("a number") > 0, "{wrong}");
    }
    node.node(0).process.says_on_stderr("sent a wrong password or user");
}

#[test]
fn a_web_page_cannot_guess_the_password() {
    let cluster = Setup { nodes: 1, replicas: 0, password: Some(PASSWORD), ..Setup::default() }.start();
    for addr in [&cluster.node(0).addr, &cluster.coordinator.addr] {
        let mut page = Connection::open(addr);
        page.send(format!("POST / HTTP/1.1\r\nHost: {addr}\r\n\r\nAUTH {PASSWORD}\r\nPING\r\n"));
        let answer = String::from_utf8_lossy(&page.rest()).into_owned();
        let last = "ERROR PROTOCOL HTTP is not understood here; nothing was changed and the connection is closed\n";
        assert_eq!(answer, last, "{addr}");
    }
}

#[test]
fn strangers_may_send_little_and_guess_slowly() {
    let node = Setup { nodes: 1, replicas: 0, password: Some(PASSWORD), ..Setup::default() }.start();
    let mut peer = Connection::open(&node.node(0).addr);
    assert_eq!(peer.call(&["PEER", "REPLICATION"]), error("NOAUTH Authentication required."));
    node.node(0).process.says_on_stderr("connected without a password");
    for addr in [&node.node(0).addr, &node.coordinator.addr] {
        for (input, answer) in [
            (b"*17\r\n".to_vec(), "-ERR Protocol error: unauthenticated multibulk length\r\n"),
            (b"*2\r\n$4\r\nAUTH\r\n$70000\r\n".to_vec(), "-ERR Protocol error: unauthenticated bulk length\r\n"),
            (vec![b'x'; 66_000], "ERROR TOOLONG line before AUTH of "),
        ] {
            let mut stranger = Connection::open(addr);
            // The refusal arrives before everything is sent, and the connection may already be closed.
            let _ = stranger.try_send(&input);
            let rest = String::from_utf8(stranger.rest()).expect("text");
            assert!(rest.starts_with(answer), "{rest}");
        }
        let start = Instant::now();
        let mut guesser = Connection::open(addr);
        guesser.send(array(&["AUTH", "guess"]).repeat(50));
        let told = String::from_utf8(guesser.rest()).expect("text");
        assert_eq!(told, format!("-{WRONG}\r\n").repeat(10), "and then it is closed");
        assert!(start.elapsed() >= Duration::from_millis(900), "ten guesses took {:?}", start.elapsed());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn strangers_who_read_nothing_cost_no_memory() {
    let node = Setup { nodes: 1, replicas: 0, password: Some(PASSWORD), ..Setup::default() }.start();
    let before = node.node(0).process.resident_bytes();
    let requests = array(&["GET", "k"]).repeat(2_000);
    let floods: Vec<_> = (0..50)
        .map(|_| {
            let stream = std::net::TcpStream::connect(&node.node(0).addr).expect("it takes connections");
            stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
            let mut sent = 0;
            while sent < 16 << 20 && (&stream).write_all(&requests).is_ok() {
                sent += requests.len();
            }
            stream
        })
        .collect();
    let after = node.node(0).process.resident_bytes();
    assert!(after < before + (32 << 20), "50 strangers took {} bytes", after - before);
    assert_eq!(node.connect(0).ask("PING"), "PONG");
    drop(floods);
}

#[test]
fn a_cluster_with_a_password_replicates_forwards_and_fails_over() {
    let mut cluster = closed_cluster();
    cluster.store(0, "auth", 300, "");
    cluster.wait_until_level();
    for index in 0..3 {
        cluster.has(index, "auth", 300, "");
    }
    let port = cluster.coordinator.port.to_string();
    let with = |command: &str| client::command(cluster.coordinator.port, command, &["--password-file", PASSWORD_FILE]);
    for (command, said) in [("PUT lib:a b", "lib:a = b"), ("GET lib:a", "lib:a = b"), ("LIST_NODES", "127.0.0.1:")] {
        let ended = with(command);
        assert_eq!(ended.code, Some(0), "{command}: {}", printed(&ended));
        assert!(ended.text().contains(said), "{command}: {}", printed(&ended));
    }
    let piped =
        client::run_with_input(&["--port", &port, "--password-file", PASSWORD_FILE], b"PUT lib:c d\nGET lib:c\n");
    assert!(piped.text().contains('d'), "{}", printed(&piped));
    for protocol in ["line", "resp"] {
        let words = ["bench", "mixed", "--protocol", protocol, "--keys", "100", "--requests", "200", "--ack", "quorum"];
        let ended = client::run(&[&words[..], &["--port", &port, "--password-file", PASSWORD_FILE]].concat());
        assert_eq!(ended.code, Some(0), "{}", printed(&ended));
    }
    let key = cluster.key_led_by(0, "auth");
    cluster.kill(0);
    for index in [1, 2] {
        let mut node = cluster.connect(index);
        eventually("a new primary takes writes", SOON, || {
            let answer = node.ask(&format!("PUT {key} {index}"));
            ensure(answer == "OK", || answer.clone())
        });
    }
    cluster.wait_until_settled();
    assert_eq!(cluster.connect(1).ask(&format!("PUT {key} {key}")), "OK");
    cluster.has(1, "auth", 300, "");
}

#[test]
fn processes_whose_passwords_do_not_agree_say_so_on_both_sides() {
    let with_password = &["--password-file", PASSWORD_FILE][..];
    for (coordinator_args, args, node_says, coordinator_says) in [
        (
            with_password,
            &["--password-file", OTHER_FILE][..],
            "uses a different password than this process",
            "sent a wrong password",
        ),
        (
            with_password,
            &[],
            "requires a password, but this process was started without one",
            "wants to join without a password",
        ),
        (&[], &["--password-file", OTHER_FILE], "was started without a password", "this process was started without"),
    ] {
        // Each its own, since a log has such a line only once in a while.
        let coordinator = server::coordinator(coordinator_args);
        let mut node = server::start_node(coordinator.port, 0, args).0;
        let ended = node.wait_for_end(SOON);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(node_says) && ended.stderr.contains("--password-file"), "{}", ended.stderr);
        coordinator.process.says_on_stderr(coordinator_says);
    }
    let (open, closed) = (server::coordinator(&[]), server::coordinator(with_password));
    for (port, file, code, what) in [
        (closed.port, None, 4, "NOAUTH Authentication required"),
        (closed.port, Some(OTHER_FILE), 4, "rejected the password: WRONGPASS"),
        (open.port, Some(OTHER_FILE), 4, "it was started without a password: leave yours out"),
        (open.port, Some("/no/such/file"), 2, "the password file /no/such/file cannot be read"),
    ] {
        let more: Vec<&str> = file.iter().flat_map(|file| ["--password-file", file]).collect();
        let ended = client::command(port, "GET k", &[&more[..], &["--timeout", "2s"]].concat());
        assert_eq!(ended.code, Some(code), "{}", printed(&ended));
        assert!(printed(&ended).contains(what), "{}", printed(&ended));
    }
}

#[test]
fn nodes_whose_passwords_do_not_agree_say_so_in_both_logs() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let data = dir.path().to_str().expect("a plain name");
    let setup = Setup { nodes: 1, replicas: 0, password: Some(PASSWORD), ..Setup::default() };
    let mut cluster = Setup { data_dir: Some(dir.path().to_owned()), ..setup }.start();
    let first = cluster.node(0).addr.clone();
    // The coordinator is restarted with another password, and a node joins with that.
    cluster.coordinator.stop();
    let port = cluster.coordinator.port;
    let args = ["--password-file", OTHER_FILE, "--data-dir", data, "--heartbeat-timeout", "60s"];
    let coordinator = server::start_again(|| server::start_coordinator(port, &args));
    let node = server::node(port, &["--password-file", OTHER_FILE, "--request-timeout", "2s"]);
    cluster.node(0).process.says_on_stderr("uses a different password than this process");
    coordinator.process.says_on_stderr("sent a wrong password or user");
    let mut client = Connection::open(&node.addr);
    assert_eq!(client.ask("AUTH another-one"), "OK");
    assert!(client.ask("GET k").starts_with("ERROR UNAVAILABLE "));
    node.process.says_on_stderr(&format!("node {first} uses a different password than this process"));
    cluster.node(0).process.says_on_stderr("sent a wrong password or user");
}

#[test]
fn a_password_that_cannot_be_had_ends_the_start() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("password");
    let name = file.to_str().expect("a plain name");
    for (content, what) in [
        (None, "cannot be read"),
        (Some(&b""[..]), "it is empty"),
        (Some(b"\n"), "it is empty"),
        (Some(b"two words\n"), "byte 4 is not printable ASCII"),
        (Some(b"\xff\n"), "byte 1 is not printable ASCII"),
        (Some(&[b'x'; 600]), "longer than 512 bytes"),
    ] {
        let _ = content.map(|content| std::fs::write(&file, content).expect("it can be written"));
        for program in ["node", "coordinator"] {
            let ended = Process::start(program, ["--port", "0", "--password-file", name]).wait_for_end(SOON);
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            assert!(ended.stderr.contains(what) && ended.stderr.contains(name), "{program}: {}", ended.stderr);
        }
    }
}

#[test]
fn whoever_gives_no_password_is_told_so_whatever_he_asks() {
    let coordinator = server::coordinator(&["--password-file", PASSWORD_FILE]);
    let mut stranger = Connection::open(&coordinator.addr);
    for words in [&["HELLO", "3"][..], &["NOTHING"], &["MAP"]] {
        let Reply::Error(answer) = stranger.call(words) else { panic!("a stranger is answered") };
        assert!(answer.starts_with("NOAUTH "), "{words:?}: {answer}");
    }
    let port = coordinator.port.to_string();
    let ended = client::run(&["bench", "get", "--port", &port, "--seconds", "1", "--keys", "10"]);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("NOAUTH ") && ended.stderr.contains("--password-file"), "{}", ended.stderr);
    let ended = client::run(&["bench", "get", "--port", &port, "--password-file", OTHER_FILE]);
    assert_eq!(ended.code, Some(4), "as of every other command: {}", ended.stderr);
    assert!(ended.stderr.contains("rejected the password"), "{}", ended.stderr);
    let ended = client::run(&["bench", "get", "--address", &coordinator.addr, "--password-file", OTHER_FILE]);
    assert_eq!(ended.code, Some(4), "also of a single server: {}", ended.stderr);
    let open = server::coordinator(&[]);
    let port = open.port.to_string();
    let ended = client::run(&["bench", "get", "--port", &port, "--password-file", OTHER_FILE]);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
    assert!(ended.stderr.contains("was started without a password: leave yours out"), "{}", ended.stderr);
}

#[cfg(unix)]
#[test]
fn a_password_file_that_others_can_read_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\r\n").expect("it can be written");
    for (mode, warns) in [(0o644, "read"), (0o602, "change"), (0o606, "read and change"), (0o600, "")] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
        let coordinator = server::coordinator(&["--password-file", file.to_str().expect("a plain name")]);
        let said = coordinator.process.stderr();
        let warned = said.split_once("every user of this machine can ").map_or("", |(_, rest)| rest);
        assert!(warned.starts_with(&format!("{warns} the password file")) || warned == warns, "{mode:o}: {said}");
        assert_eq!(Connection::open(&coordinator.addr).ask("AUTH secret"), "OK");
        assert!(!coordinator.process.stderr().contains("secret"), "it is never shown");
    }
}
