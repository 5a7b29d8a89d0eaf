//! The guarantees of connection levels, conditional writes, and writes with an identity.

use e2e::cluster::{self, Cluster, Setup};
use e2e::connection::{Connection, Reply};
use proto::slot::Position;

fn asks(node: &mut Connection, exchanges: &[(&str, &str)]) {
    for (request, answer) in exchanges {
        assert_eq!(node.ask(request), *answer, "{request}");
    }
}

/// The version in `OK version` or `CONFLICT version`.
#[track_caller]
fn version(answer: &str, word: &str) -> String {
    let version = answer.strip_prefix(word).and_then(|rest| rest.strip_prefix(' ')).map(str::to_owned);
    let version = version.unwrap_or_else(|| panic!("{answer:?} should be {word} and a version"));
    let (epoch, seq) = version.split_once('-').unwrap_or_else(|| panic!("{version:?} should be epoch-seq"));
    assert!(epoch.parse::<u64>().is_ok() && seq.parse::<u64>().is_ok(), "{version}");
    version
}

#[test]
fn a_write_whose_level_has_too_few_copies_is_refused_and_changes_nothing() {
    let mut cluster = Setup { nodes: 1, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    let too_few = |level: &str, needs: usize, has: usize, or: &str| {
        format!(
            "ERROR UNAVAILABLE {level} needs {needs} in-sync copies, this slot has {has}: wait for those that are \
             away, start another node, or {or}"
        )
    };
    let (quorum, all) =
        (too_few("quorum", 2, 1, "ask for ACK async, which promises less"), too_few("all", 3, 1, "ask for ACK quorum"));
    asks(&mut node, &[("PUT few:1 before", "OK"), ("ACK quorum", "OK")]);
    let requests = ["PUT few:1 v", "PUT few:2 v", "DELETE few:1", "PUTNX few:2 v", "ONCE few 1 PUT few:1 v"];
    for request in requests {
        assert_eq!(node.ask(request), quorum, "{request}");
    }
    asks(&mut node, &[("GET few:1", "VALUE before"), ("GET few:2", "NOT_FOUND"), ("ACK all", "OK")]);
    for request in requests {
        assert_eq!(node.ask(request), all, "{request}");
    }
    assert_eq!(node.call(&["PUT", "few:1", "v"]), Reply::Error(all.strip_prefix("ERROR ").unwrap().to_owned()));
    asks(&mut node, &[("GET few:1", "VALUE before"), ("ACK async", "OK"), ("PUT few:1 async", "OK")]);

    cluster.add_node();
    cluster.wait_until_settled();
    let all = too_few("all", 3, 2, "ask for ACK quorum");
    for index in [0, 1] {
        let mut node = cluster.connect(index);
        asks(&mut node, &[("ACK quorum", "OK"), ("PUT few:1 quorum", "OK"), ("ACK all", "OK")]);
        assert_eq!(node.ask("PUT few:1 v"), all, "through {index}, whoever leads it");
        assert_eq!(node.ask("GET few:1"), "VALUE quorum");
    }
    cluster.add_node();
    cluster.wait_until_settled();
    asks(&mut cluster.connect(2), &[("ACK all", "OK"), ("PUT few:1 all", "OK"), ("GET few:1", "VALUE all")]);
}

#[test]
fn a_cluster_without_replicas_answers_every_level() {
    let cluster = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let mut node = cluster.connect(0);
    for level in ["async", "quorum", "all"] {
        asks(
            &mut node,
            &[
                (&format!("ACK {level}"), "OK"),
                ("READ linear", "OK"),
                (&format!("PUT alone {level}"), "OK"),
                ("GET alone", &format!("VALUE {level}")),
                ("DELETE alone", "OK"),
                ("GET alone", "NOT_FOUND"),
            ],
        );
    }
}

#[test]
fn the_levels_of_the_cluster_reach_every_connection_and_a_connection_may_ask_for_others() {
    let cluster = Setup {
        nodes: 1,
        coordinator_args: &["--ack", "quorum", "--read", "linear"],
        node_args: &["--request-timeout", "500ms"],
        ..Setup::default()
    }
    .start();
    let info = Connection::open(&cluster.coordinator.addr).ask("INFO");
    assert!(info.contains(" ack=quorum read=linear "), "{info}");
    let mut node = cluster.connect(0);
    let refused = |node: &mut Connection| {
        let answer = node.ask("PUT level v");
        assert!(answer.starts_with("ERROR UNAVAILABLE quorum needs 2 "), "{answer}");
    };
    refused(&mut node);
    asks(&mut node, &[("ACK async", "OK"), ("PUT level v", "OK")]);
    // One copy of three: the value is here but not durable.
    let answer = node.ask("GET level");
    assert!(answer.starts_with("ERROR UNAVAILABLE "), "{answer}");
    asks(&mut node, &[("READ local", "OK"), ("GET level", "VALUE v")]);
    // A level applies only to the connection that asked for it.
    refused(&mut cluster.connect(0));
    asks(&mut node, &[("ack ASYNC", "OK"), ("PUT level w", "OK"), ("Ack Quorum", "OK"), ("READ LOCAL", "OK")]);
    refused(&mut node);
    assert_eq!(node.call(&["ACK", "async"]), Reply::ok());
    assert_eq!(node.call(&["READ", "linear"]), Reply::ok());
    assert_eq!(node.call(&["PUT", "level", "x"]), Reply::ok());
}

#[test]
fn a_level_that_is_none_is_a_format_error_and_changes_nothing() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    asks(&mut node, &[("ACK all", "OK"), ("READ linear", "OK")]);
    for request in ["ACK", "ACK most", "ACK quorum all", "ACK linear", "ACK 2"] {
        assert_eq!(node.ask(request), "ERROR Invalid ACK format", "{request}");
    }
    for request in ["READ", "READ quorum", "READ local linear", "READ  "] {
        assert_eq!(node.ask(request), "ERROR Invalid READ format", "{request}");
    }
    assert_eq!(node.call(&["ACK", "most"]), Reply::Error("ERR Invalid ACK format".to_owned()));
    assert_eq!(node.call(&["READ"]), Reply::Error("ERR wrong number of arguments for 'read' command".to_owned()));
    asks(&mut node, &[("PUT no-level:1 v", "OK"), ("GET no-level:1", "VALUE v")]);
}

