//! The replication connections, on both sides.

use std::sync::Arc;

use engine::compare::ToDigest;
use engine::inbox::Inbox;
use engine::outbox::Outbox;
use proto::id::Incarnation;
use proto::peer::{Compared, Hello, LinkKind, LinkMessage, LinkReply};

use super::held::Outgoing;
use super::{BEAT, Link};
use crate::network::{ACCEPTER, ConnId, Kind, OPENER};
use crate::schedule::Event;
use crate::world::{Frames, Next, World, same};

/// How much is encoded and sent at once, in bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// How long it may take to establish a connection, in microseconds.
const CONNECT_TIMEOUT: u64 = 1_000_000;

/// If a replica has something to acknowledge and does not do so for this long, the primary reconnects.
const ACK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(3);

/// Pauses between connection attempts grow from the first value to the second, in microseconds.
const PAUSES: (u64, u64) = (20_000, 1_000_000);

impl World {
    // The primary's side.

    /// Starts and ends links according to the map.
    pub(super) fn sync_links(&mut self, n: usize) {
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let outboxes = node.outboxes();
        let unwanted: Vec<Incarnation> = process
            .links
            .iter()
            .filter(|(_, link)| !outboxes.iter().any(|outbox| same(outbox, &link.outbox)))
            .map(|(to, _)| *to)
            .collect();
        for to in unwanted {
            if let Some(conn) = process.links.remove(&to).and_then(|link| link.conn) {
                self.network.close(&mut self.schedule, conn, OPENER);
            }
        }
        for outbox in outboxes {
            let to = outbox.to;
            if self.nodes[n].links.contains_key(&to) {
                continue;
            }
            let proc = self.proc_of(&outbox.addr);
            let heard = self.local(n);
            let link = Link {
                outbox,
                to: proc,
                conn: None,
                is_ready: false,
                pause: PAUSES.0,
                serial: 0,
                heard,
                is_held: false,
            };
            self.nodes[n].links.insert(to, link);
            self.open_link(n, to);
        }
        self.flush_all(n);
    }

    fn open_link(&mut self, n: usize, to: Incarnation) {
        let now = self.local(n);
        let process = &mut self.nodes[n];
        let (Some(node), Some(link)) = (&process.node, process.links.get_mut(&to)) else { return };
        if link.outbox.has_overflowed() {
            node.restart_overflowed(now, &link.outbox);
        }
        let Some(map) = node.map() else { return };
        let conn = self.network.open(Kind::Link, (n, process.boot), link.to);
        link.conn = Some(conn);
        (link.is_ready, link.is_held) = (false, false);
        link.serial += 1;
        let hello = Hello {
            kind: LinkKind::Replication,
            cluster: map.cluster.clone(),
            from_addr: process.addr.clone(),
            from: node.incarnation(),
            to,
        };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        let (boot, serial) = (process.boot, link.serial);
        self.network.send(&mut self.schedule, conn, OPENER, bytes);
        self.after_local(n, CONNECT_TIMEOUT, Event::Link { node: n as u8, boot, to, serial });
    }

    /// An attempt has taken too long, or the pause before the next one is over.
    pub(crate) fn link_due(&mut self, n: usize, to: Incarnation, serial: u32) {
        let Some(link) = self.nodes[n].links.get(&to).filter(|link| link.serial == serial) else { return };
        match link.conn {
            None => self.open_link(n, to),
            Some(conn) if !link.is_ready => self.end_link(n, conn),
            Some(_) => {}
        }
    }

    /// Gives up a connection; another attempt follows after a pause.
    fn end_link(&mut self, n: usize, conn: ConnId) {
        self.network.close(&mut self.schedule, conn, OPENER);
        self.primary_loses(n, conn);
    }

    pub(crate) fn primary_loses(&mut self, n: usize, conn: ConnId) {
        let process = &mut self.nodes[n];
        let Some((to, link)) = process.links.iter_mut().find(|(_, link)| link.conn == Some(conn)) else { return };
        link.conn = None;
        link.is_ready = false;
        link.serial += 1;
        let (to, serial, pause, boot) = (*to, link.serial, link.pause, process.boot);
        link.pause = (pause * 2).min(PAUSES.1);
        self.after_local(n, pause, Event::Link { node: n as u8, boot, to, serial });
    }

