//! The coordinator's state as text, for persisting it and restarting from it.
//!
//! It consists of the map in its wire format, an empty line, and one line for each thing that the map does not say:
//!
//! ```text
//! BY_HAND 7,8
//! GONE 3
//! UNREGISTERED 4
//! REBORN 1:5,2:6
//! JOINED true
//! UNPROVEN 7:9
//! UNPROVEN_PROMOTIONS 12
//! AWAY 127.0.0.1:5002,127.0.0.1:5003
//! WEIGHTS 127.0.0.1:5001=2
//! MOVED_OFF 5
//! VIRTUAL_NODES 3
//! STARTS 12:137438953473
//! RELIED_ON 0-8191:137438953480,8192-16383:12
//! HONORED 10000
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::str::FromStr;
use std::time::Duration;

use proto::cluster_map::{ClusterMap, MapError, MapUpdate, MapVersion};
use proto::id::Incarnation;

use super::rejections::Rejections;
use super::successors::Successors;
use super::versions::Start;
use super::{Coordinator, GATHERING, Phase};
use crate::bugs::Bugs;
use crate::output::{Event, Settings};
use crate::time::Timestamp;

/// An empty list.
const NOTHING: &str = "-";

/// The text is not a coordinator state. Nothing was started from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Its map cannot be read.
    #[error("{0}")]
    Map(#[from] MapError),
    /// What follows the map cannot be read.
    #[error("the line {0} is missing or invalid")]
    Line(&'static str),
    /// The key space is divided into slots differently.
    #[error("it uses a different number of slots")]
    Bits,
}

impl<B: Bugs> Coordinator<B> {
    /// The state to be persisted.
    #[must_use]
    pub fn state(&self) -> String {
        let successor = |(old, new): (&Incarnation, &Incarnation)| format!("{old}:{new}");
        let relied_on = runs(self.versions.relied_on());
        let mut text = self.map.update_since(MapVersion(0)).to_lines().join("\n");
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n\nBY_HAND {}\nGONE {}\nUNREGISTERED {}\nREBORN {}\nJOINED {}\nUNPROVEN {}\nUNPROVEN_PROMOTIONS {}\n\
             AWAY {}\nWEIGHTS {}\nMOVED_OFF {}\nVIRTUAL_NODES {}\nSTARTS {}\nRELIED_ON {}\nHONORED {}\n",
            list(self.registry.by_hand()),
            list(self.successors.all_gone()),
            list(self.rejections.unregistered()),
            list(self.successors.all_reborn().map(successor)),
            self.joined_once,
            list(self.successors.all_unproven().map(successor)),
            self.unproven_promotions,
            list(self.away.keys()),
            list(self.weights.iter().map(|(addr, weight)| format!("{addr}={weight}"))),
            list(self.moved_off.iter()),
            self.settings.virtual_nodes,
            list(self.versions.starts().iter().map(|Start { after, first }| format!("{}:{}", after.0, first.0))),
            list(relied_on.iter().map(|(first, last, version)| format!("{first}-{last}:{}", version.0))),
            self.registry.honored().as_millis()
        );
        text
    }

    /// A coordinator that continues from a state. Nodes that were up are assumed to be up until they have been silent
    /// for too long.
    ///
    /// # Errors
    /// The text is not a state.
    pub fn restored(now: Timestamp, settings: Settings, bugs: B, text: &str) -> Result<Self, StateError> {
        let mut coordinator = Self::new(settings, bugs);
        let (map, rest) = text.split_once("\n\n").ok_or(StateError::Line("after the map"))?;
        let map = ClusterMap::updated(None, &MapUpdate::parse(map.lines())?)?;
        if map.bits() != coordinator.settings.bits {
            return Err(StateError::Bits);
        }
        let lines = Lines(rest.lines().filter_map(|line| line.split_once(' ')).collect());
        let successors = |name| lines.list(name, |word| pair(word, ':'));
        let by_hand: BTreeSet<Incarnation> = lines.list("BY_HAND", one)?;
        let gone = lines.list("GONE", one)?;
        coordinator.rejections = Rejections::restored(lines.list("UNREGISTERED", one)?);
        let reborn = successors("REBORN")?;
        coordinator.joined_once = lines.value("JOINED")?;
        coordinator.successors = Successors::restored(gone, reborn, successors("UNPROVEN")?);
        coordinator.unproven_promotions = lines.value("UNPROVEN_PROMOTIONS")?;
        coordinator.departures = map.departures.clone();
        let starts = lines.list("STARTS", |word| {
            pair(word, ':').map(|(after, first)| Start { after: MapVersion(after), first: MapVersion(first) })
        })?;
        let relied_on: Vec<(usize, usize, MapVersion)> = lines.list("RELIED_ON", |word| {
            let (slots, version) = word.split_once(':')?;
            let (first, last) = pair(slots, '-')?;
            Some((first, last, MapVersion(one(version)?)))
        })?;
        coordinator.versions.restore(starts, relied_on).ok_or(StateError::Line("RELIED_ON"))?;
        let away = lines.list("AWAY", one)?;
        coordinator.weights = lines.list("WEIGHTS", |word| pair(word, '='))?;
        coordinator.moved_off = lines.list("MOVED_OFF", one)?;
        let virtual_nodes = lines.value("VIRTUAL_NODES")?;

        // IMPORTANT: a primary may count on an answer of the earlier coordinator for nearly as long as its timeout was, or,
        // if it has not heard of that one, as an even earlier one was.
        let earlier: Vec<u64> = lines.list("HONORED", one)?;
        for timeout in earlier.into_iter().map(Duration::from_millis).chain([map.cluster_settings.heartbeat_timeout]) {
            coordinator.registry.honor(now, timeout);
        }
        coordinator.wake(now);
        for (incarnation, member) in map.members().filter(|(_, member)| member.up) {
            let is_by_hand = by_hand.contains(&incarnation);
            let addr = member.addr.clone();
            if is_by_hand {
                coordinator.registry.insert_by_hand(now, addr, incarnation);
            } else {
                coordinator.registry.insert_unheard(now, addr, incarnation);
            }
            coordinator.is_back(&member.addr);
        }
        coordinator.restore_away(now, away);
        let copies = (map.cluster_settings.copies(), coordinator.settings.cluster_settings.copies());
        let positions = (virtual_nodes, coordinator.settings.virtual_nodes);
        coordinator.map = map;
        if coordinator.map.version > MapVersion(0) {
            coordinator.versions.continue_from_state(coordinator.map.version, bugs);
            coordinator.phase = Phase::Restored(now + GATHERING);
            if copies.0 != copies.1 || positions.0 != positions.1 {
                coordinator.event(Event::Resized { copies, virtual_nodes: positions });
            }
            coordinator.advance(now);
        }
        Ok(coordinator)
    }
}

