//! The coordinator's inputs and outputs: settings, work for the caller, and lines for its log.

use std::time::Duration;

use proto::cluster_map::{ClusterSettings, MapVersion};
use proto::error::ErrorReply;
use proto::id::{Incarnation, NodeAddr};
use proto::session::SlotAt;
use proto::slot::{SlotBits, SlotId};

/// What the operator has configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What every node follows: copies, levels, and the time after which a silent node is taken off the ring.
    pub cluster_settings: ClusterSettings,
    /// Positions of a node on the ring.
    pub virtual_nodes: u32,
    /// How the key space is divided into slots.
    pub bits: SlotBits,
    /// The name of the cluster, in case this turns out to be a new one. Random, chosen by the caller.
    pub cluster: String,
    /// How long a node that is dead or stopped may be away before another is filled in its place.
    pub replace_after: Duration,
    /// To how many slots at a time copies are added that have to be filled from scratch; 0: no limit.
    pub moves_at_once: usize,
    /// Distinguishes the incarnations and versions issued by this start of the coordinator from those of others. Random,
    /// chosen by the caller.
    pub incarnations: u32,
}

/// Work for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The state has changed: persist what [`crate::coordinator::Coordinator::state`] returns before carrying out any
    /// output that follows.
    Keep,
    /// The map has changed: send everyone the changes that are new to them.
    Publish,
    /// Ask a node for its positions in these slots.
    AskPositions {
        /// The node to ask.
        to: Incarnation,
        /// The number of the query.
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
    /// Tell a node to delete what it holds and to leave.
    Dismiss(Incarnation),
    /// Something that operators want to know.
    Event(Event),
}

/// One line of the coordinator's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A node has registered.
    Registered(NodeAddr, Incarnation),
    /// A node has registered again with its memory intact.
    Returned(NodeAddr, Incarnation),
    /// A newer start of a node has replaced an older one.
    Restarted(NodeAddr, Incarnation),
    /// An operator has taken a node off the ring.
    Unregistered(NodeAddr),
    /// A node has reported that it stops.
    Left(NodeAddr),
    /// An operator is decommissioning a node: its slots are handed over.
    Leaving(NodeAddr),
    /// An operator has asked to decommission a node (the first) as soon as another (the second) has joined.
    LeavesFor(NodeAddr, NodeAddr),
    /// An operator has canceled a decommission.
    Stays(NodeAddr),
    /// A decommissioned node has deleted what it held and is no longer a member.
    Decommissioned(NodeAddr),
    /// A node has been away for so long that others are filled in its place.
    Replaced(NodeAddr),
    /// The disk of a node is full.
    Full(NodeAddr),
    /// A node whose disk was full has room again.
    Room(NodeAddr),
    /// A node is about to stop: its slots are handed over.
    Stopping(NodeAddr),
    /// A node was silent for too long.
    Dead(NodeAddr),
    /// A primary is being replaced: it is silent, and a copy of one of its slots complains, too.
    Suspected(NodeAddr),
    /// A primary is being replaced: it is heard, but it and the copies of some slots do not hear each other. It is handed
    /// no slots for this long.
    CutOff(NodeAddr, Duration),
    /// A coordinator without state waits for these nodes to report what they know.
    Awaiting(Vec<NodeAddr>),
    /// An operator has said not to wait for a node.
    Forgotten(NodeAddr),
    /// An operator has accepted what was lost in these slots.
    LossAccepted(Accepted),
    /// A node may not join, because it belongs to another cluster or its name is taken. Not repeated while it retries.
    Refused(NodeAddr, ErrorReply),
    /// The map was taken over from a node.
    Adopted(MapVersion),
    /// A node has a newer map of this cluster than the coordinator, whose state is outdated.
    Outdated {
        /// The newest version that the coordinator knew of.
        known: MapVersion,
        /// The version of the node's map.
        held: MapVersion,
    },
    /// The coordinator was started with different settings than before: slots now move to where they belong.
    Resized {
        /// How many copies of each key there were, and how many there are to be.
        copies: (usize, usize),
        /// How many ring positions a node had, and how many it has now.
        virtual_nodes: (u32, u32),
    },
    /// The first map of this coordinator is in effect.
    Serving(MapVersion),
    /// This many slots have a new primary, because theirs was lost.
    Promoted(usize),
    /// This many slots wait for these nodes: the copies that are here are unproven, and those nodes may have more.
    UnprovenWait(usize, Vec<NodeAddr>),
    /// This many slots have no copy left that is known to be complete, and are led by unproven copies on these nodes.
    /// Writes acknowledged in the moments before their power failed may be missing.
    PromotedUnproven(usize, Vec<NodeAddr>),
    /// This many slots have lost every copy that held what was promised, and are led by older copies on these nodes.
    /// What was written since those were in sync is lost.
    PromotedOlder(usize, Vec<NodeAddr>),
    /// This many slots have lost every copy and start over empty.
    StartedAnew(usize),
    /// This many slots have lost every copy, and no node is left that could hold them.
    Unheld(usize),
}

/// The result of an operator's statement that missing copies are lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accepted {
    /// How many slots start over empty.
    pub anew: usize,
    /// How many slots continue with what the present copies have, though some data may be missing.
    pub unproven: usize,
}

/// Why a node cannot be decommissioned or a decommission cannot be canceled. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecommissionError {
    /// No node is known at that address; or, when canceling, it is not leaving.
    NotFound,
    /// It was registered by hand: the address runs none of our programs.
    ByHand,
    /// There is no map yet, or one is being taken over.
    NotServing,
    /// No other node would stay.
    LastNode,
    /// It has handed everything over and is deleting what it holds.
    TooLate,
    /// The node that is to take its place is the node itself, or is leaving as well.
    Itself,
    /// The new node is already to take the place of this other one.
    Taken(NodeAddr),
}

/// The result of an operator's request to replace a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is leaving, and still has copies of this many slots.
    Leaves(usize),
    /// It leaves once the other has joined.
    Waits,
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The node's incarnation.
    pub incarnation: Incarnation,
    /// Whether the same start of the node was already registered.
    pub again: bool,
}

/// Why a node may not join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinError {
    /// It was taken off the ring. It stays out until it is restarted.
    Unregistered,
    /// Another start has its address. The node can never come back.
    Replaced,
    /// It belongs to another cluster, there is no room, or its name belongs to another live node.
    Refused(ErrorReply),
}
