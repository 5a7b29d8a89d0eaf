//! A node that is no longer a member follows the map as clients do, in order to forward requests.

use std::io;

use engine::coordinator::REJOIN_TIMEOUT;
use net::connection::{Connection, Flow, Stopped};
use net::listener::prepare;
use proto::cluster_map::MapUpdate;
use proto::frame::{Frame, encode_array};
use proto::request::verbs;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{Farewell, LONGEST_PAUSE, Membership};

impl Membership {
    /// Gives up everything that the node leads and holds, and follows the map only to forward requests.
    pub(super) async fn stay_out(self, leave: oneshot::Receiver<Farewell>) {
        let stays_out = async {
            self.give_everything_up().await;
            self.follow().await;
        };
        tokio::select! {
            () = stays_out => {}
            Ok(left) = leave => {
                // The coordinator no longer counts on this node, so there is nothing to tell it.
                let _ = left.told.send(());
            }
        }
    }

    /// Gives up everything that the node leads and holds, on disk as well.
    ///
    /// IMPORTANT: first the directory says so. A coordinator that has lost its state may follow a map that still names
    /// this node, and must not believe that its next start has what it had.
    async fn give_everything_up(&self) {
        if let Some(store) = self.driver.store() {
            while let Err(error) = store.disown().await {
                tracing::error!("cannot record in the data directory that its data is given up; trying again: {error}");
                sleep(LONGEST_PAUSE).await;
            }
        }
        self.driver.node().give_everything_up();
    }

    /// Follows the map as clients do, for as long as the process lives, in order to forward requests.
    pub(super) async fn follow(&self) {
        self.driver.follow();
        loop {
            let ended = self.follow_map().await;
            tracing::debug!("following the map: {ended:?}");
            sleep(LONGEST_PAUSE).await;
        }
    }

    async fn follow_map(&self) -> io::Result<()> {
        let stream = timeout(REJOIN_TIMEOUT, self.settings.connect()).await??;
        prepare(&stream)?;
        let mut connection = Connection::new(stream);
        let mut awaits_admission = self.driver.access().encode_auth(&mut connection.output);
        encode_array(&[verbs::WATCH_MAP], &mut connection.output);
        connection.flush().await?;
        while connection.fill().await? > 0 {
            let stopped = connection.reader.frames(|frame| {
                if awaits_admission {
                    awaits_admission = false;
                    return if matches!(frame, Frame::Line(b"+OK")) { Flow::Next } else { Flow::Close };
                }
                let Frame::Array(words) = frame else { return Flow::Close };
                let lines: Option<Vec<&str>> = words.map(|line| std::str::from_utf8(line).ok()).collect();
                let update = MapUpdate::parse(lines.unwrap_or_default());
                let followed = update.and_then(|update| self.driver.handle_map(&update));
                if followed.is_ok() { Flow::Next } else { Flow::Close }
            });
            if stopped != Stopped::NeedsMore {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a map that does not follow the last one"));
            }
        }
        Ok(())
    }
}
