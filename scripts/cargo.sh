#!/usr/bin/env bash
# cargo with the environment that every build of this workspace shares. RocksDB's binding is generated with libclang,
# and cargo builds RocksDB anew (some 20 CPU minutes) whenever the variables that say where libclang is have changed.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/raftmq/target}"
LIBCLANG_PATH="$("$here/libclang.sh")"
export LIBCLANG_PATH
# A libclang without its own headers (the PyPI wheel, Debian's bare library) borrows the C compiler's.
export BINDGEN_EXTRA_CLANG_ARGS="${BINDGEN_EXTRA_CLANG_ARGS:--I$(cc -print-file-name=include)}"
exec cargo "$@"
