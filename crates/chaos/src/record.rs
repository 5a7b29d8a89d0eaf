//! What a client task did and saw.

use std::collections::BTreeMap;
use std::time::Instant;

use client::{Cas, Error, Version};
use sim::history::{Action, History, Operation, Outcome};

/// How many different reasons of each kind are kept.
const REASONS: usize = 40;

/// How much of a reason is used to tell it from others.
const REASON_CHARS: usize = 90;

/// The single clock of a history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the start.
    pub(crate) fn micros(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// How often operations of one kind ended in each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) done: u64,
    pub(crate) conflict: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
}

/// The operations of one client task, or of all.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) history: Vec<Operation>,
    pub(crate) tallies: BTreeMap<&'static str, Tally>,
    /// Why operations were refused or had an unknown outcome, and how often.
    pub(crate) reasons: BTreeMap<String, u64>,
    /// Answers that are wrong regardless of the order of operations.
    pub(crate) oddities: Vec<String>,
    /// The results of reads at level local.
    seen_locally: Vec<Seen>,
    /// The value that a key had at a version.
    versions: BTreeMap<(String, Version), String>,
}

/// A value read at level local, where a read may return any value that the key ever had.
#[derive(Debug)]
struct Seen {
    key: String,
    value: String,
    /// When the answer arrived.
    end: u64,
}

/// An operation in progress.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) client: u32,
    pub(crate) key: &'a str,
    pub(crate) call: u64,
}

impl Record {
    /// Records the end of an unconditional write.
    pub(crate) fn wrote<T>(
        &mut self,
        call: &Call<'_>,
        end: u64,
        verb: &'static str,
        action: Action,
        told: Result<T, Error>,
    ) {
        match told {
            Ok(_) => {
                self.tally(verb).done += 1;
                self.push(call, Some(end), action);
            }
            Err(error) => {
                if self.failed(verb, &error) {
                    self.push(call, None, action);
                }
            }
        }
    }

    /// Records the end of a conditional write. `action` makes an operation from its outcome.
    pub(crate) fn wrote_if(
        &mut self,
        call: &Call<'_>,
        end: u64,
        verb: &'static str,
        (expected, value): (Version, &str),
        action: impl Fn(Outcome) -> Action,
        told: Result<Cas, Error>,
    ) {
        match told {
            Ok(Cas::Written(version)) => {
                self.tally(verb).done += 1;
                self.saw(call.key, version, value);
                self.push(call, Some(end), action(Outcome::Done));
            }
            Ok(Cas::Conflict(version)) => {
                self.tally(verb).conflict += 1;
                if version == expected {
                    let key = call.key;
                    self.oddities.push(format!("a {verb} of {key} was refused for version {version}, as expected"));
                }
                self.push(call, Some(end), action(Outcome::Conflict));
            }
            Err(error) => {
                if self.failed(verb, &error) {
                    self.push(call, None, action(Outcome::Unknown));
                }
            }
        }
    }

    /// Records the end of a read. Returns what it found.
    pub(crate) fn read(
        &mut self,
        call: &Call<'_>,
        end: u64,
        told: Result<client::Read, Error>,
    ) -> Option<(Version, String)> {
        match told {
            Ok(read) => {
                self.tally("get").done += 1;
                let result = read.value.map(|value| String::from_utf8_lossy(&value).into_owned());
                self.push(call, Some(end), Action::Get { result: result.clone() });
                let found = read.version.zip(result)?;
                self.saw(call.key, found.0, &found.1);
                Some(found)
            }
            Err(error) => {
                self.failed("get", &error);
                None
            }
        }
    }

    /// Records the end of a read at level local.
    pub(crate) fn read_locally(&mut self, key: &str, end: u64, told: Result<client::Read, Error>) {
        match told {
            Ok(read) => {
                self.tally("get at local").done += 1;
                let Some(value) = read.value.map(|value| String::from_utf8_lossy(&value).into_owned()) else { return };
                if let Some(version) = read.version {
                    self.saw(key, version, &value);
                }
                self.seen_locally.push(Seen { key: key.to_owned(), value, end });
            }
            Err(error) => {
                self.failed("get at local", &error);
            }
        }
    }

    /// Values that reads at level local found although nobody had written them to the key before.
    pub(crate) fn never_written(&self) -> Vec<String> {
        // Also where the answer is a conflict: a primary that was then replaced may have carried out an earlier attempt,
        // and shows it until it rolls back. That no other read sees it, the search for an order makes sure of.
        let written = |operation: &Operation| match &operation.action {
            Action::Put { value } | Action::PutIfAbsent { value, .. } | Action::Swap { value, .. } => {
                Some(((operation.key.clone(), value.clone()), operation.call))
            }
            _ => None,
        };
        let written: BTreeMap<_, _> = self.history.iter().filter_map(written).collect();
        let is_known = |Seen { key, value, end }: &&Seen| {
            written.get(&(key.clone(), value.clone())).is_some_and(|called| called <= end)
        };
        let describe = |Seen { key, value, end }: &Seen| {
            format!("{key} was read at the level local at {end} us as {value}, which nobody had written")
        };
        self.seen_locally.iter().filter(|seen| !is_known(seen)).map(describe).collect()
    }

    /// Adds what another task did and saw.
    pub(crate) fn add(&mut self, other: Self) {
        self.history.extend(other.history);
        self.seen_locally.extend(other.seen_locally);
        for (verb, tally) in other.tallies {
            let sum = self.tally(verb);
            sum.done += tally.done;
            sum.conflict += tally.conflict;
            sum.refused += tally.refused;
            sum.unknown += tally.unknown;
        }
        for (reason, count) in other.reasons {
            self.add_reason(reason, count);
        }
        self.oddities.extend(other.oddities);
        for ((key, version), value) in other.versions {
            self.saw(&key, version, &value);
        }
    }

