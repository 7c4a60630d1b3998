#!/usr/bin/env bash
# Puts RaftMQ's programs where its image, its systemd units and RocketMQ's scripts look for them:
#   install.sh ROOT BIN     from the folder BIN (~/.cache/raftmq/target/release) to below ROOT ("" for this machine)
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,3p' "$0" | cut -c3-; exit 2; }
root=$1 bin=$2 here=$(dirname "$(readlink -f "$0")")

for program in mqnamesrv mqbroker mqadmin raftmq-dashboard; do
  [ -x "$bin/$program" ] || { echo "$bin/$program is not there: run make build first" >&2; exit 1; }
  install -D -m 755 "$bin/$program" "$root/usr/local/bin/$program"
done
install -D -m 755 "$here/mqshutdown" "$root/usr/local/bin/mqshutdown"

# RocketMQ's images and guides call `sh mqbroker` in its bin folder.
for name in mqnamesrv mqbroker mqadmin mqshutdown; do
  install -d "$root/opt/raftmq/bin"
  printf '#!/bin/sh\nexec /usr/local/bin/%s "$@"\n' "$name" >"$root/opt/raftmq/bin/$name"
  chmod 755 "$root/opt/raftmq/bin/$name"
done

for config in "$here"/../config/*.conf; do
  install -D -m 644 "$config" "$root/etc/raftmq/examples/$(basename "$config")"
done
# Who the programs run as; 65532 as in other small images.
install -d -m 750 "$root/var/lib/raftmq"
if [ "$(id -u)" -eq 0 ]; then chown 65532:65532 "$root/var/lib/raftmq"; fi
