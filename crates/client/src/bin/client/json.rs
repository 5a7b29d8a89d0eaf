//! Outcomes as JSON, one object on one line.
//!
//! Every object has `command` and `ok`, and `key` where the command has one. What follows depends on the command:
//! `primary` and `replicas` for a PUT, PUTEX, DELETE or GET_NODES_FOR_KEY; `found`, `value`, `from` and `replica` for a
//! GET or GETV, plus `version` for the latter; `written` and `version`, the key's current one, for a CAS or PUTNX;
//! `number` for an EXPIRE, TTL or PERSIST; `keys` for a PREFIX or RANGE; `count`; `level` for an ACK or READ, and
//! `own`, false if it is the cluster's; `nodes`, `info`, `stats`, `losses`, `text`; `status`, one word, and `lines` for
//! a STATUS; `results` for an MGET or MPUT, one object per key, and for a VERIFY, one object per node with `equal` and
//! `lines`. Each object in `results` has its own `ok`, and the outer one is true only if all are. A failure has
//! `error`, one of `usage`, `not_reached`, `refused`, `unknown` and `interrupted`, and a human-readable `text`. Bytes
//! that are not UTF-8 are in `key_base64` and `value_base64` instead.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use client::{Cas, Error, NodeAddr, Placement, Read};
use serde_json::{Map, Value, json};

use crate::command::{Command, CommandError};
use crate::execute::Outcome;
use crate::output::{Exit, is_equal, number};

pub(crate) fn of_outcome(command: &Command<'_>, outcome: &Outcome) -> Vec<u8> {
    let mut object = Object::new(command.name(), !matches!(outcome, Outcome::Failed(_) | Outcome::Interrupted));
    if let Some(key) = command.key() {
        object.bytes("key", key);
    }
    match outcome {
        Outcome::Stored(placement) | Outcome::Deleted(placement) | Outcome::Holders(placement) => {
            object.placement(placement);
        }
        Outcome::Read(Read { value, version, node, from_replica })
        | Outcome::ReadVersioned(Read { value, version, node, from_replica }) => {
            object.set("found", value.is_some());
            if let Some(value) = value {
                object.bytes("value", value);
            }
            if let Some(version) = version {
                object.set("version", version.to_string());
            }
            object.set("from", node.as_str());
            object.set("replica", *from_replica);
        }
        Outcome::Conditional(Cas::Written(version) | Cas::Conflict(version)) => {
            object.set("written", matches!(outcome, Outcome::Conditional(Cas::Written(_))));
            object.set("version", version.to_string());
        }
        Outcome::Counted(_) | Outcome::Ttl(_) => object.set("number", number(outcome)),
        Outcome::Keys(keys) => {
            object.set("keys", keys.iter().map(|key| text_or_base64("key", key)).collect::<Vec<_>>())
        }
        Outcome::Count(count) => object.set("count", *count),
        Outcome::ReadMany(read) => {
            let each = |value: &Option<Vec<u8>>, one: &mut Object| {
                one.set("found", value.is_some());
                value.iter().for_each(|value| one.bytes("value", value));
            };
            object.many(command, read, each);
        }
        Outcome::StoredMany(stored) => object.many(command, stored, |placement, one| one.placement(placement)),
        Outcome::Level { level, is_own } => {
            object.set("level", level.as_str());
            object.set("own", *is_own);
        }
        Outcome::Losses(losses) => object.set("losses", losses.clone()),
        Outcome::CoordinatorReply(text) => object.set("text", text.as_str()),
        Outcome::Nodes(nodes) => object.set("nodes", texts(nodes)),
        Outcome::Stats(stats) => {
            let figures = stats.iter().map(|(name, figure)| (name.clone(), Value::from(*figure)));
            object.set("stats", figures.collect::<Map<_, _>>());
        }
        Outcome::Status(lines) => {
            let word = lines.first().and_then(|first| first.strip_prefix("OK Status ")?.split_once(':'));
            object.set("status", word.map(|(word, _)| word));
            object.set("lines", lines.clone());
        }
        Outcome::Verified(nodes) => {
            object.set("ok", nodes.iter().all(|(_, told)| told.is_ok()));
            let each = nodes.iter().map(|(node, told)| match told {
                Ok(lines) => json!({"node": node.as_str(), "ok": true, "equal": is_equal(told), "lines": lines}),
                Err(error) => {
                    json!({"node": node.as_str(), "ok": false, "error": kind(error), "text": error.to_string()})
                }
            });
            object.set("results", each.collect::<Vec<_>>());
        }
        Outcome::Info(info) => object.set("info", info.as_str()),
        Outcome::Pong { addr, .. } => object.set("from", addr.as_str()),
        Outcome::Help(text) => object.set("text", text.as_str()),
        Outcome::Bye => {}
        Outcome::Interrupted => object.error("interrupted", "interrupted"),
        Outcome::Failed(error) => object.error(kind(error), &error.to_string()),
    }
    object.into_line()
}

