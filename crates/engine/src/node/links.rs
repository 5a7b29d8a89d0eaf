//! The messages on the links between a primary and its replicas, on both sides.

use std::sync::Arc;

use proto::id::Incarnation;
use proto::peer::{LinkMessage, LinkReply};
use proto::session::SlotAt;
use proto::slot::SlotId;
use smallvec::SmallVec;

use super::fetch::{FETCHED_TOGETHER, Upcoming};
use super::{Event, Node, Slots, Turn};
use crate::bugs::{Bug, Bugs};
use crate::outbox::{Acked, Outbox};
use crate::slot::{Effects, Incoming, Step};
use crate::time::Timestamp;

impl<B: Bugs> Node<B> {
    // The primary's side.

    /// Appends a beat, which requests a replica's lease. Must be sent on every link each [`crate::peers::BEAT`].
    pub fn beat(&self, now: Timestamp, out: &mut Vec<u8>) {
        LinkMessage::Beat { sent: now.0 }.encode(out);
    }

    /// A replica has replied. `false` if the reply makes no sense: close the connection.
    #[must_use]
    pub fn handle_link_reply(&self, now: Timestamp, from: &Outbox, reply: LinkReply, turn: &mut Turn) -> bool {
        from.heard(now);
        match reply {
            LinkReply::Ack { count } => {
                let Some(acked) = from.acknowledge(count) else { return false };
                for group in acked.chunks(FETCHED_TOGETHER) {
                    self.fetch_all(group.iter().map(|acked| (acked.slot(), Upcoming::Other)));
                    group.iter().for_each(|acked| self.handle_acked(now, from.to, *acked, turn));
                }
            }
            LinkReply::Lease { sent } => {
                // The replica echoes this node's own timestamp; one in the future cannot be genuine.
                let sent = if self.bugs.plants(Bug::LeaseFromReceipt) { now } else { Timestamp(sent) };
                if sent > now {
                    return false;
                }
                from.grant(now, sent);
            }
            LinkReply::Memory { over } => from.set_over_memory(over),
            LinkReply::Behind { slot, epoch, stamp, last } if self.has_slot(slot) => {
                let cx = &self.cx(now, slot);
                self.slot(slot).follower_is_behind(cx, from.to, epoch, stamp, last, turn);
            }
            LinkReply::Deposed { slot, epoch } if self.has_slot(slot) => {
                self.slot(slot).depose(&self.cx(now, slot), epoch, turn);
            }
            LinkReply::Compared { slot, query, compared } if self.has_slot(slot) => {
                self.handle_compared(now, from.to, slot, query, compared, turn);
            }
            LinkReply::Behind { .. } | LinkReply::Deposed { .. } | LinkReply::Compared { .. } => return false,
        }
        self.finish(turn);
        true
    }

    /// Limits fills to all replicas together to this many bytes per second from now on, and to less while clients send
    /// requests; 0: no limit.
    pub fn set_move_rate(&self, bytes: u64) {
        self.pace.set_limit(bytes);
    }

    /// Reports how many client requests this node has carried out since its start: the more there are, the slower fills
    /// go. `requests` is called only from time to time. Must be called each [`super::TICK`].
    pub fn note_requests(&self, now: Timestamp, requests: impl FnOnce() -> u64) {
        if self.pace.wants_requests(now) {
            self.pace.note_requests(now, requests());
        }
    }

    /// Makes the fills that a replica waits for, as many as its queue and the pace allow.
    pub fn make_fills(&self, now: Timestamp, outbox: &Outbox) {
        while self.pace.allows(now)
            && let Some(slot) = outbox.next_fill()
        {
            let bytes = self.slot(slot).fill(&self.cx(now, slot), outbox.to);
            self.pace.spend(now, bytes);
        }
    }

    /// A replica's queue has overflowed: marks the replica behind in every slot and starts over with it.
    pub fn restart_overflowed(&self, now: Timestamp, outbox: &Outbox) {
        let mut expel = Slots::new();
        for slot in self.bits.slots() {
            let mut state = self.slot(slot);
            if state.follower_has_overflowed(outbox.to) {
                expel.insert(slot, state.config());
            }
        }
        self.event(Event::Overflowed(outbox.addr.clone(), expel.len()));
        self.proposals().expel.insert(outbox.to, expel);
        outbox.restart();
        for slot in self.bits.slots() {
            self.slot(slot).realign_follower(&self.cx(now, slot), outbox.to);
        }
    }

