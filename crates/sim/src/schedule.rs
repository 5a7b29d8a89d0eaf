//! What happens next: events ordered by time, and those of the same time in the order in which they were created.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use proto::cluster_map::ClusterMap;
use proto::id::Incarnation;

use crate::client::{Request, Response};
use crate::faults::Remedy;
use crate::impostors;
use crate::network::ConnId;
use crate::node::Step;
use crate::operator;
use crate::walker::Paged;

/// An event at a moment. `boot` names a start of a process: an event for an earlier start is void.
#[derive(Debug)]
pub(crate) enum Event {
    /// The first packet in one direction of a connection arrives.
    Deliver { conn: ConnId, side: u8 },
    /// One side of a connection learns that it is gone.
    Reset { conn: ConnId, side: u8 },
    /// A connection that has begun to lose data breaks.
    Break { conn: ConnId },
    /// A node's tick.
    Tick { node: u8, boot: u32 },
    /// A node's heartbeat to the coordinator is due.
    Heartbeat { node: u8, boot: u32 },
    /// A node's lease renewals to its replicas are due.
    Beats { node: u8, boot: u32 },
    /// A node is to try (again) to open its session with the coordinator, or the attempt has taken too long.
    Session { node: u8, boot: u32, serial: u32 },
    /// A node is to try (again) to open its link to a replica, or the attempt has taken too long.
    Link { node: u8, boot: u32, to: Incarnation, serial: u32 },
    /// A node's disk has finished its work, or has failed.
    Disk { node: u8, boot: u32 },
    /// A node that is leaving has waited long enough.
    Left { node: u8, boot: u32 },
    /// The coordinator's next deadline.
    Coordinator { boot: u32, serial: u32 },
    /// A client's request arrives at a node.
    Request { node: u8, request: Box<Request> },
    /// An answer arrives at a client.
    Response(Box<Response>),
    /// A walker continues.
    Walker { walker: u8, serial: u64 },
    /// A step of a walk arrives at a node.
    Walk { node: u8, step: Box<Step> },
    /// A page arrives at its walker.
    Paged { walker: u8, serial: u64, paged: Box<Paged> },
    /// A client continues.
    Client { client: u8, serial: u32 },
    /// An impostor continues.
    Impostor { node: u8, step: impostors::Step },
    /// The operator does something about a node.
    Operator { node: u8, step: operator::Step },
    /// A node that was taken off the ring sees a map.
    Watched { node: u8, boot: u32, map: Arc<ClusterMap> },
    /// The next fault.
    Fault,
    /// A fault ends.
    Remedy(Remedy),
    /// The progress of the cluster is checked.
    Look,
}

#[derive(Debug)]
struct Entry {
    time: u64,
    order: u64,
    event: Event,
}

/// The pending events.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Real time, in microseconds.
    pub(crate) now: u64,
    order: u64,
    entries: BinaryHeap<Entry>,
}

impl Schedule {
    /// Adds an event after a delay.
    pub(crate) fn after(&mut self, span: u64, event: Event) {
        self.at(self.now + span, event);
    }

    /// Adds an event at a time, or now if that has passed.
    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.entries.push(Entry { time: time.max(self.now), order: self.order, event });
    }

    /// Takes the next event and advances the time to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let entry = self.entries.pop()?;
        self.now = entry.time;
        Some(entry.event)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The heap returns the greatest entry first: that must be the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.order).cmp(&(self.time, self.order))
    }
}
