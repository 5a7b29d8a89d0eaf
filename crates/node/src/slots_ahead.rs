//! Prefetching for requests that have arrived together, before the first of them is carried out.
//!
//! What a request touches is scattered over the tables, and each first touch is a cache miss. If many requests have
//! arrived at once, all their memory is prefetched first, so that the misses overlap. For a request that has arrived
//! alone, where others are read before it is carried out, the prefetch has completed by then.

use engine::node::Node;
use net::connection::TOGETHER;
use proto::frame::{Frame, Frames};
use proto::slot::SlotId;

/// The slots of the upcoming keys, so that no key is hashed twice.
#[derive(Debug, Default)]
pub(crate) struct SlotsAhead {
    /// In the order of the requests.
    slots: Vec<(Place, SlotId)>,
    next: usize,
}

/// Where a key lies in its connection's buffer: address and length. Until the buffer changes, nothing else is there.
type Place = (usize, usize);

fn place(key: &[u8]) -> Place {
    (key.as_ptr().addr(), key.len())
}

impl SlotsAhead {
    /// Prefetches for the upcoming requests, which replace those looked at before. Mistaking another word for a key
    /// only costs a little time.
    pub(crate) fn look_at(&mut self, node: &Node, frames: Frames<'_>) {
        let mut keys = [(SlotId(0), &b""[..]); TOGETHER];
        let mut count = 0;
        for (place, key) in keys.iter_mut().zip(frames.filter_map(Frame::second_word)) {
            *place = (node.slot_of(key), key);
            count += 1;
        }
        let keys = keys.get(..count).unwrap_or_default();
        match keys {
            [(slot, key)] => node.fetch_key(*slot, key),
            keys => node.fetch_keys(keys),
        }
        self.forget();
        self.slots.extend(keys.iter().map(|(slot, key)| (place(key), *slot)));
    }

    /// The slot of a key, if it was looked at. Call this for the requests in order.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<SlotId> {
        let ahead = self.slots.get(self.next..)?;
        let at = ahead.iter().position(|(known, _)| *known == place(key))?;
        let (_, slot) = ahead.get(at)?;
        self.next += at + 1;
        Some(*slot)
    }

    /// Forgets all slots. IMPORTANT: call this before the buffer changes, when another key may take the place of one
    /// that was there.
    pub(crate) fn forget(&mut self) {
        self.slots.clear();
        self.next = 0;
    }
}
