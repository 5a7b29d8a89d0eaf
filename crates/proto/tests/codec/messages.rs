//! Messages between nodes, and between a node and the coordinator.

use proptest::collection::vec;
use proptest::prelude::*;
use proto::cluster_map::MapVersion;
use proto::frame::Frame;
use proto::id::{Epoch, Incarnation, Version};
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{
    Change, Compared, Effect, Forward, Hello, Identity, KeyRequest, LinkKind, LinkMessage, LinkReply, Op, Read, Term,
    Terms, WallTime, Wanted, Write,
};
use proto::request::{CoordinatorRequest, NodeRequest};
use proto::session::{Ancestors, CoordinatorMessage, Filling, Join, NodeMessage, SlotAt};
use proto::slot::SlotId;

use crate::{addr, bytes, cases, client, counter, read_stream, version, with_array};

fn slots_at() -> impl Strategy<Value = Vec<SlotAt>> {
    let one = (any::<u16>(), counter());
    vec(one.prop_map(|(slot, version)| SlotAt { slot: SlotId(slot), version: MapVersion(version) }), 0..20)
}

fn terms() -> impl Strategy<Value = Terms> {
    let one = (counter(), counter());
    vec(one.prop_map(|(epoch, first)| Term { epoch: Epoch(epoch), first }), 0..10).prop_map(Terms)
}