#[test]
fn a_conditional_write_takes_effect_only_at_the_version_that_it_names() {
    let cluster = cluster::shared();
    for index in 0..3 {
        let key = format!("cas:{index}");
        let mut node = cluster.connect_at(index, "quorum", "linear");
        let mut ask = |request: &str| node.ask(&request.replace("KEY", &key));
        assert_eq!(ask("GETV KEY"), "NOT_FOUND");
        assert_eq!(ask("CAS KEY 1-1 v"), "CONFLICT 0", "an absent key has version 0");
        let first = version(&ask("CAS KEY 0 one two "), "OK");
        assert_eq!(ask("GETV KEY"), format!("VALUE {first} one two "));
        assert_eq!(ask("PUTNX KEY other"), format!("CONFLICT {first}"));
        assert_eq!(ask("CAS KEY 0 other"), format!("CONFLICT {first}"));
        let second = version(&ask(&format!("CAS KEY {first} second")), "OK");
        assert_ne!(first, second);
        assert_eq!(ask(&format!("CAS KEY {first} third")), format!("CONFLICT {second}"));
        assert_eq!(ask("GETV KEY"), format!("VALUE {second} second"));
        assert_eq!(ask("PUT KEY plain"), "OK", "every write gives a new version");
        assert_ne!(ask("GETV KEY"), format!("VALUE {second} plain"));
        assert_eq!(ask("DELETE KEY"), "OK");
        assert_eq!(ask(&format!("CAS KEY {second} v")), "CONFLICT 0");
        let anew = version(&ask("PUTNX KEY anew"), "OK");
        assert!(anew != first && anew != second, "a version never comes back");
        assert_eq!(ask("GETV KEY"), format!("VALUE {anew} anew"));
    }
}

#[test]
fn conditional_writes_in_arrays_carry_any_bytes() {
    let cluster = cluster::shared();
    let mut node = cluster.connect_at(1, "quorum", "linear");
    let (key, value) = (&b"cas \xff\n"[..], &b"\0 a\nb "[..]);
    let first = match node.call(&[b"PUTNX", key, value]) {
        Reply::Text(answer) => version(&answer, "OK"),
        other => panic!("{other:?}"),
    };
    let versioned = |version: &str, value: &[u8]| Reply::Array(vec![Reply::bulk(version), Reply::bulk(value)]);
    assert_eq!(node.call(&[b"GETV", key]), versioned(&first, value));
    assert_eq!(node.call(&[b"CAS", key, b"0", b"no"]), Reply::Text(format!("CONFLICT {first}")));
    let second = match node.call(&[b"CAS", key, first.as_bytes(), b""]) {
        Reply::Text(answer) => version(&answer, "OK"),
        other => panic!("{other:?}"),
    };
    assert_eq!(node.call(&[b"GETV", key]), versioned(&second, b""), "an empty value is a value");
    assert_eq!(node.call(&["GETV", "cas-absent"]), Reply::Null);
}

#[test]
fn a_conditional_write_with_the_wrong_words_is_a_format_error() {
    let cluster = cluster::shared();
    let mut node = cluster.connect(0);
    for (verb, requests) in [
        ("GETV", &["GETV", "GETV a b"][..]),
        ("PUTNX", &["PUTNX", "PUTNX k"]),
        ("CAS", &["CAS", "CAS k", "CAS k 0", "CAS k one v", "CAS k 1 v", "CAS k 1- v", "CAS k -1 v", "CAS k 1-2-3 v"]),
        ("ONCE", &["ONCE", "ONCE c", "ONCE c 1", "ONCE c x PUT k v", "ONCE c 1 GET k", "ONCE c 1 ONCE c 2 PUT k v"]),
        ("PUT", &["ONCE c 1 PUT k"]),
        ("CAS", &["ONCE c 1 CAS k v"]),
    ] {
        for request in requests {
            assert_eq!(node.ask(request), format!("ERROR Invalid {verb} format"), "{request}");
        }
    }
    assert_eq!(node.ask("GET k"), "NOT_FOUND");
}

