//! `client bench`: a short load on a cluster, and the report on it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use e2e::client::{self, printed};
use e2e::cluster::{self, Cluster, Setup};
use e2e::process::{Ended, Process};
use serde_json::Value;

/// Runs a load with these arguments.
#[track_caller]
fn bench(words: &str) -> Ended {
    client::run(&["bench"].into_iter().chain(words.split(' ')).collect::<Vec<_>>())
}

/// Runs a load on the shared cluster, and returns the JSON object that it prints.
#[track_caller]
fn measured(words: &str) -> Value {
    let cluster = cluster::shared();
    let ended = bench(&format!("{words} --json --port {}", cluster.coordinator.port));
    assert_eq!(ended.code, Some(0), "{words}: {}", printed(&ended));
    serde_json::from_str(ended.text()).expect("one object")
}

#[test]
fn every_workload_is_answered_in_either_protocol() {
    let _cluster = cluster::shared();
    for workload in ["get", "put", "mixed", "a", "b", "c", "d", "e", "f"] {
        for protocol in ["line", "resp"] {
            let words =
                format!("{workload} --protocol {protocol} --keys 200 --connections 6 --pipeline 2 --requests 300");
            let object = measured(&words);
            assert_eq!(object["operations"], 300, "{object}");
            assert_eq!((&object["errors"], &object["misses"]), (&0.into(), &0.into()), "{object}");
        }
    }
}

#[test]
fn its_json_has_all_that_was_asked_for_and_measured() {
    let object = measured("mixed --reads 75 --keys 100 --connections 3 --seconds 0.3 --rate 300 --value-size 40");
    for (name, value) in [
        ("workload", Value::from("mixed")),
        ("protocol", "resp".into()),
        ("distribution", "uniform".into()),
        ("connections", 3.into()),
        ("pipeline", 1.into()),
        ("keys", 100.into()),
        ("key_size", 16.into()),
        ("value_size", 40.into()),
        ("rate", 300.into()),
        ("first_error", Value::Null),
    ] {
        assert_eq!(object[name], value, "{name} in {object}");
    }
    assert_eq!(object["servers"].as_array().map(Vec::len), Some(3), "{object}");
    for name in ["seconds", "operations_per_second", "unsent", "client_cpu_us_per_operation"] {
        assert!(object[name].is_number() || (name.starts_with("client") && !cfg!(target_os = "linux")), "{object}");
    }
    let latency = &object["latency_us"];
    let figures = ["min", "p50", "p90", "p99", "p99_9", "p99_99", "max"].map(|name| latency[name].as_f64().unwrap());
    assert!(figures.is_sorted() && figures[0] > 0.0, "{latency}");
    let of = |name: &str| object["by_operation_us"][name]["count"].as_u64().unwrap();
    // What was sent in time and answered after the end has a latency, but is no operation of the run: at most one on each
    // connection.
    let (answered, operations) = (of("get") + of("put"), object["operations"].as_u64().unwrap());
    assert!((operations..=operations + 3).contains(&answered), "{object}");
    assert!(operations <= 100, "no more than was due: {object}");
}

#[test]
fn people_get_tables_a_histogram_and_progress() {
    let cluster = cluster::shared();
    let port = cluster.coordinator.port;
    let ended = bench(&format!("get --keys 100 --connections 3 --seconds 2.2 --warm-up 0 --port {port}"));
    assert_eq!(ended.code, Some(0), "{}", printed(&ended));
    for part in ["get: 3 connections, 1 in flight, resp, 100 keys of 16 bytes, uniform", "(3 nodes)", "p99.9 us", "% #"]
    {
        assert!(ended.text().contains(part), "{part:?} in {}", ended.text());
    }
    assert!(ended.stderr.contains("of 2.2 s: ") && ended.stderr.contains("ops/s, p50"), "{}", ended.stderr);
}

