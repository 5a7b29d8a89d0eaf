//! Nodes that leave for good, are replaced, or come back before they are replaced; and changes of a cluster's settings.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, Setup};
use e2e::connection::Connection;
use e2e::load::Load;
use e2e::wait::{SOON, ensure, eventually, throughout};

const KEYS: usize = 2_000;

/// A cluster whose nodes and coordinator have data directories.
fn durable(directory: &Path, setup: Setup) -> Cluster {
    let data_dir = Some(directory.join("coordinator"));
    Setup { data_dir, node_data: Some(directory.to_owned()), ..setup }.start()
}

fn tell(cluster: &Cluster, request: &str) -> String {
    Connection::open(&cluster.coordinator.addr).ask(request)
}

/// The content of a node's data directory.
fn left_in(directory: &Path, index: usize) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join(format!("node-{index}"))).expect("the directory is there");
    entries.map(|entry| entry.expect("it is readable").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn a_decommissioned_node_hands_over_deletes_its_data_and_ends_with_0_and_no_request_fails() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { nodes: 4, ..Setup::default() });
    cluster.store(0, "leaves", KEYS, "");
    let reads = [0, 2].map(|index| Load::of_reads(&cluster.node(index).addr, "leaves", KEYS as u64, ""));
    let writes = Load::of_writes(&cluster.node(0).addr, "leaves-new");
    writes.goes_on_for(50);

    let leaver = cluster.node(1).addr.clone();
    let answer = tell(&cluster, &format!("DECOMMISSION {leaver}"));
    assert!(answer.starts_with(&format!("OK Node {leaver} leaves: it holds copies of ")), "{answer}");
    let ended = cluster.node_mut(1).process.wait_for_end(3 * SOON);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(left_in(directory.path(), 1), ["lock"], "all that it held is deleted");
    cluster.wait_until_settled();
    assert!(!cluster.listed().contains(&leaver));
    writes.goes_on_for(50);
    for load in reads {
        load.finish_without_failure();
    }
    let written = usize::try_from(writes.finish_without_failure()).unwrap();
    assert_eq!(tell(&cluster, &format!("DECOMMISSION {leaver}")), format!("ERROR Node {leaver} not found"));
    for index in [0, 2, 3] {
        cluster.has(index, "leaves", KEYS, "");
        cluster.has(index, "leaves-new", written, "");
    }

    // A later start is a new node.
    cluster.start_node_again(1);
    cluster.wait_until_settled();
    cluster.has(1, "leaves", KEYS, "");
}

#[test]
fn a_decommission_goes_on_after_the_coordinator_and_the_node_were_killed() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = durable(directory.path(), Setup { heartbeat_timeout: "1s", ..Setup::default() });
    decommission_and_kill(directory.path(), cluster);
}

#[test]
fn a_decommission_goes_on_after_the_coordinator_has_lost_its_state() {
    let directory = tempfile::tempdir().unwrap();
    let node_data = Some(directory.path().to_owned());
    let cluster = Setup { node_data, heartbeat_timeout: "1s", ..Setup::default() }.start();
    decommission_and_kill(directory.path(), cluster);
}

/// Has a node leave, and kills it and the coordinator before it has left.
fn decommission_and_kill(directory: &Path, mut cluster: Cluster) {
    cluster.store(0, "killed", KEYS, "");
    let leaver = cluster.node(2).addr.clone();
    cluster.kill(1);
    cluster.wait_until_leads_nothing(1);
    // With three copies and two nodes that stay, this node waits for the one that is away.
    let held = tell(&cluster, &format!("DECOMMISSION {leaver}"));
    assert!(held.starts_with("OK "), "{held}");
    cluster.wait_until_map_everywhere();
    cluster.coordinator.process.kill();
    cluster.kill(2);
    cluster.start_coordinator_again();
    cluster.start_node_again(1);
    cluster.start_node_again(2);
    let ended = cluster.node_mut(2).process.wait_for_end(3 * SOON);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(left_in(directory, 2), ["lock"]);
    cluster.wait_until_settled();
    for index in [0, 1] {
        cluster.has(index, "killed", KEYS, "");
    }
    let info = tell(&cluster, "INFO");
    assert!(info.contains(" leaving=- "), "{info}");
}

