//! A whole slot, as it is sent to a replica that lacks too much.

use proto::id::{Epoch, Version};
use proto::peer::{Identity, LinkMessage, Terms};
use proto::slot::SlotId;

use super::Stamp;
use crate::completions::Completion;
use crate::record::Record;

/// Everything a slot holds up to a record.
#[derive(Debug, Default)]
pub struct Contents {
    /// The record.
    pub last: Version,
    /// The durable mark.
    pub durable: u64,
    /// The number up to which tombstones may be missing.
    pub purged: u64,
    /// The terms of the log.
    pub terms: Terms,
    /// The newest record of each key.
    pub records: Vec<Record>,
    /// Which client writes are settled, by client and number.
    pub completions: Vec<(Box<[u8]>, u64, Completion)>,
}

impl Contents {
    pub(super) fn encode(&self, slot: SlotId, epoch: Epoch, stamp: Stamp, out: &mut Vec<u8>) {
        LinkMessage::Fill {
            slot,
            epoch,
            stamp: stamp.0,
            last: self.last,
            durable: self.durable,
            purged: self.purged,
            entries: self.records.len() as u64,
            completions: self.completions.len() as u64,
            terms: self.terms.clone(),
        }
        .encode(out);
        for record in &self.records {
            let (version, key, effect) = (record.version(), record.key(), record.effect());
            LinkMessage::Entry { version, key, effect }.encode(out);
        }
        for (client, seq, Completion { version, found, reply }) in &self.completions {
            let identity = Identity { client, seq: *seq };
            let reply = reply.as_deref().unwrap_or_default();
            LinkMessage::Completed { identity, version: *version, found: *found, reply }.encode(out);
        }
    }
}
