#!/usr/bin/env bash
# Prints the program around the official Rust client, for the tests that run it against a real cluster. It has a lock
# file and a build folder of its own below the shared one: its dependencies are its own too. Cargo itself knows what it
# must fetch and build anew.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="${CARGO_TARGET_DIR:-$HOME/.cache/raftmq/target}/official-rust"
say() { echo "rust client: $*" >&2; }

if [ ! -x "$build/debug/official-rust" ]; then
  say "fetching rocketmq from crates.io and building the program around it: the tests run RocketMQ's official Rust client, unchanged, against this broker"
fi
# What a build of the workspace around it sets is not meant for this one.
env -u RUSTFLAGS CARGO_TARGET_DIR="$build" "${CARGO:-cargo}" build --locked --quiet --manifest-path "$root/tests/official/rust/Cargo.toml" >&2
echo "$build/debug/official-rust"
