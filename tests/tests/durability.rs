//! Nodes that keep their data: what survives which kind of stop, and which directories are refused.

use std::path::Path;

use e2e::cluster::{Cluster, Setup};
use e2e::connection::Connection;
use e2e::process::Process;
use e2e::wait::{SOON, ensure, eventually};

/// A cluster that keeps everything below one directory.
fn durable(directory: &Path, setup: Setup) -> Cluster {
    let (data_dir, node_data) = (Some(directory.join("coordinator")), Some(directory.to_owned()));
    Setup { data_dir, node_data, ..setup }.start()
}

/// Kills every process. The coordinator is the first, so that it remembers nobody as out of sync who died before others.
fn kill_all(cluster: &mut Cluster) {
    cluster.coordinator.process.kill();
    (0..cluster.nodes().len()).for_each(|index| cluster.kill(index));
}

/// Runs `node` with these arguments to its end.
fn node(words: &[&str]) -> e2e::process::Ended {
    Process::start("node", words).wait_for_end(SOON)
}

fn path(directory: &Path) -> &str {
    directory.to_str().expect("a temporary directory has a plain name")
}

#[test]
fn what_was_answered_at_any_level_survives_kill_9_of_every_process_whenever_the_disk_is_synced() {
    let args: [&[&str]; 3] = [&["--fsync", "always"], &["--fsync", "interval"], &["--fsync", "never"]];
    for (node_args, level) in args.into_iter().zip(["quorum", "async", "async"]) {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = durable(directory.path(), Setup { node_args, ..Setup::default() });
        let mut connection = cluster.connect_at(0, level, "linear");
        for round in 0..3 {
            for key in 0..50 {
                assert_eq!(connection.insist(&format!("PUT kill:{key} {round}:{key}")), "OK");
                assert_eq!(connection.insist(&format!("PUT gone:{key} {round}")), "OK");
                assert_eq!(connection.insist(&format!("DELETE gone:{key}")), "OK");
            }
            kill_all(&mut cluster);
            cluster.start_all_again();
            connection = cluster.connect_at(round % 3, level, "linear");
            for key in 0..50 {
                let value = connection.insist(&format!("GET kill:{key}"));
                assert_eq!(value, format!("VALUE {round}:{key}"), "{node_args:?} {level}");
                assert_eq!(connection.insist(&format!("GET gone:{key}")), "NOT_FOUND", "{node_args:?} {level}");
            }
        }
    }
}

#[test]
fn a_node_without_replicas_has_its_keys_after_every_kind_of_stop() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { nodes: 1, replicas: 0, ..Setup::default() });
    for round in 0..3 {
        cluster.store(0, "alone", 200, &format!(":{round}"));
        if round == 1 {
            let ended = cluster.node_mut(0).stop();
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        } else {
            cluster.kill(0);
        }
        cluster.start_node_again(0);
        cluster.wait_until_settled();
        cluster.has(0, "alone", 200, &format!(":{round}"));
        assert_eq!(cluster.keys_on(0), 200);
    }
}

#[test]
fn a_write_with_an_identity_is_known_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { nodes: 1, replicas: 0, ..Setup::default() });
    let once = "ONCE me 1 PUTNX once first";
    let first = cluster.connect(0).ask(once);
    assert!(first.starts_with("OK"), "{first}");
    cluster.kill(0);
    cluster.start_node_again(0);
    cluster.wait_until_settled();
    let mut connection = cluster.connect(0);
    assert_eq!(connection.insist(once), first, "it has taken effect once");
    assert_eq!(connection.ask("PUTNX once second"), connection.ask("PUTNX once third"), "and the key is there");
}

#[test]
fn a_node_says_where_its_data_is_and_a_directory_is_used_by_one_node_only() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = durable(directory.path(), Setup { nodes: 1, replicas: 0, ..Setup::default() });
    let data = directory.path().join("node-0");
    let says = format!("Data in {}, fsync interval: 0 keys", data.display());
    assert!(cluster.node(0).process.stdout().contains(&says), "{}", cluster.node(0).process.stdout());
    let info = cluster.info(0);
    let storage = ["storage", "fsync", "disk"].map(|name| info.get(name).map(String::as_str));
    assert_eq!(storage, [Some("disk"), Some("interval"), Some("good")]);

    let port = cluster.coordinator.port.to_string();
    let ended = node(&["0", "--coordinator-port", &port, "--data-dir", path(&data)]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let says = "another process uses the data directory";
    assert!(ended.stderr.contains(&format!("{says} {}: waiting up to 10s", data.display())), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("{says} {}; each", data.display())), "{}", ended.stderr);

    let memory = e2e::cluster::shared();
    assert!(memory.node(0).process.stdout().contains("Memory only"), "{}", memory.node(0).process.stdout());
    assert_eq!(memory.info(0).get("storage").map(String::as_str), Some("memory"));
}