#[test]
fn the_last_node_stays_and_one_that_leaves_can_be_taken_back_until_it_has_handed_everything_over() {
    let mut cluster = Setup { nodes: 2, heartbeat_timeout: "1s", replace_after: "1h", ..Setup::default() }.start();
    let [stays, leaves] = [0, 1].map(|index| cluster.node(index).addr.clone());
    assert_eq!(tell(&cluster, "DECOMMISSION 127.0.0.1:1"), "ERROR Node 127.0.0.1:1 not found");
    assert_eq!(tell(&cluster, "RECOMMISSION 127.0.0.1:1"), "ERROR Node 127.0.0.1:1 not found");
    assert_eq!(tell(&cluster, &format!("RECOMMISSION {leaves}")), format!("OK Node {leaves} stays"));
    for request in ["DECOMMISSION", "RECOMMISSION h", "REPLACE h:1"] {
        let verb = request.split(' ').next().unwrap();
        assert_eq!(tell(&cluster, request), format!("ERROR Invalid {verb} format"));
    }
    // While the node that stays is paused, nothing can be handed over to it.
    cluster.node(0).process.pause();
    eventually("the one that stays is away", SOON, || {
        let info = tell(&cluster, "INFO");
        ensure(info.contains(&format!(" away={stays} ")), || info.clone())
    });
    let refused = tell(&cluster, &format!("DECOMMISSION {leaves}"));
    assert!(refused.starts_with("ERROR UNAVAILABLE no node would be left without"), "{refused}");
    cluster.node(0).process.resume();
    cluster.wait_until_settled();
    let answer = tell(&cluster, &format!("DECOMMISSION {leaves}"));
    assert!(answer.starts_with("OK "), "{answer}");
    let last = tell(&cluster, &format!("DECOMMISSION {stays}"));
    assert!(last.starts_with("ERROR UNAVAILABLE no node would be left without"), "{last}");
    let ended = cluster.node_mut(1).process.wait_for_end(3 * SOON);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let mut node = cluster.connect(0);
    assert_eq!(node.ask("PUT alone v"), "OK");
    assert_eq!(node.ask("GET alone"), "VALUE v");
}

#[test]
fn one_command_replaces_a_node_by_one_that_joins() {
    let mut cluster = Setup::default().start();
    cluster.store(0, "replaced", KEYS, "");
    let reads = Load::of_reads(&cluster.node(0).addr, "replaced", KEYS as u64, "");
    let old = cluster.node(1).addr.clone();
    let new = cluster.add_node();
    let new_addr = cluster.node(new).addr.clone();
    let answer = tell(&cluster, &format!("REPLACE {old} {new_addr}"));
    // The coordinator may not have heard yet that the new node has joined.
    assert!(answer.starts_with(&format!("OK Node {old} leaves")), "{answer}");
    let ended = cluster.node_mut(1).process.wait_for_end(3 * SOON);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    cluster.wait_until_settled();
    reads.finish_without_failure();
    for index in [0, 2, new] {
        cluster.has(index, "replaced", KEYS, "");
    }
    let waits = tell(&cluster, &format!("REPLACE {new_addr} 127.0.0.1:1"));
    assert_eq!(waits, format!("OK Node {new_addr} leaves once 127.0.0.1:1 has joined: start it"));
    let first = cluster.node(0).addr.clone();
    let taken = tell(&cluster, &format!("REPLACE {first} 127.0.0.1:1"));
    let why = format!("the new node is to take the place of {new_addr} once it has joined; nothing was changed");
    assert!(taken.starts_with(&format!("ERROR UNAVAILABLE {why}")), "{taken}");
    assert_eq!(tell(&cluster, &format!("RECOMMISSION {new_addr}")), format!("OK Node {new_addr} stays"));
}

#[test]
fn a_node_that_is_back_before_it_is_replaced_is_sent_what_it_lacks_and_nothing_else_moves() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { nodes: 4, heartbeat_timeout: "1s", replace_after: "1h", ..Setup::default() };
    let mut cluster = durable(directory.path(), setup);
    cluster.store(0, "away", KEYS, "");
    cluster.wait_until_settled();
    let holders = |cluster: &Cluster| -> Vec<_> {
        cluster.map().slots().map(|(_, config)| config.copies().collect::<std::collections::BTreeSet<_>>()).collect()
    };
    let before = holders(&cluster);
    let away = cluster.node(3).addr.clone();
    cluster.kill(3);
    cluster.wait_until_leads_nothing(3);
    eventually("it is known to be away", SOON, || {
        let info = tell(&cluster, "INFO");
        ensure(info.contains(&format!(" away={away} ")), || info.clone())
    });
    cluster.store(0, "away", KEYS, " again");
    throughout("nobody is filled in its place", Duration::from_secs(1), || {
        let moved = holders(&cluster).into_iter().zip(&before).find(|(now, then)| !now.is_subset(then));
        ensure(moved.is_none(), || format!("{moved:?}"))
    });
    cluster.start_node_again(3);
    cluster.wait_until_settled();
    for index in 0..4 {
        cluster.has(index, "away", KEYS, " again");
    }
}

