//! Nodes that a test configures itself, one map after another, and whose messages it delivers one by one.

use std::sync::Arc;
use std::time::Duration;

use engine::bugs::NoBugs;
use engine::inbox::Inbox;
use engine::node::{Node, Turn};
use engine::outbox::Outbox;
use engine::time::Timestamp;
use engine::waiting::Waiting;
use proto::cluster_map::{ClusterMap, MapUpdate, MapVersion, Member, SlotConfig};
use proto::frame::{Frame, FrameDecoder, Words};
use proto::id::{Epoch, Incarnation};
use proto::level::AckLevel;
use proto::peer::{Change, LinkMessage, LinkReply, Write};
use proto::slot::{SlotBits, SlotId};

/// Two slots.
const BITS: SlotBits = SlotBits::new(1);

/// The slot that the tests are about.
pub(crate) const SLOT: SlotId = SlotId(0);

pub(crate) fn at(millis: u64) -> Timestamp {
    Timestamp(1_000_000) + Duration::from_millis(millis)
}

/// Nodes 1, 2 and 3, none of which has heard of the others yet.
pub(crate) fn nodes() -> [Node; 3] {
    [1, 2, 3].map(|number| {
        let node = Node::new(at(0), BITS, number, NoBugs);
        node.joined(Incarnation(number));
        node
    })
}

/// A map that names all three nodes, and none of them in any slot.
pub(crate) fn empty_map() -> ClusterMap {
    let mut map = ClusterMap::empty("cluster".to_owned(), BITS);
    let member = |number: u64| {
        let addr = format!("n:{number}").parse().expect("an address");
        (Incarnation(number), Member { addr, up: true })
    };
    map.set_members((1..=3).map(member).collect());
    map
}

/// Gives a slot to a primary, with all three nodes in sync, in the next version of the map. Returns the whole map.
pub(crate) fn lead(map: &mut ClusterMap, slot: SlotId, epoch: u64, primary: u64) -> MapUpdate {
    let version = MapVersion(map.version.0 + 1);
    let isr = [1, 2, 3].map(Incarnation).to_vec();
    let (epoch, primary) = (Epoch(epoch), Some(Incarnation(primary)));
    map.set_config(slot, Arc::new(SlotConfig { epoch, version, primary, isr, ..SlotConfig::default() }));
    map.version = version;
    map.update_since(MapVersion(0))
}

pub(crate) fn publish(now: Timestamp, nodes: &[&Node], update: &MapUpdate) {
    for node in nodes {
        node.handle_map(now, update, &mut Turn::default()).expect("it is of this cluster");
    }
}

/// A key of the slot.
pub(crate) fn key() -> Vec<u8> {
    let slot_of = |key: &[u8]| BITS.slot(&proto::slot::Position::of(key));
    (0..).map(|n| format!("k{n}").into_bytes()).find(|key| slot_of(key) == SLOT).expect("there is one")
}

/// Writes the key at a node: returns whether that was refused, and the ticket if the answer waits.
pub(crate) fn put(
    now: Timestamp,
    at: &Node,
    value: &[u8],
    ack: AckLevel,
    waiting: &Waiting,
) -> Result<Option<usize>, engine::slot::Refusal> {
    let key = key();
    let write = Write { ack, ..Write::new(&key, Change::Put(value)) };
    at.write(now, SLOT, &write, waiting, &mut Turn::default()).map(|written| written.ticket)
}

/// One direction of a link between two nodes: the queue of the sender, and what the receiver knows of the connection.
pub(crate) struct Link<'a> {
    from: &'a Node,
    to: &'a Node,
    queue: Arc<Outbox>,
    inbox: Inbox,
}

impl<'a> Link<'a> {
    pub(crate) fn new(from: &'a Node, to: &'a Node) -> Self {
        let queue = from
            .outboxes()
            .into_iter()
            .find(|outbox| outbox.to == to.incarnation())
            .expect("it is as this test arranges it");
        Self { from, to, queue, inbox: Inbox::new(from.incarnation()) }
    }

    /// Brings what is in the queue to the receiver. Returns its replies.
    pub(crate) fn carry(&mut self, now: Timestamp) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.from.beat(now, &mut bytes);
        self.queue.take(&mut bytes, 1 << 20);
        let mut replies = Vec::new();
        self.deliver(now, &bytes, &mut replies);
        self.inbox.acknowledge(now, self.to, &mut Turn::default(), &mut replies);
        replies
    }

    /// Brings messages and replies to and fro until there are no more.
    pub(crate) fn exchange(&mut self, now: Timestamp) {
        for _ in 0..4 {
            let replies = self.carry(now);
            self.answer(now, &replies);
        }
    }

    fn deliver(&mut self, now: Timestamp, bytes: &[u8], replies: &mut Vec<u8>) {
        each(bytes, |words| {
            let message = LinkMessage::parse(words).expect("it is as this test arranges it");
            self.inbox
                .handle(now, self.to, message, &mut Turn::default(), replies)
                .expect("it is as this test arranges it");
        });
    }

    fn answer(&self, now: Timestamp, replies: &[u8]) {
        each(replies, |words| {
            let reply = LinkReply::parse(words).expect("it is as this test arranges it");
            assert!(self.from.handle_link_reply(now, &self.queue, reply, &mut Turn::default()));
        });
    }

    /// Renews the lease, and leaves everything else in the queue.
    pub(crate) fn only_beat(&mut self, now: Timestamp) {
        let (mut bytes, mut replies) = (Vec::new(), Vec::new());
        self.from.beat(now, &mut bytes);
        self.deliver(now, &bytes, &mut replies);
        self.answer(now, &replies);
    }

    pub(crate) fn breaks(&mut self) {
        self.queue.reconnected();
        self.inbox = Inbox::new(self.from.incarnation());
    }
}

fn each(mut bytes: &[u8], mut handle: impl FnMut(Words<'_>)) {
    let mut decoder = FrameDecoder::new();
    while !bytes.is_empty() {
        let Some((Frame::Array(words), length)) = decoder.decode(bytes).expect("it is as this test arranges it") else {
            panic!("not an array")
        };
        handle(words);
        bytes = &bytes[length..];
    }
}
