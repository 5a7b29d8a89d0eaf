use super::*;

#[test]
fn a_value_runs_to_the_end_of_the_text() {
    for (text, value) in [
        (&b"PUT k v"[..], &b"v"[..]),
        (b"  put\tk \t v  w  ", b"v  w  "),
        (b"Put k {\"age\": 30}", b"{\"age\": 30}"),
        (b"PUT k 'a b'", b"'a b'"),
        (b"PUT k \xff\n", b"\xff\n"),
    ] {
        assert_eq!(Command::parse(text), Ok(Command::Put { key: b"k", value }), "{text:?}");
    }
}

#[test]
fn verbs_are_read_in_any_case() {
    assert_eq!(Command::parse(b"get k "), Ok(Command::Get { key: b"k" }));
    assert_eq!(Command::parse(b"Delete k"), Ok(Command::Delete { key: b"k" }));
    assert_eq!(Command::parse(b"list_nodes"), Ok(Command::ListNodes));
    assert_eq!(Command::parse(b"get_nodes_for_key k"), Ok(Command::GetNodesForKey { key: b"k" }));
    assert_eq!(Command::parse(b"info"), Ok(Command::Info(None)));
    assert_eq!(Command::parse(b"stats h:1"), Ok(Command::Stats("h:1".parse().ok())));
    assert_eq!(Command::parse(b"status"), Ok(Command::Status));
    assert_eq!(Command::parse(b"wait_healthy"), Ok(Command::WaitHealthy(None)));
    let wait = Command::WaitHealthy(Some(Duration::from_millis(1_500)));
    assert_eq!(Command::parse(b"WAIT_HEALTHY 1500ms"), Ok(wait));
    assert_eq!(Command::parse(b"ping h:1"), Ok(Command::Ping(Some("h:1".parse().unwrap()))));
    assert_eq!(Command::parse(b"quit"), Ok(Command::Exit));
    assert_eq!(Command::parse(b"ack QUORUM"), Ok(Command::AckLevel(Some(AckLevel::Quorum))));
    assert_eq!(Command::parse(b"READ"), Ok(Command::ReadLevel(None)));
    assert_eq!(Command::parse(b"losses h:1"), Ok(Command::Losses("h:1".parse().unwrap())));
    assert_eq!(Command::parse(b"accept_loss ALL"), Ok(Command::AcceptLoss(Slots::All)));
    let node = NodeAddr::new("h", 1).unwrap();
    for words in [&b"unregister_node h 1"[..], b"UNREGISTER_NODE h:1"] {
        assert_eq!(Command::parse(words), Ok(Command::Unregister(node.clone())));
    }
    assert_eq!(Command::parse(b"accept_loss 7"), Ok(Command::AcceptLoss(Slots::One(7))));
    let [old, new] = ["h:1", "h:2"].map(|node| node.parse::<NodeAddr>().unwrap());
    assert_eq!(Command::parse(b"decommission h:1"), Ok(Command::Decommission(old.clone())));
    assert_eq!(Command::parse(b"RECOMMISSION h:1"), Ok(Command::Recommission(old.clone())));
    assert_eq!(Command::parse(b"REPLACE h:1  h:2"), Ok(Command::Replace { old, new }));
}

#[test]
fn a_condition_or_a_time_stands_before_the_value() {
    let expected = "3-12".parse().unwrap();
    assert_eq!(Command::parse(b"cas k\t3-12  v w "), Ok(Command::Cas { key: b"k", expected, value: b"v w " }));
    let absent = Command::Cas { key: b"k", expected: Version::NONE, value: b"v" };
    assert_eq!(Command::parse(b"CAS k 0 v"), Ok(absent));
    assert_eq!(Command::parse(b"putex k 60  v w"), Ok(Command::PutFor { key: b"k", seconds: 60, value: b"v w" }));
    assert_eq!(Command::parse(b"expire k -1"), Ok(Command::Expire { key: b"k", seconds: 0 }));
    assert_eq!(Command::parse(b"ttl k"), Ok(Command::Ttl { key: b"k" }));
    assert_eq!(Command::parse(b"persist k"), Ok(Command::Persist { key: b"k" }));
    assert_eq!(Command::parse(b"putnx k v w"), Ok(Command::PutIfAbsent { key: b"k", value: b"v w" }));
}

#[test]
fn pages_and_many_keys_are_asked_for_by_words() {
    let page = PageWords { limit: Some(5), after: Some(b"user:1") };
    let prefix = Command::Prefix { prefix: b"user:", page };
    assert_eq!(Command::parse(b"prefix user: AFTER user:1 limit 5 "), Ok(prefix));
    let range = Command::Range { from: b"a", to: b"b", page: PageWords::default() };
    assert_eq!(Command::parse(b"RANGE a b"), Ok(range));
    assert_eq!(Command::parse(b"COUNT user:"), Ok(Command::Count { prefix: b"user:" }));
    assert_eq!(Command::parse(b"MGET a  b"), Ok(Command::GetMany(vec![b"a", b"b"])));
    assert_eq!(Command::parse(b"MPUT a 1 b 2"), Ok(Command::PutMany(vec![(b"a", b"1"), (b"b", b"2")])));
    for text in ["PREFIX a LIMIT", "PREFIX LIMIT 10001", "PREFIX a b", "RANGE a", "COUNT a b", "MGET", "MPUT a"] {
        assert!(matches!(Command::parse(text.as_bytes()), Err(CommandError::Usage { .. })), "{text}");
    }
}