/// Writes with an identity, each with the answer it got.
struct Identified {
    name: String,
    writes: Vec<(String, String)>,
}

impl Identified {
    /// Sends one write of each kind, to keys that start with `name`, and overwrites them.
    fn send(cluster: &Cluster, name: &str) -> Self {
        let mut node = cluster.connect_at(1, "quorum", "linear");
        let mut writes = Vec::new();
        let mut send = |node: &mut Connection, write: String| {
            let request = format!("ONCE {name} {} {write}", writes.len() + 1);
            let answer = node.insist(&request);
            writes.push((request, answer.clone()));
            answer
        };
        assert_eq!(node.insist(&format!("PUT {name}:2 doomed")), "OK");
        assert_eq!(send(&mut node, format!("PUT {name}:1 v")), "OK");
        assert_eq!(send(&mut node, format!("DELETE {name}:2")), "OK");
        let first = version(&send(&mut node, format!("PUTNX {name}:3 v")), "OK");
        version(&send(&mut node, format!("CAS {name}:3 {first} after")), "OK");
        version(&send(&mut node, format!("CAS {name}:3 {first} never")), "CONFLICT");
        for n in [1, 2] {
            assert_eq!(node.insist(&format!("PUT {name}:{n} after")), "OK");
        }
        Self { name: name.to_owned(), writes }
    }

    /// Sends them again through each of these nodes: every answer is the first one, and nothing changes.
    fn come_again(&self, cluster: &Cluster, through: &[usize]) {
        for index in through {
            let mut node = cluster.connect_at(*index, "quorum", "linear");
            for (request, answer) in &self.writes {
                assert_eq!(node.insist(request), *answer, "{request}");
                let words: Vec<_> = request.split(' ').collect();
                let again = node.call(&words);
                let refused = matches!(&again, Reply::Error(error) if error.starts_with("UNAVAILABLE "));
                assert!(again == Reply::Text(answer.clone()) || refused, "{request} as an array: {again:?}");
            }
            for n in 1..=3 {
                assert_eq!(node.insist(&format!("GET {}:{n}", self.name)), "VALUE after", "{n}");
            }
        }
    }
}

#[test]
fn a_write_with_an_identity_takes_effect_once() {
    let cluster = cluster::shared();
    Identified::send(&cluster, "once").come_again(&cluster, &[0, 1, 2]);
}

#[test]
fn a_write_with_an_identity_takes_effect_once_although_its_primary_was_killed_in_between() {
    let mut cluster = Setup::default().start();
    let map = cluster.map();
    let is_led_by_node_0 = |key: String| {
        let holder = map.holders(map.bits().slot(&Position::of(key.as_bytes()))).next();
        holder.is_some_and(|(_, member)| member.addr.as_str() == cluster.node(0).addr)
    };
    let mut names = (0..100_000).map(|i| format!("killed-{i}"));
    let name = names.find(|name| (1..=3).all(|n| is_led_by_node_0(format!("{name}:{n}")))).unwrap();
    let identified = Identified::send(&cluster, &name);
    cluster.kill(0);
    identified.come_again(&cluster, &[1, 2]);
}

#[test]
fn a_write_that_was_declined_stays_declined_although_its_condition_would_hold_later() {
    let cluster = cluster::shared();
    let mut node = cluster.connect_at(0, "quorum", "linear");
    let made = version(&node.ask("PUTNX declined v"), "OK");
    let once = "ONCE declined-client 1 PUTNX declined late";
    assert_eq!(node.ask(once), format!("CONFLICT {made}"));
    assert_eq!(node.ask("DELETE declined"), "OK");
    for index in 0..3 {
        let mut node = cluster.connect_at(index, "quorum", "linear");
        assert_eq!(node.ask(once), format!("CONFLICT {made}"));
        assert_eq!(node.ask("GET declined"), "NOT_FOUND");
    }
    version(&node.ask("ONCE declined-client 2 PUTNX declined new"), "OK");
}

#[test]
fn a_write_that_is_older_than_all_that_is_remembered_of_its_client_is_refused_as_stale() {
    let cluster = cluster::shared();
    let mut node = cluster.connect_at(2, "quorum", "linear");
    let writes: String = (1..=65).map(|seq| format!("ONCE stale-client {seq} PUT stale {seq}\n")).collect();
    node.send(writes);
    for seq in 1..=65 {
        assert_eq!(node.line(), "OK", "{seq}");
    }
    let stale = "ERROR STALE this write is older than every remembered write of its client: nothing was done now, but \
                 it may have been done before; read the key";
    asks(
        &mut node,
        &[
            ("ONCE stale-client 1 PUT stale 1", stale),
            ("ONCE stale-client 2 PUT stale 2", "OK"),
            ("ONCE other-client 1 PUT stale other", "OK"),
            ("ONCE stale-client 66 DELETE stale", "OK"),
            ("GET stale", "NOT_FOUND"),
        ],
    );
}
