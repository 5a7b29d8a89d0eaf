//! Clients, from the point of view of the engine: a request arrives at a node and is answered, or not.

use std::rc::Rc;
use std::sync::Arc;

use proto::cluster_map::ClusterMap;
use proto::id::Version;
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, Condition, Effect, Expiry, Modify, ReplyMode, Writes};
use proto::slot::SlotId;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Put(Rc<str>),
    Delete,
    Get,
    PutIfAbsent(Rc<str>),
    /// Expires after this many milliseconds.
    PutFor(Rc<str>, u64),
    /// Expires in this many milliseconds.
    Expire(u64),
    Persist,
    /// Writes `value` if the key is at `version`, at which it had the value `expected`.
    Swap {
        expected: Rc<str>,
        version: Version,
        value: Rc<str>,
    },
    /// Writes this value and returns the previous one.
    Exchange(Rc<str>),
    /// Adds 1 and returns the sum.
    Count,
    /// Writes several keys of a slot, of which the key is the first, if all of them are absent.
    PutAllAbsent(Together),
}

/// Several keys that are to get the same value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Together {
    pub(crate) keys: Vec<Rc<str>>,
    pub(crate) value: Rc<str>,
    /// See [`Writes`].
    writes: Vec<u8>,
}

impl Together {
    pub(crate) fn new(keys: Vec<Rc<str>>, value: Rc<str>) -> Self {
        let mut writes = Vec::new();
        keys.iter().for_each(|key| Writes::push(key.as_bytes(), Effect::Put(value.as_bytes()), &mut writes));
        Self { keys, value, writes }
    }

    pub(crate) fn writes(&self) -> Writes<'_> {
        Writes::known(&self.writes)
    }
}

/// An operation of a client. It may be tried several times.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) client: u8,
    pub(crate) key: Rc<str>,
    pub(crate) slot: SlotId,
    pub(crate) what: What,
    pub(crate) ack: AckLevel,
    pub(crate) read: ReadLevel,
    /// The client's own number for the write, if the write carries an identity.
    pub(crate) identity: Option<u64>,
    /// Its history is judged.
    pub(crate) is_judged: bool,
}

/// One attempt at an operation, in flight.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) operation: Rc<Operation>,
    pub(crate) serial: u32,
    /// It was forwarded by another node.
    pub(crate) is_forwarded: bool,
    /// Until when a node keeps it, in real time.
    pub(crate) deadline: u64,
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A write was done; this is its record.
    Done(Version),
    Conflict,
    Value(Option<Rc<str>>, Version),
    /// A write was done as this record and replaced this value.
    Exchanged(Option<Rc<str>>, Version),
    /// A write was done as this record, with this sum.
    Counted(i64, Version),
    /// Nothing was done.
    Refused,
    /// Nothing was done, because there is no memory for it.
    Full,
    /// It may have taken effect, or may yet do so.
    Unknown,
}

/// An answer on its way to a client.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) client: u8,
    pub(crate) serial: u32,
    pub(crate) outcome: Outcome,
}

/// A client. It has one operation at a time.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) name: String,
    /// Identifies the current attempt or pause: answers to earlier attempts are ignored.
    pub(crate) serial: u32,
    pub(crate) current: Option<Current>,
    /// The map by which it chooses nodes; it may be stale.
    pub(crate) map: Option<Arc<ClusterMap>>,
    /// What it knows of keys: the value and version it last saw.
    pub(crate) seen: Vec<Option<(Option<Rc<str>>, Version)>>,
    pub(crate) writes: u64,
    pub(crate) identities: u64,
    pub(crate) is_stopped: bool,
}

/// The operation in progress.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) operation: Rc<Operation>,
    /// The index of its key among the judged keys.
    pub(crate) key: usize,
    pub(crate) call: u64,
    pub(crate) tries: u32,
    /// An earlier attempt may have taken effect, or may yet do so.
    pub(crate) is_uncertain: bool,
    /// It waits for an answer, not for the next attempt.
    pub(crate) is_sent: bool,
}

impl Client {
    pub(crate) fn new(number: u8, keys: usize) -> Self {
        Self {
            name: format!("client{number}"),
            serial: 0,
            current: None,
            map: None,
            seen: vec![None; keys],
            writes: 0,
            identities: 0,
            is_stopped: false,
        }
    }
}

impl Outcome {
    /// The record of a completed write, [`Version::NONE`] if it changed nothing.
    pub(crate) fn done(&self) -> Option<Version> {
        match self {
            Self::Done(version) | Self::Exchanged(_, version) | Self::Counted(_, version) => Some(*version),
            Self::Conflict | Self::Value(..) | Self::Refused | Self::Full | Self::Unknown => None,
        }
    }
}

impl Operation {
    pub(crate) fn is_write(&self) -> bool {
        self.what != What::Get
    }
}

impl What {
    /// The value to be written.
    pub(crate) fn value(&self) -> Option<&Rc<str>> {
        match self {
            Self::Put(value)
            | Self::PutIfAbsent(value)
            | Self::PutFor(value, _)
            | Self::Swap { value, .. }
            | Self::Exchange(value)
            | Self::PutAllAbsent(Together { value, .. }) => Some(value),
            Self::Delete | Self::Get | Self::Expire(_) | Self::Persist | Self::Count => None,
        }
    }

    /// The change to request from a node; `None` for a read.
    pub(crate) fn change(&self) -> Option<Change<'_>> {
        Some(match self {
            Self::Put(value) | Self::PutIfAbsent(value) | Self::Swap { value, .. } => Change::Put(value.as_bytes()),
            Self::PutFor(value, millis) => Change::PutFor(value.as_bytes(), *millis),
            Self::Delete => Change::Delete,
            Self::Expire(millis) => Change::Expire(*millis),
            Self::Persist => Change::Persist,
            Self::Exchange(value) => Change::Modify(Modify::Set {
                value: value.as_bytes(),
                condition: Condition::Always,
                expiry: Expiry::Never,
                reply_mode: ReplyMode::Old,
            }),
            Self::Count => Change::Modify(Modify::Increment(1)),
            Self::PutAllAbsent(together) => Change::Modify(Modify::SetAllAbsent(together.writes())),
            Self::Get => return None,
        })
    }

    /// The version that the key must have.
    pub(crate) fn expected(&self) -> Option<Version> {
        match self {
            Self::PutIfAbsent(_) => Some(Version::NONE),
            Self::Swap { version, .. } => Some(*version),
            Self::Put(_)
            | Self::PutFor(..)
            | Self::Delete
            | Self::Get
            | Self::Expire(_)
            | Self::Persist
            | Self::Exchange(_)
            | Self::Count
            | Self::PutAllAbsent(_) => None,
        }
    }
}
