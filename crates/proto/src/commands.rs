//! The commands of a node in the array encoding, as reported by `COMMAND`. The same table yields the errors about a
//! wrong number of words.

mod arguments;

pub use arguments::{Argument, Kind, arguments};

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command {
    /// Its name, in lower case.
    pub name: &'static str,
    /// How many words it has, including its name; if negative, at least that many.
    pub arity: i32,
    /// Its flags, in Redis's terms.
    pub flags: &'static [&'static str],
    /// Which words are keys: the first, the last (-1: the last word), and the step between keys; 0 if there are none.
    pub keys: (i32, i32, i32),
    /// `connection`, `server`, `generic` or `string`.
    pub group: &'static str,
    /// The first version of Redis that has it; for commands that Redis lacks, of this store.
    pub since: &'static str,
    /// The words after its name, in the format that [`arguments()`] reads.
    pub syntax: &'static str,
    /// What it does.
    pub summary: &'static str,
}

impl Command {
    /// Looks a command up by name, in any case.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Looks a command or subcommand, such as `client|id`, up by name, in any case.
    #[must_use]
    pub fn documented(name: &[u8]) -> Option<&'static Self> {
        let is_it = |command: &&Self| command.name.as_bytes().eq_ignore_ascii_case(name);
        COMMANDS.iter().chain(&SUBCOMMANDS).find(is_it)
    }

    /// Its subcommands, such as `client|id` of `client`.
    pub fn subcommands(&self) -> impl Iterator<Item = &'static Self> + Clone {
        let container = self.name;
        SUBCOMMANDS.iter().filter(move |part| part.name.split_once('|').is_some_and(|(of, _)| of == container))
    }

    /// Whether it accepts this many words, including its name.
    #[must_use]
    pub fn takes(&self, words: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { words >= least } else { words == least }
    }

    /// Its categories, in Redis's terms and order.
    pub fn categories(&self) -> impl Iterator<Item = &'static str> + Clone {
        let has = |flag| self.flags.contains(&flag);
        let group = match (self.name, self.group) {
            // Only their subcommands are in a group.
            ("client" | "object", _) => "",
            ("command" | "wait", _) => "connection",
            ("dbsize" | "flushall" | "flushdb", _) => "generic",
            (_, group) => group,
        };
        let all = [
            ("@keyspace", group == "generic"),
            ("@read", has("readonly")),
            ("@write", has("write")),
            ("@string", group == "string"),
            ("@admin", self.name == "role"),
            ("@fast", has("fast")),
            ("@slow", !has("fast")),
            ("@dangerous", matches!(self.name, "flushall" | "flushdb" | "info" | "keys" | "role")),
            ("@connection", group == "connection"),
        ];
        all.into_iter().filter_map(|(category, is_in)| is_in.then_some(category))
    }
}

const CONTAINER: &[&str] = &[];
const BEFORE_AUTH: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const FAST: &[&str] = &["fast"];
const FAST_GROWS: &[&str] = &["write", "denyoom", "fast"];
const FAST_READ: &[&str] = &["readonly", "fast"];
const FAST_SERVER: &[&str] = &["loading", "stale", "fast"];
const FAST_SERVER_ROLE: &[&str] = &["noscript", "loading", "stale", "fast"];
const FAST_WRITE: &[&str] = &["write", "fast"];
const GROWS: &[&str] = &["write", "denyoom"];
const NO_SCRIPT: &[&str] = &["noscript"];
const READ: &[&str] = &["readonly"];
const SERVER: &[&str] = &["loading", "stale"];
const WRITE: &[&str] = &["write"];

const NONE: (i32, i32, i32) = (0, 0, 0);
const ONE: (i32, i32, i32) = (1, 1, 1);
const TWO: (i32, i32, i32) = (1, 2, 1);
const ALL: (i32, i32, i32) = (1, -1, 1);
const PAIRS: (i32, i32, i32) = (1, -1, 2);

