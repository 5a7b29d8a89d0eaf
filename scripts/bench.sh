#!/usr/bin/env bash
# Measures a cluster of one node, and clusters of three at the levels async and quorum, beside a server that does nothing,
# and prints a table for each. docs/performance.md says what they show. Everything that this starts is stopped when it
# ends, however it ends.
#
# usage: scripts/bench.sh [--seconds S] [--rounds N] [--only TEXT] [--one-cpu]
#   --seconds S   how long each measurement takes (0.4)
#   --rounds N    how often each is made (5); 64 measurements make a round
#   --only TEXT   measure only what has this in its name, such as "GET array, 50 connections, 16 in flight"
#   --one-cpu     run everything, the load as well, on one processor: what an operation costs in all (needs taskset)
set -euo pipefail

usage() {
    sed -n '6,10s/^# \{0,1\}//p' "$0"
}

seconds=0.4
rounds=5
only=
on=()
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds | --rounds | --only)
            if [ $# -lt 2 ]; then
                echo "bench.sh: $1 needs a word after it" >&2
                exit 2
            fi
            case "$1" in
                --seconds) seconds=$2 ;;
                --rounds) rounds=$2 ;;
                --only) only=$2 ;;
            esac
            shift 2
            ;;
        --one-cpu)
            if ! command -v taskset >/dev/null; then
                echo "bench.sh: --one-cpu needs taskset, on Debian in the package util-linux" >&2
                exit 1
            fi
            on=(taskset -c 0)
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            echo "bench.sh: unknown argument $1" >&2
            usage >&2
            exit 2
            ;;
    esac
done

cd "$(dirname "$0")/.."
cargo build --release --package bench --package coordinator --package node
bin=${CARGO_TARGET_DIR:-target}/release

logs=$(mktemp -d)
pids=()
finish() {
    status=$?
    trap - EXIT INT TERM
    # Nothing here holds data worth keeping.
    if [ ${#pids[@]} -gt 0 ]; then
        kill -9 "${pids[@]}" 2>/dev/null || true
        wait "${pids[@]}" 2>/dev/null || true
    fi
    rm -rf "$logs"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME PROGRAM [ARGUMENT...]: starts a program, waits until it says where it listens. Sets $port and $pid.
start() {
    local name=$1
    shift
    : >"$logs/$name.out"
    local program=$1
    shift
    "${on[@]}" "$bin/$program" "$@" >"$logs/$name.out" 2>"$logs/$name.err" &
    pid=$!
    pids+=("$pid")
    local tries=0
    until port=$(sed -n 's/.* Started on .*:\([0-9][0-9]*\)$/\1/p' "$logs/$name.out") && [ -n "$port" ]; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ] || ! kill -0 "$pid" 2>/dev/null; then
            echo "bench.sh: $name did not start:" >&2
            cat "$logs/$name.err" >&2
            exit 1
        fi
        sleep 0.1
    done
}

start echo bench echo --port 0
echo=127.0.0.1:$port/$pid

start coordinator-of-one coordinator --port 0 --replicas 0
one=$port
start only-node node --port 0 --coordinator-port "$one"
one=1@127.0.0.1:$one/$pid

# three LEVEL: starts a cluster of three nodes whose writes are answered at this level. Sets $cluster.
three() {
    start "coordinator-$1" coordinator --port 0 --replicas 2 --ack "$1"
    local coordinator=$port nodes=
    for number in 1 2 3; do
        start "node-$1-$number" node --port 0 --coordinator-port "$coordinator"
        nodes=${nodes:+$nodes,}$pid
    done
    cluster=3@127.0.0.1:$coordinator/$nodes#$1
}
three async
async=$cluster
three quorum
quorum=$cluster

# In the background, so that a signal ends it at once.
"${on[@]}" "$bin/bench" run --seconds "$seconds" --rounds "$rounds" --only "$only" \
    --echo "$echo" --cluster "$one" --cluster "$async" --cluster "$quorum" &
pids+=($!)
if ! wait $!; then
    echo "bench.sh: the run has failed; what the programs had to say:" >&2
    tail -n 20 "$logs"/*.err >&2
    exit 1
fi
