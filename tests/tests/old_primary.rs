//! A primary that slept through its replacement: it serves nothing from its old term, and reports the writes that it
//! alone had taken.
#![cfg(unix)]

use e2e::cluster::{Cluster, Setup};
use e2e::connection::{Connection, array};
use e2e::wait::{SOON, ensure, eventually};

/// Whether a request sent to a paused primary may get this answer, besides those of the new primary.
fn is_no_promise(answer: &str) -> bool {
    answer.starts_with("ERROR UNAVAILABLE ") || answer.starts_with("ERROR UNKNOWN ")
}

fn lines(keys: &[String], request: impl Fn(&String) -> String) -> String {
    keys.iter().map(|key| request(key) + "\n").collect()
}

/// Stores a value under each of these keys, at the level of the connection.
fn store(node: &mut Connection, keys: &[String], value: &str) {
    for key in keys {
        assert_eq!(node.insist(&format!("PUT {key} {value}")), "OK", "{key}");
    }
}

#[test]
fn a_primary_that_slept_through_its_replacement_answers_no_write_and_no_linear_read_from_its_old_term() {
    let cluster = Setup::default().start();
    let keys = cluster.keys_led_by(0, "slept", 150);
    let [read, written_async, written_quorum] = [0, 1, 2].map(|part| keys[part * 50..(part + 1) * 50].to_vec());
    let mut other = cluster.connect_at(1, "quorum", "linear");
    store(&mut other, &keys, "old");

    let mut reader = cluster.connect_at(0, "quorum", "linear");
    let mut hasty = cluster.connect_at(0, "async", "local");
    let mut careful = cluster.connect_at(0, "quorum", "local");
    cluster.node(0).process.pause();
    // The kernel accepts them. The node finds them when it wakes, with a clock that shows its lease expired long ago.
    reader.send(lines(&read, |key| format!("GET {key}")));
    hasty.send(lines(&written_async, |key| format!("PUT {key} async")));
    careful.send(lines(&written_quorum, |key| format!("PUT {key} quorum")));
    cluster.wait_until_leads_nothing(0);
    store(&mut other, &keys, "new");
    cluster.node(0).process.resume();

    for key in &read {
        let answer = reader.line();
        assert!(answer == "VALUE new" || is_no_promise(&answer), "{key}: {answer}");
    }
    for (node, keys, value) in [(&mut hasty, &written_async, "async"), (&mut careful, &written_quorum, "quorum")] {
        for key in keys {
            let answer = node.line();
            let now = other.insist(&format!("GET {key}"));
            match answer.as_str() {
                // Forwarded: the new primary has taken it.
                "OK" => assert_eq!(now, format!("VALUE {value}"), "{key}"),
                _ => assert!(is_no_promise(&answer) && now != "VALUE old", "{key}: {answer}, {now}"),
            }
        }
    }
    // The same for everything it is asked from now on.
    for key in &read {
        assert_eq!(reader.insist(&format!("GET {key}")), "VALUE new", "{key}");
    }
    assert_eq!(cluster.info(0)["losses"], "0", "it has taken nothing of which nobody else knows");
}

/// More than the kernel buffers for a process that reads nothing.
const CLOG: usize = 12_000_000;

/// Has node 0 take writes at level async that no replica gets, and lets the replicas go on without it. The keys are not
/// in the slot of the first one.
fn lose_at_node_0(cluster: &Cluster, clog: &str, keys: &[String]) {
    let mut node = cluster.connect_at(0, "async", "local");
    // A large write clogs the path to the replicas. It is sent except for its last bytes: what follows must fit into
    // the remaining time of the last leases.
    let large = array(&["PUT", clog, &"x".repeat(CLOG)]);
    let (most, rest) = large.split_at(large.len() - 10);
    node.send(most);
    cluster.node(1).process.pause();
    cluster.node(2).process.pause();
    node.send([rest, lines(keys, |key| format!("PUT {key} lost")).as_bytes()].concat());
    assert_eq!(node.line(), "+OK\r");
    for key in keys {
        assert_eq!(node.line(), "OK", "{key}");
    }
    cluster.node(0).process.pause();
    cluster.node(1).process.resume();
    cluster.node(2).process.resume();
    cluster.wait_until_leads_nothing(0);
}

#[test]
fn writes_that_a_replaced_primary_had_taken_alone_are_listed_counted_and_logged() {
    let cluster = Setup::default().start();
    let keys = cluster.keys_led_by(0, "alone", 21);
    let (clog, keys) = keys.split_first().unwrap();
    let mut other = cluster.connect_at(1, "quorum", "linear");
    store(&mut other, keys, "kept");
    assert_eq!(cluster.connect(0).ask("LOSSES"), "OK No losses");
    lose_at_node_0(&cluster, clog, keys);
    for key in keys {
        assert_eq!(other.insist(&format!("GET {key}")), "VALUE kept", "{key}: the new primary never had the other");
    }
    cluster.node(0).process.resume();

    let lost = keys.len() + 1;
    eventually("the losses are counted", SOON, || {
        let info = cluster.info(0);
        ensure(info["losses"] == lost.to_string(), || format!("{info:?}"))
    });
    let listed = cluster.connect(0).ask_lines("LOSSES");
    assert_eq!(listed[0], format!("OK {lost} losses:"));
    let bits = cluster.map().bits();
    for key in keys {
        let slot = bits.slot(&proto::slot::Position::of(key.as_bytes())).0;
        let line = listed.iter().find(|line| line.ends_with(&format!(" PUT {key} lost")));
        let line = line.unwrap_or_else(|| panic!("{key} is not listed"));
        assert!(line.starts_with(&format!("slot={slot} version=")), "{line}");
        assert!(line.contains(" common=") && line.contains(" epoch="), "{line}");
    }
    cluster.node(0).process.says_on_stderr("writes in");
    let stderr = cluster.node(0).process.stderr();
    let told = stderr.lines().filter(|line| line.contains("were dropped") && line.contains("LOSSES lists them"));
    let told: usize =
        told.filter_map(|line| line.split(" writes in").next()?.rsplit(' ').next()?.parse::<usize>().ok()).sum();
    assert_eq!(told, lost, "{stderr}");
    cluster.wait_until_settled();
    for key in keys {
        assert_eq!(
            other.insist(&format!("GET {key}")),
            "VALUE kept",
            "{key}: what is lost does not come back by itself"
        );
    }
}
