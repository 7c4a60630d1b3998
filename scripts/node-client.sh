#!/usr/bin/env bash
# Prints the program around the official Node.js client, for the tests that run it against a real cluster. The client
# comes from npm into a folder of our own, made once for each version of its lock file.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source="$root/tests/official/node"
home="${RAFTMQ_CACHE:-$HOME/.cache/raftmq}/node"
program="$home/official-node"
say() { echo "node client: $*" >&2; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
wanted="$(cd "$source" && sha256sum package.json package-lock.json)"
if [ "$wanted" != "$(cat "$home/fetched-by" 2>/dev/null)" ]; then
  if ! command -v npm >/dev/null; then
    say "the tests run the official Node.js client and this machine has no Node.js or no npm"
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
      say "installing Debian's nodejs and npm"
      { apt-get install -y --no-install-recommends nodejs npm || { apt-get update && apt-get install -y --no-install-recommends nodejs npm; }; } >&2
    else
      say "install Node.js 18 or newer with npm, then run this again"; exit 1
    fi
  fi
  say "fetching rocketmq-client-nodejs from npm into $home: the tests run RocketMQ's official Node.js client, unchanged, against this broker"
  rm -f "$home/fetched-by"
  cp "$source/package.json" "$source/package-lock.json" "$home/"
  # No package's own scripts: none is needed to run, and some would download.
  (cd "$home" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
  printf '%s\n' "$wanted" >"$home/fetched-by"
fi
# Beside its modules, where Node.js looks for them. Each takes the place of an older one in one step.
for part in "$source"/*.js; do
  cp "$part" "$home/part.draft"
  mv "$home/part.draft" "$home/$(basename "$part")"
done
cat >"$home/program.draft" <<'LAUNCH'
#!/usr/bin/env bash
set -euo pipefail
exec node "$(dirname "${BASH_SOURCE[0]}")/official.js" "$@"
LAUNCH
chmod +x "$home/program.draft"
mv "$home/program.draft" "$program"
echo "$program"
