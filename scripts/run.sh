#!/usr/bin/env bash
# Builds the filter, the mock Keen and the program that starts them, then runs it until Ctrl-C.
#
# PORT (8080)        where Envoy listens for SDKs
# KEEN_PORT (8089)   where the mock Keen listens; its page shows the events
# ADMIN_PORT (9901)  Envoy's admin interface
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

check_ports() {
  local name port
  for name in PORT KEEN_PORT ADMIN_PORT; do
    port="${!name}"
    if ! [[ "$port" =~ ^[0-9]{1,5}$ ]] || [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
      die "$name must be a port number from 1 to 65535, not '$port'"
    fi
    # A connection succeeds only if a process listens on the port.
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      die "port $port is in use; choose another: make run $name=<port>"
    fi
  done
  if [ "$PORT" = "$KEEN_PORT" ] || [ "$PORT" = "$ADMIN_PORT" ] || [ "$KEEN_PORT" = "$ADMIN_PORT" ]; then
    die "PORT, KEEN_PORT and ADMIN_PORT must differ"
  fi
}

# Before the build, which takes about a minute the first time.
export PORT="${PORT:-8080}" KEEN_PORT="${KEEN_PORT:-8089}" ADMIN_PORT="${ADMIN_PORT:-9901}"
check_ports

has cargo || die "no cargo on the PATH. Install Rust with rustup: https://rustup.rs"
has cc || apt_install gcc libc6-dev # build scripts are linked for this machine
mkdir -p target
started=$SECONDS
target_dir="${CARGO_TARGET_DIR:-$root/target}"
program="$target_dir/quick/run"
log="$root/target/run-build.log"
options=(--package run --profile quick)
if [ "${CI:-}" = true ]; then options+=(--locked); fi

say "1/3 building the filter, and beside it the mock Keen (first time: about a minute)"
# The two builds use different directories below target/, so neither waits for the other.
cargo build --quiet "${options[@]}" >"$log" 2>&1 </dev/null &
program_build=$!
trap 'kill "$program_build" 2>/dev/null || true' EXIT
scripts/build.sh

say "2/3 finishing the mock Keen ($((SECONDS - started)) s so far)"
wait "$program_build" || {
  cat "$log" >&2
  die "cargo could not build the mock Keen; its messages are above"
}
trap - EXIT

say "3/3 starting Envoy ($((SECONDS - started)) s so far)"
ENVOY="$(scripts/envoy.sh)"
KEEN_EDGE_WASM="$root/target/keen_edge.wasm"
export ENVOY KEEN_EDGE_WASM
exec "$program"
