#!/usr/bin/env bash
#
# Third-party clients use a cluster of three nodes: redis-cli, redis-benchmark, the crates redis and fred, redis-py and
# node-redis, each through its ordinary calls; the libraries also while a node is killed. The answers are compared with
# those of Redis; the transcripts of tests/tests/redis are also played against Redis itself. Needs Linux or macOS, Rust,
# and other programs; it names those that are missing. Installs only libraries, into a directory of its own that it
# removes.
#
# usage: scripts/clients.sh [--port P] [--seconds S] [--debug]
#   --port P      port of the coordinator (5800); the nodes use the ports after it, Redis the fifth;
#                 the cluster with a password uses the tenth and those after it
#   --seconds S   how long clients write while a node is killed (8)
#   --debug       use a debug build, which builds faster
#
# Exit code 0: all is well. 1: it is not, or a program is missing. 2: it was called wrongly. Everything that this starts is stopped when it ends.
set -uo pipefail

usage() { sed -n '/^# usage:/,/^[^#]\|^#$/s/^# //p' "$0"; }

redis_py=redis==8.1.0
node_redis=redis@6.3.1

port=5800 seconds=8 profile=release
while [ $# -gt 0 ]; do
    case $1 in
        --port) port=${2:?--port needs a number} && shift ;;
        --seconds) seconds=${2:?--seconds needs a number} && shift ;;
        --debug) profile=debug ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    shift
done

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

missing=
need() { command -v "$1" >/dev/null 2>&1 || missing="$missing $1($2)"; }
need cargo rustup.rs
need timeout coreutils
need awk mawk
need od coreutils
need redis-cli redis-tools
need redis-benchmark redis-tools
need redis-server redis-server
need python3 python3
need node nodejs
need npm npm
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing venv(python3-venv)"
if [ -n "$missing" ]; then
    printf 'clients.sh: these programs are missing, with the Debian packages that have them:%s\n' "$missing" >&2
    exit 1
fi

