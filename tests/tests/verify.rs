//! Whether the copies of keys are equal: `VERIFY`, and the comparisons in the background.

use e2e::client;
use e2e::cluster::{Cluster, Setup};
use e2e::connection::{Connection, Reply};
use e2e::wait::{self, ensure, eventually};
use proto::id::{Incarnation, NodeAddr, Version};
use proto::peer::{Effect, Hello, LinkKind, LinkMessage, Op};
use proto::slot::Position;

/// A number from a node's `STATS`.
fn figure(cluster: &Cluster, index: usize, name: &str) -> u64 {
    let lines = cluster.connect(index).ask_lines("STATS");
    let line = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("STATS has no {name}: {lines:?}"))
}

/// The number before a text in a report.
fn before(line: &str, text: &str) -> u64 {
    let number = line.split_once(text).and_then(|(before, _)| before.split(' ').next_back()?.parse().ok());
    number.unwrap_or_else(|| panic!("no number before {text:?} in {line:?}"))
}

#[test]
fn a_cluster_that_is_written_to_meanwhile_has_equal_copies() {
    let cluster = Setup::default().start();
    cluster.store(0, "k", 2_000, "");
    let writes = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut connection = cluster.connect_at(1, "quorum", "linear");
            for i in 0..3_000 {
                connection.insist(&format!("PUT k:{} {i}", i % 500));
                connection.insist(&format!("DELETE k:{}", (i + 7) % 2_000));
            }
        });
        let mut slots = 0;
        for index in 0..3 {
            let mut connection = cluster.connect(index);
            let lines = connection.ask_lines("VERIFY");
            // On a busy machine a replica may be out of sync for a moment: copies that cannot be compared do not matter
            // here.
            assert!(lines[0].starts_with("OK Verified equal: "), "{lines:?}");
            slots += before(&lines[0], " slots led here");
            assert!(figure(&cluster, index, "slots_compared") > 0);
            assert_eq!(
                (figure(&cluster, index, "copies_different"), cluster.info(index)["differences"].as_str()),
                (0, "0")
            );
        }
        assert!(slots > 12_000, "{slots} of 16384 slots were led");
        writer.join()
    });
    writes.expect("the writer ends well");
    let ended = client::command(cluster.coordinator.port, "VERIFY", &[]);
    let printed = client::printed(&ended);
    assert_eq!((ended.code, printed.matches("OK Verified equal: ").count()), (Some(0), 3), "{printed}");
    let json = client::printed(&client::command(cluster.coordinator.port, "VERIFY", &["--json"]));
    assert_eq!(json.matches(r#""equal":true"#).count(), 3, "{json}");
}

#[test]
fn what_cannot_be_compared_is_said_with_the_reason_and_the_background_compares_by_itself() {
    let alone = Setup { nodes: 1, replicas: 1, ..Setup::default() }.start();
    alone.store(0, "k", 100, "");
    let lines = alone.connect(0).ask_lines("VERIFY");
    let not = before(&lines[0], " were not compared");
    assert!(not > 50, "{lines:?}");
    assert_eq!(lines[1], format!("{not} slots were not compared: no other copy is in sync; STATUS says why"));

    let cluster = Setup { nodes: 2, replicas: 1, node_args: &["--compare-every", "10s"], ..Setup::default() }.start();
    cluster.store(0, "k", 100, "");
    eventually("slots are compared in the background", wait::SOON, || {
        let compared = figure(&cluster, 0, "slots_compared");
        ensure(compared > 5, || compared.to_string())
    });
    assert_eq!(figure(&cluster, 0, "copies_different"), 0);
}

/// Sends a replica what its primary would send, so that it takes a record that the primary never made.
fn forge(cluster: &Cluster, key: &str, last: Version, [primary, replica]: [&str; 2]) {
    let map = cluster.map();
    let incarnation = |addr: &str| -> Incarnation {
        let found = map.members().find(|(_, member)| member.addr.as_str() == addr);
        found.expect("the map names every holder").0
    };
    let from_addr: NodeAddr = primary.parse().expect("an address");
    let (from, to) = (incarnation(primary), incarnation(replica));
    let hello = Hello { kind: LinkKind::Replication, cluster: map.cluster.clone(), from_addr, from, to };
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    let mut link = Connection::open(replica);
    link.send(&bytes);
    assert_eq!(link.line(), "+OK\r");
    let op = Op::Write { key: key.as_bytes(), effect: Effect::Put(b"forged"), identity: None, reply: b"" };
    let slot = map.bits().slot(&Position::of(key.as_bytes()));
    let version = Version { seq: last.seq + 1, ..last };
    bytes.clear();
    LinkMessage::Replicate { slot, version, previous: last, durable: 0, op }.encode(&mut bytes);
    link.send(&bytes);
    while link.reply() != Reply::Array(vec![Reply::bulk("ACK"), Reply::bulk("1")]) {}
}

#[test]
fn a_copy_that_differs_is_found_and_filled_again() {
    let cluster = Setup::default().start();
    let key = "forged:key";
    let holders = cluster.holders(key);
    let [leader, replica, ..] = holders.iter().map(String::as_str).collect::<Vec<_>>()[..] else {
        panic!("three nodes hold every key: {holders:?}")
    };
    let primary = cluster.index_of(leader);
    let mut connection = cluster.connect_at(primary, "quorum", "local");
    assert_eq!(connection.insist(&format!("PUT {key} first")), "OK");
    let answer = connection.ask(&format!("GETV {key}"));
    let last: Version = answer.split(' ').nth(1).and_then(|version| version.parse().ok()).expect("VALUE version value");
    forge(&cluster, key, last, [leader, replica]);
    // The primary's record has a number that the replica already has, so the replica skips it.
    assert_eq!(connection.insist(&format!("PUT {key} second")), "OK");

    let lines = connection.ask_lines("VERIFY");
    assert!(lines[0].starts_with("OK Verified different: ") && lines[0].contains(" 1 differed,"), "{lines:?}");
    let slot = cluster.map().bits().slot(&Position::of(key.as_bytes())).0;
    assert_eq!(lines[1], format!("the copies on {replica} differed in slots {slot}: filled again from this node"));
    assert_eq!([figure(&cluster, primary, "copies_different"), figure(&cluster, primary, "copies_repaired")], [1, 1]);
    assert!(connection.ask_lines("VERIFY")[0].starts_with("OK Verified equal: "));
    assert_eq!(Connection::open(&cluster.coordinator.addr).ask("WAIT_HEALTHY 20s"), "OK");
    assert_eq!(connection.ask(&format!("GET {key}")), "VALUE second");
    let ended = client::command(cluster.coordinator.port, "VERIFY", &[]);
    assert_eq!(ended.code, Some(0), "{}", client::printed(&ended));
}
