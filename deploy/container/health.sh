#!/usr/bin/env bash
# Whether the broker of this container is of use: its /healthz, without a program that the image would need for it.
set -euo pipefail
port=${RAFTMQ_METRICS_PROM_EXPORTER_PORT:-5557}
exec 3<>"/dev/tcp/127.0.0.1/$port" || exit 1
printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
read -r -t 3 _ status _ <&3 && [ "$status" = 200 ]
