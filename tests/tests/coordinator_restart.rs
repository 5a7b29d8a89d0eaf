//! The coordinator stops, and comes back with no memory, while the cluster serves.

use std::time::Duration;

use e2e::cluster::Setup;
use e2e::connection::Connection;
use e2e::load::Load;
use e2e::server;
use e2e::wait::{SOON, ensure, eventually, throughout};

#[test]
fn a_coordinator_killed_and_restarted_under_load_fails_no_request() {
    let mut cluster = Setup::default().start();
    cluster.store(0, "restart", 500, "");
    let before = cluster.map();
    let reads = [0, 1, 2].map(|index| Load::of_reads(&cluster.node(index).addr, "restart", 500, ""));
    let writes = Load::of_writes(&cluster.node(1).addr, "restart-new");
    writes.goes_on_for(50);

    cluster.coordinator.process.kill();
    writes.goes_on_for(200);
    for load in &reads {
        load.goes_on_for(200);
    }
    cluster.start_coordinator_again();
    cluster.wait_until_runners_listed();
    cluster.wait_until_settled();
    writes.goes_on_for(100);

    for load in reads {
        load.finish_without_failure();
    }
    let written = usize::try_from(writes.finish_without_failure()).unwrap();
    let after = cluster.map();
    assert_eq!(after.cluster, before.cluster, "it is the same cluster");
    assert!(after.version > before.version, "{:?} goes on above {:?}", after.version, before.version);
    for ((slot, old), (_, new)) in before.slots().zip(after.slots()) {
        assert!(new.epoch >= old.epoch, "the epoch of slot {} never goes back", slot.0);
    }
    for index in 0..3 {
        cluster.has(index, "restart", 500, "");
        cluster.has(index, "restart-new", written, "");
    }
}

#[test]
fn a_restarted_coordinator_tells_nothing_else_before_the_nodes_are_back() {
    let mut cluster = Setup::default().start();
    let before = cluster.map();
    cluster.coordinator.process.kill();
    cluster.start_coordinator_again();
    // From its first moment on, its map is either empty or goes on from what the nodes hold.
    throughout("no map that forgets a holder", Duration::from_millis(1500), || {
        let map = cluster.map();
        let forgets = map.version.0 > 0 && map.slots().any(|(_, config)| config.primary.is_none());
        ensure(!forgets, || format!("version {}", map.version.0))
    });
    cluster.wait_until_settled();
    assert_eq!(cluster.map().cluster, before.cluster);
}

#[test]
fn a_coordinator_without_its_state_promotes_nobody_until_every_node_is_back_with_its_data_or_is_to_be_forgotten() {
    let mut cluster =
        Setup { heartbeat_timeout: "1s", node_args: &["--request-timeout", "2s"], ..Setup::default() }.start();
    cluster.store(0, "forget", 300, "");
    let (key, dead) = (cluster.key_led_by(0, "forget"), cluster.node(0).addr.clone());
    cluster.coordinator.process.kill();
    cluster.kill(0);
    cluster.start_coordinator_again();
    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    let waits_for = |coordinator: &mut Connection, who: &str| {
        let info = coordinator.ask("INFO");
        ensure(info.ends_with(&format!(" waiting_for={who}")), || info.clone())
    };
    eventually("it says for whom it waits", SOON, || waits_for(&mut coordinator, &dead));
    cluster.coordinator.process.says_on_stderr(&format!("until {dead} have reported; start them, or FORGET"));
    // The node that comes back has none of the data that the coordinator is waiting for.
    cluster.start_node_again(0);
    throughout("it waits longer than any timeout", Duration::from_millis(1500), || waits_for(&mut coordinator, &dead));
    for index in [1, 2] {
        let stderr = cluster.node(index).process.stderr();
        let told = stderr.matches(&format!("replica {dead} does not respond")).count();
        assert!((1..=2).contains(&told), "told once for each map, however often it is proposed: {stderr}");
        let mut node = cluster.connect(index);
        let answer = node.ask(&format!("PUT {key} v"));
        assert!(answer.starts_with("ERROR UNAVAILABLE "), "{answer}");
        assert_eq!(node.ask(&format!("GET {key}")), format!("VALUE {key}"), "local reads go on");
    }
    assert_eq!(coordinator.ask("FORGET 127.0.0.1:1"), "ERROR Node 127.0.0.1:1 not found");
    for request in ["FORGET", "FORGET 127.0.0.1", "FORGET 127.0.0.1 1"] {
        assert_eq!(coordinator.ask(request), "ERROR Invalid FORGET format", "{request}");
    }
    // Nothing else ends the wait, and what does is said.
    for request in [format!("UNREGISTER_NODE {}", dead.replace(':', " ")), "ACCEPT_LOSS all".to_owned()] {
        let answer = coordinator.ask(&request);
        assert!(answer.starts_with("ERROR UNAVAILABLE ") && answer.contains("FORGET"), "{request}: {answer}");
        assert!(answer.contains(&dead), "{request}: {answer}");
    }
    assert_eq!(coordinator.ask(&format!("FORGET {dead}")), format!("OK Node {dead} is not waited for"));
    eventually("it waits for nobody", SOON, || waits_for(&mut coordinator, "-"));
    cluster.wait_until_settled();
    cluster.store(1, "forget", 300, " again");
    for index in 0..3 {
        cluster.has(index, "forget", 300, " again");
    }
}

#[test]
fn a_node_started_before_its_coordinator_waits_for_it() {
    let mut coordinator = server::coordinator(&[]);
    coordinator.process.kill();
    let mut node = server::start_node(coordinator.port, 0, &[]);
    eventually("the node says that it cannot reach the coordinator", SOON, || {
        let stderr = node.0.stderr();
        ensure(stderr.contains(&format!("127.0.0.1:{}", coordinator.port)), || stderr.clone())
    });
    assert!(node.0.is_running());
    let where_the_data_is = node.0.stdout();
    assert!(where_the_data_is.ends_with(&format!("{}\n", server::MEMORY_ONLY)), "{where_the_data_is}");
    assert_eq!(where_the_data_is.lines().count(), 1, "it has not started yet: {where_the_data_is}");
    let _coordinator = server::start_again(|| server::start_coordinator(coordinator.port, &[]));
    let node = node.ready();
    let registered = format!("[{}] Coordinator response: OK Node {} registered\n", node.process.name(), node.addr);
    let started = format!("[{}] Started on {}\n", node.process.name(), node.addr);
    assert_eq!(node.process.stdout(), format!("{where_the_data_is}{registered}{started}"));
}
