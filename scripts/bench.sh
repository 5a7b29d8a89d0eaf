#!/usr/bin/env bash
# Measures clusters next to an echo server and next to Redis, and prints tables. docs/performance.md explains them.
# Everything that this starts is stopped when it ends, however it ends.
#
# usage: scripts/bench.sh [MODE] [--seconds S] [--rounds N] [--only TEXT] [--one-cpu]
#   without a mode  a cluster of one node, and clusters of three at levels async and quorum
#   --redis         one node, and three at quorum, next to Redis; nothing is stored on disk, all share one processor
#   --durable       nodes with data directories, next to Redis with its append-only file and to a node without one
#   --restart       a node with a data directory, from its start to its first answer
#   --snapshot      a node with a data directory under writes, with and without a snapshot in progress
#   --moves         nodes that join, leave and come back under load from the client library
#   --log           the log alone in one process, next to append and fdatasync on a plain file
#   --write         write the tables to docs/performance.md, replacing those of the same mode
#   --keys N        how many keys are stored: 1000000, or 100000 with --durable
#   --seconds S     how long each measurement takes (0.4); those of redis-benchmark take about five times as long
#   --rounds N      how often each measurement is repeated (5; 3 with --moves)
#   --only TEXT     run only measurements with this text in the name, such as "GET array, 50 connections, 16 in flight"
#   --one-cpu       run everything, including the load, on one processor: the total cost of an operation (needs taskset)
set -euo pipefail

usage() {
    sed -n '/^# usage:/,/^[^#]\|^#$/s/^# //p' "$0"
}

mode=clusters
seconds=0.4
rounds=
only=
keys=
one_cpu=
write=
on=()
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds | --rounds | --only | --keys)
            if [ $# -lt 2 ]; then
                echo "bench.sh: $1 needs a value" >&2
                exit 2
            fi
            case "$1" in
                --seconds) seconds=$2 ;;
                --rounds) rounds=$2 ;;
                --only) only=$2 ;;
                --keys) keys=$2 ;;
            esac
            shift 2
            ;;
        --redis | --durable | --restart | --snapshot | --moves | --log)
            if [ "$mode" != clusters ]; then
                echo "bench.sh: --$mode and $1 are two modes; give one" >&2
                exit 2
            fi
            mode=${1#--}
            shift
            ;;
        --one-cpu)
            one_cpu=yes
            shift
            ;;
        --write)
            write=yes
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
[ -n "$rounds" ] || case "$mode" in
    moves) rounds=3 ;;
    *) rounds=5 ;;
esac
case "$mode" in
    clusters | log)
        if [ -n "$keys" ]; then
            echo "bench.sh: --keys requires --redis, --durable, --restart, --snapshot or --moves" >&2
            exit 2
        fi
        ;;
    redis | durable)
        if ! command -v redis-server >/dev/null; then
            echo "bench.sh: --$mode needs redis-server, on Debian in the package redis-server" >&2
            exit 1
        fi
        if [ "$mode" = redis ] && ! command -v redis-benchmark >/dev/null; then
            echo "bench.sh: --redis needs redis-benchmark, on Debian in the package redis-tools" >&2
            exit 1
        fi
        ;;
esac
if [ -n "$write" ] && [ -n "$only" ]; then
    echo "bench.sh: --write replaces whole tables, and --only measures a part" >&2
    exit 2
fi
if [ -n "$one_cpu" ] || [ "$mode" = redis ]; then
    if ! command -v taskset >/dev/null; then
        echo "bench.sh: running on one processor needs taskset, on Debian in the package util-linux" >&2
        exit 1
    fi
    on=(taskset -c 0)
fi

cd "$(dirname "$0")/.."
cargo build --release --package bench --package coordinator --package node
if [ "$mode" = log ]; then
    cargo build --release --package storage --example append
elif [ "$mode" = moves ]; then
    cargo build --release --package client --example moves
