//! `--max-memory`: what is refused at the limit, what goes on, and which keys are evicted.

use std::path::Path;
use std::time::Instant;

use e2e::client;
use e2e::cluster::{Cluster, Setup};
use e2e::connection::{Connection, Reply};
use e2e::wait::{SOON, ensure, eventually};

const LIMIT: u64 = 1_000_000;

/// What `STATUS` says of a node.
const NO_MEMORY: &str =
    " has no memory left, and writes have just been refused for it: DELETE keys or raise its --max-memory";

fn figure(cluster: &Cluster, index: usize, name: &str) -> u64 {
    let info = cluster.info(index);
    info.get(name).and_then(|figure| figure.parse().ok()).unwrap_or_else(|| panic!("INFO has no {name}: {info:?}"))
}

fn value(bytes: usize) -> String {
    "v".repeat(bytes)
}

/// Stores values of 1,000 bytes until one is refused. Returns the names of the keys and the refusal.
fn fill(connection: &mut Connection, prefix: &str) -> (Vec<String>, String) {
    let mut stored = Vec::new();
    loop {
        let key = format!("{prefix}:{}", stored.len());
        match connection.insist(&format!("PUT {key} {}", value(1_000))).as_str() {
            "OK" => stored.push(key),
            refused => return (stored, refused.to_owned()),
        }
        assert!(stored.len() < 2_000, "the limit is never reached");
    }
}

#[test]
fn at_the_limit_writes_that_need_more_are_refused_and_everything_else_goes_on() {
    let cluster = Setup { node_args: &["--max-memory", "1mb"], ..Setup::default() }.start();
    let mut connection = cluster.connect_at(0, "quorum", "linear");
    let (stored, refused) = fill(&mut connection, "full");
    assert!(stored.len() > 400, "{}", stored.len());
    assert!(refused.starts_with("ERROR FULL the "), "{refused}");
    let advice =
        "; nothing was changed, reads continue: DELETE keys, raise --max-memory or start another node, then repeat it";
    assert!(refused.contains("--max-memory") && refused.ends_with(advice), "{refused}");
    for index in 0..3 {
        let (used, limit) = (figure(&cluster, index, "memory_bytes"), figure(&cluster, index, "max_memory"));
        assert!(limit == LIMIT && used > LIMIT * 9 / 10 && used < LIMIT * 11 / 10, "{used} of {limit}");
        assert_eq!(figure(&cluster, index, "evicted"), 0);
    }

    // Each key of a write is judged separately, at every node, in whichever way the write is requested.
    let (old, new) = (&stored[0], format!("full:{}", stored.len()));
    for index in 0..3 {
        let mut node = cluster.connect_at(index, "quorum", "linear");
        for request in [format!("PUT {new} {}", value(1_000)), format!("ONCE me 1 PUTNX {new} {}", value(1_000))] {
            let answer = node.insist(&request);
            assert!(answer.starts_with("ERROR FULL "), "{index}: {answer}");
        }
        assert_eq!(node.insist(&format!("GET {new}")), "NOT_FOUND", "nothing was changed");
        assert_eq!(node.insist(&format!("GET {old}")), format!("VALUE {}", value(1_000)));
        assert_eq!(node.insist(&format!("PUT {old} {}", value(1_000))), "OK", "it needs no more");
        let conflict = node.insist(&format!("PUTNX {old} {}", value(2_000)));
        assert!(conflict.starts_with("CONFLICT "), "{conflict}");
        let words = ["MPUT", &new, &value(1_000), old, &value(1_000)];
        let Reply::Array(answers) = node.call(&words) else { panic!("an answer for each") };
        let [Reply::Error(first), second] = &answers[..] else { panic!("{answers:?}") };
        assert!(first.starts_with("FULL ") && *second == Reply::ok(), "{answers:?}");
        let mset = node.call(&["MSET", old, &value(1_000), &new, &value(1_000)]);
        let Reply::Error(half) = mset else { panic!("{mset:?}") };
        assert!(half.starts_with("UNKNOWN some keys may have been changed and others not"), "{half}");
        // Deadlines are meant to make room, with or without conditions.
        for command in [
            &["PEXPIREAT", &stored[2], "99999999999999"][..],
            &["EXPIRE", &stored[3], "1000", "NX"],
            &["GETEX", &stored[4], "EX", "1000"],
        ] {
            let answer = node.call(command);
            assert!(!matches!(answer, Reply::Error(_)), "{command:?}: {answer:?}");
            let kept = node.call(&["PERSIST", command[1]]);
            assert_eq!(kept, Reply::Number(1));
        }
        assert_eq!(node.insist(&format!("EXPIRE {} 1000", stored[1])), "OK 1");
        assert_eq!(node.insist(&format!("PERSIST {}", stored[1])), "OK 1");
    }
    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    eventually("STATUS names the nodes", SOON, || {
        let lines = coordinator.ask_lines("STATUS");
        let named = lines.iter().filter(|line| line.starts_with("node ") && line.contains(NO_MEMORY)).count();
        ensure(named > 0 && lines[0].starts_with("OK Status healthy: "), || format!("{lines:#?}"))
    });
    let ended = client::command(cluster.coordinator.port, &format!("PUT {new} {}", value(1_000)), &[]);
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), ended.stderr);
    assert!(ended.code == Some(4) && said.contains("ERROR FULL the "), "{:?}: {said}", ended.code);

    // Deletes make room, and a write that was refused is then carried out once.
    for key in &stored[2..20] {
        assert_eq!(connection.insist(&format!("DELETE {key}")), "OK");
    }
    eventually("there is room again", SOON, || {
        let answer = connection.insist(&format!("ONCE me 1 PUTNX {new} {}", value(1_000)));
        ensure(answer.starts_with("OK "), || answer)
    });
    assert_eq!(connection.insist(&format!("GET {new}")), format!("VALUE {}", value(1_000)));
    let stats = connection.ask_lines("STATS");
    let limit = format!("memory_limit_bytes {LIMIT}");
    assert!(stats.contains(&limit) && stats.contains(&"evicted 0".to_owned()), "{stats:?}");
    let led = (0..3).map(|index| cluster.connect(index).ask_lines("STATS"));
    let refusals: u64 = led.map(|lines| number(&lines, "memory_refusals")).sum();
    assert!(refusals >= 10, "{refusals}");
}

