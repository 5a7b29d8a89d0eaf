//! How many files this process may have open: each connection takes one descriptor.

/// What a process needs besides its inbound connections, at least: its files, and its outbound connections.
#[cfg(unix)]
const SPARE: usize = 256;

/// How many connections beyond the limit are examined at the same time, at most; and how many refused ones stay open
/// until their clients have read why.
const EXAMINED: usize = 64;
const REFUSED: usize = 16;

/// These connections get no more than this part of the descriptors that neither clients nor nodes may take: files must be
/// opened even while clients are turned away.
#[cfg(unix)]
const PART_FOR_UNSERVED: usize = 4;

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
    limit().saturating_sub(clients + SPARE).clamp(LEAST_FOR_NODES, 2 * proto::limits::NODES)
}

/// How many connections beyond the limit a process that serves `clients` may examine at the same time, and how many
/// refused ones it may keep open.
#[cfg(unix)]
#[must_use]
pub fn for_unserved(clients: usize) -> (usize, usize) {
    unserved(limit(), clients, for_nodes(clients))
}

#[cfg(unix)]
fn unserved(limit: usize, clients: usize, nodes: usize) -> (usize, usize) {
    let all = (limit.saturating_sub(clients + nodes) / PART_FOR_UNSERVED).clamp(1, EXAMINED + REFUSED);
    let refused = all * REFUSED / (EXAMINED + REFUSED);
    (all - refused, refused)
}

/// How many files this process may have open now.
#[cfg(unix)]
fn limit() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(limit, _)| limit.try_into().unwrap_or(usize::MAX))
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

/// Other systems have no such limit.
#[cfg(not(unix))]
#[must_use]
pub fn for_unserved(_: usize) -> (usize, usize) {
    (EXAMINED, REFUSED)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn connections_to_be_refused_leave_descriptors_for_files() {
        // With `--max-clients` as it is by default, and as a process that may open few files has lowered it.
        assert_eq!(unserved(10_000 + ROOM, 10_000, 2 * proto::limits::NODES), (EXAMINED, REFUSED));
        for limit in [64_usize, 128, 300, 1_024] {
            let clients = limit.saturating_sub(SPARE).max(limit / 2);
            let (examined, refused) = unserved(limit, clients, LEAST_FOR_NODES);
            let left = limit - clients - LEAST_FOR_NODES - examined - refused;
            assert!(left >= 12, "{left} of {limit}");
        }
    }
}
