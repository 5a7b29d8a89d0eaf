//! Requests that have arrived together, before the first of them is carried out.
//!
//! What a request touches lies all over the tables, and each first touch waits for memory. Where many requests have
//! arrived at once, the memory of all is asked for first, and they wait for it together. One that has arrived alone, where others
//! are read before it is carried out, has its memory by then.

use engine::node::Node;
use net::connection::TOGETHER;
use proto::frame::{Frame, Frames};
use proto::slot::SlotId;

/// The slots of the keys that come next, so that no key is hashed twice.
#[derive(Debug, Default)]
pub(crate) struct SlotsAhead {
    /// In the order of the requests.
    slots: Vec<(Place, SlotId)>,
    next: usize,
}

/// Where a key lies in the buffer of its connection: its address and its length. Until the buffer changes, nothing else
/// is there.
type Place = (usize, usize);

fn place(key: &[u8]) -> Place {
    (key.as_ptr().addr(), key.len())
}

impl SlotsAhead {
    /// Looks at requests that come next, in place of those looked at before. What is taken for a key and is none costs a
    /// little time.
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

    /// The slot of a key, where it was looked at. To be asked with the requests in their order.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<SlotId> {
        let ahead = self.slots.get(self.next..)?;
        let at = ahead.iter().position(|(known, _)| *known == place(key))?;
        let (_, slot) = ahead.get(at)?;
        self.next += at + 1;
        Some(*slot)
    }

    /// IMPORTANT: to be called before the buffer changes. Another key may then be where one was.
    pub(crate) fn forget(&mut self) {
        self.slots.clear();
        self.next = 0;
    }
}