#[test]
fn one_node_is_driven_by_its_address_and_passes_on_what_others_lead() {
    let cluster = cluster::shared();
    let ended =
        bench(&format!("a --keys 100 --connections 2 --requests 200 --json --address {}", cluster.node(0).addr));
    assert_eq!(ended.code, Some(0), "{}", printed(&ended));
    let object: Value = serde_json::from_str(ended.text()).expect("one object");
    assert_eq!(object["servers"], serde_json::json!([cluster.node(0).addr.to_string()]));
    assert_eq!((&object["operations"], &object["errors"]), (&200.into(), &0.into()), "{object}");
}

#[test]
fn wrong_flags_and_absent_servers_are_told_apart() {
    for (words, what, code) in [
        ("gets", "one of get, put, mixed", 2),
        ("get --keys 1000 --key-size 8", "--key-size 9 at least", 2),
        ("get --requests 5 --seconds 1", "cannot be used with", 2),
        ("get --address 127.0.0.1 --seconds 1", "an address is host:port", 2),
        ("get --address 127.0.0.1:1 --seconds 1", "cannot connect to 127.0.0.1:1", 3),
        ("get --port 1 --seconds 1", "start it with `coordinator`", 3),
    ] {
        let ended = bench(words);
        assert_eq!(ended.code, Some(code), "{words}: {}", printed(&ended));
        assert!(ended.stderr.contains(what) && ended.text().is_empty(), "{words}: {}", printed(&ended));
    }
    let cluster = cluster::shared();
    let ended = bench(&format!("get --port {} --seconds 1", cluster.node(0).port));
    assert_eq!(ended.code, Some(3), "{}", printed(&ended));
    assert!(ended.stderr.contains("is not a coordinator"), "{}", ended.stderr);
}

#[test]
fn a_server_that_speaks_resp_only_is_named_as_one() {
    // Answers as Redis does, which is not there in every place where this test runs.
    let redis = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = redis.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in redis.incoming().flatten() {
            let mut request = [0; 64];
            let answer: &[u8] = match stream.read(&mut request) {
                Ok(read) if request.starts_with(b"PING") && read > 0 => b"+PONG\r\n",
                _ => b"-ERR unknown command\r\n",
            };
            // The client may have gone.
            let _ = stream.write_all(answer);
        }
    });
    let ended = bench(&format!("get --protocol line --seconds 1 --address {addr}"));
    assert_eq!(ended.code, Some(4), "{}", printed(&ended));
    let says =
        format!("client: {addr} answers a line in RESP, as Redis does: use --protocol resp. Nothing was stored\n");
    assert_eq!((ended.stderr.as_str(), ended.text()), (says.as_str(), ""));
}

