#!/usr/bin/env bash
#
# Crashes on real disks: three nodes with --fsync always under a load of quorum writes; afterwards every acknowledged
# write is looked up, and none may be lost. Needs root and Linux: loop devices, strace, and a file system that can be shut
# down without flushing what is not on disk, which is what a power cut does.
#
# usage: scripts/crash.sh [--kills N] [--cuts N] [--calls N] [--port P] [STAGE...]
#   --kills N   how often every node and the coordinator are killed at once with kill -9 (100)
#   --cuts N    how often the power of all three nodes is cut at once (50)
#   --calls N   a node dies, or gets EIO or ENOSPC, at each of its first N writes and fsyncs (200)
#   --port P    port of the coordinator (5800); the nodes use the three ports after it
#   STAGE...    the stages to run: kills cuts deaths errors full (all of them)
#
# Exit code 0: nothing was lost. 1: something was, or a stage was not possible here; the output says which. 2: it was
# called wrongly. Everything that this starts or mounts is gone when it ends, however it ends.
set -euo pipefail

# The part of the comment above that begins with "usage".
usage() {
    sed -n '/^# usage:/,/^[^#]\|^#$/s/^# //p' "$0"
}

# Free disk space, in MB.
needed=4096
kills=100 cuts=50 calls=200 port=5800 stages=()
while [ $# -gt 0 ]; do
    case "$1" in
        --kills) kills=${2:?--kills needs a number} && shift 2 ;;
        --cuts) cuts=${2:?--cuts needs a number} && shift 2 ;;
        --calls) calls=${2:?--calls needs a number} && shift 2 ;;
        --port) port=${2:?--port needs a number} && shift 2 ;;
        -h | --help) usage && exit 0 ;;
        kills | cuts | deaths | errors | full) stages+=("$1") && shift ;;
        *) usage >&2 && exit 2 ;;
    esac
