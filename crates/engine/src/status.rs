//! The health of the slots, in words: whether each has all its copies, what moves, and what is wrong with those that
//! lack one.
//!
//! [`crate::coordinator::Coordinator::status`] collects it. Slots in the same state are grouped, and every list is
//! truncated, so that a cluster of any size fits on a page.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use proto::id::NodeAddr;
use proto::slot::SlotId;

#[cfg(test)]
mod tests;

/// How many slot ranges a line names.
const RANGES: usize = 8;

/// How many lines of one kind there are, and how many nodes a line names.
const LINES: usize = 16;

/// The progress of the coordinator itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// No node has joined.
    Fresh,
    /// Nodes have joined, and others may follow shortly.
    Gathering,
    /// Started without its state; waiting until these nodes have reported what they know.
    Awaiting(Vec<NodeAddr>),
    /// The map is in effect.
    Serving,
}

/// Why slots are not as they should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// Nobody holds them.
    Unheld,
    /// No copy is here; these nodes were the last to have one.
    Waits {
        /// The nodes' addresses.
        holders: Vec<NodeAddr>,
    },
    /// None of their copies can be heard from. That may be temporary.
    Silent {
        /// The nodes' addresses.
        holders: Vec<NodeAddr>,
    },
    /// The copies that are here may lack their last writes, and these nodes may have them.
    Unproven {
        /// The nodes' addresses.
        holders: Vec<NodeAddr>,
    },
    /// Their primary is lost, and another copy is about to take over.
    NoPrimary,
    /// Some of their copies are not in sync.
    Short {
        /// How many copies are in sync.
        in_sync: usize,
        /// The nodes whose copies are not heard from.
        silent: Vec<NodeAddr>,
        /// The nodes being filled.
        filling: Vec<NodeAddr>,
        /// How many copies belong on nodes that are away.
        away: usize,
        /// How many more nodes are needed, counting those that are away as present.
        nodes_missing: usize,
    },
}

/// Slots, as ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges {
    count: usize,
    ranges: Vec<(u16, u16)>,
}

/// A node that is being filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// The node.
    pub node: NodeAddr,
    /// How many slots it has yet to get.
    pub left: usize,
    /// The largest number of slots that it had to get since the fill began.
    pub total: usize,
    /// How long the fill has been running.
    pub since: Duration,
    /// How many keys are waiting to be sent, according to the primaries.
    pub keys_left: u64,
    /// Whether it cannot go on, because the node's disk is full.
    pub is_full: bool,
}

/// A node that is leaving for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaver {
    /// The node.
    pub node: NodeAddr,
    /// How many slots it still has copies of.
    pub slots: usize,
    /// Whether it is registered: only then can it leave.
    pub is_here: bool,
}

/// Slots whose primary changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    /// The current primary.
    pub from: NodeAddr,
    /// The next primary.
    pub to: NodeAddr,
    /// The slots.
    pub slots: Ranges,
}

/// The state of all slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The progress of the coordinator.
    pub stage: Stage,
    /// How many slots there are.
    pub slots: usize,
    /// How many copies each slot should have.
    pub copies: usize,
    /// How many nodes are registered.
    pub nodes: usize,
    /// The silence after which a node is taken off the ring.
    pub timeout: Duration,
    /// Registered nodes that are not heard from, and for how long.
    pub silent: Vec<(NodeAddr, Duration)>,
    /// Primaries that are heard, but not by these copies of their slots, which are heard, too.
    pub cut: Vec<(NodeAddr, NodeAddr)>,
    /// Nodes that are away and keep their place, and for how much longer.
    pub away: Vec<(NodeAddr, Duration)>,
    /// Nodes with a full disk.
    pub full: Vec<NodeAddr>,
    /// Nodes that lack the memory for which they or their primaries have just refused writes.
    pub short_of_memory: Vec<NodeAddr>,
    /// The nodes being filled.
    pub fills: Vec<Fill>,
    /// The nodes that are leaving.
    pub leaving: Vec<Leaver>,
    /// The nodes that leave once another has joined, each with that other.
    pub replaced: Vec<(NodeAddr, NodeAddr)>,
    /// The slots whose primary changes.
    pub hand_overs: Vec<HandOver>,
    /// Slots with a copy that will be given up once all others are in sync.
    pub surplus: Ranges,
    /// Slots with some other change pending.
    pub changing: Ranges,
    /// Slots that are not as they should be, each listed once.
    pub problems: BTreeMap<Problem, Ranges>,
}

