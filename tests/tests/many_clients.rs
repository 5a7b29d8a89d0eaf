//! Many clients at once.

use e2e::cluster;
use e2e::connection::Connection;

#[test]
fn two_hundred_connections_are_served_at_once() {
    let cluster = cluster::shared();
    let mut connections: Vec<_> = (0..200).map(|i| cluster.connect(i % 3)).collect();
    for round in 0..5 {
        // All of them have a request under way before any answer is read.
        for (i, connection) in connections.iter_mut().enumerate() {
            connection.send(format!("PUT crowd:{i} {round}\nGET crowd:{i}\n"));
        }
        for (i, connection) in connections.iter_mut().enumerate() {
            assert_eq!(connection.line(), "OK", "connection {i}");
            assert_eq!(connection.line(), format!("VALUE {round}"), "connection {i}");
        }
    }
    let mut coordinator: Vec<_> = (0..200).map(|_| Connection::open(&cluster.coordinator.addr)).collect();
    for connection in &mut coordinator {
        connection.send("LIST_NODES\n");
    }
    for connection in &mut coordinator {
        assert_eq!(connection.lines().len(), 4);
    }
}

#[test]
fn clients_that_write_the_same_key_at_once_leave_one_value_everywhere() {
    let cluster = cluster::shared();
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let mut node = cluster.connect(writer % 3);
            scope.spawn(move || {
                for i in 0..200 {
                    assert_eq!(node.ask(&format!("PUT contended {writer}:{i}")), "OK");
                }
            });
        }
    });
    cluster.is_level();
    let [a, b, c] = [0, 1, 2].map(|index| cluster.connect(index).ask("GET contended"));
    assert!(a == b && b == c, "{a}, {b}, {c}");
    assert!(a.ends_with(":199"), "the last of somebody's writes: {a}");
}
