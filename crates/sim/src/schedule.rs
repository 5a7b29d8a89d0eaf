//! What happens next: events by their time, and of one time in the order in which they were made.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use proto::id::Incarnation;

use crate::client::{Request, Response};
use crate::faults::Remedy;
use crate::impostors;
use crate::network::ConnId;
use crate::node::Step;
use crate::walker::Paged;

/// Something that happens at a moment. `boot` names a start of a process: what was meant for an earlier one is void.
#[derive(Debug)]
pub(crate) enum Event {
    /// What is first on the way on a connection arrives at one of its sides.
    Deliver { conn: ConnId, side: u8 },
    /// One side of a connection hears that it is gone.
    Reset { conn: ConnId, side: u8 },
    /// A connection that has begun to lose what is sent breaks.
    Break { conn: ConnId },
    /// A node's tick.
    Tick { node: u8, boot: u32 },
    /// A node's heartbeat to the coordinator is due.
    Heartbeat { node: u8, boot: u32 },
    /// A node's beats to its replicas are due.
    Beats { node: u8, boot: u32 },
    /// A node's session with the coordinator is to be tried (again), or has taken too long to stand.
    Session { node: u8, boot: u32, serial: u32 },
    /// A node's link to a replica is to be tried (again), or has taken too long to stand.
    Link { node: u8, boot: u32, to: Incarnation, serial: u32 },
    /// A node's disk is done with what it was busy with, or has failed.
    Disk { node: u8, boot: u32 },
    /// A node that is leaving has waited long enough.
    Left { node: u8, boot: u32 },
    /// The coordinator's next deadline.
    Coordinator { boot: u32, serial: u32 },
    /// A client's request arrives at a node.
    Request { node: u8, request: Box<Request> },
    /// An answer arrives at a client.
    Response(Box<Response>),
    /// A walker goes on.
    Walker { walker: u8, serial: u64 },
    /// Something that a node is to do for a walk comes to it.
    Walk { node: u8, step: Box<Step> },
    /// A page arrives at its walker.
    Paged { walker: u8, serial: u64, paged: Box<Paged> },
    /// A client goes on.
    Client { client: u8, serial: u32 },
    /// Somebody who comes under a node's name goes on.
    Impostor { node: u8, step: impostors::Step },
    /// The next fault.
    Fault,
    /// A fault ends.
    Remedy(Remedy),
    /// Somebody looks whether the cluster has come to rest.
    Look,
}

#[derive(Debug)]
struct Entry {
    time: u64,
    order: u64,
    event: Event,
}

/// The events to come.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Real time, in microseconds.
    pub(crate) now: u64,
    order: u64,
    entries: BinaryHeap<Entry>,
}

impl Schedule {
    /// Adds an event after a span.
    pub(crate) fn after(&mut self, span: u64, event: Event) {
        self.at(self.now + span, event);
    }

    /// Adds an event at a moment, or now where that has passed.
    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.entries.push(Entry { time: time.max(self.now), order: self.order, event });
    }

    /// Takes the next event, and makes its time the present.
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
    /// The heap gives the greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.order).cmp(&(self.time, self.order))
    }
}
