//! Prefetching for requests that have arrived together, before the first of them is carried out.
//!
//! What a request touches is scattered over the tables, and each first touch is a cache miss. If many requests have
//! arrived at once, all their memory is prefetched first, so that the misses overlap. For a request that has arrived
//! alone, where others are read before it is carried out, the prefetch has completed by then.

use engine::node::{Node, Upcoming};
use proto::frame::{Frame, Frames};
use proto::slot::{KeyToPlace, SlotId};

/// The slots of the upcoming keys, so that no key is hashed twice.
#[derive(Debug, Default)]
pub(crate) struct SlotsAhead {
    /// In the order of the requests.
    keys: Vec<Ahead>,
    /// The slots of these keys, in the same order.
    slots: Vec<SlotId>,
    next: usize,
}

/// An upcoming key.
#[derive(Debug)]
struct Ahead {
    place: Place,
    key: KeyToPlace,
    upcoming: Upcoming,
}

/// Where a key lies in its connection's buffer: address and length. Until the buffer changes, nothing else is there.
type Place = (usize, usize);

fn place(key: &[u8]) -> Place {
    (key.as_ptr().addr(), key.len())
}

impl SlotsAhead {
    /// Prefetches for the upcoming requests, which replace those looked at before. Mistaking another word for a key
    /// only costs a little time.
    pub(crate) fn prefetch(&mut self, node: &Node, frames: Frames<'_>) {
        self.forget();
        let ahead = |(verb, key): (&[u8], &[u8])| {
            let hash = node.hash(key);
            let upcoming = if verb.eq_ignore_ascii_case(b"GET") { Upcoming::Read(hash) } else { Upcoming::Write(hash) };
            Ahead { place: place(key), key: KeyToPlace::new(key), upcoming }
        };
        self.keys.extend(frames.filter_map(Frame::verb_and_key).map(ahead));
        self.slots.extend(self.keys.iter().map(|ahead| node.slot_at(&ahead.key)));
        let upcoming = self.slots.iter().copied().zip(self.keys.iter().map(|ahead| ahead.upcoming));
        match self.keys.as_slice() {
            [_] => upcoming.for_each(|(slot, upcoming)| node.fetch_one(slot, upcoming)),
            _ => node.fetch_all(upcoming),
        }
    }

    /// The slot of a key, if it was looked at. Call this for the requests in order.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<SlotId> {
        let at = self.keys.get(self.next..)?.iter().position(|ahead| ahead.place == place(key))? + self.next;
        self.next = at + 1;
        self.slots.get(at).copied()
    }

    /// Forgets all slots. IMPORTANT: call this before the buffer changes, when another key may take the place of one
    /// that was there.
    pub(crate) fn forget(&mut self) {
        self.keys.clear();
        self.slots.clear();
        self.next = 0;
    }
}