/// Starts a load of a minute, and returns once some of it is measured.
fn start_bench(cluster: &Cluster, more: &[&str]) -> Process {
    let port = cluster.coordinator.port.to_string();
    let flags = ["bench", "--keys", "200", "--connections", "3", "--seconds", "60", "--warm-up", "0", "--port", &port];
    let bench = Process::start("client", [&flags, more].concat());
    bench.says_on_stderr("of 60 s: ");
    bench
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_reports_what_was_measured() {
    let cluster = cluster::shared();
    for as_json in [false, true] {
        let mut bench = start_bench(&cluster, if as_json { &["--json"] } else { &[] });
        bench.signal(nix::sys::signal::Signal::SIGINT);
        let ended = bench.wait_for_end(Duration::from_secs(10));
        assert_eq!(ended.code, Some(130), "{}", printed(&ended));
        if as_json {
            let object: Value = serde_json::from_str(ended.text()).expect("one object");
            assert_eq!(object["ended_early"], "interrupted", "{object}");
            assert!(object["operations"].as_u64().unwrap() > 0 && object["unanswered"].is_u64(), "{object}");
            assert!(object["seconds"].as_f64().unwrap() < 30.0, "{object}");
        } else {
            for part in ["PARTIAL RESULTS, of ", " of 60 s: interrupted", "p99.9 us", "% #"] {
                assert!(ended.text().contains(part), "{part:?} in {}", ended.text());
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn the_exit_code_tells_even_if_nobody_reads_the_report() {
    use std::io::{BufRead as _, BufReader};
    let cluster = cluster::shared();
    let port = cluster.coordinator.port.to_string();
    let mut command = std::process::Command::new(e2e::process::program("client"));
    command.args(["bench", "--keys", "200", "--seconds", "60", "--warm-up", "0", "--port", &port]);
    let mut bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(bench.stdout.take());
    let mut progress = BufReader::new(bench.stderr.take().unwrap()).lines();
    assert!(progress.any(|line| line.unwrap().contains("of 60 s: ")));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(bench.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(bench.wait().unwrap().code(), Some(130));
}

#[cfg(unix)]
#[test]
fn an_interrupt_before_the_measurement_says_that_nothing_was_measured() {
    let cluster = cluster::shared();
    let port = cluster.coordinator.port.to_string();
    let mut bench = Process::start("client", ["bench", "--keys", "200", "--warm-up", "60", "--port", &port]);
    bench.says_on_stderr("warming up");
    bench.signal(nix::sys::signal::Signal::SIGINT);
    let ended = bench.wait_for_end(Duration::from_secs(10));
    assert_eq!(ended.code, Some(130), "{}", printed(&ended));
    assert!(ended.text().is_empty() && ended.stderr.contains("before anything was measured"), "{}", printed(&ended));
}

#[test]
fn a_node_that_dies_ends_the_run_and_what_was_measured_is_reported() {
    let mut cluster = Setup::default().start();
    let mut bench = start_bench(&cluster, &[]);
    cluster.kill(1);
    let ended = bench.wait_for_end(Duration::from_secs(30));
    assert_eq!(ended.code, Some(4), "{}", printed(&ended));
    let addr = cluster.node(1).addr.to_string();
    for part in ["PARTIAL RESULTS, of ", &addr, "p99.9 us", "% #"] {
        assert!(ended.text().contains(part), "{part:?} in {}", ended.text());
    }
}

#[test]
fn a_node_that_dies_in_the_warm_up_ends_the_run_as_later() {
    let mut cluster = Setup::default().start();
    for (dies, as_json) in [(1, false), (2, true)] {
        let port = cluster.coordinator.port.to_string();
        let mut flags = vec!["bench", "--keys", "200", "--connections", "3", "--warm-up", "60", "--port", &port];
        flags.extend(as_json.then_some("--json"));
        let mut bench = Process::start("client", flags);
        bench.says_on_stderr("warming up");
        cluster.kill(dies);
        let ended = bench.wait_for_end(Duration::from_secs(30));
        assert_eq!(ended.code, Some(4), "{}", printed(&ended));
        let addr = cluster.node(dies).addr.to_string();
        if as_json {
            let object: Value = serde_json::from_str(ended.text()).expect("one object");
            assert!(object["ended_early"].as_str().unwrap().contains(&addr), "{object}");
            assert_eq!((&object["operations"], &object["seconds"]), (&0.into(), &0.0.into()), "{object}");
        } else {
            for part in ["PARTIAL RESULTS, of 0.00 of 10 s, in the warm-up: ", &addr, "p99.9 us"] {
                assert!(ended.text().contains(part), "{part:?} in {}", ended.text());
            }
        }
        cluster.start_node_again(dies);
    }
}

#[test]
fn a_server_that_goes_away_while_keys_are_stored_was_reached() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr().unwrap();
    std::thread::spawn(move || {
        // The first asks how values are stored, the second stores them.
        for (mut stream, answer) in server.incoming().flatten().zip([&b"+OK\r\n"[..], b""]) {
            let _ = (stream.read(&mut [0; 64]), stream.write_all(answer));
        }
    });
    let ended = bench(&format!("get --keys 10 --connections 1 --seconds 1 --address {addr}"));
    assert_eq!(ended.code, Some(4), "{}", printed(&ended));
    assert!(ended.stderr.starts_with("client: cannot store the keys: ") && ended.text().is_empty(), "{}", ended.stderr);
}
