#!/usr/bin/env bash
# Kills the leader of the composed cluster with -9, and shows who leads afterwards and how long that took.
set -euo pipefail
compose=(docker compose -f "$(dirname "$(readlink -f "$0")")/compose.yaml")

leader() {
  for node in 0 1 2; do
    if curl -sf --max-time 1 "http://127.0.0.1:$((5557 + node))/metrics" | grep -Eq '^rocketmq_raft_is_leader(\{.*\})? 1(\.0)?$'; then
      echo "n$node"
      return
    fi
  done
  return 1
}

before=$(leader) || { echo "no node leads: is the cluster running? docker compose -f deploy/container/compose.yaml ps" >&2; exit 1; }
"${compose[@]}" kill -s KILL "$before" >/dev/null
start=$(date +%s%N)
echo "killed $before, which led"
for _ in $(seq 300); do
  if now=$(leader) && [ "$now" != "$before" ]; then
    echo "$now leads, $((($(date +%s%N) - start) / 1000000)) ms after the kill; bring $before back with: ${compose[*]} start $before"
    exit 0
  fi
  sleep 0.05
done
echo "nobody leads after 15 s: see docker compose logs" >&2
exit 1