impl Status {
    /// Whether every slot has all its copies where they belong, and nothing moves.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.stage == Stage::Serving && self.problems.is_empty() && !self.is_moving()
    }

    /// The state in a word: `starting`, `unavailable`, `degraded`, `moving`, `healthy`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        let is_short = |problem: &Problem| matches!(problem, Problem::Short { .. });
        if self.stage != Stage::Serving {
            "starting"
        } else if !self.problems.keys().all(is_short) {
            "unavailable"
        } else if !self.problems.is_empty() {
            "degraded"
        } else if self.is_moving() {
            "moving"
        } else {
            "healthy"
        }
    }

    /// The whole report. The first line is the most important; it begins with `OK Status` and [`Status::word`].
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("OK Status {}: {}", self.word(), self.summary())];
        if self.nodes == 0 && !self.problems.is_empty() {
            lines.push("no node answers: if they run, check the network between them and this coordinator".to_owned());
        }
        let problems = self.problems.iter().map(|(problem, slots)| self.problem(problem, slots));
        push_some(&mut lines, problems.collect());
        push_some(&mut lines, self.fills.iter().map(Fill::to_string).collect());
        push_some(&mut lines, self.leaving.iter().map(Leaver::to_string).collect());
        let replaced =
            self.replaced.iter().map(|(old, new)| format!("node {old} leaves once {new} has joined: start it"));
        push_some(&mut lines, replaced.collect());
        push_some(&mut lines, self.hand_overs.iter().map(HandOver::to_string).collect());
        if self.surplus.count > 0 {
            lines.push(format!(
                "{} an extra copy, dropped once the others are in sync: {}",
                self.surplus.have(),
                self.surplus
            ));
        }
        if self.changing.count > 0 {
            lines.push(format!("{} about to change: {}", self.changing.are(), self.changing));
        }
        let silent = self.silent.iter().map(|(node, span)| {
            let (span, timeout) = (about(*span), about(self.timeout));
            format!("node {node} has been silent for {span}: after {timeout} it is taken off the ring")
        });
        push_some(&mut lines, silent.collect());
        let cut = self.cut.iter().map(|(primary, copy)| {
            format!(
                "node {copy} does not hear node {primary}, though both answer here: check the network between them; \
                 until then, {copy} cannot be filled from {primary}"
            )
        });
        push_some(&mut lines, cut.collect());
        let away = self.away.iter().map(|(node, left)| {
            let until = match about(*left) {
                _ if self.nodes < self.copies => ", or start another node".to_owned(),
                left => format!(", or wait: its copies are re-created on other nodes in {left}"),
            };
            format!("node {node} is away: start it again{until}")
        });
        push_some(&mut lines, away.collect());
        let full = self.full.iter().map(|node| {
            format!(
                "the disk of node {node} is full: free some space; until then, other nodes lead its slots where they \
                 can, and writes to the others are refused"
            )
        });
        push_some(&mut lines, full.collect());
        let short = self.short_of_memory.iter().map(|node| {
            format!(
                "node {node} has no memory left, and writes have just been refused for it: DELETE keys or raise its \
                 --max-memory"
            )
        });
        push_some(&mut lines, short.collect());
        lines
    }

    /// What is missing, in one line, for callers that wait until nothing is.
    #[must_use]
    pub fn missing(&self) -> String {
        self.lines().get(1).map_or_else(|| self.summary(), |first| format!("{}; {first}", self.summary()))
    }

    fn is_moving(&self) -> bool {
        let slots = self.surplus.count + self.changing.count;
        !(self.fills.is_empty() && self.hand_overs.is_empty()) || slots > 0
    }

    fn summary(&self) -> String {
        let (slots, copies, nodes) = (self.slots, self.copies, self.nodes);
        match &self.stage {
            Stage::Fresh => return "no node has joined: start one".to_owned(),
            Stage::Gathering => return format!("{nodes} nodes have joined, others may follow in a moment"),
            Stage::Awaiting(awaited) => {
                return format!(
                    "taking over the state from the nodes; waiting for {} to report: start them, or FORGET host:port \
                     those that are gone for good",
                    names(awaited)
                );
            }
            Stage::Serving => {}
        }
        let wrong: usize = self.problems.values().map(|ranges| ranges.count).sum();
        let whole = if wrong == 0 {
            format!("all {slots} slots have {copies} of {copies} copies in sync")
        } else {
            format!("{} of {slots} slots have {copies} of {copies} copies in sync, {wrong} do not", slots - wrong)
        };
        let moves = if self.is_moving() { "" } else { ", and nothing moves" };
        format!("{whole}, on {nodes} {}{moves}", if nodes == 1 { "node" } else { "nodes" })
    }

    fn problem(&self, problem: &Problem, slots: &Ranges) -> String {
        match problem {
            Problem::Unheld => format!("{} held by no node: start a node: {slots}", slots.are()),
            Problem::Waits { holders } => {
                let start = match holders.as_slice() {
                    [holder] => format!("{holder}, the last holder: start it"),
                    holders => format!(
                        "one of {}: start the one that was stopped last, since another continues without what only \
                         that one took at level async",
                        names(holders)
                    ),
                };
                format!("{} for {start}, or accept the loss with ACCEPT_LOSS slot|all: {slots}", slots.wait())
            }
            Problem::Silent { holders } => {
                format!("{} no reachable copy; check that these nodes run: {}: {slots}", slots.have(), names(holders))
            }
            Problem::Unproven { holders } => format!(
                "{} for {}: the available copies may lack the last writes, which it may have: start it, or continue \
                 without it: ACCEPT_LOSS slot|all: {slots}",
                slots.wait(),
                names(holders)
            ),
            Problem::NoPrimary => {
                format!("{} no primary at the moment; another copy is about to take over: {slots}", slots.have())
            }
            Problem::Short { in_sync, silent, filling, away, nodes_missing } => {
                let mut why = Vec::new();
                if *nodes_missing > 0 {
                    let (nodes, copies) = (self.copies.saturating_sub(*nodes_missing), self.copies);
                    let (is, nodes) =
                        if nodes == 1 { ("is", "1 node".to_owned()) } else { ("are", format!("{nodes} nodes")) };
                    why.push(format!("there {is} only {nodes} for {copies} copies: start another node"));
                }
                match away {
                    0 => {}
                    1 => why.push("1 is on a node that is away".to_owned()),
                    away => why.push(format!("{away} are on nodes that are away")),
                }
                if !silent.is_empty() {
                    why.push(format!(
                        "{} not responding: restart it, or wait until its copies are re-created on other nodes, if there are any",
                        names(silent)
                    ));
                }
                let (full, filling): (Vec<_>, Vec<_>) =
                    filling.iter().cloned().partition(|node| self.full.contains(node));
                if !filling.is_empty() {
                    why.push(format!("{} being filled", names(&filling)));
                }
                if !full.is_empty() {
                    why.push(format!("{} being filled and waiting for disk space", names(&full)));
                }
                if why.is_empty() {
                    why.push("filling is about to start".to_owned());
                }
                format!("{} {in_sync} of {} copies in sync, {}: {slots}", slots.have(), self.copies, why.join("; "))
            }
        }
    }
}