/// The columns of [`Command`], in their order.
type Row = (
    &'static str,
    i32,
    &'static [&'static str],
    (i32, i32, i32),
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const fn command((name, arity, flags, keys, group, since, syntax, summary): Row) -> Command {
    Command { name, arity, flags, keys, group, since, syntax, summary }
}

/// All commands.
#[rustfmt::skip]
pub static COMMANDS: [Command; 76] = [
    // Connection and server, as in Redis.
    command(("ping", -1, FAST, NONE, "connection", "1.0.0", "[message]", "Answers PONG, or the message")),
    command(("echo", 2, FAST_SERVER, NONE, "connection", "1.0.0", "message", "Answers the message")),
    command(("hello", -1, BEFORE_AUTH, NONE, "connection", "6.0.0", "[protover [AUTH username password] [SETNAME clientname]]", "Chooses RESP2 or RESP3, and describes the server")),
    command(("auth", -2, BEFORE_AUTH, NONE, "connection", "1.0.0", "[username] password", "Authenticates the client")),
    command(("select", 2, FAST_SERVER, NONE, "connection", "1.0.0", "index", "There is one database, 0")),
    command(("quit", -1, BEFORE_AUTH, NONE, "connection", "1.0.0", "", "Answers, then closes the connection")),
    command(("reset", 1, BEFORE_AUTH, NONE, "connection", "6.2.0", "", "Resets the connection")),
    command(("client", -2, CONTAINER, NONE, "connection", "2.4.0", "", "Information about connections")),
    command(("command", -1, SERVER, NONE, "server", "2.8.13", "", "Lists the commands")),
    command(("config", -2, CONTAINER, NONE, "server", "2.0.0", "", "Settings by their names in Redis")),
    command(("info", -1, SERVER, NONE, "server", "1.0.0", "[section ...]", "Information about the node")),
    command(("dbsize", 1, FAST_READ, NONE, "server", "1.0.0", "", "The number of keys in the cluster")),
    command(("time", 1, FAST_SERVER, NONE, "server", "2.6.0", "", "The seconds and microseconds of the wall clock")),
    command(("role", 1, FAST_SERVER_ROLE, NONE, "server", "2.8.12", "", "The role of the node, for clients")),
    command(("wait", 3, NO_SCRIPT, NONE, "generic", "3.0.0", "numreplicas timeout", "Waits until replicas have what this connection has written")),
    // Keys, as in Redis.
    command(("set", -3, GROWS, ONE, "string", "1.0.0", "key value [NX|XX|IFEQ comparison-value] [GET] [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|KEEPTTL]", "Stores a value")),
    command(("get", 2, FAST_READ, ONE, "string", "1.0.0", "key", "The value of a key")),
    command(("getset", 3, FAST_GROWS, ONE, "string", "1.0.0", "key value", "Stores a value and returns the previous value")),
    command(("getdel", 2, FAST_WRITE, ONE, "string", "6.2.0", "key", "Deletes a key and returns its value")),
    command(("getex", -2, FAST_WRITE, ONE, "string", "6.2.0", "key [EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]", "Returns the value of a key and can change its deadline")),
    command(("setnx", 3, FAST_GROWS, ONE, "string", "1.0.0", "key value", "Stores a value if the key is absent")),
    command(("setex", 4, GROWS, ONE, "string", "2.0.0", "key seconds value", "Stores a value with a TTL in seconds")),
    command(("psetex", 4, GROWS, ONE, "string", "2.6.0", "key milliseconds value", "Stores a value with a TTL in milliseconds")),
    command(("mget", -2, FAST_READ, ALL, "string", "1.0.0", "key [key ...]", "The values of several keys")),
    command(("mset", -3, GROWS, PAIRS, "string", "1.0.1", "key value [key value ...]", "Stores several values")),
    command(("msetnx", -3, GROWS, PAIRS, "string", "1.0.1", "key value [key value ...]", "Stores several values if all keys are absent")),
    command(("strlen", 2, FAST_READ, ONE, "string", "2.2.0", "key", "The length of a value")),
    command(("append", 3, FAST_GROWS, ONE, "string", "2.0.0", "key value", "Appends to a value")),
    command(("getrange", 4, READ, ONE, "string", "2.4.0", "key start end", "A part of a value")),
    command(("setrange", 4, GROWS, ONE, "string", "2.2.0", "key offset value", "Overwrites a part of a value")),
    command(("substr", 4, READ, ONE, "string", "1.0.0", "key start end", "A part of a value: the old name of GETRANGE")),
    command(("incr", 2, FAST_GROWS, ONE, "string", "1.0.0", "key", "Increments a number by one")),
    command(("decr", 2, FAST_GROWS, ONE, "string", "1.0.0", "key", "Decrements a number by one")),
    command(("incrby", 3, FAST_GROWS, ONE, "string", "1.0.0", "key increment", "Adds to a number")),
    command(("decrby", 3, FAST_GROWS, ONE, "string", "1.0.0", "key decrement", "Subtracts from a number")),
    command(("incrbyfloat", 3, FAST_GROWS, ONE, "string", "2.6.0", "key increment", "Adds to a number that may have a fraction")),
    command(("del", -2, WRITE, ALL, "generic", "1.0.0", "key [key ...]", "Deletes keys")),
    command(("unlink", -2, FAST_WRITE, ALL, "generic", "4.0.0", "key [key ...]", "Deletes keys")),
    command(("exists", -2, FAST_READ, ALL, "generic", "1.0.0", "key [key ...]", "How many of the keys exist")),
    command(("touch", -2, FAST_READ, ALL, "generic", "3.2.1", "key [key ...]", "How many of the keys exist")),
    command(("type", 2, FAST_READ, ONE, "generic", "1.0.0", "key", "The type of a value: string, or none")),
    command(("rename", 3, WRITE, TWO, "generic", "1.0.0", "key newkey", "Renames a key")),
    command(("renamenx", 3, FAST_WRITE, TWO, "generic", "1.0.0", "key newkey", "Renames a key if the new name is absent")),
    command(("keys", 2, READ, NONE, "generic", "1.0.0", "pattern", "The keys that match a pattern")),
    command(("scan", -2, READ, NONE, "generic", "2.8.0", "cursor [MATCH pattern] [COUNT count] [TYPE type]", "Walks through the keys")),
    command(("randomkey", 1, READ, NONE, "generic", "1.0.0", "", "One of the keys")),
    command(("flushall", -1, WRITE, NONE, "server", "1.0.0", "[ASYNC|SYNC]", "Deletes every key")),
    command(("flushdb", -1, WRITE, NONE, "server", "1.0.0", "[ASYNC|SYNC]", "Deletes every key")),
    command(("expire", -3, FAST_WRITE, ONE, "generic", "1.0.0", "key seconds [NX|XX|GT|LT]", "Sets the TTL of a key")),
    command(("pexpire", -3, FAST_WRITE, ONE, "generic", "2.6.0", "key milliseconds [NX|XX|GT|LT]", "Sets the TTL of a key")),
    command(("expireat", -3, FAST_WRITE, ONE, "generic", "1.2.0", "key unix-time-seconds [NX|XX|GT|LT]", "Sets the deadline of a key")),
    command(("pexpireat", -3, FAST_WRITE, ONE, "generic", "2.6.0", "key unix-time-milliseconds [NX|XX|GT|LT]", "Sets the deadline of a key")),
    command(("ttl", 2, FAST_READ, ONE, "generic", "1.0.0", "key", "The TTL of a key in seconds")),
    command(("pttl", 2, FAST_READ, ONE, "generic", "2.6.0", "key", "The TTL of a key in milliseconds")),
    command(("expiretime", 2, FAST_READ, ONE, "generic", "7.0.0", "key", "The deadline of a key in seconds since 1970")),
    command(("pexpiretime", 2, FAST_READ, ONE, "generic", "7.0.0", "key", "The deadline of a key in milliseconds since 1970")),
    command(("persist", 2, FAST_WRITE, ONE, "generic", "2.2.0", "key", "Removes the TTL")),
    command(("object", -2, CONTAINER, NONE, "generic", "2.2.3", "", "How a value is stored")),
    command(("memory", -2, CONTAINER, NONE, "server", "4.0.0", "", "The bytes that a key takes")),
    // This store's own.
    command(("put", 3, GROWS, ONE, "string", "0.1.0", "key value", "Stores a value")),
    command(("delete", 2, WRITE, ONE, "generic", "0.1.0", "key", "Deletes a key, and answers OK")),
    command(("getv", 2, FAST_READ, ONE, "string", "0.1.0", "key", "The value of a key and its version")),
    command(("cas", 4, GROWS, ONE, "string", "0.1.0", "key version value", "Stores a value if the key is at that version")),
    command(("putnx", 3, GROWS, ONE, "string", "0.1.0", "key value", "Stores a value if the key is absent")),
    command(("putex", 4, GROWS, ONE, "string", "0.1.0", "key seconds value", "Stores a value with a TTL in seconds")),
    command(("mput", -3, GROWS, PAIRS, "string", "0.1.0", "key value [key value ...]", "Stores several values, each on its own")),
    command(("prefix", -2, READ, NONE, "generic", "0.1.0", "prefix [LIMIT count] [AFTER key]", "A page of the keys with a prefix")),
    command(("range", -3, READ, NONE, "generic", "0.1.0", "from to [LIMIT count] [AFTER key]", "A page of the keys in a range")),
    command(("count", 2, READ, NONE, "generic", "0.1.0", "prefix", "How many keys have a prefix")),
    command(("once", -4, GROWS, NONE, "generic", "0.1.0", "client seq command [arg ...]", "A write with an identity, which takes effect once")),
    command(("ack", 2, FAST, NONE, "connection", "0.1.0", "async|quorum|all", "When the writes of this connection are answered")),
    command(("read", 2, FAST, NONE, "connection", "0.1.0", "local|linear", "What the reads of this connection may return")),
    command(("losses", 1, READ, NONE, "server", "0.1.0", "", "The writes that the node dropped because the next primary may lack them")),
    command(("stats", 1, FAST_READ, NONE, "server", "0.1.0", "", "The figures of the node")),
    command(("verify", 1, READ, NONE, "server", "0.1.0", "", "Compares all copies of the slots that the node leads")),
    command(("replicate", 3, GROWS, ONE, "string", "0.1.0", "key value", "PUT under the first version's name")),
];