#[test]
fn other_numbers_of_replicas_and_virtual_nodes_are_moves_like_any_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { replicas: 1, ..Setup::default() });
    cluster.store(0, "changed", KEYS, "");
    let reads = Load::of_reads(&cluster.node(0).addr, "changed", KEYS as u64, "");
    let writes = Load::of_writes(&cluster.node(1).addr, "changed-new");
    for (replicas, virtual_nodes, told) in [
        (2, 16, "the cluster now keeps 3 copies of each key (before: 2). Slots move to where they now belong\n"),
        (2, 40, "settings: a node now has 40 positions on the ring (before: 16). Slots move"),
        (0, 8, "1 copies of each key (before: 3), and a node now has 8 positions on the ring (before: 40). Slots move"),
        (1, 16, "belong; until 2 copies of a slot are in sync, its writes at quorum are refused\n"),
    ] {
        cluster.coordinator.process.kill();
        cluster.change(replicas, virtual_nodes);
        cluster.start_coordinator_again();
        cluster.wait_until_settled();
        writes.goes_on_for(20);
        reads.goes_on_for(KEYS as u64 / 4);
        let stderr = cluster.coordinator.process.stderr();
        assert!(stderr.contains(told), "{told}: {stderr}");
    }
    reads.finish_without_failure();
    let written = usize::try_from(writes.finish_without_failure()).unwrap();
    for index in 0..3 {
        cluster.has(index, "changed", KEYS, "");
        cluster.has(index, "changed-new", written, "");
    }
}

/// What a test and its library clients tell each other.
#[derive(Default)]
struct Clients {
    stop: AtomicBool,
    written: AtomicU64,
}

/// Library clients that write at `quorum` and read at `linear` until told to stop. Each returns its failures and the
/// time each write took.
async fn work(client: client::Client, task: usize, clients: Arc<Clients>) -> (Vec<String>, Vec<Duration>) {
    let (mut failures, mut times) = (Vec::new(), Vec::new());
    for round in 0.. {
        if clients.stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("rolling:{task}:{}", round % 50), format!("{round}"));
        let start = Instant::now();
        match client.put(&key, &value).await {
            Ok(_) => {
                times.push(start.elapsed());
                clients.written.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => failures.push(format!("PUT {key}: {error}")),
        }
        match client.get(&key).await {
            Ok(Some(read)) if read == value.as_bytes() => {}
            other => failures.push(format!("GET {key}, which is {value}: {other:?}")),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (failures, times)
}

#[cfg(unix)]
#[test]
fn a_rolling_restart_of_every_process_fails_no_request_of_the_library_at_quorum() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = durable(directory.path(), Setup { replace_after: "30s", ..Setup::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let builder = || client::Client::builder().ack(client::AckLevel::Quorum).read(client::ReadLevel::Linear);
    let library = runtime.block_on(builder().connect(&cluster.coordinator.addr)).unwrap();
    let clients = Arc::new(Clients::default());
    let tasks: Vec<_> = (0..4).map(|task| runtime.spawn(work(library.clone(), task, Arc::clone(&clients)))).collect();
    for index in 0..3 {
        let ended = cluster.node_mut(index).stop();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        cluster.start_node_again(index);
        cluster.wait_until_settled();
    }
    assert_eq!(cluster.coordinator.stop().code, Some(0));
    cluster.start_coordinator_again();
    cluster.wait_until_runners_listed();
    let written = || clients.written.load(Ordering::Relaxed);
    let before = written();
    eventually("writes go on with the new coordinator", SOON, || {
        ensure(written() >= before + 100, || format!("{} since it runs", written() - before))
    });
    clients.stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for task in tasks {
        let (failures, took) = runtime.block_on(task).unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        times.extend(took);
    }
    let longest = times.iter().max().copied().unwrap_or_default();
    assert!(longest < Duration::from_secs(5), "a write took {longest:?}");
}
