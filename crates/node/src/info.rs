//! What a node reports about itself in Redis's terms: `INFO` in the array encoding, and `CONFIG GET`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::losses::Losses;
use engine::memory::MemoryFigures;
use engine::outbox::{Lag, Outbox};
use net::connection::CUT_OFF_AFTER;
use net::listener::{KEEPALIVE, Shared};
use password::Password;
use proto::limits;
use proto::request::glob_matches;

use crate::clients::Clients;
use crate::driver::Driver;
use crate::store::{Figures, Fsync, Health, Store};

/// The Redis version whose commands, answers and errors a node implements.
pub(crate) const REDIS_VERSION: &str = "7.0.15";

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The sections, in output order.
const SECTIONS: [&str; 8] =
    ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "Cluster", "Keyspace"];

/// The text of the named sections, or of all.
#[must_use]
pub(crate) fn info<'a>(driver: &Driver, clients: &Clients, named: impl Iterator<Item = &'a [u8]> + Clone) -> String {
    let means_all =
        |name: &[u8]| [&b"all"[..], b"default", b"everything"].iter().any(|all| name.eq_ignore_ascii_case(all));
    let is_all = named.clone().next().is_none() || named.clone().any(means_all);
    let mut text = String::new();
    for section in SECTIONS {
        if !is_all && !named.clone().any(|name| name.eq_ignore_ascii_case(section.as_bytes())) {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        line(&mut text, format_args!("# {section}"));
        match section {
            "Server" => server(driver, &mut text),
            "Clients" => connected(clients, &mut text),
            "Memory" => memory(driver, &mut text),
            "Persistence" => persistence(driver.store(), &mut text),
            "Stats" => stats(driver, clients, &mut text),
            "Replication" => replication(driver, &mut text),
            "Cluster" => line(&mut text, format_args!("cluster_enabled:0")),
            _ => keyspace(driver, &mut text),
        }
    }
    text
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = write!(text, "{what}\r\n");
}

fn server(driver: &Driver, text: &mut String) {
    let uptime = (driver.clock().now() - driver.started()).as_secs();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    line(text, format_args!("redis_version:{REDIS_VERSION}"));
    line(text, format_args!("redis_mode:standalone"));
    line(text, format_args!("server_version:{VERSION}"));
    line(text, format_args!("os:{}", std::env::consts::OS));
    line(text, format_args!("arch:{}", std::env::consts::ARCH));
    line(text, format_args!("arch_bits:{}", usize::BITS));
    line(text, format_args!("process_id:{}", std::process::id()));
    line(text, format_args!("run_id:{:040x}", driver.node().incarnation().0));
    line(text, format_args!("tcp_port:{}", driver.addr().port()));
    line(text, format_args!("server_time_usec:{}", now.as_micros()));
    line(text, format_args!("uptime_in_seconds:{uptime}"));
    line(text, format_args!("uptime_in_days:{}", uptime / 86_400));
}

fn connected(clients: &Clients, text: &mut String) {
    line(text, format_args!("connected_clients:{}", clients.count()));
    line(text, format_args!("maxclients:{}", clients.shared.flags.max_clients));
    line(text, format_args!("blocked_clients:0"));
}

/// Includes figures from the operating system where they are available: on Linux.
fn memory(driver: &Driver, text: &mut String) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    if let (Some(now), Some(peak)) = (bytes("VmRSS"), bytes("VmHWM")) {
        line(text, format_args!("used_memory:{now}"));
        line(text, format_args!("used_memory_human:{}", human(now)));
        line(text, format_args!("used_memory_rss:{now}"));
        line(text, format_args!("used_memory_rss_human:{}", human(now)));
        line(text, format_args!("used_memory_peak:{peak}"));
        line(text, format_args!("used_memory_peak_human:{}", human(peak)));
    }
    let figures = driver.node().memory_figures();
    line(text, format_args!("maxmemory:{}", figures.limit));
    line(text, format_args!("maxmemory_human:{}", human(figures.limit)));
    line(text, format_args!("maxmemory_policy:{}", memory_policy(&figures)));
    line(text, format_args!("mem_allocator:{}", if cfg!(target_os = "linux") { "jemalloc" } else { "libc" }));
}

/// What happens at the memory limit, in Redis's terms.
fn memory_policy(figures: &MemoryFigures) -> &'static str {
    if figures.evicts { "allkeys-lru" } else { "noeviction" }
}

/// A number of bytes, formatted for people as Redis does.
fn human(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    match units.iter().find(|(shift, _)| bytes >= 1 << shift) {
        Some((shift, unit)) => format!("{:.2}{unit}", bytes as f64 / (1u64 << shift) as f64),
        None => format!("{bytes}B"),
    }
}

fn persistence(store: Option<&Store>, text: &mut String) {
    let Figures { log_bytes, snapshots, .. } = store.map(Store::figures).unwrap_or_default();
    let is_good = store.is_none_or(|store| store.health() == Health::Good);
    line(text, format_args!("loading:0"));
    line(text, format_args!("rdb_bgsave_in_progress:0"));
    line(text, format_args!("aof_enabled:{}", u8::from(store.is_some())));
    line(text, format_args!("aof_last_write_status:{}", if is_good { "ok" } else { "err" }));
    line(text, format_args!("aof_current_size:{log_bytes}"));
    line(text, format_args!("snapshots:{snapshots}"));
}

