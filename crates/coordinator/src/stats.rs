//! The coordinator's figures, as `STATS` reports them.

use std::sync::atomic::{AtomicU64, Ordering};

use engine::output::Event;
use net::latency::{Kinds, Unanswered};
use net::listener::Shared;
use proto::request::CoordinatorRequest;
use proto::response::Response;

use crate::driver::Driver;

/// The name prefixes for the figures of each kind of request: queries, and changes that people ask for.
const KINDS: [&str; 2] = ["lookup", "change"];

/// The answered requests of people and clients since the start.
pub(crate) type Answered = Kinds<{ KINDS.len() }>;

/// The unanswered requests of one connection.
pub(crate) type NotAnswered = Unanswered<{ KINDS.len() }>;

/// How many slots have lost what they held since the start.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// Every copy was lost.
    started_empty: AtomicU64,
    /// Every copy that was in sync was lost.
    older_copies: AtomicU64,
}

impl Lost {
    /// Counts what an event says of it.
    pub(crate) fn note(&self, event: &Event) {
        let (count, slots) = match event {
            Event::StartedAnew(slots) | Event::Unheld(slots) => (&self.started_empty, *slots),
            Event::LossAccepted(accepted) => (&self.started_empty, accepted.anew),
            Event::PromotedOlder(slots, _) => (&self.older_copies, *slots),
            _ => return,
        };
        count.fetch_add(slots as u64, Ordering::Relaxed);
    }

    fn describe(&self, lines: &mut Vec<String>) {
        for (name, count) in
            [("slots_started_empty", &self.started_empty), ("slots_continued_with_older_copies", &self.older_copies)]
        {
            lines.push(format!("{name} {}", count.load(Ordering::Relaxed)));
        }
    }
}

/// The kind of a request, as its index in the list of kinds; `None` for what only nodes send, and for waits.
#[must_use]
pub(crate) fn kind(request: &CoordinatorRequest<'_>) -> Option<usize> {
    Some(match request {
        CoordinatorRequest::GetNodesForKey { .. }
        | CoordinatorRequest::ListNodes
        | CoordinatorRequest::Map
        | CoordinatorRequest::WatchMap
        | CoordinatorRequest::Info
        | CoordinatorRequest::Stats
        | CoordinatorRequest::Status
        | CoordinatorRequest::Auth(_)
        | CoordinatorRequest::Ping
        | CoordinatorRequest::Quit => 0,
        CoordinatorRequest::RegisterNode(_)
        | CoordinatorRequest::UnregisterNode(_)
        | CoordinatorRequest::Heartbeat(_)
        | CoordinatorRequest::Forget(_)
        | CoordinatorRequest::AcceptLoss(_)
        | CoordinatorRequest::Decommission(_)
        | CoordinatorRequest::Recommission(_)
        | CoordinatorRequest::Replace { .. } => 1,
        // A wait is not an answer that took long.
        CoordinatorRequest::Join(_) | CoordinatorRequest::WaitHealthy(_) => return None,
    })
}

/// The answer to `STATS`.
#[must_use]
pub(crate) fn stats(driver: &Driver, shared: &Shared) -> Response<'static> {
    let mut lines = vec![format!("uptime_seconds {}", driver.uptime().as_secs())];
    driver.look(|coordinator| {
        let (map, mut led, mut whole, mut filling) = (coordinator.known_map(), 0, 0, 0);
        for slot in map.bits().slots() {
            let config = map.config(slot);
            led += usize::from(config.primary.is_some());
            whole += usize::from(config.isr.len() >= map.cluster_settings.copies());
            filling += config.learners.len();
        }
        lines.extend([
            format!("nodes {}", coordinator.nodes().count()),
            format!("map_version {}", map.version.0),
            format!("slots {}", map.bits().slots().count()),
            format!("slots_led {led}"),
            format!("slots_fully_replicated {whole}"),
            format!("copies_being_filled {filling}"),
        ]);
    });
    driver.lost().describe(&mut lines);
    shared.describe(&mut lines);
    driver.answered().describe(KINDS, &mut lines);
    Response::stats(lines)
}

#[cfg(test)]
mod tests {
    use engine::output::Accepted;

    use super::*;

    #[test]
    fn slots_that_lost_their_data_are_counted_by_what_became_of_them() {
        let lost = Lost::default();
        for event in [
            Event::StartedAnew(1),
            Event::Unheld(20),
            Event::LossAccepted(Accepted { anew: 300, unproven: 7 }),
            Event::PromotedOlder(4_000, Vec::new()),
            Event::PromotedUnproven(7, Vec::new()),
        ] {
            lost.note(&event);
        }
        let mut lines = Vec::new();
        lost.describe(&mut lines);
        assert_eq!(lines, ["slots_started_empty 321", "slots_continued_with_older_copies 4000"]);
    }
}
