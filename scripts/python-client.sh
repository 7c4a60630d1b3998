#!/usr/bin/env bash
# Prints a Python that has the official RocketMQ client, for the tests that run it against a real cluster. The client
# lives in a virtual environment of its own, made once; nothing is installed into the system's Python.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
requirements="$root/tests/official/python/requirements.txt"
venv="${RAFTMQ_CACHE:-$HOME/.cache/raftmq}/venv"
say() { echo "python client: $*" >&2; }

if [ -x "$venv/bin/python" ] && cmp -s "$requirements" "$venv/requirements.txt"; then
  echo "$venv/bin/python"; exit 0
fi
install_debian() {
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
  say "installing Debian's $*"
  { apt-get install -y --no-install-recommends "$@" || { apt-get update && apt-get install -y --no-install-recommends "$@"; }; } >&2
}
if ! command -v python3 >/dev/null; then
  say "the tests run the official Python client and this machine has no Python"
  install_debian python3 python3-venv || { say "install Python 3.9 or newer with venv, then run this again"; exit 1; }
fi
say "fetching $(tr '\n' ' ' <"$requirements")from PyPI into $venv: the tests run RocketMQ's official Python client, unchanged, against this broker"
mkdir -p "$(dirname "$venv")"
rm -rf "$venv"
if ! python3 -m venv "$venv" >&2; then
  rm -rf "$venv"
  install_debian python3-venv && python3 -m venv "$venv" >&2 || { say "this Python has no venv module: install it (Debian: apt-get install python3-venv)"; exit 1; }
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements" >&2
cp "$requirements" "$venv/requirements.txt"
echo "$venv/bin/python"
