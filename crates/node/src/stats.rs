//! The node's figures, as `STATS` and `INFO` report them.

use engine::losses::Losses;
use engine::memory::MemoryFigures;
use net::latency::{Kinds, Unanswered};
use proto::peer::{Change, KeyRequest};
use proto::response::Response;

use crate::clients::Clients;
use crate::driver::Driver;
use crate::store::{Figures, Health, Store};

/// The name prefixes for the figures of each kind of request: GET, GETV and TTL; PUT and PUTEX; DELETE; CAS, PUTNX,
/// EXPIRE, PERSIST and read-modify-writes; PREFIX, RANGE and COUNT.
const KINDS: [&str; 5] = ["get", "put", "delete", "conditional", "walk"];

/// The kind of pages of walks, and of counts.
pub(crate) const WALK: usize = 4;

/// The answered requests of the node's own clients since its start, whichever node carried them out.
pub(crate) type Answered = Kinds<{ KINDS.len() }>;

/// The unanswered requests of one client.
pub(crate) type NotAnswered = Unanswered<{ KINDS.len() }>;

/// The kind of a request, as its index in the list of kinds.
#[must_use]
pub(crate) fn kind(request: &KeyRequest<'_>) -> usize {
    match request {
        KeyRequest::Read(_) => 0,
        KeyRequest::Write(write) if write.expected.is_some() || write.change.reads_first() => 3,
        KeyRequest::Write(write) if write.change == Change::Delete => 2,
        KeyRequest::Write(_) => 1,
    }
}

/// The answer to `STATS`.
#[must_use]
pub(crate) fn stats(driver: &Driver, clients: &Clients) -> Response<'static> {
    let (node, lag) = (driver.node(), driver.node().lag());
    let memory = node.memory_figures();
    let engine::compare::Figures { compared, different, repaired } = node.compared();
    let Figures { log_bytes, unsynced_bytes, snapshots } = driver.store().map(Store::figures).unwrap_or_default();
    let mut lines = vec![
        format!("uptime_seconds {}", (driver.clock().now() - driver.started()).as_secs()),
        format!("keys {}", node.keys()),
        format!("slots_led {}", node.slots_led()),
        format!("lag_messages {}", lag.items),
        format!("lag_bytes {}", lag.bytes),
        format!("sent_to_replicas_bytes {}", driver.sent_to_replicas()),
        format!("tail_bytes {}", node.tail_bytes()),
        format!("memory_bytes {}", memory.used),
        format!("memory_limit_bytes {}", memory.limit),
        format!("memory_refusals {}", memory.refused),
        format!("evicted {}", memory.evicted),
        format!("losses {}", node.losses(Losses::count)),
        format!("slots_compared {compared}"),
        format!("copies_different {different}"),
        format!("copies_repaired {repaired}"),
        format!("log_bytes {log_bytes}"),
        format!("log_unsynced_bytes {unsynced_bytes}"),
        format!("snapshots {snapshots}"),
    ];
    clients.shared.describe(&mut lines);
    driver.answered().describe(KINDS, &mut lines);
    Response::stats(lines)
}

/// Who the node is and what it holds, on one line.
pub(crate) fn info(driver: &Driver) -> Response<'static> {
    let node = driver.node();
    let (lag, map) = (node.lag(), node.map().map_or(0, |map| map.version.0));
    let MemoryFigures { used, limit, evicted, .. } = node.memory_figures();
    Response::Text(format!(
        "OK Node {} keys={} slots_led={} lag={} lag_bytes={} incarnation={} map={map} losses={} differences={} \
         tail_bytes={} memory_bytes={used} max_memory={limit} evicted={evicted} {}",
        driver.addr(),
        node.keys(),
        node.slots_led(),
        lag.items,
        lag.bytes,
        node.incarnation(),
        node.losses(engine::losses::Losses::count),
        node.compared().different,
        node.tail_bytes(),
        storage(driver),
    ))
}

fn storage(driver: &Driver) -> String {
    let Some(store) = driver.store() else { return "storage=memory".to_owned() };
    let (figures, health) = (store.figures(), store.health());
    let disk = match health {
        Health::Good => "good",
        Health::Full => "full",
        Health::Failed(_) => "failed",
    };
    let Figures { log_bytes, snapshots, .. } = figures;
    format!("storage=disk fsync={} disk={disk} log_bytes={log_bytes} snapshots={snapshots}", store.fsync())
}
