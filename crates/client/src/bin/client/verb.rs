//! The verbs, in one list that drives parsing, help, completion and hints.

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
    Delete,
    GetVersioned,
    Cas,
    PutIfAbsent,
    PutFor,
    Expire,
    Ttl,
    Persist,
    Prefix,
    Range,
    Count,
    GetMany,
    PutMany,
    AckLevel,
    ReadLevel,
    ListNodes,
    GetNodesForKey,
    Info,
    Stats,
    Status,
    WaitHealthy,
    Verify,
    Ping,
    Losses,
    Forget,
    Unregister,
    AcceptLoss,
    Decommission,
    Recommission,
    Replace,
    Help,
    Exit,
}

/// A verb as users see it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) verb: Verb,
    /// The verb in upper case.
    pub(crate) name: &'static str,
    /// What follows it.
    pub(crate) arguments: &'static str,
    /// A short description.
    about: &'static str,
    /// What the usage line does not say; mostly empty.
    note: &'static str,
}

impl Spec {
    const fn new(verb: Verb, name: &'static str, arguments: &'static str, about: &'static str) -> Self {
        Self { verb, name, arguments, about, note: "" }
    }

    const fn noting(self, note: &'static str) -> Self {
        Self { note, ..self }
    }

    /// Its usage line.
    pub(crate) fn usage(&self) -> String {
        format!("{} {}{}", self.name, self.arguments, self.note).trim_end().to_owned()
    }

    /// The fixed words that may follow it, if there are any.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'static str> {
        let choices = self.arguments.contains('|').then_some(self.arguments);
        let words = choices.into_iter().flat_map(|words| words.trim_matches(['[', ']']).split('|'));
        // A slot is given by its number.
        words.filter(|word| *word != "slot")
    }
}

/// Every command.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec::new(Verb::Put, "PUT", "key value", "store a value, which runs to the end of the line"),
    Spec::new(Verb::Get, "GET", "key", "read a value"),
    Spec::new(Verb::Delete, "DELETE", "key", "delete a key"),
    Spec::new(Verb::GetVersioned, "GETV", "key", "read a value and the version of its key"),
    Spec::new(Verb::Cas, "CAS", "key version value", "store a value if the key is at this version")
        .noting("; GETV tells the version, such as 3-12, and 0 stands for an absent key"),
    Spec::new(Verb::PutIfAbsent, "PUTNX", "key value", "store a value if the key is absent"),
    Spec::new(Verb::PutFor, "PUTEX", "key seconds value", "store a value that expires after this many seconds"),
    Spec::new(Verb::Expire, "EXPIRE", "key seconds", "make a key expire after this many seconds"),
    Spec::new(Verb::Ttl, "TTL", "key", "how many seconds a key has left"),
    Spec::new(Verb::Persist, "PERSIST", "key", "remove a key's expiry"),
    Spec::new(
        Verb::Prefix,
        "PREFIX",
        "[prefix] [LIMIT n] [AFTER key]",
        "list the first keys with a prefix, or of all, in order",
    )
    .noting("; n is 1000 unless given, and at most 10000; AFTER its last key continues a list"),
    Spec::new(
        Verb::Range,
        "RANGE",
        "from to [LIMIT n] [AFTER key]",
        "list the first keys in a range; `to` is exclusive",
    )
    .noting("; n is 1000 unless given, and at most 10000"),
    Spec::new(Verb::Count, "COUNT", "[prefix]", "how many keys have a prefix, or how many there are"),
    Spec::new(Verb::GetMany, "MGET", "key ...", "read several values"),
    Spec::new(Verb::PutMany, "MPUT", "key value [key value ...]", "store several values")
        .noting("; here each value is one word"),
    Spec::new(Verb::AckLevel, "ACK", "[async|quorum|all]", "when writes are answered, from now on"),
    Spec::new(Verb::ReadLevel, "READ", "[local|linear]", "what reads may return, from now on"),
    Spec::new(Verb::ListNodes, "LIST_NODES", "", "the nodes that are registered"),
    Spec::new(Verb::GetNodesForKey, "GET_NODES_FOR_KEY", "key", "the nodes that hold a key"),
    Spec::new(Verb::Info, "INFO", "[host:port]", "about a node, or the coordinator"),
    Spec::new(Verb::Stats, "STATS", "[host:port]", "statistics of a node, or of the coordinator"),
    Spec::new(Verb::Status, "STATUS", "", "whether every slot has all its copies, what moves, what is wrong"),
    Spec::new(
        Verb::WaitHealthy,
        "WAIT_HEALTHY",
        "[time]",
        "wait until every slot has all its copies and nothing moves",
    )
    .noting("; such as 90s or 1500ms, 60s unless given"),
    Spec::new(Verb::Verify, "VERIFY", "[host:port]", "compare all copies now, of the slots of one node or of all"),
    Spec::new(Verb::Ping, "PING", "[host:port]", "whether a node, or the coordinator, answers"),
    Spec::new(Verb::Losses, "LOSSES", "host:port", "the writes that a node has dropped after a failover"),
    Spec::new(Verb::Forget, "FORGET", "host:port", "stop waiting for what a lost node could report"),
    Spec::new(
        Verb::Unregister,
        "UNREGISTER_NODE",
        "host port",
        "remove a node from the ring, and give up what only it holds",
    ),
    Spec::new(
        Verb::AcceptLoss,
        "ACCEPT_LOSS",
        "slot|all",
        "accept that missing copies are lost, so that their slots continue",
    ),
    Spec::new(
        Verb::Decommission,
        "DECOMMISSION",
        "host:port",
        "make a node hand its slots over, delete its data and exit",
    ),
    Spec::new(Verb::Recommission, "RECOMMISSION", "host:port", "cancel a node's decommission"),
    Spec::new(Verb::Replace, "REPLACE", "old new", "replace a node for good by another, which takes over its slots")
        .noting("; each is host:port, and the new one may be started before or after"),
    Spec::new(Verb::Help, "HELP", "[command]", "this list, or how one command is used"),
    Spec::new(Verb::Exit, "EXIT", "", "exit"),
    Spec::new(Verb::Exit, "QUIT", "", "exit"),
];

/// The verb that a word stands for, in any case.
pub(crate) fn find(word: &[u8]) -> Option<&'static Spec> {
    COMMANDS.iter().find(|spec| word.eq_ignore_ascii_case(spec.name.as_bytes()))
}

/// What HELP says of one command, or of all.
pub(crate) fn help(of: Option<&Spec>) -> String {
    of.map_or_else(list, |spec| format!("Usage: {}\n  {}\n", spec.usage(), spec.about))
}

/// All commands with a short description, one per line.
pub(crate) fn list() -> String {
    let usages: Vec<String> = COMMANDS.iter().map(|spec| format!("{} {}", spec.name, spec.arguments)).collect();
    let width = usages.iter().map(String::len).max().unwrap_or_default();
    let lines = usages.iter().zip(COMMANDS).map(|(usage, spec)| format!("  {usage:width$}  {}\n", spec.about));
    lines.collect()
}
