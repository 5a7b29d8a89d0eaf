//! The examples of docs/protocol.md, run against a real cluster.
//!
//! An example is a fenced block of the form
//!
//! ````text
//! ```session node
//! > PUT user:1 Alice
//! OK
//! > INFO
//! OK Node 127.0.0.1:<port> keys=<n> lag=<n>
//! ```
//! ````
//!
//! `session node` talks to a node and `session coordinator` to the coordinator. Each block runs on one connection to a
//! fresh cluster of three nodes, or of the number given by a third word (`session coordinator nodes=0`). A line that
//! starts with `> ` is sent, with a newline; every other line is the exact next line of the answer, where `<port>` and
//! `<n>` stand for any digits, and a time to live may be less by the time that has passed. A multi-line answer ends
//! with an empty line, which may be omitted at the end of a block. Nothing may arrive that the block does not show.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::cluster::Setup;
use e2e::connection::Connection;

struct Example {
    line_number: usize,
    at_coordinator: bool,
    nodes: usize,
    lines: Vec<String>,
}

/// Finds the examples of a document.
fn examples(document: &str) -> Vec<Example> {
    let mut examples = Vec::new();
    let mut lines = document.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(words) = line.strip_prefix("```session ") else { continue };
        let mut words = words.split_whitespace();
        let at_coordinator = match words.next() {
            Some("coordinator") => true,
            Some("node") => false,
            other => panic!("line {}: a session is with a coordinator or a node, not {other:?}", number + 1),
        };
        let nodes = words.next().map_or(3, |word| {
            let count = word.strip_prefix("nodes=").and_then(|count| count.parse().ok());
            count.unwrap_or_else(|| panic!("line {}: {word:?} should be nodes=N", number + 1))
        });
        let body = lines.by_ref().map(|(_, line)| line.to_owned()).take_while(|line| line != "```").collect();
        examples.push(Example { line_number: number + 1, at_coordinator, nodes, lines: body });
    }
    examples
}

/// Whether a line matches an example, with its placeholders.
fn matches(pattern: &str, line: &str) -> bool {
    let placeholder = ["<port>", "<n>"].into_iter().filter_map(|name| Some((pattern.find(name)?, name))).min();
    let Some((at, name)) = placeholder else { return pattern == line };
    let (before, after) = (pattern.get(..at).unwrap_or_default(), pattern.get(at + name.len()..).unwrap_or_default());
    let Some(rest) = line.strip_prefix(before) else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && matches(after, rest.get(digits..).unwrap_or_default())
}

/// Whether `answer` may be what is left of the time to live that is shown, after this much time.
fn may_be_left(answer: &str, shown: &str, elapsed: Duration) -> bool {
    let seconds = |line: &str| line.strip_prefix("OK ")?.parse::<u64>().ok();
    let (Some(left), Some(shown)) = (seconds(answer), seconds(shown)) else { return false };
    left < shown && left + elapsed.as_secs() + 1 >= shown
}

impl Example {
    fn play(&self) {
        let cluster = Setup { nodes: self.nodes, ..Setup::default() }.start();
        if self.nodes >= 3 {
            // While several clusters start at once, a replica may have been too slow to stay in sync.
            assert_eq!(Connection::open(&cluster.coordinator.addr).ask("WAIT_HEALTHY"), "OK");
        }
        let addr = if self.at_coordinator { &cluster.coordinator.addr } else { &cluster.node(0).addr };
        let mut connection = Connection::open(addr);
        let begun = Instant::now();
        let (mut quit, mut asks_ttl) = (false, false);
        for (offset, line) in self.lines.iter().enumerate() {
            let number = self.line_number + 1 + offset;
            if let Some(request) = line.strip_prefix("> ") {
                quit = request.eq_ignore_ascii_case("QUIT");
                asks_ttl = request.starts_with("TTL ");
                connection.send(format!("{request}\n"));
                continue;
            }
            let answer = connection.try_line();
            let answer = answer.unwrap_or_else(|error| panic!("docs/protocol.md:{number}: no {line:?}: {error}"));
            let is_as_shown = matches(line, &answer) || (asks_ttl && may_be_left(&answer, line, begun.elapsed()));
            assert!(is_as_shown, "docs/protocol.md:{number}: says {line:?}, and {answer:?} came");
        }
        if !quit {
            connection.send("QUIT\n");
        }
        let rest = String::from_utf8_lossy(&connection.rest()).into_owned();
        let end = if quit { "" } else { "OK\n" };
        let rest = rest.strip_prefix('\n').unwrap_or(&rest);
        assert_eq!(rest, end, "docs/protocol.md:{}: more came than the block shows", self.line_number);
    }
}

#[test]
fn the_examples_of_the_protocol_document_are_true() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol.md");
    let document = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let examples = examples(&document);
    assert!(examples.len() >= 5, "only {} examples in docs/protocol.md", examples.len());
    // A few in parallel: most of an example's time goes into starting its cluster.
    for some in examples.chunks(4) {
        std::thread::scope(|scope| {
            let played: Vec<_> = some.iter().map(|example| scope.spawn(|| example.play())).collect();
            for example in played {
                example.join().expect("an example is not true; what is wrong stands above");
            }
        });
    }
}

#[test]
fn placeholders_stand_for_digits_only() {
    assert!(matches("OK Node 127.0.0.1:<port> keys=<n> lag=<n>", "OK Node 127.0.0.1:5001 keys=12 lag=0"));
    assert!(matches("plain", "plain"));
    for (pattern, line) in
        [("plain", "plain "), ("keys=<n>", "keys="), ("keys=<n>", "keys=x"), ("<n>", "1 "), (":<port>", "5001")]
    {
        assert!(!matches(pattern, line), "{pattern:?} {line:?}");
    }
}
