#!/usr/bin/env bash
# Prints the program around the official Go client, for the tests that run it against a real cluster. Go itself knows
# what it must fetch and build anew.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source="$root/tests/official/go"
home="${RAFTMQ_CACHE:-$HOME/.cache/raftmq}/go"
say() { echo "go client: $*" >&2; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if ! command -v go >/dev/null; then
  say "the tests run the official Go client: install Go 1.25 or newer (Debian's is older), then run this again"; exit 1
fi
if [ ! -x "$home/official-go" ]; then
  say "fetching github.com/apache/rocketmq-clients/golang/v5 through Go's module proxy and building the program around it: the tests run RocketMQ's official Go client, unchanged, against this broker"
fi
(cd "$source" && go build -mod=readonly -trimpath -o "$home/official-go" .) >&2
# What the quickstart shows, with the same modules.
(cd "$source" && go build -mod=readonly -trimpath -o "$home/quickstart-go" "$root/quickstart/go/quickstart.go") >&2
echo "$home/official-go"