#[cfg(unix)]
#[test]
fn a_node_that_is_started_while_its_predecessor_stops_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { nodes: 1, replicas: 0, ..Setup::default() });
    cluster.store(0, "waited", 20, "");
    let data = directory.path().join("node-0");
    // On the same port, as a service manager starts it.
    let port = cluster.node(0).port;
    let next = e2e::server::start_node(cluster.coordinator.port, port, &["--data-dir", path(&data)]);
    next.0.says_on_stderr("waiting up to 10s for it to stop");
    assert_eq!(cluster.node_mut(0).stop().code, Some(0));
    let next = next.ready();
    assert!(next.process.stdout().contains("fsync interval: 20 keys"), "{}", next.process.stdout());
}

#[test]
fn a_damaged_log_is_refused_by_name_repaired_on_the_operators_word_and_completed_by_the_replicas() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup::default());
    cluster.store(0, "damage", 300, "");
    let ended = cluster.node_mut(1).stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let data = directory.path().join("node-1");
    let log = data.join("log-00000000000000000000.seg");
    let mut bytes = std::fs::read(&log).unwrap();
    let at = bytes.windows(9).position(|window| window == b"damage:15").expect("the value lies there as it was sent");
    bytes[at] ^= 1;
    std::fs::write(&log, bytes).unwrap();

    let port = cluster.coordinator.port.to_string();
    let own_port = cluster.node(1).port.to_string();
    let refused = node(&[&own_port, "--coordinator-port", &port, "--data-dir", path(&data)]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    for says in [path(&log), "node check", "node repair", "--accept-loss"] {
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    let checked = node(&["check", path(&data)]);
    assert_eq!(checked.code, Some(1), "{}", checked.stderr);
    assert!(checked.stderr.contains(path(&log)), "{}", checked.stderr);
    assert_eq!(node(&["repair", path(&data)]).code, Some(2), "not without the operator's word");
    let repaired = node(&["repair", path(&data), "--accept-loss"]);
    assert_eq!(repaired.code, Some(0), "{}", repaired.stderr);
    assert_eq!(node(&["check", path(&data)]).code, Some(0));

    cluster.start_node_again(1);
    cluster.wait_until_settled();
    cluster.wait_until_level();
    cluster.has(1, "damage", 300, "");
    assert_eq!(cluster.keys_on(1), 300, "its replicas have given back what it had lost");
}

#[test]
fn the_directory_of_another_cluster_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { nodes: 1, replicas: 0, ..Setup::default() });
    cluster.store(0, "whose", 20, "");
    cluster.kill(0);
    let data = directory.path().join("node-0");
    let other = Setup { nodes: 1, replicas: 0, ..Setup::default() }.start();
    let port = other.coordinator.port.to_string();
    let words = ["0", "--coordinator-port", &port, "--data-dir", path(&data)];
    let ended = node(&words);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("the node belongs to cluster"), "{}", ended.stderr);
    other.coordinator.process.says_on_stderr(" is refused: NOTPEER the node belongs to cluster");
    assert!(!ended.text().contains("Started"), "{}", ended.text());
    // Without the map that the directory held, the coordinator cannot tell; the node itself can.
    let map = std::fs::read(data.join("map")).unwrap();
    std::fs::remove_file(data.join("map")).unwrap();
    let ended = node(&words);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for says in [path(&data), "belongs to cluster", "nothing was changed", "--coordinator-port"] {
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
    eventually("the other cluster is as it was", SOON, || {
        let listed = other.listed();
        ensure(listed == [other.node(0).addr.clone()], || listed.join(" "))
    });
    std::fs::write(data.join("map"), map).unwrap();
    cluster.start_node_again(0);
    cluster.wait_until_settled();
    cluster.has(0, "whose", 20, "");
}

