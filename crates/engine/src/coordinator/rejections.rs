//! Who is not admitted: starts that are over or are to stay out, and nodes that were refused. Only so many are
//! remembered.

use std::collections::{BTreeMap, VecDeque};

use proto::error::ErrorReply;
use proto::id::{Incarnation, NodeAddr};
use proto::limits;

/// How many replaced starts are remembered, and how many that are to stay out.
const REMEMBERED: usize = 4_096;

/// How many refused nodes are remembered.
const REFUSED: usize = limits::NODES;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    /// Incarnations replaced by a newer start, the latest last.
    superseded: VecDeque<Incarnation>,
    /// Incarnations that an operator has taken off the ring, likewise.
    unregistered: VecDeque<Incarnation>,
    /// Why nodes were refused that have not joined since, as reported.
    refused: BTreeMap<NodeAddr, ErrorReply>,
}

impl Rejections {
    /// With those that were to stay out when the state was saved.
    pub(super) fn restored(unregistered: VecDeque<Incarnation>) -> Self {
        Self { unregistered, ..Self::default() }
    }

    /// A newer start has taken the place of these.
    pub(super) fn supersede(&mut self, starts: &[Incarnation]) {
        remember(&mut self.superseded, starts.iter().copied());
    }

    pub(super) fn is_superseded(&self, start: Incarnation) -> bool {
        self.superseded.contains(&start)
    }

    /// These starts are not admitted again.
    pub(super) fn stay_out(&mut self, starts: impl Iterator<Item = Incarnation>) {
        remember(&mut self.unregistered, starts);
    }

    pub(super) fn is_unregistered(&self, start: Incarnation) -> bool {
        self.unregistered.contains(&start)
    }

    /// Those that are to stay out.
    pub(super) fn unregistered(&self) -> impl Iterator<Item = Incarnation> {
        self.unregistered.iter().copied()
    }

    /// A node is refused. `false` if that was reported before.
    pub(super) fn refuse(&mut self, addr: &NodeAddr, why: &ErrorReply) -> bool {
        if self.refused.get(addr) == Some(why) {
            return false;
        }
        self.refused.insert(addr.clone(), why.clone());
        if self.refused.len() > REFUSED {
            self.refused.pop_first();
        }
        true
    }

    /// A node has joined: should it be refused once more, that is reported again.
    pub(super) fn has_joined(&mut self, addr: &NodeAddr) {
        self.refused.remove(addr);
    }
}

/// Adds these, and drops the oldest beyond the limit.
fn remember(starts: &mut VecDeque<Incarnation>, more: impl Iterator<Item = Incarnation>) {
    for start in more {
        if !starts.contains(&start) {
            starts.push_back(start);
        }
    }
    while starts.len() > REMEMBERED {
        starts.pop_front();
    }
}
