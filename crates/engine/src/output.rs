//! What goes into and comes out of the coordinator: settings, duties for the caller, lines for its log.

use std::time::Duration;

use proto::cluster_map::{MapVersion, Promises};
use proto::error::ErrorReply;
use proto::id::{Incarnation, NodeAddr};
use proto::session::SlotAt;
use proto::slot::{SlotBits, SlotId};

/// What the operator has chosen.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every node goes by: copies, levels, the time after which a silent node is taken off the ring.
    pub promises: Promises,
    /// Positions of a node on the ring.
    pub virtual_nodes: u32,
    /// How slots are cut.
    pub bits: SlotBits,
    /// The name of the cluster if this turns out to be a new one. Random, from the caller.
    pub cluster: String,
    /// How long a node that is dead or has stopped may be away before another is filled in its place.
    pub replace_after: Duration,
    /// To how many slots at one time copies are added that are to be filled from nothing; 0 for any number.
    pub moves_at_once: usize,
    /// What tells incarnations that this coordinator gives out from those of others. Random, from the caller.
    pub incarnations: u32,
}

/// A duty for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The state has changed: keep what [`crate::coordinator::Coordinator::state`] gives, before any output that follows
    /// is carried out.
    Keep,
    /// The map has changed: send everyone what is new to him.
    Publish,
    /// Ask a node for its positions in these slots.
    AskPositions {
        /// Whom.
        to: Incarnation,
        /// The number of the question.
        query: u64,
        /// The slots.
        slots: Vec<SlotId>,
    },
    /// Ask a primary to hand slots over.
    HandOver {
        /// The primary.
        from: Incarnation,
        /// The next primary.
        to: Incarnation,
        /// The slots.
        slots: Vec<SlotAt>,
    },
    /// End the session of a node, so that it joins again.
    CloseSession(Incarnation),
    /// Tell a node that an operator has taken it off the ring.
    Unregistered(Incarnation),
    /// Tell a node to delete what it holds, and to leave.
    Dismiss(Incarnation),
    /// Something that an operator wants to know.
    Event(Event),
}

/// One line of the coordinator's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node has registered.
    Registered(NodeAddr, Incarnation),
    /// A node has registered again and kept its memory.
    Returned(NodeAddr, Incarnation),
    /// A newer start of a node has taken the place of an older.
    Restarted(NodeAddr, Incarnation),
    /// An operator has taken a node off the ring.
    Unregistered(NodeAddr),
    /// A node has said that it stops.
    Left(NodeAddr),
    /// An operator decommissions a node: its slots are handed over.
    Leaving(NodeAddr),
    /// An operator decommissions a node as soon as another has joined.
    LeavesFor(NodeAddr, NodeAddr),
    /// An operator has taken that back.
    Stays(NodeAddr),
    /// A node that was decommissioned has deleted what it held and is a member no more.
    Decommissioned(NodeAddr),
    /// A node has been away for so long that others are filled in its place.
    Replaced(NodeAddr),
    /// The disk of a node is full.
    Full(NodeAddr),
    /// It has room again.
    Room(NodeAddr),
    /// A node is about to stop: its slots are handed over.
    Stopping(NodeAddr),
    /// A node was silent for too long.
    Dead(NodeAddr),
    /// A primary is replaced: it is silent, and a copy of its slots complains, too.
    Suspected(NodeAddr),
    /// A coordinator without state waits for these to tell what they know.
    Awaiting(Vec<NodeAddr>),
    /// An operator says not to wait for a node.
    Forgotten(NodeAddr),
    /// An operator has accepted what was lost in these slots.
    LossAccepted(Accepted),
    /// A node of another cluster has come while a coordinator of this one was restarted. It is refused.
    Stranger(NodeAddr),
    /// The map was taken over from a node.
    Adopted(MapVersion),
    /// A node has a newer map of this cluster than the coordinator, whose state is an older one.
    Outdated {
        /// The newest version that the coordinator knew of.
        known: MapVersion,
        /// That of the node.
        held: MapVersion,
    },
    /// It was started with other numbers than before: slots move to where they belong now.
    Resized {
        /// How many copies of each key there were, and are to be.
        copies: (usize, usize),
        /// How many positions a node had on the ring, and has.
        virtual_nodes: (u32, u32),
    },
    /// The first map of this coordinator stands.
    Serving(MapVersion),
    /// So many slots have a new primary, since theirs was lost.
    Promoted(usize),
    /// So many slots wait for these nodes, since the copies that are here were found without proof, and theirs may have more.
    UnprovenWait(usize, Vec<NodeAddr>),
    /// No copy that is known to be whole is left of so many slots, and copies that were found without proof lead them: those
    /// of these nodes. What was acknowledged in the moments before their power failed may be missing.
    PromotedUnproven(usize, Vec<NodeAddr>),
    /// So many slots have lost every copy that held what was promised, and older copies lead them: those of these nodes. What
    /// was written since they were in sync is lost.
    PromotedOlder(usize, Vec<NodeAddr>),
    /// So many slots have lost every copy and start anew, empty.
    StartedAnew(usize),
}

/// What has come of an operator's word that missing copies are lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepted {
    /// How many slots start anew, empty.
    pub anew: usize,
    /// How many go on with what the copies that are here have, though some of it may be missing.
    pub unproven: usize,
}

/// Why a node cannot be decommissioned, or why that cannot be taken back. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecommissionError {
    /// Nobody is known there; or it does not leave, where that was to be taken back.
    NotFound,
    /// It was registered by hand: no program of ours is behind the address.
    ByHand,
    /// There is no map yet, or one is taken over.
    NotServing,
    /// No other node would stay.
    LastNode,
    /// It has handed everything over, and deletes what it holds.
    TooLate,
    /// The one that is to take its place is itself, or leaves as well.
    Itself,
}

/// What has come of an operator's wish to replace a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It leaves, and still has copies of so many slots.
    Leaves(usize),
    /// It leaves once the other has joined.
    Waits,
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The node's incarnation.
    pub incarnation: Incarnation,
    /// Whether the same start of the node was registered already.
    pub again: bool,
}

/// Why a node may not join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinError {
    /// It was taken off the ring. It stays out until it is started again.
    Unregistered,
    /// Another start has its address. It never comes back.
    Replaced,
    /// It belongs to another cluster, there is no room, or its name is that of another node, which lives.
    Refused(ErrorReply),
}
