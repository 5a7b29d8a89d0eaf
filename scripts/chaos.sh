#!/usr/bin/env bash
#
# Chaos: a coordinator and nodes as real processes, each in its own network namespace; clients that read and write
# hundreds of keys; and meanwhile random faults: nodes killed, stopped and paused, the coordinator killed and paused,
# links cut one way and both ways, servers isolated. At the end, everything that the clients did and saw is judged: it
# must be linearizable, every walk through all keys must have found each key that was there all the time exactly once, a
# read at level local must have returned only what somebody had written, and all copies of a key must be equal. Needs
# Linux and Rust, and root or user namespaces.
#
# usage: scripts/chaos.sh [--minutes M] [--nodes N] [--seed S] [--port P] [--no-cuts] [--moves] [--plant] [FLAG...]
#   --minutes M   how long faults are injected (3)
#   --nodes N     the number of nodes (5), with --moves the maximum; each key has 3 copies, or as many as there are nodes
#   --seed S      seed for the faults and the load; random by default. The same seed makes the same choices; their
#                 effects depend on timing
#   --port P      port of the coordinator (5700); the nodes use the ports after it
#   --no-cuts     no namespaces, everything on 127.0.0.1, only faults of processes; the report says so
#   --moves       nodes join and are decommissioned meanwhile: there are 3, N, 2, N-1, again 3 of them, and so on, each
#                 number at least once, and each time the cluster must become whole with exactly those nodes
#   --plant       have the clients use --ack async --read local, where a kill -9 loses answered writes and replicas
#                 answer reads: passes only if the judges detect that, for which a minute or two are enough
#   FLAG...       other flags are passed to the program: see `chaos --help`
#
# The report goes to chaos-report/, and after a failure the history too. Exit code 0: all is well. 1: it is not, or the
# run was not possible. Everything that this starts is killed when it ends, however it ends.
set -euo pipefail

usage() {
    sed -n '/^# usage:/,/^[^#]\|^#$/s/^# //p' "$0"
}

cuts=yes
for word in "$@"; do
    case "$word" in
        --no-cuts) cuts=no ;;
        -h | --help)
            usage
            exit 0
            ;;
    esac
done

# Where administration tools are, in case the PATH of this user lacks them.
PATH=$PATH:/usr/sbin:/sbin

missing=
# need PROGRAM PACKAGE
need() {
    if ! command -v "$1" >/dev/null 2>&1; then
        missing="$missing
  $1 (Debian package: $2)"
    fi
}
need cargo 'none; see rustup.rs'
need setpriv util-linux
if [ "$cuts" = yes ]; then
    need ip iproute2
    need unshare util-linux
    need mount mount
    command -v iptables >/dev/null 2>&1 || need nft 'nftables; or iptables, with the package of that name'
fi
if [ -n "$missing" ]; then
    printf 'chaos.sh: these programs are missing:%s\n' "$missing" >&2
    [ "$cuts" = no ] || echo 'With --no-cuts only cargo and setpriv are needed.' >&2
    exit 1
fi

namespaces=()
if [ "$cuts" = yes ]; then
    if unshare --net --mount true 2>/dev/null; then
        namespaces=(unshare --net --mount)
    elif unshare --user --map-root-user --net --mount true 2>/dev/null; then
        namespaces=(unshare --user --map-root-user --net --mount)
    else
        cat >&2 <<'WHY'
chaos.sh: cannot create a network namespace here, so nothing can be cut: neither `unshare --net --mount` nor the same
with --user --map-root-user works. Run it as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1);
in a container, give it CAP_SYS_ADMIN and CAP_NET_ADMIN. Or leave the network alone, with --no-cuts.
WHY
        exit 1
    fi
fi

cd "$(dirname "$0")/.."
cargo build --release --package chaos --package coordinator --package node
bin=${CARGO_TARGET_DIR:-target}/release
report=chaos-report/$(date +%Y%m%d-%H%M%S)-$$

# This process becomes the program, which kills its servers; if it is killed, so are they. The namespaces disappear with
# their last process. `ip netns` keeps its files in /run, which here is private to this run.
command=("$bin/chaos" --programs "$bin" --report "$report" "$@")
if [ "$cuts" = yes ]; then
    exec "${namespaces[@]}" sh -c 'mount -t tmpfs tmpfs /run && exec "$@"' sh "${command[@]}"
fi
exec "${command[@]}"
