#!/usr/bin/env bash
#
# The gate: every change must pass it. Does not modify the sources. Needs only Rust with rustfmt and clippy, and a C
# compiler with make.
# Stops at the first step that fails, names it, and exits with 1.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

times=

# Runs one step. $1: its name; then the command.
step() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s: %s\n' "$name" "$*"
    if ! "$@"; then
        printf '\ncheck: FAILED at the step "%s": %s\n' "$name" "$*" >&2
        exit 1
    fi
    times="$times$(printf '%6d s  %s' $((SECONDS - start)) "$name")
"
}

# Shell scripts must parse.
scripts_parse() {
    local script
    for script in scripts/*.sh .ci/run; do
        bash -n "$script" || return 1
    done
}

# What crates of the pure ring must not depend on: sockets, the async runtime, randomness.
pure_crates_stay_pure() {
    local crate tree
    for crate in proto seeded engine sim; do
        tree=$(cargo tree --locked --package "$crate" --edges normal --prefix none) || return 1
        if printf '%s\n' "$tree" | grep -E '^(tokio|tokio-util|mio|socket2|rand|rand_core|getrandom) '; then
            printf 'the crate %s must not depend on this; see ARCHITECTURE.md\n' "$crate" >&2
            return 1
        fi
    done
}

docs() { RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked; }

step 'format' cargo fmt --check
step 'scripts' scripts_parse
step 'pure crates' pure_crates_stay_pure
step 'clippy' cargo clippy --workspace --all-targets --locked -- -D warnings
step 'docs' docs
# The command from README.md.
step 'tests' cargo test --workspace

printf '\ncheck: all steps passed\n%s' "$times"