fn number(lines: &[String], name: &str) -> u64 {
    let figure = lines.iter().filter_map(|line| line.split_once(' ')).find(|(its, _)| *its == name);
    figure.and_then(|(_, figure)| figure.parse().ok()).unwrap_or_else(|| panic!("no {name} in {lines:?}"))
}

#[test]
fn a_smaller_node_has_its_primaries_refuse_for_it() {
    let mut cluster = Setup { nodes: 2, ..Setup::default() }.start();
    cluster.set_node_args(&["--max-memory", "1mb"]);
    cluster.add_node();
    cluster.wait_until_settled();
    let mut connection = cluster.connect_at(0, "quorum", "linear");
    let (stored, refused) = fill(&mut connection, "small");
    assert!(stored.len() > 400 && refused.starts_with("ERROR FULL the "), "{} keys, {refused}", stored.len());
    let third = &cluster.node(2).addr;
    assert!(refused.contains(third), "it is the third node that has no room: {refused}");
    assert_eq!(figure(&cluster, 0, "max_memory"), 0);
    // Whoever has refused a write says on whose behalf, and so does the coordinator.
    for index in [0, 1] {
        let mut node = cluster.connect_at(index, "quorum", "linear");
        // A replica tells with its beats that it is over its limit: this primary may not know it yet.
        let keys = cluster.keys_led_by(index, "refused", 5_000);
        let mut answers = keys.iter().map(|key| node.insist(&format!("PUT {key} {}", value(1_000))));
        let refused = answers.find(|answer| answer != "OK").expect("no key too many");
        assert!(refused.starts_with("ERROR FULL ") && refused.contains(third), "{refused}");
        let said = format!(" writes for lack of memory on replica {third}, which is over its --max-memory");
        cluster.node(index).process.says_on_stderr(&said);
    }
    let mut coordinator = Connection::open(&cluster.coordinator.addr);
    eventually("STATUS names the third node and no other", SOON, || {
        let lines = coordinator.ask_lines("STATUS");
        let named: Vec<_> = lines.iter().filter(|line| line.contains("memory")).collect();
        ensure(named == [&format!("node {third}{NO_MEMORY}")], || format!("{lines:#?}"))
    });
}

fn absent(connection: &mut Connection, keys: &[String]) -> Vec<String> {
    let gets: Vec<_> = keys.iter().map(|key| format!("GET {key}")).collect();
    let answers = connection.insist_all(&gets);
    keys.iter().zip(answers).filter(|(_, answer)| answer == "NOT_FOUND").map(|(key, _)| key.clone()).collect()
}

fn caching(directory: &Path) -> Cluster {
    let (data_dir, node_data) = (Some(directory.join("coordinator")), Some(directory.to_owned()));
    Setup { data_dir, node_data, node_args: &["--max-memory", "1mb", "--evict", "lru"], ..Setup::default() }.start()
}