    /// How many operations ended, in whatever way.
    pub(crate) fn operations(&self) -> u64 {
        self.tallies.values().map(|tally| tally.done + tally.conflict + tally.refused + tally.unknown).sum()
    }

    /// The history, for the judges.
    pub(crate) fn history(&self) -> History {
        let mut history = History::new();
        self.history.iter().cloned().for_each(|operation| history.push(operation));
        history
    }

    fn tally(&mut self, verb: &'static str) -> &mut Tally {
        self.tallies.entry(verb).or_default()
    }

    /// Counts a failure. Returns whether the operation may have taken effect.
    fn failed(&mut self, verb: &'static str, error: &Error) -> bool {
        let is_unknown = matches!(error, Error::Unknown { .. });
        let tally = self.tally(verb);
        if is_unknown {
            tally.unknown += 1;
        } else {
            tally.refused += 1;
        }
        self.add_reason(error.to_string().chars().take(REASON_CHARS).collect(), 1);
        is_unknown
    }

    fn add_reason(&mut self, reason: String, count: u64) {
        let is_room = self.reasons.len() < REASONS || self.reasons.contains_key(&reason);
        *self.reasons.entry(if is_room { reason } else { "other reasons".to_owned() }).or_default() += count;
    }

    /// Checks that each version of a key belongs to one value.
    fn saw(&mut self, key: &str, version: Version, value: &str) {
        let known = self.versions.entry((key.to_owned(), version)).or_insert_with(|| value.to_owned());
        if known != value {
            let oddity = format!("the version {version} of {key} had the value {known} and the value {value}");
            self.oddities.push(oddity);
        }
    }

    fn push(&mut self, call: &Call<'_>, end: Option<u64>, action: Action) {
        let Call { client, key, call } = *call;
        self.history.push(Operation { client, key: key.to_owned(), call, end, action });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Call<'static> = Call { client: 1, key: "k", call: 5 };

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn swap(outcome: Outcome) -> Action {
        Action::Swap { expected: "a".into(), value: "b".into(), outcome }
    }

    #[test]
    fn what_was_refused_is_left_out_and_what_is_unknown_has_no_end() {
        let mut record = Record::default();
        let refused = || Error::Refused { by: None, reason: "no".into() };
        let unknown = || Error::Unknown { reason: "who knows".into() };
        record.wrote(&CALL, 9, "delete", Action::Delete, Ok(()));
        record.wrote::<()>(&CALL, 9, "delete", Action::Delete, Err(refused()));
        record.wrote::<()>(&CALL, 9, "delete", Action::Delete, Err(unknown()));
        record.wrote_if(&CALL, 9, "cas", (version("1-1"), "b"), swap, Err(unknown()));
        assert_eq!(record.read(&CALL, 9, Err(refused())), None);
        let ends: Vec<_> = record.history().operations().iter().map(|operation| operation.end).collect();
        assert_eq!(ends, [Some(9), None, None]);
        assert_eq!(record.operations(), 5);
        assert_eq!(record.tallies["delete"], Tally { done: 1, conflict: 0, refused: 1, unknown: 1 });
    }

    #[test]
    fn two_values_of_one_version_are_told_also_across_tasks() {
        let (mut one, mut other) = (Record::default(), Record::default());
        let written = || Ok(Cas::Written(version("1-2")));
        one.wrote_if(&CALL, 9, "cas", (version("1-1"), "b"), swap, written());
        other.wrote_if(&CALL, 9, "cas", (version("1-1"), "c"), swap, written());
        assert!(one.oddities.is_empty() && other.oddities.is_empty());
        one.add(other);
        assert_eq!(one.oddities, ["the version 1-2 of k had the value b and the value c"]);
    }

    #[test]
    fn a_local_read_of_what_nobody_had_written_is_told() {
        let found = |value: &str| {
            let mut record = Record::default();
            let (early, late) = (Call { call: 5, ..CALL }, Call { call: 20, ..CALL });
            record.wrote(&early, 9, "put", Action::Put { value: "a".into() }, Ok(()));
            record.wrote(&late, 29, "put", Action::Put { value: "b".into() }, Ok(()));
            for (call, value) in [(&early, "c"), (&late, "d")] {
                let told = Ok(Cas::Conflict(version("1-3")));
                let action = |outcome| Action::Swap { expected: "a".into(), value: value.into(), outcome };
                record.wrote_if(call, call.call + 4, "cas", (version("1-1"), value), action, told);
            }
            let node = "127.0.0.1:5001".parse().unwrap();
            let read = client::Read { value: Some(value.into()), version: None, node, from_replica: true };
            record.read_locally("k", 12, Ok(read));
            record.never_written()
        };
        for value in ["a", "c"] {
            assert_eq!(found(value), [""; 0]);
        }
        for value in ["b", "d", "e"] {
            assert_eq!(
                found(value),
                [format!("k was read at the level local at 12 us as {value}, which nobody had written")]
            );
        }
    }

    #[test]
    fn a_conflict_with_the_version_that_was_expected_is_told() {
        let mut record = Record::default();
        let conflict = Ok(Cas::Conflict(version("1-1")));
        record.wrote_if(&CALL, 9, "cas", (version("1-1"), "b"), swap, conflict);
        assert_eq!(record.oddities.len(), 1);
    }
}