/// All subcommands.
#[rustfmt::skip]
pub static SUBCOMMANDS: [Command; 23] = [
    command(("client|id", 2, FAST_SERVER, NONE, "connection", "5.0.0", "", "The ID of the connection")),
    command(("client|info", 2, FAST_SERVER, NONE, "connection", "6.2.0", "", "Information about the connection")),
    command(("client|list", -2, SERVER, NONE, "connection", "2.4.0", "[TYPE type] [ID client-id [client-id ...]]", "Information about connections")),
    command(("client|getname", 2, FAST_SERVER, NONE, "connection", "2.6.9", "", "The name of the connection")),
    command(("client|setname", 3, FAST_SERVER, NONE, "connection", "2.6.9", "connection-name", "Sets the name of the connection")),
    command(("client|setinfo", 4, FAST_SERVER, NONE, "connection", "7.2.0", "LIB-NAME libname|LIB-VER libver", "Sets the client's library name or version")),
    command(("client|no-evict", 3, FAST_SERVER, NONE, "connection", "7.0.0", "ON|OFF", "No effect: no connection is dropped for lack of memory")),
    command(("client|no-touch", 3, FAST_SERVER, NONE, "connection", "7.2.0", "ON|OFF", "Remembered, without effect")),
    command(("client|help", 2, SERVER, NONE, "connection", "5.0.0", "", "Lists the subcommands")),
    command(("command|count", 2, SERVER, NONE, "server", "2.8.13", "", "How many commands there are")),
    command(("command|docs", -2, SERVER, NONE, "server", "7.0.0", "[command-name ...]", "Describes commands for people")),
    command(("command|info", -2, SERVER, NONE, "server", "2.8.13", "[command-name ...]", "Describes commands for programs")),
    command(("command|list", -2, SERVER, NONE, "server", "7.0.0", "[FILTERBY MODULE module-name|ACLCAT category|PATTERN pattern]", "The names of commands")),
    command(("command|help", 2, SERVER, NONE, "server", "5.0.0", "", "Lists the subcommands")),
    command(("config|get", -3, SERVER, NONE, "server", "2.0.0", "parameter [parameter ...]", "Settings by their names in Redis")),
    command(("config|help", 2, SERVER, NONE, "server", "5.0.0", "", "Lists the subcommands")),
    command(("memory|usage", -3, READ, (2, 2, 1), "server", "4.0.0", "key [SAMPLES count]", "The bytes that a key takes")),
    command(("memory|help", 2, SERVER, NONE, "server", "4.0.0", "", "Lists the subcommands")),
    command(("object|encoding", 3, READ, (2, 2, 1), "generic", "2.2.3", "key", "int, embstr or raw")),
    command(("object|freq", 3, READ, (2, 2, 1), "generic", "4.0.0", "key", "Always an error: uses are not counted")),
    command(("object|idletime", 3, READ, (2, 2, 1), "generic", "2.2.3", "key", "The seconds since a key was used")),
    command(("object|refcount", 3, READ, (2, 2, 1), "generic", "2.2.3", "key", "Always 1")),
    command(("object|help", 2, SERVER, NONE, "generic", "6.2.0", "", "Lists the subcommands")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_lower_case_and_stand_once() {
        for (at, command) in COMMANDS.iter().enumerate() {
            assert_eq!(command.name, command.name.to_ascii_lowercase());
            assert_eq!(COMMANDS.iter().position(|other| other.name == command.name), Some(at));
            assert!(command.takes(command.arity.unsigned_abs() as usize));
            assert!(!command.takes(command.arity.unsigned_abs() as usize - 1), "{}", command.name);
        }
        assert_eq!(Command::named(b"GeT").map(|command| command.name), Some("get"));
        assert_eq!(Command::named(b"lpush"), None);
    }

    #[test]
    fn every_part_belongs_to_a_command_and_every_syntax_is_understood() {
        for part in &SUBCOMMANDS {
            let container = part.name.split_once('|').map(|(container, _)| container).unwrap();
            let container = Command::named(container.as_bytes()).unwrap();
            assert!(container.syntax.is_empty() && container.subcommands().any(|other| other == part));
        }
        for command in COMMANDS.iter().chain(&SUBCOMMANDS) {
            let (found, least) = (arguments(command.syntax), command.arity.unsigned_abs() as usize - 1);
            let parts = command.name.matches('|').count();
            let needed = arguments::least(&found) + parts;
            let is_container = command.subcommands().next().is_some();
            assert!(is_container || needed == least, "{}: {needed} words, not {least}", command.name);
            assert_eq!(arguments::shown(&found), command.syntax, "{}", command.name);
        }
        assert_eq!(Command::documented(b"CLIENT|id").map(|command| command.since), Some("5.0.0"));
    }

    #[test]
    fn categories_are_those_of_redis() {
        for (name, categories) in [
            ("get", "@read @string @fast"),
            ("set", "@write @string @slow"),
            ("del", "@keyspace @write @slow"),
            ("ping", "@fast @connection"),
            ("keys", "@keyspace @read @slow @dangerous"),
            ("dbsize", "@keyspace @read @fast"),
            ("flushall", "@keyspace @write @slow @dangerous"),
            ("flushdb", "@keyspace @write @slow @dangerous"),
            ("info", "@slow @dangerous"),
            ("role", "@admin @fast @dangerous"),
            ("wait", "@slow @connection"),
            ("command", "@slow @connection"),
            ("client", "@slow"),
            ("config", "@slow"),
            ("memory", "@slow"),
            ("object", "@slow"),
            ("time", "@fast"),
        ] {
            let of = Command::named(name.as_bytes()).unwrap().categories().collect::<Vec<_>>();
            assert_eq!(of.join(" "), categories, "{name}");
        }
    }
}