    pub(crate) fn node_beats(&mut self, n: usize) {
        let now = self.local(n);
        let hangs = self.disk_has_hung(n, now);
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let mut silent = Vec::new();
        for link in process.links.values().filter(|link| link.is_ready && !(link.is_held && hangs)) {
            let Some(conn) = link.conn else { continue };
            if now - link.heard > ACK_TIMEOUT && link.outbox.lag().items > 0 {
                silent.push(conn);
                continue;
            }
            let mut bytes = Vec::new();
            node.beat(now, &mut bytes);
            self.network.send(&mut self.schedule, conn, OPENER, bytes);
        }
        let boot = process.boot;
        silent.into_iter().for_each(|conn| self.end_link(n, conn));
        self.after_local(n, BEAT, Event::Beats { node: n as u8, boot });
    }

    /// Sends what is queued for one replica.
    fn flush(&mut self, n: usize, to: Incarnation) {
        let now = self.local(n);
        let process = &mut self.nodes[n];
        let (Some(node), Some(link)) = (&process.node, process.links.get_mut(&to)) else { return };
        let Some(conn) = link.conn.filter(|_| link.is_ready && !link.is_held) else { return };
        if link.outbox.has_overflowed() {
            return self.end_link(n, conn);
        }
        node.make_fills(now, &link.outbox);
        let outbox = Arc::clone(&link.outbox);
        let mut bytes = Vec::new();
        while self.may_send(n, to, conn) && outbox.take(&mut bytes, BATCH_BYTES) {
            self.send_when_durable(n, Outgoing::Bytes { conn, side: OPENER, bytes: std::mem::take(&mut bytes) });
        }
    }

    /// Whether the link still uses this connection and nothing on it waits for the disk.
    fn may_send(&self, n: usize, to: Incarnation, conn: ConnId) -> bool {
        let link = self.nodes[n].links.get(&to);
        link.is_some_and(|link| link.conn == Some(conn) && link.is_ready && !link.is_held)
    }

    pub(super) fn flush_touched(&mut self, n: usize, outbox: &Arc<Outbox>) {
        if self.nodes[n].links.get(&outbox.to).is_some_and(|link| same(&link.outbox, outbox)) {
            self.flush(n, outbox.to);
        }
    }

    pub(super) fn flush_all(&mut self, n: usize) {
        let links: Vec<Incarnation> = self.nodes[n].links.keys().copied().collect();
        links.into_iter().for_each(|to| self.flush(n, to));
    }

    /// A replica has answered.
    pub(crate) fn primary_hears(&mut self, n: usize, conn: ConnId, frames: &mut Frames<'_>) -> bool {
        let now = self.local(n);
        let process = &mut self.nodes[n];
        let Some((to, link)) = process.links.iter_mut().find(|(_, link)| link.conn == Some(conn)) else { return false };
        let Some(node) = &process.node else { return false };
        let to = *to;
        link.heard = now;
        let mut deposed = false;
        while let Some(next) = frames.next() {
            let reply = match next {
                Next::Line if !link.is_ready => {
                    // It is the intended incarnation, and accepts messages.
                    (link.is_ready, link.pause) = (true, PAUSES.0);
                    link.outbox.reconnected();
                    let mut beat = Vec::new();
                    node.beat(now, &mut beat);
                    self.network.send(&mut self.schedule, conn, OPENER, beat);
                    continue;
                }
                Next::Array(words) if link.is_ready => LinkReply::parse(words),
                _ => return false,
            };
            let Ok(reply) = reply else {
                self.broken("codec", None, "the reply of a replica cannot be read".to_owned());
                return false;
            };
            deposed |= matches!(reply, LinkReply::Deposed { .. });
            if let LinkReply::Deposed { slot, .. } | LinkReply::Behind { slot, .. } = reply {
                let (name, to) = (&process.name, to.0 & 0xffff);
                self.trace.tell(self.schedule.now, Some(slot), || format!("{name} < {to}: {reply:?}"));
            }
            if !node.handle_link_reply(now, &link.outbox, reply, &mut process.turn) {
                let what = format!("{} takes {reply:?} for nonsense", process.name);
                self.broken("a replica's answers make sense", None, what);
                return false;
            }
        }
        if deposed {
            self.node_changed(n);
        }
        self.flush(n, to);
        self.settle(n);
        true
    }