pub(crate) fn of_no_command(error: &CommandError) -> Vec<u8> {
    let name = match error {
        CommandError::Usage { name, .. } | CommandError::NeedsSession { name, .. } => name,
        CommandError::Unknown(word) => word.as_str(),
        CommandError::Empty => "",
    };
    let mut object = Object::new(name, false);
    object.error("usage", &error.to_string());
    object.into_line()
}

pub(crate) fn of_no_line(error: &Error) -> Vec<u8> {
    let mut object = Object::new("", false);
    object.error(kind(error), &error.to_string());
    object.into_line()
}

/// An object under construction.
struct Object(Map<String, Value>);

impl Object {
    fn new(command: &str, ok: bool) -> Self {
        let mut object = Self(Map::new());
        object.set("command", command);
        object.set("ok", ok);
        object
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.set(name, text),
            Err(_) => self.set(&format!("{name}_base64"), BASE64.encode(bytes)),
        }
    }

    fn placement(&mut self, placement: &Placement) {
        self.set("primary", placement.primary.as_ref().map(NodeAddr::as_str));
        self.set("replicas", texts(&placement.replicas));
    }

    /// One object for each of many keys.
    fn many<T>(&mut self, command: &Command<'_>, results: &[Result<T, Error>], fill: impl Fn(&T, &mut Object)) {
        self.set("ok", results.iter().all(Result::is_ok));
        let each = command.keys().into_iter().zip(results).map(|(key, result)| {
            let mut one = Self(Map::new());
            one.set("ok", result.is_ok());
            one.bytes("key", key);
            match result {
                Ok(done) => fill(done, &mut one),
                Err(error) => one.error(kind(error), &error.to_string()),
            }
            Value::Object(one.0)
        });
        let each: Vec<_> = each.collect();
        self.set("results", each);
    }

    fn error(&mut self, kind: &str, text: &str) {
        self.set("error", kind);
        self.set("text", text);
    }

    fn into_line(self) -> Vec<u8> {
        format!("{}\n", Value::Object(self.0)).into_bytes()
    }
}

/// Bytes as a string, or as an object with their base64 if they are not text.
fn text_or_base64(name: &str, bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ format!("{name}_base64"): BASE64.encode(bytes) }),
    }
}

fn texts(nodes: &[NodeAddr]) -> Value {
    json!(nodes.iter().map(NodeAddr::as_str).collect::<Vec<_>>())
}

