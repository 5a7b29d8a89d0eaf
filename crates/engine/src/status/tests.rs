use super::*;

fn node(port: u16) -> NodeAddr {
    NodeAddr::new("h", port).unwrap()
}

fn ranges(slots: impl IntoIterator<Item = u16>) -> Ranges {
    let mut ranges = Ranges::default();
    slots.into_iter().for_each(|slot| ranges.add(SlotId(slot)));
    ranges
}

fn status() -> Status {
    Status {
        stage: Stage::Serving,
        slots: 16_384,
        copies: 3,
        nodes: 3,
        timeout: Duration::from_secs(10),
        silent: Vec::new(),
        cut: Vec::new(),
        away: Vec::new(),
        full: Vec::new(),
        short_of_memory: Vec::new(),
        fills: Vec::new(),
        leaving: Vec::new(),
        replaced: Vec::new(),
        hand_overs: Vec::new(),
        surplus: Ranges::default(),
        changing: Ranges::default(),
        problems: BTreeMap::new(),
    }
}

#[test]
fn who_leaves_is_named_with_what_that_waits_for() {
    let mut status = status();
    status.leaving =
        vec![Leaver { node: node(1), slots: 12, is_here: true }, Leaver { node: node(2), slots: 0, is_here: false }];
    status.replaced.push((node(3), node(4)));
    let lines = status.lines();
    let who = [
        "node h:1 leaves: it holds copies of 12 slots",
        "node h:2 is leaving but is down: start it so that it can finish, or cancel with RECOMMISSION",
        "node h:3 leaves once h:4 has joined: start it",
    ];
    assert_eq!(lines.get(1..), Some(&who.map(str::to_owned)[..]));
    assert!(status.is_healthy(), "what holds nothing up is told and no more");
}

#[test]
fn who_is_away_is_named_with_what_helps() {
    let mut status = status();
    status.away = vec![(node(4), Duration::from_secs(20))];
    let wait = "node h:4 is away: start it again, or wait: its copies are re-created on other nodes in 20 s";
    assert_eq!(status.lines().get(1).map(String::as_str), Some(wait));
    status.nodes = 2;
    let start = "node h:4 is away: start it again, or start another node";
    assert_eq!(status.lines().get(1).map(String::as_str), Some(start));
}

#[test]
fn a_healthy_cluster_is_one_line() {
    let line = "OK Status healthy: all 16384 slots have 3 of 3 copies in sync, on 3 nodes, and nothing moves";
    assert_eq!(status().lines(), [line]);
    assert!(status().is_healthy());
}

#[test]
fn slots_are_told_in_ranges_and_not_without_end() {
    assert_eq!(ranges([5]).to_string(), "slot 5");
    assert_eq!(ranges([0, 1, 2, 7]).to_string(), "slots 0-2, 7");
    let scattered = ranges((0..16_384).step_by(2)).to_string();
    assert_eq!(scattered, "slots 0, 2, 4, 6, 8, 10, 12, 14 and 8184 more ranges");
    let mut status = status();
    for port in 1..=200 {
        let problem = Problem::Waits { holders: (port..=port + 50).map(node).collect() };
        status.problems.insert(problem, ranges([port]));
        status.silent.push((node(port), Duration::from_secs(1)));
    }
    let lines = status.lines();
    assert!(lines.len() < 40 && lines.iter().all(|line| line.len() < 1_000), "{lines:#?}");
}

#[test]
fn what_is_wrong_is_said_with_what_helps() {
    let mut status = Status { full: vec![node(5)], ..status() };
    let short = |silent: &[u16], filling: &[u16], away, nodes_missing| Problem::Short {
        in_sync: 2,
        silent: silent.iter().copied().map(node).collect(),
        filling: filling.iter().copied().map(node).collect(),
        away,
        nodes_missing,
    };
    for (problem, word, text) in [
        (
            Problem::Waits { holders: vec![node(1)] },
            "unavailable",
            "1 slot waits for h:1, the last holder: start it, or accept the loss with ACCEPT_LOSS slot|all: slot 7",
        ),
        (
            Problem::Silent { holders: vec![node(1), node(2)] },
            "unavailable",
            "1 slot has no reachable copy; check that these nodes run: h:1, h:2: slot 7",
        ),
        (
            Problem::NoPrimary,
            "unavailable",
            "1 slot has no primary at the moment; another copy is about to take over: slot 7",
        ),
        (
            short(&[2], &[], 0, 0),
            "degraded",
            "1 slot has 2 of 3 copies in sync, h:2 not responding: restart it, or wait until its copies are re-created on other nodes, if there are any: slot 7",
        ),
        (
            short(&[], &[4, 5], 0, 0),
            "degraded",
            "1 slot has 2 of 3 copies in sync, h:4 being filled; h:5 being filled and waiting for disk space: slot 7",
        ),
        (
            short(&[], &[], 0, 1),
            "degraded",
            "1 slot has 2 of 3 copies in sync, there are only 2 nodes for 3 copies: start another node: slot 7",
        ),
        (
            short(&[], &[], 0, 2),
            "degraded",
            "1 slot has 2 of 3 copies in sync, there is only 1 node for 3 copies: start another node: slot 7",
        ),
        (short(&[], &[], 1, 0), "degraded", "1 slot has 2 of 3 copies in sync, 1 is on a node that is away: slot 7"),
    ] {
        status.problems = [(problem, ranges([7]))].into();
        assert_eq!((status.word(), status.lines()[1].as_str()), (word, text));
        assert!(status.missing().contains("16383 of 16384 slots have 3 of 3 copies in sync, 1 do not, on 3 nodes"));
        assert!(status.missing().contains(text), "{}", status.missing());
    }
}

#[test]
fn a_move_tells_how_far_it_is_and_how_long_it_takes() {
    let mut status = status();
    let since = Duration::from_secs(2);
    let mut fill = Fill { node: node(4), left: 300, total: 400, since, keys_left: 0, is_full: false };
    assert_eq!(fill.to_string(), "node h:4 is being filled: 100 of 400 slots done, about 6 s to go");
    (fill.left, fill.keys_left) = (400, 12);
    let begun = "node h:4 is being filled: 0 of 400 slots done, 12 keys waiting to be sent, started 2 s ago";
    assert_eq!(fill.to_string(), begun);
    let full = Fill { is_full: true, ..fill.clone() };
    assert!(full.to_string().ends_with("0 of 400 slots done, 12 keys waiting to be sent, waiting for disk space"));
    status.fills.push(fill);
    status.hand_overs.push(HandOver { from: node(1), to: node(4), slots: ranges(3..9) });
    assert_eq!(status.word(), "moving");
    assert_eq!(status.lines()[2], "node h:1 hands 6 slots over to node h:4: slots 3-8");
}
