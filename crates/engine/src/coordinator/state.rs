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
//! VIRTUAL_NODES 3
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use proto::cluster_map::{ClusterMap, MapError, MapUpdate, MapVersion};
use proto::id::{Incarnation, NodeAddr};

use super::{Coordinator, GATHERING, Phase};
use crate::bugs::Bugs;
use crate::output::{Event, Settings};
use crate::time::Timestamp;

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
        let by_hand = self.registry.iter().filter(|(_, node)| node.by_hand).map(|(_, node)| node.incarnation);
        let mut text = self.map.update_since(MapVersion(0)).to_lines().join("\n");
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n\nBY_HAND {}\nGONE {}\nUNREGISTERED {}\nREBORN {}\nJOINED {}\nUNPROVEN {}\nUNPROVEN_PROMOTIONS {}\n\
             AWAY {}\nWEIGHTS {}\nVIRTUAL_NODES {}\n",
            list(by_hand),
            list(self.gone.iter().copied()),
            list(self.unregistered.iter().copied()),
            successors(&self.reborn),
            self.joined_once,
            successors(&self.unproven),
            self.unproven_promotions,
            addresses(self.away.keys()),
            weights(&self.weights),
            self.settings.virtual_nodes
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
        let lines: BTreeMap<&str, &str> = rest.lines().filter_map(|line| line.split_once(' ')).collect();
        let line = |name: &'static str| lines.get(name).copied().ok_or(StateError::Line(name));
        let by_hand: BTreeSet<_> = incarnations(line("BY_HAND")?).ok_or(StateError::Line("BY_HAND"))?;
        coordinator.gone = incarnations(line("GONE")?).ok_or(StateError::Line("GONE"))?;
        coordinator.unregistered = incarnations(line("UNREGISTERED")?).ok_or(StateError::Line("UNREGISTERED"))?;
        coordinator.reborn = pairs(line("REBORN")?).ok_or(StateError::Line("REBORN"))?;
        coordinator.joined_once = line("JOINED")?.parse().map_err(|_| StateError::Line("JOINED"))?;
        coordinator.unproven = pairs(line("UNPROVEN")?).ok_or(StateError::Line("UNPROVEN"))?;
        let promotions = line("UNPROVEN_PROMOTIONS")?.parse();
        coordinator.unproven_promotions = promotions.map_err(|_| StateError::Line("UNPROVEN_PROMOTIONS"))?;
        coordinator.departures = map.departures.clone();
        let (away, virtual_nodes) = coordinator.read_moves(line)?;

        coordinator.wake(now);
        for (incarnation, member) in map.members().filter(|(_, member)| member.up) {
            let is_by_hand = by_hand.contains(&incarnation);
            let addr = member.addr.clone();
            if is_by_hand {
                coordinator.registry.insert(now, addr, incarnation, true);
            } else {
                coordinator.registry.insert_unheard(now, addr, incarnation);
            }
            coordinator.is_back(&member.addr);
        }
        coordinator.restore_away(now, away);
        coordinator.counter = map.version.0;
        let copies = (map.cluster_settings.copies(), coordinator.settings.cluster_settings.copies());
        let positions = (virtual_nodes, coordinator.settings.virtual_nodes);
        coordinator.map = map;
        if coordinator.map.version > MapVersion(0) {
            coordinator.phase = Phase::Restored(now + GATHERING);
            if copies.0 != copies.1 || positions.0 != positions.1 {
                coordinator.event(Event::Resized { copies, virtual_nodes: positions });
            }
            coordinator.advance(now);
        }
        Ok(coordinator)
    }

    /// Reads the weights, and the leaving nodes if an earlier release kept them beside the map. Any of these lines may
    /// be missing. Returns who was away, and how many positions a node had.
    fn read_moves<'a>(
        &mut self,
        line: impl Fn(&'static str) -> Result<&'a str, StateError>,
    ) -> Result<(Vec<NodeAddr>, u32), StateError> {
        let list = |name| nodes(line(name).unwrap_or("-")).ok_or(StateError::Line(name));
        self.departures.leaving.extend(list("LEAVING")?);
        self.departures.replacing.extend(list("REPLACING")?.as_chunks().0.iter().cloned().map(|[new, old]| (new, old)));
        let away = list("AWAY")?;
        self.weights = read_weights(line("WEIGHTS").unwrap_or("-")).ok_or(StateError::Line("WEIGHTS"))?;
        let virtual_nodes = line("VIRTUAL_NODES").ok().and_then(|number| number.parse().ok());
        Ok((away, virtual_nodes.unwrap_or(self.settings.virtual_nodes)))
    }
}

fn list(incarnations: impl Iterator<Item = Incarnation>) -> String {
    let words: Vec<_> = incarnations.map(|incarnation| incarnation.to_string()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn addresses<'a>(addresses: impl Iterator<Item = &'a NodeAddr>) -> String {
    let words: Vec<_> = addresses.map(NodeAddr::as_str).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn successors(successors: &BTreeMap<Incarnation, Incarnation>) -> String {
    let words: Vec<_> = successors.iter().map(|(old, new)| format!("{old}:{new}")).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn weights(weights: &BTreeMap<NodeAddr, u32>) -> String {
    let words: Vec<_> = weights.iter().map(|(addr, weight)| format!("{addr}={weight}")).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

fn read_weights(text: &str) -> Option<BTreeMap<NodeAddr, u32>> {
    let pair = |word: &str| {
        let (addr, weight) = word.split_once('=')?;
        Some((addr.parse().ok()?, weight.parse().ok()?))
    };
    if text == "-" { Some(BTreeMap::new()) } else { text.split(',').map(pair).collect() }
}

fn nodes(text: &str) -> Option<Vec<NodeAddr>> {
    if text == "-" { Some(Vec::new()) } else { text.split(',').map(|word| word.parse().ok()).collect() }
}

fn incarnations(text: &str) -> Option<BTreeSet<Incarnation>> {
    if text == "-" { Some(BTreeSet::new()) } else { text.split(',').map(|word| word.parse().ok()).collect() }
}

fn pairs(text: &str) -> Option<BTreeMap<Incarnation, Incarnation>> {
    let pair = |word: &str| {
        let (old, new) = word.split_once(':')?;
        Some((old.parse().ok()?, new.parse().ok()?))
    };
    if text == "-" { Some(BTreeMap::new()) } else { text.split(',').map(pair).collect() }
}