impl Ranges {
    /// Adds a slot. Slots must be added in order.
    pub fn add(&mut self, SlotId(slot): SlotId) {
        self.count += 1;
        match self.ranges.last_mut() {
            Some((_, last)) if *last + 1 == slot => *last = slot,
            _ => self.ranges.push((slot, slot)),
        }
    }

    /// How many slots there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    fn have(&self) -> String {
        self.with("has", "have")
    }

    fn are(&self) -> String {
        self.with("is", "are")
    }

    fn wait(&self) -> String {
        self.with("waits", "wait")
    }

    fn with(&self, one: &str, many: &str) -> String {
        if self.count == 1 { format!("1 slot {one}") } else { format!("{} slots {many}", self.count) }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.count == 1 { "slot " } else { "slots " })?;
        for (at, (first, last)) in self.ranges.iter().take(RANGES).enumerate() {
            f.write_str(if at == 0 { "" } else { ", " })?;
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        match self.ranges.len().saturating_sub(RANGES) {
            0 => Ok(()),
            more => write!(f, " and {more} more ranges"),
        }
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, left, total, since, keys_left, is_full } = self;
        let done = total.saturating_sub(*left);
        write!(f, "node {node} is being filled: {done} of {total} slots done")?;
        if *keys_left > 0 {
            write!(f, ", {keys_left} keys waiting to be sent")?;
        }
        match u32::try_from(done) {
            _ if *is_full => f.write_str(", waiting for disk space"),
            Ok(done) if done > 0 => {
                let rest = since.saturating_mul(u32::try_from(*left).unwrap_or(u32::MAX)) / done;
                write!(f, ", about {} to go", about(rest))
            }
            _ => write!(f, ", started {} ago", about(*since)),
        }
    }
}

impl fmt::Display for Leaver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, slots, is_here } = self;
        if *is_here {
            write!(f, "node {node} leaves: it holds copies of {slots} slots")
        } else {
            write!(f, "node {node} is leaving but is down: start it so that it can finish, or cancel with RECOMMISSION")
        }
    }
}

impl fmt::Display for HandOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {} hands {} over to node {}: {}",
            self.from,
            self.slots.with("", "").trim_end(),
            self.to,
            self.slots
        )
    }
}

/// Appends lines of one kind, up to the limit.
fn push_some(lines: &mut Vec<String>, mut some: Vec<String>) {
    let more = some.len().saturating_sub(LINES);
    some.truncate(LINES);
    lines.append(&mut some);
    if more > 0 {
        lines.push(format!("and {more} more of this kind"));
    }
}

/// The names of nodes, as many as fit on a line.
fn names(nodes: &[NodeAddr]) -> String {
    let mut text = String::new();
    for (at, node) in nodes.iter().take(LINES).enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{}{node}", if at == 0 { "" } else { ", " });
    }
    match nodes.len().saturating_sub(LINES) {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// A time span in everyday terms.
fn about(span: Duration) -> String {
    match span.as_secs() {
        0 => "1 s".to_owned(),
        seconds @ 1..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3_600)),
    }
}
