use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use proto::frame::Encoding;

use super::*;
use crate::keys::Sizes;
use crate::request::{Dialect, Template, Verb};
use crate::target::Place;
use crate::workload::{Action, Mix};

const SIZES: Sizes = Sizes { key: 16, value: 100 };

/// A server on its own threads, for the rest of the test, that answers each read of requests as a whole with `answer`.
fn server(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Copy + 'static) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = Place { addr: listener.local_addr().unwrap(), pids: vec![std::process::id()] };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut input = vec![0; 1 << 20];
                while let Ok(read) = stream.read(&mut input) {
                    if read == 0 || stream.write_all(&answer(&input[..read])).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Target::single("the test's server", &place, Dialect::Put, 0..100)
}

/// Answers GETs sent as lines like a node that has all keys.
fn values(input: &[u8]) -> Vec<u8> {
    let lines = input.split_inclusive(|byte| *byte == b'\n');
    let answers = lines.map(|line| {
        let value = SIZES.make_value(&line[4..20]);
        [b"VALUE ", &value[..], b"\n"].concat()
    });
    answers.collect::<Vec<_>>().concat()
}

fn gets(until: Until) -> Load {
    let load = Load::steady(Action::Get, Encoding::Line, SIZES, Duration::ZERO);
    Load { connections: 3, pipeline: 4, until, ..load }
}

fn quietly(target: &Target, load: &Load) -> anyhow::Result<Outcome> {
    run(target, load, Duration::MAX, None, &mut |_| ())
}

#[test]
fn so_many_operations_are_answered_as_were_asked_for() {
    let outcome = quietly(&server(values), &gets(Until::Operations(1_000))).unwrap();
    assert_eq!((outcome.operations, outcome.misses, outcome.refused, outcome.unsent), (1_000, 0, 0, 0));
    assert!(outcome.per_second() > 0.0 && outcome.percentile(50.0) <= outcome.percentile(99.0));
    assert_eq!(outcome.server_cpu.is_some(), cfg!(target_os = "linux"));
    assert!(outcome.of_action.iter().map(|(action, _)| *action).eq([Action::Get]));
}

#[test]
fn operations_of_the_warm_up_are_not_among_those_asked_for() {
    for rate in [None, NonZeroU64::new(2_000)] {
        let load = Load { warm_up: Duration::from_millis(50), rate, ..gets(Until::Operations(100)) };
        let outcome = quietly(&server(values), &load).unwrap();
        assert_eq!((outcome.operations, outcome.latency.len()), (100, 100), "{rate:?}");
    }
}

#[test]
fn keys_are_stored_one_after_the_other() {
    let target = server(|input| {
        let put = Template::request(Verb::Put, Encoding::Array, SIZES, Dialect::Put);
        b"+OK\r\n".repeat(input.len() / put.bytes.len())
    });
    let load = Load { encoding: Encoding::Array, ..gets(Until::AllKeys) };
    // A read may end inside one request of a batch; a single request always arrives whole.
    let load = Load { pipeline: 1, connections: 1, ..load };
    assert_eq!(quietly(&target, &load).unwrap().operations, 100);
}

#[test]
fn a_run_lasts_as_long_as_it_was_asked_to_and_tells_of_itself() {
    let mut told = Vec::new();
    let load = Load { warm_up: Duration::from_millis(50), ..gets(Until::Elapsed(Duration::from_millis(200))) };
    let begin = Instant::now();
    let outcome = run(&server(values), &load, Duration::from_millis(20), None, &mut |interval| {
        told.push((interval.at.is_some(), interval.latency.len()));
    });
    let outcome = outcome.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(250));
    assert_eq!(outcome.elapsed, Duration::from_millis(200));
    assert!(told.len() > 3 && !told[0].0, "{told:?}");
    assert!(told.iter().map(|(_, answers)| answers).sum::<u64>() <= outcome.latency.len());
    assert!(outcome.operations <= outcome.latency.len());
}

#[test]
fn an_answer_that_comes_after_the_end_has_waited_and_is_no_operation_of_the_run() {
    let target = server(|input| {
        std::thread::sleep(Duration::from_millis(300));
        values(input)
    });
    let time = Duration::from_millis(100);
    let load = Load { connections: 1, pipeline: 1, ..gets(Until::Elapsed(time)) };
    let outcome = quietly(&target, &load).unwrap();
    assert_eq!((outcome.operations, outcome.latency.len()), (0, 1));
    assert!(outcome.percentile(100.0) >= Duration::from_millis(300));
}

#[test]
fn with_a_rate_a_pause_of_the_server_counts_for_all_that_was_due_in_it() {
    // One request per millisecond; the server takes 100 ms over every 300th.
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let target = server(|input| {
        if ASKED.fetch_add(1, Ordering::Relaxed) % 300 == 299 {
            std::thread::sleep(Duration::from_millis(100));
        }
        values(input)
    });
    let time = Duration::from_millis(1_500);
    let load = Load { connections: 1, pipeline: 1, rate: NonZeroU64::new(1_000), ..gets(Until::Elapsed(time)) };
    let outcome = quietly(&target, &load).unwrap();
    // Each pause delays some hundred requests. If latency did not count from the due moment, one in 300 would be late.
    let late = outcome.latency.count_between(10_000_000, u64::MAX) as f64 / outcome.operations.max(1) as f64;
    assert!(late > 0.1, "{late} of {} were late", outcome.operations);
}

