#!/usr/bin/env bash
#
# Builds the programs, starts a cluster on this machine and opens the client. Leaving the client stops the cluster.
# For Linux and macOS. Needs bash 3.2 or newer, a Rust toolchain, and a C compiler with
# make.

set -u

usage() {
    cat <<'TEXT'
Usage: scripts/quickstart.sh [OPTIONS]

Builds the release binaries, starts a coordinator and nodes on 127.0.0.1, waits until the cluster is ready and opens
the client. Leaving the client stops everything that was started. What was stored is kept, and is there again at the
next start with the same ports and number of nodes.

Options:
  --command "COMMAND"  Run one command of the client, such as "PUT key value", and exit with its exit code
  --nodes N            How many nodes, 1 to 64 [default: 3]
  --port PORT          Port of the coordinator [default: 5000]
  --node-port PORT     Port of the first node; the others follow it [default: one above --port]
  --keep               Leave the cluster running and print how to stop it
  --help               Print this help

Exit code: the client's. 2 if an option is wrong, 3 if the cluster could not be started.
Data: data/quickstart-PORT-NODEPORT-NODES beside the sources, 80 MB for each node at first. Remove it to start empty.
Logs: run/*.log beside the sources.
If these cannot be written, both go to a new directory under $TMPDIR.
TEXT
}

say() { printf '%s\n' "$*" >&2; }

usage_error() {
    say "quickstart: $1"
    say "Try: scripts/quickstart.sh --help"
    exit 2
}

give_up() {
    say "quickstart: $1"
    exit 3
}

# Options.

command_text=
has_command=no
nodes=3
port=5000
node_port=
keep=no

is_number() {
    case $1 in
        '' | *[!0-9]* | ??????*) return 1 ;;
    esac
}

while [ $# -gt 0 ]; do
    option=$1
    shift
    value=
    case $option in
        --command=* | --nodes=* | --port=* | --node-port=*)
            value=${option#*=}
            option=${option%%=*}
            ;;
        --command | --nodes | --port | --node-port)
            [ $# -gt 0 ] || usage_error "$option needs a value"
            value=$1
            shift
            ;;
    esac
    case $option in
        --command)
            command_text=$value
            has_command=yes
            ;;
        --nodes) nodes=$value ;;
        --port) port=$value ;;
        --node-port) node_port=$value ;;
        --keep) keep=yes ;;
        --help | -h)
            usage
            exit 0
            ;;
        *) usage_error "unknown option $option" ;;
    esac
done

is_number "$nodes" || usage_error "--nodes $nodes: expected a number from 1 to 64"
is_number "$port" || usage_error "--port $port: expected a number from 1 to 65535"
# 10# keeps a leading zero from meaning octal.
nodes=$((10#$nodes))
port=$((10#$port))
[ "$nodes" -ge 1 ] && [ "$nodes" -le 64 ] || usage_error "--nodes $nodes: expected a number from 1 to 64"
[ "$port" -ge 1 ] && [ "$port" -le 65535 ] || usage_error "--port $port: expected a number from 1 to 65535"
if [ -z "$node_port" ]; then
    node_port=$((port + 1))
fi
is_number "$node_port" || usage_error "--node-port $node_port: expected a number from 1 to 65535"
node_port=$((10#$node_port))
last_port=$((node_port + nodes - 1))
[ "$node_port" -ge 1 ] && [ "$last_port" -le 65535 ] ||
    usage_error "the nodes would take ports $node_port to $last_port: all must be from 1 to 65535"
[ "$port" -lt "$node_port" ] || [ "$port" -gt "$last_port" ] ||
    usage_error "port $port is the coordinator's and cannot be a node's as well; see --node-port"

# The processes started, and how they are stopped. Everything but the client runs in its own process group, so that
# Ctrl-C in the terminal reaches only this script and the client.

build_pid=
client_pid=
coordinator_pid=
node_pids=
is_ready=no
# While a process is being started and its PID is not recorded yet, a signal waits here as its exit code.
is_starting=no
pending=
terminal=

is_running() { kill -0 "$1" 2>/dev/null; }

# Waits until none of these processes is left, at most until $deadline (in seconds of $SECONDS).
wait_until_gone() {
    local pid left
    while :; do
        left=no
        for pid in "$@"; do
            if is_running "$pid"; then left=yes; fi
        done
        if [ "$left" = no ]; then return 0; fi
        if [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
        sleep 0.1
    done
}

# Stops process groups by their leaders: with SIGTERM, and by force once $deadline has passed.
stop_groups() {
    local pid
    for pid in "$@"; do
        kill -TERM -- "-$pid" 2>/dev/null
    done
    if ! wait_until_gone "$@"; then
        for pid in "$@"; do
            kill -KILL -- "-$pid" 2>/dev/null
        done
    fi
    for pid in "$@"; do
        wait "$pid" 2>/dev/null
    done
}

stop_everything() {
    local code=$?
    trap '' INT TERM HUP TTOU
    trap - EXIT
    deadline=$((SECONDS + 10))
    if [ -n "$build_pid" ]; then stop_groups "$build_pid"; fi
    if [ -n "$client_pid" ]; then
        kill -TERM "$client_pid" 2>/dev/null
        wait_until_gone "$client_pid" || kill -KILL "$client_pid" 2>/dev/null
        wait "$client_pid" 2>/dev/null
        # A client that is stopped at its prompt leaves the terminal without echo.
        if [ -n "$terminal" ]; then stty "$terminal" 2>/dev/null; fi
    fi
    if [ "$keep" = yes ] && [ "$is_ready" = yes ]; then
        say "The cluster is still running. To use it: $(quoted "$programs/client") --port $port"
        say "To stop it: kill$node_pids $coordinator_pid"
        exit "$code"
    fi
    # The nodes first: they tell the coordinator that they are leaving.
    # shellcheck disable=SC2086
    if [ -n "$node_pids" ]; then stop_groups $node_pids; fi
    if [ -n "$coordinator_pid" ]; then stop_groups "$coordinator_pid"; fi
    exit "$code"
}

# Quotes a text as one word of a shell command.
quoted() {
    case $1 in
        *[!A-Za-z0-9_./-]*) printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s' "$1" ;;
    esac
}

leave() {
    if [ "$is_starting" = yes ]; then pending=$1; else exit "$1"; fi
}

trap stop_everything EXIT
trap 'leave 129' HUP
trap 'leave 130' INT
trap 'leave 143' TERM
# If the reader of this script's output goes away, the script must still be able to stop what it has started.
trap '' PIPE

# Talking to the coordinator, through bash's own sockets.

is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Prints the answer of the server on port $1 to the request $2. A server that is silent for 2 s counts as giving no
# answer.
ask() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        printf '%s\nQUIT\n' "$2" >&3 || exit 1
        while IFS= read -r -t 2 line <&3; do
            printf '%s\n' "$line"
        done
    ) 2>/dev/null
}

# Whether every node is registered.
all_are_registered() {
    local answer expected at
    answer=$(ask "$port" LIST_NODES) || return 1
    for ((at = node_port; at <= last_port; at++)); do
        expected="  127.0.0.1:$at"
        case "$answer
" in
            *"
$expected
"*) ;;
            *) return 1 ;;
        esac
    done
}

# Prints the incarnation that the node on a port reports.
incarnation() {
    local answer
    answer=$(ask "$1" INFO) || return 1
    case $answer in
        *' incarnation='*) ;;
        *) return 1 ;;
    esac
    answer=${answer##* incarnation=}
    printf '%s' "${answer%% *}"
}

# Whether every slot has a primary and all its copies: up to three, and none still being filled. The map of an earlier
# run claims so from the start, but names other incarnations than those now running.
all_is_level() {
    local answer at line isr member copies=3 up=0 slots=no here=' '
    if [ "$nodes" -lt 3 ]; then copies=$nodes; fi
    for ((at = node_port; at <= last_port; at++)); do
        here="$here$(incarnation "$at") " || return 1
    done
    answer=$(ask "$port" MAP) || return 1
    while IFS= read -r line; do
        case $line in
            'NODE '*' up')
                member=${line#NODE }
                case $here in
                    *" ${member%% *} "*) up=$((up + 1)) ;;
                    *) return 1 ;;
                esac
                ;;
            'SLOTS '*' primary=- '*) return 1 ;;
            'SLOTS '*' learners=- elr=-')
                slots=yes
                isr=${line##* isr=}
                isr=${isr%% *}
                # One comma fewer than copies.
                line=${isr//[!,]/}
                [ "${#line}" -eq $((copies - 1)) ] || return 1
                for member in ${isr//,/ }; do
                    case $here in
                        *" $member "*) ;;
                        *) return 1 ;;
                    esac
                done
                ;;
            'SLOTS '*) return 1 ;;
        esac
    done <<<"$answer"
    [ "$up" -eq "$nodes" ] && [ "$slots" = yes ]
}

# Prints the end of a log, for diagnosis.
show_log() {
    say "The end of $1:"
    tail -n 15 "$1" | sed 's/^/    /' >&2
}

# Gives up if a server has exited.
check_servers() {
    local pid at=$node_port
    is_running "$coordinator_pid" || {
        show_log "$logs/coordinator-$port.log"
        give_up "the coordinator has ended"
    }
    for pid in $node_pids; do
        is_running "$pid" || {
            show_log "$logs/node-$at.log"
            give_up "the node on port $at has ended"
        }
        at=$((at + 1))
    done
}

# Waits until a check succeeds, at most 60 s. $1: the check; $2: what it means, for people.
wait_for() {
    local until=$((SECONDS + 60))
    until "$1"; do
        check_servers
        if [ "$SECONDS" -ge "$until" ]; then
            show_log "$logs/coordinator-$port.log"
            give_up "$2 within 60 s"
        fi
        sleep 0.1
    done
}

# Waits for a child to exit, despite any signals that this script ignores, and returns its exit code.
await() {
    local code last
    while :; do
        wait "$1"
        code=$?
        # Above 128, the wait may have been ended by a signal to this script.
        if [ "$code" -le 128 ] || ! is_running "$1"; then
            wait "$1" 2>/dev/null
            last=$?
            # 127: the shell has already reported the exit code.
            if [ "$last" -ne 127 ]; then code=$last; fi
            return "$code"
        fi
    done
}

# Starts a program in its own process group. $1: build, coordinator or node; $2: its log; then the program and its
# arguments.
start() {
    local kind=$1 log=$2
    shift 2
    is_starting=yes
    set -m
    (
        trap '' HUP
        exec "$@"
    ) >"$log" 2>&1 </dev/null &
    case $kind in
        build) build_pid=$! ;;
        coordinator) coordinator_pid=$! ;;
        node) node_pids="$node_pids $!" ;;
    esac
    set +m
    end_of_start
}

# Starts the client with these arguments. It stays in the script's process group, so that it can read the terminal. It
# runs in the background, so that a signal to the script takes effect at once.
start_client() {
    is_starting=yes
    "$programs/client" --port "$port" "$@" <&0 &
    client_pid=$!
    end_of_start
}

end_of_start() {
    is_starting=no
    if [ -n "$pending" ]; then exit "$pending"; fi
}

# Before anything starts: are the ports free?

for ((at = port; at != 0; )); do
    if is_taken "$at"; then
        say "quickstart: port $at of 127.0.0.1 is taken by another program. Nothing was started."
        if [ "$at" -eq 5000 ] && [ "$(uname -s)" = Darwin ]; then
            say "On macOS that is usually AirPlay Receiver. Turn it off in System Settings, General, AirDrop & Handoff,"
            say "or choose another port: scripts/quickstart.sh --port 5500"
        elif [ "$at" -eq "$port" ]; then
            say "Stop that program, or choose another port with --port."
        else
            say "Stop that program, or choose other ports with --port or --node-port."
        fi
        exit 3
    fi
    if [ "$at" -eq "$port" ]; then
        at=$node_port
    elif [ "$at" -lt "$last_port" ]; then
        at=$((at + 1))
    else
        at=0
    fi
done

# Build.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || give_up "cannot find the sources"
cargo=cargo
if ! command -v cargo >/dev/null 2>&1; then
    cargo=${CARGO_HOME:-${HOME:-}/.cargo}/bin/cargo
    [ -x "$cargo" ] || give_up "cargo was not found: install Rust, see https://rustup.rs"
fi
logs=$root/run
# Another choice of ports or nodes is another cluster: it would wait for nodes that do not run.
data=$root/data/quickstart-$port-$node_port-$nodes
if ! mkdir -p "$logs" "$data" 2>/dev/null || [ ! -w "$logs" ] || [ ! -w "$data" ]; then
    logs=$(mktemp -d "${TMPDIR:-/tmp}/quickstart.XXXXXX") || give_up "cannot make a directory for the logs"
    data=$logs/data
fi

say "Building the programs. The first time takes a minute or two."
start build "$logs/build-$port.log" \
    "$cargo" build --release --locked --manifest-path "$root/Cargo.toml" -p coordinator -p node -p client
await "$build_pid" || {
    build_pid=
    cat "$logs/build-$port.log" >&2
    give_up "the build has failed"
}
build_pid=
# Cargo knows best where it builds: CARGO_TARGET_DIR and its configuration have a say.
target=$("$cargo" metadata --manifest-path "$root/Cargo.toml" --format-version 1 --no-deps --locked |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
programs=$target/release
for program in coordinator node client; do
    [ -x "$programs/$program" ] || give_up "the build has made no $programs/$program"
done

# Start.

say "Starting a coordinator on port $port and nodes on ports $node_port to $last_port. Logs: $logs"
say "Data: $data"
# An interrupted start may leave nodes of a cluster that the coordinator has not saved. Nobody has used that cluster.
if [ ! -e "$data/ready" ]; then rm -rf "$data"; fi
start coordinator "$logs/coordinator-$port.log" "$programs/coordinator" --port "$port" --data-dir "$data/coordinator"
coordinator_is_up() { is_taken "$port"; }
wait_for coordinator_is_up "the coordinator did not start"
for ((at = node_port; at <= last_port; at++)); do
    # All nodes are on one machine, so a crash of it could leave no node with a log known to be whole.
    start node "$logs/node-$at.log" "$programs/node" --port "$at" --coordinator-port "$port" \
        --data-dir "$data/node-$at" --fsync always
done
wait_for all_are_registered "not all nodes have registered"
wait_for all_is_level "the nodes have registered, but not every key has its copies"
is_ready=yes
: >"$data/ready"

# The client.

if [ "$has_command" = yes ]; then
    start_client --command "$command_text"
else
    if [ -t 0 ]; then
        # Ctrl-C is for the client, which clears its line or stops waiting.
        trap : INT
        terminal=$(stty -g 2>/dev/null)
    fi
    if [ "$keep" = no ]; then say "The cluster is ready. Leaving the client stops it."; fi
    start_client
fi
await "$client_pid"
code=$?
client_pid=
exit "$code"