    fn handle_acked(&self, now: Timestamp, from: Incarnation, acked: Acked, turn: &mut Turn) {
        let slot = acked.slot();
        let cx = &self.cx(now, slot);
        let mut state = self.slot(slot);
        let effects = match acked {
            Acked::Aligned { stamp, seq, .. } | Acked::Filled { stamp, seq, .. } => {
                state.follower_is_level(cx, from, stamp, seq, turn)
            }
            Acked::Record { seq, .. } => state.follower_has(cx, from, seq, turn),
            Acked::Released { stamp, .. } => state.follower_knows_release(stamp),
        };
        let version = state.config();
        drop(state);
        self.carry_out(SlotAt { slot, version }, from, effects);
    }

    fn carry_out(&self, at: SlotAt, follower: Incarnation, effects: Effects) {
        if effects == Effects::default() {
            return;
        }
        if effects.repaired {
            self.comparisons().repaired(at.slot, follower);
        }
        let mut proposals = self.proposals();
        if effects.admit {
            proposals.admit.entry(follower).or_default().insert(at.slot, at.version);
        }
        if effects.released && proposals.handing_over.contains_key(&at.slot) {
            proposals.release.entry(follower).or_default().push(at);
        }
    }

    // The replica's side.

    /// The connection from a primary has ended.
    pub fn link_ended(&self, from: Incarnation) {
        self.peers.lost(from);
    }

    /// A connection from a primary was opened, or something has arrived on it.
    pub fn heard_from(&self, now: Timestamp, from: Incarnation) {
        self.peers.heard(now, from);
    }

    pub(crate) fn grant_lease(
        &self,
        now: Timestamp,
        from: Incarnation,
        sent: u64,
        told: &mut u64,
        replies: &mut Vec<u8>,
    ) {
        // A node that the map does not name gets no lease: it cannot be told apart from one that was replaced.
        if self.map().is_some_and(|map| map.member(from).is_some()) {
            self.peers.grant(now, from, sent, told, replies);
            self.tell_memory(from, replies);
        }
    }

    /// Handles what a primary has sent; whatever is not applied is answered.
    pub(crate) fn follow(
        &self,
        now: Timestamp,
        from: Incarnation,
        slot: SlotId,
        incoming: Incoming,
        turn: &mut Turn,
        replies: &mut Vec<u8>,
    ) {
        // IMPORTANT: the refusal of a message is sent before the acknowledgement that counts the message.
        let reply = self.slot(slot).follow(&self.cx(now, slot), from, incoming, turn);
        reply.into_iter().for_each(|reply| reply.encode(replies));
        self.finish(turn);
    }

    /// Likewise, for the ordered stream that a primary sends for its writes: for as much of it as memory is prefetched for
    /// at a time.
    pub(crate) fn follow_steps(
        &self,
        now: Timestamp,
        from: Incarnation,
        steps: &mut Vec<(SlotId, Step)>,
        turn: &mut Turn,
        replies: &mut Vec<u8>,
    ) {
        let upcoming = |step: &Step| step.key().map_or(Upcoming::Other, |key| Upcoming::Write(self.hash(key)));
        // Gathered, since what is fetched is looked at three times, and hashing it once is enough.
        let all: SmallVec<[_; FETCHED_TOGETHER]> = steps.iter().map(|(slot, step)| (*slot, upcoming(step))).collect();
        self.fetch_all(all.iter().copied());
        for (slot, step) in steps.drain(..) {
            let reply = self.slot(slot).take(&self.cx(now, slot), from, step);
            reply.into_iter().for_each(|reply| reply.encode(replies));
        }
        self.finish(turn);
    }

    pub(super) fn outbox(&self, now: Timestamp, to: Incarnation, addr: &proto::id::NodeAddr) -> Arc<Outbox> {
        let mut outboxes = self.lock_outboxes();
        Arc::clone(
            outboxes.entry(to).or_insert_with(|| Arc::new(Outbox::new(now, to, addr.clone(), self.outbox_items))),
        )
    }
}