/// Neighbors with the same value, as the first and the last of them and that value.
fn runs(values: &[MapVersion]) -> Vec<(usize, usize, MapVersion)> {
    let mut runs: Vec<(usize, usize, MapVersion)> = Vec::new();
    for (at, value) in values.iter().enumerate() {
        match runs.last_mut() {
            Some((_, last, same)) if same == value => *last = at,
            _ => runs.push((at, at, *value)),
        }
    }
    runs
}

/// A list as [`Lines::list`] reads it.
fn list(words: impl Iterator<Item = impl Display>) -> String {
    let words: Vec<_> = words.map(|word| word.to_string()).collect();
    if words.is_empty() { NOTHING.to_owned() } else { words.join(",") }
}

/// What follows the map: the text of each line, by name.
struct Lines<'a>(BTreeMap<&'a str, &'a str>);

impl Lines<'_> {
    fn value<T: FromStr>(&self, name: &'static str) -> Result<T, StateError> {
        self.0.get(name).and_then(|text| one(text)).ok_or(StateError::Line(name))
    }

    fn list<T, L: FromIterator<T>>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<L, StateError> {
        let words = |text: &&str| text.split(',').filter(|_| *text != NOTHING).map(&read).collect();
        self.0.get(name).and_then(words).ok_or(StateError::Line(name))
    }
}

fn one<T: FromStr>(word: &str) -> Option<T> {
    word.parse().ok()
}

fn pair<K: FromStr, V: FromStr>(word: &str, separator: char) -> Option<(K, V)> {
    let (key, value) = word.split_once(separator)?;
    Some((one(key)?, one(value)?))
}
