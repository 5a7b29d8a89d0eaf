//! Noticing that the process, or its machine, stood still.
//!
//! Whatever arrived meanwhile waits in the sockets, perhaps from clients that gave up long ago. A write with an identity
//! may have taken effect elsewhere since, and be forgotten by now: carried out here, it would take effect a second time.
//! So after a long pause nothing is carried out that arrived on clients' connections from before, or on those that waited to
//! be accepted. What another node has forwarded needs no such care: another node leads the key by now, or nothing has been
//! acknowledged meanwhile that it could undo.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::time::Timestamp;

/// A pause of this length is a long one: much shorter than writes are remembered, and longer than any stall of a process
/// that runs.
const LONG: Duration = Duration::from_secs(60);

/// How long connections may take to be accepted that have waited for it during a pause.
const ACCEPTED_IN: Duration = Duration::from_secs(5);

/// The count given to a connection that was accepted during a pause; no real count is this high.
const DURING_PAUSE: u64 = u64::MAX;

/// Whether the process runs, as its regular ticks tell.
#[derive(Debug)]
pub(crate) struct Awake {
    /// The last tick, in microseconds.
    ticked: AtomicU64,
    /// How many long pauses there were.
    pauses: AtomicU64,
    /// When the last of them was noticed, in microseconds.
    noticed: AtomicU64,
}

impl Awake {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { ticked: AtomicU64::new(now.0), pauses: AtomicU64::new(0), noticed: AtomicU64::new(0) }
    }

    /// Notes that the process runs. Called many times a second.
    pub(crate) fn tick(&self, now: Timestamp) {
        if self.is_late(now) {
            self.noticed.store(now.0, Ordering::SeqCst);
            self.pauses.fetch_add(1, Ordering::SeqCst);
        }
        // IMPORTANT: after the pause is counted. Whoever sees this tick sees that, too.
        self.ticked.store(now.0, Ordering::SeqCst);
    }

    /// The number of long pauses that a connection accepted now counts as having seen.
    pub(crate) fn seen_by_new_connection(&self, now: Timestamp) -> u64 {
        let pauses = self.pauses.load(Ordering::SeqCst);
        let noticed = Timestamp(self.noticed.load(Ordering::SeqCst));
        if pauses > 0 && now - noticed < ACCEPTED_IN { DURING_PAUSE } else { pauses }
    }

    /// Whether there was a long pause that a connection has not seen, even if no tick has noticed it yet.
    pub(crate) fn has_paused_since(&self, seen: u64, now: Timestamp) -> bool {
        self.is_late(now) || self.pauses.load(Ordering::SeqCst) != seen
    }

    fn is_late(&self, now: Timestamp) -> bool {
        now - Timestamp(self.ticked.load(Ordering::SeqCst)) >= LONG
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use engine::memory::Evict;
    use net::clock::Clock;
    use net::shutdown::Shutdown;
    use proto::id::NodeAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::clients::Clients;
    use crate::driver::Driver;
    use crate::session;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000_000)
    }

    #[test]
    fn a_long_pause_is_seen_before_the_next_tick_and_for_ever_after() {
        let awake = Awake::new(at(1));
        let before = awake.seen_by_new_connection(at(1));
        for second in 2..200 {
            awake.tick(at(second));
            assert!(!awake.has_paused_since(before, at(second + 59)));
        }
        assert!(awake.has_paused_since(before, at(199 + 60)));
        awake.tick(at(199 + 60));
        assert!(awake.has_paused_since(before, at(199 + 60)));
        assert!(awake.has_paused_since(before, at(1_000)));
        for (accepted, is_from_before) in [(259, true), (263, true), (264, false), (300, false)] {
            awake.tick(at(accepted));
            let seen = awake.seen_by_new_connection(at(accepted));
            assert_eq!(awake.has_paused_since(seen, at(accepted + 1)), is_from_before, "accepted at {accepted}");
        }
    }

    /// A new connection of a client.
    async fn connection(driver: &Driver, clients: &Arc<Clients>) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (served, _) = listener.accept().await.unwrap();
        tokio::spawn(session::serve(served, driver.clone(), Arc::clone(clients), Shutdown::new()));
        client
    }

    /// What a request is answered; nothing if the connection is closed.
    async fn answer(client: &mut TcpStream) -> Vec<u8> {
        client.write_all(b"PING\n").await.unwrap();
        let mut answer = vec![0; 64];
        let len = client.read(&mut answer).await.unwrap();
        answer.truncate(len);
        answer
    }

    #[tokio::test]
    async fn connections_from_before_a_long_pause_are_closed_without_an_answer() {
        let (addr, clock) = (NodeAddr::new("n", 1).unwrap(), Clock::start());
        let background = Shutdown::new();
        let driver = Driver::new(addr, clock, None, (0, Evict::None), LONG, Arc::default(), &background);
        let clients = Clients::new(Arc::default());
        let mut before = connection(&driver, &clients).await;
        assert_eq!(answer(&mut before).await, b"PONG\n");
        driver.awake().tick(driver.clock().now() + LONG);
        assert_eq!(answer(&mut before).await, b"");
        let mut waited_to_be_accepted = connection(&driver, &clients).await;
        assert_eq!(answer(&mut waited_to_be_accepted).await, b"");
    }
}
