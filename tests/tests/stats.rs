//! Statistics of nodes and of the coordinator.

use std::collections::BTreeMap;

use e2e::client;
use e2e::cluster::{Cluster, Setup};
use e2e::connection::{Connection, exchange};

fn stats(connection: &mut Connection) -> BTreeMap<String, u64> {
    let lines = connection.ask_lines("STATS");
    let (head, figures) = lines.split_first().expect("an answer has a line");
    assert_eq!(*head, format!("OK {} stats:", figures.len()));
    let figure = |line: &String| {
        let (name, figure) = line.split_once(' ').expect("a name and a figure");
        (name.to_owned(), figure.parse().expect("a number"))
    };
    figures.iter().map(figure).collect()
}

fn lone_node(replicas: usize) -> Cluster {
    Setup { nodes: 1, replicas, ..Setup::default() }.start()
}

#[test]
fn a_node_counts_what_its_clients_have_asked_and_how_long_it_took() {
    let cluster = lone_node(0);
    let mut node = cluster.connect(0);
    for request in ["PUT a 1", "PUT b 2", "GET a", "GET absent", "GETV b", "PUTNX c 3", "CAS c 0 4", "DELETE a"] {
        node.ask(request);
    }
    for request in ["PUTEX e 100 5", "TTL e", "EXPIRE e 50", "PERSIST e", "DELETE e"] {
        node.ask(request);
    }
    assert_eq!(node.ask("COUNT b"), "OK 1");
    node.ask("FOO");
    let stats = stats(&mut node);
    let figure = |name: &str| *stats.get(name).unwrap();
    assert_eq!(
        ["get_count", "put_count", "delete_count", "conditional_count", "walk_count"].map(figure),
        [4, 3, 2, 4, 1]
    );
    assert_eq!((figure("keys"), figure("slots_led"), figure("lag_messages")), (2, 16_384, 0));
    for kind in ["get", "put", "delete", "conditional", "walk"] {
        let [p50, p99, p999] = ["p50", "p99", "p999"].map(|part| figure(&format!("{kind}_{part}_us")));
        assert!(p50 <= p99 && p99 <= p999 && p999 < 60_000_000, "{kind}: {p50} {p99} {p999}");
    }
}

#[test]
fn the_coordinator_counts_slots_that_lack_a_copy() {
    let cluster = lone_node(1);
    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    let figures = stats(&mut coordinator);
    let figure = |name: &str| *figures.get(name).unwrap();
    assert_eq!(["nodes", "slots", "slots_led", "slots_fully_replicated"].map(figure), [1, 16_384, 16_384, 0]);
    assert_eq!(coordinator.ask("HEARTBEAT 127.0.0.1 1"), "ERROR Node 127.0.0.1:1 not found");
    let figures = stats(&mut coordinator);
    assert!(figures["change_count"] == 1 && figures["lookup_count"] > 0, "{figures:?}");
}

#[test]
fn the_client_shows_figures_as_a_table() {
    let cluster = lone_node(0);
    assert_eq!(exchange(&cluster.node(0).addr, "PUT a 1\nQUIT\n"), "OK\nOK\n");
    let table =
        client::printed(&client::command(cluster.coordinator.port, &format!("STATS {}", cluster.node(0).addr), &[]));
    let row = |name: &str| table.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
    assert_eq!(row("keys").split_whitespace().collect::<Vec<_>>(), ["keys", "1"]);
    assert_eq!(row("put").split_whitespace().nth(1), Some("1"), "{table}");
    assert_eq!(row("count").split_whitespace().collect::<Vec<_>>(), ["count", "p50", "us", "p99", "us", "p99.9", "us"]);
}