scratch=$(mktemp -d) || exit 1
pids=
cleanup() {
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -9 $pids 2>/dev/null
    wait 2>/dev/null
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

failed=
say() { printf '%s\n' "$*"; }
wrong() {
    say "WRONG: $*"
    failed=yes
}
give_up() {
    say "clients.sh: $*" >&2
    exit 1
}

# The libraries are fetched while the programs are being built.
(
    python3 -m venv "$scratch/venv" && "$scratch/venv/bin/pip" install -q --disable-pip-version-check "$redis_py"
) >"$scratch/venv.log" 2>&1 &
venv_job=$!
npm install --silent --no-audit --no-fund --no-package-lock --prefix "$scratch/node" "$node_redis" >"$scratch/npm.log" 2>&1 &
npm_job=$!

target=$(cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
flag=--release
[ "$profile" = release ] || flag=
# shellcheck disable=SC2086
cargo build --locked --quiet $flag --package coordinator --package node || give_up 'the programs do not build'
# Unoptimized: this builds quickly, and mostly waits for the cluster anyway.
CARGO_TARGET_DIR=$target/foreign-clients cargo build --locked --quiet --manifest-path tests/clients/rust/Cargo.toml ||
    give_up 'tests/clients/rust does not build'
rust=$target/foreign-clients/debug/foreign-clients
wait "$venv_job" || { cat "$scratch/venv.log" && give_up "$redis_py cannot be installed"; }
wait "$npm_job" || { cat "$scratch/npm.log" && give_up "$node_redis cannot be installed"; }

# Starts a program and waits until it reports that it is ready. $1: its log; then the command.
start() {
    local log=$scratch/$1.log i
    shift
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    pids="$pids $pid"
    for ((i = 0; i < 300; i++)); do
        grep -q 'Started on\|Ready to accept connections' "$log" && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$log"
    give_up "$1 does not start"
}

# At level quorum an answered write survives the loss of a node, and linear reads see it.
start coordinator "$target/$profile/coordinator" --port "$port" --ack quorum --read linear
for n in 1 2 3; do
    start "node$n" "$target/$profile/node" --coordinator-port "$port" --port $((port + n))
done
last_node=$pid
start redis redis-server --port $((port + 5)) --save '' --appendonly no --daemonize no
addresses=127.0.0.1:$((port + 1)),127.0.0.1:$((port + 2)),127.0.0.1:$((port + 3))

# Until every slot has its copies, a write at quorum may be refused. $1: the coordinator's port; $2: what to send first.
becomes_whole() {
    local whole i
    for ((i = 0; i < 300; i++)); do
        whole=$(printf '%sSTATS\nQUIT\n' "$2" | timeout 5 bash -c "exec 3<>/dev/tcp/127.0.0.1/$1 && cat >&3 && cat <&3" |
            sed -n 's/^slots_fully_replicated //p')
        [ "$whole" = 16384 ] && return 0
        sleep 0.1
    done
    give_up 'the cluster does not become whole'
}
becomes_whole "$port" ''

cli() { timeout 60 redis-cli -p $((port + 1)) "$@"; }

# Compares a result with what was expected. $1: of what; $2: expected; $3: the result.
same() { [ "$2" = "$3" ] || wrong "$1: expected $(printf %q "$2"), got $(printf %q "$3")"; }

say "== transcripts, by Redis and by the cluster"
for transcript in tests/tests/redis/*.txt; do
    scripts/redis-transcript.py check "127.0.0.1:$((port + 5))" "$transcript" || wrong "$transcript is not what Redis says"
    scripts/redis-transcript.py check "127.0.0.1:$((port + 1))" "$transcript" || wrong "$transcript is not what a node says"
done

say "== $(redis-cli --version)"
for protocol in -2 -3; do
    came=$(printf '%s\n' 'SET cli:a "x y"' 'GET cli:a' 'INCR cli:n' 'EXPIRE cli:a 100' 'TTL cli:none' 'GET cli:none' 'PING' \
        'ECHO hi' 'DEL cli:a cli:n' 'LPUSH l 1' | cli "$protocol" 2>&1)
    same "redis-cli $protocol" $'OK\nx y\n1\n1\n-2\n\nPONG\nhi\n2'"
ERR unknown command 'LPUSH', with args beginning with: 'l' '1' " "$came"
done
came=$(for ((i = 0; i < 10000; i++)); do
    printf '*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n' ${#i} "$i" ${#i} "$i"
done | cli --pipe 2>&1)
case $came in
    *'errors: 0, replies: 10000'*) ;;
    *) wrong "redis-cli --pipe: $came" ;;
esac
same 'redis-cli --scan' 1111 "$(cli --scan --pattern '1*' | sort -u | grep -c .)"
came=$(cli --bigkeys 2>&1)
case $came in
    *'Sampled 10000 keys'*"Biggest string found"*) ;;
    *) wrong "redis-cli --bigkeys: $came" ;;
esac
came=$(cli help mset 2>&1)$(cli help client list 2>&1)
case $came in
    *'key value [key value ...]'*'[TYPE type] [ID client-id [client-id ...]]'*) ;;
    *) wrong "redis-cli help: $came" ;;
esac
same 'DBSIZE' 10000 "$(cli DBSIZE)"

say "== $(redis-benchmark --version 2>/dev/null || echo redis-benchmark)"
bench() {
    local tests=$1
    shift
    if ! came=$(timeout 60 redis-benchmark -p $((port + 1)) -t "$tests" -q -n 5000 -r 1000 "$@" 2>&1); then
        wrong "redis-benchmark -t $tests $*: $came"
    fi
    case $came in
        *rror*) wrong "redis-benchmark -t $tests $*: $came" ;;
    esac
    printf '%s\n' "$came" | tr '\r' '\n' | grep 'requests per second'
}
bench ping_mbulk,set,get,incr,mset
bench ping_mbulk,set,get,incr,mset -P 16
# Without HELLO, a line is a request of the line protocol, and is answered with a line.
bench ping_inline,set,get -3

python=$scratch/venv/bin/python
export NODE_MODULES=$scratch/node

say '== libraries, by their ordinary calls'
"$rust" redis "$addresses" calls || wrong 'the crate redis'
"$rust" fred "$addresses" calls || wrong 'the crate fred'
"$python" tests/clients/python_calls.py "$addresses" calls || wrong 'redis-py'
node tests/clients/node_calls.mjs "$addresses" calls || wrong 'node-redis'

say "== libraries, while a node is killed"
jobs=()
"$rust" redis "$addresses" kill "$seconds" & jobs+=("$!")
"$rust" fred "$addresses" kill "$seconds" & jobs+=("$!")
"$python" tests/clients/python_calls.py "$addresses" kill "$seconds" & jobs+=("$!")
node tests/clients/node_calls.mjs "$addresses" kill "$seconds" & jobs+=("$!")
sleep "$(awk "BEGIN { print $seconds / 3 }")"
# Without the shell's message about it.
{ kill -9 "$last_node" && wait "$last_node"; } 2>/dev/null
for job in "${jobs[@]}"; do
    wait "$job" || wrong 'a library, while a node was killed: see above'
done
say '== a cluster with a password'
secret=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
(umask 077 && printf '%s\n' "$secret" >"$scratch/password")
closed=$((port + 10))
start closed-coordinator "$target/$profile/coordinator" --port "$closed" --ack quorum --read linear --password-file "$scratch/password"
for n in 1 2 3; do
    start "closed-node$n" "$target/$profile/node" --coordinator-port "$closed" --port $((closed + n)) \
        --password-file "$scratch/password"
done
becomes_whole "$closed" "AUTH $secret
"
came=$(timeout 60 redis-cli -p $((closed + 1)) GET a 2>&1)
same 'redis-cli without the password' 'NOAUTH Authentication required.' "${came%$'\n'}"
came=$(timeout 60 redis-cli -p $((closed + 1)) -a wrong GET a 2>/dev/null)
same 'redis-cli with a wrong one' $'NOAUTH Authentication required.' "${came%$'\n'}"
for protocol in -2 -3; do
    came=$(REDISCLI_AUTH=$secret timeout 60 redis-cli -p $((closed + 1)) "$protocol" SET cli:a b 2>&1)
    same "redis-cli $protocol with the password" OK "$came"
done
came=$(timeout 60 redis-cli -p $((closed + 2)) --no-auth-warning -a "$secret" GET cli:a 2>&1)
same 'redis-cli -a' b "$came"
came=$(timeout 60 redis-benchmark -p $((closed + 1)) -a "$secret" -t set,get -q -n 2000 2>&1) ||
    wrong "redis-benchmark -a: $came"
closed_addresses=:$secret@127.0.0.1:$((closed + 1)),:$secret@127.0.0.1:$((closed + 2))
"$rust" redis "$closed_addresses" calls || wrong 'the crate redis, with a password'
"$rust" fred "$closed_addresses" calls || wrong 'the crate fred, with a password'
"$python" tests/clients/python_calls.py "$closed_addresses" calls || wrong 'redis-py, with a password'
node tests/clients/node_calls.mjs "$closed_addresses" calls || wrong 'node-redis, with a password'

grep -H panicked "$scratch"/*.log && wrong 'a server has panicked'

[ -z "$failed" ] || exit 1
say 'clients.sh: every client was answered as by Redis, and no acknowledged write was lost'