fn stats(driver: &Driver, clients: &Clients, text: &mut String) {
    let Shared { accepted, refused, cut_off, idle, .. } = &*clients.shared;
    let total = driver.answered().total() + clients.commands();
    line(text, format_args!("total_connections_received:{}", accepted.load(Ordering::Relaxed)));
    line(text, format_args!("total_commands_processed:{total}"));
    line(text, format_args!("instantaneous_ops_per_sec:{}", clients.rate(driver.clock().now(), total)));
    line(text, format_args!("rejected_connections:{}", refused.load(Ordering::Relaxed)));
    line(text, format_args!("client_output_buffer_limit_disconnections:{}", cut_off.load(Ordering::Relaxed)));
    line(text, format_args!("idle_disconnections:{}", idle.load(Ordering::Relaxed)));
    line(text, format_args!("evicted_keys:{}", driver.node().memory_figures().evicted));
}

fn replication(driver: &Driver, text: &mut String) {
    let (node, lag) = (driver.node(), driver.node().lag());
    let (offset, replicas) = self::replicas(driver);
    let now = driver.clock().now();
    line(text, format_args!("role:master"));
    line(text, format_args!("connected_slaves:{}", replicas.len()));
    for (at, (outbox, lag)) in replicas.iter().enumerate() {
        let addr = &outbox.addr;
        line(
            text,
            format_args!(
                "slave{at}:ip={},port={},state=online,offset={},lag={},lag_messages={},lag_bytes={}",
                addr.host(),
                addr.port(),
                offset - lag.items,
                (now - outbox.last_answer()).as_secs(),
                lag.items,
                lag.bytes
            ),
        );
    }
    line(text, format_args!("master_repl_offset:{offset}"));
    line(text, format_args!("slots_led:{}", node.slots_led()));
    line(text, format_args!("lag_messages:{}", lag.items));
    line(text, format_args!("lag_bytes:{}", lag.bytes));
    line(text, format_args!("losses:{}", node.losses(Losses::count)));
}

/// The offset of this node as a master, and its replicas. A replica's offset is below the master's by the number of
/// messages that it has not acknowledged; the replica with the most is at 0.
#[must_use]
pub(crate) fn replicas(driver: &Driver) -> (usize, Vec<(Arc<Outbox>, Lag)>) {
    let outboxes = driver.node().outboxes().into_iter();
    let replicas: Vec<_> = outboxes.map(|outbox| (Arc::clone(&outbox), outbox.lag())).collect();
    (replicas.iter().map(|(_, lag)| lag.items).max().unwrap_or(0), replicas)
}

/// As in Redis, the average time to live is 0 where no times were sampled.
fn keyspace(driver: &Driver, text: &mut String) {
    match driver.node().keys() {
        0 => {}
        keys => line(text, format_args!("db0:keys={keys},expires={},avg_ttl=0", driver.node().expiring())),
    }
}

/// The settings whose names match one of the patterns, each once; under the name as requested if the pattern is a
/// plain name.
#[must_use]
pub(crate) fn config<'a>(
    driver: &Driver,
    clients: &Clients,
    patterns: impl Iterator<Item = &'a [u8]> + Clone,
) -> Vec<(Vec<u8>, String)> {
    let flags = &clients.shared.flags;
    let (store, memory) = (driver.store(), driver.node().memory_figures());
    let fsync = match store.map(Store::fsync) {
        Some(Fsync::Always) => "always",
        Some(Fsync::Interval) | None => "everysec",
        Some(Fsync::Never) => "no",
    };
    let (text, limit) = (str::to_owned, flags.client_output_limit);
    // Whole seconds, as in Redis; less than one is not none.
    let seconds = |time: Duration| time.as_millis().div_ceil(1_000).to_string();
    let settings = [
        ("appendfsync", text(fsync)),
        ("appendonly", text(if store.is_some() { "yes" } else { "no" })),
        ("bind", driver.addr().host().to_owned()),
        (
            "client-output-buffer-limit",
            format!("normal {limit} {limit} {} slave 0 0 0 pubsub 0 0 0", seconds(CUT_OFF_AFTER)),
        ),
        ("cluster-enabled", text("no")),
        ("databases", text("1")),
        ("dir", store.map(|store| store.path().display().to_string()).unwrap_or_default()),
        ("maxclients", flags.max_clients.to_string()),
        ("maxmemory", memory.limit.to_string()),
        ("maxmemory-policy", text(memory_policy(&memory))),
        ("port", driver.addr().port().to_string()),
        ("proto-max-bulk-len", limits::VALUE_BYTES.to_string()),
        ("requirepass", clients.shared.access.password().map_or("", Password::as_str).to_owned()),
        ("save", String::new()),
        ("tcp-keepalive", seconds(KEEPALIVE)),
        ("timeout", seconds(flags.idle_timeout)),
    ];
    let asked_as = |name: &str| {
        let wants = |pattern: &&[u8]| glob_matches(&pattern.to_ascii_lowercase(), name.as_bytes());
        let pattern = patterns.clone().find(wants)?;
        Some(if pattern.eq_ignore_ascii_case(name.as_bytes()) { pattern } else { name.as_bytes() }.to_vec())
    };
    settings.into_iter().filter_map(|(name, value)| Some((asked_as(name)?, value))).collect()
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn bytes_are_shown_as_redis_shows_them() {
        for (bytes, shown) in
            [(0, "0B"), (1023, "1023B"), (1024, "1.00K"), (1_583_216, "1.51M"), (25_276_510_208, "23.54G")]
        {
            assert_eq!(human(bytes), shown);
        }
    }
}
