//! How many files this process may have open: each connection takes one descriptor.

/// What a process needs besides its inbound connections, at least: its files, and its outbound connections.
#[cfg(unix)]
const SPARE: usize = 256;

/// How many connections of nodes are served however few descriptors there are.
#[cfg(unix)]
const LEAST_FOR_NODES: usize = 16;

/// What it needs in the largest cluster: two to each other node, and two from each.
#[cfg(unix)]
const ROOM: usize = 4 * proto::limits::NODES + SPARE;

/// Raises the limit to what `wanted` connections need, as far as the system allows. Returns how many connections are
/// then possible, and warns if that is fewer than wanted.
#[cfg(unix)]
#[must_use]
pub fn for_connections(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    let needed = (wanted + ROOM) as u64;
    // If the system enforces a lower limit than it reports, as macOS does, the limit stays.
    if soft < needed && hard > soft {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard);
    }
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((soft, hard));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let may_be = limit.saturating_sub(SPARE).max(limit / 2).min(wanted);
    if may_be < wanted {
        tracing::warn!(
            "serving at most {may_be} connections instead of {wanted}: this process may open only {limit} files; \
             raise the limit (ulimit -n) or lower --max-clients"
        );
    }
    may_be
}

/// How many connections of nodes a process that serves `clients` may have beyond these: two from each other node, as far
/// as there are descriptors.
#[cfg(unix)]
#[must_use]
pub fn for_nodes(clients: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    let limit =
        getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(limit, _)| limit.try_into().unwrap_or(usize::MAX));
    limit.saturating_sub(clients + SPARE).clamp(LEAST_FOR_NODES, 2 * proto::limits::NODES)
}

/// Other systems have no such limit.
#[cfg(not(unix))]
#[must_use]
pub fn for_connections(wanted: usize) -> usize {
    wanted
}

/// Other systems have no such limit.
#[cfg(not(unix))]
#[must_use]
pub fn for_nodes(_: usize) -> usize {
    2 * proto::limits::NODES
}
