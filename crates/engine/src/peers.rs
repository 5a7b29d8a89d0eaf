//! What this node has promised to the primaries that it follows, and when it last heard from them.
//!
//! A primary requests its lease with a beat, on the connection on which it replicates, for all slots that the two
//! share. By answering, this node promises to lead none of the slots in which it follows that primary for [`PROMISE`],
//! whatever the coordinator says. The primary counts [`LEASE`] from when it sent the beat, which is shorter by the most
//! that two clocks can differ if each is off by a tenth. (Gray and Cheriton, "Leases", SOSP 1989.)
//!
//! IMPORTANT: if this node has stopped following a primary in a slot, the primary is told so before its next lease.
//! Otherwise a lease meant for the other slots would let it continue in that one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::cluster_map::{ClusterMap, Member};
use proto::id::{Epoch, Incarnation, NodeAddr};
use proto::peer::LinkReply;
use proto::slot::SlotId;

use crate::time::Timestamp;

/// How often a primary requests its lease.
pub const BEAT: Duration = Duration::from_millis(100);

/// How long a lease is valid for the primary, counted from when it sent the beat.
pub const LEASE: Duration = Duration::from_millis(540);

/// How long a follower keeps its promise, counted from when it received the beat.
pub const PROMISE: Duration = Duration::from_millis(660);

/// How long a primary must be silent before a follower complains to the coordinator.
pub const COMPLAIN_AFTER: Duration = Duration::from_millis(400);

/// The primaries, by incarnation.
#[derive(Debug)]
pub struct Peers {
    started: Timestamp,
    known: Mutex<BTreeMap<Incarnation, Peer>>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Its address, once a map has named it.
    addr: Option<NodeAddr>,
    heard: Timestamp,
    promised_until: Timestamp,
    /// Slots in which this node no longer follows it: the epoch that this node follows there, and the number of this
    /// note.
    superseded: BTreeMap<SlotId, (Epoch, u64)>,
    notes: u64,
}

