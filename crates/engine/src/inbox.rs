//! The replica's side of one connection: receives what a primary sends.

use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation};
use proto::peer::{LinkMessage, LinkReply};
use proto::slot::SlotId;

use crate::bugs::Bugs;
use crate::completions::Completion;
use crate::node::{FETCHED_TOGETHER, Node, Turn};
use crate::outbox::Contents;
use crate::record::Record;
use crate::slot::{Alignment, Incoming, Next, Step};
use crate::time::Timestamp;

/// The state of one connection from a primary: how much of it has been applied, and the fill in progress.
#[derive(Debug)]
pub struct Inbox {
    from: Incarnation,
    applied: u64,
    /// Records and durable marks that have been read but not applied, in order.
    read: Vec<(SlotId, Step)>,
    fill: Option<Fill>,
    /// The last of the node's notes about slots that the primary no longer leads that was sent on this connection.
    told: u64,
}

/// An incomplete fill. Its records wait here until all have arrived.
#[derive(Debug)]
struct Fill {
    slot: SlotId,
    epoch: Epoch,
    stamp: u64,
    entries_left: u64,
    completions_left: u64,
    contents: Contents,
}

impl Inbox {
    /// The inbox of a connection that this incarnation of a node has opened.
    #[must_use]
    pub fn new(from: Incarnation) -> Self {
        Self { from, applied: 0, read: Vec::new(), fill: None, told: 0 }
    }

    /// Receives one message. Replies other than the acknowledgement are appended to `replies`. The message may be
    /// applied immediately or by [`Inbox::apply`]: many are applied faster together than one by one.
    ///
    /// # Errors
    /// The messages make no sense together. Close the connection; what was applied stays applied.
    pub fn handle<B: Bugs>(
        &mut self,
        now: Timestamp,
        node: &Node<B>,
        message: LinkMessage<'_>,
        turn: &mut Turn,
        replies: &mut Vec<u8>,
    ) -> Result<(), ErrorReply> {
        let part = matches!(message, LinkMessage::Entry { .. } | LinkMessage::Completed { .. });
        if self.fill.is_some() != part {
            return Err(ErrorReply::Protocol("a FILL is followed by all its parts and by nothing else"));
        }
        if !matches!(message, LinkMessage::Replicate { .. } | LinkMessage::Durable { .. }) {
            self.apply(now, node, turn, replies);
        }
        let (slot, incoming) = match message {
            LinkMessage::Beat { sent } => {
                node.grant_lease(now, self.from, sent, &mut self.told, replies);
                return Ok(());
            }
            LinkMessage::Entry { version, key, effect } => {
                let fill = self.fill.as_mut().filter(|fill| fill.entries_left > 0);
                let fill = fill.ok_or(ErrorReply::Protocol("an ENTRY without its FILL"))?;
                fill.contents.records.push(Record::entry(version, key, effect));
                fill.entries_left -= 1;
                self.fill_has_grown(now, node, turn, replies);
                return Ok(());
            }
            LinkMessage::Completed { identity, version, found, reply } => {
                let fill = self.fill.as_mut().filter(|fill| fill.entries_left == 0 && fill.completions_left > 0);
                let fill = fill.ok_or(ErrorReply::Protocol("a COMPLETED without its FILL"))?;
                let reply = (!reply.is_empty()).then(|| reply.into());
                let completion = Completion { version, found, reply };
                fill.contents.completions.push((identity.client.into(), identity.seq, completion));
                fill.completions_left -= 1;
                self.fill_has_grown(now, node, turn, replies);
                return Ok(());
            }
            LinkMessage::Fill { slot, epoch, stamp, last, durable, purged, entries, completions, terms } => {
                let contents = Contents { last, durable, purged, terms, ..Contents::default() };
                let slot = known(node, slot)?;
                let (entries_left, completions_left) = (entries, completions);
                self.fill = Some(Fill { slot, epoch, stamp, entries_left, completions_left, contents });
                self.fill_has_grown(now, node, turn, replies);
                return Ok(());
            }
            LinkMessage::Align { slot, epoch, config, stamp, from, durable, terms, refill } => {
                (slot, Incoming::Align(Alignment { epoch, config, stamp, from, durable, terms, refill }))
            }
            LinkMessage::Compare { slot, query, at, floor } => (slot, Incoming::Compare { query, at, floor }),
            LinkMessage::Replicate { slot, version, previous, durable, op } => {
                let next = Next { previous, durable, record: Record::new(version, op) };
                return self.take_step(now, node, slot, Step::Record(next), turn, replies);
            }
            LinkMessage::Durable { slot, seq } => {
                return self.take_step(now, node, slot, Step::Durable(seq), turn, replies);
            }
            LinkMessage::Purge { slot, seq } => (slot, Incoming::Purge(seq)),
            LinkMessage::Release { slot, epoch } => (slot, Incoming::Release(epoch)),
        };
        self.apply_one(now, node, known(node, slot)?, incoming, turn, replies);
        Ok(())
    }

    /// Applies what has been received.
    pub fn apply<B: Bugs>(&mut self, now: Timestamp, node: &Node<B>, turn: &mut Turn, replies: &mut Vec<u8>) {
        self.applied += self.read.len() as u64;
        node.follow_steps(now, self.from, &mut self.read, turn, replies);
    }

    fn take_step<B: Bugs>(
        &mut self,
        now: Timestamp,
        node: &Node<B>,
        slot: SlotId,
        step: Step,
        turn: &mut Turn,
        replies: &mut Vec<u8>,
    ) -> Result<(), ErrorReply> {
        self.read.push((known(node, slot)?, step));
        // As many as memory is prefetched for at a time. With more, the memory that one record frees is out of the cache
        // by the time that another takes it.
        if self.read.len() >= FETCHED_TOGETHER {
            self.apply(now, node, turn, replies);
        }
        Ok(())
    }

    /// Applies what has been received, and acknowledges the number of messages applied on this connection.
    pub fn acknowledge<B: Bugs>(&mut self, now: Timestamp, node: &Node<B>, turn: &mut Turn, replies: &mut Vec<u8>) {
        self.apply(now, node, turn, replies);
        LinkReply::Ack { count: self.applied }.encode(replies);
    }

    /// The node that opened the connection.
    #[must_use]
    pub fn from(&self) -> Incarnation {
        self.from
    }

    fn fill_has_grown<B: Bugs>(&mut self, now: Timestamp, node: &Node<B>, turn: &mut Turn, replies: &mut Vec<u8>) {
        let whole = |fill: &mut Fill| fill.entries_left == 0 && fill.completions_left == 0;
        if let Some(Fill { slot, epoch, stamp, contents, .. }) = self.fill.take_if(whole) {
            self.apply_one(now, node, slot, Incoming::Fill { epoch, stamp, contents }, turn, replies);
        }
    }

    fn apply_one<B: Bugs>(
        &mut self,
        now: Timestamp,
        node: &Node<B>,
        slot: SlotId,
        incoming: Incoming,
        turn: &mut Turn,
        replies: &mut Vec<u8>,
    ) {
        self.applied += 1;
        node.follow(now, self.from, slot, incoming, turn, replies);
    }
}

fn known<B: Bugs>(node: &Node<B>, slot: SlotId) -> Result<SlotId, ErrorReply> {
    if node.has_slot(slot) { Ok(slot) } else { Err(ErrorReply::Protocol("no such slot")) }
}