    // The replica's side.

    /// A primary has sent something.
    pub(crate) fn replica_hears(&mut self, n: usize, conn: ConnId, frames: &mut Frames<'_>) -> bool {
        let now = self.local(n);
        let at = self.nodes[n].inboxes.iter().position(|(known, _)| *known == conn);
        let mut inbox = match at {
            Some(at) => self.nodes[n].inboxes[at].1.take(),
            None => None,
        };
        if let (Some(inbox), Some(node)) = (&inbox, &self.nodes[n].node) {
            node.heard_from(now, inbox.from());
        }
        let (mut replies, mut leases) = (Vec::new(), Vec::new());
        let mut is_good = true;
        let mut changed = false;
        while let Some(next) = frames.next() {
            let Next::Array(words) = next else {
                is_good = false;
                break;
            };
            let Some(inbox) = &mut inbox else {
                inbox = self.accept(n, words);
                is_good = inbox.is_some();
                if !is_good {
                    break;
                }
                replies.extend_from_slice(b"+OK\r\n");
                self.nodes[n].inboxes.push((conn, None));
                continue;
            };
            let Ok(message) = LinkMessage::parse(words) else {
                self.broken("codec", None, "a message of a primary cannot be read".to_owned());
                is_good = false;
                break;
            };
            let before = self.before_message(n, &message);
            let from = inbox.from();
            let process = &mut self.nodes[n];
            let Some(node) = &process.node else { return false };
            // All before was applied one by one, so that each can be judged.
            let answers = if matches!(message, LinkMessage::Beat { .. }) { &mut leases } else { &mut replies };
            let handled = inbox.handle(now, node, message.clone(), &mut process.turn, answers);
            inbox.apply(now, node, &mut process.turn, &mut replies);
            changed |= matches!(message, LinkMessage::Align { .. });
            self.after_message(n, from, &message, before);
            if let Err(error) = handled {
                self.broken("a primary's messages make sense", None, error.to_string());
                is_good = false;
                break;
            }
        }
        if let Some(mut inbox) = inbox {
            let process = &mut self.nodes[n];
            let Some(node) = &process.node else { return false };
            inbox.acknowledge(now, node, &mut process.turn, &mut replies);
            for ToDigest { slot, query, contents } in process.turn.to_digest() {
                let compared = Compared::Digest(contents.digest());
                LinkReply::Compared { slot, query, compared }.encode(&mut replies);
            }
            if let Some((_, place)) = self.nodes[n].inboxes.iter_mut().find(|(known, _)| *known == conn) {
                *place = Some(inbox);
            }
        }
        if !leases.is_empty() {
            // They are no evidence of records, so they do not wait for the disk.
            self.network.send(&mut self.schedule, conn, ACCEPTER, leases);
        }
        if !replies.is_empty() {
            self.send_when_durable(n, Outgoing::Bytes { conn, side: ACCEPTER, bytes: replies });
        }
        if changed {
            self.node_changed(n);
        }
        self.settle(n);
        is_good
    }

    /// Accepts a connection of a primary if it is meant for this start of the node and the map here knows the primary.
    fn accept(&mut self, n: usize, mut words: proto::frame::Words<'_>) -> Option<Inbox> {
        words.next();
        let hello = Hello::parse(words).ok()?;
        let now = self.local(n);
        let node = self.nodes[n].node.as_ref()?;
        let map = node.map()?;
        let known = map.cluster == hello.cluster && map.member(hello.from).is_some();
        if !known || node.incarnation() != hello.to {
            return None;
        }
        node.heard_from(now, hello.from);
        Some(Inbox::new(hello.from))
    }

    pub(crate) fn replica_loses(&mut self, n: usize, conn: ConnId) {
        let process = &mut self.nodes[n];
        let Some(at) = process.inboxes.iter().position(|(known, _)| *known == conn) else { return };
        if let (_, Some(inbox)) = process.inboxes.remove(at)
            && let Some(node) = &process.node
        {
            node.link_ended(inbox.from());
        }
    }
}
