//! Values with a deadline: what is answered, that expired values stay gone, and that their memory is freed.

use std::time::Instant;

use e2e::client;
use e2e::cluster::{Cluster, Setup};
use e2e::connection::{Connection, Reply};
use e2e::wait::{SOON, ensure, eventually};

/// Waits until a key has expired.
fn has_expired(connection: &mut Connection, key: &str) {
    eventually("a deadline passes", SOON, || {
        let answer = connection.insist(&format!("GET {key}"));
        ensure(answer == "NOT_FOUND", || answer)
    });
}

/// How many seconds a key will still have its value.
fn ttl(connection: &mut Connection, key: &str) -> i64 {
    let answer = connection.insist(&format!("TTL {key}"));
    answer.strip_prefix("OK ").and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number: {answer}"))
}

fn keys_everywhere(cluster: &Cluster) -> Vec<usize> {
    cluster.running().map(|(index, _)| cluster.keys_on(index)).collect()
}

/// Whether `left` may be what is left of 100 seconds that were set after this moment.
fn is_left_of_100(left: i64, before: Instant) -> bool {
    (99 - before.elapsed().as_secs() as i64..=100).contains(&left)
}

#[test]
fn deadlines_have_the_numbers_of_redis_in_both_encodings_and_at_every_node() {
    let cluster = e2e::cluster::shared();
    let mut connection = cluster.connect_at(0, "quorum", "linear");
    for index in 0..3 {
        let key = cluster.key_led_by(index, "numbers");
        for (request, answer) in [
            (format!("TTL {key}"), "OK -2"),
            (format!("EXPIRE {key} 100"), "OK 0"),
            (format!("PERSIST {key}"), "OK 0"),
            (format!("PUTEX {key} 100 a value"), "OK"),
            (format!("GET {key}"), "VALUE a value"),
            (format!("PERSIST {key}"), "OK 1"),
            (format!("TTL {key}"), "OK -1"),
            (format!("ONCE numbers-{index} 1 EXPIRE {key} 5000"), "OK 1"),
            (format!("PUT {key} another"), "OK"),
            (format!("TTL {key}"), "OK -1"),
            (format!("ONCE numbers-{index} 1 EXPIRE {key} 5000"), "OK 1"),
            (format!("TTL {key}"), "OK -1"),
            (format!("EXPIRE {key} -1"), "OK 1"),
            (format!("GET {key}"), "NOT_FOUND"),
            (format!("PUTEX {key} 0 v"), "ERROR Invalid PUTEX format"),
            (format!("EXPIRE {key} soon"), "ERROR Invalid EXPIRE format"),
        ] {
            assert_eq!(connection.insist(&request), answer, "{request}");
        }
        let given = Instant::now();
        assert_eq!(connection.call(&["PUTEX", &key, "100", ""]), Reply::ok());
        let left = ttl(&mut connection, &key);
        assert!(is_left_of_100(left, given), "{left}");
        let answer = connection.call(&["TTL", &key]);
        assert!(matches!(answer, Reply::Number(left) if is_left_of_100(left, given)), "{answer:?}");
        assert_eq!(connection.call(&["PERSIST", &key]), Reply::Number(1));
        assert_eq!(connection.call(&["GET", &key]), Reply::bulk(""));
    }
}

#[test]
fn the_client_program_knows_deadlines() {
    let cluster = e2e::cluster::shared();
    let run = |command: &str, more: &[&str]| client::command(cluster.coordinator.port, command, more);
    let given = Instant::now();
    let put = client::printed(&run("PUTEX program:1 100 a value", &[]));
    assert!(put.starts_with("[Client] PUTEX program:1 = a value [primary: "), "{put}");
    let told = client::printed(&run("TTL program:1", &[]));
    let left = told.trim_end().strip_prefix("[Client] TTL program:1: ").and_then(|left| left.parse().ok());
    assert!(left.is_some_and(|left| is_left_of_100(left, given)), "{told}");
    assert_eq!(client::printed(&run("EXPIRE program:1 200", &["--raw"])), "1\n");
    assert_eq!(client::printed(&run("PERSIST program:1", &["--raw"])), "1\n");
    let absent = run("TTL program:2", &["--raw"]);
    assert_eq!((client::printed(&absent), absent.code), ("-2\n".to_owned(), Some(1)));
}

#[test]
fn what_has_expired_stays_gone_when_its_primary_is_killed_and_when_all_are_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let (data_dir, node_data) = (Some(directory.path().join("coordinator")), Some(directory.path().to_owned()));
    let mut cluster = Setup { data_dir, node_data, ..Setup::default() }.start();
    let mut connection = cluster.connect_at(0, "quorum", "linear");
    let keys = cluster.keys_led_by(1, "deadline", 4);
    let [short, long, kept, late] = &keys[..] else { panic!("four keys were asked for") };
    assert_eq!(connection.insist(&format!("PUTEX {short} 1 gone")), "OK");
    assert_eq!(connection.insist(&format!("PUTEX {long} 5000 stays")), "OK");
    assert_eq!(connection.insist(&format!("PUTEX {kept} 1 stays, too")), "OK");
    assert_eq!(connection.insist(&format!("PERSIST {kept}")), "OK 1");
    has_expired(&mut connection, short);

    cluster.kill(1);
    cluster.wait_until_leads_nothing(1);
    assert_eq!(connection.insist(&format!("GET {short}")), "NOT_FOUND");
    assert_eq!(connection.insist(&format!("GET {kept}")), "VALUE stays, too");
    let left = ttl(&mut connection, long);
    assert!((4_000..=5_000).contains(&left), "the next primary knows the deadline: {left}");

    // A key whose deadline passes while no node is running.
    assert_eq!(connection.insist(&format!("PUTEX {late} 1 gone")), "OK");
    cluster.start_node_again(1);
    cluster.wait_until_settled();
    (0..3).for_each(|index| cluster.kill(index));
    cluster.coordinator.process.kill();
    cluster.start_all_again();
    let mut connection = cluster.connect_at(2, "quorum", "linear");
    has_expired(&mut connection, late);
    assert_eq!(connection.insist(&format!("GET {short}")), "NOT_FOUND");
    assert_eq!(connection.insist(&format!("GET {kept}")), "VALUE stays, too");
    let left = ttl(&mut connection, long);
    assert!((4_000..=5_000).contains(&left), "the deadline is on disk: {left}");
}

#[test]
fn memory_is_given_back_on_every_copy_though_nobody_reads() {
    let cluster = Setup::default().start();
    let mut connection = cluster.connect_at(0, "quorum", "linear");
    let puts: Vec<_> = (0..2_000).map(|key| format!("PUTEX memory:{key} 1 value")).collect();
    assert!(connection.insist_all(&puts).iter().all(|answer| answer == "OK"));
    eventually("every copy lets go of what has expired", SOON, || {
        let keys = keys_everywhere(&cluster);
        ensure(keys.iter().all(|keys| *keys == 0), || format!("{keys:?} keys are there"))
    });
}