fn kind(error: &Error) -> &'static str {
    match Exit::of(error) {
        Exit::Usage => "usage",
        Exit::NotReached => "not_reached",
        Exit::Refused => "refused",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(command: &[u8], outcome: &Outcome) -> Value {
        let line = of_outcome(&Command::parse(command).unwrap(), outcome);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(&line).unwrap()
    }

    fn read(value: Option<&[u8]>) -> Outcome {
        let node = "h:1".parse().unwrap();
        Outcome::Read(Read { value: value.map(<[u8]>::to_vec), version: None, node, from_replica: false })
    }

    #[test]
    fn a_value_that_is_no_text_is_base64() {
        assert_eq!(
            object(b"GET k", &read(Some(b"a\nb \"c\""))),
            json!({"command": "GET", "ok": true, "key": "k", "found": true, "value": "a\nb \"c\"", "from": "h:1", "replica": false})
        );
        assert_eq!(
            object(b"GET \xfe", &read(Some(b"\xff\x00"))),
            json!({"command": "GET", "ok": true, "key_base64": "/g==", "found": true, "value_base64": "/wA=", "from": "h:1", "replica": false})
        );
        assert_eq!(
            object(b"GET k", &read(None)),
            json!({"command": "GET", "ok": true, "key": "k", "found": false, "from": "h:1", "replica": false})
        );
    }

    #[test]
    fn versions_are_words_and_a_conflict_is_no_error() {
        let node = "h:1".parse().unwrap();
        let read = Read { value: Some(b"v".to_vec()), version: "3-12".parse().ok(), node, from_replica: false };
        assert_eq!(
            object(b"GETV k", &Outcome::ReadVersioned(read)),
            json!({"command": "GETV", "ok": true, "key": "k", "found": true, "value": "v", "version": "3-12", "from": "h:1", "replica": false})
        );
        assert_eq!(
            object(b"CAS k 3-12 v", &Outcome::Conditional(Cas::Written("3-13".parse().unwrap()))),
            json!({"command": "CAS", "ok": true, "key": "k", "written": true, "version": "3-13"})
        );
        assert_eq!(
            object(b"EXPIRE k 9", &Outcome::Counted(false)),
            json!({"command": "EXPIRE", "ok": true, "key": "k", "number": 0})
        );
        assert_eq!(
            object(b"PUTNX k v", &Outcome::Conditional(Cas::Conflict("3-13".parse().unwrap()))),
            json!({"command": "PUTNX", "ok": true, "key": "k", "written": false, "version": "3-13"})
        );
    }

    #[test]
    fn keys_are_a_list_and_many_results_have_their_own_outcome() {
        assert_eq!(
            object(b"PREFIX k", &Outcome::Keys(vec![b"k".to_vec(), b"k\xfe".to_vec()])),
            json!({"command": "PREFIX", "ok": true, "keys": ["k", {"key_base64": "a/4="}]})
        );
        let lines = ["OK Status degraded: x".to_owned(), "1 slot".to_owned()];
        assert_eq!(
            object(b"STATUS", &Outcome::Status(lines.to_vec())),
            json!({"command": "STATUS", "ok": true, "status": "degraded", "lines": lines})
        );
        assert_eq!(object(b"COUNT k", &Outcome::Count(3)), json!({"command": "COUNT", "ok": true, "count": 3}));
        let failed = Err(Error::Refused { by: None, reason: "UNAVAILABLE x".into() });
        assert_eq!(
            object(b"MGET a b", &Outcome::ReadMany(vec![Ok(Some(b"v".to_vec())), failed])),
            json!({"command": "MGET", "ok": false, "results": [
                {"key": "a", "ok": true, "found": true, "value": "v"},
                {"key": "b", "ok": false, "error": "refused", "text": "UNAVAILABLE x"},
            ]})
        );
    }

    #[test]
    fn placements_and_errors_have_members_of_their_own() {
        let placement = Placement { primary: Some("h:1".parse().unwrap()), replicas: vec!["h:2".parse().unwrap()] };
        assert_eq!(
            object(b"put k v", &Outcome::Stored(placement)),
            json!({"command": "PUT", "ok": true, "key": "k", "primary": "h:1", "replicas": ["h:2"]})
        );
        assert_eq!(
            object(b"DELETE k", &Outcome::Failed(Error::Unknown { reason: "lost".into() })),
            json!({"command": "DELETE", "ok": false, "key": "k", "error": "unknown", "text": "UNKNOWN lost"})
        );
        let usage: Value = serde_json::from_slice(&of_no_command(&Command::parse(b"PUT k").unwrap_err())).unwrap();
        assert_eq!(usage, json!({"command": "PUT", "ok": false, "error": "usage", "text": "Usage: PUT key value"}));
    }
}
