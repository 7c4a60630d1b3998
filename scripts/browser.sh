#!/usr/bin/env bash
# Prints the program that looks at the dashboard in Chromium, for the tests. Chromium is Debian's; what steers it and
# what checks the pages come from npm into a folder of our own, made once for each version of their lock file.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source="$root/tests/browser"
home="${RAFTMQ_CACHE:-$HOME/.cache/raftmq}/browser"
program="$home/browser"
say() { echo "browser: $*" >&2; }
install() { apt-get install -y --no-install-recommends "$@" || { apt-get update && apt-get install -y --no-install-recommends "$@"; }; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
chromium="$(command -v chromium || command -v chromium-browser || true)"
missing=()
[ -n "$chromium" ] || missing+=(chromium)
command -v npm >/dev/null || missing+=(nodejs npm)
if [ ${#missing[@]} -gt 0 ]; then
  say "the tests look at the dashboard in a browser and this machine has no ${missing[*]}"
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    say "installing Debian's ${missing[*]}"
    install "${missing[@]}" >&2
    chromium="$(command -v chromium)"
  else
    say "install ${missing[*]}, then run this again"; exit 1
  fi
fi
wanted="$(cd "$source" && sha256sum package.json package-lock.json)"
if [ "$wanted" != "$(cat "$home/fetched-by" 2>/dev/null)" ]; then
  say "fetching playwright-core and axe-core from npm into $home: the one steers Chromium, the other checks whether everybody can use the pages"
  rm -f "$home/fetched-by"
  cp "$source/package.json" "$source/package-lock.json" "$home/"
  # No package's own scripts: Playwright's would download browsers.
  (cd "$home" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
  printf '%s\n' "$wanted" >"$home/fetched-by"
fi
cp "$source/browser.js" "$home/part.draft"
mv "$home/part.draft" "$home/browser.js"
cat >"$home/program.draft" <<LAUNCH
#!/usr/bin/env bash
set -euo pipefail
RAFTMQ_CHROMIUM="$chromium" exec node "$home/browser.js" "\$@"
LAUNCH
chmod +x "$home/program.draft"
mv "$home/program.draft" "$program"
echo "$program"
