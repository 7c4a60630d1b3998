#!/usr/bin/env bash
# Prints the program around the official Java client, for the tests that run it against a real cluster. The client
# comes from Maven Central into a folder of our own; the program is built anew when its sources are newer.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
source="$root/tests/official/java"
home="${RAFTMQ_CACHE:-$HOME/.cache/raftmq}/java"
program="$home/official-java"
say() { echo "java client: $*" >&2; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
# By content: a fresh checkout has new times, and what was built from the same sources is the same.
wanted="$(cd "$source" && sha256sum pom.xml src/main/java/*.java; sha256sum <"$root/scripts/java-client.sh")"
if [ -x "$program" ] && [ "$wanted" = "$(cat "$home/built-from" 2>/dev/null)" ]; then
  echo "$program"; exit 0
fi
if ! command -v mvn >/dev/null || ! command -v javac >/dev/null; then
  say "the tests run the official Java client and this machine has no Java compiler or no Maven"
  packages=(maven default-jdk-headless)
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    say "installing Debian's ${packages[*]}"
    { apt-get install -y --no-install-recommends "${packages[@]}" || { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; }; } >&2
  else
    say "install a JDK 17 or newer and Maven, then run this again"; exit 1
  fi
fi
say "fetching rocketmq-client-java from Maven Central into $home and compiling the program around it: the tests run RocketMQ's official Java client, unchanged, against this broker"
rm -rf "$home/build" "$home/built-from"
maven=(mvn -q -B -f "$source/pom.xml" "-Dmaven.repo.local=$home/repository" "-Dbuild.folder=$home/build" compile)
# Without the network where nothing is missing.
"${maven[@]}" -o >/dev/null 2>&1 || "${maven[@]}" >&2
cat >"$program" <<'LAUNCH'
#!/usr/bin/env bash
set -euo pipefail
home="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# The client logs below its user's home, which Java does not take from the environment.
exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xmx256m "-Duser.home=$HOME" -cp "$home/build/classes:$home/build/lib/*" Official "$@"
LAUNCH
chmod +x "$program"
printf '%s\n' "$wanted" >"$home/built-from"
echo "$program"