impl Peers {
    /// This start of the node has promised nothing yet; what an earlier start promised is unknown.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { started: now, known: Mutex::default() }
    }

    /// A primary was heard from.
    pub fn heard(&self, now: Timestamp, from: Incarnation) {
        self.lock().entry(from).or_default().heard = now;
    }

    /// The connection from a primary has ended.
    pub fn lost(&self, from: Incarnation) {
        if let Some(peer) = self.lock().get_mut(&from) {
            peer.heard = Timestamp::default();
        }
    }

    /// Answers a beat. `told` is the last note that this connection has been told.
    pub fn grant(&self, now: Timestamp, from: Incarnation, sent: u64, told: &mut u64, replies: &mut Vec<u8>) {
        let mut known = self.lock();
        let peer = known.entry(from).or_default();
        peer.heard = now;
        if *told < peer.notes {
            for (slot, (epoch, note)) in &peer.superseded {
                if note > told {
                    LinkReply::Deposed { slot: *slot, epoch: *epoch }.encode(replies);
                }
            }
            *told = peer.notes;
        }
        peer.promised_until = now + PROMISE;
        LinkReply::Lease { sent }.encode(replies);
    }

    /// This node no longer follows a primary in a slot, but one of this epoch. Returns until when it is still bound.
    pub fn supersede(&self, primary: Incarnation, slot: SlotId, epoch: Epoch) -> Timestamp {
        let mut known = self.lock();
        let peer = known.entry(primary).or_default();
        peer.notes += 1;
        peer.superseded.insert(slot, (epoch, peer.notes));
        peer.promised_until
    }

    /// Until when this node is bound to a primary.
    #[must_use]
    pub fn promise_to(&self, primary: Incarnation) -> Timestamp {
        self.lock().get(&primary).map(|peer| peer.promised_until).unwrap_or_default()
    }

    /// This node follows a primary in a slot, possibly again.
    pub fn follow(&self, now: Timestamp, primary: Incarnation, slot: SlotId) {
        let mut known = self.lock();
        let peer = known.entry(primary).or_default();
        peer.heard = now;
        peer.superseded.remove(&slot);
    }

    /// Until when a promise by an earlier start of this node may be binding.
    #[must_use]
    pub fn earliest(&self) -> Timestamp {
        self.started + PROMISE
    }

    /// Whether a primary has been silent for so long that the coordinator should know. One that was never heard from is
    /// given time from now on.
    #[must_use]
    pub fn is_silent(&self, now: Timestamp, primary: Incarnation) -> bool {
        let mut known = self.lock();
        let peer = known.entry(primary).or_insert_with(|| Peer { heard: now, ..Peer::default() });
        now - peer.heard >= COMPLAIN_AFTER
    }

    /// Gives a primary time from now on.
    pub fn excuse_one(&self, now: Timestamp, primary: Incarnation) {
        let mut known = self.lock();
        let peer = known.entry(primary).or_default();
        peer.heard = peer.heard.max(now);
    }

    /// This node was asleep: nobody could be heard meanwhile.
    pub fn excuse(&self, now: Timestamp) {
        self.lock().values_mut().for_each(|peer| peer.heard = now);
    }

    /// Forgets primaries that have a successor at their address, once no promise to them is binding. One that the map
    /// no longer names may still be running, cut off, and must not get a lease without being told first.
    pub fn follow_map(&self, now: Timestamp, map: &ClusterMap) {
        let mut known = self.lock();
        for (incarnation, peer) in known.iter_mut() {
            if let Some(member) = map.member(*incarnation) {
                peer.addr = Some(member.addr.clone());
            }
        }
        known.retain(|incarnation, peer| {
            // IMPORTANT: a member that is up. The map may name an earlier start at the same address, because of what it
            // held, for longer than it names its successor.
            let is_successor = |member: &Member| member.up && Some(&member.addr) == peer.addr.as_ref();
            let is_succeeded = || map.members().any(|(_, member)| is_successor(member));
            map.member(*incarnation).is_some() || now < peer.promised_until || !is_succeeded()
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Incarnation, Peer>> {
        // No code that holds this lock panics halfway.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proto::slot::SlotBits;

    use super::*;

    #[test]
    fn a_primary_hears_what_it_leads_no_more_before_its_next_lease_and_on_every_new_connection() {
        let peers = Peers::new(Timestamp(0));
        let (primary, slot, epoch) = (Incarnation(7), SlotId(3), Epoch(9));
        let replies = |told: &mut u64| {
            let mut bytes = Vec::new();
            peers.grant(Timestamp(5), primary, 1, told, &mut bytes);
            String::from_utf8(bytes).expect("words of text")
        };
        let mut told = 0;
        assert!(!replies(&mut told).contains("DEPOSED"));
        assert_eq!(peers.supersede(primary, slot, epoch), Timestamp(5) + PROMISE);
        let first = replies(&mut told);
        assert!(first.find("DEPOSED") < first.find("LEASE") && first.contains("DEPOSED"), "{first}");
        assert!(!replies(&mut told).contains("DEPOSED"), "told on this connection");
        assert!(replies(&mut 0).contains("DEPOSED"), "a new connection");
        peers.follow(Timestamp(6), primary, slot);
        assert!(!replies(&mut 0).contains("DEPOSED"));
    }

    #[test]
    fn a_promise_binds_until_it_ends_although_the_map_names_its_primary_no_more_and_others_at_its_address() {
        let peers = Peers::new(Timestamp(0));
        let [earlier, primary, later] = [6, 7, 8].map(Incarnation);
        let addr: NodeAddr = "n:1".parse().expect("an address");
        let follow_map = |now, members: &[(Incarnation, bool)]| {
            let member = |(start, up): &(_, bool)| (*start, Member { addr: addr.clone(), up: *up });
            let mut map = ClusterMap::empty("a".to_owned(), SlotBits::new(1));
            map.set_members(members.iter().map(member).collect());
            peers.follow_map(now, &map);
        };
        peers.grant(Timestamp(2), primary, 1, &mut 0, &mut Vec::new());
        follow_map(Timestamp(2), &[(earlier, false), (primary, true)]);
        let end = Timestamp(2) + PROMISE;
        follow_map(end, &[(earlier, false)]);
        assert_eq!(peers.promise_to(primary), end, "whoever was there before it is no successor");
        follow_map(Timestamp(3), &[(earlier, false), (later, true)]);
        assert_eq!(peers.promise_to(primary), end, "its address may be somebody else's by now");
        follow_map(end, &[(later, true)]);
        assert_eq!(peers.promise_to(primary), Timestamp::default(), "nobody needs to know of it any more");
    }

    #[test]
    fn the_lease_ends_before_the_promise_even_by_clocks_that_are_wrong_by_a_tenth() {
        let by = |span: Duration, percent: u32| span * percent / 100;
        assert!(by(LEASE, 100) * 100 / 90 <= by(PROMISE, 100) * 100 / 110);
        assert!(BEAT * 3 < LEASE);
    }
}
