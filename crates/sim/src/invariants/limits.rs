//! I16: every queue has a limit and refuses anything beyond it.

use engine::log::TAIL_BYTES;
use engine::outbox::{OUTBOX_BYTES, OUTBOX_ITEMS};

use crate::world::World;

impl World {
    pub(super) fn check_limits(&mut self, n: usize) {
        let or = |knob: u64, default| if knob > 0 { knob as usize } else { default };
        let items = or(self.knobs.queue_items, OUTBOX_ITEMS);
        let tail_bytes = or(self.knobs.tail_bytes, TAIL_BYTES);
        let Some(node) = self.running(n) else { return };
        let over = node.outboxes().iter().map(|outbox| outbox.lag()).find(|lag| {
            // A fill counts separately: it does not begin before there is room for it.
            lag.items > items || lag.bytes > 2 * OUTBOX_BYTES
        });
        let tails = node.tail_bytes();
        let (counted, there) = (node.memory().usage(), node.recount_memory());
        if let Some(lag) = over {
            self.broken("I16", None, format!("{lag:?} waits for one replica"));
        }
        if tails > tail_bytes {
            self.broken("I16", None, format!("the tails of a node hold {tails} bytes"));
        }
        if counted != there {
            self.broken("what tables take is counted", None, format!("{counted:?} is counted, {there:?} is there"));
        }
    }
}