#[test]
fn a_log_that_was_cut_short_after_a_kill_is_damage_and_not_taken_for_a_torn_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup::default());
    cluster.store(0, "short", 300, "");
    cluster.kill(1);
    let data = directory.path().join("node-1");
    let log = data.join("log-00000000000000000000.seg");
    std::fs::File::options().write(true).open(&log).unwrap().set_len(9_000).unwrap();

    let (port, own_port) = (cluster.coordinator.port.to_string(), cluster.node(1).port.to_string());
    let refused = node(&[&own_port, "--coordinator-port", &port, "--data-dir", path(&data)]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    for says in [path(&log), "at byte 9000", "the file ends there", "node repair"] {
        assert!(refused.stderr.contains(says), "{says}: {}", refused.stderr);
    }
    let repaired = node(&["repair", path(&data), "--accept-loss"]);
    assert_eq!(repaired.code, Some(0), "{}", repaired.stderr);
    cluster.start_node_again(1);
    cluster.wait_until_settled();
    cluster.wait_until_level();
    cluster.has(1, "short", 300, "");
}

#[test]
fn a_node_that_cannot_prove_its_data_reports_no_losses_of_what_its_replicas_have() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup::default());
    cluster.store(0, "proof", 300, "");
    for index in 0..3 {
        cluster.kill(index);
        // A repair removes the proof, and there is nothing else to repair.
        let data = directory.path().join(format!("node-{index}"));
        let repaired = node(&["repair", path(&data), "--accept-loss"]);
        assert!(repaired.text().contains("nothing to repair"), "{}{}", repaired.text(), repaired.stderr);
        cluster.start_node_again(index);
        cluster.wait_until_settled();
        cluster.store((index + 1) % 3, "proof", 300, &format!(":{index}"));
    }
    for index in 0..3 {
        assert_eq!(cluster.connect(index).ask("LOSSES"), "OK No losses", "node {index}");
        cluster.has(index, "proof", 300, ":2");
    }
}

/// A file size limit simulates a disk that takes no more writes: unlike a lack of space, that does not pass.
#[cfg(unix)]
#[test]
fn a_node_whose_disk_fails_hands_over_and_stops_with_an_error_and_nothing_that_was_acknowledged_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup::default());
    cluster.store(0, "before", 100, "");
    assert_eq!(cluster.node_mut(1).stop().code, Some(0));
    let data = directory.path().join("node-1");
    let (port, own_port) = (cluster.coordinator.port.to_string(), cluster.node(1).port.to_string());
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
    let failing = Process::spawn(
        "the failing node",
        std::process::Command::new("sh")
            .args(["-c", limited])
            .arg(e2e::process::program("node"))
            .args([&own_port, "--coordinator-port", &port, "--data-dir", path(&data)])
            .stdin(std::process::Stdio::null()),
    );
    cluster.node_mut(1).process = failing;
    let started = |line: &str| line.contains("Started on").then_some(());
    cluster.node_mut(1).process.line_of_stdout("that it has started", started);
    cluster.wait_until_settled();

    let mut connection = cluster.connect_at(0, "quorum", "linear");
    let value = "v".repeat(10_000);
    let (mut tried, mut acknowledged) = (0, Vec::new());
    while cluster.node_mut(1).process.is_running() {
        let answer = connection.insist(&format!("PUT fails:{tried} {tried}{value}"));
        match answer.as_str() {
            "OK" => acknowledged.push(tried),
            unknown => assert!(unknown.starts_with("ERROR UNKNOWN "), "{unknown}"),
        }
        tried += 1;
        assert!(tried < 2_000, "{}", cluster.node(1).process.stderr());
    }
    let ended = cluster.node_mut(1).process.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for says in [path(&data), "has failed", ".seg", "the node has stopped so that its replicas take over"] {
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
    assert!(acknowledged.len() > 50, "{acknowledged:?} of {tried}");
    for key in acknowledged {
        assert_eq!(connection.insist(&format!("GET fails:{key}")), format!("VALUE {key}{value}"));
    }
}