done
[ ${#stages[@]} -gt 0 ] || stages=(kills cuts deaths errors full)

# Where administration tools are.
PATH=$PATH:/usr/sbin:/sbin
[ "$(uname)" = Linux ] || { echo 'crash.sh: runs on Linux only: it mounts disks in files and traces system calls' >&2 && exit 1; }
[ "$(id -u)" = 0 ] || { echo 'crash.sh: needs root, to mount disks in files and to cut their power' >&2 && exit 1; }
for program in cargo mkfs.ext4 mount umount strace python3; do
    command -v "$program" >/dev/null || { echo "crash.sh: $program is missing (Debian packages: e2fsprogs mount strace python3)" >&2 && exit 1; }
done

cd "$(dirname "$0")/.."
cargo build --release --package chaos --package coordinator --package node --package client
bin=$(cd "${CARGO_TARGET_DIR:-target}/release" && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/crash.XXXXXX")
# What is tested is full or failing disks of the nodes, not this one.
free=$(df --output=avail -BM "$work" | tr -dc '0-9')
if [ "$free" -lt "$needed" ]; then
    echo "crash.sh: $work has $free MB of free space, $needed are needed; set TMPDIR" >&2 && rmdir "$work" && exit 1
fi
coordinator=127.0.0.1:$port
# How often a call of node 1 was made to fail, or ended it, in this stage.
declare -A pids=() injected=()
mounted=()

stop_all() {
    local name
    for name in "${!pids[@]}"; do
        kill -9 -- "${pids[$name]}" 2>/dev/null || true
        wait "${pids[$name]}" 2>/dev/null || true
    done
    pids=()
}

cleanup() {
    stop_all
    local disk
    for disk in "${mounted[@]}"; do umount "$disk" 2>/dev/null || umount -l "$disk" 2>/dev/null || true; done
    [ "${failed:-yes}" = no ] && rm -rf "$work" || echo "crash.sh: the logs and data are in $work" >&2
}
trap cleanup EXIT
trap 'exit 130' INT TERM

say() { printf '%s %s\n' "$(date +%T)" "$*"; }
die() { say "FAILED: $*" && exit 1; }

# Creates a fresh disk of $2 MB at $1.
mount_disk() {
    mkdir -p "$1"
    truncate -s "$2M" "$1.img"
    mkfs.ext4 -q -F "$1.img"
    mount -o loop "$1.img" "$1" || die "cannot mount a disk here: $1 (in a container, give it loop devices)"
    mounted+=("$1")
}

unmount_disk() {
    umount "$1"
    local left=() disk
    for disk in "${mounted[@]}"; do [ "$disk" = "$1" ] || left+=("$disk"); done
    mounted=("${left[@]}")
    rm -rf "$1" "$1.img"
}

# The power cut: from now on every write fails, and unsynced data never reaches the disk (EXT4_IOC_SHUTDOWN, no flush).
cut_power() {
    python3 - "$@" <<'PY'
import fcntl, os, struct, sys
for path in sys.argv[1:]:
    disk = os.open(path, os.O_RDONLY)
    fcntl.ioctl(disk, 0x8004587D, struct.pack("I", 2))
    os.close(disk)
PY
}

start_coordinator() {
    "$bin/coordinator" --port "$port" --data-dir "$work/$1/coordinator" --log-level warn \
        >>"$work/coordinator.log" 2>&1 &
    pids[coordinator]=$!
}

# $1: the stage; $2: the node's number; then what to run it under, such as strace.
start_node() {
    local stage=$1 number=$2
    shift 2
    "$@" "$bin/node" $((port + number)) --coordinator-port "$port" --data-dir "$work/$stage/$number/data" --fsync always \
        --log-level warn >>"$work/node-$number.log" 2>&1 &
    pids[$number]=$!
}

# $1: the stage.
start_all() {
    start_coordinator "$1"
    local number
    for number in 1 2 3; do start_node "$1" "$number"; done
}

acknowledged() { "$bin/acknowledged" --coordinator "$coordinator" --record "$1" "${@:2}"; }

# Waits until a client can write. $1: record.
await_service() {
    local tries
    for tries in $(seq 60); do
        if "$bin/client" --port "$port" --ack quorum --command "PUT ready $tries" >/dev/null 2>&1; then return; fi
        sleep 0.5
    done
    die 'the cluster does not serve'
}

# Writes while something is done to the cluster. $1: record; $2: name; $3: how long the writers run; then what to do.
under_load() {
    local record=$1 name=$2 seconds=$3
    shift 3
    acknowledged "$record" write --name "$name" --seconds "$seconds" >"$work/load.log" 2>&1 &
    local load=$!
    "$@"
    wait "$load" || die "the load failed with exit code $?: $(cat "$work/load.log")"
}

check() {
    acknowledged "$1" check "${@:3}" >"$work/check.log" 2>&1 || die "$2: $(cat "$work/check.log")"
}

# Kills every process at once, in the middle of the load.
kill_all_soon() {
    sleep "0.$((RANDOM % 9 + 1))"
    stop_all
}

stage_kills() {
    mkdir -p "$work/kills"
    start_all kills
    local round
    for round in $(seq "$kills"); do
        await_service
        under_load "$work/kills.record" "k$round" 1 kill_all_soon
        start_all kills
        [ $((round % 10)) -ne 0 ] || { check "$work/kills.record" "after $round times kill -9" && say "  $round: $(cat "$work/check.log")"; }
    done
    check "$work/kills.record" "after $kills times kill -9"
}

# All three nodes at once; the coordinator stays.
cut_all_soon() {
    sleep "0.$((RANDOM % 9 + 1))"
    cut_power "$work"/cuts/{1,2,3}
    local number
    for number in 1 2 3; do
        kill -9 "${pids[$number]}" && wait "${pids[$number]}" 2>/dev/null || true
        unset "pids[$number]"
    done
}

stage_cuts() {
    local number round
    for number in 1 2 3; do mount_disk "$work/cuts/$number" 400; done
    start_all cuts
    for round in $(seq "$cuts"); do
        await_service
        under_load "$work/cuts.record" "c$round" 1 cut_all_soon
        for number in 1 2 3; do
            umount "$work/cuts/$number" && mount -o loop "$work/cuts/$number.img" "$work/cuts/$number"
            start_node cuts "$number"
        done
        [ $((round % 10)) -ne 0 ] || { check "$work/cuts.record" "after $round power cuts" && say "  $round: $(cat "$work/check.log")"; }
    done
    check "$work/cuts.record" "after $cuts power cuts"
    stop_all
    for number in 1 2 3; do unmount_disk "$work/cuts/$number"; done
}

# Kills every node 1, traced or not.
kill_node_1() {
    local exe dir
    for exe in /proc/[0-9]*/exe; do
        dir=${exe%/exe}
        [ "$(readlink "$exe" 2>/dev/null)" = "$bin/node" ] || continue
        if tr '\0' ' ' <"$dir/cmdline" | grep -q " $((port + 1)) "; then kill -9 "${dir#/proc/}" 2>/dev/null || true; fi
    done
    [ -z "${pids[1]:-}" ] || wait "${pids[1]}" 2>/dev/null || true
    unset 'pids[1]'
}

# Whether what was injected took effect: node 1 was killed, or strace says that a call failed.
took_effect() {
    local status=0
    if ! kill -0 "${pids[1]}" 2>/dev/null; then wait "${pids[1]}" || status=$?; fi
    [ "$status" = 137 ] || grep -q '(INJECTED)' "$work/trace"
}

# Restarts node 1 with the data it had, and injects a fault at a call while it serves; the other nodes continue. $1:
# stage; $2: call; $3: what is injected; $4: when, counted in each thread. How many calls a load leads to varies, so it
# goes on, within limits, until the fault has taken effect.
inject() {
    local stage=$1 call=$2 what=$3 when=$4 load again
    # Space is allocated for the reserve at every start without one, but for a segment only once the last is full.
    [ "$call" != fallocate ] || rm -f "$work/$stage/1/data/reserve"
    acknowledged "$work/$stage.record" write --name "$call.$what.$when" --seconds 1.5 >"$work/load.log" 2>&1 &
    load=$!
    # Not with --seccomp-bpf: strace 6.1 then sends a signal at the first call only, whatever "when" says.
    start_node "$stage" 1 strace -f -qq -o "$work/trace" -e "trace=$call" -e "inject=$call:$what:when=$when"
    wait "$load" || die "the load failed with exit code $?: $(cat "$work/load.log")"
    for again in 1 2 3; do
        ! took_effect || break
        under_load "$work/$stage.record" "$call.$what.$when.$again" 1.5 true
    done
    ! took_effect || injected[$call]=$((${injected[$call]:-0} + 1))
    kill_node_1
}

inject_each() {
    local stage=$1 what=$2 call=$3 every=$4 when
    injected[$call]=0
    for when in $(seq 1 "$every" "$calls"); do inject "$stage" "$call" "$what" "$when"; done
    say "  $call $what: took effect ${injected[$call]} times"
    [ "${injected[$call]}" -gt 0 ] || die "$what was never injected at any $call: this proves nothing"
}

stage_with_injections() {
    local stage=$1
    shift
    mkdir -p "$work/$stage"
    start_coordinator "$stage"
    start_node "$stage" 2
    start_node "$stage" 3
    start_node "$stage" 1
    await_service
    kill_node_1
    "$@"
    stop_all
    start_all "$stage"
    await_service
    check "$work/$stage.record" "after all injections of $stage"
    stop_all
}

deaths() {
    inject_each deaths signal=SIGKILL pwrite64 1
    inject_each deaths signal=SIGKILL fdatasync 1
}

errors() {
    local error
    for error in EIO ENOSPC; do
        inject_each errors "error=$error" pwrite64 10
        inject_each errors "error=$error" fdatasync 10
        inject_each errors "error=$error" fallocate 100
    done
}

stage_deaths() { stage_with_injections deaths deaths; }
stage_errors() { stage_with_injections errors errors; }

# Disks of 16 MB, filled completely; a little later there is space again.
stage_full() {
    local number
    for number in 1 2 3; do mount_disk "$work/full/$number" 16; done
    start_all full
    await_service
    for number in $(seq 8); do
        acknowledged "$work/full.record" write --name "f$number" --seconds 4 --bytes 6000 >"$work/load.log" || die "$(cat "$work/load.log")"
        say "  $number: $(cat "$work/load.log")"
        ! grep -q '^0 writes acknowledged' "$work/load.log" || break
    done
    check "$work/full.record" 'on full disks' --read local
    grep -q 'is full' "$work"/node-?.log || die 'no disk was ever full'
    # A restart on a full disk.
    local pid
    for pid in "${pids[@]}"; do kill -9 "$pid" && wait "$pid" 2>/dev/null || true; done
    pids=()
    for number in 1 2 3; do
        umount "$work/full/$number"
        truncate -s 64M "$work/full/$number.img"
        e2fsck -fy "$work/full/$number.img" >/dev/null 2>&1 || true
        resize2fs "$work/full/$number.img" >/dev/null 2>&1
        mount -o loop "$work/full/$number.img" "$work/full/$number"
    done
    start_all full
    await_service
    check "$work/full.record" 'with room again'
    stop_all
    for number in 1 2 3; do unmount_disk "$work/full/$number"; done
}

for stage in "${stages[@]}"; do
    start=$SECONDS
    say "$stage"
    # The shell reports each process that it did not kill itself; the stages do the killing.
    "stage_$stage" 2> >(grep -v ' Killed  ' >&2)
    stop_all
    ! grep -H panicked "$work"/*.log || die "$stage: a server has panicked"
    say "$stage: nothing was lost, in $((SECONDS - start)) s"
done
failed=no