fi
bin=${CARGO_TARGET_DIR:-target}/release

# Logs and data directories: on a real disk, where writes have their real cost.
mkdir -p run
logs=$(mktemp -d run/bench.XXXXXX)
if [ "$(stat -f -c %T "$logs" 2>/dev/null)" = tmpfs ]; then
    rmdir "$logs"
    echo "bench.sh: $PWD/run is in memory (tmpfs); measuring needs a disk there" >&2
    exit 1
fi
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

# start NAME PROGRAM [ARGUMENT...]: starts a program and waits until it reports its address. Sets $port and $pid.
start() {
    local name=$1
    shift
    : >"$logs/$name.out"
    local program=$1
    shift
    ${on[@]+"${on[@]}"} "$bin/$program" "$@" >"$logs/$name.out" 2>"$logs/$name.err" &
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

# redis NAME [ARGUMENT...]: starts a Redis, by default without persistence, and waits until it is ready. Sets $port and
# $pid. Redis cannot be asked for a free port, so ports are tried one after the other.
redis() {
    local name=$1 tries
    shift
    mkdir "$logs/$name"
    for _ in 1 2 3 4 5 6 7 8; do
        port=$((20000 + RANDOM % 12000))
        ${on[@]+"${on[@]}"} redis-server --port "$port" --bind 127.0.0.1 --dir "$PWD/$logs/$name" --daemonize no --save '' \
            --repl-diskless-sync-delay 0 "$@" >"$logs/$name.err" 2>&1 &
        pid=$!
        pids+=("$pid")
        tries=0
        while kill -0 "$pid" 2>/dev/null && [ "$tries" -le 100 ]; do
            if grep -q 'Ready to accept connections' "$logs/$name.err"; then
                return
            fi
            tries=$((tries + 1))
            sleep 0.1
        done
    done
    echo "bench.sh: $name did not start:" >&2
    cat "$logs/$name.err" >&2
    exit 1
}

# node NAME [ARGUMENT...]: starts a cluster of one node. Sets $cluster.
node() {
    local name=$1
    shift
    start "coordinator-of-$name" coordinator --port 0 --replicas 0
    local coordinator=$port
    start "$name" node --port 0 --coordinator-port "$coordinator" "$@"
    cluster=1@127.0.0.1:$coordinator/$pid
}

# three LEVEL: starts a cluster of three nodes that answers writes at this level. Sets $cluster.
three() {
    start "coordinator-$1" coordinator --port 0 --replicas 2 --ack "$1"
    local coordinator=$port nodes=
    for number in 1 2 3; do
        start "node-$1-$number" node --port 0 --coordinator-port "$coordinator"
        nodes=${nodes:+$nodes,}$pid
    done
    cluster=3@127.0.0.1:$coordinator/$nodes#$1
}

# measure ARGUMENT...: runs the load generator.
measure() {
    watched bench "$@" --seconds "$seconds" --rounds "$rounds" --only "$only"
}

# watched PROGRAM [ARGUMENT...]: runs one of our programs to its end; in the background, so that a signal ends it at
# once.
watched() {
    ${on[@]+"${on[@]}"} "$bin/$1" "${@:2}" &
    pids+=($!)
    if ! wait $!; then
        echo "bench.sh: the run failed; the ends of the logs:" >&2
        tail -n 20 "$logs"/*.err >&2 || true
        exit 1
    fi
}

measure_clusters() {
    start echo bench echo --port 0
    local echo=127.0.0.1:$port/$pid one async
    node only-node
    one=$cluster
    three async
    async=$cluster
    three quorum
    measure run --echo "$echo" --cluster "$one" --cluster "$async" --cluster "$cluster"
}

measure_redis() {
    start echo bench echo --port 0
    local echo=127.0.0.1:$port/$pid large_echo one second_one redis second_redis replicated replicas number
    start large-echo bench echo --port 0 --value-bytes 1024
    large_echo=127.0.0.1:$port/$pid
    node only-node
    one=$cluster
    node second-node
    second_one=$cluster
    three quorum
    redis redis
    redis=127.0.0.1:$port/$pid
    redis second-redis
    second_redis=127.0.0.1:$port/$pid
    redis redis-primary
    replicated=$port
    replicas=$pid
    for number in 1 2; do
        redis "redis-replica-$number" --replicaof "127.0.0.1 $replicated"
        replicas=$replicas,$pid
    done
    measure redis --keys "${keys:-1000000}" --echo "$echo" --large-echo "$large_echo" \
        --one "$one" --quorum "$cluster" \
        --second-one "$second_one" --second-redis "$second_redis" \
        --redis "$redis" --replicated "127.0.0.1:$replicated/$replicas"
}

measure_durable() {
    local memory interval
    node memory-only
    memory=$cluster
    node fsync-interval --data-dir "$logs/interval" --fsync interval
    interval=$cluster
    node fsync-always --data-dir "$logs/always" --fsync always
    redis redis-always --appendonly yes --appendfsync always
    measure durable --keys "${keys:-100000}" --memory "$memory" --interval "$interval" --always "$cluster" \
        --redis "127.0.0.1:$port/$pid"
}

measure_restart() {
    start coordinator coordinator --port 0 --replicas 0
    watched bench restart --program "$bin/node" --coordinator "127.0.0.1:$port" --data-dir "$logs/data" \
        --keys "${keys:-1000000}" --rounds "$rounds"
}

measure_snapshot() {
    start coordinator coordinator --port 0 --replicas 0
    watched bench snapshot --program "$bin/node" --coordinator "127.0.0.1:$port" --data-dir "$logs/data" \
        --keys "${keys:-1000000}" --rounds "$rounds"
}

measure_moves() {
    watched examples/moves --programs "$bin" --data-dir "$logs/data" --keys "${keys:-1000000}" --rounds "$rounds"
}

measure_log() {
    watched examples/append "$logs" "$rounds"
}

# conditions: prints a line that tells how the tables were measured.
conditions() {
    local processors model with= huge=/sys/kernel/mm/transparent_hugepage/enabled
    processors=$(getconf _NPROCESSORS_ONLN)
    model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
    case "$mode" in
        redis | durable) with=", $(redis-server --version | sed 's/^Redis server v=\([^ ]*\).*/Redis \1/')" ;;
    esac
    # The nodes ask for them; Redis does without.
    [ ! -r "$huge" ] || with="$with, huge pages $(sed 's/.*\[\(.*\)\].*/\1/' "$huge")"
    echo "Measured on $(date -u +%F) on $processors processors (${model:-unknown})${on:+, on one of them}$with: medians of" \
        "$rounds rounds."
}

# put FILE: replaces the section of this mode in docs/performance.md.
put() {
    local page=docs/performance.md begin="<!-- bench.sh $mode: begin -->" end="<!-- bench.sh $mode: end -->"
    if ! grep -qxF "$begin" "$page" || ! grep -qxF "$end" "$page"; then
        echo "bench.sh: $page has no part between \"$begin\" and \"$end\"" >&2
        exit 1
    fi
    awk -v begin="$begin" -v end="$end" -v file="$1" '
        $0 == end { inside = 0 }
        !inside { print }
        $0 == begin {
            inside = 1
            while ((getline line < file) > 0) print line
        }' "$page" >"$logs/page"
    cat "$logs/page" >"$page"
    echo "bench.sh: $page has the tables of this run" >&2
}

if [ -z "$write" ]; then
    "measure_$mode"
else
    # Not through a pipe: its other end would not see the processes to be stopped.
    "measure_$mode" >"$logs/tables"
    cat "$logs/tables"
    { conditions; echo; cat -s "$logs/tables"; } | sed -e '${/^$/d;}' >"$logs/part"
    put "$logs/part"
fi
