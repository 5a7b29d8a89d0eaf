//! What a primary sends, taken in on the replica's side of one connection.

use std::sync::Arc;

use proto::error::ErrorReply;
use proto::id::{Epoch, Incarnation, Version};
use proto::peer::{LinkMessage, LinkReply};
use proto::slot::SlotId;

use crate::node::Node;
use crate::record::Record;

/// The state of one connection from a primary: how much of it is applied, and the fill that is coming in.
#[derive(Debug)]
pub struct Inbox {
    from: Incarnation,
    applied: u64,
    fill: Option<Fill>,
}

/// A fill of which some entries have still to come. Its records wait here until it is whole.
#[derive(Debug)]
struct Fill {
    slot: SlotId,
    epoch: Epoch,
    last: Version,
    left: u64,
    records: Vec<Arc<Record>>,
}

impl Inbox {
    /// The inbox of a connection that this incarnation of a node has opened.
    #[must_use]
    pub fn new(from: Incarnation) -> Self {
        Self { from, applied: 0, fill: None }
    }

    /// Applies one message. What has to be answered beside the acknowledgement is appended to `replies`.
    ///
    /// # Errors
    /// The messages make no sense together. Close the connection; what was applied stays applied.
    pub fn handle(&mut self, node: &Node, message: LinkMessage<'_>, replies: &mut Vec<u8>) -> Result<(), ErrorReply> {
        if self.fill.is_some() != matches!(message, LinkMessage::Entry { .. }) {
            return Err(ErrorReply::Protocol("a FILL is followed by all its entries and by nothing else"));
        }
        match message {
            LinkMessage::Entry { version, key, effect } => {
                let fill = self.fill.as_mut().ok_or(ErrorReply::Protocol("an ENTRY without its FILL"))?;
                fill.records.push(Arc::new(Record::new(version, key, effect)));
                fill.left -= 1;
            }
            LinkMessage::Fill { slot, epoch, last, count } => {
                self.fill = Some(Fill { slot: known(node, slot)?, epoch, last, left: count, records: Vec::new() });
            }
            LinkMessage::Align { slot, epoch, config, last } => {
                let reply = node.align(known(node, slot)?, self.from, epoch, config, last);
                self.applied_one(reply, replies);
            }
            LinkMessage::Replicate { slot, version, previous, key, effect } => {
                let record = Record::new(version, key, effect);
                let reply = node.replicate(known(node, slot)?, self.from, previous, record);
                self.applied_one(reply, replies);
            }
            LinkMessage::Purge { slot, seq } => {
                node.purge_as_told(known(node, slot)?, self.from, seq);
                self.applied_one(None, replies);
            }
        }
        if let Some(fill) = self.fill.take_if(|fill| fill.left == 0) {
            let reply = node.replace(fill.slot, self.from, fill.epoch, fill.last, fill.records);
            self.applied_one(reply, replies);
        }
        Ok(())
    }

    /// How many messages of the connection are applied, as the sender counts them.
    #[must_use]
    pub fn acknowledgement(&self) -> LinkReply {
        LinkReply::Ack { count: self.applied }
    }

    fn applied_one(&mut self, reply: Option<LinkReply>, replies: &mut Vec<u8>) {
        self.applied += 1;
        if let Some(reply) = reply {
            reply.encode(replies);
        }
    }
}

fn known(node: &Node, slot: SlotId) -> Result<SlotId, ErrorReply> {
    if node.has_slot(slot) { Ok(slot) } else { Err(ErrorReply::Protocol("no such slot")) }
}
