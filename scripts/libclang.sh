#!/usr/bin/env bash
# Prints the folder of a libclang for RocksDB's build, fetching one when the machine has none.
# RocksDB's Rust binding is generated from its C header at build time, and the generator loads libclang.
set -euo pipefail
cache="${RAFTMQ_CACHE:-$HOME/.cache/raftmq}"
say() { echo "libclang: $*" >&2; }

if [ -n "${LIBCLANG_PATH:-}" ]; then echo "$LIBCLANG_PATH"; exit 0; fi
for dir in "$cache/libclang" /usr/lib/llvm-*/lib /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib64 /opt/homebrew/opt/llvm/lib; do
  for lib in "$dir"/libclang.so "$dir"/libclang.so.* "$dir"/libclang-[0-9]*.so* "$dir"/libclang.dylib; do
    if [ -e "$lib" ]; then echo "$dir"; exit 0; fi
  done
done

mkdir -p "$cache/libclang"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
say "not found on this machine; RocksDB's binding is generated with it at build time, so it is fetched once into $cache/libclang"
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  say "installing Debian's libclang-dev"
  if { apt-get install -y --no-install-recommends libclang-dev || { apt-get update && apt-get install -y --no-install-recommends libclang-dev; }; } >"$work/apt.log" 2>&1; then
    for lib in /usr/lib/llvm-*/lib/libclang*.so*; do
      if [ -e "$lib" ]; then dirname "$lib"; exit 0; fi
    done
  fi
  say "Debian's package could not be installed ($(tail -n 1 "$work/apt.log")); trying the PyPI wheel"
fi
if command -v python3 >/dev/null && python3 -m pip --version >/dev/null 2>&1; then
  say "fetching the wheel libclang 18.1.1 from PyPI"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" libclang==18.1.1 >&2
  (cd "$work" && python3 -m zipfile -e libclang-*.whl wheel)
  cp "$work"/wheel/clang/native/libclang* "$cache/libclang/"
  echo "$cache/libclang"; exit 0
fi
say "cannot fetch it here: install your system's libclang (Debian: apt-get install libclang-dev) or set LIBCLANG_PATH to its folder"
exit 1