#[test]
fn with_a_rate_no_more_is_sent_than_was_asked_for() {
    let time = Duration::from_millis(300);
    let load = Load { rate: NonZeroU64::new(2_000), ..gets(Until::Elapsed(time)) };
    let outcome = quietly(&server(values), &load).unwrap();
    let most = 600;
    assert!(outcome.operations <= most && outcome.operations + outcome.unsent > most / 2, "{}", outcome.operations);
}

#[test]
fn a_wrong_answer_fails_a_strict_run() {
    let target = server(|input| b"NOT_FOUND\n".repeat(input.split(|byte| *byte == b'\n').count() - 1));
    let error = quietly(&target, &gets(Until::Operations(10))).unwrap_err();
    assert!(error.to_string().starts_with("a key is missing: a wrong answer"), "{error}");
    let lenient = Load { strict: false, ..gets(Until::Operations(10)) };
    let outcome = quietly(&target, &lenient).unwrap();
    assert_eq!((outcome.operations, outcome.misses), (10, 10));
}

#[test]
fn refusals_are_counted_and_the_first_is_kept() {
    let target = server(|input| b"ERROR BUSY later\n".repeat(input.split(|byte| *byte == b'\n').count() - 1));
    let lenient = Load { strict: false, ..gets(Until::Operations(10)) };
    let outcome = quietly(&target, &lenient).unwrap();
    assert_eq!((outcome.operations, outcome.refused), (0, 10));
    assert_eq!(outcome.first_error.as_deref(), Some("ERROR BUSY later"));
    let error = quietly(&target, &gets(Until::Operations(10))).unwrap_err();
    assert!(error.to_string().contains("ERROR BUSY later"), "{error}");
}

#[test]
fn a_key_is_read_before_it_is_modified() {
    let target = server(|input| {
        let lines = input.split_inclusive(|byte| *byte == b'\n');
        let answers = lines.map(|line| if line.starts_with(b"GET") { values(line) } else { b"OK\n".to_vec() });
        answers.collect::<Vec<_>>().concat()
    });
    let load = Load { mix: Mix::only(Action::Modify), connections: 1, ..gets(Until::Operations(50)) };
    let outcome = quietly(&target, &load).unwrap();
    assert_eq!((outcome.operations, outcome.misses), (50, 0));
}

#[test]
fn a_run_that_is_cut_short_keeps_what_was_measured() {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let broken = server(|input| {
        // No answer to a GET.
        if ASKED.fetch_add(1, Ordering::Relaxed) >= 100 { b"OK\n".to_vec() } else { values(input) }
    });
    let load = Load { connections: 1, strict: false, ..gets(Until::Elapsed(Duration::from_secs(60))) };
    let outcome = quietly(&broken, &load).unwrap();
    let cut = outcome.cut_short.unwrap();
    assert!(matches!(&cut.why, Why::Failed(why) if why.contains("does not match the request")), "{cut:?}");
    assert!(outcome.operations >= 100 && outcome.elapsed < Duration::from_secs(30) && cut.unanswered == 4, "{cut:?}");
    assert!(quietly(&broken, &Load { strict: true, ..load }).is_err(), "a strict run fails");
}

#[test]
fn a_run_ends_when_one_of_its_connections_is_not_answered_any_more() {
    // The server has one thread for each connection.
    thread_local! { static ANSWERED: Cell<u32> = const { Cell::new(0) } }
    static SILENT: AtomicBool = AtomicBool::new(false);
    let target = server(|input| {
        let answered = ANSWERED.replace(ANSWERED.get() + 1);
        if answered == 100 && !SILENT.swap(true, Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(120));
        }
        values(input)
    });
    let load = Load { strict: false, ..gets(Until::Elapsed(Duration::from_secs(60))) };
    let outcome = quietly(&target, &load).unwrap();
    let cut = outcome.cut_short.unwrap();
    assert!(matches!(&cut.why, Why::Failed(why) if why.contains("no answer")), "{cut:?}");
    assert!(outcome.elapsed < Duration::from_secs(30), "{:?}", outcome.elapsed);
    assert!(cut.unanswered >= 4 && outcome.operations > 1_000, "the others went on: {cut:?}");
}

#[test]
fn a_run_ends_when_it_is_interrupted() {
    let target = server(values);
    let interrupt = Interrupt::new(false);
    for rate in [None, NonZeroU64::new(1_000)] {
        interrupt.store(false, Ordering::Relaxed);
        let load = Load { strict: false, rate, ..gets(Until::Elapsed(Duration::from_secs(60))) };
        let mut told = 0;
        let outcome = run(&target, &load, Duration::from_millis(20), Some(&interrupt), &mut |_| {
            told += 1;
            interrupt.store(told >= 3, Ordering::Relaxed);
        });
        let outcome = outcome.unwrap();
        assert_eq!(outcome.cut_short.map(|cut| cut.why), Some(Why::Interrupted));
        assert!(outcome.operations > 0 && outcome.elapsed < Duration::from_secs(30), "{:?}", outcome.elapsed);
        assert!(outcome.unsent < 1_000, "only what was due until then: {}", outcome.unsent);
        let fill = fill(&target, &load, Some(&interrupt), &mut |_| ()).unwrap_err();
        assert_eq!(fill.to_string(), "interrupted");
    }
}
