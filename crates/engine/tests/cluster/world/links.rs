//! The messages between the nodes of a world.

use std::sync::Arc;

use engine::inbox::Inbox;
use engine::node::{Node, Turn};
use engine::outbox::Outbox;
use engine::time::Timestamp;
use proto::frame::{Frame, FrameDecoder, Words};
use proto::peer::{LinkMessage, LinkReply};

use super::World;

impl World {
    /// Whether the connection between two is cut in either direction.
    pub(crate) fn is_cut(&self, one: &str, other: &str) -> bool {
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        self.cuts.contains(&pair(one, other)) || self.cuts.contains(&pair(other, one))
    }

    /// Whether the first node's link to the second cannot stand.
    fn is_link_cut(&self, from: &str, to: &str) -> bool {
        self.is_cut(from, to) || self.blocked_links.contains(&(from.to_owned(), to.to_owned()))
    }

    /// Delivers what a node has queued for its replicas, and their answers.
    pub(super) fn links(&mut self, name: &str) -> bool {
        let mut from = self.nodes.remove(name).expect("a name of a node");
        let mut busy = false;
        for outbox in from.node.outboxes().into_iter().filter(|_| from.runs) {
            if outbox.has_overflowed() {
                from.node.restart_overflowed(self.now, &outbox);
                from.links.remove(&outbox.to);
                busy = true;
            }
            let to = self.nodes.iter().find(|(_, member)| member.incarnation == Some(outbox.to) && member.runs);
            let Some((_, to)) = to.filter(|(to_name, _)| !self.is_link_cut(name, to_name)) else {
                from.links.remove(&outbox.to);
                continue;
            };
            let me = from.incarnation.expect("who has replicas has joined");
            from.links.retain(|_, (emptied, _)| emptied.to != outbox.to || Arc::ptr_eq(emptied, &outbox));
            let (_, inbox) = from.links.entry(outbox.to).or_insert_with(|| {
                outbox.reconnected();
                to.node.heard_from(self.now, me);
                (Arc::clone(&outbox), Inbox::new(me))
            });
            from.node.make_fills(self.now, &outbox);
            let (mut bytes, mut replies) = (Vec::new(), Vec::new());
            if !outbox.take(&mut bytes, 1 << 20) {
                continue;
            }
            busy = true;
            let fills = carry(self.now, &to.node, inbox, &bytes, &mut replies);
            self.fills.set(self.fills.get() + fills);
            answer(self.now, &from.node, &outbox, &replies);
        }
        self.nodes.insert(name.to_owned(), from);
        busy
    }

    /// Requests a node's leases from its replicas, on the existing links.
    pub(super) fn beat_links(&mut self, name: &str) {
        let mut from = self.nodes.remove(name).expect("a name of a node");
        for (outbox, inbox) in from.links.values_mut().filter(|_| from.runs) {
            let to = self.nodes.iter().find(|(_, member)| member.incarnation == Some(outbox.to) && member.runs);
            let Some((_, to)) = to.filter(|(to_name, _)| !self.is_link_cut(name, to_name)) else { continue };
            let (mut bytes, mut replies) = (Vec::new(), Vec::new());
            from.node.beat(self.now, &mut bytes);
            carry(self.now, &to.node, inbox, &bytes, &mut replies);
            answer(self.now, &from.node, outbox, &replies);
        }
        self.nodes.insert(name.to_owned(), from);
    }
}

/// Delivers a primary's bytes to a replica. Appends its answers to `replies`, and returns the number of fills.
fn carry(now: Timestamp, to: &Node, inbox: &mut Inbox, bytes: &[u8], replies: &mut Vec<u8>) -> u32 {
    let mut fills = 0;
    each_array(bytes, |words| {
        let message = LinkMessage::parse(words).expect("a link message reads back");
        fills += u32::from(matches!(message, LinkMessage::Fill { .. }));
        inbox.handle(now, to, message, &mut Turn::default(), replies).expect("a primary speaks the protocol");
        true
    });
    inbox.acknowledge(now, to, &mut Turn::default(), replies);
    fills
}

/// Delivers a replica's answers to its primary.
fn answer(now: Timestamp, from: &Node, outbox: &Outbox, replies: &[u8]) {
    each_array(replies, |words| {
        let reply = LinkReply::parse(words).expect("a link reply reads back");
        let understood = from.handle_link_reply(now, outbox, reply, &mut Turn::default());
        assert!(understood, "{reply:?} makes no sense");
        true
    });
}

/// Calls `handle` with each array in `bytes`; returns whether it accepted all of them.
pub(super) fn each_array(mut bytes: &[u8], mut handle: impl FnMut(Words<'_>) -> bool) -> bool {
    let mut decoder = FrameDecoder::new();
    let mut pleased = true;
    while !bytes.is_empty() {
        match decoder.decode(bytes).expect("what we encode is a frame") {
            Some((Frame::Array(words), consumed)) => {
                pleased &= handle(words);
                bytes = &bytes[consumed..];
            }
            other => panic!("not an array: {other:?}"),
        }
    }
    pleased
}