/// On Windows, a directory whose files are open cannot be moved.
#[cfg(unix)]
#[test]
fn a_node_whose_directory_is_moved_away_while_it_runs_stops_with_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup::default());
    cluster.store(0, "kept", 100, "");
    let data = directory.path().join("node-2");
    std::fs::rename(&data, directory.path().join("elsewhere")).unwrap();
    let ended = cluster.node_mut(2).process.wait_for_end(SOON);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for says in [path(&data), "has failed", "No such file", "start with an empty directory"] {
        assert!(ended.stderr.contains(says), "{says}: {}", ended.stderr);
    }
    let mut connection = cluster.connect(0);
    assert_eq!(connection.insist("GET kept:7"), "VALUE kept:7");
}

#[test]
fn a_node_of_three_that_lost_its_directory_is_filled_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup::default());
    cluster.store(0, "lost", 200, "");
    cluster.kill(2);
    std::fs::remove_dir_all(directory.path().join("node-2")).unwrap();
    cluster.start_node_again(2);
    cluster.wait_until_settled();
    cluster.wait_until_level();
    eventually("it holds everything", SOON, || {
        let keys = cluster.keys_on(2);
        ensure(keys == 200, || keys.to_string())
    });
    cluster.has(2, "lost", 200, "");
}

#[test]
fn flags_of_the_data_directory_need_one() {
    for words in [["5001", "--fsync", "always"], ["5001", "--fsync-interval", "1s"]] {
        let ended = node(&words);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains("--data-dir"), "{}", ended.stderr);
    }
    let missing = node(&["check", "/nonexistent/kv"]);
    assert_eq!(missing.code, Some(1), "{}", missing.stderr);
}

#[test]
fn a_coordinator_that_is_started_empty_takes_the_cluster_over_from_nodes_that_were_all_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let node_data = Some(directory.path().to_owned());
    let mut cluster = Setup { node_data, ..Setup::default() }.start();
    cluster.store(0, "adopted", 100, "");
    kill_all(&mut cluster);
    cluster.start_all_again();
    cluster.wait_until_settled();
    let mut connection = Connection::open(&cluster.node(0).addr);
    for key in 0..100 {
        assert_eq!(connection.insist(&format!("GET adopted:{key}")), format!("VALUE adopted:{key}"));
    }
}

/// Removes the proof from the directory of a node that is down, as a power cut of its machine does.
fn lose_proof(directory: &Path, index: usize) {
    let ended = node(&["repair", path(&directory.join(format!("node-{index}"))), "--accept-loss"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn where_no_copy_has_proof_all_are_waited_for_and_what_they_have_is_kept_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { heartbeat_timeout: "2s", ..Setup::default() });
    cluster.store(0, "power", 100, "");
    // A copy that was out of sync for a moment, on a busy machine, would not be waited for.
    cluster.wait_until_settled();
    kill_all(&mut cluster);
    (0..3).for_each(|index| lose_proof(directory.path(), index));
    cluster.start_coordinator_again();
    cluster.start_node_again(0);
    cluster.start_node_again(1);
    let missing = cluster.node(2).addr.clone();
    let coordinator = &cluster.coordinator;
    coordinator.process.says_on_stderr(&format!("slots wait for {missing}: the available copies may lack"));
    eventually("only the missing node is waited for", SOON, || {
        let info = Connection::open(&coordinator.addr).ask("INFO");
        assert!(info.contains(" unproven_promotions=0 "), "{info}");
        ensure(info.ends_with(&format!(" waiting_for={missing}")), || info)
    });

    cluster.start_node_again(2);
    cluster.wait_until_settled();
    cluster.has(0, "power", 100, "");
    let coordinator = &cluster.coordinator;
    coordinator
        .process
        .says_on_stderr("slots had no copy left that is known to be complete, and continue with those that have");
    let info = Connection::open(&coordinator.addr).ask("INFO");
    assert!(info.ends_with(" waiting_for=-") && !info.contains(" unproven_promotions=0 "), "{info}");
}

#[test]
fn a_repaired_node_without_replicas_has_what_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { nodes: 1, replicas: 0, ..Setup::default() });
    cluster.store(0, "repaired", 100, "");
    cluster.kill(0);
    lose_proof(directory.path(), 0);
    cluster.start_node_again(0);
    cluster.wait_until_settled();
    cluster.has(0, "repaired", 100, "");
    cluster.coordinator.process.says_on_stderr("slots had no copy left that is known to be complete");
}