#[test]
fn the_least_recently_used_keys_go_and_do_not_come_back_at_failover_or_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = caching(directory.path());
    let mut connection = cluster.connect_at(0, "quorum", "linear");
    let hot: Vec<_> = (0..30).map(|key| format!("hot:{key}")).collect();
    let cold: Vec<_> = (0..3_000).map(|key| format!("cold:{key}")).collect();
    let puts = |keys: &[String]| keys.iter().map(|key| format!("PUT {key} {}", value(1_000))).collect::<Vec<_>>();
    assert!(connection.insist_all(&puts(&hot)).iter().all(|answer| answer == "OK"));
    for some in cold.chunks(25) {
        let answers = connection.insist_all(&puts(some));
        assert!(answers.iter().all(|answer| answer == "OK"), "{answers:?}");
        absent(&mut connection, &hot);
    }
    let evicted: u64 = (0..3).map(|index| figure(&cluster, index, "evicted")).sum();
    let gone = absent(&mut connection, &cold);
    assert!(evicted > 2_000 && gone.len() > 2_000 && gone.len() < 2_900, "{evicted} evicted, {} gone", gone.len());
    let lost = absent(&mut connection, &hot);
    // A starved primary may have been replaced; the next one does not know about earlier reads.
    assert!(
        lost.len() <= 10,
        "of 30 keys that are read all the time {lost:?} are gone, of 3,000 others {}",
        gone.len()
    );
    let oldest = gone.iter().filter(|key| cold[..1_000].contains(key)).count();
    // By chance it would be about 700.
    assert!(oldest > 850, "the oldest go first, and of 1,000 of them {oldest} are gone, of all {}", gone.len());
    for index in 0..3 {
        assert_eq!(figure(&cluster, index, "losses"), 0);
        eventually("a node is within its limit", SOON, || {
            let used = figure(&cluster, index, "memory_bytes");
            ensure(used <= LIMIT, || format!("{used} bytes"))
        });
    }

    cluster.kill(1);
    cluster.wait_until_leads_nothing(1);
    assert_eq!(absent(&mut connection, &gone).len(), gone.len(), "at the failover");
    cluster.start_node_again(1);
    cluster.wait_until_settled();
    (0..3).for_each(|index| cluster.kill(index));
    cluster.coordinator.process.kill();
    cluster.start_all_again();
    let mut connection = cluster.connect_at(1, "quorum", "linear");
    assert_eq!(absent(&mut connection, &gone).len(), gone.len(), "at the restart");
    assert!(absent(&mut connection, &hot).len() <= 10, "and what was there is there");
}

#[test]
fn a_node_that_evicts_by_use_knows_for_how_long_a_key_was_not_used() {
    let cluster =
        Setup { nodes: 2, replicas: 0, node_args: &["--max-memory", "4mb", "--evict", "lru"], ..Setup::default() }
            .start();
    let idle = |through: usize, key: &str| match cluster.connect(through).call(&["OBJECT", "IDLETIME", key]) {
        Reply::Number(seconds) => seconds,
        other => panic!("{other:?}"),
    };
    // At its primary, and through the other node.
    let key = cluster.key_led_by(0, "idle");
    let used = Instant::now();
    let mut node = cluster.connect(0);
    assert_eq!(node.ask(&format!("PUT {key} v")), "OK");
    assert_eq!(idle(1, &key), 0);
    // The clock of uses advances as the tables grow.
    for other in cluster.keys_led_by(0, "other", 100) {
        assert_eq!(node.ask(&format!("PUT {other} {}", value(1_000))), "OK");
    }
    eventually("the key is idle", SOON, || {
        let (through, at_its_primary) = (idle(1, &key), idle(0, &key));
        ensure(through >= 2 && at_its_primary >= 2, || format!("{through} and {at_its_primary}"))
    });
    assert!(idle(0, &key) <= used.elapsed().as_secs() as i64, "asking is no use, and no more is told than is known");
    assert_eq!(node.ask(&format!("GET {key}")), "VALUE v");
    assert_eq!((idle(0, &key), idle(1, &key)), (0, 0));
    assert_eq!(node.call(&["OBJECT", "IDLETIME", "idle:absent"]), Reply::Null);
    // The size of a key is what counts against the limit: the size class of its allocation.
    let Reply::Number(bytes) = node.call(&["MEMORY", "USAGE", &key]) else { panic!("no number") };
    let Reply::Number(long) = node.call(&["MEMORY", "USAGE", &cluster.keys_led_by(0, "other", 1)[0]]) else { panic!() };
    assert!(bytes > 0 && bytes % 16 == 0 && (1_000..1_300).contains(&long), "{bytes}, {long}");
}
