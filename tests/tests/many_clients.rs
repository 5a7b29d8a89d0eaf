//! Many clients at once.

use e2e::cluster;
use e2e::connection::Connection;
#[cfg(target_os = "linux")]
use e2e::{cluster::Setup, connection::array};

#[test]
fn two_hundred_connections_are_served_at_once() {
    let cluster = cluster::shared();
    let mut connections: Vec<_> = (0..200).map(|i| cluster.connect(i % 3)).collect();
    for round in 0..5 {
        // All connections have a request in flight before any answer is read.
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
    cluster.wait_until_level();
    let [a, b, c] = [0, 1, 2].map(|index| cluster.connect(index).ask("GET contended"));
    assert!(a == b && b == c, "{a}, {b}, {c}");
    assert!(a.ends_with(":199"), "the last of somebody's writes: {a}");
}

/// With a single processor, everything that has arrived on all connections is read before the first request is carried
/// out.
#[cfg(target_os = "linux")]
#[test]
fn a_cluster_on_one_processor_answers_each_client_in_its_order() {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    // What a thread starts inherits the thread's processors.
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("the processors of this thread");
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu) == Ok(true)).expect("it runs on one");
    let mut one = CpuSet::new();
    one.set(first).expect("it is one of the set");
    sched_setaffinity(this, &one).expect("a thread may be kept to one of its processors");
    let cluster = Setup { coordinator_args: &["--ack", "quorum", "--read", "linear"], ..Setup::default() }.start();
    for node in cluster.nodes() {
        let node = Pid::from_raw(node.process.id().cast_signed());
        assert_eq!(sched_getaffinity(node), Ok(one), "the node runs on one processor");
    }

    let mut connections: Vec<_> = (0..60).map(|at| cluster.connect(at % 3)).collect();
    for round in 0..20 {
        for (at, connection) in connections.iter_mut().enumerate() {
            let (key, value) = (format!("one:{at}"), format!("{round}"));
            match at % 6 {
                0 => connection.send(format!("PUT {key} {value}\n")),
                1 => connection.send(array(&["SET", &key, &value])),
                2 => connection.send(format!("PUT {key} {value}\nGET {key}\nNO SUCH\nGET {key}\n")),
                // The first part of a frame, and then the rest together with another one.
                3 => connection.send(format!("PUT {key} ")),
                4 => connection.send(format!("GET one:absent\nPUT {key} {value}\nGET ")),
                _ => connection.send(array(&["SET", &key, &value]).split_at(9).0),
            }
        }
        for (at, connection) in connections.iter_mut().enumerate() {
            let (key, value) = (format!("one:{at}"), format!("{round}"));
            match at % 6 {
                3 => connection.send(format!("{value}\nGET {key}\n")),
                4 => connection.send(format!("{key}\n")),
                5 => connection.send(array(&["SET", &key, &value]).split_at(9).1),
                _ => {}
            }
        }
        for (at, connection) in connections.iter_mut().enumerate() {
            let value = format!("VALUE {round}");
            let answers = match at % 6 {
                0 => vec!["OK"],
                1 | 5 => vec!["+OK\r"],
                2 => vec!["OK", &value, "ERROR Unknown command", &value],
                3 => vec!["OK", &value],
                _ => vec!["NOT_FOUND", "OK", &value],
            };
            for answer in answers {
                assert_eq!(connection.line(), answer, "connection {at}, round {round}");
            }
        }
    }
}