#[test]
fn without_a_prefix_all_keys_are_meant() {
    let prefix = |prefix, limit, after| Ok(Command::Prefix { prefix, page: PageWords { limit, after } });
    for (text, command) in [
        (&b"PREFIX"[..], prefix(&b""[..], None, None)),
        (b"PREFIX LIMIT 5 ", prefix(b"", Some(5), None)),
        (b"PREFIX after LIMIT", prefix(b"", None, Some(&b"LIMIT"[..]))),
        (b"PREFIX AFTER a LIMIT 5", prefix(b"", Some(5), Some(b"a"))),
        (b"PREFIX LIMIT", prefix(b"LIMIT", None, None)),
        (b"PREFIX LIMIT LIMIT 5", prefix(b"LIMIT", Some(5), None)),
        (b"COUNT ", Ok(Command::Count { prefix: b"" })),
    ] {
        assert_eq!(Command::parse(text), command, "{}", text.escape_ascii());
    }
}

#[test]
fn wrong_words_get_the_usage_of_their_verb() {
    for (text, message) in [
        ("PUT", "Usage: PUT key value"),
        ("put k", "Usage: PUT key value"),
        ("PUT k  ", "Usage: PUT key value"),
        ("GET", "Usage: GET key"),
        ("GET a b", "Usage: GET key"),
        ("DELETE", "Usage: DELETE key"),
        ("LIST_NODES x", "Usage: LIST_NODES"),
        ("INFO nowhere", "Usage: INFO [host:port]"),
        ("STATUS h:1", "Usage: STATUS"),
        ("WAIT_HEALTHY soon", "Usage: WAIT_HEALTHY [time]; such as 90s or 1500ms, 60s unless given"),
        ("GETV", "Usage: GETV key"),
        (
            "CAS k v",
            "Usage: CAS key version value; GETV tells the version, such as 3-12, and 0 stands for an absent key",
        ),
        (
            "CAS k one v",
            "Usage: CAS key version value; GETV tells the version, such as 3-12, and 0 stands for an absent key",
        ),
        ("PUTNX k", "Usage: PUTNX key value"),
        ("ACK most", "Usage: ACK [async|quorum|all]"),
        ("READ quorum", "Usage: READ [local|linear]"),
        ("PUTEX k v", "Usage: PUTEX key seconds value"),
        ("PUTEX k 0 v", "Usage: PUTEX key seconds value"),
        ("EXPIRE k", "Usage: EXPIRE key seconds"),
        ("TTL a b", "Usage: TTL key"),
        ("PERSIST", "Usage: PERSIST key"),
        ("LOSSES", "Usage: LOSSES host:port"),
        ("FORGET h 1", "Usage: FORGET host:port"),
        ("UNREGISTER_NODE h", "Usage: UNREGISTER_NODE host port"),
        ("DECOMMISSION h", "Usage: DECOMMISSION host:port"),
        ("REPLACE h:1", "Usage: REPLACE old new; each is host:port, and the new one may be started before or after"),
        ("ACCEPT_LOSS", "Usage: ACCEPT_LOSS slot|all"),
        ("ACCEPT_LOSS some", "Usage: ACCEPT_LOSS slot|all"),
        ("ACCEPT_LOSS 16384", "Usage: ACCEPT_LOSS slot|all"),
        ("FOO bar", "Unknown command: FOO"),
        ("  ", "No command given; HELP lists them"),
    ] {
        assert_eq!(Command::parse(text.as_bytes()).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn every_command_is_listed_and_names_itself() {
    let list = crate::verb::list();
    for spec in COMMANDS {
        assert!(list.contains(&format!("  {} {}", spec.name, spec.arguments)), "{}", spec.name);
        let given = match spec.arguments {
            "key version value" => "key 3-12 value",
            "key seconds value" => "key 60 value",
            "key seconds" => "key 60",
            "host:port" => "h:1",
            "host port" => "h 1",
            "old new" => "h:1 h:2",
            "slot|all" => "all",
            "[prefix] [LIMIT n] [AFTER key]" => "prefix limit 3",
            "from to [LIMIT n] [AFTER key]" => "from to after key",
            "key value [key value ...]" => "key value",
            optional if optional.starts_with('[') => "",
            words => words,
        };
        let text = format!("{} {given}", spec.name);
        let command = Command::parse(text.as_bytes()).unwrap();
        assert!(command.name() == spec.name || command == Command::Exit, "{text}");
        for word in spec.words() {
            assert!(Command::parse(format!("{} {word}", spec.name).as_bytes()).is_ok(), "{word}");
        }
    }
}

#[test]
fn a_level_is_for_the_commands_that_follow() {
    let alone = |text: &'static str| Command::parse(text.as_bytes()).unwrap().alone();
    let error = alone("ack Quorum").unwrap_err().to_string();
    assert_eq!(error, "ACK quorum applies to the commands that follow it; with --command use --ack quorum");
    assert!(alone("READ linear").is_err());
    assert_eq!(alone("ACK"), Ok(Command::AckLevel(None)));
    assert_eq!(alone("GET k"), Ok(Command::Get { key: b"k" }));
}
