//! Records that are sent again on a new connection, although their term is over.

use std::sync::Arc;
use std::time::Duration;

use engine::bugs::NoBugs;
use engine::inbox::Inbox;
use engine::node::{Node, Turn};
use engine::outbox::Outbox;
use engine::time::Timestamp;
use engine::waiting::Waiting;
use proto::cluster_map::{ClusterMap, MapVersion, Member, SlotConfig};
use proto::frame::{Frame, FrameDecoder, Words};
use proto::id::{Epoch, Incarnation};
use proto::level::AckLevel;
use proto::peer::{Change, LinkMessage, LinkReply, Write};
use proto::slot::{SlotBits, SlotId};

const SLOT: SlotId = SlotId(0);

fn at(millis: u64) -> Timestamp {
    Timestamp(1_000_000) + Duration::from_millis(millis)
}

/// One direction of a link between two nodes: the queue of the sender, and what the receiver knows of the connection.
struct Link<'a> {
    from: &'a Node,
    to: &'a Node,
    queue: Arc<Outbox>,
    inbox: Inbox,
}

impl<'a> Link<'a> {
    fn new(from: &'a Node, to: &'a Node) -> Self {
        let queue = from
            .outboxes()
            .into_iter()
            .find(|outbox| outbox.to == to.incarnation())
            .expect("it is as this test arranges it");
        Self { from, to, queue, inbox: Inbox::new(from.incarnation()) }
    }

    /// Brings what is in the queue to the receiver. Returns its replies.
    fn carry(&mut self, now: Timestamp) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.from.beat(now, &mut bytes);
        self.queue.take(&mut bytes, 1 << 20);
        let mut replies = Vec::new();
        each(&bytes, |words| {
            let message = LinkMessage::parse(words).expect("it is as this test arranges it");
            self.inbox
                .handle(now, self.to, message, &mut Turn::default(), &mut replies)
                .expect("it is as this test arranges it");
        });
        self.inbox.acknowledge(now, self.to, &mut Turn::default(), &mut replies);
        replies
    }

    /// Brings messages and replies to and fro until there are no more.
    fn exchange(&mut self, now: Timestamp) {
        for _ in 0..4 {
            let replies = self.carry(now);
            each(&replies, |words| {
                let reply = LinkReply::parse(words).expect("it is as this test arranges it");
                assert!(self.from.handle_link_reply(now, &self.queue, reply, &mut Turn::default()));
            });
        }
    }

    fn breaks(&mut self) {
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

#[test]
fn a_copy_with_a_record_of_an_earlier_term_acknowledges_none_with_the_same_number() {
    let [a, b, c] = [1, 2, 3].map(|number| {
        let node = Node::new(at(0), SlotBits::new(1), number, NoBugs);
        node.joined(Incarnation(number));
        node
    });
    let mut map = ClusterMap::empty("cluster".to_owned(), SlotBits::new(1));
    let member = |number: u64| {
        (
            Incarnation(number),
            Member { addr: format!("n:{number}").parse().expect("it is as this test arranges it"), up: true },
        )
    };
    map.set_members((1..=3).map(member).collect());
    let mut lead = |now: Timestamp, slot: u16, epoch: u64, primary: u64| {
        let version = MapVersion(map.version.0 + 1);
        let isr = [1, 2, 3].map(Incarnation).to_vec();
        let (epoch, primary) = (Epoch(epoch), Some(Incarnation(primary)));
        map.set_config(SlotId(slot), Arc::new(SlotConfig { epoch, version, primary, isr, ..SlotConfig::default() }));
        map.version = version;
        let update = map.update_since(MapVersion(0));
        [&a, &b, &c].iter().for_each(|node| {
            node.handle_map(now, &update, &mut Turn::default()).expect("it is as this test arranges it")
        });
    };
    // A leads the other slot throughout, so its queue to B stays.
    lead(at(0), 1, 1, 1);
    lead(at(0), 0, 2, 1);
    let (mut a_to_b, mut a_to_c) = (Link::new(&a, &b), Link::new(&a, &c));
    [&mut a_to_b, &mut a_to_c].into_iter().for_each(|link| link.exchange(at(1)));
    let key = (0..)
        .map(|n| format!("k{n}").into_bytes())
        .find(|key| a.slot_of(key) == SLOT)
        .expect("it is as this test arranges it");
    let waiting = Waiting::new();
    let write = |now: Timestamp, value: &[u8], ack: AckLevel| {
        let write = Write { ack, ..Write::new(&key, Change::Put(value)) };
        a.write(now, SLOT, &write, &waiting, &mut Turn::default()).expect("it is as this test arranges it").ticket
    };

    // The first record of the slot reaches B, whose acknowledgement is lost. C, without it, leads for a while: its log
    // is empty, so it writes no barrier, and B cuts the record off.
    assert!(write(at(3), b"old", AckLevel::Async).is_none());
    drop(a_to_b.carry(at(3)));
    lead(at(1_000), 0, 3, 3);
    let (mut c_to_a, mut c_to_b) = (Link::new(&c, &a), Link::new(&c, &b));
    [&mut c_to_a, &mut c_to_b].into_iter().for_each(|link| link.exchange(at(1_001)));
    assert_eq!(b.inspect(SLOT, |slot| slot.last().seq), 0);
    // A leads again. B hears so on the old connection, again without an answer. On a new one everything comes again.
    lead(at(1_200), 0, 5, 1);
    drop(a_to_b.carry(at(1_201)));
    a_to_b.breaks();
    let now = at(1_900);
    [&mut a_to_b, &mut a_to_c].into_iter().for_each(|link| link.exchange(now));
    a.handle_timeout(now, &mut Turn::default());

    let ticket = write(now, b"new", AckLevel::Quorum).expect("it is as this test arranges it");
    [&mut a_to_b, &mut a_to_c].into_iter().for_each(|link| link.exchange(now));
    let value = |node: &Node| {
        let read = node.read_copy(SLOT, &key, || now, |record| record.and_then(|it| it.value().map(<[u8]>::to_vec)));
        read.expect("it is as this test arranges it").expect("it is as this test arranges it")
    };
    assert_eq!((value(&a), value(&b), value(&c)), (b"new".to_vec(), b"old".to_vec(), b"new".to_vec()));
    assert_eq!(waiting.outcome(ticket), None, "B does not have it, and waits to be filled");
}
