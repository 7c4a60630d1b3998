#!/usr/bin/env bash
# Prints the folder of two programs by which the tests look at deploy/: helm, and deploy-check, which reads the composed
# cluster and the rules of Prometheus with those programs' own code. Both are built by Go, in a folder of our own; helm
# once for each version that stands here.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
home="${RAFTMQ_CACHE:-$HOME/.cache/raftmq}/deploy"
helm=helm.sh/helm/v3/cmd/helm@v3.22.0
say() { echo "deploy tools: $*" >&2; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if ! command -v go >/dev/null; then
  say "the tests check deploy/ with programs that are built by Go: install Go 1.26.7 or newer (Debian's is older), then run this again"; exit 1
fi
if [ ! -x "$home/helm" ] || [ "$helm" != "$(cat "$home/helm-of" 2>/dev/null)" ]; then
  say "building $helm from Go's module proxy, which takes minutes: the tests lint and render the chart with it"
  GOBIN="$home" GOFLAGS=-trimpath go install -ldflags='-s -w' "$helm" >&2
  echo "$helm" >"$home/helm-of"
fi
if [ ! -x "$home/deploy-check" ]; then
  say "fetching Prometheus's and Compose's own parsers through Go's module proxy"
fi
(cd "$root/tests/deploy-check" && go build -mod=readonly -trimpath -o "$home/deploy-check" .) >&2
echo "$home"