/// Round-trips each message of a kind, written by `encode` and read by `parse`, alone and all in one stream.
macro_rules! messages_read_back {
    ($pieces:expr, $kind:ident, $messages:expr) => {{
        let mut stream = Vec::new();
        let messages = $messages;
        for message in &messages {
            let mut one = Vec::new();
            message.encode(&mut one);
            with_array(&one, |words| assert_eq!($kind::parse(words).as_ref(), Ok(message)));
            stream.extend_from_slice(&one);
        }
        let mut expected = messages.iter();
        let read = read_stream(&stream, $pieces, |frame| match frame {
            Frame::Array(words) => assert_eq!($kind::parse(words).as_ref().ok(), expected.next()),
            Frame::Line(_) => panic!("a message is an array"),
        });
        assert_eq!(read.len(), messages.len());
    }};
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn messages_for_replication_read_back(
        (slot, epoch, config, stamp) in (any::<u16>(), counter(), counter(), counter()),
        (last, previous, durable, seq) in (version(), version(), counter(), counter()),
        (terms, entries, completions) in (terms(), counter(), counter()),
        (key, value) in (bytes(40), bytes(100)),
        (client, client_seq) in (client(), counter()),
        pieces in vec(1usize..100, 1..10),
    ) {
        let (slot, epoch, config) = (SlotId(slot), Epoch(epoch), MapVersion(config));
        let (key, value) = (key.as_slice(), value.as_slice());
        let (put, delete) = (Effect::Put(value), Effect::Delete);
        let identity = Identity { client: &client, seq: client_seq };
        let replicate = |op| LinkMessage::Replicate { slot, version: last, previous, durable, op };
        let write = |effect, identity| replicate(Op::Write { key, effect, identity, reply: b"" });
        messages_read_back!(&pieces, LinkMessage, [
            LinkMessage::Beat { sent: stamp },
            LinkMessage::Align { slot, epoch, config, stamp, from: previous, durable, terms: terms.clone(), refill: seq % 2 == 1 },
            write(put, None),
            write(delete, None),
            write(put, Some(identity)),
            write(delete, Some(identity)),
            write(Effect::PutUntil(value, WallTime(seq)), None),
            write(Effect::PutUntil(value, WallTime(seq)), Some(identity)),
            write(Effect::Expire, None),
            replicate(Op::Declined { identity, found: previous, reply: b"" }),
            replicate(Op::Write { key, effect: put, identity: Some(identity), reply: b":7" }),
            replicate(Op::Declined { identity, found: previous, reply: b"-x" }),
            LinkMessage::Completed { identity, version: last, found: None, reply: b":7" },
            replicate(Op::Barrier),
            LinkMessage::Durable { slot, seq },
            LinkMessage::Fill { slot, epoch, stamp, last, durable, purged: seq, entries, completions, terms },
            LinkMessage::Entry { version: last, key, effect: put },
            LinkMessage::Entry { version: last, key, effect: delete },
            LinkMessage::Entry { version: last, key, effect: Effect::PutUntil(value, WallTime(seq)) },
            LinkMessage::Entry { version: last, key, effect: Effect::Expire },
            LinkMessage::Completed { identity, version: last, found: None, reply: b"" },
            LinkMessage::Completed { identity, version: last, found: Some(previous), reply: b"" },
            LinkMessage::Purge { slot, seq },
            LinkMessage::Release { slot, epoch },
            LinkMessage::Compare { slot, query: stamp, at: last, floor: seq },
        ]);
        messages_read_back!(&pieces, LinkReply, [
            LinkReply::Ack { count: seq },
            LinkReply::Lease { sent: stamp },
            LinkReply::Memory { over: stamp },
            LinkReply::Behind { slot, epoch, stamp, last: Some(last) },
            LinkReply::Behind { slot, epoch, stamp, last: None },
            LinkReply::Deposed { slot, epoch },
            LinkReply::Compared { slot, query: stamp, compared: Compared::Digest(u128::from(seq) << 70) },
            LinkReply::Compared { slot, query: stamp, compared: Compared::Elsewhere },
            LinkReply::Compared { slot, query: stamp, compared: Compared::Purged(seq) },
        ]);
    }

    #[test]
    fn forwarded_requests_read_back(
        (id, key, value) in (counter(), bytes(40), bytes(100)),
        (client, seq, version) in (client(), counter(), version()),
        pieces in vec(1usize..100, 1..10),
    ) {
        let key = key.as_slice();
        let mut messages = Vec::new();
        for wanted in [Wanted::Value, Wanted::Versioned, Wanted::Ttl] {
            for (at_replica, level) in [(false, ReadLevel::Local), (false, ReadLevel::Linear), (true, ReadLevel::Local)] {
                let request = KeyRequest::Read(Read { key, wanted, level });
                messages.push(Forward { id, at_replica, is_short: at_replica, request });
            }
        }
        let millis = seq % proto::limits::TTL_MILLIS + 1;
        for change in [
            Change::Put(&value),
            Change::PutFor(&value, millis),
            Change::Delete,
            Change::Expire(millis),
            Change::Expire(0),
            Change::Persist,
        ] {
            for expected in [None, Some(Version::NONE), Some(version)] {
                for identity in [None, Some(Identity { client: &client, seq })] {
                    for ack in [AckLevel::Async, AckLevel::Quorum, AckLevel::All] {
                        let request = KeyRequest::Write(Write { key, change, expected, identity, ack });
                        messages.push(Forward { id, at_replica: false, is_short: false, request });
                    }
                }
            }
        }
        messages_read_back!(&pieces, Forward, messages);
    }

    #[test]
    fn messages_of_a_session_read_back(
        (incarnation, query) in (counter(), counter()),
        slots in slots_at(),
        last in vec((any::<u16>().prop_map(SlotId), version()), 0..20),
        (text, cluster) in (any::<String>(), any::<String>()),
        addr in addr(),
        pieces in vec(1usize..100, 1..10),
    ) {
        let incarnation = Incarnation(incarnation);
        let asked: Vec<SlotId> = last.iter().map(|(slot, _)| *slot).collect();
        messages_read_back!(&pieces, NodeMessage, [
            NodeMessage::Heartbeat { incarnation },
            NodeMessage::Admit { follower: incarnation, slots: slots.clone() },
            NodeMessage::Expel { follower: incarnation, slots: slots.clone() },
            NodeMessage::Release { to: incarnation, slots: slots.clone() },
            NodeMessage::Complain { about: incarnation },
            NodeMessage::Positions { query, last },
            NodeMessage::Resync,
            NodeMessage::Full,
            NodeMessage::Room,
            NodeMessage::Filling { fills: vec![Filling { to: incarnation, slots: query, keys: query / 2 }; asked.len() % 5] },
            NodeMessage::Leave,
        ]);
        messages_read_back!(&pieces, CoordinatorMessage, [
            CoordinatorMessage::Joined { incarnation, text: &text },
            CoordinatorMessage::Beat,
            CoordinatorMessage::Map { text: &text },
            CoordinatorMessage::HandOver { to: incarnation, slots },
            CoordinatorMessage::AskPositions { query, slots: asked },
            CoordinatorMessage::Left,
            CoordinatorMessage::Unregistered,
        ]);
        // The opening messages arrive as requests: PEER at a node, JOIN at the coordinator.
        for kind in [LinkKind::Replication, LinkKind::Forward] {
            let (cluster, from_addr) = (cluster.clone(), addr.clone());
            let hello = Hello { kind, cluster, from_addr, from: incarnation, to: Incarnation(query) };
            let mut bytes = Vec::new();
            hello.encode(&mut bytes);
            with_array(&bytes, |words| match NodeRequest::parse(Frame::Array(words)) {
                Ok(NodeRequest::Peer(words)) => assert_eq!(Hello::parse(words.0), Ok(hello)),
                other => panic!("not PEER: {other:?}"),
            });
        }
        // Incarnation 0 is never assigned: on the wire it means that there is none.
        let given = Some(incarnation).filter(|given| given.0 != 0);
        for (incarnation, proof) in [(None, None), (given, None), (None, given), (given, given)] {
            let proven: Vec<_> = proof.into_iter().chain(proof).collect();
            let ancestors = Ancestors { unproven: proven.clone(), proven };
            let join = Join { addr: addr.clone(), incarnation, ancestors, map: &text, weight: 1 };
            let mut bytes = Vec::new();
            join.encode(&mut bytes);
            with_array(&bytes, |words| match CoordinatorRequest::parse(Frame::Array(words)) {
                Ok(CoordinatorRequest::Join(words)) => assert_eq!(Join::parse(words.0), Ok(join)),
                other => panic!("not JOIN: {other:?}"),
            });
        }
    }
}
