//! The coordinator's figures, as `STATS` reports them.

use net::latency::{Kinds, Unanswered};
use net::listener::Shared;
use proto::request::CoordinatorRequest;
use proto::response::Response;

use crate::driver::Driver;

/// The name prefixes for the figures of each kind of request: queries, and changes that people ask for.
const KINDS: [&str; 2] = ["lookup", "change"];

/// The answered requests of people and clients since the start.
pub type Answered = Kinds<{ KINDS.len() }>;

/// The unanswered requests of one connection.
pub type NotAnswered = Unanswered<{ KINDS.len() }>;

/// The kind of a request, as its index in the list of kinds; `None` for what only nodes send, and for waits.
#[must_use]
pub fn kind(request: &CoordinatorRequest<'_>) -> Option<usize> {
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
pub fn stats(driver: &Driver, shared: &Shared) -> Response<'static> {
    let mut lines = vec![format!("uptime_seconds {}", driver.uptime().as_secs())];
    driver.with(|coordinator, _| {
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
    shared.describe(&mut lines);
    driver.answered().describe(KINDS, &mut lines);
    Response::stats(lines)
}
